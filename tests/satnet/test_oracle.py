"""The oracle, and with it the layer, against cvxpy's SDP optimum; the oracle's gradients against differences of itself."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from satnet_problems import Problem, exact_adjoint, make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional, verify
from difflayers.functional._satnet import random_start
from difflayers.satnet import oracle

# n, m, aux, share of given variables, share of exact (0, 1/2, 1) values, seed; m >= N: the optimum is unique
INSTANCES = [
    (n, n + 1 + aux + extra, aux, given, exact, seed)
    for seed, (n, aux, extra) in enumerate([(2, 0, 0), (3, 1, 2), (4, 0, 1), (5, 2, 0), (6, 0, 3), (7, 1, 0)])
    for given, exact in [(0.0, 0.0), (0.3, 1.0), (0.5, 0.0), (0.5, 0.3), (0.8, 0.3), (1.0, 0.5)]
]


def instance(n: int, m: int, aux: int, given: float, exact: float, seed: int) -> tuple[Problem, int, int]:
    """A problem of one sample with the start that the layer draws, its k, and the seed of that draw."""
    p = make_problem(1, n, m, aux, share_given=given, share_exact=exact, seed=100 * seed + int(10 * given))
    k = n + 1 + aux
    start = random_start(k, k, p.S.dtype, p.S.device, torch.Generator().manual_seed(seed))
    return p._replace(start=start), k, seed


def layer(p: Problem, k: int, seed: int, **options: float) -> functional.SATNetSolution:
    generator = torch.Generator().manual_seed(seed)
    return functional.solve_satnet(p.S, p.z[0], p.given[0], k=k, generator=generator, **options)


@pytest.mark.parametrize("sizes", INSTANCES, ids=str)
def test_oracle_and_layer_reach_the_sdps_optimum(sizes: tuple[int, int, int, float, float, int]) -> None:
    p, k, seed = instance(*sizes)
    optimum = verify.satnet(p.S, p.z[0], p.given[0], k=k, generator=torch.Generator().manual_seed(seed))
    scale = float(p.S.square().sum())
    found = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=400, eps=1e-13)
    assert abs(oracle.objective(p.S, found.V) - optimum.objective) < 1e-7 * scale
    assert_close(found.z, optimum.z, rtol=0, atol=1e-4)
    solved = layer(p, k, seed, max_iter=20_000, eps=1e-15)
    assert abs(solved.objective - optimum.objective) < 1e-7 * scale
    assert_close(solved.value, optimum.z, rtol=0, atol=2e-5)


def certificate(S: Tensor, V: Tensor, norms: Tensor, given: Tensor) -> float:
    """The least eigenvalue of diag(|g|) + C_off on the free rows: where it is not negative, V is an optimum of the SDP.

    By duality: f(X) = <C_free + diag(y), X_free> + <2 C_free,fixed, X_free,fixed> - sum y + constant on the feasible set,
    and with y_i = |g_i| - C_ii that is convex in the vectors and stationary at V.
    """
    free = oracle.free_coordinates(given, len(S))
    if not free:
        return 0.0
    C = S[free] @ S[free].T
    return float(torch.linalg.eigvalsh(C - torch.diag(torch.diag(C)) + torch.diag(norms[free]))[0])


@pytest.mark.parametrize("sizes", INSTANCES, ids=str)
def test_oracle_certifies_its_own_optimum(sizes: tuple[int, int, int, float, float, int]) -> None:
    """Without any solver: a dual solution of the same value."""
    p, _, _ = instance(*sizes)
    found = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=400, eps=1e-13)
    assert certificate(p.S, found.V, found.norms, p.given[0]) > -1e-4
    for i in oracle.free_coordinates(p.given[0], len(p.S)):
        g = oracle.other_vectors(p.S @ p.S.T, i, found.V)
        assert_close(found.V[i] * found.norms[i], -g, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_layer_reaches_the_sdps_optimum_on_many(seed: int) -> None:
    n, aux = 2 + seed % 9, seed % 4
    p, k, _ = instance(n, n + 1 + aux + seed % 3, aux, (seed % 10) / 9, (seed % 4) / 3, seed)
    optimum = verify.satnet(p.S, p.z[0], p.given[0], k=k, generator=torch.Generator().manual_seed(seed))
    solved = layer(p, k, seed, max_iter=50_000, eps=1e-15)
    assert abs(solved.objective - optimum.objective) < 1e-7 * float(p.S.square().sum())
    assert_close(solved.value, optimum.z, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("n", "aux"), [(6, 0), (14, 3), (24, 2)])
def test_default_k_is_enough_for_exact_inputs(n: int, aux: int) -> None:
    p = make_problem(1, n, n + 1 + aux, aux, share_given=0.3, share_exact=1.0, seed=n)
    z = p.z.round()  # 0 and 1 only: all given vectors lie on the v_T axis
    generator = torch.Generator().manual_seed(0)
    solved = functional.solve_satnet(p.S, z, p.given, generator=generator, max_iter=20_000, eps=1e-15)
    optimum = verify.satnet(p.S, z, p.given)
    assert abs(solved.objective - optimum.objective) < 1e-7 * float(p.S.square().sum())
    assert_close(solved.value, optimum.z, rtol=0, atol=5e-5)


def test_one_free_variable_in_closed_form() -> None:
    """v = -g / |g| with g = sum_j (s . s_j) v_j: oracle, layer and cvxpy agree with the formula."""
    for seed in range(5):
        p = make_problem(1, 4, 3, k=5, share_given=1.0, seed=seed)
        given = torch.tensor([[True, True, False, True]])
        start = random_start(5, 5, p.S.dtype, p.S.device, torch.Generator().manual_seed(seed))
        V = oracle.relax_inputs(p.z[0], given[0], start)
        g = (p.S @ p.S[3])[[0, 1, 2, 4]] @ V[[0, 1, 2, 4]]
        want = math.acos(float(g[0] / g.norm())) / math.pi
        solved = oracle.mixing(p.S, p.z[0], given[0], start)
        found = layer(Problem(p.S, p.z, given, start), 5, seed)
        optimum = verify.satnet(p.S, p.z, given, k=5, generator=torch.Generator().manual_seed(seed))
        objective = (p.S.T @ torch.cat((V[:3], -g[None] / g.norm(), V[4:]))).square().sum()
        for z in (solved.z, found.value, optimum.z[0]):
            assert float(z[2]) == pytest.approx(want, abs=1e-6)
            assert torch.equal(z[given[0]], p.z[given])
        for value in (oracle.objective(p.S, solved.V), found.objective, optimum.objective):
            assert_close(value.reshape(()), objective, rtol=1e-8, atol=1e-8)


def test_a_sweep_lowers_the_objective_by_what_it_says() -> None:
    """Coordinate by coordinate, without momentum: |g_i| |v_i_new - v_i_old|^2 each."""
    p = make_problem(1, 9, 6, 3, 7)
    start = oracle.relax_inputs(p.z[0], p.given[0], p.start)
    one = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=1, momentum=0)
    two = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=2, eps=0, momentum=0)
    f = [float(oracle.objective(p.S, V)) for V in (start, one.V, two.V)]
    assert f[0] > f[1] > f[2]
    assert one.relative_decrease == 1
    assert two.relative_decrease == pytest.approx((f[1] - f[2]) / (f[0] - f[1]), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_objective_never_rises(momentum: float) -> None:
    p = make_problem(1, 15, 6, 3, 7)
    values = [
        float(oracle.objective(p.S, oracle.mixing(p.S, p.z[0], p.given[0], p.start, **options).V))
        for sweeps in range(1, 13)
        for options in [{"max_iter": sweeps, "eps": 0.0, "momentum": momentum}]
    ]
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < 0.9 * values[0]


def test_stopping_rule() -> None:
    """The first sweep that lowers f by less than eps times the first one's is the last."""
    p = make_problem(1, 12, 9, 3, 7)
    for eps in (1e-1, 1e-3, 1e-5):
        solved = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=500, eps=eps, momentum=0)
        before = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=solved.sweeps - 1, eps=eps, momentum=0)
        assert solved.relative_decrease < eps <= before.relative_decrease
        assert 1 < solved.sweeps < 500


