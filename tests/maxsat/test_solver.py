"""Solutions against exact optima; rounding, local search, interrupts, options and degenerate instances."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maxsat_problems import enumerated_optimum, exact_optimum, naive_cost, random_clauses

from difflayers import maxsat
from difflayers.maxsat import Instance, Solution, kernels, mixing, solver
from difflayers.maxsat.mixing import Mixing
from difflayers.maxsat.relaxation import relax
from difflayers.maxsat.search import Search

INF = math.inf
UNSATISFIABLE = [[1, 2], [-1, 2], [1, -2], [-1, -2]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(instance: Instance, k: int = 8, seed: int = 0, sweeps: int = 300) -> Mixing:
    state = Mixing(relax(instance, instance.weights), k, np.random.default_rng(seed))
    for _ in range(sweeps):
        state.sweep(0.0)
    return state


@pytest.mark.parametrize("local_search", [True, False])
@pytest.mark.parametrize("hard", [0.0, 0.4])
@pytest.mark.parametrize("lengths", [(1, 2), (1, 2, 2, 3, 4)])
def test_bound_optimum_and_cost_are_in_order(lengths: Sequence[int], hard: float, local_search: bool) -> None:
    proved = found = 0
    for seed in range(12):
        clauses, weights = random_clauses(9, 40, lengths, hard=hard, seed=seed)
        optimum = exact_optimum(clauses, weights)
        for rounds, max_iter in ((1, 2), (50, 500)):
            solution = maxsat.solve(
                clauses,
                weights=weights,
                rounds=rounds,
                max_iter=max_iter,
                local_search=local_search,
                generator=generator(seed),
            )
            x = solution.assignment
            assert x.dtype == torch.bool and x.shape == (9,)
            assert (solution.cost, solution.hard_violations) == naive_cost(clauses, weights, x.tolist())
            assert (solution.cost, solution.hard_violations) == Instance.from_clauses(clauses, 9, weights).cost(x)
            assert solution.bound <= optimum and solution.bound == int(solution.bound) >= 0
            assert solution.gap == solution.cost - solution.bound
            if solution.hard_violations == 0:
                assert solution.cost >= optimum
            if solution.optimal:
                assert solution.hard_violations == 0 and solution.cost == optimum
                proved += 1
            found += (solution.cost, solution.hard_violations, rounds) == (optimum, 0, 50)
    assert found >= (9 if local_search else 1)
    assert proved > 0 or max(lengths) > 2


@pytest.mark.parametrize("scale", [1, 1e-12, 2**58])
def test_optimal_only_where_it_is(scale: float) -> None:
    """One rounding without local search is often wrong, and must not be called optimal, however small its weights are."""
    wrong = right = 0
    for seed in range(30):
        clauses, weights = random_clauses(6, 15, (1, 2, 2), seed=seed)
        weights = [scale * int(weight) for weight in weights]
        optimum = enumerated_optimum(clauses, weights, 6)
        rough = maxsat.solve(
            clauses, weights=weights, rounds=1, max_iter=1, local_search=False, generator=generator(seed)
        )
        good = maxsat.solve(clauses, weights=weights, eps=1e-14, max_iter=5000, generator=generator(seed))
        assert good.bound <= optimum * (1 + 1e-9)
        for solution in (rough, good):
            if solution.cost > optimum * (1 + 1e-12):
                assert not solution.optimal
                wrong += 1
        right += good.optimal
    assert wrong > 5 and right > 0


@pytest.mark.parametrize(
    ("dual", "weights", "empty", "bound"),
    [
        (1.3, [2, 3, 3, 2], 0, 2),
        (2 + 1e-9, [2, 3, 5, 3], 0, 3),  # `dual_bound` has left out what may be rounding
        (2.5e6, [2e6, 3e6, 7e6, 3e6], 0, 3_000_000),
        (2.5e6, [2000001, 3e6, 7e6, 3e6], 0, 2_500_000),
        (1.3, [2, 3, 2, INF], 0, 2),
        (1.3, [2, 3, 2, 3], 4, 6),
        (1.3, [4, 6, 4, 6], 3, 5),  # costs are 3 and whole twos
        (1.3, [2, 3, 2, 2.5], 0, 1.5),
        (1.3, [2, 3, 2, 3], 0.25, 2.25),
        (-0.4, [2, 3, 2, 3], 0, 0),
        (-0.4, [2, 3, 2, 2.5], 0.25, 0.25),  # nothing satisfies an empty clause
        (2.0**53, [2.0**53, 2.0**60, 2.0**60, 2**53 + 1], 0, 2**53),
    ],
)
def test_a_bound_is_rounded_up_to_a_multiple_of_the_weights_common_divisor(
    dual: float, weights: list[float], empty: float, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = sum(weight for weight in weights if weight < INF) + empty
    scale = 2.0 ** math.frexp(1 + soft if INF in weights else max(weights))[1]
    monkeypatch.setattr(mixing, "dual_bound", lambda *args: dual / scale)
    solution = maxsat.solve([*UNSATISFIABLE, []], weights=[*weights, empty], generator=generator())
    assert solution.bound == bound and type(solution.bound) is type(bound)


def test_whole_weights_beside_an_empty_clause_of_decimal_weight() -> None:
    solution = maxsat.solve([*UNSATISFIABLE, []], weights=[2, 3, 2, 3, 0.25], generator=generator())
    assert solution.cost == solution.bound == 2.25 and solution.optimal


@pytest.mark.parametrize("seed", range(3))
def test_rounding_keeps_the_guarantee_of_goemans_and_williamson(seed: int) -> None:
    """The mean over hyperplanes satisfies 0.878 of what can be satisfied."""
    clauses, weights = random_clauses(8, 50, (1, 2), floats=True, seed=seed)
    instance = Instance.from_clauses(clauses, 8, weights)
    state, draw = mixed(instance, seed=seed), np.random.default_rng(seed)
    best = sum(weights) - enumerated_optimum(clauses, weights, 8)
    satisfied = [sum(weights) - instance.cost(state.round(draw))[0] for _ in range(2000)]
    assert np.mean(satisfied) >= 0.878 * best
    assert np.mean(satisfied) <= best


def test_rounding_is_true_on_the_side_of_the_truth() -> None:
    """With probability 1 - angle / pi; variables along the truth direction always, those against it never."""
    state = mixed(Instance.from_clauses([[1], [2], [3, 4]]), sweeps=0)
    angle = 0.7
    state.V[:] = 0
    state.V[0, 0], state.V[1, 0], state.V[2, 1] = 1, -1, 1
    state.V[3, 0], state.V[3, 2] = math.cos(angle), math.sin(angle)
    draw = np.random.default_rng(0)
    mean = np.mean([state.round(draw) for _ in range(4000)], axis=0)
    assert (mean[0], mean[1]) == (1, 0)
    assert mean[2] == pytest.approx(0.5, abs=0.03) and mean[3] == pytest.approx(1 - angle / math.pi, abs=0.03)


def test_probabilities_are_angles_to_the_truth() -> None:
    solution = maxsat.solve([[1], [-2]], n=3, eps=1e-12, generator=generator())
    assert solution.probabilities.dtype == torch.float64
    assert solution.probabilities[:2].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert 0 < solution.probabilities[2] < 1
    assert solution.assignment[:2].tolist() == [True, False]


@pytest.mark.parametrize("local_search", [True, False])
def test_the_totals_of_the_search_are_those_of_a_recount(local_search: bool) -> None:
    for seed in range(10):
        clauses, weights = random_clauses(30, 150, (1, 2, 3, 6), floats=True, seed=seed)
        instance, draw = Instance.from_clauses(clauses, 30, weights), np.random.default_rng(seed)
        best = INF
        search = Search(instance, local_search)
        for _ in range(5):
            x = draw.random(30) < 0.5
            start, before = naive_cost(clauses, weights, x)[0], x.copy()
            search.consider(x, draw)
            assert np.array_equal(x, before) and search.x is not None
            now = naive_cost(clauses, weights, search.x)[0]
            assert now <= min(best, start) + 1e-12 and (local_search or now == pytest.approx(min(best, start)))
            best = now
            assert instance.number(search.violated[1]) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_local_search_ends_where_no_flip_helps(seed: int) -> None:
    clauses, weights = random_clauses(25, 120, (1, 2, 3, 5), floats=True, seed=seed)
    instance, draw = Instance.from_clauses(clauses, 25, weights), np.random.default_rng(seed)
    search = Search(instance, True)
    search.consider(draw.random(25) < 0.5, draw)
    assert search.x is not None
    cost = naive_cost(clauses, weights, search.x)[0]
    for i in range(25):
        flipped = search.x.copy()
        flipped[i] = not flipped[i]
        assert naive_cost(clauses, weights, flipped)[0] >= cost - 1e-12


def test_local_search_flips_in_the_order_given() -> None:
    """Either flip alone satisfies the clause: the first in the order is made, and the second is not."""
    instance = Instance.from_clauses([[1, 2], [-1], [-2]], weights=[5, 1, 1])
    starts, of_variable = Search(instance, True)._clauses
    for order in ([0, 1], [1, 0]):
        x, place = np.zeros(2, bool), np.zeros(2, np.int64)
        counts = kernels.count_true(instance.literals, instance.offsets, x)
        fixed = (instance.units, instance.hard, starts, of_variable, np.array(order), 0.0)
        assert kernels.local_search(*fixed, 100, place, counts, x)
        assert x.tolist() == [order[0] == 0, order[0] == 1]
        assert np.array_equal(counts, kernels.count_true(instance.literals, instance.offsets, x))


def test_local_search_in_slices_is_local_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clauses, weights = random_clauses(40, 200, (1, 2, 3), hard=0.2, seed=3)
    instance, found = Instance.from_clauses(clauses, 40, weights), []
    for budget in (10**9, 1, 50):
        monkeypatch.setattr("difflayers.maxsat.search.BUDGET", budget)
        search = Search(instance, True)
        search.consider(np.zeros(40, bool), np.random.default_rng(0))
        assert search.x is not None
        found.append(search.x.tolist())
    assert found[0] == found[1] == found[2]
    search = Search(instance, True)
    search.consider(np.zeros(40, bool), np.random.default_rng(0), slices=1)
    assert search.x is not None and search.x.tolist() != found[0]


def test_the_search_draws_the_order_of_flips() -> None:
    instance, draw = Instance.from_clauses([[1, 2], [-1], [-2]], weights=[5, 1, 1]), np.random.default_rng(0)
    found = set()
    for _ in range(20):
        search = Search(instance, True)
        search.consider(np.zeros(2, bool), draw)
        assert search.x is not None
        found.add(tuple(search.x.tolist()))
    assert found == {(True, False), (False, True)}


def test_local_search_improves_on_roundings() -> None:
    clauses, weights = random_clauses(60, 400, (2, 3), seed=1)
    with_search, without = (
        maxsat.solve(clauses, weights=weights, rounds=5, local_search=flag, generator=generator()).cost
        for flag in (True, False)
    )
    assert with_search < without


def same(a: Solution, b: Solution) -> bool:
    return (
        torch.equal(a.assignment, b.assignment)
        and torch.equal(a.probabilities, b.probabilities)
        and (a.cost, a.bound, a.relaxation, a.sweeps) == (b.cost, b.bound, b.relaxation, b.sweeps)
    )


def test_a_generator_in_the_same_state_gives_the_same_solution() -> None:
    clauses, _ = random_clauses(40, 200, (2, 3))
    solutions = [maxsat.solve(clauses, rounds=3, generator=generator(seed)) for seed in (5, 5, 6)]
    assert same(solutions[0], solutions[1]) and not same(solutions[0], solutions[2])
    drawn = generator(5)
    assert same(maxsat.solve(clauses, rounds=3, generator=drawn), solutions[0])
    assert not same(maxsat.solve(clauses, rounds=3, generator=drawn), solutions[0])  # its state has moved on


def test_without_a_generator_torchs_global_one_is_used() -> None:
    clauses, _ = random_clauses(40, 200, (2, 3))
    torch.manual_seed(3)
    first, second = maxsat.solve(clauses, rounds=3), maxsat.solve(clauses, rounds=3)
    torch.manual_seed(3)
    assert same(maxsat.solve(clauses, rounds=3), first) and not same(second, first)


def test_a_path_an_instance_and_clauses_are_the_same_problem(tmp_path: Path) -> None:
    clauses, weights = random_clauses(8, 30, (1, 2, 3), hard=0.2, seed=2)
    order = [
        *(j for j in range(30) if weights[j] == INF),
        *(j for j in range(30) if weights[j] < INF),
    ]  # as files are read
    clauses, weights = [clauses[j] for j in order], [weights[j] for j in order]
    path = tmp_path / "a.wcnf"
    lines = ("h" if weight == INF else f"{weight:g}" for weight in weights)
    path.write_text("".join(f"{w} {' '.join(map(str, c))} 0\n" for w, c in zip(lines, clauses, strict=True)))
    problems: list[tuple[Any, dict[str, Any]]] = [
        (clauses, {"weights": weights}),
        (iter(clauses), {"weights": weights, "n": 8}),
        (Instance.from_clauses(clauses, 8, weights), {}),
        (path, {}),
        (str(path), {}),
    ]
    first, *others = [maxsat.solve(problem, generator=generator(), **options) for problem, options in problems]
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1; got 0"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be an int; got float"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1; got 0"),
        ({"rounds": True}, TypeError, "rounds must be an int; got bool"),
        ({"eps": -1e-3}, ValueError, "eps must be finite and at least 0; got -0.001"),
        ({"eps": math.nan}, ValueError, "eps must be finite and at least 0; got nan"),
        ({"eps": "small"}, TypeError, "eps must be a number; got str"),
        ({"k": 1}, ValueError, "k must be at least 2; got 1"),
        ({"k": 8.0}, TypeError, "k must be an int; got float"),
        ({"hard_weight": 0}, ValueError, "hard_weight must be finite and above 0; got 0"),
        ({"hard_weight": INF}, ValueError, "hard_weight must be finite and above 0; got inf"),
        ({"hard_weight": "all"}, TypeError, "hard_weight must be a number; got str"),
        ({"n": 1}, ValueError, "clauses: literals must be of variables 1 to n = 1; got 2 in clause 0"),
        ({"weights": [1, 2]}, ValueError, "weights must be one for each of 4 clauses; got 2"),
        ({"generator": 3}, TypeError, "generator"),
    ],
)
def test_errors_of_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        maxsat.solve(UNSATISFIABLE, **options)


def test_errors_of_problems(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="problem must be a path, an Instance or clauses; got int"):
        maxsat.solve(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clauses must be sequences of integers; got int as clause 0"):
        maxsat.solve([1, 2])  # type: ignore[list-item]
    instance = Instance.from_clauses([[1]])
    for problem, name in ((instance, "Instance"), ("a.cnf", "str"), (tmp_path / "a.cnf", "Path")):
        with pytest.raises(ValueError, match=rf"n must be None with a \w*{name}, which says it itself; got 3"):
            maxsat.solve(problem, n=3)
        with pytest.raises(ValueError, match=rf"weights must be None with a \w*{name}.*got \[1\]"):
            maxsat.solve(problem, weights=[1])
    with pytest.raises(FileNotFoundError):
        maxsat.solve(tmp_path / "a.cnf")


def test_options_reach_the_solver() -> None:
    clauses, _ = random_clauses(30, 120, (2, 3))
    assert maxsat.solve(clauses, max_iter=3, eps=0.0, generator=generator()).sweeps == 3
    rough, fine = (maxsat.solve(clauses, eps=eps, generator=generator()) for eps in (1e-1, 1e-8))
    assert rough.converged and fine.converged and 1 < rough.sweeps < fine.sweeps < 1000
    assert not maxsat.solve(clauses, max_iter=3, generator=generator()).converged
    plane, space = (maxsat.solve(clauses, k=k, eps=1e-12, max_iter=5000, generator=generator()) for k in (2, 16))
    assert plane.relaxation > space.relaxation + 1e-3
    assert rough.seconds > 0 and not rough.interrupted


def test_rounds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[np.ndarray] = []
    consider = Search.consider
    monkeypatch.setattr(Search, "consider", lambda self, x, *rest: (calls.append(x), consider(self, x, *rest)))
    clauses, _ = random_clauses(30, 120, (2, 3))
    maxsat.solve(clauses, rounds=7)
    assert len(calls) == 8  # and the vectors' own signs after the first sweep


@pytest.mark.parametrize("hard_weight", [None, 0.5, 1e30])
def test_hard_comes_before_soft_whatever_the_weights(hard_weight: float | None) -> None:
    clauses, weights = [[1], [-1], [-1, 2], [-2]], [INF, 5.0, 3.0, 1e6]
    solution = maxsat.solve(clauses, weights=weights, hard_weight=hard_weight, generator=generator())
    assert (solution.cost, solution.hard_violations) == (8, 0) and solution.assignment.tolist() == [True, False]
    assert solution.bound <= 8


@pytest.mark.parametrize("weight", [1, 2**52, 1e16, 2**63 - 1, 2**63, 0.1, 1e-12])
def test_no_soft_weight_outweighs_a_hard_clause(weight: float) -> None:
    clauses = [[1, 2], [-1, 3], [-2, 3], [-3]]
    for seed in range(10):
        for copies in (1, 7):
            solution = maxsat.solve(
                clauses + [[-3]] * (copies - 1), weights=[INF] * 3 + [weight] * copies, generator=generator(seed)
            )
            assert solution.hard_violations == 0 and solution.cost == pytest.approx(copies * weight)
            assert solution.assignment[2] and solution.bound <= solution.cost


def test_hard_clauses_that_contradict_each_other_are_reported() -> None:
    solution = maxsat.solve([[1], [-1], [2]], weights=[INF, INF, 1], generator=generator())
    assert solution.hard_violations == 1 and solution.cost == 0 and not solution.optimal
    assert solution.assignment[1]
    assert solution.infeasible and solution.infeasible_by == "relaxation" and solution.status == "infeasible"


class Phase:
    """Raises KeyboardInterrupt at the given call of a function, which it stands for."""

    def __init__(self, function: Any, call: int) -> None:
        self.function, self.call, self.calls = function, call, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.function(*args, **options)


PHASES = {
    "relaxation": (solver, "relax", 1),
    "first sweep": (kernels, "sweep", 1),
    "later sweep": (kernels, "sweep", 5),
    "first search": (kernels, "local_search", 1),
    "later search": (kernels, "local_search", 4),
    "bound": (mixing, "dual_bound", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_ends_any_phase_with_the_best_so_far(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clauses, weights = random_clauses(30, 200, (1, 2), floats=True, seed=1)
    module, name, call = PHASES[phase]
    interrupt = Phase(getattr(module, name), call)
    monkeypatch.setattr(module, name, interrupt)
    found: list[float] = []
    solution = maxsat.solve(
        clauses, weights=weights, rounds=10, generator=generator(), on_improvement=lambda cost, _: found.append(cost)
    )
    certain = Instance.from_clauses(clauses, 30, weights).without_opposites()[1] > 0
    assert solution.interrupted and certain and solution.bound > 0 and solution.bound_by == "weights"
    assert interrupt.calls == call + (phase == "first search")  # the only search after it is the first
    assert (solution.relaxation is None) == (phase in ("relaxation", "first sweep"))
    assert (solution.cost, 0) == pytest.approx(naive_cost(clauses, weights, solution.assignment.tolist()))
    assert found and solution.cost == found[-1] == min(found)
    assert solution.converged == (phase in ("later search", "bound"))
    assert solution.sweeps == {
        "opposites": 0,
        "relaxation": 0,
        "first sweep": 0,
        "later sweep": 4,
        "first search": 1,
    }.get(phase, solution.sweeps)
    monkeypatch.undo()
    assert not maxsat.solve(clauses, weights=weights, rounds=10, generator=generator()).interrupted


def test_ctrl_c_in_a_callback_keeps_what_was_reported() -> None:
    clauses, weights = random_clauses(30, 200, (1, 2), seed=1)
    found: list[float] = []

    def stop(cost: float, hard_violations: int) -> None:
        found.append(cost)
        raise KeyboardInterrupt

    solution = maxsat.solve(clauses, weights=weights, generator=generator(), on_improvement=stop)
    assert solution.interrupted and found == [solution.cost]


def test_other_errors_of_a_callback_are_raised() -> None:
    def fail(cost: float, hard_violations: int) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        maxsat.solve(UNSATISFIABLE, on_improvement=fail)


def test_ctrl_c_before_the_bound_keeps_costs_of_whole_weights_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "dual_bound", Phase(mixing.dual_bound, 1))
    solution = maxsat.solve([*UNSATISFIABLE, []], generator=generator())
    assert solution.interrupted and solution.cost == 2 and 0 <= solution.bound <= 2 and not solution.optimal


def test_progress_bars_go_to_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    clauses, _ = random_clauses(30, 120, (2, 3))
    quiet = maxsat.solve(clauses, generator=generator())
    assert capfd.readouterr() == ("", "")
    shown = maxsat.solve(clauses, generator=generator(), progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "sweeps" in err and "hyperplanes" in err
    assert same(quiet, shown)


def test_the_bounds_lanczos_steps_have_a_progress_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difflayers.maxsat.relaxation.DENSE", 0)
    clauses, _ = random_clauses(30, 120, (1, 2))
    maxsat.solve(clauses, generator=generator(), progress=True)
    assert "bound" in capfd.readouterr().err


@pytest.mark.parametrize("local_search", [True, False])
def test_improvements_are_reported_in_order(local_search: bool) -> None:
    clauses, weights = random_clauses(60, 300, (1, 2, 3), hard=0.3, seed=4)
    found: list[tuple[int, float]] = []
    solution = maxsat.solve(
        clauses,
        weights=weights,
        local_search=local_search,
        generator=generator(1),
        on_improvement=lambda cost, hard_violations: found.append((hard_violations, cost)),
    )
    assert len(found) > 1 and all(type(hard) is type(cost) is int for hard, cost in found)
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    assert found[-1] == (solution.hard_violations, solution.cost)


def test_no_clauses() -> None:
    for solution in (maxsat.solve([], n=3), maxsat.solve([[1, -1]], n=3), maxsat.solve([[2]], n=3, weights=[0])):
        assert solution.assignment.shape == solution.probabilities.shape == (3,)
        assert (solution.cost, solution.bound, solution.relaxation, solution.hard_violations) == (0, 0, 0, 0)
        assert solution.optimal and solution.converged


@pytest.mark.parametrize("n", [0, 2])
def test_only_empty_clauses(n: int) -> None:
    solution = maxsat.solve([[], []], n=n, weights=[2, 1.5])
    assert solution.assignment.shape == (n,)
    assert (solution.cost, solution.bound, solution.relaxation) == (3.5, 3.5, 3.5) and solution.optimal
    hopeless = maxsat.solve([[], []], n=n, weights=[2, INF])
    assert (hopeless.cost, hopeless.hard_violations) == (2, 1) and not hopeless.optimal


def test_no_variables() -> None:
    solution = maxsat.solve([], n=0)
    assert solution.assignment.shape == (0,) and solution.optimal and (solution.cost, solution.bound) == (0, 0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_instances(n: int) -> None:
    for seed in range(10):
        clauses, weights = random_clauses(n, 4, (1, min(n, 2)), seed=seed)
        solution = maxsat.solve(clauses, n=n, weights=weights, rounds=20, generator=generator(seed))
        optimum = enumerated_optimum(clauses, weights, n)
        assert solution.bound <= optimum == solution.cost


def test_clauses_longer_than_100() -> None:
    draw = np.random.default_rng(0)
    n = 130
    signs = np.where(draw.random((6, n)) < 0.5, 1, -1)
    clauses = [(row * np.arange(1, n + 1)).tolist() for row in signs]
    clauses += [[-literal] for literal in clauses[0]]  # that clause, or one of these, is violated
    solution = maxsat.solve(clauses, rounds=20, generator=generator())
    assert solution.cost == 1 and 0 <= solution.bound <= 1
    assert naive_cost(clauses, [1.0] * len(clauses), solution.assignment.tolist()) == (1, 0)


def test_large_problems_are_solved_in_float32() -> None:
    clauses, weights = random_clauses(10, 60, (1, 2, 3), floats=True, seed=3)
    optimum = enumerated_optimum(clauses, weights, 10)
    instance = Instance.from_clauses(clauses, 10, weights)
    assert mixed(instance, 1_000_000, sweeps=0).V.dtype == np.float64
    assert mixed(instance, 1_000_001, sweeps=0).V.dtype == np.float32
    double, single = (
        maxsat.solve(instance, k=k, rounds=3, max_iter=60, generator=generator()) for k in (16, 1_000_001)
    )
    assert single.relaxation == pytest.approx(double.relaxation, abs=1e-2)
    assert single.bound <= optimum + 1e-4 and single.bound == pytest.approx(double.bound, abs=2e-2)
    assert single.cost == double.cost == pytest.approx(optimum)
    assert single.probabilities.dtype == torch.float64


def test_a_sweep_in_pieces_is_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    clauses, weights = random_clauses(30, 120, (1, 2, 14), floats=True)
    instance = Instance.from_clauses(clauses, 30, weights)
    whole = mixed(instance, sweeps=2)
    monkeypatch.setattr(Mixing, "_slices", lambda self: [(0, 7), (7, 8), (8, 30)])
    pieces = mixed(instance, sweeps=2)
    assert np.array_equal(whole.V, pieces.V) and whole.first == pytest.approx(pieces.first)


def test_the_pieces_of_a_sweep_cover_all_rows_once() -> None:
    state = mixed(Instance.from_clauses(random_clauses(30, 120, (2,))[0], 30), sweeps=0)
    assert list(state._slices()) == [(0, 30)]
    state.V = np.broadcast_to(np.zeros(1), (30, 10**8))
    pieces = list(state._slices())
    assert len(pieces) > 5 and pieces[0][0] == 0 and pieces[-1][1] == 30
    assert all(a < b == c for (a, b), (c, _) in itertools.pairwise(pieces))
