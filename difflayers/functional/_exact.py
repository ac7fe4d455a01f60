"""Exact matching as functions: documentation, options, and what is said of a result."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from difflayers._checks import check_fits, check_number
from difflayers._solution import table
from difflayers.matching.exact.op import assign as _assign
from difflayers.matching.exact.op import exact_certificate, matrix, solve
from difflayers.matching.problems import Problems, check_multipliers, finite, largest, prepare

Gradient = Literal["blackbox", "straight-through", "none"]


class ExactSolution(NamedTuple):
    """What `solve_exact` found, for each problem of the batch. All fields but the first and the multipliers have the batch's
    shape. Prints as a table.

    The multipliers certify the assignment: ``C_ij + alpha_i + beta_j >= 0``, and ``= 0`` where template i has proposal j;
    ``beta_j = 0`` where proposal j is free. Where they are not unique, prices are neither
    the lowest nor the highest: that makes them a good start for a problem much like this one.
    """

    value: Tensor
    """The assignment (..., n, m) that `exact_matching` returns, with its gradient."""
    objective: Tensor
    """What was minimised, ``<C, X>``, unmatched templates included."""
    iterations: Tensor
    """Rows of the cost that were looked at, int64."""
    residual: Tensor
    """How far the certificate is from holding, float64: the largest violation of the conditions above."""
    converged: Tensor
    """Whether `residual` is at most 1e-9 times the largest of the multipliers and of the costs of what is matched (bool).
    False is rounding."""
    row_multipliers: Tensor
    """alpha (..., n), float64: -alpha_i is what template i pays, the cost of its match plus the price of its proposal. 0 for
    templates that are not there."""
    column_multipliers: Tensor
    """beta (..., m), float64, at least 0: the price of proposal j."""

    @property
    def multipliers(self) -> tuple[Tensor, Tensor]:
        """Those of rows and of columns: a `start` for the next solve."""
        return self.row_multipliers, self.column_multipliers

    def __str__(self) -> str:
        return table(self)


def exact_matching(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    gradient: Gradient = "blackbox",
    strength: float = 10.0,
) -> Tensor:
    r"""Match n templates to m proposals at minimum cost: the assignment itself, with a gradient to learn from.

    .. math:: X(C) = \arg\min_X \langle C, X \rangle \quad \text{s.t. } X \ge 0,\; X \mathbf 1 = \mathbf 1,\;
       X^\top \mathbf 1 \le \mathbf 1

    is a matrix of 0 and 1. It is found by shortest augmenting paths. X changes only in jumps, so its derivative is 0 almost
    everywhere. The backward pass therefore returns something else than the derivative of a loss L. With
    :math:`g = \partial L / \partial X` it is:

    - ``"blackbox"``: :math:`(X(C + \lambda g) - X(C)) / \lambda`, the gradient of an interpolation of L(X(C)) that is exact
      where the assignment stays the same over a distance of :math:`\lambda g`. One more solve.
    - ``"straight-through"``: :math:`-g`, as if X were -C.
    - ``"none"``: no gradient; that is `hungarian`.

    Args:
        cost: (..., n, m), floating point: C_ij, the cost of matching template i to proposal j. +inf forbids a pair. Any batch
            shape, an empty one included. float16 and bfloat16 are computed in float32, float32 in float64.
        template_mask, proposal_mask: (..., n) and (..., m), bool or integer, broadcast over the batch: nonzero where a
            template or proposal is there at all. The rest of the cost may hold anything; X and the gradient are 0 there.
        unmatched_cost: a number or a tensor (..., n), broadcast, at which a template may stay unmatched: its row is then 0.
            Needed where n > m. Differentiable, as C is. None: every template is matched.
        gradient: which gradient, see above.
        strength: :math:`\lambda` of the blackbox gradient. :math:`\lambda g` should be about as large as the differences of
            costs. If it is far smaller, no assignment changes and the gradient is 0. A loss that is a mean has a small g.

    Returns:
        (..., n, m), the dtype of the cost: 1 where template i is matched to proposal j, else 0.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes that do not fit; costs NaN or -inf; n > m, or forbidden pairs that leave a template without a
            proposal of its own, without unmatched_cost; an unknown gradient; a strength that is not positive; no kernels for
            the device.
        NotImplementedError: derivatives of the blackbox gradient, and forward mode with it. (The others have both: that of
            ``"none"`` is 0.)

    Each problem is solved by itself, on one thread. Its result depends neither on the batch nor on the number of threads. Where
    proposals are equally good, the one with the lowest index is tried first, on every device.

    References:
        Vlastelica, Paulus, Musil, Martius, Rolinek, "Differentiation of blackbox combinatorial solvers", ICLR 2020, algorithm
        1. Sahoo et al., "Backpropagation through combinatorial algorithms: identity with projection works", ICLR 2023. Jonker,
        Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems", 1987.

    See also:
        `assign`, indices without a gradient; `solve_exact`, with multipliers; `matching_loss`, where the right assignment is
        known; `quadratic_matching`, relaxed.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]], requires_grad=True)
        >>> X = functional.exact_matching(cost)
        >>> X.detach()
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
        >>> X[0, 2].neg().backward()  # the first template should have the last proposal
        >>> cost.grad
        tensor([[ 0.0000, -0.1000,  0.1000],
                [ 0.0000,  0.0000,  0.0000]])
    """
    problems, X, *_ = _solve(cost, template_mask, proposal_mask, unmatched_cost, gradient, strength)
    return problems.restore(X)


def hungarian(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
) -> Tensor:
    """The assignment of minimum cost, a matrix of 0 and 1. No gradient.

    Args:
        cost, template_mask, proposal_mask, unmatched_cost: as for `exact_matching`.

    Returns:
        (..., n, m), the dtype and device of the cost: 1 where template i is matched to proposal j.

    Raises:
        TypeError, ValueError: as `exact_matching` does.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> functional.hungarian(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    problems, columns = _columns(cost, template_mask, proposal_mask, unmatched_cost)
    return problems.restore(
        matrix(columns, problems.templates, problems.cost.shape[-1], problems.slack, problems.cost.dtype)
    )


def assign(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
) -> Tensor:
    """The assignment of minimum cost as indices: which proposal each template has. No gradient.

    `scipy.optimize.linear_sum_assignment` for a whole batch, on the device of the cost.

    Args:
        cost, template_mask, proposal_mask, unmatched_cost: as for `exact_matching`.

    Returns:
        (..., n), int64, on the device of the cost: the proposal of each template, -1 where a template stays unmatched or is
        not there.

    Raises:
        TypeError, ValueError: as `exact_matching` does.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> functional.assign(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))
        tensor([1, 0])
        >>> functional.assign(torch.tensor([[0.1], [0.2]]), unmatched_cost=0.3)
        tensor([ 0, -1])
    """
    problems, columns = _columns(cost, template_mask, proposal_mask, unmatched_cost)
    return problems.batched(columns)


def solve_exact(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    gradient: Gradient = "blackbox",
    strength: float = 10.0,
    start: tuple[Tensor, Tensor] | None = None,
) -> ExactSolution:
    """`exact_matching`, with the multipliers of rows and columns, which certify that it is optimal.

    Args:
        cost, template_mask, proposal_mask, unmatched_cost, gradient, strength: as for `exact_matching`.
        start: `multipliers` of a problem much like each of these, a pair: (..., n) of rows and (..., m) of columns, both
            broadcast over the batch. The solution of the last frame of a video, say. The optimum is the same; of several
            equally good assignments it may be another. It is found sooner where n = m and costs have changed by little;
            elsewhere a start from nothing is as good. Only those of columns are used.

    Returns:
        An `ExactSolution`.

    Raises:
        TypeError, ValueError: as `exact_matching` does; multipliers in `start` not finite.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> solution = functional.solve_exact(torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.75, 1.0]]))
        >>> float(solution.objective), solution.column_multipliers
        (0.5, tensor([0.7500, 0.1250, 0.0000], dtype=torch.float64))
    """
    problems, X, columns, alpha, beta, scans = _solve(
        cost, template_mask, proposal_mask, unmatched_cost, gradient, strength, start=start, centered=True
    )
    objective, residual, scale = exact_certificate(
        problems.cost.detach(), problems.templates, columns, alpha, beta, problems.slack
    )
    fields = (objective.to(problems.cost.dtype), scans, residual, residual <= 1e-9 * scale, alpha, beta)
    return ExactSolution(problems.restore(X), *map(problems.batched, fields))


def check_exact_options(gradient: str, strength: float) -> None:
    """The options of the gradient, checked for the function and the module alike."""
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be one of {', '.join(map(repr, get_args(Gradient)))}; got {gradient!r}")
    check_number("strength", strength, positive=True)


def _columns(
    cost: Tensor, template_mask: Tensor | None, proposal_mask: Tensor | None, unmatched_cost: float | Tensor | None
) -> tuple[Problems, Tensor]:
    """The checked batch and the column of each row, (B, n)."""
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    flat = problems.cost.detach()
    return problems, _assign(flat, problems.templates, problems.slack, "cost")


def _prices(start: tuple[Tensor, Tensor], problems: Problems) -> Tensor:
    """The multipliers of columns to start with, (B, m), in the range where those of a solution can be.

    Any at least 0 lead to an optimum, but rounding errors are as large as the multipliers.
    """
    spread = 2 * largest(finite(problems.cost.detach()).abs().flatten(1)).double()
    highest = problems.templates.shape[1] * spread
    return check_multipliers(start, problems)[1].clamp(min=0).minimum(highest.unsqueeze(1))


def _solve(
    cost: Tensor,
    template_mask: Tensor | None,
    proposal_mask: Tensor | None,
    unmatched_cost: float | Tensor | None,
    gradient: str,
    strength: float,
    *,
    start: tuple[Tensor, Tensor] | None = None,
    centered: bool = False,
) -> tuple[Problems, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The checked batch, X (B, n, m), its columns, the multipliers, and the rows looked at."""
    check_exact_options(gradient, strength)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    check_fits("strength", strength, problems.cost.dtype)
    prices = None if start is None else _prices(start, problems)
    X, columns, alpha, beta, scans = solve(
        problems.cost, problems.templates, prices, problems.slack, centered, gradient, float(strength)
    )
    return problems, X, columns, alpha, beta, scans
