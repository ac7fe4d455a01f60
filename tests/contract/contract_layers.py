"""Every layer of the package, in one table: how it is made, what goes in, and what it supports.

A new method gets a line here and its operators one in `contract_operators`; all contract tests then run on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from difflayers import (
    DMMMatching,
    EntropicMatching,
    ExactMatching,
    MaskMatchingCost,
    QuadraticMatching,
    SATNet,
    functional,
)

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Layer:
    """One layer. The first input has the shape (batch, *sizes) and is what the layer is differentiated in."""

    make: Callable[[], nn.Module]
    inputs: Callable[..., tuple[Tensor, ...]]
    """(shape of the first, dtype) -> all inputs, each with the batch in front."""
    sizes: tuple[int, ...]
    least: int = 1
    """How many inputs it can be called with; those that follow may be left out."""
    more_sizes: tuple[tuple[int, ...], ...] = ()
    """Sizes that the same module takes as well."""
    orders: int = 2
    """How often it can be differentiated: 0, 1 or 2 times."""
    forward_mode: str = ""
    """Empty where it has one; else what its refusal says."""
    plain: bool = False
    """Whether it is made of torch's own operators, as far as derivatives go."""
    smooth: bool = True
    """Whether its gradient is the derivative, as differences see it."""
    parameters: tuple[str, ...] = ()
    solves: bool = True
    """Whether it has the verb `solve`."""
    start: Callable[[Any], Any] | None = None
    """A solution to the `start` of the next, where `solve` takes one."""
    half: bool = True
    """Whether float16 and bfloat16 come back as they came; else in the dtype of the parameters, under autocast alone."""
    bad: tuple[tuple[float, str], ...] = ()
    """What the first input is refused for when it is filled with it, and the words."""
    head: Callable[[], nn.Module] | None = None
    """(batch, 30) -> its first input, for a network in front."""

    def draw(self, *batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs; the same at each call."""
        generator = torch.Generator().manual_seed(seed)
        return self.inputs((*batch, *self.sizes), dtype, generator)

    def calls(self, inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """The inputs with and without those that may be left out."""
        return [inputs] if self.least == len(inputs) else [inputs[: self.least], inputs]


def seeded(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The same random start in each call, for what draws one."""
    torch.manual_seed(7)
    return function(*args, **options)


def _costs(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A cost, some of the templates, and all proposals but one."""
    *batch, n, m = shape
    cost = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    rows = torch.rand(*batch, n, generator=generator) < 0.6
    return cost, rows, (torch.arange(m) != 1).expand(*batch, m).clone()


def _bits(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, ...]:
    """z, away from 0 and 1, and which of it are given: some, never all."""
    z = (0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
    given = torch.rand(shape, generator=generator) < 0.5
    given[..., -1], given[..., 0] = False, True
    return z, given


def _looks(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Features and masks of as many templates as given and of one proposal more."""
    *batch, n, features = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(*batch, *size, generator=generator, dtype=torch.float64).to(dtype)

    return normal(n, features), normal(n, 3, 3).sigmoid(), normal(n + 1, features), normal(n + 1, 3, 3).sigmoid()


class Projection(nn.Module):
    """`project_assignment` as a module."""

    def forward(self, X: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        return functional.project_assignment(X, template_mask, proposal_mask)


class Assign(nn.Module):
    """`assign` as a module: indices."""

    def forward(self, cost: Tensor, template_mask: Tensor | None = None, proposal_mask: Tensor | None = None) -> Tensor:
        return functional.assign(cost, template_mask, proposal_mask, unmatched_cost=0.3)


def _parameter(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def _matching(
    make: Callable[[], nn.Module], name: str = "cost", *, forbids: float = INF, unmatched: bool = False, **options: Any
) -> Layer:
    bad = [(NAN, rf"{name}.* must be finite")] + ([] if unmatched else [(forbids, "without a proposal of their own")])
    return Layer(
        make,
        _costs,
        (3, 5),
        more_sizes=((4, 6),),
        head=lambda: nn.Sequential(nn.Linear(30, 15), nn.Unflatten(-1, (3, 5))),
        bad=tuple(bad),
        **options,
    )


LAYERS: dict[str, Layer] = {
    "satnet": Layer(
        lambda: SATNet(5, 7, 1, 600, 0.0, 0.0, k=4),
        _bits,
        (5,),
        least=2,
        parameters=("S",),
        half=False,
        start=lambda solution: solution.vectors.detach(),
        bad=((NAN, "z must be in"),),
    ),
    "satnet, input mask": Layer(
        lambda: SATNet(6, 7, 0, 600, 0.0, 0.0, input_mask=torch.arange(6) < 3),
        lambda *args: _bits(*args)[:1],
        (6,),
        parameters=("S",),
        half=False,
        start=lambda solution: solution.vectors.detach(),
        bad=((NAN, "z must be in"),),
        head=lambda: nn.Sequential(nn.Linear(30, 6), nn.Sigmoid()),
    ),
    "dmm": _matching(DMMMatching),
    "dmm, unmatched": _matching(
        lambda: DMMMatching(5, 3, 0.2, average=False, unmatched_cost=_parameter(0.4)),
        unmatched=True,
        parameters=("unmatched_cost",),
    ),
    "quadratic": _matching(lambda: QuadraticMatching(0.3), start=lambda solution: solution.multipliers),
    "quadratic, unmatched": _matching(
        lambda: QuadraticMatching(_parameter(0.3), unmatched_cost=0.4, tolerance=1e-10, max_iter=100),
        unmatched=True,
        parameters=("gamma",),
    ),
    "projection": _matching(Projection, "X", forbids=-INF, solves=False),
    "entropic": _matching(lambda: EntropicMatching(0.1), start=lambda solution: solution.multipliers),
    "entropic, dustbins": _matching(
        lambda: EntropicMatching(
            _parameter(0.2), unmatched_cost=_parameter(0.4), unmatched_proposal_cost=_parameter(0.3)
        ),
        unmatched=True,
        parameters=("epsilon", "unmatched_cost", "unmatched_proposal_cost"),
        start=lambda solution: solution.multipliers,
    ),
    "exact": _matching(
        lambda: ExactMatching(strength=1.0, unmatched_cost=_parameter(0.4)),
        unmatched=True,
        orders=1,
        smooth=False,
        forward_mode="has no forward mode",
        start=lambda solution: solution.multipliers,
        parameters=("unmatched_cost",),
    ),
    "straight-through": _matching(lambda: ExactMatching("straight-through"), plain=True, smooth=False),
    "assign": _matching(Assign, unmatched=True, orders=0, solves=False),
    "mask cost": Layer(lambda: MaskMatchingCost(0.7), _looks, (3, 4), least=4, solves=False, plain=True),
}
DIFFERENTIABLE = [name for name, layer in LAYERS.items() if layer.orders]


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The module of a line of the table, its parameters the same each time."""
    return seeded(LAYERS[name].make).to(dtype)


def value_and_gradients(module: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result and, where it has any, the gradients of a function of it, in the first input and in the parameters."""
    first = inputs[0].detach().requires_grad_(inputs[0].is_floating_point())
    out = seeded(module, first, *inputs[1:])
    if not out.requires_grad:
        return [out]
    leaves = [first, *(module.parameters() if isinstance(module, nn.Module) else ())]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]
