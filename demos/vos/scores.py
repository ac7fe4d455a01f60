"""How data sets count J and F: DAVIS (objects of the first frame), YouTube-VOS (G), SegTrack v2 (mIoU).

References:
    Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016: J, F, mean,
    recall, decay. Pont-Tuset et al., "The 2017 DAVIS Challenge", arXiv 1704.00675: several objects, J&F. Xu et al.,
    "YouTube-VOS", arXiv 1809.03327: G.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demos.vos.images import VOID
from difflayers.metrics import Statistics, boundary_f, jaccard, sequence_statistics

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SequenceScores:
    """The measures of one sequence, frame by frame."""

    objects: tuple[int, ...]
    """Labels."""
    counted: NDArray[np.bool_]
    """(objects, frames): whether the frame counts for the object."""
    J: Floats
    """(objects, frames)."""
    F: Floats
    """(objects, frames)."""

    def of_object(self, measure: str) -> list[Floats]:
        """For each object the values of the frames that count, of ``"J"`` or ``"F"``."""
        values = {"J": self.J, "F": self.F}[measure]
        return [row[counted] for row, counted in zip(values, self.counted, strict=True)]


def davis_scores(
    truth: Array, prediction: Array, *, objects: Sequence[int] | None = None, trim: bool = True
) -> SequenceScores:
    """J and F of every object of the first frame, in every frame of a sequence, as the official DAVIS code counts.

    Args:
        truth, prediction: (T, H, W), integer labels, 0 for the background. Pixels of label 255 in the truth are void.
        objects: the labels to look at; those that occur in the first frame of the truth if None, as later ones are not
            DAVIS's. One that the prediction lacks is an empty mask there; labels of the prediction alone are left out.
        trim: leave out the first frame, which is given, and the last, as the semi-supervised evaluation does.

    Raises:
        TypeError: labels that are not integers.
        ValueError: other shapes; no objects; no frame left (with trim a sequence needs 3).

    Example:
        >>> import numpy as np
        >>> from demos.vos.scores import davis_scores
        >>> truth = np.zeros((4, 10, 10), dtype=np.uint8)
        >>> truth[:, 2:6, 2:6] = 1
        >>> davis_scores(truth, truth).J
        array([[1., 1.]])
    """
    g, m = _checked(truth, prediction)
    if len(g) < (3 if trim else 1):
        raise ValueError(
            f"truth must have {'3 frames or more, with trim the first and last do not count' if trim else 'a frame'}; "
            f"got {len(g)}"
        )
    labels = _objects(g[:1], objects)
    if not labels:
        raise ValueError("truth must have an object in the first frame: there is background alone")
    if trim:
        g, m = g[1:-1], m[1:-1]
    J, F = _scores(g, m, labels)
    return SequenceScores(labels, np.ones(J.shape, dtype=bool), J, F)


def late_objects(truth: Array) -> tuple[int, ...]:
    """The labels (T, H, W) that the first frame lacks, of which DAVIS's measure says nothing."""
    return tuple(sorted(set(_objects(truth, None)) - set(_objects(truth[:1], None))))


def youtube_vos_scores(
    truth: Array,
    prediction: Array,
    *,
    objects: Sequence[int] | None = None,
    annotated: Array | Sequence[bool] | None = None,
) -> SequenceScores:
    """J and F of every object, over the annotated frames after the one it first appears in.

    The server's own code is not public; this follows the paper's text.

    Args:
        truth, prediction: as for `davis_scores`.
        objects: the labels to look at. If None, all that have an annotated frame after their first: see `without_later_frame`.
        annotated: (T,), bool: which frames have a truth; all if None.

    Raises:
        TypeError, ValueError: as `davis_scores`; one of `objects` that no annotated frame has, or only the last one.
    """
    g, m = _checked(truth, prediction)
    frames = _annotated(g, annotated)
    labels = _objects(g[frames], objects)
    if objects is None:
        lost = without_later_frame(g, annotated)
        labels = tuple(label for label in labels if label not in lost)
        if not labels:
            raise ValueError("truth must have an object that appears before the last annotated frame; got none")
    counted = np.zeros((len(labels), len(g)), dtype=bool)
    for row, label in zip(counted, labels, strict=True):
        present = np.flatnonzero((g == label).any((1, 2)) & frames)
        if not len(present):
            raise ValueError(f"objects: got {label}, which no annotated frame of truth has")
        row[present[0] + 1 :] = frames[present[0] + 1 :]
        if not row.any():
            raise ValueError(f"objects: got {label}, which appears in the last annotated frame only; leave it out")
    J, F = _scores(g, m, labels)
    return SequenceScores(labels, counted, J, F)


def without_later_frame(truth: Array, annotated: Array | Sequence[bool] | None = None) -> tuple[int, ...]:
    """The objects that appear in the last annotated frame only: nothing can be said of how they are tracked."""
    at = np.flatnonzero(_annotated(truth, annotated))
    return tuple(sorted(set(_objects(truth[at[-1:]], None)) - set(_objects(truth[at[:-1]], None))))


