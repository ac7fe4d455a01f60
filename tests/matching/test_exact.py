"""Exact matching: against scipy and the oracle, by its own certificate, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matching_problems import DEGENERATE, SIZES, Problem, degenerate, make_problem, problem
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.testing import assert_close

from difflayers import ExactMatching, functional
from difflayers.matching.exact import kernels, oracle
from difflayers.matching.exact.cpu import exact

INF = math.inf


def optimum(p: Problem, b: int) -> float:
    """By scipy, the column of unmatched templates written out as a column for each row."""
    cost = p.cost[b][p.templates[b]].double().numpy()
    if p.slack:
        own = np.full((len(cost), len(cost)), np.inf)
        np.fill_diagonal(own, cost[:, -1])
        cost = np.concatenate((cost[:, :-1], own), 1)
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].sum())


def check_certificate(p: Problem, columns: Tensor, alpha: Tensor, beta: Tensor, tolerance: float) -> Tensor:
    """Feasible, and complementary to feasible multipliers: optimal, by nothing but the conditions themselves. The value."""
    cost, m = p.cost.double(), p.cost.shape[2] - p.slack
    assert (columns[~p.templates] == -1).all() and (alpha[~p.templates] == 0).all() and (beta >= 0).all()
    assert ((columns >= 0) | torch.tensor(p.slack) | ~p.templates).all()
    taken = torch.zeros(len(cost), m + 1).scatter_add_(1, columns % (m + 1), torch.ones(columns.shape))[:, :m]
    assert (taken <= 1).all(), "a proposal is taken twice"
    h = cost[..., :m] + alpha.unsqueeze(2) + beta.unsqueeze(1)
    assert (h[p.templates] >= -tolerance).all()
    assert (beta[taken == 0] <= tolerance).all(), "a free proposal has a price"
    matched = columns >= 0
    assert (h.gather(2, columns.clamp(min=0).unsqueeze(2))[..., 0][matched].abs() <= tolerance).all()
    value = cost[..., :m].gather(2, columns.clamp(min=0).unsqueeze(2))[..., 0].where(matched, 0)
    if p.slack:
        own = cost[..., m] + alpha
        assert (own[p.templates] >= -tolerance).all() and (own[~matched & p.templates].abs() <= tolerance).all()
        value = value + cost[..., m].where(~matched & p.templates, 0)
    return value.sum(1)


def kinds(seed: int) -> Problem:
    """One of very different problems: sizes, ties of all degrees, forbidden pairs, masks, unmatched templates."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.randint(1, 25, (2,), generator=generator).sort().values.tolist()
    slack = seed % 2 == 0
    n, m = (high, low) if slack and seed % 4 == 0 else (low, high)
    forbidden, masked = (0.0, 0.3, 0.8)[seed % 3], seed % 5 < 2
    p = make_problem(10, n, m, forbidden=forbidden, masked=masked, slack=slack, seed=seed)
    levels = (0, 1, 2, 5, 50)[seed % 7 % 5]
    cost = (p.cost * levels).floor() if levels else 4 * p.cost - 2
    return p._replace(cost=torch.where(p.cost == INF, INF, cost).to((torch.float32, torch.float64)[seed // 2 % 2]))


@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_problems_have_scipys_optimum_and_a_certificate(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        p = kinds(seed)
        columns, alpha, beta, _ = exact(p.cost, p.templates, None, p.slack, seed % 3 == 0, "cost")
        values = check_certificate(p, columns, alpha, beta, 1e-12)
        for b in range(len(values)):
            assert values[b].item() == pytest.approx(optimum(p, b), rel=1e-12, abs=1e-12), (seed, b)


@pytest.mark.parametrize(
    ("n", "m", "slack"),
    [(300, 300, False), (200, 300, False), (300, 200, True), (64, 2000, False), (1000, 1000, False)],
)
@pytest.mark.parametrize("costs", ["random", "integers", "rank one", "all want one"])
def test_large_problems_are_certified(n: int, m: int, slack: bool, costs: str) -> None:
    if n == 1000 and costs == "rank one":
        pytest.skip("a second: each path looks at all rows")
    p = Problem(degenerate(costs, n, m + slack)[None].float(), torch.ones(1, n, dtype=torch.bool), slack)
    columns, alpha, beta, _ = exact(p.cost, p.templates, None, slack, True, "cost")
    check_certificate(p, columns, alpha, beta, 1e-9)


def same_as_oracle(p: Problem, prices: Tensor | None = None) -> None:
    for centered in (False, True):
        got = exact(p.cost, p.templates, prices, p.slack, centered, "cost")
        for b in range(len(p.cost)):
            beta = None if prices is None else prices[b].tolist()
            want = oracle.solve(p.cost[b], p.templates[b], slack=p.slack, beta=beta, centered=centered)
            assert [x[b].tolist() for x in got] == list(want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_kernel_is_the_oracle_to_the_bit(size: str, dtype: torch.dtype) -> None:
    p = problem(size).to(dtype)
    same_as_oracle(p)
    shape = (len(p.cost), p.cost.shape[2] - p.slack)
    for seed in range(3):
        prices = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        same_as_oracle(p, (prices - 0.4).clamp(min=0))


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("name", DEGENERATE)
def test_kernel_is_the_oracle_to_the_bit_where_there_are_ties(name: str, slack: bool) -> None:
    for n, m in [(5, 9), (6, 6), (17, 40), (40, 40)]:
        cost = degenerate(name, n, m + slack)[None]
        same_as_oracle(Problem(cost, torch.ones(1, n, dtype=torch.bool), slack))


def test_equal_costs_are_matched_in_order() -> None:
    for n, m in [(1, 4), (3, 3), (4, 9), (20, 33)]:
        assert functional.assign(torch.full((n, m), 0.7)).tolist() == list(range(n))
        assert functional.assign(torch.zeros(n, m), unmatched_cost=0.1).tolist() == list(range(n))


def test_problems_do_not_see_their_batch_or_the_threads() -> None:
    cost = torch.rand(700, 12, 30)  # enough for several threads
    whole = functional.solve_exact(cost)
    for b in (0, 1, 350, 699):
        alone = functional.solve_exact(cost[b])
        for name in ("value", "iterations", "row_multipliers", "column_multipliers"):
            assert torch.equal(getattr(alone, name), getattr(whole, name)[b]), name


def test_solution_and_what_it_says() -> None:
    p = make_problem(6, 9, 14, forbidden=0.4, masked=True, slack=True, seed=3)
    cost, unmatched = p.cost[..., :-1], torch.where(p.templates, p.cost[..., -1], 0)
    solution = functional.solve_exact(cost, p.templates, unmatched_cost=unmatched)
    columns = functional.assign(cost, p.templates, unmatched_cost=unmatched)
    assert columns.shape == (6, 9) and columns.dtype == torch.int64 and (columns < 0).any() and (columns >= 0).any()
    X = torch.nn.functional.one_hot(columns + 1, 15)[..., 1:].double()
    assert torch.equal(solution.value, X)
    assert torch.equal(functional.hungarian(cost, p.templates, unmatched_cost=unmatched), X)
    assert torch.equal(functional.exact_matching(cost, p.templates, unmatched_cost=unmatched), X)
    values = check_certificate(p, columns, solution.row_multipliers, solution.column_multipliers, 1e-12)
    assert_close(solution.objective, values)
    assert solution.converged.all() and (solution.residual < 1e-12).all() and (solution.iterations >= 0).all()
    assert_close(-solution.row_multipliers.sum(1) - solution.column_multipliers.sum(1), values), "no duality gap"
    assert str(solution).splitlines()[1].split() == ["objective", "iterations", "residual", "converged"]


def test_residual_sees_a_wrong_certificate() -> None:
    cost = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 3.0]], dtype=torch.float64)
    s = functional.solve_exact(cost)
    columns, alpha, beta = s.value.argmax(1)[None], s.row_multipliers[None], s.column_multipliers[None]

    def residual(columns: Tensor, alpha: Tensor, beta: Tensor) -> float:
        both = torch.ones(1, 2, dtype=torch.bool)
        (found,) = torch.ops.difflayers.exact_certificate(cost[None], both, columns, alpha, beta, False)[1]
        return float(found)

    assert residual(columns, alpha, beta) == 0
    assert residual(columns, alpha - 0.5, beta) == 0.5, "rows pay too much"
    assert residual(columns, alpha + 0.25, beta) == 0.25, "rows pay too little"
    assert residual(columns, alpha, beta + torch.tensor([0.0, 0.0, 0.125])) == 0.125, "a free proposal has a price"
    assert residual(columns.flip(1), alpha, beta) == 0.5, "not the optimum"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("slack", [False, True])
def test_certificate_on_both_devices(slack: bool, dtype: torch.dtype) -> None:
    """The kernel on CPU and the formula in operators of torch, on multipliers that are off."""
    from difflayers.matching.exact import cuda

    p = make_problem(50, 4, 18, forbidden=0.3, masked=True, slack=slack, dtype=dtype)
    columns, alpha, beta, _ = torch.ops.difflayers.exact(p.cost, p.templates, None, slack, True, "cost")
    for error in (0.0, 0.1):
        off = (
            p.cost,
            p.templates,
            columns,
            alpha + error * torch.randn(alpha.shape),
            beta - error * torch.randn(beta.shape),
        )
        got = torch.ops.difflayers.exact_certificate(*off, slack)
        assert_close(got, cuda.exact_certificate(*off, slack))
        assert (got[1] > error).all() if error else (got[1] < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_float32(dtype: torch.dtype) -> None:
    cost = torch.rand(5, 6, 9).to(dtype)
    solution = functional.solve_exact(cost)
    assert solution.value.dtype == dtype and torch.equal(functional.hungarian(cost), solution.value)
    assert torch.equal(solution.value.float(), functional.hungarian(cost.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ExactMatching()(cost), solution.value)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 3, 4), (4, 0, 5), (4, 0, 0), (0, 7)])
def test_nothing_to_match(shape: tuple[int, ...]) -> None:
    cost = torch.rand(shape)
    assert functional.assign(cost).shape == shape[:-1] and functional.hungarian(cost).shape == shape
    solution = functional.solve_exact(cost)
    assert solution.converged.shape == shape[:-2] and solution.converged.all()
    assert solution.row_multipliers.shape == shape[:-1]
    assert solution.column_multipliers.shape == (*shape[:-2], shape[-1])


def test_no_proposals() -> None:
    assert functional.assign(torch.rand(3, 4, 0), unmatched_cost=1.0).tolist() == [[-1] * 4] * 3
    assert functional.assign(torch.rand(3, 4, 0), torch.zeros(4, dtype=torch.bool)).tolist() == [[-1] * 4] * 3
    solution = functional.solve_exact(torch.rand(3, 4, 0), unmatched_cost=0.5)
    assert solution.objective.tolist() == [2.0] * 3 and solution.converged.all()


SOLVERS: dict[str, Any] = {
    "assign": functional.assign,
    "hungarian": functional.hungarian,
    "exact_matching": functional.exact_matching,
    "solve_exact": functional.solve_exact,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_values_are_refused_by_name(name: str) -> None:
    solve, cost = SOLVERS[name], torch.rand(3, 4, 6)
    for value, words in [(math.nan, r"got NaN at \(1, 2, 3\)"), (-INF, r"inf of the wrong sign at \(1, 2, 3\)")]:
        bad = cost.clone()
        bad[1, 2, 3] = value
        with pytest.raises(ValueError, match=f"cost must be finite, .*{words}"):
            solve(bad)
        mask = torch.arange(4) != 2
        assert torch.equal(functional.assign(bad, mask), functional.assign(cost, mask)), "left out, it may be anything"
    for own in (INF, math.nan):
        with pytest.raises(ValueError, match=f"unmatched_cost must be finite; got {own}"):
            solve(cost, unmatched_cost=torch.tensor([0.1, own, 0.2, 0.3]))
    with pytest.raises(ValueError, match="cost leaves 1 of the 2 templates of problem 1"):
        solve(torch.stack((torch.zeros(2, 3), torch.tensor([[0.1, INF, INF], [0.2, INF, INF]]))))
    with pytest.raises(ValueError, match="cost leaves 1 of the 3 templates of problem 0"):
        solve(torch.tensor([[0.1, 0.2, INF], [0.2, 0.1, INF], [0.3, 0.3, INF]]))
    with pytest.raises(ValueError, match="at least as many proposals as templates"):
        solve(torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"cost and unmatched_cost must be at most 1e\+300 .* got 1e\+301"):
        solve(torch.tensor([[1.0, -1e301]], dtype=torch.float64))
    with pytest.raises(TypeError, match=r"cost must be float16, .*; got torch\.int64"):
        solve(torch.ones(2, 3, dtype=torch.int64))


def test_largest_costs_that_are_allowed() -> None:
    for cost in (torch.rand(20, 20, dtype=torch.float64) * 2e300 - 1e300, (torch.rand(20, 20) * 2 - 1) * 3e38):
        solution = functional.solve_exact(cost)
        rows, columns = linear_sum_assignment(cost.double().numpy())
        assert functional.assign(cost).tolist() == columns.tolist() and rows.tolist() == list(range(20))
        assert solution.converged


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize(("n", "m"), [(12, 12), (10, 30)])
def test_a_start_changes_no_optimum(n: int, m: int, slack: bool) -> None:
    """A sequence of costs that change by a thousandth, each started from the last; square problems take less work."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(20, n, m, generator=generator, dtype=torch.float64)
    options = {"unmatched_cost": 0.15} if slack else {}
    last, cold_work, warm_work = functional.solve_exact(cost, **options), 0, 0
    for _ in range(10):
        cost = cost + 0.001 * torch.randn(cost.shape, generator=generator, dtype=torch.float64)
        cold = functional.solve_exact(cost, **options)
        last = functional.solve_exact(cost, start=last.multipliers, **options)
        assert torch.equal(last.value, cold.value) and last.converged.all()
        cold_work, warm_work = cold_work + int(cold.iterations.sum()), warm_work + int(last.iterations.sum())
    if n == m and not slack:
        assert warm_work < 0.8 * cold_work


def test_a_start_of_no_use_does_no_harm() -> None:
    p = make_problem(50, 8, 12, forbidden=0.3, slack=False, seed=5)
    for scale in (0.0, 0.5, 1e3):
        prices = scale * torch.rand(50, 12, dtype=torch.float64)
        got = exact(p.cost, p.templates, prices, False, False, "cost")
        assert_close(check_certificate(p, *got[:3], 1e-9), torch.tensor([optimum(p, b) for b in range(50)]).double())


@pytest.mark.parametrize("scale", [-1.0, 1e9, 1e13, 1e16, 1e300])
def test_whatever_the_start_the_assignment_is_optimal(scale: float) -> None:
    """Prices of other units, or of a frame with other costs: their rounding errors must not be those of the solution."""
    cost, prices = torch.rand(20, 12, 12, dtype=torch.float64), scale * torch.rand(20, 12, dtype=torch.float64)
    want = functional.solve_exact(cost)
    found = functional.solve_exact(cost, start=(torch.zeros(12), prices))
    assert torch.equal(found.value, want.value) and found.converged.all()
    within = functional.solve_exact(cost, unmatched_cost=0.2, start=(torch.zeros(12), prices))
    assert torch.equal(within.value, functional.solve_exact(cost, unmatched_cost=0.2).value) and within.converged.all()


def test_blackbox_gradient_is_the_interpolation() -> None:
    """Algorithm 1 of Vlastelica et al., with scipy for a solver."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(30, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    g = torch.randn(cost.shape, generator=generator, dtype=torch.float64)
    X = functional.exact_matching(cost, strength=0.2)
    (got,) = torch.autograd.grad((X * g).sum(), cost)

    def solve(c: Tensor) -> Tensor:
        out = torch.zeros(c.shape, dtype=torch.float64)
        for b, one in enumerate(c.detach().numpy()):
            out[b][linear_sum_assignment(one)] = 1
        return out

    want = (solve(cost + 0.2 * g) - solve(cost)) / 0.2
    assert torch.equal(got, want) and want.abs().max() == 5
    assert 0 < (want.abs().amax((1, 2)) == 0).float().mean() < 1, "of some problems the assignment stays"


@pytest.mark.parametrize("gradient", ["blackbox", "straight-through"])
def test_gradients_of_masks_forbidden_pairs_and_unmatched_templates(gradient: Any) -> None:
    p = make_problem(20, 5, 8, forbidden=0.3, slack=True, masked=True, seed=1)
    cost = p.cost[..., :-1].clone().requires_grad_()
    unmatched = torch.where(p.templates, p.cost[..., -1], 0).requires_grad_()
    X = functional.exact_matching(cost, p.templates, unmatched_cost=unmatched, gradient=gradient, strength=1.0)
    g = torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    dC, du = torch.autograd.grad((X * g).sum(), (cost, unmatched))
    assert (dC[cost == INF] == 0).all() and (dC[~p.templates] == 0).all() and (du[~p.templates] == 0).all()
    if gradient == "straight-through":
        assert torch.equal(dC[cost < INF], -g[cost < INF]) and (du == 0).all(), "X has no column for the unmatched"
    else:
        assert_close(dC.sum(2) + du, torch.zeros_like(du)), "what a row loses it gains elsewhere"
        assert du.abs().max() == 1


def test_no_gradient_where_none_is_wanted() -> None:
    cost = torch.rand(3, 4, requires_grad=True)
    assert not functional.exact_matching(cost, gradient="none").requires_grad
    for solve in (functional.hungarian, functional.assign):
        assert not solve(cost).requires_grad
    X = functional.exact_matching(cost)
    (first,) = torch.autograd.grad((X**2).sum(), cost, create_graph=True)
    with pytest.raises(NotImplementedError, match="no derivative"):
        torch.autograd.grad((first * torch.rand(3, 4)).sum(), cost)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, when it first loads its rules
def test_forward_mode() -> None:
    """0 of a constant, -dC of what stands for -C, and refused where the derivative depends on the loss."""
    cost, direction = torch.rand(4, 3, 5), torch.randn(4, 3, 5)
    cost[:, 0, 1] = INF

    def tangent(gradient: Any) -> Tensor:
        def solve(c: Tensor) -> Tensor:
            return functional.exact_matching(c, gradient=gradient)

        found = jvp(solve, (cost,), (direction,))
        assert torch.equal(found[0], functional.hungarian(cost))
        assert torch.equal(vmap(lambda c, d: jvp(solve, (c,), (d,))[1])(cost, direction), found[1])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(cost, direction)
            other = torch.autograd.forward_ad.unpack_dual(solve(dual)).tangent
            assert torch.equal(torch.zeros_like(cost) if other is None else other, found[1])
        return found[1]

    assert (tangent("none") == 0).all()
    assert torch.equal(tangent("straight-through"), torch.where(cost < INF, -direction, 0))
    with pytest.raises(NotImplementedError, match="blackbox gradient of exact matching has no forward mode"):
        tangent("blackbox")


def test_a_cost_of_staying_unmatched_is_learnt() -> None:
    layer = ExactMatching(strength=1.0, unmatched_cost=nn.Parameter(torch.tensor(0.1)))
    assert repr(layer) == "ExactMatching(gradient='blackbox', strength=1, unmatched_cost=Parameter(0.1))"
    assert [name for name, _ in layer.named_parameters()] == ["unmatched_cost"]
    cost = torch.full((2, 3), 0.5)
    loss = -layer(cost).sum()  # templates should be matched
    loss.backward()
    assert loss == 0 and layer.unmatched_cost.grad == -2, "dearer, so that fewer stay unmatched"
    with pytest.raises(TypeError, match="unmatched_cost"):
        ExactMatching(unmatched_cost="0.1")  # type: ignore[arg-type]


def test_a_gradient_of_zero_moves_nothing_though_there_are_ties() -> None:
    cost = torch.zeros(8, 6, 9, requires_grad=True)
    X = functional.exact_matching(cost)
    (gradient,) = torch.autograd.grad((0 * X).sum(), cost)
    assert (gradient == 0).all()


def test_bad_options_are_refused_by_name() -> None:
    for make in (ExactMatching, lambda **options: functional.exact_matching(torch.rand(2, 3), **options)):
        with pytest.raises(
            ValueError, match="gradient must be one of 'blackbox', 'straight-through', 'none'; got 'soft'"
        ):
            make(gradient="soft")
        for strength in (0.0, -1.0, math.nan, INF):
            with pytest.raises(ValueError, match="strength must be"):
                make(strength=strength)
    cost = torch.rand(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"cost \+ strength \* gradient must be finite"):
        (functional.exact_matching(cost) * math.nan).sum().backward()
    assert repr(ExactMatching()) == "ExactMatching(gradient='blackbox', strength=10)"
    assert repr(ExactMatching("none", unmatched_cost=0.5)) == "ExactMatching(gradient='none', unmatched_cost=0.5)"


def test_a_network_learns_through_the_blackbox_gradient() -> None:
    """Scores of a linear map, the targets those of another one: the loss is the share of wrong pairs, which has no gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, 9, 6, generator=generator)
    target = functional.hungarian(x @ torch.randn(6, generator=generator))
    w = torch.zeros(6, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.05)
    wrong = []
    for _ in range(60):
        loss = (functional.exact_matching(x @ w, strength=2.0) - target).square().sum((1, 2)).mean() / 10
        adam.zero_grad()
        (200 * loss).backward()
        adam.step()
        wrong.append(loss.item())
    assert wrong[0] > 0.7 and wrong[-1] < 0.1


def test_passes_over_rows_at_all_lengths() -> None:
    """Whole vectors and what is left over: a wrong last lane shows where the best proposal is the last one."""
    for m in range(1, 70):
        for at in {0, m // 2, m - 1}:
            for dtype in (torch.float32, torch.float64):
                cost = torch.rand(1, m, dtype=dtype) + 1
                cost[0, at] = 0.5
                assert functional.assign(cost).item() == at
                bad = cost.clone()
                bad[0, at] = math.nan
                with pytest.raises(ValueError, match="NaN"):
                    functional.assign(bad)
    assert kernels.LARGEST == 1e300
