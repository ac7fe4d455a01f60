"""The CPU kernels against the oracle and cvxpy: values, gradients, memory, threads."""

import functools
import math
import random
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
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
from torch.utils._python_dispatch import TorchDispatchMode

from difflayers import _backends, functional
from difflayers.matching.dmm import cpu, oracle
from difflayers.matching.quadratic import cpu as quadratic

INF = math.inf
F64 = torch.float64
DTYPES = [torch.float64, torch.float32]
OPTIONS = [(1, 1, 0.1), (40, 5, 0.1), (3, 1, 0.5), (2, 20, 0.02), (7, 4, 2.0)]


def dmm(p: Problem, n_grad: int, n_proj: int, step_size: float, average: bool = True) -> tuple[Tensor, Tensor]:
    return cpu.dmm(p.cost, p.templates, n_grad, n_proj, step_size, average, p.slack, True)


def dmm_adjoint(
    p: Problem, bits: Tensor, grad: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool = True
) -> Tensor:
    return cpu.dmm_adjoint(p.cost, bits, grad, n_grad, n_proj, step_size, average, p.slack)


@cache
def oracles(
    size: str, options: tuple[int, int, float], average: bool, dtype: torch.dtype
) -> tuple[Problem, Tensor, Tensor, Tensor]:
    """A problem, the oracle's solution, a gradient of it, and what autograd makes of that."""
    p = problem(size).to(dtype)
    cost = p.cost.clone().requires_grad_()
    n_grad, n_proj, step_size = options
    X = oracle_dmm(p, cost, n_grad=n_grad, n_proj=n_proj, step_size=step_size, average=average)
    grad = torch.randn(X.shape, generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype)
    (want,) = torch.autograd.grad(X, cost, grad) if len(X) else (grad,)
    return p, X.detach(), grad, want


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_gradient_are_the_oracle(size: str, options: tuple[int, int, float], average: bool) -> None:
    p, X, grad, want = oracles(size, options, average, F64)
    got, bits = dmm(p, *options, average)
    assert_close(got, X, rtol=0, atol=1e-12)
    assert (got[p.cost == INF] == 0).all()
    out = dmm_adjoint(p, bits, grad, *options, average)
    assert_close(out, want, rtol=1e-10, atol=1e-11)
    assert (out[p.cost == INF] == 0).all()
    if p.cost.isfinite().sum() > p.templates.sum():  # a choice
        assert out.abs().max() > 1e-3


