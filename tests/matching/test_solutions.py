"""What DMM and quadratic matching say of their solutions, by hand and by other ways to the same problem."""

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from layer_calls import F64, INF, RELAXED, say
from matching_problems import make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import QuadraticMatching, functional
from difflayers.matching.dmm import oracle


@pytest.mark.parametrize("slack", [False, True])
def test_dmm_is_the_oracle_through_the_function(slack: bool) -> None:
    p = make_problem(3, 5, 8, slack=slack, seed=5)
    C = p.cost[..., :8]
    unmatched = p.cost[..., 8] if slack else None
    for options in ({}, {"n_grad": 3, "n_proj": 2, "step_size": 0.7, "average": False}):
        X = functional.dmm_matching(C, unmatched_cost=unmatched, **options)
        want = torch.stack([oracle.dmm(c, slack=slack, **options)[:, :8] for c in p.cost])
        assert_close(X, want, rtol=0, atol=1e-12)


def test_solution_of_dmm_by_hand() -> None:
    """Against the definitions, entry by entry, on a result that is still far from feasible."""
    C, rows = 2 * torch.rand(4, 3, 5, dtype=F64) - 1, torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]])
    C[0, 0, 1] = INF
    for unmatched in (None, 0.6):
        info = functional.solve_dmm(C, rows, n_grad=2, n_proj=1, step_size=0.9, unmatched_cost=unmatched, average=False)
        X = info.value
        assert info.iterations.tolist() == [2] * 4 and not info.converged[[0, 1, 3]].any()
        for b in range(4):
            there = [i for i in range(3) if rows[b, i]]
            own = {i: 1 - float(X[b, i].sum()) if unmatched else 0.0 for i in there}
            total = sum(float(C[b, i, j] * X[b, i, j]) for i in there for j in range(5) if C[b, i, j] < INF)
            total += sum(share * (unmatched or 0) for share in own.values())
            assert float(info.objective[b]) == pytest.approx(total, abs=1e-12)
            off = max((abs(float(X[b, i].sum()) + own[i] - 1) for i in there), default=0.0)
            assert float(info.row_violation[b]) == pytest.approx(off, abs=1e-12)
            columns = max(float(X[b, :, j].sum()) - 1 for j in range(5))
            assert float(info.column_violation[b]) == pytest.approx(max(columns, 0.0), abs=1e-12)
            signs = max(-float(X[b].min()), -min(own.values(), default=0.0), 0.0)
            assert float(info.sign_violation[b]) == pytest.approx(signs, abs=1e-12)
        assert (info.column_violation > 1e-3).any() and (info.sign_violation > 1e-3).any()
        assert (info.row_violation < 1e-12).all()


def test_violations_by_hand() -> None:
    """Rows can only be off by rounding in the layers, so the formula is tested where they are."""
    from difflayers.matching.problems import Problems

    X = torch.tensor([[[0.5, 0.2, 0.1], [1.2, -0.3, 0.4], [0.0, 0.0, 0.0]]], dtype=F64)
    rows = torch.tensor([[True, True, False]])
    for slack, columns in [(False, 0.7), (True, 0.7)]:
        got = Problems(X, rows, slack, X.shape, F64).violations(X)
        assert [float(value) for value in got] == pytest.approx([0.3, columns, 0.3])
    X[0, :, 2] = 2
    assert float(Problems(X, rows, False, X.shape, F64).violations(X)[1]) == 5
    assert float(Problems(X, rows, True, X.shape, F64).violations(X)[1]) == pytest.approx(0.7), (
        "unmatched have no bound"
    )


def test_solution_of_quadratic_matching_by_hand() -> None:
    C, rows = torch.rand(3, 3, 5), torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0]])
    for unmatched in (None, 0.4):
        for gamma in (0.2, torch.tensor(0.2)):
            info = functional.solve_quadratic(C, gamma, rows, unmatched_cost=unmatched)
            X = info.value
            assert info.objective.dtype == torch.float32 and info.residual.dtype == F64
            assert info.iterations.dtype == torch.int64 and info.converged.dtype == torch.bool
            own = rows * (1 - X.sum(-1)) if unmatched else torch.zeros(3, 3)
            want = (
                (C * X).sum((1, 2))
                + 0.1 * (X.square().sum((1, 2)) + own.square().sum(1))
                + (unmatched or 0) * own.sum(1)
            )
            assert_close(info.objective, want)
            assert info.converged.all() and (info.residual <= 1e-9).all() and (info.iterations[:2] >= 0).all()
            assert info.iterations[2] == 0 and info.residual[2] == 0
            alpha, beta = info.row_multipliers, info.column_multipliers
            assert (
                alpha.shape == (3, 3) and beta.shape == (3, 5) and (beta >= 0).all() and (alpha[rows == 0] == 0).all()
            )
            assert (beta * (1 - X.sum(1)).abs()).max() < 1e-6, "only what is taken whole has a price"
            stationary = (-(C + alpha[..., None] + beta[:, None]) / 0.2).clamp(min=0) * rows[..., None]
            assert_close(X, stationary.float(), rtol=0, atol=1e-6)
            if unmatched:
                assert_close(own, ((-unmatched - alpha) / 0.2).clamp(min=0).float() * rows, rtol=0, atol=1e-6)


