"""The loss to train a SATNet layer by."""

from typing import Literal, get_args

import torch
from torch import Tensor

from difflayers._checks import check_mask, check_number, check_same_device, check_tensor
from difflayers._values import in_range

Reduction = Literal["mean", "sum", "none"]


def satnet_loss(
    probabilities: Tensor,
    target: Tensor,
    is_input: Tensor | None = None,
    *,
    smoothing: float = 0.01,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The cross entropy of the outputs of a SATNet layer. Its gradients are bounded and do not vanish.

    With z the output and t the target of a variable that was not given,

    .. math:: q = \sigma + (1 - 2 \sigma) z, \qquad L = -t \log q - (1 - t) \log (1 - q).

    The size of its derivative in z is at most :math:`(1 - 2 \sigma) / \sigma`, 98 by default. A plain cross entropy has no such
    bound. Fresh layers without auxiliary variables return many outputs near 0 and 1, and wrong ones have gradients of 1e4 and
    more, which hide all others. If the outputs are clamped, there is a bound, but the worst outputs get no gradient at all. At
    an output of exactly 0 or 1 the vector behind z has no direction to turn to, and the layer itself passes no gradient on.

    Args:
        probabilities: (..., n), float32 or float64, in [0, 1]: what `satnet` or a `SATNet` layer returned.
        target: (..., n), the same shape: right values, bool, integer or floating, in [0, 1]. For given variables it may be
            anything in that range.
        is_input: (..., n), bool or integer, nonzero where the variable was given: those have no loss. None: all have one.
        smoothing: :math:`\sigma`, at least 1e-6 and below 1/2: how far from 0 and 1 the probabilities in the logarithms stay.
        reduction: ``"mean"`` over the variables that were not given, their ``"sum"``, or ``"none"``.

    Returns:
        A tensor of no dimensions, or (..., n) with ``reduction="none"``, 0 where given. The mean of no variables is 0. A
        perfect output has a loss of :math:`-\log (1 - \sigma)`, about 0.01.

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes that differ, values outside [0, 1] or NaN, smoothing out of range, an unknown reduction.

    Example:
        >>> import torch
        >>> from difflayers import SATNet, functional
        >>> layer = SATNet(n=3, m=8)
        >>> bits = torch.tensor([[1.0, 0.0, 1.0]])
        >>> is_input = torch.tensor([[True, True, False]])
        >>> functional.satnet_loss(layer(bits, is_input), bits, is_input).backward()
        >>> layer.S.grad.isfinite().all()
        tensor(True)
    """
    check_tensor("probabilities", probabilities)
    check_tensor("target", target, None)
    if target.dtype.is_complex:
        raise TypeError(f"target must be bool, integer or floating; got {target.dtype}")
    for name, other in (("target", target), ("is_input", is_input)):
        if other is None:
            continue
        if name == "is_input":
            check_mask(name, other)
        check_same_device(name, other, "probabilities", probabilities.device)
        if other.shape != probabilities.shape:
            shape = tuple(probabilities.shape)
            raise ValueError(f"{name} must have the shape of probabilities, {shape}; got {tuple(other.shape)}")
    check_number("smoothing", smoothing, positive=True)
    if not 1e-6 <= smoothing < 0.5:
        raise ValueError(f"smoothing must be at least 1e-6 and below 1/2; got {smoothing!r}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(map(repr, get_args(Reduction)))}; got {reduction!r}")
    target = target.to(probabilities.dtype)
    slack = 8 * torch.finfo(probabilities.dtype).eps
    z = probabilities + in_range("probabilities", probabilities, -slack, 1 + slack)
    t = target + in_range("target", target, 0, 1)
    q = smoothing + (1 - 2 * smoothing) * z
    losses = -(t * torch.log(q) + (1 - t) * torch.log(smoothing + (1 - 2 * smoothing) * (1 - z)))
    free = torch.ones_like(losses, dtype=torch.bool) if is_input is None else is_input == 0
    losses = torch.where(free, losses, 0)
    if reduction == "none":
        return losses
    return losses.sum() / free.sum().clamp(min=1) if reduction == "mean" else losses.sum()
