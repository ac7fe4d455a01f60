"""The measures of video object segmentation: DAVIS (J, F), YouTube-VOS (G), SegTrack v2 (mIoU).

A library of its own: it needs numpy, numba and torch, and takes arrays or tensors. What is easily got wrong is stated where it
is decided: objects missing in both masks, boundaries at the border of the picture, frames that do not count.

References:
    Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016: J, F, mean,
    recall, decay. Pont-Tuset et al., "The 2017 DAVIS Challenge", arXiv 1704.00675: several objects, J&F. Xu et al.,
    "YouTube-VOS", arXiv 1809.03327: G.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "DavisSummary",
    "SequenceScores",
    "Statistics",
    "YouTubeVosSummary",
    "boundary_accuracy",
    "davis_scores",
    "davis_summary",
    "object_masks",
    "region_similarity",
    "segtrack_miou",
    "statistics",
    "youtube_vos_scores",
    "youtube_vos_summary",
]

VOID = 255
"""The label of pixels that do not count, in palette PNGs."""

Array = NDArray[Any]
Floats = NDArray[np.float64]


# --- one mask against another ---------------------------------------------------------------------------------


def region_similarity(
    truth: Array | Tensor, prediction: Array | Tensor, *, void: Array | Tensor | None = None
) -> Floats:
    r"""The region similarity of masks, the Jaccard index :math:`J = |M \cap G| / |M \cup G|`, 1 where both are empty.

    Args:
        truth, prediction: (..., H, W), bool or integer (nonzero is inside), of one shape.
        void: bool or integer, broadcast to that shape: nonzero where pixels do not count.

    Returns:
        (...), float64, in [0, 1].

    Raises:
        TypeError: masks that are neither bool nor integer.
        ValueError: shapes that differ.

    Example:
        >>> import numpy as np
        >>> from demos.vos.metrics import region_similarity
        >>> masks = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
        >>> region_similarity(masks, np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]]))
        array([0.5, 1. ])
    """
    g, m = _pair(truth, prediction, void)
    both, either = (g & m).sum((-2, -1)), (g | m).sum((-2, -1))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def boundary_accuracy(
    truth: Array | Tensor,
    prediction: Array | Tensor,
    *,
    void: Array | Tensor | None = None,
    tolerance: float = 0.008,
    threads: int | None = None,
) -> Floats:
    r"""The boundary measure of masks, :math:`F = 2 P_c R_c / (P_c + R_c)`.

    A pixel belongs to the boundary if it differs from its neighbour to the right, below, or below to the right; neighbours
    outside of the picture do not count. :math:`P_c` is the share of the boundary pixels of the prediction that have one of
    the truth within a disk of some radius, :math:`R_c` the share of those of the truth that have one of the prediction.
    Without any boundary pixels (of an empty mask, or of one that fills the picture) in both, F is 1, in one of them, 0.

    Args:
        truth, prediction: (..., H, W), bool or integer (nonzero is inside), of one shape.
        void: bool or integer, broadcast to that shape: taken out of both masks where nonzero.
        tolerance: the radius in pixels if 1 or more, else as a share of the diagonal, rounded up to whole pixels: 8 for
            480 x 854.
        threads: that work on the masks; ``torch.get_num_threads()`` if None.

    Returns:
        (...), float64, in [0, 1].

    Raises:
        TypeError: masks that are neither bool nor integer.
        ValueError: shapes that differ; a tolerance that is not positive.

    Example:
        >>> import numpy as np
        >>> from demos.vos.metrics import boundary_accuracy
        >>> square = np.zeros((100, 100), dtype=bool)
        >>> square[20:60, 20:60] = True
        >>> boundary_accuracy(square, np.roll(square, 2, axis=1)), boundary_accuracy(square, square & False)
        (array(1.), array(0.))
    """
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number; got {tolerance}")
    g, m = _pair(truth, prediction, void)
    batch, (height, width) = g.shape[:-2], g.shape[-2:]
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(height, width))
    rows = np.arange(math.floor(radius) + 1)
    half_widths = np.floor(np.sqrt(radius**2 - rows**2)).astype(np.int64)
    pairs = list(zip(g.reshape(-1, height, width), m.reshape(-1, height, width), strict=True))
    with ThreadPoolExecutor(torch.get_num_threads() if threads is None else threads) as pool:
        scores = list(pool.map(lambda pair: _boundary_score(*pair, half_widths), pairs))
    return np.array(scores, dtype=np.float64).reshape(batch)


@njit(nogil=True, cache=True)
def _boundary_score(truth: Any, prediction: Any, half_widths: Any) -> Any:
    boundary_g, boundary_m = _boundary(truth), _boundary(prediction)
    counts_g, counts_m = _running_counts(boundary_g), _running_counts(boundary_m)
    total_g, total_m = counts_g[:, -1].sum(), counts_m[:, -1].sum()
    if total_g == 0 and total_m == 0:
        return 1.0
    if total_g == 0 or total_m == 0:
        return 0.0
    precision = _near(boundary_m, counts_g, half_widths) / total_m
    recall = _near(boundary_g, counts_m, half_widths) / total_g
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@njit(nogil=True, cache=True)
def _boundary(mask: Any) -> Any:
    height, width = mask.shape
    boundary = np.zeros((height, width), dtype=np.bool_)
    for y in range(height):
        below = min(y + 1, height - 1)  # at the border a pixel is its own neighbour
        for x in range(width):
            right, here = min(x + 1, width - 1), mask[y, x]
            boundary[y, x] = here != mask[y, right] or here != mask[below, x] or here != mask[below, right]
    return boundary


@njit(nogil=True, cache=True)
def _running_counts(boundary: Any) -> Any:
    """How many boundary pixels lie to the left of x in a row, (H, W + 1)."""
    height, width = boundary.shape
    counts = np.zeros((height, width + 1), dtype=np.int64)
    for y in range(height):
        for x in range(width):
            counts[y, x + 1] = counts[y, x] + boundary[y, x]
    return counts


@njit(nogil=True, cache=True)
def _near(boundary: Any, counts: Any, half_widths: Any) -> Any:
    """How many boundary pixels have one of the other mask, given by its running counts, within the disk."""
    height, width = boundary.shape
    near = 0
    for y in range(height):
        for x in range(width):
            if boundary[y, x]:
                found = False
                for row in range(max(0, y - len(half_widths) + 1), min(height, y + len(half_widths))):
                    half = half_widths[abs(row - y)]
                    if counts[row, min(width, x + half + 1)] > counts[row, max(0, x - half)]:
                        found = True
                        break
                near += found
    return near


def _pair(truth: Array | Tensor, prediction: Array | Tensor, void: Array | Tensor | None) -> tuple[Array, Array]:
    """Both masks as bool, void pixels out of both."""
    g, m = _whole("truth", truth), _whole("prediction", prediction)
    if g.ndim < 2:
        raise ValueError(f"truth must have shape (..., H, W); got {g.shape}")
    if g.shape != m.shape:
        raise ValueError(f"prediction must have the shape of truth, {g.shape}; got {m.shape}")
    g, m = g != 0, m != 0
    if void is not None:
        counted = _whole("void", void) == 0
        try:
            counted = np.broadcast_to(counted, g.shape)
        except ValueError:
            raise ValueError(f"void must broadcast to the shape of truth, {g.shape}; got {counted.shape}") from None
        g, m = g & counted, m & counted
    return g, m


def _whole(name: str, values: Array | Tensor) -> Array:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biu":
        raise TypeError(f"{name} must be bool or integer; got {array.dtype}. Threshold soft masks first")
    return array


# --- sequences ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What DAVIS says of one measure of one object, over its frames."""

    mean: float
    recall: float
    """The share of the frames with a value above 1/2."""
    decay: float
    """The mean of the first quarter of the frames minus that of the last: what is lost over time."""


