"""MAXSAT: relax, solve by the mixing method, round, search locally, bound by the dual, and ask python-sat for the rest."""

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import LARGEST_K, check_generator, check_number, check_size, listed_clauses
from difflayers._distribution import needs
from difflayers.functional._satnet import default_k
from difflayers.maxsat import exact as pysat
from difflayers.maxsat.dimacs import read
from difflayers.maxsat.instance import Instance
from difflayers.maxsat.mixing import Mixing
from difflayers.maxsat.relaxation import relax
from difflayers.maxsat.search import Search
from difflayers.maxsat.solution import Prover, Refuter, Solution


def solve(
    problem: str | Path | Instance | Iterable[Sequence[int]],
    *,
    n: int | None = None,
    weights: Sequence[float] | np.ndarray | Tensor | None = None,
    k: int | None = None,
    max_iter: int = 1000,
    eps: float = 1e-6,
    rounds: int = 100,
    local_search: bool = True,
    hard_weight: float | None = None,
    sat: float = 60.0,
    exact: float = 0.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
    on_improvement: Callable[[float, int], None] | None = None,
) -> Solution:
    r"""Find an assignment that violates little weight, and a lower bound on what any assignment must violate.

    The relaxation gives each variable a unit vector and each clause of L literals the loss

    .. math:: \frac{\|v_\top - \sum_l \pm v_l\|^2 - (L - 1)^2}{4 L}
       \;\le\; [\text{clause violated}] \quad\text{at assignments, with equality for } L \le 2,

    the sum of which is minimised by the mixing method (coordinate descent, in k > sqrt(2 (n + 1)) dimensions enough for the
    SDP's optimum). The dual gives a bound at any point of it. Random hyperplanes round the vectors, single flips improve each
    result, and the best is kept. An assignment that violates fewer hard clauses is always better, whatever the soft ones weigh.
    If the best one violates any, python-sat looks for one that does not, or proves that there is none.
    With `exact` python-sat's RC2 then looks for the optimum. Ctrl-C ends any phase early with the best so far.

    Args:
        problem: a DIMACS file (see `read`), an `Instance`, or clauses as lists of signed integers.
        n, weights: with clauses, see `Instance.from_clauses`.
        k: dimension of the vectors, 2 to 2**20; default: `difflayers.functional.default_k` of n + 1, n without the variables
            that no clause has.
        max_iter, eps: the mixing method ends after max_iter sweeps, or one that gains less than eps times the first's gain.
        rounds: random hyperplanes.
        local_search: improve each rounding by single flips.
        hard_weight: what a hard clause counts in the relaxation; default: 1 + the sum of all soft weights. A smaller one makes
            for a better conditioned SDP; the bound stays valid. In the search hard clauses come before all soft ones anyway.
        sat: seconds for the SAT solver, if hard clauses are violated still. 0: none. Needs python-sat.
        exact: seconds for RC2, in a process of its own; it gives better bounds and assignments, and ends early with the
            optimum. 0: none. Needs python-sat. What it finds in time depends on the machine.
        generator: where starts and hyperplanes are drawn from; torch's global one if None.
        progress: show progress bars (tqdm) on the standard error.
        on_improvement: called with (cost, hard violations) of each assignment that is the best so far.

    Returns:
        A `Solution`: assignment and bound, who found and who proved them, and whether they prove the optimum.

    Raises:
        ImportError: `exact` without python-sat, `progress` without tqdm.
        TypeError, ValueError: see `Instance.from_clauses` and `read`; options out of range.
        RuntimeError: python-sat fails.

    Warns:
        UserWarning: hard clauses are violated still, and python-sat, which could tell whether they must be, is not installed.

    Weights are exact: `optimal` says that the bound, rounded up to a whole multiple of the weights' greatest common divisor, is
    the cost. What float64 may have rounded off is subtracted from the bound first. With more than 3,000 variables the
    relaxation's bound holds but for a probability of 1e-9 over the generator (Lanczos iterations from a random start).

    Guarantees: for clauses of one and two literals the rounding satisfies in expectation at least 0.878 times the weight
    that can be satisfied (Goemans and Williamson 1995). For longer clauses none is known for this relaxation.

    References:
        Wang, Kolter, "Low-rank semidefinite programming for the MAX2SAT problem", AAAI 2019. Goemans, Williamson, "Improved
        approximation algorithms for maximum cut and satisfiability problems using semidefinite programming", J. ACM 1995.
        Ignatiev, Morgado, Marques-Silva, "RC2: an efficient MaxSAT solver", JSAT 2019.

    Example:
        >>> import torch
        >>> from difflayers import maxsat
        >>> solution = maxsat.solve([[1, 2], [-1, 2], [1, -2], [-1, -2]], generator=torch.Generator().manual_seed(0))
        >>> solution.cost, solution.bound, solution.optimal
        (1, 1, True)
    """
    started = time.perf_counter()
    check_size("max_iter", max_iter)
    check_size("rounds", rounds)
    check_number("eps", eps)
    check_number("sat", sat)
    check_number("exact", exact)
    if k is not None:
        check_size("k", k, least=2, most=LARGEST_K)
    if hard_weight is not None:
        check_number("hard_weight", hard_weight, positive=True, most=2.0**100)
    check_generator("generator", generator)
    if on_improvement is not None and not callable(on_improvement):
        raise TypeError(f"on_improvement must be callable; got {type(on_improvement).__name__}")
    if exact and not pysat.available():
        raise ImportError(needs("exact", "python-sat"))
    if progress:
        _tqdm()
    whole = _instance(problem, n, weights)
    device = "cpu" if generator is None else generator.device
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=device)))
    instance, variables = whole.without_unused()
    work = _Work(instance, Search(instance, local_search, on_improvement), draw, progress)
    interrupted = False
    try:
        work.relax(k, hard_weight, max_iter, eps)
        work.round(rounds)
        work.bound_by_relaxation()
        if sat and not work.search.feasible and work.infeasible_by is None:
            work.satisfy(sat)
        if exact and not work.settled:
            work.optimise(exact)
    except KeyboardInterrupt:
        interrupted = True
        if work.search.x is None:
            work.search.consider(work.start(), draw, slices=1)
    return work.solution(whole.n, variables, interrupted, started)


