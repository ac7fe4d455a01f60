"""Fixtures of the demos' tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.train import Trainer

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
