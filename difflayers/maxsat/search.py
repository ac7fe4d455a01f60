"""The best assignment so far, hard clauses before soft ones, each counted exactly."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from difflayers.maxsat import kernels
from difflayers.maxsat.instance import Instance
from difflayers.maxsat.solution import Finder

# Literals that local search looks at between two moments at which Ctrl-C is heard.
BUDGET = 20_000_000


class Search:
    """Keeps the best of the assignments that it is given, each improved by single flips first."""

    def __init__(
        self, instance: Instance, local_search: bool, on_improvement: Callable[[float, int], None] | None = None
    ) -> None:
        self.instance, self.local_search, self.on_improvement = instance, local_search, on_improvement
        self.x: np.ndarray | None = None
        self.violated = (0, 0)
        """Hard clauses and units of soft ones that x violates: compared in this order, nothing outweighs a hard clause."""
        self.found_by: Finder = "rounding"
        # Beyond 64 bits flips are judged by rounded weights. What they lead to is counted exactly all the same.
        self.weights = instance.units if instance.units.dtype == np.int64 else instance.finite_weights(0.0)

    @cached_property
    def _clauses(self) -> tuple[np.ndarray, np.ndarray]:
        """The clauses of each variable, and where they begin."""
        i = self.instance
        variable = np.abs(i.literals) - 1
        starts = np.concatenate(([0], np.cumsum(np.bincount(variable, minlength=i.n)))).astype(np.int64)
        return starts, (np.sign(i.literals) * (i.clause_of + 1))[np.argsort(variable, kind="stable")]

    @property
    def feasible(self) -> bool:
        return self.x is not None and self.violated[0] == 0

    def consider(
        self, x: np.ndarray, draw: np.random.Generator, found_by: Finder = "rounding", slices: int = 2**62
    ) -> None:
        """Improve x, in so many slices of `BUDGET` at most, and keep it if it is the best."""
        i, x = self.instance, np.array(x, bool)
        counts = kernels.count_true(i.literals, i.offsets, x)
        if self.local_search:
            starts, clauses = self._clauses
            tolerance = 0.0 if self.weights.dtype == np.int64 else 1e-12 + 1e-15 * int(np.diff(starts).max(initial=0))
            order, place = draw.permutation(i.n), np.zeros(2, np.int64)
            for _ in range(slices):
                fixed = (self.weights, i.hard, starts, clauses, order, tolerance, BUDGET)
                if kernels.local_search(*fixed, place, counts, x):
                    break
        violated = i.violated(counts)
        if self.x is None or violated < self.violated:
            self.x, self.violated, self.found_by = x, violated, found_by
            if self.on_improvement is not None:
                self.on_improvement(i.number(violated[1]), violated[0])
