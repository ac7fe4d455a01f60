"""Entropic matching in plain torch operators, for export to other runtimes: Sinkhorn's algorithm, without Newton's.

It goes on until the tolerance is reached, in one loop of the exported graph. Nothing is checked.
"""

from typing import Any

import torch
from torch import Tensor

from difflayers.matching.entropic.problems import sums

SWEEPS = 10
"""For each pass that the kernels may take: sweeps alone need more."""

_NEVER = -1e30  # the logarithm of a forbidden pair: finite, so that no difference of two is NaN


def entropic(
    cost: Tensor,
    epsilon: Tensor,
    templates: Tensor,
    proposals: Tensor,
    slack: bool,
    births: bool,
    tolerance: float,
    max_iter: int,
) -> Tensor:
    """X (B, N, M) for costs (B, N, M), +inf where forbidden; see `difflayers.matching.entropic.op`."""
    wanted = sums(templates, proposals, slack, births)
    there = (cost < torch.inf) & (wanted.rows > 0).unsqueeze(2) & (wanted.columns > 0).unsqueeze(1)
    K = torch.where(there, -cost.double() / epsilon.double()[:, None, None], _NEVER)
    row_held, column_held = ((s > 0) & (s < torch.inf) for s in wanted)
    log_rows, log_columns = (
        torch.where(held, s, 1).log() for held, s in zip((row_held, column_held), wanted, strict=True)
    )

    def columns(K: Tensor, u: Tensor, log_columns: Tensor, column_held: Tensor) -> Tensor:
        """v, by which columns keep their sums: log X = K + u 1' + 1 v'."""
        v = log_columns - _logsumexp(K + u.unsqueeze(2), 1)
        return torch.where(column_held, v if births else v.clamp(max=0), 0)

    def unfinished(u: Tensor, residual: Tensor, sweep: Tensor, *fixed: Tensor) -> Tensor:
        return (residual > tolerance) & (sweep < SWEEPS * max_iter)

    def improve(u: Tensor, residual: Tensor, sweep: Tensor, *fixed: Tensor) -> Any:
        K, log_rows, log_columns, row_held, column_held = fixed
        v = columns(K, u, log_columns, column_held)
        after = torch.where(row_held, log_rows - _logsumexp(K + v.unsqueeze(1), 2), 0)
        return after, (u - after).exp().sub(1).abs().amax((0, 1)), sweep + 1

    fixed = K, log_rows, log_columns, row_held, column_held
    state = torch.zeros_like(log_rows), K.new_full((), torch.inf), torch.zeros((), dtype=torch.int64, device=K.device)
    u, _, _ = torch._higher_order_ops.while_loop(
        lambda *s: unfinished(*s, *fixed), lambda *s: improve(*s, *fixed), state
    )
    v = columns(K, u, log_columns, column_held)
    return (K + u.unsqueeze(2) + v.unsqueeze(1)).exp().to(cost.dtype)


def _logsumexp(x: Tensor, dim: int) -> Tensor:
    largest = x.amax(dim, keepdim=True)
    return ((x - largest).exp().sum(dim, keepdim=True).log() + largest).squeeze(dim)
