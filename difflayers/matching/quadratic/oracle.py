"""Quadratic matching as plain loops: the Euclidean projection of one matrix onto the assignment polytope, and its derivative.

`project` is Dykstra's algorithm (Boyle and Dykstra 1986) run to convergence, and `project_gradient` the generalised Jacobian
of Han and Sun (1997; Li, Sun, Toh, arXiv 1702.05934, section 3.2). This file is never optimised: every kernel is tested
against it.

Notation as in `difflayers.matching.dmm.oracle`, with scores A = -C / gamma, -inf where a pair is forbidden.
"""

import torch
from torch import Tensor

from difflayers.matching.dmm.oracle import project_columns, project_nonnegative, project_rows


def project(A: Tensor, *, slack: bool = False, rounds: int = 100_000, tolerance: float = 1e-12) -> Tensor:
    """argmin over X in P of |X - A|^2, A = -inf where forbidden: Dykstra's algorithm until its output stands still."""
    allowed = A > -torch.inf
    X = torch.where(allowed, A, 0)
    p = q = torch.zeros_like(X)
    for _ in range(rounds):
        Y = project_nonnegative(X + p, allowed)
        p = X + p - Y
        Z = project_columns(Y + q, allowed, slack=slack)
        q = Y + q - Z
        last, X = X, project_rows(Z, allowed)  # an affine set needs no correction
        if max((X - last).abs().max(), (X - Y).abs().max()) < tolerance:
            break
    return X


def project_gradient(X: Tensor, G: Tensor, allowed: Tensor, *, slack: bool = False, tolerance: float = 1e-7) -> Tensor:
    """J G for the projection onto P with result X: J is the orthogonal projector onto

    {Y : Y_ij = 0 where X_ij = 0, row sums 0, column sums 0 where the column of X has sum 1},

    the generalised Jacobian of Han and Sun, and the derivative where no multiplier of an active constraint is 0.
    """
    n, m = X.shape
    support = (X > tolerance) & allowed
    full = X.sum(0) > 1 - tolerance
    if slack:
        full[m - 1] = False
    entries = support.nonzero()
    rows = [(entries[:, 0] == i) for i in range(n) if support[i].any()]
    columns = [(entries[:, 1] == j) for j in range(m) if full[j]]
    B = torch.stack(rows + columns).to(X.dtype)
    g = G[support]
    g = g - B.T @ (torch.linalg.pinv(B @ B.T, hermitian=True) @ (B @ g))
    out = torch.zeros_like(X)
    out[support] = g
    return out
