"""What the solutions of all layers share: how they print."""

from typing import Any

import torch
from torch import Tensor

from difflayers._checks import holds_values

# A batch of more problems than this prints its first ones, and how many more there are.
_ROWS = 10


def table(solution: Any) -> str:
    """A solution (a NamedTuple of tensors, `value` first) as a short table: one row a problem, one column a scalar field."""
    batch = solution.objective.shape
    scalars = {
        name: field for name, field in solution._asdict().items() if isinstance(field, Tensor) and field.shape == batch
    }
    scalars.pop("value", None)
    count = batch.numel()
    head = (
        f"{type(solution).__name__} of {count} problem{'' if count == 1 else 's'}: value {tuple(solution.value.shape)}"
    )
    if not holds_values(solution.objective) or not count:
        return head
    columns = [[name, *(_text(x) for x in field.detach().flatten()[:_ROWS].cpu())] for name, field in scalars.items()]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    ]
    more = [f"... and {count - _ROWS} more"] if count > _ROWS else []
    return "\n".join([head, *rows, *more])


def _text(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "yes" if value else "no"
    return f"{value.item():.4g}" if value.dtype.is_floating_point else str(int(value))
