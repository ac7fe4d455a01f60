"""Training of the features, pair by pair or through the matching layer.

A sample is two or three frames of a clip: the one an object is given in, an earlier one in which it was last seen, and the one
to match in. Sample k of a run is drawn from the seed and k alone, so that a run resumed after any step goes on as it
would have.
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

from demos.checkpoints import read_checkpoint, with_prefix
from demos.files import write_atomically
from demos.vos.data import Clip
from demos.vos.metrics import region_similarity
from demos.vos.model import Features, Matching, ModelConfig, shrink
from demos.vos.proposals import ProposalSource
from demos.vos.tracking import frames_tensor

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
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss}")
        if self.matching not in ("dmm", "quadratic"):
            raise ValueError(f"matching must be dmm or quadratic, which are differentiable; got {self.matching}")
        for name, lowest in (("epochs", 1), ("steps", 1), ("batch_size", 1), ("longest", 1), ("gap", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be {lowest} or more; got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number; got {self.lr}")


@dataclass(frozen=True)
class Batch:
    """Samples, padded to the same numbers of objects and proposals; cut to the smallest frame."""

    frames: Tensor
    """(B, 3, 3, H, W): the given one, the latest look, the one to match in."""
    templates: Tensor
    """(B, 2, n, H, W), bool: true masks in the first two frames."""
    proposals: Tensor
    """(B, m, H, W), bool."""
    truth: Tensor
    """(B, n, H, W), bool: true masks in the third frame."""
    template_mask: Tensor
    """(B, n), bool: which templates are there."""
    proposal_mask: Tensor
    """(B, m), bool."""
    target: Tensor
    """(B, n, m): 1 for the proposal with the highest J of the object, if that is 1/2 at least; a row of 0, hidden, else."""


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

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng((self.config.seed, step))
        samples = [self._sample(rng) for _ in range(self.config.batch_size)]
        n, m = (max(len(one[i]) for one in samples) for i in (1, 2))
        height, width = (min(one[0].shape[axis] for one in samples) for axis in (1, 2))
        B = len(samples)
        frames = torch.zeros(B, 3, 3, height, width)
        templates = torch.zeros(B, 2, n, height, width, dtype=torch.bool)
        proposals = torch.zeros(B, m, height, width, dtype=torch.bool)
        truth = torch.zeros(B, n, height, width, dtype=torch.bool)
        template_mask, proposal_mask = torch.zeros(B, n, dtype=torch.bool), torch.zeros(B, m, dtype=torch.bool)
        target = torch.zeros(B, n, m)
        for b, (pictures, masks, found) in enumerate(samples):
            frames[b] = frames_tensor(pictures[:, :height, :width])
            cut = torch.from_numpy(masks[:, :, :height, :width])
            templates[b, :, : len(masks)] = cut[:, :2].transpose(0, 1)
            truth[b, : len(masks)] = cut[:, 2]
            proposals[b, : len(found)] = torch.from_numpy(found[:, :height, :width])
            template_mask[b, : len(masks)], proposal_mask[b, : len(found)] = True, True
            target[b, : len(masks), : len(found)] = torch.from_numpy(assignment(masks[:, 2], found))
        return Batch(frames, templates, proposals, truth, template_mask, proposal_mask, target)

    def _sample(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """Frames (3, H, W, 3), masks of the objects in them (n, 3, H, W), proposals (m, H, W)."""
        for _ in range(100):
            clip = self.clips[rng.integers(len(self.clips))]
            last = int(rng.integers(1, len(clip)))
            latest = int(rng.integers(max(0, last - self.config.gap), last))
            first = int(rng.integers(max(0, last - self.config.longest), latest + 1))
            labels = [one for t in (first, latest, last) if (one := clip.labels(t)) is not None]
            if len(labels) < 3:
                continue
            objects = [label for label in np.unique(labels[0]) if label not in (0, 255) and (labels[1] == label).any()]
            found = self.source.propose(clip, last).masks
            if not objects or not len(found):
                continue
            masks = np.stack([np.stack([one == label for one in labels]) for label in objects])
            return np.stack([clip.frame(t) for t in (first, latest, last)]), masks, found
        raise ValueError("clips: found no object with a second labelled frame and proposals in 100 draws")


def assignment(truth: NDArray[np.bool_], proposals: NDArray[np.bool_], *, least: float = 0.5) -> NDArray[np.float32]:
    """The true assignment of masks (n, H, W) to proposals (m, H, W): the pairs of highest J first, 1/2 at least."""
    J = np.stack([region_similarity(np.broadcast_to(mask, proposals.shape), proposals) for mask in truth])
    X = np.zeros(J.shape, dtype=np.float32)
    for index in np.argsort(-J, axis=None, kind="stable"):
        i, j = np.unravel_index(index, J.shape)
        if J[i, j] >= least and truth[i].any() and not X[i].any() and not X[:, j].any():
            X[i, j] = 1
    return X


class Losses(nn.Module):
    """The loss of a batch, by `TrainConfig.loss`. The scale of the logits of "pairs" learns along."""

    def __init__(self, features: Features, config: TrainConfig) -> None:
        super().__init__()
        self.features, self.config = features, config
        self.matching = Matching(config.matching, features.config)
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, batch: Batch) -> Tensor:
        """A number."""
        B = len(batch.frames)
        maps = self.features.maps(batch.frames.flatten(0, 1)).unflatten(0, (B, 3))
        size = maps.shape[-2:]
        templates = shrink(batch.templates.flatten(0, 1), size).unflatten(0, (B, 2))
        proposals = shrink(batch.proposals, size)
        looks = torch.stack([self.features.pool(maps[:, k], templates[:, k]) for k in (0, 1)], 1)
        seen = self.features.pool(maps[:, 2], proposals)
        X, cost = self.matching(looks, templates[:, 1], seen, proposals, batch.template_mask, batch.proposal_mask)
        if self.config.loss == "pairs":
            logits = self.scale * (self.features.config.unmatched_cost - cost)
            there = batch.template_mask[..., None] & batch.proposal_mask[:, None]
            return nn.functional.binary_cross_entropy_with_logits(logits[there], batch.target[there])
        there = batch.template_mask
        distance = (X - batch.target).square().sum(-1)[there].mean()
        pasted, truth = torch.einsum("bnm,bmhw->bnhw", X, proposals)[there], shrink(batch.truth, size)[there]
        together, both = (pasted * truth).sum((1, 2)), pasted.sum((1, 2)) + truth.sum((1, 2))
        return distance + (1 - (2 * together + 1) / (both + 1)).mean()


class Trainer:
    """Trains features, writing a checkpoint after every epoch.

    Args:
        sampler: of batches, with the configuration.
        model: of the features.
        path: of the checkpoint; None for none.
        resume: go on from the checkpoint, whose configurations must be the same, if it is there.
        overwrite: start anew though the checkpoint is there.
        device: of the features.

    Raises:
        ValueError: a checkpoint that is there and neither to be resumed nor overwritten, or that is of another run.
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
        self.sampler, self.config, self.path = sampler, sampler.config, path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.features = Features(model).to(device)
        self.losses = Losses(self.features, self.config).to(device)
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
                for group in self.adam.param_groups:
                    group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * step / total))
                batch = self.sampler.batch(step)
                device = self.features.mean.device
                loss = self.losses(Batch(*(value.to(device) for value in vars(batch).values())))
                if not math.isfinite(loss.item()):
                    raise RuntimeError(f"the loss became {loss.item()} in step {step}; a lower lr may help")
                self.adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.losses.parameters(), 1.0)
                self.adam.step()
                losses.append(loss.item())
                progress(losses[-1])
            self.epoch += 1
            self.history.append(float(np.mean(losses)))
            if self.path is not None:
                self._save(self.path)
        return self.features.eval()

    def keep_unmatched_costs(self, costs: Mapping[str, float]) -> None:
        """Write the checkpoint anew with the unmatched cost that suits each kind of matching, see `evaluate.calibrate`."""
        if self.path is None:
            raise ValueError("path: this trainer writes no checkpoint")
        if self.unmatched_costs != costs:
            self.unmatched_costs = dict(costs)
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
        for name, config in (("train", self.config), ("model", self.features.config)):
            if json.loads(metadata[name]) != asdict(config):
                raise ValueError(f"{path}: got a run with the {name} options {metadata[name]}, wanted {asdict(config)}")
        self.losses.load_state_dict(with_prefix(tensors, "model."))
        for name, parameter in self.losses.named_parameters():
            if state := with_prefix(tensors, f"adam.{name}."):
                self.adam.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }
        self.history = json.loads(metadata["history"])
        self.unmatched_costs = json.loads(metadata["unmatched_costs"])
        self.epoch = len(self.history)


def load_features(path: Path, *, device: torch.device | str = "cpu") -> Features:
    """The features of a checkpoint, ready to track with."""
    metadata, tensors = _read(path)
    features = Features(ModelConfig(**json.loads(metadata["model"])))
    features.load_state_dict(with_prefix(tensors, "model.features."))
    return features.to(device).eval()


def load_unmatched_costs(path: Path) -> dict[str, float]:
    """By kind of matching, the unmatched cost that was chosen for the features of a checkpoint; empty if none was."""
    costs: dict[str, float] = json.loads(_read(path)[0]["unmatched_costs"])
    return costs


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    return read_checkpoint(path, _FORMAT, argument="checkpoint", missing="; `python -m demos.vos train` makes one")
