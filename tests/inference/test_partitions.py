"""Sets of which exactly one is true: found by their own test, against enumeration, and none where there is none."""

import itertools
import math

import numpy as np
import pytest
import torch
from inference_problems import LATIN, latin_clauses, latin_squares
from torch import Tensor

from difflayers import Domains, inference
from difflayers.inference import partitions
from difflayers.inference.partitions import log_accidents


def shuffled(solutions: Tensor, count: int, seed: int = 0) -> Tensor:
    return solutions[torch.randperm(len(solutions), generator=torch.Generator().manual_seed(seed))[:count]]


def clauses(rules: inference.Rules) -> set[tuple[int, ...]]:
    return {rule.clause for rule in rules}


def test_few_latin_squares_say_what_pairs_of_them_do_not() -> None:
    squares = shuffled(latin_squares(), 30)
    assert not len(inference.extract_rules(None, LATIN, squares))
    rules = inference.extract_rules(None, LATIN, squares, exactly_one=True)
    assert {clause for clause in clauses(rules) if len(clause) == 2} == {
        tuple(sorted(clause, key=abs)) for clause in latin_clauses()
    }
    cell = LATIN.literals.view(4, 4, 4)
    lines = {tuple(line.tolist()) for a in range(4) for line in (*cell[:, :, a], *cell[:, :, a].T)}
    assert {clause for clause in clauses(rules) if len(clause) > 2} == lines
    z, _ = LATIN.encode(squares)
    for rule in rules:
        true = torch.stack([(z[:, abs(i) - 1] == 1) == (i > 0) for i in rule.clause]).sum(0)
        assert true.all() and rule.support == (true == 1).sum()


def test_so_few_that_chance_explains_all_say_nothing() -> None:
    assert not len(inference.extract_rules(None, LATIN, shuffled(latin_squares(), 8), exactly_one=True))


def test_with_many_solutions_nothing_is_added() -> None:
    both = [clauses(inference.extract_rules(None, LATIN, latin_squares(), exactly_one=on)) for on in (False, True)]
    assert both[0] == both[1] != set()


def exhaustive(true: np.ndarray) -> set[tuple[int, ...]]:
    n = true.shape[1]
    sets = itertools.chain.from_iterable(itertools.combinations(range(n), size) for size in range(2, n + 1))
    return {chosen for chosen in sets if (true[:, chosen].sum(1) == 1).all()}


@pytest.mark.parametrize("seed", range(6))
def test_all_partitions_are_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [3, 70, 5, 130, 4, 6][seed]
    true = np.eye(4, dtype=bool)[random.integers(4, size=(rows, 3))].reshape(rows, 12)
    true[:, 4:6] = true[:, [1, 0]]  # more than the variables themselves
    true = true[:, true.any(0) & ~true.all(0)]
    with partitions.ProgressBar(False, 1, "", "") as bar:
        found = [tuple(sorted(chosen.tolist())) for chosen in partitions._search(true, bar)]
    assert len(found) == len(set(found)) and set(found) == exhaustive(true) != set()


def test_expected_accidents_are_those_of_independent_literals() -> None:
    """Each literal is true in random solutions, as many as it has: how often do some of them partition the first three?"""
    totals, count, r, runs = np.array([1, 1, 2, 3]), 6, 3, 40_000
    random = np.random.default_rng(0)
    true = np.stack([random.random((runs, count)).argsort(1) < total for total in totals], 2)
    seen = 0
    for size in range(1, 5):
        for chosen in itertools.combinations(range(4), size):
            number = true[:, :, chosen].sum(2)
            seen += int(((number[:, :r] == 1).all(1) & (number[:, r:] == 0).all(1)).sum())
    expected = math.exp(log_accidents(totals, count)[r])
    assert abs(seen / runs - expected) < 4 * math.sqrt(expected / runs)


def test_a_rare_value_is_not_taken_for_another() -> None:
    """In each row exactly one of a, b, c is 1. That d is 1 where c is, in the only row, is an accident; so is e."""
    random = np.random.default_rng(0)
    one = np.eye(3, dtype=np.int64)[np.append(random.integers(2, size=99), 2)]
    rare = np.zeros((100, 2), np.int64)
    rare[99] = 1
    values = torch.from_numpy(np.concatenate((one, rare), 1))
    rules = inference.extract_rules(None, Domains([2] * 5), values, exactly_one=True)
    assert not {clause for clause in clauses(rules) if {4, 5} & set(map(abs, clause))}


def test_hardly_any_set_in_noise() -> None:
    domains, found = Domains([2, 2, 3, 4, 9, 9, 2, 2]), 0
    for run in range(40):
        values = torch.stack([torch.randint(size, ((20, 50, 200, 1000)[run % 4],)) for size in domains.sizes], 1)
        found += len(inference.extract_rules(None, domains, values, exactly_one=True))
    assert found <= 40 * 0.2 + 3 * (40 * 0.2) ** 0.5


def test_the_search_ends_where_its_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    squares = shuffled(latin_squares(), 30)
    monkeypatch.setattr(partitions, "STEPS", 400)
    some = inference.extract_rules(None, LATIN, squares, exactly_one=True)
    monkeypatch.undo()
    every = inference.extract_rules(None, LATIN, squares, exactly_one=True)
    assert 0 < len(some) < len(every) and clauses(some) <= clauses(every)


def test_exactly_one_is_yes_or_no() -> None:
    with pytest.raises(TypeError, match="exactly_one must be a bool; got int"):
        inference.extract_rules(None, LATIN, latin_squares(), exactly_one=1)  # type: ignore[arg-type]
