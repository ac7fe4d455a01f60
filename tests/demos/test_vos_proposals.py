"""Proposals from files, from the truth, from Mask R-CNN, and their cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_cuda import Cuda
from pycocotools import mask as coco
from safetensors.torch import save_file

from demos.vos.images import write_labels
from demos.vos.proposals import Proposals
from demos.vos.proposals.files import CachedProposals, CocoProposals, PaletteProposals
from demos.vos.proposals.maskrcnn import MaskRCNNProposals
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.proposals.pasted import PastedProposals
from demos.vos.proposals.sources import source_from
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from difflayers.metrics import jaccard

CLIP = SyntheticClip(2, SyntheticConfig(frames=4, height=48, width=64))


def write_palette(root: Path) -> None:
    for t in range(3):
        write_labels(root / CLIP.name / f"{t:05d}.png", CLIP.instances(t) if t else CLIP.labels(0) * 0)


def same(a: Proposals, b: Proposals) -> bool:
    return np.array_equal(a.masks, b.masks) and np.array_equal(a.scores, b.scores) and a.masks.dtype == b.masks.dtype


def test_palette_proposals(tmp_path: Path) -> None:
    write_palette(tmp_path)
    source = source_from(tmp_path)
    assert isinstance(source, PastedProposals) and isinstance(source.source, PaletteProposals)
    assert source.propose(CLIP, 0).masks.shape == (0, 48, 64)  # none at all
    found, truth = source.propose(CLIP, 1), CLIP.instances(1)
    assert found.masks.dtype == bool and found.scores.tolist() == [1] * (len(np.unique(truth)) - 1)
    areas = found.masks.sum((1, 2))
    assert (np.diff(areas) <= 0).all() and np.array_equal(found.masks.any(0), truth > 0)
    assert np.array_equal(PaletteProposals(tmp_path, top=2).propose(CLIP, 1).masks, found.masks[:2])
    with pytest.raises(ValueError, match=r"00003\.png: no such file"):
        source.propose(CLIP, 3)
    write_labels(tmp_path / CLIP.name / "00002.png", np.zeros((5, 5), np.uint8), overwrite=True)
    with pytest.raises(ValueError, match="got labels of 5 x 5"):
        source.propose(CLIP, 2)


def test_coco_proposals(tmp_path: Path) -> None:
    masks = [CLIP.instances(1) == k for k in (1, 2)]
    compressed = coco.encode(np.asfortranarray(masks[0]))
    compressed["counts"] = compressed["counts"].decode()
    runs = np.flatnonzero(np.diff(np.concatenate(([False], masks[1].T.ravel())).astype(int)))
    counts = np.diff([0, *runs, masks[1].size]).tolist()
    square = [10, 10, 20, 10, 20, 30, 10, 30]
    entries = [
        {"image_id": 1, "segmentation": compressed, "score": 0.5},
        {"image_id": "00001", "segmentation": {"size": [48, 64], "counts": counts}, "score": 0.9},
        {"image_id": 2, "segmentation": [square]},
    ]
    path = tmp_path / f"{CLIP.name}.json"
    path.write_text(json.dumps(entries))
    source = source_from(tmp_path)
    assert isinstance(source, PastedProposals) and isinstance(source.source, CocoProposals)
    found = source.propose(CLIP, 1)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert np.array_equal(found.masks, np.stack(masks[::-1]))
    assert len(source_from(tmp_path, top=1).propose(CLIP, 1)) == 1
    polygon = source.propose(CLIP, 2).masks[0]
    assert polygon[10:30, 10:20].all() and polygon.sum() == 200
    assert source.propose(CLIP, 0).masks.shape == (0, 48, 64)
    for text, message in (
        ("{", "wanted a list of COCO results"),
        ('[{"score": 1}]', "each with an image_id"),
        ('[{"image_id": 0}]', "wanted a segmentation"),
        ('[{"image_id": 0, "segmentation": {"size": 3, "counts": [1]}}]', "wanted a segmentation"),
        ('[{"image_id": 0, "score": null}]', "wanted a number for every score"),
        ('[{"image_id": 0, "score": "good"}]', "wanted a number for every score"),
        (json.dumps([{"image_id": 0, "segmentation": coco_of(np.ones((5, 5), bool))}]), "got a mask of 5 x 5"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            CocoProposals(tmp_path).propose(CLIP, 0)
    path.rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match="no such file"):
        CocoProposals(tmp_path).propose(CLIP, 0)


def coco_of(mask: np.ndarray) -> dict[str, Any]:
    code = coco.encode(np.asfortranarray(mask))
    return {**code, "counts": code["counts"].decode()}


def test_noisy_proposals() -> None:
    source = NoisyProposals(seed=1, miss=0, extra=4, specks=0)
    found = source.propose(CLIP, 1)
    assert same(found, NoisyProposals(seed=1, miss=0, extra=4, specks=0).propose(CLIP, 1))
    assert not same(found, NoisyProposals(seed=2, miss=0, extra=4, specks=0).propose(CLIP, 1))
    assert (np.diff(found.scores) <= 0).all()
    seen = [k for k in np.unique(CLIP.instances(1)) if k]
    for k in seen:  # distractors, too
        best = max(float(jaccard(CLIP.instances(1) == k, mask)) for mask in found.masks)
        assert 0.5 < best
    exact = [np.array_equal(CLIP.instances(1) == k, mask) for k in seen for mask in found.masks]
    assert sum(exact) < len(seen) / 2  # most are not quite right
    assert len(seen) < len(found) <= len(seen) + 4
    assert len(NoisyProposals(miss=1, extra=0, specks=0).propose(CLIP, 1)) == 0
    assert len(NoisyProposals(top=2).propose(CLIP, 1)) == 2
    hits = [len(NoisyProposals(seed=s, miss=0.5, extra=0, specks=0).propose(CLIP, 1)) / len(seen) for s in range(40)]
    assert 0.35 < np.mean(hits) < 0.65


def test_specks() -> None:
    areas = np.array(
        [
            mask.sum()
            for seed in range(20)
            for mask in NoisyProposals(seed=seed, miss=1, extra=0, specks=5).propose(CLIP, 1).masks
        ]
    )
    height, width = CLIP.size
    assert 40 < len(areas) <= 100  # of such a small picture many fall between the pixels
    assert areas.max() <= np.pi * (0.05 * min(height, width) + 1) ** 2
    assert np.median(areas) < 0.002 * height * width


def test_cache(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(NoisyProposals):
        def propose(self, clip: Any, t: int) -> Proposals:
            asked.append(t)
            return super().propose(clip, t)

    cache = CachedProposals(Counting(seed=3), tmp_path)
    first = [cache.propose(CLIP, t) for t in (0, 1)]
    again = [CachedProposals(Counting(seed=3), tmp_path).propose(CLIP, t) for t in (0, 1)]
    assert asked == [0, 1] and all(map(same, first, again))
    with pytest.raises(ValueError, match=r"the source 'noisy 3 .* wanted 'noisy 4 .*give another folder"):
        CachedProposals(Counting(seed=4), tmp_path).propose(CLIP, 0)
    empty = CachedProposals(NoisyProposals(miss=1, extra=0, specks=0), tmp_path / "empty")
    assert same(empty.propose(CLIP, 0), empty.propose(CLIP, 0))
    path = tmp_path / CLIP.name / "00000.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        cache.propose(CLIP, 0)


def test_mask_rcnn_on_cuda(cuda: Cuda, tmp_path: Path) -> None:
    options = {"backbone": "resnet18", "top": 3, "min_score": 0.0, "min_size": 48, "classes": 3}
    source = MaskRCNNProposals(None, **options)
    save_file(source.network.state_dict(), tmp_path / "weights.safetensors")
    there = MaskRCNNProposals(tmp_path / "weights.safetensors", device="cuda", **options)
    assert all(parameter.is_cuda for parameter in there.network.parameters())
    assert same(found := there.propose(CLIP, 0), source.propose(CLIP, 0)) or not cuda.exact
    assert found.masks.shape[1:] == (48, 64)


def test_mask_rcnn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = MaskRCNNProposals(None, backbone="resnet18", top=3, min_score=0.0, min_size=48, classes=3)
    found = source.propose(CLIP, 0)
    assert found.masks.shape[1:] == (48, 64) and len(found) <= 3 and (np.diff(found.scores) <= 0).all()
    path = tmp_path / "weights.safetensors"
    save_file(source.network.state_dict(), path)
    torch.manual_seed(1)
    loaded = MaskRCNNProposals(path, backbone="resnet18", top=3, min_score=0.0, min_size=48, classes=3)
    assert same(found, loaded.propose(CLIP, 0)) and loaded.identity != source.identity
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "other.pt").write_bytes(b"nonsense")
    for name in ("other.safetensors", "other.pt"):
        with pytest.raises(ValueError, match="is not one of this network"):
            source._load(tmp_path / name)
    with pytest.raises(ValueError, match="--weights: no file"):
        MaskRCNNProposals(tmp_path / "none.pt", backbone="resnet18")
    with pytest.raises(ValueError, match="COCO weights for resnet50 alone"):
        MaskRCNNProposals(backbone="resnet101")
    with pytest.raises(ValueError, match="--detector: got vgg, wanted one of"):
        MaskRCNNProposals(backbone="vgg")


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder; wanted one of palette PNGs or COCO JSON, noisy or embedded"):
        source_from(tmp_path / "none")
    assert isinstance(source_from("noisy"), NoisyProposals)
    for make in (
        lambda: NoisyProposals(miss=2),
        lambda: NoisyProposals(extra=-1),
        lambda: NoisyProposals(specks=-1),
        lambda: source_from(tmp_path, top=0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
