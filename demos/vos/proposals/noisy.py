"""Proposals made from the truth, with noise."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from demos.vos.data import Clip
from demos.vos.proposals import Proposals, ProposalSource, checked_top
from demos.vos.synthetic import SyntheticClip

_SPECK = math.log(0.004), math.log(0.05)
"""Logarithms of the half axes of specks, in shares of the shorter side."""


class NoisyProposals(ProposalSource):
    """Proposals made from the ground truth, for controlled experiments: they tell nothing of how good a detector is.

    Every thing that is seen, distractors of a synthetic clip included, is proposed with probability 1 - `miss`: its mask
    moved by a pixel or so, grown or shrunk, with a bite taken out. Added are pieces of masks, unions of two, and ellipses
    anywhere, and specks: ellipses of a few pixels, as segmentations find in any texture. The random numbers of a frame
    depend on seed, clip and frame alone.

    Args:
        seed: an integer, 0 or more.
        miss: in [0, 1].
        extra: how many pieces, unions and ellipses a frame.
        specks: how many of them a frame. Features that have never seen any take one for an object that is not there.
        top: at most so many.

    Raises:
        ValueError: in `propose`, if the frame has no labels.
    """

    def __init__(self, *, seed: int = 0, miss: float = 0.05, extra: int = 6, specks: int = 6, top: int = 50) -> None:
        if not 0 <= miss <= 1:
            raise ValueError(f"miss must be in [0, 1]; got {miss}")
        for name, value in (("seed", seed), ("extra", extra), ("specks", specks)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more; got {value}")
        self.seed, self.miss, self.extra, self.specks, self.top = seed, miss, extra, specks, checked_top(top)

    @property
    def identity(self) -> str:
        return f"noisy {self.seed} {self.miss} {self.extra} {self.specks} top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        name = int.from_bytes(hashlib.sha256(clip.name.encode()).digest()[:8], "big")
        rng = np.random.default_rng((self.seed, name, t))
        instances = clip.instances(t) if isinstance(clip, SyntheticClip) else clip.labels(t)
        if instances is None:
            raise ValueError(f"{clip.name}: frame {clip.frame_names[t]} has no labels to make noisy proposals from")
        things = [instances == label for label in np.unique(instances) if label not in (0, 255)]
        masks = [_noisy(mask, rng) for mask in things if rng.random() >= self.miss]
        for kind in rng.integers(3, size=self.extra):
            if kind == 0 and things:
                masks.append(_piece(things[rng.integers(len(things))], rng))
            elif kind == 1 and len(things) > 1:
                a, b = rng.choice(len(things), 2, replace=False)
                masks.append(_noisy(things[a] | things[b], rng))
            else:
                masks.append(_ellipse(instances.shape, rng.uniform(0.05, 0.2, 2), rng))
        for _ in range(self.specks):
            masks.append(_ellipse(instances.shape, np.exp(rng.uniform(*_SPECK, 2)), rng))
        masks = [mask for mask in masks if mask.any()]
        order = rng.permutation(len(masks))[: self.top]
        stacked = np.stack([masks[i] for i in order]) if len(order) else np.zeros((0, *instances.shape), dtype=bool)
        return Proposals(stacked, np.sort(rng.uniform(0.3, 1, len(order)).astype(np.float32))[::-1].copy())


def _noisy(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    size = max(1.0, float(np.sqrt(mask.sum())))
    shift = np.rint(rng.normal(0, 0.4 + 0.02 * size, 2)).astype(int)
    moved = ndimage.shift(mask, shift, order=0)
    steps = int(np.rint(rng.normal(0, 0.4 + 0.02 * size)))
    if steps > 0:
        moved = ndimage.binary_dilation(moved, iterations=steps)
    elif steps < 0:
        shrunk = ndimage.binary_erosion(moved, iterations=-steps)
        moved = shrunk if shrunk.any() else moved
    if moved.any() and rng.random() < 0.3:
        y, x = np.argwhere(moved)[rng.integers(moved.sum())]
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        moved = moved & (np.hypot(rows - y, columns - x) > 0.2 * size)
    return np.asarray(moved, dtype=bool)


def _piece(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    y, x = np.argwhere(mask)[rng.integers(mask.sum())]
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return mask & ((rows - y) * np.sin(angle) + (columns - x) * np.cos(angle) > 0)


def _ellipse(shape: tuple[int, ...], axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Anywhere, with half axes (y, x) in shares of the shorter side."""
    center, axes = rng.uniform(0, 1, 2) * shape, axes * min(shape)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((rows - center[0]) / axes[0]) ** 2 + ((columns - center[1]) / axes[1]) ** 2 < 1
