"""Random MAXSAT instances, and references for them by enumeration and by python-sat, in plain loops."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from pysat.examples.rc2 import RC2
from pysat.formula import WCNF


def random_clauses(
    n: int, m: int, lengths: Sequence[int] = (1, 2, 3), *, hard: float = 0.0, floats: bool = False, seed: int = 0
) -> tuple[list[list[int]], list[float]]:
    """m clauses of distinct variables, of random lengths, and their weights: whole numbers from 1 to 9, or decimal ones.

    A share `hard` of the clauses is hard; a hidden assignment satisfies all of them.
    """
    draw = np.random.default_rng(seed)
    hidden = draw.random(n) < 0.5
    clauses, weights = [], []
    for _ in range(m):
        variables = draw.permutation(n)[: draw.choice(lengths)]
        clause = [int(i + 1) if draw.random() < 0.5 else -int(i + 1) for i in variables]
        weight = float(draw.random() + 0.01) if floats else float(draw.integers(1, 10))
        if draw.random() < hard:
            weight = math.inf
            i = int(variables[0])
            clause[0] = i + 1 if hidden[i] else -(i + 1)
        clauses.append(clause)
        weights.append(weight)
    return clauses, weights


def naive_cost(clauses: Sequence[Sequence[int]], weights: Sequence[float], x: Sequence[bool]) -> tuple[float, int]:
    """The weight of violated soft clauses and the number of violated hard ones, clause by clause."""
    soft, hard = 0.0, 0
    for clause, weight in zip(clauses, weights, strict=True):
        if not any(bool(x[abs(literal) - 1]) == (literal > 0) for literal in clause):
            if math.isinf(weight):
                hard += 1
            else:
                soft += weight
    return soft, hard


def assignments(n: int) -> Iterator[tuple[bool, ...]]:
    return itertools.product([False, True], repeat=n)


def enumerated_optimum(clauses: Sequence[Sequence[int]], weights: Sequence[float], n: int) -> float:
    """The least soft cost of an assignment that satisfies all hard clauses; inf if there is none."""
    costs = (naive_cost(clauses, weights, x) for x in assignments(n))
    return min((soft for soft, hard in costs if hard == 0), default=math.inf)


def exact_optimum(clauses: Sequence[Sequence[int]], weights: Sequence[float]) -> float:
    """The same by RC2 of python-sat, for whole weights."""
    formula = WCNF()
    for clause, weight in zip(clauses, weights, strict=True):
        formula.append(list(clause), weight=None if math.isinf(weight) else int(weight))
    with RC2(formula) as solver:
        return math.inf if solver.compute() is None else float(solver.cost)


def coloured(nodes: int, degree: float = 4.5, seed: int = 0) -> tuple[list[list[int]], list[str]]:
    """3-colouring of a random graph that has one, all clauses hard: for `write`; variable 3 i + c + 1, node i has colour c."""
    draw = np.random.default_rng(seed)
    hidden, edges = draw.integers(3, size=nodes), set()
    while len(edges) < nodes * degree / 2:
        a, b = sorted(draw.choice(nodes, 2, replace=False).tolist())
        if hidden[a] != hidden[b]:
            edges.add((a, b))
    clauses = [[3 * i + 1, 3 * i + 2, 3 * i + 3] for i in range(nodes)]
    clauses += [[-(3 * a + c), -(3 * b + c)] for a, b in sorted(edges) for c in (1, 2, 3)]
    return clauses, ["h"] * len(clauses)


def pigeons(holes: int) -> list[list[int]]:
    """One pigeon more than holes, each in a hole, no two in one: it cannot be."""
    at = {(p, h): p * holes + h + 1 for p in range(holes + 1) for h in range(holes)}
    clauses = [[at[p, h] for h in range(holes)] for p in range(holes + 1)]
    return clauses + [[-at[p, h], -at[q, h]] for h in range(holes) for p in range(holes + 1) for q in range(p)]
