"""Boards as bits, boards in files, and the split into training and test boards.

Bits are cell-major: bit ``(row * N + column) * N + digit - 1`` is 1 if that cell holds that digit.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demos.files import csv_rows, write_atomically
from demos.sudoku.boards import Boards, Int8Array, box_of, check_box, conflicts, format_line, obeys_rules, parse_board
from demos.sudoku.config import TrainConfig
from demos.sudoku.generator import generate_split
from difflayers import Domains

_COLUMN_NAMES = {
    "puzzle": ("puzzle", "puzzles", "quiz", "quizzes"),
    "solution": ("solution", "solutions"),
}


# --- bits ---------------------------------------------------------------------------------------------------


@cache
def domains_of(box: int) -> Domains:
    """Return the cells of a board as variables, each with the digits as its values: digit d is value d - 1."""
    size = check_box(box) ** 2
    names = [f"row {row} column {column}" for row in range(1, size + 1) for column in range(1, size + 1)]
    return Domains([size] * size**2, names=names, labels=[[str(d) for d in range(1, size + 1)]] * size**2)


def to_values(boards: Tensor | Int8Array) -> tuple[Tensor, Tensor]:
    """Return boards, (..., N ** 2), as `difflayers.inference` takes them: values, int64, and which cells are given."""
    boards = boards if isinstance(boards, Tensor) else torch.from_numpy(boards)
    return boards.long() - 1, boards != 0


def to_boards(values: Tensor) -> Int8Array:
    """Return values, complete, as boards."""
    return (values + 1).to(torch.int8).cpu().numpy()


def encode(boards: Tensor) -> tuple[Tensor, Tensor]:
    """Turn boards into bits.

    Args:
        boards: Integers of shape (B, N ** 2), 0 for a blank.

    Returns:
        bits: float32 of shape (B, N ** 3); the bits of a blank cell are all 0.
        given: bool of shape (B, N ** 3), true at every bit of a cell that is not blank.
    """
    return domains_of(box_of(boards.shape[-1])).encode(*to_values(boards), dtype=torch.float32)


def decode(probabilities: Tensor, puzzles: Tensor) -> Tensor:
    """Fill in each blank cell with its most probable digit.

    Args:
        probabilities: Of shape (B, N ** 3).
        puzzles: Integers of shape (B, N ** 2). Their given cells are kept.

    Returns:
        Boards of the shape and dtype of ``puzzles``.
    """
    digits = domains_of(box_of(puzzles.shape[-1])).decode(probabilities) + 1
    return torch.where(puzzles == 0, digits.to(puzzles.dtype), puzzles)


# --- files --------------------------------------------------------------------------------------------------


def _find_columns(path: Path, first_row: list[str], wanted: tuple[str, ...]) -> tuple[list[int], bool]:
    """Return the positions of the wanted columns, and whether the first row is a header."""
    names = [cell.strip().lower() for cell in first_row]
    positions = [next((i for i, n in enumerate(names) if n in _COLUMN_NAMES[column]), -1) for column in wanted]
    if -1 not in positions:
        return positions, True
    # A board: there is no header. That of a 16x16 board has letters, too.
    if set(names[0]) <= set("0123456789._-*?") or len(names[0]) == 256:
        return list(range(len(wanted))), False
    raise ValueError(f"{path}, line 1: got the header {','.join(first_row)!r}, wanted a column {' and '.join(wanted)}")


def _read_columns(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, list[Int8Array]]]:
    """Yield for each row its line number and the boards in the wanted columns, all of one size."""
    columns: list[int] | None = None
    cells: int | None = None
    for line, row in csv_rows(path):
        if not "".join(row).strip():
            continue
        if columns is None:
            columns, is_header = _find_columns(path, row, wanted)
            if is_header:
                continue
        place = f"{path}, line {line}"
        if len(row) <= max(columns):
            raise ValueError(f"{place}: got {len(row)} column(s), wanted {' and '.join(wanted)}")
        boards = []
        for name, column in zip(wanted, columns, strict=True):
            try:
                board = parse_board(row[column])
            except ValueError as error:
                raise ValueError(f"{place}, {name}: {error}") from None
            cells = cells or len(board)
            if len(board) != cells:
                raise ValueError(f"{place}, {name}: got {len(board)} cells, wanted {cells} as in the rows before")
            boards.append(board)
        yield line, boards


def read_csv(path: str | Path, box: int | None = None) -> Boards:
    """Read boards from a CSV file, plain or gzipped.

    Its columns ``puzzle`` and ``solution`` hold boards row by row, 0 or one of ``._-*?`` for a blank cell. They are separated
    by commas, semicolons or tabs. Other columns are ignored. Without a header these are the first two columns. Raises
    ``ValueError``, naming the line, where a solution breaks the rules of Sudoku or contradicts its puzzle.
    """
    path = Path(path)
    rows = list(_read_columns(path, ("puzzle", "solution")))
    if not rows:
        raise ValueError(f"{path}: got no boards, wanted a row puzzle,solution for each")
    lines = [line for line, _ in rows]
    boards = Boards(np.stack([row[0] for _, row in rows]), np.stack([row[1] for _, row in rows]))
    if box is not None and boards.box != box:
        raise ValueError(f"{path}: got {boards.box**2}x{boards.box**2} boards, wanted {box**2}x{box**2} as box = {box}")
    for wrong, problem in (
        (~obeys_rules(boards.solutions), "solution: it breaks the rules of Sudoku"),
        (
            ((boards.puzzles != 0) & (boards.puzzles != boards.solutions)).any(1),
            "solution: it contradicts its puzzle",
        ),
    ):
        if wrong.any():
            raise ValueError(f"{path}, line {lines[int(wrong.argmax())]}, {problem}")
    return boards


def read_puzzles(path: str | Path) -> Int8Array:
    """Read puzzles of shape (count, N ** 2) from a file, plain or gzipped.

    It holds one puzzle a line, or is a CSV with a column ``puzzle``.
    """
    path = Path(path)
    puzzles = []
    for line, (puzzle,) in _read_columns(path, ("puzzle",)):
        if conflicts(puzzle):
            raise ValueError(f"{path}, line {line}, puzzle: it gives a digit twice in a row, column or box")
        puzzles.append(puzzle)
    if not puzzles:
        raise ValueError(f"{path}: got no puzzles, wanted one a line")
    return np.stack(puzzles)


def write_csv(boards: Boards, path: str | Path) -> None:
    """Write a puzzle,solution CSV; gzipped if the name ends in ``.gz``."""
    lines = ["puzzle,solution"]
    lines += [f"{format_line(p)},{format_line(s)}" for p, s in zip(boards.puzzles, boards.solutions, strict=True)]
    raw = ("\n".join(lines) + "\n").encode()
    # mtime=0: the same boards make the same file.
    write_atomically(Path(path), gzip.compress(raw, mtime=0) if str(path).endswith(".gz") else raw)


# --- training and test boards -------------------------------------------------------------------------------


def load_split(config: TrainConfig, *, progress: bool = False) -> tuple[Boards, Boards]:
    """Return training and test boards: the first and the last of the run's file, or generated ones."""
    if config.data is None:
        return generate_split(config.box, config.givens, config.train, config.test, config.seed, progress=progress)
    boards = read_csv(config.data, config.box)
    if config.train + config.test > len(boards):
        raise ValueError(
            f"train, test: got {config.train} + {config.test} boards, wanted no more than "
            f"the {len(boards)} in {config.data}"
        )
    return boards[: config.train], boards[len(boards) - config.test :]


def seen_solutions(train: Boards, test: Boards) -> int:
    """Count the test boards whose solution is that of a training board."""
    if train.solutions.shape[1] != test.solutions.shape[1]:
        return 0
    seen = {solution.tobytes() for solution in train.solutions}
    return sum(solution.tobytes() in seen for solution in test.solutions)


def fingerprint(*parts: Boards) -> str:
    """Hash boards, so that a resumed run can tell whether it has the same ones."""
    digest = hashlib.sha256()
    for boards in parts:
        digest.update(np.ascontiguousarray(boards.puzzles).tobytes())
        digest.update(np.ascontiguousarray(boards.solutions).tobytes())
    return digest.hexdigest()
