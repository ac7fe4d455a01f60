"""Proposals that need no download: regions of a segmentation at several scales, and the last masks carried on by optical flow.

Nothing here is learned. The segmentation is scikit-image's (Felzenszwalb and Huttenlocher 2004), the flow and the cut are
OpenCV's (dense inverse search, Kroeger et al. 2016; GrabCut, Rother et al. 2004).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels
from demos.vos.proposals import Proposals, ProposalSource

_SHORTER = 240
"""Frames are worked on with this many pixels on the shorter side, or fewer."""
_SEGMENTED = 160
"""The same for the segmentation, which is the slowest part."""
_SCALES = (100.0, 300.0, 900.0)
"""Of the segmentation: the larger, the fewer regions."""
_BAND = 0.5
"""How far a cut may move an outline, as a share of the square root of the object's area."""
_BINS = 24
"""Of each of a colour's three numbers."""
_TELLING = 1.0
"""The logarithm of a likelihood ratio from which on a colour speaks for or against the object."""
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

    The flow moves a mask. A cut then decides about a band at its outline, beginning with the colours that the object and
    what is around it had where it was seen first. A cut that changes the area by more than a factor of 1.7 has gone astray,
    and the moved mask stays.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: Frame | None = None
        self._labels: Labels | None = None
        self._colours: dict[int, NDArray[np.float32]] = {}

    def keep(self, frame: Frame, labels: Labels) -> None:
        """What the tracker says of a frame; the next proposals follow it."""
        self._before, self._labels = _shrunk(frame), labels
        for label in map(int, np.unique(labels[labels > 0])):
            if label not in self._colours:
                self._colours[label] = _likelihoods(self._before, _shrunk_mask(labels == label, self._before))

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
        masks, colours = [], _quantised(small)
        for label in map(int, np.unique(self._labels[self._labels > 0])):
            mask = _shrunk_mask(self._labels == label, small)
            moved = cv2.remap(mask, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR)
            speaks = cv2.GaussianBlur(self._colours[label][colours], (0, 0), 1.0)
            fitted = _cut(small, moved, speaks)
            full = cv2.resize(fitted, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5
            if full.any():
                masks.append(full)
        return np.stack(masks) if masks else none


def _cut(frame: Frame, moved: NDArray[np.float32], speaks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mask in [0, 1] with its outline moved to where colours change; `speaks` is above 0 where they are the object's."""
    inside = (moved > 0.5).astype(np.uint8)
    area = int(inside.sum())
    if area < _TINY or area > 0.9 * inside.size:
        return moved
    band = max(3.0, _BAND * math.sqrt(area))
    outwards = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
    inwards = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    trimap = np.full(inside.shape, cv2.GC_BGD, np.uint8)
    near, core = (outwards > 0) & (outwards < band), inwards > min(band, 0.6 * float(inwards.max()))
    trimap[near] = cv2.GC_PR_BGD
    trimap[near & (speaks > _TELLING)] = cv2.GC_PR_FGD
    trimap[inside > 0] = cv2.GC_PR_FGD
    trimap[(inside > 0) & ~core & (speaks < -_TELLING)] = cv2.GC_PR_BGD
    trimap[core & (speaks >= -2 * _TELLING)] = cv2.GC_FGD
    y, x = np.nonzero(outwards < 2 * band + 6)
    part = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    sub = np.ascontiguousarray(trimap[part])
    of_object = np.isin(sub, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if of_object.sum() < 6 or (~of_object).sum() < 6:  # GrabCut fits five Gaussians to each
        return moved
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(frame[part]), sub, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK
    )
    cut = np.zeros_like(moved)
    cut[part] = np.isin(sub, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not 0.6 < cut.sum() / area < 1.7:
        return moved
    return np.asarray(cv2.GaussianBlur(0.8 * cut + 0.2 * moved, (0, 0), 0.7), dtype=np.float32)


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


def _quantised(frame: Frame) -> NDArray[np.int64]:
    """A number for the colour of each pixel, in CIELAB."""
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    scaled = (lab - (0, -60, -60)) / (100, 120, 120) * _BINS
    return np.ravel_multi_index(tuple(np.moveaxis(scaled.clip(0, _BINS - 1).astype(np.int64), -1, 0)), (_BINS,) * 3)


def _likelihoods(frame: Frame, mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """By colour, the logarithm of how much likelier it is in the mask than around it, within [-4, 4]."""
    colours, size = _quantised(frame), math.sqrt(max(1.0, float(mask.sum())))
    distance = cv2.distanceTransform((mask < 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    around = (1 - mask) * (np.exp(-distance / size) + 0.02)
    shares = []
    for weights in (mask, around):
        counts = np.bincount(colours.ravel(), weights.ravel(), _BINS**3).reshape((_BINS,) * 3)
        smooth = ndimage.gaussian_filter(counts, 1.0, mode="nearest").ravel()
        shares.append(smooth / max(float(smooth.sum()), 1e-9) + 1e-6)
    return np.log(shares[0] / shares[1]).clip(-4, 4).astype(np.float32)
