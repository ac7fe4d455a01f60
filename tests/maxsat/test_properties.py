"""Any clauses, weights, options and files: a right answer, by enumeration in exact arithmetic, or an error that names what."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difflayers import functional, maxsat
from difflayers.maxsat import Instance, relaxation

INF = math.inf
QUIET = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONG = settings(QUIET, max_examples=3000, derandomize=False)

literals = st.integers(1, 6).flatmap(lambda i: st.sampled_from([i, -i]))
clause_lists = st.lists(st.lists(literals, max_size=5), max_size=14)
weight_kinds = st.one_of(
    st.integers(0, 5),
    st.integers(2**52, 2**63),
    st.just(INF),
    st.floats(2.0**-63, 2.0**63),
    st.sampled_from([0.1, 0.5, 1e12, 1e16, 2.0**53, Fraction(1, 3), Decimal("0.1"), np.float32(0.3), np.int64(7)]),
)
awkward: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["", "1", b"1", 1j, [], {}, object(), 10**400, -INF, Decimal("sNaN"), Fraction(1, 10**90)]),
    st.sampled_from(
        [torch.tensor(1.0), torch.tensor([2]), np.array(3), np.array([1, 2]), np.float16(0.5), torch.float32]
    ),
)


def exact_costs(clauses: list[list[int]], weights: list[Any], n: int) -> dict[tuple[bool, ...], tuple[int, Fraction]]:
    """Hard clauses violated and soft weight, in fractions, of every assignment."""
    costs = {}
    for x in itertools.product([False, True], repeat=n):
        hard, soft = 0, Fraction(0)
        for clause, weight in zip(clauses, weights, strict=True):
            if not any(x[abs(literal) - 1] == (literal > 0) for literal in clause):
                if weight == INF:
                    hard += 1
                else:
                    soft += Fraction(weight.item() if hasattr(weight, "item") else weight)
        costs[x] = (hard, soft)
    return costs


def check_solution(clauses: list[list[int]], weights: list[Any], n: int, solution: maxsat.Solution) -> None:
    costs = exact_costs(clauses, weights, n)
    x = tuple(solution.assignment.tolist())
    hard, soft = costs[x]
    whole = isinstance(solution.cost, int)
    assert solution.hard_violations == hard
    assert solution.cost == (int(soft) if whole else float(soft)) and (not whole or soft.denominator == 1)
    feasible = [cost for violated, cost in costs.values() if violated == 0]
    assert not (solution.infeasible and feasible)
    if solution.optimal:
        assert hard == 0 and soft == min(feasible) and solution.bound == solution.cost
    if feasible:
        least = min(feasible)  # as a float it may be larger; a bound that is not the cost is rounded down
        assert 0 <= solution.bound and (
            Fraction(solution.bound) <= least or solution.bound == solution.cost == float(least)
        )
    assert solution.status in ("optimal", "feasible", "infeasible", "unknown") and str(solution)
    assert solution.relaxation is not None and math.isfinite(solution.relaxation)
    assert ((solution.probabilities >= 0) & (solution.probabilities <= 1)).all()


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[Any]]:
    clauses = draw(clause_lists)
    return clauses, draw(st.lists(weight_kinds, min_size=len(clauses), max_size=len(clauses)))


def any_problem(
    problem: tuple[list[list[int]], list[Any]], seed: int, local_search: bool, sweeps: int, dense: int
) -> None:
    clauses, weights = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxation, "DENSE", dense)
        solution = maxsat.solve(
            clauses,
            n=6,
            weights=weights,
            rounds=3,
            max_iter=sweeps,
            local_search=local_search,
            sat=0,
            generator=torch.Generator().manual_seed(seed),
        )
    check_solution(clauses, weights, 6, solution)


ANY = given(problems(), st.integers(0, 99), st.booleans(), st.sampled_from([1, 4, 300]), st.sampled_from([0, 3000]))
test_any_problem_is_solved_rightly = QUIET(ANY(any_problem))
test_any_problem_is_solved_rightly_at_length = pytest.mark.slow(LONG(ANY(any_problem)))


def any_settled(problem: tuple[list[list[int]], list[Any]]) -> None:
    clauses, weights = problem
    solution = maxsat.solve(
        clauses,
        n=6,
        weights=weights,
        rounds=1,
        local_search=False,
        exact=100,
        generator=torch.Generator().manual_seed(0),
    )
    check_solution(clauses, weights, 6, solution)
    assert solution.status in ("optimal", "infeasible")


test_python_sat_settles_any_problem = settings(QUIET, max_examples=25)(given(problems())(any_settled))
test_python_sat_settles_any_problem_at_length = pytest.mark.slow(
    settings(LONG, max_examples=500)(given(problems())(any_settled))
)


@contextmanager
def named_errors(names: str) -> Iterator[None]:
    """Of errors only a TypeError or ValueError that begins with one of the names may leave the block, which then ends."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(tuple(names.split())):
            raise AssertionError(f"an error that names none of {names}: {error}") from error


