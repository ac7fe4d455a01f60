"""Shortest augmenting paths on CPU, compiled by numba: `oracle.py` in vectors, one problem to a thread.

The passes over a row are in `scans.py`. What the oracle does is done here in the same order with the same additions in
float64, so that the results are the same bits; only how the least entry is found differs. A column that a search has
reached is taken out of it by an infinite beta and distance: the passes need no branches.
"""

import math

import numpy as np

from difflayers._numba import helper, kernel, take_ticket
from difflayers.matching.exact.scans import next_equal, padded, relax, smallest_two, within

# What became of a problem.
SOLVED, WRONG_VALUE, INFEASIBLE, WRONG_START = 0, 1, 2, 3

BIDS = 2  # for each row, in each of two rounds, before what is left is done by paths
ROUNDS = 4  # of taking back multipliers that nobody pays, before a start is given up
LARGEST = 1e300  # of float64 costs: sums of n of them must not overflow


@helper
def there(templates, rows):
    """The rows that take part, in `rows`. Returns their number."""
    count = 0
    for i in range(len(templates)):
        if templates[i]:
            rows[count] = i
            count += 1
    return count


@helper
def check(cost, start, width, m, slack, rows, count):
    """Whether all costs of the rows are allowed values."""
    for p in range(count):
        offset = start + rows[p] * width
        if not within(cost, offset, m, LARGEST):
            return False
        if slack and not abs(np.float64(cost[offset + m])) <= LARGEST:
            return False
    return True


@helper
def reduce_columns(cost, start, width, m, rows, count, beta, distance, pred):
    """beta_j = -min_i C_ij: for as many rows as columns, where every column is taken in the end."""
    for j in range(m):
        distance[j] = math.inf
    for p in range(count):
        relax(cost, start + rows[p] * width, beta, 0.0, rows[p], m, distance, pred)
    for j in range(m):
        if distance[j] == math.inf:
            return False
        beta[j] = -distance[j]
    return True


@helper
def bid(cost, start, width, m, slack, rows, count, limit, beta, owner, column):
    """Each row takes its cheapest column and raises its beta as far as it stays the cheapest; who had it bids next.

    Rows that gain nothing by it are left over: they come to stand first in `rows`. Returns their number, negative if a row
    has no column, and that of bids."""
    left, k, bids, i = 0, 0, 0, -1
    while k < count or i >= 0:
        if i < 0:
            i = rows[k]
            k += 1
        bids += 1
        offset = start + i * width
        least, second, j = smallest_two(cost, offset, beta, m)
        own = np.float64(cost[offset + m]) if slack else math.inf
        if least == math.inf and own == math.inf:
            return -1, bids
        if own < least or (own == least and owner[j] >= 0):
            column[i] = m
            i = -1
            continue
        raised = beta[j] + (min(second, own) - least)
        other = owner[j]
        if raised == math.inf:
            raised = beta[j]
        if other >= 0 and not (raised > beta[j] and bids <= limit):
            rows[left] = i
            left += 1
            i = -1
            continue
        beta[j], owner[j], column[i] = raised, i, j
        if other >= 0:
            column[other] = -1
        i = other
    return left, bids


@helper
def augment(cost, start, width, m, slack, root, beta, owner, column, distance, pred, tree, level, kept):
    """Match one row more, along a shortest path from `root` to a free column, or to the own one of a row on the way.

    Returns the number of rows looked at, negative if there is no path."""
    for j in range(m):
        distance[j] = math.inf
    i, shift, own, own_row = root, 0.0, math.inf, -1
    reached, end, size, done = -math.inf, -1, 0, 0
    while True:
        least = relax(cost, start + i * width, beta, shift, i, m, distance, pred)
        if slack and np.float64(cost[start + i * width + m]) - shift < own:
            own, own_row = np.float64(cost[start + i * width + m]) - shift, i
        if done == size:  # all columns as near as `reached` are done
            if own < least or least == math.inf:
                reached = own
                break
            reached = max(reached, least)
        if least <= reached:  # the columns that come next, all of one distance
            j = next_equal(distance, 0, m, least)
            while j < m and owner[j] >= 0:
                tree[size], level[size], kept[size] = j, reached, beta[j]
                size += 1
                beta[j] = distance[j] = math.inf
                j = next_equal(distance, j + 1, m, least)
            if j < m:
                end = j
                break
        if own <= reached:
            break
        j = tree[done]
        i = owner[j]
        shift = (np.float64(cost[start + i * width + j]) + kept[done]) - reached
        done += 1
    if reached == math.inf:
        return -1
    for k in range(size):
        beta[tree[k]] = kept[k] + (reached - level[k])
    if end < 0:
        end = column[own_row]
        column[own_row] = m
    while end >= 0:
        i = pred[end]
        owner[end] = i
        end, column[i] = column[i], end
    return done + 1


@helper
def resume(cost, start, width, m, slack, square, rows, count, beta, owner, column):
    """Assign rows to their cheapest columns under a given beta. Where that leaves a column free that has a price, the price
    is taken back and all is done anew. Returns how many rows are left, first in `left`, and the rows looked at."""
    scans = 0
    for turn in range(ROUNDS + 1):
        for j in range(m):
            owner[j] = -1
            if turn == ROUNDS:
                beta[j] = 0.0
        for p in range(count):
            i = rows[p]
            offset = start + i * width
            least, _, j = smallest_two(cost, offset, beta, m)
            own = np.float64(cost[offset + m]) if slack else math.inf
            column[i] = -1
            if own < least:
                column[i] = m
            elif least < math.inf and owner[j] < 0:
                owner[j], column[i] = i, j
        scans += count
        stale = False
        if not square:
            for j in range(m):
                if owner[j] < 0 and beta[j] > 0:
                    beta[j] = 0.0
                    stale = True
        if not stale:
            break
    left = 0
    for p in range(count):
        if column[rows[p]] < 0:
            rows[left] = rows[p]
            left += 1
    return left, scans


