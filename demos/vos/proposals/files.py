"""Proposals in files: palette PNGs, COCO results, and a cache of another source's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from demos.checkpoints import checkpoint_errors, read_safetensors
from demos.files import write_atomically
from demos.vos.data import Clip
from demos.vos.images import LABEL_SUFFIXES, read_labels
from demos.vos.proposals import Following, Proposals, ProposalSource, checked_top

_FORMAT = "difflayers-proposals-1"


class PaletteProposals(ProposalSource):
    """``ROOT/CLIP/FRAME.png``: every value other than 0 is the mask of a proposal. All scores are 1.

    Args:
        root: the folder of the clips'.
        top: at most so many, the largest.

    Raises:
        ValueError: in `propose`, if there is no file for the frame, or one of another size.
    """

    def __init__(self, root: str | Path, *, top: int = 50) -> None:
        self.root, self.top = Path(root), checked_top(top)
        if not self.root.is_dir():
            raise ValueError(f"--proposals: {self.root} is no folder")

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
        self.root, self.top = Path(root), checked_top(top)
        if not self.root.is_dir():
            raise ValueError(f"--proposals: {self.root} is no folder")
        self._read: tuple[Path, dict[int | str, list[dict[str, Any]]]] | None = None

    @property
    def identity(self) -> str:
        return f"coco {self.root.resolve()} top {self.top}"

    def propose(self, clip: Clip, t: int) -> Proposals:
        path = self.root / f"{clip.name}.json"
        frames = self._frames(path)
        entries = [*frames.get(clip.frame_names[t], ()), *frames.get(t, ())]
        try:
            scores = np.array([float(entry.get("score", 1)) for entry in entries], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: wanted a number for every score; {error}") from None
        order = np.argsort(-scores, kind="stable")[: self.top]
        entries = [entries[i] for i in order]
        masks = np.zeros((len(entries), *clip.size), dtype=bool)
        for mask, entry in zip(masks, entries, strict=True):
            decoded = _decode(path, entry, clip.size)
            if decoded.shape != clip.size:
                raise ValueError(
                    f"{path}: got a mask of {decoded.shape[0]} x {decoded.shape[1]} for frame {clip.frame_names[t]}, wanted "
                    f"{clip.size[0]} x {clip.size[1]}"
                )
            mask[:] = decoded
        return Proposals(masks, scores[order])

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
    except Exception as error:  # pycocotools raises that itself, too
        raise ValueError(f"{path}: wanted a segmentation of RLE or polygons in every entry; {error!r}") from None


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
    found, tensors = read_safetensors(path, argument="--cache")
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: got a cache with the {name} {found.get(name)!r}, wanted {value!r}; give another folder, or remove it"
            )
    with checkpoint_errors("--cache", path, "one of proposals"):
        bits, scores = tensors["bits"].numpy(), tensors["scores"].numpy()
    if bits.dtype != np.uint8 or bits.shape != (len(scores), -(-size[0] * size[1] // 8)) or scores.dtype != np.float32:
        raise ValueError(
            f"{path}: got bits {bits.dtype} {bits.shape} and scores {scores.dtype} {scores.shape}, which are no cache"
        )
    masks = np.unpackbits(bits, axis=1, count=size[0] * size[1])
    return Proposals(masks.reshape(-1, *size).astype(bool), scores)
