"""MAXSAT: relax, solve by the mixing method, bound by the dual, round by hyperplanes, search locally."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import check_number, check_size
from difflayers.functional._satnet import default_k
from difflayers.maxsat import kernels
from difflayers.maxsat.instance import Instance, read
from difflayers.maxsat.relaxation import Relaxation, dual_bound, relax


@dataclass(frozen=True)
class Solution:
    """What `solve` found, and what it proved."""

    assignment: Tensor
    """(n,), bool: the best assignment found."""
    cost: float
    """The weight of the soft clauses that it violates."""
    hard_violations: int
    """The number of hard clauses that it violates: 0 for a feasible assignment."""
    bound: float
    """No assignment that satisfies all hard clauses costs less; never below 0."""
    relaxation: float
    """The value of the SDP at the end, rounded to nothing: about the bound if converged."""
    probabilities: Tensor
    """(n,), float64: the SDP's view of each variable, arccos(-v_i . v_T) / pi; 1 is true."""
    sweeps: int
    """Of the mixing method."""
    converged: bool
    """Whether the last sweep gained less than eps times what the first did."""
    interrupted: bool
    """Whether Ctrl-C ended it early."""
    seconds: float
    """Wall-clock time."""

    @property
    def gap(self) -> float:
        """cost - bound: how far from the optimum the assignment can be, if it is feasible; 0 proves it optimal."""
        return self.cost - self.bound

    @property
    def optimal(self) -> bool:
        """Whether the assignment is proved to be optimal."""
        return self.hard_violations == 0 and self.gap <= 1e-9 * self.cost


