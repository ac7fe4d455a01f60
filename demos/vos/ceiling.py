"""The most that choosing proposals can do: found by looking at the truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from demos.vos.images import VOID, Labels

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_NODES = 1000
"""Of the search in one frame, at most."""


class Choice(NamedTuple):
    """The best choice of proposals in one frame."""

    labels: Labels
    """(H, W)."""
    exact: bool
    """Proven: no choice has a larger sum of J. False where proposals overlap so much that the search was cut off."""


def best_choice(truth: Labels, masks: Bools, objects: Iterable[int]) -> Choice:
    """Give each object one proposal or none, and put objects in front of others, such that the sum of J is largest.

    An object that is hidden by others has the rest of its proposal as its mask. Where proposals do not overlap, this is a
    matching of objects to proposals; where they do, a branch and bound over who is in front, from the front to the back.

    Args:
        truth: (H, W), labels; pixels of `VOID` do not count.
        masks: (m, H, W), the proposals.
        objects: labels to find a proposal for. Those that `truth` lacks get none.
    """
    present = [label for label in objects if (truth == label).any()]
    result = np.zeros_like(truth)
    if not present or not len(masks):
        return Choice(result, True)
    counted = masks & (truth != VOID)
    masks_area = counted.sum((1, 2))
    both = np.stack([counted[:, truth == label].sum(1) for label in present])  # (n, m): pixels that they share
    if not both.any():
        return Choice(result, True)
    objects_area = np.array([(truth == label).sum() for label in present])
    J = both / (objects_area[:, None] + masks_area - both)
    rows, columns = linear_sum_assignment(J, maximize=True)
    found = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if J[i, j] > 0]
    exact = True
    if len(present) > 1 and (counted.sum(0) > 1).any():
        areas, of_truth, covered = _atoms(truth, masks, present)
        search = _Search(areas, of_truth.astype(float), covered.astype(float), objects_area)
        found, exact = search.run(found)
    for i, j in reversed(found):
        result[masks[j]] = present[i]
    return Choice(result, exact)


def _atoms(truth: Labels, masks: Bools, present: list[int]) -> tuple[Floats, Bools, Bools]:
    """The picture as regions that neither objects nor proposals divide: their areas (A,), and which of them each object (n, A)
    and each proposal (m, A) has."""
    counted = truth != VOID
    number = np.zeros(256, dtype=np.int64)
    number[present] = np.arange(1, len(present) + 1)
    key = number[truth[counted]]
    for mask in masks:
        key = 2 * key + mask[counted]
        if key.max() >= 2**20:  # few differ: number them anew, so that keys stay small
            key = np.unique(key, return_inverse=True)[1]
    _, first, areas = np.unique(key, return_index=True, return_counts=True)
    of_truth = number[truth[counted]][first] == np.arange(1, len(present) + 1)[:, None]
    covered = masks[:, counted][:, first]
    wanted = of_truth.any(0) | covered.any(0)
    return areas[wanted].astype(float), of_truth[:, wanted], covered[:, wanted]


class _Search:
    """Objects are placed from the front to the back; what is left of a proposal behind those in front is the object's mask."""

    def __init__(self, areas: Floats, of_truth: Floats, covered: Floats, objects_area: Floats) -> None:
        self.areas, self.of_truth, self.covered, self.objects_area = areas, of_truth, covered, objects_area
        self.overlap = covered @ covered.T > 0
        n, m = len(of_truth), len(covered)
        self.hidden = np.zeros((n, m, n))
        """Of object i and proposal j the pixels beside the object that k others hide at most."""
        for i in range(n):
            shared = (covered * (areas * (1 - of_truth[i]))) @ covered.T
            np.fill_diagonal(shared, 0)
            most = np.sort(shared)[:, ::-1].cumsum(1)[:, : n - 1]
            self.hidden[i, :, 1 : 1 + most.shape[1]] = most
            self.hidden[i, :, 1 + most.shape[1] :] = most[:, -1:]
        self.best: list[tuple[int, int]] = []
        self.value, self.nodes = -1.0, 0

    def run(self, start: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], bool]:
        """The best placement from the front to the back, and whether that is proven; `start` is one to begin with."""
        free = np.ones(len(self.areas))
        value = 0.0
        for i, j in start:
            value += self._J(free)[0][i, j]
            free = free * (1 - self.covered[j])
        self.best, self.value = list(start), value
        self._place(np.ones(len(self.areas)), list(range(len(self.of_truth))), [], 0.0)
        return self.best, self.nodes < _NODES

    def _J(self, free: Floats) -> tuple[Floats, Floats, Floats]:
        """J of each object with each proposal where that is free, the pixels that they share, both (n, m), and its own (m,)."""
        areas = self.areas * free
        seen = self.covered @ areas
        both = (self.of_truth * areas) @ self.covered.T
        return both / (self.objects_area[:, None] + seen - both), both, seen

    def _place(self, free: Floats, left: list[int], placed: list[tuple[int, int]], value: float) -> None:
        self.nodes += 1
        if value > self.value + 1e-12:
            self.best, self.value = list(placed), value
        if not left or self.nodes >= _NODES:
            return
        J, both, seen = self._J(free)
        # What an object behind others may still get, if each of them hides as much as it can of what is not the object.
        beside = np.maximum(seen - both - self.hidden[:, :, len(left) - 1], 0)
        bound = both / (self.objects_area[:, None] + beside)
        best = bound.max(1)
        total = value + best[left].sum()
        if total <= self.value + 1e-12:
            return
        moves = []
        for i in left:
            for j in map(int, np.flatnonzero(seen)):
                # Two that do not meet are in front of each other in either order: one of the two is enough.
                if placed and not self.overlap[placed[-1][1], j] and i < placed[-1][0]:
                    continue
                moves.append((J[i, j] + total - value - best[i], J[i, j], i, j))
        for reach, gained, i, j in sorted(moves, reverse=True):
            if value + reach <= self.value + 1e-12 or self.nodes >= _NODES:
                return
            self._place(free * (1 - self.covered[j]), [k for k in left if k != i], [*placed, (i, j)], value + gained)
