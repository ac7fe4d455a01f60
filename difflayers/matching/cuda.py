"""What the launches of all matching methods share: how a kernel is compiled for problems of one size, and its memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers import _cuda


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


def geometry(warps: int, size: int, limit: int, *, counts: int = 0) -> Geometry:
    """Of a block of `warps` whose problem takes `size` bytes, and beside them the sums of its warps and `counts` bytes."""
    size, sums = (size + 15) // 16 * 16, 16 * ((warps + 1) // 2) + counts
    in_shared = sums + size <= limit
    return Geometry(warps, size, in_shared, sums + size if in_shared else sums)


class Launch:
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
