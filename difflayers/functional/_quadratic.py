"""Quadratic matching as functions: documentation, options, and what is said of a result."""

from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import check_number, check_same_device, check_size, check_tensor, holds_values
from difflayers._solution import table
from difflayers.matching.problems import DTYPES, Problems, check_multipliers, prepare
from difflayers.matching.quadratic.op import QuadraticFunction


class QuadraticSolution(NamedTuple):
    """What `solve_quadratic` found, for each problem of the batch. All fields but the first and the multipliers have the
    batch's shape. Prints as a table.

    The multipliers are those of the conditions of Karush, Kuhn and Tucker, X_ij = max(0, -(C_ij + alpha_i + beta_j) / gamma).
    """

    value: Tensor
    """The assignment (..., n, m) that `quadratic_matching` returns, differentiable."""
    objective: Tensor
    """What was minimised, ``<C, X> + gamma / 2 |X|^2``, unmatched templates included."""
    iterations: Tensor
    """Newton steps, int64."""
    residual: Tensor
    """The largest error of a row or column sum, in the float64 of the solver, before rounding. A row should sum to 1. A column
    should sum to at most 1, and to exactly 1 where its multiplier is positive."""
    converged: Tensor
    """Whether `residual` is at most the tolerance (bool). If not, `max_iter` or rounding ended the solve."""
    row_multipliers: Tensor
    """alpha (..., n), float64, in units of the cost: -alpha_i is the marginal cost of template i, the price of its
    proposal included. 0 for templates that are not there."""
    column_multipliers: Tensor
    """beta (..., m), float64, at least 0: the price of proposal j, 0 where it is not taken whole."""

    @property
    def multipliers(self) -> tuple[Tensor, Tensor]:
        """Those of rows and of columns: a `start` for the next solve."""
        return self.row_multipliers, self.column_multipliers

    def __str__(self) -> str:
        return table(self)


def quadratic_matching(
    cost: Tensor,
    gamma: float | Tensor = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 500,
    require_convergence: bool = False,
) -> Tensor:
    r"""Match n templates to m proposals at minimum cost plus a quadratic term, solved exactly.

    .. math:: \min_X \langle C, X \rangle + \tfrac{\gamma}{2} \|X\|^2 \quad \text{s.t. } X \ge 0,\;
       X \mathbf 1 = \mathbf 1,\; X^\top \mathbf 1 \le \mathbf 1,

    that is, the Euclidean projection of :math:`-C / \gamma` onto the assignment polytope, see `project_assignment`. A small
    gamma gives (nearly) the permutation of the linear program, and a gradient that is 0 almost everywhere. A large gamma
    spreads the assignment over pairs that cost about the same, and gives them a useful gradient.

    Args:
        cost: (..., n, m), floating point. +inf forbids a pair.
        gamma: a positive number or tensor, which broadcasts over the batch; differentiable. In units of the cost.
        template_mask, proposal_mask, unmatched_cost: as for `dmm_matching`. The share that stays unmatched is one more
            entry of its row, in the quadratic term, too.
        tolerance: the largest error of a row or column sum that counts as converged. The solver works in float64, for float32
            too.
        max_iter: at most so many Newton steps.
        require_convergence: raise a RuntimeError if the tolerance is not reached.

    Returns:
        (..., n, m), the dtype of the cost.

    Raises:
        TypeError, ValueError: as `dmm_matching` does; gamma not a positive number.
        RuntimeError: not converged, with require_convergence.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.3, 0.9]])
        >>> functional.quadratic_matching(cost, gamma=1.0)
        tensor([[0.4750, 0.5250, 0.0000],
                [0.5250, 0.4750, 0.0000]])
    """
    check_gamma(gamma)
    check_solver_options(tolerance, max_iter)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    weight = weigh_squares(problems, gamma)
    known = _start(problems, None)
    return problems.restore(_solve(problems, weight, known, "cost", tolerance, max_iter, require_convergence)[0])


def solve_quadratic(
    cost: Tensor,
    gamma: float | Tensor = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 500,
    require_convergence: bool = False,
    start: tuple[Tensor, Tensor] | None = None,
) -> QuadraticSolution:
    """`quadratic_matching`, with how the solver ended and the multipliers of rows and columns.

    Args:
        cost, gamma, template_mask, proposal_mask, unmatched_cost, tolerance, max_iter, require_convergence: as for
            `quadratic_matching`.
        start: `multipliers` of similar problems, a pair: (..., n) of rows and (..., m) of columns, both
            broadcast over the batch. For example those of the last video frame. The solver then takes fewer steps to the
            same solution, within the tolerance. Only the multipliers of columns are used.

    Returns:
        A `QuadraticSolution`.

    Raises:
        TypeError, ValueError, RuntimeError: as `quadratic_matching` does; multipliers in `start` not finite.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> solution = functional.solve_quadratic(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.3, 0.9]]), gamma=1.0)
        >>> bool(solution.converged), solution.column_multipliers.round(decimals=4)
        (True, tensor([0.1500, 0.0000, 0.0000], dtype=torch.float64))
    """
    check_gamma(gamma)
    check_solver_options(tolerance, max_iter)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    weight = weigh_squares(problems, gamma)
    known = _start(problems, start)
    X, rows, columns, *ending = _solve(problems, weight, known, "cost", tolerance, max_iter, require_convergence)
    value, X = problems.restore(X), X.detach()
    objective = problems.objective(X) + 0.5 * weight.detach().to(X.dtype) * X.square().sum((1, 2))
    steps, residual = ending
    columns = columns[:, :-1] if problems.slack else columns
    fields = (objective, steps, residual, residual <= tolerance, rows, columns)
    return QuadraticSolution(value, *map(problems.batched, fields))


