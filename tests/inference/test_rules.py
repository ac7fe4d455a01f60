"""Rules: checked against enumeration, extracted from known problems, and none where there is none."""

import itertools
import sys
from typing import Any

import pytest
import torch
from inference_problems import LATIN, MIXED, is_latin, latin_clauses, latin_layer, latin_problems, latin_squares
from torch import Tensor

from difflayers import Domains, SATNet, inference
from difflayers.inference import Rules
from difflayers.inference.rules import Propagator


def assignments(domains: Domains) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, domains.sizes))))


def satisfied(domains: Domains, clause: tuple[int, ...], values: Tensor) -> Tensor:
    """Whether each assignment satisfies a clause, one literal at a time."""
    z, _ = domains.encode(values)
    return torch.stack([(z[:, abs(i) - 1] == 1) == (i > 0) for i in clause]).any(0)


def random_rules(domains: Domains, count: int, seed: int) -> Rules:
    generator = torch.Generator().manual_seed(seed)
    clauses = []
    for _ in range(count):
        size = int(torch.randint(1, 4, (), generator=generator))
        bits = 1 + torch.randperm(domains.bits, generator=generator)[:size]
        clauses.append((bits * (2 * torch.randint(2, (size,), generator=generator) - 1)).tolist())
    return Rules.from_clauses(domains, clauses)


@pytest.mark.parametrize("seed", range(8))
def test_violations_and_propagation_agree_with_enumeration(seed: int) -> None:
    rules = random_rules(MIXED, 6, seed)
    everything = assignments(MIXED)
    holds = torch.stack([satisfied(MIXED, rule.clause, everything) for rule in rules], 1)
    assert torch.equal(rules.violations(everything), ~holds)
    valid = everything[holds.all(1)]
    given = torch.rand(40, 5, generator=torch.Generator().manual_seed(seed)) < 0.4
    values = everything[torch.randint(len(everything), (40,), generator=torch.Generator().manual_seed(seed))]
    z, known = MIXED.encode(values, given)
    true, conflict = Propagator(rules)(torch.cat((known & (z > 0.5), known & (z < 0.5)), 1))
    exact = inference.solve_exactly(rules, MIXED, values, given, unique=True)
    assert exact.unique is not None
    for b in range(40):
        fits = valid[(valid == values[b])[:, given[b]].all(1)]
        assert exact.satisfiable[b] == (len(fits) > 0) and exact.unique[b] == (len(fits) == 1)
        if len(fits):
            bits, _ = MIXED.encode(fits)
            both = torch.cat((bits, 1 - bits), 1)
            assert not conflict[b] and both[:, true[b]].all()  # what is derived holds in every completion
            assert (fits == exact.values[b]).all(1).any()


def probed(propagator: Propagator, state: torch.Tensor) -> torch.Tensor | None:
    """The state under failed-literal probing, by unit propagation alone; None if it contradicts the rules."""
    n = len(state) // 2
    while True:
        closed, conflict = propagator(state[None])
        if conflict[0]:
            return None
        unknown = (~closed[0] & ~closed[0].roll(n)).nonzero()[:, 0]
        failed = unknown[propagator(closed[0] | torch.eye(2 * n, dtype=torch.bool)[unknown])[1]]
        if not len(failed):
            return closed[0]
        state = closed[0].clone()
        state[(failed + n) % (2 * n)] = True


