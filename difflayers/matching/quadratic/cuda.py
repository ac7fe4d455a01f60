"""Quadratic matching on CUDA: what is checked of a batch, and the memory of its results, around the kernels of
`cuda_ext/quadratic.cu`."""

import torch
from torch import Tensor

from difflayers.matching.cuda import Geometry, Launch, geometry
from difflayers.matching.problems import check_problems


def quadratic_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 8; the numbers are float64."""
    warps = 1
    while warps < 8 and 1024 * warps < n * m:
        warps *= 2
    numbers = 3 * n * m + n * n + 6 * n + 2 * m
    return geometry(warps, 8 * numbers + 4 * (n + m), limit, counts=16)


def quadratic(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.quadratic`: the Euclidean projection of a batch onto the assignment polytope. Values are checked, which waits for
    the device, but in a CUDA graph."""
    A, templates = A.detach().contiguous(), templates.contiguous()
    check_problems(name, -A, templates, slack)
    (B, n, m), X = A.shape, torch.empty_like(A)
    alpha, beta = (A.new_zeros(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = A.new_zeros(B, dtype=torch.int64), A.new_zeros(B, dtype=torch.float64)
    if A.numel():
        launch = Launch(A, "quadratic.cu", "quadratic", quadratic_geometry)
        ticket = A.new_zeros(1, dtype=torch.int32)
        options = (slack, max_iter, launch.geometry.bytes, float(tolerance))
        launch(A, templates, ticket, launch.workspace, X, alpha, beta, steps, residuals, B, n, m, *options)
    return X, alpha, beta, steps, residuals


def quadratic_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    """`op.quadratic_adjoint`: the projection's generalised Jacobian times grad."""
    X, beta, grad = (t.detach().contiguous() for t in (X, beta, grad))
    (B, n, m), out = X.shape, torch.empty_like(grad)
    if X.numel():
        launch = Launch(X, "quadratic.cu", "quadratic_adjoint", quadratic_geometry)
        launch(X, beta, grad, launch.workspace, out, B, n, m, launch.geometry.bytes)
    return out
