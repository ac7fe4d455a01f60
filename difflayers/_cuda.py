"""CUDA kernels: compiled by NVRTC at first use, kept on disk, loaded once for each device, launched on torch's stream.

A kernel is a function of a source in `difflayers/cuda_ext` compiled with macros (`Program`). Nothing here runs, and
`cuda.core` is not imported, before the first call on a CUDA tensor.
"""

import functools
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from difflayers._distribution import needs

INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


class Program(NamedTuple):
    """A source file and the macros that it is compiled with."""

    file: str
    macros: tuple[tuple[str, str], ...]

    def source(self) -> str:
        """The text to compile, headers included."""
        folder = importlib.resources.files("difflayers.cuda_ext")
        text = folder.joinpath(self.file).read_text(encoding="utf-8")
        return INCLUDE.sub(lambda match: folder.joinpath(match[1]).read_text(encoding="utf-8"), text)


def program(file: str, dtype: torch.dtype, **macros: int) -> Program:
    """A source for one dtype and the given sizes."""
    scalar = {torch.float32: "float", torch.float64: "double"}[dtype]
    return Program(file, (("SCALAR", scalar), *((name, str(value)) for name, value in macros.items())))


class Device(Protocol):
    """What the launches of a layer need of a device."""

    multiprocessors: int
    shared_memory: int
    """The most bytes of shared memory that a block can have."""
    capability: tuple[int, int]
    """The compute capability."""

    def resident(self, program: Program, kernel: str, threads: int, shared: int) -> int:
        """How many blocks of a kernel the device works on at a time."""

    def launch(self, program: Program, kernel: str, grid: int, threads: int, shared: int, args: Sequence[Any]) -> None:
        """Put a kernel on the current stream. Tensors go as pointers, int as int32, bool too, float as float64."""


def pack(args: Sequence[Any]) -> list[Any]:
    """Kernel arguments with the types that the sources give their parameters."""
    return [
        arg.data_ptr() if isinstance(arg, Tensor) else np.float64(arg) if isinstance(arg, float) else np.int32(arg)
        for arg in args
    ]


def compile_program(program: Program, arch: str, cache: Any = None) -> Any:
    """The `cuda.core.ObjectCode` of a program for an architecture ("sm_90"). Needs NVRTC, but no GPU and no driver."""
    core = _core()
    options = core.ProgramOptions(arch=arch, std="c++17", define_macro=list(program.macros))
    return core.Program(program.source(), "c++", options).compile("cubin", cache=cache)


def _compile_and_keep(program: Program, arch: str) -> Any:
    """`compile_program` with the user's cache, where that can be written."""
    from cuda.core.utils import FileStreamProgramCache

    try:
        cache = FileStreamProgramCache()
    except OSError:
        return compile_program(program, arch)
    with cache:
        return compile_program(program, arch, cache)


class _TorchDevice:
    """A CUDA device as torch numbers them."""

    def __init__(self, index: int) -> None:
        core = _core()
        self.index = index
        try:
            self._device = core.Device(index)
            properties = self._device.properties
            self.multiprocessors = int(properties.multiprocessor_count)
            self.shared_memory = int(properties.max_shared_memory_per_block_optin)
            major, minor = self._device.compute_capability
            self.capability, self.arch = (int(major), int(minor)), f"sm_{major}{minor}"
        except Exception as error:
            raise RuntimeError(
                f"the CUDA driver of this machine does not work with cuda.core {core.__version__} ({error}): install the "
                "NVIDIA driver that the CUDA version of torch needs"
            ) from error
        self._kernels: dict[tuple[Program, str], Any] = {}
        self._modules: dict[Program, Any] = {}
        self._resident: dict[tuple[Program, str, int, int], int] = {}

    def _kernel(self, program: Program, name: str) -> Any:
        """Compiled, or read from the disk, at first use. The calling thread's device is this one."""
        if (program, name) not in self._kernels:
            if program not in self._modules:
                self._modules[program] = _compile_and_keep(program, self.arch)
            kernel = self._modules[program].get_kernel(name)
            self._allow_shared_memory(kernel)
            self._kernels[program, name] = kernel
        return self._kernels[program, name]

    def _allow_shared_memory(self, kernel: Any) -> None:
        """More than 48 KB of shared memory have to be asked for."""
        from cuda.bindings import driver

        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle = driver.CUkernel(int(kernel.handle))
        (status,) = driver.cuKernelSetAttribute(attribute, self.shared_memory, handle, driver.CUdevice(self.index))
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver refused {self.shared_memory} bytes of shared memory: {status}")

    @contextmanager
    def _current(self) -> Iterator[None]:
        """torch's device guard; cuda.core is told, too."""
        with torch.cuda.device(self.index):
            self._device.set_current()
            yield

    def resident(self, program: Program, kernel: str, threads: int, shared: int) -> int:
        key = (program, kernel, threads, shared)
        if key not in self._resident:
            with self._current():
                blocks = self._kernel(program, kernel).occupancy.max_active_blocks_per_multiprocessor(threads, shared)
            self._resident[key] = max(1, int(blocks)) * self.multiprocessors
        return self._resident[key]

    def launch(self, program: Program, kernel: str, grid: int, threads: int, shared: int, args: Sequence[Any]) -> None:
        core = _core()
        with self._current():
            function = self._kernel(program, kernel)
            config = core.LaunchConfig(grid=grid, block=threads, shmem_size=shared)
            handle = torch.cuda.current_stream(self.index).cuda_stream
            stream = core.Stream.from_handle(handle) if handle else core.LEGACY_DEFAULT_STREAM
            core.launch(stream, config, function, *pack(args))


def _core() -> Any:
    """`cuda.core`, or one error that says what to install."""
    try:
        import cuda.core
    except ImportError as error:
        raise ImportError(f"{needs('a CUDA tensor', 'cuda.core')} ({error})") from error
    return cuda.core


@functools.cache
def _torch_device(index: int) -> _TorchDevice:
    return _TorchDevice(index)


def device_of(tensor: Tensor) -> Device:
    """The device of a CUDA tensor; loads what is needed to launch kernels there."""
    return _torch_device(tensor.device.index)


def capturing(tensor: Tensor) -> bool:
    """Whether the current stream records a CUDA graph, so that nothing can be read back from the device."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def why_not() -> str | None:
    """Why CUDA tensors cannot be worked on here, or None: torch without CUDA, no device, no `cuda.core`."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        _torch_device(torch.cuda.current_device())
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None


def describe() -> str:
    """The CUDA devices, and what compiles for them. Where `why_not` is None."""
    devices = ", ".join(
        f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))})"
        for i in range(torch.cuda.device_count())
    )
    return f"{devices}, kernels compiled at first use by NVRTC through cuda.core {_core().__version__}"
