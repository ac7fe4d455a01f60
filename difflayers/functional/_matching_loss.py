"""Fenchel-Young losses of the matching layers."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from difflayers._checks import check_number, check_same_device, check_tensor
from difflayers.functional._exact import hungarian
from difflayers.functional._quadratic import check_gamma, quadratic_matching
from difflayers.matching.problems import Problems, finite, prepare
from difflayers.matching.target import matching_target

Regularizer = Literal["quadratic", "none"]
Reduction = Literal["mean", "sum", "none"]


def matching_loss(
    cost: Tensor,
    target: Tensor,
    regularizer: Regularizer = "quadratic",
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.05,
    unmatched_cost: float | Tensor | None = None,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""How far costs are from having a given assignment for their match: a convex loss, with the match in its gradient.

    The Fenchel-Young loss of the layer that minimises :math:`\langle C, X \rangle + \Omega(X)` over the assignment polytope:

    .. math:: L(C; Y) = \langle C, Y \rangle + \Omega(Y) - \min_X \big( \langle C, X \rangle + \Omega(X) \big) \ge 0, \qquad
       \nabla_C L = Y - X(C).

    It is convex in C, and its gradient costs one solve of the layer, nothing of which is differentiated. Where the target is
    known, it is what to train a matching layer by.

    - ``"quadratic"``: :math:`\Omega(X) = \gamma / 2 \|X\|^2`, of `quadratic_matching`. 0 if and only if its X is Y.
    - ``"none"``: :math:`\Omega = 0`, of `exact_matching`: the structured perceptron; with a margin, the structured hinge loss.
      0 if and only if Y is an optimal assignment.

    With a margin :math:`\mu`, all this is of the cost :math:`C + \mu Y`: the target has to win though its pairs cost
    :math:`\mu` more, so that a loss of 0 says it is better than any other assignment by :math:`\mu` for each template in which
    that differs.

    Args:
        cost: (..., n, m), floating point. +inf forbids a pair.
        target: the right assignment Y, a constant: (..., n, m) of 0 and 1, or of shares; or its indices (..., n), int64, as
            `assign` returns them, -1 for a template that should stay unmatched. Of templates that are not there it may hold
            anything.
        regularizer: which layer, see above.
        template_mask, proposal_mask, unmatched_cost: as for `exact_matching`. What a row of Y lacks to 1 stays unmatched,
            and has a part in the loss and in the gradient of unmatched_cost.
        gamma: of the quadratic layer, as for `quadratic_matching`.
        margin: :math:`\mu`, in units of the cost.
        reduction: ``"mean"`` over the problems of the batch, their ``"sum"``, or ``"none"``.

    Returns:
        A tensor of no dimensions, or (...) with ``reduction="none"``; the dtype of the cost. The mean of no problems is 0.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: as `exact_matching` does of costs; a target that is no assignment of the templates and proposals that are
            there, or has a pair that is forbidden; an unknown regularizer or reduction.

    Second derivatives are those of the layer: of the quadratic one they are there, without regularizer they are 0.

    References:
        Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 2020, definition 1 and proposition 2. Taskar,
        Guestrin, Koller, "Max-margin Markov networks", 2003; Collins, "Discriminative training methods for hidden Markov
        models", 2002.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> cost = torch.tensor([[0.1, 0.2], [0.1, 0.5]], requires_grad=True)
        >>> loss = functional.matching_loss(cost, torch.tensor([0, 1]), "none")  # the other way round is cheaper by 0.3
        >>> loss.backward()
        >>> round(loss.item(), 4), cost.grad
        (0.3, tensor([[ 1., -1.],
                [-1.,  1.]]))
    """
    for name, value, allowed in (("regularizer", regularizer, Regularizer), ("reduction", reduction, Reduction)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(allowed)))}; got {value!r}")
    check_gamma(gamma)
    check_number("margin", margin)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    Y = _target(target, problems)
    if margin:
        problems = problems._replace(cost=problems.cost + margin * Y)
    X = _solution(problems, regularizer, gamma)
    regularization: Tensor | float = 0.0
    if regularizer == "quadratic":
        regularization = 0.5 * gamma * (Y.square() - X.detach().square()).sum((1, 2))
    rest = torch.as_tensor(regularization, dtype=Y.dtype, device=Y.device).expand(len(Y))
    losses = problems.batched(_FenchelYoung.apply(problems.cost, X, Y, rest)).to(problems.dtype)
    if reduction == "none":
        return losses
    return losses.sum() / max(losses.numel(), 1) if reduction == "mean" else losses.sum()


def _target(target: Tensor, problems: Problems) -> Tensor:
    """The target as a matrix like the problems' cost."""
    check_tensor("target", target, None)
    check_same_device("target", target, "the cost", problems.cost.device)
    shape = problems.shape
    if target.shape == shape[:-1] and target.dtype == torch.int64:
        flat = target.reshape(problems.templates.shape)
    elif target.shape == shape and not target.dtype.is_complex:
        flat = target.detach().reshape(*problems.templates.shape, shape[-1])
    else:
        raise ValueError(
            f"target must have the shape of the cost, {tuple(shape)}, or be int64 indices {tuple(shape[:-1])}; got "
            f"{target.dtype} {tuple(target.shape)}"
        )
    return matching_target(flat, problems.cost.detach(), problems.templates, problems.slack)


def _solution(problems: Problems, regularizer: Regularizer, gamma: float | Tensor) -> Tensor:
    """The layer's X (B, n, m), with the share that stays unmatched in one more column if there is one in the cost."""
    cost, own = (problems.cost[..., :-1], problems.cost[..., -1]) if problems.slack else (problems.cost, None)
    if regularizer == "none":
        X = hungarian(cost, problems.templates, unmatched_cost=own)
    else:
        X = quadratic_matching(cost, gamma, problems.templates, unmatched_cost=own)
    if own is None:
        return X
    share = torch.where(problems.templates, 1 - X.sum(-1), 0)
    return torch.cat((X, share.unsqueeze(-1)), -1)


class _FenchelYoung(torch.autograd.Function):
    """<C, Y - X> + rest for each problem. Its gradient in C is Y - X, and none goes through X, of which the loss is a maximum:
    but X has its own, for second derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cost: Tensor, X: Tensor, Y: Tensor, rest: Tensor) -> Tensor:
        return ((finite(cost) * (Y - X)).sum((1, 2)) + rest).clamp(min=0)  # below 0 by rounding

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, X, Y, _ = inputs
        ctx.save_for_backward(X, Y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        X, Y = ctx.saved_tensors
        return grad[:, None, None] * (Y - X), None, None, grad
