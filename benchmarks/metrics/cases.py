"""J and F of masks: time beside the algorithm of the official DAVIS code."""

import math
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk

from benchmarks.registry import Row, case
from difflayers import metrics

Masks = NDArray[np.bool_]


def official_J(truth: Masks, prediction: Masks) -> NDArray[np.float64]:
    """Sums over whole arrays, as the official code."""
    void = np.zeros_like(truth)
    both = np.sum((truth & prediction) & np.logical_not(void), axis=(-2, -1))
    either = np.sum((truth | prediction) & np.logical_not(void), axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        return np.where(np.isclose(either, 0), 1, both / either)


def official_F(truth: Masks, prediction: Masks, tolerance: float = 0.008) -> float:
    """Of one frame: OpenCV dilates both boundaries by a disk, as in the official code."""
    void = np.zeros_like(truth)
    radius = math.ceil(tolerance * float(np.linalg.norm(truth.shape)))
    g, m = (_boundary(mask * np.logical_not(void)) for mask in (truth, prediction))
    kernel = disk(radius).astype(np.uint8)
    near_g, near_m = (cv2.dilate(one.astype(np.uint8), kernel) for one in (g, m))
    of_g, of_m = np.sum(g), np.sum(m)
    if not of_g or not of_m:
        return float(of_g == of_m)
    precision, recall = np.sum(m * near_g) / of_m, np.sum(g * near_m) / of_g
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _boundary(mask: Masks) -> Masks:
    right, below, across = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    found = mask ^ right | mask ^ below | mask ^ across
    found[-1], found[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    found[-1, -1] = False
    return found


def sequence(frames: int, height: int, width: int) -> tuple[Masks, Masks]:
    """Smooth blobs that change from frame to frame, and the same moved by some pixels."""
    noise = np.random.default_rng(0).standard_normal((frames, height, width))
    truth = ndimage.gaussian_filter(noise, (min(3, frames - 1), height / 40, height / 40)) > 0.02 * 480 / height
    return truth, np.roll(truth, max(1, height // 100), axis=-1)


@case("metrics")
def j_and_f() -> Iterator[Row]:
    """J and F together, in milliseconds a frame, beside the official algorithm: the median ratio of turns."""
    for frames, height, width in ((1, 24, 32), (1, 64, 64), (1, 480, 854), (60, 480, 854), (12, 1080, 1920)):
        truth, prediction = sequence(frames, height, width)

        def official(g: Masks = truth, m: Masks = prediction) -> list[float]:
            return [*official_J(g, m), *(official_F(*pair) for pair in zip(g, m, strict=True))]

        def ours(g: Masks = truth, m: Masks = prediction) -> list[float]:
            return [*metrics.jaccard(g, m), *metrics.boundary_f(g, m)]

        row: Row = {"frames": frames, "height": height, "width": width, "same": official() == ours()}
        repeats = 101 if frames * height * width < 1e5 else 7
        times = [(_milliseconds(official), _milliseconds(ours)) for _ in range(repeats)]
        theirs, mine = np.array(times).T / frames
        yield {
            **row,
            "official_ms": float(np.median(theirs)),
            "ms": float(np.median(mine)),
            "ratio": float(np.median(theirs / mine)),
        }


def _milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - started)
