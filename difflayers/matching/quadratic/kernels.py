"""Quadratic matching, exactly, by a semismooth Newton method on its dual.

    min <C, X> + gamma / 2 |X|^2  subject to  X >= 0,  X 1 = 1,  X' 1 <= 1,  X_ij = 0 where C_ij = inf.

With a multiplier for each row and one, at least 0, for each column, gamma X_ij = max(0, -C_ij - row_i - column_j). Whatever
multipliers U, V are known already are taken off first, which changes nothing but the digits that are left: with the scores

    a_ij = -(C_ij + U_i + V_j) / gamma,   X_ij = max(0, a_ij - alpha_i - beta_j),   beta_j >= low_j = -V_j / gamma,

alpha and beta are of order 1 where U and V are good, however large C / gamma is. For given alpha each column has its own best
beta_j (the projection of a_j - alpha onto {x >= 0, sum x <= 1}), so what is left to minimise is a convex, piecewise quadratic
psi of n variables with gradient 1 - X(alpha) 1 and generalised Hessian

    H = sum_j D_j - [beta_j > low_j] d_j d_j' / |d_j|^2,   d_j the 0/1 support of column j of X, D_j = diag(d_j):

a Newton method after Li, Sun, Toh, arXiv 1702.05934 (who keep both multipliers, for equality constraints), with a step
that ends where the slope of psi along it is still negative and at most half of what it was. Close to a vertex H has no
curvature and many steps would be needed; there the problem is solved for s gamma first, with s falling to 1 by tens, each
solution's multipliers being the U and V of the next. All arithmetic is float64, whatever the dtype of C. The matrices c, a
and x hold columns, one after the other.
"""

import math

import numpy as np

from difflayers._numba import dot, helper, helper_fast, kernel, stopped, take_ticket

RIDGE = 1e-3  # times the residual, on the diagonal of H: vanishes as the residual does
DIRECT_STEPS = 20  # Newton steps before the detour over s gamma
STAGE = 10.0  # the factor between one s and the next
ROUGH = 1e-2  # the residual at which a stage hands over


@helper_fast
def _above(a, alpha, beta, n):
    """The sum of what of a - alpha is above beta, and its number."""
    total, count = 0.0, 0
    for i in range(n):
        value = a[i] - alpha[i] - beta
        total += value if value > 0 else 0.0
        count += 1 if value > 0 else 0
    return total, count


@helper_fast
def _keep(a, alpha, beta, n, x):
    """x = what of a - alpha is above beta. Returns its sum."""
    total = 0.0
    for i in range(n):
        value = a[i] - alpha[i] - beta
        x[i] = value if value > 0 else 0.0
        total += x[i]
    return total


@helper
def project_column(a, alpha, low, n, x):
    """x = max(0, a - alpha - beta) with the least beta >= low for which it sums to at most 1 (Michelot 1986).

    Returns beta, and by how much x breaks what is asked of it: a sum of at most 1, or of 1 where beta > low.
    """
    top = -math.inf
    for i in range(n):
        top = max(top, a[i] - alpha[i])
    beta = max(low, top - 1)  # below it the sum is at least 1
    total, left = _above(a, alpha, beta, n)
    if beta > low or total > 1:
        count = n + 1
        # left = 0 is rounding: keep the last multiplier.
        while left > 0:
            beta += (total - 1) / left
            if left >= count:
                break
            count = left
            total, left = _above(a, alpha, beta, n)
        beta = max(beta, low)
    total = _keep(a, alpha, beta, n, x)
    return beta, abs(total - 1) if beta > low else max(total - 1, 0.0)


@helper
def evaluate(a, low, alpha, n, m, slack, x, beta, gradient):
    """X and beta for given alpha, and the gradient of psi, 1 - X 1. Returns by how much rows and columns are off at most."""
    residual = 0.0
    for i in range(n):
        gradient[i] = 1
    for j in range(m):
        if slack and j == m - 1:
            beta[j] = 0
            _keep(a[j], alpha, 0.0, n, x[j])
        else:
            beta[j], off = project_column(a[j], alpha, low[j], n, x[j])
            residual = max(residual, off)
        for i in range(n):
            gradient[i] -= x[j, i]
    for i in range(n):
        residual = max(residual, abs(gradient[i]))
    return residual


