"""The options of the command line."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from demos.devices import add_device
from demos.sudoku.config import NETWORKS, PRESETS, TrainConfig, parse_givens
from demos.sudoku.photo import command as photo

PROGRAM = "python -m demos.sudoku"
DEMO_OUTPUT = Path("runs/sudoku-4x4")

_DESCRIPTION = """\
Sudoku learnt from examples by one SATNet layer, which is told nothing of the rules.

Without a command this is the quick demo: it generates 4x4 puzzles, trains a network on
them from nothing in about a minute, and has it solve boards whose solutions it never saw.
"""

_EPILOG = f"""\
examples:
  {PROGRAM}
  {PROGRAM} train --box 3
  {PROGRAM} train --data boards.csv.gz --train 9000 --test 1000 --output runs/mine
  {PROGRAM} train --resume --output runs/mine
  torchrun --standalone --nproc-per-node 4 -m demos.sudoku train --device cuda
  {PROGRAM} eval runs/mine --givens 28 --count 500 --search
  {PROGRAM} solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79 \\
      --checkpoint runs/mine
  {PROGRAM} generate --box 3 --givens 28-36 --count 10000 --output boards.csv.gz

`{PROGRAM} COMMAND --help` lists the options of a command.
"""


def _default(name: str) -> str:
    """Say the default of a training option, for each size of board if they differ."""
    small, large = (shown(getattr(PRESETS[box], name)) for box in (2, 3))
    return f"(default: {large})" if small == large else f"(default: {large} for 9x9, {small} for 4x4)"


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, dict.fromkeys(value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _givens(text: str) -> tuple[int, int]:
    try:
        return parse_givens(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--threads",
        type=int,
        help="number of CPU threads (default: all cores for 9x9; 1 for 4x4, too small to gain by more)",
    )


def _add_solver(parser: argparse.ArgumentParser) -> None:
    """Add the options that replace those of a trained layer."""
    parser.add_argument("--k", type=int, help="dimension of the vectors (default: as trained)")
    parser.add_argument("--max-iter", type=int, help="most sweeps to a solution (default: as trained)")
    parser.add_argument("--eps", type=float, help="relative decrease at which the sweeps stop (default: as trained)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("search at inference")
    search.add_argument(
        "--search",
        action="store_true",
        help="fix the most confident cells and solve again until none is blank; accept what the learnt objective accepts, "
        "else begin again or go back",
    )
    search.add_argument(
        "--paths",
        type=int,
        default=30,
        help="give a board up after so many times; 1: the coarse one alone (default: %(default)s)",
    )
    search.add_argument(
        "--starts",
        type=int,
        default=4,
        help="so many of the later times begin with the puzzle, before the rest go back to a cell (default: %(default)s)",
    )


def _add_solutions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--solutions",
        metavar="FILE",
        help="CSV with the columns puzzle and solution: the solved boards to extract from (default: those of the training)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a TrainConfig; what is not given stays None."""
    data = parser.add_argument_group("boards")
    data.add_argument("--givens", type=_givens, metavar="N|LO-HI", help=f"given cells a board {_default('givens')}")
    data.add_argument("--train", type=int, metavar="N", help=f"boards to train on, the first N {_default('train')}")
    data.add_argument("--test", type=int, metavar="M", help=f"boards to test on, the last M {_default('test')}")
    data.add_argument(
        "--masks",
        type=_givens,
        metavar="LO-HI",
        help="train on the solutions with so many cells given, chosen at random anew each time (default: the puzzles)",
    )
    data.add_argument(
        "--decimation",
        type=int,
        metavar="ROUNDS",
        help="with --masks: show a board after so many rounds in which the network solves it and the most confident eighth of "
        "its blank cells are given, where they are right (default: 0)",
    )
    data.add_argument("--permuted", action="store_true", default=None, help="show the bits in one random order")
    data.add_argument(
        "--images",
        choices=("mnist", "digits"),
        help="given cells are images of handwritten digits: MNIST's, or scikit-learn's (default: bits)",
    )
    data.add_argument("--mnist-root", metavar="DIR", help="where MNIST is, or is downloaded to (default: data/mnist)")
    data.add_argument(
        "--no-given-labels",
        dest="given_labels",
        action="store_false",
        default=None,
        help="with images: leave the given cells out of the loss",
    )
    convnets = parser.add_argument_group("the convolutional networks")
    convnets.add_argument("--network", choices=NETWORKS, help=f"what completes the bits {_default('network')}")
    convnets.add_argument("--layers", type=int, help=f"3x3 convolutions {_default('layers')}")
    convnets.add_argument("--filters", type=int, help=f"filters of each of them {_default('filters')}")
    layer = parser.add_argument_group("the layer")
    layer.add_argument(
        "--start", metavar="PATH", help="begin with the layer's weights in a checkpoint (default: random)"
    )
    layer.add_argument("--aux", type=int, help=f"auxiliary variables {_default('aux')}")
    layer.add_argument("--m", type=int, help=f"number of clauses, the rank of the weights {_default('m')}")
    layer.add_argument("--k", type=int, help=f"dimension of the vectors {_default('k')}")
    layer.add_argument("--max-iter", type=int, help=f"most sweeps to a solution {_default('max_iter')}")
    layer.add_argument("--eps", type=float, help=f"relative decrease at which the sweeps stop {_default('eps')}")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, help=f"times through the training boards {_default('epochs')}")
    training.add_argument("--batch-size", type=int, help=f"boards a step {_default('batch_size')}")
    training.add_argument("--lr", type=float, help=f"highest learning rate, of a cosine schedule {_default('lr')}")
    training.add_argument(
        "--weight-decay",
        type=float,
        help=f"decay of the weights a step, in units of the learning rate {_default('weight_decay')}",
    )
    training.add_argument("--seed", type=int, help=f"seeds all that is random {_default('seed')}")


