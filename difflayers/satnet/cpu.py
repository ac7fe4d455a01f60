"""SATNet on CPU: what a batch shares (C = S S', scaling, threads) around the per-sample kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.satnet import adjoint as backward
from difflayers.satnet import kernels
from difflayers.satnet.gram import gram
from difflayers.satnet.oracle import MOMENTUM

UNIT_SLACK = 8
"""How far out of [0, 1] z may be, in units of its dtype's eps."""


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


def residual_tolerance(eps: float, dtype: torch.dtype) -> float:
    """The squared residual at which the backward solve stops, in units of its first one: never below the dtype's rounding.

    At eps = 1e-4 the error of dS is then nearly that of stopping the forward pass early, which a tighter solve cannot mend
    (python -m benchmarks satnet-quality). Below, it falls with eps^2: conjugate gradients reach it in few iterations
    more, and a caller who asks for eps = 1e-10 wants the derivative.
    """
    return max(torch.finfo(dtype).eps ** 2, min(0.1, 3e2 * eps, 3e6 * eps**2))


def scaling(S: Tensor) -> Tensor:
    """The power of two by which the kernels divide S, so that no finite S overflows or vanishes in S S'; exact.

    V does not depend on it; norms leave the kernels divided by its square, U multiplied by it.
    """
    exponent = torch.frexp(S.abs().amax()).exponent.clamp(max=127 if S.dtype == torch.float32 else 1023)
    return torch.exp2(exponent.to(S.dtype))


def check_matrix(S: Tensor) -> None:
    """S must be finite."""
    least, most = S.aminmax()  # one pass and no copy; NaN comes through
    if not (least.isfinite() and most.isfinite()):
        raise ValueError(f"S must be finite; got {int((~S.isfinite()).sum())} entries that are inf or NaN")


def far_from_unit_length(start: Tensor) -> Tensor:
    """Which rows of the start do not have length 1, not even roughly, NaN included."""
    return ~((start.square().sum(-1) - 1).abs() <= 1e-3)


def check_start(start: Tensor) -> None:
    """The rows of the start must be unit vectors, as normalising gives them but for rows of zeros, inf or NaN."""
    wrong = far_from_unit_length(start)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"start must be finite, with no row of zeros; got {int(wrong.sum())} rows that are not, the first at {where}"
        )


def outside_unit(z: Tensor) -> Tensor:
    """Where z is not in [0, 1], NaN included."""
    slack = UNIT_SLACK * torch.finfo(z.dtype).eps
    return ~((z >= -slack) & (z <= 1 + slack))


def check_unit(z: Tensor) -> None:
    """z must be in [0, 1], or out of it by no more than a softmax's rounding."""
    wrong = outside_unit(z)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"z must be in [0, 1] everywhere; got {int(wrong.sum())} entries that are not, the first {float(z[where])} "
            f"at {where} of the flattened batch"
        )


def _gram(S: Tensor, given: Tensor, *, with_fixed: bool) -> tuple[Tensor, int]:
    """C = S S' if a sample of the batch wants the Gram form, and the size of the largest block of it that one gathers."""
    n_fixed = given.sum(1) + 1
    n_free = len(S) - n_fixed
    wanted = n_free[(n_free > 0) & (n_free <= kernels.GRAM_LIMIT * S.shape[1])]
    if len(wanted) == 0:
        return S.new_empty(0, 0), 0
    columns = torch.maximum(wanted, len(S) - wanted) if with_fixed else wanted
    return gram(S), int((wanted * columns).max())
