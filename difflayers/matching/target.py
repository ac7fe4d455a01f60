"""The assignment that a loss compares with, checked like a cost: values are known only to an operator."""

import torch
from torch import Tensor

from difflayers._cuda import capturing
from difflayers._ops import define, fold_all

_TOLERANCE = 1e-4  # on the sums of rows and columns: a target may be a result in float32


def _matching_target(target: Tensor, cost: Tensor, templates: Tensor, slack: bool) -> Tensor:
    """target (B, n, m), or indices (B, n), as a matrix like the cost (B, n, m, with `slack` one more)."""
    m = cost.shape[-1] - int(slack)
    Y = _one_hot(target, templates, m, cost.dtype) if target.ndim == 2 else target.to(cost.dtype)
    Y = torch.where(templates.unsqueeze(-1), Y, 0).contiguous()
    rows, columns = Y.sum(-1), Y.sum(-2)
    if not capturing(cost):
        _check(Y, rows, columns, cost[..., :m], templates, slack)
    if not slack:
        return Y
    own = torch.where(templates, (1 - rows).clamp(min=0), 0)
    return torch.cat((Y, own.unsqueeze(-1)), -1)


def _one_hot(target: Tensor, templates: Tensor, m: int, dtype: torch.dtype) -> Tensor:
    wrong = ((target < -1) | (target >= m)) & templates
    if not capturing(target) and bool(wrong.any()):
        raise ValueError(f"target must hold indices below {m}, or -1; got {int(target[wrong][0])}")
    Y = torch.zeros(*target.shape, m + 1, dtype=dtype, device=target.device)
    return Y.scatter_(-1, torch.where(templates, target + 1, 0).clamp(0, m).unsqueeze(-1), 1)[..., 1:]


def _check(Y: Tensor, rows: Tensor, columns: Tensor, cost: Tensor, templates: Tensor, slack: bool) -> None:
    if not bool((Y >= 0).all()):  # NaN, too
        raise ValueError(f"target must be at least 0; got {float(Y[~(Y >= 0)][0])}")
    if bool((columns > 1 + _TOLERANCE).any()):
        where = _first(columns > 1 + _TOLERANCE)
        raise ValueError(
            f"target must give each proposal to one template at most; got {float(columns[where]):g} for {where} of the "
            "flattened batch (problem, proposal)"
        )
    wrong = (rows > 1 + _TOLERANCE) if slack else (rows - 1).abs() > _TOLERANCE
    if bool((wrong & templates).any()):
        wanted = " at most" if slack else "; only with unmatched_cost may one have none (index -1)"
        raise ValueError(
            f"target must give each template one proposal{wanted}; got {float(rows[wrong & templates][0]):g} for "
            f"{_first(wrong & templates)} of the flattened batch (problem, template)"
        )
    if bool(((Y > 0) & (cost == torch.inf)).any()):
        b, i, j = ((Y > 0) & (cost == torch.inf)).nonzero()[0].tolist()
        raise ValueError(
            f"target must not have pairs that the cost forbids or proposal_mask leaves out; got ({b}, {i}, {j}) of the "
            "flattened batch (problem, template, proposal)"
        )


def _first(wrong: Tensor) -> tuple[int, ...]:
    """The place of the first True."""
    return tuple(wrong.nonzero()[0].tolist())


def _fake(target: Tensor, cost: Tensor, templates: Tensor, slack: bool) -> Tensor:
    return torch.empty_like(cost, memory_format=torch.contiguous_format)


matching_target = define(
    "matching_target(Tensor target, Tensor cost, Tensor templates, bool slack) -> Tensor",
    _matching_target,
    _matching_target,
    _fake,
)
fold_all("matching_target", matching_target)
