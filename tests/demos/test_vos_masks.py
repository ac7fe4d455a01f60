"""The network that draws the masks of embedded proposals, its examples, and its training from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demos.vos.__main__ import main
from demos.vos.images import write_labels
from demos.vos.proposals import network as networks
from demos.vos.proposals.appearance import Appearance, distances, pixels_of
from demos.vos.proposals.cues import carried, maps_of, optical_flow, shrunk
from demos.vos.proposals.embedded import Follower
from demos.vos.proposals.examples import batch_of, make_examples, mistaken
from demos.vos.proposals.network import SIZE, MaskNetwork, cut, drawn, load_mask_network, window
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from demos.vos.train_masks import mask_loss
from difflayers.metrics import jaccard


def clip(seed: int, height: int = 64, width: int = 96, *, frames: int = 6) -> SyntheticClip:
    return SyntheticClip(seed, SyntheticConfig(height=height, width=width, frames=frames))


CLIP = clip(3)


def test_a_window_shows_what_is_around_the_mask() -> None:
    mask = np.zeros((60, 90), bool)
    mask[20:40, 50:80] = True
    for margin, mirrored in ((1.7, False), (1.7, True), (2.4, False)):
        matrix = window(mask, margin=margin, mirrored=mirrored)
        shown = cut(mask.astype(np.float32), matrix) > 0.5
        rows, columns = np.nonzero(shown)
        scale = SIZE / (margin * 30)
        assert abs(np.ptp(columns) + 1 - 30 * scale) <= 2 and abs(np.ptp(rows) + 1 - 20 * scale) <= 2
        assert abs(columns.mean() - (SIZE - 1) / 2) < 1 and abs(rows.mean() - (SIZE - 1) / 2) < 1
        left = np.zeros((60, 90), np.float32)
        left[20:40, 50:60] = 1
        assert (np.nonzero(cut(left, matrix))[1].mean() > SIZE / 2) == mirrored
    assert np.nonzero(cut(mask.astype(np.float32), window(mask, shift=(0.1, 0))))[1].mean() < SIZE / 2 - 10
    turned = cut(mask.astype(np.float32), window(mask, degrees=90.0)) > 0.5
    assert np.ptp(np.nonzero(turned)[0]) > np.ptp(np.nonzero(turned)[1]) + 20


class Echo(MaskNetwork):
    """Says what the moved mask says."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return 20 * (seen[:, 3] - 0.5)


def test_a_mask_is_drawn_where_it_was_seen() -> None:
    frame, mask = CLIP.frame(0), CLIP.labels(0) == 1
    maps = np.repeat(mask.astype(np.float32)[..., None], 3, 2)
    assert jaccard(mask, drawn(Echo(), frame, maps) > 0.5) > 0.9


def test_shapes_and_the_shipped_weights() -> None:
    network = load_mask_network()
    assert not network.training
    assert network(torch.rand(2, 6, SIZE, SIZE)).shape == (2, SIZE, SIZE)
    weights = load_file(networks.SHIPPED)
    assert sum(value.numel() for value in weights.values()) == sum(v.numel() for v in network.state_dict().values())
    assert networks.SHIPPED.stat().st_size < 2e6


def test_the_maps_of_a_frame() -> None:
    frame, before = CLIP.frame(1), CLIP.frame(0)
    mask, truth = CLIP.labels(0) == 1, CLIP.labels(1) == 1
    moved = carried(mask.astype(np.float32), optical_flow(frame, before))
    look = Appearance(pixels_of(before), mask)
    maps = maps_of(pixels_of(frame), moved, look, look)
    assert jaccard(truth, maps[..., 0] > 0.5) > jaccard(truth, mask) and np.array_equal(maps[..., 1], maps[..., 2])
    assert maps[truth][:, 1].mean() > 0.6 and maps[~truth][:, 1].mean() < 0.1
    assert (maps[distances(moved > 0.5) < -1.4 * np.sqrt((moved > 0.5).sum())][:, 1:] == 0).all()
    assert not optical_flow(frame[:9, :9], before[:9, :9]).any()  # too small for a pyramid
    assert shrunk(np.zeros((480, 960, 3), np.uint8)).shape == (240, 480, 3)


def test_mistakes_are_like_those_of_a_tracker() -> None:
    frame, mask = CLIP.frame(0), CLIP.labels(0) == 1
    found = [float(jaccard(mask, mistaken(mask, frame, np.random.default_rng(seed)))) for seed in range(40)]
    assert 0.75 < np.mean(found) < 0.98 and min(found) < 0.85 and max(found) > 0.95
    again = mistaken(mask, frame, np.random.default_rng(7))
    assert np.array_equal(again, mistaken(mask, frame, np.random.default_rng(7)))


def test_examples_are_drawn_from_the_seed() -> None:
    clips = [CLIP, clip(4)]
    examples = make_examples(clips, 3, 0)
    assert len(examples) == 6
    for one, other in zip(examples, make_examples(clips, 3, 0), strict=True):
        assert np.array_equal(one.seen, other.seen) and np.array_equal(one.truth, other.truth)
        assert one.seen.shape[2] == 6 and one.seen.dtype == one.truth.dtype == np.uint8
        moved = one.seen[..., 3] > 127
        assert jaccard(one.truth > 0, moved) > 0.3
    assert not np.array_equal(examples[0].seen, make_examples(clips, 3, 1)[0].seen)
    # The second clip's are the same whatever the first one is.
    assert np.array_equal(examples[3].seen, make_examples([clips[1], clips[1]], 3, 0)[3].seen)
    seen, truth = batch_of(examples, 5, np.random.default_rng(0))
    assert seen.shape == (5, 6, SIZE, SIZE) and truth.shape == (5, SIZE, SIZE) and seen.is_contiguous()
    assert 0 <= seen.min() and seen.max() <= 1 and set(truth.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen, batch_of(examples, 5, np.random.default_rng(0))[0])
    with pytest.raises(ValueError, match="got 0 without an object of 40 pixels"):
        make_examples([], 2, 0)