def solve(
    problem: str | Path | Instance | Iterable[Sequence[int]],
    *,
    n: int | None = None,
    weights: Sequence[float] | None = None,
    k: int | None = None,
    max_iter: int = 1000,
    eps: float = 1e-6,
    rounds: int = 100,
    local_search: bool = True,
    hard_weight: float | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    on_improvement: Callable[[float, int], None] | None = None,
) -> Solution:
    r"""Find an assignment that violates little weight, and a lower bound on what any assignment must violate.

    The relaxation gives each variable a unit vector and each clause of L literals the loss

    .. math:: \frac{\|v_\top - \sum_l \pm v_l\|^2 - (L - 1)^2}{4 L}
       \;\le\; [\text{clause violated}] \quad\text{at assignments, with equality for } L \le 2,

    the sum of which is minimised by the mixing method (coordinate descent, in k > sqrt(2 (n + 1)) dimensions enough for the
    SDP's optimum). A bound follows from the dual at any point of it. The vectors are rounded by random hyperplanes,
    each result is improved by single flips, and the best is returned. Ctrl-C ends any phase early with the best so far.

    Args:
        problem: a DIMACS file (see `read`), an `Instance`, or clauses as lists of signed integers.
        n, weights: with clauses, see `Instance.from_clauses`.
        k: dimension of the vectors; default: the smallest multiple of 8 above sqrt(2 (n + 1)).
        max_iter, eps: the mixing method ends after max_iter sweeps, or one that gains less than eps times the first's gain.
        rounds: random hyperplanes.
        local_search: improve each rounding by single flips.
        hard_weight: what a hard clause counts in the relaxation and in the search; default: 1 + the sum of all soft weights,
            so that no amount of soft weight is worth a hard clause. A smaller one makes for a better conditioned SDP; the
            bound stays valid.
        generator: where starts and hyperplanes are drawn from; torch's global one if None.
        progress: show progress bars (tqdm) on the standard error.
        on_improvement: called with (cost, hard violations) of each assignment that is the best so far.

    Returns:
        A `Solution`.

    Raises:
        TypeError, ValueError: see `Instance.from_clauses` and `read`; options out of range.

    The bound holds but for rounding errors of float64, and with more than 3,000 variables but for a probability of 1e-9
    over the generator (Lanczos iterations from a random start). If all soft weights are whole numbers it is rounded up.

    Guarantees: for clauses of one and two literals the rounding satisfies in expectation at least 0.878 times the weight
    that can be satisfied (Goemans and Williamson 1995). For longer clauses none is known for this relaxation.

    References:
        Wang, Kolter, "Low-rank semidefinite programming for the MAX2SAT problem", AAAI 2019. Goemans, Williamson, "Improved
        approximation algorithms for maximum cut and satisfiability problems using semidefinite programming", J. ACM 1995.

    Example:
        >>> import torch
        >>> from difflayers import maxsat
        >>> solution = maxsat.solve([[1, 2], [-1, 2], [1, -2], [-1, -2]], generator=torch.Generator().manual_seed(0))
        >>> solution.cost, solution.bound, solution.optimal
        (1.0, 1.0, True)
    """
    started = time.perf_counter()
    instance = _instance(problem, n, weights)
    check_size("max_iter", max_iter)
    check_size("rounds", rounds)
    check_number("eps", eps)
    if k is not None:
        check_size("k", k, least=2)
    if hard_weight is not None:
        check_number("hard_weight", hard_weight, positive=True)
    k = default_k(instance.n + 1) if k is None else k
    weight = instance.finite_weights(hard_weight)
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    relaxation = relax(instance, weight)
    mixing = _Mixing(relaxation, k, draw)
    search = _Search(instance, weight, local_search, on_improvement)
    interrupted, bound = False, instance.empty_weight
    try:
        for sweep in _bar(range(max_iter), progress, "sweeps"):
            mixing.sweep(eps)
            if mixing.converged:
                break
            if sweep == 0:
                search.consider(mixing.V[:, 0] > 0, draw)
        for _ in _bar(range(rounds), progress, "hyperplanes"):
            search.consider(mixing.round(draw), draw)
        bound = _whole(instance, max(0.0, mixing.bound(draw, progress)) + instance.empty_weight)
    except KeyboardInterrupt:
        interrupted = True
        if search.x is None:
            search.consider(mixing.V[:, 0] > 0, draw)
    assert search.x is not None
    cost, hard_violations = instance.cost(search.x)
    return Solution(
        torch.from_numpy(search.x.copy()),
        cost,
        hard_violations,
        bound,
        mixing.value()[0] + instance.empty_weight,
        torch.from_numpy(np.arccos(np.clip(-mixing.V[:, 0].astype(float), -1, 1)) / math.pi),
        mixing.sweeps,
        mixing.converged,
        interrupted,
        time.perf_counter() - started,
    )


def _instance(problem: Any, n: int | None, weights: Sequence[float] | None) -> Instance:
    if isinstance(problem, str | Path | Instance):
        for name, value in (("n", n), ("weights", weights)):
            if value is not None:
                raise ValueError(
                    f"{name} must be None with a {type(problem).__name__}, which says it itself; got {value!r}"
                )
        return problem if isinstance(problem, Instance) else read(problem)
    if not isinstance(problem, Iterable):
        raise TypeError(f"problem must be a path, an Instance or clauses; got {type(problem).__name__}")
    return Instance.from_clauses(problem, n, weights)


def _whole(instance: Instance, bound: float) -> float:
    """The bound rounded up, but for rounding errors, if every cost is a whole number."""
    soft = np.append(instance.weights[~instance.hard], instance.empty_weight)
    return float(math.ceil(bound - 1e-6 - 1e-9 * bound)) if (np.floor(soft) == soft).all() else bound


def _bar(steps: range, progress: bool, name: str) -> Iterable[int]:
    if not progress:
        return steps
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress needs tqdm: pip install 'difflayers[maxsat]'") from error
    return tqdm(steps, desc=name, leave=False)


