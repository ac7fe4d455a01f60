"""The modules and functions as their user sees them: shapes, masks, report, baselines, costs, errors."""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.optimize
import torch
from hypothesis import assume, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from matching_problems import assignments, make_problem
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import difflayers
from difflayers import DMMMatching, MaskMatchingCost, QuadraticMatching, functional
from difflayers.matching import cost as cost_module
from difflayers.matching.dmm import oracle

INF, NAN = math.inf, math.nan
F64 = torch.float64
DTYPES = [torch.float32, torch.float64]
SOLVERS: dict[str, Callable[..., Any]] = {
    "dmm": functional.dmm_matching,
    "quadratic": functional.quadratic_matching,
    "hungarian": functional.hungarian,
    "greedy": functional.greedy_matching,
}
RELAXED = ["dmm", "quadratic"]


def solve(name: str, cost: Tensor, *masks: Tensor | None, **options: Any) -> Tensor:
    """With the masks by name: the function that takes gamma has it before them."""
    names = ("template_mask", "proposal_mask")
    return SOLVERS[name](cost, **dict(zip(names, masks, strict=False)), **options)


def say(name: str, cost: Tensor, *masks: Tensor | None, **options: Any) -> Any:
    """The solution, by the other verb."""
    names = ("template_mask", "proposal_mask")
    verb = {"dmm": functional.solve_dmm, "quadratic": functional.solve_quadratic}[name]
    return verb(cost, **dict(zip(names, masks, strict=False)), **options)


def test_arguments_and_defaults() -> None:
    assert difflayers.DMMMatching is DMMMatching and difflayers.MaskMatchingCost is MaskMatchingCost
    assert difflayers.QuadraticMatching is QuadraticMatching
    parameters = inspect.signature(DMMMatching).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        "n_grad": 40, "n_proj": 5, "step_size": 0.1, "average": True, "unmatched_cost": None
    }  # fmt: skip
    assert [p.kind.name for p in parameters.values()] == ["POSITIONAL_OR_KEYWORD"] * 3 + ["KEYWORD_ONLY"] * 2
    assert inspect.signature(QuadraticMatching).parameters["gamma"].default == 0.05
    for module in (DMMMatching, QuadraticMatching):
        for verb in (module.forward, module.solve):
            assert list(inspect.signature(verb).parameters)[:4] == ["self", "cost", "template_mask", "proposal_mask"]
    assert list(inspect.signature(MaskMatchingCost.forward).parameters)[1:] == [
        "template_features", "template_masks", "proposal_features", "proposal_masks"
    ]  # fmt: skip
    function = inspect.signature(functional.dmm_matching).parameters
    assert all(function[name].default == p.default for name, p in parameters.items())


def test_modules_are_the_functions() -> None:
    C, rows = torch.rand(2, 3, 5), torch.tensor([True, False, True])
    columns = torch.tensor([1, 1, 1, 0, 1])
    layer = DMMMatching(7, 3, 0.2, average=False, unmatched_cost=0.4)
    options: dict[str, Any] = {
        "n_grad": 7, "n_proj": 3, "step_size": 0.2, "average": False, "unmatched_cost": 0.4
    }  # fmt: skip
    want = functional.solve_dmm(C, rows, columns, **options)
    assert all(map(torch.equal, layer.solve(C, rows, columns), want))
    assert torch.equal(layer(C, rows, columns), want.value)
    assert torch.equal(functional.dmm_matching(C, rows, columns, **options), want.value)
    default = functional.dmm_matching(C)
    assert torch.equal(DMMMatching()(C), default)
    for options in ({"n_grad": 41}, {"n_proj": 6}, {"step_size": 0.11}, {"average": False}, {"unmatched_cost": 0.2}):
        assert not torch.equal(functional.dmm_matching(C, **options), default), options
        assert torch.equal(functional.dmm_matching(C, **options), DMMMatching(**options)(C)), options  # type: ignore[arg-type]
    exact = QuadraticMatching(0.3, unmatched_cost=0.4)
    solved = functional.solve_quadratic(C, 0.3, rows, columns, unmatched_cost=0.4)
    assert all(map(torch.equal, exact.solve(C, rows, columns), solved))
    assert torch.equal(exact(C, rows, columns), solved.value)
    assert torch.equal(QuadraticMatching()(C), functional.quadratic_matching(C, 0.05))
    assert (QuadraticMatching(1e-4, max_iter=2, tolerance=1e-12).solve(C).iterations <= 2).all()
    features, masks = torch.randn(3, 4), torch.rand(3, 2, 2)
    want = functional.mask_matching_cost(features, masks, features.flip(0), masks.flip(0), 0.7)
    assert torch.equal(MaskMatchingCost(0.7)(features, masks, features.flip(0), masks.flip(0)), want)


def test_repr() -> None:
    assert repr(DMMMatching()) == "DMMMatching(n_grad=40, n_proj=5, step_size=0.1, average=True)"
    assert repr(DMMMatching(3, 2, 0.5, average=False, unmatched_cost=0.25)) == (
        "DMMMatching(n_grad=3, n_proj=2, step_size=0.5, average=False, unmatched_cost=0.25)"
    )
    assert repr(QuadraticMatching(0.5)) == "QuadraticMatching(gamma=0.5)"
    assert repr(QuadraticMatching(0.5, unmatched_cost=1)) == "QuadraticMatching(gamma=0.5, unmatched_cost=1)"
    assert repr(MaskMatchingCost(0.25)) == "MaskMatchingCost(lam=0.25)"


