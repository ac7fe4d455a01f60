"""The arithmetic of dmm.cu and quadratic.cu, run on the host, against the CPU kernels and the oracle."""

import math

import pytest
import torch
from host_device import HostDevice
from matching_problems import (
    DEGENERATE,
    SIZES,
    Problem,
    degenerate,
    kkt_error,
    make_problem,
    oracle_dmm,
    problem,
    projection,
)
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional
from difflayers.matching import problems
from difflayers.matching.dmm import cpu, cuda, op
from difflayers.matching.quadratic import cpu as quadratic_cpu
from difflayers.matching.quadratic import cuda as quadratic_cuda
from difflayers.matching.quadratic import op as quadratic_op

INF = math.inf
OPTIONS = [(1, 1, 0.1, True), (4, 3, 0.2, True), (2, 5, 1.0, False)]


def assert_same(got: tuple[Tensor, ...], want: tuple[Tensor, ...], tolerance: float) -> None:
    for found, wanted in zip(got, want, strict=True):
        assert found.dtype == wanted.dtype
        assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_dmm_and_its_gradient_are_the_oracles(
    host: HostDevice, size: str, options: tuple[int, int, float, bool]
) -> None:
    p = problem(size)
    cost = p.cost.clone().requires_grad_()
    want = oracle_dmm(p, cost, **dict(zip(("n_grad", "n_proj", "step_size", "average"), options, strict=True)))
    X, bits = cuda.dmm(p.cost, p.templates, *options, p.slack, True)
    assert_close(X, want.detach(), rtol=0, atol=1e-12)
    grad = torch.randn_like(X)
    out = cuda.dmm_adjoint(p.cost, bits, grad, *options, p.slack)
    wanted = torch.autograd.grad(want, cost, grad)[0] if len(X) else grad
    assert_close(out, wanted, rtol=1e-10, atol=1e-11)
    assert (X[p.cost == INF] == 0).all() and (out[p.cost == INF] == 0).all()
    without, none = cuda.dmm(p.cost, p.templates, *options, p.slack, False)
    assert torch.equal(without, X) and none.numel() == 0


@pytest.mark.parametrize("size", ["odd", "paper's", "slack", "larger"])
def test_bits_are_those_of_the_cpu_kernel(host: HostDevice, size: str) -> None:
    """Where all pairs are allowed: the CPU kernel leaves out rows and columns that are not there."""
    p = problem(size)
    args = (p.cost, p.templates, 3, 2, 0.3, True, p.slack, True)
    assert torch.equal(cuda.dmm(*args)[1], cpu.dmm(*args)[1])


def test_bits_of_entries_that_are_exactly_zero(host: HostDevice) -> None:
    """Costs of 0 leave the start's zeros where they are, and P1 has no slope there."""
    cost = torch.zeros(1, 3, 5, dtype=torch.float64)
    args = (cost, torch.ones(1, 3, dtype=torch.bool), 2, 2, 0.3, True, False, True)
    bits = cuda.dmm(*args)[1]
    assert torch.equal(bits, cpu.dmm(*args)[1]) and int(bits.flatten()[0]).bit_count() == 1


