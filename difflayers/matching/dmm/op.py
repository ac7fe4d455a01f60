"""The operators of DMM matching as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: cost, X, grad (B, n, m), with forbidden pairs at +inf; templates (B, n), the rows that take part; bits (B, rounds,
bytes). With `slack` the last column is "unmatched".
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from difflayers._ops import define, fold_all
from difflayers.matching.dmm import cpu, cuda


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
    bits = cost.new_empty(cpu.bits_shape(cost.shape, n_grad * n_proj if keep else 0), dtype=torch.uint8)
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
fold_all("dmm", _dmm)
fold_all("dmm_adjoint", _dmm_adjoint)


class DMMFunction(torch.autograd.Function):
    """(cost, templates, ...) -> (X, bits); the gradient is that of the unrolled loop, its start held constant."""

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
        cost, _, *options, _ = inputs
        ctx.options = options
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(cost, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        cost, bits = ctx.saved_tensors
        return _DMMAdjoint.apply(cost, bits, grad, *ctx.options), None, None, None, None, None, None, None


class _DMMAdjoint(torch.autograd.Function):
    """The backward pass, as a function of its own that refuses to be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        bits: Tensor,
        grad: Tensor,
        n_grad: int,
        n_proj: int,
        step_size: float,
        average: bool,
        slack: bool,
    ) -> Tensor:
        return _dmm_adjoint(cost, bits, grad, n_grad, n_proj, step_size, average, slack)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "DMM matching has no second derivatives: its backward kernel is not differentiated. Use create_graph=False, "
            "functional.quadratic_matching, which has them, or finite differences of the gradient."
        )
