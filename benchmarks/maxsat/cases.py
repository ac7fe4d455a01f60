"""Random MAX-2-SAT and MAX-3-SAT: bound, value, exact optimum, and random restarts given the same time."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.registry import Row, case, run_alone
from difflayers import maxsat
from difflayers.maxsat.search import Search

RC2_SECONDS = 60

_RC2 = """
import json, sys
from pysat.examples.rc2 import RC2Stratified
from pysat.formula import WCNF
formula = WCNF()
for clause in json.load(sys.stdin):
    formula.append(clause, weight=1)
with RC2Stratified(formula) as solver:
    solver.compute()
    print(solver.cost)
"""


def random_clauses(n: int, m: int, length: int, seed: int) -> list[list[int]]:
    """m clauses of `length` different variables each, signs at random."""
    draw = np.random.default_rng(seed)
    variables = np.array([draw.choice(n, length, replace=False) for _ in range(m)]) + 1
    clauses: list[list[int]] = (variables * draw.choice([-1, 1], variables.shape)).tolist()
    return clauses


def exact(clauses: list[list[int]]) -> int | None:
    """The optimum by RC2, in a process of its own; None if it takes longer than RC2_SECONDS."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RC2],
            input=json.dumps(clauses),
            capture_output=True,
            text=True,
            timeout=RC2_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout)


def restarts(instance: maxsat.Instance, seconds: float, seed: int = 0) -> float:
    """The least violated weight that single flips from random assignments find in that time."""
    draw = np.random.default_rng(seed)
    search = Search(instance, True)
    until = time.perf_counter() + seconds
    while search.x is None or time.perf_counter() < until:
        search.consider(draw.random(instance.n) < 0.5, draw)
    return instance.number(search.violated[1])


@case("maxsat-random")
def random_instances() -> Iterator[Row]:
    """Violated clauses of random instances: SDP bound and value, RC2 where it ends in 60 s, restarts for the same time.

    rounding: the best of 100 hyperplanes without local search. value: with it. restarts: single flips from random starts, for
    as many seconds as `seconds` says. relaxation: the value of the SDP.
    """
    warm = maxsat.Instance.from_clauses(random_clauses(20, 60, 2, 9))
    maxsat.solve(warm)
    for length, ratio in ((2, 2), (2, 3), (3, 5)):
        for n in (100, 1000, 10_000):
            clauses = random_clauses(n, ratio * n, length, seed=n)
            instance = maxsat.Instance.from_clauses(clauses, n)
            solution = maxsat.solve(instance, generator=torch.Generator().manual_seed(0))
            rounded = maxsat.solve(instance, local_search=False, generator=torch.Generator().manual_seed(0))
            yield {
                "literals": length,
                "n": n,
                "clauses": len(clauses),
                "bound": solution.bound,
                "relaxation": solution.relaxation,
                "optimum": exact(clauses),
                "value": solution.cost,
                "rounding": rounded.cost,
                "restarts": restarts(instance, solution.seconds),
                "sweeps": solution.sweeps,
                "seconds": solution.seconds,
            }


_LARGE = """
import json, resource, sys
sys.path.insert(0, {root!r})
import numpy as np, torch
from difflayers import maxsat
draw = np.random.default_rng(0)
clauses = draw.integers(1, {n} + 1, ({m}, 3)) * draw.choice([-1, 1], ({m}, 3))
instance = maxsat.Instance.from_clauses(clauses.tolist(), {n})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = []
for sweeps in (1, 21):
    solution = maxsat.solve(instance, max_iter=sweeps, rounds=1, generator=torch.Generator().manual_seed(0))
    times.append(solution.seconds)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([(times[1] - times[0]) / 20, times[0], peak, before / 1024, solution.cost]))
"""


@case("maxsat-large")
def large() -> Iterator[Row]:
    """10^5 variables and 10^6 literals, MAX-3-SAT: seconds a sweep and for the rest, peak memory of the process."""
    n, m = 100_000, 333_334
    root = str(Path(__file__).parents[2])
    sweep, rest, peak, before, cost = json.loads(run_alone(_LARGE.format(root=root, n=n, m=m)))
    yield {
        "n": n,
        "clauses": m,
        "seconds a sweep": sweep,
        "seconds for the rest": rest,
        "peak_mb": peak,
        "peak_mb before": before,
        "value after 21 sweeps": cost,
    }
