"""Which kernels there are on this machine, and the threads that the CPU ones run on."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch

from difflayers._numba import STOP

# Below this many floating-point operations a call is done before a second thread would have woken up.
_OPERATIONS_WORTH_A_THREAD = 1e7
# Above this many (about 0.1 s) even a single thread is another one, so that this one hears Ctrl-C.
_OPERATIONS_WORTH_AN_INTERRUPT = 1e9

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    """After a fork the child has none of its parent's threads."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_threads(
    kernel: Callable[..., None], inputs: Sequence[Any], outputs: Sequence[np.ndarray], operations: float
) -> None:
    """kernel(*inputs, ticket, *outputs) on torch.get_num_threads() threads, which draw samples from one ticket counter.

    The kernel releases the GIL. Single-threaded for small work. Ctrl-C is heard while the kernel runs: it stops at the latest
    after the samples in work, and sooner if it asks `_numba.stopped(ticket)` between its sweeps.
    """
    global _pool
    batch = len(outputs[0])
    ticket = np.zeros(1, np.int64)
    threads = max(1, min(torch.get_num_threads(), batch))
    small = _OPERATIONS_WORTH_AN_INTERRUPT if threads <= 1 else _OPERATIONS_WORTH_A_THREAD
    if batch == 0 or operations < small:
        kernel(*inputs, ticket, *outputs)
        return
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="difflayers")
        running = [_pool.submit(kernel, *inputs, ticket, *outputs) for _ in range(threads)]
    try:
        wait(running)
    finally:
        ticket[0] = STOP
        wait(running)
    for task in running:
        task.result()


class Backend(NamedTuple):
    """One kind of kernels: its name, whether it can be used here, and what it is or why it cannot."""

    name: str
    available: bool
    detail: str


class Backends(tuple[Backend, ...]):
    """The rows of `backends()`; prints as a table."""

    def __str__(self) -> str:
        rows = [("backend", "available", "detail"), *((b.name, "yes" if b.available else "no", b.detail) for b in self)]
        widths = [max(len(row[c]) for row in rows) for c in range(2)]
        return "\n".join(f"{name:{widths[0]}}  {there:{widths[1]}}  {detail}" for name, there, detail in rows)


def backends() -> Backends:
    """Which kernels this installation can run, and why one cannot.

    Returns:
        A tuple of `Backend(name, available, detail)`, one for each kind of kernels; ``print`` shows it as a table.

    Example:
        >>> import difflayers
        >>> difflayers.backends()[0].name
        'cpu'
    """
    import numba

    from difflayers import _cuda
    from difflayers.satnet import tiles

    cpu = f"numba {numba.__version__}, {tiles.VECTOR_BYTES * 8}-bit vectors, {torch.get_num_threads()} threads"
    reason = _cuda.why_not()
    return Backends((Backend("cpu", True, cpu), Backend("cuda", reason is None, reason or _cuda.describe())))
