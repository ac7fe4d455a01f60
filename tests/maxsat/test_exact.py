"""python-sat beside the relaxation: hard clauses satisfied or refuted, optima proved, and a process that can be stopped."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from maxsat_problems import coloured, enumerated_optimum, naive_cost, pigeons, random_clauses

from difflayers import maxsat
from difflayers.maxsat import Instance, exact, solver
from difflayers.maxsat.exact import News

INF = math.inf
# No assignment satisfies all eight, and the relaxation does not see it.
EIGHT = [[a, b, c] for a in (1, -1) for b in (2, -2) for c in (3, -3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_colouring_that_the_search_does_not_find_is_found() -> None:
    clauses, _ = coloured(80)
    options: dict[str, Any] = {"weights": [INF] * len(clauses), "rounds": 3}
    without = maxsat.solve(clauses, sat=0, generator=generator(), **options)
    assert without.status == "unknown" and without.hard_violations > 0 and not without.infeasible
    solution = maxsat.solve(clauses, generator=generator(), **options)
    assert solution.status == "optimal" and solution.found_by == "SAT solver" and solution.bound_by == "weights"
    assert naive_cost(clauses, [INF] * len(clauses), solution.assignment.tolist()) == (0, 0)


def test_a_contradiction_that_the_relaxation_does_not_see_is_proved() -> None:
    solution = maxsat.solve([*EIGHT, [4]], weights=[INF] * 8 + [1], generator=generator())
    assert solution.status == "infeasible" and solution.infeasible_by == "SAT solver"
    assert not solution.optimal and solution.hard_violations == 1
    by_rc2 = maxsat.solve([*EIGHT, [4]], weights=[INF] * 8 + [1], sat=0, exact=60, generator=generator())
    assert by_rc2.infeasible_by == "RC2"
    empty = maxsat.solve([*EIGHT, []], weights=[1] * 8 + [INF], generator=generator())
    assert empty.infeasible_by == "an empty clause" and "proved by an empty clause" in str(empty)


@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_rc2_proves_the_optimum(hard: float) -> None:
    """Of whole weights, decimal ones, and ones beyond 64 bits; every clause kind, unit and repeated ones too."""
    for seed in range(6):
        clauses, weights = random_clauses(9, 40, (1, 2, 3, 3, 4), hard=hard, floats=seed % 3 == 1, seed=seed)
        if seed % 3 == 2:
            weights = [w if w == INF else 2**62 + int(w) for w in weights]
        clauses, weights = [*clauses, []], [*weights, weights[1] if weights[1] < INF else 1]
        solution = maxsat.solve(
            clauses, weights=weights, rounds=1, local_search=False, exact=120, generator=generator(seed)
        )
        assert solution.status == "optimal", solution
        assert solution.cost == pytest.approx(enumerated_optimum(clauses, weights, 9), rel=1e-12)
        assert solution.bound == solution.cost and solution.gap == 0
        assert Instance.from_clauses(clauses, 9, weights).cost(solution.assignment) == (solution.cost, 0)


def test_what_rc2_has_found_when_its_time_is_up_counts() -> None:
    clauses, _ = random_clauses(100, 600, (3,), seed=0)
    began = time.monotonic()
    solution = maxsat.solve(clauses, rounds=1, exact=2, generator=generator())
    assert time.monotonic() - began < 30
    assert solution.status == "feasible" and 0 < solution.bound <= solution.cost
    assert solution.bound_by == "RC2" and "(RC2)" in str(solution)


def test_a_sat_solver_that_runs_out_of_time_proves_nothing() -> None:
    clauses = pigeons(11)
    solution = maxsat.solve(
        clauses, weights=[INF] * len(clauses), hard_weight=1e-3, max_iter=1, rounds=1, sat=0.7, generator=generator()
    )
    assert solution.status == "unknown" and solution.infeasible_by is None


def pretend(monkeypatch: pytest.MonkeyPatch, *news: News) -> None:
    def run(*args: object) -> Iterator[News]:
        yield from news

    monkeypatch.setattr(solver.pysat, "run", run)


def test_claims_that_the_assignment_at_hand_refutes_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    clauses, _ = random_clauses(20, 120, (3,), seed=0)
    pretend(monkeypatch, News(bound=10**6))
    with pytest.raises(RuntimeError, match="RC2 proves that 1000000 must be violated; an assignment violates"):
        maxsat.solve(clauses, exact=1)
    pretend(monkeypatch, News(infeasible=True))
    with pytest.raises(RuntimeError, match="RC2 says that no assignment satisfies the hard clauses; one does"):
        maxsat.solve(clauses, exact=1)


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "worker.py"
    monkeypatch.setattr(exact, "WORKER", broken)
    instance = Instance.from_clauses(EIGHT)
    broken.write_text("import sys; sys.stdin.buffer.read(); sys.exit(7)")
    with pytest.raises(RuntimeError, match="exit status 7, without an answer"):
        list(exact.run("optimise", instance, 60))
    broken.write_text('print(\'c noise from C\\n{"kind": "error", "message": "MemoryError: "}\', flush=True)')
    with pytest.raises(RuntimeError, match="python-sat failed: MemoryError"):
        list(exact.run("optimise", instance, 60))


def test_the_process_ends_with_the_block_whatever_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleeper = tmp_path / "worker.py"
    sleeper.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(exact, "WORKER", sleeper)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: Any, **options: Any) -> Any:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(exact.subprocess, "Popen", remember)
    large = Instance.from_clauses([[i, i + 1, -i - 2] for i in range(1, 100_000)])  # more than a pipe holds
    for instance in (Instance.from_clauses(EIGHT), large):
        assert all(news == News() for news in exact.run("satisfy", instance, 0.5))
        events = exact.run("satisfy", instance, 600)
        next(events)
        assert started[-1].poll() is None
        events.close()
        assert started[-1].poll() is not None
    assert len(started) == 4 and all(process.poll() is not None for process in started)


def test_ctrl_c_during_the_exact_solver_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clauses, _ = random_clauses(20, 120, (3,), seed=0)

    def run(*args: object) -> Iterator[News]:
        yield News(bound=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(solver.pysat, "run", run)
    solution = maxsat.solve(clauses, exact=60, generator=generator())
    assert solution.interrupted and solution.bound == 1 and solution.bound_by == "RC2" and solution.status == "feasible"


def test_progress_of_the_exact_solver(capfd: pytest.CaptureFixture[str]) -> None:
    clauses, _ = random_clauses(15, 90, (3,), seed=0)
    maxsat.solve(clauses, exact=60, progress=True, generator=generator())
    out, err = capfd.readouterr()
    assert out == "" and "RC2" in err


def test_nothing_is_started_where_nothing_is_left_to_prove(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object) -> Iterator[News]:
        raise AssertionError("started")

    monkeypatch.setattr(solver.pysat, "run", run)
    assert maxsat.solve([[1, 2], [-1, 2], [1, -2], [-1, -2]], exact=60).optimal
    assert maxsat.solve([[1], [-1, 2]], weights=[INF, INF], exact=60).optimal
    assert maxsat.solve([[1], [-1]], weights=[INF, INF], exact=60).infeasible


@pytest.mark.parametrize("option", ["exact", "sat"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "must be finite and at least 0; got -1"),
        (math.nan, ValueError, "must be finite and at least 0; got nan"),
        (INF, ValueError, "must be finite and at least 0; got inf"),
        ("10", TypeError, "must be a number; got str"),
        (None, TypeError, "must be a number; got NoneType"),
    ],
)
def test_seconds_are_numbers(option: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"{option} {message}"):
        maxsat.solve([[1]], **{option: value})


def test_a_missing_python_sat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysat", None)
    assert not exact.available()
    with pytest.raises(ImportError, match=r"exact needs python-sat: pip install 'python-sat>=1\.8\.dev1'"):
        maxsat.solve([[1]], exact=1)
    with pytest.warns(UserWarning, match="1 hard clauses are violated still; .* needs python-sat: pip install"):
        solution = maxsat.solve(EIGHT, weights=[INF] * 8)
    assert solution.status == "unknown"
