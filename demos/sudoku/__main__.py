"""The command line: ``python -m demos.sudoku``."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.sudoku.boards import (
    Boards,
    conflicts,
    format_board,
    format_line,
    obeys_rules,
    parse_board,
    side_by_side,
)
from demos.sudoku.config import PRESETS, TrainConfig, parse_givens

# torch and numba are imported inside the commands, so that --help and wrong options answer at once.
if TYPE_CHECKING:
    from demos.sudoku.boards import Int8Array
    from demos.sudoku.checkpoint import Checkpoint
    from demos.sudoku.model import SudokuNet
    from demos.sudoku.train import Evaluation

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
  {PROGRAM} eval runs/mine --givens 28 --count 500
  {PROGRAM} solve 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79 \\
      --checkpoint runs/mine
  {PROGRAM} generate --box 3 --givens 28-36 --count 10000 --output boards.csv.gz

`{PROGRAM} COMMAND --help` lists the options of a command.
"""


# --- options ------------------------------------------------------------------------------------------------


def _default(name: str) -> str:
    """Say the default of a training option, for each size of board if they differ."""
    small, large = (_shown(getattr(PRESETS[box], name)) for box in (2, 3))
    return f"(default: {large})" if small == large else f"(default: {large} for 9x9, {small} for 4x4)"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, dict.fromkeys(value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _givens(text: str) -> tuple[int, int]:
    try:
        return parse_givens(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--threads",
        type=int,
        help="number of CPU threads (default: all cores for 9x9; 1 for 4x4, too small to gain by more)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a TrainConfig; what is not given stays None."""
    data = parser.add_argument_group("boards")
    data.add_argument("--givens", type=_givens, metavar="N|LO-HI", help=f"given cells a board {_default('givens')}")
    data.add_argument("--train", type=int, metavar="N", help=f"boards to train on, the first N {_default('train')}")
    data.add_argument("--test", type=int, metavar="M", help=f"boards to test on, the last M {_default('test')}")
    layer = parser.add_argument_group("the layer")
    layer.add_argument("--aux", type=int, help=f"auxiliary variables {_default('aux')}")
    layer.add_argument("--m", type=int, help=f"number of clauses, the rank of the weights {_default('m')}")
    layer.add_argument("--k", type=int, help=f"dimension of the vectors {_default('k')}")
    layer.add_argument("--max-iter", type=int, help=f"most sweeps to a solution {_default('max_iter')}")
    layer.add_argument("--eps", type=float, help=f"relative decrease at which the sweeps stop {_default('eps')}")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, help=f"times through the training boards {_default('epochs')}")
    training.add_argument("--batch-size", type=int, help=f"boards a step {_default('batch_size')}")
    training.add_argument("--lr", type=float, help=f"highest learning rate, of a cosine schedule {_default('lr')}")
    training.add_argument("--seed", type=int, help=f"seeds all that is random {_default('seed')}")


def _training_options(arguments: argparse.Namespace) -> dict[str, Any]:
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
    _add_device(demo)
    _add_training(demo)
    demo.set_defaults(run=run_demo)

    train = commands.add_parser(
        "train",
        help="train a network, or resume its training",
        description="Train a network. The output directory gets a checkpoint (safetensors), the metrics "
        "(CSV) and the learning curve (PNG), renewed after every epoch.",
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
    _add_device(train)
    _add_training(train)
    train.set_defaults(run=run_train)

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
    evaluate.add_argument("--max-iter", type=int, help="most sweeps to a solution (default: as trained)")
    evaluate.add_argument("--eps", type=float, help="relative decrease at which the sweeps stop (default: as trained)")
    evaluate.add_argument("--batch-size", type=int, help="boards at a time (default: as trained)")
    evaluate.add_argument(
        "--seed",
        type=int,
        help="seeds generated boards (default: 1) and the layer's random starts (default: the run's seed)",
    )
    _add_device(evaluate)
    evaluate.set_defaults(run=run_eval)

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
    solve.add_argument("--max-iter", type=int, help="most sweeps to a solution (default: as trained)")
    solve.add_argument("--eps", type=float, help="relative decrease at which the sweeps stop (default: as trained)")
    solve.add_argument("--seed", type=int, default=0, help="seeds the layer's random starts (default: %(default)s)")
    _add_device(solve)
    solve.set_defaults(run=run_solve)

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
    generate.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    generate.add_argument(
        "--output", type=Path, metavar="FILE", help="gzipped if it ends in .gz (default: standard output)"
    )
    generate.add_argument("--overwrite", action="store_true", help="let --output replace a file")
    generate.set_defaults(run=run_generate)
    return parser


# --- commands -----------------------------------------------------------------------------------------------


def _set_up_torch(device: str, threads: int | None, box: int) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {device!r}, wanted cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device: got {device!r}, but torch finds no CUDA device here; wanted cpu")
    if threads is None and box == 2:
        threads = 1
    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads: got {threads}, wanted 1 or more")
        torch.set_num_threads(threads)


def _describe_data(config: TrainConfig) -> str:
    size = config.box**2
    if config.data is not None:
        return (
            f"{size}x{size} boards from {config.data}: the first {config.train:,} to train on, "
            f"the last {config.test:,} to test on"
        )
    text = (
        f"{size}x{size} boards, generated, {_shown(config.givens)} of {size**2} cells given: "
        f"{config.train:,} to train on, {config.test:,} to test on"
    )
    if config.box == 3:
        return text + ";\nunseen means: no two of these boards have the same solution"
    from demos.sudoku.generator import HELD_OUT_GRIDS

    return text + (
        f";\nunseen means: of the 288 solved 4x4 boards there are, {HELD_OUT_GRIDS} never occur in training, "
        "and all test boards come from those"
    )


def _describe_layer(config: TrainConfig) -> str:
    return f"SATNet(n={config.box**6}, m={config.m}, aux={config.aux}, k={config.k}), from random weights"


def _describe_result(result: Evaluation) -> str:
    right = round(result.boards_right * result.boards)
    return (
        f"{right:,} of {result.boards:,} boards wholly right ({result.boards_right:.1%}), "
        f"{result.blank_cells_right:.2%} of their blank cells"
    )


def _color() -> bool:
    return sys.stdout.isatty()


def _draw(puzzle: Int8Array, answer: Int8Array) -> str:
    titles = ("puzzle", "completed by the network")
    return side_by_side(format_board(puzzle), format_board(answer, puzzle, color=_color()), titles)


def _verdict(answer: Int8Array) -> str:
    if obeys_rules(answer):
        return "It obeys the rules of Sudoku (checked by the rules, which the network was never told)."
    return "It breaks the rules of Sudoku (checked by the rules, which the network was never told)."


def _complete(net: SudokuNet, puzzles: Int8Array, *, seed: int, device: str, batch_size: int = 100) -> Int8Array:
    """Return the answers to puzzles of shape (count, N ** 2)."""
    import numpy as np
    import torch

    from demos.sudoku.train import progress_bar

    generator = torch.Generator(device).manual_seed(seed)
    answers = []
    net.eval()
    with progress_bar(len(puzzles), "solving", " boards") as bar:
        for first in range(0, len(puzzles), batch_size):
            batch = torch.from_numpy(puzzles[first : first + batch_size]).to(device)
            answers.append(net.predict(batch, generator=generator).cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(answers)


def _load_net(arguments: argparse.Namespace) -> tuple[Checkpoint, SudokuNet]:
    """Load the network of ``arguments.checkpoint``, its --max-iter and --eps replaced where given."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import SudokuNet

    checkpoint = load_checkpoint(arguments.checkpoint)
    _set_up_torch(arguments.device, arguments.threads, checkpoint.config.box)
    changes = {name: getattr(arguments, name) for name in ("max_iter", "eps") if getattr(arguments, name) is not None}
    net = SudokuNet.from_config(replace(checkpoint.config, **changes))
    net.load_state_dict(checkpoint.model)
    return checkpoint, net.to(arguments.device)


def run_demo(arguments: argparse.Namespace) -> int:
    """Train on 4x4 boards from nothing and show the result."""
    config = replace(PRESETS[2], **_training_options(arguments))
    _set_up_torch(arguments.device, arguments.threads, config.box)
    from demos.sudoku.checkpoint import CHECKPOINT_NAME, load_checkpoint
    from demos.sudoku.train import CURVE_NAME, Trainer

    output: Path = arguments.output
    if (output / CHECKPOINT_NAME).is_file() and load_checkpoint(output).name == "demo":
        print(f"replacing the earlier demo in {output}")
    else:
        Trainer.check_output(output)
    print(_describe_data(config))
    print(_describe_layer(config), flush=True)
    trainer = Trainer(config, output, name="demo", device=arguments.device)
    Trainer.clear_output(output)
    result = trainer.fit()

    by_givens = trainer.test_boards.givens.argsort(kind="stable")
    hardest, easiest = by_givens[0], by_givens[-1]
    puzzle = trainer.test_boards.puzzles[hardest]
    answer = _complete(trainer.net, puzzle[None], seed=config.seed, device=arguments.device)[0]
    print(f"\nAn unseen board with {trainer.test_boards.givens[hardest]} of its 16 cells given:\n")
    print(_draw(puzzle, answer))
    print(f"\n{_verdict(answer)}")
    print(f"\nOf the unseen boards: {_describe_result(result)}.")
    print(f"Learning curve: {output / CURVE_NAME}")
    another = format_line(trainer.test_boards.puzzles[easiest]).replace("0", ".")
    print(f"\nSolve another, or one of yours: {PROGRAM} solve {another} --checkpoint {output}")
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Train, or resume a training."""
    given = _training_options(arguments)
    output: Path = arguments.output or Path("runs", f"train-{'4x4' if given.get('box') == 2 else '9x9'}")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
    # What can be seen to be wrong without torch is said at once.
    config = replace(PRESETS[given.get("box", 3)], **given)
    if given.get("data") and given.get("givens"):
        raise ValueError("--givens: got it together with --data, whose boards are as they are; wanted one of the two")

    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.train import CURVE_NAME, DivergedError, Trainer

    if arguments.resume:
        checkpoint = load_checkpoint(output)
        config = checkpoint.config
        for name, value in given.items():
            if name != "data" and value != getattr(config, name):
                raise ValueError(
                    f"--{name.replace('_', '-')}: got {_shown(value)}, but the run in {output} was started "
                    f"with {_shown(getattr(config, name))}; leave it out to resume"
                )
        threads = checkpoint.threads if arguments.threads is None else arguments.threads
        _set_up_torch(arguments.device, threads, config.box)
        trainer = Trainer.resume(output, data=given.get("data"), device=arguments.device)
        print(f"resuming the run in {output} after epoch {trainer.epoch} of {config.epochs}")
    else:
        if not arguments.overwrite:
            Trainer.check_output(output)
        _set_up_torch(arguments.device, arguments.threads, config.box)
        print(_describe_data(config))
        print(_describe_layer(config), flush=True)
        trainer = Trainer(config, output, device=arguments.device)
        Trainer.clear_output(output)
    try:
        result = trainer.fit()
    except DivergedError as error:
        print(f"{PROGRAM} train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if trainer.history:
            command = f"{PROGRAM} train --resume --output {output}"
            message = f"resume after epoch {trainer.epoch} with: {command}"
        else:
            message = "there is nothing to resume from yet"
        print(f"\ninterrupted; {message}", file=sys.stderr)
        return 130
    print(f"\nOf the unseen boards: {_describe_result(result)}.")
    print(f"Checkpoint, metrics and learning curve ({CURVE_NAME}) are in {output}")
    return 0


def _boards_of_run(checkpoint: Checkpoint) -> tuple[Boards, Boards]:
    """Return the boards the run was trained and tested on; ``ValueError`` if they are not to be had."""
    from demos.sudoku.data import fingerprint, load_split

    boards = load_split(checkpoint.config, progress=True)
    if fingerprint(*boards) != checkpoint.data_fingerprint:
        source = checkpoint.config.data or "the generator"
        raise ValueError(f"data: {source} no longer gives the boards of the run; wanted --data or --givens")
    return boards


def _boards_to_evaluate(arguments: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Boards, str]:
    from demos.sudoku.data import read_csv
    from demos.sudoku.generator import generate, split_grids

    config = checkpoint.config
    size = config.box**2
    if arguments.data is not None and arguments.givens is not None:
        raise ValueError("--data, --givens: got both, wanted one of the two")
    if arguments.data is not None:
        boards = read_csv(arguments.data, config.box)
        if arguments.test is not None:
            if not 1 <= arguments.test <= len(boards):
                raise ValueError(f"--test: got {arguments.test}, wanted 1 to {len(boards)}, the boards in the file")
            boards = boards[len(boards) - arguments.test :]
        return boards, f"{len(boards):,} boards from {arguments.data}"
    if arguments.givens is not None:
        grids = split_grids(config.seed)[1] if config.box == 2 and config.data is None else None
        boards = generate(
            config.box,
            arguments.givens,
            arguments.count,
            1 if arguments.seed is None else arguments.seed,
            grids=grids,
            progress=True,
        )
        return (
            boards,
            f"{len(boards):,} generated boards, {_shown(arguments.givens)} of {size**2} cells given",
        )
    boards = _boards_of_run(checkpoint)[1]
    return boards, f"the {len(boards):,} test boards of the run"


def run_eval(arguments: argparse.Namespace) -> int:
    """Evaluate a checkpoint."""
    from demos.sudoku.data import seen_solutions
    from demos.sudoku.train import evaluate

    checkpoint, net = _load_net(arguments)
    config = checkpoint.config
    boards, description = _boards_to_evaluate(arguments, checkpoint)
    try:
        seen = seen_solutions(_boards_of_run(checkpoint)[0], boards)
    except (OSError, ValueError):
        unseen = "the boards it was trained on are not at hand: whether it saw some of these is unknown"
    else:
        unseen = f"{seen:,} of them have the solution of a training board"
    print(f"{description};\n{unseen}", flush=True)
    batch_size = config.batch_size if arguments.batch_size is None else arguments.batch_size
    seed = config.seed if arguments.seed is None else arguments.seed
    result = evaluate(net, boards, batch_size=batch_size, seed=seed, device=arguments.device)
    right = round(result.boards_right * result.boards)
    print(f"boards wholly right      {result.boards_right:8.2%}  ({right:,} of {result.boards:,})")
    print(f"blank cells right        {result.blank_cells_right:8.2%}")
    print(f"answers obeying the rules{result.rules_obeyed:8.2%}")
    print(f"loss                     {result.loss:8.5f}")
    print(f"milliseconds a board     {1e3 * result.seconds / result.boards:8.2f}")
    return 0


def _refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    if arguments.output is not None and arguments.output.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {arguments.output} exists; pass --overwrite to replace it")


def run_solve(arguments: argparse.Namespace) -> int:
    """Solve one puzzle or a file of them."""
    _refuse_to_overwrite(arguments)
    path = Path(arguments.puzzle)
    is_file = path.is_file()
    if is_file:
        from demos.sudoku.data import read_puzzles

        puzzles = read_puzzles(path)
    else:
        try:
            puzzles = parse_board(arguments.puzzle)[None]
        except ValueError as error:
            raise ValueError(f"PUZZLE|FILE: neither a file nor a puzzle: {error}") from None
        if conflicts(puzzles[0]):
            raise ValueError("PUZZLE: it gives a digit twice in a row, column or box")
        if arguments.output is not None:
            raise ValueError("--output: got it with a single puzzle, wanted a file of puzzles")

    checkpoint, net = _load_net(arguments)
    if puzzles.shape[1] != checkpoint.config.box**4:
        size = checkpoint.config.box**2
        raise ValueError(
            f"PUZZLE|FILE: got {puzzles.shape[1]} cells, wanted {size**2}: the network in "
            f"{arguments.checkpoint} was trained on {size}x{size} boards"
        )
    answers = _complete(net, puzzles, seed=arguments.seed, device=arguments.device)
    obeying = obeys_rules(answers)
    if not is_file:
        print(_draw(puzzles[0], answers[0]))
        print(f"\n{_verdict(answers[0])}")
    else:
        if arguments.output is None:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(["puzzle", "answer", "obeys the rules"])
            for puzzle, answer, obeys in zip(puzzles, answers, obeying, strict=True):
                writer.writerow([format_line(puzzle), format_line(answer), "yes" if obeys else "no"])
        else:
            from demos.sudoku.data import write_csv

            write_csv(Boards(puzzles, answers), arguments.output)
        print(
            f"{int(obeying.sum()):,} of {len(obeying):,} answers obey the rules of Sudoku (checked by the "
            "rules, which the network was never told)",
            file=sys.stderr,
        )
    return 0 if obeying.all() else 1


def run_generate(arguments: argparse.Namespace) -> int:
    """Generate puzzles."""
    _refuse_to_overwrite(arguments)
    from demos.sudoku.data import write_csv
    from demos.sudoku.generator import generate

    givens = arguments.givens or PRESETS[arguments.box].givens
    boards = generate(arguments.box, givens, arguments.count, arguments.seed, progress=True)
    if arguments.output is None:
        print("puzzle,solution")
        for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True):
            print(f"{format_line(puzzle)},{format_line(solution)}")
    else:
        write_csv(boards, arguments.output)
        print(f"{len(boards):,} puzzles written to {arguments.output}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "demo")
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except BrokenPipeError:  # the reader, `head` say, has had enough
        sys.stderr.close()
        return 141
    except (ValueError, OSError) as error:
        print(f"{PROGRAM} {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    raise SystemExit(main())
