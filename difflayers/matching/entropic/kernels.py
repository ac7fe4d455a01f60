"""Entropic matching for CPU, compiled by numba: one problem is one thread's, all arithmetic float64.

    min <C, X> + epsilon sum X (log X - 1)  subject to  X 1 = r,  X' 1 <= c (or = c)

With alpha = -epsilon f for the rows and beta = -epsilon g for the columns, log X_ij = a_ij + f_i + g_j, a = -C / epsilon. For
given f each column has its own best g_j, so what is left to minimise is a convex function of f with gradient
X 1 - r (`evaluate`).
Two kinds of steps do that, both in f alone:

- a sweep, f_i += log(r_i / (X 1)_i): with g, one round of Sinkhorn's algorithm;
- Newton, as soon as the rows are off by less than SWEEP. Its quadratic model knows that a column whose g_j would pass 0 lets go
  and that one whose sum would pass c_j takes hold, so that steps do not end at such kinks (`_newton_step`); a line search on
  the slope follows.

What Newton solves is [D_r X; X' D_c] over the columns that hold (D_r, D_c the sums of X): one side is eliminated, and the
matrix of the other is a Laplacian of positive weights plus a positive diagonal. Eliminating that without any subtraction
(after Grassmann, Taksar, Heyman 1985) keeps the digits that X has, close to a permutation, too. Small epsilon comes last: the
problem is solved for a / s first, s falling to 1 by fours, each solution starting the next.
"""

import math

import numpy as np

from difflayers._numba import helper, kernel, take_ticket
from difflayers.matching.entropic.evaluation import TINY, column_multipliers, evaluate, row_residual, sweep
from difflayers.matching.entropic.system import LANES, solve_system

STAGE = 4.0  # the factor between one s and the next
SMOOTH = 8.0  # the range of a / s that needs no larger s
ROUGH = 0.1  # the residual at which a stage hands over
SWEEP = 0.5  # the residual above which a sweep precedes Newton's step
REACH = 6.0  # the widest Newton step: the range of the changes of f
SEARCH = 8  # trials of a line search
KINKS = 6  # systems solved for one Newton step
WARM = 30  # evaluations that a given start is granted, before the problem is solved from nothing


@helper
def _newton_step(
    x, r, rows, n, n_all, m, width, limit, lift, holds, columns, g, p, q, H, excess, packed, index, d, h
):  # fmt: skip
    """The step d of f that minimises the quadratic model in f and g <= 0: which columns hold is found by trial."""
    for _ in range(KINKS):
        for i in range(n):
            p[i] = r[i] - rows[i]
        for j in range(m):
            q[j] = limit[j] - columns[j] if holds[j] else 0.0
            if not holds[j] and g[j] < 0:  # lets go: g_j becomes 0
                for i in range(n):
                    p[i] += x[i * width + j] * g[j]
        solve_system(x, n, n_all, m, width, holds, rows, columns, p, q, H, excess, packed, index, d, h)
        changed = False
        for j in range(m):
            if lift[j] == 0 and limit[j] < np.inf:
                moved = 0.0
                for i in range(n):
                    moved += x[i * width + j] * d[i]
                hold = limit[j] - columns[j] - moved < -g[j] * columns[j]
                changed = changed or hold != holds[j]
                holds[j] = hold
        if not changed:
            break


@helper
def _slope(rows, r, d, n):
    total = 0.0
    for i in range(n):
        total += (rows[i] - r[i]) * d[i]
    return total


@helper
def _minimise(
    a, t, r, n, n_all, m, width, limit, lift, goal, budget,
    f, old, rows, p, d, excess, highest, sums, factor, g, q, h, columns, holds, index, x, H, packed,
):  # fmt: skip
    """From f on, in place, down to a residual of `goal`. Returns the evaluations and the residual."""
    evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
    used, residual = 1, row_residual(rows, r, n)
    while not residual <= goal and used < budget:
        if not residual <= SWEEP:
            sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used, residual = used + 1, row_residual(rows, r, n)
            if residual <= goal or used >= budget or not residual < np.inf:
                continue
        column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
        _newton_step(
            x, r, rows, n, n_all, m, width, limit, lift, holds, columns, g, p, q, H, excess, packed, index, d, h
        )  # fmt: skip
        slope = _slope(rows, r, d, n)
        lowest, uppermost = d[0], d[0]
        for i in range(n):
            lowest, uppermost = min(lowest, d[i]), max(uppermost, d[i])
            old[i] = f[i]
        if not slope < 0:  # rounding, or a step across many kinks
            sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used, residual = used + 1, row_residual(rows, r, n)
            continue
        step = min(1.0, REACH / max(uppermost - lowest, TINY))
        low, at_low, high, at_high, found = 0.0, slope, np.inf, 0.0, False
        for turn in range(SEARCH):
            for i in range(n):
                f[i] = old[i] + step * d[i]
            evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used += 1
            here, reached = _slope(rows, r, d, n), row_residual(rows, r, n)
            found = 0.9 * slope <= here <= -0.5 * slope or reached <= max(goal, 0.5 * residual)
            if found or used >= budget:
                break
            if here < 0:
                low, at_low = step, here
            else:
                high, at_high = step, here
            if high == np.inf:
                step = 2 * step
            elif turn % 2 == 0 or not at_high < np.inf:
                step = 0.5 * (low + high)
            else:
                step = low + (high - low) * at_low / (at_low - at_high)
        if not found and used < budget:  # what is sure to be lower, and a sweep
            for i in range(n):
                f[i] = old[i] + low * d[i]
            evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used += 2
        residual = row_residual(rows, r, n)
    return used, residual


