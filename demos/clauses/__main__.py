"""Rules as clauses, with no training, and rules read out of a trained layer.

python -m demos.clauses queens --n 20
python -m demos.clauses sudoku --count 100 --data BOARDS.csv.gz
python -m demos.clauses read demos/sudoku/results/original-9x9

What comes out is in docs/maxsat.md.
"""

from __future__ import annotations

import sys
from typing import Annotated

from tyro.conf import subcommand

from demos.clauses.options import Queens, Read, Sudoku
from demos.command import run

Command = (
    Annotated[Queens, subcommand("queens")]
    | Annotated[Sudoku, subcommand("sudoku")]
    | Annotated[Read, subcommand("read")]
)


def act(options: Queens | Sudoku | Read) -> int:
    """Do what the command line says. What is slow to import is imported here, so that --help answers at once."""
    if isinstance(options, Queens):
        from demos.clauses.queens import place_queens

        return place_queens(options)
    if isinstance(options, Sudoku):
        from demos.clauses.sudoku import solve_sudoku

        solve_sudoku(options)
    else:
        from demos.clauses.rules import read_rules

        read_rules(options)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.clauses", __doc__, Command, act, argv)


if __name__ == "__main__":
    sys.exit(main())
