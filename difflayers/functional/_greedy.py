"""Matching by the cheapest pair first: the baseline, without a gradient, computed on the CPU wherever the cost is."""

import math

import torch
from torch import Tensor

from difflayers.matching.problems import check_values, prepare


def greedy_matching(
    cost: Tensor,
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    unmatched_cost: float | Tensor | None = None,
) -> Tensor:
    """The cheapest pair first, then the cheapest of the templates and proposals left, and so on. No gradient.

    The baseline of multi-object tracking. A template stays unmatched when its cheapest pair left costs more than
    unmatched_cost, or when all the proposals it allows are taken.

    Args:
        cost, template_mask, proposal_mask, unmatched_cost: as for `dmm_matching`, except that n > m and forbidden pairs
            are no error: whoever comes late stays unmatched.

    Returns:
        (..., n, m), the dtype and device of the cost: 1 where template i is matched to proposal j. Of equal costs the
        first in reading order wins. Computed on the CPU.

    Raises:
        TypeError, ValueError: as `dmm_matching` does, infeasible problems aside.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> functional.greedy_matching(torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    with torch.no_grad():
        masks = template_mask, proposal_mask
        problems = prepare("cost", cost, *masks, unmatched_cost, may_be_infeasible=True, values=True).cpu()
        check_values("cost", problems.cost, problems.templates, problems.slack)
        n, m = problems.shape[-2:]
        left = problems.cost[..., :m].clone()
        if problems.slack:
            left[left > problems.cost[..., m:]] = math.inf
        X = torch.zeros_like(left)
        batch = torch.arange(len(left))
        for _ in range(min(n, m)):
            lowest = left.flatten(1).amin(1)
            first = (left.flatten(1) == lowest[:, None]).int().argmax(1)
            i, j = first // m, first % m
            X[batch, i, j] = (lowest < math.inf).to(X.dtype).maximum(X[batch, i, j])
            left[batch, i, :] = math.inf
            left[batch, :, j] = math.inf
        return X.reshape(problems.shape).to(cost.device, problems.dtype)
