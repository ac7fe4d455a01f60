"""Exact matching on CUDA: the memory of a batch's results around the kernel of `cuda_ext/exact.cu`."""

import torch
from torch import Tensor

from difflayers._cuda import capturing
from difflayers.matching.cuda import Geometry, Launch, geometry
from difflayers.matching.exact.common import refuse
from difflayers.matching.problems import largest


def exact_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 512 columns, up to 8: a row is looked at in a few steps, and a block's warps wait for each other."""
    warps = 1
    while warps < 8 and 512 * warps < m:
        warps *= 2
    return geometry(warps, 8 * (4 * m + n) + 4 * (3 * m + 2 * n), limit, counts=16 * warps + 32)


def exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`op.exact`: the assignment of a batch, its multipliers, and the rows looked at. Problems without a solution are found on
    the way, which waits for the device, but in a CUDA graph."""
    cost, templates = cost.detach().contiguous(), templates.contiguous()
    B, n, width = cost.shape
    m = width - slack
    columns = cost.new_full((B, n), -1, dtype=torch.int64)
    alpha, beta = (cost.new_zeros(B, size, dtype=torch.float64) for size in (n, m))
    scans, status = cost.new_zeros(B, dtype=torch.int64), cost.new_zeros(B, dtype=torch.int64)
    if B * n:
        launch = Launch(cost, "exact.cu", "exact", lambda n, width, dtype, limit: exact_geometry(n, m, dtype, limit))
        ticket = cost.new_zeros(1, dtype=torch.int32)
        options = (B, n, m, slack, centered, prices is not None, launch.geometry.bytes)
        start = beta if prices is None else prices.detach().contiguous()
        launch(cost, templates, start, ticket, launch.workspace, columns, alpha, beta, scans, status, *options)
    if not capturing(cost) and bool(status.any()):
        refuse(status, cost, templates, slack, name)
    return columns, alpha, beta, scans


def exact_certificate(
    cost: Tensor, templates: Tensor, columns: Tensor, alpha: Tensor, beta: Tensor, slack: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`op.exact_certificate` by operators of torch, for any device."""
    width = cost.shape[2]
    m = width - slack
    there = torch.where(columns < 0, m, columns).unsqueeze(-1)
    matched = templates.unsqueeze(-1) & (there == torch.arange(width, device=cost.device))
    price = torch.cat((beta, beta.new_zeros(len(beta), 1)), 1) if slack else beta
    h = torch.where(templates.unsqueeze(-1), cost + alpha.unsqueeze(2) + price.unsqueeze(1), torch.inf)
    broken = largest(torch.where(matched, h.abs(), (-h).clamp(min=0)).flatten(1))
    unpaid = torch.where(matched[..., :m].any(1), -beta, beta.abs()).clamp(min=0)
    paid = torch.where(matched, cost, 0).double().sum(2)
    scale = largest(torch.cat((paid, torch.where(templates, alpha, 0), beta), 1).abs())
    return paid.sum(1), torch.maximum(broken, largest(unpaid)), scale
