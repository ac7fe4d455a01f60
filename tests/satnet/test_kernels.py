"""The CPU kernels against the oracle, on the same start: values, gradients, threads, processes."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from satnet_problems import Problem, exact_adjoint, kernel_adjoint, make_problem
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from difflayers import _backends, functional
from difflayers.satnet import common, cpu, kernels, op, oracle
from difflayers.satnet import gram as gram_module

# batch, n, m, aux, k
SIZES = {
    "one of each": (1, 1, 1, 0, 1),
    "n = 1": (3, 1, 3, 0, 8),
    "m = 1": (3, 7, 1, 2, 6),
    "k = 1": (3, 6, 5, 2, 1),
    "k = 2": (3, 6, 5, 2, 2),
    "k above n": (2, 4, 5, 1, 33),
    "one whole tile": (2, 6, 7, 0, 8),
    "odd": (5, 13, 9, 6, 5),
    "a strip and a half": (2, 11, 12, 3, 24),
    "low rank": (3, 19, 3, 7, 9),
    "low rank, whole tiles": (2, 18, 4, 0, 16),
    "both forms in one batch": (6, 24, 8, 0, 10),
    "larger": (3, 61, 40, 20, 16),
}
SHARES = {"none given": 0.0, "some given": 0.4, "all given": 1.0}
CASES = [(size, share) for size in SIZES for share in SHARES]
DTYPES = [torch.float64, torch.float32]


@cache
def problem(size: str, share: str) -> Problem:
    return make_problem(*SIZES[size], share_given=SHARES[share], seed=sorted(SIZES).index(size))


@cache
def converged(size: str, share: str) -> tuple[Problem, tuple[Tensor, ...], Tensor]:
    """A problem, the kernel's solution of it at its limit, and a gradient of the outputs."""
    p = problem(size, share)
    grad = torch.randn(p.z.shape, generator=torch.Generator().manual_seed(1), dtype=p.z.dtype)
    return p, cpu.mixing(*p, 600, 0.0), grad


def as_oracle(p: Problem, solution: tuple[Tensor, ...]) -> list[oracle.Solution]:
    """What the kernel found, in the oracle's words: its norms are in units of the scaling of S, squared."""
    out, V, norms, sweeps, decreases = solution
    norms = norms * common.scaling(p.S) ** 2
    return [oracle.Solution(out[b], V[b], norms[b], int(sweeps[b]), float(decreases[b])) for b in range(len(out))]


