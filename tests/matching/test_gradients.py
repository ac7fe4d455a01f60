"""Gradients of the functions: gradcheck, second derivatives, what has none."""

import math
from collections.abc import Callable

import pytest
import torch
from matching_problems import make_problem
from torch import Tensor
from torch.testing import assert_close

from difflayers import functional
from difflayers.matching.dmm import oracle

INF = math.inf
F64 = torch.float64
CHECK = {"eps": 1e-7, "atol": 1e-5, "rtol": 1e-4}
BOTH_WAYS = {**CHECK, "check_forward_ad": True}
TWICE = {**CHECK, "check_fwd_over_rev": True}
# torch's own, when it first loads its forward-mode rules
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")


def costs(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=F64).requires_grad_()


DMM_OPTIONS = [
    {},
    {"average": False},
    {"n_grad": 3, "n_proj": 1, "step_size": 0.4},
    {"n_grad": 2, "n_proj": 30, "step_size": 0.05},
]


@pytest.mark.parametrize("options", DMM_OPTIONS, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (3, 3), (3, 7), (4, 9)])
def test_gradcheck_of_dmm(n: int, m: int, options: dict[str, float]) -> None:
    C = costs(2, n, m, seed=n + m)

    def solve(C: Tensor) -> Tensor:
        return functional.dmm_matching(C, **options)

    assert torch.autograd.gradcheck(solve, C, **BOTH_WAYS, check_batched_grad=True, check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(lambda C: solve(C).square(), C[:1].detach().requires_grad_(), **TWICE)


@pytest.mark.parametrize(("n", "m"), [(4, 1), (4, 3), (3, 6)])
def test_gradcheck_of_dmm_with_unmatched_templates(n: int, m: int) -> None:
    for shape in [(), (n,), (1, n), (2, n)]:
        C, unmatched = costs(2, n, m), (0.3 + 0.3 * costs(*shape, seed=4)).detach().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda C, u: functional.dmm_matching(C, unmatched_cost=u), (C, unmatched), **BOTH_WAYS
        )
        (gradient,) = torch.autograd.grad(functional.dmm_matching(C, unmatched_cost=unmatched).sum(), unmatched)
        assert gradient.shape == shape and (gradient > 0).any(), "dearer to stay unmatched, more is matched"


GAMMAS = [0.05, 0.3, 3.0]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (3, 3), (3, 7), (4, 9)])
def test_gradcheck_of_quadratic_matching(n: int, m: int, gamma: float) -> None:
    C, weight = costs(2, n, m, seed=n + m), torch.tensor(gamma, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(functional.quadratic_matching, (C, weight), **BOTH_WAYS)
    assert torch.autograd.gradcheck(lambda C: functional.quadratic_matching(C, gamma), C, **BOTH_WAYS)
    if m > 1:
        assert torch.autograd.gradgradcheck(functional.quadratic_matching, (C, weight), **TWICE)


@pytest.mark.parametrize(("n", "m"), [(4, 1), (4, 3), (3, 6)])
def test_gradcheck_of_quadratic_matching_with_unmatched_templates(n: int, m: int) -> None:
    C, weight = costs(2, n, m), torch.tensor(0.4, dtype=F64, requires_grad=True)
    unmatched = (0.2 + 0.3 * costs(n, seed=4)).detach().requires_grad_()

    def solve(C: Tensor, weight: Tensor, unmatched: Tensor) -> Tensor:
        return functional.quadratic_matching(C, weight, unmatched_cost=unmatched)

    assert torch.autograd.gradcheck(solve, (C, weight, unmatched), **BOTH_WAYS)
    assert torch.autograd.gradgradcheck(solve, (C, weight, unmatched), **TWICE)
    assert torch.autograd.grad(solve(C, weight, unmatched).sum(), unmatched)[0].abs().max() > 0.1


def test_gamma_of_each_problem() -> None:
    C, gamma = costs(2, 3, 3, 5), torch.tensor([[0.3], [0.05]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(functional.quadratic_matching, (C, gamma), **BOTH_WAYS)
    for b in range(2):
        assert torch.equal(
            functional.quadratic_matching(C, gamma)[b], functional.quadratic_matching(C[b], float(gamma.detach()[b]))
        )


def test_gamma_of_another_dtype() -> None:
    C = costs(3, 5)
    for gamma in (torch.tensor(0.3, requires_grad=True), torch.tensor(0.3, dtype=F64, requires_grad=True)):
        X = functional.quadratic_matching(C, gamma)
        assert X.dtype == F64
        (gradient,) = torch.autograd.grad(X.square().sum(), gamma)
        assert gradient.dtype == gamma.dtype and gradient < 0, "a larger gamma spreads"


@pytest.mark.parametrize("allow_unmatched", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (3, 3), (3, 7), (4, 6)])
def test_gradcheck_of_the_projection(n: int, m: int, allow_unmatched: bool) -> None:
    X = (2 * torch.randn(2, n, m, dtype=F64)).requires_grad_()

    def project(X: Tensor) -> Tensor:
        return functional.project_assignment(X, allow_unmatched=allow_unmatched)

    assert torch.autograd.gradcheck(project, X, **BOTH_WAYS)
    assert torch.autograd.gradgradcheck(project, X, **TWICE)
    assert torch.autograd.gradgradcheck(lambda X: project(X).square(), X, **CHECK)


MASKED: dict[str, Callable[..., Tensor]] = {
    "dmm": functional.dmm_matching,
    "quadratic": lambda C, *masks: functional.quadratic_matching(C, 0.3, *masks),
    "projection": lambda C, *masks: functional.project_assignment(-3 * C, *masks),
}


@pytest.mark.parametrize("name", MASKED)
def test_gradcheck_with_masks_and_forbidden_pairs(name: str) -> None:
    """The entries that take part are those of a smaller problem; the rest has no gradient."""
    solve = MASKED[name]
    C = costs(2, 4, 7)
    rows = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]])
    columns = torch.tensor([True, False, True, True, True, True, False])
    forbidden = torch.zeros(4, 7, dtype=torch.bool)
    forbidden[0, 0] = forbidden[3, 2] = forbidden[3, 3] = True

    def masked(C: Tensor) -> Tensor:
        return solve(C.masked_fill(forbidden, INF), rows, columns)

    assert torch.autograd.gradcheck(masked, C, **BOTH_WAYS)
    (gradient,) = torch.autograd.grad(masked(C).square().sum(), C)
    there = (rows != 0)[:, :, None] & columns & ~forbidden
    assert (gradient[~there] == 0).all() and gradient[there].abs().max() > 1e-3


