"""Training of the features, pair by pair or through the matching layer.

A sample is three frames of a clip, the first two perhaps the same: the one an object is given in, the one in which it was last
seen, and the one to match in; with a refinement, which has a memory, objects are matched in the second too. Sample k of a run
is drawn from the seed and k alone, so that a run resumed after any step goes on as it would have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from demos.checkpoints import checkpoint_errors, load_weights, read_checkpoint, with_prefix
from demos.command import check_rate
from demos.distributed import loss_of_all, place
from demos.files import write_atomically
from demos.schedule import set_cosine_rate
from demos.vos.data import Clip
from demos.vos.model import Features, Matching, ModelConfig, shrink
from demos.vos.proposals import ProposalSource
from demos.vos.tracking import frames_tensor
from difflayers.metrics import jaccard

LOSSES = ("pairs", "layer")
_FORMAT = "difflayers-vos-1"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a training run, its clips and proposals aside."""

    loss: str = "layer"
    """"pairs": binary cross-entropy of every template with every proposal, by itself; the logit is a multiple of the
    unmatched cost minus the pair's. "layer": squared difference of X and the true assignment, and the overlap of X P with
    the true masks, through the matching."""
    matching: str = "dmm"
    """The layer: "dmm" or "quadratic"."""
    epochs: int = 4
    steps: int = 40
    """An epoch."""
    batch_size: int = 4
    lr: float = 3e-3
    """The highest. It falls to 0 along half a cosine."""
    longest: int = 16
    """The most frames between the frame an object is given in and the one it is matched in."""
    gap: int = 3
    """The most frames between the latest look and the one it is matched in."""
    amp: bool = False
    """The backbone and the refinement compute in bfloat16, by autocast; the matching and the losses in float32 always."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss}")
        if self.matching not in ("dmm", "quadratic"):
            raise ValueError(f"matching must be dmm or quadratic, which are differentiable; got {self.matching}")
        for name, lowest in (("epochs", 1), ("steps", 1), ("batch_size", 1), ("longest", 1), ("gap", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be {lowest} or more; got {getattr(self, name)}")
        check_rate("lr", self.lr)


@dataclass(frozen=True)
class Batch:
    """Samples, padded to the same numbers of objects and proposals; cut to the smallest frame."""

    frames: Tensor
    """(B, 3, 3, H, W): the given one, the latest look, the one to match in."""
    templates: Tensor
    """(B, 2, n, H, W), bool: true masks in the first two frames."""
    proposals: Tensor
    """(B, 2, m, H, W), bool: in the latter two frames."""
    truth: Tensor
    """(B, n, H, W), bool: true masks in the third frame."""
    template_mask: Tensor
    """(B, n), bool: which templates are there."""
    proposal_mask: Tensor
    """(B, 2, m), bool."""
    target: Tensor
    """(B, n, m), in the third frame: 1 for the proposal with the highest J of the object, if that is 1/2 at least; a row of
    0, hidden, else."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(value.to(device) for value in vars(self).values()))


