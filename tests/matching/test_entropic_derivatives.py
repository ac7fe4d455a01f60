"""Derivatives of entropic matching, of both modes and orders."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev

from difflayers import functional

F64 = torch.float64
CHECK = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-4}
OPS = torch.ops.difflayers
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, when it first loads its rules


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 5)])
def test_gradcheck(n: int, m: int, epsilon: float) -> None:
    C, weight = rand(2, n, m, seed=n + m).requires_grad_(), torch.tensor(epsilon, dtype=F64, requires_grad=True)

    def solve(C: Tensor, weight: Tensor) -> Tensor:
        return functional.entropic_matching(C, weight, tolerance=1e-12)

    assert torch.autograd.gradcheck(solve, (C, weight), check_forward_ad=True, check_batched_grad=True, **CHECK)
    assert torch.autograd.gradgradcheck(solve, (C, weight), **CHECK)


@pytest.mark.parametrize(("slack", "births"), [(True, False), (False, True), (True, True)])
def test_gradcheck_with_what_stays_unmatched(slack: bool, births: bool) -> None:
    n, m = (3, 2) if slack else (2, 3)
    inputs = [rand(2, n, m), 0.1 + rand(2, seed=1), rand(n, seed=2), rand(2, m, seed=3)]
    for tensor in inputs:
        tensor.requires_grad_()

    def solve(C: Tensor, weight: Tensor, u: Tensor, p: Tensor) -> Tensor:
        options = {"unmatched_cost": u if slack else None, "unmatched_proposal_cost": p if births else None}
        return functional.entropic_matching(C, weight, tolerance=1e-12, **options)

    used = inputs if slack and births else [*inputs[:2], inputs[2 if slack else 3]]
    if slack and births:
        call = solve
    elif slack:

        def call(C, weight, u): return solve(C, weight, u, u)  # fmt: skip
    else:

        def call(C, weight, p): return solve(C, weight, p, p)  # fmt: skip

    assert torch.autograd.gradcheck(call, used, check_forward_ad=True, **CHECK)
    assert torch.autograd.gradgradcheck(call, used, **CHECK)


def test_gradcheck_with_masks_and_forbidden_pairs() -> None:
    C = rand(2, 4, 6).requires_grad_()
    rows, columns = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]]), torch.tensor([1, 0, 1, 1, 1, 1])
    forbidden = torch.zeros(4, 6, dtype=torch.bool)
    forbidden[0, 0] = forbidden[3, 2] = True

    def solve(C: Tensor) -> Tensor:
        return functional.entropic_matching(C.masked_fill(forbidden, math.inf), 0.2, rows, columns, tolerance=1e-12)

    assert torch.autograd.gradcheck(solve, C, **CHECK)
    (gradient,) = torch.autograd.grad(solve(C).square().sum(), C)
    there = (rows != 0)[:, :, None] & (columns != 0) & ~forbidden
    assert (gradient[~there] == 0).all() and gradient[there].abs().max() > 1e-3


def test_no_nan_reaches_a_gradient() -> None:
    clean, columns = rand(4, 6).requires_grad_(), torch.tensor([1, 1, 1, 0, 1, 1])
    weights = torch.randn(4, 6, dtype=F64)
    for options in ({}, {"unmatched_cost": 0.2}, {"unmatched_cost": 0.2, "unmatched_proposal_cost": 0.1}):
        want = functional.entropic_matching(clean, 0.1, None, columns, **options)
        (want_gradient,) = torch.autograd.grad((want * weights).sum(), clean)
        for value in (math.nan, math.inf, -math.inf, 1e300):
            spoiled = clean.detach().clone()
            spoiled[:, 3] = value
            got = functional.entropic_matching(spoiled.requires_grad_(), 0.1, None, columns, **options)
            (gradient,) = torch.autograd.grad((got * weights).sum(), spoiled)
            assert torch.equal(got, want) and torch.equal(gradient, want_gradient)


def solve(C: Tensor) -> Tensor:
    return functional.entropic_matching(C, 0.1)


def loss(C: Tensor) -> Tensor:
    return solve(C).square().sum()


def test_what_has_no_derivative_is_refused_by_name() -> None:
    C = rand(3, 4)
    for third in (jacrev(hessian(loss)), jacrev(jacrev(grad(loss)))):
        with pytest.raises(NotImplementedError, match="entropic matching has no third derivatives"):
            third(C)
    with pytest.raises(NotImplementedError, match="jacfwd of jacrev"):
        jacfwd(jacfwd(loss))(C)


def test_a_solution_has_no_gradient_but_its_value_and_prints() -> None:
    solved = functional.solve_entropic(rand(2, 3, 5).requires_grad_(), 0.1)
    value, *fields = solved
    assert value.requires_grad and not any(field.requires_grad for field in fields)
    text = str(solved)
    assert text.startswith("EntropicSolution of 2 problems") and "converged" in text and "yes" in text
