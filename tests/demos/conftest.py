"""Fixtures of the demos' tests."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended_cuda import Cuda, pretended_cuda

from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.train import Trainer

ROOT = Path(__file__).parents[2]
SMALL = replace(PRESETS[2], givens=(7, 10), train=360, test=60, epochs=2, batch_size=10, lr=8e-3, seed=5)
"""The quick demo made quicker: enough to learn most of 4x4 Sudoku, with 36 batches an epoch."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on one thread, the quickest for boards this small; also undoes what ``--threads`` does to the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def small() -> TrainConfig:
    """The configuration of a small run."""
    return SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished small run; not to be written to."""
    output = tmp_path_factory.mktemp("runs") / "small"
    with one_thread():
        Trainer(SMALL, output, log=lambda _: None).fit()
    return output


@pytest.fixture
def stop_after() -> Callable[[int], Callable[[float], None]]:
    """Make what a training calls after each step, and which interrupts it in the step of that number."""

    def make(steps: int) -> Callable[[float], None]:
        done = itertools.count(1)

        def stop(loss: float) -> None:
            if next(done) == steps:
                raise InterruptedError

        return stop

    return make


def _run_on_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            out, errors = process.communicate(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


@pytest.fixture(scope="session")
def run_on_two() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in two processes of torchrun, warnings being errors. None of them outlives it."""
    return _run_on_two


@pytest.fixture(
    params=[
        "pretended",
        pytest.param(
            "real",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
            ],
        ),
    ]
)
def cuda(request: pytest.FixtureRequest) -> Iterator[Cuda]:
    """A CUDA device: one made of the CPU, and with ``-m gpu`` a real one."""
    if request.param == "real":
        allocations = [0]

        def used() -> bool:
            allocations.append(torch.cuda.memory_stats().get("allocation.all.allocated", 0))
            return allocations[-1] > allocations[-2]

        used()
        yield Cuda(exact=False, used=used)
    else:
        with pretended_cuda() as launched:

            def launches() -> bool:
                any_of_them = bool(launched)
                launched.clear()
                return any_of_them

            yield Cuda(exact=True, used=launches)