def test_options_that_are_learnt() -> None:
    """Parameters are registered, get gradients and show; other tensors are buffers."""
    layer = QuadraticMatching(nn.Parameter(torch.tensor(0.3)), unmatched_cost=nn.Parameter(torch.tensor([0.5, 0.25])))
    assert sorted(name for name, _ in layer.named_parameters()) == ["gamma", "unmatched_cost"]
    assert repr(layer) == "QuadraticMatching(gamma=Parameter(0.3), unmatched_cost=Parameter(shape (2,)))"
    layer(torch.rand(3, 2, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
    copied = QuadraticMatching(nn.Parameter(torch.tensor(1.0)), unmatched_cost=nn.Parameter(torch.zeros(2)))
    copied.load_state_dict(layer.state_dict())
    C = torch.rand(2, 4)
    assert torch.equal(copied(C), layer(C))
    fixed = DMMMatching(unmatched_cost=torch.tensor(0.5))
    assert repr(fixed).endswith("unmatched_cost=tensor(0.5))") and list(fixed.state_dict()) == ["unmatched_cost"]
    assert torch.equal(fixed(C), DMMMatching(unmatched_cost=0.5)(C))
    assert repr(fixed.to("meta")).endswith("unmatched_cost=tensor(shape ()))")
    learnt = DMMMatching(unmatched_cost=nn.Parameter(torch.tensor(0.5)))
    learnt(torch.rand(5, 3)).sum().backward()
    assert learnt.unmatched_cost.grad > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
@pytest.mark.parametrize("name", SOLVERS)
def test_shapes_and_dtypes(name: str, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    C = torch.rand(*batch, 3, 5, dtype=dtype)
    X = solve(name, C)
    assert X.shape == C.shape and X.dtype == dtype
    flat = C.reshape(-1, 3, 5)
    assert torch.equal(X.reshape(-1, 3, 5), torch.stack([solve(name, c) for c in flat]) if len(flat) else flat)
    if name in RELAXED:
        value, *fields = say(name, C)
        assert torch.equal(value, X) and fields[0].dtype == dtype
        assert all(field.shape in (batch, (*batch, 3), (*batch, 5)) for field in fields)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 4), (1, 1)])
def test_nothing_to_match(name: str, n: int, m: int) -> None:
    X = solve(name, torch.rand(2, n, m))
    assert X.shape == (2, n, m) and (X == 1).all()
    if name in RELAXED:
        assert say(name, torch.rand(2, n, m)).residual.tolist() == [0, 0]


