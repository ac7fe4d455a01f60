"""The matching operators as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: cost, A, X, grad (B, n, m), with forbidden pairs at +inf (cost) or -inf (A); templates (B, n), the rows that take
part; bits (B, rounds, bytes); beta (B, m); steps and residuals (B,). With `slack` the last column is "unmatched".
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from difflayers._ops import define, fold, library, unfold
from difflayers.matching import cpu, cuda


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


def _fake_projection(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, _, m = A.shape
    beta, residuals = A.new_empty(B, m, dtype=torch.float64), A.new_empty(B, dtype=torch.float64)
    return A.new_empty(A.shape), beta, A.new_empty(B, dtype=torch.int64), residuals


def _fake_projection_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape)


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
_projection = define(
    "projection(Tensor A, Tensor templates, bool slack, float tolerance, int max_iter, str name)"
    " -> (Tensor X, Tensor beta, Tensor steps, Tensor residuals)",
    cpu.projection,
    cuda.projection,
    _fake_projection,
)
_projection_adjoint = define(
    "projection_adjoint(Tensor X, Tensor beta, Tensor grad) -> Tensor",
    cpu.projection_adjoint,
    cuda.projection_adjoint,
    _fake_projection_adjoint,
)


def _register_vmap(name: str, op: Any) -> None:
    """Every argument that is a tensor has a batch dimension, which takes in the mapped one."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [
            fold(arg, dim, size) if isinstance(arg, Tensor) else arg for arg, dim in zip(args, in_dims, strict=True)
        ]
        result = op(*folded)
        if isinstance(result, Tensor):
            return unfold(result, size), 0
        return tuple(unfold(r, size) for r in result), (0,) * len(result)

    torch.library.register_vmap(f"difflayers::{name}", rule, lib=library)


for _name, _op in (
    ("dmm", _dmm),
    ("dmm_adjoint", _dmm_adjoint),
    ("projection", _projection),
    ("projection_adjoint", _projection_adjoint),
):
    _register_vmap(_name, _op)


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


class ProjectionFunction(torch.autograd.Function):
    """(A, templates, ...) -> (X, beta, steps, residuals); the gradient is that of the converged projection."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _projection(A, templates, slack, tolerance, max_iter, name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        X, beta, steps, residuals = output
        ctx.mark_non_differentiable(beta, steps, residuals)
        ctx.save_for_backward(X, beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        X, beta = ctx.saved_tensors
        return _ProjectionAdjoint.apply(X.detach(), beta, grad), None, None, None, None, None


class _ProjectionAdjoint(torch.autograd.Function):
    """J grad. J is symmetric, and does not change with A but at kinks: its own adjoint, with no part due to X."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
        return _projection_adjoint(X, beta, grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, _ProjectionAdjoint.apply(*ctx.saved_tensors, grad)
