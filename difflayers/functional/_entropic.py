"""Entropic matching as functions: documentation, options, and what is said of a result."""

from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import check_number, check_size, holds_values
from difflayers._solution import table
from difflayers.matching.entropic import plain
from difflayers.matching.entropic.op import EntropicFunction
from difflayers.matching.entropic.problems import add_births, check_epsilon, weigh_entropy
from difflayers.matching.problems import Problems, check_multipliers, finite, prepare, proposals_of


class EntropicSolution(NamedTuple):
    """What `solve_entropic` found, for each problem of the batch. All fields but the first and the multipliers have the
    batch's shape. Prints as a table.

    The multipliers are those of the conditions of Karush, Kuhn and Tucker,
    ``X_ij = exp(-(C_ij + alpha_i + beta_j) / epsilon)``.
    """

    value: Tensor
    """The assignment (..., n, m) that `entropic_matching` returns, differentiable."""
    objective: Tensor
    """What was minimised, ``<C, X> + epsilon sum X (log X - 1)``, over what stays unmatched, too."""
    iterations: Tensor
    """Passes over the cost, int64: sweeps of Sinkhorn's algorithm and trials of Newton's method."""
    residual: Tensor
    """The largest violation of a constraint, of rows and columns, as a share of the sum wanted, in the float64 of the solver,
    before rounding. Signs are exact."""
    converged: Tensor
    """Whether `residual` is at most the tolerance (bool). If not, `max_iter` or rounding ended the solve."""
    row_multipliers: Tensor
    """alpha (..., n), float64, in units of the cost: -alpha_i is the marginal cost of template i, the price of its
    proposal included. 0 for templates that are not there."""
    column_multipliers: Tensor
    """beta (..., m), float64: the price of proposal j, at least 0, and 0 where its column sums to less than 1. With
    `unmatched_proposal_cost` a column sums to 1 whatever its price, which then can be negative."""

    @property
    def multipliers(self) -> tuple[Tensor, Tensor]:
        """Those of rows and of columns: a `start` for the next solve."""
        return self.row_multipliers, self.column_multipliers

    def __str__(self) -> str:
        return table(self)


def entropic_matching(
    cost: Tensor,
    epsilon: float | Tensor = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    unmatched_proposal_cost: float | Tensor | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 1000,
    require_convergence: bool = False,
) -> Tensor:
    r"""Match n templates to m proposals at minimum cost plus an entropic term (Sinkhorn's problem), solved to a tolerance.

    .. math:: \min_X \langle C, X \rangle + \varepsilon \sum_{ij} X_{ij} (\log X_{ij} - 1) \quad \text{s.t. }
       X \mathbf 1 = \mathbf 1,\; X^\top \mathbf 1 \le \mathbf 1

    Columns sum to *at most* 1, so that no extra row is needed for proposals that stay free. Every allowed pair gets a share
    above 0 and a gradient. A small epsilon gives (nearly) the permutation of the linear program. A large one gives a softmax of
    each row. The solver uses sweeps of Sinkhorn's algorithm in the log domain, and Newton's method on the dual for the last
    digits. The gradient is the derivative of the solution, from one symmetric linear system.

    With both `unmatched_cost` and `unmatched_proposal_cost` there is a dustbin on either side, with room for all that may stay
    unmatched, and an entry where the dustbins meet, of the mean of both costs: the optimal matching layer of SuperGlue, for
    which ``cost = -scores`` and both are ``-bin_score``, at ``epsilon = 1``. All columns then sum to 1, their dustbin's entry
    counted. With `unmatched_proposal_cost` alone the proposals that stay free are in the entropic term, and nothing
    else changes: with a number it is the usual way to write a rectangular problem, a row of slack with room for m - n.

    Args:
        cost: (..., n, m), floating point. +inf forbids a pair.
        epsilon: a positive number, or a tensor broadcast to the batch; differentiable. In units of the cost.
        template_mask, proposal_mask: as for `dmm_matching`.
        unmatched_cost: a number or a tensor (..., n), broadcast, at which a template may stay unmatched. That share is one more
            entry of its row, in the entropic term, too. Differentiable.
        unmatched_proposal_cost: a number or a tensor (..., m), broadcast, at which a proposal stays unmatched. That share is
            one more entry of its column, in the entropic term, too. Differentiable.
        tolerance: on the violation of rows and columns, as a share of the sum wanted, in the float64 that the solver works
            in for all dtypes.
        max_iter: at most about so many passes over the cost.
        require_convergence: raise a RuntimeError if the tolerance is not reached; else `solve_entropic` says so.

    Returns:
        (..., n, m), the dtype of the cost: the shares of pairs, without those that stay unmatched.

    Raises:
        TypeError, ValueError: as `dmm_matching` does; epsilon not positive, or so small that cost / epsilon overflows.
        RuntimeError: not converged, with require_convergence.
        NotImplementedError: third derivatives. (Second ones and forward mode are there.)

    References:
        Cuturi, "Sinkhorn distances", NeurIPS 2013. Sarlin, DeTone, Malisiewicz, Rabinovich, "SuperGlue", CVPR 2020, section
        3.2 (the dustbins). Luise, Rudi, Pontil, Ciliberto, "Differential properties of Sinkhorn approximation", NeurIPS 2018
        (the implicit derivative).

    See also:
        `solve_entropic`, with multipliers; `quadratic_matching`, with exact zeros; `dmm_matching`; `hungarian`.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.3, 0.9]])
        >>> functional.entropic_matching(cost, epsilon=0.1)
        tensor([[3.7772e-01, 6.2171e-01, 5.6693e-04],
                [6.2228e-01, 3.7679e-01, 9.3397e-04]])
    """
    arguments = cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost
    if torch.onnx.is_in_onnx_export():  # other runtimes have no kernels of ours
        return _plain(*arguments, tolerance, max_iter)
    return _solve(*arguments, tolerance, max_iter, require_convergence, None).value


