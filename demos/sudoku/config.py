"""What a training run is made of; :class:`TrainConfig` travels inside its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from demos.sudoku.boards import check_box


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a training run."""

    box: int
    """Box size: 2 for 4x4 boards, 3 for 9x9 boards."""
    data: str | None
    """A puzzle,solution CSV; ``None`` for generated boards."""
    givens: tuple[int, int]
    """Of generated boards: the lowest and highest number of given cells."""
    train: int
    """How many boards to train on: the first of the data."""
    test: int
    """How many boards to test on, unseen in training: the last of the data."""
    aux: int
    m: int
    k: int | None
    max_iter: int
    eps: float
    """``aux``, ``m``, ``k``, ``max_iter`` and ``eps`` are those of :class:`difflayers.SATNet`."""
    lr: float
    """The highest learning rate. It falls to zero along half a cosine."""
    batch_size: int
    epochs: int
    seed: int
    """For the generated boards, the initial weights, the order of the boards, the layer's random starts."""

    def __post_init__(self) -> None:
        check_box(self.box)
        for name, lowest in (("train", 1), ("test", 1), ("aux", 0), ("m", 1), ("k", 1), ("max_iter", 1)):
            _check_at_least(name, getattr(self, name), lowest)
        for name, lowest in (("batch_size", 1), ("epochs", 1), ("seed", 0)):
            _check_at_least(name, getattr(self, name), lowest)
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr: got {self.lr}, wanted a positive number")
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps: got {self.eps}, wanted 0 or more and less than 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Build it from what ``dataclasses.asdict`` and JSON have made of it."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"config: got the entries {sorted(values)}, wanted {sorted(names)}")
        return cls(**{**values, "givens": tuple(values["givens"])})


def parse_givens(text: str) -> tuple[int, int]:
    """Read a number of givens, ``34``, or a range of them, ``28-36``."""
    low, dash, high = text.partition("-")
    try:
        lowest = int(low)
        highest = int(high) if dash else lowest
    except ValueError:
        raise ValueError(f"givens: got {text!r}, wanted a number such as 34 or a range such as 28-36") from None
    return lowest, highest


def _check_at_least(name: str, value: int | None, lowest: int) -> None:
    if value is not None and value < lowest:
        raise ValueError(f"{name}: got {value}, wanted {lowest} or more")


PRESETS: dict[int, TrainConfig] = {
    2: TrainConfig(
        box=2,
        data=None,
        givens=(4, 8),
        train=800,
        test=1000,
        aux=32,
        m=80,
        k=16,
        max_iter=40,
        eps=1e-4,
        lr=5e-3,
        batch_size=40,
        epochs=15,
        seed=0,
    ),
    3: TrainConfig(
        box=3,
        data=None,
        givens=(31, 36),
        train=9000,
        test=1000,
        aux=300,
        m=600,
        k=32,
        max_iter=40,
        eps=1e-4,
        lr=2e-3,
        batch_size=40,
        epochs=14,
        seed=0,
    ),
}
"""The defaults for 4x4 boards, which are also those of the quick demo, and for 9x9 boards.

With those for 4x4, every seed from 0 to 9 ends at 1,000 of 1,000 unseen boards: ``python -m demos.sudoku --seed S``.
"""
