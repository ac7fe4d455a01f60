"""What several commands do: set torch up, load a network, draw boards, print and append results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from demos.devices import checked_device
from demos.files import check_output, csv_rows, csv_text, write_atomically
from demos.progress import progress_bar
from demos.sudoku.boards import Boards, Int8Array, format_board, obeys_rules, side_by_side
from demos.sudoku.checkpoint import Checkpoint, load_checkpoint
from demos.sudoku.config import TrainConfig, shown
from demos.sudoku.data import fingerprint, load_split, read_csv
from demos.sudoku.evaluation import Evaluation, Result
from demos.sudoku.generator import HELD_OUT_GRIDS
from demos.sudoku.model import BitNet, Net, restore
from demos.sudoku.options import Machine, Solver


def set_up_torch(device: str, threads: int | None, box: int) -> None:
    """Check the device, and take so many threads."""
    checked_device(device)
    if threads is None and box == 2:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def describe_data(config: TrainConfig) -> str:
    """Say what a run is trained and tested on."""
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
    if config.box > 2:
        return text + ";\nunseen means: no two of these boards have the same solution"
    return text + (
        f";\nunseen means: of the 288 solved 4x4 boards there are, {HELD_OUT_GRIDS} never occur in training, "
        "and all test boards come from those"
    )


def describe_result(result: Evaluation) -> str:
    """Say how many boards are right."""
    right = round(result.boards_right * result.boards)
    return (
        f"{right:,} of {result.boards:,} boards wholly right ({result.boards_right:.1%}), "
        f"{result.blank_cells_right:.2%} of their blank cells"
    )


def color() -> bool:
    """Whether standard output shows colors."""
    return sys.stdout.isatty()


def draw(puzzle: Int8Array, answer: Int8Array) -> str:
    """Draw a puzzle beside its answer."""
    titles = ("puzzle", "completed by the network")
    return side_by_side(format_board(puzzle), format_board(answer, puzzle, color=color()), titles)


def verdict(answer: Int8Array) -> str:
    """Say whether an answer obeys the rules."""
    if obeys_rules(answer):
        return "It obeys the rules of Sudoku (checked by the rules, which the network was never told)."
    return "It breaks the rules of Sudoku (checked by the rules, which the network was never told)."


def complete(net: BitNet, puzzles: Int8Array, *, seed: int, batch_size: int = 100) -> Int8Array:
    """Return the answers to puzzles of shape (count, N ** 2)."""
    answers = []
    net.eval()
    with progress_bar(len(puzzles), "solving", " boards") as bar:
        for first in range(0, len(puzzles), batch_size):
            batch = torch.from_numpy(puzzles[first : first + batch_size]).to(net.device)
            generator = torch.Generator(net.device).manual_seed(seed)  # the same start for every batch, as in `eval`
            answers.append(net.predict(batch, generator=generator).cpu().numpy())
            bar.update(len(batch))
    return np.concatenate(answers)


def load_net(path: Path, solver: Solver, machine: Machine) -> tuple[Checkpoint, Net]:
    """Load the network of a checkpoint, its --k, --max-iter and --eps replaced where given."""
    checkpoint = load_checkpoint(path)
    set_up_torch(machine.device, machine.threads, checkpoint.config.box)
    changes = {name: value for name, value in vars(solver).items() if value is not None}
    return checkpoint, restore(checkpoint, **changes).to(machine.device)


def boards_of_run(checkpoint: Checkpoint) -> tuple[Boards, Boards]:
    """Return the boards the run was trained and tested on; ``ValueError`` if they are not to be had."""
    boards = load_split(checkpoint.config, progress=True)
    if fingerprint(*boards) != checkpoint.data_fingerprint:
        source = checkpoint.config.data or "the generator"
        raise ValueError(f"data: {source} no longer gives the boards of the run; wanted --data or --givens")
    return boards


def solved_boards(path: Path | None, checkpoint: Checkpoint) -> Int8Array:
    """Return the solved boards in a file, or else those that the run was trained on."""
    if path is not None:
        return read_csv(path, checkpoint.config.box).solutions
    return boards_of_run(checkpoint)[0].solutions


def _cell(name: str, value: str | float | int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if name.startswith(("loss", "milliseconds", "mean", "seconds", "CPU seconds")):
        return f"{value:.5g}"
    return f"{value:.2%}"


def print_result(result: Result) -> None:
    """Print a row of a table, a line for each cell that is not empty."""
    for name, value in result.items():
        if value is not None:
            print(f"{name:<34}{_cell(name, value):>12}", flush=True)


def check_append(path: Path, columns: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a row of these columns cannot be appended to the CSV."""
    check_output(path, "--append", overwrite=True)
    if path.exists():
        found = next((row for _, row in csv_rows(path)), [])
        if found and found != list(columns):
            raise ValueError(f"--append: {path} has the columns {','.join(found)}, wanted {','.join(columns)}")


def append(path: Path, row: Result) -> None:
    """Append a row to a CSV of the same columns."""
    check_append(path, tuple(row))
    before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    text = csv_text([{name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}])
    if before.strip():
        before += "" if before.endswith("\n") else "\n"
        text = before + text.partition("\n")[2]
    write_atomically(path, text.encode())