@pytest.mark.parametrize("name", DEGENERATE)
def test_ties_are_broken_as_the_oracle_does(host: HostDevice, name: str) -> None:
    for n, m in [(5, 9), (6, 6), (3, 40)]:
        C = degenerate(name, n, m)
        p = Problem((C / max(1.0, float(C.abs().max())))[None], torch.ones(1, n, dtype=torch.bool), False)
        X, _ = cuda.dmm(p.cost, p.templates, 4, 3, 0.1, True, False, False)
        assert_close(X, oracle_dmm(p, n_grad=4, n_proj=3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", ["odd", "masked and forbidden", "slack", "larger"])
def test_dmm_in_float32(host: HostDevice, size: str) -> None:
    p = problem(size)
    options = (10, 5, 0.1, True, p.slack)
    X, bits = cuda.dmm(p.cost.float(), p.templates, *options, True)
    want, want_bits = cpu.dmm(p.cost, p.templates, *options, True)
    assert X.dtype == torch.float32
    assert_close(X.double(), want, rtol=0, atol=1e-5)
    grad = torch.randn_like(X)
    out = cuda.dmm_adjoint(p.cost.float(), bits, grad, *options)
    exact = cpu.dmm_adjoint(p.cost, want_bits, grad.double(), *options)
    assert (out - exact).norm() <= 1e-3 * exact.norm()


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("size", SIZES)
def test_projection_is_the_cpu_kernels(host: HostDevice, size: str, scale: float) -> None:
    p = problem(size)
    A = -scale * p.cost
    got = projection(quadratic_cuda, A, p.templates, p.slack, 1e-9, 500)
    X, _, beta, steps, _ = projection(quadratic_cpu, A, p.templates, p.slack, 1e-9, 500)
    assert_close(got[0], X, rtol=0, atol=1e-8)
    assert (got[4] <= 1e-9).all() and ((got[3] - steps).abs() <= 1).all()
    for b in range(len(X)):
        assert kkt_error(A[b], got[0][b], got[2][b], p.templates[b], p.slack) < 1e-8
    grad = torch.randn_like(A)
    assert_close(
        quadratic_cuda.quadratic_adjoint(X, beta, grad),
        quadratic_cpu.quadratic_adjoint(X, beta, grad),
        rtol=0,
        atol=1e-10,
    )


def test_projection_does_not_see_what_is_added_to_a_row(host: HostDevice) -> None:
    """Not to the last bit: the largest entry of a row is taken off first, which is exact here."""
    A = torch.randint(-2000, 2000, (2, 4, 7), dtype=torch.float64) / 1024
    far = A + 2.0**40 * torch.tensor([1.0, -1.0, 0.0, 3.0], dtype=torch.float64)[:, None]
    templates = torch.ones(2, 4, dtype=torch.bool)
    near, moved = (projection(quadratic_cuda, scores, templates, False, 1e-9, 500) for scores in (A, far))
    assert (near[4] <= 1e-9).all()
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(near, moved, strict=True)) if i != 1)


@pytest.mark.parametrize("name", DEGENERATE)
def test_projection_of_degenerate_costs(host: HostDevice, name: str) -> None:
    """Small gamma: the detour over A / s, and Hessians without curvature."""
    for n, m in [(5, 9), (6, 6)]:
        A, templates = -1e3 * degenerate(name, n, m)[None], torch.ones(1, n, dtype=torch.bool)
        X, _, beta, _, residuals = projection(quadratic_cuda, A, templates, False, 1e-9, 500)
        want = projection(quadratic_cpu, A, templates, False, 1e-9, 500)
        assert residuals.max() <= max(1e-9, 2 * float(want[4].max()))
        assert kkt_error(A[0], X[0], beta[0], templates[0], False) < 1e-6
        grad = torch.randn_like(A)
        got = quadratic_cuda.quadratic_adjoint(want[0], want[2], grad)
        assert_close(got, quadratic_cpu.quadratic_adjoint(want[0], want[2], grad), rtol=0, atol=1e-9)


def test_projection_in_float32_and_cut_off(host: HostDevice) -> None:
    p = problem("odd")
    A = (-5 * p.cost).float()
    for max_iter in (1, 2, 500):
        got = projection(quadratic_cuda, A, p.templates, False, 1e-9, max_iter)
        want = projection(quadratic_cpu, A, p.templates, False, 1e-9, max_iter)
        assert got[0].dtype == torch.float32 and torch.equal(got[3], want[3])
        assert_same(got, want, 1e-6)


