"""Solutions as literals, and the chance that two of them never meet: what the extraction of rules counts with."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from torch import Tensor

from difflayers.inference.domains import Domains
from difflayers.inference.rules import Rule


@dataclass(frozen=True)
class Literals:
    """Solutions as literals: literal t < n is bit t being true, literal n + t that bit being false."""

    true: NDArray[np.float32]
    """(count, 2 n), 1 where a literal is true."""
    total: NDArray[np.float64]
    """(2 n,): in how many solutions it is."""
    owner: NDArray[np.int64]
    """(2 n,): the variable that it is of."""
    strength: NDArray[np.float64]
    """(2 n, 2 n): what S says against two of them being true together."""

    @classmethod
    def of(cls, S: Tensor | None, domains: Domains, solutions: Tensor) -> "Literals":
        """Solutions (count, v), and what the clause matrix S says of their bits: nothing, if there is none."""
        bits = domains.encode(solutions)[0].numpy().astype(np.float32)
        true = np.concatenate((bits, 1 - bits), 1)
        rows = np.zeros((domains.bits, 1)) if S is None else S[1 : domains.bits + 1].double().cpu().numpy()
        C = rows @ rows.T
        owner = domains._owner.numpy()
        return cls(
            true=true,
            total=true.sum(0, dtype=np.float64),
            owner=np.concatenate((owner, owner)),
            strength=np.block([[C, -C], [-C, C]]),
        )

    @property
    def count(self) -> int:
        """How many solutions there are."""
        return len(self.true)

    def clause(self, literals: Iterable[int]) -> tuple[int, ...]:
        """Not all of these are true: a clause in DIMACS signs."""
        n = len(self.total) // 2
        return tuple(sorted((-(t + 1) if t < n else t - n + 1 for t in literals), key=abs))

    def at_least_one(self, literals: NDArray[np.int64]) -> Rule:
        """One of these is true, where no two of them are: its strength is the mean of the pairs'."""
        clause = tuple(-literal for literal in self.clause(literals.tolist()))
        expected = self.count * float(np.prod(1 - self.total[literals] / self.count))
        strengths = self.strength[np.ix_(literals, literals)][np.triu_indices(len(literals), 1)]
        return Rule(clause, self.count, expected, float(strengths.mean()))


def log_chance(a: ArrayLike, b: ArrayLike, count: ArrayLike) -> NDArray[np.float64]:
    """log P(two sets of sizes a and b, drawn from `count` independently, have nothing in common); -inf where they must."""
    a, b, count = np.asarray(a), np.asarray(b), np.asarray(count)
    rest = count - a - b
    value = gammaln(count - a + 1) + gammaln(count - b + 1) - gammaln(count + 1) - gammaln(np.maximum(rest, 0) + 1)
    return np.where(rest < 0, -np.inf, np.minimum(value, 0.0))