@helper
def _gather(cost, epsilon, row_sums, column_sums, equal, r, row_at, lowest, limit, lift, column_at, width, a):
    """The rows and columns that take part, and a: rows with a sum first, the one without (r = inf) last.

    The smallest cost of a row with a sum is taken off it. Returns the rows with a sum, all rows, the columns, the range of a,
    whether the columns are equalities because all together have just room for the rows, and the position of the last row
    if it has a sum other than 1 (a dustbin with a capacity), else -1.
    """
    N, M = cost.shape
    n_all, m, total, room = 0, 0, 0.0, 0.0
    for i in range(N):
        if 0 < row_sums[i] < np.inf:
            row_at[n_all], r[n_all] = i, row_sums[i]
            total += row_sums[i]
            n_all += 1
    n = n_all
    for i in range(N):
        if row_sums[i] == np.inf:
            row_at[n_all] = i
            n_all += 1
            room = np.inf
    for j in range(M):
        used = False
        for p in range(n_all):
            used = used or cost[row_at[p], j] < np.inf
        if used and column_sums[j] > 0:
            column_at[m], limit[m] = j, column_sums[j]
            lift[m] = np.inf if equal and column_sums[j] < np.inf else 0.0
            room += column_sums[j]
            m += 1
    square = not equal and room == total
    for q in range(m, len(limit)):
        limit[q], lift[q] = 1.0, 0.0
    if square:
        for q in range(m):
            lift[q] = np.inf
    spread = 0.0
    for p in range(n_all):
        low = np.inf
        for q in range(m):
            low = min(low, float(cost[row_at[p], column_at[q]]))
        lowest[p] = low if p < n else 0.0
        for q in range(m):
            a[p * width + q] = -(float(cost[row_at[p], column_at[q]]) - lowest[p]) / epsilon
            if a[p * width + q] > -np.inf:
                spread = max(spread, abs(a[p * width + q]))
        for q in range(m, width):
            a[p * width + q] = -np.inf
    return n, n_all, m, spread, square


@helper
def _start(a, t, r, n, n_all, m, width, f):
    """f for rows alone, as if columns had no bound."""
    for i in range(n):
        top, total = -np.inf, 0.0
        for j in range(m):
            top = max(top, t * a[i * width + j])
        for j in range(m):
            total += math.exp(t * a[i * width + j] - top)
        f[i] = math.log(r[i] / total) - top
    for i in range(n, n_all):
        f[i] = 0.0


@helper
def _column_residual(x, n_all, m, width, limit, lift):
    """max |X' 1 - c| / c, only above c where the columns are inequalities."""
    worst = 0.0
    for j in range(m):
        total = 0.0
        for i in range(n_all):
            total += x[i * width + j]
        off = total / limit[j] - 1
        off = abs(off) if lift[j] > 0 else off
        if not off <= worst:
            worst = off
    return worst


