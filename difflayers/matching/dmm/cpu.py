"""DMM matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching.dmm import kernels
from difflayers.matching.dmm.common import bits_shape, check_range
from difflayers.matching.problems import check_problems


def dmm(
    cost: Tensor,
    templates: Tensor,
    n_grad: int,
    n_proj: int,
    step_size: float,
    average: bool,
    slack: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """`op.dmm`: the unrolled solver for a batch."""
    cost, templates = cost.detach().contiguous(), templates.contiguous()
    check_problems("cost", cost, templates, slack)
    check_range(cost, step_size)
    X = torch.empty_like(cost)
    bits = torch.empty(bits_shape(cost.shape, n_grad * n_proj if keep else 0), dtype=torch.uint8)
    operations = 4.0 * n_grad * n_proj * cost.numel()
    inputs = [cost.numpy(), n_grad, n_proj, step_size, average, slack]
    run_threads(kernels.dmm, inputs, [X.numpy(), bits.numpy()], operations)
    return X, bits


def dmm_adjoint(
    cost: Tensor, bits: Tensor, grad: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool, slack: bool
) -> Tensor:
    """`op.dmm_adjoint`: the gradient of the unrolled solver for a batch."""
    cost, bits, grad = (t.detach().contiguous() for t in (cost, bits, grad))
    out = torch.empty_like(cost)
    inputs = [cost.numpy(), bits.numpy(), grad.numpy(), n_grad, n_proj, step_size, average, slack]
    run_threads(kernels.dmm_adjoint, inputs, [out.numpy()], 4.0 * n_grad * n_proj * cost.numel())
    return out


def dmm_tangent(
    cost: Tensor,
    bits: Tensor,
    direction: Tensor,
    n_grad: int,
    n_proj: int,
    step_size: float,
    average: bool,
    slack: bool,
) -> Tensor:
    """`op.dmm_tangent`: the derivative of the unrolled solver along a direction of the cost."""
    cost, bits, direction = (t.detach().contiguous() for t in (cost, bits, direction))
    out = torch.empty_like(cost)
    inputs = [cost.numpy(), bits.numpy(), direction.numpy(), n_grad, n_proj, step_size, average, slack]
    run_threads(kernels.dmm_tangent, inputs, [out.numpy()], 4.0 * n_grad * n_proj * cost.numel())
    return out
