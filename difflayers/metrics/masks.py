"""Region and boundary accuracy of masks."""

from __future__ import annotations

import math
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from difflayers._backends import run_threads
from difflayers._checks import as_array, shown
from difflayers.metrics import kernels

Masks: TypeAlias = NDArray[np.bool_] | NDArray[np.integer[Any]] | Tensor

_NONE = np.zeros(0, np.uint8)
# How much work a pixel is, in the floating-point operations that `run_threads` counts by.
_OVERLAP_WORK, _BOUNDARY_WORK = 2.0, 12.0


def jaccard(truth: Masks, prediction: Masks, *, void: Masks | None = None) -> NDArray[np.float64]:
    r"""The region similarity J of masks, their Jaccard index: intersection over union.

    .. math:: J = |M \cap G| \,/\, |M \cup G|,

    and 1 where both are empty.

    Args:
        truth: G, (..., H, W), NumPy array or tensor of any device, bool or integer: what is not 0 is inside.
        prediction: M, of the same shape.
        void: pixels that do not count, where not 0: taken out of both. Bool or integer, broadcast to the shape of the masks.

    Returns:
        (...), float64, in [0, 1].

    Raises:
        TypeError: what is neither an array nor a tensor; masks that are neither bool nor integer (threshold soft masks first).
        ValueError: other shapes; pictures without pixels.

    Example:
        >>> import numpy as np
        >>> from difflayers import metrics
        >>> masks = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
        >>> metrics.jaccard(masks, np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]]))
        array([0.5, 1. ])

    References:
        Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 4.
    """
    g, m, out, taken, voids = _prepared(truth, prediction, void)
    size = g.shape[-1] * g.shape[-2]
    work = _OVERLAP_WORK * g.size
    run_threads(kernels.overlap, [g.ravel(), m.ravel(), taken, size, voids], [out.reshape(-1)], work)
    return out


def boundary_f(
    truth: Masks, prediction: Masks, *, void: Masks | None = None, tolerance: float = 0.008
) -> NDArray[np.float64]:
    r"""The contour accuracy F of masks: the F-measure of their boundaries' precision and recall.

    .. math:: F = 2 P R \,/\, (P + R)

    P is the share of the boundary pixels of the prediction that have one of the truth within a disk, R the share of those of
    the truth that have one of the prediction. A pixel belongs to the boundary if it differs from its neighbour to the right,
    below, or below to the right; at the border of the picture a pixel is its own neighbour. Without any boundary pixels (of
    an empty mask, or of one that fills the picture) in both, F is 1; in one of them, 0.

    The numbers are those of the official DAVIS code, to the last digit.

    Args:
        truth, prediction, void: as for `jaccard`.
        tolerance: the radius of the disk: in pixels if 1 or more, else as a share of the picture's diagonal, rounded up to
            whole pixels (8 for 480 x 854).

    Returns:
        (...), float64, in [0, 1].

    Raises:
        TypeError, ValueError: as `jaccard`; a tolerance that is not a positive number.

    Example:
        >>> import numpy as np
        >>> from difflayers import metrics
        >>> square = np.zeros((100, 100), dtype=bool)
        >>> square[20:60, 20:60] = True
        >>> metrics.boundary_f(square, np.roll(square, 2, axis=1)), metrics.boundary_f(square, square & False)
        (array(1.), array(0.))

    References:
        Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 4.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.integer, np.floating)):
        raise TypeError(f"tolerance must be a number; got {type(tolerance).__name__}")
    try:
        tolerance = float(tolerance)
    except OverflowError:
        raise ValueError(f"tolerance must be at most {sys.float_info.max:g}; got {shown(tolerance)}") from None
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number; got {tolerance}")
    g, m, out, taken, voids = _prepared(truth, prediction, void)
    height, width = g.shape[-2:]
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(height, width))
    radius = min(float(radius), float(height + width))  # which reaches every pixel
    rows = np.arange(min(math.floor(radius) + 1, height))
    half_widths = np.minimum(np.floor(np.sqrt(radius**2 - rows**2)), width).astype(np.int64)
    work = _BOUNDARY_WORK * g.size
    inputs = [g.ravel(), m.ravel(), taken, height, width, voids, half_widths]
    run_threads(kernels.boundary, inputs, [out.reshape(-1)], work)
    return out


def _prepared(
    truth: Masks, prediction: Masks, void: Masks | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64], NDArray[np.uint8], int]:
    """Both masks and the void pixels as bytes, room for the result, and how many masks the void pixels are."""
    g, m = as_integers("truth", truth), as_integers("prediction", prediction)
    if g.ndim < 2:
        raise ValueError(f"truth must have shape (..., H, W); got {g.shape}")
    if g.shape != m.shape:
        raise ValueError(f"prediction must have the shape of truth, {g.shape}; got {m.shape}")
    if not g.shape[-1] or not g.shape[-2]:
        raise ValueError(f"truth must have a pixel at least; got {g.shape}")
    out = np.empty(g.shape[:-2])
    if void is None:
        return _bytes(g), _bytes(m), out, _NONE, 0
    taken = as_integers("void", void)
    try:
        whole = np.broadcast_to(taken, g.shape)
    except ValueError:
        raise ValueError(f"void must broadcast to the shape of truth, {g.shape}; got {taken.shape}") from None
    if taken.shape[-2:] == g.shape[-2:] and taken.size == g.shape[-1] * g.shape[-2]:  # one for all
        return _bytes(g), _bytes(m), out, _bytes(taken).ravel(), 1
    return _bytes(g), _bytes(m), out, _bytes(whole).ravel(), out.size


def as_integers(name: str, values: Masks) -> NDArray[Any]:
    """A tensor or an array of bool or integers as an array.

    Raises:
        TypeError: anything else.
    """
    if isinstance(values, Tensor):
        array = as_array(name, values)
    elif isinstance(values, (np.ndarray, np.generic, list, tuple)):
        array = np.asarray(values)
    else:
        raise TypeError(f"{name} must be an array or a tensor; got {type(values).__name__}")
    if array.dtype.kind not in "biu":
        raise TypeError(f"{name} must be bool or integer; got {array.dtype}. Threshold soft masks first")
    return array


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Contiguous bytes that are 0 where the array is, writable as the kernels are compiled for such alone."""
    if array.dtype.itemsize > 1:
        array = array != 0
    raw = np.ascontiguousarray(array).view(np.uint8)
    return raw if raw.flags.writeable else raw.copy()
