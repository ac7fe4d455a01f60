"""Instances from clauses, their weights exact, and what an assignment costs."""

import math
import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from maxsat_problems import assignments, naive_cost, random_clauses

from difflayers import maxsat
from difflayers.maxsat import Instance

INF = math.inf


def test_arrays_hold_the_clauses_in_order() -> None:
    instance = Instance.from_clauses([[1, -3], [2], [-1, -2, 3]], weights=[2, INF, 0.5])
    assert instance.n == 3
    assert instance.literals.tolist() == [1, -3, 2, -1, -2, 3] and instance.literals.dtype == np.int64
    assert instance.offsets.tolist() == [0, 2, 3, 6] and instance.offsets.dtype == np.int64
    assert instance.weights.tolist() == [2, INF, 0.5] and instance.weights.dtype == np.float64
    assert instance.hard.tolist() == [False, True, False]
    assert instance.clauses == [[1, -3], [2], [-1, -2, 3]]
    assert (instance.empty_weight, instance.empty_hard, instance.soft_weight) == (0, 0, 2.5)


def test_weights_are_1_where_none_are_given() -> None:
    assert Instance.from_clauses([[1], [2, 3]]).weights.tolist() == [1, 1]


def test_repeated_literals_count_once() -> None:
    assert Instance.from_clauses([[2, 1, 2, 2, 1]]).clauses == [[2, 1]]


@pytest.mark.parametrize("weight", [1.0, INF])
def test_tautologies_are_left_out_but_their_variables_count(weight: float) -> None:
    instance = Instance.from_clauses([[1, 4, -1], [2]], weights=[weight, 3])
    assert instance.clauses == [[2]] and instance.weights.tolist() == [3]
    assert instance.n == 4 and instance.soft_weight == 3
    assert instance.cost([False, True, False, False]) == (0, 0)


def test_empty_clauses_count_in_every_cost() -> None:
    instance = Instance.from_clauses([[], [1], [], [], []], weights=[2, 1, INF, 0.5, INF])
    assert instance.clauses == [[1]]
    assert (instance.empty_weight, instance.empty_hard) == (2.5, 2)
    assert instance.soft_weight == 3.5
    assert instance.cost([True]) == (2.5, 2) and instance.cost([False]) == (3.5, 2)


def test_weight_zero_leaves_a_clause_out() -> None:
    instance = Instance.from_clauses([[1], [-2], []], weights=[0, 1, 0])
    assert instance.clauses == [[-2]] and instance.n == 2 and instance.empty_weight == 0


def test_inf_is_hard() -> None:
    instance = Instance.from_clauses([[1], [-1]], weights=[INF, 1e18])
    assert instance.hard.tolist() == [True, False] and instance.soft_weight == 10**18


def test_n_may_be_above_the_largest_variable() -> None:
    assert Instance.from_clauses([[1, -2]], n=5).n == 5
    assert Instance.from_clauses([[1, -2]], n=2).n == 2
    assert Instance.from_clauses([], n=3).n == 3
    assert Instance.from_clauses([]).n == 0
    assert Instance.from_clauses([[1], [-7, 2]]).n == 7


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_numpy_integers_are_integers(dtype: type) -> None:
    instance = Instance.from_clauses(np.array([[1, 127], [3, 2]], dtype), weights=np.array([2, 3], dtype))
    assert instance.clauses == [[1, 127], [3, 2]] and instance.weights.tolist() == [2, 3]
    assert all(type(literal) is int for clause in instance.clauses for literal in clause)


def test_unsigned_literals_do_not_wrap_into_tautologies() -> None:
    assert Instance.from_clauses([np.array([1, 255], np.uint8)]).clauses == [[1, 255]]
    assert Instance.from_clauses([np.array([-128, 5], np.int8)]).n == 128


def test_clauses_may_be_a_generator_of_tuples() -> None:
    assert Instance.from_clauses((i, -i - 1) for i in (1, 2)).clauses == [[1, -2], [2, -3]]