class _Mixing:
    """The mixing method on a relaxation: V (n, k), one sweep at a time."""

    def __init__(self, relaxation: Relaxation, k: int, draw: np.random.Generator) -> None:
        self.relaxation = relaxation
        # Beyond this size memory counts more than the last digits, which the bound does not need.
        dtype = np.float64 if relaxation.n * k <= 10**7 else np.float32
        self.V = draw.standard_normal((relaxation.n, k), dtype)
        self.V /= np.linalg.norm(self.V, axis=1, keepdims=True)
        self.W = np.ascontiguousarray((relaxation.long.T @ self.V).astype(dtype))
        self.sweeps, self.first, self.converged = 0, 0.0, relaxation.n == 0
        pairs, long = relaxation.pairs, relaxation.long
        self._arrays = (
            relaxation.truth.astype(dtype),
            pairs.indptr.astype(np.int64),
            pairs.indices.astype(np.int64),
            pairs.data.astype(dtype),
            long.indptr.astype(np.int64),
            long.indices.astype(np.int64),
            long.data.astype(dtype),
            relaxation.long_square.astype(dtype),
        )

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Pieces of a sweep of about a second at most, between which Ctrl-C is heard."""
        cost = max(1, self.relaxation.pairs.nnz + self.relaxation.long.nnz) * self.V.shape[1]
        rows = max(1, int(self.relaxation.n * min(1.0, 5e8 / cost)))
        for first in range(0, self.relaxation.n, rows):
            yield first, min(first + rows, self.relaxation.n)

    def sweep(self, eps: float) -> None:
        decrease = sum(kernels.sweep(self.V, self.W, *self._arrays, a, b) for a, b in self._slices())
        self.sweeps += 1
        if self.sweeps == 1:
            self.first = decrease
        self.converged = decrease <= eps * self.first

    def value(self) -> tuple[float, np.ndarray]:
        """The relaxation's value at V, and |g_i| there."""
        norms = np.empty(self.relaxation.n)
        total = kernels.pulls(self.V, self.W, *self._arrays, norms)
        return float(total) + self._along() + self.relaxation.constant, norms

    def _along(self) -> float:
        """sum_i C_0i v_i . v_T, the multiplier of the truth row."""
        return float(self.relaxation.truth @ self.V[:, 0].astype(np.float64))

    def bound(self, draw: np.random.Generator, progress: bool) -> float:
        """The dual's, with multipliers at V as it is; it is never above the relaxation's value, and 0 is one anyway."""
        value, norms = self.value()
        if value <= 0:
            return 0.0
        return dual_bound(
            self.relaxation, norms, self._along(), draw, lambda count: _bar(range(count), progress, "bound")
        )

    def round(self, draw: np.random.Generator) -> np.ndarray:
        """Goemans-Williamson: true where v_i is on the side of v_T of a random hyperplane."""
        normal = draw.standard_normal((self.V.shape[1],), self.V.dtype)
        return np.greater(self.V @ normal, 0) == (float(normal[0]) > 0)


class _Search:
    """The best assignment so far."""

    def __init__(
        self,
        instance: Instance,
        weight: np.ndarray,
        local_search: bool,
        on_improvement: Callable[[float, int], None] | None,
    ) -> None:
        self.instance, self.weight, self.on_improvement = instance, weight, on_improvement
        self.local_search = local_search
        self.x: np.ndarray | None = None
        self.total = math.inf
        variable = np.abs(instance.literals) - 1
        order = np.argsort(variable, kind="stable")
        self.clauses = (np.sign(instance.literals) * (instance.clause_of + 1))[order]
        self.starts = np.concatenate(([0], np.cumsum(np.bincount(variable, minlength=instance.n)))).astype(np.int64)

    def consider(self, x: np.ndarray, draw: np.random.Generator) -> None:
        x, i = np.ascontiguousarray(x), self.instance
        if self.local_search:
            order = draw.permutation(i.n)
            total = kernels.local_search(i.literals, i.offsets, self.weight, self.starts, self.clauses, order, x)
        else:
            total = kernels.violated_weight(i.literals, i.offsets, self.weight, x)
        if self.x is None or total < self.total - 1e-12 * abs(self.total):
            self.x, self.total = x, total
            if self.on_improvement is not None:
                self.on_improvement(*i.cost(x))
