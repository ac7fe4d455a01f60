"""Differentiable matching as functions: documentation, options, and what is said of a result."""

import math
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from difflayers._checks import check_number, check_size
from difflayers.matching.op import DMMFunction, ProjectionFunction
from difflayers.matching.problems import Problems, finite, prepare


class MatchingInfo(NamedTuple):
    """How far a relaxed assignment is from feasible, for each problem of the batch; every field has the batch's shape."""

    objective: Tensor
    """What was minimised: <C, X>, unmatched templates included (dtype of the cost)."""
    row_violation: Tensor
    """``max_i |sum_j X_ij - 1|``, with `unmatched_cost` the unmatched share counted."""
    column_violation: Tensor
    """max_j (sum_i X_ij - 1), at least 0."""
    sign_violation: Tensor
    """max_ij -X_ij, at least 0."""


class QuadraticMatchingInfo(NamedTuple):
    """How the Newton method ended, for each problem of the batch; every field has the batch's shape."""

    objective: Tensor
    """What was minimised (dtype of the input)."""
    row_violation: Tensor
    """``max_i |sum_j X_ij - 1|`` in the float64 of the solver, before rounding: the only constraint not met exactly."""
    steps: Tensor
    """Newton steps, int64."""
    converged: Tensor
    """Whether `row_violation` is at most the tolerance (bool). False: `max_iter` ended it, or rounding did."""


