"""What the network that draws masks is trained on: true masks with the mistakes of a tracker, and what `cues` makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb
from torch import Tensor

from demos.vos.data import Clip
from demos.vos.images import Frame
from demos.vos.proposals.appearance import Appearance, distances, pixels_of
from demos.vos.proposals.cues import TINY, TREES_NOW, Maps, carried, maps_of, optical_flow, shrunk, shrunk_mask
from demos.vos.proposals.network import cut, window

Mask = NDArray[np.bool_]


class Example(NamedTuple):
    """An object in a frame."""

    seen: NDArray[np.uint8]
    """(H, W, 6): the colours, and the maps of `cues` times 255. Far from the object it is cut off."""
    truth: NDArray[np.uint8]
    """(H, W): 255 where the object is."""


def make_examples(
    clips: Sequence[Clip], count: int, seed: int, progress: Callable[[], None] = lambda: None
) -> list[Example]:
    """Draw `count` examples of each clip, or fewer where its objects are too small.

    Args:
        clips: with labels in every frame that has any.
        count: of each clip.
        seed: of the draws. An example depends on it, its clip's place in `clips` and its number.
        progress: called after every clip.

    Raises:
        ValueError: clips without an object of `TINY` pixels.
    """
    examples: list[Example] = []
    for index, clip in enumerate(clips):
        rng, looks = np.random.default_rng((seed, index)), dict[tuple[int, int], Appearance]()
        drawn = (_example(clip, rng, looks) for _ in range(4 * count))
        examples += islice((one for one in drawn if one is not None), count)
        progress()
    if not examples:
        raise ValueError(f"clips: got {len(clips)} without an object of {TINY} pixels, wanted one at least")
    return examples


def _example(clip: Clip, rng: np.random.Generator, looks: dict[tuple[int, int], Appearance]) -> Example | None:
    """One, or None where the frames drawn do not do. `looks` keeps what was learned of an object from a frame."""
    label, length = int(rng.choice(clip.objects)), len(clip)
    given = 0 if rng.random() < 0.6 else int(rng.integers(length))
    now = int(rng.integers(length))
    beside = now + int(rng.choice((-1, 1)))
    if (here := _look(clip, now, label)) is None:
        return None
    # Half of them are the frame itself, moved: data sets that keep each fourth frame have no nearer one.
    shaken = rng.random() < 0.5
    near = _shaken(*here, rng) if shaken else _look(clip, beside, label) if 0 <= beside < length else None
    if near is None or near[1].sum() < TINY:
        return None
    (frame, truth), (before, mask) = here, near
    mask = mistaken(mask, before, rng)
    moved = carried(mask.astype(np.float32), optical_flow(frame, before))
    if min(mask.sum(), (moved > 0.5).sum()) < TINY or mask.all():
        return None
    if (given, label) not in looks:
        if (first := _look(clip, given, label)) is None:
            return None
        looks[given, label] = Appearance(pixels_of(first[0]), first[1])
    last = Appearance(pixels_of(before), mask, TREES_NOW)
    maps = maps_of(pixels_of(frame), moved, looks[given, label], last)
    seen = np.concatenate((frame, np.round(255 * maps).astype(np.uint8)), 2)
    near_it = distances(moved > 0.5) > -1.5 * max(np.ptp(axis) + 1 for axis in np.nonzero(moved > 0.5))
    rows, columns = (np.flatnonzero(near_it.any(axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Example(seen[part].copy(), truth[part].astype(np.uint8) * 255)


def _look(clip: Clip, t: int, label: int) -> tuple[Frame, Mask] | None:
    """A frame, shrunk, and the object's mask in it, if that is known and not tiny."""
    if (labels := clip.labels(t)) is None:
        return None
    frame = shrunk(clip.frame(t))
    mask = shrunk_mask(labels == label, frame) > 0.5
    return (frame, mask) if TINY <= mask.sum() < mask.size else None