def _annotated(truth: Array, annotated: Array | Sequence[bool] | None) -> NDArray[np.bool_]:
    frames = np.ones(len(truth), dtype=bool) if annotated is None else np.asarray(annotated, dtype=bool)
    if frames.shape != (len(truth),):
        raise ValueError(f"annotated must have shape ({len(truth)},), one a frame; got {frames.shape}")
    return frames


def _checked(truth: Array, prediction: Array) -> tuple[Array, Array]:
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "biu":
            raise TypeError(f"{name} must hold integer labels; got {labels.dtype}")
    if truth.ndim != 3:
        raise ValueError(f"truth must have shape (T, H, W); got {truth.shape}")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction must have the shape of truth, {truth.shape}; got {prediction.shape}")
    return truth, prediction


def _objects(truth: Array, objects: Sequence[int] | None) -> tuple[int, ...]:
    """Those given, checked, or all labels of the truth."""
    if objects is None:
        return tuple(int(label) for label in np.unique(truth) if label not in (0, VOID))
    labels = tuple(map(int, objects))
    if not labels or 0 in labels or VOID in labels or len(set(labels)) != len(labels):
        raise ValueError(f"objects must be different labels other than 0 and {VOID}, one at least; got {list(labels)}")
    return labels


def _scores(g: Array, m: Array, labels: tuple[int, ...]) -> tuple[Floats, Floats]:
    void = g == VOID
    J, F = [], []
    for label in labels:  # one by one: a sequence has hundreds of megabytes of masks otherwise
        of_g, of_m = g == label, m == label
        J.append(jaccard(of_g, of_m, void=void))
        F.append(boundary_f(of_g, of_m, void=void))
    return np.stack(J), np.stack(F)


# --- data sets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DavisSummary:
    """DAVIS over a set of sequences: each entry is the mean over the objects of all sequences."""

    J: Statistics
    F: Statistics
    objects: int

    @property
    def J_and_F(self) -> float:
        """The mean of the means of J and F."""
        return (self.J.mean + self.F.mean) / 2


def davis_summary(sequences: Mapping[str, SequenceScores] | Iterable[SequenceScores]) -> DavisSummary:
    """The mean over all objects of mean, recall and decay, of J and of F, whatever the number of frames of each."""
    scores = list(sequences.values() if isinstance(sequences, Mapping) else sequences)
    if not scores:
        raise ValueError("sequences must have one at least; got none")

    def mean(measure: str) -> Statistics:
        every = [sequence_statistics(values) for one in scores for values in one.of_object(measure)]
        names = ("mean", "recall", "decay")
        return Statistics(*(float(np.mean([getattr(one, name) for one in every])) for name in names))

    return DavisSummary(mean("J"), mean("F"), sum(len(one.objects) for one in scores))


@dataclass(frozen=True)
class YouTubeVosSummary:
    """YouTube-VOS over a set of sequences."""

    J_seen: float
    J_unseen: float
    F_seen: float
    F_unseen: float

    @property
    def G(self) -> float:
        """The mean of the four."""
        return (self.J_seen + self.J_unseen + self.F_seen + self.F_unseen) / 4


def youtube_vos_summary(
    sequences: Mapping[str, SequenceScores], seen: Mapping[tuple[str, int], bool]
) -> YouTubeVosSummary:
    """J and F, means over the objects of seen and of unseen categories.

    Args:
        sequences: by name, `youtube_vos_scores`.
        seen: by sequence and label, whether the object's category occurs in the training set.

    Raises:
        ValueError: an object that `seen` lacks; no seen or no unseen objects, without which G has no meaning.
    """
    means: dict[tuple[str, bool], list[float]] = {(name, known): [] for name in "JF" for known in (True, False)}
    for name, scores in sequences.items():
        for measure in "JF":
            for label, values in zip(scores.objects, scores.of_object(measure), strict=True):
                if (name, label) not in seen:
                    raise ValueError(f"seen must say of every object whether its category is; it lacks {(name, label)}")
                means[measure, seen[name, label]].append(float(values.mean()))
    if not means["J", True] or not means["J", False]:
        raise ValueError(
            "sequences must have objects of seen and of unseen categories; got "
            f"{len(means['J', True])} and {len(means['J', False])}"
        )
    return YouTubeVosSummary(
        *(float(np.mean(means[key])) for key in (("J", True), ("J", False), ("F", True), ("F", False)))
    )


def segtrack_miou(sequences: Mapping[str, SequenceScores] | Iterable[SequenceScores]) -> tuple[float, float]:
    """The mean IoU of SegTrack v2 in both conventions in use.

    Returns:
        The mean over objects of each one's mean over its frames, and the mean over all frames of all objects, in which a
        long sequence weighs more.
    """
    scores = list(sequences.values() if isinstance(sequences, Mapping) else sequences)
    every = [values for one in scores for values in one.of_object("J")]
    if not every:
        raise ValueError("sequences must have an object at least; got none")
    return float(np.mean([values.mean() for values in every])), float(np.concatenate(every).mean())
