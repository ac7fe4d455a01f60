"""CUDA kernels compiled as C++ for this machine: a `_cuda.Device` whose memory is the CPU's (see host.hpp)."""

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from difflayers import _cuda
from difflayers._cuda import Program

COMPILER = shutil.which("g++") or shutil.which("clang++")
SHIM = Path(__file__).with_name("host.hpp")
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\w+\) )?(\w+)\(([^)]*)\)')


def signatures(program: Program) -> dict[str, list[str]]:
    """Kernel names and the types of their parameters, as the source has them."""
    return {
        name: [" ".join(parameter.split()[:-1]) for parameter in parameters.split(",")]
        for name, parameters in KERNEL.findall(program.source())
    }


def wrapper(name: str, types: list[str]) -> str:
    """A C function that runs a kernel on all blocks of a grid."""
    parameters = ", ".join(f"{kind} a{i}" for i, kind in enumerate(types))
    values = ", ".join(f"a{i}" for i in range(len(types)))
    return (
        f'extern "C" int run_{name}(int grid, int threads, int shared, int order, {parameters}) '
        f"{{ return host::launch(grid, threads, shared, order, [=] {{ {name}({values}); }}); }}\n"
    )


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="difflayers-host-"))


@functools.cache
def compiled(program: Program) -> ctypes.CDLL:
    assert COMPILER is not None
    text = f'#include "{SHIM}"\n' + program.source()
    text += "".join(wrapper(name, types) for name, types in signatures(program).items())
    stem = folder() / hashlib.sha256(repr(program).encode()).hexdigest()[:16]
    stem.with_suffix(".cpp").write_text(text)
    macros = [f"-D{name}={value}" for name, value in program.macros]
    flags = ["-std=c++17", "-O0", "-fno-strict-aliasing", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE"]
    command = [COMPILER, *flags, *macros, str(stem.with_suffix(".cpp")), "-o", str(stem.with_suffix(".so"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(stem.with_suffix(".so")))


def as_c(value: Any, kind: str) -> Any:
    """A packed argument as its parameter's type. Fails where the two do not fit."""
    if kind.endswith("*"):
        assert isinstance(value, int), (value, kind)
        return ctypes.c_void_p(value)
    wanted, c_type = {"int": (np.int32, ctypes.c_int), "double": (np.float64, ctypes.c_double)}[kind]
    assert type(value) is wanted, (value, kind)
    return c_type(value.item())


ELEMENTS = {"int": 4, "bool": 1, "long long": 8, "double": 8, "unsigned char": 1}


class HostDevice:
    """Records launches and runs them at once. `order` turns around warps (1) and lanes (2) between barriers."""

    def __init__(self, *, shared_memory: int = 227 * 1024, multiprocessors: int = 2, order: int = 0) -> None:
        self.capability = (9, 0)
        self.multiprocessors, self.shared_memory, self.order = multiprocessors, shared_memory, order
        self.launches: list[tuple[Program, str, int, int, int]] = []

    def resident(self, program: Program, kernel: str, threads: int, shared: int) -> int:
        assert kernel in signatures(program)
        return self.multiprocessors

    def launch(self, program: Program, kernel: str, grid: int, threads: int, shared: int, args: Sequence[Any]) -> None:
        self.launches.append((program, kernel, grid, threads, shared))
        types, macros = signatures(program)[kernel], dict(program.macros)
        assert len(types) == len(args), f"{kernel} has {len(types)} parameters; got {len(args)} arguments"
        assert shared <= self.shared_memory and grid >= 1 and threads % 32 == 0 and threads <= 1024
        for arg, kind in zip(args, types, strict=True):
            assert isinstance(arg, Tensor) == kind.endswith("*"), (kernel, kind)
            if isinstance(arg, Tensor):
                pointee = kind.removesuffix("*").removeprefix("const ").strip()
                size = {"float": 4, "double": 8}[macros["SCALAR"]] if pointee == "T" else ELEMENTS[pointee]
                assert arg.element_size() == size and arg.is_contiguous(), (kernel, kind, arg.dtype)
        values = [as_c(value, kind) for value, kind in zip(_cuda.pack(args), types, strict=True)]
        status = getattr(compiled(program), f"run_{kernel}")(grid, threads, shared, self.order, *values)
        assert status == 0, {1: "threads of a warp wait at different barriers", 2: "shared memory overrun"}[status]
