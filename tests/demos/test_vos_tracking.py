"""Features, matching, tracking, training, and the comparison of methods."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from demos.vos import model
from demos.vos.checkpoint import load_trained
from demos.vos.config import KINDS, ModelConfig, TrainConfig
from demos.vos.data import Clip
from demos.vos.evaluate import CEILING, UNMATCHED_COSTS, calibrate, evaluate
from demos.vos.losses import Losses
from demos.vos.model import Features, Matching, Method, shrink
from demos.vos.pasted import PastedClip, paste_clips
from demos.vos.proposals import Proposals, ProposalSource
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.proposals.pasted import PastedProposals
from demos.vos.report import table
from demos.vos.samples import Sampler, assignment
from demos.vos.scores import davis_scores
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from demos.vos.tracking import Tracker, frames_tensor, merge, observe, paste, track
from demos.vos.train import Trainer

MODEL = ModelConfig(dimension=16)
SHAPES = SyntheticConfig(frames=6, height=48, width=64, objects=2, look_alikes=0, distractors=1, bars=0, speed=0.3)
TRAIN = TrainConfig(epochs=2, steps=3, batch_size=2)


class Perfect(ProposalSource):
    """Every shape's own mask, in random order, but for what `hidden` leaves out."""

    def __init__(self, hidden: dict[int, list[int]] | None = None) -> None:
        self.hidden = hidden or {}

    @property
    def identity(self) -> str:
        return "perfect"

    def propose(self, clip: Clip, t: int) -> Proposals:
        assert isinstance(clip, SyntheticClip)
        seen = clip.instances(t)
        labels = [k for k in np.unique(seen) if k and k not in self.hidden.get(t, ())]
        labels = list(np.random.default_rng(t).permutation(labels))
        masks = np.stack([seen == k for k in labels]) if labels else np.zeros((0, *clip.size), dtype=bool)
        return Proposals(masks, np.ones(len(labels), dtype=np.float32))


