"""Mask proposals: where they come from, and a cache of them on disk.

A source gives the proposals of one frame of a clip; which object they show, if any, it does not say, and their order means
nothing. Masks are bool (m, H, W), scores float32 (m,), best first; m may be 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy import ndimage

from demos.checkpoints import checkpoint_errors, load_weights, read_safetensors
from demos.files import write_atomically
from demos.vos.data import Clip, listed
from demos.vos.images import LABEL_SUFFIXES, Frame, Labels, read_labels
from demos.vos.pasted import PastedClip, shifted
from demos.vos.synthetic import SyntheticClip

_FORMAT = "difflayers-proposals-1"
BACKBONES = ("resnet50", "resnet101", "resnet152", "resnet34", "resnet18")


@dataclass(frozen=True)
class Proposals:
    """Of one frame."""

    masks: NDArray[np.bool_]
    """(m, H, W)."""
    scores: NDArray[np.float32]
    """(m,), falling."""

    def __len__(self) -> int:
        return len(self.scores)

    def top(self, count: int) -> Proposals:
        """The first `count`."""
        return Proposals(self.masks[:count], self.scores[:count])

    def after(self, masks: NDArray[np.bool_]) -> Proposals:
        """With other masks before them, of score 1."""
        if not len(masks):
            return self
        scores = np.concatenate((np.ones(len(masks), dtype=np.float32), self.scores))
        return Proposals(np.concatenate((masks, self.masks)), scores)


class ProposalSource(ABC):
    """Gives the proposals of any frame."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the proposals depend on, the clip aside: a cache of something else is not used."""

    @abstractmethod
    def propose(self, clip: Clip, t: int) -> Proposals:
        """The proposals of frame t."""

    def follower(self) -> Following | None:
        """What makes further proposals from a tracker's own masks, one for each tracker; None if nothing does."""
        return None


class Following(Protocol):
    """Proposals that depend on what a tracker has found."""

    def keep(self, frame: Frame, labels: Labels) -> None:
        """What the tracker says of a frame."""

    def propose(self, frame: Frame) -> NDArray[np.bool_]:
        """(n, H, W): masks for the next frame."""


# --- proposals from files ---------------------------------------------------------------------------------------


class PaletteProposals(ProposalSource):
    """``ROOT/CLIP/FRAME.png``: every value other than 0 is the mask of a proposal. All scores are 1.

    Args:
        root: the folder of the clips'.
        top: at most so many, the largest.

    Raises:
        ValueError: in `propose`, if there is no file for the frame, or one of another size.
    """

    def __init__(self, root: str | Path, *, top: int = 50) -> None:
        self.root, self.top = Path(root), _checked_top(top)
        if not self.root.is_dir():
            raise ValueError(f"proposals: {self.root} is no folder")

    @property
    def identity(self) -> str:
        return f"palette {self.root.resolve()} top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        stem = self.root / clip.name / clip.frame_names[t]
        path = next(
            (path for path in map(stem.with_suffix, LABEL_SUFFIXES) if path.is_file()), stem.with_suffix(".png")
        )
        labels = read_labels(path, clip.size)
        ids, areas = np.unique(labels[labels > 0], return_counts=True)
        ids = ids[np.argsort(-areas, kind="stable")][: self.top]
        return Proposals(labels[None] == ids[:, None, None], np.ones(len(ids), dtype=np.float32))


class CocoProposals(ProposalSource):
    """``ROOT/CLIP.json``: COCO results, a list of objects with ``image_id``, ``segmentation`` and ``score``.

    ``image_id`` is the name of the frame without suffix, or its place in the clip, counted from 0; ``segmentation`` is RLE,
    compressed or not, or polygons; without ``score`` it is 1.

    Args:
        root: the folder of the files.
        top: at most so many a frame, those of highest score.

    Raises:
        ValueError: in `propose`, if there is no file for the clip, or one of another form or size. A frame of which the
            file says nothing has no proposals.
    """

    def __init__(self, root: str | Path, *, top: int = 50) -> None:
        self.root, self.top = Path(root), _checked_top(top)
        if not self.root.is_dir():
            raise ValueError(f"proposals: {self.root} is no folder")
        self._read: tuple[Path, dict[int | str, list[dict[str, Any]]]] | None = None

    @property
    def identity(self) -> str:
        return f"coco {self.root.resolve()} top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        path = self.root / f"{clip.name}.json"
        frames = self._frames(path)
        entries = [*frames.get(clip.frame_names[t], ()), *frames.get(t, ())]
        entries = sorted(entries, key=lambda entry: -float(entry.get("score", 1)))[: self.top]
        masks = np.zeros((len(entries), *clip.size), dtype=bool)
        for mask, entry in zip(masks, entries, strict=True):
            decoded = _decode(path, entry, clip.size)
            if decoded.shape != clip.size:
                raise ValueError(
                    f"{path}: got a mask of {decoded.shape[0]} x {decoded.shape[1]} for frame {clip.frame_names[t]}, wanted "
                    f"{clip.size[0]} x {clip.size[1]}"
                )
            mask[:] = decoded
        return Proposals(masks, np.array([entry.get("score", 1) for entry in entries], dtype=np.float32))

    def _frames(self, path: Path) -> dict[int | str, list[dict[str, Any]]]:
        if self._read is None or self._read[0] != path:
            if not path.is_file():
                raise ValueError(f"{path}: no such file")
            try:
                entries = json.loads(path.read_text(encoding="utf-8-sig"))
                frames: dict[int | str, list[dict[str, Any]]] = {}
                for entry in entries:
                    frames.setdefault(entry["image_id"], []).append(entry)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: wanted a list of COCO results, each with an image_id; {error!r}") from None
            self._read = path, frames
        return self._read[1]


