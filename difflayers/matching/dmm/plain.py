"""DMM matching in plain torch operators, for export to other runtimes: the formula of the kernels, a batch at a time.

Loops are unrolled, so that n_grad n_proj rounds are as many copies of a round. Nothing is checked.
"""

import torch
from torch import Tensor


def dmm(cost: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool, slack: bool) -> Tensor:
    """X (B, n, m) for costs (B, n, m), +inf where forbidden; see `difflayers.matching.dmm.kernels`."""
    there = cost < torch.inf
    allowed = there.to(cost.dtype)
    c = step_size * torch.where(there, cost, 0)
    X = _start(cost, there, slack)
    in_rows = 1 / allowed.sum(2, keepdim=True).clamp(min=1)
    in_columns = 1 / allowed.sum(1, keepdim=True).clamp(min=1)
    if slack:
        bounded = torch.arange(cost.shape[2], device=cost.device) < cost.shape[2] - 1
        in_columns = in_columns * bounded.to(cost.dtype)
    total = torch.zeros_like(cost)
    for _ in range(n_grad):
        t = X - c
        kept, q, d = t.clamp(min=0) * allowed, torch.zeros_like(in_columns), torch.zeros_like(in_columns)
        r = torch.zeros_like(in_rows)
        for turn in range(n_proj):
            if turn:
                t = t + d - r
                kept = t.clamp(min=0) * allowed
            last, q = q, (q + (kept.sum(1, keepdim=True) - 1) * in_columns).clamp(min=0)
            d = last - q
            r = ((kept + d * allowed).sum(2, keepdim=True) - 1) * in_rows
        X = (kept + d - r) * allowed
        total = total + X
    return total / n_grad if average else X


def _start(cost: Tensor, there: Tensor, slack: bool) -> Tensor:
    """`oracle.start`."""
    n, m = cost.shape[1:]
    own = cost[:, :, : m - 1] if slack else cost
    highest = torch.where(own < torch.inf, own, -torch.inf).amax((1, 2), keepdim=True)
    rows = torch.arange(n, device=cost.device)[:, None]
    kept = torch.where(rows == own.argmin(1, keepdim=True), own, highest)
    if slack:
        kept = torch.cat((kept, cost[:, :, m - 1 :]), 2)
    first = torch.where(there, kept, torch.inf).argmin(2, keepdim=True)
    return ((torch.arange(m, device=cost.device) == first) & there).to(cost.dtype)
