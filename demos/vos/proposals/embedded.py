"""Proposals that need no download: regions of a segmentation at several scales, and the last masks carried on by optical flow.

Nothing here is learned but from the video itself. The segmentation is scikit-image's (Felzenszwalb and Huttenlocher 2004), the
flow and the cut are OpenCV's (dense inverse search, Kroeger et al. 2016; GrabCut, Rother et al. 2004), the forest is
scikit-learn's (extremely randomized trees, Geurts et al. 2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels
from demos.vos.proposals import Proposals, ProposalSource
from demos.vos.proposals.appearance import Appearance, Pixels, distances, pixels_of

_SHORTER = 240
"""Frames are worked on with this many pixels on the shorter side, or fewer."""
_SEGMENTED = 160
"""The same for the segmentation, which is the slowest part."""
_SCALES = (100.0, 300.0, 900.0)
"""Of the segmentation: the larger, the fewer regions."""
_REACH = 1.0
"""How far outside of the moved mask the object may be, as a share of the square root of its area."""
_TRUST = 0.25
"""How far from the outline of the moved mask, in that unit, its word weighs one unit of log-odds."""
_SURE_INSIDE, _SURE_OUTSIDE = 2.0, -6.0
"""The most that the moved mask says by itself, in log-odds."""
_LEAST, _MOST = 0.6, 1.7
"""A cut that changes the area by more than these factors has gone astray, and the moved mask stays."""
_TREES_NOW = 12
"""Of the forest that is learned anew from each frame."""
_TINY = 40
"""Of pixels: objects below are carried on by the flow alone."""


class EmbeddedProposals(ProposalSource):
    """The regions of every frame; what follows an object comes from `follower`.

    Args:
        top: at most so many regions a frame, the largest.
    """

    def __init__(self, *, top: int = 50) -> None:
        if top < 1:
            raise ValueError(f"top must be 1 or more; got {top}")
        self.top = top

    @property
    def identity(self) -> str:
        return f"embedded top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        return self.regions(clip.frame(t))

    def regions(self, frame: Frame) -> Proposals:
        """The regions of a frame at every scale, none of them a speck or most of the picture."""
        small = _shrunk(frame, _SEGMENTED)
        area = small.shape[0] * small.shape[1]
        found: list[tuple[int, NDArray[np.bool_]]] = []
        for scale in _SCALES:
            labels = felzenszwalb(small, scale=scale, sigma=0.8, min_size=max(4, area // 2000))
            sizes = np.bincount(labels.ravel())
            for label in np.flatnonzero((sizes >= area // 2000) & (sizes <= area // 2)):
                found.append((int(sizes[label]), labels == label))
        found.sort(key=lambda region: -region[0])
        size = frame.shape[1], frame.shape[0]
        masks = [
            cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            for _, mask in found[: self.top]
        ]
        stacked = np.stack(masks) if masks else np.zeros((0, *frame.shape[:2]), dtype=bool)
        return Proposals(stacked, np.ones(len(stacked), dtype=np.float32))

    def follower(self) -> Follower:
        return Follower()


class Follower:
    """Carries the masks of one tracker from each frame to the next, and fits them to what is seen there.

    The flow moves a mask. Two forests say which pixels near it look like the object: one has learned it from the frame in which
    it was seen first, one from the frame before. What they say, and how far inside or outside of the moved mask a pixel is,
    add up as log-odds, and a cut smoothes the result.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: Frame | None = None
        self._labels: Labels | None = None
        self._first: dict[int, Appearance] = {}

    def keep(self, frame: Frame, labels: Labels) -> None:
        """What the tracker says of a frame; the next proposals follow it."""
        self._before, self._labels = _shrunk(frame), labels
        for label in map(int, np.unique(labels[labels > 0])):
            mask = _shrunk_mask(labels == label, self._before) > 0.5
            if label not in self._first and _TINY <= mask.sum() < mask.size:
                self._first[label] = Appearance(pixels_of(self._before), mask)

    def propose(self, frame: Frame) -> NDArray[np.bool_]:
        """(n, H, W): a mask for each object that was seen in the frame before."""
        none = np.zeros((0, *frame.shape[:2]), dtype=bool)
        if self._before is None or self._labels is None or not self._labels.any():
            return none
        small = _shrunk(frame)
        height, width = small.shape[:2]
        grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (small, self._before)]
        flow = np.zeros((height, width, 2), np.float32)
        if min(height, width) >= 16:  # less is too small for the flow's pyramid
            flow = self._flow.calc(grey[0], grey[1], flow)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        masks, now, before = [], pixels_of(small), pixels_of(self._before)
        for label in map(int, np.unique(self._labels[self._labels > 0])):
            mask = _shrunk_mask(self._labels == label, small)
            moved = cv2.remap(mask, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR)
            if label in self._first and min((mask > 0.5).sum(), (moved > 0.5).sum()) >= _TINY:
                looks = self._first[label], Appearance(before, mask > 0.5, _TREES_NOW)
                moved = _fitted(small, now, moved, looks)
            full = cv2.resize(moved, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5
            if full.any():
                masks.append(full)
        return np.stack(masks) if masks else none


def _fitted(
    frame: Frame, pixels: Pixels, moved: NDArray[np.float32], looks: Sequence[Appearance]
) -> NDArray[np.float32]:
    """The mask in [0, 1] where both its place and its looks say so."""
    place = distances(moved > 0.5) / math.sqrt(float((moved > 0.5).sum()))
    near = place > -_REACH
    likely = np.full(moved.shape, 0.01, np.float32)
    likely[near] = np.mean([look(pixels[near]) for look in looks], 0)
    likely = cv2.GaussianBlur(likely, (0, 0), 1.0)
    odds = np.log((likely + 0.02) / (1.02 - likely)) + np.clip(place / _TRUST, _SURE_OUTSIDE, _SURE_INSIDE)
    share = np.where(near, 1 / (1 + np.exp(-odds)), 0)
    cut = _without_islands(_cut(frame, share), moved > 0.5)
    change = (cut > 0.5).sum() / (moved > 0.5).sum()
    return cut if _LEAST < change < _MOST else moved


def _cut(frame: Frame, share: NDArray[np.float64]) -> NDArray[np.float32]:
    """What GrabCut makes of it, where that is neither sure nor excluded."""
    trimap = np.select(
        [share > 0.95, share > 0.5, share > 0.05], [cv2.GC_FGD, cv2.GC_PR_FGD, cv2.GC_PR_BGD], cv2.GC_BGD
    )
    trimap = trimap.astype(np.uint8)
    if min((trimap == cv2.GC_FGD).sum(), (trimap == cv2.GC_BGD).sum()) < 6:  # GrabCut fits five Gaussians to each
        return share.astype(np.float32)
    cv2.setRNGSeed(0)
    model = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(frame), trimap, None, *model, 1, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return np.asarray(0.5 * share + 0.5 * cv2.GaussianBlur(inside, (0, 0), 0.7), dtype=np.float32)


def _without_islands(share: NDArray[np.float32], moved: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Without the smaller pieces that do not touch the moved mask."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats((share > 0.5).astype(np.uint8))
    touching = np.unique(pieces[moved])
    far = [i for i in range(1, len(stats)) if i not in touching and stats[i, cv2.CC_STAT_AREA] < 0.3 * moved.sum()]
    return np.where(np.isin(pieces, far), np.float32(0), share)


def _shrunk(frame: Frame, shorter: int = _SHORTER) -> Frame:
    scale = min(1.0, shorter / min(frame.shape[:2]))
    if scale == 1:
        return np.ascontiguousarray(frame)
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))


def _shrunk_mask(mask: NDArray[np.bool_], small: Frame) -> NDArray[np.float32]:
    """How much of each pixel of the smaller picture a mask covers."""
    size = small.shape[1], small.shape[0]
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA))
