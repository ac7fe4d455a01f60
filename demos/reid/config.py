"""The options of ``python -m demos.reid``, which decide all results; free of torch, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import OmitArgPrefixes, arg

from demos.command import check_counts
from demos.options import Device

Experiment = Literal["labels", "outcomes", "counts"]
Name = Literal[
    "pairs",
    "structured",
    "structured-entropic",
    "hinge",
    "hard",
    "rows",
    "sinkhorn",
    "dmm",
    "quadratic-0.05",
    "quadratic-1",
    "entropic",
    "blackbox",
    "straight-through",
]
METHODS: tuple[Name, ...] = get_args(Name)

FIRST_TUNING_SEED = 10_000
"""Seeds from here on are of worlds that serve to tune only."""


@dataclass(frozen=True)
class Sizes:
    """How large a problem is."""

    templates: int = 8
    proposals: int = 12
    """As many as templates, or more."""
    cluster: int = 3
    """Objects that look alike; the last cluster may be smaller."""
    outcomes: int = 3
    """How many things may become of an object, 2 or more."""
    group: int = 4
    """Templates whose outcomes are counted together; the last group may be smaller."""

    def __post_init__(self) -> None:
        check_counts(self, "templates", "cluster", "group")
        check_counts(self, "outcomes", least=2)
        if self.proposals < self.templates:
            raise ValueError(
                f"--proposals: got {self.proposals}, wanted at least as many as templates, {self.templates}: "
                "every template is seen again"
            )


@dataclass(frozen=True)
class Config:
    """Everything that decides the results."""

    experiments: Annotated[tuple[Experiment, ...], arg(help_behavior_hint="(default: all that the methods fit)")] = ()
    methods: Annotated[tuple[Name, ...], arg(help_behavior_hint="(default: all)")] = METHODS
    train: tuple[int, ...] = (256,)
    """Numbers of problems to train on: one training for each."""
    steps: int = 150
    """Steps of Adam in a training."""
    batch_size: int = 16
    """Problems a step."""
    seeds: int = 2
    """So many seeds, from 0 on, a world each."""
    tuning_worlds: int = 1
    """Worlds to tune in."""
    test: int = 300
    """Problems of a world to test on, and to tune on."""
    sizes: OmitArgPrefixes[Sizes] = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        check_counts(self, "steps", "batch_size", "seeds", "tuning_worlds", "test", "train")
        if self.seeds > FIRST_TUNING_SEED:
            raise ValueError(f"--seeds: got {self.seeds}, wanted at most {FIRST_TUNING_SEED}")
        if not self.train or len(set(self.train)) < len(self.train):
            raise ValueError(f"--train: got {list(self.train)}, wanted different numbers")


@dataclass(frozen=True)
class Options:
    """The study."""

    full: bool = False
    """The sizes of the results in the documentation, instead of those that take a minute; --full --help shows them."""
    output: Path = Path("runs/reid")
    """Folder for runs.csv, summary.csv and accuracy.png."""
    overwrite: bool = False
    """Replace earlier results there."""
    picture: bool = True
    """Draw no picture, which needs matplotlib."""
    device: Device = "cpu"
    config: OmitArgPrefixes[Config] = field(default_factory=Config)


FULL = Options(full=True, config=Config(train=(64, 256, 1024), steps=400, seeds=5, test=500))
"""What --full starts from."""