@pytest.mark.parametrize(("n", "m"), [(6, 13), (70, 40), (9, 300)])
def test_memory_order_and_grid_change_no_bit(host: HostDevice, n: int, m: int) -> None:
    """Shared or global memory, one block or several, warps and lanes the other way around; with one warp and with more."""
    p = make_problem(3, n, m, forbidden=0.2, slack=True, seed=n, dtype=torch.float32)
    grad, found = torch.randn_like(p.cost), []
    for order, blocks, shared in [(0, 1, 227), (1, 2, 227), (2, 3, 0.25), (3, 1, 0.25)]:
        host.order, host.multiprocessors, host.shared_memory = order, blocks, int(1024 * shared)
        X, bits = cuda.dmm(p.cost, p.templates, 2, 3, 0.2, True, True, True)
        out = cuda.dmm_adjoint(p.cost, bits, grad, 2, 3, 0.2, True, True)
        projected = projection(quadratic_cuda, -4 * p.cost, p.templates, True, 1e-9, 500)
        found.append((X, bits, out, *projected, quadratic_cuda.quadratic_adjoint(projected[0], projected[2], grad)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert len({threads for *_, threads, _ in host.launches}) > (n != 6) - 1


def test_whole_layers_and_their_gradients(host: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through autograd, with the CUDA kernels in place of the operators."""
    cost = torch.rand(3, 4, 6, dtype=torch.float64)
    rows, columns = torch.tensor([True, False, True, True]), torch.arange(6) != 2
    found = []
    for kernels, quadratic in ((cpu, quadratic_cpu), (cuda, quadratic_cuda)):
        for name in ("dmm", "dmm_adjoint"):
            monkeypatch.setattr(op, f"_{name}", getattr(kernels, name))
        for name in ("quadratic", "quadratic_adjoint"):
            monkeypatch.setattr(quadratic_op, f"_{name}", getattr(quadratic, name))
        results = []
        for solve in (
            lambda c: functional.dmm_matching(c, rows, columns, n_grad=5),
            lambda c: functional.dmm_matching(c, unmatched_cost=0.4, n_grad=5),
            lambda c: functional.quadratic_matching(c, 0.3, rows, columns),
            lambda c: functional.quadratic_matching(c, 0.3, unmatched_cost=0.4),
        ):
            c = cost.clone().requires_grad_()
            X = solve(c)
            results += [X.detach(), *torch.autograd.grad((X * torch.arange(6)).sum(), c)]
        found.append(results)
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=0, atol=1e-9)
        assert want.abs().max() > 1e-2


def test_bad_values_are_refused(host: HostDevice) -> None:
    templates = torch.ones(1, 2, dtype=torch.bool)
    for value, words in [(math.nan, "got NaN"), (-INF, "inf of the wrong sign")]:
        cost = torch.tensor([[[0.1, value, 0.2], [0.3, 0.4, 0.5]]])
        with pytest.raises(ValueError, match=words):
            cuda.dmm(cost, templates, 1, 1, 0.1, True, False, True)
        with pytest.raises(ValueError, match=words):
            projection(quadratic_cuda, -cost, templates, False, 1e-9, 9)
    with pytest.raises(ValueError, match="without a proposal of their own"):
        cuda.dmm(torch.tensor([[[0.1, INF], [0.2, INF]]]), templates, 1, 1, 0.1, True, False, True)
    with pytest.raises(ValueError, match="without a proposal of their own"):
        cuda.dmm(torch.rand(1, 2, 1), templates, 1, 1, 0.1, True, False, True)
    with pytest.raises(ValueError, match="step_size \\* cost must be representable"):
        cuda.dmm(torch.full((1, 2, 3), 1e38), templates, 1, 1, 10.0, True, False, True)
    assert not host.launches


@pytest.mark.parametrize("size", SIZES)
def test_problems_are_checked_on_the_device_unless_few_pairs_are_allowed(
    host: HostDevice, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    p = problem(size)
    asked: list[str] = []
    monkeypatch.setattr(problems, "_check_own_proposals", lambda name, *rest: asked.append(name))
    problems.check_problems("cost", p.cost, p.templates, p.slack)
    assert asked == (["cost"] if "forbidden" in size and not p.slack else [])


def test_an_unmatched_cost_that_is_not_finite_is_refused(host: HostDevice) -> None:
    cost, templates = torch.tensor([[[0.1, INF], [INF, 0.5]]]), torch.tensor([[True, True]])
    with pytest.raises(ValueError, match="unmatched_cost must be finite; got inf"):
        cuda.dmm(cost, templates, 1, 1, 0.1, True, True, True)
    problems.check_problems("cost", cost, torch.tensor([[False, True]]), True)
