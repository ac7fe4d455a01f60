"""Statistics of a measure over the frames of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from difflayers._checks import as_array


@dataclass(frozen=True)
class Statistics:
    """What DAVIS says of one measure of one object, over its frames."""

    mean: float
    recall: float
    """The share of the frames with a value above 1/2."""
    decay: float
    """The mean of the first quarter of the frames minus that of the last: what is lost over time."""


def sequence_statistics(values: NDArray[Any] | Tensor | Sequence[float]) -> Statistics:
    """Mean, recall and decay of a measure over the frames of one object.

    The quarters are those of the official DAVIS code: their ends are 1 to T in four equal steps, rounded, ties upwards, and a
    quarter includes both of its ends. The official code keeps the ends in 8 bits, which overflow from 256 frames on;
    here they are right for any number.

    Args:
        values: (T,), of one frame each, real and finite: J or F of one object, of the frames that count.

    Returns:
        `Statistics` of three floats.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: no frames; another shape; values that are not finite.

    Example:
        >>> from difflayers import metrics
        >>> metrics.sequence_statistics([1.0, 0.75, 0.75, 0.5])
        Statistics(mean=0.75, recall=0.75, decay=0.25)

    References:
        Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 4.
    """
    array = as_array("values", values) if isinstance(values, Tensor) else np.asarray(values)
    if array.size and array.dtype.kind not in "biuf":
        raise TypeError(f"values must be real numbers; got {array.dtype}")
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values must have shape (T,) with a frame at least; got {array.shape}")
    series = array.astype(np.float64)
    if not np.isfinite(series).all():
        raise ValueError("values must be finite; got NaN or inf")
    ends = (np.round(np.linspace(1, len(series), 5) + 1e-10) - 1).astype(np.int64)
    first, last = series[ends[0] : ends[1] + 1], series[ends[3] : ends[4] + 1]
    return Statistics(float(series.mean()), float((series > 0.5).mean()), float(first.mean() - last.mean()))
