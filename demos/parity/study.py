"""One safetensors file: the weights of every finished run, and all that the run in progress needs to go on.

Weights are named ``S.length-L.seed-S``, the state of the run in progress ``run.*``; configuration and metrics so far are
JSON in the file's metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from demos.checkpoints import read_checkpoint, with_prefix
from demos.files import write_atomically
from demos.parity.config import Config
from demos.parity.train import EpochMetrics, Run

CHECKPOINT_NAME = "checkpoint.safetensors"
_FORMAT = "difflayers-parity-1"


class Study:
    """All runs of a configuration, one after another, written to a directory after every epoch."""

    def __init__(self, config: Config, output: Path, device: torch.device | str = "cpu") -> None:
        self.config, self.output, self.device = config, output, device
        self.history: list[EpochMetrics] = []
        self.weights: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}

    @classmethod
    def load(cls, output: Path, device: torch.device | str = "cpu") -> Study:
        """Read what :meth:`save` wrote, on whatever device."""
        path = output / CHECKPOINT_NAME
        metadata, tensors = read_checkpoint(path, _FORMAT, argument="out", missing=" to resume from")
        study = cls(Config.from_dict(json.loads(metadata["config"])), output, device)
        study.history = [EpochMetrics(**row) for row in json.loads(metadata["history"])]
        study.weights = {name: tensor for name, tensor in tensors.items() if name.startswith("S.")}
        study._state = with_prefix(tensors, "run.")
        return study

    def save(self, run: Run) -> None:
        """Write the state after an epoch of a run; a kill leaves the old file or the new one."""
        if run.finished:
            self.weights[weights_name(run.length, run.seed)] = run.net.layer.S.detach().cpu().clone()
        state = {} if run.finished else {f"run.{name}": tensor for name, tensor in run.state().items()}
        metadata = {
            "format": _FORMAT,
            "config": json.dumps(asdict(self.config)),
            "history": json.dumps([asdict(row) for row in self.history]),
        }
        write_atomically(self.output / CHECKPOINT_NAME, save(self.weights | state, metadata))

    def runs(self) -> list[tuple[int, int]]:
        """Length and seed of every run, in the order in which they are trained."""
        return [(length, seed) for length in self.config.lengths for seed in self.config.seeds]

    def rows(self, length: int, seed: int) -> list[EpochMetrics]:
        """The metrics of one run."""
        return [row for row in self.history if (row.length, row.seed) == (length, seed)]

    def begin(self, length: int, seed: int) -> Run:
        """A run, at its beginning or, after :meth:`load`, where it was."""
        run = Run(self.config, length, seed, self.device)
        if rows := self.rows(length, seed):
            run.restore(self._state, rows)
        return run

    def finished(self, length: int, seed: int) -> Run:
        """A finished run, with its weights."""
        run = Run(self.config, length, seed, self.device)
        with torch.no_grad():
            run.net.layer.S.copy_(self.weights[weights_name(length, seed)])
        return run

    def is_finished(self, length: int, seed: int) -> bool:
        return weights_name(length, seed) in self.weights


def weights_name(length: int, seed: int) -> str:
    return f"S.length-{length}.seed-{seed}"