class Sampler:
    """Draws samples from clips.

    Args:
        clips: with labels in every frame.
        source: of proposals.
        config: of the training.
    """

    def __init__(self, clips: Sequence[Clip], source: ProposalSource, config: TrainConfig) -> None:
        self.clips = [clip for clip in clips if len(clip) > 1]
        if not self.clips:
            raise ValueError("clips must have one of two frames or more; got none")
        self.source, self.config = source, config

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of a step, or every `ranks`-th sample of it, from `rank` on."""
        samples = [
            self._sample(np.random.default_rng((self.config.seed, step, i)))
            for i in range(rank, self.config.batch_size, ranks)
        ]
        n, m = max(len(one[1]) for one in samples), max(len(found) for one in samples for found in one[2])
        height, width = (min(one[0].shape[axis] for one in samples) for axis in (1, 2))
        B = len(samples)
        frames = torch.zeros(B, 3, 3, height, width)
        templates = torch.zeros(B, 2, n, height, width, dtype=torch.bool)
        proposals = torch.zeros(B, 2, m, height, width, dtype=torch.bool)
        truth = torch.zeros(B, n, height, width, dtype=torch.bool)
        template_mask, proposal_mask = torch.zeros(B, n, dtype=torch.bool), torch.zeros(B, 2, m, dtype=torch.bool)
        target = torch.zeros(B, n, m)
        for b, (pictures, masks, found) in enumerate(samples):
            frames[b] = frames_tensor(pictures[:, :height, :width])
            cut = torch.from_numpy(masks[:, :, :height, :width])
            templates[b, :, : len(masks)] = cut[:, :2].transpose(0, 1)
            truth[b, : len(masks)] = cut[:, 2]
            for k, of_frame in enumerate(found):
                proposals[b, k, : len(of_frame)] = torch.from_numpy(of_frame[:, :height, :width])
                proposal_mask[b, k, : len(of_frame)] = True
            template_mask[b, : len(masks)] = True
            target[b, : len(masks), : len(found[1])] = torch.from_numpy(assignment(masks[:, 2], found[1]))
        return Batch(frames, templates, proposals, truth, template_mask, proposal_mask, target)

    def _sample(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Frames (3, H, W, 3), masks of the objects in them (n, 3, H, W), proposals (m, H, W) in the latter two."""
        for _ in range(100):
            clip = self.clips[rng.integers(len(self.clips))]
            last = int(rng.integers(1, len(clip)))
            latest = int(rng.integers(max(0, last - self.config.gap), last))
            first = int(rng.integers(max(0, last - self.config.longest), latest + 1))
            labels = [one for t in (first, latest, last) if (one := clip.labels(t)) is not None]
            if len(labels) < 3:
                continue
            objects = [label for label in np.unique(labels[0]) if label not in (0, 255) and (labels[1] == label).any()]
            found = self.source.propose(clip, latest).masks, self.source.propose(clip, last).masks
            if not objects or not len(found[1]):
                continue
            masks = np.stack([np.stack([one == label for one in labels]) for label in objects])
            return np.stack([clip.frame(t) for t in (first, latest, last)]), masks, found
        raise ValueError("clips: found no object with a second labelled frame and proposals in 100 draws")


def assignment(truth: NDArray[np.bool_], proposals: NDArray[np.bool_], *, least: float = 0.5) -> NDArray[np.float32]:
    """The true assignment of masks (n, H, W) to proposals (m, H, W): the pairs of highest J first, 1/2 at least."""
    J = np.stack([jaccard(np.broadcast_to(mask, proposals.shape), proposals) for mask in truth])
    X = np.zeros(J.shape, dtype=np.float32)
    for index in np.argsort(-J, axis=None, kind="stable"):
        i, j = np.unravel_index(index, J.shape)
        if J[i, j] >= least and truth[i].any() and not X[i].any() and not X[:, j].any():
            X[i, j] = 1
    return X


