"""DMM matching as functions: documentation, options, and what is said of a result."""

from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import check_number, check_size
from difflayers._ops import differentiating
from difflayers._solution import table
from difflayers.matching.dmm import plain
from difflayers.matching.dmm.op import DMMFunction
from difflayers.matching.problems import Problems, largest, prepare
from difflayers.matching.quadratic.op import QuadraticFunction


class DMMSolution(NamedTuple):
    """What `solve_dmm` found, for each problem of the batch. All fields but the first have the batch's shape. Prints as a
    table."""

    value: Tensor
    """The relaxed assignment (..., n, m) that `dmm_matching` returns, differentiable."""
    objective: Tensor
    """<C, X>, unmatched templates included."""
    iterations: Tensor
    """Gradient steps, int64: `n_grad`, as this method has no stopping rule."""
    residual: Tensor
    """``max |X - P(X - c)|`` (float64): 0 for an optimum of the linear program, and only there. P is the exact projection onto
    the polytope; c the cost less the smallest of its row, divided by the largest of the entries so made."""
    converged: Tensor
    """Whether `residual` is at most the tolerance (bool): X is feasible and optimal to that, which few steps seldom reach."""
    row_violation: Tensor
    """``max_i |sum_j X_ij - 1|``, with `unmatched_cost` the unmatched share counted."""
    column_violation: Tensor
    """max_j (sum_i X_ij - 1), at least 0."""
    sign_violation: Tensor
    """max_ij -X_ij, at least 0."""

    def __str__(self) -> str:
        return table(self)


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
) -> Tensor:
    r"""Match n templates to m proposals at minimum cost, relaxed, by unrolled projected gradient descent (DMM-Net).

    The problem approached is the linear program

    .. math:: \min_X \langle C, X \rangle \quad \text{s.t. } X \ge 0,\; X \mathbf 1 = \mathbf 1,\;
       X^\top \mathbf 1 \le \mathbf 1,

    by n_grad steps :math:`X \leftarrow D(X - \eta C)`, where D is n_proj rounds of Dykstra's projections (signs, columns,
    rows, in this order, the corrections starting at 0 in each D). The result is the mean of the iterates. The gradient is that
    of this computation, step by step, with the start as a constant. Rows sum to 1 exactly. Entries may be slightly negative and
    columns slightly above 1, the less so the larger n_proj is. Clamp X before you take a logarithm.

    Args:
        cost: (..., n, m), floating point: C_ij, the cost of matching template i to proposal j. +inf forbids a pair:
            its X_ij is 0 throughout and its gradient is 0. Any batch shape, an empty one included.
        template_mask, proposal_mask: (..., n) and (..., m), bool or integer, broadcast over the batch: nonzero where a
            template or proposal is there at all. The rest of the cost may hold anything; X and the gradient are 0 there.
        n_grad: gradient steps.
        n_proj: rounds of projections after each.
        step_size: the step :math:`\eta`. The costs' scale matters: a step should move entries by a fraction of 1.
        average: return the mean of the iterates, as published; False: the last one.
        unmatched_cost: a number or a tensor (..., n), broadcast, at which a template may stay unmatched: its row then sums
            to less than 1. Needed where n > m. Differentiable. None: every template is matched.

    Returns:
        (..., n, m), the dtype of the cost.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes that do not fit; costs NaN or -inf; n > m, or forbidden pairs that leave a template without a
            proposal of its own, without unmatched_cost; counts below 1; a step that is not positive; no kernels for the
            device.

    Each problem is solved by itself, on one thread. Its result depends neither on the batch nor on the number of threads.
    float16 and bfloat16 costs are solved in float32.

    References:
        Zeng, Liao, Gu, Xiong, Fidler, Urtasun, "DMM-Net", ICCV 2019, arXiv 1909.12471: equation 2 (the program),
        algorithm 1. Boyle, Dykstra, "A method for finding projections onto the intersection of convex sets", 1986.

    See also:
        `solve_dmm`, with how feasible the result is; `quadratic_matching`, exact and smoother;
        `hungarian`, for evaluation; `mask_matching_cost`, for a cost.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.9]], requires_grad=True)
        >>> X = functional.dmm_matching(cost)
        >>> X.argmax(1)
        tensor([0, 1])
        >>> X[0, 0].backward()
        >>> cost.grad.shape
        torch.Size([2, 3])
    """
    check_dmm_options(n_grad, n_proj, step_size)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    return problems.restore(_descend(problems, n_grad, n_proj, step_size, average))


def solve_dmm(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    n_grad: int = 40,
    n_proj: int = 5,
    step_size: float = 0.1,
    average: bool = True,
    unmatched_cost: float | Tensor | None = None,
    tolerance: float = 1e-3,
) -> DMMSolution:
    r"""`dmm_matching`, and how near its result is to the optimum of the linear program.

    Args:
        cost, template_mask, proposal_mask, n_grad, n_proj, step_size, average, unmatched_cost: as for `dmm_matching`.
        tolerance: on the residual, for `converged`.

    Returns:
        A `DMMSolution`. Its residual takes one exact projection for each problem, by the solver of `quadratic_matching`.

    Raises:
        TypeError, ValueError: as `dmm_matching` does.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.9]])
        >>> solution = functional.solve_dmm(cost, n_proj=50, average=False)
        >>> solution.value.argmax(1), bool(solution.converged), bool(solution.row_violation < 1e-5)
        (tensor([0, 1]), True, True)
    """
    check_dmm_options(n_grad, n_proj, step_size)
    check_number("tolerance", tolerance, positive=True)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    X = _descend(problems, n_grad, n_proj, step_size, average)
    value, X = problems.restore(X), X.detach()
    residual = _natural_residual(problems, X)
    iterations = torch.full_like(residual, n_grad, dtype=torch.int64)
    fields = (problems.objective(X), iterations, residual, residual <= tolerance, *problems.violations(X))
    return DMMSolution(value, *map(problems.batched, fields))


def check_dmm_options(n_grad: int, n_proj: int, step_size: float) -> None:
    """The solver's options, checked for the function and the module alike."""
    check_size("n_grad", n_grad)
    check_size("n_proj", n_proj)
    check_number("step_size", step_size, positive=True)


def _descend(problems: Problems, n_grad: int, n_proj: int, step_size: float, average: bool) -> Tensor:
    if torch.onnx.is_in_onnx_export():  # other runtimes have no kernels of ours
        return plain.dmm(problems.cost, n_grad, n_proj, float(step_size), bool(average), problems.slack)
    options = (n_grad, n_proj, float(step_size), bool(average), problems.slack, differentiating())
    return DMMFunction.apply(problems.cost, problems.templates, *options)[0]


def _natural_residual(problems: Problems, X: Tensor) -> Tensor:
    """max |X - P(X - c)|, see `DMMSolution.residual`, (B,)."""
    cost = problems.cost.detach().double()
    if 0 in cost.shape:
        return cost.new_zeros(cost.shape[0])
    lowest = cost.amin(-1, keepdim=True)
    c = torch.where(cost.isfinite(), cost - torch.where(lowest.isfinite(), lowest, 0), 0)
    spread = c.amax((1, 2), keepdim=True)
    scores = torch.where(cost.isfinite(), X.double() - c / torch.where(spread > 0, spread, 1), -torch.inf)
    ones, none = torch.ones_like(cost[:, 0, 0]), torch.zeros_like(cost[:, 0])
    options = (problems.slack, 1e-9, 500, "cost")
    projected = QuadraticFunction.apply(-scores, ones, problems.templates, none, *options)[0]
    return largest((X - projected).abs().flatten(1))
