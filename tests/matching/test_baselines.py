"""Assignments without a gradient: the Hungarian algorithm and the greedy one."""

import pytest
import scipy.optimize
import torch
from layer_calls import DTYPES, F64, INF
from matching_problems import assignments, make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional


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
