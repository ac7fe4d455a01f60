"""The MAXSAT solver's kernels, compiled by numba: a sparse sweep of the mixing method, counting, local search."""

import numpy as np

from difflayers._numba import dot, helper_fast, kernel


@helper_fast
def _add(factor, x, out):
    for c in range(len(out)):
        out[c] += factor * x[c]


@helper_fast
def _normalise(g, v, change):
    """v = -g / |g| and change = the new v less the old one; returns |g| and |change|^2."""
    norm = np.sqrt(dot(g, g, len(g)))
    moved = g.dtype.type(0)
    if norm > 0:
        for c in range(len(g)):
            new = -g[c] / norm
            change[c] = new - v[c]
            v[c] = new
            moved += change[c] * change[c]
    else:  # a variable that nothing pulls at stays where it is
        for c in range(len(g)):
            change[c] = 0
    return norm, moved


@helper_fast
def _pull(i, V, W, truth, starts, columns, values, long_starts, long_columns, long_values, long_square, g):
    """g = sum over j != i of C_ij v_j, the truth direction v_T = e_0 included."""
    for c in range(len(g)):
        g[c] = 0
    g[0] = truth[i]
    for e in range(starts[i], starts[i + 1]):
        _add(values[e], V[columns[e]], g)
    for e in range(long_starts[i], long_starts[i + 1]):
        _add(long_values[e], W[long_columns[e]], g)
    if long_square[i] > 0:
        _add(-long_square[i], V[i], g)


@kernel
def sweep(V, W, truth, starts, columns, values, long_starts, long_columns, long_values, long_square, first, last):
    """Coordinate descent (algorithm 2 of SATNet) over rows first .. last - 1 of V (n, k), C sparse.

    C_ij is in `starts`, `columns`, `values` (CSR) for short clauses; W (clauses, k) = S'V for long ones, without the truth
    row, which `truth` has, is kept up to date. Returns by how much the objective fell, sum_i |g_i| |change of v_i|^2.
    """
    k = V.shape[1]
    g, change = np.zeros(k, V.dtype), np.zeros(k, V.dtype)
    decrease = 0.0
    for i in range(first, last):
        _pull(i, V, W, truth, starts, columns, values, long_starts, long_columns, long_values, long_square, g)
        norm, moved = _normalise(g, V[i], change)
        decrease += norm * moved
        for e in range(long_starts[i], long_starts[i + 1]):
            _add(long_values[e], change, W[long_columns[e]])
    return decrease


@kernel
def pulls(V, W, truth, starts, columns, values, long_starts, long_columns, long_values, long_square, norms):
    """norms (n,) = |g_i|, with V as it is. Returns sum_i g_i . v_i."""
    g = np.zeros(V.shape[1], V.dtype)
    total = 0.0
    for i in range(V.shape[0]):
        _pull(i, V, W, truth, starts, columns, values, long_starts, long_columns, long_values, long_square, g)
        norms[i] = np.sqrt(dot(g, g, len(g)))
        total += dot(g, V[i], len(g))
    return total


@kernel
def count_true(literals, offsets, x):
    """(m,): how many literals of each clause are true at x (n,), bool."""
    counts = np.zeros(len(offsets) - 1, np.int32)
    for j in range(len(counts)):
        for e in range(offsets[j], offsets[j + 1]):
            literal = literals[e]
            if x[abs(literal) - 1] == (literal > 0):
                counts[j] += 1
    return counts


@kernel
def local_search(weights, hard, starts, clauses, order, tolerance, budget, place, counts, x):
    """Flip variables of x in place, one at a time in the given order, while a flip helps; `budget` literals at most.

    A flip helps if it violates fewer hard clauses, or as many and less soft weight. starts (n + 1,) and clauses: the clauses of
    each variable, as signed numbers j + 1 (the literal's sign). `counts` of true literals and `place` (in the order, and how
    many in a row did not help) go from call to call. True where no single flip helps, False where the budget has run out.
    `tolerance`: the least gain, of the weights that a variable's clauses have; 0 for whole numbers.
    """
    at, idle, n = place[0], place[1], len(order)
    while idle < n and budget > 0:
        i = order[at]
        at = at + 1 if at + 1 < n else 0
        fewer, gain, scale = 0, weights.dtype.type(0), weights.dtype.type(0)
        for e in range(starts[i], starts[i + 1]):
            j = abs(clauses[e]) - 1
            is_true = x[i] == (clauses[e] > 0)
            change = 0
            if is_true and counts[j] == 1:
                change = -1
            elif not is_true and counts[j] == 0:
                change = 1
            if hard[j]:
                fewer += change
            else:
                gain += change * weights[j]
                scale += weights[j]
        budget -= starts[i + 1] - starts[i] + 1
        if fewer > 0 or (fewer == 0 and gain > tolerance * scale):
            for e in range(starts[i], starts[i + 1]):
                counts[abs(clauses[e]) - 1] += -1 if x[i] == (clauses[e] > 0) else 1
            x[i] = not x[i]
            idle = 0
        else:
            idle += 1
    place[0], place[1] = at, idle
    return idle >= n
