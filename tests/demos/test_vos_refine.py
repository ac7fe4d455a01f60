"""Refinement, fine-tuning on the first frame, bfloat16, several processes."""

from __future__ import annotations

import doctest
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from demos.vos import refine
from demos.vos.checkpoint import NAMES, load_trained
from demos.vos.config import ModelConfig, TrainConfig
from demos.vos.finetune import StillClip, finetune, finetuned
from demos.vos.losses import Losses
from demos.vos.model import Features, Matching, Method
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.refine import ConvLSTMCell, Refinement
from demos.vos.samples import Sampler
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from demos.vos.tracking import Tracker, merge, observe, paste, track
from demos.vos.train import Trainer

MODEL = ModelConfig(dimension=16, refine=True, refine_width=4)
SHAPES = SyntheticConfig(frames=6, height=48, width=64, objects=2, look_alikes=0, distractors=1, bars=0, speed=0.3)
TRAIN = TrainConfig(epochs=2, steps=2, batch_size=2)
SOURCE = NoisyProposals(miss=0)


def sampler(config: TrainConfig = TRAIN) -> Sampler:
    return Sampler([SyntheticClip(seed, SHAPES) for seed in (1, 2)], SOURCE, config)


def fresh(model: ModelConfig = MODEL) -> Features:
    torch.manual_seed(0)
    return Features(model).eval()


# --- the module ---------------------------------------------------------------------------------------------


def test_docstring_example() -> None:
    results = doctest.testmod(refine)
    assert results.failed == 0 and results.attempted > 0


def test_cell_by_hand() -> None:
    """A picture of one pixel, weights on the centre alone: the LSTM of the textbook."""
    cell = ConvLSTMCell(1, 1).double()
    with torch.no_grad():
        cell.gates.weight.zero_()
        cell.gates.weight[:, :, 1, 1] = torch.tensor([[0.3, 0.1], [0.2, -0.4], [0.5, 0.6], [-0.7, 0.8]])
    assert cell.gates.bias is not None and cell.gates.bias[1] == 1
    bias = cell.gates.bias.detach()
    hidden = memory = torch.tensor(0.0, dtype=torch.float64)
    state = None
    for x in (0.9, -1.3):
        state = cell(torch.full((1, 1, 1, 1), x, dtype=torch.float64), state)
        i, f, o, g = cell.gates.weight[:, 0, 1, 1] * x + cell.gates.weight[:, 1, 1, 1] * hidden + bias
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * memory.tanh()
        torch.testing.assert_close(state[0].squeeze(), hidden)
        torch.testing.assert_close(state[1].squeeze(), memory)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_untrained_it_changes_nothing(backbone: str) -> None:
    features = fresh(replace(MODEL, backbone=backbone))
    _, levels = features.look(torch.rand(2, 3, 64, 96))
    assert len(levels) == 4 and [level.shape[-1] for level in levels] == sorted(level.shape[-1] for level in levels)
    assert features.refinement is not None
    pasted = torch.rand(3, 64, 96)
    rows = torch.tensor([0, 1, 1])
    logits, _ = features.refinement(levels, rows, pasted, pasted, features.refinement.remember(levels, rows, pasted))
    torch.testing.assert_close(logits.sigmoid(), 0.1 + 0.8 * pasted)


