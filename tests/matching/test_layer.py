"""The modules and functions as their user sees them: arguments, shapes, masks, dtypes."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_calls import DTYPES, F64, INF, NAN, RELAXED, SOLVERS, say, solve
from torch import Tensor, nn
from torch.testing import assert_close

import difflayers
from difflayers import DMMMatching, MaskMatchingCost, QuadraticMatching, functional


def test_arguments_and_defaults() -> None:
    assert difflayers.DMMMatching is DMMMatching and difflayers.MaskMatchingCost is MaskMatchingCost
    assert difflayers.QuadraticMatching is QuadraticMatching
    parameters = inspect.signature(DMMMatching).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        "n_grad": 40, "n_proj": 5, "step_size": 0.1, "average": True, "unmatched_cost": None
    }  # fmt: skip
    assert [p.kind.name for p in parameters.values()] == ["POSITIONAL_OR_KEYWORD"] * 3 + ["KEYWORD_ONLY"] * 2
    assert inspect.signature(QuadraticMatching).parameters["gamma"].default == 0.05
    for module in (DMMMatching, QuadraticMatching):
        for verb in (module.forward, module.solve):
            assert list(inspect.signature(verb).parameters)[:4] == ["self", "cost", "template_mask", "proposal_mask"]
    assert list(inspect.signature(MaskMatchingCost.forward).parameters)[1:] == [
        "template_features", "template_masks", "proposal_features", "proposal_masks"
    ]  # fmt: skip
    function = inspect.signature(functional.dmm_matching).parameters
    assert all(function[name].default == p.default for name, p in parameters.items())


def test_modules_are_the_functions() -> None:
    C, rows = torch.rand(2, 3, 5), torch.tensor([True, False, True])
    columns = torch.tensor([1, 1, 1, 0, 1])
    layer = DMMMatching(7, 3, 0.2, average=False, unmatched_cost=0.4)
    options: dict[str, Any] = {
        "n_grad": 7, "n_proj": 3, "step_size": 0.2, "average": False, "unmatched_cost": 0.4
    }  # fmt: skip
    want = functional.solve_dmm(C, rows, columns, **options)
    assert all(map(torch.equal, layer.solve(C, rows, columns), want))
    assert torch.equal(layer(C, rows, columns), want.value)
    assert torch.equal(functional.dmm_matching(C, rows, columns, **options), want.value)
    default = functional.dmm_matching(C)
    assert torch.equal(DMMMatching()(C), default)
    for options in ({"n_grad": 41}, {"n_proj": 6}, {"step_size": 0.11}, {"average": False}, {"unmatched_cost": 0.2}):
        assert not torch.equal(functional.dmm_matching(C, **options), default), options
        assert torch.equal(functional.dmm_matching(C, **options), DMMMatching(**options)(C)), options  # type: ignore[arg-type]
    exact = QuadraticMatching(0.3, unmatched_cost=0.4)
    solved = functional.solve_quadratic(C, 0.3, rows, columns, unmatched_cost=0.4)
    assert all(map(torch.equal, exact.solve(C, rows, columns), solved))
    assert torch.equal(exact(C, rows, columns), solved.value)
    assert torch.equal(QuadraticMatching()(C), functional.quadratic_matching(C, 0.05))
    assert (QuadraticMatching(1e-4, max_iter=2, tolerance=1e-12).solve(C).iterations <= 2).all()
    features, masks = torch.randn(3, 4), torch.rand(3, 2, 2)
    want = functional.mask_matching_cost(features, masks, features.flip(0), masks.flip(0), 0.7)
    assert torch.equal(MaskMatchingCost(0.7)(features, masks, features.flip(0), masks.flip(0)), want)


def test_repr() -> None:
    assert repr(DMMMatching()) == "DMMMatching(n_grad=40, n_proj=5, step_size=0.1, average=True)"
    assert repr(DMMMatching(3, 2, 0.5, average=False, unmatched_cost=0.25)) == (
        "DMMMatching(n_grad=3, n_proj=2, step_size=0.5, average=False, unmatched_cost=0.25)"
    )
    assert repr(QuadraticMatching(0.5)) == "QuadraticMatching(gamma=0.5)"
    assert repr(QuadraticMatching(0.5, unmatched_cost=1)) == "QuadraticMatching(gamma=0.5, unmatched_cost=1)"
    assert repr(MaskMatchingCost(0.25)) == "MaskMatchingCost(lam=0.25)"


def test_options_that_are_learnt() -> None:
    """Parameters are registered, get gradients and show; other tensors are buffers."""
    layer = QuadraticMatching(nn.Parameter(torch.tensor(0.3)), unmatched_cost=nn.Parameter(torch.tensor([0.5, 0.25])))
    assert sorted(name for name, _ in layer.named_parameters()) == ["gamma", "unmatched_cost"]
    assert repr(layer) == "QuadraticMatching(gamma=Parameter(0.3), unmatched_cost=Parameter(shape (2,)))"
    layer(torch.rand(3, 2, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
    copied = QuadraticMatching(nn.Parameter(torch.tensor(1.0)), unmatched_cost=nn.Parameter(torch.zeros(2)))
    copied.load_state_dict(layer.state_dict())
    C = torch.rand(2, 4)
    assert torch.equal(copied(C), layer(C))
    fixed = DMMMatching(unmatched_cost=torch.tensor(0.5))
    assert repr(fixed).endswith("unmatched_cost=tensor(0.5))") and list(fixed.state_dict()) == ["unmatched_cost"]
    assert torch.equal(fixed(C), DMMMatching(unmatched_cost=0.5)(C))
    assert repr(fixed.to("meta")).endswith("unmatched_cost=tensor(shape ()))")
    learnt = DMMMatching(unmatched_cost=nn.Parameter(torch.tensor(0.5)))
    learnt(torch.rand(5, 3)).sum().backward()
    assert learnt.unmatched_cost.grad > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
@pytest.mark.parametrize("name", SOLVERS)
def test_shapes_and_dtypes(name: str, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    C = torch.rand(*batch, 3, 5, dtype=dtype)
    X = solve(name, C)
    assert X.shape == C.shape and X.dtype == dtype
    flat = C.reshape(-1, 3, 5)
    assert torch.equal(X.reshape(-1, 3, 5), torch.stack([solve(name, c) for c in flat]) if len(flat) else flat)
    if name in RELAXED:
        value, *fields = say(name, C)
        assert torch.equal(value, X) and fields[0].dtype == dtype
        assert all(field.shape in (batch, (*batch, 3), (*batch, 5)) for field in fields)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 4), (1, 1)])
def test_nothing_to_match(name: str, n: int, m: int) -> None:
    X = solve(name, torch.rand(2, n, m))
    assert X.shape == (2, n, m) and (X == 1).all()
    if name in RELAXED:
        assert say(name, torch.rand(2, n, m)).residual.tolist() == [0, 0]


@pytest.mark.parametrize("name", SOLVERS)
def test_masks_take_out_rows_and_columns(name: str) -> None:
    """The problem that is left, in its place; masks of any integer type, broadcast over the batch."""
    C = torch.rand(2, 3, 4, 6, dtype=F64)
    for rows, columns in [
        (torch.tensor([True, False, True, True]), torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.uint8)),
        (torch.rand(3, 4) < 0.6, torch.arange(6) != 2),
        (torch.rand(2, 1, 4) < 0.6, (torch.rand(2, 3, 6) < 0.2).long() * -3 + torch.tensor([1, 1, 1, 1, 0, 0])),
        (torch.zeros(4, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)),
        (None, torch.tensor([2, 0, 1, 1, 7, 0], dtype=torch.int8)),
        (torch.rand(2, 3, 4) < 0.6, None),
    ]:
        X = solve(name, C, rows, columns)
        for b in itertools.product(range(2), range(3)):
            r = torch.ones(4).bool() if rows is None else (rows != 0).expand(2, 3, 4)[b]
            c = torch.ones(6).bool() if columns is None else (columns != 0).expand(2, 3, 6)[b]
            want = torch.zeros(4, 6, dtype=F64)
            if r.any():
                want[r.nonzero(), c.nonzero().T] = solve(name, C[b][r][:, c])
            assert_close(X[b], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_masks_hide_may_be_anything(name: str) -> None:
    C = torch.rand(2, 4, 6)
    rows, columns = torch.tensor([True, True, False, True]), torch.tensor([1, 1, 1, 0, 1, 1])
    want = solve(name, C, rows, columns)
    for value in (NAN, INF, -INF, 1e30, -1e30):
        spoiled = C.clone()
        spoiled[:, 2], spoiled[:, :, 3] = value, value
        assert torch.equal(solve(name, spoiled, rows, columns), want)
    unmatched = torch.tensor([0.5, 0.5, NAN, 0.5])
    got = solve(name, C, rows, columns, unmatched_cost=unmatched)
    assert torch.equal(got, solve(name, C, rows, columns, unmatched_cost=0.5))


@pytest.mark.parametrize("name", SOLVERS)
def test_more_templates_than_proposals_where_masks_leave_few(name: str) -> None:
    C = torch.rand(5, 3)
    X = solve(name, C, torch.tensor([0, 1, 0, 0, 1]))
    assert_close(X.sum(1), torch.tensor([0.0, 1, 0, 0, 1]))


@pytest.mark.parametrize("name", RELAXED)
def test_unmatched_cost(name: str) -> None:
    """A column for each row alone: nothing, at a price below all others; everything, at one above."""
    C = 1 + torch.rand(3, 4, 6, dtype=F64)
    assert solve(name, C, unmatched_cost=-5.0).abs().max() < (0.3 if name == "dmm" else 1e-9)
    assert_close(solve(name, C, unmatched_cost=9.0).sum(-1), torch.ones(3, 4, dtype=F64), rtol=0, atol=0.05)
    for shape in [(), (4,), (3, 1), (3, 4)]:
        unmatched = torch.full(shape, 1.3, dtype=F64)
        assert torch.equal(solve(name, C, unmatched_cost=unmatched), solve(name, C, unmatched_cost=1.3))
    assert torch.equal(solve(name, C, unmatched_cost=1), solve(name, C, unmatched_cost=torch.tensor(1)))
    own = torch.tensor([0.2, 9.0, 0.2, 9.0], dtype=F64)
    sums = solve(name, C, unmatched_cost=own).sum(-1)
    assert (sums[:, [0, 2]] < 0.5).all() and (sums[:, [1, 3]] > 0.9).all()
    small = solve(name, C.mT, unmatched_cost=1.3)
    assert small.shape == (3, 6, 4)
    assert (small.sum(-2) < 1.2).all() and (small.sum(-1) < 1 + 1e-9).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*SOLVERS, "projection"])
def test_half_precision_is_solved_in_float32_and_comes_back_as_it_was(name: str, half: torch.dtype) -> None:
    """Under autocast too, which changes nothing; gradients included."""
    solver: Callable[..., Tensor] = {**SOLVERS, "projection": functional.project_assignment}[name]
    C = torch.rand(2, 3, 5).to(half)
    rows = torch.tensor([1, 0, 1])
    wide = C.float().requires_grad_()
    want = solver(wide, template_mask=rows)
    for autocast in (False, True):
        with torch.autocast("cpu", half, enabled=autocast):
            entry = C.clone().requires_grad_()
            got = solver(entry, template_mask=rows)
            assert got.dtype == half and torch.equal(got, want.to(half))
            assert torch.equal(solver(C.float(), template_mask=rows), want)
            assert solver(C.double(), template_mask=rows).dtype == F64
        if want.requires_grad:
            weights = torch.randn(2, 3, 5).to(half)
            (gradient,) = torch.autograd.grad((got * weights).sum(), entry)
            (wanted,) = torch.autograd.grad((want * weights).sum(), wide, retain_graph=True)
            assert gradient.dtype == half and torch.equal(gradient, wanted.to(half))


def test_autocast_with_a_network_in_front() -> None:
    network = nn.Linear(6, 8)
    x, y = torch.randn(3, 6), torch.randn(5, 6)
    masks = torch.rand(3, 9, 9) < 0.5, torch.rand(5, 9, 9) < 0.5
    cost, match = MaskMatchingCost(), DMMMatching()
    want = match(cost(network(x), masks[0], network(y), masks[1]))
    with torch.autocast("cpu", torch.bfloat16):
        X = match(cost(network(x), masks[0], network(y), masks[1]))
    assert X.dtype == torch.bfloat16, "that of the features, and so of the cost"
    assert_close(X.float(), want, rtol=0, atol=0.1)
    X.square().sum().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0
