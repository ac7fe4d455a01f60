"""SATNet on CPU: what a batch shares (C = S S', scaling, threads) around the per-sample kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.satnet import adjoint as backward
from difflayers.satnet import kernels
from difflayers.satnet.common import MOMENTUM, check_matrix, check_start, check_unit, residual_tolerance, scaling
from difflayers.satnet.gram import gram


def mixing(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, max_iter: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.mixing`: the forward pass of a batch."""
    S, z, given, start = (t.detach().contiguous() for t in (S, z, given, start))
    check_matrix(S)
    check_unit(z)
    check_start(start)
    S, z, unclamped = S / scaling(S), z.clamp(0, 1), z
    B, N, k = len(z), len(S), start.shape[-1]
    out, V, norms = torch.empty_like(z), S.new_empty(B, N, k), S.new_empty(B, N)
    sweeps, decreases = torch.zeros(B, dtype=torch.int64), torch.zeros(B, dtype=torch.float64)
    C, room = _gram(S, given, with_fixed=True)
    lengths = S.double().norm(dim=1)
    inputs = [t.numpy() for t in (S, C, lengths, start.reshape(-1, N, k), z, given)]
    outputs = [t.numpy() for t in (out, V, norms, sweeps, decreases)]
    operations = 2.0 * max_iter * V.numel() * min(N, 2 * S.shape[1])
    run_threads(kernels.mixing, [*inputs, max_iter, eps, MOMENTUM, room], outputs, operations)
    return torch.where(given, unclamped, out), V, norms, sweeps, decreases


def adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, pull: Tensor, prox_lam: float, max_iter: int, eps: float
) -> Tensor:
    """`op.adjoint`: the linear system of all derivatives, for a batch."""
    return solve_adjoint(S, V, norms, given, pull, prox_lam, max_iter, residual_tolerance(eps, S.dtype))[0]


def solve_adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, pull: Tensor, prox_lam: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """U (B, N, k), times scaling(S)^2, and the iterations it took, (B,), to the given tolerance on the squared residual."""
    S, V, norms, given, pull = (t.detach().contiguous() for t in (S, V, norms, given, pull))
    scale = scaling(S)
    S, prox_lam = S / scale, prox_lam / float(scale) / float(scale)
    U, iterations = torch.empty_like(V), torch.zeros(len(V), dtype=torch.int64)
    C, room = _gram(S, given, with_fixed=False)
    inputs = [t.numpy() for t in (S, C, V, norms, given, pull)]
    operations = 2.0 * max_iter * V.numel() * min(V.shape[1], 4 * S.shape[1])
    run_threads(
        backward.adjoint,
        [*inputs, prox_lam, max_iter, tolerance, room],
        [U.numpy(), iterations.numpy()],
        operations,
    )
    return U, iterations


def _gram(S: Tensor, given: Tensor, *, with_fixed: bool) -> tuple[Tensor, int]:
    """C = S S' if a sample of the batch wants the Gram form, and the size of the largest block of it that one gathers."""
    n_fixed = given.sum(1) + 1
    n_free = len(S) - n_fixed
    wanted = n_free[(n_free > 0) & (n_free <= kernels.GRAM_LIMIT * S.shape[1])]
    if len(wanted) == 0:
        return S.new_empty(0, 0), 0
    columns = torch.maximum(wanted, len(S) - wanted) if with_fixed else wanted
    return gram(S), int((wanted * columns).max())
