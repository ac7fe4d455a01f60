"""SATNet as a function: validation, broadcasting, documentation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import (
    LARGEST_K,
    check_generator,
    check_mask,
    check_number,
    check_same_device,
    check_size,
    check_tensor,
)
from difflayers._ops import autocasts
from difflayers._solution import table
from difflayers.satnet import op
from difflayers.satnet.common import scaling


class SATNetSolution(NamedTuple):
    """What `solve_satnet` found. Every field but `value` and `vectors` has the batch's shape. Prints as a table."""

    value: Tensor
    """(..., n), the dtype of S: what `satnet` returns, given entries as they came and the others solved for."""
    objective: Tensor
    """sum_ij (s_i . s_j)(v_i . v_j) at the end, float64; inf where that is beyond 1e308."""
    iterations: Tensor
    """Sweeps over the free variables, int64; 0 where nothing was free."""
    residual: Tensor
    """What the last sweep lowered the objective by, over the reference of the stopping rule (see `satnet`); float64. 0 where
    rounding alone can account for it."""
    converged: Tensor
    """Whether that is below `eps`, or 0 (bool). False: `max_iter` ended it."""
    vectors: Tensor
    """(..., n + 1 + aux, k), the dtype of S: the solution V, the truth direction first. A `start` for the next solve."""

    def __str__(self) -> str:
        return table(self)


