"""``python -m demos.sudoku eval``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demos.files import write_atomically
from demos.sudoku.boards import Boards, Int8Array, format_line
from demos.sudoku.checkpoint import Checkpoint
from demos.sudoku.commands.common import append, boards_of_run, check_append, load_net, print_result, solved_boards
from demos.sudoku.config import TrainConfig, shown
from demos.sudoku.data import read_csv, seen_solutions, to_boards
from demos.sudoku.evaluation import Result, evaluate, evaluate_joint, evaluate_search
from demos.sudoku.extraction import learn_rules
from demos.sudoku.generator import generate, split_grids
from demos.sudoku.images import ImageBoards, add_images
from demos.sudoku.model import Net, SudokuNet, VisualNet, bit_net, satnet_of
from demos.sudoku.options import Evaluate
from demos.sudoku.reading.training import load_reader
from difflayers.inference import Answers

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


def evaluate_checkpoint(options: Evaluate) -> int:
    """Evaluate a checkpoint."""
    if options.append is not None:
        check_append(options.append, COLUMNS[_kind(options)])
    checkpoint, net = load_net(options.checkpoint, options.solver, options.machine)
    config = checkpoint.config
    if options.reader is not None:
        net, config = with_reader(net, config, options.reader)
    if options.draws > 1 and config.images is None:
        raise ValueError(f"--draws: got {options.draws} for boards without images, wanted --reader too, or 1")
    boards, description = boards_to_evaluate(options, checkpoint)
    try:
        seen = seen_solutions(boards_of_run(checkpoint)[0], boards)
    except (OSError, ValueError):
        unseen = "the boards it was trained on are not at hand: whether it saw some of these is unknown"
    else:
        unseen = f"{seen:,} of them have the solution of a training board"
    print(f"{description};\n{unseen}", flush=True)
    seed = config.seed if options.seed is None else options.seed
    if options.mnist_root is not None:
        config = replace(config, mnist_root=options.mnist_root)
    if options.draws > 1:
        boards = Boards(*(np.tile(part, (options.draws, 1)) for part in (boards.puzzles, boards.solutions)))
        description = f"{len(boards):,} boards, {options.draws} draws of the images for {description}"
    if options.reader is not None:
        description += f", reader of seed {config.seed}"
    boards = add_images(boards, config, train=False)
    accepted: NDArray[np.bool_] | None = None
    if _kind(options) == "one pass":
        result, answers = one_pass(net, boards, options.batch_size or config.batch_size, seed)
    else:
        result, found = by_inference(options, checkpoint, net, boards, seed)
        answers, accepted = to_boards(found.values), found.accepted.cpu().numpy()
    print_result(result)
    right = (answers == boards.solutions).all(1)
    for line in _by_givens(boards, right):
        print(line)
    if options.append is not None:
        append(options.append, {"boards": description, **result})
    if options.failures is not None:
        write_atomically(options.failures, _failures(boards, answers, right, accepted).encode())
        print(f"{int((~right).sum()):,} boards that are not wholly right: {options.failures}")
    return 0


def with_reader(net: Net, config: TrainConfig, path: Path) -> tuple[VisualNet, TrainConfig]:
    """Put a reader before the layer, for its images; return the network and the configuration of both."""
    visual = VisualNet(bit_net(net))
    visual.reader, reading = load_reader(path, config.box**2)
    config = replace(config, images=reading.images, mnist_root=reading.mnist_root, seed=reading.seed)
    return visual.to(net.device), config


def _kind(options: Evaluate) -> str:
    """Return which of `COLUMNS` the result has."""
    if options.joint:
        return "joint"
    return "search" if options.search.search or options.rounding is not None else "one pass"


def boards_to_evaluate(options: Evaluate, checkpoint: Checkpoint) -> tuple[Boards, str]:
    """Return the boards, and words for them."""
    config = checkpoint.config
    if options.data is not None:
        boards = read_csv(options.data, config.box)
        if options.test is not None:
            if not 1 <= options.test <= len(boards):
                raise ValueError(f"--test: got {options.test}, wanted 1 to {len(boards)}, the boards in the file")
            boards = boards[len(boards) - options.test :]
        return boards, f"{len(boards):,} boards from {options.data}"
    if options.givens is not None:
        grids = split_grids(config.seed)[1] if config.box == 2 and config.data is None else None
        seed = 1 if options.seed is None else options.seed
        boards = generate(config.box, options.givens, options.count, seed, grids=grids, progress=True)
        return boards, f"{len(boards):,} generated boards, {shown(options.givens)} of {config.box**4} cells given"
    boards = boards_of_run(checkpoint)[1]
    return boards, f"the {len(boards):,} test boards of the run"


def one_pass(net: Net, boards: Boards, batch_size: int, seed: int) -> tuple[Result, Int8Array]:
    """Evaluate one forward pass; return also the answers."""
    found = evaluate(net, boards, batch_size=batch_size, seed=seed)
    return {
        "method": f"one pass, at most {net.layer.max_iter:,} sweeps" if isinstance(net, SudokuNet) else "one pass",
        "boards wholly right": found.boards_right,
        "blank cells right": found.blank_cells_right,
        "given cells read right": found.given_cells_read,
        "answers obeying the rules": found.rules_obeyed,
        "loss": found.loss,
        "milliseconds a board": 1e3 * found.seconds / found.boards,
    }, found.answers


def by_inference(
    options: Evaluate, checkpoint: Checkpoint, net: Net, boards: Boards, seed: int
) -> tuple[Result, Answers]:
    """Evaluate --search, --rounding or --joint; return also what was found."""
    limit = None if options.rules_alone else checkpoint.limit
    if limit is None and not options.rules_alone:
        print("the run set no limit of the learnt objective, so that nothing is accepted", flush=True)
    paths = options.search.paths if options.search.search else None
    if options.joint and not isinstance(boards, ImageBoards):
        raise ValueError("--joint: the network reads no images, wanted one that does, or --search alone")
    rules = None
    if options.solutions is not None:
        solutions = solved_boards(options.solutions, checkpoint)
        rules = learn_rules(satnet_of(net), solutions, exactly_one=options.exactly_one)
    if options.joint:
        assert isinstance(boards, ImageBoards)
        return evaluate_joint(
            net,
            boards,
            limit,
            readings=options.readings,
            paths=paths or 0,
            margin=options.margin,
            seed=seed,
            rules=rules,
        )
    if isinstance(net, VisualNet):
        name, wanted = (
            ("--search: alone it", "--joint too") if options.rounding is None else ("--rounding: it", "--joint")
        )
        raise ValueError(f"{name} solves puzzles of digits, wanted {wanted} for a network that reads images")
    return evaluate_search(
        net,
        boards,
        limit,
        rules=rules,
        roundings=options.rounding,
        paths=paths,
        starts=options.search.starts,
        seed=seed,
    )


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
