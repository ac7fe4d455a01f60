"""The Euclidean projection onto the assignment polytope, exactly, by a semismooth Newton method on its dual.

    min 1/2 |X - A|^2  subject to  X >= 0,  X 1 = 1,  X' 1 <= 1,  X_ij = 0 where A_ij = -inf.

With a multiplier alpha_i for each row and beta_j >= 0 for each column, X_ij = max(0, A_ij - alpha_i - beta_j). For given
alpha each column has its own best beta_j (the projection of A_j - alpha onto {x >= 0, sum x <= 1}), so what is left to
minimise is a convex, piecewise quadratic psi of n variables with gradient 1 - X(alpha) 1 and generalised Hessian

    H = sum_j D_j - [beta_j > 0] d_j d_j' / |d_j|^2,   d_j the 0/1 support of column j of X, D_j = diag(d_j):

a Newton method after Li, Sun, Toh, arXiv 1702.05934 (who keep both multipliers, for equality constraints), with a step
that ends where the slope of psi along it is still negative and at most half of what it was. Close to a vertex H has no
curvature and many steps would be needed; there the problem is solved for A / s first, with s falling to 1 by tens, each
solution (alpha s / s') starting the next. All arithmetic is float64, whatever the dtype of A.
"""

import math

import numpy as np

from difflayers._numba import dot, helper, kernel, take_ticket

RIDGE = 1e-3  # times the residual, on the diagonal of H: vanishes as the residual does
DIRECT_STEPS = 20  # Newton steps before the detour over A / s
STAGE = 10.0  # the factor between one s and the next
ROUGH = 1e-2  # the residual at which a stage hands over


@helper
def project_column(a, alpha, j, n, x):
    """x[:, j] = the projection of a[:, j] - alpha onto {x >= 0, sum x <= 1}; returns its multiplier (Michelot 1986)."""
    total, count, beta = 0.0, 0, 0.0
    for i in range(n):
        value = a[i, j] - alpha[i]
        if value > 0:
            total += value
            count += 1
    if total > 1:
        beta = (total - 1) / count
        while True:
            total, left = 0.0, 0
            for i in range(n):
                # Sums of what is left above beta, of order 1, round less than sums of entries as large as the costs.
                value = a[i, j] - alpha[i] - beta
                if value > 0:
                    total += value
                    left += 1
            if left == 0:  # rounding: keep the last multiplier
                break
            beta += (total - 1) / left
            if left >= count:
                break
            count = left
        beta = max(beta, 0.0)
    for i in range(n):
        value = a[i, j] - alpha[i] - beta
        x[i, j] = value if value > 0 else 0.0
    return beta


@helper
def evaluate(a, alpha, n, m, slack, x, beta, gradient):
    """X and beta for given alpha, and the gradient of psi, 1 - X 1. Returns its largest entry in absolute value."""
    for j in range(m):
        if slack and j == m - 1:
            beta[j] = 0
            for i in range(n):
                value = a[i, j] - alpha[i]
                x[i, j] = value if value > 0 else 0.0
        else:
            beta[j] = project_column(a, alpha, j, n, x)
    residual = 0.0
    for i in range(n):
        total = 0.0
        for j in range(m):
            total += x[i, j]
        gradient[i] = 1 - total
        residual = max(residual, abs(gradient[i]))
    return residual


@helper
def hessian(x, beta, n, m, H, support):
    for i in range(n):
        for q in range(n):
            H[i, q] = 0
    for j in range(m):
        count = 0
        for i in range(n):
            if x[i, j] > 0:
                support[count] = i
                H[i, i] += 1
                count += 1
        if beta[j] > 0:
            for p in range(count):
                for q in range(p + 1):
                    H[support[p], support[q]] -= 1 / count


@helper
def cholesky_solve(H, n, threshold, b):
    """b = H^-1 b by Cholesky's factorisation in place of the lower triangle of H.

    A pivot below `threshold` times its diagonal entry is one of a dependent row: its unknown is set to 0, which leaves a
    solution wherever there is one.
    """
    for i in range(n):
        diagonal = H[i, i]
        for j in range(i):
            H[i, j] = (H[i, j] - dot(H[i], H[j], j)) * H[j, j] if H[j, j] > 0 else 0.0
        pivot = diagonal - dot(H[i], H[i], i)
        H[i, i] = 1 / math.sqrt(pivot) if pivot > threshold * diagonal else 0.0
    for i in range(n):
        b[i] = (b[i] - dot(H[i], b, i)) * H[i, i]
    for i in range(n - 1, -1, -1):
        total = b[i]
        for q in range(i + 1, n):
            total -= H[q, i] * b[q]
        b[i] = total * H[i, i]


