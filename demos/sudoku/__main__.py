"""The command line: ``python -m demos.sudoku``."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.command import guarded
from demos.devices import checked_device
from demos.files import check_output, csv_rows, csv_text, write_atomically
from demos.sudoku.boards import (
    Boards,
    conflicts,
    format_board,
    format_line,
    obeys_rules,
    parse_board,
    side_by_side,
)
from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.options import PROGRAM, build_parser, shown, training_options
from demos.sudoku.photo import command as photo

# torch and numba are imported inside the commands, so that --help and wrong options answer at once.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from demos.sudoku.boards import Int8Array
    from demos.sudoku.checkpoint import Checkpoint
    from demos.sudoku.evaluation import Result
    from demos.sudoku.images import Pool
    from demos.sudoku.model import BitNet, Net, SudokuNet, VisualNet
    from demos.sudoku.train import Evaluation
    from difflayers.inference import Answers

RESULTS = Path(__file__).parent / "results"


# --- commands -----------------------------------------------------------------------------------------------


def _set_up_torch(device: str, threads: int | None, box: int) -> None:
    import torch

    checked_device(device)
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
            f"{size}x{size} boards{config.variant}, from {config.data}: the first {config.train:,} to train on, "
            f"the last {config.test:,} to test on"
        )
    text = (
        f"{size}x{size} boards{config.variant}, generated, {shown(config.givens)} of {size**2} cells given: "
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
    return f"{config.network_description}, from random weights"


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


def _complete(net: BitNet, puzzles: Int8Array, *, seed: int, batch_size: int = 100) -> Int8Array:
    """Return the answers to puzzles of shape (count, N ** 2)."""
    import numpy as np
    import torch

    from demos.progress import progress_bar

    answers = []
    net.eval()
    with progress_bar(len(puzzles), "solving", " boards") as bar:
        for first in range(0, len(puzzles), batch_size):
            batch = torch.from_numpy(puzzles[first : first + batch_size]).to(net.device)
            generator = torch.Generator(net.device).manual_seed(seed)  # the same start for every batch, as in `eval`
            answers.append(net.predict(batch, generator=generator).cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(answers)


def _load_net(arguments: argparse.Namespace) -> tuple[Checkpoint, Net]:
    """Load the network of ``arguments.checkpoint``, its --k, --max-iter and --eps replaced where given."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import restore

    for name in ("max_iter", "eps"):
        patient = (
            arguments.search or getattr(arguments, "joint", False) or getattr(arguments, "rounding", None) is not None
        )
        if patient and getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')}: got it with --search, --rounding or --joint, which solve as far as they need to; "
                "wanted it with one forward pass alone"
            )
    checkpoint = load_checkpoint(arguments.checkpoint)
    _set_up_torch(arguments.device, arguments.threads, checkpoint.config.box)
    names = ("k", "max_iter", "eps")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return checkpoint, restore(checkpoint, **changes).to(arguments.device)


def run_demo(arguments: argparse.Namespace) -> int:
    """Train on 4x4 boards from nothing and show the result."""
    config = replace(PRESETS[2], **training_options(arguments))
    _set_up_torch(arguments.device, arguments.threads, config.box)
    from demos.sudoku.checkpoint import CHECKPOINT_NAME, load_checkpoint
    from demos.sudoku.model import bit_net
    from demos.sudoku.train import CURVE_NAME, Trainer

    output: Path = arguments.output
    if (output / CHECKPOINT_NAME).is_file() and load_checkpoint(output).name == "demo":
        print(f"replacing the earlier demo in {output}")
    else:
        Trainer.check_output(output)
    print(_describe_data(config))
    print(_describe_layer(config), flush=True)
    trainer = Trainer(config, output, name="demo", device=arguments.device)
    result = trainer.fit()

    by_givens = trainer.test_boards.givens.argsort(kind="stable")
    hardest, easiest = by_givens[0], by_givens[-1]
    puzzle = trainer.test_boards.puzzles[hardest]
    answer = _complete(bit_net(trainer.net), puzzle[None], seed=config.seed)[0]
    print(f"\nAn unseen board with {trainer.test_boards.givens[hardest]} of its 16 cells given:\n")
    print(_draw(puzzle, answer))
    print(f"\n{_verdict(answer)}")
    print(f"\nOf the unseen boards: {_describe_result(result)}.")
    print(f"Learning curve: {output / CURVE_NAME}")
    another = format_line(trainer.test_boards.puzzles[easiest]).replace("0", ".")
    print(f"\nSolve another, or one of yours: {PROGRAM} solve {another} --checkpoint {output}")
    _show_large(arguments, output)
    return 0


