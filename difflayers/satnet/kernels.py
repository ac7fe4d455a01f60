"""The SATNet kernels for CPU: blocked Gauss-Seidel on a register-tiled matrix product, compiled by numba.

The order of updates of `oracle.py` is kept (one coordinate after the other, each seeing those before it); only the
arithmetic is regrouped. For a tile of ROWS consecutive free coordinates, the sum over the coordinates outside the tile
is one small matrix product with its accumulators in registers (`tiles.py`); what the coordinates of a tile do to
each other is then added one by one. Two forms of the same sum are used, whichever costs less:

* Gram: sum_j (s_i . s_j) v_j from the free-free block of C = S S', gathered once for each sample: 2 N_f k operations
  a coordinate;
* low rank: s_i' W with W = S'V kept up to date: 4 m k operations a coordinate, and no N_f x N_f block.

One sample is worked on by one thread, from start to end, in that thread's own buffers. Its result depends on neither
the batch around it nor the number of threads, a finished sample costs nothing more, and nothing of size B x N x m exists.

All arrays of a call have one dtype, float32 or float64, and sums are accumulated in it; the few scalars that decide
(objective, decreases, residuals) are float64.
"""

import math

import numpy as np

from difflayers._numba import helper, helper_fast, kernel, stopped, take_ticket
from difflayers.satnet import tiles as products
from difflayers.satnet.common import LEAST_REFERENCE
from difflayers.satnet.tiles import ROWS, add_outer, add_scaled, clear, dot_rows, subtract_product

# Up to this many free variables for each column of S, the Gram form takes fewer operations (2 N_f k against 4 m k).
GRAM_LIMIT = 2


@helper_fast
def tile_gram(gram, a, a_cols, rows, t, height, out):
    """out[r, q] = the coefficient between coordinates t + r and t + q of one tile."""
    for r in range(height):
        for q in range(r + 1):
            if gram:
                total = a[rows[t + r] * a_cols + t + q]
            else:
                total = a.dtype.type(0)
                i, j = rows[t + r] * a_cols, rows[t + q] * a_cols
                for c in range(a_cols):
                    total += a[i + c] * a[j + c]
            out[r, q] = total
            out[q, r] = total


@helper
def split(given, N, free, fixed):
    """Row numbers of the free and of the fixed rows (row 0, the truth direction, is fixed); returns both counts.

    `free` is padded with its last entry to whole tiles: padding rows are computed and thrown away.
    """
    n = given.size
    n_free, n_fixed = 0, 1
    fixed[0] = 0
    for i in range(1, N):
        if i <= n and given[i - 1]:
            fixed[n_fixed] = i
            n_fixed += 1
        else:
            free[n_free] = i
            n_free += 1
    if n_free:
        for a in range(n_free, n_free + ROWS):
            free[a] = free[n_free - 1]
    return n_free, n_fixed


@helper
def count_up(n_rows, out):
    """0, 1, ..., padded with the last row to whole tiles: the rows of a gathered block."""
    for a in range(n_rows + ROWS):
        out[a] = min(a, n_rows - 1)


@helper
def gather(C, rows, n_rows, cols, n_cols, ends, out):
    """out = C[rows, cols], flat, and 0 where the row is the column. Columns that follow each other are copied as one run."""
    b = 0
    while b < n_cols:
        end = b + 1
        while end < n_cols and cols[end] == cols[end - 1] + 1:
            end += 1
        ends[b] = end
        b = end
    for a in range(n_rows):
        i, base, b = rows[a], a * n_cols, 0
        while b < n_cols:
            shift, end = cols[b] - b, ends[b]
            for c in range(b, end):
                out[base + c] = C[i, c + shift]
            b = end
        if a < n_cols and cols[a] == i:
            out[base + a] = 0


@helper
def _place(start, z, n_free, n_fixed, free, fixed, V, b):
    """V[b]: free rows at their start, given rows at -cos(pi z) v_T + sin(pi z) r. Returns how many of these leave the v_T axis.

    The row numbers of those come first in `fixed`, afterwards. Sine and cosine are exact at z = 0, 1/2 and 1.
    """
    k = V.shape[2]
    own = b if start.shape[0] > 1 else 0
    n_soft = 0
    for a in range(n_free):
        for c in range(k):
            V[b, free[a], c] = start[own, free[a], c]
    for a in range(n_fixed):
        i = fixed[a]
        angle = z[b, i - 1] if i > 0 else 1.0
        sine = math.sin(math.pi * (angle if angle <= 0.5 else 1 - angle))
        length = 0.0
        V[b, i, 0] = -math.sin(math.pi * (0.5 - angle))
        for c in range(1, k):
            V[b, i, c] = 0
            length += start[own, i, c] * start[own, i, c]
        if sine > 0 and length > 0:
            for c in range(1, k):
                V[b, i, c] = sine / math.sqrt(length) * start[own, i, c]
            fixed[a], fixed[n_soft] = fixed[n_soft], fixed[a]
            n_soft += 1
    return n_soft


