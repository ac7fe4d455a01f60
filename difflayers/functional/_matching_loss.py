"""Fenchel-Young losses of the matching layers."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from difflayers._checks import check_fits, check_number, check_same_device, check_tensor
from difflayers._ops import forward_mode
from difflayers.functional._quadratic import check_gamma, weigh_squares
from difflayers.matching.entropic.op import EntropicFunction
from difflayers.matching.entropic.problems import add_births, check_epsilon, weigh_entropy
from difflayers.matching.exact.op import assign, matrix
from difflayers.matching.problems import Problems, check_unmatched_cost, finite, prepare, proposals_of
from difflayers.matching.quadratic.op import QuadraticFunction
from difflayers.matching.target import matching_target

Regularizer = Literal["quadratic", "entropic", "none"]
Reduction = Literal["mean", "sum", "none"]


def matching_loss(
    cost: Tensor,
    target: Tensor,
    regularizer: Regularizer = "quadratic",
    template_mask: Tensor | None = None,
    proposal_mask: Tensor | None = None,
    *,
    gamma: float | Tensor | None = None,
    epsilon: float | Tensor | None = None,
    unmatched_cost: float | Tensor | None = None,
    unmatched_proposal_cost: float | Tensor | None = None,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The loss to train costs by when the right assignment is known. It is convex in the costs.

    The Fenchel-Young loss of the layer that minimises :math:`\langle C, X \rangle + \Omega(X)` over the assignment polytope:

    .. math:: L(C; Y) = \langle C, Y \rangle + \Omega(Y) - \min_X \big( \langle C, X \rangle + \Omega(X) \big) \ge 0, \qquad
       \nabla_C L = Y - X(C).

    Its gradient needs one solve of the layer. No solver is differentiated.

    - ``"quadratic"``: :math:`\Omega(X) = \gamma / 2 \|X\|^2`, of `quadratic_matching`. It is 0 if and only if X is Y.
    - ``"entropic"``: :math:`\Omega(X) = \varepsilon \sum X (\log X - 1)`, of `entropic_matching`. For a
      target of 0 and 1 it is never exactly 0, since no entry of X is 0. If no two templates compete for a proposal, X is a
      softmax of each row, and the loss is :math:`\varepsilon` times the cross-entropy of the rows.
    - ``"none"``: :math:`\Omega = 0`, of `exact_matching`: the structured perceptron; with a margin, the structured hinge loss.
      0 if and only if Y is an optimal assignment.

    With a margin :math:`\mu`, the loss is that of the cost :math:`C + \mu Y`: the target must win although each of its pairs
    costs :math:`\mu` more. A loss of 0 then means that the target is better than any other assignment, by at least
    :math:`\mu` for each template that the other one matches differently.

    Args:
        cost: (..., n, m), floating point. +inf forbids a pair.
        target: the right assignment Y, a constant: (..., n, m) of 0 and 1, or of shares; or its indices (..., n), int64, as
            `assign` returns them, -1 for a template that should stay unmatched. For templates that are not there it may hold
            anything.
        regularizer: which layer, see above.
        template_mask, proposal_mask, unmatched_cost: as for `exact_matching`. If a row of Y sums to less than 1, the
            rest stays unmatched. It counts in the loss and in the gradient of unmatched_cost.
        gamma: of the quadratic layer, as for `quadratic_matching`; 0.05 if None. Differentiable. With other layers it must be
            None.
        epsilon: of the entropic layer, as for `entropic_matching`; 0.05 if None. Differentiable. With other layers it must be
            None.
        unmatched_proposal_cost: of the entropic layer, as for `entropic_matching`; with the others it must be None. If a
            column of Y sums to less than 1, the rest is the share of the proposal that stays unmatched.
        margin: :math:`\mu`, in units of the cost.
        reduction: ``"mean"`` over the problems of the batch, their ``"sum"``, or ``"none"``.

    Returns:
        A tensor of no dimensions, or (...) with ``reduction="none"``; the dtype of the cost. The mean of no problems is 0.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: as `exact_matching` does of costs; a target that is no assignment of the templates and proposals that are
            there, or has a pair that is forbidden; an unknown regularizer or reduction.
        NotImplementedError: third derivatives, with the entropic regularizer.

    Forward mode is there. Second derivatives are those of the layer; without regularizer they are 0.

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
    for name, option, owner in (
        ("gamma", gamma, "quadratic"),
        ("epsilon", epsilon, "entropic"),
        ("unmatched_proposal_cost", unmatched_proposal_cost, "entropic"),
    ):
        if option is not None and regularizer != owner:
            raise ValueError(
                f"{name} must be None but with the regularizer {owner!r}, whose layer alone has one; got regularizer "
                f"{regularizer!r}"
            )
    gamma, epsilon = (0.05 if weight is None else weight for weight in (gamma, epsilon))
    check_gamma(gamma)
    check_epsilon(epsilon)
    check_unmatched_cost(unmatched_proposal_cost, "unmatched_proposal_cost")
    check_number("margin", margin)
    problems = prepare("cost", cost, template_mask, proposal_mask, unmatched_cost)
    check_fits("margin", margin, problems.cost.dtype)
    Y = _target(target, problems)
    if regularizer == "entropic":
        losses = _entropic(problems, proposals_of(problems, proposal_mask), Y, epsilon, unmatched_proposal_cost, margin)
    else:
        C = problems.cost + margin * Y if margin else problems.cost
        X, weight = _match(problems, C, regularizer, gamma)
        losses = _FenchelYoung.apply(C, weight, X, Y, regularizer)
    losses = problems.batched(losses)
    if reduction != "none":  # before the dtype of the cost: float16 holds the mean where it does not hold the sum
        losses = losses.sum() / (max(losses.numel(), 1) if reduction == "mean" else 1)
    return losses.to(problems.dtype)


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


def _match(problems: Problems, C: Tensor, regularizer: Regularizer, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """X (B, n, m) of the quadratic or the exact layer, and the weight of the regularizer, (B,)."""
    weight = weigh_squares(problems, gamma)
    templates, slack = problems.templates, problems.slack
    if regularizer == "none":
        columns = assign(C.detach(), templates, slack, "cost")
        return matrix(columns, templates, C.shape[-1], slack, C.dtype), weight
    start = C.new_zeros(C.shape[0], C.shape[2], dtype=torch.float64)
    return QuadraticFunction.apply(C, weight, templates, start, slack, 1e-9, 500, "cost")[0], weight


def _entropic(
    problems: Problems,
    proposals: Tensor,
    Y: Tensor,
    epsilon: float | Tensor,
    unmatched_proposal_cost: float | Tensor | None,
    margin: float,
) -> Tensor:
    """The losses of the entropic layer, (B,)."""
    slack, births = problems.slack, unmatched_proposal_cost is not None
    C, weight = add_births(problems, proposals, unmatched_proposal_cost), weigh_entropy(problems, epsilon)
    if births:
        Y = _add_unmatched_proposals(Y, proposals, slack)
    C = C + margin * Y if margin else C
    start = C.new_empty(C.shape[0], 0, dtype=torch.float64)
    X = EntropicFunction.apply(C, weight, problems.templates, proposals, start, slack, births, 1e-9, 1000)[0]
    return _FenchelYoung.apply(C, weight, X, Y, "entropic")


def _add_unmatched_proposals(Y: Tensor, proposals: Tensor, slack: bool) -> Tensor:
    """Y with the row of `add_births`: what columns lack to 1; and where the dustbins meet, what has been matched."""
    matched = Y[..., : proposals.shape[1]]
    row = (proposals.to(Y.dtype) - matched.sum(1)).clamp(min=0)
    if slack:
        row = torch.cat((row, matched.sum((1, 2)).unsqueeze(1)), 1)
    return torch.cat((Y, row.unsqueeze(1)), 1)


def _regularization(X: Tensor, regularizer: Regularizer) -> Tensor:
    """Omega of the matrices X, without its weight, (B,)."""
    if regularizer == "quadratic":
        return 0.5 * X.square().sum((1, 2))
    if regularizer == "entropic":
        return torch.where(X > 0, X * (torch.where(X > 0, X, 1).log() - 1), 0).sum((1, 2))
    return X.new_zeros(len(X))


def _more_regularized(Y: Tensor, X: Tensor, regularizer: Regularizer) -> Tensor:
    """Omega(Y) - Omega(X), (B,)."""
    return _regularization(Y, regularizer) - _regularization(X, regularizer)


@forward_mode
class _FenchelYoung(torch.autograd.Function):
    """(C, weight, X, Y) -> <C, Y - X> + weight (Omega(Y) - Omega(X)) for each problem.

    X minimises what is subtracted. So first derivatives are those with X held: Y - X in C, and the difference of Omega in the
    weight. X has derivatives of its own, which are the second ones.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(C: Tensor, weight: Tensor, X: Tensor, Y: Tensor, regularizer: Regularizer) -> Tensor:
        rest = weight * _more_regularized(Y, X, regularizer)
        return ((finite(C) * (Y - X)).sum((1, 2)) + rest).clamp(min=0)  # below 0 by rounding

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, X, Y, ctx.regularizer = inputs
        ctx.save_for_backward(weight, X, Y)
        ctx.save_for_forward(weight, X, Y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, X, Y = ctx.saved_tensors
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = (grad * _more_regularized(Y, X, ctx.regularizer)).to(weight.dtype)
        return grad[:, None, None] * (Y - X), by_weight, None, None, None

    @staticmethod
    def jvp(ctx: Any, C: Tensor | None, weight: Tensor | None, *unused: Any) -> Tensor:
        _, X, Y = ctx.saved_tensors
        tangent = torch.zeros_like(X).sum((1, 2)) if C is None else (finite(C) * (Y - X)).sum((1, 2))
        if weight is not None:
            tangent = tangent + weight * _more_regularized(Y, X, ctx.regularizer)
        return tangent
