"""Entropic matching as its user sees it: what is solved, against peers and a convex solver; options; errors."""

import math
from typing import Any

import ot
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from difflayers import EntropicMatching, functional, verify

F64 = torch.float64
INF = math.inf


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def superglue(scores: Tensor, bin_score: float, rounds: int = 100) -> Tensor:
    """The optimal matching layer of SuperGlue (Sarlin et al. 2020): Sinkhorn's rounds in the log domain, with dustbins.

    Marginals: 1 for each of n and m points, m for the dustbin of the rows, n for that of the columns.
    """
    n, m = scores.shape
    Z = torch.full((n + 1, m + 1), bin_score, dtype=scores.dtype)
    Z[:n, :m] = scores
    log_mu = torch.tensor([0.0] * n + [math.log(m)], dtype=scores.dtype)
    log_nu = torch.tensor([0.0] * m + [math.log(n)], dtype=scores.dtype)
    v = torch.zeros_like(log_nu)
    for _ in range(rounds):
        u = log_mu - torch.logsumexp(Z + v, 1)
        v = log_nu - torch.logsumexp(Z + u[:, None], 0)
    return (Z + u[:, None] + v).exp()[:n, :m]


@pytest.mark.parametrize(("n", "m", "bin_score"), [(5, 7, 1.0), (20, 13, -0.5), (30, 30, 2.0), (1, 4, 0.0)])
def test_with_both_dustbins_it_is_superglues_matching(n: int, m: int, bin_score: float) -> None:
    scores = 3 * torch.randn(n, m, generator=torch.Generator().manual_seed(n), dtype=F64)
    layer = EntropicMatching(1.0, unmatched_cost=-bin_score, unmatched_proposal_cost=-bin_score)
    assert_close(layer(-scores), superglue(scores, bin_score), rtol=0, atol=1e-5)
    single = layer(-scores.float())
    assert_close(single.double(), superglue(scores, bin_score), rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 1.0])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 9)])
def test_where_problems_coincide_it_is_pots_transport(n: int, m: int, epsilon: float) -> None:
    """Square, or with a row of slack for the proposals that stay free, whose cost then does not matter."""
    C = rand(n, m)
    table = torch.cat((C, C.new_zeros(1, m))) if m > n else C
    mass = C.new_ones(n + (m > n))
    mass[n:] = m - n
    plan = ot.sinkhorn(mass, C.new_ones(m), table, epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-13)[:n]
    for price in (0.0, 0.7) if m > n else (None,):
        X = functional.entropic_matching(C, epsilon, unmatched_proposal_cost=price)
        assert_close(X, plan, rtol=0, atol=1e-9)


CASES: dict[str, dict[str, Any]] = {
    "columns at most 1": {},
    "unmatched": {"unmatched_cost": 0.3},
    "births": {"unmatched_proposal_cost": 0.2},
    "both": {"unmatched_cost": 0.3, "unmatched_proposal_cost": rand(6, seed=3)},
}


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_cvxpy_finds_the_same(case: str, epsilon: float) -> None:
    C = rand(2, 4, 6, seed=1)
    C[:, 0, 1] = INF
    rows, columns = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]]), torch.arange(6) != 2
    solved = functional.solve_entropic(C, epsilon, rows, columns, **CASES[case])
    want = verify.entropic_matching(C, epsilon, rows, columns, **CASES[case])
    assert_close(solved.value, want.X, rtol=0, atol=2e-5)
    assert_close(solved.objective, want.objective, rtol=0, atol=1e-7)
    assert solved.converged.all()