@helper
def _constant_pull(C, V, b, n_free, n_soft, n_fixed, free, fixed, rows, ends, block, x, minus_constant, tile, lanes):
    """minus_constant = - sum over fixed j of (s_i . s_j) v_j for each free i, Gram form. Most v_j lie on the v_T axis."""
    for a in range(n_free):
        total = 0.0
        for f in range(n_soft, n_fixed):
            total += C[free[a], fixed[f]] * V[b, fixed[f], 0]
        for c in range(minus_constant.shape[1]):
            minus_constant[a, c] = 0
        minus_constant[a, 0] = -total
    if n_soft == 0:
        return
    gather(C, free, n_free, fixed, n_soft, ends, block)
    for a in range(n_soft):
        for c in range(V.shape[2]):
            x[a, c] = V[b, fixed[a], c]
    for t in range(0, n_free, ROWS):
        clear(tile, ROWS)
        subtract_product(block, n_soft, rows, t, 0, n_soft, x, 0, tile, lanes)
        for r in range(min(ROWS, n_free - t)):
            add_scaled(tile.dtype.type(1), tile, r, minus_constant, t + r)


@helper
def _sum_outer(S, N, m, V, b, rows, change, w, lanes):
    """w = S'V[b], every row of V counted."""
    clear(w, m)
    count_up(N, rows)
    for t in range(0, N, ROWS):
        clear(change, ROWS)
        for r in range(min(ROWS, N - t)):
            for c in range(V.shape[2]):
                change[r, c] = V[b, t + r, c]
        add_outer(S, m, rows, t, m, change, w, lanes)


@helper_fast
def _sweep(gram, a, a_cols, rows, n_free, minus_constant, x, w, tile, lower, change, coefficient, norms, lanes):
    """One Gauss-Seidel sweep v_i = -g_i / |g_i| over the free coordinates, the rows of x.

    Returns the decrease of the objective, right if x came in with rows of length 1, and the objective after the sweep
    up to a constant: f = 2 sum_i x_i . (constant_i + sum_{j < i} C_ij x_j) + const, or |W|^2.
    """
    columns = x.shape[1]
    decrease, objective = 0.0, 0.0
    for t in range(0, n_free, ROWS):
        height = min(ROWS, n_free - t)
        tile_gram(gram, a, a_cols, rows, t, height, coefficient)
        # tile = -g, the tile's own old values included; lower = its part that is already new
        if gram:
            for r in range(height):
                for c in range(columns):
                    tile[r, c] = minus_constant[t + r, c]
            subtract_product(a, a_cols, rows, t, 0, t, x, 0, tile, lanes)
            for r in range(height):
                for c in range(columns):
                    lower[r, c] = tile[r, c]
            subtract_product(a, a_cols, rows, t, t, n_free - t, x, t, tile, lanes)
        else:
            clear(tile, ROWS)
            subtract_product(a, a_cols, rows, t, 0, a_cols, w, 0, tile, lanes)
            clear(change, ROWS)
        for r in range(height):
            i = t + r
            for q in range(r):
                add_scaled(-coefficient[r, q], change, q, tile, r)
                if gram:
                    add_scaled(-coefficient[r, q], x, t + q, lower, r)
            if not gram:
                add_scaled(coefficient[r, r], x, i, tile, r)
            norm = math.sqrt(dot_rows(tile, r, tile, r))
            norms[i] = norm
            moved = x.dtype.type(0)
            if norm > 0:
                inverse = x.dtype.type(1 / norm)
                for c in range(columns):
                    new = tile[r, c] * inverse
                    delta = new - x[i, c]
                    x[i, c] = new
                    change[r, c] = delta
                    moved += delta * delta
            else:  # a variable that nothing pulls at stays where it is
                for c in range(columns):
                    change[r, c] = 0
            decrease += norm * moved
            if gram:
                objective -= 2 * dot_rows(lower, r, x, i)
        if not gram:
            add_outer(a, a_cols, rows, t, a_cols, change, w, lanes)
    if not gram:
        for j in range(a_cols):
            objective += dot_rows(w, j, w, j)
    return decrease, objective


@helper
def copy(x, rows, out):
    for i in range(rows):
        for c in range(x.shape[1]):
            out[i, c] = x[i, c]


@helper
def _extrapolate(momentum, x, previous, rows):
    """x, previous = x + momentum (x - previous), x."""
    factor = x.dtype.type(momentum)
    for i in range(rows):
        for c in range(x.shape[1]):
            current = x[i, c]
            x[i, c] = current + factor * (current - previous[i, c])
            previous[i, c] = current