class Losses(nn.Module):
    """The loss of a batch, by `TrainConfig.loss`. The scale of the logits of "pairs" learns along.

    With a refinement, a mask loss is added: binary cross-entropy and overlap (Dice) of the refined masks with the true ones, in
    the second and the third frame. Its gradient goes through the pasted masks X P and the matching to the features.
    """

    def __init__(self, features: Features, config: TrainConfig) -> None:
        super().__init__()
        self.features, self.config = features, config
        self.matching = Matching(config.matching, features.config)
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, batch: Batch) -> Tensor:
        """A number."""
        B = len(batch.frames)
        with self._autocast(batch):
            flat, levels = self.features.look(batch.frames.flatten(0, 1))
        maps = flat.float().unflatten(0, (B, 3))
        size = maps.shape[-2:]
        templates = shrink(batch.templates.flatten(0, 1), size).unflatten(0, (B, 2))
        proposals = shrink(batch.proposals.flatten(0, 1), size).unflatten(0, (B, 2))
        looks = torch.stack([self.features.pool(maps[:, k], templates[:, k]) for k in (0, 1)], 1)
        if not looks.isfinite().all():
            raise RuntimeError("the features of masks are no longer finite; a lower lr may help")
        X, cost = self._match(looks, templates[:, 1], maps, proposals, batch, 1)
        if self.config.loss == "pairs":
            logits = self.scale * (self.features.config.unmatched_cost - cost)
            there = batch.template_mask[..., None] & batch.proposal_mask[:, 1, None]
            return nn.functional.binary_cross_entropy_with_logits(logits[there], batch.target[there])
        there = batch.template_mask
        distance = (X - batch.target).square().sum(-1)[there].mean()
        pasted = torch.einsum("bnm,bmhw->bnhw", X, proposals[:, 1])[there]
        loss = distance + _dice(pasted, shrink(batch.truth, size)[there])
        if self.features.refinement is None:
            return loss
        first = looks[:, :1].expand_as(looks)
        earlier, _ = self._match(first, templates[:, 0], maps, proposals, batch, 0)
        with self._autocast(batch):
            return loss + self._mask_loss(levels, (earlier, X), batch)

    def terms(self, batch: Batch) -> int:
        """How many the loss of a batch is the mean of: pairs of an object and a proposal, or objects."""
        if self.config.loss == "pairs":
            return int((batch.template_mask.sum(1) * batch.proposal_mask[:, 1].sum(1)).sum())
        return int(batch.template_mask.sum())

    def _autocast(self, batch: Batch) -> torch.autocast:
        return torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=self.config.amp)

    def _match(
        self, looks: Tensor, masks: Tensor, maps: Tensor, proposals: Tensor, batch: Batch, k: int
    ) -> tuple[Tensor, Tensor]:
        """Match in the second (k = 0) or the third (k = 1) frame."""
        seen = self.features.pool(maps[:, k + 1], proposals[:, k])
        X, cost = self.matching(looks, masks, seen, proposals[:, k], batch.template_mask, batch.proposal_mask[:, k])
        return X, cost

    def _mask_loss(self, levels: list[Tensor], assignments: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        refine = self.features.refinement
        assert refine is not None
        there = batch.template_mask
        rows = there.nonzero()[:, 0]
        of_frame = [[level.unflatten(0, (-1, 3))[:, k] for level in levels] for k in range(3)]
        given = batch.templates[:, 0][there].float()
        looks = refine.remember(of_frame[0], rows, given)
        _, state = refine(of_frame[0], rows, given, given, looks)
        before, loss = given, given.new_zeros(())
        for k, (X, truth) in enumerate(zip(assignments, (batch.templates[:, 1], batch.truth), strict=True)):
            with torch.autocast(X.device.type, enabled=False):
                pasted = torch.einsum("bnm,bmhw->bnhw", X, batch.proposals[:, k].to(X.dtype))[there]
            logits, state = refine(of_frame[k + 1], rows, pasted, before, looks, state)
            wanted = truth[there].float()
            before = logits.sigmoid()
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, wanted) + _dice(before, wanted)
        return loss / 2


def _dice(masks: Tensor, truth: Tensor) -> Tensor:
    """1 - the overlap of masks and truth (N, h, w), the mean."""
    together, both = (masks * truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * together + 1) / (both + 1)).mean()


def descend(adam: torch.optim.Adam, loss: Tensor) -> None:
    """One step down the gradient, cut to a norm of 1."""
    adam.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], 1.0)
    adam.step()