def _show_large(arguments: argparse.Namespace, output: Path) -> None:
    """Solve 9x9 boards with the weights in ``results``: one of digits, one of images of digits."""
    import numpy as np
    import torch

    from demos.sudoku.data import to_boards
    from demos.sudoku.evaluation import read_jointly, search
    from demos.sudoku.gallery import visual_board_png
    from demos.sudoku.generator import generate
    from demos.sudoku.images import has_mnist, with_images
    from demos.sudoku.model import satnet_of

    original, limit = _shipped("original-9x9", arguments.device)
    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)  # these boards are large enough to gain by it
    hard = generate(3, 24, 1, seed=1)
    found = search(original, hard.puzzles, limit, paths=30)
    answer = to_boards(found.values)[0]
    print(f"\n9x9, with the weights in {RESULTS / 'original-9x9'}: a board with 24 cells given, by search.\n")
    print(_draw(hard.puzzles[0], answer))
    said = "accepts" if found.accepted[0] else "does not accept"
    print(f"\nThe learnt objective {said} it, after {found.passes[0]} forward passes. {_verdict(answer)}")

    mnist_root = arguments.mnist_root or PRESETS[3].mnist_root
    if mnist_root is not None and has_mnist(mnist_root):
        net, pool, limit, told = _mnist_reader(arguments.device, mnist_root)
    else:
        net, pool, told = _digits_reader(satnet_of(original), arguments.device)
        told += f" (MNIST is not in {mnist_root}; --mnist-root says where it is)"
    boards = with_images(generate(3, 34, 10, seed=2), pool, seed=0)
    net.eval()
    with torch.no_grad():
        seen = net.read(*net.inputs(boards)).argmax(-1).cpu().numpy().astype(np.int8) + 1
    misread = ((seen != boards.puzzles) & (boards.puzzles != 0)).sum(1)
    answers = to_boards(read_jointly(net, boards, limit, readings=20, paths=1).values)
    right = (answers == boards.solutions).all(1)
    # The first that is misread and right in the end, if there is one.
    chosen = int(((misread > 0) * (1 + right)).argmax())
    picture = output / "images-9x9.png"
    title = "A board of images of digits; blue: completed, red: read wrongly at first (small), and corrected"
    write_atomically(picture, visual_board_png(boards[chosen : chosen + 1], seen[chosen], answers[chosen], title))
    print(
        f"\n{len(boards)} boards whose {boards.givens[0]} given cells are images: {told}.\n"
        f"By itself it misreads a digit on {(misread > 0).sum()} of them; decoded jointly with the rules, {right.sum()} come "
        "out wholly right.\n"
        f"Picture of one that it misreads: {picture}"
    )


def _shipped(name: str, device: str) -> tuple[Net, float | None]:
    """Load a network of ``results``, and its limit for the learnt objective."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import restore

    checkpoint = load_checkpoint(RESULTS / name)
    return restore(checkpoint).to(device), checkpoint.limit


def _mnist_reader(device: str, mnist_root: str) -> tuple[VisualNet, Pool, float | None, str]:
    """Return the network trained on MNIST, the test images, its limit, and words for them."""
    from demos.sudoku.images import load_pool
    from demos.sudoku.model import VisualNet

    net, limit = _shipped("visual-9x9", device)
    assert isinstance(net, VisualNet)
    told = f"MNIST's test images, read and completed with the weights in {RESULTS / 'visual-9x9'}"
    return net, load_pool("mnist", train=False, mnist_root=mnist_root), limit, told


def _digits_reader(solver: SudokuNet, device: str) -> tuple[VisualNet, Pool, str]:
    """Teach a reader scikit-learn's digits in front of a solver; return both, the test images, and words for them."""
    import torch

    from demos.sudoku.gallery import teach_reader
    from demos.sudoku.images import load_pool
    from demos.sudoku.model import VisualNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VisualNet(solver).to(device)
        teach_reader(net, load_pool("digits", train=True))
    told = "scikit-learn's digits, which a small reader in front of the same layer has just learnt"
    return net, load_pool("digits", train=False), told


