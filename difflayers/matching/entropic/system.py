"""The linear system of a Newton step: a weighted Laplacian of the bipartite graph, reduced to its rows; compiled by numba."""

import math

from difflayers._numba import helper, helper_fast
from difflayers.matching.entropic.evaluation import TINY

LANES = 8  # rows are padded to whole vectors


@helper_fast
def dots(x, y, stride, count, size, out):
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
def add(y, w, size, x):
    for e in range(size):
        x[e] += w * y[e]


@helper_fast
def dot(x, y, size):
    total = 0.0
    for e in range(size):
        total += x[e] * y[e]
    return total


@helper
def solve_laplacian(H, excess, n, b):
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
                add(row[i + 1 :], w, left - i - 1, H[k + 1 + i, k + 2 + i : n])
        excess[k] = inverse
    for k in range(n - 1, -1, -1):
        b[k] = (b[k] + dot(H[k, k + 1 : n], b[k + 1 : n], n - k - 1)) * excess[k]


@helper
def solve_system(x, n, n_all, m, width, holds, rows, columns, p, q, H, excess, packed, index, d, h):
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
            dots(
                packed[k * stride : (k + 1) * stride],
                packed[(k + 1) * stride :],
                stride,
                count - k - 1,
                stride,
                H[k, k + 1 :],
            )
        solve_laplacian(H, excess, count, h)
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
        dots(
            packed[i * stride : (i + 1) * stride], packed[(i + 1) * stride :], stride, n - i - 1, stride, H[i, i + 1 :]
        )
    solve_laplacian(H, excess, n, d)
    for k in range(count):
        j = index[k]
        h[j] = q[j]
    for i in range(n):
        for k in range(count):
            h[index[k]] -= x[i * width + index[k]] * d[i]
    for k in range(count):
        h[index[k]] /= columns[index[k]]
