"""The layers among torch's own machinery: operators, compile, export, vmap, torch.func, copies."""

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from matching_problems import make_problem, projection, projection_arguments
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.testing import assert_close

from difflayers import DMMMatching, ExactMatching, MaskMatchingCost, QuadraticMatching, functional

INF = math.inf
DTYPES = [torch.float32, torch.float64]
OPS = torch.ops.difflayers
DMM_OPTIONS = (6, 3, 0.1, True)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 4])
@pytest.mark.parametrize(("n", "m", "slack"), [(3, 5, False), (4, 9, True)])
def test_opcheck(n: int, m: int, slack: bool, batch: int, dtype: torch.dtype) -> None:
    cost, templates, _ = make_problem(batch, n, m, forbidden=0.2, masked=True, slack=slack, dtype=dtype)
    for keep in (True, False):
        torch.library.opcheck(OPS.dmm.default, (cost, templates, *DMM_OPTIONS, slack, keep))
    _, bits = OPS.dmm(cost, templates, *DMM_OPTIONS, slack, True)
    grad = torch.randn_like(cost)
    torch.library.opcheck(OPS.dmm_adjoint.default, (cost, bits, grad, *DMM_OPTIONS, slack))
    torch.library.opcheck(OPS.quadratic.default, projection_arguments(-4 * cost, templates, slack, 1e-9, 100))
    X, _, beta, _, _ = projection(OPS, -4 * cost, templates, slack, 1e-9, 100)
    torch.library.opcheck(OPS.quadratic_adjoint.default, (X, beta, grad))
    for prices in (None, torch.zeros(batch, m, dtype=torch.float64)):
        torch.library.opcheck(OPS.exact.default, (cost, templates, prices, slack, True, "cost"))
    columns, alpha, beta, _ = OPS.exact(cost, templates, None, slack, True, "cost")
    torch.library.opcheck(OPS.exact_certificate.default, (cost, templates, columns, alpha, beta, slack))


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_agree_with_their_fake_ones_on_other_strides(dtype: torch.dtype) -> None:
    cost, templates, _ = make_problem(4, 3, 5, forbidden=0.2, dtype=dtype)
    strided, rows = cost.mT.contiguous().mT, templates.T.contiguous().T
    grad = torch.randn_like(cost).mT.contiguous().mT
    torch.library.opcheck(OPS.dmm.default, (strided, rows, *DMM_OPTIONS, False, True))
    torch.library.opcheck(OPS.exact.default, (strided, rows, None, False, False, "cost"))
    torch.library.opcheck(OPS.quadratic.default, projection_arguments(-strided, rows, False, 1e-9, 100))
    X, bits = OPS.dmm(strided, rows, *DMM_OPTIONS, False, True)
    torch.library.opcheck(OPS.dmm_adjoint.default, (strided, bits, grad, *DMM_OPTIONS, False))
    Y, _, beta, _, _ = projection(OPS, -strided, rows, False, 1e-9, 100)
    torch.library.opcheck(OPS.quadratic_adjoint.default, (Y.mT.contiguous().mT, beta, grad))
    assert torch.equal(X, OPS.dmm(cost, templates, *DMM_OPTIONS, False, True)[0])


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dmm": DMMMatching,
    "dmm, unmatched": lambda: DMMMatching(5, 3, average=False, unmatched_cost=0.4),
    "quadratic": lambda: QuadraticMatching(0.3),
    "quadratic, unmatched": lambda: QuadraticMatching(0.3, unmatched_cost=0.4),
    "exact": lambda: ExactMatching(strength=1.0),
    "exact, unmatched": lambda: ExactMatching("straight-through", unmatched_cost=0.4),
}


def outputs(layer: Callable[..., Tensor], C: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor]:
    C = C.clone().requires_grad_()
    X = layer(C, *masks)
    (gradient,) = torch.autograd.grad(X.square().sum(), C)
    return X.detach(), gradient


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_compile_without_graph_breaks(name: str, dynamic: bool) -> None:
    layer = LAYERS[name]()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch, n, m in [(3, 4, 6), (5, 4, 6), (2, 3, 9)] if dynamic else [(3, 4, 6)]:
        C = torch.rand(batch, n, m)
        rows, columns = torch.rand(batch, n) < 0.6, torch.arange(m) != 1
        for masks in ((), (rows, columns)):
            want = outputs(layer, C, *masks)
            assert_close(outputs(compiled, C, *masks), want)
            assert want[1].abs().max() > 0
        with torch.no_grad():
            assert_close(compiled(C), layer(C))