def run_train(arguments: argparse.Namespace) -> int:
    """Train, or resume a training."""
    given = training_options(arguments)
    output: Path = arguments.output or Path("runs", f"train-{'4x4' if given.get('box') == 2 else '9x9'}")
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
    # What can be seen to be wrong without torch is said at once.
    config = replace(PRESETS[given.get("box", 3)], **given)
    if given.get("data") and given.get("givens"):
        raise ValueError("--givens: got it together with --data, whose boards are as they are; wanted one of the two")

    from demos.distributed import joined

    with joined(arguments.device) as device:
        return _train(arguments, given, config, output, device)


def _train(arguments: argparse.Namespace, given: dict[str, Any], config: TrainConfig, output: Path, device: str) -> int:
    from demos.distributed import place, wait_for_all
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.train import CURVE_NAME, DivergedError, Trainer

    first = place()[0] == 0
    if arguments.resume:
        checkpoint = load_checkpoint(output)
        config = checkpoint.config
        for name, value in given.items():
            if name != "data" and value != getattr(config, name):
                raise ValueError(
                    f"--{name.replace('_', '-')}: got {shown(value)}, but the run in {output} was started "
                    f"with {shown(getattr(config, name))}; leave it out to resume"
                )
        threads = checkpoint.threads if arguments.threads is None else arguments.threads
        _set_up_torch(device, threads, config.box)
        trainer = Trainer.resume(output, data=given.get("data"), device=device)
        if first:
            print(f"resuming the run in {output} after epoch {trainer.epoch} of {config.epochs}")
    else:
        if not arguments.overwrite:
            Trainer.check_output(output)
        _set_up_torch(device, arguments.threads, config.box)
        if first:
            print(_describe_data(config))
            print(_describe_layer(config), flush=True)
        trainer = Trainer(config, output, device=device)
    try:
        result = trainer.fit()
    except DivergedError as error:
        if first:
            print(f"{PROGRAM} train: {error}", file=sys.stderr)
        wait_for_all()  # torchrun ends all processes when one has failed: not before it is said
        return 1
    except KeyboardInterrupt:
        if trainer.history:
            command = f"{PROGRAM} train --resume --output {output}"
            message = f"resume after epoch {trainer.epoch} with: {command}"
        else:
            message = "there is nothing to resume from yet"
        if first:
            print(f"\ninterrupted; {message}", file=sys.stderr)
        return 130
    if first:
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
            f"{len(boards):,} generated boards, {shown(arguments.givens)} of {size**2} cells given",
        )
    boards = _boards_of_run(checkpoint)[1]
    return boards, f"the {len(boards):,} test boards of the run"


def run_eval(arguments: argparse.Namespace) -> int:
    """Evaluate a checkpoint."""
    from demos.sudoku.data import seen_solutions, to_boards
    from demos.sudoku.images import add_images
    from demos.sudoku.train import evaluate

    if arguments.rounding is not None and arguments.joint:
        raise ValueError("--rounding, --joint: got both, wanted one of the two")
    if arguments.solutions is not None and (not arguments.search or arguments.joint or arguments.rounding is not None):
        raise ValueError("--solutions: got it without --search alone, which propagates rules")
    if arguments.failures is not None:
        check_output(arguments.failures, "--failures", overwrite=arguments.overwrite)
    if arguments.append is not None:
        _check_append(arguments.append, _columns(arguments))
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
    seed = config.seed if arguments.seed is None else arguments.seed
    if arguments.mnist_root is not None:
        config = replace(config, mnist_root=arguments.mnist_root)
    boards = add_images(boards, config, train=False)
    accepted: NDArray[np.bool_] | None = None
    if arguments.joint or arguments.search or arguments.rounding is not None:
        result, found = _evaluate_inference(arguments, checkpoint, net, boards, seed)
        answers, accepted = to_boards(found.values), found.accepted.cpu().numpy()
    else:
        batch_size = config.batch_size if arguments.batch_size is None else arguments.batch_size
        one_pass = evaluate(net, boards, batch_size=batch_size, seed=seed)
        answers = one_pass.answers
        result = {
            "method": "one pass",
            "boards wholly right": one_pass.boards_right,
            "blank cells right": one_pass.blank_cells_right,
            "given cells read right": one_pass.given_cells_read,
            "answers obeying the rules": one_pass.rules_obeyed,
            "loss": one_pass.loss,
            "milliseconds a board": 1e3 * one_pass.seconds / one_pass.boards,
        }
    _print(result)
    right = (answers == boards.solutions).all(1)
    for line in _by_givens(boards, right):
        print(line)
    if arguments.append is not None:
        _append(arguments.append, {"boards": description, **result})
    if arguments.failures is not None:
        write_atomically(arguments.failures, _failures(boards, answers, right, accepted).encode())
        print(f"{int((~right).sum()):,} boards that are not wholly right: {arguments.failures}")
    return 0


