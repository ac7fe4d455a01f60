"""Linear equations into the clause matrix of SATNet: known ones, and those that solutions satisfy."""

import torch
from torch import Tensor

from difflayers._checks import check_number, check_tensor
from difflayers.functional._clauses import check_entries, check_result

_ROUNDING = 4 * torch.finfo(torch.float64).eps


def equations_to_S(
    A: Tensor,
    b: Tensor,
    *,
    aux: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""The clause matrix S of linear equations over the bits, A z = b: one column for each equation.

    .. math:: s_j = \tfrac12 (a_j^\top 1 - 2 b_j, \; a_{j1}, \dots, a_{jn}, \; 0, \dots, 0)^\top

    The layer's objective :math:`\|S^\top V\|^2` is :math:`\|A z - b\|^2` at an assignment z. "Exactly one of these is true" is
    the equation :math:`\sum_i z_i = 1`. The relaxation of an equation is far tighter than that of clauses which say the same.

    Args:
        A, b: (equations, n) and (equations,), of any real dtype. Multiply a row of both to give an equation more weight.
        aux: auxiliary rows, all 0.
        dtype, device: of the result, any floating dtype; torch's defaults if None.

    Returns:
        (n + 1 + aux, equations), row 0 the truth direction.

    Raises:
        TypeError, ValueError: shapes that do not fit; no equations or no variables; numbers that are not finite, or that dtype
            cannot hold; sizes for which S has more than 2**29 entries.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> functional.equations_to_S(torch.tensor([[1, 1, 1]]), torch.tensor([1]))     # exactly one of three is true
        tensor([[0.5000],
                [0.5000],
                [0.5000],
                [0.5000]])
    """
    for name, value in (("A", A), ("b", b)):
        check_tensor(name, value, None, values=True)
        if value.dtype.is_complex:
            raise TypeError(f"{name} must be real; got {value.dtype}")
    if A.ndim != 2 or not A.numel():
        raise ValueError(f"A must have shape (equations, n), neither 0; got {tuple(A.shape)}")
    if b.shape != A.shape[:1]:
        raise ValueError(f"b must have shape ({A.shape[0]},); got {tuple(b.shape)}")
    check_result(aux, dtype, device)
    check_entries("A", (A.shape[1] + 1 + aux, A.shape[0]))
    rows, right = A.detach().cpu().double(), b.detach().cpu().double()
    S = torch.zeros(A.shape[1] + 1 + aux, A.shape[0], dtype=dtype or torch.get_default_dtype(), device="cpu")
    S[0] = (rows.sum(1) - 2 * right) / 2
    S[1 : A.shape[1] + 1] = rows.T / 2
    for name, part in (("b", S[:1]), ("A", S[1:])):
        if not part.isfinite().all():
            raise ValueError(f"{name} must be finite numbers that {S.dtype} can hold; got others")
    return S.to(torch.get_default_device() if device is None else device)


def solutions_to_S(
    solutions: Tensor,
    *,
    tolerance: float = 1e-6,
    aux: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""The clause matrix S of the linear equations that solutions satisfy: rules learnt in closed form, without training.

    With :math:`x = (1, \pm 1, \dots, \pm 1)` for a solution, +1 for true, the columns of S are the orthonormal eigenvectors

    .. math:: \frac{1}{\mathrm{count}} \sum_{x} x x^\top u = \lambda u, \qquad \lambda \le \mathrm{tolerance}.

    Each is an equation :math:`u^\top x = 0` that all solutions satisfy, up to the tolerance. "Exactly one of these is true" is
    such an equation, and so is "exactly two are", "these two are alike" and "this is never true". At an assignment the layer's
    objective :math:`\|S^\top V\|^2` is the sum of the squared errors of the equations: 0 at the solutions, and at every other
    assignment that satisfies all of the equations.

    Rules that are no equations, such as "at most one is true" or "a implies b", are not found. An assignment that breaks only
    such rules has an objective of 0 as well.

    Args:
        solutions: (count, n), of 0 and 1, any dtype: complete assignments, such as `Domains.encode(values)[0]`. They need not
            be all that there are. If r independent equations are true of all solutions, it takes n + 1 - r independent
            solutions to find them. With fewer, some of the equations found are true of these solutions by chance.
            `inference.acceptance_limit` with many solutions that were kept back shows it.
        tolerance: mean squared error of an equation up to which it counts. For solutions with mistakes, take more.
        aux: auxiliary rows, all 0.
        dtype, device: of the result, any floating dtype; torch's defaults if None.

    Returns:
        (n + 1 + aux, m), row 0 the truth direction, m the number of equations, the most accurate first. Only
        :math:`S S^\top` is determined: another machine may return another basis of the same equations. It takes time
        proportional to count n^2 + n^3, in float64 on the CPU.

    Raises:
        TypeError, ValueError: values other than 0 and 1; no solutions; no equations within the tolerance; sizes for which a
            square matrix of n + 1 rows has more than 2**29 entries.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> solutions = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]])    # one of the first three is true
        >>> S = functional.solutions_to_S(solutions)
        >>> S.shape, bool((S.T @ torch.tensor([[1.0, -1, 1, -1, 1]]).T).abs().max() < 1e-6)
        (torch.Size([5, 2]), True)
    """
    check_tensor("solutions", solutions, None, values=True)
    if solutions.ndim != 2 or not solutions.numel():
        raise ValueError(f"solutions must have shape (count, n), neither 0; got {tuple(solutions.shape)}")
    if not ((solutions == 0) | (solutions == 1)).all():
        raise ValueError("solutions must be of 0 and 1; got other values")
    check_number("tolerance", tolerance)
    check_result(aux, dtype, device)
    count, n = solutions.shape
    check_entries("solutions", (n + 1 + aux, n + 1))
    moments = _moments(solutions)
    errors, directions = torch.linalg.eigh(moments)
    # The eigenvalues are off by rounding, in proportion to the largest, which is at most the trace, n + 1.
    found = int((errors <= max(tolerance, _ROUNDING * (n + 1) ** 2)).sum())
    if not found:
        raise ValueError(
            f"solutions must satisfy a linear equation with a mean squared error of at most {tolerance:g}; "
            f"got {count} whose most accurate one has {errors[0]:.3g}"
        )
    S = torch.zeros(n + 1 + aux, found, dtype=dtype or torch.get_default_dtype(), device="cpu")
    S[: n + 1] = directions[:, :found]
    return S.to(torch.get_default_device() if device is None else device)


def _moments(solutions: Tensor) -> Tensor:
    """The mean of x x' over the solutions, (n + 1, n + 1), float64: the sums are exact."""
    total = torch.zeros(solutions.shape[1] + 1, solutions.shape[1] + 1, dtype=torch.float64, device="cpu")
    for part in solutions.cpu().split(4096):
        x = torch.nn.functional.pad(2 * (part != 0).double() - 1, (1, 0), value=1.0)
        total += x.T @ x
    return total / len(solutions)
