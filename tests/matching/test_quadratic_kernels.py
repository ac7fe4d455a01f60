"""The CPU kernels of quadratic matching against the oracle, cvxpy, and the conditions of optimality."""

import math

import pytest
import torch
from matching_problems import DEGENERATE, SIZES, degenerate, kkt_error, make_problem, problem, projection
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional, verify
from difflayers.matching.quadratic import cpu as quadratic
from difflayers.matching.quadratic import oracle

INF = math.inf
F64 = torch.float64
DTYPES = [torch.float64, torch.float32]


def project(A: Tensor, templates: Tensor | None = None, slack: bool = False) -> tuple[Tensor, ...]:
    """The projection of one problem, which must converge: X, beta, steps, residual."""
    templates = torch.ones(len(A), dtype=torch.bool) if templates is None else templates
    X, _, beta, steps, residuals = projection(quadratic, A[None], templates[None], slack, 1e-9, 500)
    assert residuals[0] <= 1e-9, f"not converged: {float(residuals[0]):.2g} after {int(steps[0])} steps"
    return X[0], beta[0], steps[0], residuals[0]


@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("size", [size for size in SIZES if not size.startswith("larger")])
def test_projection_and_its_gradient_are_the_oracle(size: str, scale: float) -> None:
    p = problem(size)
    X, _, beta, _, residuals = projection(quadratic, -scale * p.cost, p.templates, p.slack, 1e-9, 500)
    grad = torch.randn_like(X)
    out = quadratic.quadratic_adjoint(X, beta, grad)
    for b in range(len(X)):
        A, allowed = -scale * p.cost[b], p.cost[b] < INF
        assert_close(X[b], oracle.project(A, slack=p.slack), rtol=0, atol=1e-7)
        if p.templates[b].any():
            want = oracle.project_gradient(X[b], grad[b], allowed, slack=p.slack)
            assert_close(out[b], want, rtol=0, atol=1e-7)
        assert kkt_error(A, X[b], beta[b], p.templates[b], p.slack) < 1e-9
        assert (X[b] >= 0).all() and (X[b][~allowed] == 0).all() and (out[b][X[b] == 0] == 0).all()
    assert (residuals <= 1e-9).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ["larger", "larger, forbidden", "paper's", "slack, n > m"])
def test_projection_of_larger_problems(size: str, dtype: torch.dtype) -> None:
    """By the conditions of optimality; float32 is solved in float64, and rounded once."""
    p = problem(size).to(dtype)
    for scale in (1.0, 30.0, 1e3):
        A = -scale * p.cost
        X, _, beta, _, residuals = projection(quadratic, A, p.templates, p.slack, 1e-9, 500)
        assert X.dtype == dtype and beta.dtype == residuals.dtype == F64
        assert (residuals <= 1e-9).all()
        exact = projection(quadratic, A.double(), p.templates, p.slack, 1e-9, 500)
        assert torch.equal(X, exact[0].to(dtype)) and torch.equal(beta, exact[2])
        for b in range(len(A)):
            assert kkt_error(A[b].double(), exact[0][b], beta[b], p.templates[b], p.slack) < 1e-8


@pytest.mark.parametrize("size", ["odd", "n = m", "forbidden", "masked", "slack", "n = 1", "slack, n > m", "larger"])
def test_projection_is_cvxpys(size: str) -> None:
    p = problem(size)
    for gamma in (0.01, 0.1, 1.0):
        for c, rows in zip(p.cost, p.templates, strict=True):
            columns = c[:, :-1] if p.slack else c
            unmatched = torch.where(rows, c[:, -1], 0) if p.slack else None
            want = verify.quadratic_matching(columns, gamma, rows, unmatched_cost=unmatched)
            got = functional.solve_quadratic(columns, gamma, rows, unmatched_cost=unmatched)
            assert_close(got.value, want.X, rtol=0, atol=1e-6)
            assert_close(got.objective, want.objective, rtol=1e-7, atol=1e-8)


