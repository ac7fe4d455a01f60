"""SATNet on CUDA: what a batch shares (scaling, C = S S', memory) around the kernels of `cuda_ext/mixing.cu`."""

from typing import NamedTuple

import torch
from torch import Tensor

from difflayers import _cuda
from difflayers.satnet.cpu import check_matrix, check_unit, outside_unit, residual_tolerance, scaling
from difflayers.satnet.oracle import MOMENTUM

_WARPS = {torch.float32: (16, 8, 4, 2), torch.float64: (8, 4, 2)}


class Geometry(NamedTuple):
    """How the kernels are compiled and launched for one size of vectors."""

    columns: int  # k, padded to whole strips
    tile: int  # coordinates whose pull is worked out together
    warps: int
    base: int  # bytes of shared memory without the vectors
    capacity: int  # of a sample's vectors, how many there is room for
    shared: int  # bytes of shared memory

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def program(self, dtype: torch.dtype) -> _cuda.Program:
        return _cuda.program("mixing.cu", dtype, WARPS=self.warps, TILE=self.tile, COLUMNS=self.columns)


def geometry(N: int, k: int, dtype: torch.dtype, limit: int) -> Geometry:
    """The most warps that leave room for all N vectors in `limit` bytes of shared memory; else the most there can be, and
    room for the vectors of samples with fewer free coordinates, unless that is less than half of N: caches then have it.

    The numbers of a tile that one lane has, tile x columns / 32, must fit in its registers. The tile is smaller than that
    where shared memory has no room for it.
    """
    strips = (k + 63) // 64
    columns = strips * 16 * ((k + 16 * strips - 1) // (16 * strips))
    parts = (columns + 31) // 32
    for tile in (32, 16, 8):
        if tile * parts > 64 and tile > 8:
            continue
        found = None
        for warps in _WARPS[dtype]:
            numbers = warps * tile * columns // strips + 3 * tile * columns + tile * tile  # Room in mixing.cu
            base = 8 * (warps + 2) + 16 + dtype.itemsize * numbers
            capacity = min(N, (limit - base) // (dtype.itemsize * columns))
            if capacity == N or (capacity >= 0 and found is None):
                capacity = capacity if 2 * capacity >= N else 0
                found = Geometry(columns, tile, warps, base, capacity, base + dtype.itemsize * columns * capacity)
            if capacity == N:
                break
        if found is not None:
            return found
    raise ValueError(f"k must leave a block room in {limit} bytes of shared memory on this device; got {k}")


def mixing(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, max_iter: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.mixing`: the forward pass of a batch. Values are checked, which waits for the device, but in a CUDA graph."""
    S, z, given, start = (t.detach().contiguous() for t in (S, z, given, start))
    if not _cuda.capturing(S) and not bool(S.isfinite().all() & ~outside_unit(z).any()):
        check_matrix(S)
        check_unit(z)
    (N, _), (B, n), k = S.shape, z.shape, start.shape[1]
    out, V, norms = torch.empty_like(z), S.new_empty(B, N, k), S.new_empty(B, N)
    sweeps, decreases = S.new_empty(B, dtype=torch.int64), S.new_empty(B, dtype=torch.float64)
    if B:
        launch = _Launch(S / scaling(S), k, "mixing", B, copies=3)
        inputs = (launch.C, start, z, given, launch.ticket, launch.workspace, launch.lists)
        sizes = (B, N, n, k, launch.rows, launch.geometry.capacity, min(max_iter, 2**31 - 1))
        launch(*inputs, out, V, norms, sweeps, decreases, *sizes, float(eps), MOMENTUM)
    return out, V, norms, sweeps, decreases


def adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, grad: Tensor, prox_lam: float, max_iter: int, eps: float
) -> Tensor:
    """`op.adjoint`: the linear system of the backward pass, for a batch."""
    return solve_adjoint(S, V, norms, given, grad, prox_lam, max_iter, residual_tolerance(eps))[0]


def solve_adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, grad: Tensor, prox_lam: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """As `cpu.solve_adjoint`: U (B, N, k), times scaling(S)^2, and the iterations it took, (B,)."""
    S, V, norms, given, grad = (t.detach().contiguous() for t in (S, V, norms, given, grad))
    (B, N, k), n, unit = V.shape, given.shape[1], scaling(S)
    U, iterations = torch.empty_like(V), S.new_empty(B, dtype=torch.int64)
    if B:
        launch = _Launch(S / unit, k, "adjoint", B, copies=7)
        inputs = (launch.C, unit, V, norms, given, grad, launch.ticket, launch.workspace, launch.lists)
        sizes = (B, N, n, k, launch.rows, launch.geometry.capacity, min(max_iter, 2**31 - 1))
        launch(*inputs, U, iterations, *sizes, float(prox_lam), float(tolerance))
    return U, iterations


class _Launch:
    """C = S S' and the memory that the blocks of one kernel work in."""

    def __init__(self, S: Tensor, k: int, kernel: str, batch: int, *, copies: int) -> None:
        N, m = S.shape
        self.device, self.kernel = _cuda.device_of(S), kernel
        self.geometry = geometry(N, k, S.dtype, self.device.shared_memory)
        self.program = self.geometry.program(S.dtype)
        threads, shared = self.geometry.threads, self.geometry.shared
        self.grid = min(batch, self.device.resident(self.program, kernel, threads, shared))
        self.rows = (N + 3) // 4 * 4
        if self.rows * self.geometry.columns >= 2**31:
            raise ValueError(f"S has too many rows for the CUDA kernels at k = {k}; got {N}")
        self.workspace = S.new_empty(self.grid, (copies * self.geometry.columns + 1) * self.rows)
        self.lists = S.new_empty(self.grid, 2 * N, dtype=torch.int32)
        self.ticket = S.new_zeros(1, dtype=torch.int32)
        self.C = S.new_empty(N, N)
        squares = (N + 31) // 32
        tiles = 2 * 32 * 33 * S.element_size()
        self.device.launch(self.program, "gram", squares**2, threads, tiles, (S, self.C, N, m))

    def __call__(self, *args: object) -> None:
        self.device.launch(self.program, self.kernel, self.grid, self.geometry.threads, self.geometry.shared, args)