ACCEPTANCE = (
    "boards",
    "method",
    "boards wholly right",
    "answers accepted",
    "accepted, and wrong",
    "not accepted, but right",
)
COLUMNS = {
    "one pass": (
        *("boards", "method", "boards wholly right", "blank cells right", "given cells read right"),
        *("answers obeying the rules", "loss", "milliseconds a board"),
    ),
    "search": (
        *ACCEPTANCE,
        *(
            "accepted within so many paths",
            "mean paths a board",
            "mean forward passes a board",
            "milliseconds a board",
            "CPU threads",
        ),
    ),
    "joint": (*ACCEPTANCE, "mean readings a board", "milliseconds a board", "CPU threads"),
}
"""Of `eval`, by method."""
FAILURES = ("puzzle", "solution", "answer", "givens", "wrong cells", "accepted")
"""Of `eval --failures`; the last is empty where answers are not accepted or turned down."""


def _columns(arguments: argparse.Namespace) -> tuple[str, ...]:
    search = arguments.rounding is not None or arguments.search
    return COLUMNS["joint" if arguments.joint else "search" if search else "one pass"]


def _by_givens(boards: Boards, right: NDArray[np.bool_]) -> list[str]:
    """Return a table of how many boards are right, by the number of their givens; nothing if all have as many."""
    givens = boards.givens
    numbers = sorted(set(givens.tolist()))
    if len(numbers) < 2:
        return []
    lines = [f"\n{'givens':>6}{'boards':>9}{'wholly right':>14}"]
    for number in numbers:
        chosen = right[givens == number]
        lines.append(f"{number:6}{len(chosen):9,}{chosen.mean():14.1%}")
    return lines


def _failures(boards: Boards, answers: Int8Array, right: NDArray[np.bool_], accepted: NDArray[np.bool_] | None) -> str:
    """Return the boards whose answer is not wholly right, as CSV."""
    lines = [",".join(FAILURES)]
    for i in (~right).nonzero()[0].tolist():
        cells = [format_line(b[i]) for b in (boards.puzzles, boards.solutions, answers)]
        wrong = int((answers[i] != boards.solutions[i]).sum())
        said = "" if accepted is None else ("yes" if accepted[i] else "no")
        lines.append(",".join([*cells, str(boards.givens[i]), str(wrong), said]))
    return "\n".join(lines) + "\n"


