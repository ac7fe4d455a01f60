"""A MAXSAT instance in flat arrays, and how it is read."""

import bz2
import gzip
import lzma
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from difflayers._checks import check_size

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".lzma": lzma.open}
# What the parser and the decompressors raise on nonsense; decimal's errors are ArithmeticErrors.
_NOT_DIMACS = (
    ValueError,
    IndexError,
    KeyError,
    AssertionError,
    ArithmeticError,
    EOFError,
    OSError,
    lzma.LZMAError,
)


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
            TypeError: a literal or n is not an integer; clauses are not sequences; weights are not a sequence of numbers.
            ValueError: a literal is 0 or above n; weights negative, NaN or not as many as clauses.
        """
        if not isinstance(clauses, Iterable):
            raise TypeError(f"clauses must be sequences of integers; got {type(clauses).__name__}")
        clauses = list(clauses)
        if n is not None:
            check_size("n", n, least=0)
        if weights is not None and not hasattr(weights, "__len__"):
            raise TypeError(f"weights must be a sequence; got {type(weights).__name__}")
        if weights is not None and len(weights) != len(clauses):
            raise ValueError(f"weights must be one for each of {len(clauses)} clauses; got {len(weights)}")
        literals: list[int] = []
        offsets, kept, empty_weight, empty_hard, largest = [0], [], 0.0, 0, 0
        for j, clause in enumerate(clauses):
            try:
                weight = 1.0 if weights is None else float(weights[j])
            except (TypeError, ValueError) as error:
                raise TypeError(f"weights must be numbers; got {weights[j]!r} for clause {j}") from error  # type: ignore[index]
            if not weight >= 0:
                raise ValueError(f"weights must be at least 0; got {weight} for clause {j}")
            if not isinstance(clause, Iterable):
                raise TypeError(f"clauses must be sequences of integers; got {type(clause).__name__} as clause {j}")
            members: dict[int, None] = {}
            for literal in clause:
                if isinstance(literal, bool) or not isinstance(literal, int | np.integer):
                    raise TypeError(f"clauses must hold integers; got {type(literal).__name__} in clause {j}")
                if literal == 0 or (n is not None and abs(int(literal)) > n):
                    wanted = "not be 0" if literal == 0 else f"be of variables 1 to n = {n}"
                    raise ValueError(f"clauses: literals must {wanted}; got {literal} in clause {j}")
                members[int(literal)] = None
                largest = max(largest, abs(int(literal)))
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
    def clause_of(self) -> np.ndarray:
        """(L,), int64: the number of the clause that each literal is in."""
        return np.repeat(np.arange(len(self.weights)), np.diff(self.offsets))

    def finite_weights(self, hard_weight: float | None = None) -> np.ndarray:
        """(m,): the weights, that of a hard clause replaced; by default with 1 + the sum of all soft weights."""
        return np.where(self.hard, 1 + self.soft_weight if hard_weight is None else hard_weight, self.weights)

    @property
    def soft_weight(self) -> float:
        """The sum of the soft clauses' weights, empty ones included."""
        return float(self.weights[~self.hard].sum()) + self.empty_weight

    def cost(self, assignment: Sequence[bool] | np.ndarray) -> tuple[float, int]:
        """The weight of the soft clauses that an assignment (n,), bool or 0 and 1, violates, and the number of hard ones."""
        values = np.asarray(assignment)
        x = values.astype(bool)
        if x.shape != (self.n,):
            raise ValueError(f"assignment must have shape ({self.n},); got {x.shape}")
        if values.dtype != bool and not np.array_equal(values, x):
            raise ValueError("assignment must hold bools, or 0 and 1")
        true = x[np.abs(self.literals) - 1] == (self.literals > 0)
        violated = np.add.reduceat(true, self.offsets[:-1]) == 0 if len(self.weights) else np.zeros(0, bool)
        soft = float(self.weights[violated & ~self.hard].sum())
        return soft + self.empty_weight, int((violated & self.hard).sum()) + self.empty_hard


def read(path: str | Path) -> Instance:
    """Read a DIMACS file: .cnf (every clause soft, weight 1) or .wcnf (old and new format), plain or compressed (.gz ...).

    Parsed by python-sat. Variables are as many as the header says, or more if clauses have more.

    Raises:
        ImportError: python-sat is not installed: ``pip install 'difflayers[maxsat]'``.
        FileNotFoundError: no such file.
        ValueError: the name ends in neither .cnf nor .wcnf (before a compression's ending: .gz, .bz2, .xz, .lzma), or the
            file is not DIMACS.
    """
    try:
        from pysat.formula import CNF, WCNF
    except ImportError as error:
        raise ImportError("reading DIMACS files needs python-sat: pip install 'difflayers[maxsat]'") from error
    path = Path(path)
    kind = "".join(path.suffixes[-2:-1] if path.suffix in COMPRESSED else path.suffixes[-1:])
    if kind not in (".cnf", ".wcnf"):
        raise ValueError(f"path must end in .cnf or .wcnf, before a compression's ending; got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file; there is no {str(path)!r}")
    try:
        with COMPRESSED.get(path.suffix, open)(path, "rt", encoding="utf-8", errors="replace") as file:
            text = file.read()
        # "%" ends the clauses in the files of SATLIB.
        formula = CNF(from_string=text.partition("\n%")[0]) if kind == ".cnf" else WCNF(from_string=text)
    except _NOT_DIMACS as error:
        if getattr(error, "errno", None) is not None:
            raise  # the file cannot be read at all
        raise ValueError(f"path must be a DIMACS file; {path.name!r} is not: {error}") from error
    header = re.search(r"^p\s+w?cnf\s+(\d+)", text, re.MULTILINE)
    n = max(formula.nv, int(header[1]) if header else 0)
    if kind == ".cnf":
        return Instance.from_clauses(formula.clauses, n)
    weights = [math.inf] * len(formula.hard) + [float(weight) for weight in formula.wght]
    return Instance.from_clauses(formula.hard + formula.soft, n, weights)
