"""The learning rate of every training here: half a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer


def cosine(step: int, steps: int) -> float:
    """Return what the highest learning rate is multiplied by: from 1 at step 0 to 0 at the end, also where there is no step."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) if steps else 0.0


def set_cosine_rate(optimizer: Optimizer, highest: float, step: int, steps: int) -> None:
    """Give the optimizer the learning rate of a step, of ``steps`` in all."""
    for group in optimizer.param_groups:
        group["lr"] = highest * cosine(step, steps)
