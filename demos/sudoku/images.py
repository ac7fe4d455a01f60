"""Boards whose given cells are images of handwritten digits.

Each given cell of a board gets an image of its digit, drawn once and for all from a pool of images: that of the training
images for training boards, that of the test images for test boards. The two never mix.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.sudoku.boards import Boards, Int8Array
from demos.sudoku.config import TrainConfig

_MNIST_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_DIGITS_TEST = 500
"""Of scikit-learn's 1,797 digits, images of 8x8, so many, the last, are for test boards."""


@dataclass(frozen=True)
class ImageBoards(Boards):
    """Boards with an image for each given cell."""

    pool: Tensor
    """uint8 of shape (images, 28, 28)."""
    picks: NDArray[np.int32]
    """Of shape (count, N ** 2): which image of the pool; -1 where the cell is blank."""

    def __getitem__(self, index: slice | NDArray[np.integer]) -> ImageBoards:
        return ImageBoards(self.puzzles[index], self.solutions[index], self.pool, self.picks[index])

    def images(self) -> Tensor:
        """The images of the given cells in [0, 1], row by row and board by board: (given cells, 28, 28)."""
        return self.pool[torch.from_numpy(self.picks[self.picks >= 0]).long()].float() / 255


@dataclass(frozen=True)
class Pool:
    """Images of digits and what they show."""

    images: Tensor
    """uint8 of shape (count, 28, 28)."""
    labels: NDArray[np.int64]


def load_pool(source: str, *, train: bool, mnist_root: str | Path | None = None) -> Pool:
    """Load the training or the test images of ``source``; MNIST is downloaded into ``mnist_root`` if it is not there."""
    if source == "mnist":
        if mnist_root is None:
            raise ValueError("mnist_root: got none, wanted the directory where MNIST is, or may be downloaded to")
        return _load_mnist(Path(mnist_root), train)
    if source == "digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        part = slice(None, -_DIGITS_TEST) if train else slice(-_DIGITS_TEST, None)
        small = torch.from_numpy(data.images[part]).float()[:, None] * (255 / 16)
        large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
        return Pool(large[:, 0].round().to(torch.uint8), data.target[part].astype(np.int64))
    raise ValueError(f"images: got {source!r}, wanted mnist or digits")


def has_mnist(root: str | Path) -> bool:
    """Whether MNIST is in this directory, packed or not, so that nothing would be downloaded."""
    return _unpacked(Path(root)) or _packed(Path(root))


def _packed(root: Path) -> bool:
    return all((root / "MNIST" / "raw" / f"{name}.gz").is_file() for name in _MNIST_FILES)


def _unpacked(root: Path) -> bool:
    return all((root / "MNIST" / "raw" / name).is_file() for name in _MNIST_FILES)


def _load_mnist(root: Path, train: bool) -> Pool:
    from torchvision.datasets import MNIST

    if not _unpacked(root) and _packed(root):
        # torchvision would unpack them beside the originals, in a directory that may not be ours to write to.
        with TemporaryDirectory() as temporary:
            raw = Path(temporary, "MNIST", "raw")
            raw.mkdir(parents=True)
            for name in _MNIST_FILES:
                (raw / name).write_bytes(gzip.decompress((root / "MNIST" / "raw" / f"{name}.gz").read_bytes()))
            return _load_mnist(Path(temporary), train)
    try:
        data = MNIST(str(root), train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"mnist_root: MNIST is not in {root} and could not be downloaded ({error}); "
            "wanted the directory that holds MNIST/raw; `--images digits` does without"
        ) from None
    return Pool(data.data, data.targets.numpy())


def add_images(boards: Boards, config: TrainConfig, *, train: bool) -> Boards:
    """Return the boards with the images that a run on images has for its training or for its test boards, else as they are."""
    if config.images is None:
        return boards
    return with_images(boards, load_pool(config.images, train=train, mnist_root=config.mnist_root), config.seed)


def with_images(boards: Boards, pool: Pool, seed: int) -> ImageBoards:
    """Draw an image for each given cell of the boards."""
    picks = draw(boards.puzzles, pool.labels, np.random.default_rng(seed))
    return ImageBoards(boards.puzzles, boards.solutions, pool.images, picks)


def draw(puzzles: Int8Array, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
    """Return for each given cell the index of a random image of its digit, -1 for a blank one."""
    picks = np.full(puzzles.shape, -1, np.int32)
    for digit in range(1, int(puzzles.max(initial=0)) + 1):
        cells = puzzles == digit
        choices = np.flatnonzero(labels == digit)
        if cells.any() and len(choices) == 0:
            raise ValueError(f"labels: got no image of the digit {digit}, wanted at least one")
        picks[cells] = rng.choice(choices, int(cells.sum()))
    return picks
