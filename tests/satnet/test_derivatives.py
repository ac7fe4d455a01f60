"""Derivatives of any kind of the vectors and of the probabilities: reverse, forward, second, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from satnet_problems import make_problem
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from difflayers import functional

# torch's own, when it first loads its forward-mode rules
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")

EXACT = {"max_iter": 600, "eps": 0.0, "prox_lam": 0.0}
FUNCTIONS = {"probabilities": functional.satnet, "vectors": functional.satnet_vectors}
SIZES = {  # batch, n, m, aux, k, truth
    "gram": (2, 4, 8, 0, 4, 2),
    "aux": (1, 3, 6, 1, 4, 2),
    "low rank": (1, 8, 3, 0, 5, 40),
}


def function(
    name: str, what: str, share_given: float = 0.5
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """(S, z) -> what is asked for, where the optimum is unique, and S and z."""
    *sizes, truth = SIZES[name]
    S, z, given, start = make_problem(*sizes, truth=truth, share_given=share_given, share_exact=0, seed=4)
    given[:, 0], given[:, -1] = True, False

    def solve(S: Tensor, z: Tensor) -> Tensor:
        return FUNCTIONS[what](S, z, given, start=start, **EXACT)

    return solve, S, z


@pytest.mark.parametrize("what", FUNCTIONS)
@pytest.mark.parametrize("name", SIZES)
def test_gradcheck_in_reverse_and_forward_mode(name: str, what: str) -> None:
    solve, S, z = function(name, what)
    inputs = (S.requires_grad_(), z.requires_grad_())
    assert gradcheck(solve, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, check_forward_ad=True)


@pytest.mark.parametrize("what", FUNCTIONS)
@pytest.mark.parametrize("name", SIZES)
def test_gradgradcheck(name: str, what: str) -> None:
    solve, S, z = function(name, what)
    inputs = (S.requires_grad_(), z.requires_grad_())
    assert gradgradcheck(solve, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, check_fwd_over_rev=name != "low rank")


def test_torch_func_gives_the_same_jacobians_and_hessians_in_every_mode() -> None:
    solve, S, z = function("aux", "probabilities")
    by_rows, by_columns = jacrev(solve, (0, 1))(S, z), jacfwd(solve, (0, 1))(S, z)
    assert_close(by_rows, by_columns, rtol=1e-6, atol=1e-7)
    dS, dz = torch.randn_like(S), torch.randn_like(z)
    _, moved = jvp(solve, (S, z), (dS, dz))
    want = torch.einsum("bnij,ij->bn", by_rows[0], dS) + torch.einsum("bncj,cj->bn", by_rows[1], dz)
    assert_close(moved, want, rtol=1e-6, atol=1e-7)
    _, moved = jvp(lambda S: solve(S, z), (S,), (dS,))
    assert_close(moved, torch.einsum("bnij,ij->bn", by_rows[0], dS), rtol=1e-6, atol=1e-7)

    def loss(S: Tensor) -> Tensor:
        return solve(S, z).square().sum()

    found = [outer(inner(loss))(S) for outer, inner in ((jacrev, jacrev), (jacrev, jacfwd), (jacfwd, jacrev))]
    for hessian in found[1:]:
        assert_close(hessian, found[0], rtol=1e-5, atol=1e-6)
    n = S.numel()
    assert_close(found[0].reshape(n, n), found[0].reshape(n, n).T, rtol=1e-5, atol=1e-6)
    assert found[0].abs().max() > 1e-2


def test_forward_mode_over_forward_mode_is_refused() -> None:
    """torch would give zeros."""
    solve, S, z = function("aux", "vectors")
    with pytest.raises(NotImplementedError, match="SATNet has no forward mode over forward mode"):
        jacfwd(jacfwd(lambda S: solve(S, z).sum()))(S)


def test_forward_mode_of_each_sample() -> None:
    solve, S, z = function("gram", "vectors")
    tangents = torch.randn(3, *z.shape, dtype=z.dtype)
    moved = vmap(lambda t: jvp(lambda z: solve(S, z), (z,), (t,))[1])(tangents)
    for t, row in zip(tangents, moved, strict=True):
        assert_close(row, jvp(lambda z: solve(S, z), (z,), (t,))[1])
    assert moved.abs().max() > 0


def test_functions_of_the_vectors_are_plain_torch() -> None:
    """The learnt objective at its minimum: its derivative in S is the partial one, 2 V V'S (envelope theorem)."""
    S, z, given, start = make_problem(2, 5, 8, 1, 6, truth=2, share_exact=0, share_given=0.4)
    S.requires_grad_()
    V = functional.satnet_vectors(S, z, given, start=start, **EXACT)
    (dS,) = torch.autograd.grad((S.T @ V).square().sum(), S)
    V = V.detach()
    assert_close(dS, 2 * torch.einsum("bik,bjk,jm->im", V, V, S.detach()), rtol=1e-6, atol=1e-7)


def test_probabilities_are_those_of_the_vectors_and_have_their_gradients() -> None:
    S, z, given, start = make_problem(3, 6, 9, 1, 6, truth=2, share_exact=0)
    found = []
    for of_vectors in (False, True):
        S_in, z_in = S.clone().requires_grad_(), z.clone().requires_grad_()
        if of_vectors:
            V = functional.solve_satnet(S_in, z_in, given, start=start, **EXACT).vectors
            out = torch.arccos(-V[:, 1:7, 0]) / math.pi
        else:
            out = functional.satnet(S_in, z_in, given, start=start, **EXACT)
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), (S_in, z_in))))
    assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_at_outputs_of_exactly_0_and_1_are_finite(dtype: torch.dtype) -> None:
    S = torch.randn(5, 6, dtype=dtype)
    z = torch.tensor([[0, 1, 0.5, 1], [1, 1, 0.5, 1], [0, 0, 0.5, 0]], dtype=dtype)
    given = torch.tensor([True, True, False, True]).expand(3, 4)
    hessian = jacrev(grad(lambda S: functional.satnet(S, z, given).square().sum()))
    torch.manual_seed(0)
    assert (hessian(S) == 0).all()


def test_scale_of_S_does_not_matter_to_second_derivatives() -> None:
    solve, S, z = function("aux", "vectors")
    weights = torch.randn_like(solve(S, z))
    products = []
    for scale in (1.0, 2.0**-30, 2.0**300):
        hessian_product = jvp(grad(lambda S: (solve(S, z) * weights).sum()), (S * scale,), (S * scale,))[1]
        products.append(hessian_product * scale)
    assert_close(products[1], products[0], rtol=1e-6, atol=1e-8)
    assert_close(products[2], products[0], rtol=1e-6, atol=1e-8)
