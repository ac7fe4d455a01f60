"""SATNet on CUDA: what a batch shares (scaling, C = S S', memory; `cuda_ext/gram.cu`) around the kernels of `satnet.cu`."""

from typing import NamedTuple

import torch
from torch import Tensor

from difflayers import _cuda
from difflayers.satnet.common import (
    MOMENTUM,
    UNIT_SLACK,
    check_matrix,
    check_start,
    check_unit,
    far_from_unit_length,
    residual_tolerance,
)

_DEPTH = 8  # of satnet.cu
_GRAM_WARPS = 8
_WARPS: tuple[int, ...] = (8, 4, 2)


class Geometry(NamedTuple):
    """How the kernels are compiled and launched for one size of vectors."""

    columns: int  # k, padded to whole strips
    tile: int  # coordinates whose pull is worked out together
    warps: int
    base: int  # bytes of shared memory without the vectors
    capacity: int  # of a sample's vectors, padded, how many there is room for
    shared: int  # bytes of shared memory
    tensor: bool  # whether tensor cores multiply

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def program(self, dtype: torch.dtype) -> _cuda.Program:
        sizes = {"WARPS": self.warps, "TILE": self.tile, "COLUMNS": self.columns}
        return _cuda.program("satnet.cu", dtype, TENSOR=int(self.tensor), **sizes)


def _padded(rows: int) -> int:
    return (rows + _DEPTH - 1) // _DEPTH * _DEPTH