@helper
def hessian(x, beta, low, n, m, H, support):
    for i in range(n):
        for q in range(n):
            H[i, q] = 0
    for j in range(m):
        count = 0
        for i in range(n):
            if x[j, i] > 0:
                support[count] = i
                H[i, i] += 1
                count += 1
        if beta[j] > low[j]:
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
def line_search(a, low, alpha, step, slope, n, m, slack, x, beta, gradient, trial):
    """trial = alpha + t step, with a slope of psi there between slope / 2 and (almost) 0. Returns the residual."""
    before, at_before, after, at_after, t, residual = 0.0, slope, math.inf, 0.0, 1.0, 0.0
    for turn in range(60):
        for i in range(n):
            trial[i] = alpha[i] + t * step[i]
        residual = evaluate(a, low, trial, n, m, slack, x, beta, gradient)
        here = dot(gradient, step, n)
        if 0.5 * slope <= here <= -1e-3 * slope:
            break
        if here < 0:
            before, at_before = t, here
        else:
            after, at_after = t, here
        if after == math.inf:
            t = 2 * t
        elif turn % 3 == 2:
            t = 0.5 * (before + after)
        else:
            t = before + (after - before) * at_before / (at_before - at_after)
    return residual


@helper
def _drift(beta, low, m):
    """What can be moved from beta to alpha: by how much all beta are above 1, or (negative) below -1.

    Where all columns are full, shifting alpha against beta changes no X, and psi does not rise. Left alone, both grow far
    beyond the scores where n = m (H has no curvature that way), and X loses its digits.
    """
    least, most, full = beta[0], beta[0], True
    for j in range(m):
        least, most = min(least, beta[j]), max(most, beta[j])
        full = full and beta[j] > low[j]
    if not full:
        return 0.0
    return max(least - 1, 0.0) + min(most + 1, 0.0)


@helper
def newton(a, low, n, m, slack, tolerance, steps, alpha, x, beta, H, support, gradient, step, trial, ticket):
    """Newton steps from alpha on, in place, down to a residual of `tolerance`. Returns their number and the residual."""
    residual = evaluate(a, low, alpha, n, m, slack, x, beta, gradient)
    for count in range(steps):
        if residual <= tolerance or stopped(ticket):
            return count, residual
        hessian(x, beta, low, n, m, H, support)
        for i in range(n):
            H[i, i] += RIDGE * min(1.0, residual)
            step[i] = -gradient[i]
        cholesky_solve(H, n, 0.0, step)
        slope = dot(gradient, step, n)
        residual = line_search(a, low, alpha, step, slope, n, m, slack, x, beta, gradient, trial)
        shift = _drift(beta, low, m)
        for i in range(n):
            alpha[i] = trial[i] + shift
        if shift != 0:
            residual = evaluate(a, low, alpha, n, m, slack, x, beta, gradient)
    return steps, residual


@helper
def rows_alone(a, n, m, alpha):
    """alpha for rows alone: each row of max(a - alpha, 0) sums to 1, as if columns had no bound."""
    for i in range(n):
        alpha[i] = -math.inf
        for j in range(m):
            alpha[i] = max(alpha[i], a[j, i])
        alpha[i] -= 1  # at most this much below the largest entry
        count = m + 1
        while True:
            total, left = 0.0, 0
            for j in range(m):
                if a[j, i] > alpha[i]:
                    total += a[j, i] - alpha[i]
                    left += 1
            if left >= count or left == 0:
                break
            count = left
            alpha[i] += (total - 1) / left


@helper
def _gather(cost, templates, slack, rows, columns, c):
    """The rows and columns that take part. Returns their numbers."""
    n, m = cost.shape
    n_rows, n_columns = 0, 0
    for i in range(n):
        if templates[i]:
            rows[n_rows] = i
            n_rows += 1
    for j in range(m):
        used = slack and j == m - 1
        for p in range(n_rows):
            used = used or cost[rows[p], j] < np.inf
        if used:
            columns[n_columns] = j
            n_columns += 1
    for p in range(n_rows):
        for q in range(n_columns):
            c[q, p] = cost[rows[p], columns[q]]
    return n_rows, n_columns


@helper
def _centre(c, V, n, m, U):
    """U for which the largest score of each row is 0."""
    for i in range(n):
        U[i] = -math.inf
        for j in range(m):
            U[i] = max(U[i], -(c[j, i] + V[j]))


@helper
def _scores(c, U, V, weight, n, m, a, low):
    """The scores for the weight s gamma, and the bounds of beta. Returns the range of the scores."""
    spread = 0.0
    for j in range(m):
        low[j] = -V[j] / weight
        for i in range(n):
            # U + V first: where both are large they cancel, and exactly so.
            a[j, i] = -(c[j, i] + (U[i] + V[j])) / weight
            if a[j, i] > -np.inf:
                spread = max(spread, -a[j, i])
    return spread


@helper
def _absorb(alpha, beta, low, weight, n, m, U, V):
    """The multipliers found, added to those known."""
    for i in range(n):
        U[i] += weight * alpha[i]
        alpha[i] = 0
    for j in range(m):
        V[j] = max(V[j] + weight * beta[j], 0.0) if beta[j] > low[j] else 0.0


