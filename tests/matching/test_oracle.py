"""The oracle against cvxpy, against the algorithm as published, and against its own definitions."""

import math
from collections.abc import Callable

import cvxpy
import numpy as np
import pytest
import torch
from matching_problems import DEGENERATE, Problem, assignments, degenerate, make_problem, problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional, verify
from difflayers.matching.dmm import oracle
from difflayers.matching.quadratic import oracle as quadratic

INF = math.inf
F64 = torch.float64


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=F64)


def naive_start(C: Tensor, slack: bool) -> Tensor:
    """The rule of the paper, entry by entry, on lists."""
    n, m = C.shape
    table = C.tolist()
    bounded = m - 1 if slack else m
    entries = [table[i][j] for i in range(n) for j in range(bounded) if table[i][j] < INF]
    X = torch.zeros_like(C)
    for i in range(n):
        best: tuple[float, int] | None = None
        for j in range(m):
            if table[i][j] == INF:
                continue
            column = [table[r][j] for r in range(n)]
            keeps = j >= bounded or column.index(min(column)) == i
            value = table[i][j] if keeps else max(entries)
            if best is None or value < best[0]:
                best = value, j
        if best is not None:
            X[i, best[1]] = 1
    return X


def test_start_by_hand() -> None:
    """Columns are cheapest in rows 1, 0, 0, 1; the others become 9. Then row 0 takes column 2, row 1 column 0."""
    C = matrix([5, 4, 3, 9], [1, 6, 7, 8])
    assert torch.equal(oracle.start(C), matrix([0, 0, 1, 0], [1, 0, 0, 0]))
    assert torch.equal(oracle.start(matrix([2, 2, 2], [2, 2, 2])), matrix([1, 0, 0], [1, 0, 0]))
    assert torch.equal(oracle.start(matrix([1, 5], [2, 6])), matrix([1, 0], [1, 0])), "row 1 keeps nothing: the first"
    assert torch.equal(oracle.start(matrix([INF, 5], [2, INF])), matrix([0, 1], [1, 0]))
    assert torch.equal(oracle.start(matrix([3, 5, 4], [1, 6, 4]), slack=True), matrix([0, 0, 1], [1, 0, 0]))


@pytest.mark.parametrize("size", ["odd", "forbidden", "masked", "slack", "slack, masked and forbidden", "n = 1"])
def test_start_is_the_papers(size: str) -> None:
    p = problem(size)
    for C in (p.cost, torch.where(p.cost < INF, (4 * p.cost).floor(), INF)):  # as drawn, and with many equal ones
        for c in C:
            assert torch.equal(oracle.start(c, slack=p.slack), naive_start(c, p.slack))


def nearest(X: Tensor, constraints: Callable[[cvxpy.Variable], list[cvxpy.Constraint]], allowed: Tensor) -> Tensor:
    """The point of a set that is nearest to X, by cvxpy: forbidden entries are 0."""
    Y = cvxpy.Variable(X.shape)
    forbidden = [cvxpy.multiply((~allowed).numpy().astype(float), Y) == 0]
    distance = cvxpy.sum_squares(Y - (X * allowed).numpy())
    cvxpy.Problem(cvxpy.Minimize(distance), [*constraints(Y), *forbidden]).solve(solver="CLARABEL", tol_gap_abs=1e-12)
    return torch.from_numpy(Y.value)


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_each_projection_is_one(share: float, slack: bool) -> None:
    allowed = torch.rand(5, 7) >= share
    allowed[:, 0] = True
    X = 0.5 * torch.randn(5, 7, dtype=F64) + 0.2
    X[:, 3] += 0.6
    last = slice(None, -1) if slack else slice(None)
    found = oracle.project_nonnegative(X, allowed)
    assert_close(found, nearest(X, lambda Y: [Y >= 0], allowed), rtol=0, atol=1e-6)
    X = X * allowed
    found = oracle.project_columns(X, allowed, slack=slack)
    assert_close(found, nearest(X, lambda Y: [cvxpy.sum(Y, axis=0)[last] <= 1], allowed), rtol=0, atol=1e-6)
    assert (X[:, :-1].sum(0) > 1).any() and (X[:, :-1].sum(0) < 1).any()
    found = oracle.project_rows(X, allowed)
    assert_close(found, nearest(X, lambda Y: [cvxpy.sum(Y, axis=1) == 1], allowed), rtol=0, atol=1e-6)


def test_columns_of_unmatched_templates_have_no_bound() -> None:
    X, allowed = matrix([1, 2], [1, 3]), torch.ones(2, 2, dtype=torch.bool)
    assert torch.equal(oracle.project_columns(X, allowed, slack=True), matrix([0.5, 2], [0.5, 3]))
    assert torch.equal(oracle.project_columns(X, allowed), matrix([0.5, 0], [0.5, 1]))


