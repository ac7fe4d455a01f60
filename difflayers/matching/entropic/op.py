"""The operators of entropic matching as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rules.

Shapes: cost, X, grad, Y (B, N, M), cost +inf where a pair is forbidden; epsilon (B,); templates (B, n) and proposals (B, m),
those that take part; start (B, N), multipliers, or (B, 0); alpha, a (B, N) and beta, b (B, M), float64; tight (B, M), the
columns whose sum is held; iterations and residuals (B,). With `slack` the last column is "unmatched", M = m + 1; with
`births` the last row is, N = n + 1.

The derivative. From log X_ij = -(C_ij + alpha_i + beta_j) / epsilon, with D the product X * D' less what rows and tight
columns have in common (`entropic_centre`: they sum to 0, as the constraints say),

    dX = -D / epsilon,  D' = dC + log(X) d epsilon.

D is symmetric in D', so that it serves backward too, and again for the second derivative.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from difflayers._ops import define, fold_all, forward_mode
from difflayers.matching.entropic import cpu, cuda


def _fake_entropic(
    cost: Tensor,
    epsilon: Tensor,
    templates: Tensor,
    proposals: Tensor,
    start: Tensor,
    slack: bool,
    births: bool,
    tolerance: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, N, M = cost.shape
    alpha, beta = (cost.new_empty(B, size, dtype=torch.float64) for size in (N, M))
    tight, iterations = cost.new_empty(B, M, dtype=torch.bool), cost.new_empty(B, dtype=torch.int64)
    return cost.new_empty(cost.shape), alpha, beta, tight, iterations, cost.new_empty(B, dtype=torch.float64)


def _fake_entropic_centre(X: Tensor, tight: Tensor, grad: Tensor, free_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    B, N, M = X.shape
    a, b = (grad.new_empty(B, size, dtype=torch.float64) for size in (N, M))
    return grad.new_empty(grad.shape), a, b


_entropic = define(
    "entropic(Tensor cost, Tensor epsilon, Tensor templates, Tensor proposals, Tensor start, bool slack, bool births,"
    " float tolerance, int max_iter)"
    " -> (Tensor X, Tensor alpha, Tensor beta, Tensor tight, Tensor iterations, Tensor residuals)",
    cpu.entropic,
    cuda.entropic,
    _fake_entropic,
)
_entropic_centre = define(
    "entropic_centre(Tensor X, Tensor tight, Tensor grad, bool free_row) -> (Tensor Y, Tensor a, Tensor b)",
    cpu.entropic_centre,
    cuda.entropic_centre,
    _fake_entropic_centre,
)
fold_all("entropic", _entropic)
fold_all("entropic_centre", _entropic_centre)


@forward_mode
class EntropicFunction(torch.autograd.Function):
    """(cost, epsilon, ...) -> (X, alpha, beta, tight, iterations, residuals), of which X alone has a derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cost: Tensor,
        epsilon: Tensor,
        templates: Tensor,
        proposals: Tensor,
        start: Tensor,
        slack: bool,
        births: bool,
        tolerance: float,
        max_iter: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        # Floating point all, and none marked as not differentiable: under vmap torch.func gives each a tangent.
        X, alpha, beta, tight, iterations, residuals = _entropic(
            cost, epsilon, templates, proposals, start, slack, births, tolerance, max_iter
        )
        return X, alpha, beta, tight.to(X.dtype), iterations.double(), residuals

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.free_row = inputs[6] and not inputs[5]
        ctx.set_materialize_grads(False)  # `matching_loss` holds X for second derivatives, and has no first one in it
        kept = output[0], inputs[1], output[1], output[2], output[3]
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 9
        X, epsilon, _, _, tight = ctx.saved_tensors
        Y, _, _ = _EntropicCentre.apply(X, tight, grad, ctx.free_row)
        for_cost = -Y / epsilon[:, None, None]
        for_epsilon = (for_cost * _log(X)).sum((1, 2)) if ctx.needs_input_grad[1] else None
        return for_cost, for_epsilon, None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, cost: Tensor | None, epsilon: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        X, value, alpha, beta, tight = ctx.saved_tensors
        direction = torch.zeros_like(X) if cost is None else cost
        if epsilon is not None:
            direction = direction + _log(X) * epsilon[:, None, None]
        Y, _, _ = _EntropicCentre.apply(X, tight, direction, ctx.free_row)
        return -Y / value[:, None, None], *(
            torch.zeros_like(t) for t in (alpha, beta, tight, value.double(), value.double())
        )


def _log(X: Tensor) -> Tensor:
    """log X, 0 where X is 0: a factor of what is 0 there."""
    return torch.where(X > 0, torch.where(X > 0, X, 1).log(), 0)


@forward_mode
class _EntropicCentre(torch.autograd.Function):
    """(X, tight, G) -> (Y, a, b), Y = X (G - a 1' - 1 b'), whose rows and tight columns sum to 0. Linear and symmetric in G."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, tight: Tensor, G: Tensor, free_row: bool) -> tuple[Tensor, Tensor, Tensor]:
        return _entropic_centre(X, tight > 0, G, free_row)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        X, tight, G, ctx.free_row = inputs
        ctx.save_for_backward(X, tight, G, *output[1:])
        ctx.save_for_forward(X, tight, G, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        X, tight, G, a, b = ctx.saved_tensors
        Y, c, d = _EntropicCentre.apply(X, tight, grad, ctx.free_row)
        curvature = _Curvature.apply(X, G, a, b, grad, c, d) if ctx.needs_input_grad[0] else None
        return curvature, None, Y, None

    @staticmethod
    def jvp(ctx: Any, dX: Tensor | None, tight: None, dG: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        X, tight_columns, G, a, b = ctx.saved_tensors
        direction = torch.zeros_like(G) if dG is None else dG
        if dX is not None:
            direction = direction + _Left.apply(X, G, a, b) * dX / torch.where(X > 0, X, 1)
        return (
            _EntropicCentre.apply(X, tight_columns, direction, ctx.free_row)[0],
            torch.zeros_like(a),
            torch.zeros_like(b),
        )


def _left(X: Tensor, G: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """G - a 1' - 1 b' where X is above 0."""
    return torch.where(X > 0, G - (a.unsqueeze(2) + b.unsqueeze(1)).to(G.dtype), 0)


class _Last(torch.autograd.Function):
    """What second derivatives end in."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "entropic matching has no third derivatives: use create_graph=False for the second, or finite differences of it"
        )

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: Any) -> NoReturn:
        raise NotImplementedError("entropic matching has no third derivatives: use finite differences of the second")


@forward_mode
class _Left(_Last):
    """`_left`."""

    @staticmethod
    def forward(X: Tensor, G: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return _left(X, G, a, b)


@forward_mode
class _Curvature(_Last):
    """The gradient of <H, Y> in X, Y the centred product of X and G: what is left of G times what is left of H."""

    @staticmethod
    def forward(X: Tensor, G: Tensor, a: Tensor, b: Tensor, H: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return _left(X, G, a, b) * _left(X, H, c, d)
