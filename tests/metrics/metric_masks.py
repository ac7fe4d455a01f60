"""Masks of every kind, and the official DAVIS algorithm as the tests' own."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Anything from nothing to one pixel, specks, blobs at the border and a full picture."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    kind = seed % 6
    if kind == 1:
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == 2:
        mask = rng.random((height, width)) < 0.1
    elif kind in (3, 4):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
    elif kind == 5:
        mask[:] = rng.random() < 0.5
        mask[rng.integers(height), :] = True
    return mask


def official_J(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> float:
    counted = np.ones_like(truth) if void is None else ~void
    union = np.sum((truth | prediction) & counted)
    return 1.0 if np.isclose(union, 0) else float(np.sum((truth & prediction) & counted) / union)


def official_F(
    truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None, tolerance: float = 0.008
) -> float:
    """Boundaries by shifted copies, each dilated by a disk, matches counted."""
    counted = np.ones_like(truth) if void is None else ~void
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * np.linalg.norm(truth.shape))
    reach = np.arange(-math.floor(radius), math.floor(radius) + 1)
    disk = reach[:, None] ** 2 + reach**2 <= radius**2
    g, m = official_boundary(truth & counted), official_boundary(prediction & counted)
    if not g.any() or not m.any():
        return float(g.any() == m.any())
    precision = np.sum(m & ndimage.binary_dilation(g, disk)) / np.sum(m)
    recall = np.sum(g & ndimage.binary_dilation(m, disk)) / np.sum(g)
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def official_boundary(mask: np.ndarray) -> np.ndarray:
    right, below, across = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ across)
    boundary[-1], boundary[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary
