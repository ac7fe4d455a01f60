"""Rules of three literals and more: candidates grown literal by literal, and the test that they must pass."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import comb

from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.literals import Literals, log_chance
from difflayers.inference.rules import Propagator, Rule, Rules

NEIGHBOURS = 96
"""Of three literals: how many of the bits that S couples a bit to most are tried with it, all with all."""
FIRST_NEIGHBOURS = 16
"""So many literals that S holds most against a literal begin a longer rule with it."""
RARER = 1.0
"""A set of literals is grown by those that are rarer in its rows than chance explains, by so many standard deviations."""
WIDTH = 5_000
"""How many sets of each size are grown further: those where it is most so."""
_CHUNK = 2**22
_PAIRS = {size: np.triu_indices(size, 1) for size in range(3, 9)}


def longer_rules(
    data: Literals, domains: Domains, known: Iterable[Rule], longest: int, false_rules: float, bar: ProgressBar
) -> list[Rule]:
    """Clauses of 3 to `longest` literals that no solution violates, that chance does not explain, and that the known rules and
    the shorter ones do not imply (by unit propagation).

    A clause says that some literals, its own negated, are never all true.
    """
    free = np.flatnonzero((data.total > 0) & (data.total < data.count))
    thresholds = {
        size: math.log(false_rules / (longest - 2)) - math.log(max(comb(len(free), size), 1))
        for size in range(3, longest + 1)
    }
    columns = np.ascontiguousarray(data.true.T) > 0
    found: dict[tuple[int, ...], Rule | None] = {}
    for key in _candidates(data, longest, -thresholds[3], bar):
        if key not in found:
            found[key] = _tested(data, columns, key, thresholds[len(key)])
    passed = [rule for rule in found.values() if rule is not None]
    order = sorted(passed, key=lambda rule: (len(rule.clause), -rule.expected, rule.clause))
    return _independent(domains, list(known), order)


def _tested(data: Literals, columns: NDArray[np.bool_], literals: tuple[int, ...], threshold: float) -> Rule | None:
    """The rule that these literals are never all true, if chance does not explain that.

    For each two of them: in the solutions in which all the others are true, were the two independent, what is the chance that
    they are never true together? The largest of these chances counts.
    """
    size = len(literals)
    rows = columns[list(literals)]
    missing = size - rows.sum(0, dtype=np.int8)
    if not missing.all():
        return None
    one = (~rows[:, missing == 1]).sum(1)  # how often all but this one are true
    wrong = (~rows[:, missing == 2]).astype(np.float32)
    p, q = _PAIRS[size]
    both = one[p] + one[q] + (wrong @ wrong.T)[p, q]  # how often all but these two are true
    if not one.all() or log_chance(one[p], one[q], both).max() > threshold:
        return None
    expected = float((one[p] * one[q] / both).min())
    strength = float(data.strength[np.ix_(literals, literals)][p, q].mean())
    return Rule(data.clause(literals), int(one.sum()), expected, strength)


def _candidates(data: Literals, longest: int, least: float, bar: ProgressBar) -> Iterator[tuple[int, ...]]:
    """Sets of literals that are never all true though each two are: those worth a test."""
    shared = data.true.T @ data.true
    yield from _triples(data, shared, bar)
    sets = _pairs_to_grow(data, shared, least)
    for size in range(3, longest + 1):
        bar.update()
        grown: dict[tuple[int, ...], float] = {}
        for part in np.array_split(sets, max(1, len(sets) * data.count // _CHUNK)):
            yield from _grow(data, shared, part, least, grown)
        best = sorted(grown, key=lambda key: (grown[key], key))[:WIDTH]
        sets = np.array(best, np.int64).reshape(len(best), size)


def _pairs_to_grow(data: Literals, shared: NDArray[np.float32], least: float) -> NDArray[np.int64]:
    """Pairs of literals that are true together more seldom than if they were independent, or that S holds most against each
    other."""
    a, b = np.triu_indices(len(data.total), 1)
    together, x, y = shared[a, b], data.total[a], data.total[b]
    fine = (data.owner[a] != data.owner[b]) & (together >= least) & (together < x) & (together < y)
    a, b, together, x, y = a[fine], b[fine], together[fine], x[fine], y[fine]
    share = x / data.count
    rarer = (together - share * y) / np.sqrt(share * y * (1 - share) * (1 - y / data.count))
    order = np.argsort(rarer, kind="stable")[:WIDTH]
    chosen = order[rarer[order] <= -RARER]
    held = np.argsort(-data.strength, axis=1, kind="stable")[:, :FIRST_NEIGHBOURS]
    against = np.zeros(data.strength.shape, bool)
    np.put_along_axis(against, held, True, 1)
    against &= data.strength > 0
    chosen = np.union1d(chosen, np.flatnonzero(against[a, b] | against[b, a]))
    return np.stack((a[chosen], b[chosen]), 1)


def _grow(
    data: Literals,
    shared: NDArray[np.float32],
    sets: NDArray[np.int64],
    least: float,
    grown: dict[tuple[int, ...], float],
) -> Iterator[tuple[int, ...]]:
    """What no solution holds together with these sets of literals; what is rare with them goes into `grown`."""
    if not len(sets):
        return
    rows = data.true[:, sets[:, 0]].copy()
    for literals in sets.T[1:]:
        rows *= data.true[:, literals]
    number = rows.sum(0, dtype=np.float64)[:, None]
    together = rows.T @ data.true
    share = (shared[sets] / data.total[sets][..., None]).min(1)  # with one literal of the set
    usable = (shared[sets] > 0).all(1) & (data.total > 0)
    usable &= (shared[sets] < data.total).all(1)  # it implies none of them ...
    usable &= together < number  # ... nor do they imply it
    usable &= (data.owner[sets][..., None] != data.owner).all(1)
    expected = number * share
    rarer = (together - expected) / np.sqrt(np.maximum(expected * (1 - share), 1e-9))
    for i, t in zip(*np.nonzero(usable & (together == 0) & (number >= least)), strict=True):
        yield tuple(sorted((*sets[i].tolist(), int(t))))
    for i, t in zip(*np.nonzero(usable & (together >= least) & (rarer <= -RARER)), strict=True):
        key = tuple(sorted((*sets[i].tolist(), int(t))))
        grown[key] = min(grown.get(key, 0.0), float(rarer[i, t]))


def _triples(data: Literals, shared: NDArray[np.float32], bar: ProgressBar) -> Iterator[tuple[int, ...]]:
    """Three literals that are never all true, among those that S couples most: these need not be rare in pairs (parity)."""
    n2 = len(data.total)
    strength = np.abs(data.strength)
    strength[data.owner[:, None] == data.owner] = -1
    near = np.argsort(-strength, axis=1, kind="stable")[:, : 2 * max(NEIGHBOURS, n2 // 128)]
    for t in range(n2):
        bar.update()
        rows = data.true[data.true[:, t] > 0][:, near[t]]
        a, b = np.triu_indices(len(near[t]), 1)
        x, y = near[t][a], near[t][b]
        pairs = (shared[t, x] > 0) & (shared[t, y] > 0) & (shared[x, y] > 0) & (data.owner[x] != data.owner[y])
        zero = ((rows.T @ rows)[a, b] == 0) & pairs
        for i, j in zip(x[zero].tolist(), y[zero].tolist(), strict=True):
            yield tuple(sorted((t, i, j)))


def _independent(domains: Domains, known: list[Rule], rules: list[Rule]) -> list[Rule]:
    """Those of the rules, in their order, that the known ones and the kept ones before them do not imply."""
    kept: list[Rule] = []
    n = domains.bits
    denied = torch.zeros(len(rules), 2 * n, dtype=torch.bool)
    for row, rule in zip(denied, rules, strict=True):
        row[[i - 1 + n if i > 0 else -i - 1 for i in rule.clause]] = True
    left = torch.arange(len(rules))
    while len(left):
        conflict = Propagator(Rules(domains, known + kept))(denied[left])[1]
        left = left[~conflict]
        if len(left):
            kept.append(rules[int(left[0])])
            left = left[1:]
    return kept