@pytest.mark.parametrize("options", [(1, 1, 0.1), (40, 5, 0.1), (2, 20, 0.02)], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_gradient_in_float32(size: str, options: tuple[int, int, float]) -> None:
    """Against the oracle in float64. A bit that rounding flips may cost the gradient of one entry, not that of all."""
    p, X, grad, want = oracles(size, options, True, F64)
    single = p.to(torch.float32)
    got, bits = dmm(single, *options)
    assert got.dtype == torch.float32
    assert_close(got.double(), X, rtol=0, atol=1e-5)
    out = dmm_adjoint(single, bits, grad.float(), *options)
    assert out.dtype == torch.float32
    assert (out - want).norm() <= 1e-3 * want.norm()


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("m", [1, 2, 7, 8, 9, 15, 17, 24, 31, 33])
def test_every_width_and_height(m: int, slack: bool) -> None:
    """Rows go in tiles of 4, 2 and 1, columns in bytes of 8."""
    for n in {1, 2, 3, 4, 5, 7, 8}:
        if n > m and not slack:
            continue
        p = make_problem(1, n, m, slack=slack, seed=10 * m + n)
        cost = p.cost.clone().requires_grad_()
        X = oracle_dmm(p, cost, n_grad=3, n_proj=3, step_size=0.3)
        got, bits = dmm(p, 3, 3, 0.3)
        assert_close(got, X.detach(), rtol=0, atol=1e-13)
        grad = torch.randn_like(X)
        (want,) = torch.autograd.grad(X, cost, grad)
        assert_close(dmm_adjoint(p, bits, grad, 3, 3, 0.3), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_costs_are_solved_as_the_oracle_does(name: str) -> None:
    """Ties of the start are broken alike: of equals the first. (Gradients at kinks are a matter of rounding.)"""
    for n, m in [(5, 9), (6, 6), (1, 8)]:
        C = degenerate(name, n, m)
        p = Problem((C / max(1.0, float(C.abs().max())))[None], torch.ones(1, n, dtype=torch.bool), False)
        got, _ = dmm(p, 20, 4, 0.1)
        assert_close(got, oracle_dmm(p, n_grad=20, n_proj=4), rtol=0, atol=1e-12)


def test_bits_are_what_was_positive() -> None:
    """Of the last round: t > 0 in the rows, q' > 0 in the row after them, least significant bit first."""
    n, m = 3, 10
    p = make_problem(1, n, m, seed=4)
    X, bits = dmm(p, 2, 1, 0.5)
    assert bits.shape == (1, 2, (n + 1) * 2)
    X0 = oracle.start(p.cost[0])
    t = X0 - 0.5 * p.cost[0]
    first = np.unpackbits(bits[0, 0].numpy().reshape(n + 1, 2), axis=1, bitorder="little")[:, :m]
    assert torch.equal(torch.from_numpy(first[:n]).bool(), t > 0)
    assert torch.equal(torch.from_numpy(first[n]).bool(), t.clamp(min=0).sum(0) > 1)
    assert X.shape == (1, n, m)


@pytest.mark.parametrize("size", SIZES)
def test_without_bits_the_result_is_the_same(size: str) -> None:
    p = problem(size)
    X, _ = dmm(p, 6, 3, 0.1)
    got, bits = cpu.dmm(p.cost, p.templates, 6, 3, 0.1, True, p.slack, False)
    assert torch.equal(got, X) and bits.numel() == 0


class Results(TorchDispatchMode):
    """The sizes of what the operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.difflayers.dmm.default:
            self.sizes.append(result[1].numel())
        return result


def test_without_gradients_no_bits_are_kept() -> None:
    C = torch.rand(2, 5, 9)
    with Results() as seen:
        want = functional.dmm_matching(C)
        with torch.no_grad():
            assert torch.equal(functional.dmm_matching(C), want)
        with torch.inference_mode():
            assert torch.equal(functional.dmm_matching(C), want)
    assert seen.sizes == [2 * 40 * 5 * 6 * 2, 0, 0]


def kept_by_autograd(solve: Callable[[Tensor], Tensor], cost: Tensor) -> int:
    """Bytes of the memory behind the tensors saved for the backward pass."""
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = solve(cost.clone().requires_grad_())
    assert out.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def test_bits_are_a_32th_of_what_autograd_keeps() -> None:
    """One bit for each entry and round, where autograd keeps a float32 at least."""
    C = torch.rand(1, 31, 64)
    kept = kept_by_autograd(functional.dmm_matching, C)
    rounds = 40 * 5
    assert kept <= rounds * 32 * 64 // 8 + 2 * 4 * C.numel()
    unrolled = kept_by_autograd(lambda c: oracle.dmm(c[0]), C)
    assert kept - 4 * C.numel() <= unrolled / 32


def poison(monkeypatch: pytest.MonkeyPatch, byte: int) -> list[Tensor]:
    """From here on torch.empty gives NaN, or bytes of this value."""
    poisoned: list[Tensor] = []

    def spoil(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate_poisoned(*args: Any, **options: Any) -> Tensor:
            memory = allocate(*args, **options)
            poisoned.append(memory)
            value = float("nan") if memory.dtype.is_floating_point else byte
            return memory.fill_(value)

        return allocate_poisoned

    monkeypatch.setattr(torch, "empty", spoil(torch.empty))
    monkeypatch.setattr(torch, "empty_like", spoil(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", spoil(torch.Tensor.new_empty))
    return poisoned


def solve(p: Problem, grad: Tensor, options: tuple[int, int, float] = (6, 3, 0.1)) -> tuple[Tensor, ...]:
    """All the kernels' results, those of the projection of -4 cost included."""
    X, bits = dmm(p, *options)
    out = dmm_adjoint(p, bits, grad, *options)
    Y, alpha, beta, steps, residuals = projection(quadratic, -4 * p.cost, p.templates, p.slack, 1e-9, 500)
    return X, out, Y, alpha, beta, steps, residuals, quadratic.quadratic_adjoint(Y, beta, grad), bits


def assert_same_bits(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(g, w), f"result {i}: {int((g != w).sum())} of {g.numel()} entries differ"


@pytest.mark.parametrize("byte", [0, 0b10110101, 255])
@pytest.mark.parametrize("size", SIZES)
def test_every_output_is_written(size: str, byte: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that comes as NaN leaves none behind; of bits, those of rows and columns that are not there are 0."""
    p = problem(size)
    grad = torch.randn_like(p.cost)
    want = solve(p, grad)
    poisoned = poison(monkeypatch, byte)
    got = solve(p, grad)
    assert len(poisoned) >= 9  # X, bits, out; Y, alpha, beta, steps, residuals, out
    assert_same_bits(got, want)


@pytest.mark.parametrize("size", SIZES)
def test_inputs_are_only_read(size: str) -> None:
    p = problem(size)
    grad = torch.randn_like(p.cost)
    cost, templates, kept = p.cost.clone(), p.templates.clone(), grad.clone()
    solve(p, grad)
    assert torch.equal(p.cost, cost) and torch.equal(p.templates, templates) and torch.equal(grad, kept)


def test_gradient_under_a_forbidden_pair_is_not_read() -> None:
    p = problem("slack, masked and forbidden")
    grad = torch.randn_like(p.cost)
    want = solve(p, grad)
    spoiled = solve(p, grad.masked_fill(p.cost == INF, float("nan")))
    assert_same_bits(spoiled, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    p = make_problem(4, 5, 9, forbidden=0.3, dtype=dtype)
    grad = torch.randn_like(p.cost)
    cost = p.cost.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    templates = p.templates.T.contiguous().T
    strided = Problem(cost, templates, p.slack)
    assert not cost.is_contiguous() and not templates.is_contiguous()
    assert_same_bits(solve(strided, grad.mT.contiguous().mT), solve(p, grad))


def padded(parts: list[Problem], n: int, m: int) -> Problem:
    """Problems of different sizes as one batch, in the top left corners."""
    slack = parts[0].slack
    cost = torch.full((len(parts), n, m + slack), INF, dtype=parts[0].cost.dtype)
    templates = torch.zeros(len(parts), n, dtype=torch.bool)
    for b, part in enumerate(parts):
        _, rows, columns = part.cost.shape
        cost[b, :rows, : columns - slack] = part.cost[0, :, : columns - slack]
        if slack:
            cost[b, :rows, -1] = part.cost[0, :, -1]
        templates[b, :rows] = part.templates[0]
    return Problem(cost, templates, slack)


@pytest.mark.parametrize("slack", [False, True])
def test_problems_of_different_sizes_in_one_batch(slack: bool) -> None:
    """To the bit what each is by itself: nothing is left over from the problem before."""
    sizes = [(3, 4), (9, 17), (1, 1), (5, 16), (9, 9), (2, 8), (7, 11), (9, 17), (1, 17)]
    parts = [make_problem(1, n, m, slack=slack, forbidden=0.2, seed=i) for i, (n, m) in enumerate(sizes)]
    p = padded(parts, 9, 17)
    grad = torch.randn_like(p.cost)
    whole = solve(p, grad)
    for b, part in enumerate(parts):
        _, n, columns = part.cost.shape
        keep = [*range(columns - slack), *([17] if slack else [])]
        alone = solve(part, grad[b : b + 1, :n][:, :, keep])
        for i in (0, 1, 2, 7):
            assert torch.equal(whole[i][b, :n][:, keep], alone[i][0])
            outside = whole[i][b].clone()
            outside[:n, keep] = 0
            assert (outside == 0).all()
        assert torch.equal(whole[3][b, :n], alone[3][0]) and torch.equal(whole[4][b, keep], alone[4][0])
        assert torch.equal(whole[5][b], alone[5][0]) and torch.equal(whole[6][b], alone[6][0])


@pytest.fixture
def always_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches on several threads too."""
    monkeypatch.setattr(_backends, "_OPERATIONS_WORTH_A_THREAD", 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slack", [False, True])
def test_result_of_a_problem_is_its_own_to_the_bit(slack: bool, dtype: torch.dtype, always_threads: None) -> None:
    """Neither the order of a batch nor its company nor the number of threads change a bit."""
    p = make_problem(23, 9, 19, masked=True, forbidden=0.2, slack=slack, dtype=dtype)
    grad = torch.randn_like(p.cost)
    torch.set_num_threads(1)
    want = solve(p, grad)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert_same_bits(solve(p, grad), want)
        order = torch.randperm(23)
        permuted = solve(Problem(p.cost[order], p.templates[order], slack), grad[order])
        assert_same_bits(permuted, tuple(w[order] for w in want))
        for part in (slice(0, 1), slice(1, 8), slice(8, 23)):
            alone = solve(Problem(p.cost[part], p.templates[part], slack), grad[part])
            assert_same_bits(alone, tuple(w[part] for w in want))


def test_calls_from_several_threads_at_once(always_threads: None) -> None:
    torch.set_num_threads(2)
    problems = [make_problem(7, 5 + seed, 12, seed=seed) for seed in range(4)]
    grads = [torch.randn_like(p.cost) for p in problems]
    want = [solve(p, grad) for p, grad in zip(problems, grads, strict=True)]
    got: dict[int, list[tuple[Tensor, ...]]] = {}

    def work(i: int) -> None:
        got[i] = [solve(problems[i], grads[i]) for _ in range(10)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(got) == list(range(4))
    for i, results in got.items():
        for result in results:
            assert_same_bits(result, want[i])


def test_random_problems_of_any_kind() -> None:
    """A last net: sizes, masks, forbidden pairs and options drawn at random, all kernels against the oracle."""
    draw = random.Random(0)
    for seed in range(60):
        m = draw.randint(1, 20)
        slack = draw.random() < 0.4
        n = draw.randint(1, 12) if slack else draw.randint(1, min(m, 12))
        share, masked = draw.choice([0, 0, 0.3, 0.8]), draw.random() < 0.4
        p = make_problem(draw.randint(1, 2), n, m, forbidden=share, masked=masked, slack=slack, seed=seed)
        options = (draw.randint(1, 6), draw.randint(1, 6), 10 ** draw.uniform(-2, 0.5))
        average = draw.random() < 0.5
        cost = p.cost.clone().requires_grad_()
        solve_by_oracle = functools.partial(oracle_dmm, p, cost, average=average)
        X = solve_by_oracle(n_grad=options[0], n_proj=options[1], step_size=options[2])
        got, bits = dmm(p, *options, average)
        assert_close(got, X.detach(), rtol=0, atol=1e-11)
        grad = torch.randn_like(X)
        (want,) = torch.autograd.grad(X, cost, grad, allow_unused=True) if X.requires_grad else (torch.zeros_like(X),)
        assert_close(dmm_adjoint(p, bits, grad, *options, average), want, rtol=1e-9, atol=1e-9)
        Y, _, beta, _, residuals = projection(quadratic, -p.cost / options[2], p.templates, slack, 1e-9, 500)
        assert (residuals <= 1e-9).all()
        for b in range(len(Y)):
            assert kkt_error(-p.cost[b] / options[2], Y[b], beta[b], p.templates[b], slack) < 1e-8
