"""How a batch is shared out among threads."""

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from difflayers import _backends


def draw(lock: threading.Lock, ticket: np.ndarray, out: np.ndarray) -> None:
    """A kernel in Python: fills what its tickets say, a hundredth of a second each."""
    while True:
        with lock:
            b = int(ticket[0])
            ticket[0] += 1
        if b >= len(out):
            return
        time.sleep(0.01)
        out[b] += 1


@pytest.mark.parametrize("threads", [1, 3])
def test_each_problem_is_solved_once(threads: int) -> None:
    torch.set_num_threads(threads)
    out = np.zeros(20)
    _backends.run_threads(draw, [threading.Lock()], [out], 1e12)
    assert (out == 1).all()


def test_an_interrupt_stops_the_threads_before_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C no thread may still write into arrays that nobody holds any more."""
    torch.set_num_threads(2)
    out, waited, wait = np.zeros(1000), [], _backends.wait

    def interrupted(tasks: Any) -> Any:
        waited.append(tasks)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return wait(tasks)

    monkeypatch.setattr(_backends, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _backends.run_threads(draw, [threading.Lock()], [out], 1e12)
    done = out.sum()
    assert done < 500
    time.sleep(0.05)
    assert out.sum() == done


def test_an_error_in_a_kernel_is_raised() -> None:
    def broken(ticket: np.ndarray, out: np.ndarray) -> None:
        raise RuntimeError("broken")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="broken"):
        _backends.run_threads(broken, [], [np.zeros(4)], 1e12)
