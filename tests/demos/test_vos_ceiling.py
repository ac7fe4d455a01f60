"""The most that choosing proposals can do, against all choices and orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from demos.vos import ceiling
from demos.vos.ceiling import best_choice
from difflayers.metrics import jaccard


def value(truth: np.ndarray, labels: np.ndarray, objects: list[int]) -> float:
    return sum(float(jaccard(truth == k, labels == k)) for k in objects)


def best_of_all(truth: np.ndarray, masks: np.ndarray, objects: list[int]) -> float:
    best = 0.0
    for choice in itertools.product(range(-1, len(masks)), repeat=len(objects)):
        for order in itertools.permutations(range(len(objects))):
            labels = np.zeros_like(truth)
            for k in order:
                if choice[k] >= 0:
                    labels[masks[choice[k]]] = objects[k]
            best = max(best, value(truth, labels, objects))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, shape = rng.integers(1, 4), rng.integers(0, 4), (5, 6)
    truth = rng.integers(0, n + 1, shape).astype(np.uint8)
    if seed % 2:
        truth = (ndimage.gaussian_filter(rng.standard_normal(shape), 1) * 8).clip(0, n).astype(np.uint8)
    masks = np.array([ndimage.gaussian_filter(rng.standard_normal(shape), 1) > 0.05 for _ in range(m)])
    masks = masks.reshape(-1, *shape).astype(bool)
    objects = list(range(1, n + 1))
    choice = best_choice(truth, masks, objects)
    assert choice.exact
    assert value(truth, choice.labels, objects) == pytest.approx(best_of_all(truth, masks, objects))


def test_an_object_without_a_proposal_does_not_take_its_neighbours() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[2, 2], truth[2:12, 3:13] = 1, 2
    own = truth > 0  # one proposal, of both; the first object has J 1/101 with it
    choice = best_choice(truth, own[None], [1, 2])
    assert choice.exact and value(truth, choice.labels, [1, 2]) == pytest.approx(100 / 101)
    assert set(np.unique(choice.labels)) == {0, 2}


def test_void_absent_and_no_proposals() -> None:
    truth = np.array([[1, 255, 0]], np.uint8)
    wide, none = np.array([[[True, True, False]]]), np.zeros((0, 1, 3), bool)
    assert best_choice(truth, wide, [1, 2]).labels.tolist() == [[1, 1, 0]]
    assert not best_choice(truth, none, [1]).labels.any() and not best_choice(truth, wide, [2]).labels.any()


def test_a_search_that_is_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "_NODES", 2)
    rng = np.random.default_rng(0)
    truth, masks = rng.integers(0, 4, (9, 9)).astype(np.uint8), rng.random((6, 9, 9)) < 0.5
    choice = best_choice(truth, masks, [1, 2, 3])
    assert not choice.exact and value(truth, choice.labels, [1, 2, 3]) > 0
