"""Entropic matching as plain loops, to be read beside the mathematics; the tests' reference, never optimised.

    min <C, X> + epsilon sum X (log X - 1)  subject to  X 1 = 1,  X' 1 <= 1,

C +inf where a pair is forbidden. With multipliers alpha of the rows and beta >= 0 of the columns,

    X_ij = exp(-(C_ij + alpha_i + beta_j) / epsilon),

and each of alpha and beta has a best value for given other: Sinkhorn's algorithm (Cuturi 2013) with one clamp. `rows` and
`columns` are the sums wanted, 1 if not given, inf where a sum is free (its multiplier stays 0). With `equal` columns have the
sum given, not at most that: no clamp.
"""

import torch
from torch import Tensor


def entropic(
    C: Tensor,
    epsilon: float | Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    equal: bool = False,
    rounds: int = 100_000,
    tolerance: float = 1e-13,
) -> tuple[Tensor, Tensor, Tensor]:
    """X, alpha, beta. Differentiable as any loop is; `rounds` ends it where rows are still off by more than the tolerance."""
    n, m = C.shape
    rows = C.new_ones(n) if rows is None else rows
    columns = C.new_ones(m) if columns is None else columns
    alpha, beta = C.new_zeros(n), C.new_zeros(m)
    for _ in range(rounds):
        best = epsilon * (torch.logsumexp(-(C + beta) / epsilon, 1) - rows.log())
        alpha = torch.where(rows < torch.inf, best, 0)
        best = epsilon * (torch.logsumexp(-(C + alpha[:, None]) / epsilon, 0) - columns.log())
        beta = torch.where(columns < torch.inf, best if equal else best.clamp(min=0), 0)
        X = (-(C + alpha[:, None] + beta) / epsilon).exp()
        if ((X.sum(1) - rows).abs()[rows < torch.inf] <= tolerance * rows[rows < torch.inf]).all():
            break
    return X, alpha, beta


def objective(C: Tensor, X: Tensor, epsilon: float) -> Tensor:
    """What is minimised."""
    return (torch.where(X > 0, C, 0) * X).sum() + epsilon * (torch.special.xlogy(X, X) - X).sum()


def derivative(X: Tensor, tight: Tensor, D: Tensor, free_row: bool = False) -> Tensor:
    """X * (D - a 1' - 1 b'), a and b such that rows and tight columns of it sum to 0: -epsilon times the change of X by dC = D.

    From dX = -X * (dC + d alpha 1' + 1 d beta') / epsilon, where d beta is 0 on columns that are not tight, and the
    constraints: one symmetric system in (d alpha, d beta). With `free_row` the last row's multiplier does not move either.
    """
    n, m = X.shape
    moving = torch.cat((torch.ones(n - free_row), torch.zeros(int(free_row)), tight)) > 0
    S = torch.zeros(n + m, n + m, dtype=X.dtype)
    S[:n, :n], S[:n, n:], S[n:, :n], S[n:, n:] = torch.diag(X.sum(1)), X, X.T, torch.diag(X.sum(0))
    S = S[moving][:, moving]
    right = torch.cat(((X * D).sum(1), (X * D).sum(0)))[moving]
    change = torch.zeros(n + m, dtype=X.dtype)
    change[moving] = torch.linalg.pinv(S, hermitian=True) @ right
    return X * (D - change[:n, None] - change[n:])