@pytest.mark.parametrize(
    ("clauses", "options", "error", "message"),
    [
        ([[1], [2, 0]], {}, ValueError, r"clauses: literals must not be 0; got 0 in clause 1"),
        ([[1], [-3]], {"n": 2}, ValueError, r"clauses: literals must be of variables 1 to n = 2; got -3 in clause 1"),
        ([[1.0]], {}, TypeError, "clauses must hold integers; got float in clause 0"),
        ([[1], ["2"]], {}, TypeError, "clauses must hold integers; got str in clause 1"),
        ([[True]], {}, TypeError, "clauses must hold integers; got bool in clause 0"),
        ([[1, True]], {}, TypeError, "clauses must hold integers; got bool in clause 0"),
        ([[1, 1.0]], {}, TypeError, "clauses must hold integers; got float in clause 0"),
        ([[[1]]], {}, TypeError, "clauses must hold integers; got list in clause 0"),
        ([torch.tensor([1, 2])], {}, TypeError, "clauses must hold integers; got Tensor in clause 0"),
        ([[1], 2], {}, TypeError, "clauses must be sequences of integers; got int as clause 1"),
        (7, {}, TypeError, "clauses must be sequences of integers; got int"),
        ([[1]], {"n": 1.0}, TypeError, "n must be an int; got float"),
        ([], {"n": -1}, ValueError, "n must be at least 0; got -1"),
        ([[1], [2]], {"weights": [1]}, ValueError, "weights must be one for each of 2 clauses; got 1"),
        ([[1], [2]], {"weights": [1, 2, 3]}, ValueError, "weights must be one for each of 2 clauses; got 3"),
        ([[1], [2]], {"weights": [1, -0.5]}, ValueError, r"weights must be at least 0; got -0.5 for clause 1"),
        ([[1]], {"weights": [math.nan]}, ValueError, "weights must be at least 0; got nan for clause 0"),
        ([[1]], {"weights": [-INF]}, ValueError, "weights must be at least 0; got -inf for clause 0"),
        ([[1]], {"weights": ["heavy"]}, TypeError, "weights must be numbers; got 'heavy' for clause 0"),
        ([[1]], {"weights": [None]}, TypeError, "weights must be numbers; got None for clause 0"),
        ([[1]], {"weights": 2}, TypeError, "weights must be a sequence of numbers; got int"),
        ([[1]], {"weights": ["2"]}, TypeError, "weights must be numbers; got '2' for clause 0"),
        ([[1]], {"weights": [True]}, TypeError, "weights must be numbers; got True for clause 0"),
        ([[1]], {"weights": [2j]}, TypeError, "weights must be numbers; got 2j for clause 0"),
        ([[1]], {"weights": [[2]]}, TypeError, r"weights must be numbers; got \[2\] for clause 0"),
        ([[1]], {"weights": np.array([True])}, TypeError, "weights must be numbers; got True for clause 0"),
        ([[1]], {"weights": np.ones((1, 1))}, TypeError, r"weights must be numbers; got \[1.0\] for clause 0"),
        (
            [[1]],
            {"weights": torch.ones(1, device="meta")},
            ValueError,
            "weights must hold values; got a tensor on the meta",
        ),
        ([[1]], {"weights": torch.ones(1).to_sparse()}, TypeError, "weights must be a dense tensor"),
        ([[1]], {"weights": "2"}, TypeError, "weights must be a sequence of numbers; got str"),
        ([[1]], {"weights": {0: 2}}, TypeError, "weights must be a sequence of numbers; got dict"),
        ([[1]], {"weights": {2}}, TypeError, "weights must be a sequence of numbers; got set"),
        ([[1]], {"weights": [Decimal("nan")]}, ValueError, "weights must be at least 0; got .* for clause 0"),
        ([[1]], {"weights": [Fraction(-1, 2)]}, ValueError, "weights must be at least 0; got .* for clause 0"),
        (
            [[1]],
            {"weights": [1e200]},
            ValueError,
            r"weights must be 0, inf \(hard\), or from 2\*\*-63 to 2\*\*63; got 1e\+200",
        ),
        ([[1]], {"weights": [2**63 + 1]}, ValueError, "weights must be 0, inf .* got 9223372036854775809 for clause 0"),
        ([[1]], {"weights": [10**400]}, ValueError, "weights must be 0, inf .* got an integer of 1329 bits"),
        ([[1]], {"weights": [1e-320]}, ValueError, "weights must be 0, inf .* got 1e-320 for clause 0"),
        ([[1]], {"weights": [Decimal("1e-30")]}, ValueError, "weights must be 0, inf .* for clause 0"),
        ([[1]] * 60, {"weights": [Fraction(1, 1009 + 2 * j) for j in range(60)]}, ValueError, "common denominator"),
        ([[2**31]], {}, ValueError, r"variables 1 to 2\*\*31 - 1 = 2147483647; got 2147483648 in clause 0"),
        ([[-(2**63)]], {}, ValueError, "variables 1 to .*; got -9223372036854775808 in clause 0"),
        ([[10**400]], {}, ValueError, "variables 1 to .*; got an integer of 1329 bits in clause 0"),
        ([[1]], {"n": 2**40}, ValueError, "n must be at most 2147483647; got 1099511627776"),
        ("12", {}, TypeError, "clauses must be sequences of integers; got str"),
        (b"12", {}, TypeError, "clauses must be sequences of integers; got bytes"),
        ([b"12"], {}, TypeError, "clauses must be sequences of integers; got bytes as clause 0"),
        (["12"], {}, TypeError, "clauses must be sequences of integers; got str as clause 0"),
        ([[1]], {"weights": iter([2])}, TypeError, "weights must be a sequence of numbers; got list_iterator"),
    ],
)
def test_errors_of_from_clauses(clauses: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Instance.from_clauses(clauses, **options)


@pytest.mark.parametrize("seed", range(5))
def test_cost_is_that_of_a_plain_loop(seed: int) -> None:
    clauses, weights = random_clauses(6, 30, (0, 1, 2, 3, 5), floats=True, seed=seed)
    weights = [INF if j % 4 == 0 else weight for j, weight in enumerate(weights)]
    instance = Instance.from_clauses(clauses, 6, weights)
    for x in assignments(6):
        soft, hard = naive_cost(clauses, weights, x)
        got = instance.cost(x)
        assert got == (pytest.approx(soft, abs=1e-12), hard)
        assert isinstance(got[0], float) and isinstance(got[1], int)
        assert instance.cost(np.array(x)) == instance.cost(torch.tensor(x)) == instance.cost(np.array(x, float)) == got


def test_cost_without_clauses_is_zero() -> None:
    assert Instance.from_clauses([], n=2).cost([True, False]) == (0, 0)
    assert Instance.from_clauses([]).cost([]) == (0, 0)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ([True], r"assignment must have shape \(2,\); got \(1,\)"),
        ([[True, False]], r"assignment must have shape \(2,\); got \(1, 2\)"),
        ([1, -1], "assignment must hold bools, or 0 and 1"),
        ([0.5, 1.0], "assignment must hold bools, or 0 and 1"),
    ],
)
def test_cost_of_no_assignment_is_an_error(assignment: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instance.from_clauses([[1, 2]]).cost(assignment)


@pytest.mark.parametrize("dtype", ["assignment", None])
def test_cost_of_words_is_an_error(dtype: Any) -> None:
    with pytest.raises(TypeError, match="assignment must hold bools, or 0 and 1; got"):
        Instance.from_clauses([[1]]).cost(np.array(["a"] if dtype else [None]))


@pytest.mark.parametrize(
    "weights",
    [
        [9007199254740993, 1],
        [2**63, 2**63, 2**63 - 1],
        [0.1, 0.2, 0.3],
        [1e12, 1e12, 0.5, 2.0**-63],
        [Fraction(1, 3), Fraction(1, 7), 2],
        [Decimal("0.1"), Decimal("1e18"), 3],
        np.array([0.1, 0.7], np.float32),
        np.array([2**63 - 1, 3], np.uint64),
        torch.tensor([0.3, 2.5]),
        torch.tensor([2**62, 2**62 + 1]),
    ],
    ids=str,
)
def test_weights_are_exact(weights: Any) -> None:
    """Every sum of them is that of fractions, as an int if all are whole, as the nearest float if not."""
    exact = [Fraction(w) for w in (weights.tolist() if hasattr(weights, "tolist") else weights)]
    instance = Instance.from_clauses([[i + 1] for i in range(len(exact))], weights=weights)
    whole = all(w.denominator == 1 for w in exact)
    for x in assignments(len(exact)):
        want = sum((w for w, value in zip(exact, x, strict=True) if not value), Fraction(0))
        cost, _ = instance.cost(x)
        assert cost == (int(want) if whole else float(want)) and type(cost) is (int if whole else float)
    assert instance.soft_weight == (int(sum(exact)) if whole else float(sum(exact)))
    assert [Fraction(int(u)) * instance.unit for u in instance.units] == exact
    assert instance.weights.tolist() == [float(w) for w in exact]


def test_opposite_clauses_cost_what_they_must() -> None:
    clauses = [[1], [-1], [1], [2], [-2], [-3], [3], [1, -2], [4]]
    weights = [3, 4, 2, 2**62, 2**62 + 1, INF, 7, 5, 1]
    rest, certain = Instance.from_clauses(clauses, 5, weights).without_opposites()
    assert certain == 4 + 2**62 + 7 and rest.n == 5
    assert dict(zip(map(tuple, rest.clauses), rest.weights.tolist(), strict=True)) == {
        (1,): 1,
        (-2,): 1,
        (-3,): INF,
        (1, -2): 5,
        (4,): 1,
    }
    for x in assignments(5):
        if not x[2]:
            whole, _ = Instance.from_clauses(clauses, 5, weights).cost(x)
            assert whole == rest.cost(x)[0] + certain


def test_memory_grows_with_what_is_used() -> None:
    tracemalloc.start()
    try:
        for clauses, n in (([[10**9]], None), ([[1], [-(2**31 - 1), 5]], None), ([[1]], 20_000_000)):
            solution = maxsat.solve(clauses, n=n)
            assert solution.optimal and solution.cost == 0 and solution.n >= 20_000_000
            assert len(str(solution)) < 1000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000
    assert solution.assignment.shape == (20_000_000,) and solution.assignment.sum() == 1
