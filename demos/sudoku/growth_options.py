"""The options of ``python -m demos.sudoku growth``."""

from __future__ import annotations

from dataclasses import dataclass

from demos.command import check_counts
from demos.options import File, Whole
from demos.sudoku.options import Command, Size


@dataclass(frozen=True)
class Growth(Command):
    """What a training step costs as boards grow: seconds and memory, with the default sizes of the layer."""

    boxes: tuple[Size, ...] = (2, 3, 4)
    """Box sizes."""
    batch_size: int = 10
    """Boards a step."""
    steps: int = 3
    """Of so many steps the median, after one that is not counted."""
    threads: Whole = None
    """CPU threads (default: as in training)."""
    append: File = None
    """Append the results to this CSV, a row for each size."""

    def check(self) -> None:
        if not self.boxes:
            raise ValueError("--boxes: got none, wanted one or more")
        check_counts(self, "batch_size", "steps", "threads")

    def act(self) -> int:
        from demos.sudoku.commands.growth import growth

        return growth(self)