def test_rows_memory_and_the_frame_before_matter() -> None:
    torch.manual_seed(0)
    net = Refinement((4, 4, 4, 4), width=4)
    torch.nn.init.normal_(net.last.weight)
    levels = [torch.rand(2, 4, 3 * 2**s, 5 * 2**s) for s in range(4)]
    pasted = torch.rand(1, 24, 40).expand(2, -1, -1)
    rows = torch.tensor([0, 1])
    looks = net.remember(levels, rows, pasted)
    pixels = net.pixels(levels[-1])
    weights = torch.nn.functional.interpolate(pasted[:1, None], size=(24, 40), mode="area")[0]
    torch.testing.assert_close(looks[1, 0], (weights * pixels[1]).sum((1, 2)) / weights.sum())
    torch.testing.assert_close(looks[0, 1], ((1 - weights) * pixels[0]).sum((1, 2)) / (1 - weights).sum())
    out, state = net(levels, rows, pasted, pasted, looks)
    assert not torch.allclose(out[0], out[1])  # other pictures
    alone, _ = net([level[1:] for level in levels], rows[:1], pasted[:1], pasted[:1], looks[1:])
    torch.testing.assert_close(alone[0], out[1])
    assert not torch.allclose(net(levels, rows, pasted, pasted, looks, state)[0], out)
    assert not torch.allclose(net(levels, rows, pasted, torch.zeros_like(pasted), looks)[0], out)
    assert not torch.allclose(net(levels, rows, pasted, pasted, looks.flip(1))[0], out)


# --- training -----------------------------------------------------------------------------------------------


def test_the_mask_loss_reaches_the_features_through_the_matching() -> None:
    losses = Losses(fresh(), TRAIN)
    batch = sampler().batch(0)
    assert losses.features.refinement is not None
    _, levels = losses.features.look(batch.frames.flatten(0, 1))
    levels = [level.detach() for level in levels]  # so that X is the only way
    X = (batch.target * 0.9 + 0.01).requires_grad_()
    losses._mask_loss(levels, (X, X), batch).backward()
    assert X.grad is not None and X.grad[batch.target > 0].abs().min() > 0
    losses(batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in losses.features.parameters())
    torch.nn.init.normal_(losses.features.refinement.last.weight)
    losses.zero_grad()
    losses(batch).backward()
    assert all(p.grad is not None and p.grad.any() for p in losses.features.refinement.parameters())


def test_training_lowers_the_mask_loss_and_resumes(
    tmp_path: Path, stop_after: Callable[[int], Callable[[float], None]]
) -> None:
    config = replace(TRAIN, epochs=2, steps=10, lr=1e-2)
    whole = Trainer(sampler(config), MODEL, tmp_path / "whole.safetensors")
    batch = sampler(config).batch(1000)
    before = whole.losses(batch).item()
    whole.fit()
    assert whole.losses(batch).item() < before

    path = tmp_path / "run.safetensors"
    with pytest.raises(InterruptedError):
        Trainer(sampler(config), MODEL, path).fit(stop_after(13))
    Trainer(sampler(config), MODEL, path, resume=True).fit()
    loaded = load_trained(path).features
    assert loaded.refinement is not None
    for name, value in whole.features.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_diverging_training_says_so() -> None:
    with pytest.raises(RuntimeError, match="a lower lr may help"):
        Trainer(sampler(replace(TRAIN, lr=1e20)), MODEL).fit()


def test_bfloat16_is_near_float32_and_learns() -> None:
    batch = sampler().batch(0)
    exact, coarse = Losses(fresh(), TRAIN), Losses(fresh(), replace(TRAIN, amp=True))
    values = [losses(batch) for losses in (exact, coarse)]
    assert values[1].dtype == torch.float32
    assert values[0].item() == pytest.approx(values[1].item(), rel=0.05) and values[0].item() != values[1].item()
    for value in values:
        value.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in coarse.features.parameters())
    exactly, coarsely = (
        torch.cat([p.grad.flatten() for p in losses.features.parameters() if p.grad is not None])
        for losses in (exact, coarse)
    )
    assert coarsely.isfinite().all() and torch.nn.functional.cosine_similarity(exactly, coarsely, dim=0) > 0.9


def uneven(loss: str) -> Trainer:
    """A run in which the two samples of a batch have not equally many objects, or proposals."""
    clips = [SyntheticClip(seed, replace(SHAPES, objects=objects)) for seed, objects in ((1, 3), (2, 1))]
    model = replace(MODEL, refine=loss == "layer")
    return Trainer(Sampler(clips, SOURCE, replace(TRAIN, loss=loss, seed=1)), model)