@pytest.mark.parametrize("name", SOLVERS)
def test_masks_take_out_rows_and_columns(name: str) -> None:
    """The problem that is left, in its place; masks of any integer type, broadcast over the batch."""
    C = torch.rand(2, 3, 4, 6, dtype=F64)
    for rows, columns in [
        (torch.tensor([True, False, True, True]), torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.uint8)),
        (torch.rand(3, 4) < 0.6, torch.arange(6) != 2),
        (torch.rand(2, 1, 4) < 0.6, (torch.rand(2, 3, 6) < 0.2).long() * -3 + torch.tensor([1, 1, 1, 1, 0, 0])),
        (torch.zeros(4, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)),
        (None, torch.tensor([2, 0, 1, 1, 7, 0], dtype=torch.int8)),
        (torch.rand(2, 3, 4) < 0.6, None),
    ]:
        X = solve(name, C, rows, columns)
        for b in itertools.product(range(2), range(3)):
            r = torch.ones(4).bool() if rows is None else (rows != 0).expand(2, 3, 4)[b]
            c = torch.ones(6).bool() if columns is None else (columns != 0).expand(2, 3, 6)[b]
            want = torch.zeros(4, 6, dtype=F64)
            if r.any():
                want[r.nonzero(), c.nonzero().T] = solve(name, C[b][r][:, c])
            assert_close(X[b], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_masks_hide_may_be_anything(name: str) -> None:
    C = torch.rand(2, 4, 6)
    rows, columns = torch.tensor([True, True, False, True]), torch.tensor([1, 1, 1, 0, 1, 1])
    want = solve(name, C, rows, columns)
    for value in (NAN, INF, -INF, 1e30, -1e30):
        spoiled = C.clone()
        spoiled[:, 2], spoiled[:, :, 3] = value, value
        assert torch.equal(solve(name, spoiled, rows, columns), want)
    unmatched = torch.tensor([0.5, 0.5, NAN, 0.5])
    got = solve(name, C, rows, columns, unmatched_cost=unmatched)
    assert torch.equal(got, solve(name, C, rows, columns, unmatched_cost=0.5))


@pytest.mark.parametrize("name", SOLVERS)
def test_more_templates_than_proposals_where_masks_leave_few(name: str) -> None:
    C = torch.rand(5, 3)
    X = solve(name, C, torch.tensor([0, 1, 0, 0, 1]))
    assert_close(X.sum(1), torch.tensor([0.0, 1, 0, 0, 1]))


@pytest.mark.parametrize("name", RELAXED)
def test_unmatched_cost(name: str) -> None:
    """A column for each row alone: nothing, at a price below all others; everything, at one above."""
    C = 1 + torch.rand(3, 4, 6, dtype=F64)
    assert solve(name, C, unmatched_cost=-5.0).abs().max() < (0.3 if name == "dmm" else 1e-9)
    assert_close(solve(name, C, unmatched_cost=9.0).sum(-1), torch.ones(3, 4, dtype=F64), rtol=0, atol=0.05)
    for shape in [(), (4,), (3, 1), (3, 4)]:
        unmatched = torch.full(shape, 1.3, dtype=F64)
        assert torch.equal(solve(name, C, unmatched_cost=unmatched), solve(name, C, unmatched_cost=1.3))
    assert torch.equal(solve(name, C, unmatched_cost=1), solve(name, C, unmatched_cost=torch.tensor(1)))
    own = torch.tensor([0.2, 9.0, 0.2, 9.0], dtype=F64)
    sums = solve(name, C, unmatched_cost=own).sum(-1)
    assert (sums[:, [0, 2]] < 0.5).all() and (sums[:, [1, 3]] > 0.9).all()
    small = solve(name, C.mT, unmatched_cost=1.3)
    assert small.shape == (3, 6, 4)
    assert (small.sum(-2) < 1.2).all() and (small.sum(-1) < 1 + 1e-9).all()


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
    again = functional.solve_quadratic(cost, gamma, unmatched_cost=unmatched, start=found.column_multipliers)
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
    warm = functional.solve_quadratic(moved, 0.02, start=first.column_multipliers)
    assert_close(warm.value, cold.value, rtol=0, atol=1e-7)
    assert warm.converged.all() and warm.iterations.sum() < 0.6 * cold.iterations.sum()
    for bad in (torch.rand(16, 20) * 1e6, torch.full((16, 20), NAN), torch.full((16, 20), INF), -torch.ones(16, 20)):
        found = functional.solve_quadratic(moved, 0.02, start=bad)
        assert_close(found.value, cold.value, rtol=0, atol=1e-7)
    with_slack = functional.solve_quadratic(moved, 0.02, unmatched_cost=0.2)
    again = functional.solve_quadratic(moved, 0.02, unmatched_cost=0.2, start=with_slack.column_multipliers)
    assert_close(again.value, with_slack.value, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match=r"^start must have shape \(16, 20\), a multiplier a proposal; got \(20,\)"):
        functional.solve_quadratic(moved, start=first.column_multipliers[0])
    with pytest.raises(TypeError, match=r"^start must be a tensor; got QuadraticSolution"):
        functional.solve_quadratic(moved, start=first)  # type: ignore[arg-type]


def test_quadratic_matching_is_the_projection_of_minus_cost_over_gamma() -> None:
    C = torch.rand(2, 4, 6, dtype=F64)
    for gamma in (0.1, 2.0):
        want = functional.project_assignment(-C / gamma)
        assert_close(functional.quadratic_matching(C, gamma), want, rtol=0, atol=1e-12)
        assert_close(functional.quadratic_matching(C, torch.tensor(gamma)), want, rtol=0, atol=1e-6)
    want = functional.project_assignment(-C / 0.1, allow_unmatched=True)
    assert_close(functional.quadratic_matching(C, 0.1, unmatched_cost=0.0), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_hungarian_is_the_best_of_all_assignments(seed: int) -> None:
    p = make_problem(2, 3, 4, forbidden=0.2, seed=seed)
    X = functional.hungarian(p.cost)
    slack = make_problem(2, 4, 2, forbidden=0.2, slack=True, seed=seed)
    Y = functional.hungarian(slack.cost[..., :2], unmatched_cost=slack.cost[..., 2])
    for b in range(2):
        totals = [sum(float(p.cost[b, i, j]) for i, j in enumerate(choice)) for choice in assignments(3, 4)]  # type: ignore[misc]
        assert float(p.cost[b][X[b] > 0].sum()) == pytest.approx(min(totals))
        assert X[b].sum(1).tolist() == [1, 1, 1] and X[b].sum(0).max() <= 1
        c = slack.cost[b]
        totals = [
            sum(float(c[i, 2 if j is None else j]) for i, j in enumerate(choice))
            for choice in assignments(4, 2, may_miss=True)
        ]
        total = c[:, :2][Y[b] > 0].sum() + c[:, 2][Y[b].sum(1) == 0].sum()
        assert float(total) == pytest.approx(min(totals))
        assert Y[b].sum(1).max() <= 1 and Y[b].sum(0).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_hungarian_is_scipys(dtype: torch.dtype) -> None:
    C = torch.randn(3, 9, 14, dtype=dtype)
    X = functional.hungarian(C)
    for c, x in zip(C, X, strict=True):
        rows, columns = scipy.optimize.linear_sum_assignment(c.numpy())
        want = torch.zeros(9, 14, dtype=dtype)
        want[rows, columns] = 1
        assert torch.equal(x, want)


def naive_greedy(C: Tensor, unmatched: float | None) -> Tensor:
    highest = INF if unmatched is None else float(torch.tensor(unmatched, dtype=C.dtype))
    X, pairs = torch.zeros_like(C), [(float(C[i, j]), i, j) for i in range(C.shape[0]) for j in range(C.shape[1])]
    rows, columns = set(), set()
    for value, i, j in sorted(pairs):
        if value < INF and i not in rows and j not in columns and value <= highest:
            X[i, j] = 1
            rows.add(i), columns.add(j)
    return X


@pytest.mark.parametrize("unmatched", [None, 0.3, 0.0, -1.0])
def test_greedy_is_a_loop_over_the_pairs(unmatched: float | None) -> None:
    for n, m in [(4, 6), (6, 4), (5, 5), (1, 3), (3, 1)]:
        C = torch.rand(4, n, m)
        C[1] = (4 * C[1]).floor() / 4  # ties: in reading order
        C[2][torch.rand(n, m) < 0.6] = INF
        C[3] = 0.3
        want = torch.stack([naive_greedy(c, unmatched) for c in C])
        assert torch.equal(functional.greedy_matching(C, unmatched_cost=unmatched), want)
    everything = functional.greedy_matching(torch.full((2, 3), INF))
    assert (everything == 0).all()


def test_greedy_is_not_the_best() -> None:
    C = torch.tensor([[0.1, 0.2], [0.1, 0.9]])
    assert (functional.greedy_matching(C) * C).sum() > (functional.hungarian(C) * C).sum()


def test_equal_costs() -> None:
    """Of equals the first, for the assignments; all alike, for the projection; and dmm stays feasible."""
    C = torch.full((3, 4), 0.5, dtype=F64)
    assert_close(functional.quadratic_matching(C), torch.full((3, 4), 0.25, dtype=F64))
    X = functional.hungarian(C)
    assert X.sum(1).tolist() == [1, 1, 1] and X.sum(0).max() == 1
    assert torch.equal(functional.greedy_matching(C), torch.eye(3, 4, dtype=F64))
    info = functional.solve_dmm(C, n_proj=50)
    assert (info.column_violation < 0.02).all() and (info.sign_violation < 1e-9).all()
    assert float(info.objective) == pytest.approx(1.5)


COST = torch.rand(2, 3, 4)


def spoiled(value: float) -> Tensor:
    cost = COST.clone()
    cost[1, 2, 0] = value
    return cost


HALL = torch.tensor([[0.1, INF, INF], [0.2, INF, INF], [0.3, 0.1, 0.2]])  # two templates want proposal 0 alone
BLIND = torch.tensor([[0.1, 0.2, 0.3], [INF, INF, INF]])
WIDE_HALL = torch.cat(
    (torch.rand(3, 2), torch.full((3, 4), INF)), 1
)  # three templates, two proposals, three each elsewhere


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    ("cost", "error", "words"),
    [
        (COST.tolist(), TypeError, "cost must be a tensor; got list"),
        (COST.numpy(), TypeError, "cost must be a tensor; got ndarray"),
        (None, TypeError, "cost must be a tensor; got NoneType"),
        (COST.int(), TypeError, "cost must be float16, bfloat16, float32 or float64; got torch.int32"),
        (COST > 0, TypeError, "cost must be float16, bfloat16, float32 or float64; got torch.bool"),
        (COST.to(torch.complex64), TypeError, "cost must be float16, bfloat16, float32 or float64"),
        (COST.to_sparse(), TypeError, r"cost must be a dense tensor \(torch.strided\); got torch.sparse_coo"),
        (COST[0, 0], ValueError, r"cost must have shape \(\.\.\., n, m\).*got \(4,\)"),
        (torch.tensor(1.0), ValueError, r"cost must have shape"),
        (spoiled(NAN), ValueError, r"cost.* must be finite.*got NaN at \(1, 2, 0\)"),
        (spoiled(-INF), ValueError, r"cost.* must be finite.*got inf of the wrong sign at \(1, 2, 0\)"),
    ],
)
def test_bad_costs(name: str, cost: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        solve(name, cost)


@pytest.mark.parametrize("name", ["dmm", "quadratic", "hungarian"])
@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (
            torch.rand(4, 3),
            "cost must have at least as many proposals.*got 4 templates and 3 proposals.*unmatched_cost",
        ),
        (HALL, r"cost.* leaves 1 of the 3 templates of problem 0.*3 proposals are allowed.*unmatched_cost"),
        (BLIND, r"cost.* leaves 1 of the 2 templates of problem 0"),
        (WIDE_HALL, r"cost.* leaves 1 of the 3 templates of problem 0.*2 proposals are allowed"),
        (torch.stack((torch.zeros(3, 3), HALL)), r"cost.* leaves 1 of the 3 templates of problem 1"),
        (torch.full((2, 2), INF), r"cost.* leaves 2 of the 2 templates.*0 proposals are allowed"),
    ],
)
def test_infeasible_problems(name: str, cost: Tensor, words: str) -> None:
    """An error, unless templates may stay unmatched; greedy matching leaves them so."""
    with pytest.raises(ValueError, match=f"^{words}"):
        solve(name, cost)
    X = solve(name, cost, unmatched_cost=5.0)
    assert X.isfinite().all() and (X[cost == INF] == 0).all()
    assert functional.greedy_matching(cost).sum() >= 0


