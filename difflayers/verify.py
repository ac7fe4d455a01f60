"""The layers' problems solved by a general convex solver, to check the layers against. Needs cvxpy (the extra ``verify``)."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import as_array, check_number, check_tensor
from difflayers._distribution import needs
from difflayers.functional._satnet import check_arguments, default_k, random_start
from difflayers.matching.entropic.problems import add_births, check_batch, sums, weigh_entropy
from difflayers.matching.problems import Problems, check_problems, prepare, proposals_of
from difflayers.satnet.common import check_matrix, check_unit
from difflayers.satnet.oracle import free_coordinates, relax_inputs

try:
    import cvxpy
except ImportError as error:
    raise ImportError(needs("difflayers.verify", "cvxpy")) from error

__all__ = ["MatchingSolution", "SDPSolution", "entropic_matching", "matching_lp", "quadratic_matching", "satnet"]


class SDPSolution(NamedTuple):
    """The optimum of the SDP behind `functional.satnet`, for each sample; float64."""

    z: Tensor
    """(..., n): given entries as they came, the others read off the optimum."""
    objective: Tensor
    """(...): sum_ij (s_i . s_j) X_ij."""


def satnet(
    S: Tensor, z: Tensor, is_input: Tensor, *, k: int | None = None, generator: torch.Generator | None = None
) -> SDPSolution:
    r"""What `functional.satnet` approaches as eps goes to 0, if k is large enough: the SDP's optimum, by cvxpy.

    .. math:: \min_{X \succeq 0} \sum_{ij} (s_i^\top s_j) X_{ij} \quad \text{s.t. } X_{ii} = 1,\;
       X_{ij} = v_i^\top v_j \text{ for given } i, j \text{ (the truth direction included)}

    solved by Clarabel to about 1e-9, after facial reduction: the given vectors are written in an orthonormal basis of
    their span, which leaves the problem an interior point.

    Args:
        S, z, is_input: as for `functional.satnet`.
        k, generator: as for `functional.satnet`. With a generator in the same state and the same k, given values between
            0 and 1 get the same random directions r_i; given values 0 and 1 have none, and both can be left out.

    Returns:
        An `SDPSolution`. Where the optimum is not unique, its z is one of several.

    Raises:
        TypeError, ValueError: as `functional.satnet` does; tensors without values.
        RuntimeError: Clarabel did not reach its tolerance.

    Example:
        >>> import torch
        >>> from difflayers import functional, verify
        >>> S = torch.tensor([[0.5, 0.5], [-1.0, 0.5], [1.0, -0.4]], dtype=torch.float64)
        >>> z, is_input = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([True, False])
        >>> solution = verify.satnet(S, z, is_input)
        >>> bool((functional.satnet(S, z, is_input, eps=1e-12, max_iter=1000) - solution.z).abs().max() < 1e-5)
        True
    """
    check_arguments(S, z, is_input, k, 1, 1e-4, 0.0, generator, None)
    for name, tensor in (("S", S), ("z", z), ("is_input", is_input)):
        check_tensor(name, tensor, None, values=True)
    S, z = S.detach().cpu().double(), z.detach().cpu()
    check_matrix(S)
    check_unit(z)
    # The draw must happen in the dtype of z to repeat that of functional.satnet.
    start = random_start(len(S), default_k(len(S)) if k is None else k, z.dtype, torch.device("cpu"), generator)
    n = z.shape[-1]
    solutions = [
        _solve(S, zb, gb, start.double())
        for zb, gb in zip(z.double().reshape(-1, n), (is_input != 0).cpu().reshape(-1, n), strict=True)
    ]
    values = torch.stack([value for value, _ in solutions]) if solutions else z.double()
    objectives = torch.tensor([objective for _, objective in solutions], dtype=torch.float64)
    return SDPSolution(values.reshape(z.shape), objectives.reshape(z.shape[:-1]))


def _clarabel(problem: cvxpy.Problem, what: str, tolerance: float) -> None:
    """Solve to a tolerance, or raise."""
    options = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # the error below says it
            warnings.simplefilter("ignore")
            problem.solve(solver="CLARABEL", max_iter=200, **options)
    except (cvxpy.error.SolverError, OverflowError) as error:
        raise RuntimeError(f"Clarabel did not solve {what}: {error}") from None
    if problem.status != "optimal":
        raise RuntimeError(f"Clarabel did not solve {what} to {tolerance:g}: {problem.status}")


def _solve(S: Tensor, z: Tensor, given: Tensor, start: Tensor) -> tuple[Tensor, float]:
    free = free_coordinates(given, len(S))
    fixed = [i for i in range(len(S)) if i not in set(free)]
    V = relax_inputs(z, given, start)[fixed].numpy()  # row 0 is v_T
    _, lengths, basis = np.linalg.svd(V, full_matrices=False)
    basis = basis[lengths > 1e-10 * lengths[0]]
    coordinates = V @ basis.T  # of the fixed vectors in the basis
    C = (S @ S.T).numpy()
    constant = float(np.sum(C[np.ix_(fixed, fixed)] * (V @ V.T)))
    if not free:
        return z.clone(), constant
    r = len(basis)
    X = cvxpy.Variable((r + len(free), r + len(free)), PSD=True)
    cost = cvxpy.sum(cvxpy.multiply(C[np.ix_(free, free)], X[r:, r:]))
    cost += 2 * cvxpy.sum(cvxpy.multiply(C[np.ix_(free, fixed)] @ coordinates, X[r:, :r]))
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [cvxpy.diag(X) == 1, X[:r, :r] == np.eye(r)])
    _clarabel(problem, "the SDP", 1e-10)
    along = X.value[r:, :r] @ coordinates[fixed.index(0)]  # v_i . v_T
    out = z.clone()
    for a, i in enumerate(free):
        if i <= len(z):
            out[i - 1] = math.acos(min(1.0, max(-1.0, -along[a]))) / math.pi
    return out, float(problem.value) + constant


class MatchingSolution(NamedTuple):
    """The optimum of a matching problem, for each problem of the batch; float64."""

    X: Tensor
    """(..., n, m)."""
    objective: Tensor
    """(...): what was minimised, unmatched templates included."""


def matching_lp(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
) -> MatchingSolution:
    r"""The linear program that `functional.dmm_matching` approaches, by cvxpy (Clarabel, to about 1e-10).

    .. math:: \min_X \langle C, X \rangle \quad \text{s.t. } X \ge 0,\; X \mathbf 1 = \mathbf 1,\;
       X^\top \mathbf 1 \le \mathbf 1

    Args:
        cost, template_mask, proposal_mask, unmatched_cost: as for `functional.dmm_matching`.

    Returns:
        A `MatchingSolution`. Where the optimum is not unique, its X is the analytic centre of several.

    Raises:
        TypeError, ValueError: as `functional.dmm_matching` does; tensors without values.
        RuntimeError: Clarabel did not reach its tolerance.

    Example:
        >>> import torch
        >>> from difflayers import verify
        >>> verify.matching_lp(torch.tensor([[0.1, 0.2], [0.1, 0.5]])).objective
        tensor(0.3000, dtype=torch.float64)
    """
    return _matching(_prepared(cost, template_mask, proposal_mask, unmatched_cost), 0.0)


def quadratic_matching(
    cost: Tensor,
    gamma: float = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
) -> MatchingSolution:
    r"""What `functional.quadratic_matching` solves, by cvxpy (Clarabel, to about 1e-10).

    .. math:: \min_X \langle C, X \rangle + \tfrac{\gamma}{2} \|X\|^2 \quad \text{s.t. } X \ge 0,\;
       X \mathbf 1 = \mathbf 1,\; X^\top \mathbf 1 \le \mathbf 1

    Args:
        cost, gamma, template_mask, proposal_mask, unmatched_cost: as for `functional.quadratic_matching`.

    Returns:
        A `MatchingSolution`.

    Raises:
        TypeError, ValueError: as `functional.dmm_matching` does; tensors without values.
        RuntimeError: Clarabel did not reach its tolerance.

    Example:
        >>> import torch
        >>> from difflayers import functional, verify
        >>> cost = torch.rand(3, 5, dtype=torch.float64)
        >>> difference = functional.quadratic_matching(cost, 0.1) - verify.quadratic_matching(cost, 0.1).X
        >>> bool(difference.abs().max() < 1e-6)
        True
    """
    check_number("gamma", gamma)
    return _matching(_prepared(cost, template_mask, proposal_mask, unmatched_cost), gamma)


def entropic_matching(
    cost: Tensor,
    epsilon: float = 0.05,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
    unmatched_proposal_cost: float | Tensor | None = None,
) -> MatchingSolution:
    r"""What `functional.entropic_matching` solves, by cvxpy (Clarabel, exponential cones, to about 1e-8).

    .. math:: \min_X \langle C, X \rangle + \varepsilon \sum_{ij} X_{ij} (\log X_{ij} - 1) \quad \text{s.t. }
       X \mathbf 1 = \mathbf 1,\; X^\top \mathbf 1 \le \mathbf 1

    Args:
        cost, epsilon, template_mask, proposal_mask, unmatched_cost, unmatched_proposal_cost: as for
            `functional.entropic_matching`.

    Returns:
        A `MatchingSolution`.

    Raises:
        TypeError, ValueError: as `functional.dmm_matching` does; tensors without values.
        RuntimeError: Clarabel did not reach its tolerance.

    Example:
        >>> import torch
        >>> from difflayers import functional, verify
        >>> cost = torch.rand(3, 5, dtype=torch.float64)
        >>> difference = functional.entropic_matching(cost, 0.1) - verify.entropic_matching(cost, 0.1).X
        >>> bool(difference.abs().max() < 1e-5)
        True
    """
    check_number("epsilon", epsilon, positive=True)
    if isinstance(unmatched_proposal_cost, Tensor):
        check_tensor("unmatched_proposal_cost", unmatched_proposal_cost, None, values=True)
        unmatched_proposal_cost = unmatched_proposal_cost.cpu()
    problems = _prepared(cost, template_mask, proposal_mask, unmatched_cost)
    proposals = proposals_of(problems, proposal_mask).cpu()
    births = unmatched_proposal_cost is not None
    table = add_births(problems, proposals, unmatched_proposal_cost)
    weight = weigh_entropy(problems, epsilon)
    check_batch(table.detach(), problems.templates, proposals, weight, problems.slack, births)
    wanted = sums(problems.templates, proposals, problems.slack, births)
    X = torch.zeros(table.shape, dtype=torch.float64)
    objective = torch.zeros(len(X), dtype=torch.float64)
    for b, c in enumerate(as_array("cost", table.double())):
        i, j = np.nonzero(np.isfinite(c))
        if len(i) == 0:
            continue
        x = cvxpy.Variable(len(i))
        constraints = []
        for sizes, index, equal in ((wanted.rows[b].numpy(), i, True), (wanted.columns[b].numpy(), j, births)):
            bounded = np.flatnonzero(np.isfinite(sizes))
            total = (bounded[:, None] == index).astype(float) @ x
            constraints.append(total == sizes[bounded] if equal else total <= sizes[bounded])
        value = c[i, j] @ x - epsilon * cvxpy.sum(cvxpy.entr(x)) - epsilon * cvxpy.sum(x)
        problem = cvxpy.Problem(cvxpy.Minimize(value), constraints)
        _clarabel(problem, f"problem {b}", 1e-10)
        X[b, i, j], objective[b] = torch.from_numpy(x.value), float(problem.value)
    n = problems.shape[-2]
    return MatchingSolution(problems.restore(X[:, :n]).double(), objective.reshape(problems.shape[:-2]))


def _prepared(
    cost: Tensor, template_mask: Tensor | None, proposal_mask: Tensor | None, unmatched_cost: float | Tensor | None
) -> Problems:
    """The problems on the CPU, their values checked."""
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost, values=True).cpu()
    check_problems("cost", problems.cost, problems.templates, problems.slack)
    return problems


def _matching(problems: Problems, gamma: float) -> MatchingSolution:
    X = torch.zeros(problems.cost.shape, dtype=torch.float64)
    objective = torch.zeros(len(X), dtype=torch.float64)
    for b, c in enumerate(as_array("cost", problems.cost.double())):
        allowed, rows = np.isfinite(c), problems.templates[b].numpy()
        bounded = slice(None, -1) if problems.slack else slice(None)
        x = cvxpy.Variable(c.shape, nonneg=True)
        value = cvxpy.sum(cvxpy.multiply(np.where(allowed, c, 0), x)) + gamma / 2 * cvxpy.sum_squares(x)
        constraints = [cvxpy.sum(x, axis=1) == rows.astype(float), cvxpy.sum(x, axis=0)[bounded] <= 1]
        if not allowed.all():
            constraints.append(cvxpy.multiply(~allowed, x) == 0)
        problem = cvxpy.Problem(cvxpy.Minimize(value), constraints)
        _clarabel(problem, f"problem {b}", 1e-11)
        X[b], objective[b] = torch.from_numpy(x.value), float(problem.value)
    return MatchingSolution(problems.restore(X), objective.reshape(problems.shape[:-2]))
