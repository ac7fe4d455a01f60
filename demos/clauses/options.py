"""The options of ``python -m demos.clauses``: a dataclass for each command, a field for each option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from demos.command import check_counts, check_seeds
from demos.options import Device, File

PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Queens:
    """Place queens on a board such that none attacks another, by clauses alone, with a picture."""

    n: int = 8
    """Queens, and rows of the board: 4 to 40."""
    output: Path = Path("queens.png")
    """The picture."""
    overwrite: bool = False
    """Replace that file if it is there."""
    seed: int = 0
    """Of random starts."""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_seeds(self)
        if not 4 <= self.n <= 40:
            limit = "4 or more: below there is no solution" if self.n < 4 else "at most 40: the layer's matrix is dense"
            raise ValueError(f"--n: got {self.n}, wanted {limit}")
        if self.output.suffix.lower() not in PICTURES:
            raise ValueError(f"--output: got {self.output}, wanted a name that ends in one of {', '.join(PICTURES)}")


@dataclass(frozen=True)
class Sudoku:
    """Solve Sudoku by its clauses alone, beside RC2."""

    givens: tuple[int, ...] = (36, 28)
    """Of generated boards: one kind of boards for each number."""
    data: Annotated[tuple[Path, ...], arg(metavar="FILE ...", help_behavior_hint="")] = ()
    """CSV files of boards, plain or gzipped."""
    count: int = 100
    """Boards of each kind."""
    box: Literal[2, 3] = 3
    """2 for 4x4 boards, 3 for 9x9."""
    max_iter: int = 200
    """Sweeps of a pass, at most."""
    eps: float = 1e-5
    """A pass ends when a sweep gains less than this share of what the first one did."""
    share: float = 0.1
    """Of the cells that are still open, decided in each round of decimation."""
    output: File = None
    """Write the table to this file, as CSV."""
    overwrite: bool = False
    """Replace that file if it is there."""
    seed: int = 0
    """Of boards and random starts."""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "count", "max_iter")
        check_seeds(self)
        if not 0 <= self.share <= 1:
            raise ValueError(f"--share: got {self.share}, wanted 0 to 1")
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"--eps: got {self.eps}, wanted 0 or more")
        if not (self.givens or self.data):
            raise ValueError("--givens, --data: got neither, wanted boards")


@dataclass(frozen=True)
class Read:
    """Print the strongest rules of a trained Sudoku layer, in words."""

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint of demos.sudoku, or the folder of a run."""
    top: int = 20
    """How many."""

    def __post_init__(self) -> None:
        check_counts(self, "top")
