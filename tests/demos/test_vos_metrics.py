"""The measures, against values worked out by hand and a plain implementation of the definitions."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demos.vos import metrics
from demos.vos.metrics import (
    SequenceScores,
    boundary_accuracy,
    davis_scores,
    davis_summary,
    object_masks,
    region_similarity,
    segtrack_miou,
    statistics,
    youtube_vos_scores,
    youtube_vos_summary,
)


def plain_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[y, x] != mask[b, a] for b, a in neighbours if b < height and a < width):
                found.add((y, x))
    return found


def plain_F(truth: np.ndarray, prediction: np.ndarray, radius: float) -> float:
    g, m = plain_boundary(truth), plain_boundary(prediction)
    if not g and not m:
        return 1.0
    if not g or not m:
        return 0.0

    def share(some: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        near = [p for p in some if any((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 <= radius**2 for q in others)]
        return len(near) / len(some)

    precision, recall = share(m, g), share(g, m)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_J(truth: np.ndarray, prediction: np.ndarray) -> float:
    g = {tuple(p) for p in np.argwhere(truth)}
    m = {tuple(p) for p in np.argwhere(prediction)}
    return len(g & m) / len(g | m) if g | m else 1.0


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


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 24), st.integers(1, 24))
def test_against_the_plain_definitions(a: int, b: int, height: int, width: int) -> None:
    truth, prediction = blobs(a, height, width), blobs(b, height, width)
    assert region_similarity(truth, prediction) == pytest.approx(plain_J(truth, prediction), abs=1e-12)
    for tolerance in (0.008, 0.1, 1.0, 2.5, 3):
        radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(height**2 + width**2))
        expected = plain_F(truth, prediction, radius)
        assert boundary_accuracy(truth, prediction, tolerance=tolerance) == pytest.approx(expected, abs=1e-12)


def test_the_plain_definitions_meet_every_kind_of_mask() -> None:
    sums = [blobs(seed, 9, 11).sum() for seed in range(60)]
    assert {0, 1, 99} <= set(map(int, sums)) and len(set(sums)) > 10


def one_pixel(y: int, x: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y, x] = True
    return mask


@pytest.mark.parametrize(
    ("y", "x", "shift", "expected"),
    [
        # 20 x 30: the radius is ceil(0.008 * 36.06) = 1. The boundary of one pixel is the 2 x 2 block it ends.
        (10, 10, 0, 1.0),
        (10, 10, 2, 0.5),  # columns 9, 10 and 11, 12: of each block the half next to the other is within 1
        (10, 10, 5, 0.0),
        (0, 0, 0, 1.0),
    ],
)
def test_one_pixel(y: int, x: int, shift: int, expected: float) -> None:
    truth, prediction = one_pixel(y, x), one_pixel(y, x + shift)
    value = float(boundary_accuracy(truth, prediction))
    assert value == expected


def test_a_pixel_in_the_last_corner_has_a_boundary_of_three_others() -> None:
    corner = one_pixel(19, 29)
    assert plain_boundary(corner) == {(18, 28), (18, 29), (19, 28)}
    assert boundary_accuracy(corner, corner) == 1
    # One pixel at (17, 27) has the boundary {16, 17} x {26, 27}: with radius 1 (17, 27) alone is near to none of the
    # three, whose nearest, (18, 28), is sqrt(2) away.
    assert boundary_accuracy(corner, one_pixel(17, 27)) == 0
    # With radius 1.5: 1 of the 4 is near, 1 of the 3 is near; F = 2 (1/4) (1/3) / (7/12).
    assert boundary_accuracy(corner, one_pixel(17, 27), tolerance=1.5) == pytest.approx(2 / 7)


def test_empty_and_full_masks() -> None:
    empty, full, pixel = np.zeros((5, 5), bool), np.ones((5, 5), bool), one_pixel(2, 2, (5, 5))
    cases = [(empty, empty, 1, 1), (empty, pixel, 0, 0), (pixel, empty, 0, 0), (full, full, 1, 1)]
    cases += [(full, empty, 0, 1), (full, pixel, 0.04, 0)]  # a full picture has no boundary either
    for truth, prediction, J, F in cases:
        assert region_similarity(truth, prediction) == pytest.approx(J)
        assert boundary_accuracy(truth, prediction) == F


def test_disk_radius_of_davis_is_8_pixels_at_480p() -> None:
    truth, seven = np.zeros((480, 854), bool), np.zeros((480, 854), bool)
    truth[:, 300:] = True
    for shift, expected in ((8, 1.0), (9, 0.0)):
        seven = np.roll(truth, shift, axis=1) & (np.arange(854) >= 300)
        assert boundary_accuracy(truth, seven) == expected


def test_batches_and_tensors() -> None:
    truth = np.stack([blobs(seed, 12, 17) for seed in range(12)]).reshape(3, 4, 12, 17)
    prediction = np.stack([blobs(seed + 3, 12, 17) for seed in range(12)]).reshape(3, 4, 12, 17)
    for measure in (region_similarity, boundary_accuracy):
        values = measure(truth, prediction)
        assert values.shape == (3, 4) and values.dtype == np.float64
        one_by_one = [
            [measure(g, m) for g, m in zip(*rows, strict=True)] for rows in zip(truth, prediction, strict=True)
        ]
        assert np.array_equal(values, np.array(one_by_one))
        assert np.array_equal(values, measure(torch.from_numpy(truth), torch.from_numpy(prediction).to(torch.uint8)))
    assert np.array_equal(
        boundary_accuracy(truth, prediction, threads=1), boundary_accuracy(truth, prediction, threads=4)
    )
    assert region_similarity(truth[:0], prediction[:0]).shape == boundary_accuracy(truth[:0], prediction[:0]).shape


def test_void_pixels_are_taken_out_of_both() -> None:
    truth, prediction = blobs(3, 12, 17), blobs(9, 12, 17)
    void = np.zeros((12, 17), bool)
    void[:, 8:] = True
    g, m = truth & ~void, prediction & ~void
    assert region_similarity(truth, prediction, void=void) == region_similarity(g, m)
    assert boundary_accuracy(truth, prediction, void=void) == boundary_accuracy(g, m)
    labels = np.where(void, 255, truth)[None].repeat(3, 0)
    assert davis_scores(labels, prediction[None].repeat(3, 0), objects=[1]).J == region_similarity(g, m)


def test_statistics_by_hand() -> None:
    values = [1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 0.2, 0.2, 0.1]
    # 1, 3, 5, 7, 9 are the ends: frames 1 to 3 and 7 to 9.
    found = statistics(values)
    assert found.mean == pytest.approx(5 / 9) and found.recall == pytest.approx(4 / 9)  # 0.5 itself is not above 1/2
    assert found.decay == pytest.approx(2.9 / 3 - 0.5 / 3)
    # Of ten: 1, 3.25, 5.5, 7.75, 10 round to 1, 3, 6 (5.5 and a little), 8, 10.
    assert statistics(np.arange(10) / 10).decay == pytest.approx(0.1 - 0.8)
    # Of three: 1, 1.5, 2, 2.5, 3 round to 1, 2, 2, 3, 3 (the added 1e-10 breaks ties upwards).
    assert statistics([0.9, 0.6, 0.3]).decay == pytest.approx(0.75 - 0.3)
    assert statistics([0.7]).decay == 0
    assert statistics(np.linspace(1, 0, 1000)).decay == pytest.approx(0.75, abs=2e-3)  # more than 256 frames


def test_davis_scores_and_summary() -> None:
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:, :4, :4] = 1
    truth[2:, 6:, 6:] = 2
    prediction = truth.copy()
    prediction[:, :2] = 0  # half of object 1
    prediction[3][prediction[3] == 2] = 0  # object 2 is lost in frame 3
    prediction[4] = 7
    scores = davis_scores(truth, prediction)
    assert scores.objects == (1, 2)
    np.testing.assert_allclose(scores.J, [[0.5, 0.5, 0.5], [1, 1, 0]])  # object 2 is missing in both in frame 1
    assert scores.F[1].tolist() == [1, 1, 0]
    assert davis_scores(truth, prediction, trim=False).J.shape == (2, 5)
    assert davis_scores(truth, prediction, objects=[2]).J.tolist() == [[1, 1, 0]]
    longer = davis_scores(np.ones((12, 8, 8), np.uint8), np.ones((12, 8, 8), np.uint8))
    summary = davis_summary({"a": scores, "b": longer})
    assert summary.objects == 3
    assert summary.J.mean == pytest.approx((0.5 + 2 / 3 + 1) / 3)  # objects count the same, however long
    assert summary.J.recall == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert summary.J.decay == pytest.approx((0 + 1 + 0) / 3)
    assert summary.J_and_F == pytest.approx((summary.J.mean + summary.F.mean) / 2)
    assert davis_summary([scores, longer]) == summary


def test_youtube_vos() -> None:
    truth = np.zeros((6, 8, 8), np.uint8)
    truth[0:, :4, :4] = 1
    truth[2:, 5:, 5:] = 2
    prediction = truth.copy()
    prediction[2] = 0  # the frame object 2 appears in counts for object 1 only
    prediction[3] = 0  # not annotated
    scores = youtube_vos_scores(truth, prediction, annotated=[True, False, True, False, True, True])
    assert scores.counted.tolist() == [[False, False, True, False, True, True], [False] * 4 + [True] * 2]
    assert [values.tolist() for values in scores.of_object("J")] == [[0, 1, 1], [1, 1]]
    other = SequenceScores((1,), np.ones((1, 2), bool), np.array([[0.2, 0.4]]), np.array([[0.6, 0.8]]))
    seen = {("a", 1): True, ("a", 2): False, ("b", 1): False}
    summary = youtube_vos_summary({"a": scores, "b": other}, seen)
    assert summary.J_seen == summary.F_seen == pytest.approx(2 / 3)
    assert (summary.J_unseen, summary.F_unseen) == pytest.approx(((1 + 0.3) / 2, (1 + 0.7) / 2))
    assert summary.G == pytest.approx((2 / 3 + 2 / 3 + 0.65 + 0.85) / 4)
    with pytest.raises(ValueError, match=r"lacks \('a', 2\)"):
        youtube_vos_summary({"a": scores}, {("a", 1): True})
    with pytest.raises(ValueError, match="seen and of unseen categories; got 0 and 1"):
        youtube_vos_summary({"b": other}, seen)
    with pytest.raises(ValueError, match="object 2 appears in the last annotated frame only"):
        youtube_vos_scores(truth, prediction, annotated=[True, True, False, False, False, True])
    with pytest.raises(ValueError, match="got 5, which no annotated frame"):
        youtube_vos_scores(truth, prediction, objects=[5])
    with pytest.raises(ValueError, match=r"annotated must have shape \(6,\)"):
        youtube_vos_scores(truth, prediction, annotated=[True])


def test_segtrack_conventions() -> None:
    def scores(*J: list[float]) -> SequenceScores:
        table = np.array(J)
        return SequenceScores(tuple(range(1, len(J) + 1)), np.ones(table.shape, bool), table, table)

    by_object, by_frame = segtrack_miou({"a": scores([1.0, 0.5]), "b": scores([0.0] * 4, [0.5] * 4)})
    assert by_object == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert by_frame == pytest.approx((1.5 + 0 + 2) / 10)


def test_object_masks() -> None:
    labels = np.array([[[0, 1], [3, 255]]], np.uint8)
    assert object_masks(labels, [1, 3, 9]).sum((1, 2, 3)).tolist() == [1, 1, 0]
    assert object_masks(torch.from_numpy(labels), []).shape == (0, 1, 2, 2)
    with pytest.raises(ValueError, match=r"labels must have shape \(T, H, W\)"):
        object_masks(labels[0], [1])


@pytest.mark.parametrize("measure", [region_similarity, boundary_accuracy])
def test_wrong_masks(measure) -> None:  # type: ignore[no-untyped-def]
    mask = np.zeros((4, 5), bool)
    with pytest.raises(TypeError, match="prediction must be bool or integer; got float64"):
        measure(mask, mask * 0.5)
    with pytest.raises(ValueError, match=r"prediction must have the shape of truth, \(4, 5\); got \(5, 4\)"):
        measure(mask, mask.T)
    with pytest.raises(ValueError, match=r"truth must have shape \(\.\.\., H, W\)"):
        measure(mask[0], mask[0])
    with pytest.raises(ValueError, match="void must broadcast"):
        measure(mask, mask, void=mask.T)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boundary_accuracy(np.eye(3, dtype=bool), np.eye(3, dtype=bool), tolerance=0), "tolerance must be"),
        (lambda: statistics([]), "a frame at least"),
        (lambda: statistics([0.5, math.nan]), "must be finite"),
        (lambda: davis_scores(np.ones((2, 3, 3), int), np.ones((2, 3, 3), int)), "3 frames or more"),
        (lambda: davis_scores(np.ones((0, 3, 3), int), np.ones((0, 3, 3), int), objects=[1], trim=False), "a frame"),
        (lambda: davis_scores(np.zeros((4, 3, 3), int), np.zeros((4, 3, 3), int)), "background throughout"),
        (lambda: davis_scores(np.ones((4, 3, 3), int), np.ones((4, 3, 3), int), objects=[1, 1]), "different labels"),
        (lambda: davis_scores(np.ones((4, 3, 3), int), np.ones((3, 3, 3), int)), "the shape of truth"),
        (lambda: davis_scores(np.ones((3, 3), int), np.ones((3, 3), int)), r"\(T, H, W\)"),
        (lambda: davis_summary([]), "got none"),
        (lambda: segtrack_miou([]), "got none"),
    ],
)
def test_wrong_values(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_docstring_examples() -> None:
    results = doctest.testmod(metrics)
    assert results.failed == 0 and results.attempted > 0
