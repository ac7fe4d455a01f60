"""The command line: ``python -m demos.sudoku``. The example is `demos.sudoku.demo`: begin there."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from demos.command import guarded, run
from demos.sudoku.config import PRESETS
from demos.sudoku.fit_options import Fit
from demos.sudoku.growth_options import Growth
from demos.sudoku.options import (
    PROGRAM,
    Command,
    Demo,
    Evaluate,
    Exact,
    Generate,
    Pairs,
    Rules,
    Size,
    Solve,
    Train,
)
from demos.sudoku.photo.options import Photo, PhotoStudy, PhotoTrain
from demos.sudoku.reading.options import Reader

DESCRIPTION = f"""\
Sudoku learnt from examples by one SATNet layer, which is told nothing of the rules.

Without a command this is the quick demo: it generates 4x4 puzzles, trains a network on
them from nothing in about a minute, and has it solve boards whose solutions it never saw.

`{PROGRAM} COMMAND --help` lists the options of a command. Examples:

  {PROGRAM}
  {PROGRAM} train --box 3
  {PROGRAM} train --data boards.csv.gz --train 9000 --test 1000 --output runs/mine
  {PROGRAM} train --resume --output runs/mine
  torchrun --standalone --nproc-per-node 4 -m demos.sudoku train --device cuda
  {PROGRAM} fit --data boards.csv.gz --output runs/mine
  {PROGRAM} eval runs/mine --givens 28 --count 500 --search
  {PROGRAM} solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79 \\
      --checkpoint runs/mine
  {PROGRAM} generate --box 3 --givens 28-36 --count 10000 --output boards.csv.gz
"""

HELP = ("-h", "--help")
COMMANDS = {
    "demo": Demo,
    "train": Train,
    "fit": Fit,
    "eval": Evaluate,
    "solve": Solve,
    "rules": Rules,
    "exact": Exact,
    "pairs": Pairs,
    "generate": Generate,
    "reader": Reader,
    "growth": Growth,
    "photo": Photo,
    "photo-train": PhotoTrain,
    "photo-study": PhotoStudy,
}


def commands(*, listed: bool) -> Any:
    """Return the commands as a type for tyro; ``listed`` with the first line of each one's text alone."""
    kinds = []
    for name, kind in COMMANDS.items():
        text = (kind.__doc__ or "").partition("\n")[0] if listed else None
        kinds.append(Annotated[kind, subcommand(name, description=text)])
    return Union[tuple(kinds)]  # noqa: UP007


_NOWHERE = Path("\0")
"""What no word of a command line says."""


def start_of_training(words: list[str]) -> Train:
    """Return the options that ``train`` starts from: those of the run, if one is resumed, else those for its boards."""
    try:
        with redirect_stderr(io.StringIO()):
            given = Train(output=_NOWHERE)
            asked, _ = tyro.cli(Train, default=given, args=words, return_unknown_args=True, add_help=False)
    except SystemExit:  # an option is wrong, which is said when all are read
        return Train()
    config, output = PRESETS[asked.box], asked.output
    if output == _NOWHERE:
        output = Path("runs", f"train-{asked.box**2}x{asked.box**2}")
    if asked.resume and not set(HELP) & set(words):
        from demos.sudoku.checkpoint import load_checkpoint

        config = load_checkpoint(output).config
    data = None if config.data is None else Path(config.data)
    box: Size = 2 if config.box == 2 else 3 if config.box == 3 else 4
    return Train(box=box, output=output, data=data, training=config.options)


def act(command: Command) -> int:
    """Do what the command line says."""
    command.check()
    return command.act()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    first, *rest = words or ["demo"]

    def read_and_act() -> int:
        start = start_of_training(rest) if first == "train" else None
        return run(PROGRAM, DESCRIPTION, commands(listed=first in HELP), act, words, start=start, command="demo")

    return guarded(PROGRAM, read_and_act)


if __name__ == "__main__":
    raise SystemExit(main())