@helper
def line_search(a, alpha, step, slope, n, m, slack, x, beta, gradient, trial):
    """trial = alpha + t step, with a slope of psi there between slope / 2 and (almost) 0. Returns the residual."""
    low, at_low, high, at_high, t, residual = 0.0, slope, math.inf, 0.0, 1.0, 0.0
    for turn in range(60):
        for i in range(n):
            trial[i] = alpha[i] + t * step[i]
        residual = evaluate(a, trial, n, m, slack, x, beta, gradient)
        here = dot(gradient, step, n)
        if 0.5 * slope <= here <= -1e-3 * slope:
            break
        if here < 0:
            low, at_low = t, here
        else:
            high, at_high = t, here
        if high == math.inf:
            t = 2 * t
        elif turn % 3 == 2:
            t = 0.5 * (low + high)
        else:
            t = low + (high - low) * at_low / (at_low - at_high)
    return residual


@helper
def _drift(beta, m):
    """By how much the smallest multiplier of a column exceeds 1, at least 0: that much can be moved to alpha.

    Where all columns are full, shifting alpha against beta changes no X, and psi does not rise. Left alone, both grow far
    beyond the entries of A where n = m (H has no curvature that way), and X loses its digits.
    """
    least = beta[0]
    for j in range(1, m):
        least = min(least, beta[j])
    return max(least - 1.0, 0.0)


@helper
def newton(a, n, m, slack, tolerance, steps, alpha, x, beta, H, support, gradient, step, trial):
    """Newton steps from alpha on, in place, down to a residual of `tolerance`. Returns their number and the residual."""
    residual = evaluate(a, alpha, n, m, slack, x, beta, gradient)
    for count in range(steps):
        if residual <= tolerance:
            return count, residual
        hessian(x, beta, n, m, H, support)
        for i in range(n):
            H[i, i] += RIDGE * min(1.0, residual)
            step[i] = -gradient[i]
        cholesky_solve(H, n, 0.0, step)
        slope = dot(gradient, step, n)
        residual = line_search(a, alpha, step, slope, n, m, slack, x, beta, gradient, trial)
        shift = _drift(beta, m)
        for i in range(n):
            alpha[i] = trial[i] + shift
        if shift > 0:
            residual = evaluate(a, alpha, n, m, slack, x, beta, gradient)
    return steps, residual


@helper
def start(a, n, m, alpha):
    """alpha for rows alone: each row of max(a - alpha, 0) sums to 1, as if columns had no bound."""
    for i in range(n):
        alpha[i] = -math.inf
        for j in range(m):
            alpha[i] = max(alpha[i], a[i, j])
        alpha[i] -= 1  # at most this much below the largest entry
        count = 0
        while True:
            total, left = 0.0, 0
            for j in range(m):
                if a[i, j] > alpha[i]:
                    total += a[i, j] - alpha[i]
                    left += 1
            if left == count or left == 0:
                break
            count = left
            alpha[i] += (total - 1) / left


@helper
def _gather(A, templates, slack, rows, columns, a, offset):
    """The rows and columns that take part, less the row maxima `offset`. Returns their numbers and the range of the entries."""
    n, m = A.shape
    n_rows, n_columns, spread = 0, 0, 0.0
    for i in range(n):
        if templates[i]:
            rows[n_rows] = i
            n_rows += 1
    for j in range(m):
        used = slack and j == m - 1
        for p in range(n_rows):
            used = used or A[rows[p], j] > -np.inf
        if used:
            columns[n_columns] = j
            n_columns += 1
    for p in range(n_rows):
        highest = -np.inf
        for q in range(n_columns):
            a[p, q] = A[rows[p], columns[q]]
            highest = max(highest, a[p, q])
        offset[p] = highest
        for q in range(n_columns):
            a[p, q] -= highest
            if a[p, q] > -np.inf:
                spread = max(spread, -a[p, q])
    return n_rows, n_columns, spread