def statistics(values: Array | Sequence[float]) -> Statistics:
    """Mean, recall and decay of a measure over the frames of one object.

    The quarters are those of the official code: their ends are 1 to T in four equal steps, rounded, ties upwards, and a
    quarter includes both of its ends.

    Args:
        values: (T,), of one frame each, finite.

    Raises:
        ValueError: no frames; another shape; values not finite.

    Example:
        >>> from demos.vos.metrics import statistics
        >>> statistics([1.0, 0.75, 0.75, 0.5])
        Statistics(mean=0.75, recall=0.75, decay=0.25)
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not len(series):
        raise ValueError(f"values must have shape (T,) with a frame at least; got {series.shape}")
    if not np.isfinite(series).all():
        raise ValueError("values must be finite; got NaN or inf")
    ends = (np.round(np.linspace(1, len(series), 5) + 1e-10) - 1).astype(np.int64)
    first, last = series[ends[0] : ends[1] + 1], series[ends[3] : ends[4] + 1]
    return Statistics(float(series.mean()), float((series > 0.5).mean()), float(first.mean() - last.mean()))


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


def object_masks(labels: Array | Tensor, objects: Sequence[int]) -> NDArray[np.bool_]:
    """Labels (T, H, W) as one mask for each object, bool (objects, T, H, W)."""
    array = _whole("labels", labels)
    if array.ndim != 3:
        raise ValueError(f"labels must have shape (T, H, W); got {array.shape}")
    return np.stack([array == label for label in objects]) if objects else np.zeros((0, *array.shape), dtype=bool)


def davis_scores(
    truth: Array | Tensor,
    prediction: Array | Tensor,
    *,
    objects: Sequence[int] | None = None,
    trim: bool = True,
    tolerance: float = 0.008,
    threads: int | None = None,
) -> SequenceScores:
    """J and F of every object in every frame of a sequence, as DAVIS counts.

    Args:
        truth, prediction: (T, H, W), integer labels, 0 for the background. Pixels of label 255 in the truth are void.
        objects: the labels to look at; all that occur in the truth if None. One that the prediction lacks is an empty
            mask there; labels of the prediction alone are left out.
        trim: leave out the first frame, which is given, and the last, as the semi-supervised evaluation does.
        tolerance, threads: as for `boundary_accuracy`.

    Raises:
        TypeError, ValueError: as `region_similarity`; no objects; no frame left (with trim a sequence needs 3).

    Example:
        >>> import numpy as np
        >>> from demos.vos.metrics import davis_scores
        >>> truth = np.zeros((4, 10, 10), dtype=np.uint8)
        >>> truth[:, 2:6, 2:6] = 1
        >>> davis_scores(truth, truth).J
        array([[1., 1.]])
    """
    g, m, labels = _labels(truth, prediction, objects)
    if len(g) < (3 if trim else 1):
        raise ValueError(
            f"truth must have {'3 frames or more, with trim the first and last do not count' if trim else 'a frame'}; "
            f"got {len(g)}"
        )
    if trim:
        g, m = g[1:-1], m[1:-1]
    J, F = _scores(g, m, labels, tolerance, threads)
    return SequenceScores(labels, np.ones(J.shape, dtype=bool), J, F)


def youtube_vos_scores(
    truth: Array | Tensor,
    prediction: Array | Tensor,
    *,
    objects: Sequence[int] | None = None,
    annotated: Array | Sequence[bool] | None = None,
    tolerance: float = 0.008,
    threads: int | None = None,
) -> SequenceScores:
    """J and F of every object, over the annotated frames after the one it first appears in.

    The server's own code is not public; this follows the paper's text.

    Args:
        truth, prediction, objects, tolerance, threads: as for `davis_scores`. `objects` must all occur in the truth.
        annotated: (T,), bool: which frames have a truth; all if None.

    Raises:
        TypeError, ValueError: as `davis_scores`; an object that appears in the last annotated frame only, of which nothing
            can be said.
    """
    g, m, labels = _labels(truth, prediction, objects)
    frames = np.ones(len(g), dtype=bool) if annotated is None else np.asarray(annotated, dtype=bool)
    if frames.shape != (len(g),):
        raise ValueError(f"annotated must have shape ({len(g)},), one a frame; got {frames.shape}")
    counted = np.zeros((len(labels), len(g)), dtype=bool)
    for row, label in zip(counted, labels, strict=True):
        present = np.flatnonzero((g == label).any((1, 2)) & frames)
        if not len(present):
            raise ValueError(f"objects: got {label}, which no annotated frame of truth has")
        row[present[0] + 1 :] = frames[present[0] + 1 :]
        if not row.any():
            raise ValueError(f"truth: object {label} appears in the last annotated frame only; leave it out of objects")
    J, F = _scores(g, m, labels, tolerance, threads)
    return SequenceScores(labels, counted, J, F)


def _labels(
    truth: Array | Tensor, prediction: Array | Tensor, objects: Sequence[int] | None
) -> tuple[Array, Array, tuple[int, ...]]:
    g, m = _whole("truth", truth), _whole("prediction", prediction)
    if g.ndim != 3:
        raise ValueError(f"truth must have shape (T, H, W); got {g.shape}")
    if m.shape != g.shape:
        raise ValueError(f"prediction must have the shape of truth, {g.shape}; got {m.shape}")
    labels = [int(label) for label in (np.unique(g) if objects is None else objects)]
    if objects is None:
        labels = [label for label in labels if label not in (0, VOID)]
    elif 0 in labels or VOID in labels or len(set(labels)) != len(labels):
        raise ValueError(f"objects must be different labels other than 0 and {VOID}; got {labels}")
    if not labels:
        raise ValueError("truth must have an object: it is background throughout")
    return g, m, tuple(labels)


def _scores(
    g: Array, m: Array, labels: tuple[int, ...], tolerance: float, threads: int | None
) -> tuple[Floats, Floats]:
    void = g == VOID
    J, F = [], []
    for label in labels:  # one by one: a sequence has hundreds of megabytes of masks otherwise
        J.append(region_similarity(g == label, m == label, void=void))
        F.append(boundary_accuracy(g == label, m == label, void=void, tolerance=tolerance, threads=threads))
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
        every = [statistics(values) for one in scores for values in one.of_object(measure)]
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