@pytest.mark.parametrize(("size", "share"), CASES)
def test_forward_is_the_oracle(size: str, share: str) -> None:
    """Sweep for sweep: the same vectors, stopped after the same sweep."""
    p = problem(size, share)
    out, V, norms, sweeps, decreases = cpu.mixing(*p, 40, 1e-4)
    for b, want in enumerate(oracle.forward(*p)):
        assert_close(V[b], want.V, rtol=0, atol=1e-9)
        assert_close(out[b], want.z, rtol=0, atol=1e-9)
        assert_close(norms[b] * common.scaling(p.S) ** 2, want.norms, rtol=1e-9, atol=1e-11)
        assert int(sweeps[b]) == want.sweeps
        assert float(decreases[b]) == pytest.approx(want.relative_decrease, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("max_iter", [1, 2, 5])
@pytest.mark.parametrize("size", ["odd", "low rank", "larger"])
def test_forward_is_the_oracle_when_max_iter_ends_it(size: str, max_iter: int) -> None:
    p = problem(size, "some given")
    out, V, _, sweeps, _ = cpu.mixing(*p, max_iter, 0.0)
    for b, want in enumerate(oracle.forward(*p, max_iter=max_iter, eps=0.0)):
        assert_close(V[b], want.V, rtol=0, atol=1e-10)
        assert_close(out[b], want.z, rtol=0, atol=1e-10)
        assert int(sweeps[b]) == want.sweeps == max_iter


@pytest.mark.parametrize(("size", "share"), [case for case in CASES if case[0] != "m = 1"])
def test_forward_in_float32(size: str, share: str) -> None:
    """A few sweeps in float32 stay next to the oracle's in float64; many end as low. (With m = 1, |g| comes near 0.)"""
    p = problem(size, share).to(torch.float32)
    exact = p.to(torch.float64)
    out, V, norms, _, _ = cpu.mixing(*p, 4, 0.0)
    assert out.dtype == V.dtype == norms.dtype == torch.float32
    for b, want in enumerate(oracle.forward(*exact, max_iter=4, eps=0.0)):
        assert_close(V[b].double(), want.V, rtol=0, atol=2e-4)
        assert_close(norms[b].double() * common.scaling(p.S) ** 2, want.norms, rtol=1e-3, atol=1e-5)
    _, V, _, _, _ = cpu.mixing(*p, 30, 0.0)
    _, V_exact, _, _, _ = cpu.mixing(*exact, 30, 0.0)
    for found, want in zip(V.double(), V_exact, strict=True):
        gap = oracle.objective(exact.S, found) - oracle.objective(exact.S, want)
        assert abs(gap) < 1e-4 * float(exact.S.square().sum())


@pytest.mark.parametrize("over", [0, 1, 5])
def test_both_forms_agree_where_they_meet(over: int) -> None:
    """n_free = 2m is the last size solved in Gram form; one more is the first in low-rank form."""
    m = 7
    p = make_problem(2, kernels.GRAM_LIMIT * m + over, m, k=9, share_given=0.0, seed=over)
    _, V, _, sweeps, _ = cpu.mixing(*p, 40, 1e-4)
    for b, want in enumerate(oracle.forward(*p)):
        assert_close(V[b], want.V, rtol=0, atol=1e-9)
        assert int(sweeps[b]) == want.sweeps


def assert_near(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` times the largest entry."""
    assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()) + 1e-12)


@pytest.mark.parametrize("prox_lam", [1e-2, 1.0])
@pytest.mark.parametrize("size", [size for size in SIZES if size != "larger"])
def test_adjoint_is_the_linear_system(size: str, prox_lam: float) -> None:
    """Against one dense solve, where the forward pass has converged."""
    p, solution, grad = converged(size, "some given")
    U = kernel_adjoint(p.S, *solution[1:3], p.given, grad, prox_lam, 10_000, 1e-13)
    for b, found in enumerate(as_oracle(p, solution)):
        assert_near(U[b], exact_adjoint(p.S, found.V, found.norms, p.given[b], grad[b], prox_lam))


UNIQUE = {  # batch, n, m, aux, k, truth
    "more columns than rows": (3, 8, 14, 3, 12, 1),
    "odd": (3, 13, 9, 6, 12, 8),
    "k below the square root": (3, 13, 9, 6, 5, 8),
    "low rank": (3, 19, 3, 7, 9, 40),
    "low rank, whole tiles": (3, 18, 4, 0, 16, 40),
    "m = 1": (3, 12, 1, 0, 6, 40),
}


@cache
def unique(name: str, share_given: float) -> tuple[Problem, tuple[Tensor, ...], Tensor]:
    """A problem with one solution, that solution, and a gradient of the outputs."""
    *sizes, truth = UNIQUE[name]
    p = make_problem(*sizes, truth=truth, share_given=share_given, seed=1)
    return p, cpu.mixing(*p, 2000, 0.0), torch.randn(p.z.shape, dtype=p.z.dtype)


@pytest.mark.parametrize("share_given", [0.0, 0.4])
@pytest.mark.parametrize("name", UNIQUE)
def test_gradients_without_damping_are_the_linear_systems(name: str, share_given: float) -> None:
    """prox_lam = 0: rotations about the given vectors may change U, but no gradient."""
    (S, z, given, start), solution, grad = unique(name, share_given)
    U = kernel_adjoint(S, *solution[1:3], given, grad, 0.0, 10_000, 1e-13)
    for b, found in enumerate(as_oracle(Problem(S, z, given, start), solution)):
        want = exact_adjoint(S, found.V, found.norms, given[b], grad[b], 0.0)
        assert_near(oracle.weight_gradient(S, found.V, U[b]), oracle.weight_gradient(S, found.V, want))
        got_z, want_z = (oracle.input_gradient(S, found.V, u, z[b], given[b], start, grad[b]) for u in (U[b], want))
        assert_near(got_z, want_z)


@pytest.mark.parametrize("share_given", [0.0, 0.4])
@pytest.mark.parametrize("name", ["more columns than rows", "odd", "low rank"])
def test_gradients_are_the_oracle(name: str, share_given: float) -> None:
    """dS and dz of the batch, from the kernels and from the oracle's own coordinate descent, both to convergence."""
    p, solution, grad = unique(name, share_given)
    want_S, want_z = oracle.backward(*p, as_oracle(p, solution), grad, prox_lam=0.05, max_iter=500, eps=1e-16)
    U = kernel_adjoint(p.S, *solution[1:3], p.given, grad, 0.05, 1000, 1e-13)
    assert_near(op.weight_gradient(p.S, solution[1], U), want_S)
    assert_near(grad * p.given + op.input_gradient(p.S, U, torch.zeros_like(U), p.z, p.given, p.start), want_z)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), [(9, 6), (25, 4)])
def test_weight_and_input_gradient(n: int, m: int, dtype: torch.dtype) -> None:
    """The products after the linear system, both forms of dS (N <= 2m and not), on any V and U."""
    S, z, given, start = make_problem(4, n, m, aux=3, k=7, dtype=dtype)
    V, U = torch.randn(2, 4, *start.shape, dtype=dtype)
    grad = torch.randn_like(z)
    want_S = sum(oracle.weight_gradient(S, v, u) for v, u in zip(V, U, strict=True))
    want_z = torch.stack([oracle.input_gradient(S, V[b], U[b], z[b], given[b], start, grad[b]) for b in range(4)])
    precise = dtype == torch.float64
    tolerances = {"rtol": 1e-10, "atol": 1e-11} if precise else {"rtol": 1e-4, "atol": 1e-4}
    assert_close(op.weight_gradient(S, V, U), want_S, **tolerances)
    assert_close(grad * given + op.input_gradient(S, U, torch.zeros_like(U), z, given, start), want_z, **tolerances)


def test_gradient_products_take_a_batch_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    S, z, given, start = make_problem(5, 9, 6, aux=3, k=7)
    V, U = torch.randn(2, 5, *start.shape, dtype=S.dtype)
    grad = torch.randn_like(z)
    whole = op.weight_gradient(S, V, U), grad * given + op.input_gradient(S, U, torch.zeros_like(U), z, given, start)
    monkeypatch.setattr(op, "_chunks", lambda x: x.split(2))
    assert_close(op.weight_gradient(S, V, U), whole[0])
    assert_close(grad * given + op.input_gradient(S, U, torch.zeros_like(U), z, given, start), whole[1])


def test_slices_hold_a_sample_at_least_and_16_megabytes_at_most() -> None:
    assert [len(x) for x in op._chunks(torch.empty(3, 2**12, 2**11, device="meta"))] == [1, 1, 1]
    assert [len(x) for x in op._chunks(torch.empty(9, 2**11, 2**9, device="meta"))] == [4, 4, 1]
    assert [len(x) for x in op._chunks(torch.empty(9, 3, 2))] == [9]
    assert op._chunks(torch.empty(0, 3, 2)) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batch(dtype: torch.dtype) -> None:
    S, z, given, start = make_problem(0, 6, 4, aux=1, k=8, dtype=dtype)
    out, V, norms, sweeps, decreases = cpu.mixing(S, z, given, start, 40, 1e-4)
    assert out.shape == (0, 6) and V.shape == (0, 8, 8) and norms.shape == (0, 8)
    assert sweeps.shape == decreases.shape == (0,)
    U = cpu.adjoint(S, V, norms, given, V, 1e-2, 40, 1e-4)
    assert U.shape == (0, 8, 8)
    assert_close(op.weight_gradient(S, V, U), torch.zeros_like(S))
    assert op.input_gradient(S, U, U, z, given, start).shape == (0, 6)


def test_momentum_is_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    """common.MOMENTUM reaches the kernel, take-backs included: 0 gives the paper's sweeps, and 0.95 overshoots."""
    p = problem("odd", "some given")
    for momentum in (0.0, common.MOMENTUM, 0.95):
        monkeypatch.setattr(cpu, "MOMENTUM", momentum)
        _, V, _, sweeps, _ = cpu.mixing(*p, 40, 1e-4)
        for b, want in enumerate(oracle.forward(*p, momentum=momentum)):
            assert_close(V[b], want.V, rtol=0, atol=1e-8)
            assert int(sweeps[b]) == want.sweeps


@pytest.mark.parametrize("size", ["odd", "low rank", "both forms in one batch", "n = 1"])
@pytest.mark.parametrize("share", SHARES)
def test_every_output_is_written(size: str, share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that comes as NaN leaves none behind."""
    p = problem(size, share)
    grad = torch.randn_like(p.z)
    want = cpu.mixing(*p, 40, 1e-4)
    want_U = cpu.adjoint(p.S, *want[1:3], p.given, op.output_gradient(want[1], p.given, grad), 1e-2, 40, 1e-4)
    poisoned = []

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate_poisoned(*args: Any, **kwargs: Any) -> Tensor:
            memory = allocate(*args, **kwargs)
            poisoned.append(memory)
            return memory.fill_(float("nan") if memory.dtype.is_floating_point else -(2**40))

        return allocate_poisoned

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
    got = cpu.mixing(*p, 40, 1e-4)
    got_U = cpu.adjoint(p.S, *got[1:3], p.given, op.output_gradient(got[1], p.given, grad), 1e-2, 40, 1e-4)
    assert len(poisoned) >= 4  # out, V, norms, U
    for g, w in zip((*got, got_U), (*want, want_U), strict=True):
        assert torch.equal(g, w)


def test_given_rows_and_the_truth_row_have_no_adjoint() -> None:
    p, solution, grad = converged("odd", "some given")
    U = kernel_adjoint(p.S, *solution[1:3], p.given, grad, 1e-2, 40, 1e-4)
    fixed = torch.cat((torch.ones(5, 1, dtype=torch.bool), p.given, torch.zeros(5, 6, dtype=torch.bool)), 1)
    assert (U[fixed] == 0).all() and (U[~fixed].abs().sum(-1) > 0).all()
    tangent = (U * solution[1]).sum(-1)
    assert_close(tangent, torch.zeros_like(tangent), rtol=0, atol=1e-12 * float(U.abs().max()))


@pytest.fixture
def always_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches on several threads too."""
    monkeypatch.setattr(_backends, "_OPERATIONS_WORTH_A_THREAD", 0)


def solve(p: Problem, grad: Tensor) -> tuple[Tensor, ...]:
    out, V, norms, sweeps, decreases = cpu.mixing(*p, 40, 1e-4)
    U = cpu.adjoint(p.S, V, norms, p.given, op.output_gradient(V, p.given, grad), 1e-2, 40, 1e-4)
    return out, V, norms, sweeps, decreases, U


def assert_same_bits(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w), f"{int((g != w).sum())} of {g.numel()} entries differ"


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_of_a_sample_is_its_own_to_the_bit(dtype: torch.dtype, always_threads: None) -> None:
    """Neither the order of a batch nor its company change a bit, on any number of threads."""
    p = make_problem(23, 21, 5, aux=4, k=11, dtype=dtype, share_given=0.5)
    n_free = (~p.given).sum(1) + 4
    assert n_free.min() <= kernels.GRAM_LIMIT * 5 < n_free.max(), "both forms must be there"
    grad = torch.randn_like(p.z)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        want = solve(p, grad)
        order = torch.randperm(23)
        permuted = solve(Problem(p.S, p.z[order], p.given[order], p.start), grad[order])
        assert_same_bits(permuted, tuple(w[order] for w in want))
        for part in (slice(0, 1), slice(1, 8), slice(8, 23)):
            alone = solve(Problem(p.S, p.z[part], p.given[part], p.start), grad[part])
            assert_same_bits(alone, tuple(w[part] for w in want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "m"), [(22, 133), (26, 5), (26, 4), (146, 72)])
def test_number_of_threads_changes_no_bit(rows: int, m: int, dtype: torch.dtype, always_threads: None) -> None:
    """C = S S' included, which BLAS rounds differently on 3 threads or 8."""
    p = make_problem(9, rows - 1, m, k=11, dtype=dtype)
    grad = torch.randn_like(p.z)
    want = solve(p, grad)
    for threads in (2, 3, 4, 5, 8, 64):
        torch.set_num_threads(threads)
        gram_module._kept = ()
        assert_same_bits(solve(p, grad), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "m"), [(1, 1), (5, 3), (26, 30), (147, 72)])
def test_the_gram_matrix(rows: int, m: int, dtype: torch.dtype) -> None:
    S = torch.randn(rows, m, dtype=dtype)
    C = gram_module.gram(S)
    assert_close(C, S @ S.T)
    assert torch.equal(C, C.T)


def test_a_kept_gram_matrix_is_that_of_s_as_it_is_now() -> None:
    """Changes that no version counter sees included; and it is kept."""
    S = torch.randn(9, 5)
    first = gram_module.gram(S)
    assert gram_module.gram(S.clone()) is first
    S.data[3] += 1
    assert_close(gram_module.gram(S), S @ S.T)
    S.numpy()[4] = 2
    assert_close(gram_module.gram(S), S @ S.T)
    assert_close(gram_module.gram(S.double()), S.double() @ S.double().T)
    assert_close(gram_module.gram(S.view(5, 9)), S.view(5, 9) @ S.view(5, 9).T)
    for _ in range(9):
        gram_module.gram(torch.randn(9, 5))
    assert len(gram_module._kept) == 4 and gram_module.gram(S) is not first


def test_threads_are_used(monkeypatch: pytest.MonkeyPatch, always_threads: None) -> None:
    """torch.set_num_threads decides; each thread runs the kernel once."""
    seen: list[int] = []

    def kernel(ticket: Any, out: Any) -> None:
        seen.append(threading.get_ident())
        while (b := int(ticket[0])) < len(out):
            ticket[0] += 1
            out[b] = b

    torch.set_num_threads(3)
    out = torch.zeros(7).numpy()
    _backends.run_threads(kernel, [], [out], 1e9)
    assert len(seen) == 3 and threading.get_ident() not in seen and out.tolist() == list(range(7))
    seen.clear()
    torch.set_num_threads(1)
    _backends.run_threads(kernel, [], [out], 1e8)
    assert seen == [threading.get_ident()]
    seen.clear()
    _backends.run_threads(kernel, [], [out], 1e9)  # long: one other thread, so that this one hears Ctrl-C
    assert len(seen) == 1 and threading.get_ident() not in seen


def test_error_on_a_thread_is_raised(always_threads: None) -> None:
    def kernel(ticket: Any, out: Any) -> None:
        raise RuntimeError("from the kernel")

    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="from the kernel"):
        _backends.run_threads(kernel, [], [torch.zeros(4).numpy()], 1e9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_calls_from_several_threads_at_once(dtype: torch.dtype, always_threads: None) -> None:
    torch.set_num_threads(2)
    problems = [make_problem(7, 15 + seed, 6, k=9, seed=seed, dtype=dtype) for seed in range(6)]
    grads = [torch.randn_like(p.z) for p in problems]
    want = [solve(p, grad) for p, grad in zip(problems, grads, strict=True)]
    got: dict[int, list[tuple[Tensor, ...]]] = {}

    def work(i: int) -> None:
        got[i] = [solve(problems[i], grads[i]) for _ in range(20)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(got) == list(range(6))
    for i, results in got.items():
        for result in results:
            assert_same_bits(result, want[i])


FORK = """
import os, warnings
import torch
from difflayers import _backends, functional
_backends._OPERATIONS_WORTH_A_THREAD = 0
torch.set_num_threads(2)
S, z = torch.randn(12, 6, requires_grad=True), torch.rand(8, 9)

def solve():
    S.grad = None
    out = functional.satnet(S, z, z < 0.4, generator=torch.Generator().manual_seed(0))
    out.sum().backward()
    return torch.cat((out.detach().flatten(), S.grad.flatten()))

want = solve()
assert _backends._pool is not None
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking a process that has threads
    child = os.fork()
if child == 0:
    forward = functional.satnet(S, z, z < 0.4, generator=torch.Generator().manual_seed(0))
    same = torch.equal(forward.detach().flatten(), want[: forward.numel()]) and _backends._pool is not None
    torch.set_num_threads(1)  # as DataLoader workers do: torch's own threads do not survive a fork
    os._exit(0 if same and torch.allclose(solve(), want) else 7)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no os.fork")
def test_forked_child_has_threads_of_its_own() -> None:
    """A DataLoader worker, say: its parent's threads are not there."""
    done = subprocess.run([sys.executable, "-c", FORK], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Largest(TorchDispatchMode):
    """The size in bytes of the largest memory that an operator returned a tensor on."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.size = max(self.size, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(("n", "m"), [(60, 50), (120, 50)])
def test_no_tensor_of_size_batch_rows_columns(n: int, m: int) -> None:
    """Nothing on the way there and back grows as B x N x m, nor as B x N x N."""
    S, z, given, _ = make_problem(30, n, m, k=8)
    S.requires_grad_(), z.requires_grad_()
    with Largest() as largest:
        functional.solve_satnet(S, z, given, k=8).value.sum().backward()
    B, N = 30, n + 1
    assert largest.size == 8 * max(B * N * 8, N * N)


def rough(dtype: torch.dtype) -> Iterator[tuple[str, Problem]]:
    """Problems with coordinates that nothing pulls at, or that pull at each other alike."""
    S, z, given, start = make_problem(3, 14, 6, aux=2, k=9, dtype=dtype)
    zero = S.clone()
    zero[[3, 8, 15]] = 0
    yield "zero rows", Problem(zero, z, given, start)
    twins = S.clone()
    twins[5:9] = twins[5]
    yield "duplicate rows", Problem(twins, z, given, start)
    opposite = S.clone()
    opposite[4] = -opposite[5]
    yield "opposite rows", Problem(opposite, z, given, start)
    alone = torch.zeros_like(S)
    alone[2, 0] = 1
    yield "one row only", Problem(alone, z, given, start)
    yield "S = 0", Problem(torch.zeros_like(S), z, given, start)
    yield "orthogonal rows", Problem(torch.eye(17, dtype=dtype), z, given, start)
    if dtype == torch.float64:  # |g| comes too near 0 for a comparison in float32
        yield "one column", Problem(S[:, :1].contiguous(), z, given, start)


@pytest.mark.parametrize("prox_lam", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_rows_are_the_oracle_and_finite(dtype: torch.dtype, prox_lam: float) -> None:
    for name, p in rough(dtype):
        grad = torch.randn_like(p.z)
        out, V, norms, _, _ = cpu.mixing(*p, 3, 0.0)
        U = kernel_adjoint(p.S, V, norms, p.given, grad, prox_lam, 40, 1e-4)
        for tensor in (out, V, norms, U):
            assert tensor.isfinite().all(), name
        exact = p.to(torch.float64)
        for b, want in enumerate(oracle.forward(*exact, max_iter=3, eps=0.0)):
            assert_close(V[b].double(), want.V, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-3, msg=name)
