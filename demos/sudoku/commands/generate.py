"""``python -m demos.sudoku generate``."""

from __future__ import annotations

from demos.sudoku.boards import format_line
from demos.sudoku.config import DEFAULTS
from demos.sudoku.data import read_csv, write_csv
from demos.sudoku.generator import add_givens, generate
from demos.sudoku.options import Generate


def generate_puzzles(options: Generate) -> int:
    """Generate puzzles, and print or write them."""
    givens = options.givens or DEFAULTS[options.box].givens
    if options.source is None:
        boards = generate(options.box, givens, options.count, options.seed, progress=True)
    else:
        source = read_csv(options.source, options.box)
        if not 1 <= options.count <= len(source):
            raise ValueError(f"--count: got {options.count}, wanted 1 to {len(source)}, the puzzles of the file")
        boards = add_givens(source[: options.count], givens, options.seed)
    if options.output is None:
        print("puzzle,solution")
        for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True):
            print(f"{format_line(puzzle)},{format_line(solution)}")
    else:
        write_csv(boards, options.output)
        print(f"{len(boards):,} puzzles written to {options.output}")
    return 0
