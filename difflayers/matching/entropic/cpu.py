"""Entropic matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching.entropic import kernels
from difflayers.matching.entropic.problems import check_batch, sums


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
    """`op.entropic`: the entropic problem of a batch."""
    cost = cost.detach().contiguous()
    check_batch(cost, templates, proposals, epsilon.detach(), slack, births)
    wanted = sums(templates, proposals, slack, births)
    (B, N, M), X = cost.shape, torch.empty_like(cost)
    alpha, beta = (torch.empty(B, size, dtype=torch.float64) for size in (N, M))
    tight, iterations = torch.empty(B, M, dtype=torch.bool), torch.empty(B, dtype=torch.int64)
    results = (X, alpha, beta, tight, iterations, torch.empty(B, dtype=torch.float64))
    arrays = (cost, epsilon.detach().double(), *wanted)
    inputs = [*(t.contiguous().numpy() for t in arrays), births, births and slack, start.detach().contiguous().numpy()]
    run_threads(kernels.entropic, [*inputs, tolerance, max_iter], [t.numpy() for t in results], 1500.0 * cost.numel())
    return results


def entropic_centre(X: Tensor, tight: Tensor, grad: Tensor, free_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`op.entropic_centre`: X times grad, less what its rows and tight columns have in common."""
    X, tight, grad = (t.detach().contiguous() for t in (X, tight, grad))
    B, N, M = X.shape
    results = torch.empty_like(grad), torch.empty(B, N, dtype=torch.float64), torch.empty(B, M, dtype=torch.float64)
    inputs = [X.numpy(), tight.numpy(), grad.numpy(), free_row]
    run_threads(kernels.entropic_centre, inputs, [t.numpy() for t in results], 300.0 * X.numel())
    return results