@kernel
def quadratic(
    cost,
    gamma,
    templates,
    start,
    slack,
    tolerance,
    max_iter,
    ticket,
    X,
    row_multipliers,
    column_multipliers,
    steps,
    residuals,
):
    """Solve the problems of a batch whose tickets are drawn.

    Reads cost (B, n, m), inf where forbidden, gamma (B,), templates (B, n), the rows that take part, and start (B, m), column
    multipliers to begin with. Fills X (B, n, m), the multipliers (B, n) and (B, m), the Newton steps (B,) and by how much a row
    or column of X is off at most (B,).
    """
    n, m = cost.shape[1], cost.shape[2]
    rows, columns, support = np.zeros(n, np.int64), np.zeros(m, np.int64), np.zeros(n, np.int64)
    c, a, x, H = np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, n)), np.zeros((n, n))
    vectors, others = np.zeros((5, n)), np.zeros((3, m))
    alpha, gradient, step, trial, U = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    beta, low, V = others[0], others[1], others[2]
    while True:
        b = take_ticket(ticket)
        if b >= cost.shape[0]:
            break
        n_rows, n_columns = _gather(cost[b], templates[b], slack, rows, columns, c)
        for q in range(n_columns):
            known = start[b, columns[q]]
            V[q] = known if known > 0 and not (slack and columns[q] == m - 1) else 0.0
        _centre(c, V, n_rows, n_columns, U)
        _scores(c, U, V, gamma[b], n_rows, n_columns, a, low)
        rows_alone(a, n_rows, n_columns, alpha)
        used, residual = newton(
            a, low, n_rows, n_columns, slack, tolerance, min(DIRECT_STEPS, max_iter),
            alpha, x, beta, H, support, gradient, step, trial, ticket,
        )  # fmt: skip
        s = 1.0
        if not residual <= tolerance and used < max_iter:
            for q in range(n_columns):
                V[q] = 0
            _centre(c, V, n_rows, n_columns, U)
            spread = _scores(c, U, V, gamma[b], n_rows, n_columns, a, low)
            while s * STAGE < spread:
                s *= STAGE
            _scores(c, U, V, s * gamma[b], n_rows, n_columns, a, low)
            rows_alone(a, n_rows, n_columns, alpha)
            while True:
                more, residual = newton(
                    a, low, n_rows, n_columns, slack, ROUGH if s > 1 else tolerance, max_iter - used,
                    alpha, x, beta, H, support, gradient, step, trial, ticket,
                )  # fmt: skip
                used += more
                if s == 1:
                    break
                _absorb(alpha, beta, low, s * gamma[b], n_rows, n_columns, U, V)
                s = s / STAGE if s > STAGE else 1.0
                _scores(c, U, V, s * gamma[b], n_rows, n_columns, a, low)
        _absorb(alpha, beta, low, gamma[b], n_rows, n_columns, U, V)
        for i in range(n):
            row_multipliers[b, i] = 0
            for j in range(m):
                X[b, i, j] = 0
        for j in range(m):
            column_multipliers[b, j] = 0
        for q in range(n_columns):
            column_multipliers[b, columns[q]] = V[q]
        whole = 0.0
        for p in range(n_rows):
            row_multipliers[b, rows[p]] = U[p]
            for q in range(n_columns):
                X[b, rows[p], columns[q]] = x[q, p]
                whole += x[q, p]
        steps[b], residuals[b] = used, residual if whole < np.inf else np.inf


@kernel
def quadratic_adjoint(X, column_multipliers, grad, ticket, out):
    """out (B, n, m) = J grad, J the orthogonal projector onto the matrices that vanish where X does, with row sums 0 and
    column sums 0 where multipliers are above 0: the generalised Jacobian of Han and Sun (1997), symmetric. out_ij = grad_ij -
    a_i - b_j on the support of X, with H a = (grad - column means) 1 and the Hessian H of the dual."""
    n, m = X.shape[1], X.shape[2]
    H, a, support = np.zeros((n, n)), np.zeros(n), np.zeros(n, np.int64)
    x, g, zero = np.zeros((m, n)), np.zeros((m, n)), np.zeros(m)
    while True:
        b = take_ticket(ticket)
        if b >= X.shape[0]:
            break
        for i in range(n):
            a[i] = 0
            for j in range(m):
                x[j, i] = X[b, i, j]
                g[j, i] = grad[b, i, j] if X[b, i, j] > 0 else 0.0
        hessian(x, column_multipliers[b], zero, n, m, H, support)
        for turn in range(2):  # the right-hand side, then the result
            for j in range(m):
                total, count = 0.0, 0
                for i in range(n):
                    if x[j, i] > 0:
                        total += g[j, i] - (a[i] if turn else 0.0)
                        count += 1
                mean = total / count if column_multipliers[b, j] > 0 and count > 0 else 0.0
                for i in range(n):
                    inside = x[j, i] > 0
                    if turn:
                        out[b, i, j] = g[j, i] - a[i] - mean if inside else 0.0
                    elif inside:
                        a[i] += g[j, i] - mean
            if not turn:
                cholesky_solve(H, n, 1e-9, a)
