"""DMM matching on CUDA: what is checked of a batch, and the memory of its results, around the kernels of `cuda_ext/dmm.cu`."""

import torch
from torch import Tensor

from difflayers import _cuda
from difflayers.matching.cuda import Geometry, Launch, geometry
from difflayers.matching.dmm.common import bits_shape, check_range
from difflayers.matching.problems import check_problems


def dmm_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 16, and none without rows."""
    warps = 1
    while warps < 16 and 1024 * warps < n * m and 8 * warps <= n:
        warps *= 2
    rows, pitch = -(-n // (4 * warps)) * 4 * warps, -(-m // 32) * 32  # Arrays in dmm.cu
    numbers = 3 * rows * pitch + (3 + warps) * pitch + 3 * rows
    return geometry(warps, dtype.itemsize * numbers + 4 * pitch, limit)


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
    """`op.dmm`: the unrolled solver for a batch. Values are checked, which waits for the device, but in a CUDA graph."""
    cost, templates = cost.detach().contiguous(), templates.contiguous()
    check_problems("cost", cost, templates, slack)
    if not _cuda.capturing(cost):
        check_range(cost, step_size)
    (B, n, m), rounds = cost.shape, n_grad * n_proj if keep else 0
    X = torch.empty_like(cost)
    bits = cost.new_empty(bits_shape(cost.shape, rounds), dtype=torch.uint8)
    if cost.numel():
        launch = Launch(cost, "dmm.cu", "dmm", dmm_geometry)
        options = (n_grad, n_proj, average, slack, keep, launch.geometry.bytes, float(step_size))
        launch(cost, launch.workspace, X, bits, B, n, m, *options)
    return X, bits


def dmm_adjoint(
    cost: Tensor, bits: Tensor, grad: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool, slack: bool
) -> Tensor:
    """`op.dmm_adjoint`: the gradient of the unrolled solver for a batch."""
    cost, bits, grad = (t.detach().contiguous() for t in (cost, bits, grad))
    (B, n, m), out = cost.shape, torch.empty_like(cost)
    if cost.numel():
        launch = Launch(cost, "dmm.cu", "dmm_adjoint", dmm_geometry)
        options = (n_grad, n_proj, average, slack, launch.geometry.bytes, float(step_size))
        launch(cost, bits, grad, launch.workspace, out, B, n, m, *options)
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
    (B, n, m), out = cost.shape, torch.empty_like(cost)
    if cost.numel():
        launch = Launch(cost, "dmm.cu", "dmm_tangent", dmm_geometry)
        options = (n_grad, n_proj, average, slack, launch.geometry.bytes, float(step_size))
        launch(cost, direction, launch.workspace, out, bits, B, n, m, *options)
    return out
