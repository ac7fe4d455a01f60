"""The methods by name, called with masks by name."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from difflayers import functional

INF, NAN = math.inf, math.nan
F64 = torch.float64
DTYPES = [torch.float32, torch.float64]
SOLVERS: dict[str, Callable[..., Any]] = {
    "dmm": functional.dmm_matching,
    "quadratic": functional.quadratic_matching,
    "hungarian": functional.hungarian,
    "greedy": functional.greedy_matching,
}
RELAXED = ["dmm", "quadratic"]


def solve(name: str, cost: Tensor, *masks: Tensor | None, **options: Any) -> Tensor:
    """With the masks by name: the function that takes gamma has it before them."""
    names = ("template_mask", "proposal_mask")
    return SOLVERS[name](cost, **dict(zip(names, masks, strict=False)), **options)


def say(name: str, cost: Tensor, *masks: Tensor | None, **options: Any) -> Any:
    """The solution, by the other verb."""
    names = ("template_mask", "proposal_mask")
    verb = {"dmm": functional.solve_dmm, "quadratic": functional.solve_quadratic}[name]
    return verb(cost, **dict(zip(names, masks, strict=False)), **options)
