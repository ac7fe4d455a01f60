"""The backward kernel of the SATNet layer for CPU, compiled by numba."""

import math

import numpy as np

from difflayers._numba import helper, helper_fast, kernel, stopped, take_ticket
from difflayers.satnet import tiles as products
from difflayers.satnet.kernels import GRAM_LIMIT, copy, count_up, gather, split, tile_gram
from difflayers.satnet.tiles import ROWS, add_outer, add_scaled, clear, dot_rows, subtract_product

LEAST_HELD_32, LEAST_HELD_64 = 2.0**-46, 2.0**-104  # of |g_i| + prox_lam, in units of S divided by its scaling


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
        tile_gram(gram, a, a_cols, rows, t, height, coefficient)
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
        n_free, _ = split(given[b], N, free, fixed)
        if n_free == 0:
            continue
        gram = n_free <= GRAM_LIMIT * m
        a_cols = n_free if gram else m
        a = block if gram else S.reshape(-1)
        rows = counted if gram else free
        if gram:
            count_up(n_free, counted)
            gather(C, free, n_free, free, n_free, ends, block)
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
        copy(r, n_free, p)
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
                    copy(y, n_free, u)
                break
            new = _advance(residual / curvature, y, q, u, r, n_free)
            length = _extend(new / residual, r, p, n_free)
            residual = new
            iterations[b] += 1
        for f in range(n_free):
            for c in range(k):
                U[b, free[f], c] = u[f, c] * size
