"""Quadratic matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import torch
from torch import Tensor

from difflayers import _cuda
from difflayers._backends import run_threads
from difflayers.matching.problems import check_problems
from difflayers.matching.quadratic import kernels

LARGEST_SCORE = 1e290
"""Of cost / gamma: its sums and products stay finite."""


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