def geometry(N: int, k: int, dtype: torch.dtype, limit: int, capability: tuple[int, int]) -> Geometry:
    """The most warps that leave room for all N vectors in `limit` bytes of shared memory; else the most there can be, and
    room for the vectors of samples with fewer free coordinates, unless that is less than half of N: caches then have it.

    The numbers of a tile that one lane has, tile x columns / 32, must fit in its registers. The tile is smaller than that
    where shared memory has no room for it. Tensor cores multiply float32 where there are any that take TF32, tiles are whole
    ones of theirs, and few of their columns would be padding.
    """
    strips, rows = (k + 63) // 64, _padded(N)
    for tile in (32, 16, 8):
        tensor = dtype == torch.float32 and capability >= (8, 0) and k > 16 and tile >= 16
        unit = strips * (32 if tensor else 16)
        columns = unit * ((k + unit - 1) // unit)
        if tile * ((columns + 31) // 32) > 64 and tile > 8:
            continue
        found = None
        for warps in _WARPS:
            parts = max(2, (warps - 1) // strips)
            numbers = tile * (parts * columns + 5 * columns + 3 * tile + 2)  # Room in satnet.cu
            base = 16 * ((warps + 1) // 2) + 16 + dtype.itemsize * numbers
            capacity = min(rows, (limit - base) // (dtype.itemsize * columns) // _DEPTH * _DEPTH)
            if capacity == rows or (capacity >= 0 and found is None):
                capacity = capacity if 2 * capacity >= N else 0
                shared = base + dtype.itemsize * columns * capacity
                found = Geometry(columns, tile, warps, base, capacity, shared, tensor)
            if capacity == rows:
                break
        if found is not None:
            return found
    raise ValueError(f"k must leave a block room in {limit} bytes of shared memory on this device; got {k}")


def mixing(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, max_iter: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`op.mixing`: the forward pass of a batch. Values are checked, which waits for the device, but in a CUDA graph."""
    S, z, given, start = (t.detach().contiguous() for t in (S, z, given, start))
    (N, _), (B, n), k = S.shape, z.shape, start.shape[-1]
    out, V, norms = torch.empty_like(z), S.new_empty(B, N, k), S.new_empty(B, N)
    sweeps, decreases = S.new_empty(B, dtype=torch.int64), S.new_empty(B, dtype=torch.float64)
    if not B:
        check_matrix(S)
        check_start(start)
        return out, V, norms, sweeps, decreases
    launch = _Launch(S, k, "mixing", B, z=z, copies=3)
    launch.state[1:2].logical_or_(far_from_unit_length(start).any())
    if not _cuda.capturing(S) and launch.wrong():
        check_matrix(S)
        check_unit(z)
        check_start(start)
    inputs = (launch.C, start, z, given, launch.state, launch.workspace, launch.lists)
    own = N if start.numel() > N * k else 0
    sizes = (B, N, n, k, own, launch.rows, launch.geometry.capacity, min(max_iter, 2**31 - 1))
    launch(*inputs, out, V, norms, sweeps, decreases, *sizes, float(eps), MOMENTUM)
    return out, V, norms, sweeps, decreases


def adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, pull: Tensor, prox_lam: float, max_iter: int, eps: float
) -> Tensor:
    """`op.adjoint`: the linear system of all derivatives, for a batch."""
    return solve_adjoint(S, V, norms, given, pull, prox_lam, max_iter, residual_tolerance(eps, S.dtype))[0]


def solve_adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, pull: Tensor, prox_lam: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """As `cpu.solve_adjoint`: U (B, N, k), times scaling(S)^2, and the iterations it took, (B,)."""
    S, V, norms, given, pull = (t.detach().contiguous() for t in (S, V, norms, given, pull))
    (B, N, k), n = V.shape, given.shape[1]
    U, iterations = torch.empty_like(V), S.new_empty(B, dtype=torch.int64)
    if B:
        launch = _Launch(S, k, "adjoint", B, copies=7)
        inputs = (launch.C, V, norms, given, pull, launch.state, launch.workspace, launch.lists)
        sizes = (B, N, n, k, launch.rows, launch.geometry.capacity, min(max_iter, 2**31 - 1))
        launch(*inputs, U, iterations, *sizes, float(prox_lam), float(tolerance))
    return U, iterations


class _Launch:
    """What the blocks of one kernel share: C = S S' for S divided by its scaling, and the memory that they work in."""

    def __init__(self, S: Tensor, k: int, kernel: str, batch: int, *, copies: int, z: Tensor | None = None) -> None:
        N, m = S.shape
        self.device, self.kernel = _cuda.device_of(S), kernel
        self.geometry = geometry(N, k, S.dtype, self.device.shared_memory, self.device.capability)
        self.program = self.geometry.program(S.dtype)
        threads, shared = self.geometry.threads, self.geometry.shared
        self.grid = min(batch, self.device.resident(self.program, kernel, threads, shared))
        self.rows, z_size = _padded(N), 0 if z is None else z.numel()
        if self.rows * self.geometry.columns >= 2**31 or N * N * S.element_size() >= 2**32:  # offsets of 32 bits
            raise ValueError(f"S has too many rows for the CUDA kernels at k = {k}; got {N}")
        if max(S.numel(), z_size) >= 2**31:
            raise ValueError(f"S and z must have fewer than 2**31 entries on CUDA; got {S.numel()} and {z_size}")
        self.workspace = S.new_empty(self.grid, (copies * self.geometry.columns + 1) * self.rows)
        self.lists = S.new_empty(self.grid, 2 * N, dtype=torch.int32)
        self.state, self.C = S.new_zeros(3, dtype=torch.int64), S.new_empty(N, N)
        program, threads = _cuda.program("gram.cu", S.dtype, WARPS=_GRAM_WARPS), 32 * _GRAM_WARPS
        sizes = (S.numel(), z_size, UNIT_SLACK * torch.finfo(S.dtype).eps)
        blocks = min(2 * self.device.multiprocessors, (max(sizes[:2]) + threads - 1) // threads)
        entries = (S, S if z is None else z, self.state)
        self.device.launch(program, "survey", blocks, threads, 8 * _GRAM_WARPS, (*entries, *sizes))
        squares, tiles = (N + 63) // 64, 2 * 64 * 36 * S.element_size()
        self.device.launch(program, "gram", squares**2, threads, tiles, (S, self.state, self.C, N, m))

    def wrong(self) -> bool:
        """Whether S is not finite or z not in [0, 1]. Waits for the device."""
        return bool(self.state[1])

    def __call__(self, *args: object) -> None:
        self.device.launch(self.program, self.kernel, self.grid, self.geometry.threads, self.geometry.shared, args)
