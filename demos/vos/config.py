"""What decides a training's result, in plain dataclasses: the checkpoint keeps them, the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from demos.command import check_counts, check_rate, check_seeds

Loss = Literal["pairs", "layer"]
Kind = Literal["greedy", "hungarian", "dmm", "quadratic"]
Layer = Literal["dmm", "quadratic"]
Backbone = Literal["small", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Detector = Literal["resnet50", "resnet101", "resnet152", "resnet34", "resnet18"]
LOSSES, KINDS, DETECTORS = get_args(Loss), get_args(Kind), get_args(Detector)

SHIPPED = Path(__file__).parent / "features.safetensors"
"""Features that come with the demo, see docs/vos.md."""


def check_choice(option: str, value: Any, choices: Any) -> None:
    """Raise ``ValueError``, naming the option, unless the value is one of a ``Literal``'s."""
    if value not in get_args(choices):
        raise ValueError(f"--{option}: got {value}, wanted one of {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast."""

    epochs: int = 4
    """A checkpoint is written after each."""
    steps: int = 40
    """Of an epoch."""
    batch_size: int = 8
    """Samples a step."""
    lr: float = 3e-3
    """The highest learning rate. It falls to 0 along half a cosine."""
    seed: int = 0
    """Of all that is random."""

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "steps", "batch_size")
        check_rate("--lr", self.lr)
        check_seeds(self)


@dataclass(frozen=True)
class TrainConfig(Schedule):
    """Everything that decides the result of a training run, its clips and proposals aside."""

    loss: Loss = "layer"
    """pairs: of each pair of an object and a proposal by itself; layer: through the matching (demos.vos.losses)."""
    matching: Layer = "dmm"
    """The layer that is trained through."""
    longest: int = 16
    """The most frames between the frame an object is given in and the one it is matched in."""
    gap: int = 3
    """The most frames between the latest look and the one it is matched in."""
    amp: bool = False
    """Compute the backbone and the refinement in bfloat16, by autocast; matching and losses stay in float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, Loss)
        check_choice("matching", self.matching, Layer)
        check_counts(self, "longest", "gap")


@dataclass(frozen=True)
class MaskTraining(Schedule):
    """Everything that decides the result of a training of masks, its clips aside."""

    epochs: int = 10
    """A checkpoint is written after each."""
    steps: int = 400
    """Of an epoch."""
    batch_size: int = 16
    """Samples a step."""
    lr: float = 2e-3
    """The highest learning rate. It falls to 0 along half a cosine."""
    examples: int = 70
    """Of each clip; each is drawn once, and shown in ever new windows and colours."""
    amp: bool = False
    """Compute the network in bfloat16, by autocast: half the time where the processor has instructions for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "examples")


@dataclass(frozen=True)
class ModelConfig:
    """What the features and their matching are made of."""

    backbone: Backbone = "small"
    """A pyramid of the demo's own, or one of torchvision's, with random weights."""
    shorter: int = 240
    """Frames with a longer shorter side are shrunk to this many pixels there before all else."""
    dimension: int = 64
    """Of a feature vector."""
    lam: float = 0.3
    """The weight of the masks' overlap in the cost, 0 to 1: see difflayers.MaskMatchingCost."""
    unmatched_cost: float = -0.4
    """The cost at which an object stays unmatched, hidden; -1 to 1."""
    confident_cost: float = -0.5
    """A match that costs at most this much becomes the object's latest template; -1 to 1."""
    refine: bool = False
    """Also train a refinement of the masks after the matching, end to end; with --loss layer."""
    refine_width: int = 16
    """Channels of the refinement's stages."""

    def __post_init__(self) -> None:
        check_choice("backbone", self.backbone, Backbone)
        check_counts(self, "shorter", least=32)
        check_counts(self, "dimension", "refine_width")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"--lam: got {self.lam}, wanted 0 to 1")
        for name in ("unmatched_cost", "confident_cost"):
            check_cost(f"--{name.replace('_', '-')}", getattr(self, name))

    def with_unmatched_cost(self, cost: float) -> ModelConfig:
        """The same with another unmatched cost; the confident cost goes along, 0.1 below."""
        return replace(self, unmatched_cost=cost, confident_cost=max(-1.0, cost - 0.1))


def check_cost(option: str, cost: float | None) -> None:
    """Raise ``ValueError``, naming the option, unless it is a cost or not set."""
    if cost is not None and not -1 <= cost <= 1:
        raise ValueError(f"{option}: got {cost}, wanted -1 to 1, as costs are")
