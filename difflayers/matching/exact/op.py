"""The operator of exact matching as torch sees it, and three derivatives to choose from.

Shapes: cost (B, n, m), +inf where a pair is forbidden, with `slack` the last column "unmatched"; templates (B, n), the rows
that take part; prices (B, m without slack), the beta to start with, or None; columns (B, n), int64, -1 unmatched or not there;
alpha (B, n) and beta (B, m without slack), the multipliers, float64, with `centered` the better start; scans (B,), the
rows looked at.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor

from difflayers._ops import define, fold_all, plain
from difflayers.matching.exact import cpu, cuda


def _fake_exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, n, width = cost.shape
    alpha, beta = (cost.new_empty(B, size, dtype=torch.float64) for size in (n, width - slack))
    return cost.new_empty(B, n, dtype=torch.int64), alpha, beta, cost.new_empty(B, dtype=torch.int64)


_exact = define(
    "exact(Tensor cost, Tensor templates, Tensor? prices, bool slack, bool centered, str name)"
    " -> (Tensor columns, Tensor alpha, Tensor beta, Tensor scans)",
    cpu.exact,
    cuda.exact,
    _fake_exact,
)
fold_all("exact", _exact)


def exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator, or at once the kernel that it calls on CPU."""
    return (cpu.exact if plain(cost) else _exact)(cost, templates, prices, slack, centered, name)


def assign(cost: Tensor, templates: Tensor, slack: bool, name: str) -> Tensor:
    """Its first result alone."""
    return (cpu.assign if plain(cost) else _assign)(cost, templates, slack, name)


def _assign(cost: Tensor, templates: Tensor, slack: bool, name: str) -> Tensor:
    return _exact(cost, templates, None, slack, False, name)[0]


def matrix(columns: Tensor, templates: Tensor, width: int, slack: bool, dtype: torch.dtype) -> Tensor:
    """columns as a matrix of 0 and 1, (B, n, width); with `slack` the unmatched have their 1 in the last column."""
    X = torch.zeros((*columns.shape, width), dtype=dtype, device=columns.device)
    if width == 0:
        return X
    where = columns.masked_fill(columns < 0, width - 1) if slack else columns.clamp(min=0)
    return X.scatter(-1, where.unsqueeze(-1), templates.unsqueeze(-1).to(dtype))


class ExactFunction(torch.autograd.Function):
    """(cost, templates, prices, ...) -> (X, columns, alpha, beta, scans), with the derivative that `gradient` names."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        templates: Tensor,
        prices: Tensor | None,
        slack: bool,
        centered: bool,
        gradient: str,
        strength: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        columns, alpha, beta, scans = exact(cost, templates, prices, slack, centered, "cost")
        return matrix(columns, templates, cost.shape[-1], slack, cost.dtype), columns, alpha, beta, scans

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cost, templates, _, slack, _, *options = inputs
        ctx.options = slack, *options
        X, *rest = output
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(cost, templates, X)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        cost, templates, X = ctx.saved_tensors
        slack, gradient, strength = ctx.options
        if gradient == "blackbox":
            out = _Blackbox.apply(cost.detach(), templates, X.detach(), grad, slack, strength)
        else:  # X stands for -cost, but where a pair cannot be
            out = torch.where(cost.detach() < torch.inf, -grad, 0)
        return out, None, None, None, None, None, None


class _Blackbox(torch.autograd.Function):
    """(X(cost + strength grad) - X(cost)) / strength: Vlastelica et al., ICLR 2020, algorithm 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cost: Tensor, templates: Tensor, X: Tensor, grad: Tensor, slack: bool, strength: float) -> Tensor:
        moved = cost + strength * grad
        # Started cold, like the forward pass: where the gradient is 0, ties are broken the same way, and so is the result.
        columns = assign(moved, templates, slack, "cost + strength * gradient")
        return (matrix(columns, templates, cost.shape[-1], slack, cost.dtype) - X) / strength

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "the blackbox gradient of exact matching has no derivative: it is a difference of two assignments. Use "
            "create_graph=False, or functional.quadratic_matching, which has second derivatives"
        )
