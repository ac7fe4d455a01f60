"""Training in several processes, which ``torchrun`` starts: each takes its share of every batch.

Without ``torchrun`` there is one process, which has everything for its share, and nothing here costs it anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

_PATIENCE = timedelta(hours=1)
"""How long processes wait for each other; torch's 10 minutes are few for what the first one does alone."""


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Under ``torchrun``, join the other processes, and leave them at the end; yields the device of this one.

    ``device`` is the ``--device`` of the command line: with ``cuda``, every process takes a GPU of its own.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield device
        return
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {device} and {ranks} processes, wanted cpu, or cuda for a GPU each")
    own = None
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"--device: got cuda and {local + 1} processes or more on this machine, where torch finds "
                f"{torch.cuda.device_count()} GPUs; wanted a GPU for each process"
            )
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
    dist.init_process_group("gloo" if own is None else "nccl", timeout=_PATIENCE, device_id=own)
    try:
        yield device if own is None else str(own)
    finally:
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    # A torch built without torch.distributed has no is_initialized.
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def share(count: int) -> slice:
    """Return which of ``count`` samples are this process's; none, where there are fewer of them than processes."""
    rank, ranks = place()
    return slice(count * rank // ranks, count * (rank + 1) // ranks)


def totals(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all processes, the same in each; ``device`` is the one that they compute on."""
    if place()[1] == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def loss_of_all(loss: Tensor, terms: int) -> tuple[Tensor, float]:
    """Put together the losses of the processes' shares.

    Args:
        loss: Of this process's share: the mean of its terms, and a finite number if it has none.
        terms: How many these are.

    Returns:
        What to descend: the mean of its gradients over the processes, which DistributedDataParallel takes, is the gradient of
        the mean of all terms; and the latter's value, the same in each process.
    """
    _, ranks = place()
    if ranks == 1:
        return loss, loss.item()
    total, count = totals([loss.item() * terms, terms], loss.device)
    count = max(count, 1)
    return loss * (ranks * terms / count), total / count


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Let the other processes wait until the first has done what is inside, which may write files that they read."""
    rank, _ = place()
    if rank:
        wait_for_all()
    try:
        yield
    finally:
        # If the first one fails, the others are to find out for themselves.
        if not rank:
            wait_for_all()


def wait_for_all() -> None:
    """Return once all processes have come here."""
    if place()[1] > 1:
        dist.barrier()