def check_conditions(C: Tensor, epsilon: float, solved: functional.EntropicSolution, atol: float) -> None:
    """Of Karush, Kuhn and Tucker, for the problem without dustbins."""
    alpha, beta = solved.row_multipliers, solved.column_multipliers
    exponent = -(C.double() + alpha[..., None] + beta[..., None, :]) / epsilon
    assert_close(solved.value.double(), exponent.exp(), rtol=0, atol=atol)
    assert ((solved.value.double().sum(-1) - 1).abs() <= atol).all()
    columns = solved.value.double().sum(-2)
    assert (columns <= 1 + atol).all() and (beta >= 0).all()
    assert (columns[beta > 0] >= 1 - atol).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_converges_from_the_softest_to_the_hardest(epsilon: float, scale: float) -> None:
    for n, m in [(1, 1), (1, 7), (5, 5), (6, 12), (20, 25)]:
        C = scale * rand(8, n, m, seed=n)
        solved = functional.solve_entropic(C, epsilon)
        assert solved.converged.all() and solved.value.isfinite().all(), (n, m)
        check_conditions(C, epsilon, solved, max(1e-8, 1e-15 * scale / epsilon * 10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_solved_in_float32_and_comes_back(dtype: torch.dtype) -> None:
    C = rand(3, 4, 6).to(dtype).requires_grad_()
    X = functional.entropic_matching(C, 0.2)
    want = functional.entropic_matching(C.detach().double(), 0.2)
    assert X.dtype == dtype
    assert_close(X.double(), want, rtol=0, atol={torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-6))
    assert torch.autograd.grad(X.square().sum(), C)[0].dtype == dtype


def test_small_epsilon_is_the_assignment_and_large_a_softmax() -> None:
    C = rand(10, 6, 9)
    assert_close(functional.entropic_matching(C, 1e-4), functional.hungarian(C), rtol=0, atol=1e-3)
    soft = functional.entropic_matching(C, 10.0)
    assert_close(soft, torch.softmax(-C / 10.0, -1), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@for_all(
    st.integers(1, 7), st.integers(1, 9), st.floats(-3, 1), st.floats(-2, 3), st.booleans(), st.booleans(),
    st.integers(0, 2**20),
)  # fmt: skip
def test_constraints_hold_or_it_says_not(
    n: int, m: int, log_epsilon: float, log_scale: float, slack: bool, births: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    C = 10**log_scale * torch.randn(3, n, m, generator=generator, dtype=F64)
    slack = slack or n > m
    options = {"unmatched_cost": 0.1 if slack else None, "unmatched_proposal_cost": 0.2 if births else None}
    pairs = torch.rand(3, n, m, generator=generator) < (0.5 if slack else 0.0)
    solved = functional.solve_entropic(C.masked_fill(pairs, INF), 10**log_epsilon, **options)
    assert solved.converged.all()
    assert (solved.value[pairs] == 0).all() and (solved.value >= 0).all()
    rows, columns = solved.value.sum(-1), solved.value.sum(-2)
    assert (columns <= 1 + 1e-8).all() and (rows <= 1 + 1e-8).all()
    if not slack:
        assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-8)


def test_not_converged_is_said() -> None:
    C = rand(2, 6, 8)
    solved = functional.solve_entropic(C, 0.01, max_iter=2)
    assert not solved.converged.any() and (solved.residual > 1e-9).all() and solved.value.isfinite().all()
    off = torch.maximum((solved.value.sum(-1) - 1).abs().amax(-1), solved.value.sum(-2).amax(-1) - 1)
    assert_close(solved.residual, off, rtol=1e-6, atol=1e-12)
    with pytest.raises(RuntimeError, match="2 of 2 problems did not converge"):
        functional.entropic_matching(C, 0.01, max_iter=2, require_convergence=True)


def test_pairs_that_no_solution_can_have() -> None:
    """Row 0 has column 0 alone, so that nobody else has it: the multiplier goes to infinity, and the answer comes."""
    C = torch.tensor([[0.3, INF, INF], [0.0, 0.5, 0.6], [0.1, 0.2, 0.9]], dtype=F64)
    solved = functional.solve_entropic(C, 0.1)
    assert solved.converged and abs(solved.value[0, 0] - 1) < 1e-8 and solved.value[1:, 0].max() < 1e-8


@pytest.mark.parametrize("case", CASES)
def test_warm_start(case: str) -> None:
    C = rand(16, 5, 6, seed=2)
    cold = functional.solve_entropic(C, 0.02, **CASES[case])
    prices = cold.multipliers
    same = functional.solve_entropic(C, 0.02, start=prices, **CASES[case])
    assert (same.iterations == 1).all()
    moved = C + 0.01 * rand(16, 5, 6, seed=3)
    warm = functional.solve_entropic(moved, 0.02, start=prices, **CASES[case])
    want = functional.solve_entropic(moved, 0.02, **CASES[case])
    assert warm.converged.all() and warm.iterations.sum() < want.iterations.sum()
    assert_close(warm.value, want.value, rtol=0, atol=1e-7)
    far = functional.solve_entropic(C, 0.02, start=(1e3 * prices[0], prices[1]), **CASES[case])
    assert far.converged.all()
    assert_close(far.value, cold.value, rtol=0, atol=1e-7)


def test_epsilon_of_each_problem() -> None:
    C, epsilon = rand(2, 3, 4, 6), 0.05 + rand(2, 1, seed=1)
    X = functional.entropic_matching(C, epsilon)
    for a in range(2):
        assert torch.equal(X[a], functional.entropic_matching(C[a], float(epsilon[a])))


def test_parameters_are_learned() -> None:
    names = ("epsilon", "unmatched_cost", "unmatched_proposal_cost")
    layer = EntropicMatching(
        nn.Parameter(torch.tensor(0.3)),
        unmatched_cost=nn.Parameter(torch.tensor(0.5)),
        unmatched_proposal_cost=nn.Parameter(torch.rand(6)),
    )
    assert sorted(layer.state_dict()) == sorted(names)
    assert repr(layer) == (
        "EntropicMatching(epsilon=Parameter(0.3), unmatched_cost=Parameter(0.5), unmatched_proposal_cost=Parameter(shape (6,)))"
    )
    assert repr(EntropicMatching(0.1, unmatched_cost=2)) == "EntropicMatching(epsilon=0.1, unmatched_cost=2)"
    layer(torch.rand(3, 4, 6)).square().sum().backward()
    for name in names:
        assert getattr(layer, name).grad.abs().max() > 1e-3
    assert layer.double()(rand(4, 6)).dtype == F64


def test_each_problem_is_its_own() -> None:
    C = torch.rand(40, 7, 11)
    whole = functional.solve_entropic(C, 0.03)
    for b in range(0, 40, 7):
        alone = functional.solve_entropic(C[b], 0.03)
        assert all(torch.equal(field[b], one) for field, one in zip(whole, alone, strict=True))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epsilon": 0.0}, ValueError, "epsilon must be finite and above 0; got 0"),
    ({"epsilon": -1.0}, ValueError, "epsilon must be finite and above 0"),
    ({"epsilon": torch.tensor([0.1, -0.2])}, ValueError, "epsilon must be finite and above 0; got -0.2"),
    (
        {"epsilon": torch.tensor([0.1, 0.2, 0.3])},
        ValueError,
        r"epsilon must be a number or broadcast to the batch \(2,\)",
    ),
    ({"epsilon": "small"}, TypeError, "epsilon must be a number; got str"),
    ({"epsilon": torch.tensor(1)}, TypeError, "epsilon must be a number or a floating-point tensor; got torch.int64"),
    ({"unmatched_proposal_cost": math.nan}, ValueError, "unmatched_proposal_cost must be finite; got nan"),
    ({"unmatched_proposal_cost": torch.tensor(INF)}, ValueError, "unmatched_proposal_cost must be finite; got inf"),
    (
        {"unmatched_proposal_cost": torch.rand(3)},
        ValueError,
        "unmatched_proposal_cost must be a number or broadcast to",
    ),
    ({"unmatched_proposal_cost": True}, TypeError, "unmatched_proposal_cost must be a number or a tensor; got bool"),
    ({"unmatched_cost": INF}, ValueError, "unmatched_cost must be finite"),
    ({"tolerance": 0.0}, ValueError, "tolerance must be finite and above 0"),
    ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD, ids=lambda value: str(value)[:40])
def test_errors_name_the_argument(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        functional.solve_entropic(torch.rand(2, 3, 5), **options)


def test_bad_costs_are_refused() -> None:
    for value, words in [(math.nan, "got NaN"), (-INF, "inf of the wrong sign")]:
        with pytest.raises(ValueError, match=f"cost must be finite.*{words}"):
            functional.entropic_matching(torch.full((2, 3), value))
    with pytest.raises(ValueError, match="cost leaves 1 of the 2 templates"):
        functional.entropic_matching(torch.tensor([[0.1, INF], [0.2, INF]]))
    with pytest.raises(ValueError, match="at least as many proposals as templates"):
        functional.entropic_matching(torch.rand(3, 2))
    with pytest.raises(ValueError, match="cost / epsilon must be below 1e\\+300"):
        functional.entropic_matching(torch.full((2, 3), 1e200, dtype=F64), 1e-120)
    for options in ({"epsilon": 0}, {"unmatched_proposal_cost": INF}, {"max_iter": 0}, {"tolerance": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EntropicMatching(**options)