@pytest.mark.parametrize("name", MASKED)
def test_no_nan_reaches_a_gradient(name: str) -> None:
    """From what the masks hide, from forbidden pairs as the leaf itself, or from a gradient that is not finite there."""
    solve = MASKED[name]
    clean = costs(4, 6)
    rows, columns = torch.tensor([True, True, False, True]), torch.tensor([1, 1, 1, 0, 1, 1])
    want = solve(clean, rows, columns)
    weights = torch.randn_like(want)
    (want_gradient,) = torch.autograd.grad((want * weights).sum(), clean)
    for value in (math.nan, INF, -INF, 1e300):
        spoiled = clean.detach().clone()
        spoiled[2], spoiled[:, 3] = value, value
        spoiled.requires_grad_()
        got = solve(spoiled, rows, columns)
        (gradient,) = torch.autograd.grad((got * weights).sum(), spoiled)
        assert torch.equal(got, want) and torch.equal(gradient, want_gradient)
        assert (gradient[2] == 0).all() and (gradient[:, 3] == 0).all()
    leaf = clean.detach().clone().masked_fill(torch.eye(4, 6, dtype=torch.bool), INF).requires_grad_()
    (gradient,) = torch.autograd.grad((solve(leaf) * weights).sum(), leaf)
    assert gradient.isfinite().all() and (gradient[torch.eye(4, 6, dtype=torch.bool)] == 0).all()


def test_gradient_of_the_matching_loss_lowers_it() -> None:
    """Descending it brings a wanted assignment about: the sign is right, through both layers."""
    wanted = torch.eye(4, 6)[[2, 0, 3, 1]]
    for solve in (functional.dmm_matching, lambda C: functional.quadratic_matching(C, 1.0)):
        torch.manual_seed(0)
        C = torch.rand(4, 6, requires_grad=True)
        optimizer = torch.optim.Adam([C], lr=0.05)
        losses = []
        for _ in range(60):
            loss = (solve(C) - wanted).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.1 < 1 < losses[0]
        assert torch.equal(functional.hungarian(C), wanted)


@pytest.mark.parametrize("average", [True, False])
def test_second_derivatives_of_dmm_are_the_loops(average: bool) -> None:
    """Those of the unrolled iteration, by autograd through it twice."""
    C = costs(3, 5).detach()
    options = {"n_grad": 6, "n_proj": 3, "average": average}
    got = torch.func.hessian(lambda C: functional.dmm_matching(C, **options).pow(3).sum())(C)
    want = torch.autograd.functional.hessian(lambda C: oracle.dmm(C, **options).pow(3).sum(), C)
    assert_close(got, want, rtol=0, atol=1e-12)
    assert want.abs().max() > 1e-2


@pytest.mark.parametrize("solve", [functional.dmm_matching, lambda C: functional.quadratic_matching(C, 1.0)])
def test_forward_mode_needs_no_gradient_mode(solve: Callable[[Tensor], Tensor]) -> None:
    C, V = costs(3, 5).detach(), torch.randn(3, 5, dtype=F64)
    _, want = torch.func.jvp(solve, (C,), (V,))
    with torch.no_grad():
        _, got = torch.func.jvp(solve, (C,), (V,))
    assert torch.equal(got, want) and want.abs().max() > 1e-2