def check_solver_options(tolerance: float, max_iter: int) -> None:
    """The options of the Newton method, checked for the function and the module alike."""
    check_number("tolerance", tolerance, positive=True)
    check_size("max_iter", max_iter)


def check_gamma(gamma: float | Tensor) -> None:
    """A positive number, or a floating-point tensor (whose values only the operator sees)."""
    if not isinstance(gamma, Tensor):
        check_number("gamma", gamma, positive=True)
        return
    check_tensor("gamma", gamma, DTYPES)


def project_assignment(
    X: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    allow_unmatched: bool = False,
    tolerance: float = 1e-9,
    max_iter: int = 500,
    require_convergence: bool = False,
) -> Tensor:
    r"""The Euclidean projection onto the assignment polytope, and its derivative.

    .. math:: \arg\min_{Y} \tfrac12 \|Y - X\|^2 \quad \text{s.t. } Y \ge 0,\; Y \mathbf 1 = \mathbf 1,\;
       Y^\top \mathbf 1 \le \mathbf 1

    by a semismooth Newton method on the dual (after Li, Sun, Toh), which ends at machine precision after a few steps: signs
    are exact, columns to rounding, rows within the tolerance. The gradient is the generalised Jacobian of the projection
    (Han and Sun), an orthogonal projector itself: the derivative wherever there is one, and at kinks one of its limits. It
    can be differentiated again.

    Args:
        X: (..., n, m), floating point. -inf forbids a pair.
        template_mask, proposal_mask: as for `dmm_matching`.
        allow_unmatched: one more column for each row alone, of which X is 0: rows may sum to less than 1.
        tolerance, max_iter: as for `quadratic_matching`.
        require_convergence: raise a RuntimeError if the tolerance is not reached. (``solve_quadratic(-X, 1.0)`` is the same
            problem, and its `converged` says so.)

    Returns:
        (..., n, m), the dtype of X.

    Raises:
        TypeError, ValueError: as `dmm_matching` does.
        RuntimeError: not converged, with require_convergence.

    References:
        Li, Sun, Toh, "On the efficient computation of a generalized Jacobian of the projector over the Birkhoff polytope",
        arXiv 1702.05934. Han, Sun, "Newton and quasi-Newton methods for normal maps with polyhedral sets", 1997.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> functional.project_assignment(torch.tensor([[2.0, 0.0], [1.0, 0.5]]))
        tensor([[0.8750, 0.1250],
                [0.1250, 0.8750]])
    """
    check_solver_options(tolerance, max_iter)
    unmatched = 0.0 if allow_unmatched else None
    problems = prepare("X", X, template_mask, proposal_mask, unmatched, sign=-1)
    weight, known = weigh_squares(problems, 1.0), _start(problems, None)
    return problems.restore(_solve(problems, weight, known, "X", tolerance, max_iter, require_convergence)[0])


def weigh_squares(problems: Problems, gamma: float | Tensor) -> Tensor:
    """gamma of each problem, (B,) in float64."""
    cost, batch = problems.cost, problems.shape[:-2]
    if not isinstance(gamma, Tensor):
        return cost.new_full((cost.shape[0],), gamma, dtype=torch.float64)
    if gamma.ndim or gamma.device.type != "cpu":  # torch takes a number on the CPU anywhere
        check_same_device("gamma", gamma, "cost", cost.device)
    try:
        return gamma.to(cost.device, torch.float64).broadcast_to(batch).reshape(cost.shape[0])
    except RuntimeError:
        raise ValueError(f"gamma must broadcast to the batch, {tuple(batch)}; got {tuple(gamma.shape)}") from None


def _start(problems: Problems, start: tuple[Tensor, Tensor] | None) -> Tensor:
    """Column multipliers to begin with, (B, m), that of unmatched templates included."""
    if start is None:
        return problems.cost.new_zeros(problems.cost.shape[0], problems.cost.shape[2], dtype=torch.float64)
    known = check_multipliers(start, problems)[1]
    return torch.nn.functional.pad(known, (0, 1)) if problems.slack else known


def _solve(
    problems: Problems,
    weight: Tensor,
    start: Tensor,
    name: str,
    tolerance: float,
    max_iter: int,
    require_convergence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """X, the multipliers of its rows and columns, Newton steps and residuals, of the flattened batch."""
    options = (problems.slack, float(tolerance), max_iter, name)
    X, *others = QuadraticFunction.apply(problems.cost, weight, problems.templates, start, *options)
    rows, columns, steps, residuals = (other.detach() for other in others)
    if require_convergence and holds_values(residuals) and not bool((residuals <= tolerance).all()):
        off = ~(residuals <= tolerance)
        raise RuntimeError(
            f"{int(off.sum())} of {len(residuals)} problems did not converge: their rows or columns are off by "
            f"up to {float(residuals.max()):.2g} after {int(steps.max())} Newton steps. Raise max_iter, tolerance or gamma"
        )
    return X, rows, columns, steps.long(), residuals
