"""A batch of matching problems, from what callers pass: checked, and masks, forbidden pairs and `unmatched_cost` folded into
one cost matrix. Every method begins with `prepare`, and its operator with `check_problems` (values are known only there)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import LARGEST_NUMBER, check_mask, check_same_device, check_tensor, filled, holds_values, shown
from difflayers._cuda import capturing

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)


class Problems(NamedTuple):
    """A batch as the operators take it."""

    cost: Tensor  # (B, n, m), float32 or float64, +inf where forbidden, the column of unmatched templates last if there is one
    templates: Tensor  # (B, n), bool
    slack: bool  # whether there is that column
    shape: torch.Size  # of the caller's cost
    dtype: torch.dtype  # of the caller's cost: float16 and bfloat16 are solved in float32

    def cpu(self) -> "Problems":
        """The same on the CPU."""
        return self._replace(cost=self.cost.cpu(), templates=self.templates.cpu())

    def restore(self, X: Tensor) -> Tensor:
        """A result (B, n, m) in the caller's shape and dtype."""
        return (X[..., :-1] if self.slack else X).reshape(self.shape).to(self.dtype)

    def batched(self, field: Tensor) -> Tensor:
        """A result (B, ...) in the caller's batch shape."""
        return field.reshape(self.shape[:-2] + field.shape[1:])

    def objective(self, X: Tensor) -> Tensor:
        """<C, X>, unmatched templates included, (B,)."""
        return (finite(self.cost.detach()) * X).sum((1, 2))

    def violations(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows, columns and signs, (B,) each."""
        rows = torch.where(self.templates, (X.sum(-1) - 1).abs(), 0)
        columns = ((X[..., :-1] if self.slack else X).sum(-2) - 1).clamp(min=0)
        return largest(rows), largest(columns), largest((-X).clamp(min=0).flatten(1))


def largest(x: Tensor) -> Tensor:
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
    values: bool = False,
) -> Problems:
    """Check types, dtypes, devices and shapes, and fold everything into costs (B, n, m) in float32 or float64.

    `sign` = -1: the argument called `name` is the negative of a cost, with -inf where a pair is forbidden. `values`: tensors
    must have some, see `check_tensor`.
    """
    check_tensor(name, cost, DTYPES, values=values)
    dtype = cost.dtype
    if dtype in HALVES:
        cost = cost.float()
    if cost.ndim < 2:
        raise ValueError(f"{name} must have shape (..., n, m), n templates and m proposals; got {tuple(cost.shape)}")
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
        templates = _mask("template_mask", template_mask, shape[:-1], name, cost.device)
        cost = cost.masked_fill(~templates.unsqueeze(-1), math.inf)
    if proposal_mask is not None:
        proposals = _mask("proposal_mask", proposal_mask, (*shape[:-2], m), name, cost.device)
        cost = cost.masked_fill(~proposals.unsqueeze(-2), math.inf)
    if unmatched_cost is not None:
        own = _unmatched(unmatched_cost, cost).masked_fill(~templates, math.inf)
        cost = torch.cat((cost, own.unsqueeze(-1)), -1)
    if values:
        others = {"template_mask": template_mask, "proposal_mask": proposal_mask, "unmatched_cost": unmatched_cost}
        for other, tensor in others.items():
            if isinstance(tensor, Tensor):
                check_tensor(other, tensor, None, values=True)
    size = math.prod(shape[:-2])
    flat = cost.reshape(size, n, cost.shape[-1])
    return Problems(flat, templates.reshape(size, n), unmatched_cost is not None, shape, dtype)


def proposals_of(problems: Problems, proposal_mask: Tensor | None) -> Tensor:
    """The proposals that are there, (B, m), bool. (Templates: `Problems.templates`.)"""
    cost, shape = problems.cost, (*problems.shape[:-2], problems.shape[-1])
    if proposal_mask is None:
        return torch.ones(cost.shape[0], shape[-1], dtype=torch.bool, device=cost.device)
    return (proposal_mask != 0).broadcast_to(shape).reshape(cost.shape[0], shape[-1])


def _mask(name: str, mask: Tensor, shape: tuple[int, ...], other: str, device: torch.device) -> Tensor:
    """A mask as bool, broadcast over the batch."""
    shape = tuple(shape)
    check_mask(name, mask)
    check_same_device(name, mask, other, device)
    if mask.ndim < 1 or mask.ndim > len(shape) or mask.shape[-1] != shape[-1]:
        raise ValueError(f"{name} must have shape {shape} or broadcast to it over the batch; got {tuple(mask.shape)}")
    try:
        return (mask != 0).broadcast_to(shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {shape}; got {tuple(mask.shape)}") from None


def check_unmatched_cost(value: float | Tensor | None, name: str = "unmatched_cost") -> None:
    """None, a finite number, or a real tensor (whose values are checked with the cost's)."""
    if isinstance(value, Tensor):
        check_tensor(name, value, None)
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(f"{name} must be a number or a real tensor; got {value.dtype}")
    elif value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number or a tensor; got {type(value).__name__}")
        if not -math.inf < value < math.inf:
            raise ValueError(f"{name} must be finite; got {value}")
        if abs(value) > LARGEST_NUMBER:
            raise ValueError(f"{name} must be at most {LARGEST_NUMBER:g} in absolute value; got {shown(value)}")


def _unmatched(value: float | Tensor, cost: Tensor) -> Tensor:
    """`unmatched_cost` for each template, (..., n)."""
    check_unmatched_cost(value)
    if not isinstance(value, Tensor):
        return filled("unmatched_cost", value, cost, cost.shape[:-1])
    check_same_device("unmatched_cost", value, "the cost", cost.device)
    try:
        return value.to(cost.dtype).broadcast_to(cost.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"unmatched_cost must be a number or broadcast to {tuple(cost.shape[:-1])}; got {tuple(value.shape)}"
        ) from None


def check_values(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """Costs must be finite or +inf, those in the column of `slack` finite. Waits for a device, but in a CUDA graph."""
    if not capturing(cost) and not bool(_allowed_values(cost, templates, slack)):
        _refuse_values(name, cost.detach().cpu(), templates.cpu(), slack)


def check_problems(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """Costs must be as above, and leave each template a proposal of its own (or the column of `slack`).

    Looked at where the cost is if counting decides, which it does but for few pairs, else on the CPU.
    """
    if capturing(cost) or bool(_surely_solvable(cost, templates, slack)):
        return
    cost, templates = cost.detach().cpu(), templates.cpu()
    if not bool(_allowed_values(cost, templates, slack)):
        _refuse_values(name, cost, templates, slack)
    if not slack:
        _check_own_proposals(name, cost.numpy(), templates.numpy())


def check_multipliers(start: tuple[Tensor, Tensor], problems: Problems) -> tuple[Tensor, Tensor]:
    """A `start` as multipliers of rows (B, n) and of columns (B, m), in float64; raise if it does not fit."""
    if type(start) is not tuple or len(start) != 2:
        got = f"a tuple of {len(start)}" if type(start) is tuple else type(start).__name__
        raise TypeError(
            f"start must be a pair (row_multipliers, column_multipliers), as a solution's `multipliers` is; got {got}"
        )
    *batch, n, m = problems.shape
    known = []
    for name, tensor, wanted in (("start[0]", start[0], (*batch, n)), ("start[1]", start[1], (*batch, m))):
        check_tensor(name, tensor)
        check_same_device(name, tensor, "the cost", problems.cost.device)
        try:
            whole = tensor.detach().double().broadcast_to(wanted)
        except RuntimeError:
            raise ValueError(f"{name} must have shape {wanted} or broadcast to it; got {tuple(tensor.shape)}") from None
        hidden = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if holds_values(tensor) and not hidden and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite; got {tensor[~tensor.isfinite()][0].item()}")
        known.append(whole.reshape(problems.cost.shape[0], wanted[-1]))
    return known[0], known[1]


def _allowed_values(cost: Tensor, templates: Tensor, slack: bool) -> Tensor:
    fine = ((cost[..., :-1] if slack else cost) > -torch.inf).all()  # false for NaN, too
    return fine & (cost[..., -1].isfinite() | ~templates).all() if slack else fine


def _surely_solvable(cost: Tensor, templates: Tensor, slack: bool) -> Tensor:
    """Whether all costs are allowed values, and each template allows as many proposals as there are templates."""
    fine = _allowed_values(cost, templates, slack)
    if slack:
        return fine
    choices, count = (cost < torch.inf).sum(2), templates.sum(1)
    return fine & ((choices >= count.unsqueeze(1)) | ~templates).all()


def _refuse_values(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """The error that names a value which is not allowed."""
    whole = cost.numpy()
    values = whole[:, :, :-1] if slack else whole
    if not (values > -np.inf).all():
        where = tuple(int(i) for i in np.argwhere(~(values > -np.inf))[0])
        got = "NaN" if np.isnan(values[where]) else "inf of the wrong sign"
        raise ValueError(
            f"{name} must be finite, or inf where a pair is forbidden (of a cost +inf, of a score -inf); got {got} at "
            f"{where} of the flattened batch (problem, template, proposal)"
        )
    own = whole[:, :, -1][templates.numpy()]
    raise ValueError(f"unmatched_cost must be finite; got {own[~np.isfinite(own)][0]}")


def _check_own_proposals(name: str, cost: np.ndarray, wanted: np.ndarray) -> None:
    allowed = cost < np.inf
    choices, count = allowed.sum(2), wanted.sum(1)
    unclear = ((choices < count[:, None]) & wanted).any(1)  # elsewhere any order of choosing leaves something
    for b in np.flatnonzero(unclear):
        lost = int(count[b]) - _largest_matching(allowed[b][wanted[b]])
        if lost > 0:
            raise ValueError(
                f"{name} leaves {lost} of the {int(count[b])} templates of problem {b} of the flattened batch without a "
                f"proposal of their own ({int(allowed[b][wanted[b]].any(0).sum())} proposals are allowed for any of them): "
                "allow more pairs, or set unmatched_cost, which lets a template stay unmatched at that cost"
            )


def _largest_matching(allowed: np.ndarray) -> int:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if allowed.size == 0:
        return 0
    return int((maximum_bipartite_matching(csr_array(allowed), perm_type="column") >= 0).sum())