@pytest.mark.parametrize("name", ["dmm", "quadratic", "hungarian"])
def test_masks_that_leave_too_few_proposals(name: str) -> None:
    with pytest.raises(ValueError, match=r"leaves 1 of the 3 templates of problem 1"):
        solve(name, COST, None, torch.tensor([[1, 1, 1, 0], [1, 0, 0, 1]]))
    with pytest.raises(ValueError, match=r"leaves 1 of the 2 templates of problem 0"):
        solve(name, torch.rand(3, 1), torch.tensor([1, 1, 0]))
    assert solve(name, HALL, torch.tensor([1, 0, 1])).sum() == pytest.approx(2, abs=1e-5)


def test_hall_violations_are_found_wherever_there_is_one() -> None:
    """Random patterns of allowed pairs, against a search over all assignments."""
    found = {False: 0, True: 0}
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        C = torch.rand(3, 4, generator=generator).masked_fill(torch.rand(3, 4, generator=generator) < 0.6, INF)
        feasible = any(all(C[i, j] < INF for i, j in enumerate(choice)) for choice in assignments(3, 4))  # type: ignore[index]
        found[feasible] += 1
        if feasible:
            functional.dmm_matching(C)
        else:
            with pytest.raises(ValueError, match="without a proposal of their own"):
                functional.dmm_matching(C)
    assert min(found.values()) > 10


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"template_mask": torch.ones(3)}, TypeError, "template_mask must be a bool or integer tensor.*float32"),
        ({"template_mask": [True] * 3}, TypeError, "template_mask must be a tensor; got list"),
        ({"template_mask": torch.ones(4).bool()}, ValueError, r"template_mask must have shape \(2, 3\).*got \(4,\)"),
        ({"template_mask": torch.tensor(True)}, ValueError, r"template_mask must have shape \(2, 3\).*got \(\)"),
        ({"template_mask": torch.ones(3, 3).bool()}, ValueError, r"template_mask must broadcast to \(2, 3\)"),
        ({"template_mask": torch.ones(1, 2, 3).bool()}, ValueError, r"template_mask must have shape \(2, 3\)"),
        ({"proposal_mask": torch.ones(4)}, TypeError, "proposal_mask must be a bool or integer tensor"),
        ({"proposal_mask": torch.ones(4).to(torch.complex64)}, TypeError, "proposal_mask must be a bool or integer"),
        ({"proposal_mask": torch.ones(3).bool()}, ValueError, r"proposal_mask must have shape \(2, 4\).*got \(3,\)"),
        ({"proposal_mask": torch.ones(1).bool()}, ValueError, r"proposal_mask must have shape \(2, 4\)"),
        ({"template_mask": torch.ones(3, device="meta").bool()}, ValueError, "template_mask must be on the device"),
        ({"proposal_mask": torch.ones(4, device="meta").bool()}, ValueError, "proposal_mask must be on the device"),
        (
            {"unmatched_cost": 10**400},
            ValueError,
            "unmatched_cost must be finite; got|unmatched_cost must be at most 1e",
        ),
        ({"template_mask": torch.ones(3).bool().to_sparse()}, TypeError, "template_mask must be a dense tensor"),
        ({"unmatched_cost": "1"}, TypeError, "unmatched_cost must be a number or a tensor; got str"),
        ({"unmatched_cost": True}, TypeError, "unmatched_cost must be a number or a tensor; got bool"),
        ({"unmatched_cost": INF}, ValueError, "unmatched_cost must be finite; got inf"),
        ({"unmatched_cost": NAN}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": torch.ones(4)}, ValueError, r"unmatched_cost must be a number or broadcast to \(2, 3\)"),
        ({"unmatched_cost": torch.tensor([1, 1, INF])}, ValueError, "unmatched_cost must be finite; got inf"),
        ({"unmatched_cost": torch.tensor([1, 1, -INF])}, ValueError, "unmatched_cost must be finite; got -inf"),
        ({"unmatched_cost": torch.tensor([NAN, 1, 1])}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": torch.tensor(1j)}, TypeError, "unmatched_cost must be a number or a real tensor"),
        ({"unmatched_cost": torch.tensor(True)}, TypeError, "unmatched_cost must be a number or a real tensor"),
        ({"unmatched_cost": torch.ones(3, device="meta")}, ValueError, "unmatched_cost must be on the device"),
    ],
)
def test_bad_masks_and_unmatched_costs(name: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        SOLVERS[name](COST, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_grad": 0}, ValueError, "n_grad must be at least 1; got 0"),
        ({"n_grad": 2.0}, TypeError, "n_grad must be an int; got float"),
        ({"n_grad": True}, TypeError, "n_grad must be an int; got bool"),
        ({"n_proj": 0}, ValueError, "n_proj must be at least 1; got 0"),
        ({"n_proj": "5"}, TypeError, "n_proj must be an int; got str"),
        ({"step_size": 0}, ValueError, "step_size must be finite and above 0; got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": NAN}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": INF}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": torch.tensor(0.1)}, TypeError, "step_size must be a number; got Tensor"),
        ({"unmatched_cost": NAN}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": "a"}, TypeError, "unmatched_cost must be a number or a tensor; got str"),
    ],
)
def test_bad_options_of_dmm(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        DMMMatching(**options)
    with pytest.raises(error, match=f"^{words}"):
        functional.dmm_matching(COST, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gamma": 0}, ValueError, "gamma must be finite and above 0; got 0"),
        ({"gamma": -1.0}, ValueError, "gamma must be finite and above 0"),
        ({"gamma": NAN}, ValueError, "gamma must be finite and above 0"),
        ({"gamma": "1"}, TypeError, "gamma must be a number; got str"),
        ({"gamma": 10**400}, ValueError, "gamma must be at most 1e\\+150; got an integer of 1329 bits"),
        (
            {"gamma": torch.tensor(1)},
            TypeError,
            r"gamma must be float16, bfloat16, float32 or float64; got torch.int64",
        ),
        ({"max_iter": 2**63}, ValueError, "max_iter must be at most 2147483647; got 9223372036854775808"),
        ({"tolerance": 1e200}, ValueError, "tolerance must be at most"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and above 0"),
        ({"tolerance": None}, TypeError, "tolerance must be a number; got NoneType"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1; got 0"),
        ({"max_iter": 5.0}, TypeError, "max_iter must be an int; got float"),
        ({"unmatched_cost": INF}, ValueError, "unmatched_cost must be finite; got inf"),
    ],
)
def test_bad_options_of_quadratic_matching(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        QuadraticMatching(**options)
    with pytest.raises(error, match=f"^{words}"):
        functional.quadratic_matching(COST, **options)
    if "tolerance" in options or "max_iter" in options:
        with pytest.raises(error, match=f"^{words}"):
            functional.project_assignment(COST, **options)


def test_bad_values_of_gamma_as_a_tensor() -> None:
    for value in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match=rf"^gamma must be finite and above 0; got {value}"):
            functional.quadratic_matching(COST, torch.tensor(value))
    with pytest.raises(ValueError, match=r"^gamma must be on the device of cost, cpu; got meta"):
        functional.quadratic_matching(COST, torch.tensor(1.0, device="meta"))
    with pytest.raises(ValueError, match=r"^gamma must broadcast to the batch, \(2,\); got \(3,\)"):
        functional.quadratic_matching(COST, torch.ones(3))


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        ([[1.0]], TypeError, "X must be a tensor; got list"),
        (COST.int(), TypeError, "X must be float16, bfloat16, float32 or float64"),
        (COST[0, 0], ValueError, "X must have shape"),
        (spoiled(NAN), ValueError, r"X must be finite.*got NaN at \(1, 2, 0\)"),
        (spoiled(INF), ValueError, r"X must be finite.*got inf of the wrong sign at \(1, 2, 0\)"),
        (-HALL, ValueError, "X leaves 1 of the 3 templates"),
        (torch.rand(4, 3), ValueError, "X must have at least as many proposals.*Set allow_unmatched"),
    ],
)
def test_bad_input_of_the_projection(X: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        functional.project_assignment(X)


def test_projection_with_unmatched_templates() -> None:
    X = torch.tensor([[0.3, -1.0], [0.2, 0.1], [2.0, -INF]], dtype=F64)
    Y = functional.project_assignment(X, allow_unmatched=True)
    assert (Y.sum(1) <= 1 + 1e-12).all() and (Y.sum(0) <= 1 + 1e-12).all() and Y[2, 1] == 0
    assert_close(
        functional.project_assignment(0.1 * torch.eye(3, dtype=F64), allow_unmatched=True).sum(),
        torch.tensor(2.325, dtype=F64),
    )


def naive_iou(r: Tensor, p: Tensor) -> Tensor:
    out = torch.zeros(len(r), len(p), dtype=F64)
    for i, a in enumerate(r.double()):
        for j, b in enumerate(p.double()):
            together, either = float((a * b).sum()), float((a + b - a * b).sum())
            out[i, j] = together / either if either > 0 else 0.0
    return out


def some_masks(kind: str, *shape: int) -> Tensor:
    masks = torch.rand(shape)
    masks = masks < 0.4 if kind == "bool" else masks
    masks = (masks < 0.4).float() if kind == "0 and 1" else masks
    masks[..., 0, :, :] = 0
    return masks.double() if kind == "float64" else masks


@pytest.mark.parametrize("kind", ["bool", "soft", "0 and 1", "float64"])
def test_mask_iou_is_a_loop_over_the_pairs(kind: str) -> None:
    """Empty masks included: the IoU of two of them is 0."""
    r, p = some_masks(kind, 2, 3, 5, 7), some_masks(kind, 2, 4, 5, 7)
    got = functional.mask_iou(r, p)
    assert got.shape == (2, 3, 4) and got.dtype == (torch.float32 if kind == "bool" else r.dtype)
    for b in range(2):
        assert_close(got[b].double(), naive_iou(r[b], p[b]), rtol=1e-5, atol=1e-6)
    assert (got[:, 0, 0] == 0).all() and (got >= 0).all() and (got <= 1).all()
    assert_close(functional.mask_iou(r[0], p)[1], got[1] * 0 + functional.mask_iou(r[0], p[1]))
    if kind != "soft":
        ones = r[0, 1:] if kind != "float64" else r[0, 1:].round()
        assert_close(functional.mask_iou(ones, ones).diagonal(), torch.ones(2, dtype=got.dtype))


def test_mask_iou_of_no_objects_and_no_pixels() -> None:
    for dtype in (torch.bool, torch.float32):
        masks = torch.ones(3, 4, 4).to(dtype)
        assert functional.mask_iou(masks[:0], masks).shape == (0, 3)
        assert torch.equal(functional.mask_iou(masks[:, :0], masks[:, :0]), torch.zeros(3, 3))


@pytest.mark.parametrize("chunk", [1, 7, 20, 64, 10**9])
def test_mask_iou_takes_pixels_in_slices(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    r, p = some_masks("bool", 2, 3, 6, 7), some_masks("bool", 2, 5, 6, 7)
    want = functional.mask_iou(r, p)
    monkeypatch.setattr(cost_module, "_CHUNK", chunk)
    assert torch.equal(functional.mask_iou(r, p), want)


class Largest(TorchDispatchMode):
    """The number of entries of the largest floating-point tensor made, and of how many."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.dtype.is_floating_point:
                self.size = max(self.size, tensor.numel())
        return result


def test_mask_iou_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of size n m H W; of bool masks none of n H W in floating point either, however large the batch."""
    monkeypatch.setattr(cost_module, "_CHUNK", 4000)
    r, p = some_masks("bool", 8, 9, 32, 32), some_masks("bool", 8, 11, 32, 32)
    with Largest() as seen:
        functional.mask_iou(r, p)
    assert seen.size <= 4000
    with Largest() as seen:
        functional.mask_iou(r.float(), p.float())
    assert seen.size <= p.numel()


def test_mask_iou_counts_more_pixels_than_half_precision_holds() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        masks = torch.ones(2, 300, 300, dtype=dtype)
        masks[1, :150] = 0
        iou = functional.mask_iou(masks, masks)
        assert iou.dtype == dtype and iou.tolist() == [[1, 0.5], [0.5, 1]]
    masks = torch.rand(3, 200, 200) < 0.5
    want = functional.mask_iou(masks, masks)
    soft = functional.mask_iou(masks.float(), masks.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.mask_iou(masks, masks), want)
        assert torch.equal(functional.mask_iou(masks.float(), masks.float()), soft)


@pytest.mark.parametrize("lam", [0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["bool", "soft", "float64"])
def test_cost_by_hand(kind: str, lam: float) -> None:
    dtype = F64 if kind == "float64" else torch.float32
    f, g = torch.randn(2, 3, 5, dtype=dtype), torch.randn(2, 4, 5, dtype=dtype)
    f[0, 1] = 0
    r, p = some_masks(kind, 2, 3, 4, 4), some_masks(kind, 2, 4, 4, 4)
    C = functional.mask_matching_cost(f, r, g, p, lam)
    assert C.shape == (2, 3, 4) and C.dtype == dtype
    for b in range(2):
        iou = naive_iou(r[b], p[b])
        for i, j in itertools.product(range(3), range(4)):
            lengths = float(f[b, i].norm() * g[b, j].norm())
            cosine = float(f[b, i] @ g[b, j]) / lengths if lengths else 0.0
            assert float(C[b, i, j]) == pytest.approx((lam - 1) * cosine - lam * float(iou[i, j]), abs=1e-5)
    assert C.min() >= -1 - 1e-6 and C.max() <= 1 + 1e-6
    wide = functional.mask_matching_cost(f.double(), r, g.double(), p, lam)
    assert wide.dtype == F64, "that of the features"
    assert_close(
        functional.mask_matching_cost(f[0], r[0], g, p, lam)[1],
        functional.mask_matching_cost(f[0], r[0], g[1], p[1], lam),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *DTYPES])
def test_cost_of_features_of_any_length(dtype: torch.dtype) -> None:
    """The cosine does not depend on it: zeros, the smallest and the largest numbers of the dtype."""
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    f = torch.tensor([[0, 0, 0], [3 * least, 4 * least, 0], [0.75 * most, most, 0], [3, 4, 0]], dtype=F64).to(dtype)
    g = torch.tensor([[0, 0, 0], [4 * least, 3 * least, 0], [most, 0.75 * most, 0], [4, 3, 0]], dtype=F64).to(dtype)
    r = torch.rand(4, 2, 2)
    C = functional.mask_matching_cost(f, r, g, r, 0.0)
    assert C.dtype == dtype
    want = torch.full((4, 4), -0.96)
    want[0], want[:, 0] = 0, 0
    assert_close(C.float(), want, rtol=0, atol={torch.float16: 1e-3, torch.bfloat16: 5e-3}.get(dtype, 1e-6))
    f.requires_grad_()
    (gradient,) = torch.autograd.grad(functional.mask_matching_cost(f, r, g, r).float().sum(), f)
    assert (gradient[0] == 0).all() and gradient[3].abs().max() > 0 and not gradient.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES])