def training_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a TrainConfig that were given."""
    names = {field.name for field in fields(TrainConfig)}
    return {name: value for name, value in vars(arguments).items() if name in names and value is not None}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="the quick demo: 4x4 boards, from nothing (the default)",
        description="Generate 4x4 puzzles, train a network on them from nothing, and solve boards whose "
        "solutions it never saw.",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=DEMO_OUTPUT,
        metavar="DIR",
        help="where checkpoint, metrics and learning curve go; an earlier demo there is replaced, any other "
        "run is not (default: %(default)s)",
    )
    _add_machine(demo)
    _add_training(demo)

    train = commands.add_parser(
        "train",
        help="train a network, or resume its training",
        description="Train a network. The output directory gets a checkpoint (safetensors), the metrics "
        "(CSV) and the learning curve (PNG), renewed after every epoch. Processes of torchrun share each batch "
        "and train as one would.",
    )
    train.add_argument("--box", type=int, choices=(2, 3), help="2 for 4x4 boards, 3 for 9x9 boards (default: 3)")
    train.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="directory of the run (default: runs/train-9x9 or runs/train-4x4)",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in the output directory after its last whole epoch, with its options",
    )
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run in the output directory")
    train.add_argument(
        "--data",
        metavar="FILE",
        help="CSV, plain or gzipped, with the columns puzzle and solution (default: generated boards)",
    )
    _add_machine(train)
    _add_training(train)

    evaluate = commands.add_parser(
        "eval",
        help="evaluate a checkpoint",
        description="Evaluate a checkpoint: on the test boards of its own run, on those in a file (--data), "
        "or on newly generated ones (--givens).",
    )
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the directory of a run")
    evaluate.add_argument("--data", metavar="FILE", help="CSV with the columns puzzle and solution, plain or gzipped")
    evaluate.add_argument("--test", type=int, metavar="M", help="of the file, only the last M boards (default: all)")
    evaluate.add_argument("--givens", type=_givens, metavar="N|LO-HI", help="generate boards with so many given cells")
    evaluate.add_argument("--count", type=int, default=1000, help="how many to generate (default: %(default)s)")
    _add_solver(evaluate)
    evaluate.add_argument("--batch-size", type=int, help="boards at a time (default: as trained)")
    evaluate.add_argument(
        "--seed",
        type=int,
        help="seeds generated boards (default: 1) and the layer's random starts (default: the run's seed)",
    )
    evaluate.add_argument(
        "--mnist-root", metavar="DIR", help="for a network that reads images: where MNIST is (default: as trained)"
    )
    _add_search(evaluate)
    evaluate.add_argument(
        "--rounding",
        type=int,
        metavar="R",
        help="round one pass R times at most, improve each board by local search, and take the one of lowest learnt objective; "
        "with --search: search if none is accepted",
    )
    evaluate.add_argument(
        "--solutions",
        metavar="FILE",
        help="with --search: CSV with the columns puzzle and solution; rules extracted from the layer and these solved boards "
        "are propagated in the search",
    )
    evaluate.add_argument(
        "--joint",
        action="store_true",
        help="for a network that reads images: try readings from the most probable down until the learnt objective "
        "accepts the completion of one; with --search at most --paths paths each, else in one pass",
    )
    evaluate.add_argument(
        "--readings", type=int, default=100, help="with --joint: most readings of a board (default: %(default)s)"
    )
    evaluate.add_argument("--append", type=Path, metavar="FILE", help="append the result to this CSV as a row")
    evaluate.add_argument(
        "--failures",
        type=Path,
        metavar="FILE",
        help="write the boards that are not wholly right, with their answers, as CSV",
    )
    evaluate.add_argument("--overwrite", action="store_true", help="let --failures replace a file")
    _add_machine(evaluate)

    solve = commands.add_parser(
        "solve",
        help="solve puzzles with a checkpoint",
        description="Complete a puzzle, or every puzzle in a file, and tell whether the answer obeys the "
        "rules of Sudoku. The rules are checked by this program: the network was never told them. The exit "
        "status is 1 if an answer breaks the rules.",
    )
    solve.add_argument(
        "puzzle",
        metavar="PUZZLE|FILE",
        help="81 or 16 characters, row by row, 0 or . for a blank; or a file with one such puzzle a line or "
        "a CSV with a column puzzle, plain or gzipped",
    )
    solve.add_argument("--checkpoint", required=True, metavar="PATH", help="a checkpoint, or the directory of a run")
    solve.add_argument("--output", type=Path, metavar="FILE", help="for a file of puzzles: write puzzle,solution CSV")
    solve.add_argument("--overwrite", action="store_true", help="let --output replace a file")
    _add_solver(solve)
    solve.add_argument("--seed", type=int, default=0, help="seeds the layer's random starts (default: %(default)s)")
    _add_search(solve)
    _add_machine(solve)

    rules = commands.add_parser(
        "rules",
        help="what a checkpoint has learnt: a picture, and a comparison with the rules",
        description="Compare the learnt couplings s_i . s_j with the rules of Sudoku, which the layer was never told, "
        "and draw them, put in order by cell, row, column and box.",
    )
    rules.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the directory of a run")
    rules.add_argument(
        "--count", type=int, default=1000, help="boards to compare objectives on, generated (default: %(default)s)"
    )
    rules.add_argument(
        "--output", type=Path, metavar="FILE", help="write the picture, a PNG, here (default: no picture)"
    )
    rules.add_argument("--overwrite", action="store_true", help="let --output replace a file")

    exact = commands.add_parser(
        "exact",
        help="solve puzzles exactly, by rules extracted from a checkpoint",
        description="Extract rules from a layer and solved boards, and let a SAT solver complete puzzles by them. Nobody wrote "
        "the rules down: that they are those of Sudoku is only compared. Needs python-sat.",
    )
    exact.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint, or the directory of a run")
    exact.add_argument("data", nargs="+", metavar="FILE", help="CSV with the columns puzzle and solution")
    _add_solutions(exact)
    exact.add_argument(
        "--first", type=int, metavar="N", help="extract from the first N solved boards alone (default: all)"
    )
    exact.add_argument("--append", type=Path, metavar="CSV", help="append the results to this CSV, a row for each FILE")

    pairs = commands.add_parser(
        "pairs",
        help="how many rules are extracted from how many boards, with a layer and without",
        description="Count the pairs of bits that exclude each other, as they are extracted from a layer and so many solved "
        "boards, and from the boards alone.",
    )
    pairs.add_argument("checkpoint", nargs="+", metavar="CHECKPOINT", help="a checkpoint, or the directory of a run")
    _add_solutions(pairs)
    pairs.add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=[300, 1000, 3000, 9000],
        metavar="N",
        help="how many of the boards (default: 300 1000 3000 9000)",
    )
    pairs.add_argument("--append", type=Path, metavar="CSV", help="append the results to this CSV")

    generate = commands.add_parser(
        "generate",
        help="generate puzzles with exactly one solution",
        description="Generate puzzles with exactly one solution as puzzle,solution CSV. The same seed gives "
        "the same puzzles.",
    )
    generate.add_argument("--box", type=int, choices=(2, 3), default=3, help="2 for 4x4, 3 for 9x9 (default: 3)")
    generate.add_argument(
        "--givens",
        type=_givens,
        metavar="N|LO-HI",
        help=f"given cells a board, at least 22 for 9x9 and 4 for 4x4 {_default('givens')}",
    )
    generate.add_argument("--count", type=int, default=10, help="how many (default: %(default)s)")
    generate.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="take the file's first puzzles and give more cells of their solutions; of a range LO-HI the numbers in turn",
    )
    generate.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    generate.add_argument(
        "--output", type=Path, metavar="FILE", help="gzipped if it ends in .gz (default: standard output)"
    )
    generate.add_argument("--overwrite", action="store_true", help="let --output replace a file")
    photo.add_commands(commands)
    return parser
