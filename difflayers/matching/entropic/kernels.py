"""Entropic matching for CPU, compiled by numba: one problem is one thread's, all arithmetic float64.

    min <C, X> + epsilon sum X (log X - 1)  subject to  X 1 = r,  X' 1 <= c (or = c)

With alpha = -epsilon f for the rows and beta = -epsilon g for the columns, log X_ij = a_ij + f_i + g_j, a = -C / epsilon. For
given f each column has its own best g_j, so what is left to minimise is a convex function of f with gradient
X 1 - r (`_evaluate`).
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

from difflayers._numba import helper, helper_fast, kernel, take_ticket
from difflayers.matching.entropic.exp import exp

LANES = 8  # rows are padded to whole vectors
STAGE = 4.0  # the factor between one s and the next
SMOOTH = 8.0  # the range of a / s that needs no larger s
ROUGH = 0.1  # the residual at which a stage hands over
SWEEP = 0.5  # the residual above which a sweep precedes Newton's step
REACH = 6.0  # the widest Newton step: the range of the changes of f
SEARCH = 8  # trials of a line search
KINKS = 6  # systems solved for one Newton step
WARM = 30  # evaluations that a given start is granted, before the problem is solved from nothing
TINY = 1e-300


@helper_fast
def _scale(row, factor, width):
    """row *= factor; returns its sum."""
    total = 0.0
    for j in range(width):
        value = row[j] * factor[j]
        row[j] = value
        total += value
    return total


@helper
def _exponentials(row, t, shift, highest, width, out, sums):
    """out = exp(t row + shift - highest), added to sums."""
    for j in range(width):
        value = exp(t * row[j] + shift - highest[j])
        out[j] = value
        sums[j] += value


@helper
def _raise(row, t, shift, width, highest):
    """highest = max(highest, t row + shift)."""
    for j in range(width):
        value = t * row[j] + shift
        highest[j] = value if value > highest[j] else highest[j]


@helper
def _fill(limit, lift, highest, sums, width, factor):
    """The best factor of each column of exponentials: exp(highest), or what brings its sum to `limit` if that is less.

    `lift` is inf where the sum must be `limit` in any case.
    """
    for j in range(width):
        free = exp(highest[j])
        full = limit[j] / sums[j]
        factor[j] = full if free + lift[j] > full else free


@helper
def _evaluate(a, t, f, n, width, limit, lift, highest, sums, factor, x, rows):
    """x = exp(t a + f + g) with the best g for this f; `rows` its row sums. In the log domain: nothing overflows."""
    for j in range(width):
        highest[j] = -1e300
        sums[j] = TINY
    for i in range(n):
        _raise(a[i * width : (i + 1) * width], t, f[i], width, highest)
    for i in range(n):
        at = slice(i * width, (i + 1) * width)
        _exponentials(a[at], t, f[i], highest, width, x[at], sums)
    _fill(limit, lift, highest, sums, width, factor)
    for i in range(n):
        rows[i] = _scale(x[i * width : (i + 1) * width], factor, width)


@helper
def _residual(rows, r, n):
    """max |X 1 - r| / r over the rows that have one."""
    worst = 0.0
    for i in range(n):
        off = abs(rows[i] / r[i] - 1)
        if not off <= worst:
            worst = off
    return worst


@helper
def _column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns):
    """g, which columns hold (their sum is their limit), and their sums."""
    for j in range(m):
        full = limit[j] / sums[j]
        holds[j] = factor[j] == full and full < np.inf
        g[j] = math.log(factor[j]) - highest[j] if holds[j] else 0.0
        if lift[j] == 0 and g[j] > 0:
            g[j] = 0.0
        columns[j] = factor[j] * sums[j]


@helper
def _sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f):
    """f_i += log(r_i / (X 1)_i); a row whose sum is nothing is summed in the log domain."""
    known = False
    for i in range(n):
        if TINY < rows[i] < np.inf:
            f[i] += math.log(r[i] / rows[i])
        else:
            if not known:
                _column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
                known = True
            top, total = -np.inf, 0.0
            for j in range(m):
                top = max(top, t * a[i * width + j] + g[j])
            for j in range(m):
                total += math.exp(t * a[i * width + j] + g[j] - top)
            f[i] = math.log(r[i] / total) - top


@helper_fast
def _dots(x, y, stride, count, size, out):
    """out[k] = the dot product of x with y[k stride : k stride + size], k < count; four at a time."""
    k = 0
    while k + 4 <= count:
        y0, y1 = y[k * stride : k * stride + size], y[(k + 1) * stride : (k + 1) * stride + size]
        y2, y3 = y[(k + 2) * stride : (k + 2) * stride + size], y[(k + 3) * stride : (k + 3) * stride + size]
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for e in range(size):
            s0 += x[e] * y0[e]
            s1 += x[e] * y1[e]
            s2 += x[e] * y2[e]
            s3 += x[e] * y3[e]
        out[k], out[k + 1], out[k + 2], out[k + 3] = s0, s1, s2, s3
        k += 4
    while k < count:
        y0, s0 = y[k * stride : k * stride + size], 0.0
        for e in range(size):
            s0 += x[e] * y0[e]
        out[k] = s0
        k += 1


@helper
def _add(y, w, size, x):
    for e in range(size):
        x[e] += w * y[e]


@helper_fast
def _dot(x, y, size):
    total = 0.0
    for e in range(size):
        total += x[e] * y[e]
    return total


@helper
def _solve_laplacian(H, excess, n, b):
    """b = L^-1 b in place, L_ik = -H_ik and L_ii = sum_k H_ik + excess_i, for H >= 0 (upper triangle) and excess >= 0.

    The diagonal is never formed: it is the sum of what is left of its row. Where that is 0, the unknown is 0, which leaves
    a solution wherever there is one. H and excess are destroyed.
    """
    for k in range(n):
        row = H[k, k + 1 : n]
        left = n - k - 1
        pivot = excess[k]
        for q in range(left):
            pivot += row[q]
        inverse = 1 / pivot if pivot > TINY else 0.0
        for i in range(left):
            w = row[i] * inverse
            if w > 0:
                excess[k + 1 + i] += w * excess[k]
                b[k + 1 + i] += w * b[k]
                _add(row[i + 1 :], w, left - i - 1, H[k + 1 + i, k + 2 + i : n])
        excess[k] = inverse
    for k in range(n - 1, -1, -1):
        b[k] = (b[k] + _dot(H[k, k + 1 : n], b[k + 1 : n], n - k - 1)) * excess[k]


@helper
def _solve_system(x, n, n_all, m, width, holds, rows, columns, p, q, H, excess, packed, index, d, h):
    """Solve [D_r X; X' D_c] (d; h) = (p; q) over the rows i < n and the columns that hold; h is 0 elsewhere.

    Row and column sums are those of all of x: what its other entries add to them makes the system definite.
    """
    count = 0
    for j in range(m):
        h[j] = 0
        if holds[j] and columns[j] > TINY:
            index[count] = j
            count += 1
    if count < n:  # of the columns
        stride = (n + LANES - 1) // LANES * LANES
        for k in range(count):
            excess[k] = 0
            h[k] = q[index[k]]
            for i in range(n, n_all):
                excess[k] += x[i * width + index[k]]
            for i in range(n, stride):
                packed[k * stride + i] = 0
        for i in range(n):
            row = x[i * width : (i + 1) * width]
            inverse = 1 / rows[i] if rows[i] > TINY else 0.0
            root, outside = math.sqrt(inverse), 0.0
            for j in range(m):
                if not (holds[j] and columns[j] > TINY):
                    outside += row[j]
            outside, share = outside * inverse, p[i] * inverse
            for k in range(count):
                value = row[index[k]]
                packed[k * stride + i] = value * root
                excess[k] += value * outside
                h[k] -= value * share
        for k in range(count - 1):
            _dots(
                packed[k * stride : (k + 1) * stride],
                packed[(k + 1) * stride :],
                stride,
                count - k - 1,
                stride,
                H[k, k + 1 :],
            )
        _solve_laplacian(H, excess, count, h)
        for i in range(n):
            row, total = x[i * width : (i + 1) * width], p[i]
            for k in range(count):
                total -= row[index[k]] * h[k]
            d[i] = total / rows[i] if rows[i] > TINY else 0.0
        for k in range(count - 1, -1, -1):  # index[k] >= k
            value, h[k] = h[k], 0.0
            h[index[k]] = value
        return
    stride = (count + LANES - 1) // LANES * LANES
    for i in range(n):
        row = x[i * width : (i + 1) * width]
        excess[i], d[i] = 0, p[i]
        for j in range(m):
            if not (holds[j] and columns[j] > TINY):
                excess[i] += row[j]
        for k in range(count):
            j = index[k]
            packed[i * stride + k] = row[j] / math.sqrt(columns[j])
            d[i] -= row[j] * q[j] / columns[j]
            for other in range(n, n_all):
                excess[i] += row[j] * (x[other * width + j] / columns[j])
        for k in range(count, stride):
            packed[i * stride + k] = 0
    for i in range(n - 1):
        _dots(
            packed[i * stride : (i + 1) * stride], packed[(i + 1) * stride :], stride, n - i - 1, stride, H[i, i + 1 :]
        )
    _solve_laplacian(H, excess, n, d)
    for k in range(count):
        j = index[k]
        h[j] = q[j]
    for i in range(n):
        for k in range(count):
            h[index[k]] -= x[i * width + index[k]] * d[i]
    for k in range(count):
        h[index[k]] /= columns[index[k]]


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
        _solve_system(x, n, n_all, m, width, holds, rows, columns, p, q, H, excess, packed, index, d, h)
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
    _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
    used, residual = 1, _residual(rows, r, n)
    while not residual <= goal and used < budget:
        if not residual <= SWEEP:
            _sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used, residual = used + 1, _residual(rows, r, n)
            if residual <= goal or used >= budget or not residual < np.inf:
                continue
        _column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
        _newton_step(
            x, r, rows, n, n_all, m, width, limit, lift, holds, columns, g, p, q, H, excess, packed, index, d, h
        )  # fmt: skip
        slope = _slope(rows, r, d, n)
        lowest, uppermost = d[0], d[0]
        for i in range(n):
            lowest, uppermost = min(lowest, d[i]), max(uppermost, d[i])
            old[i] = f[i]
        if not slope < 0:  # rounding, or a step across many kinks
            _sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used, residual = used + 1, _residual(rows, r, n)
            continue
        step = min(1.0, REACH / max(uppermost - lowest, TINY))
        low, at_low, high, at_high, found = 0.0, slope, np.inf, 0.0, False
        for turn in range(SEARCH):
            for i in range(n):
                f[i] = old[i] + step * d[i]
            _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used += 1
            here, reached = _slope(rows, r, d, n), _residual(rows, r, n)
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
            _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            _sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f)
            _evaluate(a, t, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
            used += 2
        residual = _residual(rows, r, n)
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
            _evaluate(a, 1.0, f, n_all, width, limit, lift, highest, sums, factor, x, rows)
        _column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
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
        _solve_system(x, n, N, M, width, tight[k], rows, columns, p, q, H, excess, packed, index, d, h)
        for i in range(N):
            a[k, i] = d[i] if i < n else 0.0
            for j in range(M):
                inside = X[k, i, j] > 0
                Y[k, i, j] = x[i * width + j] * (centred[i * width + j] - a[k, i] - h[j]) if inside else 0.0
        for j in range(M):
            b[k, j] = means[j] + h[j]