class _Work:
    """The phases of `solve`, and what each adds to the best assignment and the best bound."""

    def __init__(self, instance: Instance, search: Search, draw: np.random.Generator, progress: bool) -> None:
        self.instance, self.search, self.draw, self.progress = instance, search, draw, progress
        self.mixing: Mixing | None = None
        self.scale = 1.0
        self.rest, self.certain = instance, instance.empty_units
        self.bound = self.certain
        self.bound_by: Prover = "weights"
        self.infeasible_by: Refuter | None = "an empty clause" if instance.empty_hard else None

    @property
    def optimal(self) -> bool:
        return self.search.feasible and self.search.violated[1] == self.bound

    @property
    def settled(self) -> bool:
        """Whether nothing is left to find out."""
        return self.optimal or self.infeasible_by is not None

    def relax(self, k: int | None, hard_weight: float | None, max_iter: int, eps: float) -> None:
        # What opposite unit clauses cost is known without a relaxation, which is the more exact for not having them.
        self.rest, certain = self.instance.without_opposites()
        self.certain += certain
        self.raise_bound(self.certain, "weights")
        weights = self.rest.finite_weights(hard_weight)
        # A power of two, so that nothing is rounded, and float32 takes any weights.
        self.scale = math.ldexp(1.0, math.frexp(weights.max(initial=0.0))[1])
        relaxation = relax(self.rest, weights / self.scale)
        self.mixing = Mixing(relaxation, default_k(self.instance.n + 1) if k is None else k, self.draw)
        for sweep in _bar(range(max_iter), self.progress, "sweeps"):
            self.mixing.sweep(eps)
            if self.mixing.converged:
                break
            if sweep == 0:
                self.search.consider(self.start(), self.draw)

    def start(self) -> np.ndarray:
        """The assignment nearest to the vectors as they are."""
        return np.zeros(self.instance.n, bool) if self.mixing is None else self.mixing.V[:, 0] > 0

    def round(self, rounds: int) -> None:
        assert self.mixing is not None
        for _ in _bar(range(rounds), self.progress, "hyperplanes"):
            self.search.consider(self.mixing.round(self.draw), self.draw)
            if self.optimal:
                break

    def bound_by_relaxation(self) -> None:
        assert self.mixing is not None
        if self.optimal:
            return
        dual = self.scale * self.mixing.bound(self.draw, lambda count: _bar(range(count), self.progress, "bound"))
        units = self.rest.units.tolist()
        step = math.gcd(*units) or 1
        least = max(0, math.ceil(Fraction(dual) / (self.instance.unit * step))) * step
        if least > sum(units):  # only a hard clause can be worth that much
            self.infeasible_by = self.infeasible_by or "relaxation"
        else:
            self.raise_bound(least + self.certain, "relaxation")

    def raise_bound(self, units: int, prover: Prover) -> None:
        """Take a bound on what violated clauses weigh if it is better."""
        if units > self.bound:
            self.bound, self.bound_by = units, prover

    def satisfy(self, seconds: float) -> None:
        if not pysat.available():
            warnings.warn(
                f"{self.search.violated[0]} hard clauses are violated still; "
                + needs("a SAT solver, which satisfies them or proves that nothing does,", "python-sat"),
                UserWarning,
                stacklevel=3,
            )
            return
        with closing(self.listen("satisfy", seconds, "SAT solver")) as all_news:
            for news in all_news:
                if news.infeasible:
                    self.infeasible_by = "SAT solver"
                elif news.x is not None:
                    self.search.consider(news.x, self.draw, "SAT solver")

    def optimise(self, seconds: float) -> None:
        with closing(self.listen("optimise", seconds, "RC2")) as all_news:
            for news in all_news:
                if news.infeasible:
                    self.infeasible_by = "RC2"
                if news.x is not None:
                    self.search.consider(news.x, self.draw, "RC2")
                if news.bound is not None:
                    self.raise_bound(news.bound + self.instance.empty_units, "RC2")
                self.check()
                if self.settled:
                    return

    def check(self) -> None:
        """What python-sat says must agree with the assignment at hand, whose cost is counted here."""
        if not self.search.feasible:
            return
        if self.infeasible_by is not None:
            raise RuntimeError(
                f"python-sat's {self.infeasible_by} says that no assignment satisfies the hard clauses; one does"
            )
        if self.search.violated[1] < self.bound:
            bound, cost = self.instance.number(self.bound), self.instance.number(self.search.violated[1])
            raise RuntimeError(f"{self.bound_by} proves that {bound} must be violated; an assignment violates {cost}")

    def listen(self, task: pysat.Task, seconds: float, name: str) -> Generator[pysat.News]:
        if not self.progress:
            yield from pysat.run(task, self.instance, seconds)
            return
        began = time.monotonic()
        with _tqdm()(total=round(seconds, 1), desc=name, unit="s", leave=False) as bar:
            for news in pysat.run(task, self.instance, seconds):
                bar.n = round(time.monotonic() - began, 1)
                bar.set_postfix_str(f"{self.instance.number(self.bound)} at least")
                yield news

    def solution(self, n: int, variables: np.ndarray, interrupted: bool, started: float) -> Solution:
        assert self.search.x is not None
        hard, units = self.search.violated
        cost, bound = self.instance.number(units), self.instance.number(self.bound)
        if isinstance(bound, float) and self.bound * self.instance.unit < Fraction(bound) and not self.optimal:
            bound = math.nextafter(bound, 0)
        relaxation = None
        if self.mixing is not None and (self.mixing.sweeps or self.mixing.converged):
            relaxation = self.scale * self.mixing.value()[0] + float(self.certain * self.instance.unit)
        angles = np.full(len(variables), 0.5) if self.mixing is None else self.mixing.probabilities()
        return Solution(
            n=n,
            cost=cost,
            hard_violations=hard,
            found_by=self.search.found_by,
            bound=bound,
            bound_by=self.bound_by,
            optimal=self.optimal,
            infeasible_by=self.infeasible_by,
            relaxation=relaxation,
            sweeps=self.mixing.sweeps if self.mixing is not None else 0,
            converged=self.mixing is not None and self.mixing.converged,
            interrupted=interrupted,
            seconds=time.perf_counter() - started,
            variables=torch.from_numpy(variables.astype(np.int64)),
            values=torch.from_numpy(self.search.x),
            angles=torch.from_numpy(angles),
        )


def _instance(problem: object, n: int | None, weights: Sequence[float] | np.ndarray | Tensor | None) -> Instance:
    if isinstance(problem, str | Path | Instance):
        for name, value in (("n", n), ("weights", weights)):
            if value is not None:
                raise ValueError(
                    f"{name} must be None with a {type(problem).__name__}, which says it itself; got {value!r}"
                )
        return problem if isinstance(problem, Instance) else read(problem)
    try:
        rows = listed_clauses(problem)
    except TypeError:
        raise TypeError(f"problem must be a path, an Instance or clauses; got {type(problem).__name__}") from None
    return Instance.from_clauses(rows, n, weights)


def _bar(steps: range, progress: bool, name: str) -> Iterable[int]:
    return _tqdm()(steps, desc=name, leave=False) if progress else steps


def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(needs("progress", "tqdm")) from error
    return tqdm
