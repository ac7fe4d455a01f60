"""Quadratic matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching.problems import check_problems
from difflayers.matching.quadratic import kernels


def quadratic(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.quadratic`: the Euclidean projection of a batch onto the assignment polytope."""
    A, templates = A.detach().contiguous(), templates.contiguous()
    check_problems(name, -A, templates, slack)
    (B, n, m), X = A.shape, torch.empty_like(A)
    alpha, beta = (torch.empty(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = torch.empty(B, dtype=torch.int64), torch.empty(B, dtype=torch.float64)
    results = (X, alpha, beta, steps, residuals)
    inputs = [A.numpy(), templates.numpy(), slack, tolerance, max_iter]
    run_threads(kernels.quadratic, inputs, [t.numpy() for t in results], 300.0 * A.numel())
    return results


def quadratic_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    """`op.quadratic_adjoint`: the projection's generalised Jacobian times grad."""
    X, beta, grad = (t.detach().contiguous() for t in (X, beta, grad))
    out = torch.empty_like(grad)
    run_threads(kernels.quadratic_adjoint, [X.numpy(), beta.numpy(), grad.numpy()], [out.numpy()], 60.0 * X.numel())
    return out
