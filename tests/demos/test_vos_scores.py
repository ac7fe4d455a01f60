"""How data sets count J and F."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from demos.vos import scores as module
from demos.vos.scores import (
    SequenceScores,
    davis_scores,
    davis_summary,
    late_objects,
    segtrack_miou,
    without_later_frame,
    youtube_vos_scores,
    youtube_vos_summary,
)


def test_davis_scores_and_summary() -> None:
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:, :4, :4] = 1
    truth[:, 6:, 6:] = 2
    truth[1, 6:, 6:] = 0
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


def test_davis_counts_the_objects_of_the_first_frame() -> None:
    """As the official code does. Of later ones a tracker would get 1 for the frames before, and for the given one."""
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:, :4, :4] = 1
    truth[2:, 6:, 6:] = 2
    assert davis_scores(truth, truth * 0).objects == (1,)
    assert late_objects(truth) == (2,)
    assert davis_scores(truth, truth * 0, objects=[1, 2]).J.tolist() == [[0, 0, 0], [1, 0, 0]]
    late = np.where(truth == 1, 0, truth).astype(np.uint8)
    with pytest.raises(ValueError, match="an object in the first frame"):
        davis_scores(late, late)


def test_void_pixels_do_not_count() -> None:
    truth, prediction = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    truth[:, :4], prediction[:, :4, :4] = 1, 1
    truth[:, :, 4:] = 255
    prediction[:, :, 6:] = 1
    assert davis_scores(truth, prediction).J.tolist() == davis_scores(truth, prediction).F.tolist() == [[1]]


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
    only = [True, True, False, False, False, True]
    assert without_later_frame(truth, only) == (2,) and without_later_frame(truth) == ()
    assert youtube_vos_scores(truth, prediction, annotated=only).objects == (1,)
    with pytest.raises(ValueError, match="got 2, which appears in the last annotated frame only"):
        youtube_vos_scores(truth, prediction, objects=[2], annotated=only)
    with pytest.raises(ValueError, match="appears before the last annotated frame; got none"):
        youtube_vos_scores(truth, prediction, annotated=[False] * 5 + [True])
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: davis_scores(np.ones((2, 3, 3), int), np.ones((2, 3, 3), int)), "3 frames or more"),
        (lambda: davis_scores(np.ones((0, 3, 3), int), np.ones((0, 3, 3), int), objects=[1], trim=False), "a frame"),
        (lambda: davis_scores(np.zeros((4, 3, 3), int), np.zeros((4, 3, 3), int)), "there is background alone"),
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


def test_labels_must_be_integers() -> None:
    with pytest.raises(TypeError, match="truth must hold integer labels; got float64"):
        davis_scores(np.ones((4, 3, 3)), np.ones((4, 3, 3), int))


def test_docstring_examples() -> None:
    results = doctest.testmod(module)
    assert results.failed == 0 and results.attempted > 0
