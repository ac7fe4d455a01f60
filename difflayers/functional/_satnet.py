"""SATNet as a function: validation, broadcasting, documentation."""

import math
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from difflayers._checks import check_device, check_number, check_size
from difflayers._ops import autocasts
from difflayers.satnet.op import SATNetFunction


class SATNetInfo(NamedTuple):
    """How the mixing method ended, for each sample of the batch; every field has the batch's shape."""

    sweeps: Tensor
    """Sweeps over the free variables, int64; 0 where nothing was free."""
    relative_decrease: Tensor
    """What the last sweep lowered the objective by, over what the first one did; float64."""
    converged: Tensor
    """Whether that is below `eps` (bool). False: `max_iter` ended it."""
    objective: Tensor
    """sum_ij (s_i . s_j)(v_i . v_j) at the end, in the dtype of S."""


def default_k(rows: int) -> int:
    """The smallest multiple of 8 above sqrt(2 rows): with that many dimensions the low-rank form has the SDP's optimum.

    (Barvinok 1995, Pataki 1998: an optimum of rank r with r (r + 1) / 2 <= rows exists.)
    """
    return (math.isqrt(2 * rows) // 8 + 1) * 8


def random_start(
    rows: int, k: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """The mixing method's start: (rows, k), random unit vectors, drawn on the generator's device if there is one."""
    where = device if generator is None else generator.device
    return torch.nn.functional.normalize(
        torch.randn(rows, k, generator=generator, dtype=dtype, device=where).to(device), dim=1
    )


@overload
def satnet(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = ...,
    max_iter: int = ...,
    eps: float = ...,
    prox_lam: float = ...,
    generator: torch.Generator | None = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def satnet(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = ...,
    max_iter: int = ...,
    eps: float = ...,
    prox_lam: float = ...,
    generator: torch.Generator | None = ...,
    return_info: Literal[True],
) -> tuple[Tensor, SATNetInfo]: ...
@overload
def satnet(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = ...,
    max_iter: int = ...,
    eps: float = ...,
    prox_lam: float = ...,
    generator: torch.Generator | None = ...,
    return_info: bool,
) -> Tensor | tuple[Tensor, SATNetInfo]: ...
def satnet(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = None,
    max_iter: int = 40,
    eps: float = 1e-4,
    prox_lam: float = 1e-2,
    generator: torch.Generator | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, SATNetInfo]:
    r"""Complete the probabilities z of a MAXSAT instance, of which some are given, and differentiate through that.

    With N = n + 1 + aux rows :math:`s_i` of S (row 0 the truth direction, then the n variables, then auxiliary ones)
    it solves, for each sample, the SDP relaxation of MAXSAT in its low-rank form

    .. math:: \min_{v_1, \dots, v_{N-1} \in \mathbb{R}^k} \sum_{i,j} (s_i^\top s_j)(v_i^\top v_j)
       \quad \text{s.t. } \|v_i\| = 1,\; v_0 = v_\top = e_1,\;
       v_i = -\cos(\pi z_i) v_\top + \sin(\pi z_i) r_i \text{ for given } i,

    where the :math:`r_i \perp v_\top` are random unit vectors, and returns :math:`z_i = \arccos(-v_i^\top v_\top) / \pi`
    for the other variables. The solver is the mixing method (coordinate descent), with the whole sweep started half a
    step ahead of the last one; the gradient solves the linear system of the paper's theorem 1 to a residual of its own.

    Args:
        S: (n + 1 + aux, m), float32 or float64: the clause matrix.
        z: (..., n), the dtype of S: probabilities in [0, 1] (rounding errors outside are taken as 0 or 1). Entries that
            are not given are not used, and must be in [0, 1] all the same. Any batch shape, an empty one included.
        is_input: (..., n), bool or integer: nonzero where z is given.
        k: dimension of the vectors. Default: the smallest multiple of 8 above sqrt(2 (n + 1 + aux)), enough for the
            low-rank form to have the SDP's optimum. Below 2, given values between 0 and 1 cannot be represented.
        max_iter: at most so many sweeps forward, and iterations of the same cost backward.
        eps: the solver stops after a sweep that lowers the objective by less than eps times what the first one did.
            The backward solve stops on a squared residual of min(0.1, 300 eps, 3e6 eps^2) times its first.
        prox_lam: added to the diagonal of the backward system. 0 with a small eps gives the exact derivative wherever
            the solution of the SDP is unique; more damps gradients where it nearly is not.
        generator: where the random start, (n + 1 + aux, k) normal numbers, is drawn from, on its own device: a CPU
            generator gives the same start on every device. If None: torch's global one of the device of S.
        return_info: also return a `SATNetInfo`.

    Returns:
        (..., n), the dtype of S: given entries as they came, the others solved for. With ``return_info``, a pair of that
        and a `SATNetInfo` with the batch's shape.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype; z and S differ in dtype.
        ValueError: shapes that do not fit, values outside [0, 1] or NaN, S not finite, sizes or iterations below 1, eps or
            prox_lam negative, tensors on a device without kernels.
        NotImplementedError: second derivatives.

    The start is drawn once and shared by the batch: a sample's result depends on S, its own z and mask, and the start
    alone, to the last bit, whatever the batch around it, its order or the number of threads. The gradient with respect
    to S is a sum over the batch, whose rounding does depend on the order. Under autocast z is taken to the dtype of S.
    On torch.vmap the start is random: choose ``randomness="same"``.

    References:
        Wang, Donti, Wilder, Kolter, "SATNet", ICML 2019, arXiv 1905.12149: algorithm 1 (layer), 2 (forward), 3
        (backward), theorem 1. Wang, Chang, Kolter, "The mixing method", arXiv 1706.00476.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> S = torch.tensor([[0.5, 0.5], [-1.0, 0.5], [1.0, -0.5]], requires_grad=True)
        >>> z = torch.tensor([[1.0, 0.0]])
        >>> is_input = torch.tensor([[True, False]])
        >>> out = functional.satnet(S, z, is_input, generator=torch.Generator().manual_seed(0))
        >>> out.shape, bool(out[0, 0] == 1)
        (torch.Size([1, 2]), True)
        >>> out[0, 1].backward()
        >>> S.grad.shape
        torch.Size([3, 2])
    """
    out, V, sweeps, decreases = _solve(S, z, is_input, k, max_iter, eps, prox_lam, generator)
    out = out.reshape(z.shape)
    if not return_info:
        return out
    converged = (decreases < eps) | (decreases == 0)
    fields = (sweeps, decreases, converged, objective(S.detach(), V))
    return out, SATNetInfo(*(field.reshape(z.shape[:-1]) for field in fields))


def satnet_vectors(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = None,
    max_iter: int = 40,
    eps: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The vectors behind `satnet`: the solution V of its SDP, for other roundings of it. Not differentiable.

    Args:
        S, z, is_input, k, max_iter, eps, generator: those of `satnet`, and as there.

    Returns:
        (..., n + 1 + aux, k), the dtype of S: unit vectors, that of the truth direction first, then those of the n variables
        and the auxiliary ones. From the same generator state they are those that `satnet` reads its outputs off.

    Raises:
        TypeError, ValueError: as `satnet`.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> S = torch.tensor([[0.5, 0.5], [-1.0, 0.5], [1.0, -0.5]])
        >>> V = functional.satnet_vectors(S, torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]), k=4)
        >>> V.shape, (V[:, 1:] @ V[:, 0, :, None]).squeeze(-1)[0, 0].item()
        (torch.Size([1, 3, 4]), 1.0)
    """
    V = _solve(S.detach(), z.detach(), is_input, k, max_iter, eps, 0.0, generator)[1]
    return V.reshape(*z.shape[:-1], *V.shape[1:])


def _solve(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    k: int | None,
    max_iter: int,
    eps: float,
    prox_lam: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities, vectors, sweeps and last decreases of the flattened batch, from a random start."""
    z = _check(S, z, is_input, k, max_iter, eps, prox_lam)
    rows, n = S.shape[0], z.shape[-1]
    start = random_start(rows, default_k(rows) if k is None else k, S.dtype, S.device, generator)
    given = is_input.reshape(-1, n) != 0
    out, V, _, sweeps, decreases = SATNetFunction.apply(S, z.reshape(-1, n), given, start, max_iter, eps, prox_lam)
    return out, V, sweeps, decreases


def objective(S: Tensor, V: Tensor) -> Tensor:
    """|S'V|^2 for each sample, in slices of the batch."""
    values = [(S.T @ v).square().sum((1, 2)) for v in V.split(max(1, 2**24 // max(1, S.shape[1] * V.shape[2])))]
    return torch.cat(values)


def _check(S: Tensor, z: Tensor, is_input: Tensor, k: int | None, max_iter: int, eps: float, prox_lam: float) -> Tensor:
    """Raise on arguments that do not fit; returns z, in the dtype of S if autocast is on. Values of z: `cpu.mixing`."""
    for name, value in (("S", S), ("z", z), ("is_input", is_input)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")
    if S.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"S must be float32 or float64; got {S.dtype}")
    if S.ndim != 2 or S.shape[0] < 1 or S.shape[1] < 1:
        raise ValueError(f"S must have shape (n + 1 + aux, m) with m >= 1; got {tuple(S.shape)}")
    if z.ndim < 1 or not 1 <= z.shape[-1] < S.shape[0]:
        raise ValueError(
            f"z must have shape (..., n) with 1 <= n <= {S.shape[0] - 1}, the rows of S less the truth row; "
            f"got {tuple(z.shape)}"
        )
    if is_input.shape != z.shape:
        raise ValueError(f"is_input must have the shape of z, {tuple(z.shape)}; got {tuple(is_input.shape)}")
    if is_input.dtype.is_floating_point or is_input.dtype.is_complex:
        raise TypeError(f"is_input must be a bool or integer tensor (nonzero where z is given); got {is_input.dtype}")
    if autocasts(S) and z.dtype.is_floating_point:
        z = z.to(S.dtype)
    if z.dtype != S.dtype:
        raise TypeError(f"z must have the dtype of S, {S.dtype}; got {z.dtype}: use z.to(S.dtype) or layer.to(z.dtype)")
    for name, value in (("z", z), ("is_input", is_input)):
        if value.device != S.device:
            raise ValueError(f"{name} must be on the device of S, {S.device}; got {value.device}")
    check_device("S", S)
    check_options(k, max_iter, eps, prox_lam)
    return z


def check_options(k: int | None, max_iter: int, eps: float, prox_lam: float) -> None:
    """The solver's options, checked for the function and the module alike."""
    if k is not None:
        check_size("k", k)
    check_size("max_iter", max_iter)
    for name, value in (("eps", eps), ("prox_lam", prox_lam)):
        check_number(name, value)