@pytest.mark.parametrize("name", LAYERS)
def test_compile_of_solve(name: str) -> None:
    layer = LAYERS[name]()
    C = torch.rand(2, 3, 4, 6)
    got, want = torch.compile(layer.solve, fullgraph=True, backend="aot_eager")(C), layer.solve(C)
    for field, value in want._asdict().items():
        assert_close(getattr(got, field), value)


def test_compile_of_a_network_around_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cost, self.match = nn.Linear(6, 8), MaskMatchingCost(0.3), DMMMatching(unmatched_cost=0.1)

        def forward(self, x: Tensor, r: Tensor, y: Tensor, p: Tensor) -> Tensor:
            return self.match(self.cost(self.embed(x), r, self.embed(y), p))

    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for r, p in [(torch.rand(3, 4, 5), torch.rand(5, 4, 5)), (torch.rand(3, 4, 5) < 0.5, torch.rand(5, 4, 5) < 0.5)]:
        x, y = torch.randn(3, 6), torch.randn(5, 6)
        found = []
        for network in (model, compiled):
            model.zero_grad()
            X = network(x, r, y, p)
            X.square().sum().backward()
            assert model.embed.weight.grad is not None
            found.append((X.detach(), model.embed.weight.grad.clone()))
        assert_close(found[1], found[0])


def test_bad_values_are_refused_under_compile_too() -> None:
    for layer in (DMMMatching(), QuadraticMatching(), ExactMatching()):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        compiled(torch.rand(2, 3, 4))
        with pytest.raises(ValueError, match=r"cost.* must be finite"):
            compiled(torch.full((2, 3, 4), float("nan")))
        with pytest.raises(ValueError, match="without a proposal of their own"):
            compiled(torch.full((2, 3, 4), INF))


@pytest.mark.parametrize("name", LAYERS)
def test_export_with_a_dynamic_batch(name: str) -> None:
    layer = LAYERS[name]()
    batch = torch.export.Dim("batch", min=1)
    shapes = {"cost": {0: batch}, "template_mask": {0: batch}, "proposal_mask": None}
    masks = torch.rand(4, 3) < 0.6, torch.arange(5) != 2
    exported = torch.export.export(layer, (torch.rand(4, 3, 5), *masks), dynamic_shapes=shapes)
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (1, 4, 9):
        C, rows = torch.rand(size, 3, 5), torch.rand(size, 3) < 0.6
        assert_close(loaded(C, rows, masks[1]), layer(C, rows, masks[1]))


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "dmm": lambda C, *masks: functional.dmm_matching(C, *masks, n_grad=6, n_proj=3),
    "quadratic": lambda C, *masks: functional.quadratic_matching(C, 0.3, *masks),
    "projection": lambda C, *masks: functional.project_assignment(-3 * C, *masks),
    "exact": lambda C, *masks: functional.exact_matching(C, *masks, strength=1.0),
    "straight-through": lambda C, *masks: functional.exact_matching(C, *masks, gradient="straight-through"),
}


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_over_problems(name: str, dim: int) -> None:
    solve, C = FUNCTIONS[name], torch.rand(4, 3, 5)
    assert torch.equal(vmap(solve, in_dims=dim)(C.movedim(0, dim)), solve(C))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_nested_over_batches_and_over_masks(name: str) -> None:
    solve, C = FUNCTIONS[name], torch.rand(2, 3, 4, 3, 5)
    want = solve(C)
    assert torch.equal(vmap(solve)(C), want)
    assert torch.equal(vmap(vmap(solve))(C), want)
    assert torch.equal(vmap(vmap(solve, in_dims=1, out_dims=1), in_dims=2, out_dims=2)(C), want)
    rows, columns = torch.rand(4, 3) < 0.6, torch.rand(4, 5).argsort(1) < 4
    want = solve(C[0, 0], rows, columns)
    assert torch.equal(vmap(solve)(C[0, 0], rows, columns), want)
    same = C[0, 0, :1].expand(4, 3, 5)
    assert torch.equal(vmap(solve, in_dims=(None, 0, 0))(same[0], rows, columns), solve(same, rows, columns))
    assert torch.equal(vmap(solve, in_dims=(None, 0, None))(same[0], rows, columns[0]), solve(same, rows, columns[0]))
    assert torch.equal(
        vmap(solve, in_dims=(0, None, None))(C[0, 0], rows[0], columns[0]), solve(C[0, 0], rows[0], columns[0])
    )


