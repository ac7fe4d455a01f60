"""What the oracle, the CPU kernels and the CUDA kernels of SATNet have in common: constants, scaling, and checks of values."""

import torch
from torch import Tensor

# With fresh weights the same objective then takes 0.55 times the sweeps (python -m benchmarks satnet-quality); more of it
# overshoots on some weights.
MOMENTUM = 0.5
# Of sum_i |g_i|: a first sweep from a random start lowers the objective by 1 to 1.5 of it, one from near the solution by less.
LEAST_REFERENCE = 0.5
UNIT_SLACK = 8
"""How far out of [0, 1] z may be, in units of its dtype's eps."""


def input_directions(start: Tensor) -> Tensor:
    """r_i: the start vectors, made orthogonal to v_T and of length 1 (0 where there is no such direction, k = 1)."""
    r = start.clone()
    r[..., 0] = 0
    return torch.nn.functional.normalize(r, dim=-1, eps=torch.finfo(r.dtype).tiny)


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