class Trainer:
    """Trains features, writing a checkpoint after every epoch.

    Args:
        sampler: of batches, with the configuration.
        model: of the features.
        path: of the checkpoint; None for none.
        resume: go on from the checkpoint, whose configurations must be the same, if it is there.
        overwrite: start anew though the checkpoint is there.
        device: of the features.

    With `torch.distributed` set up, every process takes its share of each batch, and counts by what its loss is a mean of: the
    result is that of one process, up to rounding, where all frames have one size. The first process writes the files.

    Raises:
        ValueError: a batch that cannot be shared out; a checkpoint that is there and neither to be resumed nor overwritten, or
            that is of another run.
    """

    def __init__(
        self,
        sampler: Sampler,
        model: ModelConfig,
        path: Path | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if model.refine and sampler.config.loss != "layer":
            raise ValueError(
                f"model: got refine with the loss {sampler.config.loss}, wanted layer, through which it is trained"
            )
        self.sampler, self.config, self.path = sampler, sampler.config, path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.features = Features(model).to(device)
        self.losses = Losses(self.features, self.config).to(device)
        self.rank, self.ranks = place()
        if self.config.batch_size % self.ranks:
            raise ValueError(
                f"batch_size must be a multiple of the {self.ranks} processes; got {self.config.batch_size}"
            )
        # Each loss leaves some parameter out: the scale of the logits, or the refinement.
        self._computed: nn.Module = (
            DistributedDataParallel(self.losses, find_unused_parameters=True) if self.ranks > 1 else self.losses
        )
        self.adam = torch.optim.Adam(self.losses.parameters(), lr=self.config.lr)
        self.epoch = 0
        self.history: list[float] = []
        self.unmatched_costs: dict[str, float] = {}
        if path is not None and path.exists():
            if resume:
                self._load(path)
            elif not overwrite:
                raise ValueError(f"{path} exists; pass resume to go on from it, or overwrite to replace it")

    def fit(self, progress: Callable[[float], None] = lambda loss: None) -> Features:
        """Train to the last epoch; `progress` is called after every step with its loss."""
        total = self.config.epochs * self.config.steps
        self.losses.train()
        while self.epoch < self.config.epochs:
            losses = []
            for step in range(self.epoch * self.config.steps, (self.epoch + 1) * self.config.steps):
                set_cosine_rate(self.adam, self.config.lr, step, total)
                batch = self.sampler.batch(step, self.rank, self.ranks).to(self.features.mean.device)
                loss, value = loss_of_all(self._computed(batch), self.losses.terms(batch))
                if not math.isfinite(value):
                    raise RuntimeError(f"the loss became {value} in step {step}; a lower lr may help")
                descend(self.adam, loss)
                losses.append(value)
                progress(losses[-1])
            self.epoch += 1
            self.history.append(float(np.mean(losses)))
            if self.path is not None and self.rank == 0:
                self._save(self.path)
        return self.features.eval()

    def keep_unmatched_costs(self, costs: Mapping[str, float]) -> None:
        """Write the checkpoint anew with the unmatched cost that suits each kind of matching, see `evaluate.calibrate`."""
        if self.path is None:
            raise ValueError("path: this trainer writes no checkpoint")
        if self.unmatched_costs != costs:
            self.unmatched_costs = dict(costs)
            if self.rank == 0:
                self._save(self.path)

    def _save(self, path: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.losses.state_dict().items()}
        for name, parameter in self.losses.named_parameters():
            tensors |= {f"adam.{name}.{key}": value for key, value in self.adam.state.get(parameter, {}).items()}
        metadata = {
            "format": _FORMAT,
            "train": json.dumps(asdict(self.config)),
            "model": json.dumps(asdict(self.features.config)),
            "history": json.dumps(self.history),
            "unmatched_costs": json.dumps(self.unmatched_costs),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata))

    def _load(self, path: Path) -> None:
        metadata, tensors = _read(path)
        with checkpoint_errors("checkpoint", path, "one of a training"):
            written = {name: json.loads(metadata[name]) for name in ("train", "model", "history", "unmatched_costs")}
        for name, config in (("train", self.config), ("model", self.features.config)):
            if written[name] != asdict(config):
                raise ValueError(f"{path}: got a run with the {name} options {metadata[name]}, wanted {asdict(config)}")
        with checkpoint_errors("checkpoint", path, "one of such a training"):
            load_weights(self.losses, with_prefix(tensors, "model."))
        for name, parameter in self.losses.named_parameters():
            if state := with_prefix(tensors, f"adam.{name}."):
                self.adam.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }
        self.history = written["history"]
        self.unmatched_costs = written["unmatched_costs"]
        self.epoch = len(self.history)


def load_features(path: Path, *, device: torch.device | str = "cpu") -> Features:
    """The features of a checkpoint, ready to track with."""
    metadata, tensors = _read(path)
    with checkpoint_errors("checkpoint", path, "one of features"):
        features = Features(ModelConfig(**json.loads(metadata["model"])))
        load_weights(features, with_prefix(tensors, "model.features."))
    return features.to(device).eval()


def export_features(checkpoint: Path, path: Path) -> None:
    """Write the features of a checkpoint to a file of their own, without what only a training needs."""
    metadata, tensors = _read(checkpoint)
    kept = {name: value for name, value in tensors.items() if name.startswith("model.features.")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(kept, metadata))


def load_unmatched_costs(path: Path) -> dict[str, float]:
    """By kind of matching, the unmatched cost that was chosen for the features of a checkpoint; empty if none was."""
    metadata, _ = _read(path)
    with checkpoint_errors("checkpoint", path, "one with unmatched costs"):
        costs = json.loads(metadata.get("unmatched_costs", "{}"))
        return {str(kind): float(cost) for kind, cost in costs.items()}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    return read_checkpoint(path, _FORMAT, argument="checkpoint", missing="; `python -m demos.vos train` makes one")