def test_two_rounds_by_hand() -> None:
    """Signs, columns, rows, in this order; the second round starts from p, q and r of the first."""
    X, allowed = matrix([2, -1], [1, 0.5]), torch.ones(2, 2, dtype=torch.bool)
    assert torch.equal(oracle.dykstra(X, allowed, 1), matrix([1, 0], [0.25, 0.75]))
    assert torch.equal(oracle.dykstra(X, allowed, 2), matrix([0.9375, 0.0625], [0.1875, 0.8125]))


@pytest.mark.parametrize("size", ["odd", "n = m", "forbidden", "masked", "slack", "slack, masked and forbidden"])
def test_many_rounds_are_the_projection(size: str) -> None:
    """Dykstra's algorithm ends at the nearest point: that of cvxpy."""
    p = problem(size)
    want = project_by_cvxpy(p, scale=4.0)
    for c, x in zip(p.cost, want, strict=True):
        allowed = c < INF
        start = torch.where(allowed, -4 * c, 0)
        assert_close(oracle.dykstra(start, allowed, 2000, slack=p.slack), x, rtol=0, atol=1e-6)
        assert_close(quadratic.project(-4 * c, slack=p.slack), x, rtol=0, atol=1e-7)


def project_by_cvxpy(p: Problem, scale: float) -> Tensor:
    """(B, n, m), the column of unmatched templates included."""
    solved = []
    for c, rows in zip(p.cost, p.templates, strict=True):
        columns = c[:, :-1] if p.slack else c
        unmatched = torch.where(rows, c[:, -1], 0) if p.slack else None
        X = verify.quadratic_matching(columns, 1 / scale, rows, unmatched_cost=unmatched).X
        if p.slack:
            X = torch.cat((X, (rows.double() - X.sum(1)).unsqueeze(1)), 1)
        solved.append(X)
    return torch.stack(solved)


@pytest.mark.parametrize("name", DEGENERATE)
def test_projection_of_degenerate_costs_is_cvxpys(name: str) -> None:
    for n, m in [(4, 6), (5, 5)]:
        C = degenerate(name, n, m) / max(1, float(degenerate(name, n, m).max()))
        want = verify.quadratic_matching(C, 0.5).X
        assert_close(quadratic.project(-2 * C), want, rtol=0, atol=1e-6)


OPTIONS = [(1, 1, 0.5), (6, 3, 0.2), (4, 8, 1.0)]


