"""The matching kernels for CPU, compiled by numba: one problem is one thread's, in buffers that fit its L1 cache.

Dykstra's algorithm without Dykstra's matrices. The correction of P2 is one number q_j for each column, that of P3 changes
nothing (rows move in an affine set), and the correction of P1 is what P1 cut off: with t = X + p the input of P1,
its output max(t, 0) and the next p = min(t, 0) sum to t. So a round is t_ij += d_j - r_i, with

    q_j' = max(0, q_j + (sum_i max(t_ij, 0) - 1) / n),   d_j = q_j - q_j',   r_i = (sum_j (max(t_ij, 0) + d_j) - 1) / m,

and its result is X_ij = max(t_ij, 0) + d_j - r_i: one pass over the matrix for all three projections. What the derivative
needs is which t_ij and which q_j' were positive: a bit each. Forwards, `dmm_tangent` is the same loop with these bits for
the comparisons and 0 for the constants; backwards, `dmm_adjoint` is its transpose.

Rows and columns that a problem does not have are left out when it is gathered; other forbidden pairs, and the padding of
rows to whole vectors, hold t = -inf, which no finite shift changes and no sum sees.
"""

import numpy as np

from difflayers._numba import helper, helper_fast, kernel, stopped, take_ticket
from difflayers.matching.dmm.projections import (
    LANES,
    project_columns,
    project_rows,
    pull_1,
    pull_2,
    pull_4,
    pull_columns,
    replay_columns,
    replay_rows,
)


@helper
def _finish_row(t, a, width, row_shift, column_shift, x, total):
    """x[a] = max(t[a], 0) + column_shift - row_shift, and total[a] += x[a]."""
    row = slice(a * width, (a + 1) * width)
    t_row, x_row, total_row = t[row], x[row], total[row]
    for e in range(width):
        kept = t_row[e] if t_row[e] > 0 else t.dtype.type(0)
        x_row[e] = kept + (column_shift[e] - row_shift)
        total_row[e] += x_row[e]


@helper
def _sum_allowed(costs, columns, n_columns, x):
    """The sum of x over the columns that a row allows."""
    total = x.dtype.type(0)
    for e in range(n_columns):
        if costs[columns[e]] < np.inf:
            total += x[e]
    return total


@helper_fast
def _sum_row(T, a, width, column_sums):
    """Adds T[a] to column_sums; returns its sum."""
    row = T[a * width : (a + 1) * width]
    total = T.dtype.type(0)
    for e in range(width):
        total += row[e]
        column_sums[e] += row[e]
    return total


@helper
def _members(cost, slack, rows, columns, row_counts, column_counts):
    """Fill `rows` and `columns` with the numbers of those that allow a pair, the column of `slack` last in any case.

    The counts are those of allowed pairs. Returns both numbers, and whether every pair of members is allowed.
    """
    n, m = cost.shape
    n_rows, n_columns, pairs = 0, 0, 0
    for j in range(m):
        column_counts[j] = 0
    for i in range(n):
        count = 0
        for j in range(m):
            if cost[i, j] < np.inf:
                count += 1
                column_counts[j] += 1
        if count > 0:
            rows[n_rows], row_counts[n_rows] = i, count
            n_rows += 1
            pairs += count
    for j in range(m):
        if column_counts[j] > 0 or (slack and j == m - 1):
            columns[n_columns], column_counts[n_columns] = j, column_counts[j]
            n_columns += 1
    return n_rows, n_columns, pairs == n_rows * n_columns


@helper
def _inverse_counts(counts, size, width, skip_last, out):
    for j in range(width):
        out[j] = 0
    for j in range(size - 1 if skip_last else size):
        out[j] = 1 / counts[j]


@helper
def _start(c, n_rows, n_columns, width, slack, cheapest, x):
    """`oracle.start` on a gathered problem."""
    columns = n_columns - 1 if slack else n_columns
    highest = -np.inf
    for j in range(columns):
        cheapest[j] = 0
        for i in range(n_rows):
            value = c[i * width + j]
            if value < c[cheapest[j] * width + j]:
                cheapest[j] = i
            if value < np.inf and value > highest:
                highest = value
    for i in range(n_rows):
        best, lowest = -1, np.inf
        for j in range(n_columns):
            value = c[i * width + j]
            x[i * width + j] = 0
            if value < np.inf:
                if j < columns and cheapest[j] != i:
                    value = highest
                if best < 0 or value < lowest:
                    best, lowest = j, value
        for j in range(n_columns, width):
            x[i * width + j] = 0
        x[i * width + best] = 1


