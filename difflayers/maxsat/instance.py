"""A MAXSAT instance in flat arrays, its weights exact, and what an assignment costs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from torch import Tensor

from difflayers._checks import check_size, listed_clauses, shown
from difflayers.maxsat.weights import Weight, check_weight, exact, listed

MOST_VARIABLES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Instance:
    """Weighted clauses over n variables: satisfy all hard ones, and of the soft ones as much weight as can be.

    Made by `from_clauses` or `read`. Clauses are kept without repeated literals; tautologies (x or not x) are left out, since
    nothing can violate them, and so are empty clauses, which nothing can satisfy: those count in `empty_units` and
    `empty_hard`. Weights are kept without rounding, as whole multiples of `unit`, and so every cost is exact.
    """

    n: int
    """Number of variables, 1 to n in DIMACS; at most 2**31 - 1."""
    literals: np.ndarray
    """(L,), int64: the literals of all clauses in a row, i for variable i and -i for its negation."""
    offsets: np.ndarray
    """(m + 1,), int64: clause j has literals[offsets[j] : offsets[j + 1]]."""
    hard: np.ndarray
    """(m,), bool: which clauses are hard."""
    units: np.ndarray
    """(m,): the weights of soft clauses, in `unit`; 0 where hard. int64, or Python's integers if their sum needs more."""
    unit: Fraction = Fraction(1)
    """1 if all weights are whole numbers; a fraction of 1 otherwise."""
    empty_units: int = 0
    """Weight of the soft empty clauses, in `unit`."""
    empty_hard: int = 0
    """Number of hard empty clauses; above 0 the instance has no solution."""

    @staticmethod
    def from_clauses(
        clauses: Iterable[Sequence[int]],
        n: int | None = None,
        weights: Sequence[float] | np.ndarray | Tensor | None = None,
    ) -> "Instance":
        """An instance from lists of signed integers (DIMACS convention, without the final 0).

        Args:
            clauses: each a sequence of integers, i for variable i, -i for its negation; never 0.
            n: number of variables; the largest that occurs if None.
            weights: one for each clause: a whole number, a float, a `Fraction` or a `Decimal` from 2**-63 to 2**63; inf for a
                hard clause, 0 to leave it out. All 1 if None.

        Raises:
            TypeError: a literal or n is not an integer; clauses are not sequences; weights are not a sequence of numbers.
            ValueError: a literal is 0, above n or above 2**31 - 1; weights negative, NaN, out of range or not as many as
                clauses.
        """
        rows = listed_clauses(clauses)
        if n is not None:
            check_size("n", n, least=0, most=MOST_VARIABLES)
        checked: list[Weight] | None = None
        if weights is not None:
            checked = [check_weight(w, f"clause {j}") for j, w in enumerate(listed(weights, len(rows)))]
        most = MOST_VARIABLES if n is None else n
        found = [_literals(clause, j, most, n is None) for j, clause in enumerate(rows)]
        return from_checked(found, n, checked)

    @property
    def clauses(self) -> list[list[int]]:
        """The clauses kept, as lists."""
        flat = self.literals.tolist()
        return [flat[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    @property
    def weights(self) -> np.ndarray:
        """(m,), float64: inf where a clause is hard, the nearest to the weight where it is soft."""
        return self.finite_weights(math.inf)

    @property
    def clause_of(self) -> np.ndarray:
        """(L,), int64: the number of the clause that each literal is in."""
        return np.repeat(np.arange(len(self.hard)), np.diff(self.offsets))

    @property
    def soft_units(self) -> int:
        """The sum of the soft clauses' weights in `unit`, empty ones included."""
        return int(self.units.sum()) + self.empty_units

    @property
    def soft_weight(self) -> float:
        """The sum of the soft clauses' weights, empty ones included: an int if all are whole."""
        return self.number(self.soft_units)

    @property
    def empty_weight(self) -> float:
        """Weight of the soft empty clauses: an int if all weights are whole."""
        return self.number(self.empty_units)

    def number(self, units: int) -> float:
        """So many units as an int if all weights are whole numbers, otherwise as the nearest float."""
        return units if self.unit == 1 else float(units * self.unit)

    def finite_weights(self, hard_weight: float | None = None) -> np.ndarray:
        """(m,), float64: the weights, that of a hard clause replaced; by default with 1 + the sum of all soft weights."""
        if self.unit == 1:
            soft = self.units.astype(np.float64)
        else:
            soft = np.array([float(u * self.unit) for u in self.units.tolist()], np.float64)
        return np.where(self.hard, 1.0 + self.soft_weight if hard_weight is None else hard_weight, soft)

    def violated(self, true_literals: np.ndarray) -> tuple[int, int]:
        """The number of hard clauses, and the units of soft ones, that have (m,) no true literal; less is better, in order."""
        none = true_literals == 0
        return int((none & self.hard).sum()) + self.empty_hard, int(self.units[none].sum()) + self.empty_units

    def cost(self, assignment: Sequence[bool] | np.ndarray | Tensor) -> tuple[float, int]:
        """The weight of the soft clauses that an assignment (n,), bool or 0 and 1, violates, and the number of hard ones.

        The weight is an int, and exact, if all weights are whole numbers; otherwise the float nearest to it.
        """
        values = np.asarray(assignment)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"assignment must hold bools, or 0 and 1; got {values.dtype}")
        x = values.astype(bool)
        if x.shape != (self.n,):
            raise ValueError(f"assignment must have shape ({self.n},); got {x.shape}")
        if values.dtype != bool and not np.array_equal(values, x):
            raise ValueError("assignment must hold bools, or 0 and 1")
        true = x[np.abs(self.literals) - 1] == (self.literals > 0)
        hard, units = self.violated(np.add.reduceat(true, self.offsets[:-1]) if len(self.hard) else np.zeros(0, int))
        return self.number(units), hard

    def without_unused(self) -> tuple["Instance", np.ndarray]:
        """The instance over the variables that its clauses have, and their numbers, ascending."""
        variables, place = np.unique(np.abs(self.literals), return_inverse=True)
        literals = np.sign(self.literals) * (place.reshape(-1) + 1)
        return replace(self, n=len(variables), literals=literals), variables

    def without_opposites(self) -> tuple["Instance", int]:
        """The instance less what clauses of one literal cost for certain, since another says the opposite; and those units."""
        units, certain = self.units.copy(), 0
        soft: dict[int, list[int]] = {}
        hard = set()
        alone = np.flatnonzero(np.diff(self.offsets) == 1)
        for j, literal in zip(alone.tolist(), self.literals[self.offsets[alone]].tolist(), strict=True):
            if self.hard[j]:
                hard.add(literal)
            else:
                soft.setdefault(literal, []).append(j)
        weight = {literal: sum(units[clauses].tolist()) for literal, clauses in soft.items()}
        for literal, clauses in soft.items():
            if -literal in hard:
                lost = weight[literal]
                certain += lost
            elif literal in hard:
                continue
            else:
                lost = min(weight[literal], weight.get(-literal, 0))
                certain += lost if literal > 0 else 0  # of the two only one is violated
            for j in clauses:
                take = min(lost, units[j])
                units[j] -= take
                lost -= take
        keep = self.hard | (units != 0)
        lengths = np.diff(self.offsets)
        return (
            replace(
                self,
                literals=self.literals[np.repeat(keep, lengths)],
                offsets=np.concatenate(([0], np.cumsum(lengths[keep]))).astype(np.int64),
                hard=self.hard[keep],
                units=units[keep],
            ),
            certain,
        )


def from_checked(clauses: list[list[int]], n: int | None, weights: Sequence[Weight] | None) -> Instance:
    """`Instance.from_clauses` of what has been checked already; as there, n is the largest variable if None."""
    literals: list[int] = []
    offsets, kept, empty, empty_hard = [0], [], [], 0
    for clause, weight in zip(clauses, weights if weights is not None else [1] * len(clauses), strict=True):
        members = set(clause)
        if weight == 0 or (len(members) > 1 and any(-literal in members for literal in members)):
            continue
        if not clause:
            if weight == math.inf:
                empty_hard += 1
            else:
                empty.append(weight)
            continue
        literals.extend(clause if len(members) == len(clause) else dict.fromkeys(clause))
        offsets.append(len(literals))
        kept.append(weight)
    if n is None:
        n = max((abs(literal) for clause in clauses for literal in clause), default=0)
    hard = np.array([weight == math.inf for weight in kept], bool)
    units, unit = exact([0 if weight == math.inf else weight for weight in kept] + empty)
    return Instance(
        n,
        np.array(literals, np.int64),
        np.array(offsets, np.int64),
        hard,
        units[: len(kept)],
        unit,
        int(units[len(kept) :].sum()),
        empty_hard,
    )


def _literals(clause: Iterable[object], j: int, most: int, free: bool) -> list[int]:
    literals = listed_clauses(clause, j)
    if not all(type(literal) is int for literal in literals):
        for literal in literals:
            if isinstance(literal, bool) or not isinstance(literal, int | np.integer):
                raise TypeError(f"clauses must hold integers; got {type(literal).__name__} in clause {j}")
        literals = [int(literal) for literal in literals]
    for literal in literals:
        if literal == 0 or not -most <= literal <= most:
            range_ = f"1 to 2**31 - 1 = {most}" if free else f"1 to n = {most}"
            wanted = "not be 0" if literal == 0 else f"be of variables {range_}"
            raise ValueError(f"clauses: literals must {wanted}; got {shown(literal)} in clause {j}")
    return literals
