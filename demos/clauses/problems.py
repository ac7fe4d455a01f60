"""The rules of N-queens and of Sudoku as clauses, and what follows from clauses by unit propagation."""

from itertools import combinations

import numpy as np

from demos.sudoku.boards import check_box, unit_indices
from difflayers.maxsat import Instance

Clauses = list[list[int]]


def queens(n: int) -> Clauses:
    """Variable r n + c + 1: a queen on row r, column c. One in each row and column, no two that attack each other."""
    cells = [divmod(i, n) for i in range(n * n)]
    clauses = [[i + 1 for i, cell in enumerate(cells) if cell[axis] == line] for axis in (0, 1) for line in range(n)]
    for (i, (r, c)), (j, (s, d)) in combinations(enumerate(cells), 2):
        if r == s or c == d or abs(r - s) == abs(c - d):
            clauses.append([-i - 1, -j - 1])
    return clauses


def sudoku(box: int) -> Clauses:
    """Variable cell N + digit: that cell holds that digit, cells in rows, N = box ** 2.

    One digit in each cell, each digit once in each row, column and box.
    """
    size = check_box(box) ** 2
    groups = [[cell * size + digit for digit in range(1, size + 1)] for cell in range(size * size)]
    groups += [
        [int(cell) * size + digit for cell in unit] for unit in unit_indices(box) for digit in range(1, size + 1)
    ]
    clauses = [list(group) for group in groups]
    pairs = {pair for group in groups for pair in combinations(sorted(group), 2)}
    return clauses + [[-a, -b] for a, b in sorted(pairs)]


class Propagation:
    """Unit propagation: a clause with no true literal and a single undecided one makes that one true."""

    def __init__(self, clauses: Clauses) -> None:
        instance = Instance.from_clauses(clauses)
        self.variable, self.positive = np.abs(instance.literals) - 1, instance.literals > 0
        self.starts = instance.offsets[:-1]
        self.clause = np.repeat(np.arange(len(self.starts)), np.diff(instance.offsets))

    def __call__(self, values: np.ndarray) -> bool:
        """Decide, in place, what follows: values (n,) of 1 (true), 0 (false), -1 (undecided). False on a contradiction."""
        while True:
            value = values[self.variable]
            satisfied = np.add.reduceat((value >= 0) & ((value == 1) == self.positive), self.starts) > 0
            undecided = np.add.reduceat(value < 0, self.starts)
            if (~satisfied & (undecided == 0)).any():
                return False
            unit = (~satisfied & (undecided == 1))[self.clause] & (value < 0)
            if not unit.any():
                return True
            variable, positive = self.variable[unit], self.positive[unit]
            values[variable] = positive
            if (values[variable] != positive).any():  # two clauses that want opposite things
                return False