@kernel
def quadratic(A, templates, slack, tolerance, max_iter, ticket, X, alpha, beta, steps, residuals):
    """Project the problems of a batch whose tickets are drawn.

    Reads A (B, n, m), -inf where forbidden, and templates (B, n), the rows that take part. Fills X (B, n, m), the
    multipliers alpha (B, n) of its rows and beta (B, m) of its columns, the Newton steps (B,) and max |1 - X 1| (B,).
    """
    n, m = A.shape[1], A.shape[2]
    rows, columns, support = np.zeros(n, np.int64), np.zeros(m, np.int64), np.zeros(n, np.int64)
    a, scaled, x, H = np.zeros((n, m)), np.zeros((n, m)), np.zeros((n, m)), np.zeros((n, n))
    vectors = np.zeros((5, n))
    y, gradient, step, trial, offset = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    z = np.zeros(m)
    while True:
        b = take_ticket(ticket)
        if b >= A.shape[0]:
            break
        n_rows, n_columns, spread = _gather(A[b], templates[b], slack, rows, columns, a, offset)
        start(a, n_rows, n_columns, y)
        used, residual = newton(
            a, n_rows, n_columns, slack, tolerance, min(DIRECT_STEPS, max_iter),
            y, x, z, H, support, gradient, step, trial,
        )  # fmt: skip
        if residual > tolerance and used < max_iter:
            s = 1.0
            while s * STAGE < spread:
                s *= STAGE
            for p in range(n_rows):
                for q in range(n_columns):
                    scaled[p, q] = a[p, q] / s
            start(scaled, n_rows, n_columns, y)
            while True:
                for p in range(n_rows):
                    for q in range(n_columns):
                        scaled[p, q] = a[p, q] / s
                more, residual = newton(
                    scaled, n_rows, n_columns, slack, ROUGH if s > 1 else tolerance, max_iter - used,
                    y, x, z, H, support, gradient, step, trial,
                )  # fmt: skip
                used += more
                if s == 1:
                    break
                ratio = s if s < STAGE else STAGE
                s = s / ratio
                for p in range(n_rows):
                    y[p] *= ratio
        steps[b], residuals[b] = used, residual
        for i in range(n):
            alpha[b, i] = 0
            for j in range(m):
                X[b, i, j] = 0
        for j in range(m):
            beta[b, j] = 0
        for q in range(n_columns):
            beta[b, columns[q]] = z[q]
        for p in range(n_rows):
            alpha[b, rows[p]] = y[p] + offset[p]
            for q in range(n_columns):
                X[b, rows[p], columns[q]] = x[p, q]


@kernel
def quadratic_adjoint(X, beta, grad, ticket, out):
    """out (B, n, m) = J grad, J the orthogonal projector onto the matrices that vanish where X does, with row sums 0 and
    column sums 0 where beta > 0: the generalised Jacobian of Han and Sun (1997), symmetric. out_ij = grad_ij - a_i - b_j
    on the support of X, with H a = (grad - column means) 1 and the Hessian H of the dual."""
    n, m = X.shape[1], X.shape[2]
    H, a, support = np.zeros((n, n)), np.zeros(n), np.zeros(n, np.int64)
    while True:
        b = take_ticket(ticket)
        if b >= X.shape[0]:
            break
        hessian(X[b], beta[b], n, m, H, support)
        for i in range(n):
            a[i] = 0
        for turn in range(2):  # the right-hand side, then the result
            for j in range(m):
                total, count = 0.0, 0
                for i in range(n):
                    if X[b, i, j] > 0:
                        total += grad[b, i, j] - (a[i] if turn else 0.0)
                        count += 1
                mean = total / count if beta[b, j] > 0 and count > 0 else 0.0
                for i in range(n):
                    inside = X[b, i, j] > 0
                    if turn:
                        out[b, i, j] = grad[b, i, j] - a[i] - mean if inside else 0.0
                    elif inside:
                        a[i] += grad[b, i, j] - mean
            if not turn:
                cholesky_solve(H, n, 1e-9, a)
