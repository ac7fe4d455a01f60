"""The dual function of entropic matching: its value, its gradient, and a sweep of Sinkhorn's, compiled by numba."""

import math

import numpy as np

from difflayers._numba import helper, helper_fast
from difflayers.matching.entropic.exp import exp

TINY = 1e-300


@helper_fast
def scale(row, factor, width):
    """row *= factor; returns its sum."""
    total = 0.0
    for j in range(width):
        value = row[j] * factor[j]
        row[j] = value
        total += value
    return total


@helper
def exponentials(row, t, shift, highest, width, out, sums):
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
def fill(limit, lift, highest, sums, width, factor):
    """The best factor of each column of exponentials: exp(highest), or what brings its sum to `limit` if that is less.

    `lift` is inf where the sum must be `limit` in any case.
    """
    for j in range(width):
        free = exp(highest[j])
        full = limit[j] / sums[j]
        factor[j] = full if free + lift[j] > full else free


@helper
def evaluate(a, t, f, n, width, limit, lift, highest, sums, factor, x, rows):
    """x = exp(t a + f + g) with the best g for this f; `rows` its row sums. In the log domain: nothing overflows."""
    for j in range(width):
        highest[j] = -1e300
        sums[j] = TINY
    for i in range(n):
        _raise(a[i * width : (i + 1) * width], t, f[i], width, highest)
    for i in range(n):
        at = slice(i * width, (i + 1) * width)
        exponentials(a[at], t, f[i], highest, width, x[at], sums)
    fill(limit, lift, highest, sums, width, factor)
    for i in range(n):
        rows[i] = scale(x[i * width : (i + 1) * width], factor, width)


@helper
def row_residual(rows, r, n):
    """max |X 1 - r| / r over the rows that have one."""
    worst = 0.0
    for i in range(n):
        off = abs(rows[i] / r[i] - 1)
        if not off <= worst:
            worst = off
    return worst


@helper
def column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns):
    """g, which columns hold (their sum is their limit), and their sums."""
    for j in range(m):
        full = limit[j] / sums[j]
        holds[j] = factor[j] == full and full < np.inf
        g[j] = math.log(factor[j]) - highest[j] if holds[j] else 0.0
        if lift[j] == 0 and g[j] > 0:
            g[j] = 0.0
        columns[j] = factor[j] * sums[j]


@helper
def sweep(a, t, r, rows, n, m, width, limit, lift, highest, sums, factor, g, holds, columns, f):
    """f_i += log(r_i / (X 1)_i); a row whose sum is nothing is summed in the log domain."""
    known = False
    for i in range(n):
        if TINY < rows[i] < np.inf:
            f[i] += math.log(r[i] / rows[i])
        else:
            if not known:
                column_multipliers(limit, lift, highest, sums, factor, m, g, holds, columns)
                known = True
            top, total = -np.inf, 0.0
            for j in range(m):
                top = max(top, t * a[i * width + j] + g[j])
            for j in range(m):
                total += math.exp(t * a[i * width + j] + g[j] - top)
            f[i] = math.log(r[i] / total) - top
