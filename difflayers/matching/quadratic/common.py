"""What the CPU and the CUDA kernels of quadratic matching have in common: a check of values."""

import torch
from torch import Tensor

from difflayers import _cuda

LARGEST_SCORE = 1e290
"""Of cost / gamma: its sums and products stay finite."""


def check_gammas(name: str, cost: Tensor, gamma: Tensor) -> None:
    """gamma must be a positive number, and cost / gamma one that float64 can work with. Waits for a device, as values do."""
    if _cuda.capturing(cost) or not cost.numel():
        return
    if not bool(((gamma > 0) & gamma.isfinite()).all()):
        value = float(gamma[~((gamma > 0) & gamma.isfinite())][0])
        raise ValueError(f"gamma must be finite and above 0; got {value}")
    largest = torch.where(cost == torch.inf, 0, cost).abs().amax((1, 2)).double()
    if bool((largest / gamma >= LARGEST_SCORE).any()):
        raise ValueError(
            f"{name} / gamma must be less than {LARGEST_SCORE:g}; got gamma {float(gamma.min()):.3g} and a {name} of "
            f"{float(largest.max()):.3g}: scale the {name}"
        )
