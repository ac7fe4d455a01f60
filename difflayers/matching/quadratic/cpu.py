"""Quadratic matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching.problems import check_problems
from difflayers.matching.quadratic import kernels
from difflayers.matching.quadratic.common import check_gammas


def quadratic(
    cost: Tensor,
    gamma: Tensor,
    templates: Tensor,
    start: Tensor,
    slack: bool,
    tolerance: float,
    max_iter: int,
    name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.quadratic`: a batch of problems."""
    cost, gamma, templates, start = (t.detach().contiguous() for t in (cost, gamma, templates, start))
    check_problems(name, cost, templates, slack)
    check_gammas(name, cost, gamma)
    (B, n, m), X = cost.shape, torch.empty_like(cost)
    rows, columns = (torch.empty(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = torch.empty(B, dtype=torch.int64), torch.empty(B, dtype=torch.float64)
    results = (X, rows, columns, steps, residuals)
    inputs = [cost.numpy(), gamma.numpy(), templates.numpy(), start.numpy(), slack, tolerance, max_iter]
    operations = B * n * (300.0 * m + 5.0 * n * n)
    run_threads(kernels.quadratic, inputs, [t.numpy() for t in results], operations)
    return results


def quadratic_adjoint(X: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
    """`op.quadratic_adjoint`: the projection's generalised Jacobian times grad."""
    X, columns, grad = (t.detach().contiguous() for t in (X, columns, grad))
    out = torch.empty_like(grad)
    operations = X.shape[0] * X.shape[1] * (60.0 * X.shape[2] + 0.5 * X.shape[1] ** 2)
    run_threads(kernels.quadratic_adjoint, [X.numpy(), columns.numpy(), grad.numpy()], [out.numpy()], operations)
    return out
