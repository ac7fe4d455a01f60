"""What an object looks like, pixel by pixel: a forest that tells its pixels from those around it, learned from one frame."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier

from demos.vos.images import Frame

_OBJECT, _NEAR, _FAR = 4000, 4000, 2500
"""Pixels to learn from, at most: of the object, of its surroundings, of the whole rest."""
_SMOOTH = (2.0, 5.0)
"""Colours are looked at as they are, and blurred by these many pixels."""

Pixels = NDArray[np.float32]
"""(H, W, d): numbers that describe the pixels of a frame."""


def pixels_of(frame: Frame) -> Pixels:
    """Colour in CIELAB at three scales, and how rough the lightness is."""
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light = lab[..., 0]
    mean, square = (cv2.GaussianBlur(one, (0, 0), _SMOOTH[0]) for one in (light, light * light))
    rough = np.sqrt(np.maximum(0, square - mean * mean))
    return np.concatenate([lab, *(cv2.GaussianBlur(lab, (0, 0), s) for s in _SMOOTH), rough[..., None]], 2)


def distances(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W): to the outline, in pixels; above 0 inside."""
    inside = mask.astype(np.uint8)
    inwards, outwards = (cv2.distanceTransform(one, cv2.DIST_L2, 3) for one in (inside, 1 - inside))
    return np.asarray(inwards - outwards, dtype=np.float32)


class Appearance:
    """The object of a mask, which has a pixel inside and one outside at least; the same mask gives the same forest.

    Args:
        pixels: of the frame.
        mask: (H, W), bool.
        trees: in the forest.
    """

    def __init__(self, pixels: Pixels, mask: NDArray[np.bool_], trees: int = 40) -> None:
        rng, away = np.random.default_rng(0), -distances(mask)
        reach = 1.5 * math.sqrt(int(mask.sum()))
        chosen = []
        for where, most in ((mask, _OBJECT), ((away > 1) & (away < reach), _NEAR), (away > 1, _FAR)):
            index = np.flatnonzero(where.ravel())
            chosen.append(rng.choice(index, most, replace=False) if len(index) > most else index)
        count, outside = len(chosen[0]), len(chosen[1]) + len(chosen[2])
        weights = np.repeat([1 / count, 1 / max(1, outside)], [count, outside])
        index = np.concatenate(chosen)
        self._forest = ExtraTreesClassifier(trees, min_samples_leaf=4, max_depth=14, random_state=0)
        self._forest.fit(
            pixels.reshape(-1, pixels.shape[-1])[index],
            np.arange(len(index)) < count,
            sample_weight=weights,
        )

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """How likely each pixel, (n, d), is one of the object, (n,)."""
        likely = self._forest.predict_proba(pixels)
        # Of one class alone where nothing was outside.
        return np.asarray(likely[:, -1], dtype=np.float32)
