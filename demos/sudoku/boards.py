"""What a Sudoku board is: sizes, rules, and boards as text.

A board of box size ``box`` has ``N = box ** 2`` rows, columns, boxes and digits, hence ``N ** 2`` cells.
Boards are ``int8`` arrays of shape ``(..., N ** 2)``, row by row; 0 is a blank cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8Array = NDArray[np.int8]

BOXES = (2, 3, 4)
"""The supported box sizes: 4x4, 9x9 and 16x16 boards."""

DIGITS = "123456789ABCDEFG"
"""How digits are written; A to G, or a to g, are 10 to 16."""

_BLANKS = "._-*?"
_BOLD, _RESET = "\x1b[1;32m", "\x1b[0m"


def check_box(box: int) -> int:
    """Return ``box`` if it is a supported box size, else raise ``ValueError``."""
    if box not in BOXES:
        raise ValueError(f"box: got {box!r}, wanted 2 (4x4 boards), 3 (9x9 boards) or 4 (16x16 boards)")
    return box


def box_of(cells: int) -> int:
    """Return the box size of a board with this many cells."""
    for box in BOXES:
        if cells == box**4:
            return box
    raise ValueError(f"a board of {cells} cells: wanted 16 (4x4), 81 (9x9) or 256 (16x16)")


@dataclass(frozen=True)
class Boards:
    """Puzzles and their solutions, both of shape (count, N ** 2)."""

    puzzles: Int8Array
    solutions: Int8Array

    def __post_init__(self) -> None:
        if self.puzzles.ndim != 2 or self.puzzles.shape != self.solutions.shape:
            raise ValueError(
                f"puzzles of shape {self.puzzles.shape} and solutions of shape {self.solutions.shape}: "
                "wanted the same (count, cells) for both"
            )

    def __len__(self) -> int:
        return len(self.puzzles)

    def __getitem__(self, index: slice | NDArray[np.integer]) -> Boards:
        return Boards(self.puzzles[index], self.solutions[index])

    @property
    def box(self) -> int:
        return box_of(self.puzzles.shape[1])

    @property
    def givens(self) -> NDArray[np.int64]:
        """How many cells each puzzle gives: shape (count,)."""
        return np.asarray((self.puzzles != 0).sum(axis=1, dtype=np.int64))


def unit_indices(box: int) -> NDArray[np.int64]:
    """Return the cells of each row, then each column, then each box: shape (3 N, N)."""
    size = box * box
    grid = np.arange(size * size, dtype=np.int64).reshape(size, size)
    boxes = grid.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(size, size)
    return np.concatenate([grid, grid.T, boxes])


def obeys_rules(boards: Int8Array) -> NDArray[np.bool_]:
    """Tell which boards of shape (..., N ** 2) hold each digit once in every row, column and box."""
    box = box_of(boards.shape[-1])
    size = box * box
    return np.asarray((np.sort(boards[..., unit_indices(box)], axis=-1) == np.arange(1, size + 1)).all((-2, -1)))


def conflicts(boards: Int8Array) -> NDArray[np.bool_]:
    """Tell which boards of shape (..., N ** 2) hold a digit twice in some row, column or box."""
    units = np.sort(boards[..., unit_indices(box_of(boards.shape[-1]))], axis=-1)
    return np.asarray(((units[..., 1:] == units[..., :-1]) & (units[..., 1:] != 0)).any((-2, -1)))


def parse_board(text: str) -> Int8Array:
    """Read one board from ``N ** 2`` characters: digits, with ``0`` or one of ``._-*?`` for a blank cell.

    Raises ``ValueError`` saying what came and what is wanted.
    """
    text = text.strip()
    if len(text) not in [box**4 for box in BOXES]:
        raise ValueError(f"{len(text)} characters in {_shorten(text)!r}: wanted 16 (4x4), 81 (9x9) or 256 (16x16)")
    size = box_of(len(text)) ** 2
    values = dict.fromkeys("0" + _BLANKS, 0)
    values |= {c: digit for digit in range(1, size + 1) for c in (DIGITS[digit - 1], DIGITS[digit - 1].lower())}
    for place, character in enumerate(text, 1):
        if character not in values:
            raise ValueError(
                f"character {character!r} at position {place} of {_shorten(text)!r}: "
                f"wanted 1 to {DIGITS[size - 1]}, or 0 or one of {_BLANKS} for a blank"
            )
    return np.array([values[character] for character in text], np.int8)


def format_line(board: Int8Array) -> str:
    """Write one board as ``N ** 2`` digits in a line, 0 for a blank."""
    return "".join(("0" + DIGITS)[digit] for digit in board.tolist())


def format_board(board: Int8Array, puzzle: Int8Array | None = None, *, color: bool = False) -> str:
    """Draw one board of shape (N ** 2,) over several lines, ``.`` for a blank.

    With ``puzzle``, the cells that were blank there stand out: in bold green with ``color``, otherwise each
    is preceded by a ``'``.
    """
    box = box_of(len(board))
    size = box * box
    lines = []
    for row in range(size):
        if row and row % box == 0:
            lines.append("+".join(["-" * (2 * box + 1)] * box))
        groups = []
        for start in range(0, size, box):
            cells = []
            for column in range(start, start + box):
                cell = row * size + column
                digit = ("." + DIGITS)[board[cell]]
                filled = puzzle is not None and not puzzle[cell]
                if filled and color:
                    cells.append(f" {_BOLD}{digit}{_RESET}")
                else:
                    cells.append(("'" if filled else " ") + digit)
            groups.append("".join(cells) + " ")
        lines.append("|".join(groups).rstrip())
    return "\n".join(lines)


def side_by_side(left: str, right: str, titles: tuple[str, str]) -> str:
    """Set two drawn boards next to each other under their titles; ``left`` must hold no color codes."""
    lines = left.splitlines()
    width = max(map(len, [*lines, titles[0]])) + 4
    rows = [f"{titles[0]:<{width}}{titles[1]}"]
    rows += [f"{a:<{width}}{b}" for a, b in zip(lines, right.splitlines(), strict=True)]
    return "\n".join(rows)


def _shorten(text: str) -> str:
    return text if len(text) <= 90 else text[:87] + "..."
