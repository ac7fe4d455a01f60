"""Exact matching as plain loops: one problem, one comparison at a time, to be read beside the papers.

    min <C, X>  subject to  X >= 0,  X 1 = 1,  X' 1 <= 1,  X_ij = 0 where C_ij = +inf

has a solution of 0 and 1, and its dual certifies it: alpha_i for each row and beta_j >= 0 for each column with

    C_ij + alpha_i + beta_j >= 0,  = 0 where X_ij = 1,  beta_j = 0 where column j is free.

beta_j is the price of column j and -alpha_i what row i pays in all: a row takes the column with the least C_ij + beta_j. The
algorithm is that of Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
problems", Computing 38, 1987: `reduce_columns` (their column reduction, where there are as many rows as columns), `bid` (their
augmenting row reduction), `augment` (their augmentation: Dijkstra's algorithm; for rectangular problems as in Crouse, "On
implementing 2D rectangular assignment algorithms", IEEE TAES 52, 2016). This file is never optimised: every kernel is tested
against it, to the bit. Of equal columns the first is taken, in every comparison.

With `slack`, the last column stands for "unmatched": each row has it for itself alone, at its own cost.
"""

import math

from torch import Tensor

BIDS = 2  # for each row, in each of two rounds, before what is left is done by paths
ROUNDS = 4  # of taking back prices that nobody pays, before a start is given up


class Assignment:
    """Who has what: `column` of each row (-1: none yet, m: its own), `owner` of each column (-1: free), prices `beta`."""

    def __init__(self, C: Tensor, slack: bool, beta: list[float] | None) -> None:
        n, self.m = C.shape[0], C.shape[1] - slack
        self.C = [[float(c) for c in row[: self.m]] for row in C.double()]
        self.own = [float(row[-1]) if slack else math.inf for row in C.double()]
        self.beta = [0.0] * self.m if beta is None else list(beta)
        self.column, self.owner = [-1] * n, [-1] * self.m
        self.scans = 0  # rows looked at

    def reduced(self, i: int) -> list[float]:
        """C_ij + beta_j for all j."""
        self.scans += 1
        return [c + b for c, b in zip(self.C[i], self.beta, strict=True)]


def solve(
    C: Tensor, templates: Tensor, *, slack: bool = False, beta: list[float] | None = None, centered: bool = False
) -> tuple[list[int], list[float], list[float], int]:
    """For C (n, m) and the rows that take part: the column of each row (-1: unmatched), alpha, beta, and rows looked at."""
    a = Assignment(C, slack, beta)
    rows = [i for i, there in enumerate(templates) if there]
    square = len(rows) == a.m and not slack
    if beta is not None:
        left = resume(a, rows, square)
    else:
        if square:
            reduce_columns(a, rows)
        left = rows
    limit = BIDS * len(rows)
    left = bid(a, bid(a, left, limit), limit)
    for i in left:
        augment(a, i)
    if centered:
        center(a, rows, square)
    if square:  # what is added to all of beta changes nothing
        a.beta = [b - min(a.beta) for b in a.beta]
    alpha = [0.0] * len(a.C)
    for i in rows:
        j = a.column[i]
        alpha[i] = -a.own[i] if j == a.m else -(a.C[i][j] + a.beta[j])
    return [-1 if j == a.m else j for j in a.column], alpha, a.beta, a.scans


def reduce_columns(a: Assignment, rows: list[int]) -> None:
    """beta_j = -min_i C_ij: every column is taken in the end, whatever its price."""
    for j in range(a.m):
        a.beta[j] = -min(a.C[i][j] for i in rows)


def bid(a: Assignment, rows: list[int], limit: int) -> list[int]:
    """Each row takes its cheapest column and raises its price as far as it stays the cheapest; who had it bids next.

    Rows that gain nothing by it, because two columns are as cheap, are left over, as are all that find theirs taken after
    `limit` bids."""
    left, bids = [], 0
    for first in rows:
        i = first
        while i >= 0:
            bids += 1
            h, own = a.reduced(i), a.own[i]
            least = min(h, default=math.inf)
            if least == own == math.inf:
                raise ValueError("a row has no column")
            j = h.index(least) if h else -1
            if own < least or (own == least and a.owner[j] >= 0):
                a.column[i] = a.m
                break
            second = min([own, *h[:j], *h[j + 1 :]])
            raised = a.beta[j] + (second - least) if second < math.inf else a.beta[j]
            other = a.owner[j]
            if other >= 0 and not (raised > a.beta[j] and bids <= limit):
                left.append(i)
                break
            a.beta[j], a.owner[j], a.column[i] = raised, i, j
            if other >= 0:
                a.column[other] = -1
            i = other
    return left


