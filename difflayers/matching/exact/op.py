"""The operator of exact matching as torch sees it, and three derivatives to choose from.

Shapes: cost (B, n, m), +inf where a pair is forbidden, with `slack` the last column "unmatched"; templates (B, n), the rows
that take part; prices (B, m without slack), the beta to start with, or None; columns (B, n), int64, -1 unmatched or not there;
alpha (B, n) and beta (B, m without slack), the multipliers, float64, with `centered` the better start; scans (B,), the
rows looked at.

`exact_certificate` says of columns and multipliers: objective (B,), what the assignment costs; residual (B,), the largest
violation of the conditions by which the multipliers certify it, see `functional.ExactSolution`; scale (B,), the largest of the
multipliers and of the costs of what is matched. All float64.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor

from difflayers._ops import define, fold_all, forward_mode, in_forward_mode, plain
from difflayers.matching.exact import cpu, cuda


def _fake_exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, n, width = cost.shape
    alpha, beta = (cost.new_empty(B, size, dtype=torch.float64) for size in (n, width - int(slack)))
    return cost.new_empty(B, n, dtype=torch.int64), alpha, beta, cost.new_empty(B, dtype=torch.int64)


def _fake_exact_certificate(
    cost: Tensor, templates: Tensor, columns: Tensor, alpha: Tensor, beta: Tensor, slack: bool
) -> tuple[Tensor, Tensor, Tensor]:
    objective, residual, scale = (cost.new_empty(cost.shape[0], dtype=torch.float64) for _ in range(3))
    return objective, residual, scale


_exact = define(
    "exact(Tensor cost, Tensor templates, Tensor? prices, bool slack, bool centered, str name)"
    " -> (Tensor columns, Tensor alpha, Tensor beta, Tensor scans)",
    cpu.exact,
    cuda.exact,
    _fake_exact,
)
_exact_certificate = define(
    "exact_certificate(Tensor cost, Tensor templates, Tensor columns, Tensor alpha, Tensor beta, bool slack)"
    " -> (Tensor objective, Tensor residual, Tensor scale)",
    cpu.exact_certificate,
    cuda.exact_certificate,
    _fake_exact_certificate,
)
fold_all("exact", _exact)
fold_all("exact_certificate", _exact_certificate)


def exact(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator, or at once the kernel that it calls on CPU."""
    return (cpu.exact if plain(cost) else _exact)(cost, templates, prices, slack, centered, name)


def exact_certificate(
    cost: Tensor, templates: Tensor, columns: Tensor, alpha: Tensor, beta: Tensor, slack: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator, or at once the kernel that it calls on CPU."""
    run = cpu.exact_certificate if plain(cost) and plain(columns) else _exact_certificate
    return run(cost, templates, columns, alpha, beta, slack)


def assign(cost: Tensor, templates: Tensor, slack: bool, name: str) -> Tensor:
    """Its first result alone."""
    return (cpu.assign if plain(cost) else _assign)(cost, templates, slack, name)


def _assign(cost: Tensor, templates: Tensor, slack: bool, name: str) -> Tensor:
    return _exact(cost, templates, None, slack, False, name)[0]


def matrix(columns: Tensor, templates: Tensor, width: int, slack: bool, dtype: torch.dtype) -> Tensor:
    """columns as a matrix of 0 and 1, (B, n, width); with `slack` the unmatched have their 1 in the last column."""
    X = columns.new_zeros((*columns.shape, width), dtype=dtype)
    if width == 0:
        return X
    where = columns.masked_fill(columns < 0, width - 1) if slack else columns.clamp(min=0)
    fill = X.scatter_ if plain(columns) else X.scatter  # torch.vmap knows the second alone
    return fill(-1, where.unsqueeze(-1), templates.unsqueeze(-1).to(dtype))


def solve(
    cost: Tensor,
    templates: Tensor,
    prices: Tensor | None,
    slack: bool,
    centered: bool,
    gradient: str,
    strength: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(cost, templates, prices, ...) -> (X, columns, alpha, beta, scans), X with the derivative that `gradient` names."""
    if gradient == "blackbox" and (cost.requires_grad or in_forward_mode() or not plain(cost)):
        return _Exact.apply(cost, templates, prices, slack, centered, strength)
    fixed = cost.detach()
    X, columns, alpha, beta, scans = _solve(fixed, templates, prices, slack, centered)
    if gradient == "straight-through":  # X stands for -cost, but where a pair cannot be
        X = X + torch.where(fixed < torch.inf, fixed - cost, 0)
    return X, columns, alpha, beta, scans


def _solve(
    cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    columns, alpha, beta, scans = exact(cost, templates, prices, slack, centered, "cost")
    return matrix(columns, templates, cost.shape[-1], slack, cost.dtype), columns, alpha, beta, scans


@forward_mode
class _Exact(torch.autograd.Function):
    """(cost, templates, prices, ...) -> (X, columns, alpha, beta, scans), X with the blackbox gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor, templates: Tensor, prices: Tensor | None, slack: bool, centered: bool, strength: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return _solve(cost, templates, prices, slack, centered)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cost, templates, _, *ctx.options = inputs
        X, *rest = output
        ctx.mark_non_differentiable(*rest)
        ctx.save_for_backward(cost, templates, X)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        cost, templates, X = ctx.saved_tensors
        slack, _, strength = ctx.options
        return _Blackbox.apply(cost.detach(), templates, X.detach(), grad, slack, strength), *[None] * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise NotImplementedError(
            "the blackbox gradient of exact matching has no forward mode: it depends on the loss. Use reverse mode, "
            "gradient='straight-through', or functional.quadratic_matching"
        )


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