def test_tangents_of_many_sizes_are_transposes_of_the_gradient() -> None:
    """<w, J v> = <J' w, v>, for the tiles of rows and bytes of columns of every kind."""
    for seed, (n, m) in enumerate([(1, 1), (1, 9), (2, 8), (3, 17), (5, 7), (6, 33), (7, 9)]):
        p = make_problem(2, n, m, forbidden=0.2, masked=True, slack=seed % 2 == 1, seed=seed)
        V, W = torch.randn_like(p.cost), torch.randn_like(p.cost)
        options = (4, 3, 0.2, True, p.slack)
        _, bits = torch.ops.difflayers.dmm(p.cost, p.templates, *options, True)
        tangent = torch.ops.difflayers.dmm_tangent(p.cost, bits, V, *options)
        gradient = torch.ops.difflayers.dmm_adjoint(p.cost, bits, W, *options)
        there = p.cost < INF
        assert_close((W * tangent)[there].sum(), (gradient * V)[there].sum(), rtol=1e-10, atol=1e-12)
        assert (tangent[~there] == 0).all()


def test_create_graph_without_a_second_derivative_is_fine() -> None:
    C = costs(3, 5)
    for solve in (functional.dmm_matching, functional.quadratic_matching):
        out = solve(C).square().sum()
        (plain,) = torch.autograd.grad(out, C, retain_graph=True)
        (tracked,) = torch.autograd.grad(out, C, create_graph=True)
        assert torch.equal(tracked.detach(), plain)


def test_baselines_and_what_is_said_of_a_solution_have_no_gradient() -> None:
    C = costs(3, 5)
    for solve in (functional.solve_dmm, functional.solve_quadratic):
        value, *fields = solve(C)
        assert value.requires_grad and not any(field.requires_grad for field in fields)
    assert not functional.hungarian(C).requires_grad and not functional.greedy_matching(C).requires_grad


def test_small_gamma_has_the_gradient_of_the_active_face() -> None:
    """Where the solution is a vertex there is none; where a tie spreads it, there is."""
    C = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]], dtype=F64, requires_grad=True)
    X = functional.quadratic_matching(C, 0.01)
    assert_close(X, torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(torch.autograd.grad(X[0, 0], C)[0], torch.zeros_like(C))
    tied = torch.tensor([[0.1, 0.9, 0.101]], dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.quadratic_matching(tied, 0.01)[0, 0], tied)
    assert_close(gradient, torch.tensor([[-50.0, 0, 50.0]], dtype=F64))


def test_gradients_are_the_oracles_through_the_functions() -> None:
    """Masks, unmatched templates and the batch, end to end."""
    p = make_problem(3, 5, 8, masked=True, forbidden=0.2, slack=True, seed=3)
    C = p.cost[..., :-1].clone().requires_grad_()
    unmatched = torch.where(p.templates, p.cost[..., -1], 0).requires_grad_()
    X = functional.dmm_matching(C, p.templates, unmatched_cost=unmatched, n_grad=7, n_proj=3, step_size=0.2)
    weights = torch.randn_like(X)
    got = torch.autograd.grad((X * weights).sum(), (C, unmatched))
    D = p.cost.clone().requires_grad_()
    solved = torch.stack([oracle.dmm(c, n_grad=7, n_proj=3, step_size=0.2, slack=True)[:, :-1] for c in D])
    (want,) = torch.autograd.grad((solved * weights).sum(), D)
    assert_close(X, solved, rtol=0, atol=1e-12)
    assert_close(got[0], want[..., :-1], rtol=0, atol=1e-11)
    assert_close(got[1], want[..., -1], rtol=0, atol=1e-11)
    assert got[1].abs().max() > 1e-3


def test_gradcheck_of_mask_iou() -> None:
    r, p = costs(2, 2, 2, 3), costs(3, 2, 3, seed=1)
    assert torch.autograd.gradcheck(functional.mask_iou, (r, p), eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(functional.mask_iou, (r[0, :1], p[:2]), eps=1e-6, atol=1e-5)


def test_empty_masks_have_no_gradient_and_no_nan() -> None:
    r, p = torch.zeros(2, 3, 3, dtype=F64), torch.rand(2, 3, 3, dtype=F64)
    p[0] = 0
    r.requires_grad_(), p.requires_grad_()
    iou = functional.mask_iou(r, p)
    assert (iou == 0).all()
    gradients = torch.autograd.grad(iou.sum(), (r, p))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_close(gradients[0], (p[1] / p[1].sum()).expand(2, 3, 3).detach())


@pytest.mark.parametrize("lam", [0, 0.3, 1.0])
def test_gradcheck_of_the_cost(lam: float) -> None:
    f, g = torch.randn(2, 3, 5, dtype=F64), torch.randn(2, 4, 5, dtype=F64)
    r, p = costs(2, 3, 3, 4), costs(2, 4, 3, 4, seed=1)
    f.requires_grad_(), g.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, r, g, p: functional.mask_matching_cost(f, r, g, p, lam), (f, r, g, p), eps=1e-6, atol=1e-6
    )


def test_gradient_flows_from_the_assignment_to_the_features() -> None:
    f, g = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    masks = torch.rand(3, 6, 6) < 0.4, torch.rand(5, 6, 6) < 0.4
    X = functional.dmm_matching(functional.mask_matching_cost(f, masks[0], g, masks[1]))
    X.square().sum().backward()
    for feature in (f, g):
        assert feature.grad is not None and feature.grad.isfinite().all() and feature.grad.abs().max() > 1e-4