@overload
def dmm_matching(
    cost: Tensor,
    template_mask: Tensor | None = ...,
    proposal_mask: Tensor | None = ...,
    *,
    n_grad: int = ...,
    n_proj: int = ...,
    step_size: float = ...,
    average: bool = ...,
    unmatched_cost: float | Tensor | None = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def dmm_matching(
    cost: Tensor,
    template_mask: Tensor | None = ...,
    proposal_mask: Tensor | None = ...,
    *,
    n_grad: int = ...,
    n_proj: int = ...,
    step_size: float = ...,
    average: bool = ...,
    unmatched_cost: float | Tensor | None = ...,
    return_info: Literal[True],
) -> tuple[Tensor, MatchingInfo]: ...
@overload
def dmm_matching(
    cost: Tensor,
    template_mask: Tensor | None = ...,
    proposal_mask: Tensor | None = ...,
    *,
    n_grad: int = ...,
    n_proj: int = ...,
    step_size: float = ...,
    average: bool = ...,
    unmatched_cost: float | Tensor | None = ...,
    return_info: bool,
) -> Tensor | tuple[Tensor, MatchingInfo]: ...
def dmm_matching(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    n_grad: int = 40,
    n_proj: int = 5,
    step_size: float = 0.1,
    average: bool = True,
    unmatched_cost: float | Tensor | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, MatchingInfo]:
    r"""Match n templates to m proposals at minimum cost, relaxed, by unrolled projected gradient descent (DMM-Net).

    The problem approached is the linear program

    .. math:: \min_X \langle C, X \rangle \quad \text{s.t. } X \ge 0,\; X \mathbf 1 = \mathbf 1,\;
       X^\top \mathbf 1 \le \mathbf 1,

    by n_grad steps :math:`X \leftarrow D(X - \eta C)`, where D is n_proj rounds of Dykstra's projections (signs, columns,
    rows, in this order, the corrections starting at 0 in each D). The result is the mean of the iterates, and the gradient
    that of this computation, step by step, the start held constant. Rows sum to 1 exactly; columns and signs are met the
    better the larger n_proj is: clamp X before you take a logarithm.

    Args:
        cost: (..., n, m), float32 or float64: C_ij, the cost of matching template i to proposal j. +inf forbids a pair:
            its X_ij is 0 throughout and its gradient is 0. Any batch shape, an empty one included.
        template_mask, proposal_mask: (..., n) and (..., m), bool or integer, broadcast over the batch: nonzero where a
            template or proposal is there at all. The rest of the cost may hold anything; X and the gradient are 0 there.
        n_grad: gradient steps.
        n_proj: rounds of projections after each.
        step_size: the step :math:`\eta`. The costs' scale matters: a step should move entries by a fraction of 1.
        average: return the mean of the iterates, as published; False: the last one.
        unmatched_cost: a number or a tensor (..., n), broadcast, at which a template may stay unmatched: its row then sums
            to less than 1. Needed where n > m. Differentiable. None: every template is matched.
        return_info: also return a `MatchingInfo`.

    Returns:
        (..., n, m), the dtype of the cost. With ``return_info``, a pair of that and a `MatchingInfo`.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes that do not fit; costs NaN or -inf; n > m, or forbidden pairs that leave a template without a
            proposal of its own, without unmatched_cost; counts below 1; a step that is not positive; no kernels for the
            device.
        NotImplementedError: second derivatives.

    Each problem is solved by itself, on one thread: its result depends on neither the batch nor the number of threads.
    Under autocast the cost is taken to float32.

    References:
        Zeng, Liao, Gu, Xiong, Fidler, Urtasun, "DMM-Net", ICCV 2019, arXiv 1909.12471: equation 2 (the program),
        algorithm 1. Boyle, Dykstra, "A method for finding projections onto the intersection of convex sets", 1986.

    See also:
        `quadratic_matching`, exact and smoother; `hungarian`, for evaluation; `mask_matching_cost`, for a cost.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.9]], requires_grad=True)
        >>> X, info = functional.dmm_matching(cost, return_info=True)
        >>> X.argmax(1), bool(info.row_violation < 1e-5)
        (tensor([0, 1]), True)
        >>> X[0, 0].backward()
        >>> cost.grad.shape
        torch.Size([2, 3])
    """
    check_dmm_options(n_grad, n_proj, step_size)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    options = (n_grad, n_proj, float(step_size), bool(average), problems.slack, torch.is_grad_enabled())
    X, _ = DMMFunction.apply(problems.cost, problems.templates, *options)
    out = problems.restore(X)
    if not return_info:
        return out
    X, batch = X.detach(), cost.shape[:-2]
    objective = (finite(problems.cost.detach()) * X).sum((1, 2))
    fields = (objective, *problems.violations(X))
    return out, MatchingInfo(*(field.reshape(batch) for field in fields))


def check_dmm_options(n_grad: int, n_proj: int, step_size: float) -> None:
    """The solver's options, checked for the function and the module alike."""
    check_size("n_grad", n_grad)
    check_size("n_proj", n_proj)
    check_number("step_size", step_size, positive=True)


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
    return_info: bool = False,
) -> Any:
    r"""Match n templates to m proposals at minimum cost, made strictly convex, exactly.

    .. math:: \min_X \langle C, X \rangle + \tfrac{\gamma}{2} \|X\|^2 \quad \text{s.t. } X \ge 0,\;
       X \mathbf 1 = \mathbf 1,\; X^\top \mathbf 1 \le \mathbf 1,

    that is, the Euclidean projection of :math:`-C / \gamma` onto the assignment polytope, see `project_assignment`. A small
    gamma gives (nearly) the permutation of the linear program, and a gradient that is 0 almost everywhere; a large one
    spreads the assignment over pairs that cost about the same, and the gradient says which way to go.

    Args:
        cost: (..., n, m), float32 or float64. +inf forbids a pair.
        gamma: a positive number, or a tensor of no dimensions; differentiable. In units of the cost.
        template_mask, proposal_mask, unmatched_cost: as for `dmm_matching`. The share that stays unmatched is one more
            entry of its row, in the quadratic term, too.
        tolerance, max_iter, require_convergence: as for `project_assignment`.
        return_info: also return a `QuadraticMatchingInfo`.

    Returns:
        (..., n, m), the dtype of the cost. With ``return_info``, a pair of that and a `QuadraticMatchingInfo`.

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
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    if isinstance(gamma, Tensor) and gamma.device.type not in ("cpu", cost.device.type):
        raise ValueError(f"gamma must be on the device of the cost, {cost.device}; got {gamma.device}")
    if isinstance(gamma, Tensor):
        gamma = torch.where(gamma > 0, gamma, math.nan).to(problems.cost.dtype)
    A = -finite(problems.cost) / gamma
    A = torch.where(
        A.isinf() & problems.cost.isfinite(), math.nan, A
    )  # an overflow is no forbidden pair: the solver refuses NaN
    A = torch.where(problems.cost == math.inf, -math.inf, A)
    X, out, info = _project("cost / gamma", problems, A, tolerance, max_iter, require_convergence)
    if not return_info:
        return out
    weight = gamma.detach() if isinstance(gamma, Tensor) else gamma
    objective = (finite(problems.cost.detach()) * X).sum((1, 2)) + 0.5 * weight * X.square().sum((1, 2))
    return out, QuadraticMatchingInfo(objective.reshape(cost.shape[:-2]), *info)


def check_solver_options(tolerance: float, max_iter: int) -> None:
    """The options of the Newton method, checked for the function and the module alike."""
    check_number("tolerance", tolerance, positive=True)
    check_size("max_iter", max_iter)


def check_gamma(gamma: float | Tensor) -> None:
    """A positive number, or a tensor of no dimensions (whose value only the graph knows)."""
    if isinstance(gamma, Tensor):
        if gamma.ndim != 0 or not gamma.dtype.is_floating_point:
            raise ValueError(
                f"gamma must be a number or a floating-point tensor of no dimensions; got {gamma.dtype} {tuple(gamma.shape)}"
            )
    else:
        check_number("gamma", gamma, positive=True)


def project_assignment(
    X: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    allow_unmatched: bool = False,
    tolerance: float = 1e-9,
    max_iter: int = 500,
    require_convergence: bool = False,
    return_info: bool = False,
) -> Any:
    r"""The Euclidean projection onto the assignment polytope, and its derivative.

    .. math:: \arg\min_{Y} \tfrac12 \|Y - X\|^2 \quad \text{s.t. } Y \ge 0,\; Y \mathbf 1 = \mathbf 1,\;
       Y^\top \mathbf 1 \le \mathbf 1

    by a semismooth Newton method on the dual (after Li, Sun, Toh), which ends at machine precision after a few steps: signs
    are exact, columns to rounding, rows within the tolerance. The gradient is the generalised Jacobian of the projection
    (Han and Sun), an orthogonal projector itself: the derivative wherever there is one, and at kinks one of its limits. It
    can be differentiated again.

    Args:
        X: (..., n, m), float32 or float64. -inf forbids a pair.
        template_mask, proposal_mask: as for `dmm_matching`.
        allow_unmatched: one more column for each row alone, of which X is 0: rows may sum to less than 1.
        tolerance: on max_i \|sum_j Y_ij - 1\|, in the float64 that the solver works in for float32 too.
        max_iter: at most so many Newton steps.
        require_convergence: raise a RuntimeError if the tolerance is not reached; else `converged` in the info says so.
        return_info: also return a `QuadraticMatchingInfo`.

    Returns:
        (..., n, m), the dtype of X. With ``return_info``, a pair of that and a `QuadraticMatchingInfo`.

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
    unmatched = 0.0 if allow_unmatched else None
    problems = prepare("X", X, template_mask, proposal_mask, unmatched, sign=-1)
    Y, out, info = _project("X", problems, -problems.cost, tolerance, max_iter, require_convergence)
    if not return_info:
        return out
    square = torch.where(problems.cost < math.inf, Y + problems.cost.detach(), 0).square().sum((1, 2))
    return out, QuadraticMatchingInfo((0.5 * square).reshape(X.shape[:-2]), *info)


def _project(
    name: str, problems: Problems, A: Tensor, tolerance: float, max_iter: int, require_convergence: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The projection of A: flat and detached, in the caller's shape, and the last three fields of the info."""
    check_solver_options(tolerance, max_iter)
    options = (problems.slack, float(tolerance), max_iter, name)
    Y, _, steps, residuals = ProjectionFunction.apply(A, problems.templates, *options)
    if require_convergence and not bool((residuals <= tolerance).all()):
        raise RuntimeError(
            f"{int((residuals > tolerance).sum())} of {len(residuals)} problems did not converge: their rows are off by "
            f"up to {float(residuals.max()):.2g} after {int(steps.max())} Newton steps. Costs very large against gamma "
            "lose their digits to rounding: raise gamma, tolerance or max_iter"
        )
    batch = problems.shape[:-2]
    info = (residuals.reshape(batch), steps.reshape(batch), (residuals <= tolerance).reshape(batch))
    return Y.detach(), problems.restore(Y), info
