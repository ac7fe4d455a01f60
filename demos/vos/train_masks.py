"""The command ``train-masks``: trains the network that draws masks (demos.vos.proposals.network) on clips with true masks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from demos.checkpoints import check_same_run, checkpoint_errors, load_training, read_checkpoint, training_tensors
from demos.files import check_folder, check_output, write_atomically
from demos.progress import progress_bar
from demos.schedule import set_cosine_rate
from demos.vos.commands import read_clips
from demos.vos.config import MaskTraining
from demos.vos.options import TrainMasks
from demos.vos.proposals.examples import Example, batch_of, make_examples
from demos.vos.proposals.network import FORMAT, MaskNetwork

NAME = "masks.safetensors"


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus one minus a soft J: of logits and truth (B, H, W)."""
    likely = logits.sigmoid()
    both = (likely * truth).sum((1, 2))
    either = (likely + truth).sum((1, 2)) - both
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth)
    return entropy + 1 - ((both + 1) / (either + 1)).mean()


class MaskTrainer:
    """Trains the network, writing a checkpoint after every epoch.

    Args:
        config: of the training.
        path: of the checkpoint.
        resume: go on from the checkpoint, whose configuration must be the same, if it is there.
        overwrite: start anew though the checkpoint is there.

    Raises:
        ValueError: a checkpoint that is there and neither to be resumed nor overwritten, or that is of another run.
    """

    def __init__(self, config: MaskTraining, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.config, self.path, self.history = config, path, list[float]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = MaskNetwork()
        self.adam = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=1e-3)
        if path.exists():
            if resume:
                self._load()
            elif not overwrite:
                raise ValueError(
                    f"--output: {path} exists; pass --resume to go on from it, or --overwrite to replace it"
                )

    def fit(self, examples: Sequence[Example]) -> MaskNetwork:
        """Train to the last epoch, with a progress bar."""
        config, network = self.config, self.network.train()
        total = config.epochs * config.steps
        with progress_bar(total, "training", " steps") as bar:
            bar.update(len(self.history) * config.steps)
            while len(self.history) < config.epochs:
                losses = []
                for step in range(len(self.history) * config.steps, (len(self.history) + 1) * config.steps):
                    set_cosine_rate(self.adam, config.lr, step, total)
                    seen, truth = batch_of(examples, config.batch_size, np.random.default_rng((config.seed, step)))
                    with torch.autocast("cpu", torch.bfloat16, enabled=config.amp):
                        logits = network(seen)
                    loss = mask_loss(logits.float(), truth)
                    if not math.isfinite(loss.item()):
                        raise RuntimeError(f"the loss became {loss.item()} in step {step}; a lower lr may help")
                    self.adam.zero_grad()
                    loss.backward()
                    self.adam.step()
                    losses.append(loss.item())
                    bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                    bar.update()
                self.history.append(float(np.mean(losses)))
                self._save()
        return network.eval()

    def _save(self) -> None:
        metadata = {
            "format": FORMAT, "train": json.dumps(asdict(self.config)), "history": json.dumps(self.history),
        }  # fmt: skip
        write_atomically(self.path, save(training_tensors(self.network, self.adam), metadata))

    def _load(self) -> None:
        metadata, tensors = read_checkpoint(self.path, FORMAT, argument="--resume", missing="")
        with checkpoint_errors("--resume", self.path, "the checkpoint of a training of masks"):
            written = json.loads(metadata["train"])
            history = [float(loss) for loss in json.loads(metadata["history"])]
        check_same_run(self.path, written, asdict(self.config))
        with checkpoint_errors("--resume", self.path, "the checkpoint of a training of masks"):
            load_training(self.network, self.adam, tensors)
        self.history = history


def export_network(checkpoint: Path, path: Path) -> None:
    """Write the network of a checkpoint alone, in half precision."""
    metadata, tensors = read_checkpoint(checkpoint, FORMAT, argument="--export", missing="")
    weights = {name: value for name, value in tensors.items() if name.startswith("model.")}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    write_atomically(path, save(halved, metadata))


def train_masks(options: TrainMasks) -> None:
    """Train the network that draws masks, or resume."""
    check_folder(options.output, "--output")
    path = options.output / NAME
    if options.export is not None:
        check_output(options.export, "--export", overwrite=options.resume or options.overwrite)
        if options.export.resolve() == path.resolve():
            raise ValueError(f"--export: {path} is the checkpoint of the training, wanted another file")
    torch.set_num_threads(1)
    clips = read_clips(options.data, options.layout, "DATA")
    trainer = MaskTrainer(options.training, path, resume=options.resume, overwrite=options.overwrite)
    if trainer.history:
        print(f"resuming after epoch {len(trainer.history)} of {options.training.epochs}")
    with progress_bar(len(clips), "making examples", " clips") as bar:
        examples = make_examples(clips, options.training.examples, options.training.seed, bar.update)
    try:
        trainer.fit(examples)
    except KeyboardInterrupt:
        print(f"\n--resume goes on after epoch {len(trainer.history)}", file=sys.stderr)
        raise
    print(f"{len(examples)} examples of {len(clips)} clips; mean loss by epoch: ", end="")
    print(", ".join(f"{loss:.3f}" for loss in trainer.history))
    print(f"Network: {path}")
    if options.export is not None:
        export_network(path, options.export)
        print(f"Network alone: {options.export}")