def test_the_loss_is_least_at_the_truth() -> None:
    truth = torch.zeros(2, 8, 8)
    truth[:, 2:5, 2:6] = 1
    right, wrong, none = (mask_loss(logits, truth) for logits in (40 * truth - 20, 20 - 40 * truth, 0 * truth))
    assert 0 <= right < 1e-3 and right < none < wrong


def davis(root: Path, clips: int = 2) -> Path:
    for index in range(clips):
        made = clip(10 + index, frames=4)
        for t in range(4):
            picture = root / "JPEGImages" / f"clip{index}" / f"{t:05d}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made.frame(t)).save(picture)
            write_labels(root / "Annotations" / f"clip{index}" / f"{t:05d}.png", made.labels(t))
    return root


def test_a_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = davis(tmp_path / "data")
    command = ["train-masks", str(data), "--layout", "davis2017", "--resolution", "none", "--examples", "3"]
    command += ["--steps", "2", "--batch-size", "2", "--lr", "1e-3"]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert main([*command, "--epochs", "3", "--output", str(whole), "--export", str(tmp_path / "x.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "6 examples of 2 clips; mean loss by epoch: " in text and len(re.findall(r"\d\.\d{3}", text)) == 3

    from demos.vos import train_masks

    steps = 0

    def stops(*args: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return batch_of(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train_masks, "batch_of", stops)
        assert main([*command, "--epochs", "3", "--output", str(halved)]) == 130
    assert "--resume goes on after epoch 1" in capsys.readouterr().err
    assert main([*command, "--epochs", "3", "--output", str(halved)]) == 2
    assert "pass --resume to go on" in capsys.readouterr().err
    assert main([*command, "--epochs", "4", "--output", str(halved), "--resume"]) == 2
    assert "is of a run with --epochs 3; wanted the same options" in capsys.readouterr().err
    assert main([*command, "--epochs", "3", "--output", str(halved), "--resume"]) == 0
    assert "resuming after epoch 1 of 3" in capsys.readouterr().out
    a, b = (load_file(folder / "masks.safetensors") for folder in (whole, halved))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    with safe_open(whole / "masks.safetensors", "pt") as one, safe_open(halved / "masks.safetensors", "pt") as other:
        assert one.metadata() == other.metadata()

    exported = load_mask_network(tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_size < (whole / "masks.safetensors").stat().st_size / 5
    for name, value in exported.state_dict().items():
        wanted = a[f"model.{name}"]
        assert torch.equal(value, wanted.half().float() if wanted.is_floating_point() else wanted)
    assert main([*command, "--output", str(whole), "--export", str(whole / "masks.safetensors"), "--overwrite"]) == 2
    assert "is the checkpoint of the training" in capsys.readouterr().err

    # It is what draws the masks then.
    track = ["track", str(data / "JPEGImages" / "clip0")]
    track += ["--masks", str(data / "Annotations" / "clip0" / "00000.png"), "--output"]
    assert main([*track, str(tmp_path / "a"), "--mask-network", str(tmp_path / "x.safetensors")]) == 0
    assert main([*track, str(tmp_path / "b"), "--mask-network", str(tmp_path / "nothing")]) == 2
    assert "--mask-network: no file" in capsys.readouterr().err
    evaluate = ["eval", str(data), "--layout", "davis2017", "--resolution", "none", "--matchings", "dmm"]
    assert main([*evaluate, "--proposals", "embedded", "--mask-network", str(tmp_path / "x.safetensors")]) == 0
    assert main([*evaluate, "--proposals", "noisy", "--mask-network", str(tmp_path / "x.safetensors")]) == 2
    assert "--mask-network: got --proposals noisy, wanted embedded" in capsys.readouterr().err


def test_wrong_weights(tmp_path: Path) -> None:
    weights = load_file(networks.SHIPPED)
    with safe_open(networks.SHIPPED, "pt") as file:
        metadata = file.metadata()
    for name, tensors, kind, message in (
        ("other", weights, {"format": "something"}, "has the format 'something'"),
        ("less", dict(list(weights.items())[1:]), metadata, "is not a network that draws masks: it has no tensor"),
        ("shape", weights | {"model.stem.bias": torch.zeros(3)}, metadata, "of shape \\(3,\\), wanted"),
    ):
        save_file(tensors, tmp_path / name, kind)
        with pytest.raises(ValueError, match=message):
            load_mask_network(tmp_path / name)


def test_the_follower_draws_with_its_network() -> None:
    frame, labels = CLIP.frame(0), CLIP.labels(0)
    result = []
    for network in (Echo().eval(), None):
        follower = Follower(network)
        follower.keep(frame, labels)
        found, masks = follower.propose(CLIP.frame(1))
        assert found == [1, 2, 3]
        result.append(masks)
    assert len(result[0]) == len(result[1]) == len(np.unique(labels)) - 1
    assert not np.array_equal(*result)
