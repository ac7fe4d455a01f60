"""Extraction of rules: what a layer and known solutions together say, with a test of whether chance explains it."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from difflayers._checks import check_number, check_size, check_tensor
from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.literals import Literals, log_chance
from difflayers.inference.longer import longer_rules
from difflayers.inference.objective import check_layer
from difflayers.inference.partitions import exactly_one_sets
from difflayers.inference.rules import Rule, Rules
from difflayers.nn import SATNet

LONGEST = 8
"""More literals than that in a rule would need far more solutions than anybody has."""
WEAKEST = 0.05
"""A rule that is kept on the word of S has at most this chance to be unviolated if it is none."""


def extract_rules(
    layer: SATNet | None,
    domains: Domains,
    solutions: Tensor,
    *,
    longest: int = 2,
    exactly_one: bool = False,
    false_rules: float = 0.1,
    progress: bool = False,
) -> Rules:
    r"""Extract rules, as clauses over the bits: no known solution violates them, and chance does not explain that.

    The trained layer proposes candidates, and the solutions test them. The function looks for:

    - *pairs*: two literals that are never true together (mutual exclusions, implications), of all pairs of bits;
    - *sets of which exactly one is true*: cliques of such pairs that are true in all solutions, whose at-least-one clause is
      a rule;
    - values that a variable never has;
    - with `longest` of 3 or more, up to so many literals that are never all true, where pairs and shorter ones do not imply it
      (requirements with several conditions, "at least one of these"): of three, all those among bits that S couples most (to
      each the nearest 192, or a 64th); of more, what grows from the pairs that S holds most against and those that are rarer
      than chance explains, each time by literals that are rarer with the others than with any one of them, 5,000 sets of
      each size;
    - with `exactly_one`, sets of which exactly one is true, from the solutions alone, whether or not their pairs are found;
    - the clauses that a layer of `SATNet.from_clauses` was given, where no solution violates them.

    *The test.* A clause is kept only if no solution violates it, and if that is no accident: were its literals independent,
    given how often each is true, the chance of seeing no violation is hypergeometric, about :math:`e^{-E}` for E expected
    violations. (For a value that never occurs: each value having an equal share. For a set: that of all its literals false,
    independently.) It is kept

    - if this chance, times the number of clauses tried, is at most `false_rules`: counting alone; or
    - for pairs, *on the word of S*: candidates are ranked by :math:`s_i^\top s_j`, with the sign of the clause. As far down
      that ranking as it goes, the pairs that are violated tell how many unviolated ones are no rules: each stands for
      :math:`p / (1 - p)` of them, p being its chance; one more is added for those not met yet. The ranking is followed as
      long as these sum to at most `false_rules`, and a pair is taken if its own chance is at most 0.05 (E of 3 or more).

    *The test of three literals and more* does not take them to be independent, only not to have an interaction of all: for each
    two of them, among the solutions in which all the others are true, the chance that these two are never true together were
    they independent there. The largest of these chances, times the number of *all* sets of so many literals (not of those that
    were tried), is at most `false_rules`, split among the lengths. So what short rules and preferences explain is not taken
    for a long rule.

    *The test of sets found directly* (`exactly_one`). The solutions in which the literals of such a set are true are a
    partition of all solutions, and few other sets are one: with a chance of :math:`10^{-39}`, nine literals that are each true
    in a ninth of 99 solutions. The function searches for all partitions. For each of them it sums up how many sets would be one
    by accident, were the literals independent, if all or some of its own literals were replaced. It keeps the partitions of
    which this is least, as long as these numbers sum to at most `false_rules`. The fewer the solutions, the longer the search;
    it ends after three billion steps, and what it has found then counts.

    Args:
        layer: a trained layer. If None, rules are found by counting alone; a comparison shows what the layer adds.
        domains: of its variables.
        solutions: (count, v), complete. With more of them, more rules can be told from chance.
        longest: 2 to 8, the most literals of a clause, apart from sets. Each further literal takes about twice as many
            solutions.
        exactly_one: search for sets of which exactly one is true directly, not through the pairs that exclude each other. This
            needs far fewer solutions.
        false_rules: the expected number of false rules that is accepted, for each of: counting, S, sets found directly, and
            longer rules. With few solutions, a larger number finds many more rules.
        progress: show a progress bar (tqdm) on the standard error.

    Returns:
        `Rules`, the strongest first.

    Raises:
        TypeError, ValueError: domains that do not fit the layer; values outside them; no solutions; options out of range.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, -3]])    # all three are alike
        >>> solutions = torch.tensor([[0, 0, 0], [1, 1, 1]] * 20)
        >>> print(inference.extract_rules(layer, Domains([2, 2, 2]), solutions))
        6 rules over 3 variables
        if x1 = 1 then x2 = 1
        if x2 = 1 then x1 = 1
        if x1 = 1 then x3 = 1
        if x3 = 1 then x1 = 1
        if x2 = 1 then x3 = 1
        if x3 = 1 then x2 = 1
    """
    S = None if layer is None else check_layer(layer, domains)
    if not isinstance(domains, Domains):
        raise TypeError(f"domains must be Domains; got {type(domains).__name__}")
    check_tensor("solutions", solutions, None, values=True)
    if solutions.ndim != 2:
        raise ValueError(f"solutions must have shape (count, {len(domains)}); got {tuple(solutions.shape)}")
    solutions, _ = domains._check(solutions, None, ("solutions", ""))
    if len(solutions) == 0:
        raise ValueError("solutions must be one or more; got none")
    check_size("longest", longest, least=2, most=LONGEST)
    if layer is None and longest > 2:
        raise ValueError(f"longest must be 2 where layer is None, since S says which literals to try; got {longest}")
    if not isinstance(exactly_one, bool):
        raise TypeError(f"exactly_one must be a bool; got {type(exactly_one).__name__}")
    check_number("false_rules", false_rules, positive=True)
    data = Literals.of(S, domains, solutions.cpu())
    n = domains.bits
    found: list[Rule] = []
    steps = 2 * n * (1 + (longest > 2) + exactly_one) + longest - 1
    with ProgressBar(progress, steps, "extracting", "literals") as bar:
        found += _never(data, domains, false_rules)
        together, pairs = _pairs(data, false_rules, ranked=layer is not None)
        found += pairs
        bar.update()
        found += _sets(data, domains, together, false_rules, bar)
        if exactly_one:
            found += exactly_one_sets(data, domains, false_rules, bar)
        if layer is not None:
            found += _given(layer, data)
        if longest > 2:
            found += longer_rules(data, domains, found, longest, false_rules, bar)
    own = {tuple(sorted(clause)) for clause in domains.clauses()}
    clauses: dict[tuple[int, ...], Rule] = {}
    for rule in sorted(found, key=lambda rule: (-rule.strength, len(rule.clause), [abs(i) for i in rule.clause])):
        if (key := tuple(sorted(rule.clause))) not in own:
            clauses.setdefault(key, rule)
    return Rules(domains, clauses.values())


def _never(data: Literals, domains: Domains, false_rules: float) -> list[Rule]:
    """Values that never occur, where an equal share of the solutions would be too many for chance."""
    n = domains.bits
    sizes = np.array(domains.sizes, np.float64)[data.owner]
    # Of three values or more, only "is this value" can be ruled out; "is not" is another value's business.
    candidates = (data.total == 0) & ((np.arange(2 * n) < n) | (sizes == 2))
    expected = data.count / sizes
    kept = candidates & (expected >= math.log(2 * n / false_rules))
    return [Rule(data.clause((t,)), data.count, float(expected[t])) for t in np.flatnonzero(kept).tolist()]


def _pairs(data: Literals, false_rules: float, *, ranked: bool) -> tuple[NDArray[np.bool_], list[Rule]]:
    """Which pairs of literals are never true together, (2 n, 2 n), and these as rules; `ranked`: on the word of S too."""
    count, n2 = data.count, len(data.total)
    shared = data.true.T @ data.true
    i, j = np.triu_indices(n2, 1)
    apart = data.owner[i] != data.owner[j]
    i, j = i[apart], j[apart]
    a, b = data.total[i], data.total[j]
    possible = (a > 0) & (b > 0) & (a < count) & (b < count)
    i, j, a, b = i[possible], j[possible], a[possible], b[possible]
    chance = log_chance(a, b, count)
    unviolated = shared[i, j] == 0
    kept = unviolated & (chance <= math.log(false_rules / max(len(i), 1)))
    # On the word of S: what is violated on the way down the ranking tells how much else is no rule.
    order = np.argsort(-data.strength[i, j], kind="stable")
    p = np.exp(chance[order])
    good = unviolated[order] & (p <= WEAKEST)
    usable = p <= WEAKEST
    odds = np.where(usable, p / (1 - np.minimum(p, 0.5)), 0.0)
    # One violated pair more than were seen: at the top of the ranking there may be none yet.
    accidents = np.cumsum(np.where(unviolated[order], 0.0, odds)) + np.maximum.accumulate(odds)
    within = np.flatnonzero(accidents <= false_rules)
    if ranked and len(within):
        kept[order[: within[-1] + 1]] |= good[: within[-1] + 1]
    together = np.zeros((n2, n2), bool)
    together[i[kept], j[kept]] = together[j[kept], i[kept]] = True
    rules = [
        Rule(data.clause((int(s), int(t))), int(x + y), float(x * y / count), float(data.strength[s, t]))
        for s, t, x, y in zip(i[kept], j[kept], a[kept], b[kept], strict=True)
    ]
    return together, rules


def _sets(
    data: Literals, domains: Domains, together: NDArray[np.bool_], false_rules: float, bar: ProgressBar
) -> list[Rule]:
    """At-least-one clauses of cliques of literals that exclude each other, one of which is true in every solution."""
    n = domains.bits
    same = data.owner[:, None] == data.owner
    first = np.arange(2 * n) < n
    several = (np.array(domains.sizes)[data.owner] > 2) & first
    exclude = together | (same & several[:, None] & several & ~np.eye(2 * n, dtype=bool))
    left = np.triu(together, 1)
    found, seen = [], set()
    for t in range(2 * n):
        bar.update()
        while left[t].any():
            clique = [t, int(np.flatnonzero(left[t])[0])]
            common = exclude[clique[0]] & exclude[clique[1]]
            while common.any():
                options = np.flatnonzero(common)
                best = int(options[exclude[np.ix_(options, options)].sum(1).argmax()])
                clique.append(best)
                common &= exclude[best]
            left[np.ix_(clique, clique)] = False
            key = frozenset(clique)
            if len(clique) > 2 and data.total[clique].sum() == data.count and key not in seen:
                seen.add(key)
                found.append(clique)
    rules = []
    for clique in found:
        rule = data.at_least_one(np.array(clique))
        if rule.expected >= math.log(len(found) / false_rules):
            rules.append(rule)
    return rules


def _given(layer: SATNet, data: Literals) -> Iterator[Rule]:
    """The clauses that the layer was given, those that no solution violates."""
    if layer.fixed is None:
        return
    n = layer.n
    for column in layer.fixed.detach().double().cpu().numpy().T:
        rows = np.flatnonzero(column[1 : n + 1])
        positive = column[1 : n + 1][rows] > 0
        if not len(rows) or column[0] >= 0:
            continue
        false = np.where(positive, rows + n, rows)  # the literals that violate it when all are true
        number = data.true[:, false].sum(1)
        if (number < len(false)).all():
            clause = tuple(int(r + 1) if p else -int(r + 1) for r, p in zip(rows, positive, strict=True))
            expected = data.count * float(np.prod(data.total[false] / data.count))
            a, b = np.triu_indices(len(false), 1)
            strength = float(data.strength[false[a], false[b]].mean()) if len(a) else 0.0
            yield Rule(clause, int((number == len(false) - 1).sum()), expected, strength)
