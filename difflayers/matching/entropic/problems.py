"""What entropic matching adds to a batch of problems: the row of unmatched proposals, the sums wanted, what values must be."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import check_number, check_same_device, check_tensor, filled
from difflayers._cuda import capturing
from difflayers.matching.problems import Problems, check_problems, check_unmatched_cost, finite

LARGEST_RANGE = 1e300
"""Of cost / epsilon, in float64."""


class Sums(NamedTuple):
    """What rows and columns sum to: 0 where one is not there, inf where its sum is free; float64."""

    rows: Tensor  # (B, N)
    columns: Tensor  # (B, M)


def sums(templates: Tensor, proposals: Tensor, slack: bool, births: bool) -> Sums:
    """1 for each template and proposal. A column of `slack` or row of `births` alone is free; where there are both, each has
    room for all that may stay unmatched, as SuperGlue has it. A row of `births` that no proposal is left for is not there."""
    rows, columns = templates.double(), proposals.double()
    if slack:
        room = rows.sum(1, keepdim=True) if births else rows.new_full((len(rows), 1), math.inf)
        columns = torch.cat((columns, room), 1)
    if births:
        left = proposals.double().sum(1, keepdim=True)
        room = left if slack else torch.where(left > rows.sum(1, keepdim=True), math.inf, 0.0)
        rows = torch.cat((rows, room), 1)
    return Sums(rows.contiguous(), columns.contiguous())


def add_births(problems: Problems, proposals: Tensor, value: float | Tensor | None) -> Tensor:
    """The cost with one row more, at which a proposal stays unmatched, (B, n + 1, m) or (B, n + 1, m + 1); as it is if None.

    Where templates may stay unmatched too, the entry of both costs the mean of the mean cost of either.
    """
    cost, shape = problems.cost, (*problems.shape[:-2], problems.shape[-1])
    if value is None:
        return cost
    check_unmatched_cost(value, "unmatched_proposal_cost")
    if isinstance(value, Tensor):
        check_same_device("unmatched_proposal_cost", value, "the cost", cost.device)
        try:
            own = value.to(cost.dtype).broadcast_to(shape)
        except RuntimeError:
            raise ValueError(
                f"unmatched_proposal_cost must be a number or broadcast to {tuple(shape)}; got {tuple(value.shape)}"
            ) from None
    else:
        own = filled("unmatched_proposal_cost", value, cost, shape)
    own = own.reshape(proposals.shape)
    row = own.masked_fill(~proposals, math.inf)
    if problems.slack:
        both = 0.5 * (_mean(cost[..., -1], problems.templates) + _mean(own, proposals))
        row = torch.cat((row, both.unsqueeze(1)), 1)
    return torch.cat((cost, row.unsqueeze(1)), 1)


def _mean(x: Tensor, there: Tensor) -> Tensor:
    """Over the last dimension, of what is there; 0 of nothing."""
    return torch.where(there, finite(x), 0).sum(-1) / there.sum(-1).clamp(min=1)


def check_epsilon(value: float | Tensor) -> None:
    """A positive number, or a floating-point tensor (whose values are checked with the cost's)."""
    if isinstance(value, Tensor):
        check_tensor("epsilon", value, None)
        if not value.dtype.is_floating_point:
            raise TypeError(f"epsilon must be a number or a floating-point tensor; got {value.dtype}")
    else:
        check_number("epsilon", value, positive=True)


def weigh_entropy(problems: Problems, value: float | Tensor) -> Tensor:
    """epsilon of each problem, (B,), in the dtype that is solved in."""
    cost, batch = problems.cost, problems.shape[:-2]
    if not isinstance(value, Tensor):
        return filled("epsilon", value, cost, cost.shape[:1])
    if value.device.type != "cpu" or value.ndim:
        check_same_device("epsilon", value, "the cost", cost.device)
    try:
        return value.to(cost.device, cost.dtype).broadcast_to(batch).reshape(cost.shape[:1])
    except RuntimeError:
        raise ValueError(
            f"epsilon must be a number or broadcast to the batch {tuple(batch)}; got {tuple(value.shape)}"
        ) from None


def check_batch(cost: Tensor, templates: Tensor, proposals: Tensor, epsilon: Tensor, slack: bool, births: bool) -> None:
    """The values of a batch, for the operator. Waits for a device, but in a CUDA graph."""
    n = templates.shape[1]
    check_problems("cost", cost[:, :n], templates, slack)
    if capturing(cost):
        return
    if not bool((epsilon > 0).all() & epsilon.isfinite().all()):
        bad = epsilon[~((epsilon > 0) & epsilon.isfinite())][0]
        raise ValueError(f"epsilon must be finite and above 0; got {bad.item():g}")
    if births:
        own = cost[:, n, : proposals.shape[1]]
        if not bool((own.isfinite() | ~proposals).all()):
            bad = own[proposals & ~own.isfinite()][0]
            raise ValueError(f"unmatched_proposal_cost must be finite; got {bad.item():g}")
    if cost.numel() and float((finite(cost).double().abs().amax((1, 2)) / epsilon.double()).max()) > LARGEST_RANGE:
        raise ValueError(f"cost / epsilon must be below {LARGEST_RANGE:g}: scale the cost, or raise epsilon")