def test_projection_is_the_quadratic_matching_of_its_negative() -> None:
    A = torch.randn(2, 3, 4, dtype=F64)
    for allow in (False, True):
        Y = functional.project_assignment(A, allow_unmatched=allow)
        found = functional.solve_quadratic(-A, 1.0, unmatched_cost=0.0 if allow else None)
        assert_close(found.value, Y, rtol=0, atol=1e-12)
        own = (1 - Y.sum(-1)).square().sum(1) if allow else 0
        distance = (Y - A).square().sum((1, 2)) + own - A.square().sum((1, 2))
        assert_close(found.objective, 0.5 * distance)


@pytest.mark.parametrize("name", RELAXED)
def test_solutions_print_as_a_table(name: str) -> None:
    lines = str(say(name, torch.rand(2, 3, 4))).splitlines()
    assert lines[0].endswith("of 2 problems: value (2, 3, 4)") and len(lines) == 4
    assert lines[1].split()[:4] == ["objective", "iterations", "residual", "converged"]


def test_dmm_converges_and_says_so_only_then() -> None:
    """The residual is 0 where X is an optimum, feasible and infeasible points apart."""
    C = torch.rand(4, 4, 6, dtype=F64)
    assert not functional.solve_dmm(C).converged.any()
    far = functional.solve_dmm(C, n_grad=600, n_proj=100, step_size=0.05, average=False)
    assert (far.residual < 1e-3).all() and far.converged.all()
    assert_close(far.value, functional.hungarian(C), rtol=0, atol=1e-2)
    strict = functional.solve_dmm(C, tolerance=float(functional.solve_dmm(C).residual.median()))
    assert 0 < strict.converged.sum() < 4
    scaled = functional.solve_dmm(8 * C + 1, step_size=0.1 / 8)
    assert (scaled.residual > 0.01).all()


def test_convergence_is_reported_and_can_be_required() -> None:
    C = torch.stack((torch.eye(20, dtype=F64), 1e4 * torch.rand(20, 20, dtype=F64)))
    info = functional.solve_quadratic(C, 1.0, max_iter=4)
    assert info.converged.tolist() == [True, False] and info.iterations[1] == 4
    assert float(info.residual[1]) == pytest.approx(float((info.value[1].sum(1) - 1).abs().max()))
    words = r"1 of 2 problems did not converge: their rows or columns are off by up to .* after 4 Newton steps"
    with pytest.raises(RuntimeError, match=words):
        functional.quadratic_matching(C, 1.0, max_iter=4, require_convergence=True)
    with pytest.raises(RuntimeError, match=words):
        QuadraticMatching(1.0, max_iter=4, require_convergence=True)(C)
    with pytest.raises(RuntimeError, match=words):
        functional.project_assignment(-C, max_iter=4, require_convergence=True)
    assert QuadraticMatching(1.0, require_convergence=True)(C).shape == C.shape
    assert functional.solve_quadratic(C, 1.0, max_iter=4, tolerance=100.0).converged.all()
    assert QuadraticMatching(1.0, max_iter=4, tolerance=100.0, require_convergence=True)(C).shape == C.shape


