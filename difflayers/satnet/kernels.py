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
from difflayers.satnet.oracle import LEAST_REFERENCE
from difflayers.satnet.tiles import ROWS, add_outer, add_scaled, clear, dot_rows, subtract_product

# Up to this many free variables for each column of S, the Gram form takes fewer operations (2 N_f k against 4 m k).
GRAM_LIMIT = 2
LEAST_HELD_32, LEAST_HELD_64 = 2.0**-46, 2.0**-104  # of |g_i| + prox_lam, in units of S divided by its scaling


@helper_fast
def _tile_gram(gram, a, a_cols, rows, t, height, out):
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
def _split(given, N, free, fixed):
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
def _count_up(n_rows, out):
    """0, 1, ..., padded with the last row to whole tiles: the rows of a gathered block."""
    for a in range(n_rows + ROWS):
        out[a] = min(a, n_rows - 1)


@helper
def _gather(C, rows, n_rows, cols, n_cols, ends, out):
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
    _gather(C, free, n_free, fixed, n_soft, ends, block)
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
    _count_up(N, rows)
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
        _tile_gram(gram, a, a_cols, rows, t, height, coefficient)
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
def _copy(x, rows, out):
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
        n_free, n_fixed = _split(given[b], N, free, fixed)
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
            _count_up(n_free, counted)
            if gram:
                _constant_pull(
                    C, V, b, n_free, n_soft, n_fixed, free, fixed, counted, ends, block, x, minus_constant, tile, lanes
                )
                _gather(C, free, n_free, free, n_free, ends, block)
            else:
                _sum_outer(a, N, m, V, b, counted, change, w, lanes)
            for f in range(n_free):
                for c in range(k):
                    x[f, c] = V[b, free[f], c]
            _copy(x, n_free, previous)
            _copy(w, w_rows, previous_w)
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
                _copy(previous, n_free, x)
                _copy(previous_w, w_rows, w)
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


@helper_fast
def _triangular_solve(
    upper, gram, a, a_cols, rows, n_free, scale, v, x, shift, y, out, w, tile, change, coefficient, lanes
):
    """out = shift + (I + T)^-1 (x - shift) and y = D^-1/2 (I + T)^-1 (x - shift), one substitution; returns x . out.

    T is the part below (`upper`: above) the diagonal of P D^-1/2 C D^-1/2 P, with P_i = I - v_i v_i' and scale = D^-1/2.
    """
    columns = x.shape[1]
    product = 0.0
    clear(w, 0 if gram else a_cols)
    last = (n_free - 1) // ROWS * ROWS
    for step in range(0, n_free, ROWS):
        t = last - step if upper else step
        height = min(ROWS, n_free - t)
        _tile_gram(gram, a, a_cols, rows, t, height, coefficient)
        clear(tile, ROWS)
        if not gram:
            clear(change, ROWS)
            subtract_product(a, a_cols, rows, t, 0, a_cols, w, 0, tile, lanes)
        elif upper:
            done = min(t + ROWS, n_free)
            subtract_product(a, a_cols, rows, t, done, n_free - done, y, done, tile, lanes)
        else:
            subtract_product(a, a_cols, rows, t, 0, t, y, 0, tile, lanes)
        for turn in range(height):
            r = height - 1 - turn if upper else turn
            i = t + r
            for other in range(turn):
                q = height - 1 - other if upper else other
                add_scaled(-coefficient[r, q], y, t + q, tile, r)
            for c in range(columns):
                tile[r, c] = scale[i] * tile[r, c] + (x[i, c] - shift[i, c])
            along = dot_rows(tile, r, v, i)
            for c in range(columns):
                solved = tile[r, c] - along * v[i, c]
                y[i, c] = scale[i] * solved
                change[r, c] = y[i, c]
                out[i, c] = solved + shift[i, c]
            product += dot_rows(x, i, out, i)
        if not gram:
            add_outer(a, a_cols, rows, t, a_cols, change, w, lanes)
    return product


@helper_fast
def _right_side(v, pull, b, free, n_free, scale, x):
    """x = - D^-1/2 P pull, the right-hand side."""
    k = pull.shape[2]
    for f in range(n_free):
        i = free[f]
        along = x.dtype.type(0)
        for c in range(k):
            along += v[f, c] * pull[b, i, c]
        for c in range(x.shape[1]):
            x[f, c] = -scale[f] * (pull[b, i, c] - along * v[f, c]) if c < k else 0.0


@helper
def _unit_scale(x, n_free):
    """Divide x by a power of two that brings its largest entry near 1, and return that; its squares then neither vanish
    nor overflow, whatever the scale of the loss."""
    largest = 0.0
    for i in range(n_free):
        for c in range(x.shape[1]):
            largest = max(largest, abs(x[i, c]))
    if not 0 < largest < math.inf:
        return x.dtype.type(1)
    exponent = math.frexp(largest)[1]
    size = x.dtype.type(math.ldexp(1.0, exponent))
    if not size < math.inf:
        return x.dtype.type(1)
    for i in range(n_free):
        for c in range(x.shape[1]):
            x[i, c] = x[i, c] / size
    return size