def test_vmap_over_indices() -> None:
    C, rows = torch.rand(2, 4, 3, 5), torch.rand(2, 4, 3) < 0.7
    assert torch.equal(vmap(functional.assign)(C), functional.assign(C))
    assert torch.equal(vmap(vmap(functional.assign))(C, rows), functional.assign(C, rows))
    assert torch.equal(vmap(functional.assign, in_dims=1, out_dims=1)(C), functional.assign(C))


def test_assign_compiled_and_exported() -> None:
    C = torch.rand(4, 3, 5)
    compiled = torch.compile(functional.assign, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(C), functional.assign(C))

    class Assign(nn.Module):
        def forward(self, cost: Tensor) -> Tensor:
            return functional.assign(cost, unmatched_cost=0.2)

    exported = torch.export.export(Assign(), (C,), dynamic_shapes={"cost": {0: torch.export.Dim("batch", min=1)}})
    for size in (1, 7):
        C = torch.rand(size, 3, 5)
        assert torch.equal(exported.module()(C), functional.assign(C, unmatched_cost=0.2))
    assert functional.assign(C.to("meta")).is_meta and functional.assign(C.to("meta")).shape == (7, 3)


def test_vmap_over_options_that_are_tensors() -> None:
    C, unmatched, gamma = torch.rand(4, 3, 5), torch.rand(4, 3), torch.rand(4) + 0.1
    got = vmap(lambda c, u: functional.dmm_matching(c, unmatched_cost=u))(C, unmatched)
    assert torch.equal(got, functional.dmm_matching(C, unmatched_cost=unmatched))
    got = vmap(functional.quadratic_matching, in_dims=(None, 0))(C[0], gamma)
    assert_close(got, torch.stack([functional.quadratic_matching(C[0], float(g)) for g in gamma]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_of_each_problem_by_vmap_of_grad(name: str) -> None:
    solve = FUNCTIONS[name]
    C, weights = torch.rand(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)

    def loss(c: Tensor, w: Tensor) -> Tensor:
        return (solve(c) * w).sum()

    leaf = C.clone().requires_grad_()
    (want,) = torch.autograd.grad((solve(leaf) * weights).sum(), leaf)
    assert want.abs().max() > 0.01
    assert torch.equal(grad(loss)(C, weights), want)
    assert torch.equal(vmap(grad(loss))(C, weights), want)
    many = vmap(grad(loss), in_dims=(None, 0))(C[0], weights)
    assert torch.equal(many, torch.stack([grad(loss)(C[0], w) for w in weights]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacrev_is_the_jacobian(name: str) -> None:
    solve, C = FUNCTIONS[name], torch.rand(2, 3, 4, dtype=torch.float64)
    got = jacrev(solve)(C)
    assert_close(got, torch.autograd.functional.jacobian(solve, C))
    assert got.shape == (2, 3, 4, 2, 3, 4) and got.abs().max() > 0.01
    assert (got[0, :, :, 1] == 0).all(), "problems do not see each other"


def test_second_derivatives_by_torch_func() -> None:
    C = torch.rand(3, 4, dtype=torch.float64)

    def loss(C: Tensor) -> Tensor:
        return functional.quadratic_matching(C, 0.5).square().sum()

    leaf = C.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in first.flatten()]
    hessian = jacrev(grad(loss))(C)
    assert_close(hessian, torch.stack(rows).reshape(3, 4, 3, 4))
    assert hessian.abs().max() > 0.1


MODULES: dict[str, Callable[[], nn.Module]] = {
    "dmm": lambda: DMMMatching(7, 3, 0.2, average=False, unmatched_cost=0.4),
    "quadratic": lambda: QuadraticMatching(0.2, unmatched_cost=0.4, tolerance=1e-7, max_iter=40),
    "exact": lambda: ExactMatching("blackbox", 3.0, unmatched_cost=0.4),
    "cost": lambda: MaskMatchingCost(0.7),
}


def arguments(name: str) -> tuple[Tensor, ...]:
    if name == "cost":
        return torch.randn(3, 4), torch.rand(3, 5, 5), torch.randn(6, 4), torch.rand(6, 5, 5)
    return (torch.rand(2, 3, 5),)


def pickled(layer: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(layer))


def saved(layer: nn.Module) -> nn.Module:
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=False)


@pytest.mark.parametrize("copied", [pickled, saved, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("name", MODULES)
def test_copies(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    layer, inputs = MODULES[name](), arguments(name)
    for _ in range(2):
        other = copied(layer)
        assert other is not layer and repr(other) == repr(layer) and vars(other).keys() == vars(layer).keys()
        assert torch.equal(other(*inputs), layer(*inputs))  # after which it is copied again, used


@pytest.mark.parametrize("name", MODULES)
def test_modules_hold_no_state(name: str) -> None:
    layer, inputs = MODULES[name](), arguments(name)
    layer(*inputs)
    assert not layer.state_dict() and not list(layer.parameters()) and not list(layer.buffers())
    layer.load_state_dict({})
    assert torch.equal(functional_call(layer, {}, inputs), layer(*inputs))
    assert layer.double()(*(x.double() for x in inputs)).dtype == torch.float64


def test_in_a_sequential() -> None:
    """A network of scores, matched: gradients reach its weights."""
    model = nn.Sequential(nn.Linear(4, 30), nn.Unflatten(1, (5, 6)), DMMMatching())
    X = model(torch.randn(8, 4))
    assert X.shape == (8, 5, 6)
    X.square().sum().backward()
    assert model[0].weight.grad is not None and model[0].weight.grad.abs().sum() > 0
    model[2] = QuadraticMatching(0.5)
    model.zero_grad()
    model(torch.randn(8, 4)).square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LAYERS)
def test_meta_device(name: str) -> None:
    C = torch.empty(4, 2, 3, 5, device="meta", requires_grad=True)
    masks = torch.ones(3, dtype=torch.bool, device="meta"), torch.ones(5, dtype=torch.bool, device="meta")
    X, *fields = LAYERS[name]().solve(C, *masks)
    assert X.is_meta and X.shape == (4, 2, 3, 5) and X.dtype == torch.float32
    assert all(field.is_meta and field.shape in ((4, 2), (4, 2, 3), (4, 2, 5)) for field in fields)
    X.sum().backward()
    assert C.grad is not None and C.grad.is_meta and C.grad.shape == C.shape
    masks = torch.empty(4, 3, 7, 7, device="meta"), torch.empty(4, 5, 7, 7, device="meta")
    features = torch.empty(4, 3, 6, device="meta"), torch.empty(4, 5, 6, device="meta")
    assert MaskMatchingCost()(features[0], masks[0], features[1], masks[1]).shape == (4, 3, 5)


def test_meta_shapes_are_the_real_ones() -> None:
    """Of the operators themselves, bits included."""
    for slack in (False, True):
        for n, m in [(3, 8), (3, 9), (1, 1)]:
            cost, templates, _ = make_problem(2, n, m, slack=slack, dtype=torch.float32)
            for keep in (True, False):
                real = OPS.dmm(cost, templates, *DMM_OPTIONS, slack, keep)
                fake = OPS.dmm(cost.to("meta"), templates.to("meta"), *DMM_OPTIONS, slack, keep)
                assert [(x.shape, x.dtype) for x in real] == [(x.shape, x.dtype) for x in fake]
            for prices in (None, torch.zeros(2, m, dtype=torch.float64)):
                real = OPS.exact(cost, templates, prices, slack, True, "cost")
                fake = OPS.exact(cost.to("meta"), templates.to("meta"), prices, slack, True, "cost")
                assert [(x.shape, x.dtype) for x in real] == [(x.shape, x.dtype) for x in fake]
            real = projection(OPS, -cost, templates, slack, 1e-9, 100)
            fake = projection(OPS, -cost.to("meta"), templates.to("meta"), slack, 1e-9, 100)
            assert [(x.shape, x.dtype) for x in real] == [(x.shape, x.dtype) for x in fake]


def test_gradient_checkpointing_gives_the_same() -> None:
    C = torch.rand(2, 3, 5, requires_grad=True)
    for solve in FUNCTIONS.values():
        plain = torch.autograd.grad(solve(C).square().sum(), C)[0]
        again = torch.utils.checkpoint.checkpoint(solve, C, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(again.square().sum(), C)[0], plain)