def central_difference(f: Callable[[Tensor], Tensor], x: Tensor, step: float) -> Tensor:
    """df/dx of a scalar function, entry by entry, to fourth order."""
    gradient = torch.empty_like(x)
    for i in range(x.numel()):
        e = torch.zeros_like(x)
        e.view(-1)[i] = step
        near, far = f(x + e) - f(x - e), f(x + 2 * e) - f(x - 2 * e)
        gradient.view(-1)[i] = (8 * near - far) / (12 * step)
    return gradient


@pytest.mark.parametrize("seed", range(4))
def test_oracles_gradients_are_differences_of_itself(seed: int) -> None:
    """dS and dz, of soft inputs and of exactly 0, 1/2 and 1: algorithm 1 has no need of z in [0, 1]."""
    p = make_problem(1, 5, 8, 1, 7, share_given=0.0, truth=2, seed=seed)
    z = p.z.clone()
    z[0, :4] = torch.tensor([0.0, 1.0, 0.5, 0.2 + 0.2 * seed])
    given = torch.tensor([[True, seed % 2 == 0, True, True, False]])
    dz = torch.randn_like(z)
    options = {"max_iter": 300, "eps": 1e-15}

    def loss(S: Tensor, z: Tensor) -> Tensor:
        return oracle.mixing(S, z[0], given[0], p.start, **options).z @ dz[0]

    solutions = oracle.forward(p.S, z, given, p.start, **options)
    dS, dz_in = oracle.backward(p.S, z, given, p.start, solutions, dz, prox_lam=0.0, max_iter=500, eps=1e-20)
    assert_close(dS, central_difference(lambda S: loss(S, z), p.S, 1e-3), rtol=1e-4, atol=1e-5)
    numeric = central_difference(lambda z: loss(p.S, z), z, 1e-3)
    assert_close(dz_in, torch.where(given, numeric, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prox_lam", [0.0, 0.1])
def test_coordinate_descent_solves_the_system_of_theorem_1(prox_lam: float) -> None:
    for seed in range(3):
        p = make_problem(1, 6, 9, 1, 8, truth=2, seed=seed)
        dz = torch.randn(6, dtype=torch.float64)
        solved = oracle.mixing(p.S, p.z[0], p.given[0], p.start, max_iter=300, eps=1e-15)
        U, _ = oracle.coordinate_descent(p.S, solved, p.given[0], dz, prox_lam=prox_lam, max_iter=500, eps=1e-20)
        want = exact_adjoint(p.S, solved.V, solved.norms, p.given[0], dz, prox_lam)
        dS = oracle.weight_gradient(p.S, solved.V, U)
        assert_close(dS, oracle.weight_gradient(p.S, solved.V, want), rtol=1e-6, atol=1e-7)
        assert dS.abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # of cvxpy: the assertions say whether it is
def test_gradients_are_differences_of_cvxpys_solution() -> None:
    """The layer's dS and dz against the SDP solver, differentiated numerically."""
    n, k, seed = 4, 6, 3
    p = make_problem(1, n, 7, 1, k, truth=2, seed=4)  # one that cvxpy solves to 1e-8
    z, given = torch.tensor([0.2, 0.7, 0.0, 0.0], dtype=torch.float64), torch.tensor([True, True, False, False])
    dz = torch.tensor([0.0, 0.0, 1.0, -0.7], dtype=torch.float64)

    def optimum(S: Tensor, z: Tensor) -> Tensor:
        return verify.satnet(S, z, given, k=k, generator=torch.Generator().manual_seed(seed)).z @ dz

    S_in, z_in = p.S.clone().requires_grad_(), z.clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    out = functional.satnet(S_in, z_in, given, k=k, max_iter=5000, eps=1e-15, prox_lam=0, generator=generator)
    (out @ dz).backward()
    assert S_in.grad is not None and z_in.grad is not None
    assert_close(S_in.grad, central_difference(lambda S: optimum(S, z), p.S, 2e-3), rtol=1e-4, atol=1e-4)
    numeric = central_difference(lambda y: optimum(p.S, torch.where(given, y, z)), z, 2e-3)
    assert_close(z_in.grad, numeric, rtol=1e-4, atol=1e-4)
    assert z_in.grad[given].abs().min() > 1e-2


def test_verify_takes_any_batch_and_mask() -> None:
    p = make_problem(4, 4, 6, 1, 6, share_exact=0)
    generator = torch.Generator()
    whole = verify.satnet(p.S, p.z, p.given, k=6, generator=generator.manual_seed(2))
    assert whole.z.shape == (4, 4) and whole.objective.shape == (4,)
    shaped = verify.satnet(
        p.S, p.z.reshape(2, 2, 4), p.given.reshape(2, 2, 4).int(), k=6, generator=generator.manual_seed(2)
    )
    assert_close(shaped.z.reshape(4, 4), whole.z)
    assert_close(shaped.objective.reshape(4), whole.objective)
    empty = verify.satnet(p.S, p.z[:0], p.given[:0])
    assert empty.z.shape == (0, 4) and empty.objective.shape == (0,)
    everything = verify.satnet(p.S, p.z[0], torch.ones(4, dtype=torch.bool), k=6)
    assert torch.equal(everything.z, p.z[0])
