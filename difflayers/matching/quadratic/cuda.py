"""Quadratic matching on CUDA: what is checked of a batch, and the memory of its results, around the kernels of
`cuda_ext/quadratic.cu`."""

import torch
from torch import Tensor

from difflayers.matching.cuda import Geometry, Launch, geometry
from difflayers.matching.problems import check_problems
from difflayers.matching.quadratic.common import check_gammas


def quadratic_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 8; the numbers are float64."""
    warps = 1
    while warps < 8 and 1024 * warps < n * m:
        warps *= 2
    numbers = 3 * n * m + n * n + 6 * n + 4 * m
    return geometry(warps, 8 * numbers + 4 * (n + m), limit, counts=16)


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
    """`op.quadratic`: a batch of problems. Values are checked, which waits for the device, but in a CUDA graph."""
    cost, gamma, templates, start = (t.detach().contiguous() for t in (cost, gamma, templates, start))
    check_problems(name, cost, templates, slack)
    check_gammas(name, cost, gamma)
    (B, n, m), X = cost.shape, torch.empty_like(cost)
    rows, columns = (cost.new_zeros(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = cost.new_zeros(B, dtype=torch.int64), cost.new_zeros(B, dtype=torch.float64)
    if cost.numel():
        launch = Launch(cost, "quadratic.cu", "quadratic", quadratic_geometry)
        ticket = cost.new_zeros(1, dtype=torch.int32)
        options = (slack, max_iter, launch.geometry.bytes, float(tolerance))
        results = (X, rows, columns, steps, residuals)
        launch(cost, gamma, templates, start, ticket, launch.workspace, *results, B, n, m, *options)
    return X, rows, columns, steps, residuals


def quadratic_adjoint(X: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
    """`op.quadratic_adjoint`: the projection's generalised Jacobian times grad."""
    X, columns, grad = (t.detach().contiguous() for t in (X, columns, grad))
    (B, n, m), out = X.shape, torch.empty_like(grad)
    if X.numel():
        launch = Launch(X, "quadratic.cu", "quadratic_adjoint", quadratic_geometry)
        launch(X, columns, grad, launch.workspace, out, B, n, m, launch.geometry.bytes)
    return out
