"""The layer's gradients: gradcheck, the edges where formulas divide by zero, damping, quality at the default tolerance."""

import math
from collections.abc import Callable

import pytest
import torch
from satnet_problems import Problem, exact_adjoint, kernel_adjoint, make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional
from difflayers.satnet import common, cpu, op, oracle

EXACT = {"max_iter": 1000, "eps": 0.0, "prox_lam": 0.0}


def with_fixed_start(
    given: Tensor, k: int | None = None, seed: int = 0, **options: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """(S, z) -> the free outputs, from the same start in each call."""

    def solve(S: Tensor, z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return functional.satnet(S, z, given, k=k, generator=generator, **{**EXACT, **options})

    return solve


GRADCHECK = {  # batch, n, m, aux, k, truth
    "n = 1": (3, 1, 3, 0, 3, 2),
    "more columns than rows": (3, 5, 9, 0, 6, 1),
    "aux": (2, 5, 10, 3, 9, 1),
    "low rank": (2, 11, 3, 1, 8, 40),
    "m = 1": (2, 6, 1, 0, 6, 40),
    "k = 2": (2, 6, 9, 0, 2, 12),
}


@pytest.mark.parametrize("share_given", [0.0, 0.5])
@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name: str, share_given: float) -> None:
    """With torch's own step, 1e-6: of S and z at once, inputs below and above 1/2 and exactly there."""
    *sizes, truth = GRADCHECK[name]
    S, z, given, _ = make_problem(*sizes, truth=truth, share_given=share_given, share_exact=0, seed=3)
    solve = with_fixed_start(given, sizes[-1])
    if share_given:
        z[0, 0], given[0, 0] = 0.5, True
        z[1, 0], given[1, 0] = 0.7, True
        assert (z[given] < 0.5).any() and (z[given] > 0.5).any()
    assert torch.autograd.gradcheck(
        solve, (S.requires_grad_(), z.requires_grad_()), eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=False
    )


def test_gradcheck_covers_a_batch_of_any_shape_and_a_shared_mask() -> None:
    S, z, given, _ = make_problem(6, 4, 7, k=5, truth=2, share_exact=0, seed=2)
    S.requires_grad_()
    z = z.reshape(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(with_fixed_start(given.reshape(2, 3, 4), 5), (S, z), eps=1e-6, atol=1e-5, rtol=1e-4)


def off_centre(f: Callable[[float], Tensor], z: float, step: float = 1e-4) -> Tensor:
    """df/dz to fourth order from values in [0, 1] only: one-sided at 0 and 1."""
    if z < 0.1:
        weights = {0: -25 / 12, 1: 4, 2: -3, 3: 4 / 3, 4: -1 / 4}
    elif z > 0.9:
        weights = {0: 25 / 12, -1: -4, -2: 3, -3: -4 / 3, -4: 1 / 4}
    else:
        weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    return sum((w * f(z + i * step) for i, w in weights.items()), torch.tensor(0.0)) / step


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 1e-9, 1 - 1e-9, 1e-4, 0.3, 0.8])
@pytest.mark.parametrize("sizes", [(6, 9, 0, 7, 2), (11, 3, 1, 8, 40)], ids=["gram", "low rank"])
def test_gradient_of_an_input_at_the_ends_and_in_the_middle(
    value: float, sizes: tuple[int, int, int, int, int]
) -> None:
    n, m, aux, k, truth = sizes
    S, z, given, _ = make_problem(1, n, m, aux, k, truth=truth, share_given=0, share_exact=0, seed=4)
    given[0, :3] = True
    z[0, 1] = value
    solve = with_fixed_start(given, k)
    weights = torch.randn(n, dtype=z.dtype)

    def loss(value: float) -> Tensor:
        changed = z.clone()
        changed[0, 1] = value
        return solve(S, changed)[0] @ weights

    z.requires_grad_()
    (solve(S, z)[0] @ weights).backward()
    assert z.grad is not None and z.grad.isfinite().all()
    want = off_centre(loss, value)
    assert_close(z.grad[0, 1], want.to(z.dtype), rtol=1e-5, atol=1e-6)
    assert abs(want - weights[1]) > 1e-2, "more than the value passing through"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pass_through_is_exactly_one(dtype: torch.dtype) -> None:
    """All given: the identity. And where only a given output is asked for, nothing else moves it."""
    S, z, given, _ = make_problem(4, 7, 5, aux=0, k=8, dtype=dtype)
    S.requires_grad_(), z.requires_grad_()
    all_given = torch.ones_like(given)
    for mask in (all_given, given):
        S.grad = z.grad = None
        weights = torch.where(mask, torch.randn_like(z), 0)
        out = functional.satnet(S, z, mask)
        assert torch.equal(out[mask], z[mask])
        (out * weights).sum().backward()
        assert z.grad is not None and torch.equal(z.grad, weights)
        assert S.grad is not None and (S.grad == 0).all()