sizes = st.tuples(st.integers(1, 6), st.integers(0, 5))
ROW = 1e16 * torch.tensor([[1.0, 0.0], [1.0, 0.5]], dtype=F64)
# Costs far apart against gamma: cost, gamma, unmatched_cost. Their solutions are assignments.
STEEP: dict[str, tuple[Tensor, float, float | None]] = {
    "dear to stay unmatched": (torch.tensor([[0.1], [0.2]]), 0.05, 1e15),
    "many stay unmatched": (torch.rand(7, 4, dtype=F64), 1e-4, 1e8),
    "gamma of 1e-17": (torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]], dtype=F64), 1e-17, None),
    "gamma of 1e-140": (torch.rand(8, 12, dtype=F64), 1e-140, None),
    "scores of 1e16": (-ROW, 1.0, None),
    "square": (torch.rand(20, 20, dtype=F64), 1e-30, None),
    "of any size": (10 ** (40 * torch.rand(9, 14, dtype=F64) - 20), 1e-25, None),
    "offsets of rows and columns": (
        torch.rand(6, 6, dtype=F64) + 2.0**40 * torch.arange(6)[:, None] - 2.0**41 * torch.arange(6), 1e-4, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEEP)
def test_costs_far_apart_are_matched_as_the_hungarian_algorithm_does(name: str) -> None:
    cost, gamma, unmatched = STEEP[name]
    found = functional.solve_quadratic(cost, gamma, unmatched_cost=unmatched, require_convergence=True)
    assert bool(found.converged) and found.residual <= 1e-9
    want = functional.hungarian(cost, unmatched_cost=unmatched)
    assert_close(found.value, want, rtol=0, atol=1e-6)
    again = functional.solve_quadratic(cost, gamma, unmatched_cost=unmatched, start=found.multipliers)
    assert_close(again.value, want, rtol=0, atol=1e-6)


@settings(max_examples=80)
@for_all(
    sizes,
    st.integers(0, 2**31),
    st.floats(-140, 20),
    st.floats(-3, 20),
    st.booleans(),
)
def test_converged_is_no_lie(size: tuple[int, int], seed: int, gamma: float, scale: float, slack: bool) -> None:
    """Whatever the costs' range: where it is claimed, every constraint holds, and the signs of the multipliers are right."""
    generator = torch.Generator().manual_seed(seed)
    C = torch.randn(size[0], sum(size), generator=generator, dtype=F64)
    C = C.sign() * C.abs() ** (scale / 4) if seed % 2 else C * 10**scale
    found = functional.solve_quadratic(C, 10**gamma, unmatched_cost=10**scale if slack else None)
    X = found.value
    assert X.isfinite().all() and X.min() >= 0 and (found.column_multipliers >= 0).all()
    if found.converged:
        rows = X.sum(1) - 1
        assert rows.max() <= 2e-9 and (slack or rows.abs().max() <= 2e-9)
        assert X.sum(0).max() <= 1 + 2e-9
        assert (
            (X.sum(0)[found.column_multipliers > 0] - 1).abs().max() <= 2e-9 if found.column_multipliers.any() else True
        )


def test_a_warm_start_saves_steps_and_changes_no_result() -> None:
    """On costs that change slowly, as those of a video; a bad start, or one of garbage, does no harm."""
    C = torch.rand(16, 20, 20, dtype=F64)
    first = functional.solve_quadratic(C, 0.02)
    moved = C + 0.002 * torch.randn_like(C)
    cold = functional.solve_quadratic(moved, 0.02)
    warm = functional.solve_quadratic(moved, 0.02, start=first.multipliers)
    assert_close(warm.value, cold.value, rtol=0, atol=1e-7)
    assert warm.converged.all() and warm.iterations.sum() < 0.6 * cold.iterations.sum()
    for bad in (torch.rand(16, 20) * 1e6, torch.full((20,), 1e300, dtype=F64), -torch.ones(16, 20)):
        found = functional.solve_quadratic(moved, 0.02, start=(torch.zeros(20), bad))
        assert_close(found.value, cold.value, rtol=0, atol=1e-7)
    with_slack = functional.solve_quadratic(moved, 0.02, unmatched_cost=0.2)
    again = functional.solve_quadratic(moved, 0.02, unmatched_cost=0.2, start=with_slack.multipliers)
    assert_close(again.value, with_slack.value, rtol=0, atol=1e-7)


def test_quadratic_matching_is_the_projection_of_minus_cost_over_gamma() -> None:
    C = torch.rand(2, 4, 6, dtype=F64)
    for gamma in (0.1, 2.0):
        want = functional.project_assignment(-C / gamma)
        assert_close(functional.quadratic_matching(C, gamma), want, rtol=0, atol=1e-12)
        assert_close(functional.quadratic_matching(C, torch.tensor(gamma)), want, rtol=0, atol=1e-6)
    want = functional.project_assignment(-C / 0.1, allow_unmatched=True)
    assert_close(functional.quadratic_matching(C, 0.1, unmatched_cost=0.0), want, rtol=0, atol=1e-12)
