"""The arithmetic of satnet.cu, run on the host, against the CPU kernels and the oracle."""

import itertools

import pytest
import torch
from host_device import HostDevice
from satnet_problems import Problem, exact_adjoint, make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional
from difflayers.satnet import common, cpu, cuda, op, oracle

SIZES = {  # batch, n, m, aux, k
    "one of each": (1, 1, 1, 0, 1),
    "n = 1": (3, 1, 3, 0, 8),
    "m = 1": (2, 7, 1, 2, 6),
    "k = 1": (2, 6, 5, 2, 1),
    "one whole tile": (2, 32, 33, 0, 8),
    "odd": (5, 13, 9, 6, 5),
    "two strips of registers": (2, 20, 30, 20, 33),
    "many rows for few columns": (2, 45, 6, 7, 9),
    "larger": (2, 61, 40, 20, 16),
    "tensor cores": (2, 61, 40, 20, 32),
}
SHARES = {"none given": 0.0, "some given": 0.4, "all given": 1.0}
CASES = list(itertools.product(SIZES, SHARES))


def problem(size: str, share: str) -> Problem:
    return make_problem(*SIZES[size], share_given=SHARES[share], seed=sorted(SIZES).index(size))


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max() if want.numel() else 0) + 1e-12)


@pytest.mark.parametrize(("size", "share"), CASES)
def test_forward_is_the_cpu_kernel(host: HostDevice, size: str, share: str) -> None:
    p = problem(size, share)
    got, want = cuda.mixing(*p, 40, 1e-4), cpu.mixing(*p, 40, 1e-4)
    for found, wanted in zip(got, want, strict=True):
        assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    assert [kernel for _, kernel, *_ in host.launches] == ["survey", "gram", "mixing"]


@pytest.mark.parametrize("size", ["odd", "larger"])
def test_forward_is_the_oracle(host: HostDevice, size: str) -> None:
    p = problem(size, "some given")
    out, V, norms, sweeps, decreases = cuda.mixing(*p, 40, 1e-4)
    for b, want in enumerate(oracle.forward(*p)):
        assert_close(V[b], want.V, rtol=0, atol=1e-9)
        assert_close(out[b], want.z, rtol=0, atol=1e-9)
        assert_close(norms[b] * common.scaling(p.S) ** 2, want.norms, rtol=1e-9, atol=1e-11)
        assert int(sweeps[b]) == want.sweeps
        assert float(decreases[b]) == pytest.approx(want.relative_decrease, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("size", "share"), CASES)
def test_adjoint_is_the_cpu_kernel(host: HostDevice, size: str, share: str) -> None:
    """Iteration for iteration; five of them, since conjugate gradients lose the last digits to rounding as they go on."""
    p = problem(size, share)
    _, V, norms, _, _ = cpu.mixing(*p, 40, 1e-4)
    grad = torch.randn_like(p.z)
    for max_iter, tolerance in [(5, 0.0), (40, 1e-3)]:
        args = (p.S, V, norms, p.given, op.output_gradient(V, p.given, grad), 1e-2, max_iter, tolerance)
        (U, iterations), (want, wanted) = cuda.solve_adjoint(*args), cpu.solve_adjoint(*args)
        assert_near(U, want, 1e-8)
        assert torch.equal(iterations, wanted)


@pytest.mark.parametrize("prox_lam", [1e-2, 1.0])
def test_adjoint_is_the_linear_system(host: HostDevice, prox_lam: float) -> None:
    p = problem("odd", "some given")
    _, V, norms, _, _ = cuda.mixing(*p, 600, 0.0)
    grad = torch.randn_like(p.z)
    scale = common.scaling(p.S) ** 2
    U = cuda.adjoint(p.S, V, norms, p.given, op.output_gradient(V, p.given, grad), prox_lam, 10_000, 1e-13) / scale
    for b in range(len(V)):
        assert_near(U[b], exact_adjoint(p.S, V[b], norms[b] * scale, p.given[b], grad[b], prox_lam), 1e-5)


