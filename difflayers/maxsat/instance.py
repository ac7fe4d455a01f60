"""A MAXSAT instance in flat arrays, and how it is read."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Instance:
    """Weighted clauses over n variables: satisfy all hard ones, and of the soft ones as much weight as can be.

    Clauses are kept without repeated literals; tautologies (x or not x) are left out, since nothing can violate them, and
    so are empty clauses, which nothing can satisfy: those count in `empty_weight` and `empty_hard`.
    """

    n: int
    """Number of variables, 1 to n in DIMACS."""
    literals: np.ndarray
    """(L,), int64: the literals of all clauses in a row, i for variable i and -i for its negation."""
    offsets: np.ndarray
    """(m + 1,), int64: clause j has literals[offsets[j] : offsets[j + 1]]."""
    weights: np.ndarray
    """(m,), float64: inf where a clause is hard."""
    empty_weight: float = 0.0
    """Weight of the soft empty clauses."""
    empty_hard: int = 0
    """Number of hard empty clauses; above 0 the instance has no solution."""

    @staticmethod
    def from_clauses(
        clauses: Iterable[Sequence[int]], n: int | None = None, weights: Sequence[float] | None = None
    ) -> "Instance":
        """An instance from lists of signed integers (DIMACS convention, without the final 0).

        Args:
            clauses: each a sequence of integers, i for variable i, -i for its negation; never 0.
            n: number of variables; the largest that occurs if None.
            weights: one for each clause, above 0 (0 leaves the clause out); inf for a hard one; all 1 if None.

        Raises:
            TypeError: a literal is not an integer.
            ValueError: a literal is 0 or above n; weights negative, NaN or not as many as clauses.
        """
        clauses = list(clauses)
        if weights is not None and len(weights) != len(clauses):
            raise ValueError(f"weights must be one for each of {len(clauses)} clauses; got {len(weights)}")
        literals: list[int] = []
        offsets, kept, empty_weight, empty_hard, largest = [0], [], 0.0, 0, 0
        for j, clause in enumerate(clauses):
            weight = 1.0 if weights is None else float(weights[j])
            if not weight >= 0:
                raise ValueError(f"weights must be at least 0; got {weight} for clause {j}")
            members = dict.fromkeys(clause)
            for literal in members:
                if isinstance(literal, bool) or not isinstance(literal, int | np.integer):
                    raise TypeError(f"clauses must hold integers; got {type(literal).__name__} in clause {j}")
                if literal == 0 or (n is not None and abs(literal) > n):
                    wanted = "not be 0" if literal == 0 else f"be of variables 1 to n = {n}"
                    raise ValueError(f"clauses: literals must {wanted}; got {literal} in clause {j}")
                largest = max(largest, abs(literal))
            if weight == 0 or any(-literal in members for literal in members):
                continue
            if not members:
                if math.isinf(weight):
                    empty_hard += 1
                else:
                    empty_weight += weight
                continue
            literals.extend(members)
            offsets.append(len(literals))
            kept.append(weight)
        return Instance(
            largest if n is None else n,
            np.array(literals, np.int64),
            np.array(offsets, np.int64),
            np.array(kept, np.float64),
            empty_weight,
            empty_hard,
        )

    @property
    def clauses(self) -> list[list[int]]:
        """The clauses kept, as lists."""
        flat = self.literals.tolist()
        return [flat[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    @property
    def hard(self) -> np.ndarray:
        """(m,), bool: which clauses are hard."""
        return np.isinf(self.weights)

    @property
    def soft_weight(self) -> float:
        """The sum of the soft clauses' weights, empty ones included."""
        return float(self.weights[~self.hard].sum()) + self.empty_weight

    def cost(self, assignment: Sequence[bool] | np.ndarray) -> tuple[float, int]:
        """The weight of the soft clauses that an assignment (n,) violates, and the number of hard ones."""
        x = np.asarray(assignment, bool)
        if x.shape != (self.n,):
            raise ValueError(f"assignment must have shape ({self.n},); got {x.shape}")
        true = x[np.abs(self.literals) - 1] == (self.literals > 0)
        violated = np.add.reduceat(true, self.offsets[:-1]) == 0 if len(self.weights) else np.zeros(0, bool)
        soft = float(self.weights[violated & ~self.hard].sum())
        return soft + self.empty_weight, int((violated & self.hard).sum()) + self.empty_hard


def read(path: str | Path) -> Instance:
    """Read a DIMACS file: .cnf (every clause soft, weight 1) or .wcnf (old and new format), plain or compressed (.gz ...).

    Parsed by python-sat.

    Raises:
        ImportError: python-sat is not installed: ``pip install 'difflayers[maxsat]'``.
        FileNotFoundError: no such file.
        ValueError: the name ends in neither .cnf nor .wcnf (before a compression's ending), or the file is not DIMACS.
    """
    try:
        from pysat.formula import CNF, WCNF
    except ImportError as error:
        raise ImportError("reading DIMACS files needs python-sat: pip install 'difflayers[maxsat]'") from error
    path = Path(path)
    kinds = [suffix for suffix in path.suffixes[-2:] if suffix in (".cnf", ".wcnf")]
    if not kinds:
        raise ValueError(f"path must end in .cnf or .wcnf, before a compression's ending; got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file; there is no {str(path)!r}")
    try:
        if kinds[-1] == ".cnf":
            formula = CNF(from_file=str(path))
            return Instance.from_clauses(formula.clauses, formula.nv)
        formula = WCNF(from_file=str(path))
    except (ValueError, IndexError, KeyError, AssertionError) as error:
        raise ValueError(f"path must be a DIMACS file; {path.name!r} is not: {error}") from error
    weights = [math.inf] * len(formula.hard) + [float(weight) for weight in formula.wght]
    return Instance.from_clauses(formula.hard + formula.soft, formula.nv, weights)