@pytest.mark.parametrize("seed", range(8))
def test_probing_agrees_with_trying_each_literal(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    propagator = Propagator(random_rules(MIXED, 14, seed))
    states = torch.rand(30, 2 * MIXED.bits, generator=random) < 0.08
    probing = torch.arange(30) < 25
    true, conflict = propagator(states, probing)
    plain, refuted = propagator(states)
    assert torch.equal(true[25:], plain[25:]) and torch.equal(conflict[25:], refuted[25:])
    for b in range(25):
        expected = probed(propagator, states[b])
        assert bool(conflict[b]) == (expected is None)
        assert expected is None or torch.equal(true[b], expected)


def test_probing_finds_what_unit_propagation_does_not() -> None:
    """x1 or x2, and each implies x3: x3 follows, but no clause has one literal left."""
    rules = Rules.from_clauses(Domains([2, 2, 2]), [[1, 2], [-1, 3], [-2, 3]])
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    true, conflict = Propagator(rules)(nothing, torch.tensor([False, True]))
    assert true[0].sum() == 0 and true[1].nonzero().tolist() == [[2]] and not conflict.any()


def test_rules_of_latin_squares() -> None:
    rules = inference.extract_rules(latin_layer(), LATIN, latin_squares())
    pairs = {rule.clause for rule in rules if len(rule.clause) == 2}
    assert pairs == {tuple(sorted(clause, key=abs)) for clause in latin_clauses()}
    cell = LATIN.literals.view(4, 4, 4)
    lines = {tuple(sorted(cell[i, :, a].tolist())) for i in range(4) for a in range(4)}
    lines |= {tuple(sorted(cell[:, i, a].tolist())) for i in range(4) for a in range(4)}
    assert {rule.clause for rule in rules if len(rule.clause) == 4} == lines
    assert len(rules) == len(pairs) + len(lines)
    squares = latin_squares()
    assert not rules.violations(squares).any()
    for rule in rules:
        z, _ = LATIN.encode(squares)
        true = torch.stack([(z[:, abs(i) - 1] == 1) == (i > 0) for i in rule.clause]).sum(0)
        assert rule.support == (true == 1).sum()


@pytest.mark.parametrize("longest", [2, 3, 6])
def test_hardly_any_rules_in_noise(longest: int) -> None:
    """By expectation, no more than false_rules by counting, as many again by S, and as many among the longer ones."""
    domains = Domains([2, 2, 3, 4, 9, 9, 2, 2])
    found = 0
    for run in range(40):
        layer, count = SATNet(domains.bits, 20), (20, 50, 200, 1000)[run % 4]
        values = torch.stack([torch.randint(size, (count,)) for size in domains.sizes], 1)
        found += len(inference.extract_rules(layer, domains, values, longest=longest))
    most = 40 * 0.1 * (2 + (longest > 2))
    assert found <= most + 3 * most**0.5


def test_three_literals() -> None:
    values = torch.randint(2, (400, 6))
    values[:, 2] = values[:, 0] ^ values[:, 1]
    domains, layer = Domains([2] * 6), SATNet(6, 8)
    assert len(inference.extract_rules(layer, domains, values)) == 0
    found = {rule.clause for rule in inference.extract_rules(layer, domains, values, longest=3)}
    assert found == {(1, 2, -3), (1, -2, 3), (-1, 2, 3), (-1, -2, -3)}


def longer_problem(count: int, seed: int = 0) -> tuple[Domains, list[list[int]], Tensor]:
    """Clauses of 3 to 6 literals over 20 variables, one of which has three values, and assignments that satisfy them."""
    domains = Domains([2] * 15 + [3] + [2] * 4)
    clauses = [[1, 2, -3], [4, 5, 6, 7], [-8, 9, 10, 17], [-1, -4, 11, 12, 13], [14, 15, 18, -19, 20, 21], [1, -22]]
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(4 * count, 20, generator=generator) * torch.tensor(domains.sizes)).long()
    valid = ~Rules.from_clauses(domains, clauses).violations(values).any(1)
    return domains, clauses, values[valid][:count]


def test_longer_rules_are_found_and_none_else() -> None:
    domains, clauses, solutions = longer_problem(6000)
    rules = inference.extract_rules(SATNet(domains.bits, 8), domains, solutions, longest=6)
    assert {rule.clause for rule in rules} == {tuple(sorted(clause, key=abs)) for clause in clauses}
    for rule in rules:
        z, _ = domains.encode(solutions)
        true = torch.stack([(z[:, abs(i) - 1] == 1) == (i > 0) for i in rule.clause]).sum(0)
        assert rule.support == (true == 1).sum()
    shorter = inference.extract_rules(SATNet(domains.bits, 8), domains, solutions, longest=4)
    assert {rule.clause for rule in shorter} == {rule.clause for rule in rules if len(rule.clause) <= 4}


