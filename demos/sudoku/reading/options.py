"""The command ``reader`` and its options; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes

from demos.command import check_counts, check_rate, check_seeds
from demos.files import check_folder
from demos.options import File, optional
from demos.sudoku.config import DEFAULTS, TrainConfig
from demos.sudoku.options import Command, Machine

READER_FILE = "reader.safetensors"
METRICS_FILE = "metrics.csv"
BOARDS_FILE = "boards.csv.gz"


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How a reader is taught."""

    train: int = DEFAULTS[3].train
    """Boards to learn from: the first ones of a file."""
    test: int = DEFAULTS[3].test
    """Boards whose images are kept for the test: the last ones of a file."""
    images: Literal["mnist", "digits"] = "mnist"
    """MNIST's digits, or scikit-learn's."""
    mnist_root: Annotated[str | None, optional("DIR")] = "data/mnist"
    """Where MNIST is, or is downloaded to."""
    labels: Literal["given", "none"] = "given"
    """What says which digits the images show: the labels of the given cells, or only those of the blank cells around."""
    groups: int = 300
    """Without labels: the images are put into so many groups, each of which is named as a whole."""
    rounds: int = 2
    """Without labels: so many times a reader learns the names of the groups, and its features make new groups."""
    naming_epochs: int = 3
    """Without labels: times through the images in each round."""
    epochs: int = 8
    """Times through the images in the end."""
    lr: float = 2e-3
    """The highest learning rate. It falls to zero along half a cosine."""
    batch_size: int = 128
    """Images a step."""
    seed: int = 0
    """Seeds which image is drawn for which cell, generated boards, the first weights and all else that is random."""

    def __post_init__(self) -> None:
        check_counts(self, "train", "test", "rounds", "naming_epochs", "epochs", "batch_size")
        check_counts(self, "groups", least=2)
        check_rate("--lr", self.lr)
        check_seeds(self)

    def boards(self, box: Literal[2, 3], data: Path | None) -> TrainConfig:
        """Return the configuration of a training run on the same boards and images."""
        options = vars(DEFAULTS[box]) | {
            name: getattr(self, name) for name in ("train", "test", "images", "mnist_root", "seed")
        }
        return TrainConfig(box=box, data=None if data is None else str(data), **options)


@dataclass(frozen=True)
class Reader(Command):
    """Teach a reader of the digits on boards of images, with labels of the given cells or without.

    Without (--labels none), images that look alike are grouped; each group is named by the digit that the blank cells of its
    boards hold more rarely than those of others; a reader learns the names; rules are counted in the boards as it reads them,
    and correct the names. The directory gets reader.safetensors, metrics.csv and, without labels, boards.csv.gz: the training
    boards as read, for `train --data` and `eval --solutions`. `eval CHECKPOINT --reader` puts the reader before a layer.
    """

    box: Literal[2, 3] = 3
    """2 for 4x4 boards, 3 for 9x9 boards."""
    data: File = None
    """CSV, plain or gzipped, with the columns puzzle and solution (default: generated boards)."""
    output: Path = Path("runs/reader")
    """Directory for the files."""
    overwrite: bool = False
    """Replace earlier files there."""
    reading: OmitArgPrefixes[ReadingConfig] = field(default_factory=ReadingConfig)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        check_folder(self.output, "--output")
        for name in (READER_FILE, METRICS_FILE, BOARDS_FILE):
            if (self.output / name).exists() and not self.overwrite:
                raise ValueError(f"--output: {self.output} already holds {name}; pass --overwrite to replace it")

    def act(self) -> int:
        from demos.sudoku.reading.command import teach

        return teach(self)
