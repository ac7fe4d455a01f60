"""Every layer under torch.func and torch.autograd: vmap, both modes of derivatives, second derivatives, checkpointing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from contract_layers import DIFFERENTIABLE, LAYERS, made, seeded, value_and_gradients
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

# torch's own, when it first loads its forward-mode rules
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")
layers = pytest.mark.parametrize("name", LAYERS)
differentiable = pytest.mark.parametrize("name", DIFFERENTIABLE)


def mapped(function: Callable[..., Any], in_dims: Any = 0, **options: Any) -> Callable[..., Any]:
    """vmap, every entry with the same random start."""
    return vmap(function, in_dims, randomness="same", **options)


def same(name: str, got: Any, want: Any) -> None:
    """To the bit, but where matrix products of another size may add in another order."""
    exact = not name.startswith(("satnet", "mask cost"))
    assert_close(got, want, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-8)


@layers
def test_vmap_over_any_dimension_nested_and_over_some_of_the_inputs(name: str) -> None:
    layer, module = LAYERS[name], made(name)
    for inputs in layer.calls(layer.draw(4)):
        want = seeded(module, *inputs)
        for dim in range(inputs[0].ndim):
            moved = inputs[0].movedim(0, dim)
            same(name, seeded(mapped(module, (dim, *[0] * (len(inputs) - 1))), moved, *inputs[1:]), want)
    inputs = layer.draw(2, 3)
    want = seeded(module, *inputs)
    same(name, seeded(mapped(module), *inputs), want)
    same(name, seeded(mapped(mapped(module)), *inputs), want)
    swapped = [one.transpose(0, 1) for one in inputs]
    same(name, seeded(mapped(module, 1, out_dims=1), *inputs), want)
    same(name, seeded(mapped(mapped(module, 0), 0), *swapped), want.transpose(0, 1))
    inputs = layer.draw(4)
    for alone in range(len(inputs)) if len(inputs) > 1 else ():
        dims = [0 if at == alone else None for at in range(len(inputs))]
        given = [one if at == alone else one[0] for at, one in enumerate(inputs)]
        wide = [one if at == alone else one[:1].expand_as(one) for at, one in enumerate(inputs)]
        same(name, seeded(mapped(module, tuple(dims)), *given), seeded(module, *wide))


@pytest.mark.parametrize("name", [name for name, layer in LAYERS.items() if layer.parameters])
def test_vmap_over_parameters(name: str) -> None:
    """An ensemble of modules; and each problem with parameters of its own."""
    layer, module = LAYERS[name], made(name)
    inputs = layer.draw(3)[: layer.least]
    members = {key: torch.stack((p, 1.3 * p, p + 0.1)).detach() for key, p in module.named_parameters()}

    def call(parameters: dict[str, Tensor], *given: Tensor) -> Tensor:
        return functional_call(module, parameters, given)

    want = torch.stack([seeded(call, {key: p[i] for key, p in members.items()}, *inputs) for i in range(3)])
    assert_close(seeded(mapped(call, (0, *[None] * len(inputs))), members, *inputs), want)
    own = torch.stack([want[i, i] for i in range(3)])
    assert_close(seeded(mapped(call), members, *inputs), own)
    per_member = mapped(grad(lambda *args: call(*args).square().sum()), (0, *[None] * len(inputs)))
    found = seeded(per_member, members, *inputs)
    for i in range(3):
        module.load_state_dict({key: p[i] for key, p in members.items()}, strict=False)
        gradients = value_and_gradients(module, *inputs)[2:]
        for (key, _), gradient in zip(module.named_parameters(), gradients, strict=True):
            assert_close(found[key][i], gradient)


@differentiable
def test_gradient_of_each_problem_by_vmap_of_grad(name: str) -> None:
    layer, module = LAYERS[name], made(name)
    for first, *rest in layer.calls(layer.draw(4)):
        weights = torch.randn_like(seeded(module, first, *rest))

        def loss(one: Tensor, w: Tensor, *others: Tensor) -> Tensor:
            return (module(one, *others) * w).sum()

        leaf = first.clone().requires_grad_()
        (want,) = torch.autograd.grad(seeded(loss, leaf, weights, *rest), leaf)
        assert want.abs().max() > 1e-3
        same(name, seeded(grad(loss), first, weights, *rest), want)
        same(name, seeded(mapped(grad(loss)), first, weights, *rest), want)
        others = [one[0] for one in rest]
        many = seeded(mapped(grad(loss), (None, 0, *[None] * len(rest))), first[0], weights, *others)
        same(name, many, torch.stack([seeded(grad(loss), first[0], w, *others) for w in weights]))


@differentiable
def test_jacobians_in_both_modes(name: str) -> None:
    """Of autograd, of jacrev and, where there is forward mode, of jacfwd; jvp under vmap and vmap under jvp."""
    layer, module = LAYERS[name], made(name)
    first, *rest = layer.draw(2)

    def solve(one: Tensor) -> Tensor:
        return seeded(module, one, *rest)

    jacobian = jacrev(solve)(first)
    assert_close(jacobian, torch.autograd.functional.jacobian(solve, first))
    assert jacobian.abs().max() > 0.01 and jacobian.isfinite().all()
    assert (jacobian.flatten(1).reshape(2, -1, *first.shape)[0][:, 1] == 0).all(), "problems do not see each other"
    direction = torch.randn_like(first)
    if layer.forward_mode:
        with pytest.raises(NotImplementedError, match=layer.forward_mode):
            jvp(solve, (first,), (direction,))
        return
    assert_close(jacfwd(solve, randomness="same")(first), jacobian, rtol=1e-5, atol=1e-7)
    want = (jacobian.flatten(-first.ndim) @ direction.flatten()).reshape(jacobian.shape[: -first.ndim])

    def along(one: Tensor, d: Tensor, *others: Tensor) -> Tensor:
        return jvp(lambda x: module(x, *others), (one,), (d,))[1]

    assert_close(seeded(along, first, direction, *rest), want, rtol=1e-5, atol=1e-7)
    assert_close(seeded(mapped(along), first, direction, *rest), want, rtol=1e-5, atol=1e-7)
    other = seeded(jvp, lambda x: mapped(module)(x, *rest), (first,), (direction,))[1]
    assert_close(other, want, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        assert_close(seeded(along, first, direction, *rest), want, rtol=1e-5, atol=1e-7)


@differentiable
def test_second_derivatives(name: str) -> None:
    """By torch.func in two orders and by autograd twice; where there is none, that is said."""
    layer, module = LAYERS[name], made(name)
    first, *rest = layer.draw(1)

    def loss(one: Tensor) -> Tensor:
        return seeded(module, one, *rest).square().sum()

    leaf = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert_close(gradient.detach(), grad(loss)(first))
    if layer.orders < 2:
        with pytest.raises(NotImplementedError, match="no derivative"):
            torch.autograd.grad((gradient * torch.rand_like(leaf)).sum(), leaf)
        return
    rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in gradient.flatten()]
    want = torch.stack(rows).reshape(*first.shape, *first.shape)
    close = {"rtol": 1e-5, "atol": 1e-6 * float(want.abs().max())}
    assert want.abs().max() > 1e-2 and want.isfinite().all()
    assert_close(jacrev(grad(loss))(first), want, **close)
    assert_close(jacfwd(grad(loss), randomness="same")(first), want, **close)
    direction = torch.randn_like(first)
    product = (want.flatten(first.ndim) @ direction.flatten()).reshape(first.shape)
    assert_close(jvp(grad(loss), (first,), (direction,))[1], product, rtol=1e-5, atol=1e-5)
    assert_close(grad(lambda x: jvp(loss, (x,), (direction,))[1])(first), product, rtol=1e-5, atol=1e-5)
    if not layer.plain:
        with pytest.raises(NotImplementedError, match=r"jacfwd(\(| of )jacrev"):
            jacfwd(jacfwd(loss, randomness="same"), randomness="same")(first)


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if LAYERS[name].smooth])
def test_gradcheck(name: str) -> None:
    """Of both orders and both modes, in the first input and in the parameters."""
    layer, module = LAYERS[name], made(name)
    first, *rest = layer.draw(1)
    names = [key for key, _ in module.named_parameters()]
    leaves = [first.requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters())]

    def solve(one: Tensor, *parameters: Tensor) -> Tensor:
        return seeded(functional_call, module, dict(zip(names, parameters, strict=True)), (one, *rest))

    check = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-4}
    batched = not name.startswith("satnet")  # torch's older vmap knows no einsum
    assert torch.autograd.gradcheck(solve, leaves, check_forward_ad=True, check_batched_grad=batched, **check)
    assert torch.autograd.gradgradcheck(solve, leaves, check_fwd_over_rev=True, **check)


@differentiable
def test_gradient_checkpointing_gives_the_same(name: str) -> None:
    first, *rest = LAYERS[name].draw(2)
    module, first = made(name), first.requires_grad_()
    (plain,) = torch.autograd.grad(seeded(module, first, *rest).square().sum(), first)
    again = seeded(torch.utils.checkpoint.checkpoint, module, first, *rest, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.square().sum(), first)[0], plain)
