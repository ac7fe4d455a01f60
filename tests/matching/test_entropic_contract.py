"""Entropic matching among torch's own machinery, and its derivatives of both modes and orders."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from entropic_problems import make_problem
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from difflayers import EntropicMatching, functional

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


def test_both_modes_under_vmap_and_nested() -> None:
    C, T = rand(4, 3, 5), rand(4, 3, 5, seed=1)
    want = jvp(solve, (C,), (T,))[1]
    assert want.abs().max() > 0.1
    assert torch.equal(vmap(lambda c, t: jvp(solve, (c,), (t,))[1])(C, T), want)
    assert torch.equal(jvp(vmap(solve), (C,), (T,))[1], want)
    assert torch.equal(vmap(solve)(C), solve(C))
    assert_close(jacfwd(solve)(C[0]), jacrev(solve)(C[0]))
    second = jacrev(grad(loss))(C[0])
    assert_close(hessian(loss)(C[0]), second)
    assert_close(vmap(hessian(loss))(C)[0], second)
    product = torch.einsum("ijkl,kl->ij", second, T[0])
    assert_close(jvp(grad(loss), (C[0],), (T[0],))[1], product)
    assert_close(grad(lambda c: jvp(loss, (c,), (T[0],))[1])(C[0]), product)


def test_vmap_over_options() -> None:
    C, epsilon, unmatched = rand(4, 3, 5), 0.05 + rand(4, seed=1), rand(4, 3, seed=2)
    got = vmap(lambda c, e, u: functional.entropic_matching(c, e, unmatched_cost=u))(C, epsilon, unmatched)
    assert torch.equal(got, functional.entropic_matching(C, epsilon, unmatched_cost=unmatched))


def test_what_has_no_derivative_is_refused_by_name() -> None:
    C = rand(3, 4)
    for third in (jacrev(hessian(loss)), jacrev(jacrev(grad(loss)))):
        with pytest.raises(NotImplementedError, match="entropic matching has no third derivatives"):
            third(C)
    with pytest.raises(NotImplementedError, match="jacfwd of jacrev"):
        jacfwd(jacfwd(loss))(C)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", ["masked and forbidden", "births", "both dustbins", "empty batch"])
def test_opcheck(size: str, dtype: torch.dtype) -> None:
    args, (slack, births) = make_problem(size, epsilon=0.1, dtype=dtype)
    torch.library.opcheck(OPS.entropic.default, (*args, slack, births, 1e-9, 100))
    X, _, _, tight, _, _ = OPS.entropic(*args, slack, births, 1e-9, 100)
    strided = torch.randn_like(X).mT.contiguous().mT
    torch.library.opcheck(OPS.entropic_centre.default, (X, tight, strided, births and not slack))


LAYERS: dict[str, Callable[[], EntropicMatching]] = {
    "plain": lambda: EntropicMatching(0.1),
    "dustbins": lambda: EntropicMatching(
        torch.nn.Parameter(torch.tensor(0.2)), unmatched_cost=0.4, unmatched_proposal_cost=0.3
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_compile_and_export(name: str) -> None:
    torch.compiler.reset()
    layer, columns = LAYERS[name](), torch.arange(6) != 1
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (3, 5):
        found = []
        for call in (layer, compiled):
            C = torch.rand(batch, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
            X = call(C, None, columns)
            found.append((X.detach(), torch.autograd.grad(X.square().sum(), C)[0]))
        assert_close(found[1], found[0])
        assert found[0][1].abs().max() > 0
    with pytest.raises(ValueError, match="cost must be finite"):
        compiled(torch.full((3, 4, 6), math.nan), None, columns)
    shapes: dict[str, Any] = {
        "cost": {0: torch.export.Dim("batch", min=1)},
        "template_mask": None,
        "proposal_mask": None,
    }
    exported = torch.export.export(layer, (torch.rand(4, 4, 6), None, columns), dynamic_shapes=shapes)
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (1, 7):
        C = torch.rand(size, 4, 6)
        assert_close(loaded(C, None, columns), layer(C, None, columns))


@pytest.mark.parametrize("name", LAYERS)
def test_meta_copies_autocast(name: str) -> None:
    layer = LAYERS[name]()
    solved = copy.deepcopy(layer).to("meta").solve(torch.empty(4, 2, 3, 5, device="meta"))
    assert solved.value.is_meta and solved.value.shape == (4, 2, 3, 5)
    assert solved.row_multipliers.shape == (4, 2, 3) and solved.column_multipliers.shape == (4, 2, 5)
    C = torch.rand(2, 3, 5)
    assert torch.equal(copy.deepcopy(layer)(C), layer(C))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(C), layer(C)) and layer(C).dtype == torch.float32


def test_a_solution_has_no_gradient_but_its_value_and_prints() -> None:
    solved = functional.solve_entropic(rand(2, 3, 5).requires_grad_(), 0.1)
    value, *fields = solved
    assert value.requires_grad and not any(field.requires_grad for field in fields)
    text = str(solved)
    assert text.startswith("EntropicSolution of 2 problems") and "converged" in text and "yes" in text
