"""When a solve ends: at rounding level even with eps = 0, and at Ctrl-C between two sweeps."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from satnet_problems import Problem, make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional
from difflayers._numba import STOP
from difflayers.satnet import adjoint, common, cpu, kernels, oracle
from difflayers.satnet.gram import gram

DTYPES = [torch.float32, torch.float64]
SIZES = {
    "small": (20, 6, 20, 0, 8),
    "auxiliary": (20, 20, 30, 5, 8),
    "large": (4, 120, 60, 30, 16),
    "low rank": (10, 12, 3, 8, 8),
}


def never_satisfied(p: Problem, start: Tensor) -> list[np.ndarray]:
    """What the kernel reads, with lengths of 0: no change is rounding then. With eps below 0 no sweep is the last."""
    S, lengths = p.S / common.scaling(p.S), torch.zeros(len(p.S), dtype=torch.float64)
    return [t.numpy() for t in (S, gram(S), lengths, start.reshape(-1, *start.shape[-2:]), p.z, p.given)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_sweep_that_changes_nothing_beyond_rounding_is_the_last(size: str, dtype: torch.dtype) -> None:
    """With eps = 0; more sweeps would change nothing but the last digits. Those that are not done make progress still."""
    p = make_problem(*SIZES[size], dtype=dtype)
    out, V, norms, sweeps, decreases = cpu.mixing(*p, 10_000, 0.0)
    done = sweeps < 10_000
    assert done.sum() >= 0.5 * len(done) and (decreases[done] == 0).all()
    assert (decreases[~done] > 1e3 * torch.finfo(dtype).eps ** 2).all()
    further = [torch.empty_like(t) for t in (out, V, norms, sweeps, decreases)]
    arguments = never_satisfied(p, V)
    kernels.mixing(*arguments, 20, -1.0, 0.5, len(p.S) ** 2, np.zeros(1, np.int64), *(t.numpy() for t in further))
    assert (further[3] >= 1).all()
    assert_close(further[1][done], V[done], rtol=0, atol=1e4 * torch.finfo(dtype).eps)
    found = functional.solve_satnet(p.S, p.z, p.given, eps=0.0, max_iter=10_000, start=p.start)
    assert torch.equal(found.converged, done) and (found.residual[done] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_oracle_stops_at_rounding_too(dtype: torch.dtype) -> None:
    p = make_problem(3, 6, 20, 0, 8, dtype=dtype)
    for solution in oracle.forward(*p, max_iter=5000, eps=0.0):
        assert solution.sweeps < 5000 and solution.relative_decrease == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_solve_stops_at_rounding(dtype: torch.dtype) -> None:
    p = make_problem(20, 20, 30, 5, 8, dtype=dtype)
    _, V, norms, _, _ = cpu.mixing(*p, 5000, 0.0)
    tolerance = common.residual_tolerance(0.0, dtype)
    U, iterations = cpu.solve_adjoint(p.S, V, norms, p.given, torch.randn_like(V), 1e-2, 10**6, tolerance)
    assert U.isfinite().all() and iterations.max() < 500
    assert common.residual_tolerance(1e-4, dtype) == 3e2 * 1e-4 and common.residual_tolerance(1.0, dtype) == 0.1


def interrupted(kernel: Callable[..., Any], inputs: list[Any], outputs: list[Any], count: np.ndarray) -> None:
    """Run a kernel on a thread, and say that it is to stop as soon as it counts."""
    ticket = np.zeros(1, np.int64)
    thread = threading.Thread(target=kernel, args=(*inputs, ticket, *outputs))
    thread.start()
    while count[0] == 0 and thread.is_alive():
        time.sleep(0.001)
    ticket[0] = STOP
    thread.join()


def test_ctrl_c_is_heard_between_sweeps() -> None:
    """In float32 this problem never comes to rest: rounding moves it to and fro, for minutes, but for the ticket."""
    p = make_problem(1, 20, 30, 5, 8, dtype=torch.float32)
    out, V, norms, sweeps, decreases = cpu.mixing(*p, 1, 0.0)  # compiled
    outputs = [t.numpy() for t in (out, V, norms, sweeps.zero_(), decreases)]
    interrupted(kernels.mixing, [*never_satisfied(p, p.start), 10**7, -1.0, 0.5, len(p.S) ** 2], outputs, outputs[3])
    assert 0 < sweeps.item() < 10**7 and V.isfinite().all()


def test_ctrl_c_is_heard_between_iterations_of_the_backward_solve() -> None:
    p = make_problem(1, 600, 500, 0, 32, share_given=0.0)
    S = p.S / common.scaling(p.S)
    _, V, norms, _, _ = cpu.mixing(*p, 300, 0.0)
    pull = torch.randn_like(V)
    _, count = cpu.solve_adjoint(p.S, V, norms, p.given, pull, 0.1, 10**4, 0.0)
    U, iterations = torch.empty_like(V), torch.zeros(1, dtype=torch.int64)
    inputs = [t.numpy() for t in (S, gram(S), V, norms, p.given, pull)]
    outputs = [U.numpy(), iterations.numpy()]
    damping = 0.1 / float(common.scaling(p.S)) ** 2
    interrupted(adjoint.adjoint, [*inputs, damping, 10**4, 0.0, 600**2], outputs, outputs[1])
    assert 0 < iterations.item() < count.item() and U.isfinite().all()
