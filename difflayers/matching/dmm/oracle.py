"""DMM matching as a plain loop: one problem, one projection at a time, to be read beside the paper.

The algorithm is algorithm 1 of Zeng, Liao, Gu, Xiong, Fidler, Urtasun, "DMM-Net: Differentiable
Mask-Matching Network for Video Object Segmentation", ICCV 2019 (arXiv 1909.12471): `dmm` (the loop), `start`, and
`dykstra` (the inner loop, Boyle and Dykstra 1986). Its gradient is, by definition, what autograd makes of this loop.
This file is never optimised: every kernel is tested against it.

Notation: cost C (n, m) of n templates and m proposals, +inf where a pair is forbidden; relaxed assignment X (n, m) in

    P = {X >= 0, X 1 = 1, X' 1 <= 1, X_ij = 0 where forbidden}.

With `slack`, the last column stands for "unmatched": it has a cost, belongs to the rows, and its sum has no bound. A row
or column that is forbidden altogether is none of the problem's: it stays 0 and has no constraint.
"""

import torch
from torch import Tensor


def start(C: Tensor, *, slack: bool = False) -> Tensor:
    """The first X: in each column only the cheapest row keeps its cost, all others get max C; each row takes the smallest
    entry of what results, and of equals the first. (The column of `slack` keeps all its costs.)"""
    n, m = C.shape
    allowed = C < torch.inf
    columns = m - 1 if slack else m
    K = torch.full_like(C, torch.inf)
    if allowed[:, :columns].any():
        K[:, :columns] = C[:, :columns][allowed[:, :columns]].max()
    for j in range(columns):
        K[C[:, j].argmin(), j] = C[:, j].min()
    if slack:
        K[:, columns] = C[:, columns]
    K = torch.where(allowed, K, torch.inf)
    X = torch.zeros_like(C)
    for i in range(n):
        if allowed[i].any():
            X[i, K[i].argmin()] = 1
    return X


def project_nonnegative(X: Tensor, allowed: Tensor) -> Tensor:
    """P1: X >= 0, and 0 where forbidden."""
    return torch.relu(X) * allowed


def project_columns(X: Tensor, allowed: Tensor, *, slack: bool = False) -> Tensor:
    """P2: a column whose sum is above 1 is moved to sum 1, its allowed entries by the same amount each."""
    excess = torch.relu(X.sum(0) - 1) / allowed.sum(0).clamp(min=1)
    if slack:
        excess = excess * (torch.arange(X.shape[1]) < X.shape[1] - 1)
    return X - excess * allowed


def project_rows(X: Tensor, allowed: Tensor) -> Tensor:
    """P3: rows are moved to sum 1."""
    excess = (X.sum(1, keepdim=True) - 1) / allowed.sum(1, keepdim=True).clamp(min=1)
    return X - excess * allowed


def dykstra(X: Tensor, allowed: Tensor, n_proj: int, *, slack: bool = False) -> Tensor:
    """n_proj rounds of P1, P2, P3 with Dykstra's corrections p, q, r, which start at 0."""
    p = q = r = torch.zeros_like(X)
    for _ in range(n_proj):
        Y = project_nonnegative(X + p, allowed)
        p = X + p - Y
        Z = project_columns(Y + q, allowed, slack=slack)
        q = Y + q - Z
        X = project_rows(Z + r, allowed)
        r = Z + r - X
    return X


def dmm(
    C: Tensor,
    *,
    n_grad: int = 40,
    n_proj: int = 5,
    step_size: float = 0.1,
    average: bool = True,
    slack: bool = False,
) -> Tensor:
    """Algorithm 1: projected gradient descent on <C, X>, X <- Dykstra(X - step_size C); the mean of its iterates."""
    allowed = C < torch.inf
    cost = torch.where(allowed, C, 0)
    X = start(C.detach(), slack=slack)
    total = torch.zeros_like(C)
    for _ in range(n_grad):
        X = dykstra(X - step_size * cost, allowed, n_proj, slack=slack)
        total = total + X
    return total / n_grad if average else X