class Colors(Features):
    """The mean colour under a mask: features that need no training."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.body = nn.Identity()
        self.head = nn.Identity()  # type: ignore[assignment]
        self.area = nn.Linear(1, 6, bias=False)
        nn.init.zeros_(self.area.weight)

    def maps(self, frames: torch.Tensor) -> torch.Tensor:
        small = nn.functional.interpolate(frames, scale_factor=0.25, mode="area")
        return small - small.mean((2, 3), keepdim=True)

    def pool(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return super().pool(maps, masks)[..., :3]


def test_features_see_what_is_under_the_mask_and_nothing_else() -> None:
    torch.manual_seed(0)
    f = Features(MODEL).eval()
    maps = torch.rand(1, 51, 8, 8)
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :4] = 1
    masks[0, 1, :4] = 0.5  # the same pixels, half covered
    changed = maps.clone()
    changed[:, :, 4:] += 1
    one, other = f.pool(maps, masks), f.pool(changed, masks)
    torch.testing.assert_close(one, other)
    # they differ by their area alone, of which the logarithm counts
    torch.testing.assert_close(one[0, 0] - one[0, 1], f.area(torch.tensor([math.log(2) / 2])), rtol=1e-4, atol=1e-5)
    assert (one[0, 0] - one[0, 1]).abs().max() > 1e-3
    changed[:, :, :4] += 1
    assert (f.pool(changed, masks) - one).abs().max() > 1e-3
    assert f.pool(maps, masks * 0).isfinite().all() and f.pool(maps, masks[:, :0]).shape == (1, 0, 16)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_backbones(backbone: str) -> None:
    f = Features(replace(MODEL, backbone=backbone))
    frames = torch.rand(2, 3, 50, 70)
    maps = f.maps(frames)
    assert maps.shape[-2:] == (13, 18)
    assert f.maps(torch.rand(1, 3, 480, 600)).shape[-2:] == (60, 75)  # by way of 240 x 300
    out = f(frames, torch.rand(2, 5, 50, 70) > 0.5)
    assert out.shape == (2, 5, 16)
    out.sum().backward()
    assert all(p.grad is not None for p in f.head.parameters())


def test_shrink_is_coverage() -> None:
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, :2, :4] = True
    assert shrink(masks, (2, 2)).flatten().tolist() == [0.5, 0, 0, 0]
    assert shrink(masks[:, :0], (2, 2)).shape == (1, 0, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_matching_finds_the_pairs_and_leaves_the_hidden_unmatched(kind: str) -> None:
    features = torch.eye(4)
    masks = torch.zeros(4, 4, 4)
    for i in range(4):
        masks[i, i] = 1
    order = torch.tensor([2, 0, 3])  # of the proposals; template 1 is hidden
    looks = features[None].repeat(2, 1, 1)
    looks[1, 0] = -features[0]  # the latest look at object 0 is misleading: its mean cosine is 0, its overlap whole
    X, cost = Matching(kind, replace(MODEL, lam=0.5, unmatched_cost=-0.4))(looks, masks, features[order], masks[order])
    assert X.shape == cost.shape == (4, 3)
    assert cost[2, 0] == pytest.approx(-1) and cost[0, 1] == pytest.approx(-0.5) and cost[1].tolist() == [0, 0, 0]
    expected = torch.zeros(4, 3)
    expected[[0, 2, 3], [1, 0, 2]] = 1
    assert torch.equal(X.round(), expected)
    X, _ = Matching(kind, MODEL)(looks, masks, features[:0], masks[:0])
    assert X.shape == (4, 0)


def test_paste_and_merge() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]]], dtype=torch.bool)
    X = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.1, 0.2]])
    soft = paste(X, masks)
    torch.testing.assert_close(soft[:, 0], torch.tensor([[0.9, 0.9, 0, 0], [0, 0.8, 0.8, 0], [0.1, 0.3, 0.2, 0]]))
    assert merge(soft, [4, 7, 2]).tolist() == [[4, 4, 7, 0]]
    assert merge(soft * 0.5, [4, 7, 2]).tolist() == [[0, 0, 0, 0]]


def test_tracking_with_perfect_proposals_is_perfect() -> None:
    clip = SyntheticClip(5, SHAPES)
    methods = {kind: Method(Colors(), Matching(kind, MODEL)) for kind in KINDS}
    labels = track(clip, Perfect(), methods)
    assert set(labels) == set(methods)
    truth = np.stack([clip.labels(t) for t in range(len(clip))])
    for result in labels.values():
        assert result.dtype == np.uint8 and np.array_equal(result, truth)


def test_a_hidden_object_is_found_again() -> None:
    clip = SyntheticClip(5, SHAPES)
    (result,) = track(clip, Perfect({2: [1], 3: [1]}), {"dmm": Method(Colors(), Matching("dmm", MODEL))}).values()
    assert [bool((frame == 1).any()) for frame in result] == [True, True, False, False, True, True]
    assert np.array_equal(result[4:], np.stack([clip.labels(t) for t in (4, 5)]))


def test_no_proposals_at_all_in_a_frame() -> None:
    clip = SyntheticClip(5, SHAPES)
    source = Perfect({2: [1, 2, 3, 4, 5]})
    methods = {kind: Method(Colors(), Matching(kind, MODEL)) for kind in KINDS}
    for result in track(clip, source, methods).values():
        assert not result[2].any() and (result[3] == clip.labels(3)).all()


class Late(SyntheticClip):
    """Object 2 has labels from frame 3 on; there are none in frame 1."""

    def labels(self, t: int) -> np.ndarray | None:  # type: ignore[override]
        found = super().labels(t)
        return None if t == 1 else np.where((found == 2) & (t < 3), 0, found).astype(np.uint8)


def test_objects_that_appear_later() -> None:
    clip = Late(5, SHAPES)
    assert clip.given == {0: (1,), 3: (2,)}
    (result,) = track(clip, Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))}).values()
    truth = SyntheticClip(5, SHAPES)
    for t in range(6):
        full = truth.labels(t)
        assert np.array_equal(result[t], full if t >= 3 else np.where(full == 1, 1, 0))
    with pytest.raises(ValueError, match="frame 00001 has no labels; DAVIS counts every frame"):
        evaluate([clip], Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))})
    results = evaluate([clip], Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))}, rules="youtube-vos")
    assert results.scores["dmm"][clip.name].counted.tolist() == [
        [False, False, True, True, True, True],
        [False] * 4 + [True] * 2,
    ]
    assert results.summary("dmm").J.mean == 1


class Uncounted(SyntheticClip):
    """Object 2 has labels in the last frame alone, or every object has."""

    first = 1

    def labels(self, t: int) -> np.ndarray:  # type: ignore[override]
        found = super().labels(t)
        return found if t == len(self) - 1 else np.where(found <= self.first, found, 0).astype(np.uint8)


class Nothing(Uncounted):
    first = 0


def test_what_does_not_count_is_left_out_and_said() -> None:
    methods = {"dmm": Method(Colors(), Matching("dmm", MODEL))}
    steps: list[int] = []
    clips = [Uncounted(5, SHAPES), Nothing(6, SHAPES)]
    for rules in ("davis", "youtube-vos"):
        results = evaluate(clips, Perfect(), methods, rules=rules, progress=lambda: steps.append(1))
        assert {name: list(of) for name, of in results.scores.items()} == {
            "dmm": ["synthetic-5"],
            CEILING: ["synthetic-5"],
        }
        assert results.scores["dmm"]["synthetic-5"].objects == (1,)
        text = "\n".join(results.notes)
        assert "synthetic-5: left out object 2, in the last labelled frame only" in text
        assert "synthetic-6: not tracked, as no object of it counts" in text
    assert len(steps) == 24
    with pytest.raises(ValueError, match="no object counts: synthetic-6: left out objects 1, 2"):
        evaluate(clips[1:], Perfect(), methods)


def test_late_objects_have_a_table_of_their_own() -> None:
    class Later(Late):
        def labels(self, t: int) -> np.ndarray:  # type: ignore[override]
            found = SyntheticClip.labels(self, t)
            return np.where((found == 2) & (t < 3), 0, found).astype(np.uint8)

    results = evaluate([Later(5, SHAPES)], Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))})
    assert results.scores["dmm"]["synthetic-5"].objects == (1,)
    assert results.every_object["dmm"]["synthetic-5"].objects == (1, 2)
    assert results.every_object["dmm"]["synthetic-5"].counted.sum(1).tolist() == [5, 2]
    assert "DAVIS counts the objects of the first frame only, which lacks object 2" in results.notes[0]


def test_a_sure_match_renews_the_last_template_and_an_unsure_one_does_not() -> None:
    clip = SyntheticClip(5, SHAPES)
    f = Colors()
    for bound, renewed in ((-0.5, True), (-1.0, False)):
        tracker = Tracker(f, Matching("dmm", replace(MODEL, confident_cost=bound)))
        seen = [observe(f, clip.frame(t), Perfect().propose(clip, t)) for t in (0, 5)]
        tracker.add(seen[0], clip.labels(0), clip.given[0])
        first = tracker._looks.clone()
        assert torch.equal(first[0], first[1])
        tracker.step(seen[1])
        assert torch.equal(tracker._looks[0], first[0])
        assert torch.equal(tracker._looks[1], first[1]) is not renewed
    with pytest.raises(ValueError, match="are tracked already"):
        tracker.add(seen[0], clip.labels(0), [1])


def test_of_two_that_look_alike_the_followed_mask_is_taken() -> None:
    frame = np.full((48, 64, 3), 60, np.uint8)
    masks = np.zeros((2, 48, 64), bool)
    masks[0, 8:24, 30:46] = masks[1, 8:24, 4:20] = True  # where it is now, and its like where it was
    frame[masks.any(0)] = 200, 40, 40
    f = Colors()
    seen = observe(f, frame, Proposals(masks, np.ones(2, dtype=np.float32)))
    for followed, taken in (((), 1), ((7,), 0)):
        tracker = Tracker(f, Matching("dmm", MODEL))
        tracker.add(seen, 7 * masks[1].astype(np.uint8), [7])
        assert np.array_equal(tracker.step(seen, followed) == 7, masks[taken])


def test_evaluate_and_its_table() -> None:
    clips = [SyntheticClip(seed, SHAPES) for seed in (5, 6)]
    kept: list[str] = []
    steps: list[int] = []
    results = evaluate(
        clips,
        NoisyProposals(),
        {"dmm": Method(Colors(), Matching("dmm", MODEL))},
        progress=lambda: steps.append(1),
        keep=lambda clip, labels: kept.append(f"{clip.name} {sorted(labels)}"),
    )
    assert len(steps) == 12 and kept == [f"synthetic-{seed} ['{CEILING}', 'dmm']" for seed in (5, 6)]
    header, *rows = table(results.scores)
    assert header == ["clip", "objects", "dmm", CEILING] and [row[0] for row in rows] == [
        "synthetic-5",
        "synthetic-6",
        "mean",
    ]
    assert rows[-1][1] == "4" and results.summary("dmm").J.mean <= results.summary(CEILING).J.mean + 1e-9
    with pytest.raises(ValueError, match="rules must be"):
        evaluate(clips, NoisyProposals(), {}, rules="other")
    with pytest.raises(ValueError, match="got 1 frames, wanted 3 or more"):
        evaluate(
            [SyntheticClip(5, replace(SHAPES, frames=1))], Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))}
        )


def test_calibrate_finds_the_threshold_that_keeps_the_objects() -> None:
    class Far(Colors):
        """Cosines of 0: only the overlap speaks, and costs are above -0.3."""

        def pool(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*masks.shape[:2], 3)

    clip = SyntheticClip(5, SHAPES)
    matchings = calibrate([clip], Perfect(), {"far": (Far(), "dmm"), "colors": (Colors(), "dmm")})
    chosen = {name: matching.config.unmatched_cost for name, matching in matchings.items()}
    assert chosen["far"] == UNMATCHED_COSTS[-1] and chosen["colors"] == UNMATCHED_COSTS[0]
    assert matchings["far"].config.confident_cost == pytest.approx(chosen["far"] - 0.1)


def test_a_clip_of_one_frame_is_its_given_masks() -> None:
    clip = SyntheticClip(5, replace(SHAPES, frames=1))
    (result,) = track(clip, Perfect(), {"dmm": Method(Colors(), Matching("dmm", MODEL))}).values()
    assert np.array_equal(result[0], clip.labels(0))


def test_assignment_takes_the_best_pairs_first() -> None:
    truth = np.zeros((3, 4, 4), dtype=bool)
    truth[0, :2], truth[1, :3] = True, True  # object 2 is hidden
    proposals = np.zeros((3, 4, 4), dtype=bool)
    proposals[0, :2], proposals[1, 0, 0] = True, True  # proposal 0: J 1 with object 0, 2/3 with object 1
    assert assignment(truth, proposals).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    proposals[2, 1:3] = True  # J 2/3 with object 1, 1/3 with object 0
    assert assignment(truth, proposals).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def sampler(config: TrainConfig = TRAIN) -> Sampler:
    return Sampler([SyntheticClip(seed, SHAPES) for seed in (1, 2)], NoisyProposals(), config)


def test_samples() -> None:
    batch, again, other = sampler().batch(3), sampler().batch(3), sampler().batch(4)
    assert all(torch.equal(a, b) for a, b in zip(vars(batch).values(), vars(again).values(), strict=True))
    assert not torch.equal(batch.frames, other.frames)
    assert batch.frames.shape == (2, 3, 3, 48, 64) and batch.templates.shape[:3] == (2, 2, batch.target.shape[1])
    assert batch.templates[batch.template_mask.unsqueeze(1).expand(-1, 2, -1)].any((1, 2)).all()
    assert not batch.target[~batch.template_mask].any() and (batch.target.sum(1) <= 1).all()
    for b, i, j in batch.target.nonzero():
        mask, truth = batch.proposals[b, 1, j], batch.truth[b, i]
        assert (mask & truth).sum() >= 0.5 * (mask | truth).sum()
    with pytest.raises(ValueError, match="two frames or more"):
        Sampler([SyntheticClip(0, replace(SHAPES, frames=1))], NoisyProposals(), TRAIN)
    with pytest.raises(ValueError, match="no object with a second labelled frame"):
        Sampler([SyntheticClip(0, SHAPES)], NoisyProposals(miss=1, extra=0, specks=0), TRAIN).batch(0)


@pytest.mark.parametrize("options", [{"loss": "pairs"}, {"loss": "layer"}, {"loss": "layer", "matching": "quadratic"}])
def test_a_few_steps_lower_the_loss_on_one_batch(options: dict[str, str]) -> None:
    torch.manual_seed(0)
    shapes = SyntheticConfig(frames=12, height=48, width=64, objects=3, look_alikes=3, distractors=1, bars=0)
    config = replace(TRAIN, batch_size=4, **options)
    clips = [SyntheticClip(seed, shapes) for seed in (1, 2)]
    batch = Sampler(clips, NoisyProposals(miss=0), config).batch(1)
    losses = Losses(Features(replace(MODEL, lam=0.0)), config)  # without masks, which need no learning
    adam = torch.optim.Adam(losses.parameters(), lr=3e-3)
    before = losses(batch).item()
    for _ in range(16):
        adam.zero_grad()
        losses(batch).backward()
        adam.step()
    assert losses(batch).item() < 0.6 * before
    assert all(p.grad is not None and p.grad.isfinite().all() for p in losses.features.parameters())


def test_an_interrupted_training_goes_on_to_the_same_end(
    tmp_path: Path, stop_after: Callable[[int], Callable[[float], None]]
) -> None:
    whole = Trainer(sampler(), MODEL, tmp_path / "whole.safetensors").fit()

    path = tmp_path / "run.safetensors"
    with pytest.raises(InterruptedError):
        Trainer(sampler(), MODEL, path).fit(stop_after(4))
    trainer = Trainer(sampler(), MODEL, path, resume=True)
    assert trainer.epoch == 1 and len(trainer.history) == 1
    resumed = trainer.fit()
    loaded = load_trained(path).features
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name])
    assert loaded.config == MODEL and not loaded.training
    assert load_trained(path).unmatched_costs == {}
    trainer.keep_unmatched_costs({"dmm": -0.3})
    assert load_trained(path).unmatched_costs == {"dmm": -0.3}
    assert Trainer(sampler(), MODEL, path, resume=True).unmatched_costs == {"dmm": -0.3}
    with pytest.raises(ValueError, match=r"--output: .* exists; pass --resume"):
        Trainer(sampler(), MODEL, path)
    with pytest.raises(ValueError, match=r"--resume: .* is of a run with --lr 0\.003; wanted the same"):
        Trainer(sampler(replace(TRAIN, lr=1.0)), MODEL, path, resume=True)
    assert Trainer(sampler(), MODEL, path, overwrite=True).epoch == 0
    with pytest.raises(ValueError, match="no file"):
        load_trained(tmp_path / "none.safetensors")
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_trained(path)


def test_pasted_clips() -> None:
    base, other = SyntheticClip(1, SHAPES), SyntheticClip(2, replace(SHAPES, frames=4))
    clip = PastedClip(base, [(other, (5, -7))])
    assert len(clip) == 4 and clip.objects == (1, 2, 3, 4) and clip.name == "synthetic-1+synthetic-2@5,-7"
    moved = np.zeros_like(base.labels(2))
    moved[5:, :-7] = other.labels(2)[:-5, 7:]
    assert np.array_equal(clip.labels(2), np.where(moved > 0, moved + 2, base.labels(2)))
    picture = base.frame(2).copy()
    picture[5:, :-7][moved[5:, :-7] > 0] = other.frame(2)[:-5, 7:][moved[5:, :-7] > 0]
    assert np.array_equal(clip.frame(2), picture)
    far = PastedClip(base, [(other, (500, 0))])
    assert far.objects == (1, 2) and np.array_equal(far.frame(1), base.frame(1))
    with pytest.raises(ValueError, match="others must have"):
        PastedClip(base, [])
    with pytest.raises(ValueError, match="got synthetic-2 of 50 x 64"):
        PastedClip(base, [(SyntheticClip(2, replace(SHAPES, height=50)), (0, 0))])


def test_paste_clips() -> None:
    clips = [SyntheticClip(seed, SHAPES) for seed in (1, 2, 3)] + [SyntheticClip(4, replace(SHAPES, height=50))]
    made = paste_clips(clips, 6, np.random.default_rng(0))
    assert len({clip.name for clip in made}) == 6
    for clip in made:
        assert len({id(part) for part, _ in clip.parts}) == 3 and clip.size == (48, 64)
        assert all(abs(y) <= 9 and abs(x) <= 12 for _, (y, x) in clip.parts)
    again = paste_clips(clips, 6, np.random.default_rng(0))
    assert [clip.name for clip in made] == [clip.name for clip in again]
    with pytest.raises(ValueError, match="wanted 0 to 6"):
        paste_clips(clips, 7, np.random.default_rng(0))
    with pytest.raises(ValueError, match="wanted 3 of one size"):
        paste_clips(clips[1:], 1, np.random.default_rng(0))


def test_proposals_of_pasted_clips() -> None:
    base, other = SyntheticClip(1, SHAPES), SyntheticClip(2, SHAPES)
    clip = PastedClip(base, [(other, (5, -7))])
    found = PastedProposals(Perfect()).propose(clip, 2)
    owner = clip.owner(2)
    moved = np.zeros_like(owner)
    moved[5:, :-7] = other.labels(2)[:-5, 7:]
    assert np.array_equal(owner, (moved > 0).astype(np.uint8))
    wanted = [(base.instances(2) == k) & (owner == 0) for k in np.unique(base.instances(2)) if k]
    wanted += [moved == k for k in (1, 2)]  # the distractor of the other clip is not pasted
    assert sorted(mask.tobytes() for mask in found.masks) == sorted(mask.tobytes() for mask in wanted if mask.any())
    assert (np.diff([mask.sum() for mask in found.masks]) <= 0).all()
    assert len(PastedProposals(Perfect(), top=2).propose(clip, 2)) == 2
    plain, same = PastedProposals(Perfect()).propose(base, 2), Perfect().propose(base, 2)
    assert np.array_equal(plain.masks, same.masks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(backbone="vgg"), "--backbone: got vgg, wanted one of small, resnet18"),
        (lambda: ModelConfig(lam=2), "--lam: got 2, wanted 0 to 1"),
        (lambda: ModelConfig(unmatched_cost=-3), "--unmatched-cost: got -3, wanted -1 to 1"),
        (lambda: ModelConfig(dimension=0), "--dimension: got 0, wanted 1 or more"),
        (lambda: Matching("best", MODEL), "kind must be one of greedy"),
        (lambda: Features(MODEL, weights="DEFAULT"), "the small backbone has none"),
        (lambda: TrainConfig(loss="both"), "--loss: got both, wanted one of pairs, layer"),
        (lambda: TrainConfig(matching="greedy"), "--matching: got greedy, wanted one of dmm, quadratic"),
        (lambda: TrainConfig(epochs=0), "--epochs: got 0, wanted 1 or more"),
        (lambda: TrainConfig(lr=0), "--lr: got 0, wanted a positive number"),
    ],
)
def test_wrong_options(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_frames_tensor() -> None:
    frame = np.zeros((2, 3, 3), np.uint8)
    frame[1, 2] = (255, 0, 51)
    tensor = frames_tensor([frame])
    assert tensor.shape == (1, 3, 2, 3) and tensor[0, :, 1, 2].tolist() == pytest.approx([1, 0, 0.2])


def test_scores_of_a_swap() -> None:
    clip = SyntheticClip(5, SHAPES)
    truth = np.stack([clip.labels(t) for t in range(6)])
    swapped = np.where(truth == 1, 2, np.where(truth == 2, 1, 0)).astype(np.uint8)
    assert davis_scores(truth, swapped).J.max() == 0


def test_docstring_examples() -> None:
    results = doctest.testmod(model)
    assert results.failed == 0 and results.attempted > 0
