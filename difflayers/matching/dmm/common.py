"""What the CPU and the CUDA kernels of DMM matching have in common: the size of the saved bits, and a check of values."""

import torch
from torch import Tensor

from difflayers.matching.dmm.projections import LANES


def bits_shape(shape: torch.Size, rounds: int) -> tuple[int, int, int]:
    """(B, rounds, bytes) for costs (B, n, m): n rows of bits of t, and one of q."""
    B, n, m = shape
    return B, rounds, (n + 1) * ((m + LANES - 1) // LANES)


def check_range(cost: Tensor, step_size: float) -> None:
    """Steps must not overflow."""
    limit = torch.finfo(cost.dtype).max / max(1.0, 4 * step_size)
    if bool(((cost.abs() > limit) & (cost < torch.inf)).any()):
        raise ValueError(
            f"step_size * cost must be representable in {cost.dtype}; got step_size {step_size} and finite costs beyond "
            f"{limit:.3g}: scale the cost"
        )
