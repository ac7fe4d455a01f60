"""What holds for any costs: properties, by hypothesis."""

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from layer_calls import DTYPES, F64, SOLVERS, solve
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional

sizes = st.tuples(st.integers(1, 6), st.integers(0, 5))
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