@kernel
def entropic(
    cost, epsilon, row_sums, column_sums, equal, gauge, start, tolerance, max_iter, ticket,
    X, alpha, beta, tight, iterations, residuals,
):  # fmt: skip
    """Solve the problems of a batch whose tickets are drawn.

    Reads cost (B, N, M), +inf where forbidden; epsilon (B,); row_sums (B, N), 0 for a row that is not there, inf for one
    whose sum is free; column_sums (B, M) alike; start (B, N), multipliers of the rows, or (B, 0). `equal`: columns have the sum
    given, not at most that. `gauge`: the last row's multiplier is set to 0, against the columns'.
    Fills X (B, N, M), alpha (B, N), beta (B, M), tight (B, M), the evaluations (B,) and the residuals (B,).
    """
    B, N, M = cost.shape
    width = (M + LANES - 1) // LANES * LANES
    high = (N + LANES - 1) // LANES * LANES
    row_at, column_at, index = np.zeros(N, np.int64), np.zeros(M, np.int64), np.zeros(M, np.int64)
    r, lowest, f, old, rows = np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N)
    p, d, excess = np.zeros(N), np.zeros(N), np.zeros(N)
    limit, lift, highest, sums = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    factor, g, q, h, columns = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    holds = np.zeros(width, np.bool_)
    a, x, H = np.zeros(N * width), np.zeros(N * width), np.zeros((N, N))
    packed = np.zeros(max(N * width, M * high))
    while True:
        b = take_ticket(ticket)
        if b >= B:
            break
        n, n_all, m, spread, square = _gather(
            cost[b], epsilon[b], row_sums[b], column_sums[b], equal, r, row_at, lowest, limit, lift, column_at, width, a
        )
        used, residual, done = 0, 0.0, n == 0
        s = 1.0
        if start.shape[1] > 0 and not done:
            for i in range(n_all):
                f[i] = -(start[b, row_at[i]] + lowest[i]) / epsilon[b] if i < n else 0.0
            used, residual = _minimise(
                a, 1.0, r, n, n_all, m, width, limit, lift, tolerance, min(WARM, max_iter),
                f, old, rows, p, d, excess, highest, sums, factor, g, q, h, columns, holds, index, x, H, packed,
            )  # fmt: skip
            done = residual <= tolerance or used >= max_iter
        if not done:
            while s * SMOOTH < spread:
                s *= STAGE
            _start(a, 1 / s, r, n, n_all, m, width, f)
        while not done:
            more, residual = _minimise(
                a, 1 / s, r, n, n_all, m, width, limit, lift, ROUGH if s > 1 else tolerance, max(1, max_iter - used),
                f, old, rows, p, d, excess, highest, sums, factor, g, q, h, columns, holds, index, x, H, packed,
            )  # fmt: skip
            used += more
            done = s == 1
            ratio = min(s, STAGE)
            s /= ratio
            for i in range(n):
                f[i] *= ratio
        X[b], alpha[b], beta[b], tight[b] = 0, 0, 0, False
        if n == 0 and n_all == 0:
            iterations[b], residuals[b] = 0, 0
            continue
        if n == 0:  # only the row whose sum is free
            f[:n_all] = 0
            evaluate(a, 1.0, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
        column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
        off = _column_residual(x, n_all, m, width, limit, lift)
        iterations[b], residuals[b] = used, off if not off <= residual else residual
        shift = 0.0
        if square and m > 0:
            shift = g[0]
            for j in range(m):
                shift = max(shift, g[j])
        if gauge and row_at[n - 1] == N - 1:
            shift = -f[n - 1] - lowest[n - 1] / epsilon[b]
        for i in range(n):
            alpha[b, row_at[i]] = -epsilon[b] * (f[i] + shift) - lowest[i]
        for j in range(m):
            beta[b, column_at[j]] = epsilon[b] * (shift - g[j])
            tight[b, column_at[j]] = holds[j]
        for i in range(n_all):
            for j in range(m):
                X[b, row_at[i], column_at[j]] = x[i * width + j]


@kernel
def entropic_centre(X, tight, G, free_row, ticket, Y, a, b):
    """Y = X (G - a 1' - 1 b'), with a and b such that Y's rows and tight columns sum to 0; not the last row with `free_row`.

    Reads X, G (B, N, M), tight (B, M). Fills Y (B, N, M), a (B, N), b (B, M). G where X is 0 is not read.
    """
    B, N, M = X.shape
    n = N - 1 if free_row else N
    width = (M + LANES - 1) // LANES * LANES
    high = (N + LANES - 1) // LANES * LANES
    index = np.zeros(M, np.int64)
    x, centred, H = np.zeros(N * width), np.zeros(N * width), np.zeros((N, N))
    rows, p, d, excess = np.zeros(N), np.zeros(N), np.zeros(N), np.zeros(N)
    columns, means, q, h = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    packed = np.zeros(max(N * width, M * high))
    while True:
        k = take_ticket(ticket)
        if k >= B:
            break
        for j in range(M):
            columns[j], means[j] = 0, 0
        for i in range(N):
            for j in range(M):
                x[i * width + j] = X[k, i, j]
                centred[i * width + j] = G[k, i, j] if X[k, i, j] > 0 else 0.0
                columns[j] += x[i * width + j]
                means[j] += x[i * width + j] * centred[i * width + j]
        for j in range(M):
            means[j] = means[j] / columns[j] if tight[k, j] and columns[j] > TINY else 0.0
        for i in range(N):
            rows[i], p[i] = 0, 0
            for j in range(M):
                centred[i * width + j] -= means[j]
                rows[i] += x[i * width + j]
                p[i] += x[i * width + j] * centred[i * width + j]
        solve_system(x, n, N, M, width, tight[k], rows, columns, p, q, H, excess, packed, index, d, h)
        for i in range(N):
            a[k, i] = d[i] if i < n else 0.0
            for j in range(M):
                inside = X[k, i, j] > 0
                Y[k, i, j] = x[i * width + j] * (centred[i * width + j] - a[k, i] - h[j]) if inside else 0.0
        for j in range(M):
            b[k, j] = means[j] + h[j]
