"""Checkpoints: one safetensors file with the weights and all else that a resumed run needs.

Tensors are named ``model.*`` (the weights), ``adam.PARAMETER.*`` (the optimizer's state) and ``random.*``
(the states of the two generators). The file's metadata holds the configuration and the metrics so far as
JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from demos.checkpoints import checkpoint_errors, read_checkpoint, with_prefix
from demos.files import write_atomically
from demos.sudoku.config import TrainConfig

CHECKPOINT_NAME = "checkpoint.safetensors"
_FORMAT = "difflayers-sudoku-1"


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the metrics CSV."""

    epoch: int
    """0 is the untrained network."""
    minutes: float
    """Since the start of the run, evaluations included, interruptions not."""
    train_loss: float | None
    """Mean over the epoch; none for epoch 0."""
    test_loss: float
    boards_right: float
    """Share of the unseen boards that equal their solution in every cell."""
    blank_cells_right: float
    """Share of the blank cells of the unseen boards that are right."""
    given_cells_read: float | None
    """Of boards with images: share of the given cells that the reader alone reads right."""
    lr: float
    """The learning rate at the end of the epoch."""
    seconds: float
    """For training on this epoch."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at the end of an epoch."""

    config: TrainConfig
    name: str
    """Which command made it: ``demo`` or ``train``."""
    data_fingerprint: str
    threads: int
    step: int
    """How many batches have been trained on: the position in the learning-rate schedule."""
    history: list[EpochMetrics]
    limit: float | None
    """Of a finished run with a SATNet layer: the highest learnt objective at which a search accepts an answer; none if it does
    not tell right from wrong."""
    model: dict[str, Tensor]
    adam: dict[str, dict[str, Tensor]]
    """By parameter name, what Adam keeps for it."""
    random: dict[str, Tensor]
    """The states of the generators."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.model.items()}
    for parameter, state in checkpoint.adam.items():
        tensors |= {f"adam.{parameter}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"random.{name}": tensor for name, tensor in checkpoint.random.items()}
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(asdict(checkpoint.config)),
        "name": checkpoint.name,
        "data_fingerprint": checkpoint.data_fingerprint,
        "threads": str(checkpoint.threads),
        "step": str(checkpoint.step),
        "limit": json.dumps(checkpoint.limit),
        "history": json.dumps([asdict(row) for row in checkpoint.history]),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, given its file or the directory of its run."""
    from demos.sudoku.model import restore

    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT_NAME
    metadata, tensors = read_checkpoint(
        path,
        _FORMAT,
        argument="checkpoint",
        missing="; `python -m demos.sudoku train` makes one",
        wrong=", as `python -m demos.sudoku train` writes it",
    )
    adam: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            parameter, _, entry = name.removeprefix("adam.").rpartition(".")
            adam.setdefault(parameter, {})[entry] = tensor
    with checkpoint_errors("checkpoint", path, "one of `python -m demos.sudoku train`"):
        checkpoint = Checkpoint(
            config=TrainConfig.from_dict(json.loads(metadata["config"])),
            name=metadata["name"],
            data_fingerprint=metadata["data_fingerprint"],
            threads=int(metadata["threads"]),
            step=int(metadata["step"]),
            limit=json.loads(metadata["limit"]),
            history=[EpochMetrics(**row) for row in json.loads(metadata["history"])],
            model=with_prefix(tensors, "model."),
            adam=adam,
            random=with_prefix(tensors, "random."),
        )
        restore(checkpoint)  # weights that do not fit are said to be so here, where the file's name is known
    return checkpoint