@helper_fast
def _advance(alpha, y, q, u, r, n_free):
    """u += alpha y and r -= alpha q; returns |r|^2."""
    factor = y.dtype.type(alpha)
    total = 0.0
    for i in range(n_free):
        add_scaled(factor, y, i, u, i)
        add_scaled(-factor, q, i, r, i)
        total += dot_rows(r, i, r, i)
    return total


@helper_fast
def _extend(beta, r, p, n_free):
    """p = r + beta p; returns |p|^2."""
    factor = p.dtype.type(beta)
    total = 0.0
    for i in range(n_free):
        for c in range(p.shape[1]):
            p[i, c] = r[i, c] + factor * p[i, c]
        total += dot_rows(p, i, p, i)
    return total


@kernel
def adjoint(S, C, V, norms, given, pull, prox_lam, max_iter, tolerance, room, ticket, U, iterations):
    """Solve the linear system of all derivatives, `oracle.coordinate_descent`, by preconditioned conjugate gradients.

    With D_i = |g_i| + prox_lam, the system is (D + P C_off P) U = -P pull. The preconditioner is the Gauss-Seidel sweep
    itself, forwards and backwards (SSOR); in the variables x = (I + L') D^1/2 U, an iteration on the preconditioned
    matrix (I + L)^-1 (I + L + L') (I + L')^-1 takes one substitution up and one down, together as many operations as one
    sweep (Eisenstat, SIAM J. Sci. Stat. Comput. 2(1), 1981). |r|^2 in these variables is twice the amount by which one
    more sweep of coordinate descent would lower q(U): the solver stops when it is below `tolerance` times what it was.

    The preconditioned matrix has eigenvalues mu <= 1, and T sweeps of coordinate descent multiply the right-hand side by
    (1 - (1 - mu)^T) / mu <= T along them. Where the forward pass has not quite converged, or the SDP's solution is hardly
    unique, mu comes near 0 or below, the exact solution means nothing, and one such sample would drown the batch. So the
    iteration ends, with what it has, at a direction flatter than 1 / max_iter: one that max_iter sweeps would not resolve.

    Fills U (B, N, k), 0 in given rows, and iterations (B,). A coordinate that nothing holds is left out: D_i no more than the
    square of the dtype's eps, where the largest entry of S is about 1.
    """
    N, m = S.shape
    k = V.shape[2]
    lanes = products.VECTOR_BYTES // V.itemsize
    columns = (k + lanes - 1) // lanes * lanes
    lists = np.zeros((4, N + ROWS), np.int64)
    free, fixed, counted, ends = lists[0], lists[1], lists[2], lists[3]
    vectors = np.zeros((9, N, columns), V.dtype)
    v, u, p, q, r = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    s, y, unused, zero = vectors[5], vectors[6], vectors[7], vectors[8]
    w = np.zeros((m, columns), V.dtype)
    tiles = np.zeros((2, ROWS, columns), V.dtype)
    tile, change, coefficient = tiles[0], tiles[1], np.zeros((ROWS, ROWS), V.dtype)
    block, scale = np.zeros(room, V.dtype), np.zeros(N, V.dtype)
    least = LEAST_HELD_32 if V.itemsize == 4 else LEAST_HELD_64
    while True:
        b = take_ticket(ticket)
        if b >= given.shape[0]:
            break
        for i in range(N):
            for c in range(k):
                U[b, i, c] = 0
        iterations[b] = 0
        n_free, _ = _split(given[b], N, free, fixed)
        if n_free == 0:
            continue
        gram = n_free <= GRAM_LIMIT * m
        a_cols = n_free if gram else m
        a = block if gram else S.reshape(-1)
        rows = counted if gram else free
        if gram:
            _count_up(n_free, counted)
            _gather(C, free, n_free, free, n_free, ends, block)
        for f in range(n_free):
            held = norms[b, free[f]] + prox_lam
            scale[f] = 1 / math.sqrt(held) if held > least else 0.0
            for c in range(k):
                v[f, c] = V[b, free[f], c]
        clear(u, n_free)
        _right_side(v, pull, b, free, n_free, scale, s)
        size = _unit_scale(s, n_free)
        _triangular_solve(
            False, gram, a, a_cols, rows, n_free, scale, v, s, zero, unused, r, w, tile, change, coefficient, lanes
        )
        _copy(r, n_free, p)
        residual = length = _advance(0.0, r, r, r, r, n_free)
        target = tolerance * residual
        while residual > target and iterations[b] < max_iter and not stopped(ticket):
            _triangular_solve(
                True, gram, a, a_cols, rows, n_free, scale, v, p, zero, y, s, w, tile, change, coefficient, lanes
            )
            curvature = _triangular_solve(
                False, gram, a, a_cols, rows, n_free, scale, v, p, s, unused, q, w, tile, change, coefficient, lanes
            )
            if curvature * max_iter < length:  # flatter than max_iter sweeps could resolve
                if iterations[b] == 0:  # the sweep itself, as coordinate descent would do it
                    _copy(y, n_free, u)
                break
            new = _advance(residual / curvature, y, q, u, r, n_free)
            length = _extend(new / residual, r, p, n_free)
            residual = new
            iterations[b] += 1
        for f in range(n_free):
            for c in range(k):
                U[b, free[f], c] = u[f, c] * size
