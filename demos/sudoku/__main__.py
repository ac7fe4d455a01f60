"""The command line: ``python -m demos.sudoku``. The example is :mod:`demos.sudoku.demo`: begin there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import subcommand

from demos.command import STYLE, guarded, read
from demos.sudoku.config import PRESETS
from demos.sudoku.options import (
    PROGRAM,
    Command,
    Demo,
    Evaluate,
    Exact,
    Generate,
    Pairs,
    Rules,
    Solve,
    Train,
)
from demos.sudoku.photo.options import Photo, PhotoStudy, PhotoTrain

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
  {PROGRAM} eval runs/mine --givens 28 --count 500 --search
  {PROGRAM} solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79 \\
      --checkpoint runs/mine
  {PROGRAM} generate --box 3 --givens 28-36 --count 10000 --output boards.csv.gz
"""

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "eval": Evaluate,
    "solve": Solve,
    "rules": Rules,
    "exact": Exact,
    "pairs": Pairs,
    "generate": Generate,
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


def train_defaults(argv: list[str]) -> Train:
    """Return what the options of ``train`` are that are not given: the run's, if one is resumed, else those for its boards."""
    asked, _ = tyro.cli(Train, args=argv, return_unknown_args=True, add_help=False, config=STYLE)
    output = asked.output
    if asked.box == 2 and output == Train.output:
        output = Path("runs/train-4x4")
    config = PRESETS[asked.box]
    if asked.resume and not {"-h", "--help"} & set(argv):
        from demos.sudoku.checkpoint import load_checkpoint

        config = load_checkpoint(output).config
    data = None if config.data is None else Path(config.data)
    return Train(box=3 if config.box == 3 else 2, output=output, data=data, training=config.options)


def command_of(argv: list[str]) -> Command:
    """Read the command line."""
    default = train_defaults(argv[1:]) if argv[0] == "train" else tyro.MISSING_NONPROP
    command: Command = read(PROGRAM, DESCRIPTION, commands(listed=argv[0].startswith("-")), argv, default)
    return command


def act(argv: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    command = command_of(argv)
    command.check()
    return command.act()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "demo")
    return guarded(f"{PROGRAM} {argv[0]}", lambda: act(argv))


if __name__ == "__main__":
    raise SystemExit(main())