@helper
def center(cost, start, width, m, slack, square, rows, count, beta, owner, column, distance, pred):
    """Lower each price by half of what it could be lowered by: what no other row would pay for the column."""
    for j in range(m):
        distance[j] = math.inf
    for p in range(count):
        i = rows[p]
        j = column[i]
        if j == m:
            relax(cost, start + i * width, beta, np.float64(cost[start + i * width + m]), i, m, distance, pred)
        else:
            price = beta[j]
            beta[j] = math.inf
            relax(cost, start + i * width, beta, np.float64(cost[start + i * width + j]) + price, i, m, distance, pred)
            beta[j] = price
    for j in range(m):
        if owner[j] >= 0:
            excess = 0.5 * distance[j]
            excess = (0.0 if excess == math.inf else excess) if square else min(excess, beta[j])
            beta[j] -= max(excess, 0.0)


@helper
def solve(
    cost,
    templates,
    start,
    width,
    m,
    slack,
    centered,
    rows,
    warm,
    beta,
    owner,
    column,
    distance,
    pred,
    tree,
    level,
    kept,
):
    """One problem. Returns what became of it, and how many rows were looked at."""
    count = there(templates, rows)
    if not check(cost, start, width, m, slack, rows, count):
        return WRONG_VALUE, 0
    square = count == m and not slack
    scans, left = 0, count
    if warm:
        for j in range(m):
            if not (beta[j] >= 0 and beta[j] < math.inf):
                return WRONG_START, 0
        left, scans = resume(cost, start, width, m, slack, square, rows, count, beta, owner, column)
    elif square and not reduce_columns(cost, start, width, m, rows, count, beta, distance, pred):
        return INFEASIBLE, 0
    for _ in range(2):
        left, bids = bid(cost, start, width, m, slack, rows, left, BIDS * count, beta, owner, column)
        scans += bids
        if left < 0:
            return INFEASIBLE, scans
    for p in range(left):
        passes = augment(cost, start, width, m, slack, rows[p], beta, owner, column, distance, pred, tree, level, kept)
        if passes < 0:
            return INFEASIBLE, scans
        scans += passes
    if centered:
        count = there(templates, rows)
        center(cost, start, width, m, slack, square, rows, count, beta, owner, column, distance, pred)
        scans += count
    if square:  # what is added to all of beta changes nothing
        least = math.inf
        for j in range(m):
            least = min(least, beta[j])
        for j in range(m):
            beta[j] -= least
    return SOLVED, scans


@kernel
def exact(cost, templates, prices, slack, centered, ticket, columns, alpha, beta_out, iterations, status):
    """`op.exact` for a batch: columns (B, n), -1 unmatched, alpha (B, n), beta (B, m), rows looked at (B,), status
    (B + 1,), the last one not 0 if any is not."""
    n, width = cost.shape[1], cost.shape[2]
    m = width - 1 if slack else width
    flat = cost.reshape(-1)
    size = padded(m)
    warm = prices.shape[1] > 0
    beta, distance, pred = np.full(size, np.inf), np.full(size, np.inf), np.zeros(size, np.int32)
    level, kept = np.empty(m), np.empty(m)
    owner, tree = np.empty(m, np.int64), np.empty(m, np.int64)
    column, rows = np.empty(n, np.int64), np.empty(n, np.int64)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        start = b * n * width
        for i in range(n):
            column[i] = -1
        for j in range(m):
            beta[j] = prices[b, j] if warm else 0.0
            owner[j] = -1
        status[b], iterations[b] = solve(
            flat,
            templates[b],
            start,
            width,
            m,
            slack,
            centered,
            rows,
            warm,
            beta,
            owner,
            column,
            distance,
            pred,
            tree,
            level,
            kept,
        )
        if status[b] != SOLVED:
            status[cost.shape[0]] = 1
        for i in range(n):
            j = column[i]
            columns[b, i] = j if j < m else -1
            alpha[b, i] = -(np.float64(flat[start + i * width + j]) + (beta[j] if j < m else 0.0)) if j >= 0 else 0.0
        for j in range(m):
            beta_out[b, j] = beta[j]


@kernel
def certificate(cost, templates, columns, alpha, beta, slack, ticket, objective, residual, scale):
    """`op.exact_certificate` for a batch: (B,) each."""
    n, width = cost.shape[1], cost.shape[2]
    m = width - 1 if slack else width
    flat = cost.reshape(-1)
    price = np.full(padded(m), np.inf)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        total, worst, largest = 0.0, 0.0, 0.0
        for j in range(m):
            price[j] = beta[b, j]
        for i in range(n):
            if templates[b, i]:
                offset = (b * n + i) * width
                j = columns[b, i]
                matched = np.float64(flat[offset + (j if j >= 0 else m)])
                h = matched + alpha[b, i] + (beta[b, j] if j >= 0 else 0.0)
                least, _, _ = smallest_two(flat, offset, price, m)
                if slack:
                    least = min(least, np.float64(flat[offset + m]))
                total += matched
                worst = max(worst, abs(h), -(least + alpha[b, i]))
                largest = max(largest, abs(matched), abs(alpha[b, i]))
        for i in range(n):
            if columns[b, i] >= 0:
                price[columns[b, i]] = 0.0
        for j in range(m):  # a free proposal has no price
            worst = max(worst, abs(price[j]), -beta[b, j])
            largest = max(largest, abs(beta[b, j]))
        objective[b], residual[b], scale[b] = total, worst, largest