GAMMAS = [1e-4, 1e-2, 1.0, 100.0]


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_projection_of_degenerate_costs(name: str, gamma: float, scale: float) -> None:
    """To the solution by the conditions of optimality, up to the rounding of cost / gamma; and to cvxpy's.

    All converge, but where cost / gamma goes up to 1e7 and its rounding exceeds the tolerance.
    """
    for n, m in [(1, 1), (1, 6), (6, 6), (5, 9), (17, 23), (20, 20), (40, 40)]:
        A = -scale * degenerate(name, n, m, seed=n)[None] / gamma
        rows = torch.ones(1, n, dtype=torch.bool)
        X, _, beta, _, residuals = projection(quadratic, A, rows, False, 1e-9, 500)
        largest = float(A.abs().max())
        rounding = 4 * n * torch.finfo(F64).eps * largest
        assert residuals[0] <= max(1e-9, rounding)
        assert kkt_error(A[0], X[0], beta[0], rows[0], False) < 2e-9 + rounding
        assert X.min() >= 0 and X.sum(1).max() <= 1 + 1e-12 + rounding
        assert beta.max() <= 2 * largest + 10, "multipliers do not drift off where they could"
    for n, m in [(5, 9), (6, 6)]:
        C = scale * degenerate(name, n, m, seed=n)
        if float(C.abs().max()) / gamma < 1e6:  # beyond, it is cvxpy that is off
            want = verify.quadratic_matching(C, gamma).X
            assert_close(functional.quadratic_matching(C, gamma), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DEGENERATE)
def test_gradient_at_a_kink_is_a_generalised_jacobian(name: str) -> None:
    """An orthogonal projector onto a face's directions, however many of the constraints depend on each other."""
    for n, m in [(4, 6), (5, 5)]:
        A = -degenerate(name, n, m) / 0.3
        X, beta, _, _ = project(A)
        J = torch.stack(
            [quadratic.quadratic_adjoint(X[None], beta[None], e.reshape(1, n, m))[0] for e in torch.eye(n * m).double()]
        )
        J = J.reshape(n * m, n * m)
        assert_close(J, J.T, rtol=0, atol=1e-10)
        assert_close(J @ J, J, rtol=0, atol=1e-10)
        moves = J.reshape(n * m, n, m)
        assert moves.sum(2).abs().max() < 1e-10 and (moves[:, X == 0] == 0).all()
        assert moves.sum(1)[:, beta > 0].abs().max() < 1e-10 if (beta > 0).any() else True
        support, full = X > 0, beta > 0
        B = torch.cat((torch.eye(n).repeat_interleave(m, 1), torch.eye(m).repeat(1, n)[full]))[:, support.flatten()]
        free = int(support.sum()) - int(torch.linalg.matrix_rank(B))
        assert float(J.trace()) == pytest.approx(free, abs=1e-8), "its rank is the number of directions left"


@pytest.mark.parametrize("name", ["random", "integers", "two kinds of rows", "repeated rows", "bits"])
@pytest.mark.parametrize(("n", "m"), [(13, 13), (20, 20), (19, 31)])
def test_gradient_where_many_constraints_depend_on_each_other(n: int, m: int, name: str) -> None:
    """Each connected part of the support whose columns are all full has one constraint too many; rounding must not see one."""
    for seed in range(3):
        C = degenerate(name, n, m, seed=seed)
        for scale in (3.0, 30.0):
            X, beta, _, _ = project(-scale * C)
            G = torch.randn(n, m, dtype=F64)
            J = quadratic.quadratic_adjoint(X[None], beta[None], G[None])
            assert_close(quadratic.quadratic_adjoint(X[None], beta[None], J), J, rtol=0, atol=1e-9)
            assert J.sum(2).abs().max() < 1e-9 and (J[0][:, beta > 0].sum(0).abs() < 1e-9).all()
            normal = G - J[0]
            assert abs(float((normal * J[0]).sum())) < 1e-8 * float(G.square().sum()), "what is left is orthogonal"


