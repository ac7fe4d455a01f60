"""A batch of matching problems, from what callers pass: masks, forbidden pairs and `unmatched_cost` in one cost matrix."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import check_device
from difflayers._ops import autocasts


class Problems(NamedTuple):
    """A checked batch: what the operators take."""

    cost: Tensor  # (B, n, m), +inf where forbidden, the column of unmatched templates last if there is one
    templates: Tensor  # (B, n), bool
    slack: bool
    shape: torch.Size  # of the caller's cost

    def cpu(self) -> "Problems":
        """The same on the CPU."""
        return self._replace(cost=self.cost.cpu(), templates=self.templates.cpu())

    def restore(self, X: Tensor) -> Tensor:
        """A result in the caller's shape."""
        return (X[..., :-1] if self.slack else X).reshape(self.shape)

    def violations(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows, columns and signs, (B,) each."""
        rows = torch.where(self.templates, (X.sum(-1) - 1).abs(), 0)
        columns = ((X[..., :-1] if self.slack else X).sum(-2) - 1).clamp(min=0)
        return _largest(rows), _largest(columns), _largest((-X).clamp(min=0).flatten(1))


def _largest(x: Tensor) -> Tensor:
    """max over the last dimension, 0 where it is empty."""
    return x.amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


def finite(cost: Tensor) -> Tensor:
    """The cost with 0 where a pair is forbidden: a factor of X, which is 0 there."""
    return torch.where(cost == math.inf, 0, cost)


def prepare(
    name: str,
    cost: Tensor,
    template_mask: Tensor | None,
    proposal_mask: Tensor | None,
    unmatched_cost: float | Tensor | None,
    *,
    sign: int = 1,
    may_be_infeasible: bool = False,
) -> Problems:
    """Check shapes and dtypes (values: `matching.cpu.check_problems`), and fold everything into costs (B, n, m).

    `sign` = -1: the argument called `name` is the negative of a cost, with -inf where a pair is forbidden.
    """
    if not isinstance(cost, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(cost).__name__}")
    if autocasts(cost) and cost.dtype in (torch.bfloat16, torch.float16):
        cost = cost.float()
    if cost.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64; got {cost.dtype}")
    if cost.ndim < 2:
        raise ValueError(f"{name} must have shape (..., n, m), n templates and m proposals; got {tuple(cost.shape)}")
    check_device(name, cost)
    shape, (n, m) = cost.shape, cost.shape[-2:]
    if n > m and unmatched_cost is None and template_mask is None and not may_be_infeasible:
        raise ValueError(
            f"{name} must have at least as many proposals as templates, since each template takes a proposal of its own; "
            f"got {n} templates and {m} proposals. Set {'unmatched_cost' if sign == 1 else 'allow_unmatched'} to let "
            "templates stay unmatched"
        )
    templates = torch.ones(shape[:-1], dtype=torch.bool, device=cost.device)
    cost = sign * cost if sign != 1 else cost
    if template_mask is not None:
        templates = _mask("template_mask", template_mask, shape[:-1], cost.device)
        cost = cost.masked_fill(~templates.unsqueeze(-1), math.inf)
    if proposal_mask is not None:
        proposals = _mask("proposal_mask", proposal_mask, (*shape[:-2], m), cost.device)
        cost = cost.masked_fill(~proposals.unsqueeze(-2), math.inf)
    if unmatched_cost is not None:
        own = _unmatched(unmatched_cost, cost).masked_fill(~templates, math.inf)
        cost = torch.cat((cost, own.unsqueeze(-1)), -1)
    size = math.prod(shape[:-2])
    flat = cost.reshape(size, n, cost.shape[-1])
    return Problems(flat, templates.reshape(size, n), unmatched_cost is not None, shape)


def _mask(name: str, mask: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A mask as bool, broadcast over the batch."""
    shape = tuple(shape)
    if not isinstance(mask, Tensor) or mask.dtype.is_floating_point or mask.dtype.is_complex:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool or integer tensor (nonzero where there is one); got {got}")
    _check_device(name, mask, device)
    if mask.ndim < 1 or mask.ndim > len(shape) or mask.shape[-1] != shape[-1]:
        raise ValueError(f"{name} must have shape {shape} or broadcast to it over the batch; got {tuple(mask.shape)}")
    try:
        return (mask != 0).broadcast_to(shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {shape}; got {tuple(mask.shape)}") from None


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device.type != device.type:
        raise ValueError(f"{name} must be on the device of the cost, {device}; got {tensor.device}")


def check_unmatched_cost(value: float | Tensor | None) -> None:
    """None, a finite number, or a real tensor (whose values are checked with the cost's)."""
    if isinstance(value, Tensor):
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(f"unmatched_cost must be a number or a real tensor; got {value.dtype}")
    elif value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"unmatched_cost must be a number or a tensor; got {type(value).__name__}")
        if not -math.inf < value < math.inf:
            raise ValueError(f"unmatched_cost must be finite; got {value}")


def _unmatched(value: float | Tensor, cost: Tensor) -> Tensor:
    """`unmatched_cost` for each template, (..., n)."""
    check_unmatched_cost(value)
    if not isinstance(value, Tensor):
        return cost.new_full(cost.shape[:-1], value)
    _check_device("unmatched_cost", value, cost.device)
    try:
        return value.to(cost.dtype).broadcast_to(cost.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"unmatched_cost must be a number or broadcast to {tuple(cost.shape[:-1])}; got {tuple(value.shape)}"
        ) from None
