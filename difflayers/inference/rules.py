"""Rules: clauses over the bits of finite-domain variables, given or learnt, to read, to check and to reason with."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import listed_clauses
from difflayers.inference.domains import Domains
from difflayers.inference.kernels import propagate


@dataclass(frozen=True)
class Rule:
    """A clause: at least one of its literals is true."""

    clause: tuple[int, ...]
    """Bits in DIMACS signs: b for bit b, from 1, and -b for its negation."""
    support: int = 0
    """In how many of the given solutions all literals but one are false, so that the rule determines the last one."""
    expected: float = 0.0
    """How many of the solutions would violate the rule if its literals were independent. None does violate it."""
    strength: float = 0.0
    """How strongly the layer holds the rule: the mean coupling of its pairs of bits in S, with the signs of the rule."""


class Rules:
    """Clauses over the bits of `Domains`. That each variable has one value is always one of the rules; do not list it.

    Args:
        domains: the variables.
        rules: the rules, in the order in which they are listed.

    Raises:
        TypeError, ValueError: see `from_clauses`.

    Example:
        >>> from difflayers import Domains, inference
        >>> domains = Domains([2, 2, 3], names=["rain", "sun", "season"])
        >>> rules = inference.Rules.from_clauses(domains, [[-1, -2], [2, 5]])
        >>> print(rules)
        2 rules over 3 variables
        if rain = 1 then sun = 0
        sun = 1 or season = 2
    """

    def __init__(self, domains: Domains, rules: Iterable[Rule]) -> None:
        if not isinstance(domains, Domains):
            raise TypeError(f"domains must be Domains; got {type(domains).__name__}")
        self.domains = domains
        self._rules = tuple(rules)
        for rule in self._rules:
            if not rule.clause:
                raise ValueError("clauses must have a literal each; got an empty one, which nothing satisfies")
            for literal in rule.clause:
                if isinstance(literal, bool) or not isinstance(literal, int):
                    raise TypeError(f"clauses must hold integers; got {literal!r}")
                if not 1 <= abs(literal) <= domains.bits:
                    raise ValueError(f"clauses must hold bits 1 to {domains.bits} or their negations; got {literal}")

    @classmethod
    def from_clauses(cls, domains: Domains, clauses: Iterable[Sequence[int]]) -> "Rules":
        """Rules that are known: clauses in DIMACS signs over the bits, those of `SATNet.from_clauses` for instance.

        Raises:
            TypeError, ValueError: a literal is no integer or no bit; an empty clause.
        """
        clauses = [listed_clauses(clause, i) for i, clause in enumerate(listed_clauses(clauses))]
        return cls(domains, [Rule(tuple(int(i) if hasattr(i, "__index__") else i for i in c)) for c in clauses])

    def __len__(self) -> int:
        """How many rules there are, the domains' own not counted."""
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def __getitem__(self, index: int) -> Rule:
        return self._rules[index]

    def __add__(self, other: "Rules") -> "Rules":
        """Both, without repeated clauses."""
        if not isinstance(other, Rules):
            return NotImplemented
        if other.domains.sizes != self.domains.sizes:
            raise ValueError(f"rules must be over the same domains; got {self.domains} and {other.domains}")
        found = {frozenset(rule.clause): rule for rule in (*other, *self)}
        return Rules(self.domains, found.values())

    @property
    def clauses(self) -> list[list[int]]:
        """All clauses, the domains' own first: each variable has one value."""
        return self.domains.clauses() + [list(rule.clause) for rule in self]

    def describe(self, rule: Rule) -> str:
        """A rule in words, with the names of the domains."""
        literals = sorted(rule.clause, key=lambda i: (i > 0, abs(i)))
        told = self.domains.describe
        if len(literals) > 1 and literals[0] < 0:
            return f"if {' and '.join(told(-i) for i in literals[:-1])} then {told(literals[-1])}"
        return " or ".join(map(told, literals))

    def __str__(self) -> str:
        lines = [self.describe(rule) for rule in self._rules[:50]]
        more = [f"... and {len(self) - 50:,} more"] if len(self) > 50 else []
        return "\n".join([f"{len(self):,} rules over {len(self.domains)} variables", *lines, *more])

    def __repr__(self) -> str:
        return f"Rules({self.domains!r}, {len(self):,} rules)"

    def to_cnf(self) -> str:
        """All clauses as a DIMACS file (``p cnf``), with the bits' meaning as comments."""
        comments = [f"c {b} {self.domains.describe(b)}" for b in range(1, self.domains.bits + 1)]
        clauses = self.clauses
        lines = [" ".join(map(str, [*clause, 0])) for clause in clauses]
        return "\n".join([*comments, f"p cnf {self.domains.bits} {len(clauses)}", *lines]) + "\n"

    def equations(self) -> tuple[Tensor, Tensor]:
        r"""The rules that are linear equations over the bits, A z = b, as `SATNet.from_equations` takes them.

        These are the sets of literals of which exactly one is true: a clause says that one of them is, pairs that no two are. A
        clause of one literal is such a set too, and so are the values of each variable. All other rules are left out.

        Returns:
            A (equations, bits) and b (equations,), int64.

        Example:
            >>> from difflayers import Domains, inference
            >>> rules = inference.Rules.from_clauses(Domains([2, 2, 3]), [[1, 2], [-1, -2], [1, 3]])
            >>> rules.equations()       # one value of the third variable, and one of the bits 1 and 2
            (tensor([[0, 0, 1, 1, 1],
                    [1, 1, 0, 0, 0]]), tensor([1, 1]))
        """
        clauses = [c for c in dict.fromkeys(map(frozenset, self.clauses)) if not any(-i in c for i in c)]
        pairs = {clause for clause in clauses if len(clause) == 2}
        sets = [clause for clause in clauses if all(frozenset((-i, -j)) in pairs for i, j in combinations(clause, 2))]
        # Of two literals the clause and the pair say the same with all signs changed.
        sets = [clause for clause in sets if len(clause) != 2 or max(clause, key=abs) > 0]
        A = torch.zeros(len(sets), self.domains.bits, dtype=torch.int64, device="cpu")
        b = torch.ones(len(sets), dtype=torch.int64, device="cpu")
        for row, clause in enumerate(sets):
            for literal in clause:
                A[row, abs(literal) - 1] = 1 if literal > 0 else -1
                b[row] -= int(literal < 0)
        return A, b

    def violations(self, values: Tensor, given: Tensor | None = None) -> Tensor:
        """Which rules each assignment violates: those whose literals are all known to be false.

        Args:
            values, given: (..., v), see `Domains.check`.

        Returns:
            (..., number of rules), bool.

        Raises:
            TypeError, ValueError: see `Domains.check`.

        Example:
            >>> import torch
            >>> from difflayers import Domains, inference
            >>> rules = inference.Rules.from_clauses(Domains([2, 2]), [[-1, -2], [1, 2]])
            >>> rules.violations(torch.tensor([[1, 1], [0, 1]]))
            tensor([[ True, False],
                    [False, False]])
        """
        bits, known = self.domains.encode(values, given)
        false = torch.cat((known & (bits < 0.5), known & (bits > 0.5), torch.ones_like(known[..., :1])), -1)
        if not len(self):
            return false[..., :0]
        n, width = self.domains.bits, max(len(rule.clause) for rule in self)
        padded = [[i - 1 if i > 0 else n - i - 1 for i in rule.clause] for rule in self]
        places = torch.tensor([row + [2 * n] * (width - len(row)) for row in padded], device=false.device)
        flat = false.reshape(-1, 2 * n + 1)
        parts = []
        for part in flat.split(max(1, 2**26 // places.numel())):
            violated = part[:, places[:, 0]]
            for column in places.T[1:]:
                violated = violated & part[:, column]
            parts.append(violated)
        found = torch.cat(parts) if parts else flat[:, : len(self)]
        return found.reshape(*false.shape[:-1], len(self))


def check_rules(rules: Rules | None, domains: Domains) -> Rules | None:
    """Rules over these domains, or None."""
    if rules is not None and not isinstance(rules, Rules):
        raise TypeError(f"rules must be Rules, or None; got {type(rules).__name__}")
    if rules is not None and rules.domains.sizes != domains.sizes:
        raise ValueError(f"rules must be over the domains of the layer, {domains}; got {rules.domains}")
    return rules


class Propagator:
    """Unit propagation on a batch: what follows from known literals by clauses of which all literals but one are false.

    With failed-literal probing more follows: each unknown literal is assumed, and where unit propagation then contradicts the
    clauses, its negation is known. A state holds the literals that are known to be true, (B, 2 n): first the bits, then their
    negations.
    """

    def __init__(self, rules: Rules) -> None:
        self._domains = rules.domains
        n = rules.domains.bits
        places = [sorted({i - 1 if i > 0 else n - i - 1 for i in clause}) for clause in rules.clauses]
        lengths = np.array([len(clause) for clause in places], np.int64)
        self._literals = np.array([place for clause in places for place in clause], np.int64)
        self._offsets = np.concatenate(([0], lengths.cumsum()))
        order = self._literals.argsort(kind="stable")
        # For each literal the clauses that it is in.
        self._clauses = np.arange(len(places)).repeat(lengths)[order]
        self._starts = np.searchsorted(self._literals[order], np.arange(2 * n + 1))

    def known(self, values: Tensor, given: Tensor, excluded: Tensor | None = None) -> Tensor:
        """The state of partial assignments, as `Domains.encode` takes them."""
        z, known = self._domains.encode(values, given, excluded=excluded)
        return torch.cat((known & (z > 0.5), known & (z < 0.5)), 1)

    def __call__(self, true: Tensor, probing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state at which nothing follows any more, and whether it contradicts the rules, (B,); both on the CPU.

        probing, (B,): in which rows literals are probed; in none if None. Where there is a contradiction, the state is what was
        known when it was found.
        """
        found = true.cpu().numpy().copy()
        conflict = np.zeros(len(found), np.bool_)
        probed = np.zeros(len(found), np.bool_) if probing is None else probing.cpu().numpy()
        propagate(self._literals, self._offsets, self._clauses, self._starts, probed, found, conflict)
        return torch.from_numpy(found), torch.from_numpy(conflict)
