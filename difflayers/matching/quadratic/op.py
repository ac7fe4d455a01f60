"""The operators of quadratic matching as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: A, X, grad (B, n, m), A the scores -cost / gamma, -inf where a pair is forbidden; templates (B, n), the rows that take
part; alpha (B, n) and beta (B, m), the multipliers of rows and columns; steps and residuals (B,). With `slack` the last
column is "unmatched".
"""

from typing import Any

import torch
from torch import Tensor

from difflayers._ops import define, fold_all
from difflayers.matching.quadratic import cpu, cuda


def _fake_quadratic(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, n, m = A.shape
    alpha, beta = (A.new_empty(B, size, dtype=torch.float64) for size in (n, m))
    steps, residuals = A.new_empty(B, dtype=torch.int64), A.new_empty(B, dtype=torch.float64)
    return A.new_empty(A.shape), alpha, beta, steps, residuals


def _fake_quadratic_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


_quadratic = define(
    "quadratic(Tensor A, Tensor templates, bool slack, float tolerance, int max_iter, str name)"
    " -> (Tensor X, Tensor alpha, Tensor beta, Tensor steps, Tensor residuals)",
    cpu.quadratic,
    cuda.quadratic,
    _fake_quadratic,
)
_quadratic_adjoint = define(
    "quadratic_adjoint(Tensor X, Tensor beta, Tensor grad) -> Tensor",
    cpu.quadratic_adjoint,
    cuda.quadratic_adjoint,
    _fake_quadratic_adjoint,
)
fold_all("quadratic", _quadratic)
fold_all("quadratic_adjoint", _quadratic_adjoint)


class QuadraticFunction(torch.autograd.Function):
    """(A, templates, ...) -> (X, alpha, beta, steps, residuals); the gradient is that of the converged projection."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return _quadratic(A, templates, slack, tolerance, max_iter, name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        X, alpha, beta, steps, residuals = output
        ctx.mark_non_differentiable(alpha, beta, steps, residuals)
        ctx.save_for_backward(X, beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        X, beta = ctx.saved_tensors
        return _QuadraticAdjoint.apply(X.detach(), beta, grad), None, None, None, None, None


class _QuadraticAdjoint(torch.autograd.Function):
    """J grad. J is symmetric, and does not change with A but at kinks: its own adjoint, with no part due to X."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
        return _quadratic_adjoint(X, beta, grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _QuadraticAdjoint.apply(*ctx.saved_tensors, grad)
