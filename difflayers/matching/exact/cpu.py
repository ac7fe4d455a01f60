"""Exact matching on CPU: the memory of a batch's results around the kernel."""

import numpy as np
import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching.exact import kernels
from difflayers.matching.exact.common import refuse

_COLD = np.empty((0, 0))


def exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`op.exact`: the assignment of a batch, its multipliers, and the rows looked at."""
    columns, alpha, beta, scans = map(torch.from_numpy, _run(cost, templates, prices, slack, centered, name))
    return columns, alpha, beta, scans


def assign(cost: Tensor, templates: Tensor, slack: bool, name: str) -> Tensor:
    """The assignment alone."""
    return torch.from_numpy(_run(cost, templates, None, slack, False, name)[0])


def exact_certificate(
    cost: Tensor, templates: Tensor, columns: Tensor, alpha: Tensor, beta: Tensor, slack: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`op.exact_certificate`: what the assignment costs, how far the multipliers are from certifying it, the largest cost."""
    inputs = [t.detach().contiguous().numpy() for t in (cost, templates, columns, alpha, beta)]
    objective, residual, scale = (np.empty(len(cost)) for _ in range(3))
    run_threads(kernels.certificate, (*inputs, slack), (objective, residual, scale), 4.0 * cost.numel())
    return torch.from_numpy(objective), torch.from_numpy(residual), torch.from_numpy(scale)


def _run(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[np.ndarray, ...]:
    B, n, width = cost.shape
    start = _COLD if prices is None else prices.detach().contiguous().numpy()
    inputs = (cost.detach().contiguous().numpy(), templates.contiguous().numpy(), start, slack, centered)
    results = np.empty((B, n), np.int64), np.empty((B, n)), np.empty((B, width - slack)), np.empty(B, np.int64)
    status = np.zeros(B + 1, np.int64)  # of each problem, and whether one has none
    run_threads(kernels.exact, inputs, (*results, status), 20.0 * cost.numel())
    if status[B]:
        refuse(torch.from_numpy(status[:B]), cost, templates, slack, name)
    return results