def _shaken(frame: Frame, mask: Mask, rng: np.random.Generator) -> tuple[Frame, Mask]:
    """The same a moment before: moved, turned and lit a little otherwise."""
    size, (rows, columns) = math.sqrt(mask.sum()), np.nonzero(mask)
    matrix = cv2.getRotationMatrix2D(
        (float(columns.mean()), float(rows.mean())), rng.normal(0, 3), math.exp(rng.normal(0, 0.03))
    )
    matrix[:, 2] += rng.normal(0, 0.06 * size, 2)
    shape = frame.shape[1], frame.shape[0]
    moved = cv2.warpAffine(frame, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    lit = moved * math.exp(rng.normal(0, 0.05)) + rng.normal(0, 4, frame.shape)
    turned = cv2.warpAffine(mask.astype(np.uint8), matrix, shape, flags=cv2.INTER_NEAREST)
    return np.clip(lit, 0, 255).astype(np.uint8), turned > 0


def mistaken(mask: Mask, frame: Frame, rng: np.random.Generator) -> Mask:
    """A mask with mistakes as a tracker makes them: a wavy outline, regions too many or too few, bites.

    Args:
        mask: (H, W), of one pixel at least.
        frame: (H, W, 3).
        rng: of the mistakes.
    """
    size, depth = math.sqrt(mask.sum()), distances(mask)
    waves = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), max(2.0, size * rng.uniform(0.08, 0.3)))
    waves *= rng.choice((0.0, 0.02, 0.05, 0.1)) * 1.5 * rng.random() / waves.std()
    result = depth + size * (waves + rng.normal(0, 0.015)) > 0
    if rng.random() < 0.5:
        regions = felzenszwalb(frame, scale=float(rng.choice((50, 100, 200))), sigma=0.8, min_size=20)
        outline = np.unique(regions[abs(depth) < 0.15 * size])
        for region in rng.choice(outline, int(rng.integers(1, 5))):
            inside = regions == region
            if inside.sum() < 0.25 * mask.sum():
                result = result & ~inside if (inside & mask).sum() > 0.5 * inside.sum() else result | inside
    if rng.random() < 0.25:
        centre, radius = rng.choice(np.argwhere(mask)), size * rng.uniform(0.1, 0.35)
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        disk = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        result = result & ~disk if rng.random() < 0.6 else result | disk
    return result


def batch_of(examples: Sequence[Example], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw examples, each in a window of its own, some in other colours, some with a map that says nothing.

    Returns:
        (size, 6, SIZE, SIZE) and the truth (size, SIZE, SIZE), in [0, 1].
    """
    drawn = [_augmented(examples[int(rng.integers(len(examples)))], rng) for _ in range(size)]
    seen, truth = (np.stack(one) for one in zip(*drawn, strict=True))
    return torch.from_numpy(seen.transpose(0, 3, 1, 2).copy()), torch.from_numpy(truth)


def _augmented(example: Example, rng: np.random.Generator) -> tuple[Maps, Maps]:
    matrix = window(
        example.seen[..., 3] > 127,
        margin=math.exp(rng.uniform(math.log(1.35), math.log(2.4))),
        shift=(rng.normal(0, 0.06), rng.normal(0, 0.06)),
        degrees=rng.normal(0, 12) if rng.random() < 0.5 else 0.0,
        mirrored=rng.random() < 0.5,
    )
    frame, maps = (
        cut(np.ascontiguousarray(one), matrix) for one in np.split(example.seen.astype(np.float32) / 255, 2, 2)
    )
    truth = (cut(example.truth.astype(np.float32), matrix) > 127).astype(np.float32)
    frame = frame * np.exp(rng.normal(0, 0.15, 3) + rng.normal(0, 0.2)) + rng.normal(0, 12 / 255)
    if rng.random() < 0.15:
        frame = np.broadcast_to(frame.mean(-1, keepdims=True), frame.shape)
    silent = rng.random()
    if silent < 0.08:
        maps[..., 1] = 0.5
    elif silent < 0.16:
        maps[..., 2] = 0.5
    elif silent < 0.22:
        maps[..., 0] = cv2.GaussianBlur(maps[..., 0], (0, 0), 4)
    return np.concatenate((np.clip(frame, 0, 1), maps), 2).astype(np.float32), truth
