"""What the CPU and the CUDA kernels of exact matching have in common: what is said of a batch that has no solution."""

import torch
from torch import Tensor

from difflayers.matching.exact import kernels
from difflayers.matching.problems import check_problems


def refuse(status: Tensor, cost: Tensor, templates: Tensor, slack: bool, name: str) -> None:
    """The error that says what is wrong with a batch. Infeasible problems and values have the same one for all methods."""
    check_problems(name, cost, templates, slack)
    if (status == kernels.WRONG_START).any():
        raise ValueError("start must hold multipliers of columns that are finite and at least 0; got others")
    raise ValueError(
        f"{name} and unmatched_cost must be at most {kernels.LARGEST:g} where they are finite, so that sums of them are; got "
        f"{float(torch.where(cost.isfinite(), cost, 0).abs().max()):g}"
    )
