"""``python -m demos.sudoku train``."""

from __future__ import annotations

import sys
from dataclasses import fields

from demos.distributed import joined, place, wait_for_all
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.commands.common import describe_data, describe_result, set_up_torch
from demos.sudoku.config import TrainConfig, shown
from demos.sudoku.options import PROGRAM, Train
from demos.sudoku.train import CURVE_NAME, DivergedError, Trainer


def train(options: Train) -> int:
    """Train, or resume a training."""
    with joined(options.machine.device) as device:
        return train_here(options, device)


def new_trainer(options: Train, device: str) -> Trainer:
    """Begin a run."""
    config = options.config
    if not options.overwrite:
        Trainer.check_output(options.output)
    set_up_torch(device, options.machine.threads, config.box)
    if place()[0] == 0:
        print(describe_data(config))
        print(f"{config.network_description}, from random weights", flush=True)
    return Trainer(config, options.output, device=device)


def resumed_trainer(options: Train, device: str) -> Trainer:
    """Take up the run in the output directory. Its own options stand for those that are not given; others are refused."""
    checkpoint = load_checkpoint(options.output)
    asked, config = options.config, checkpoint.config
    for name in (field.name for field in fields(TrainConfig)):
        if name not in ("data", "mnist_root") and getattr(asked, name) != getattr(config, name):
            raise ValueError(
                f"--{name.replace('_', '-')}: got {shown(getattr(asked, name))}, but the run in {options.output} was started "
                f"with {shown(getattr(config, name))}; leave it out to resume"
            )
    threads = checkpoint.threads if options.machine.threads is None else options.machine.threads
    set_up_torch(device, threads, config.box)
    trainer = Trainer.resume(options.output, data=asked.data, mnist_root=asked.mnist_root, device=device)
    if place()[0] == 0:
        print(f"resuming the run in {options.output} after epoch {trainer.epoch} of {config.epochs}")
    return trainer


def train_here(options: Train, device: str) -> int:
    """Train in this process, one of those that train together."""
    first = place()[0] == 0
    trainer = (resumed_trainer if options.resume else new_trainer)(options, device)
    try:
        result = trainer.fit()
    except DivergedError as error:
        if first:
            print(f"{PROGRAM} train: {error}", file=sys.stderr)
        wait_for_all()  # torchrun ends all processes when one has failed: not before it is said
        return 1
    except KeyboardInterrupt:
        if trainer.history:
            command = f"{PROGRAM} train --resume --output {options.output}"
            message = f"resume after epoch {trainer.epoch} with: {command}"
        else:
            message = "there is nothing to resume from yet"
        if first:
            print(f"\ninterrupted; {message}", file=sys.stderr)
        return 130
    if first:
        print(f"\nOf the unseen boards: {describe_result(result)}.")
        print(f"Checkpoint, metrics and learning curve ({CURVE_NAME}) are in {options.output}")
    return 0
