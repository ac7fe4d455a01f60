"""Trained features in a file: with what a training needs to go on, or alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from demos.checkpoints import checkpoint_errors, load_weights, read_checkpoint, with_prefix
from demos.files import write_atomically
from demos.vos.config import SHIPPED, Kind, ModelConfig
from demos.vos.model import Features, Matching

FORMAT = "difflayers-vos-1"
NAMES = {name: f"{name}.safetensors" for name in ("pairs", "layer", "refined")}
"""Of the checkpoints in a run's folder: by the loss, or of a model with a refinement."""


class Trained(NamedTuple):
    """What a checkpoint holds for tracking."""

    features: Features
    unmatched_costs: dict[str, float]
    """By kind of matching, the cost that was chosen for these features; empty if none was."""

    def matching(self, kind: Kind, unmatched_cost: float | None = None) -> Matching:
        """A matching by these features; with the cost that was chosen for it if none is given."""
        config = self.features.config
        chosen = self.unmatched_costs.get(kind, config.unmatched_cost)
        return Matching(kind, config.with_unmatched_cost(chosen if unmatched_cost is None else unmatched_cost))


def load_trained(path: Path = SHIPPED, *, device: torch.device | str = "cpu") -> Trained:
    """Read a checkpoint, or the only one in a run's folder.

    Raises:
        ValueError: no such file, one of something else; a folder of no checkpoint or several.
    """
    if path.is_dir():
        found = [path / name for name in NAMES.values() if (path / name).is_file()]
        if len(found) != 1:
            raise ValueError(f"--features: {path} has {len(found)} checkpoints, wanted one; name the file")
        path = found[0]
    metadata, tensors = read(path, "--features")
    with checkpoint_errors("--features", path, "a checkpoint of features"):
        features = Features(ModelConfig(**json.loads(metadata["model"])))
        load_weights(features, with_prefix(tensors, "model.features."))
        costs = {str(kind): float(cost) for kind, cost in json.loads(metadata.get("unmatched_costs", "{}")).items()}
    return Trained(features.to(device).eval(), costs)


def export_features(checkpoint: Path, path: Path) -> None:
    """Write the features of a checkpoint to a file of their own, without what only a training needs."""
    metadata, tensors = read(checkpoint, "--export")
    kept = {name: value for name, value in tensors.items() if name.startswith("model.features.")}
    write_atomically(path, save(kept, metadata))


def read(path: Path, argument: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a checkpoint; a ``ValueError`` names the argument."""
    return read_checkpoint(path, FORMAT, argument=argument, missing="; `python -m demos.vos train` makes one")
