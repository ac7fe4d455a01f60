"""The operators of quadratic matching as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: cost, X, grad (B, n, m), inf where a pair is forbidden; gamma (B,); templates (B, n), the rows that take part; start
(B, m), column multipliers to begin with, 0 if none are known; rows (B, n) and columns (B, m), the multipliers found; steps and
residuals (B,). With `slack` the last column is "unmatched". Of numbers that are not matrices, all are float64 (steps: int64).
"""

from typing import Any

import torch
from torch import Tensor

from difflayers._ops import define, fold_all, forward_mode
from difflayers.matching.quadratic import cpu, cuda


def _fake_quadratic(
    cost: Tensor,
    gamma: Tensor,
    templates: Tensor,
    start: Tensor,
    slack: bool,
    tolerance: float,
    max_iter: int,
    name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, n, m = cost.shape
    rows, columns = (cost.new_empty(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = cost.new_empty(B, dtype=torch.int64), cost.new_empty(B, dtype=torch.float64)
    return cost.new_empty(cost.shape), rows, columns, steps, residuals


def _fake_quadratic_adjoint(X: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


_quadratic = define(
    "quadratic(Tensor cost, Tensor gamma, Tensor templates, Tensor start, bool slack, float tolerance, int max_iter, str name)"
    " -> (Tensor X, Tensor rows, Tensor columns, Tensor steps, Tensor residuals)",
    cpu.quadratic,
    cuda.quadratic,
    _fake_quadratic,
)
_quadratic_adjoint = define(
    "quadratic_adjoint(Tensor X, Tensor columns, Tensor grad) -> Tensor",
    cpu.quadratic_adjoint,
    cuda.quadratic_adjoint,
    _fake_quadratic_adjoint,
)
fold_all("quadratic", _quadratic)
fold_all("quadratic_adjoint", _quadratic_adjoint)


@forward_mode
class QuadraticFunction(torch.autograd.Function):
    """(cost, gamma, templates, start, ...) -> (X, rows, columns, steps, residuals).

    X alone has a derivative, as often as one likes.

    X is the projection of -C / gamma, and J the generalised Jacobian of that, symmetric. On the support of X, where J lives,
    C is -gamma X up to a constant for each row and each full column, which J does not see: dX = -J (dC + X dgamma) / gamma.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        gamma: Tensor,
        templates: Tensor,
        start: Tensor,
        slack: bool,
        tolerance: float,
        max_iter: int,
        name: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        X, rows, columns, steps, residuals = _quadratic(cost, gamma, templates, start, slack, tolerance, max_iter, name)
        # Floating point all, and none marked as not differentiable: under vmap torch.func gives each a tangent.
        return X, rows, columns, steps.double(), residuals

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        X, _, columns, _, _ = output
        ctx.set_materialize_grads(False)  # `matching_loss` holds X for second derivatives, and has no first one in it
        ctx.save_for_backward(X, columns, inputs[1])
        ctx.save_for_forward(X, columns, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *unused: Tensor) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        X, columns, gamma = ctx.saved_tensors
        along = -_Jacobian.apply(X.detach(), columns, grad) / gamma[:, None, None].to(X.dtype)
        return along, (along * X).sum((1, 2)).to(gamma.dtype), None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, cost: Tensor | None, gamma: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        X, columns, weight = ctx.saved_tensors
        direction = torch.zeros_like(X) if cost is None else cost
        if gamma is not None:
            direction = direction + X * gamma[:, None, None].to(X.dtype)
        tangent = -_Jacobian.apply(X.detach(), columns, direction) / weight[:, None, None].to(X.dtype)
        rows, one = X.sum(2, dtype=columns.dtype), X.sum((1, 2), dtype=torch.float64)
        return tangent, *(torch.zeros_like(other) for other in (rows, columns, one, one))


@forward_mode
class _Jacobian(torch.autograd.Function):
    """J grad. J is symmetric, and does not change with the cost but at kinks: its own adjoint, with no part due to X."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
        return _quadratic_adjoint(X, columns, grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        X, columns = ctx.saved_tensors
        return None, None, _Jacobian.apply(X, columns, grad)

    @staticmethod
    def jvp(ctx: Any, X: Tensor | None, columns: Tensor | None, grad: Tensor | None) -> Tensor:
        support, full = ctx.saved_tensors
        return torch.zeros_like(support) if grad is None else _Jacobian.apply(support, full, grad)