def _cell(name: str, value: str | float | int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if name.startswith(("loss", "milliseconds", "mean")):
        return f"{value:.5g}"
    return f"{value:.2%}"


def _print(result: Result) -> None:
    for name, value in result.items():
        if value is not None:
            print(f"{name:<34}{_cell(name, value):>12}", flush=True)


def _check_append(path: Path, columns: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a row of these columns cannot be appended to the CSV."""
    check_output(path, "--append", overwrite=True)
    if path.exists():
        found = next((row for _, row in csv_rows(path)), [])
        if found and found != list(columns):
            raise ValueError(f"--append: {path} has the columns {','.join(found)}, wanted {','.join(columns)}")


def _append(path: Path, row: Result) -> None:
    """Append a row to a CSV of the same columns."""
    _check_append(path, tuple(row))
    before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    text = csv_text([{name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}])
    if before.strip():
        before += "" if before.endswith("\n") else "\n"
        text = before + text.partition("\n")[2]
    write_atomically(path, text.encode())


def _evaluate_inference(
    arguments: argparse.Namespace, checkpoint: Checkpoint, net: Net, boards: Boards, seed: int
) -> tuple[Result, Answers]:
    """Evaluate --search, --rounding or --joint."""
    from demos.sudoku.evaluation import evaluate_joint, evaluate_search
    from demos.sudoku.extraction import learn_rules
    from demos.sudoku.images import ImageBoards
    from demos.sudoku.model import satnet_of

    if checkpoint.limit is None:
        print("the run set no limit of the learnt objective, so that nothing is accepted", flush=True)
    if arguments.joint:
        if not isinstance(boards, ImageBoards):
            raise ValueError("--joint: the network reads no images, wanted one that does, or --search alone")
        paths = arguments.paths if arguments.search else 0
        return evaluate_joint(net, boards, checkpoint.limit, readings=arguments.readings, paths=paths, seed=seed)
    if checkpoint.config.images is not None:
        name, wanted = (
            ("--search: alone it", "--joint too") if arguments.rounding is None else ("--rounding: it", "--joint")
        )
        raise ValueError(f"{name} solves puzzles of digits, wanted {wanted} for a network that reads images")
    rules = None
    if arguments.solutions is not None:
        rules = learn_rules(satnet_of(net), _solved_boards(arguments, checkpoint))
    return evaluate_search(
        net,
        boards,
        checkpoint.limit,
        rules=rules,
        roundings=arguments.rounding,
        paths=arguments.paths if arguments.search else None,
        starts=arguments.starts,
        seed=seed,
    )


def _refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        check_output(arguments.output, "--output", overwrite=arguments.overwrite)


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
    accepted = None
    if arguments.search:
        from demos.sudoku.data import to_boards
        from demos.sudoku.evaluation import search

        found = search(
            net, puzzles, checkpoint.limit, paths=arguments.paths, starts=arguments.starts, seed=arguments.seed
        )
        answers, accepted = to_boards(found.values), found.accepted
    else:
        from demos.sudoku.model import bit_net

        answers = _complete(bit_net(net), puzzles, seed=arguments.seed)
    obeying = obeys_rules(answers)
    if not is_file:
        print(_draw(puzzles[0], answers[0]))
        if accepted is not None:
            if checkpoint.limit is None:
                said = "has no limit up to which it accepts"
            else:
                said = "accepts it" if accepted[0] else "does not accept it: the search was given up"
            print(f"\nThe network's own objective {said}.")
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
    from demos.sudoku.data import read_csv, write_csv
    from demos.sudoku.generator import add_givens, generate

    givens = arguments.givens or PRESETS[arguments.box].givens
    if arguments.source is None:
        boards = generate(arguments.box, givens, arguments.count, arguments.seed, progress=True)
    else:
        source = read_csv(arguments.source, arguments.box)
        if not 1 <= arguments.count <= len(source):
            raise ValueError(f"--count: got {arguments.count}, wanted 1 to {len(source)}, the puzzles of the file")
        boards = add_givens(source[: arguments.count], givens, arguments.seed)
    if arguments.output is None:
        print("puzzle,solution")
        for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True):
            print(f"{format_line(puzzle)},{format_line(solution)}")
    else:
        write_csv(boards, arguments.output)
        print(f"{len(boards):,} puzzles written to {arguments.output}")
    return 0


def run_rules(arguments: argparse.Namespace) -> int:
    """Compare what a checkpoint has learnt with the rules, and draw it."""
    _refuse_to_overwrite(arguments)
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.data import domains_of, to_values
    from demos.sudoku.model import restore, satnet_of
    from demos.sudoku.rules import changed_boards, measure, rules_png
    from difflayers import inference

    checkpoint = load_checkpoint(arguments.checkpoint)
    solver = satnet_of(restore(checkpoint))
    found = measure(solver)
    print(
        f"By the rules of Sudoku {found.pairs:,} pairs of bits exclude each other. Of the couplings s_i . s_j of the layer,"
    )
    for recall in (0.5, 0.8, 0.9, 1.0):
        print(
            f"  the strongest that hold {recall:4.0%} of these pairs are such pairs to {found.precision_at(recall):7.2%}"
        )
    print(f"average precision {found.average_precision:.4f}")
    print(f"Among the {found.pairs:,} strongest couplings are, of the pairs that exclude each other within a")
    for kind, share in found.recall_by_kind.items():
        print(f"  {kind:<6} {share:8.2%}")
    from demos.sudoku.generator import generate

    boards = generate(checkpoint.config.box, checkpoint.config.box**4 // 2, arguments.count, seed=1, progress=True)
    limit = checkpoint.limit
    told = "nothing is accepted by it" if limit is None else f"answers are accepted up to {limit:.2f}"
    print(f"The learnt objective of {arguments.count:,} generated boards; {told}.")
    layer, domains = solver.board_layer(), domains_of(solver.box)
    for name, changed in changed_boards(boards.solutions).items():
        values = inference.learnt_objective(layer, domains, to_values(changed)[0]).numpy()
        print(
            f"  {name:<20}{values.mean():7.2f} +- {values.std():.2f}, from {values.min():.2f} to {values.max():.2f}"
            + ("" if limit is None else f"; {(values <= limit).mean():7.2%} accepted")
        )
    if arguments.output is not None:
        size = checkpoint.config.box**2
        title = f"{size}x{size} Sudoku{checkpoint.config.variant}: what S has learnt, bits put in order four ways"
        write_atomically(arguments.output, rules_png(solver, title))
        print(f"picture: {arguments.output}")
    return 0


def _solved_boards(arguments: argparse.Namespace, checkpoint: Checkpoint) -> Int8Array:
    from demos.sudoku.data import read_csv

    if arguments.solutions is not None:
        return read_csv(arguments.solutions, checkpoint.config.box).solutions
    return _boards_of_run(checkpoint)[0].solutions


def _first(name: str, count: int, solutions: Int8Array) -> int:
    if not 1 <= count <= len(solutions):
        raise ValueError(f"{name}: got {count}, wanted 1 to {len(solutions)}, the solved boards there are")
    return count


def run_exact(arguments: argparse.Namespace) -> int:
    """Solve files of puzzles by extracted rules."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.data import read_csv
    from demos.sudoku.extraction import compare, evaluate_exact, learn_rules
    from demos.sudoku.model import restore, satnet_of

    checkpoint = load_checkpoint(arguments.checkpoint)
    files = [(Path(name).name, read_csv(name, checkpoint.config.box)) for name in arguments.data]
    solutions = _solved_boards(arguments, checkpoint)
    if arguments.first is not None:
        solutions = solutions[: _first("--first", arguments.first, solutions)]
    rules = learn_rules(satnet_of(restore(checkpoint)), solutions)
    total, held, others = compare(rules, checkpoint.config.box)
    print(
        f"rules extracted from the layer and {len(solutions):,} solved boards: {held:,} of the {total:,} pairs of bits that "
        f"exclude each other in Sudoku, {others:,} pairs that do not"
    )
    for name, boards in files:
        described: Result = {"boards": f"{len(boards):,} boards from {name}", "rules from": len(solutions)}
        result = described | evaluate_exact(rules, boards)
        _print(result)
        if arguments.append is not None:
            _append(arguments.append, result)
    return 0


def run_pairs(arguments: argparse.Namespace) -> int:
    """Count the exclusions extracted from more and more boards."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.extraction import pairs_by_boards
    from demos.sudoku.model import restore, satnet_of

    for path in arguments.checkpoint:
        checkpoint = load_checkpoint(path)
        solutions = _solved_boards(arguments, checkpoint)
        counts = [_first("--counts", count, solutions) for count in arguments.counts]
        name = f"{'permuted' if checkpoint.config.permuted else 'original'}, trained on {checkpoint.config.train:,}"
        for row in pairs_by_boards(satnet_of(restore(checkpoint)), name, solutions, counts):
            _print(row)
            if arguments.append is not None:
                _append(arguments.append, row)
    return 0


COMMANDS = {
    "demo": run_demo,
    "train": run_train,
    "eval": run_eval,
    "solve": run_solve,
    "rules": run_rules,
    "exact": run_exact,
    "pairs": run_pairs,
    "generate": run_generate,
    **photo.COMMANDS,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "demo")
    arguments = build_parser().parse_args(argv)
    return guarded(f"{PROGRAM} {arguments.command}", lambda: COMMANDS[arguments.command](arguments))


if __name__ == "__main__":
    raise SystemExit(main())
