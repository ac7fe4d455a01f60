"""Training of the features, with a checkpoint after every epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from demos.checkpoints import check_same_run, checkpoint_errors, load_training, training_tensors
from demos.distributed import loss_of_all, place
from demos.files import write_atomically
from demos.progress import progress_bar
from demos.schedule import set_cosine_rate
from demos.vos.checkpoint import FORMAT, read
from demos.vos.config import ModelConfig
from demos.vos.losses import Losses
from demos.vos.model import Features
from demos.vos.samples import Sampler


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
            raise ValueError(f"--refine: got --loss {sampler.config.loss}, wanted layer, through which it is trained")
        self.sampler, self.config, self.path = sampler, sampler.config, path
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.features = Features(model).to(device)
        self.losses = Losses(self.features, self.config).to(device)
        self.rank, self.ranks = place()
        if self.config.batch_size % self.ranks:
            raise ValueError(
                f"--batch-size: got {self.config.batch_size}, wanted a multiple of the {self.ranks} processes"
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
                raise ValueError(
                    f"--output: {path} exists; pass --resume to go on from it, or --overwrite to replace it"
                )

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
        metadata = {
            "format": FORMAT,
            "train": json.dumps(asdict(self.config)),
            "model": json.dumps(asdict(self.features.config)),
            "history": json.dumps(self.history),
            "unmatched_costs": json.dumps(self.unmatched_costs),
        }
        write_atomically(path, save(training_tensors(self.losses, self.adam), metadata))

    def _load(self, path: Path) -> None:
        metadata, tensors = read(path, "--resume")
        with checkpoint_errors("--resume", path, "the checkpoint of a training"):
            written = {name: json.loads(metadata[name]) for name in ("train", "model", "history", "unmatched_costs")}
            kept = written["train"] | written["model"]
        check_same_run(path, kept, asdict(self.config) | asdict(self.features.config))
        with checkpoint_errors("--resume", path, "the checkpoint of such a training"):
            load_training(self.losses, self.adam, tensors)
        self.history = written["history"]
        self.unmatched_costs = written["unmatched_costs"]
        self.epoch = len(self.history)


def fit(trainer: Trainer, description: str) -> Features:
    """Train to the last epoch, with a progress bar."""
    with progress_bar(trainer.config.epochs * trainer.config.steps, description, " steps") as bar:
        bar.update(trainer.epoch * trainer.config.steps)

        def progress(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        return trainer.fit(progress)