def test_a_coordinate_that_nothing_holds_and_gradients_of_any_scale(host: HostDevice) -> None:
    p = problem("odd", "some given")
    p.S[3] = 0
    _, V, norms, _, _ = cpu.mixing(*p, 40, 1e-4)
    for scale in (0.0, 1e-200, 1e200):
        args = (p.S, V, norms, p.given, scale * torch.randn_like(V), 0.0, 5, 0.0)
        assert_near(cuda.solve_adjoint(*args)[0], cpu.solve_adjoint(*args)[0], 1e-8)


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
@pytest.mark.parametrize("size", ["odd", "two strips of registers", "larger", "tensor cores"])
def test_float32(host: HostDevice, size: str, capability: tuple[int, int]) -> None:
    """Without tensor cores and, where vectors are long enough, with them."""
    host.capability = capability
    p = problem(size, "some given").to(torch.float32)
    exact = p.to(torch.float64)
    out, V, norms, _, _ = cuda.mixing(*p, 4, 0.0)
    assert out.dtype == V.dtype == norms.dtype == torch.float32
    for got, want in zip((out, V, norms), cpu.mixing(*exact, 4, 0.0), strict=False):
        assert_close(got.double(), want, rtol=1e-3, atol=2e-4)
        assert (got.double() - want).norm() < 1e-5 * want.norm()  # of two of the three products alone, 1e-4
    grad = torch.randn_like(V)
    args = (V, norms, p.given, grad)
    U, _ = cuda.solve_adjoint(p.S, *args, 1e-2, 3, 0.0)
    exact_args = (V.double(), norms.double(), p.given, grad.double())
    assert_near(U.double(), cpu.solve_adjoint(exact.S, *exact_args, 1e-2, 3, 0.0)[0], 1e-3)


def test_a_start_for_each_sample(host: HostDevice) -> None:
    S, z, given, start = make_problem(3, 13, 9, 6, 5)
    starts = torch.stack((start, start.flip(1), start.flip(0)))
    for max_iter, eps in [(4, 0.0), (40, 1e-3)]:
        args = (S, z, given, starts, max_iter, eps)
        for got, want in zip(cuda.mixing(*args), cpu.mixing(*args), strict=True):
            assert_close(got, want, rtol=1e-8, atol=1e-10)
    solved = cpu.mixing(S, z, given, starts, 40, 1e-3)[1]
    _, _, _, sweeps, decreases = cuda.mixing(S, z, given, solved, 40, 1e-3)
    assert (sweeps == 1).all() and (decreases < 1e-3).all()
    starts[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"start must be finite, with no row of zeros; got 1 rows.*\(1, 2\)"):
        cuda.mixing(S, z, given, starts, 4, 0.0)


@pytest.mark.parametrize("k", [70, 130, 260])
def test_long_vectors(host: HostDevice, k: int) -> None:
    """Tiles of 16 and of 8 rows, several strips of columns."""
    p = make_problem(2, 21, 30, 4, k, seed=k)
    for got, want in zip(cuda.mixing(*p, 4, 0.0), cpu.mixing(*p, 4, 0.0), strict=True):
        assert_close(got, want, rtol=1e-8, atol=1e-10)
    _, V, norms, _, _ = cpu.mixing(*p, 4, 0.0)
    args = (p.S, V, norms, p.given, torch.randn_like(V), 1e-2, 2, 0.0)
    assert_near(cuda.solve_adjoint(*args)[0], cpu.solve_adjoint(*args)[0], 1e-8)


@pytest.mark.parametrize("capacity", [0, 16, 24])
def test_samples_that_do_not_fit_in_shared_memory(host: HostDevice, capacity: int) -> None:
    """Some of a batch are in shared memory, others are not; the fixed vectors pass through in several pieces."""
    p = make_problem(4, 24, 30, 6, 8, share_given=0.6, seed=2)
    base = cuda.geometry(len(p.S), 8, p.S.dtype, host.shared_memory, host.capability).base
    host.shared_memory = base + capacity * 16 * 8
    assert cuda.geometry(len(p.S), 8, p.S.dtype, host.shared_memory, host.capability).capacity == capacity
    for got, want in zip(cuda.mixing(*p, 10, 1e-4), cpu.mixing(*p, 10, 1e-4), strict=True):
        assert_close(got, want, rtol=1e-8, atol=1e-10)
    _, V, norms, _, _ = cpu.mixing(*p, 10, 1e-4)
    args = (p.S, V, norms, p.given, torch.randn_like(V), 1e-2, 4, 0.0)
    assert_near(cuda.solve_adjoint(*args)[0], cpu.solve_adjoint(*args)[0], 1e-8)


