"""The arithmetic of entropic.cu, run on the host, against the CPU kernels."""

import pytest
import torch
from entropic_problems import SIZES, make_problem
from host_device import HostDevice
from torch.testing import assert_close

from difflayers import functional
from difflayers.matching.entropic import cpu, cuda, op


@pytest.mark.parametrize(
    ("size", "epsilon"), [*((size, 0.2) for size in SIZES), ("odd", 1e-3), ("both dustbins", 1e-2)]
)
def test_solution_and_centred_product_are_the_cpu_kernels(host: HostDevice, size: str, epsilon: float) -> None:
    args, (slack, births) = make_problem(size, epsilon=epsilon)
    want = cpu.entropic(*args, slack, births, 1e-9, 1000)
    got = cuda.entropic(*args, slack, births, 1e-9, 1000)
    assert (want[5] <= 1e-9).all() and (got[5] <= 1e-9).all()
    assert_close(got[0], want[0], rtol=0, atol=1e-7)
    if epsilon == 0.2:
        for found, wanted in zip(got[1:3], want[1:3], strict=True):
            assert_close(found, wanted, rtol=0, atol=1e-6)
    grad = torch.randn_like(args[0])
    free = births and not slack
    products = [kernels.entropic_centre(want[0], want[3], grad, free) for kernels in (cpu, cuda)]
    assert_close(products[1][0], products[0][0], rtol=0, atol=1e-9)
    assert (products[1][0][args[0].isinf()] == 0).all()


def test_float32_start_and_cut_off(host: HostDevice) -> None:
    (cost, epsilon, rows, columns, none), _ = make_problem("odd", epsilon=0.02)
    found = []
    for kernels in (cpu, cuda):
        X, alpha, *_ = kernels.entropic(cost.float(), epsilon.float(), rows, columns, none, False, False, 1e-9, 1000)
        again = kernels.entropic(cost.float(), epsilon.float(), rows, columns, alpha, False, False, 1e-9, 1000)
        assert X.dtype == torch.float32 and (again[4] == 1).all()
        cut = kernels.entropic(cost.float(), epsilon.float(), rows, columns, none, False, False, 1e-9, 3)
        assert (cut[5] > 1e-9).all() and cut[0].isfinite().all()
        found.append((X, again[0], *cut))
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", ["both dustbins", "larger"])
def test_memory_order_and_grid_change_no_bit(host: HostDevice, size: str) -> None:
    """Shared or global memory, one block or several, warps and lanes the other way around."""
    args, (slack, births) = make_problem(size, epsilon=0.05)
    grad, found = torch.randn_like(args[0]), []
    for order, blocks, shared in [(0, 1, 227), (1, 2, 227), (2, 3, 0.25), (3, 1, 0.25)]:
        host.order, host.multiprocessors, host.shared_memory = order, blocks, int(1024 * shared)
        solved = cuda.entropic(*args, slack, births, 1e-9, 1000)
        found.append((*solved, *cuda.entropic_centre(solved[0], solved[3], grad, births and not slack)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert {threads for *_, threads, _ in host.launches} == ({32} if size != "larger" else {128})


def test_whole_layer_and_its_gradients(host: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through autograd, with the CUDA kernels in place of the operators."""
    cost, found = torch.rand(3, 4, 6, dtype=torch.float64), []
    rows, columns = torch.tensor([True, False, True, True]), torch.arange(6) != 2
    for kernels in (cpu, cuda):
        for name in ("entropic", "entropic_centre"):
            monkeypatch.setattr(op, f"_{name}", getattr(kernels, name))
        results = []
        births = {"unmatched_proposal_cost": 0.1}
        for options in ({}, {"unmatched_cost": 0.4}, births, {"unmatched_cost": 0.4, **births}):
            c, e = cost.clone().requires_grad_(), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
            X = functional.entropic_matching(c, e, rows, columns, **options)
            results += [X.detach(), *torch.autograd.grad((X * torch.arange(6)).sum(), (c, e))]
        found.append(results)
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=0, atol=1e-7)
