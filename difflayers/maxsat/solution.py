"""What `maxsat.solve` returns: the best assignment, the best bound, and who found and proved what."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Finder = Literal["rounding", "SAT solver", "RC2"]
Prover = Literal["weights", "relaxation", "RC2"]
Refuter = Literal["an empty clause", "relaxation", "SAT solver", "RC2"]


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What `solve` found, and what it proved. Printed, it is a short table."""

    n: int
    """Number of variables."""
    cost: float
    """The weight of the soft clauses that the assignment violates: an int, and exact, if all weights are whole numbers."""
    hard_violations: int
    """The number of hard clauses that it violates: 0 for a feasible assignment."""
    found_by: Finder
    """Whose assignment it is: a rounding of the relaxation, improved by local search, or that of python-sat."""
    bound: float
    """No assignment that satisfies all hard clauses costs less. Never below 0. An int if all weights are whole numbers,
    otherwise a float, rounded down unless it equals the cost."""
    bound_by: Prover
    """Who proved that: the weights (0, and empty clauses), the dual of the relaxation, or RC2."""
    optimal: bool
    """Whether the assignment is proved to be optimal: feasible, and the bound, before any rounding for print, is its cost."""
    infeasible_by: Refuter | None
    """Who proved that no assignment satisfies all hard clauses; None if nobody did."""
    relaxation: float | None
    """The value of the SDP at the end, not rounded. It is about the dual's bound if converged. None if there was no sweep."""
    sweeps: int
    """How many sweeps of the mixing method were done."""
    converged: bool
    """Whether the last sweep gained less than eps times what the first did."""
    interrupted: bool
    """Whether Ctrl-C ended it early."""
    seconds: float
    """Wall-clock time."""
    variables: Tensor
    """(u,), int64: the variables that clauses have, ascending from 1; the others are false, with probability 1/2."""
    values: Tensor
    """(u,), bool: their values in the best assignment found."""
    angles: Tensor
    """(u,), float64: their `probabilities`."""

    @property
    def assignment(self) -> Tensor:
        """(n,), bool: the best assignment found."""
        x = torch.zeros(self.n, dtype=torch.bool)
        x[self.variables - 1] = self.values
        return x

    @property
    def probabilities(self) -> Tensor:
        """(n,), float64: the SDP's view of each variable, arccos(-v_i . v_T) / pi; 1 is true."""
        p = torch.full((self.n,), 0.5, dtype=torch.float64)
        p[self.variables - 1] = self.angles
        return p

    @property
    def gap(self) -> float:
        """cost - bound: how far from the optimum the assignment can be, if it is feasible."""
        return self.cost - self.bound

    @property
    def infeasible(self) -> bool:
        """Whether it is proved that no assignment satisfies all hard clauses."""
        return self.infeasible_by is not None

    @property
    def status(self) -> Literal["optimal", "feasible", "infeasible", "unknown"]:
        """What is known: "unknown" means that hard clauses are violated, and that it is not known whether they must be."""
        if self.optimal:
            return "optimal"
        if self.infeasible:
            return "infeasible"
        return "unknown" if self.hard_violations else "feasible"

    def digits(self) -> Iterator[str]:
        """The assignment as text, 0 or 1 for each variable, in pieces of a million."""
        variables, values, piece = self.variables.numpy(), self.values.numpy(), 2**20
        for first in range(1, self.n + 1, piece):
            a, b = np.searchsorted(variables, [first, first + piece])
            text = np.full(min(piece, self.n + 1 - first), ord("0"), np.uint8)
            text[variables[a:b] - first] += values[a:b]
            yield text.tobytes().decode()

    def __repr__(self) -> str:
        violated = f", {self.hard_violations} hard clauses violated" if self.hard_violations else ""
        proved = {"optimal": f" (proved by {self.bound_by})", "infeasible": f" (proved by {self.infeasible_by})"}
        relaxed = "no sweep" if self.relaxation is None else f"{self.relaxation:.6g}"
        rows = [
            ("status", self.status + proved.get(self.status, "")),
            ("cost", f"{self.cost}{violated} ({self.found_by})"),
            ("bound", f"{self.bound} ({self.bound_by})"),
            ("relaxation", f"{relaxed}, {self.sweeps} sweeps, {'converged' if self.converged else 'not converged'}"),
            ("time", f"{self.seconds:.3g} s{', interrupted' if self.interrupted else ''}"),
        ]
        return "\n".join(f"{name:<12}{value}" for name, value in rows)