@pytest.mark.parametrize("warps", [2, 4])
def test_the_order_of_threads_and_the_size_of_the_grid_change_no_bit(
    host: HostDevice, monkeypatch: pytest.MonkeyPatch, warps: int
) -> None:
    """Were a barrier missing, running warps or lanes the other way around would show."""
    monkeypatch.setattr(cuda, "_WARPS", (warps,))
    p = make_problem(3, 70, 40, 10, 8, seed=1, dtype=torch.float32)  # more than one tile
    grad, found = torch.randn(3, *p.start.shape), []
    for order, blocks in [(0, 1), (1, 2), (2, 3), (3, 1)]:
        host.order, host.multiprocessors = order, blocks
        solution = cuda.mixing(*p, 6, 1e-4)
        found.append((*solution, cuda.adjoint(p.S, *solution[1:3], p.given, grad, 1e-2, 6, 1e-4)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("N", "m"), [(1, 1), (31, 5), (32, 32), (70, 33)])
def test_gram_matrix_is_exactly_symmetric(host: HostDevice, N: int, m: int) -> None:
    S = torch.randn(N, m, dtype=torch.float64)
    for scale in (1.0, 2.0**-1000, 2.0**1015):
        C = cuda._Launch(scale * S, 8, "mixing", 1, copies=3).C
        assert torch.equal(C, C.T)
        assert_close(C, S @ S.T / common.scaling(S) ** 2)


def test_whole_layer_and_its_gradients(host: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through autograd, with the CUDA kernels in place of the operators."""
    S, z, given, _ = make_problem(4, 11, 14, 3, 8, seed=5)
    found = []
    for kernels in (cpu, cuda):
        monkeypatch.setattr(op, "_mixing", kernels.mixing)
        monkeypatch.setattr(op, "_adjoint", kernels.adjoint)
        s, x = S.clone().requires_grad_(), z.clone().requires_grad_()
        generator = torch.Generator().manual_seed(3)
        solved = functional.solve_satnet(s, x, given, eps=1e-6, max_iter=100, generator=generator)
        out = solved.value
        weights = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape)
        found.append(
            (out.detach(), *(t.detach() for t in solved[1:]), *torch.autograd.grad((out * weights).sum(), (s, x)))
        )
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert found[1][-1].abs().max() > 1


def test_bad_values_are_refused(host: HostDevice) -> None:
    S, z, given, start = make_problem(2, 4, 5, k=8)
    with pytest.raises(ValueError, match="S must be finite; got 1 entries"):
        cuda.mixing(torch.where(torch.eye(5) * torch.arange(5) == 4, torch.nan, S), z, given, start, 4, 1e-4)
    for wrong in (torch.nan, -0.1, 1.1):
        z[1, 2] = wrong
        with pytest.raises(ValueError, match=r"z must be in \[0, 1\] everywhere; got 1 entries that are not.*\(1, 2\)"):
            cuda.mixing(S, z, given, start, 4, 1e-4)
    assert "mixing" not in [kernel for _, kernel, *_ in host.launches]


def test_empty_batch(host: HostDevice) -> None:
    S, z, given, start = make_problem(0, 4, 5, k=8)
    out, V, norms, sweeps, decreases = cuda.mixing(S, z, given, start, 4, 1e-4)
    assert out.shape == (0, 4) and V.shape == (0, 5, 8) and norms.shape == (0, 5) and len(sweeps) == len(decreases) == 0
    assert cuda.adjoint(S, V, norms, given, V, 0.0, 4, 1e-4).shape == (0, 5, 8) and not host.launches