@pytest.mark.parametrize(("value", "got"), [(255, "255"), (-0.5, "-0.5"), (NAN, "nan"), (INF, "inf"), (1.5, "1.5")])
def test_masks_outside_0_and_1_are_refused(value: float, got: str, dtype: torch.dtype) -> None:
    """Masks of 0 to 255, or logits, would give an IoU that means nothing. Under compile and vmap, too."""
    fine = torch.rand(2, 3, 4, 4).to(dtype)
    bad = fine.clone()
    bad[1, 2, 3, 3] = value
    with pytest.raises(ValueError, match=rf"^template_masks must be in \[0, 1\]; got {got}$"):
        functional.mask_iou(bad, fine)
    with pytest.raises(ValueError, match=rf"^proposal_masks must be in \[0, 1\]; got {got}$"):
        functional.mask_iou(fine, bad)
    with pytest.raises(ValueError, match=rf"proposal_masks must be in \[0, 1\]; got {got}$"):
        torch.vmap(functional.mask_iou)(fine, bad)
    if dtype == torch.float32:
        compiled = torch.compile(functional.mask_iou, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(fine, fine), functional.mask_iou(fine, fine))
        with pytest.raises(ValueError, match=rf"proposal_masks must be in \[0, 1\]; got {got}$"):
            compiled(fine, bad)
    if not math.isfinite(value):
        features = torch.randn(3, 5)
        bad_features = features.clone()
        bad_features[1, 1] = value
        with pytest.raises(ValueError, match=rf"^proposal_features must be finite; got {got}"):
            functional.mask_matching_cost(features, fine[0].float(), bad_features, fine[0].float())