@QUIET
@given(st.lists(st.one_of(awkward, st.lists(st.one_of(literals, awkward), max_size=3)), max_size=3), st.data())
def test_any_clauses_are_an_instance_or_a_named_error(clauses: list[Any], data: st.DataObject) -> None:
    n = data.draw(st.one_of(st.none(), awkward))
    weights = data.draw(st.one_of(st.none(), awkward, st.lists(st.one_of(weight_kinds, awkward), max_size=3)))
    instance = None
    with named_errors("clauses n weights"):
        instance = Instance.from_clauses(clauses, n, weights)
    if instance is None:
        return
    assert maxsat.solve(instance, rounds=1, max_iter=2, sat=0).n == instance.n
    for call in (functional.clauses_to_S, lambda i: functional.clauses_to_S(i, dtype=torch.float16)):
        with named_errors("clauses weights"):
            assert call(instance).isfinite().all()


OPTIONS = (
    "n",
    "k",
    "max_iter",
    "eps",
    "rounds",
    "hard_weight",
    "sat",
    "exact",
    "generator",
    "on_improvement",
    "weights",
)


@QUIET
@given(st.sampled_from(OPTIONS), awkward)
def test_any_option_is_taken_or_a_named_error(name: str, value: Any) -> None:
    if name in ("max_iter", "rounds") and isinstance(value, int) and value > 100:
        value = 2**63  # what is allowed takes as long as it says
    options = {"max_iter": 2, "rounds": 2, name: value}
    with named_errors(f"{name} clauses"):
        solution = maxsat.solve([[1, 2], [-1, 2], [1, -2], [-1, -2]], **options)
        assert solution.cost == 1 or name == "weights"


@QUIET
@given(
    text=st.text(st.sampled_from("0123456789 -+.ehpcnfw%\n\t_"), max_size=40),
    kind=st.sampled_from(["cnf", "wcnf", "dimacs"]),
)
@pytest.mark.filterwarnings("ignore:the header says")
def test_any_text_is_read_or_an_error_that_names_the_file(text: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text(text)
    with named_errors("path"):
        instance = maxsat.read(path)
        assert Instance.from_clauses(instance.clauses, instance.n, instance.weights).clauses == instance.clauses


@QUIET
@given(problem=problems(), gap=st.sampled_from([" ", "\n", "\t ", "\n\n c\n"]), old=st.booleans())
def test_a_file_says_what_its_clauses_say(
    problem: tuple[list[list[int]], list[Any]], gap: str, old: bool, tmp_path: Path
) -> None:
    """However it is broken into lines; in the old format and in the new one."""
    clauses, weights = problem
    weights = [w if w == INF or isinstance(w, int) else Decimal(2) ** -3 for w in weights]
    hard = str(2**80) if old else "h"
    text = "".join(
        gap.join([hard if w == INF else str(w), *map(str, c), "0"]) + ("\n" if "c" in gap else gap)
        for c, w in zip(clauses, weights, strict=True)
    )
    path = tmp_path / "a.wcnf"
    path.write_text(f"p wcnf 6 {len(clauses)} {2**80}\n{text}" if old or not clauses else text)
    read, want = maxsat.read(path), Instance.from_clauses(clauses, None, weights)
    assert (read.clauses, read.hard.tolist()) == (want.clauses, want.hard.tolist())
    assert [u * read.unit for u in read.units.tolist()] == [u * want.unit for u in want.units.tolist()]
    assert read.empty_units * read.unit == want.empty_units * want.unit and read.empty_hard == want.empty_hard


tensors: st.SearchStrategy[Any] = st.one_of(
    awkward,
    st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64, torch.complex64]).flatmap(
        lambda dtype: st.sampled_from([(4, 3), (4, 2), (3, 3), (0, 3), (4,), (2, 4, 3)]).map(
            lambda shape: torch.ones(shape).to(dtype)
        )
    ),
    st.sampled_from([INF, math.nan, 1e30, 1e200]).map(lambda x: torch.full((4, 3), x, dtype=torch.float64)),
    st.sampled_from(
        [torch.full((4, 3), 1e30), torch.ones(4, 3, device="meta"), torch.ones(4, 3).to_sparse(), torch.zeros(4, 3)]
    ),
)


@QUIET
@given(tensors, tensors, awkward, awkward)
def test_any_vectors_are_rounded_or_a_named_error(V: Any, S: Any, rounds: Any, generator: Any) -> None:
    if isinstance(rounds, int) and rounds > 100:
        rounds = 2**63  # what is allowed takes as long as it says
    for options in ({}, {"rounds": rounds}, {"generator": generator}):
        with named_errors("V S rounds generator"):
            x, value = functional.hyperplane_rounding(V, S, **options)
            assert x.is_meta or ((x.abs() == 1).all() and value.isfinite().all())


@QUIET
@given(tensors, awkward, awkward, awkward)
def test_any_matrix_has_relations_or_a_named_error(S: Any, n: Any, top: Any, names: Any) -> None:
    for options in ({}, {"top": top}, {"names": names}, {"aux": True}):
        for size in (n, 2, 3):
            with named_errors("S n top names"):
                found = functional.relations(S, size, **options)
                assert all(math.isfinite(relation.strength) for relation in found)