def _decode(path: Path, entry: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    try:
        segmentation = entry["segmentation"]
        if isinstance(segmentation, list):
            segmentation = coco.merge(coco.frPyObjects(segmentation, *size))
        elif isinstance(segmentation["counts"], list):
            segmentation = coco.frPyObjects(segmentation, *segmentation["size"])
        elif isinstance(segmentation["counts"], str):
            segmentation = {**segmentation, "counts": segmentation["counts"].encode()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of numpy, about pycocotools' own arrays
            return np.asarray(coco.decode(segmentation)).astype(bool)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: wanted a segmentation of RLE or polygons in every entry; {error!r}") from None


def source_from(proposals: str | Path, *, top: int = 50, seed: int = 0) -> ProposalSource:
    """The source that the option ``--proposals`` names: ``noisy``, ``embedded``, or a folder of palette PNGs or COCO JSON."""
    if str(proposals) == "noisy":
        return NoisyProposals(seed=seed, top=top)
    if str(proposals) == "embedded":
        from demos.vos.embedded import EmbeddedProposals

        return EmbeddedProposals(top=top)
    root = Path(proposals)
    if not root.is_dir():
        raise ValueError(f"proposals: {root} is no folder; wanted one of palette PNGs or COCO JSON, noisy or embedded")
    is_coco = any(path.suffix == ".json" for path in listed(root))
    return PastedProposals(CocoProposals(root, top=top) if is_coco else PaletteProposals(root, top=top), top=top)


class PastedProposals(ProposalSource):
    """Proposals of pasted clips put together from those of their parts; other clips are passed on.

    Those of the clip behind lose what is hidden by pasted objects. Those of a clip whose objects are pasted move along and
    lose what is not pasted, or hidden by later ones: *semi-synthetic*, and kinder than a detector would be to the outlines of
    pasted objects, not to the pieces that they are in.

    Args:
        source: of the proposals of the parts.
        top: at most so many, the largest.
    """

    def __init__(self, source: ProposalSource, *, top: int = 50) -> None:
        self.source, self.top = source, _checked_top(top)

    @property
    def identity(self) -> str:
        return f"{self.source.identity} pasted"

    def propose(self, clip: Clip, t: int) -> Proposals:
        if not isinstance(clip, PastedClip):
            return self.source.propose(clip, t)
        owner = clip.owner(t)
        found = []
        for index, (part, shift) in enumerate(clip.parts):
            proposals = self.source.propose(part, t)
            for mask, score in zip(proposals.masks, proposals.scores, strict=True):
                visible = shifted(mask, shift) & (owner == index)
                if visible.any():
                    found.append((visible, score))
        found.sort(key=lambda entry: (-entry[1], -entry[0].sum()))
        found = found[: self.top]
        masks = np.stack([mask for mask, _ in found]) if found else np.zeros((0, *clip.size), dtype=bool)
        return Proposals(masks, np.array([score for _, score in found], dtype=np.float32))


# --- proposals made from the truth ------------------------------------------------------------------------------


_SPECK = math.log(0.004), math.log(0.05)
"""Logarithms of the half axes of specks, in shares of the shorter side."""


class NoisyProposals(ProposalSource):
    """Proposals made from the ground truth, for controlled experiments: they tell nothing of how good a detector is.

    Every thing that is seen, distractors of a synthetic clip included, is proposed with probability 1 - `miss`: its mask
    moved by a pixel or so, grown or shrunk, with a bite taken out. Added are pieces of masks, unions of two, and ellipses
    anywhere, and specks: ellipses of a few pixels, as segmentations find in any texture. The random numbers of a frame
    depend on seed, clip and frame alone.

    Args:
        seed: an integer, 0 or more.
        miss: in [0, 1].
        extra: how many pieces, unions and ellipses a frame.
        specks: how many of them a frame. Features that have never seen any take one for an object that is not there.
        top: at most so many.

    Raises:
        ValueError: in `propose`, if the frame has no labels.
    """

    def __init__(self, *, seed: int = 0, miss: float = 0.05, extra: int = 6, specks: int = 6, top: int = 50) -> None:
        if not 0 <= miss <= 1:
            raise ValueError(f"miss must be in [0, 1]; got {miss}")
        for name, value in (("seed", seed), ("extra", extra), ("specks", specks)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more; got {value}")
        self.seed, self.miss, self.extra, self.specks, self.top = seed, miss, extra, specks, _checked_top(top)

    @property
    def identity(self) -> str:
        return f"noisy {self.seed} {self.miss} {self.extra} {self.specks} top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        name = int.from_bytes(hashlib.sha256(clip.name.encode()).digest()[:8], "big")
        rng = np.random.default_rng((self.seed, name, t))
        instances = clip.instances(t) if isinstance(clip, SyntheticClip) else clip.labels(t)
        if instances is None:
            raise ValueError(f"{clip.name}: frame {clip.frame_names[t]} has no labels to make noisy proposals from")
        things = [instances == label for label in np.unique(instances) if label not in (0, 255)]
        masks = [_noisy(mask, rng) for mask in things if rng.random() >= self.miss]
        for kind in rng.integers(3, size=self.extra):
            if kind == 0 and things:
                masks.append(_piece(things[rng.integers(len(things))], rng))
            elif kind == 1 and len(things) > 1:
                a, b = rng.choice(len(things), 2, replace=False)
                masks.append(_noisy(things[a] | things[b], rng))
            else:
                masks.append(_ellipse(instances.shape, rng.uniform(0.05, 0.2, 2), rng))
        for _ in range(self.specks):
            masks.append(_ellipse(instances.shape, np.exp(rng.uniform(*_SPECK, 2)), rng))
        masks = [mask for mask in masks if mask.any()]
        order = rng.permutation(len(masks))[: self.top]
        stacked = np.stack([masks[i] for i in order]) if len(order) else np.zeros((0, *instances.shape), dtype=bool)
        return Proposals(stacked, np.sort(rng.uniform(0.3, 1, len(order)).astype(np.float32))[::-1].copy())


def _noisy(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    size = max(1.0, float(np.sqrt(mask.sum())))
    shift = np.rint(rng.normal(0, 0.4 + 0.02 * size, 2)).astype(int)
    moved = ndimage.shift(mask, shift, order=0)
    steps = int(np.rint(rng.normal(0, 0.4 + 0.02 * size)))
    if steps > 0:
        moved = ndimage.binary_dilation(moved, iterations=steps)
    elif steps < 0:
        shrunk = ndimage.binary_erosion(moved, iterations=-steps)
        moved = shrunk if shrunk.any() else moved
    if moved.any() and rng.random() < 0.3:
        y, x = np.argwhere(moved)[rng.integers(moved.sum())]
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        moved = moved & (np.hypot(rows - y, columns - x) > 0.2 * size)
    return np.asarray(moved, dtype=bool)


def _piece(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    y, x = np.argwhere(mask)[rng.integers(mask.sum())]
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return mask & ((rows - y) * np.sin(angle) + (columns - x) * np.cos(angle) > 0)


def _ellipse(shape: tuple[int, ...], axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Anywhere, with half axes (y, x) in shares of the shorter side."""
    center, axes = rng.uniform(0, 1, 2) * shape, axes * min(shape)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((rows - center[0]) / axes[0]) ** 2 + ((columns - center[1]) / axes[1]) ** 2 < 1


# --- proposals by Mask R-CNN ------------------------------------------------------------------------------------


class MaskRCNNProposals(ProposalSource):
    """Proposals by torchvision's Mask R-CNN.

    Args:
        weights: a file of a state dict (``.pt``, ``.pth`` or safetensors) of the network with that backbone;
            ``"COCO"``: torchvision's own, downloaded by it (resnet50 alone); None: random, of use in tests alone.
        backbone: of `BACKBONES`, with a feature pyramid.
        top: at most so many, those of highest score.
        min_score: leave out what scores less.
        min_size: frames are resized to this many pixels on the shorter side.
        device: of the network.
        classes: of the network, background included.

    Raises:
        ValueError: another backbone; weights that are not there, or do not fit.
    """

    def __init__(
        self,
        weights: str | Path | None = "COCO",
        *,
        backbone: str = "resnet50",
        top: int = 50,
        min_score: float = 0.05,
        min_size: int = 800,
        device: torch.device | str = "cpu",
        classes: int = 91,
    ) -> None:
        from torchvision.models.detection import (
            MaskRCNN,
            MaskRCNN_ResNet50_FPN_Weights,
            maskrcnn_resnet50_fpn,
        )
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}; got {backbone}")
        options = {"box_detections_per_img": _checked_top(top), "box_score_thresh": min_score, "min_size": min_size}
        if weights == "COCO":
            if backbone != "resnet50":
                raise ValueError(
                    f"weights: torchvision has COCO weights for resnet50 alone; got {backbone}, wanted a file"
                )
            self.network = maskrcnn_resnet50_fpn(weights=MaskRCNN_ResNet50_FPN_Weights.COCO_V1, **options)
            mark = "COCO_V1"
        else:
            body = resnet_fpn_backbone(backbone_name=backbone, weights=None)
            self.network = MaskRCNN(body, classes, **options)
            mark = "none" if weights is None else self._load(Path(weights))
        self.network.eval().to(device)
        self.device = torch.device(device)
        self._identity = f"maskrcnn {backbone} {mark} top {top} min {min_score} size {min_size}"

    def _load(self, path: Path) -> str:
        """Read the weights; the hash of the file."""
        if not path.is_file():
            raise ValueError(f"weights: no file {path}")
        with checkpoint_errors("weights", path, "one of this network"):
            if path.suffix == ".safetensors":
                state = read_safetensors(path, argument="weights")[1]
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
            load_weights(self.network, state)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def identity(self) -> str:
        return self._identity

    def propose(self, clip: Clip, t: int) -> Proposals:
        return self.look(clip.frame(t))

    @torch.no_grad()
    def look(self, frame: Frame) -> Proposals:
        """The proposals of a picture."""
        image = torch.from_numpy(frame.copy()).permute(2, 0, 1).float().div(255)
        found = self.network([image.to(self.device)])[0]
        masks = (found["masks"][:, 0] > 0.5).cpu().numpy()
        return Proposals(masks, found["scores"].cpu().numpy())


# --- the cache --------------------------------------------------------------------------------------------------


class CachedProposals(ProposalSource):
    """Another source, asked once for each frame: the answers are kept in ``ROOT/CLIP/FRAME.safetensors``, as bits.

    Args:
        source: what to ask.
        root: a folder, made when needed. Files there of another source, or of a frame of another size, are an error, as
            they are someone's work.

    Raises:
        ValueError: in `propose`, as said, or as the source does.
    """

    def __init__(self, source: ProposalSource, root: str | Path) -> None:
        self.source, self.root = source, Path(root)

    @property
    def identity(self) -> str:
        return self.source.identity

    def follower(self) -> Following | None:
        return self.source.follower()

    def propose(self, clip: Clip, t: int) -> Proposals:
        path = self.root / clip.name / f"{clip.frame_names[t]}.safetensors"
        meta = {"format": _FORMAT, "source": self.identity, "size": json.dumps(clip.size)}
        if path.is_file():
            return _read(path, meta, clip.size)
        proposals = self.source.propose(clip, t)
        bits = np.packbits(proposals.masks.reshape(len(proposals), clip.size[0] * clip.size[1]), axis=1)
        tensors = {"bits": torch.from_numpy(bits), "scores": torch.from_numpy(proposals.scores)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(tensors, meta))
        return proposals


def _read(path: Path, wanted: dict[str, str], size: tuple[int, int]) -> Proposals:
    found, tensors = read_safetensors(path, argument="cache")
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: got a cache with the {name} {found.get(name)!r}, wanted {value!r}; give another folder, or remove it"
            )
    with checkpoint_errors("cache", path, "one of proposals"):
        bits, scores = tensors["bits"].numpy(), tensors["scores"].numpy()
    if bits.dtype != np.uint8 or bits.shape != (len(scores), -(-size[0] * size[1] // 8)) or scores.dtype != np.float32:
        raise ValueError(
            f"{path}: got bits {bits.dtype} {bits.shape} and scores {scores.dtype} {scores.shape}, which are no cache"
        )
    masks = np.unpackbits(bits, axis=1, count=size[0] * size[1])
    return Proposals(masks.reshape(-1, *size).astype(bool), scores)


def _checked_top(top: int) -> int:
    if top < 1:
        raise ValueError(f"top must be 1 or more; got {top}")
    return top