def test_with_few_solutions_no_longer_rule_is_claimed() -> None:
    """300 assignments leave many sets of six literals that never occur; none of them is told from chance."""
    domains, clauses, solutions = longer_problem(300)
    found = inference.extract_rules(SATNet(domains.bits, 8), domains, solutions, longest=6)
    assert {rule.clause for rule in found} <= {tuple(sorted(clause, key=abs)) for clause in clauses}


def test_preferences_are_not_taken_for_rules() -> None:
    """c is rare with a, and rare with b. Were c and b independent, 25 rows would hold a, b and c; but 1 is what the two say."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(2, (20_000, 8), generator=generator)
    values[:, 2] &= torch.rand(20_000, generator=generator) < 0.02 ** (values[:, 0] + values[:, 1]).double()
    values = values[values[:, :3].sum(1) < 3]
    assert not len(inference.extract_rules(SATNet(8, 4), Domains([2] * 8), values, longest=4))


def test_rules_that_shorter_ones_imply_are_left_out() -> None:
    """1 -> 2 and not (2, 3, 4): that not (1, 3, 4) needs no saying."""
    values = torch.randint(2, (3000, 5), generator=torch.Generator().manual_seed(0))
    known = Rules.from_clauses(Domains([2] * 5), [[-1, 2], [-2, -3, -4]])
    values = values[~known.violations(values).any(1)]
    found = inference.extract_rules(SATNet(5, 4), Domains([2] * 5), values, longest=3)
    assert {rule.clause for rule in found} == {(-1, 2), (-2, -3, -4)}


@pytest.mark.parametrize("seed", range(4))
def test_the_best_completion_is_found(seed: int) -> None:
    rules = random_rules(MIXED, 6, seed)
    everything = assignments(MIXED)
    valid = everything[~rules.violations(everything).any(1)]
    generator = torch.Generator().manual_seed(seed)
    values = everything[torch.randint(len(everything), (20,), generator=generator)]
    given = torch.rand(20, 5, generator=generator) < 0.3
    scores = torch.randn(20, 5, 4, generator=generator)
    exact = inference.solve_exactly(rules, MIXED, values, given, scores=scores)
    for b in range(20):
        fits = valid[(valid == values[b])[:, given[b]].all(1)]
        assert exact.satisfiable[b] == (len(fits) > 0)
        if len(fits):
            worth = scores[b].gather(1, fits.T).sum(0)
            assert scores[b].gather(1, exact.values[b][:, None]).sum() >= worth.max() - 5e-3
            assert (fits == exact.values[b]).all(1).any()


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (torch.zeros(5, 3), ValueError, r"scores must have shape \(5, 4\); got \(5, 3\)"),
        (
            torch.zeros(5, 4, dtype=torch.int64),
            TypeError,
            "scores must be a tensor of a floating dtype; got torch.int64",
        ),
        (torch.full((5, 4), torch.nan), ValueError, "scores must be finite"),
    ],
)
def test_scores_that_do_not_fit(scores: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inference.solve_exactly(Rules.from_clauses(MIXED, [[1]]), MIXED, *MIXED.partial([]), scores=scores)


def test_a_value_that_never_occurs() -> None:
    values = torch.stack((torch.randint(2, (200,)), torch.randint(3, (200,))), 1)
    rules = inference.extract_rules(SATNet(5, 4), Domains([2, 4]), values)
    assert [rule.clause for rule in rules] == [(-5,)]
    assert (-5,) not in [rule.clause for rule in inference.extract_rules(SATNet(5, 4), Domains([2, 4]), values[:8])]


def test_what_s_says_counts() -> None:
    """With few solutions, the layer that holds the rules finds more of them than one that knows nothing."""
    squares = latin_squares()[torch.randperm(576)[:100]]
    found = {}
    for name, layer in (("rules", latin_layer()), ("noise", SATNet(LATIN.bits, 20))):
        rules = inference.extract_rules(layer, LATIN, squares)
        pairs = [rule.clause for rule in rules if len(rule.clause) == 2]
        assert set(pairs) <= {tuple(sorted(clause, key=abs)) for clause in latin_clauses()}
        found[name] = len(pairs)
    assert found["rules"] == len(latin_clauses()) > found["noise"]


def test_given_rules_and_learnt_ones_together() -> None:
    clauses = latin_clauses()
    given = SATNet.from_clauses(clauses[:40], LATIN.bits, m=10)
    few = latin_squares()[:30]
    rules = inference.extract_rules(given, LATIN, few)
    assert {tuple(sorted(clause, key=abs)) for clause in clauses[:40]} <= {
        tuple(sorted(rule.clause, key=abs)) for rule in rules
    }
    both = Rules.from_clauses(LATIN, clauses[:40]) + Rules.from_clauses(LATIN, clauses[20:])
    assert len(both) == len(clauses)
    values, known = latin_problems(20)
    exact = inference.solve_exactly(both, LATIN, values, known)
    assert exact.satisfiable.all() and is_latin(exact.values).all()
    assert torch.equal(exact.values[known], values[known]) and "20 of 20 satisfiable" in str(exact)


def test_dimacs_is_what_it_says(tmp_path: Any) -> None:
    maxsat = pytest.importorskip("difflayers.maxsat")
    rules = Rules.from_clauses(MIXED, [[-1, 5], [2, -9, 1]])
    path = tmp_path / "rules.cnf"
    path.write_text(rules.to_cnf(), encoding="utf-8")
    instance = maxsat.read(path)
    assert instance.n == MIXED.bits and len(instance.weights) == len(rules.clauses)
    assert "c 5 d = 1" in rules.to_cnf().splitlines()


def test_words() -> None:
    rules = Rules.from_clauses(MIXED, [[-1, 5], [2, 9], [-2, -9], [-3], [-1, -5, 4]])
    assert str(rules).splitlines()[1:] == [
        "if a = 1 then d = 1",
        "b = 0 or e = 3",
        "if b = 0 then e != 3",
        "b != 1",
        "if a = 1 and d = 1 then b = 2",
    ]


def test_python_sat_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysat.solvers", None)
    rules = Rules.from_clauses(MIXED, [[1]])
    with pytest.raises(ImportError, match=r"pip install 'python-sat>=1\.8\.dev1'"):
        inference.solve_exactly(rules, MIXED, *MIXED.partial([]))


@pytest.mark.parametrize(
    ("clauses", "error", "message"),
    [
        ([[1, 0]], ValueError, "bits 1 to 9 or their negations; got 0"),
        ([[10]], ValueError, "got 10"),
        ([[]], ValueError, "must have a literal each"),
        ([[1.5]], TypeError, "clauses must hold integers; got 1.5"),
    ],
)
def test_clauses_that_do_not_fit(clauses: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Rules.from_clauses(MIXED, clauses)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"solutions": latin_squares()[:0]}, ValueError, "solutions must be one or more"),
        ({"solutions": latin_squares()[0]}, ValueError, "solutions must have shape"),
        ({"solutions": latin_squares() + 1}, ValueError, "got 4 for"),
        ({"longest": 9}, ValueError, "longest must be at most 8"),
        ({"false_rules": 0}, ValueError, "false_rules must be"),
        ({"domains": MIXED}, ValueError, "domains must have 64 bits"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    options = {"layer": latin_layer(), "domains": LATIN, "solutions": latin_squares()} | change
    with pytest.raises(error, match=message):
        inference.extract_rules(**options)


def test_counting_alone_finds_less_than_with_the_layer() -> None:
    squares = latin_squares()[torch.randperm(576, generator=torch.Generator().manual_seed(0))[:110]]
    wanted = {tuple(sorted(clause)) for clause in latin_clauses()}
    found = [
        {tuple(sorted(rule.clause)) for rule in inference.extract_rules(layer, LATIN, squares) if len(rule.clause) == 2}
        for layer in (latin_layer(), None)
    ]
    assert found[1] < found[0] <= wanted
    with pytest.raises(ValueError, match="longest must be 2 where layer is None"):
        inference.extract_rules(None, LATIN, squares, longest=3)
