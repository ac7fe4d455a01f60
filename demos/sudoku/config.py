"""What a training run is made of; `TrainConfig` travels inside its checkpoints."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from demos.command import check_counts, check_rate, check_seeds
from demos.options import Whole, optional
from demos.sudoku.boards import check_box

IMAGE_NAMES = {"mnist": "MNIST", "digits": "scikit-learn's digits"}
NETWORKS = ("satnet", "convnet", "convnet-mask")

_GIVENS = PrimitiveConstructorSpec(
    nargs=1,
    metavar="N|LO-HI",
    instance_from_str=lambda texts: parse_givens(texts[0]),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: [shown(value)],
)
Givens = Annotated[tuple[int, int], _GIVENS]
"""The lowest and the highest number of given cells: on the command line ``34`` or ``28-36``."""
GivensIfAny = Annotated[tuple[int, int] | None, _GIVENS, optional("N|LO-HI")]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training, apart from its boards' size and file."""

    givens: Givens
    """Given cells of a generated board: a number, or a range that each board draws its own from."""
    train: int
    """Boards to train on: the first ones of a file."""
    test: int
    """Boards to test on, unseen in training: the last ones of a file."""
    masks: GivensIfAny = None
    """Train on the solutions with so many random cells given, others each time (default: on the puzzles as they are)."""
    decimation: int = 0
    """With --masks: show a board after so many rounds in which the network's surest cells are given, where right."""
    permuted: bool = False
    """Show the network the bits of all boards in one random order, drawn from the seed."""
    images: Annotated[Literal["mnist", "digits"] | None, optional("{mnist,digits}")] = None
    """Given cells are images of handwritten digits: MNIST's, or scikit-learn's (default: bits)."""
    mnist_root: Annotated[str | None, optional("DIR")] = "data/mnist"
    """Where MNIST is, or is downloaded to."""
    given_labels: bool = True
    """Whether the loss covers the given cells too, as in the SATNet paper; with images it can leave them out."""
    network: Literal["satnet", "convnet", "convnet-mask"] = "satnet"
    """What completes the bits: a SATNet layer, or one of the convolutional networks of the SATNet paper."""
    layers: int = 10
    """Of a convolutional network: its 3x3 convolutions."""
    filters: int = 512
    """Of a convolutional network: filters of each convolution."""
    start: Annotated[str | None, optional("CHECKPOINT")] = None
    """Begin with the layer's weights in this checkpoint, of the same sizes (default: random weights)."""
    aux: int
    """Auxiliary variables of the SATNet layer."""
    m: int
    """Its number of clauses: the rank of its weights."""
    k: Whole
    """The dimension of its vectors."""
    max_iter: int
    """At most so many sweeps to a solution."""
    eps: float
    """The sweeps stop at this relative decrease."""
    lr: float
    """The highest learning rate. It falls to zero along half a cosine."""
    weight_decay: float = 0.0
    """Each step takes off this share of the weights, times the learning rate (AdamW)."""
    batch_size: int
    """Boards a step."""
    epochs: int
    """Times through the training boards."""
    seed: int
    """Seeds the generated boards, the first weights, the order of the boards, and the layer's random starts."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainOptions):
    """Everything that decides the result of a training run."""

    box: int
    """Box size: 2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards."""
    data: str | None
    """A puzzle,solution CSV; ``None`` for generated boards."""

    def __post_init__(self) -> None:
        check_box(self.box)
        check_counts(self, "train", "test", "layers", "filters", "m", "k", "max_iter", "batch_size")
        check_counts(self, "decimation", "aux", "epochs", least=0)
        check_seeds(self)
        if self.network not in NETWORKS:
            raise ValueError(f"--network: got {self.network!r}, wanted one of {', '.join(NETWORKS)}")
        if self.images is not None and self.images not in IMAGE_NAMES:
            raise ValueError(f"--images: got {self.images!r}, wanted mnist or digits")
        if self.images is not None and self.box > 3:
            raise ValueError(
                "--images: got it for 16x16 boards, but no image shows a digit above 9; wanted --box 2 or 3"
            )
        if not self.given_labels and self.images is None:
            raise ValueError("--no-given-labels: without images the given bits pass through; wanted --images too")
        if self.masks is not None:
            low, high = self.masks
            if not 0 <= low <= high < self.box**4:
                raise ValueError(
                    f"--masks: got {low}-{high}, wanted numbers of given cells between 0 and {self.box**4 - 1}"
                )
            if self.images is not None:
                raise ValueError(
                    "--masks, --images: got both, but images are drawn for the puzzles' given cells; wanted one"
                )
        if self.decimation and self.masks is None:
            raise ValueError(f"--decimation: got {self.decimation} without --masks, wanted both")
        if self.start is not None and self.network != "satnet":
            raise ValueError(
                f"--start: got it with --network {self.network}, wanted satnet, whose layer alone can be taken over"
            )
        check_rate("--lr", self.lr)
        if not 0 <= self.weight_decay * self.lr < 1:
            raise ValueError(f"--weight-decay: got {self.weight_decay}, wanted 0 or more and less than 1 / lr")
        if not 0 <= self.eps < 1:
            raise ValueError(f"--eps: got {self.eps}, wanted 0 or more and less than 1")

    @property
    def variant(self) -> str:
        """What is unlike plain Sudoku, to follow that word."""
        parts = [", permuted"] if self.permuted else []
        parts += [f", images of {IMAGE_NAMES[self.images]}"] if self.images else []
        parts += [f", {self.masks[0]}-{self.masks[1]} random cells given"] if self.masks else []
        parts += [f", after {self.decimation} rounds of decimation"] if self.decimation else []
        parts += [] if self.given_labels else [", no labels of given cells"]
        parts += [", from learnt weights of the layer"] if self.start else []
        return "".join(parts)

    @property
    def network_description(self) -> str:
        """The network and its sizes."""
        if self.network == "satnet":
            return f"SATNet(n={self.box**6}, m={self.m}, aux={self.aux}, k={self.k})"
        name = "ConvNet" if self.network == "convnet" else "ConvNetMask"
        return f"{name} ({self.layers} layers of {self.filters} filters)"

    @classmethod
    def of(cls, options: TrainOptions, box: int, data: str | None = None) -> TrainConfig:
        """Build it from the options of a command line."""
        return cls(box=box, data=data, **vars(options))

    @property
    def options(self) -> TrainOptions:
        """The options of a command line that make it, with `box` and `data`."""
        return TrainOptions(**{field.name: getattr(self, field.name) for field in fields(TrainOptions)})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Build it from what ``dataclasses.asdict`` and JSON have made of it; options that have a default may be missing."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(values) <= names:
            raise ValueError(f"config: got the entries {sorted(values)}, wanted {sorted(names)}")
        masks = values.get("masks")
        return cls(**{**values, "givens": tuple(values["givens"]), "masks": masks and tuple(masks)})


def parse_givens(text: str) -> tuple[int, int]:
    """Read a number of givens, ``34``, or a range of them, ``28-36``."""
    low, dash, high = text.partition("-")
    try:
        lowest = int(low)
        highest = int(high) if dash else lowest
    except ValueError:
        raise ValueError(f"got {text!r}, wanted a number such as 34 or a range such as 28-36") from None
    return lowest, highest


def shown(value: object) -> str:
    """Write the value of an option as on the command line."""
    if isinstance(value, tuple):
        return "-".join(map(str, dict.fromkeys(value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


DEFAULTS = {
    2: TrainOptions(
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
    3: TrainOptions(
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
    4: TrainOptions(
        givens=(150, 170),
        train=100,
        test=10,
        aux=300,
        m=1000,
        k=32,
        max_iter=40,
        eps=1e-4,
        lr=2e-3,
        batch_size=10,
        epochs=10,
        seed=0,
    ),
}
"""Of the options, by box size: for 4x4 boards, which are also those of the quick demo, for 9x9 boards, and for 16x16 boards, of
which few are trained on: a step takes seconds.

With those for 4x4, every seed from 0 to 9 ends at 1,000 of 1,000 unseen boards: ``python -m demos.sudoku --seed S``.
"""

PRESETS = {box: TrainConfig.of(options, box) for box, options in DEFAULTS.items()}
"""The configurations that they make."""
