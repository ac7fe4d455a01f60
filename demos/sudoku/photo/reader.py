"""Read the cells of a flattened grid: a small convolutional network that says blank or which digit, and how sure it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from demos.checkpoints import checkpoint_errors, load_weights, read_safetensors
from demos.files import write_atomically
from demos.sudoku.photo.grid import FloatArray, Grid, UInt8Array, darkness, flatten

WEIGHTS = Path(__file__).parent / "reader.safetensors"
"""The shipped weights; ``docs/sudoku-photo.md`` has the command that made them."""
CELL = 32
"""The network sees cells of 32 x 32 pixels."""
MARGIN = 0.12
"""And of its neighbours this share of a cell at each edge, so that a grid that is a little off hides nothing."""
CLASSES = 10
"""Blank, then the digits 1 to 9."""


class CellReader(nn.Module):
    """Cells (B, 32, 32), 0 for paper and about 1 for ink, to logits of blank and the nine digits, (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1024, 64),
            nn.ReLU(),
            nn.Linear(64, CLASSES),
        )
        self.body.to(memory_format=torch.channels_last)

    def forward(self, cells: Tensor) -> Tensor:
        logits: Tensor = self.body(cells[:, None])
        return logits


@dataclass(frozen=True)
class Reading:
    """What was read in a photograph."""

    grid: Grid
    """Turned so that the digits stand upright."""
    log_probabilities: FloatArray
    """Of shape (81, 10), row by row: of blank and the digits 1 to 9."""
    quarters: int
    """By so many quarter turns, clockwise, the photograph has to be turned."""

    @property
    def digits(self) -> NDArray[np.int8]:
        """Return the most probable reading of each cell by itself, (81,), 0 for blank."""
        return self.log_probabilities.argmax(1).astype(np.int8)


def cut_cells(photograph: UInt8Array, grid: Grid) -> FloatArray:
    """Return the cells as the network takes them, (81, 32, 32).

    Ink is measured against the darkest fiftieth of the whole grid: were each cell stretched by itself, the noise of a
    blank one would look like ink.
    """
    cells = np.asarray(flatten(darkness(photograph), grid, CELL, MARGIN), np.float32)
    full = float(np.quantile(cells, 0.98))
    scaled: FloatArray = np.clip(cells / max(full, 0.05), 0, 1.5)
    return scaled


_PLACES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
_SIZES = (0.9, 1.0, 1.1)


@torch.inference_mode()
def log_probabilities(reader: CellReader, cells: FloatArray, *, glance: bool = False) -> FloatArray:
    """Return the logarithms of the probabilities of the classes, of cells (B, 32, 32): (B, 10).

    They are means over fifteen looks at the cell, in five places a pixel apart and in three sizes; a glance is one look.
    """
    reader.eval()
    device = next(reader.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(cells)).to(device)
    looks = [images] if glance else [
        _sized(images.roll(move, (1, 2)), size) for move in _PLACES for size in _SIZES
    ]  # fmt: skip
    total = torch.zeros(len(images), CLASSES, device=device)
    for look in looks:
        total += reader(look).softmax(1)
    return (total / len(looks)).clamp_min(1e-12).log().cpu().numpy()


def _sized(images: Tensor, size: float) -> Tensor:
    """Return pictures (B, H, W) so many times as large, cut or continued at the edge."""
    if size == 1:
        return images
    theta = torch.eye(2, 3, device=images.device) / size
    grid = affine_grid(theta.expand(len(images), 2, 3), [len(images), 1, *images.shape[1:]], align_corners=False)
    return grid_sample(images[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def turned_cells(cells: FloatArray) -> FloatArray:
    """Return the cells of a grid, (81, h, h), as seen after 0, 1, 2, 3 quarter turns against the clock: (4, 81, h, h)."""
    square = cells.reshape(9, 9, *cells.shape[1:])
    # Turning the picture turns the order of the cells and each cell.
    views = [np.rot90(np.rot90(square, q, (0, 1)), q, (2, 3)).reshape(cells.shape) for q in range(4)]
    return np.stack(views)


def read_cells(reader: CellReader, photograph: UInt8Array, grid: Grid) -> Reading:
    """Read the grid of a photograph, whichever side is up.

    All four turns are read. The digits of a photograph that lies on its side do not look like digits, and those that do
    are not sure: the turn whose cells are read with most confidence is taken.
    """
    views = turned_cells(cut_cells(photograph, grid))
    glance = log_probabilities(reader, views[0], glance=True)
    # A cell is as blank from the other sides: these need not be read.
    printed = np.flatnonzero(glance.argmax(1))
    sure = [glance.max(1)[printed].sum()]
    for q in (1, 2, 3):
        places = turned_cells(np.arange(81, dtype=np.float32).reshape(81, 1, 1))[q].ravel()
        seen = views[q][np.isin(places, printed)]
        sure.append(log_probabilities(reader, seen, glance=True).max(1).sum() if len(seen) else 0.0)
    against = int(np.argmax(sure))
    return Reading(grid.turned(-against), log_probabilities(reader, views[against]), -against % 4)


def save_reader(reader: CellReader, path: Path, **about: str | int | float) -> None:
    """Write weights as safetensors, in half precision, with how they were made."""
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in reader.state_dict().items()
    }
    write_atomically(path, save(tensors, metadata={"about": json.dumps(about, sort_keys=True)}))


def load_reader(path: Path) -> CellReader:
    """Read weights."""
    _, tensors = read_safetensors(path, argument="reader")
    reader = CellReader()
    with checkpoint_errors("reader", path, "one of `python -m demos.sudoku photo-train`"):
        load_weights(reader, {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()})
    return reader.eval()


@cache
def shipped_reader() -> CellReader:
    """Return the reader with the shipped weights."""
    return load_reader(WEIGHTS)
