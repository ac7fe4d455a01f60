"""Sets of literals of which exactly one is true in every solution, found as partitions of the solutions."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.kernels import partitions
from difflayers.inference.literals import Literals
from difflayers.inference.rules import Rule

LARGEST = 64
"""The most literals of a set."""
STEPS = 3 * 10**9
"""The search for sets ends after so many literals that were looked at."""
SETS = 20_000
"""The most sets that have one literal as their lowest."""


def exactly_one_sets(data: Literals, domains: Domains, false_rules: float, bar: ProgressBar) -> list[Rule]:
    """Of the sets that chance does not explain: the clauses that one is true at least, and that no two are true together.

    The solutions in which the literals of such a set are true are a partition of all solutions. All partitions are found, by
    search; then each of them is tested (`log_accidents`). The most certain ones are kept, as long as the expected numbers of
    accidents of those kept sum to at most `false_rules`.
    """
    n = domains.bits
    two = np.array(domains.sizes)[data.owner] == 2
    usable = np.flatnonzero((data.total > 0) & (data.total < data.count) & ((np.arange(2 * n) < n) | two))
    totals = data.total[usable].astype(np.int64)
    chance = log_accidents(totals, data.count)
    if chance[-1] > math.log(false_rules):
        return []  # so few solutions that any set may be an accident
    found = _search(data.true[:, usable] > 0, bar)
    sets = [usable[chosen] for chosen in found if len(set(data.owner[usable[chosen]].tolist())) > 1]
    accidents = np.array([_accidents(data.total[chosen].astype(np.int64), chance) for chosen in sets])
    order = np.argsort(accidents, kind="stable")
    kept = order[: int((accidents[order].cumsum() <= false_rules).sum())]
    return [rule for i in kept.tolist() for rule in _rules(data, np.sort(sets[i]))]


def log_accidents(totals: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """For r of 0 to `count` given solutions, the log of the expected number of sets of literals that happen to partition them.

    `totals`, (literals,): in how many of all solutions each literal is true. Were the literals independent, the chance that
    some of them partition r given solutions is r! times the product of (count - total)! / count!.
    """
    weight = gammaln(count - np.arange(count + 1) + 1) - gammaln(count + 1)
    found = np.full(count + 1, -np.inf)  # the sum of the products over all sets of literals with totals that sum to r
    found[0] = 0
    for total in totals.tolist():
        found[total:] = np.logaddexp(found[total:], found[: count + 1 - total] + weight[total])
    value: NDArray[np.float64] = found + gammaln(np.arange(count + 1) + 1)
    value[0] = -np.inf  # the empty set is not meant
    return value


def _accidents(totals: NDArray[np.int64], chance: NDArray[np.float64]) -> float:
    """The expected number of accidental sets that are like a set with these totals, all or some of its literals replaced."""
    parts = np.zeros(len(chance))  # how many choices of literals to replace have so many solutions together
    parts[0] = 1
    for total in totals.tolist():
        parts[total:] += parts[: len(parts) - total].copy()
    r = np.flatnonzero(parts[1:]) + 1
    return float(np.exp(np.logaddexp.reduce(np.log(parts[r]) + chance[r])))


def _search(true: NDArray[np.bool_], bar: ProgressBar) -> list[NDArray[np.int64]]:
    """The sets of columns of which exactly one is true in each row."""
    count, n = true.shape
    words = -(-count // 64)
    padded = np.zeros((n, 64 * words), np.bool_)
    padded[:, :count] = true.T
    support = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    of, rows = np.nonzero(true.T)
    starts = np.searchsorted(of, np.arange(n + 1))
    sets, steps = [], STEPS
    found = np.zeros((SETS, 1 + min(LARGEST, n)), np.int64)
    for first in range(n):
        bar.update()
        number, steps = partitions(support, rows, starts, count, first, steps, found)
        sets += [row[1 : 1 + row[0]].copy() for row in found[:number]]
    return sets


def _rules(data: Literals, chosen: NDArray[np.int64]) -> list[Rule]:
    """What it says that exactly one of these literals is true."""
    share = data.total[chosen] / data.count
    a, b = np.triu_indices(len(chosen), 1)
    strengths = data.strength[chosen[a], chosen[b]]
    rules = [data.at_least_one(chosen)]
    for i, j, strength in zip(a.tolist(), b.tolist(), strengths.tolist(), strict=True):
        support = int(data.total[chosen[i]] + data.total[chosen[j]])
        rules.append(
            Rule(
                data.clause((int(chosen[i]), int(chosen[j]))),
                support,
                float(share[i] * share[j] * data.count),
                strength,
            )
        )
    return rules
