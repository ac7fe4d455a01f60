"""Proposals that need no download: regions of a segmentation at several scales, and the last masks carried on.

The segmentation is scikit-image's (Felzenszwalb and Huttenlocher 2004). A mask is carried on by optical flow and by what the
object looks like (`cues`), and drawn anew by a small network that comes with the demo (`network`).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels
from demos.vos.proposals import Proposals, ProposalSource
from demos.vos.proposals.appearance import Appearance, pixels_of
from demos.vos.proposals.cues import TINY, TREES_NOW, carried, maps_of, optical_flow, shrunk, shrunk_mask
from demos.vos.proposals.network import MaskNetwork, drawn, shipped_network

_SEGMENTED = 160
"""Frames are segmented, which is the slowest part, with this many pixels on the shorter side, or fewer."""
_SCALES = (100.0, 300.0, 900.0)
"""Of the segmentation: the larger, the fewer regions."""


class EmbeddedProposals(ProposalSource):
    """The regions of every frame; what follows an object comes from `follower`.

    Args:
        top: at most so many regions a frame, the largest.
        network: what draws the masks; the one that comes with the demo if None.
    """

    def __init__(self, *, top: int = 50, network: MaskNetwork | None = None) -> None:
        if top < 1:
            raise ValueError(f"top must be 1 or more; got {top}")
        self.top, self.network = top, network

    @property
    def identity(self) -> str:
        return f"embedded top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        return self.regions(clip.frame(t))

    def regions(self, frame: Frame) -> Proposals:
        """The regions of a frame at every scale, none of them a speck or most of the picture."""
        small = shrunk(frame, _SEGMENTED)
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
        return Follower(self.network)


class Follower:
    """Carries the masks of one tracker from each frame to the next, and fits them to what is seen there.

    The flow moves a mask. Two forests say which pixels near it look like the object: one has learned it from the frame in which
    it was seen first, one from the frame before. A network that sees all three, and the picture, draws the mask.

    Args:
        network: the one that comes with the demo if None.
    """

    def __init__(self, network: MaskNetwork | None = None) -> None:
        self._network = shipped_network() if network is None else network
        self._before: Frame | None = None
        self._labels: Labels | None = None
        self._first: dict[int, Appearance] = {}

    def keep(self, frame: Frame, labels: Labels) -> None:
        """What the tracker says of a frame; the next proposals follow it."""
        self._before, self._labels = shrunk(frame), labels
        for label in map(int, np.unique(labels[labels > 0])):
            mask = shrunk_mask(labels == label, self._before) > 0.5
            if label not in self._first and TINY <= mask.sum() < mask.size:
                self._first[label] = Appearance(pixels_of(self._before), mask)

    def propose(self, frame: Frame) -> tuple[list[int], NDArray[np.bool_]]:
        """The objects that were in the frame before and are in this one, and a mask of each, (n, H, W)."""
        none = np.zeros((0, *frame.shape[:2]), dtype=bool)
        if self._before is None or self._labels is None or not self._labels.any():
            return [], none
        small = shrunk(frame)
        flow = optical_flow(small, self._before)
        found, masks, now, before = list[int](), list[NDArray[np.bool_]](), pixels_of(small), pixels_of(self._before)
        for label in map(int, np.unique(self._labels[self._labels > 0])):
            mask = shrunk_mask(self._labels == label, small)
            moved = carried(mask, flow)
            if label in self._first and min((mask > 0.5).sum(), (moved > 0.5).sum()) >= TINY:
                last = Appearance(before, mask > 0.5, TREES_NOW)
                moved = drawn(self._network, small, maps_of(now, moved, self._first[label], last))
            full = cv2.resize(moved, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5
            if full.any():
                found.append(label)
                masks.append(full)
        return found, np.stack(masks) if masks else none
