"""Search, rounding and decoding: what is accepted is right, and depends on nothing but the problem and the seed."""

import importlib
import itertools
import math
from random import Random
from typing import Any

import pytest
import torch
from inference_problems import LATIN, MIXED, is_latin, latin_clauses, latin_layer, latin_problems, latin_squares

from difflayers import Domains, SATNet, inference

LAYER = latin_layer()
LIMIT = inference.acceptance_limit(LAYER, LATIN, latin_squares(), generator=torch.Generator().manual_seed(0))
RULES = inference.Rules.from_clauses(LATIN, latin_clauses())
METHODS: dict[str, Any] = {"search": inference.search, "round_best": inference.round_best}
FIELDS = ("values", "accepted", "objective", "paths", "passes")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "judge", [{"limit": LIMIT}, {"rules": RULES}, {"limit": LIMIT, "rules": RULES}], ids=["limit", "rules", "both"]
)
def test_latin_squares(method: str, judge: dict[str, Any]) -> None:
    values, given = latin_problems(40)
    found = METHODS[method](LAYER, LATIN, values, given, generator=seeded(), **judge)
    assert torch.equal(found.values[given], values[given])
    assert torch.equal(found.accepted, is_latin(found.values))
    assert found.accepted.double().mean() >= (1.0 if method == "search" else 0.7)
    assert found.values.dtype == torch.int64 and (found.paths >= 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_depends_on_its_problem_and_the_seed_alone(method: str) -> None:
    values, given = latin_problems(12, share=0.3)
    options = {"limit": LIMIT, "batch_size": 5}
    together = METHODS[method](LAYER, LATIN, values, given, generator=seeded(3), **options)
    shaped = METHODS[method](
        LAYER, LATIN, values.view(3, 4, 16), given.view(3, 4, 16), generator=seeded(3), limit=LIMIT
    )
    for b in (0, 7, 11):
        alone = METHODS[method](LAYER, LATIN, values[b], given[b], generator=seeded(3), limit=LIMIT)
        for name in FIELDS:
            assert torch.equal(getattr(alone, name), getattr(together, name)[b]), name
            assert torch.equal(getattr(shaped, name)[b // 4, b % 4], getattr(together, name)[b]), name


def test_going_back_finds_what_one_decimation_does_not() -> None:
    """Random clauses of three literals, as many as leave few solutions, one of them known."""
    once, again = 0, 0
    for seed in range(12):
        random = Random(seed)
        known = [random.choice((-1, 1)) for _ in range(24)]
        clauses: list[list[int]] = []
        while len(clauses) < 103:
            clause = [(i + 1) * random.choice((-1, 1)) for i in random.sample(range(24), 3)]
            if any(i * known[abs(i) - 1] > 0 for i in clause):
                clauses.append(clause)
        domains, zeros = Domains([2] * 24), torch.zeros(24, dtype=torch.long)
        rules = inference.Rules.from_clauses(domains, clauses)
        layer = SATNet.from_clauses(clauses, 24)
        once += int(inference.search(layer, domains, zeros, zeros, rules=rules, paths=1, generator=seeded()).accepted)
        found = inference.search(layer, domains, zeros, zeros, rules=rules, starts=0, paths=60, generator=seeded())
        assert not (found.accepted and rules.violations(found.values).any())
        again += int(found.accepted)
    assert once < again >= 11


def test_rules_save_passes_and_refute() -> None:
    values, given = latin_problems(30)
    plain = inference.search(LAYER, LATIN, values, given, limit=LIMIT, generator=seeded())
    ruled = inference.search(LAYER, LATIN, values, given, limit=LIMIT, rules=RULES, generator=seeded())
    assert ruled.accepted.all() and ruled.passes.sum() < plain.passes.sum()
    zeros = torch.zeros(16, dtype=torch.long)
    twice = inference.search(LAYER, LATIN, zeros, torch.arange(16) < 2, rules=RULES, paths=5)
    assert not twice.accepted and torch.isfinite(twice.objective)


def test_watching_changes_nothing_and_sees_every_pass() -> None:
    values, given = latin_problems(7, share=0.3)
    rounds: list[inference.SearchRound] = []
    plain = inference.search(LAYER, LATIN, values, given, limit=LIMIT, generator=seeded())
    found = inference.search(LAYER, LATIN, values, given, limit=LIMIT, generator=seeded(), watch=rounds.append)
    assert all(torch.equal(getattr(plain, name), getattr(found, name)) for name in FIELDS)
    for b in range(7):
        of_problem = [one for one in rounds if one.problem == b]
        assert torch.equal(of_problem[0].values[given[b]], values[b][given[b]])
        assert torch.equal(of_problem[0].given, given[b])
        assert sorted({one.path for one in of_problem}) == list(range(1, int(found.paths[b]) + 1))
        # Every path that is not given up has one more pass, for the learnt objective of its end.
        assert int(found.passes[b]) - int(found.paths[b]) <= len(of_problem) < int(found.passes[b])
        shares = of_problem[0].given.sum(), of_problem[-1].given.sum()
        assert shares[0] < shares[1] and all(one.probabilities.shape == (16, 4) for one in of_problem)


def test_without_a_judge_nothing_is_accepted() -> None:
    values, given = latin_problems(5)
    found = inference.search(LAYER, LATIN, values, given, paths=2)
    assert found.judge == "nothing" and not found.accepted.any() and (found.paths == 2).all()
    assert torch.isfinite(found.objective).all() and "judge: nothing" in str(found)


def test_a_problem_that_is_complete_already() -> None:
    squares = latin_squares()[:3]
    found = inference.search(LAYER, LATIN, squares, torch.ones_like(squares), limit=LIMIT)
    assert found.accepted.all() and torch.equal(found.values, squares)
    squares[0, 0] = squares[0, 1]
    found = inference.search(LAYER, LATIN, squares, torch.ones_like(squares), limit=LIMIT)
    assert found.accepted.tolist() == [False, True, True] and found.paths.tolist() == [1, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_no_problems(method: str) -> None:
    none = torch.zeros(0, 16, dtype=torch.long)
    assert METHODS[method](LAYER, LATIN, none, none, limit=LIMIT).values.shape == (0, 16)


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_returns_what_was_found(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, given = latin_problems(10)
    module = importlib.import_module(
        {"search": "difflayers.inference.search"}.get(method, "difflayers.inference.rounding")
    )
    solve, calls = module.solve, itertools.count()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == (12 if method == "search" else 2):
            raise KeyboardInterrupt
        return solve(*arguments, **options)

    monkeypatch.setattr(module, "solve", interrupted)
    found = METHODS[method](LAYER, LATIN, values, given, limit=LIMIT, batch_size=3)
    assert found.interrupted and 0 < found.accepted.sum() < 10 and "interrupted" in str(found)
    assert is_latin(found.values[found.accepted]).all()
    assert (found.objective[found.paths == 0] == math.inf).all() and (found.paths == 0).any()


def test_variables_of_all_kinds() -> None:
    # a = d, a if and only if b = 2, and then e = 3
    a, d, b2, e3 = 1, int(MIXED.literals[3, 1]), int(MIXED.literals[1, 2]), int(MIXED.literals[4, 3])
    clauses = [[-a, d], [a, -d], [-a, b2], [a, -b2], [-b2, e3]]
    layer = SATNet.from_clauses(MIXED.clauses() + clauses, MIXED.bits)
    rules = inference.Rules.from_clauses(MIXED, clauses)
    found = inference.search(layer, MIXED, *MIXED.partial([("d", 1)]), rules=rules)
    assert found.accepted and found.values.tolist() == [1, 2, 0, 1, 3] and found.passes == 1
    one, unknown = Domains([1, 2]), torch.tensor([False, False])
    found = inference.search(SATNet.from_clauses([[1]]), one, torch.tensor([5, 5]), unknown, limit=0.5)
    assert found.values.tolist() == [0, 1] and found.accepted


# --- the limit --------------------------------------------------------------------------------------------------


def test_learnt_objective_is_that_of_the_bits() -> None:
    squares = latin_squares()[:5]
    z, _ = LATIN.encode(squares)
    x = torch.cat((torch.ones(5, 1), 2 * z - 1), 1)
    expected = (x @ LAYER._matrix()).square().sum(1)
    assert torch.allclose(inference.learnt_objective(LAYER, LATIN, squares).float(), expected, rtol=1e-5)


def test_limit_separates_where_it_can() -> None:
    assert LIMIT.separates and LIMIT.right == 1 and LIMIT.false == 0 and LIMIT.auc == 1
    assert isinstance(LIMIT, float) and "separates" in repr(LIMIT)


def test_limit_says_where_it_does_not() -> None:
    domains = Domains([2] * 10)
    layer = SATNet.from_clauses([[-1, 2]], 10)  # eight free choices
    solutions = torch.tensor([v for v in itertools.product((0, 1), repeat=10) if v[1] >= v[0]])
    limit = inference.acceptance_limit(layer, domains, solutions[torch.randperm(len(solutions))[:100]])
    assert not limit.separates and limit.false > 0.1
    zeros = torch.zeros(10, dtype=torch.long)
    found = inference.search(layer, domains, zeros, zeros, limit=limit, paths=2)
    assert found.judge == "nothing" and not found.accepted


def test_nothing_to_spoil() -> None:
    with pytest.raises(ValueError, match="given must leave a variable"):
        inference.acceptance_limit(LAYER, LATIN, latin_squares(), given=torch.ones(16, dtype=torch.bool))


@pytest.mark.parametrize("count", [0, 1])
def test_no_solutions(count: int) -> None:
    with pytest.raises(ValueError, match="solutions must be two or more; got"):
        inference.acceptance_limit(LAYER, LATIN, latin_squares()[:count])


# --- evidence ---------------------------------------------------------------------------------------------------


def test_hypotheses_come_likeliest_first_and_all_of_them() -> None:
    likeliest = importlib.import_module("difflayers.inference.evidence").likeliest
    logs = torch.rand(4, 3, generator=seeded(1), dtype=torch.float64).log()
    logs[0, 2] = logs[3, 0] = logs[3, 1] = -math.inf
    losses, found = zip(*((loss, tuple(values)) for loss, values in likeliest(logs.tolist())), strict=True)
    assert len(found) == len(set(found)) == 2 * 3 * 3 * 1
    totals = [sum(float(logs[i, a]) for i, a in enumerate(values)) for values in found]
    assert totals == pytest.approx(sorted(totals, reverse=True))
    assert losses == pytest.approx([totals[0] - total for total in totals]) and losses[0] == 0
    assert list(likeliest([])) == [(0.0, [])]


@pytest.mark.parametrize("paths", [1, 0], ids=["search", "one pass"])
@pytest.mark.parametrize("judge", [{"limit": LIMIT}, {"rules": RULES}], ids=["limit", "rules"])
def test_misread_cells_are_corrected(judge: dict[str, Any], paths: int) -> None:
    generator = seeded(2)
    squares = latin_squares()[torch.randint(576, (20,), generator=generator)]
    observed = torch.rand(squares.shape, generator=generator) < 0.8
    p = torch.full((20, 16, 4), 0.01).scatter(2, squares[..., None], 0.97)
    for b in range(20):  # one cell looks like another value, but not surely
        cells = observed[b].nonzero()[:, 0]
        cell = int(cells[b % len(cells)])
        p[b, cell] = 0.02
        p[b, cell, (squares[b, cell] + 1) % 4], p[b, cell, squares[b, cell]] = 0.6, 0.35
    found = inference.decode(LAYER, LATIN, p.log(), observed, paths=paths, generator=seeded(), **judge)
    assert is_latin(found.values)[found.accepted].all() and found.accepted.double().mean() >= (1 if paths else 0.9)
    assert (found.values == squares).all(1).double().mean() >= (0.9 if paths else 0.85) and found.paths.max() > 1
    alone = inference.decode(LAYER, LATIN, p[3].log(), observed[3], paths=paths, generator=seeded(), **judge)
    assert all(torch.equal(getattr(alone, name), getattr(found, name)[3]) for name in FIELDS)


ALIKE = [[-1, 2], [-2, 3], [1, -3]]


@pytest.mark.parametrize(
    "judge",
    [{"limit": 0.5}, {"rules": inference.Rules.from_clauses(Domains([2, 2, 2]), ALIKE)}],
    ids=["limit", "rules"],
)
def test_an_answer_with_a_rival_within_the_margin_is_not_accepted(judge: dict[str, Any]) -> None:
    domains, layer = Domains([2, 2, 2]), SATNet.from_clauses(ALIKE)
    seen = torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.5, 0.5]]).log()
    observed = torch.tensor([True, False, False])

    def decode(**options: Any) -> inference.Answers:
        return inference.decode(layer, domains, seen, observed, generator=seeded(), **judge, **options)

    assert decode().accepted and decode().paths == 1
    surely = math.log(0.7 / 0.3)
    near, far = decode(margin=1.01 * surely), decode(margin=0.99 * surely)
    assert near.values.tolist() == far.values.tolist() == [0, 0, 0]
    assert not near.accepted and near.paths == 2
    assert far.accepted and far.paths == 1
    assert not decode(margin=1.01 * surely, hypotheses=1).accepted, "the rival may have an answer, too"
    assert decode(margin=0.99 * surely, hypotheses=1).accepted, "no other reading is as probable"
    assert decode(margin=1.01 * surely, hypotheses=2).paths == 2
    alone = inference.decode(layer, domains, seen, ~observed, generator=seeded(), margin=5.0, hypotheses=1, **judge)
    assert alone.paths == 1
    none = inference.decode(layer, domains, seen.expand(0, 3, 2), observed.expand(0, 3), margin=1.0, **judge)
    assert none.values.shape == (0, 3) and none.accepted.shape == (0,)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin must be finite and at least 0"):
            decode(margin=wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_evidence_that_is_no_number(value: float) -> None:
    p, observed = torch.zeros(2, 16, 4), torch.ones(2, 16, dtype=torch.bool)
    p[1, 2, 3] = value
    with pytest.raises(
        ValueError, match="log_probabilities must be finite or -inf; got NaN or inf for x3 of problem 1"
    ):
        inference.decode(LAYER, LATIN, p, observed, limit=LIMIT)
    p[1, 2] = -math.inf
    with pytest.raises(ValueError, match="got -inf for all for x3"):
        inference.decode(LAYER, LATIN, p, observed, limit=LIMIT)
    observed[1, 2] = False
    inference.decode(LAYER, LATIN, p, observed, limit=LIMIT, hypotheses=1)


# --- errors -----------------------------------------------------------------------------------------------------

NONE = torch.zeros(16, dtype=torch.long)
BOTH = ("search", "round_best")
BAD: list[tuple[tuple[str, ...], dict[str, Any], type[Exception], str]] = [
    (BOTH, {"limit": math.nan}, ValueError, "limit must be a number; got NaN"),
    (BOTH, {"limit": "1"}, TypeError, "limit must be a number"),
    (BOTH, {"layer": torch.nn.Linear(2, 2)}, TypeError, "layer must be a SATNet"),
    (BOTH, {"domains": [4] * 16}, TypeError, "domains must be Domains"),
    (BOTH, {"domains": Domains([4] * 15)}, ValueError, "domains must have 64 bits"),
    (BOTH, {"values": NONE + 4, "given": NONE + 1}, ValueError, "got 4 for x1"),
    (BOTH, {"rules": [[1]]}, TypeError, "rules must be Rules"),
    (BOTH, {"rules": inference.Rules.from_clauses(Domains([2]), [[1]])}, ValueError, "rules must be over the domains"),
    (BOTH, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    (BOTH, {"generator": 3}, TypeError, "generator must be a torch.Generator"),
    (("search",), {"paths": 0}, ValueError, "paths must be at least 1"),
    (("search",), {"starts": -1}, ValueError, "starts must be at least 0"),
    (("round_best",), {"roundings": 0}, ValueError, "roundings must be at least 1"),
    (("round_best",), {"temperature": 0.0}, ValueError, "temperature must be"),
]


@pytest.mark.parametrize(
    ("method", "change", "error", "message"),
    [(method, *case) for methods, *case in BAD for method in methods],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_is_named(method: str, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        METHODS[method](**({"layer": LAYER, "domains": LATIN, "values": NONE, "given": NONE} | change))