def test_projection_needs_few_steps() -> None:
    """Newton's, not a first-order method's; also near a vertex, where the direct way takes many."""
    for scale, most in [(1.0, 15), (1e2, 40), (1e4, 80), (1e7, 120)]:
        for seed in range(5):
            C = make_problem(1, 20, 30, seed=seed).cost[0]
            _, _, steps, _ = project(-scale * C)
            assert steps <= most, (scale, seed, int(steps))


def test_max_iter_and_tolerance_end_the_projection() -> None:
    A = -1e4 * make_problem(1, 20, 20, seed=1).cost
    rows = torch.ones(1, 20, dtype=torch.bool)
    _, _, _, full, residual = projection(quadratic, A, rows, False, 1e-9, 500)
    assert 25 < full[0] < 500 and residual[0] <= 1e-9
    for max_iter in (1, 3, 20, 25):
        X, _, beta, steps, residual = projection(quadratic, A, rows, False, 1e-9, max_iter)
        assert steps[0] == max_iter and residual[0] > 1e-9
        assert_close(residual[0], (X[0].sum(1) - 1).abs().max())
        assert X.min() >= 0 and (beta >= 0).all() and X[0].sum(0).max() <= 1 + 1e-12
    mild = A / 1e4
    tight, loose = (projection(quadratic, mild, rows, False, tolerance, 500) for tolerance in (1e-9, 0.1))
    assert loose[3] < tight[3] and tight[4] < loose[4] <= 0.1


def test_column_solve_is_exact() -> None:
    """With one row fixed by hand: x = (0.6, 0.4) for entries 1.5 and 1.3 of one column, of which 0.9 is taken off."""
    X, beta, _, _ = project(torch.tensor([[1.5, 0.0, -9.0], [1.3, -9.0, 0.0]], dtype=F64))
    assert (
        kkt_error(torch.tensor([[1.5, 0.0, -9.0], [1.3, -9.0, 0.0]], dtype=F64), X, beta, torch.ones(2).bool(), False)
        < 1e-12
    )
    assert_close(X[:, 0].sum(), torch.tensor(1.0, dtype=F64))
    assert beta[0] > 0 and (beta[1:] == 0).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(("n", "m", "gamma"), [(1, 4, 0.5), (3, 3, 1.0), (4, 6, 0.3), (6, 11, 0.3), (5, 7, 2.0)])
def test_solution_and_gradient_are_cvxpylayers(n: int, m: int, gamma: float) -> None:
    """Which differentiates the same problem through its conic form, at points where the derivative exists."""
    layers = pytest.importorskip("cvxpylayers.torch")
    import cvxpy

    c, x = cvxpy.Parameter((n, m)), cvxpy.Variable((n, m), nonneg=True)
    value = cvxpy.sum(cvxpy.multiply(c, x)) + gamma / 2 * cvxpy.sum_squares(x)
    constraints = [cvxpy.sum(x, axis=1) == 1, cvxpy.sum(x, axis=0) <= 1]
    peer = layers.CvxpyLayer(cvxpy.Problem(cvxpy.Minimize(value), constraints), parameters=[c], variables=[x])
    for seed in range(4):
        C = make_problem(1, n, m, seed=seed).cost[0].requires_grad_()
        X = functional.quadratic_matching(C, gamma)
        weights = torch.randn_like(X)
        (got,) = torch.autograd.grad((X * weights).sum(), C)
        (theirs,) = peer(C, solver_args={"eps": 1e-10})
        assert_close(X, theirs, rtol=0, atol=1e-6)
        (want,) = torch.autograd.grad((theirs * weights).sum(), C)
        assert_close(got, want, rtol=0, atol=1e-4)
        assert want.abs().max() > 0.1