F, R = torch.randn(3, 5), torch.rand(3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((F.tolist(), R, F, R), TypeError, "template_features must be a tensor; got list"),
        ((F, R, None, R), TypeError, "proposal_features must be a tensor; got NoneType"),
        ((F.int(), R, F.int(), R), TypeError, "template_features must be float16, bfloat16, float32 or.*torch.int32"),
        ((F, R, F.double(), R), TypeError, "proposal_features must have the dtype of template_features.*float64"),
        ((F.to_sparse(), R, F, R), TypeError, "template_features must be a dense tensor"),
        ((F, R.to_sparse(), F, R), TypeError, "template_masks must be a dense tensor"),
        (
            (F, R, F.to("meta"), R),
            ValueError,
            "proposal_features must be on the device of template_features, cpu; got meta",
        ),
        ((F[0], R, F, R), ValueError, r"template_features must have shape \(\.\.\., objects, d\).*got \(5,\)"),
        ((F, R, F[:, :4], R), ValueError, r"proposal_features must have shape.*d = 5 for both; got \(3, 4\)"),
        ((F, R[:2], F, R), ValueError, "template_features and its masks.*got 3 features and 2 masks"),
        ((F, R, F, R[:2]), ValueError, "proposal_features and its masks"),
        ((F, R.tolist(), F, R), TypeError, "template_masks must be a tensor; got list"),
        ((F, R, F, R.int()), TypeError, "proposal_masks must be bool, or floating point.*torch.int32"),
        (
            (F, R, F, R > 0),
            TypeError,
            "proposal_masks must have the dtype of template_masks, torch.float32.*torch.bool",
        ),
        ((F, R[0], F, R), ValueError, r"template_masks must have shape \(\.\.\., objects, H, W\); got \(4, 4\)"),
        ((F, R, F, R[:, :3]), ValueError, r"proposal_masks must have the height and width.*\(4, 4\); got \(3, 4\)"),
        (
            (F, R.expand(2, 3, 4, 4), F, R.expand(3, 3, 4, 4)),
            ValueError,
            "batch dimensions must broadcast.*proposal_masks",
        ),
        (
            (F.expand(2, 3, 5), R, F.expand(3, 3, 5), R),
            ValueError,
            "batch dimensions must broadcast.*template_features",
        ),
        ((F.expand(2, 3, 5), R.expand(3, 3, 4, 4), F, R), ValueError, "batch dimensions must broadcast.*masks"),
        ((F, R, F, R.to("meta")), ValueError, "proposal_masks must be on the device of template_masks, cpu; got meta"),
        ((F, R, F, R, -0.1), ValueError, "lam must be finite and at least 0"),
        ((F, R, F, R, 1.1), ValueError, r"lam must be in \[0, 1\]; got 1.1"),
        ((F, R, F, R, NAN), ValueError, "lam must be finite"),
        ((F, R, F, R, "1"), TypeError, "lam must be a number; got str"),
    ],
)
def test_bad_input_of_the_cost(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        functional.mask_matching_cost(*arguments)
    if len(arguments) == 5:
        with pytest.raises(error, match=f"^{words}"):
            MaskMatchingCost(arguments[4])
    elif "masks" in words.split()[0]:
        with pytest.raises(error, match=f"^{words}"):
            functional.mask_iou(arguments[1], arguments[3])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*SOLVERS, "projection"])
