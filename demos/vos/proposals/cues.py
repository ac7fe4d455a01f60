"""What the frame before and the first one say of where an object is: its mask moved, and which pixels look like it.

The flow is OpenCV's (dense inverse search, Kroeger et al. 2016), the forests are scikit-learn's (see `appearance`).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from demos.vos.images import Frame
from demos.vos.proposals.appearance import Appearance, Pixels, distances

TINY = 40
"""Of pixels: objects below are carried on by the flow alone."""
TREES_NOW = 12
"""Of the forest that is learned anew from each frame."""
_SHORTER = 240
"""Frames are worked on with this many pixels on the shorter side, or fewer."""
_REACH = 1.3
"""How far outside of the moved mask pixels are looked at, as a share of the square root of its area."""

Maps = NDArray[np.float32]
"""(H, W, 3), in [0, 1]: the moved mask; how much a pixel looks like the object in its first frame, and in the last one."""


def shrunk(frame: Frame, shorter: int = _SHORTER) -> Frame:
    """The frame with at most so many pixels on the shorter side."""
    scale = min(1.0, shorter / min(frame.shape[:2]))
    if scale == 1:
        return np.ascontiguousarray(frame)
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def shrunk_mask(mask: NDArray[np.bool_], small: Frame) -> NDArray[np.float32]:
    """How much of each pixel of the smaller picture a mask covers."""
    size = small.shape[1], small.shape[0]
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def optical_flow(frame: Frame, before: Frame) -> NDArray[np.float32]:
    """(H, W, 2): from each pixel of a frame to where it was in the frame before, x and y."""
    flow = np.zeros((*frame.shape[:2], 2), np.float32)
    if min(frame.shape[:2]) < 16:  # too small for the flow's pyramid
        return flow
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (frame, before)]
    return np.asarray(search.calc(grey[0], grey[1], flow), dtype=np.float32)


def carried(mask: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask of the frame before, moved by the flow."""
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    return np.asarray(cv2.remap(mask, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR))


def maps_of(pixels: Pixels, moved: NDArray[np.float32], first: Appearance, last: Appearance) -> Maps:
    """The maps of a frame, given what its pixels are and the moved mask, which has a pixel above 1/2."""
    near = distances(moved > 0.5) / math.sqrt(float((moved > 0.5).sum())) > -_REACH
    maps = np.zeros((*moved.shape, 3), np.float32)
    maps[..., 0] = moved
    for channel, look in enumerate((first, last), start=1):
        maps[near, channel] = look(pixels[near])
    return maps