def augment(a: Assignment, root: int) -> None:
    """Match `root` along a shortest path: rows reach columns at C_ij + beta_j + alpha_i >= 0, taken columns their owners at 0.

    It ends at the nearest free column, or at the own one of a row on the way if that is nearer. The prices of the columns on
    the way rise by as much as they are nearer than the end."""
    distance, pred = [math.inf] * a.m, [-1] * a.m
    tree: list[tuple[int, float]] = []  # columns in the order in which they are reached, with their distances
    i, shift, reached, done = root, 0.0, -math.inf, 0
    own, own_row = math.inf, -1
    while True:
        in_tree = {j for j, _ in tree}
        for j, h in enumerate(a.reduced(i)):
            if j not in in_tree and h - shift < distance[j]:
                distance[j], pred[j] = h - shift, i
        if a.own[i] - shift < own:
            own, own_row = a.own[i] - shift, i
        least = min((distance[j] for j in range(a.m) if j not in in_tree), default=math.inf)
        end = -1
        if done == len(tree):
            if own < least or least == math.inf:
                reached = own
                break
            reached = max(reached, least)
        if least <= reached:
            for j in range(a.m):
                if j not in in_tree and distance[j] == least and end < 0:
                    if a.owner[j] < 0:
                        end = j
                    else:
                        tree.append((j, reached))
        if end >= 0 or own <= reached:
            break
        j = tree[done][0]
        i = a.owner[j]
        shift = (a.C[i][j] + a.beta[j]) - reached
        done += 1
    if reached == math.inf:
        raise ValueError("no path: a row has no column of its own")
    for j, d in tree:
        a.beta[j] += reached - d
    if end < 0:
        end, a.column[own_row] = a.column[own_row], a.m
    while end >= 0:
        i = pred[end]
        a.owner[end] = i
        end, a.column[i] = a.column[i], end


def resume(a: Assignment, rows: list[int], square: bool) -> list[int]:
    """Give rows their cheapest columns at prices from elsewhere. Returns those that find theirs taken.

    A column that stays free must cost nothing: its price is taken back, and all is done anew. Where there are as many rows as
    columns, none stays free in the end."""
    for turn in range(ROUNDS + 1):
        if turn == ROUNDS:
            a.beta = [0.0] * a.m
        a.owner = [-1] * a.m
        for i in rows:
            h = a.reduced(i)
            least = min(h, default=math.inf)
            j = h.index(least) if h else -1
            a.column[i] = -1
            if a.own[i] < least:
                a.column[i] = a.m
            elif least < math.inf and a.owner[j] < 0:
                a.owner[j], a.column[i] = i, j
        stale = [j for j in range(a.m) if a.owner[j] < 0 and a.beta[j] > 0 and not square]
        for j in stale:
            a.beta[j] = 0.0
        if not stale:
            break
    return [i for i in rows if a.column[i] < 0]


def center(a: Assignment, rows: list[int], square: bool) -> None:
    """Lower each price by half of what it could be lowered by.

    That is what no other row would pay for the column: min C_ij + alpha_i + beta_j over the rows i that do not have j. All at
    once: a row whose own column becomes cheaper wants the others less. Prices in the middle are a better start for a problem
    much like this one than those that bidding leaves, at which each row is as well off with its second choice."""
    pays = {i: a.own[i] if a.column[i] == a.m else a.C[i][a.column[i]] + a.beta[a.column[i]] for i in rows}
    lower = [0.0] * a.m
    for j in range(a.m):
        others = [(a.C[i][j] + a.beta[j]) - pays[i] for i in rows if a.column[i] != j]
        excess = 0.5 * min(others, default=math.inf)
        if a.owner[j] >= 0:
            lower[j] = max(0.0, (0.0 if excess == math.inf else excess) if square else min(excess, a.beta[j]))
    a.beta = [b - x for b, x in zip(a.beta, lower, strict=True)]
    a.scans += len(rows)