def solve_entropic(
    cost: Tensor,
    epsilon: float | Tensor = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    unmatched_proposal_cost: float | Tensor | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 1000,
    require_convergence: bool = False,
    start: tuple[Tensor, Tensor] | None = None,
) -> EntropicSolution:
    """`entropic_matching`, with how the solver ended and the multipliers of rows and columns.

    Args:
        cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost: as for `entropic_matching`.
        tolerance, max_iter, require_convergence: as for `entropic_matching`.
        start: `multipliers` of a problem much like each of these, a pair: (..., n) of rows and (..., m) of columns, both
            broadcast over the batch. The solution of the last frame of a video, say. Fewer passes, the same solution within the
            tolerance.

    Returns:
        An `EntropicSolution`.

    Raises:
        TypeError, ValueError, RuntimeError: as `entropic_matching` does; multipliers in `start` not finite.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.3, 0.9]])
        >>> solution = functional.solve_entropic(cost, epsilon=0.1)
        >>> bool(solution.converged), solution.column_multipliers.round(decimals=4)
        (True, tensor([0.1498, 0.0000, 0.0000], dtype=torch.float64))
        >>> int(functional.solve_entropic(cost, epsilon=0.1, start=solution.multipliers).iterations)
        1
    """
    return _solve(
        cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost,
        tolerance, max_iter, require_convergence, start,
    )  # fmt: skip


def _plain(
    cost: Tensor,
    epsilon: float | Tensor,
    template_mask: Tensor | None,
    proposal_mask: Tensor | None,
    unmatched_cost: float | Tensor | None,
    unmatched_proposal_cost: float | Tensor | None,
    tolerance: float,
    max_iter: int,
) -> Tensor:
    """X in plain operators of torch."""
    problems, proposals, births, table_of_costs, smoothing = _prepared(
        cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost, tolerance, max_iter
    )
    options = (problems.slack, births, float(tolerance), max_iter)
    X = plain.entropic(table_of_costs, smoothing, problems.templates, proposals, *options)
    return problems.restore(X[:, : problems.shape[-2]])


def _prepared(
    cost: Tensor,
    epsilon: float | Tensor,
    template_mask: Tensor | None,
    proposal_mask: Tensor | None,
    unmatched_cost: float | Tensor | None,
    unmatched_proposal_cost: float | Tensor | None,
    tolerance: float,
    max_iter: int,
) -> tuple[Problems, Tensor, bool, Tensor, Tensor]:
    """The checked batch; which proposals there are, whether they may stay unmatched, the costs with that row, and epsilon."""
    check_epsilon(epsilon)
    check_solver_options(tolerance, max_iter)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    proposals = proposals_of(problems, proposal_mask)
    table_of_costs = add_births(problems, proposals, unmatched_proposal_cost)
    return problems, proposals, unmatched_proposal_cost is not None, table_of_costs, weigh_entropy(problems, epsilon)


def check_solver_options(tolerance: float, max_iter: int) -> None:
    """The options of the solver, checked for the function and the module alike."""
    check_number("tolerance", tolerance, positive=True)
    check_size("max_iter", max_iter)


def _solve(
    cost: Tensor,
    epsilon: float | Tensor,
    template_mask: Tensor | None,
    proposal_mask: Tensor | None,
    unmatched_cost: float | Tensor | None,
    unmatched_proposal_cost: float | Tensor | None,
    tolerance: float,
    max_iter: int,
    require_convergence: bool,
    start: tuple[Tensor, Tensor] | None,
) -> EntropicSolution:
    problems, proposals, births, table_of_costs, smoothing = _prepared(
        cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost, tolerance, max_iter
    )
    X, *others = EntropicFunction.apply(
        table_of_costs, smoothing, problems.templates, proposals, _prices(start, problems, births),
        problems.slack, births, float(tolerance), max_iter,
    )  # fmt: skip
    alpha, beta, _, iterations, residual = (other.detach() for other in others)
    if require_convergence and holds_values(residual) and not bool((residual <= tolerance).all()):
        raise RuntimeError(
            f"{int((~(residual <= tolerance)).sum())} of {len(residual)} problems did not converge: their constraints are "
            f"off by up to {float(residual.max()):.2g} after {int(iterations.max())} passes. Costs very large against "
            "epsilon lose their digits to rounding: raise epsilon, tolerance or max_iter"
        )
    n, m = problems.shape[-2:]
    shares, weight = X.detach(), smoothing.detach()
    entropy = (torch.special.xlogy(shares, shares) - shares).sum((1, 2))
    objective = (finite(table_of_costs.detach()) * shares).sum((1, 2)) + weight * entropy
    fields = (objective, iterations.long(), residual, residual <= tolerance, alpha[:, :n], beta[:, :m])
    return EntropicSolution(problems.restore(X[:, :n]), *map(problems.batched, fields))


def _prices(start: tuple[Tensor, Tensor] | None, problems: Problems, births: bool) -> Tensor:
    """The multipliers of rows to start with, (B, N); (B, 0) if there are none. Those of columns follow from them."""
    if start is None:
        return problems.cost.new_empty(problems.cost.shape[0], 0, dtype=torch.float64)
    rows = torch.where(problems.templates, check_multipliers(start, problems)[0], 0)
    return torch.cat((rows, rows.new_zeros(rows.shape[0], 1)), 1) if births else rows
