"""Matching on CUDA: what is checked of a batch, and the memory of its results, around the kernels of `cuda_ext`."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers import _cuda
from difflayers.matching.cpu import bits_shape, check_problems, check_range


class Geometry(NamedTuple):
    """How a kernel is compiled and launched for problems of one size."""

    warps: int
    bytes: int  # of a problem's numbers
    in_shared: bool
    shared: int  # bytes of shared memory

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def program(self, file: str, dtype: torch.dtype) -> _cuda.Program:
        return _cuda.program(file, dtype, WARPS=self.warps, IN_SHARED=int(self.in_shared))


def dmm_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 16, and none without rows."""
    warps = 1
    while warps < 16 and 1024 * warps < n * m and 8 * warps <= n:
        warps *= 2
    rows, pitch = -(-n // (4 * warps)) * 4 * warps, -(-m // 32) * 32  # Arrays in dykstra.cu
    numbers = 3 * rows * pitch + (3 + warps) * pitch + 3 * rows
    return _geometry(warps, dtype.itemsize * numbers + 4 * pitch, limit)


def projection_geometry(n: int, m: int, dtype: torch.dtype, limit: int) -> Geometry:
    """One warp for each 1,024 pairs, up to 8; the numbers are float64."""
    warps = 1
    while warps < 8 and 1024 * warps < n * m:
        warps *= 2
    numbers = 3 * n * m + n * n + 5 * n + 2 * m
    return _geometry(warps, 8 * numbers + 4 * (n + m), limit, counts=16)


def _geometry(warps: int, size: int, limit: int, *, counts: int = 0) -> Geometry:
    size, sums = (size + 15) // 16 * 16, 16 * ((warps + 1) // 2) + counts
    in_shared = sums + size <= limit
    return Geometry(warps, size, in_shared, sums + size if in_shared else sums)


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
    _check("cost", cost, templates, slack)
    if not _cuda.capturing(cost):
        check_range(cost, step_size)
    (B, n, m), rounds = cost.shape, n_grad * n_proj if keep else 0
    X = torch.empty_like(cost)
    bits = cost.new_empty(bits_shape(cost.shape, rounds), dtype=torch.uint8)
    if cost.numel():
        launch = _Launch(cost, "dykstra.cu", "dmm", dmm_geometry)
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
        launch = _Launch(cost, "dykstra.cu", "dmm_adjoint", dmm_geometry)
        options = (n_grad, n_proj, average, slack, launch.geometry.bytes, float(step_size))
        launch(cost, bits, grad, launch.workspace, out, B, n, m, *options)
    return out


def projection(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`op.projection`: the Euclidean projection of a batch onto the assignment polytope. Values are checked, as above."""
    A, templates = A.detach().contiguous(), templates.contiguous()
    _check(name, -A, templates, slack)
    (B, n, m), X = A.shape, torch.empty_like(A)
    beta, residuals = A.new_empty(B, m, dtype=torch.float64), A.new_zeros(B, dtype=torch.float64)
    steps = A.new_zeros(B, dtype=torch.int64)
    if A.numel():
        launch = _Launch(A, "newton.cu", "projection", projection_geometry)
        ticket = A.new_zeros(1, dtype=torch.int32)
        options = (slack, min(max_iter, 2**31 - 1), launch.geometry.bytes, float(tolerance))
        launch(A, templates, ticket, launch.workspace, X, beta, steps, residuals, B, n, m, *options)
    return X, beta, steps, residuals


def projection_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    """`op.projection_adjoint`: the projection's generalised Jacobian times grad."""
    X, beta, grad = (t.detach().contiguous() for t in (X, beta, grad))
    (B, n, m), out = X.shape, torch.empty_like(grad)
    if X.numel():
        launch = _Launch(X, "newton.cu", "projection_adjoint", projection_geometry)
        launch(X, beta, grad, launch.workspace, out, B, n, m, launch.geometry.bytes)
    return out


class _Launch:
    """One kernel for a batch of problems, and the memory that its blocks work in."""

    def __init__(
        self, problems: Tensor, file: str, kernel: str, geometry: Callable[[int, int, torch.dtype, int], Geometry]
    ) -> None:
        B, n, m = problems.shape
        self.device, self.kernel = _cuda.device_of(problems), kernel
        self.geometry = geometry(n, m, problems.dtype, self.device.shared_memory)
        if self.geometry.bytes >= 2**31:  # 32-bit offsets
            raise ValueError(
                f"a problem must need less than 2 GiB to be solved on CUDA; got {n} x {m}, which needs "
                f"{self.geometry.bytes / 2**30:.1f}"
            )
        self.program = self.geometry.program(file, problems.dtype)
        resident = self.device.resident(self.program, kernel, self.geometry.threads, self.geometry.shared)
        self.grid = min(B, resident)
        in_global = 0 if self.geometry.in_shared else self.grid * self.geometry.bytes
        self.workspace = problems.new_empty(in_global, dtype=torch.uint8)

    def __call__(self, *args: object) -> None:
        self.device.launch(self.program, self.kernel, self.grid, self.geometry.threads, self.geometry.shared, args)


def _check(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """`cpu.check_problems`: on the device where counting decides, which it does but for few pairs, else on the CPU."""
    if not _cuda.capturing(cost) and not bool(_surely_solvable(cost, templates, slack)):
        check_problems(name, cost.cpu(), templates.cpu(), slack)


def _surely_solvable(cost: Tensor, templates: Tensor, slack: bool) -> Tensor:
    """Whether all costs are allowed values, and each template allows as many proposals as there are templates."""
    fine = ((cost[..., :-1] if slack else cost) > -torch.inf).all()  # false for NaN, too
    if slack:
        return fine & (cost[..., -1].isfinite() | ~templates).all()
    choices, count = (cost < torch.inf).sum(2), templates.sum(1)
    return fine & ((choices >= count.unsqueeze(1)) | ~templates).all()