def test_z_has_no_gradient_where_it_is_not_given() -> None:
    S, z, given, _ = make_problem(6, 7, 9, aux=2, k=10)
    z.requires_grad_()
    functional.satnet(S, z, given).square().sum().backward()
    assert z.grad is not None and (z.grad[~given] == 0).all() and (z.grad[given] != 0).any()


def test_values_that_are_not_given_are_not_used() -> None:
    S, z, given, _ = make_problem(6, 7, 9, aux=2, k=10)
    other = torch.where(given, z, torch.rand_like(z))
    solve = with_fixed_start(given)
    assert torch.equal(solve(S, z), solve(S, other))


def test_gradient_only_of_what_asks_for_it() -> None:
    S, z, given, _ = make_problem(2, 5, 7, k=8)
    solve = with_fixed_start(given)
    S_in, z_in = S.clone().requires_grad_(), z.clone().requires_grad_()
    solve(S_in, z_in).square().sum().backward()
    S_only, z_only = S.clone().requires_grad_(), z.clone().requires_grad_()
    solve(S_only, z).square().sum().backward()
    solve(S, z_only).square().sum().backward()
    assert S_in.grad is not None and z_in.grad is not None and S_only.grad is not None and z_only.grad is not None
    assert_close(S_only.grad, S_in.grad)
    assert_close(z_only.grad, z_in.grad)
    assert not solve(S, z).requires_grad