@kernel
def dmm(cost, n_grad, n_proj, step_size, average, slack, ticket, X, bits):
    """Algorithm 1 of the paper (`oracle.dmm`) for the problems of a batch whose tickets are drawn.

    Reads cost (B, n, m), +inf where forbidden. Fills X (B, n, m), and bits (B, n_grad * n_proj, size) of uint8, or (B, 0,
    size) where no gradient is wanted: for each round the bits of the rows of t, then those of q.
    """
    n, m = cost.shape[1], cost.shape[2]
    dtype = X.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    cheapest = np.zeros(m, np.int64)
    c, x = np.zeros(n * padded, X.dtype), np.zeros(n * padded, X.dtype)
    t, total = np.zeros(n * padded, X.dtype), np.zeros(n * padded, X.dtype)
    q, inverse_columns = np.zeros(padded, X.dtype), np.zeros(padded, X.dtype)
    column_sums, column_shift = np.zeros(padded, X.dtype), np.zeros(padded, X.dtype)
    row_shift, row_sums, inverse_rows = np.zeros(n, X.dtype), np.zeros(n, X.dtype), np.zeros(n, X.dtype)
    scratch = np.zeros(bits.shape[2], np.uint8)
    keep = bits.shape[1] > 0
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        for a in range(n_rows):
            for e in range(n_columns):
                c[a * width + e] = cost[b, rows[a], columns[e]]
            for e in range(n_columns, width):
                c[a * width + e] = np.inf
        _start(c, n_rows, n_columns, width, slack, cheapest, x)
        for e in range(n_rows * width):
            total[e] = 0
        for step in range(n_grad):
            if stopped(ticket):
                break
            for e in range(n_rows * width):
                t[e] = x[e] - dtype(step_size) * c[e]
            for e in range(width):
                q[e], column_shift[e] = 0, 0
            for a in range(n_rows):
                row_shift[a] = 0
            for turn in range(n_proj):
                place = bits[b, step * n_proj + turn] if keep else scratch
                for e in range((n_rows + 1) * blocks, place.size):  # of rows and columns that were left out
                    place[e] = 0
                for e in range(width):
                    column_sums[e] = 0
                project_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, place)
                shifted = project_columns(q, inverse_columns, column_sums, blocks, column_shift, place, n_rows * blocks)
                for a in range(n_rows):
                    if not dense:
                        shifted = _sum_allowed(cost[b, rows[a]], columns, n_columns, column_shift)
                    row_shift[a] = (row_sums[a] + shifted - dtype(1)) * inverse_rows[a]
            for a in range(n_rows):
                _finish_row(t, a, width, row_shift[a], column_shift, x, total)
        share = dtype(1 / n_grad)
        for i in range(n):
            for j in range(m):
                X[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                if c[a * width + e] < np.inf:
                    X[b, rows[a], columns[e]] = total[a * width + e] * share if average else x[a * width + e]


@kernel
def dmm_adjoint(cost, bits, grad, n_grad, n_proj, step_size, average, slack, ticket, out):
    """out (B, n, m): the gradient of <grad, X> with respect to the cost, along the path that the bits remember."""
    n, m = cost.shape[1], cost.shape[2]
    dtype = out.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    g, T, total = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    Q, inverse_columns = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    column_sums, column_pull = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    row_pull, row_sums, inverse_rows = np.zeros(n, out.dtype), np.zeros(n, out.dtype), np.zeros(n, out.dtype)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        share = dtype(1 / n_grad) if average else dtype(1)
        for e in range(n_rows * width):
            g[e], total[e] = 0, 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    g[a * width + e] = grad[b, rows[a], columns[e]] * share
        for e in range(n_rows * width):
            T[e] = g[e]
        for step in range(n_grad - 1, -1, -1):
            if stopped(ticket):
                break
            for e in range(width):
                Q[e], column_sums[e] = 0, 0
            for a in range(n_rows):
                row_sums[a] = _sum_row(T, a, width, column_sums)
            for turn in range(n_proj - 1, -1, -1):
                place = bits[b, step * n_proj + turn]
                pulled = dtype(0)
                for a in range(n_rows):
                    row_pull[a] = -row_sums[a] * inverse_rows[a]
                    pulled += row_pull[a]
                if dense:
                    for e in range(width):
                        column_sums[e] += pulled
                else:
                    for a in range(n_rows):
                        for e in range(n_columns):
                            if cost[b, rows[a], columns[e]] < np.inf:
                                column_sums[e] += row_pull[a]
                pull_columns(Q, inverse_columns, column_sums, blocks, column_pull, place, n_rows * blocks)
                for e in range(width):
                    column_sums[e] = 0
                a, whole = 0, turn == n_proj - 1
                while a + 4 <= n_rows:
                    pull_4(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
                    a += 4
                if a + 2 <= n_rows:
                    pull_2(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
                    a += 2
                if a < n_rows:
                    pull_1(T, a, blocks, row_pull, row_sums, column_pull, column_sums, place, whole)
            for e in range(n_rows * width):
                total[e] -= T[e]
                if average:
                    T[e] += g[e]
        for i in range(n):
            for j in range(m):
                out[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                out[b, rows[a], columns[e]] = total[a * width + e] * dtype(step_size)


@helper
def _bit(bits, row, blocks, e):
    return (bits[row * blocks + e // LANES] >> (e % LANES)) & 1


@kernel
def dmm_tangent(cost, bits, direction, n_grad, n_proj, step_size, average, slack, ticket, out):
    """out (B, n, m): the derivative of X along `direction` of the cost, on the path that the bits remember."""
    n, m = cost.shape[1], cost.shape[2]
    dtype = out.dtype.type
    padded = (m + LANES - 1) // LANES * LANES
    rows, columns = np.zeros(n, np.int64), np.zeros(m, np.int64)
    row_counts, column_counts = np.zeros(n, np.int64), np.zeros(m, np.int64)
    c, x = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    t, total = np.zeros(n * padded, out.dtype), np.zeros(n * padded, out.dtype)
    q, inverse_columns = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    column_sums, column_shift = np.zeros(padded, out.dtype), np.zeros(padded, out.dtype)
    row_shift, row_sums, inverse_rows = np.zeros(n, out.dtype), np.zeros(n, out.dtype), np.zeros(n, out.dtype)
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns, dense = _members(cost[b], slack, rows, columns, row_counts, column_counts)
        blocks = (n_columns + LANES - 1) // LANES
        width = blocks * LANES
        _inverse_counts(column_counts, n_columns, width, slack, inverse_columns)
        _inverse_counts(row_counts, n_rows, n_rows, False, inverse_rows)
        for e in range(n_rows * width):
            c[e], x[e], total[e] = 0, 0, 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    c[a * width + e] = dtype(step_size) * direction[b, rows[a], columns[e]]
        for step in range(n_grad):
            if stopped(ticket):
                break
            for e in range(n_rows * width):
                t[e] = x[e] - c[e]
            for e in range(width):
                q[e], column_shift[e] = 0, 0
            for a in range(n_rows):
                row_shift[a] = 0
            for turn in range(n_proj):
                place = bits[b, step * n_proj + turn]
                for e in range(width):
                    column_sums[e] = 0
                replay_rows(t, n_rows, blocks, row_shift, row_sums, column_shift, column_sums, place)
                shifted = replay_columns(q, inverse_columns, column_sums, blocks, column_shift, place, n_rows * blocks)
                for a in range(n_rows):
                    if not dense:
                        shifted = _sum_allowed(cost[b, rows[a]], columns, n_columns, column_shift)
                    row_shift[a] = (row_sums[a] + shifted) * inverse_rows[a]
            place = bits[b, step * n_proj + n_proj - 1]
            for a in range(n_rows):
                for e in range(n_columns):
                    kept = t[a * width + e] if _bit(place, a, blocks, e) else dtype(0)
                    x[a * width + e] = kept + (column_shift[e] - row_shift[a])
                    total[a * width + e] += x[a * width + e]
        share = dtype(1 / n_grad)
        for i in range(n):
            for j in range(m):
                out[b, i, j] = 0
        for a in range(n_rows):
            for e in range(n_columns):
                if cost[b, rows[a], columns[e]] < np.inf:
                    out[b, rows[a], columns[e]] = total[a * width + e] * share if average else x[a * width + e]
