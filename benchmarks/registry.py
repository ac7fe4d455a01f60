"""The registry of cases, and what every case needs: repeated timing, the speed of torch.mm, peak memory."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import torch

Row = dict[str, Any]
Case = Callable[[], Iterator[Row]]

CASES: dict[str, Case] = {}
ON_GPU: set[str] = set()  # the names of those that need a CUDA device


def case(name: str, *, gpu: bool = False) -> Callable[[Case], Case]:
    """Register a case under a name; its docstring says what it shows. `gpu`: it needs a CUDA device."""

    def register(function: Case) -> Case:
        if name in CASES:
            raise ValueError(f"name must be new; got {name!r} again")
        CASES[name] = function
        if gpu:
            ON_GPU.add(name)
        return function

    return register


def machine() -> Row:
    """What a row was measured on."""
    try:
        with open("/proc/cpuinfo") as info:
            cpu = next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def seconds(function: Callable[[], Any], *, repeats: int = 7) -> tuple[float, float]:
    """Median and half the range of the middle half of `repeats` wall-clock times, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    times.sort()
    middle = times[repeats // 4 : repeats - repeats // 4]
    return times[repeats // 2], (middle[-1] - middle[0]) / 2


def mm_gflops(dtype: torch.dtype = torch.float32, size: int = 1536) -> float:
    """GFLOP/s of torch.mm on square matrices that fill all threads, in this process."""
    a, b = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    return 2e-9 * size**3 / seconds(lambda: a @ b)[0]


def run_alone(code: str) -> str:
    """What a fresh Python process prints on the given code: for peak memory and first calls."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