_TWO = """
import sys, torch
from torch import distributed as dist
from safetensors.torch import save_file
from tests.demos.test_vos_refine import uneven
dist.init_process_group("gloo")
for loss in ("layer", "pairs"):
    trainer = uneven(loss)
    assert (trainer.rank, trainer.ranks) == (dist.get_rank(), 2)
    flat = torch.cat([p.detach().flatten() for p in trainer.fit().parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    assert torch.equal(*both)
    if trainer.rank == 0:
        history = torch.tensor(trainer.history)
        save_file({"weights": flat, "history": history}, sys.argv[1] + "/" + loss + ".safetensors")
dist.destroy_process_group()
"""


def test_two_processes_train_as_one(
    tmp_path: Path, run_on_two: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    done = run_on_two(str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr
    for loss in ("layer", "pairs"):
        one = uneven(loss)
        shares = [[one.sampler.batch(step, rank, 2) for rank in (0, 1)] for step in range(TRAIN.steps)]
        assert any(one.losses.terms(a) != one.losses.terms(b) for a, b in shares)
        for step, (a, b) in enumerate(shares):
            whole = one.sampler.batch(step)
            assert torch.equal(whole.frames[1], b.frames[0])
            assert one.losses.terms(whole) == one.losses.terms(a) + one.losses.terms(b)
        wanted = torch.cat([p.detach().flatten() for p in one.fit().parameters()])
        found = load_file(tmp_path / f"{loss}.safetensors")
        torch.testing.assert_close(found["history"], torch.tensor(one.history), rtol=1e-4, atol=1e-5)
        # Adam divides gradients by their own size, which turns rounding of those near 0 into steps of up to lr.
        assert (found["weights"] - wanted).abs().mean() < 1e-6 and (found["weights"] - wanted).abs().max() < 2e-4


def test_batches_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    from demos.vos import train

    monkeypatch.setattr(train, "place", lambda: (0, 3))
    with pytest.raises(ValueError, match="--batch-size: got 2, wanted a multiple of the 3 processes"):
        Trainer(sampler(), MODEL)


# --- tracking -----------------------------------------------------------------------------------------------


def test_tracking_with_an_untrained_refinement_is_tracking_without() -> None:
    clip, features = SyntheticClip(5, SHAPES), fresh()
    matching = Matching("dmm", MODEL)
    methods = {"plain": Method(features, matching), "refined": Method(features, matching, True)}
    labels = track(clip, SOURCE, methods)
    assert labels["plain"].any() and np.array_equal(labels["plain"], labels["refined"])
    assert features.refinement is not None
    with torch.no_grad():
        assert features.refinement.last.bias is not None
        features.refinement.last.bias.fill_(-9)
    labels = track(clip, SOURCE, methods)
    assert labels["plain"][1:].any() and not labels["refined"][1:].any()
    with torch.no_grad():
        features.refinement.last.bias.fill_(9)
    # Nothing is proposed; the refinement still has its say.
    labels = track(clip, NoisyProposals(miss=1, extra=0, specks=0), methods)
    assert not labels["plain"][1:].any() and labels["refined"][1:].all()
    with pytest.raises(ValueError, match="have no refinement"):
        Tracker(fresh(replace(MODEL, refine=False)), matching, True)


def test_the_tracker_carries_state_and_masks() -> None:
    """Two frames by hand."""
    clip, features = SyntheticClip(5, SHAPES), fresh()
    net = features.refinement
    assert net is not None
    torch.nn.init.normal_(net.last.weight)
    matching = Matching("dmm", MODEL)
    tracker = Tracker(features, matching, True)
    seen = [observe(features, clip.frame(t), SOURCE.propose(clip, t)) for t in range(3)]
    tracker.add(seen[0], clip.labels(0), [1, 2])
    rows = torch.zeros(2, dtype=torch.int64)
    before = torch.stack([torch.from_numpy(clip.labels(0) == label) for label in (1, 2)]).float()
    with torch.no_grad():
        looks = net.remember(seen[0].levels, rows, before)
        _, state = net(seen[0].levels, rows, before, before, looks)
        for frame in seen[1:]:
            X, _ = matching(tracker._looks, tracker._masks, frame.features, frame.small)
            logits, state = net(frame.levels, rows, paste(X, frame.masks), before, looks, state)
            before = logits.sigmoid()
            labels = tracker.step(frame)
            assert np.array_equal(labels, merge(before, [1, 2]))
            torch.testing.assert_close(tracker._before, before)


def test_objects_that_come_later_join_the_state() -> None:
    class Late(SyntheticClip):
        def labels(self, t: int) -> np.ndarray:  # type: ignore[override]
            found = super().labels(t)
            return np.where((found == 2) & (t < 3), 0, found).astype(np.uint8)

    clip = Late(5, SHAPES)
    features = fresh()
    labels = track(clip, SOURCE, {"refined": Method(features, Matching("dmm", MODEL), True)})["refined"]
    assert not (labels[:3] == 2).any() and np.array_equal(labels[3] == 2, clip.labels(3) == 2)


# --- fine-tuning --------------------------------------------------------------------------------------------


def test_still_clip() -> None:
    clip = SyntheticClip(5, SHAPES)
    still = StillClip(clip, seed=3)
    assert np.array_equal(still.frame(0), clip.frame(0)) and np.array_equal(still.labels(0), clip.labels(0))
    assert still.given == {0: (1, 2)} and still.size == clip.size
    assert np.array_equal(still.frame(4), StillClip(clip, seed=3).frame(4))
    assert not np.array_equal(still.frame(4), StillClip(clip, seed=4).frame(4))
    for t in range(1, len(still)):
        assert set(np.unique(still.labels(t))) <= {0, 1, 2}
        # Picture and labels move alike: an object keeps its mean colour, but for the brightness and what leaves the picture.
        for label in (1, 2):
            old, new = still.labels(0) == label, still.labels(t) == label
            if new.sum() > 0.7 * old.sum():
                was, now = still.frame(0)[old].mean(0), still.frame(t)[new].mean(0)
                assert np.abs(now / now.sum() - was / was.sum()).max() < 0.05


def test_finetune_learns_and_leaves_the_network_alone() -> None:
    clip, features = SyntheticClip(5, SHAPES), fresh()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    own, again = (finetune(features, clip, steps=10, lr=1e-2) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in features.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in own.state_dict().items())
    assert not torch.equal(own.head[1].weight, features.head[1].weight) and not own.training
    batch = Sampler([StillClip(clip, seed=9)], NoisyProposals(seed=9), replace(TRAIN, batch_size=8)).batch(0)
    with torch.no_grad():
        assert Losses(own, TRAIN)(batch) < Losses(features, TRAIN)(batch)
    matching = Matching("dmm", MODEL)
    methods = {"a": Method(features, matching, True), "b": Method(features, matching)}
    result = finetuned(methods, clip, steps=1)
    assert result["a"].features is result["b"].features is not features and result["a"].refined
    with pytest.raises(ValueError, match="--steps: got 0, wanted 1 or more"):
        finetune(features, clip, steps=0)
    with pytest.raises(RuntimeError, match="no longer finite; a lower lr may help"):
        finetune(features, clip, steps=2, lr=1e20)


# --- the command line ---------------------------------------------------------------------------------------


def test_torchrun(tmp_path: Path, run_on_two: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    quick = ["--epochs", "1", "--steps", "1", "--batch-size", "2", "--train-clips", "2", "--tuning-clips", "0"]
    done = run_on_two("-m", "demos.vos", "train", *quick, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Features:") == 1
    assert load_trained(tmp_path / NAMES["layer"]).features.config == ModelConfig()