def default_k(rows: int) -> int:
    """The smallest multiple of 8 above sqrt(2 rows): with that many dimensions the low-rank form has the SDP's optimum.

    (Barvinok 1995, Pataki 1998: an optimum of rank r with r (r + 1) / 2 <= rows exists.)

    Raises:
        TypeError, ValueError: no integer; fewer rows than none.
    """
    if isinstance(rows, bool) or not isinstance(rows, int | torch.SymInt):
        raise TypeError(f"rows must be an int; got {type(rows).__name__}")
    if rows < 0:
        raise ValueError(f"rows must be at least 0; got {rows}")
    return (math.isqrt(2 * rows) // 8 + 1) * 8


def random_start(
    rows: int, k: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """The mixing method's start: (rows, k), random unit vectors, drawn on the generator's device if there is one."""
    where = device if generator is None else generator.device
    return torch.nn.functional.normalize(
        torch.randn(rows, k, generator=generator, dtype=dtype, device=where).to(device), dim=1
    )


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
    start: Tensor | None = None,
) -> Tensor:
    r"""Compute the probabilities of variables that are not given from those that are, by a MAXSAT instance with clauses S.

    With N = n + 1 + aux rows :math:`s_i` of S (row 0 the truth direction, then the n variables, then auxiliary ones)
    it solves, for each sample, the SDP relaxation of MAXSAT in its low-rank form

    .. math:: \min_{v_1, \dots, v_{N-1} \in \mathbb{R}^k} \sum_{i,j} (s_i^\top s_j)(v_i^\top v_j)
       \quad \text{s.t. } \|v_i\| = 1,\; v_0 = v_\top = e_1,\;
       v_i = -\cos(\pi z_i) v_\top + \sin(\pi z_i) r_i \text{ for given } i,

    where the :math:`r_i \perp v_\top` are random unit vectors, and returns :math:`z_i = \arccos(-v_i^\top v_\top) / \pi`
    for the other variables. The solver is the mixing method (coordinate descent) with momentum: each sweep starts half a step
    ahead of the last one. The gradient comes from the linear system of the paper's theorem 1, solved to its own residual.

    Args:
        S: (n + 1 + aux, m), float32 or float64: the clause matrix.
        z: (..., n), the dtype of S: probabilities in [0, 1] (rounding errors outside are taken as 0 or 1). Entries that
            are not given do not count, but must also be in [0, 1]. Any batch shape, an empty one included.
        is_input: (..., n), bool or integer: nonzero where z is given.
        k: dimension of the vectors. Default: that of `start` if there is one, else `default_k` of the rows of S. Below 2, given
            values between 0 and 1 cannot be represented.
        max_iter: at most so many sweeps forward, and iterations of the same cost backward.
        eps: the solver stops after a sweep that lowers the objective by less than eps times a reference: what the first
            sweep lowered it by, or half of that sweep's sum of :math:`|\sum_{j \ne i} (s_i^\top s_j) v_j|` over the free i
            if that is more, as it is from a start near the solution. Whatever eps, it stops after a sweep that changes
            nothing beyond rounding. The backward solve stops on a squared residual of min(0.1, 300 eps, 3e6 eps^2) times its
            first, or at the square of the dtype's rounding, 1.4e-14 or 4.9e-32, if that is more.
        prox_lam: added to the diagonal of the backward system. 0 with a small eps gives the exact derivative wherever
            the solution of the SDP is unique; more damps gradients where it nearly is not.
        generator: where the random start, (n + 1 + aux, k) normal numbers, is drawn from, on its own device: a CPU
            generator gives the same start on every device. If None: torch's global one of the device of S.
        start: (..., n + 1 + aux, k), one for each sample, or (n + 1 + aux, k) for all: vectors to start at, such as the
            `SATNetSolution.vectors` of an earlier solve, in place of random ones. Scaled to length 1, held constant. The
            :math:`r_i` also come from the start: from its part orthogonal to :math:`v_\top`, or a fixed direction for each
            row without such a part (rows that were 0 or 1). Nothing is drawn. So a problem that starts at its own solution
            takes one sweep or a few. Free variables leave the axis of :math:`v_\top` only if a vector of the problem is off it.

    Returns:
        (..., n), the dtype of S: given entries as they came, the others solved for. `solve_satnet` says more.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype; z and S differ in dtype.
        ValueError: shapes that do not fit, values outside [0, 1] or NaN, S not finite, a row of zeros or NaN in start, sizes
            or iterations below 1, eps or prox_lam negative, tensors on a device without kernels.
        NotImplementedError: forward mode over forward mode.

    A random start is drawn once and shared by the batch. The result of a sample depends only on S, its own z and mask, and the
    start, to the last bit. The other samples, their order and the number of threads do not matter. The gradients are products
    by torch, whose rounding may depend on the threads. The gradient of S is a sum over the batch in its order. Ctrl-C stops a
    long solve between two sweeps. Under autocast z is taken to the dtype of S.
    On torch.vmap choose ``randomness="same"`` for that shared start, or "different".

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
    return _solve(S, z, is_input, k, max_iter, eps, prox_lam, generator, start)[0]


def solve_satnet(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = None,
    max_iter: int = 40,
    eps: float = 1e-4,
    prox_lam: float = 1e-2,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> SATNetSolution:
    """The same as `satnet`, and also the vectors behind the probabilities and how the solver ended.

    Args:
        S, z, is_input, k, max_iter, eps, prox_lam, generator, start: those of `satnet`.

    Returns:
        A `SATNetSolution`. Its `value` is what `satnet` returns and `vectors` what `satnet_vectors` does, differentiable as
        those are; the rest is not.

    Raises:
        TypeError, ValueError: as `satnet`.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> S = torch.tensor([[0.5, 0.5], [-1.0, 0.5], [1.0, -0.5]])
        >>> z, is_input = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
        >>> found = functional.solve_satnet(S, z, is_input, generator=torch.Generator().manual_seed(0))
        >>> print(found)
        SATNetSolution of 1 problem: value (1, 2)
        objective  iterations  residual  converged
              0.5           3         0        yes
        >>> again = functional.solve_satnet(S, z, is_input, start=found.vectors)
        >>> again.iterations.item(), torch.equal(again.value, found.value)
        (1, True)
    """
    out, V, sweeps, decreases = _solve(S, z, is_input, k, max_iter, eps, prox_lam, generator, start)
    batch = z.shape[:-1]
    converged = (decreases < eps) | (decreases == 0)
    return SATNetSolution(
        out,
        objective(S.detach(), V.detach()).reshape(batch),
        sweeps.reshape(batch),
        decreases.reshape(batch),
        converged.reshape(batch),
        V.reshape(*batch, *V.shape[1:]),
    )


def satnet_vectors(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    *,
    k: int | None = None,
    max_iter: int = 40,
    eps: float = 1e-4,
    prox_lam: float = 1e-2,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The vectors behind `satnet`: the solution V of its SDP, differentiable in S and in the given entries of z.

    Probabilities, roundings, objectives or anything else of V are plain torch on top of it, with one backward solve for all.

    Args:
        S, z, is_input, k, max_iter, eps, prox_lam, generator, start: those of `satnet`, and as there.

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
    V = _solve(S, z, is_input, k, max_iter, eps, prox_lam, generator, start)[1]
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
    start: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities in the shape of z; vectors, sweeps and last decreases of the flattened batch."""
    z = check_arguments(S, z, is_input, k, max_iter, eps, prox_lam, generator, start)
    shape = z.shape
    rows, n = S.shape[0], z.shape[-1]
    given = is_input.reshape(-1, n) != 0
    if start is None:
        first = random_start(rows, default_k(rows) if k is None else k, S.dtype, S.device, generator)
    else:
        first = _warm_start(start, given)
    z = z.reshape(-1, n)
    out, V, sweeps, decreases = op.vectors(S, z, given, first, prox_lam, max_iter, eps)
    return op.probabilities(V, z, given, out).reshape(shape), V, sweeps, decreases


def _warm_start(start: Tensor, given: Tensor) -> Tensor:
    """(B, N, k): the rows of a start, of length 1, and fixed ones for given variables to which it gives no direction r_i."""
    (B, n), (N, k) = given.shape, start.shape[-2:]
    start = torch.nn.functional.normalize(start.detach(), dim=-1).reshape(-1, N, k).expand(B, N, k)
    on_axis = (start[..., 1:] == 0).all(-1)
    needs_direction = on_axis & torch.nn.functional.pad(given, (1, N - 1 - n), value=True)
    return torch.where(needs_direction.unsqueeze(-1), _scattered(N, k, start), start)


def _scattered(rows: int, k: int, like: Tensor) -> Tensor:
    """(rows, k): unit vectors that look random and are always the same, on every device; nothing is drawn."""
    x = torch.arange(1, rows * k + 1, device=like.device)
    for _ in range(3):  # a hash of 32 bits whose products fit in 64
        x = (x ^ (x >> 16)) * 0x45D9F3B % 2**32
    return torch.nn.functional.normalize((x.to(like.dtype) / 2**31 - 1).reshape(rows, k), dim=1)


def objective(S: Tensor, V: Tensor) -> Tensor:
    """|S'V|^2 for each sample, float64, in slices of the batch."""
    scale = scaling(S)
    S = S / scale
    values = [(S.T @ v).square().sum((1, 2)) for v in V.split(max(1, 2**24 // max(1, S.shape[1] * V.shape[2])))]
    return torch.cat(values).double() * scale.double().square()


def check_arguments(
    S: Tensor,
    z: Tensor,
    is_input: Tensor,
    k: int | None,
    max_iter: int,
    eps: float,
    prox_lam: float,
    generator: torch.Generator | None,
    start: Tensor | None,
) -> Tensor:
    """Raise on arguments that do not fit; returns z, in the dtype of S if autocast is on. Values of z: `cpu.mixing`."""
    check_tensor("S", S)
    check_tensor("z", z, None)
    check_mask("is_input", is_input)
    check_generator("generator", generator)
    if S.ndim != 2 or S.shape[0] < 1 or S.shape[1] < 1:
        raise ValueError(f"S must have shape (n + 1 + aux, m) with m >= 1; got {tuple(S.shape)}")
    if z.ndim < 1 or not 1 <= z.shape[-1] < S.shape[0]:
        raise ValueError(
            f"z must have shape (..., n) with 1 <= n <= {S.shape[0] - 1}, the rows of S less the truth row; "
            f"got {tuple(z.shape)}"
        )
    if is_input.shape != z.shape:
        raise ValueError(f"is_input must have the shape of z, {tuple(z.shape)}; got {tuple(is_input.shape)}")
    if autocasts(S) and z.dtype.is_floating_point:
        z = z.to(S.dtype)
    if z.dtype != S.dtype:
        raise TypeError(f"z must have the dtype of S, {S.dtype}; got {z.dtype}: use z.to(S.dtype) or layer.to(z.dtype)")
    check_same_device("z", z, "S", S.device)
    check_same_device("is_input", is_input, "S", S.device)
    check_options(k, max_iter, eps, prox_lam)
    if start is not None:
        _check_start(start, S, z, k)
    return z


def _check_start(start: Tensor, S: Tensor, z: Tensor, k: int | None) -> None:
    """Raise if the start does not fit. Its values: `cpu.mixing`."""
    check_tensor("start", start)
    check_same_device("start", start, "S", S.device)
    if start.dtype != S.dtype:
        raise TypeError(f"start must have the dtype of S, {S.dtype}; got {start.dtype}")
    columns = start.shape[-1] if start.ndim and k is None else k
    rows = (S.shape[0], columns)
    if start.shape[-1:] == (0,) or start.shape not in (rows, (*z.shape[:-1], *rows)):
        shown = f"({S.shape[0]}, {'k' if k is None else k})"
        raise ValueError(
            f"start must have shape {shown}, or that for each sample of the batch {tuple(z.shape[:-1])}; "
            f"got {tuple(start.shape)}"
        )


def check_options(k: int | None, max_iter: int, eps: float, prox_lam: float) -> None:
    """The solver's options, checked for the function and the module alike."""
    if k is not None:
        check_size("k", k, most=LARGEST_K)
    check_size("max_iter", max_iter)
    for name, value in (("eps", eps), ("prox_lam", prox_lam)):
        check_number(name, value)