def test_half_precision_is_solved_in_float32_and_comes_back_as_it_was(name: str, half: torch.dtype) -> None:
    """Under autocast too, which changes nothing; gradients included."""
    solver: Callable[..., Tensor] = {**SOLVERS, "projection": functional.project_assignment}[name]
    C = torch.rand(2, 3, 5).to(half)
    rows = torch.tensor([1, 0, 1])
    wide = C.float().requires_grad_()
    want = solver(wide, template_mask=rows)
    for autocast in (False, True):
        with torch.autocast("cpu", half, enabled=autocast):
            entry = C.clone().requires_grad_()
            got = solver(entry, template_mask=rows)
            assert got.dtype == half and torch.equal(got, want.to(half))
            assert torch.equal(solver(C.float(), template_mask=rows), want)
            assert solver(C.double(), template_mask=rows).dtype == F64
        if want.requires_grad:
            weights = torch.randn(2, 3, 5).to(half)
            (gradient,) = torch.autograd.grad((got * weights).sum(), entry)
            (wanted,) = torch.autograd.grad((want * weights).sum(), wide, retain_graph=True)
            assert gradient.dtype == half and torch.equal(gradient, wanted.to(half))


def test_autocast_with_a_network_in_front() -> None:
    network = nn.Linear(6, 8)
    x, y = torch.randn(3, 6), torch.randn(5, 6)
    masks = torch.rand(3, 9, 9) < 0.5, torch.rand(5, 9, 9) < 0.5
    cost, match = MaskMatchingCost(), DMMMatching()
    want = match(cost(network(x), masks[0], network(y), masks[1]))
    with torch.autocast("cpu", torch.bfloat16):
        X = match(cost(network(x), masks[0], network(y), masks[1]))
    assert X.dtype == torch.bfloat16, "that of the features, and so of the cost"
    assert_close(X.float(), want, rtol=0, atol=0.1)
    X.square().sum().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0


