"""What decides the results; :class:`Config` travels inside the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

GRADIENTS, LOSSES = ("sign", "raw"), ("absolute", "bce")


@dataclass(frozen=True)
class Config:
    """The options, with the defaults of the results in the documentation."""

    lengths: tuple[int, ...] = (20, 40)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seeds the sequences, the first weights, the order of the sequences and the layer's random starts of one run."""
    train: int = 9000
    test: int = 1000
    m: int = 4
    aux: int = 4
    max_iter: int = 40
    eps: float = 1e-3
    """``m``, ``aux``, ``max_iter`` and ``eps`` are those of :class:`difflayers.SATNet`."""
    gradient: str = "sign"
    growth: float = 1.1
    """``gradient`` and ``growth`` are those of :class:`demos.parity.model.ParityChain`."""
    loss: str = "absolute"
    """Of the last output z and the label y: ``absolute``, mean |z - y|; ``bce``, binary cross-entropy."""
    draws: int = 100
    """A start takes the best of so many random weights; 1 takes them as they come."""
    lr: float = 0.02
    """The highest learning rate. It falls to zero along half a cosine."""
    batch_size: int = 200
    epochs: int = 3
    """Of the start that learns."""
    give_up: float = 0.45
    """A start whose training loss in the second half of an epoch is above this is given up; 0.5 is chance (bce: 0.69)."""
    starts: int = 20
    """At most so many; the last one is not given up."""

    def __post_init__(self) -> None:
        lowest = {"train": 1, "test": 1, "m": 1, "aux": 0, "max_iter": 1, "draws": 1}
        lowest |= {"batch_size": 1, "epochs": 1, "starts": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, wanted {low} or more")
        for name, low in (("lengths", 2), ("seeds", 0)):
            values = getattr(self, name)
            if not values or min(values) < low or len(set(values)) < len(values):
                raise ValueError(f"{name}: got {list(values)}, wanted different numbers of {low} or more")
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps: got {self.eps}, wanted 0 or more and less than 1")
        for name in ("lr", "give_up", "growth"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, wanted a positive number")
        for name, choices in (("gradient", GRADIENTS), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted one of {', '.join(choices)}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Build it from what ``dataclasses.asdict`` and JSON have made of it."""
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"config: got the entries {sorted(values)}, wanted {sorted(names)}")
        return cls(**values | {name: tuple(values[name]) for name in ("lengths", "seeds")})
