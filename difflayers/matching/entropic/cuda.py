"""Entropic matching on CUDA: what is checked of a batch, and the memory of its results, around the kernels of
`cuda_ext/entropic.cu`."""

import torch
from torch import Tensor

from difflayers.matching.cuda import Geometry, Launch, geometry
from difflayers.matching.entropic.problems import check_batch, sums


def entropic_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 8; the numbers are float64."""
    warps = 1
    while warps < 8 and 1024 * warps < n * m:
        warps *= 2
    numbers = 2 * n * m + n * n + 8 * n + 3 * m  # Entropic in entropic.cu
    return geometry(warps, 8 * numbers + 8 * m, limit, counts=16)


def entropic(
    cost: Tensor,
    epsilon: Tensor,
    templates: Tensor,
    proposals: Tensor,
    start: Tensor,
    slack: bool,
    births: bool,
    tolerance: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.entropic`: the entropic problem of a batch. Values are checked, which waits for the device, but in a CUDA graph."""
    cost = cost.detach().contiguous()
    check_batch(cost, templates, proposals, epsilon.detach(), slack, births)
    wanted = sums(templates, proposals, slack, births)
    (B, N, M), X = cost.shape, torch.zeros_like(cost)
    alpha, beta = (cost.new_zeros(B, size, dtype=torch.float64) for size in (N, M))
    tight, iterations = cost.new_zeros(B, M, dtype=torch.bool), cost.new_zeros(B, dtype=torch.int64)
    residuals = cost.new_zeros(B, dtype=torch.float64)
    if cost.numel():
        launch = Launch(cost, "entropic.cu", "entropic", entropic_geometry)
        ticket, prices = cost.new_zeros(1, dtype=torch.int32), start.detach().contiguous()
        arrays = (cost, epsilon.detach().double().contiguous(), *wanted, prices, ticket, launch.workspace)
        results = (X, alpha, beta, tight, iterations, residuals)
        options = (births, births and not slack, births and slack, prices.numel() > 0, max_iter, launch.geometry.bytes)
        launch(*arrays, *results, B, N, M, *options, float(tolerance))
    return X, alpha, beta, tight, iterations, residuals


def entropic_centre(X: Tensor, tight: Tensor, grad: Tensor, free_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`op.entropic_centre`: X times grad, less what its rows and tight columns have in common."""
    X, tight, grad = (t.detach().contiguous() for t in (X, tight, grad))
    B, N, M = X.shape
    Y, a, b = torch.zeros_like(grad), *(grad.new_zeros(B, size, dtype=torch.float64) for size in (N, M))
    if X.numel():
        launch = Launch(X, "entropic.cu", "entropic_centre", entropic_geometry)
        launch(X, tight, grad, launch.workspace, Y, a, b, B, N, M, free_row, launch.geometry.bytes)
    return Y, a, b
