"""exact.cu, run on the host, against the CPU kernel: the same bits."""

import math

import pytest
import torch
from host_device import HostDevice
from matching_problems import DEGENERATE, SIZES, Problem, degenerate, make_problem, problem
from torch import Tensor

from difflayers import functional
from difflayers.matching.exact import cpu, cuda, op


def assert_same_bits(p: Problem, prices: Tensor | None = None) -> None:
    for centered in (False, True):
        got = cuda.exact(p.cost, p.templates, prices, p.slack, centered, "cost")
        want = cpu.exact(p.cost, p.templates, prices, p.slack, centered, "cost")
        for found, wanted in zip(got, want, strict=True):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_results_are_those_of_the_cpu(host: HostDevice, size: str, dtype: torch.dtype) -> None:
    p = problem(size).to(dtype)
    assert_same_bits(p)
    shape = (len(p.cost), p.cost.shape[2] - p.slack)
    assert_same_bits(p, (torch.rand(shape, dtype=torch.float64) - 0.4).clamp(min=0))


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("name", DEGENERATE)
def test_results_are_those_of_the_cpu_where_there_are_ties(host: HostDevice, name: str, slack: bool) -> None:
    for n, m in [(5, 9), (6, 6), (20, 40)]:
        cost = 2 * degenerate(name, n, m + slack)[None].float() - 1
        assert_same_bits(Problem(cost, torch.ones(1, n, dtype=torch.bool), slack))


@pytest.mark.parametrize(("n", "m"), [(6, 13), (12, 700)])
def test_memory_order_and_grid_change_no_bit(host: HostDevice, n: int, m: int) -> None:
    """Shared or global memory, one block or several, warps and lanes the other way around; with one warp and with more."""
    p = make_problem(3, n, m, forbidden=0.2, slack=True, seed=n, dtype=torch.float32)
    p = p._replace(cost=(8 * p.cost).floor())  # with ties
    for order, blocks, shared in [(0, 1, 227), (1, 2, 227), (2, 3, 0.25), (3, 1, 0.25)]:
        host.order, host.multiprocessors, host.shared_memory = order, blocks, int(1024 * shared)
        assert_same_bits(p)
    assert {threads for *_, threads, _ in host.launches} == {32 if m == 13 else 64}


def test_what_is_refused(host: HostDevice) -> None:
    rows = torch.ones(1, 2, dtype=torch.bool)
    for value, words in [(math.nan, "got NaN"), (-math.inf, "inf of the wrong sign")]:
        with pytest.raises(ValueError, match=words):
            cuda.exact(torch.tensor([[[0.1, value, 0.2], [0.3, 0.4, 0.5]]]), rows, None, False, False, "cost")
    for lost in (torch.tensor([[[0.1, math.inf], [0.2, math.inf]]]), torch.full((1, 2, 3), math.inf)):
        with pytest.raises(ValueError, match="without a proposal of their own"):
            cuda.exact(lost, rows, None, False, False, "cost")
    with pytest.raises(ValueError, match="unmatched_cost must be finite; got inf"):
        cuda.exact(torch.tensor([[[0.1, math.inf], [0.2, 0.3]]]), rows, None, True, False, "cost")
    with pytest.raises(ValueError, match="start must hold multipliers"):
        cuda.exact(torch.rand(1, 2, 3), rows, -torch.ones(1, 3, dtype=torch.float64), False, False, "cost")
    with pytest.raises(ValueError, match=r"at most 1e\+300"):
        cuda.exact(torch.full((1, 2, 3), 1e301, dtype=torch.float64), rows, None, False, False, "cost")


def test_whole_layers_and_their_gradients(host: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, grad, found = torch.rand(3, 4, 6), torch.randn(3, 4, 6), []
    for kernels in (cpu, cuda):
        monkeypatch.setattr(op, "exact", kernels.exact)
        monkeypatch.setattr(op, "assign", lambda c, t, s, n, run=kernels.exact: run(c, t, None, s, False, n)[0])
        c = cost.clone().requires_grad_()
        X = functional.exact_matching(c, strength=0.3, unmatched_cost=0.3)
        found.append((X.detach(), torch.autograd.grad((X * grad).sum(), c)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].abs().max() > 0 and host.launches
