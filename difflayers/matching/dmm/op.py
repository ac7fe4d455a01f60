"""The operators of DMM matching as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: cost, X, grad (B, n, m), with forbidden pairs at +inf; templates (B, n), the rows that take part; bits (B, rounds,
bytes). With `slack` the last column is "unmatched".
"""

from typing import Any

import torch
from torch import Tensor

from difflayers._ops import define, fold_all, forward_mode
from difflayers.matching.dmm import cpu, cuda
from difflayers.matching.dmm.common import bits_shape


def _fake_dmm(
    cost: Tensor,
    templates: Tensor,
    n_grad: int,
    n_proj: int,
    step_size: float,
    average: bool,
    slack: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    bits = cost.new_empty(bits_shape(cost.shape, n_grad * n_proj if keep else 0), dtype=torch.uint8)
    return cost.new_empty(cost.shape), bits


def _fake_dmm_adjoint(cost: Tensor, bits: Tensor, grad: Tensor, *options: Any) -> Tensor:
    return cost.new_empty(cost.shape)


_dmm = define(
    "dmm(Tensor cost, Tensor templates, int n_grad, int n_proj, float step_size, bool average, bool slack, bool keep)"
    " -> (Tensor X, Tensor bits)",
    cpu.dmm,
    cuda.dmm,
    _fake_dmm,
)
_dmm_adjoint = define(
    "dmm_adjoint(Tensor cost, Tensor bits, Tensor grad, int n_grad, int n_proj, float step_size, bool average, bool slack)"
    " -> Tensor",
    cpu.dmm_adjoint,
    cuda.dmm_adjoint,
    _fake_dmm_adjoint,
)
_dmm_tangent = define(
    "dmm_tangent(Tensor cost, Tensor bits, Tensor direction, int n_grad, int n_proj, float step_size, bool average, bool slack)"
    " -> Tensor",
    cpu.dmm_tangent,
    cuda.dmm_tangent,
    _fake_dmm_adjoint,
)
fold_all("dmm", _dmm)
fold_all("dmm_adjoint", _dmm_adjoint)
fold_all("dmm_tangent", _dmm_tangent)


@forward_mode
class DMMFunction(torch.autograd.Function):
    """(cost, templates, ...) -> (X, bits); the derivative is that of the unrolled loop, its start held constant.

    The loop is piecewise linear: on a piece, which the bits tell, X is linear in the cost. So the derivative's derivative is
    0 but for what the cotangent brings, as autograd through the loop has it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        templates: Tensor,
        n_grad: int,
        n_proj: int,
        step_size: float,
        average: bool,
        slack: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        return _dmm(cost, templates, n_grad, n_proj, step_size, average, slack, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        cost, _, n_grad, n_proj, step_size, average, slack, _ = inputs
        ctx.options = (n_grad, n_proj, step_size, average, slack)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(cost, output[1])
        ctx.save_for_forward(cost, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        cost, bits = ctx.saved_tensors
        return _Adjoint.apply(cost.detach(), bits, grad, *ctx.options), None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, cost: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        point, bits = ctx.saved_tensors
        if cost is None:
            return torch.zeros_like(point), None
        return _Tangent.apply(point.detach(), bits, cost, *ctx.options), None


class _Linear(torch.autograd.Function):
    """A linear map (cost, bits, x, ...) -> A x, at a fixed point of the path."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        cost, bits, _, *options = inputs
        ctx.options = tuple(options)
        ctx.save_for_backward(cost, bits)
        ctx.save_for_forward(cost, bits)


@forward_mode
class _Adjoint(_Linear):
    """(cost, bits, grad, ...) -> the gradient with respect to the cost; linear in grad."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor, bits: Tensor, grad: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool, slack: bool
    ) -> Tensor:
        return _dmm_adjoint(cost, bits, grad, n_grad, n_proj, step_size, average, slack)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _Tangent.apply(*ctx.saved_tensors, grad, *ctx.options), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, cost: Any, bits: Any, grad: Tensor | None, *unused: Any) -> Tensor:
        point, bits = ctx.saved_tensors
        return torch.zeros_like(point) if grad is None else _Adjoint.apply(point, bits, grad, *ctx.options)


@forward_mode
class _Tangent(_Linear):
    """(cost, bits, direction, ...) -> the derivative of X along the direction; linear in it, the transpose of `_Adjoint`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        bits: Tensor,
        direction: Tensor,
        n_grad: int,
        n_proj: int,
        step_size: float,
        average: bool,
        slack: bool,
    ) -> Tensor:
        return _dmm_tangent(cost, bits, direction, n_grad, n_proj, step_size, average, slack)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _Adjoint.apply(*ctx.saved_tensors, grad, *ctx.options), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, cost: Any, bits: Any, direction: Tensor | None, *unused: Any) -> Tensor:
        point, bits = ctx.saved_tensors
        return torch.zeros_like(point) if direction is None else _Tangent.apply(point, bits, direction, *ctx.options)