@pytest.mark.parametrize(("n_grad", "n_proj", "step_size"), OPTIONS)
@pytest.mark.parametrize("size", ["odd", "forbidden", "masked and forbidden", "slack"])
def test_algorithm_has_no_memory_but_X(size: str, n_grad: int, n_proj: int, step_size: float) -> None:
    """Each gradient step's corrections start at 0: an iterate is Dykstra's algorithm on a step from the one before."""
    p = problem(size)
    for c in p.cost:
        allowed, cost = c < INF, torch.where(c < INF, c, 0)
        X = oracle.start(c, slack=p.slack)
        iterates = []
        for i in range(1, n_grad + 1):
            last = oracle.dmm(c, n_grad=i, n_proj=n_proj, step_size=step_size, average=False, slack=p.slack)
            X = oracle.dykstra(X - step_size * cost, allowed, n_proj, slack=p.slack)
            assert torch.equal(last, X)
            iterates.append(last)
        mean = oracle.dmm(c, n_grad=n_grad, n_proj=n_proj, step_size=step_size, slack=p.slack)
        assert_close(mean, sum(iterates) / n_grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", ["odd", "n = m", "forbidden", "masked", "slack"])
def test_constraints_are_met(size: str) -> None:
    """Rows at once, as they come last, and of the averaged iterates too; columns and signs by more rounds."""
    p = problem(size)
    for c, rows in zip(p.cost, p.templates, strict=True):
        allowed = c < INF
        for n_proj, slackness in [(5, 0.5), (200, 1e-4)]:
            X = oracle.dmm(c, n_grad=3, n_proj=n_proj, slack=p.slack)
            assert (X[~allowed] == 0).all()
            assert_close(X.sum(1), rows.double(), rtol=0, atol=1e-13)
            columns = X[:, :-1] if p.slack else X
            assert (columns.sum(0) <= 1 + slackness).all() and (X >= -slackness).all()


@pytest.mark.parametrize("size", ["odd", "forbidden", "slack"])
def test_gradient_holds_the_start_and_follows_the_loop(size: str) -> None:
    p = problem(size)
    c = p.cost[0]
    allowed = c < INF
    values = c[allowed].clone().requires_grad_()

    def solve(values: Tensor) -> Tensor:
        return oracle.dmm(c.masked_scatter(allowed, values), n_grad=4, n_proj=3, slack=p.slack)

    assert torch.autograd.gradcheck(solve, values, eps=1e-7, atol=1e-6, rtol=1e-5)


def test_dmm_nears_the_linear_program() -> None:
    """Feasible, it cannot be below the optimum but by what it violates; with more and smaller steps it comes close."""
    C = torch.rand(8, 6, 12, dtype=F64)
    optimum = verify.matching_lp(C).objective
    for (n_grad, n_proj, step_size), gap, violation in [((40, 5, 0.1), 0.4, 0.05), ((1000, 50, 0.05), 0.07, 3e-4)]:
        found = functional.solve_dmm(C, n_grad=n_grad, n_proj=n_proj, step_size=step_size)
        assert (found.column_violation < violation).all() and (found.sign_violation < violation).all()
        assert (found.objective < optimum + gap).all() and (found.objective > optimum - 6 * violation).all()


def cheapest(C: Tensor, unmatched: Tensor | None) -> float:
    """The least total cost of an assignment, by trying all of them."""
    n, m = C.shape
    totals = []
    for choice in assignments(n, m, may_miss=unmatched is not None):
        own = unmatched if unmatched is not None else C[:, 0]
        totals.append(sum(float(own[i] if j is None else C[i, j]) for i, j in enumerate(choice)))
    return min(totals)


@pytest.mark.parametrize("seed", range(3))
def test_linear_program_of_verify_is_the_best_assignment(seed: int) -> None:
    """Its polytope has integral corners."""
    C = make_problem(2, 3, 4, seed=seed).cost
    solution = verify.matching_lp(C)
    assert solution.X.shape == (2, 3, 4) and solution.objective.shape == (2,)
    for c, x, objective in zip(C, solution.X, solution.objective, strict=True):
        assert float(objective) == pytest.approx(cheapest(c, None), abs=1e-7)
        assert_close(x, functional.hungarian(c), rtol=0, atol=1e-5)
    unmatched = torch.full((3,), 0.2, dtype=F64)
    solution = verify.matching_lp(C, unmatched_cost=0.2)
    for c, x, objective in zip(C, solution.X, solution.objective, strict=True):
        assert float(objective) == pytest.approx(cheapest(c, unmatched), abs=1e-7)
        assert_close(x, functional.hungarian(c, unmatched_cost=0.2), rtol=0, atol=1e-5)


def test_verify_takes_masks_forbidden_pairs_and_any_batch() -> None:
    C = torch.rand(2, 2, 4, 5, dtype=F64)
    rows, columns = torch.tensor([1, 0, 1, 1]), torch.tensor([True, True, False, True, True])
    C[..., 0, 1] = INF
    for solve in (verify.matching_lp, verify.quadratic_matching):
        whole = solve(C, template_mask=rows, proposal_mask=columns)
        assert whole.X.shape == C.shape and whole.objective.shape == (2, 2)
        kept = solve(C[..., rows.bool(), :][..., columns])
        assert_close(whole.X[..., rows.bool(), :][..., columns], kept.X, rtol=0, atol=1e-7)
        assert_close(whole.objective, kept.objective, rtol=0, atol=1e-8)
        assert (whole.X[..., 1, :].abs() < 1e-9).all() and (whole.X[..., 2].abs() < 1e-9).all()
        assert (whole.X[..., 0, 1].abs() < 1e-9).all()
        assert solve(C[:0]).X.shape == (0, 2, 4, 5)


def test_verify_says_when_there_is_no_solution() -> None:
    C = matrix([1, INF], [2, INF])
    for solve in (verify.matching_lp, verify.quadratic_matching):
        with pytest.raises(ValueError, match="cost leaves 1 of the 2 templates"):
            solve(C)


@pytest.mark.parametrize("size", ["odd", "n = m", "forbidden", "slack"])
def test_projections_gradient_is_differences_of_itself(size: str) -> None:
    p = problem(size)
    A = torch.where(p.cost[0] < INF, -3 * p.cost[0], -INF)
    allowed = A > -INF
    step, direction = 1e-5, torch.randn_like(A)
    X = quadratic.project(A, slack=p.slack)
    numeric = quadratic.project(A + step * direction, slack=p.slack) - quadratic.project(
        A - step * direction, slack=p.slack
    )
    J = quadratic.project_gradient(X, direction, allowed, slack=p.slack)
    assert_close(J, numeric / (2 * step), rtol=0, atol=1e-5)
    assert J.abs().max() > 1e-2


def test_projections_gradient_is_an_orthogonal_projector() -> None:
    """Symmetric and idempotent, with row sums 0, and column sums 0 where columns are full."""
    A = 2 * torch.randn(4, 6, dtype=F64)
    X, allowed = quadratic.project(A), torch.ones(4, 6, dtype=torch.bool)
    J = torch.stack(
        [quadratic.project_gradient(X, e.reshape(4, 6), allowed).flatten() for e in torch.eye(24, dtype=F64)]
    )
    assert_close(J, J.T, rtol=0, atol=1e-12)
    assert_close(J @ J, J, rtol=0, atol=1e-12)
    sums = J.reshape(24, 4, 6)
    assert sums.sum(2).abs().max() < 1e-12
    full = X.sum(0) > 1 - 1e-9
    assert full.any() and not full.all()
    assert sums.sum(1)[:, full].abs().max() < 1e-12
    assert np.isclose(float(J.trace()), int(torch.linalg.matrix_rank(J)))