@pytest.mark.parametrize("prox_lam", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_of_exactly_0_and_1_have_finite_gradients(dtype: torch.dtype, prox_lam: float) -> None:
    """One free variable, all others on the truth axis: its vector is plus or minus v_T, where arccos has no derivative."""
    S = torch.randn(5, 6, dtype=dtype).requires_grad_()
    z = torch.tensor([[0, 1, 0.5, 1], [1, 1, 0.5, 1], [0, 0, 0.5, 0], [1, 0, 0.5, 0]], dtype=dtype).requires_grad_()
    given = torch.tensor([True, True, False, True]).expand(4, 4)
    out = functional.satnet(S, z, given, prox_lam=prox_lam)
    assert set(out[:, 2].tolist()) == {0.0, 1.0}
    out.sum().backward()
    assert S.grad is not None and z.grad is not None
    assert (S.grad == 0).all()
    assert torch.equal(z.grad, given.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_next_to_0_and_1(dtype: torch.dtype) -> None:
    """A vector a hair off the truth axis: 1 / sin(pi z) is huge, dz/dS is not."""
    epsilon = 1e-6 if dtype == torch.float32 else 1e-12
    S = torch.tensor([[1.0, 0.0], [1.0, 0.0], [epsilon, 1.0]], dtype=dtype).requires_grad_()
    z, given = torch.tensor([[0.0, 0.5]], dtype=dtype), torch.tensor([[False, True]])
    S.data[1, 1] = epsilon
    functional.satnet(S, z, given, k=4, prox_lam=0, eps=1e-6)[0, 0].backward()
    # g = (s_1 . s_0) v_T + (s_1 . s_2) r: z = arctan(|s_1 . s_2| / |s_1 . s_0|) / pi away from 0 or 1
    assert S.grad is not None and S.grad.isfinite().all()
    want = torch.zeros_like(S)
    want[1], want[2] = S[2].detach(), S[1].detach()
    sign = 1 if S.grad[1, 1] > 0 else -1
    assert_close(S.grad, sign * want / math.pi, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prox_lam", [0.0, 1e-2])
def test_an_awkward_coordinate_costs_no_other_its_gradient(dtype: torch.dtype, prox_lam: float) -> None:
    """A zero row has |g| = 0 and no derivative. The others have theirs, as if it were not there."""
    p = make_problem(3, 6, 9, k=7, truth=2, share_given=0.3, share_exact=0, seed=6)
    S, z, given = (
        torch.cat((p.S, p.S.new_zeros(1, 9))),
        torch.cat((p.z, p.z[:, :1]), 1),
        torch.cat((p.given, torch.zeros(3, 1, dtype=torch.bool)), 1),
    )
    start = torch.cat((p.start, p.start[1:2]))
    grad = torch.randn(3, 7, dtype=torch.float64)
    options = (2000, 1e-13 if dtype == torch.float64 else 1e-6)

    def gradients(p: Problem, grad: Tensor) -> tuple[Tensor, Tensor]:
        p, grad = p.to(dtype), grad.to(dtype)
        solution = cpu.mixing(*p, *options)
        U = kernel_adjoint(p.S, *solution[1:3], p.given, grad, prox_lam, *options)
        return oracle.weight_gradient(p.S, solution[1][0], U[0]), U[0]

    with_zero, U = gradients(Problem(S, z, given, start), grad)
    without, _ = gradients(p, grad[:, :6])
    assert with_zero.isfinite().all() and U.isfinite().all()
    tolerance = 1e-6 if dtype == torch.float64 else 1e-3
    assert_close(with_zero[:7], without, rtol=tolerance, atol=tolerance)
    assert without.abs().max() > 1e-2


def awkward(dtype: torch.dtype) -> dict[str, Tensor]:
    S = torch.randn(9, 6, dtype=dtype)
    cases = {name: S.clone() for name in ("zero row", "zero truth", "duplicate", "opposite", "tiny row", "huge row")}
    cases["zero row"][3] = 0
    cases["zero truth"][0] = 0
    cases["duplicate"][3:6] = S[3]
    cases["opposite"][4] = -S[3]
    cases["tiny row"][3] *= 1e-30
    cases["huge row"][3] *= 1e15
    cases["zero"] = torch.zeros_like(S)
    cases["identity"] = torch.eye(9, 6, dtype=dtype)
    return cases


@pytest.mark.parametrize("prox_lam", [0.0, 1e-2])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(awkward(torch.float32)))
def test_gradients_are_finite(name: str, dtype: torch.dtype, eps: float, prox_lam: float) -> None:
    S = awkward(dtype)[name].requires_grad_()
    z = torch.tensor([[0, 1, 0.5, 0.3, 0, 1, 0.5, 0.7]] * 3, dtype=dtype).requires_grad_()
    given = torch.tensor([[False] * 8, [True, True, True, False] * 2, [True] * 7 + [False]])
    for k in (None, 1, 2):
        out = functional.satnet(S, z, given, k=k, eps=eps, prox_lam=prox_lam, max_iter=200)
        assert ((out >= 0) & (out <= 1)).all()
        S.grad = z.grad = None
        out.square().sum().backward()
        assert S.grad is not None and z.grad is not None
        assert S.grad.isfinite().all() and z.grad.isfinite().all()


def test_eps_0_gives_the_exact_derivative() -> None:
    """The backward solve then runs until rounding, and past it, without harm."""
    S, z, given, _ = make_problem(3, 5, 9, k=6, truth=2, share_exact=0, seed=3)
    gradients = []
    for eps in (0.0, 1e-14):
        S_in, z_in = S.clone().requires_grad_(), z.clone().requires_grad_()
        with_fixed_start(given, 6, eps=eps)(S_in, z_in).square().sum().backward()
        gradients.append((S_in.grad, z_in.grad))
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_prox_lam_damps_and_is_in_the_units_of_s() -> None:
    """The system is (|g_i| + prox_lam): scaling S by c and prox_lam by c^2 scales dS by 1 / c, and a large one halves U."""
    S, z, given, _ = make_problem(4, 7, 9, aux=1, k=9, truth=2)

    def gradient(scale: float, prox_lam: float) -> Tensor:
        scaled = (scale * S).requires_grad_()
        options = {"max_iter": 2000, "eps": 1e-13, "prox_lam": prox_lam}
        with_fixed_start(given, 9, **options)(scaled, z).square().sum().backward()
        assert scaled.grad is not None
        return scaled.grad

    plain = gradient(1, 1e-2)
    for scale in (0.01, 8.0, 300.0):
        assert_close(scale * gradient(scale, 1e-2 * scale**2), plain, rtol=1e-5, atol=1e-7)
    sizes = [float(gradient(1, prox_lam).norm()) for prox_lam in (0.0, 1e-2, 1.0, 1e2, 1e4)]
    assert sizes == sorted(sizes, reverse=True)
    assert gradient(1, 2e6).norm() == pytest.approx(float(gradient(1, 1e6).norm()) / 2, rel=1e-4)


def test_create_graph_without_a_second_derivative_is_fine() -> None:
    S, z, given, _ = make_problem(2, 5, 7, k=8)
    S.requires_grad_()
    out = with_fixed_start(given)(S, z).square().sum()
    (plain,) = torch.autograd.grad(out, S, retain_graph=True)
    (tracked,) = torch.autograd.grad(out, S, create_graph=True)
    assert_close(tracked.detach(), plain)


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_gradient_is_as_good_as_coordinate_descents_at_default_tolerances() -> None:
    """Against the solution of the same linear system: at most the error of coordinate descent after as many sweeps."""
    kernel, descent = [], []
    for seed in range(12):
        p = make_problem(1, 24, 14, 6, 8, seed=seed)
        dz = torch.randn(24, dtype=torch.float64)
        out, V, norms, sweeps, decreases = cpu.mixing(*p, 40, 1e-4)
        lengths = norms[0] * common.scaling(p.S) ** 2
        solution = oracle.Solution(out[0], V[0], lengths, int(sweeps[0]), float(decreases[0]))
        exact = oracle.weight_gradient(p.S, V[0], exact_adjoint(p.S, V[0], lengths, p.given[0], dz, 1e-2))
        U, _ = oracle.coordinate_descent(p.S, solution, p.given[0], dz, max_iter=solution.sweeps, eps=0.0)
        descent.append(relative_error(oracle.weight_gradient(p.S, V[0], U), exact))
        U = kernel_adjoint(p.S, V, norms, p.given, dz[None], 1e-2, 40, 1e-4)[0]
        kernel.append(relative_error(oracle.weight_gradient(p.S, V[0], U), exact))
    assert sum(kernel) <= sum(descent), (kernel, descent)
    assert max(kernel) < 1


@pytest.mark.parametrize("max_iter", [1, 2, 5])
def test_a_sample_that_has_not_converged_does_not_drown_the_batch(max_iter: int) -> None:
    """There the system need not be positive definite. Along a flat direction, T sweeps amplify by T at most; so does this."""
    for seed in range(20):
        p = make_problem(4, 24, 8, 6, 8, seed=seed)
        dz = torch.randn_like(p.z)
        out, V, norms, _, _ = cpu.mixing(*p, max_iter, 0.0)
        U = kernel_adjoint(p.S, V, norms, p.given, dz, 0.0, max_iter, 0.0)
        real_norms = norms * common.scaling(p.S) ** 2
        for b in range(4):
            solution = oracle.Solution(out[b], V[b], real_norms[b], max_iter, 1.0)
            first, _ = oracle.coordinate_descent(p.S, solution, p.given[b], dz[b], prox_lam=0, max_iter=1)
            assert U[b].norm() <= 3 * (max_iter + 1) * first.norm()
            assert U[b].norm() >= 0.1 * first.norm()  # cut off, but never to nothing


def sweep_decrease(p: Problem, V: Tensor, lengths: Tensor, given: Tensor, dz: Tensor, U: Tensor) -> float:
    """By how much one sweep of coordinate descent from U would lower q(U)."""
    C, dV, U = p.S @ p.S.T, oracle.output_gradient(V, given, dz), U.clone()
    decrease = 0.0
    for i in oracle.free_coordinates(given, len(V)):
        step = oracle.other_vectors(C, i, U) + dV[i]
        u = -(step - (V[i] @ step) * V[i]) / lengths[i]
        decrease += float(0.5 * lengths[i] * (u - U[i]).square().sum())
        U[i] = u
    return decrease


@pytest.mark.parametrize("tolerance", [3e-2, 1e-3, 1e-6])
def test_the_backward_solve_stops_where_it_says(tolerance: float) -> None:
    """The squared residual is twice what one more sweep would lower q by: at most `tolerance` times what it was at U = 0."""
    for seed in range(6):
        p = make_problem(4, 20, 24, 4, 8, seed=seed)
        dz = torch.randn_like(p.z)
        _, V, norms, _, _ = cpu.mixing(*p, 500, 1e-10)
        pull = op.output_gradient(V, p.given, dz)
        U, iterations = cpu.solve_adjoint(p.S, V, norms, p.given, pull, 0.1, 500, tolerance)
        lengths = norms * common.scaling(p.S) ** 2 + 0.1
        for b in range(4):
            u = U[b] / common.scaling(p.S) ** 2
            first = sweep_decrease(p, V[b], lengths[b], p.given[b], dz[b], torch.zeros_like(u))
            last = sweep_decrease(p, V[b], lengths[b], p.given[b], dz[b], u)
            assert 0 < iterations[b] < 100 and last <= tolerance * first * (1 + 1e-9)


@pytest.mark.parametrize("exponent", [-120, -100, -75, -60, -20, 20, 60, 100])
@pytest.mark.parametrize("given", [0.0, 0.4])
def test_gradients_scale_with_the_loss_however_small_or_large(given: float, exponent: int) -> None:
    """In float32 squares of 2^-75 vanish and those of 2^64 overflow: a chain of layers gets there."""
    p = make_problem(4, 9, 8, 3, 8, share_given=given, seed=1).to(torch.float32)
    dz = torch.randn_like(p.z)
    _, V, norms, _, _ = cpu.mixing(*p, 40, 1e-4)
    want = cpu.adjoint(p.S, V, norms, p.given, op.output_gradient(V, p.given, dz), 1e-2, 40, 1e-4)
    scale = 2.0**exponent
    got = cpu.adjoint(p.S, V, norms, p.given, op.output_gradient(V, p.given, dz * scale), 1e-2, 40, 1e-4)
    # a power of two changes no digit, but for what falls below the smallest normal number
    assert_close(got, want * scale, rtol=0, atol=2.0**-126 if exponent < -90 else 0)
