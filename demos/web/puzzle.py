"""Puzzles from photographs and drawings, and the search of the layer, for the tab *Sudoku*."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from demos.sudoku.boards import Int8Array
from demos.sudoku.photo.collection import load_photograph
from demos.sudoku.photo.decode import RESULTS, Decoder, shipped_decoder
from demos.sudoku.photo.grid import UInt8Array, find_grid
from demos.sudoku.photo.reader import Reading, read_cells, shipped_reader
from difflayers import Domains, inference

SIDE = 540
"""Pixels of the picture that digits are drawn into, 60 a cell."""
PATHS = 5
"""So many attempts of the search are shown, at most."""
DOMAINS = Domains([9] * 81)
Evidence = NDArray[np.float64]
"""(81, 10): the log-probabilities of blank and the digits 1 to 9 in each cell."""


@cache
def decoder() -> Decoder:
    """The trained layer and its rules, loaded once."""
    return shipped_decoder()


def read_photograph(path: Path) -> tuple[UInt8Array, Reading]:
    """Find and read the puzzle in a photograph; ``ValueError`` if there is none."""
    return read_picture(load_photograph(path))


def read_picture(photograph: UInt8Array) -> tuple[UInt8Array, Reading]:
    """The same, of a picture (H, W, 3)."""
    return photograph, read_cells(shipped_reader(), photograph, find_grid(photograph))


@cache
def _handwriting() -> torch.nn.Module:
    """The reader of handwritten digits, trained on MNIST as a part of the network in ``results/visual-9x9``."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import VisualNet, restore

    net = restore(load_checkpoint(RESULTS / "visual-9x9"))
    assert isinstance(net, VisualNet)
    return net.reader.eval()


@torch.inference_mode()
def read_drawing(ink: NDArray[np.uint8]) -> Evidence:
    """Read digits drawn into an empty grid.

    Args:
        ink: (540, 540), 255 where there is ink.

    Strokes that touch are one digit, in the cell that has most of them, so that a stroke may cross a line. What is less than a
    tenth of a cell high and wide is a slip.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats((ink > 100).astype(np.uint8), connectivity=8)
    step = SIDE // 9
    drawn: dict[int, NDArray[np.bool_]] = {}
    for label in range(1, len(stats)):
        if max(stats[label, cv2.CC_STAT_WIDTH], stats[label, cv2.CC_STAT_HEIGHT]) < step // 10:
            continue
        stroke = labels == label
        y, x = np.nonzero(stroke)
        cell = int(np.bincount(9 * (y // step) + x // step, minlength=81).argmax())
        drawn[cell] = drawn.get(cell, np.zeros_like(stroke)) | stroke
    p = np.zeros((81, 10))
    p[:, 0] = 1
    if drawn:
        images = np.stack([_as_mnist(np.where(mask, ink, 0).astype(np.uint8)) for mask in drawn.values()])
        read = _handwriting()(torch.from_numpy(images)).softmax(1).numpy()
        p[list(drawn)] = np.concatenate([np.zeros((len(read), 1)), read], 1)
    return np.log(p + 1e-9)


def _as_mnist(ink: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A digit as MNIST has them, (28, 28) in [0, 1]: 20 pixels high or wide, its centre of mass in the middle."""
    y, x = np.nonzero(ink)
    part = ink[y.min() : y.max() + 1, x.min() : x.max() + 1]
    scale = 20 / max(part.shape)
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    rows, columns = np.mgrid[: small.shape[0], : small.shape[1]]
    middle = [float((axis * small).sum() / small.sum()) for axis in (columns, rows)]
    move = np.array([[1, 0, 13.5 - middle[0]], [0, 1, 13.5 - middle[1]]], np.float32)
    return np.asarray(cv2.warpAffine(small, move, (28, 28)), np.float32)


@dataclass(frozen=True)
class Round:
    """What the layer thought at one moment of the search."""

    path: int
    probabilities: NDArray[np.float32]
    """(81, 9)."""
    given: NDArray[np.bool_]


def watch_search(givens: Int8Array) -> tuple[list[Round], str]:
    """Complete a puzzle with the layer alone, which was never told the rules; its rounds, and what came out."""
    solver, rounds = decoder(), []

    def watch(one: inference.SearchRound) -> None:
        rounds.append(Round(one.path, one.probabilities.numpy(), one.given.numpy()))

    given = torch.from_numpy(givens > 0)
    values = torch.from_numpy(givens.astype(np.int64) - 1).clamp(min=0)
    found = inference.search(
        solver.net.layer, DOMAINS, values, given, limit=solver.limit, paths=PATHS, watch=watch,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    end = "accepted its answer" if found.accepted else "found no answer that it accepts"
    attempts = "1 attempt" if found.paths == 1 else f"{int(found.paths)} attempts"
    return rounds, f"The layer alone, which was never told the rules, {end} after {len(rounds)} rounds in {attempts}."