@helper
def _rounding(norm, lengths, free, n_free, size, unit):
    """`oracle.rounding`: by how much rounding alone may seem to lower the objective. size = |S|."""
    total = 0.0
    for f in range(n_free):
        error = unit * lengths[free[f]] * size
        if error > 0 and norm[f] > 0:
            total += error * (error / max(norm[f], error))
    return total


@kernel
def mixing(S, C, lengths, start, z, given, max_iter, eps, momentum, room, ticket, out, V, norms, sweeps, decreases):
    """Solve samples of the batch, as tickets are drawn, by the mixing method of `oracle.mixing`.

    Reads S (N, m), C = S S' (N, N) or (0, 0) if no sample needs it, lengths (N,) of the rows of S, start (1 or B, N, k), z and
    given (B, n). Fills out (B, n), V (B, N, k), norms (B, N) with the last |g_i|, sweeps (B,) and decreases (B,), in units of
    the reference. `room` is the size of the largest block of C that a sample of the batch gathers.
    """
    N, m = S.shape
    n, k = z.shape[1], V.shape[2]
    lanes = products.VECTOR_BYTES // V.itemsize
    columns = (k + lanes - 1) // lanes * lanes
    # Few allocations, many views: each np.zeros adds to the time it takes to compile.
    lists = np.zeros((4, N + ROWS), np.int64)
    free, fixed, counted, ends = lists[0], lists[1], lists[2], lists[3]
    vectors = np.zeros((3, N, columns), V.dtype)
    x, previous, minus_constant = vectors[0], vectors[1], vectors[2]
    sums = np.zeros((2, m, columns), V.dtype)
    w, previous_w = sums[0], sums[1]
    tiles = np.zeros((3, ROWS, columns), V.dtype)
    tile, lower, change, coefficient = tiles[0], tiles[1], tiles[2], np.zeros((ROWS, ROWS), V.dtype)
    block, norm = np.zeros(room, V.dtype), np.zeros(N, V.dtype)
    unit = 2.0**-24 if V.itemsize == 4 else 2.0**-53
    size = 0.0
    for i in range(N):
        size += lengths[i] * lengths[i]
    size = math.sqrt(size)
    while True:
        b = take_ticket(ticket)
        if b >= z.shape[0]:
            break
        n_free, n_fixed = split(given[b], N, free, fixed)
        n_soft = _place(start, z, n_free, n_fixed, free, fixed, V, b)
        sweeps[b], decreases[b] = 0, 0
        for i in range(N):
            norms[b, i] = 0
        gram = n_free <= GRAM_LIMIT * m
        a_cols = n_free if gram else m
        a = block if gram else S.reshape(-1)
        rows = counted if gram else free
        w_rows = 0 if gram else m
        if n_free > 0:
            count_up(n_free, counted)
            if gram:
                _constant_pull(
                    C, V, b, n_free, n_soft, n_fixed, free, fixed, counted, ends, block, x, minus_constant, tile, lanes
                )
                gather(C, free, n_free, free, n_free, ends, block)
            else:
                _sum_outer(a, N, m, V, b, counted, change, w, lanes)
            for f in range(n_free):
                for c in range(k):
                    x[f, c] = V[b, free[f], c]
            copy(x, n_free, previous)
            copy(w, w_rows, previous_w)
        inertia, weight, reference, objective = momentum, 0.0, 0.0, 0.0
        while n_free > 0 and sweeps[b] < max_iter and not stopped(ticket):
            decrease, after = _sweep(
                gram, a, a_cols, rows, n_free, minus_constant, x, w, tile, lower, change, coefficient, norm, lanes
            )
            if weight > 0:
                decrease = objective - after
            sweeps[b] += 1
            if sweeps[b] == 1:
                for f in range(n_free):
                    reference += LEAST_REFERENCE * norm[f]
                reference = max(reference, decrease)
            if weight > 0 and decrease <= 0:  # overshot: back to the last point, and a plain sweep from there
                copy(previous, n_free, x)
                copy(previous_w, w_rows, w)
                inertia, weight = inertia / 2, 0.0
                continue
            for f in range(n_free):
                norms[b, free[f]] = norm[f]
            objective = after
            if decrease <= _rounding(norm, lengths, free, n_free, size, unit):
                decrease = 0.0
            decreases[b] = decrease / reference if reference > 0 else 0.0
            if decrease < eps * reference or decrease == 0:
                break
            weight = inertia
            if sweeps[b] < max_iter:
                _extrapolate(weight, x, previous, n_free)
                _extrapolate(weight, w, previous_w, w_rows)
        for f in range(n_free):
            for c in range(k):
                V[b, free[f], c] = x[f, c]
        for i in range(n):
            if given[b, i]:
                out[b, i] = z[b, i]
            else:
                sine = 0.0
                for c in range(1, k):
                    sine += V[b, i + 1, c] * V[b, i + 1, c]
                out[b, i] = math.atan2(math.sqrt(sine), -V[b, i + 1, 0]) / math.pi