seeds = st.integers(0, 2**31)
gammas = st.floats(1e-2, 10)


def costs_of(size: tuple[int, int], seed: int) -> Tensor:
    n, more = size
    return torch.rand(n, n + more, generator=torch.Generator().manual_seed(seed), dtype=F64)


@settings(max_examples=60)
@for_all(
    sizes, seeds, st.integers(1, 8), st.integers(1, 5), st.floats(1e-3, 2.0), st.sampled_from(DTYPES), st.booleans()
)
def test_rows_sum_to_one(
    size: tuple[int, int], seed: int, n_grad: int, n_proj: int, step: float, dtype: torch.dtype, average: bool
) -> None:
    C = costs_of(size, seed).to(dtype)
    X = functional.dmm_matching(C, n_grad=n_grad, n_proj=n_proj, step_size=step, average=average)
    assert_close(X.sum(1), torch.ones(len(C), dtype=dtype), rtol=0, atol=1e-12 if dtype == F64 else 2e-5)
    Y = functional.quadratic_matching(C, step)
    assert_close(Y.sum(1), torch.ones(len(C), dtype=dtype), rtol=0, atol=2e-9 if dtype == F64 else 2e-6)
    assert Y.min() >= 0 and Y.sum(0).max() <= 1 + (1e-9 if dtype == F64 else 2e-6)


@settings(max_examples=40)
@for_all(sizes, seeds, st.sampled_from(sorted(SOLVERS)))
def test_order_of_rows_and_columns_does_not_matter(size: tuple[int, int], seed: int, name: str) -> None:
    """Random costs have no ties, except in the start of DMM: a row that is cheapest in no column takes the first one."""
    C = costs_of(size, seed)
    assume(name != "dmm" or len(C.argmin(0).unique()) == len(C))
    rows, columns = torch.randperm(C.shape[0]), torch.randperm(C.shape[1])
    assert_close(solve(name, C[rows][:, columns]), solve(name, C)[rows][:, columns], rtol=0, atol=1e-9)


@settings(max_examples=40)
@for_all(sizes, seeds, gammas)
def test_a_constant_on_a_row_changes_nothing(size: tuple[int, int], seed: int, gamma: float) -> None:
    C = costs_of(size, seed)
    shifted = C + torch.randn(len(C), 1, dtype=F64)
    want = functional.quadratic_matching(C, gamma)
    assert_close(functional.quadratic_matching(shifted, gamma), want, rtol=0, atol=1e-8)
    assert torch.equal(functional.hungarian(shifted), functional.hungarian(C))
    scaled = functional.quadratic_matching(7 * C, 7 * gamma)
    assert_close(scaled, want, rtol=0, atol=1e-8)


@settings(max_examples=60)
@for_all(sizes, seeds, st.floats(0.1, 50), st.booleans())
def test_projection_is_idempotent_and_does_not_expand(
    size: tuple[int, int], seed: int, scale: float, allow: bool
) -> None:
    A, B = scale * (costs_of(size, seed) - 0.5), scale * (costs_of(size, seed + 1) - 0.5)
    X, Y = (functional.project_assignment(x, allow_unmatched=allow) for x in (A, B))
    if not allow:  # else the entries left out, of which the input is 0, are part of the distance
        assert_close(functional.project_assignment(X), X, rtol=0, atol=1e-8)
        assert ((X - Y) * (A - B)).sum() >= (X - Y).square().sum() - 1e-7, "firmly so"
    assert (X - Y).norm() <= (A - B).norm() + 1e-7


@settings(max_examples=60)
@for_all(sizes, seeds, gammas, st.booleans())
def test_quadratic_objective_is_at_most_that_of_any_assignment(
    size: tuple[int, int], seed: int, gamma: float, slack: bool
) -> None:
    C = costs_of(size, seed)
    unmatched = 0.4 if slack else None
    info = functional.solve_quadratic(C, gamma, unmatched_cost=unmatched)
    for baseline in (functional.hungarian, functional.greedy_matching):
        X = baseline(C, unmatched_cost=unmatched)
        missing = len(C) - X.sum()
        value = (C * X).sum() + missing * (unmatched or 0) + gamma / 2 * len(C)
        assert info.objective <= value + 1e-8
    linear = info.objective - gamma / 2 * len(C)
    X = functional.hungarian(C, unmatched_cost=unmatched)
    assert linear <= (C * X).sum() + (len(C) - X.sum()) * (unmatched or 0) + 1e-8


def test_overflow_is_an_error_and_not_a_forbidden_pair_or_garbage() -> None:
    cost = torch.tensor([[1.0, 3e38], [2.0, 1.0]])
    assert torch.equal(functional.quadratic_matching(cost, 1e-3), functional.hungarian(cost))
    with pytest.raises(
        ValueError, match=r"cost / gamma must be less than 1e\+290; got gamma 1e-150 and a cost of 1e\+200"
    ):
        functional.quadratic_matching(torch.tensor([[1e200, 1.0]], dtype=F64), 1e-150)
    with pytest.raises(ValueError, match=r"step_size \* cost must be representable in torch.float32"):
        functional.dmm_matching(cost, step_size=100.0)
    assert functional.dmm_matching(cost / 2).isfinite().all()
