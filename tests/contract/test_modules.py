"""Every layer as a module: copies, state, shapes, strides, the meta device, autocast, several processes."""

import copy
import io
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from contract_layers import DIFFERENTIABLE, INF, LAYERS, NAN, made, seeded, value_and_gradients
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

layers = pytest.mark.parametrize("name", LAYERS)
IN_FRONT = pytest.mark.parametrize("name", [name for name, layer in LAYERS.items() if layer.head])


def close(name: str) -> dict[str, float]:
    """To the bit, but where matrix products of another size may add in another order."""
    return {"rtol": 1e-4, "atol": 1e-5} if name.startswith(("satnet", "mask cost")) else {"rtol": 0, "atol": 0}


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> nn.Module:
    stored = io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=False)


@pytest.mark.parametrize("copied", [pickled, saved, copy.deepcopy, copy.copy])
@layers
def test_copies(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    module, inputs = made(name), LAYERS[name].draw(3)
    for _ in range(2):
        other = copied(module)
        assert other is not module and repr(other) == repr(module)
        assert vars(other).keys() == vars(module).keys() and other.state_dict().keys() == module.state_dict().keys()
        assert torch.equal(seeded(other, *inputs), seeded(module, *inputs))
        value_and_gradients(module, *inputs)  # after which it is copied again, used


@layers
def test_state_is_the_parameters_alone(name: str) -> None:
    layer, module = LAYERS[name], made(name)
    inputs = layer.draw(3)
    want = seeded(module, *inputs)
    assert tuple(dict(module.named_parameters())) == layer.parameters == tuple(module.state_dict())
    other = made(name)
    changed = {key: 0.2 * p.detach() + 0.05 for key, p in module.named_parameters()}
    assert not other.load_state_dict(changed).missing_keys
    moved = seeded(other, *inputs)
    assert torch.equal(seeded(functional_call, module, changed, inputs), moved)
    if layer.parameters:
        assert not torch.equal(moved, want)
    other.load_state_dict(module.state_dict())
    assert torch.equal(seeded(other, *inputs), want)
    assert made(name, torch.float32).to(torch.float64)(*inputs).dtype == want.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@layers
def test_batches_of_any_shape_and_each_problem_by_itself(name: str, dtype: torch.dtype) -> None:
    layer, module = LAYERS[name], made(name, dtype)
    for batch in [(), (1,), (0,), (2, 3), (2, 0)]:
        inputs = layer.draw(*batch, dtype=dtype)
        found = value_and_gradients(module, *inputs)
        assert found[0].shape[: len(batch)] == batch and found[0].dtype in (dtype, torch.int64)
        assert len(found) == 1 or found[1].shape == inputs[0].shape
        flat = [one.reshape(-1, *one.shape[len(batch) :]) for one in inputs]
        alone = [value_and_gradients(module, *one)[:2] for one in zip(*flat, strict=True)]
        for of_all, of_each in zip(found, zip(*alone, strict=True), strict=False):
            of_each = torch.stack(of_each)
            assert_close(of_all.reshape(of_each.shape), of_each, **close(name))


@layers
def test_strides_do_not_matter_and_inputs_are_left_alone(name: str) -> None:
    layer, module = LAYERS[name], made(name)
    inputs = layer.draw(3, 2)
    want = value_and_gradients(module, *inputs)
    for strided in (
        [one.transpose(0, -1).contiguous().transpose(0, -1) for one in inputs],
        [torch.stack((one, one), -1)[..., 1] for one in inputs],
        [one[:1, :1].expand_as(one) for one in inputs],
    ):
        kept = [one.clone() for one in strided]
        got = value_and_gradients(module, *strided)
        assert_close(got, value_and_gradients(module, *kept), **close(name))
        assert all(map(torch.equal, strided, kept))
    assert_close(value_and_gradients(module, *inputs), want, rtol=0, atol=0)


@layers
def test_meta_device(name: str) -> None:
    layer, real = LAYERS[name], made(name, torch.float32)
    inputs = layer.draw(4, 2, dtype=torch.float32)
    module, there = copy.deepcopy(real).to("meta"), [one.to("meta") for one in inputs]
    there[0].requires_grad_(bool(layer.orders))
    if layer.solves:
        want, got = seeded(real.solve, *inputs), module.solve(*there)
        fields = zip(got._asdict().items(), want._asdict().values(), strict=True)
        assert all(
            field.is_meta and field.shape == one.shape and field.dtype == one.dtype for (_, field), one in fields
        )
    out = module(*there)
    assert out.is_meta and out.shape == seeded(real, *inputs).shape
    if layer.orders:
        out.sum().backward()
        for leaf in (there[0], *module.parameters()):
            assert leaf.grad is not None and leaf.grad.is_meta and leaf.grad.shape == leaf.shape


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "mask cost"])  # a product, which autocast is for
def test_half_precision_and_autocast(name: str, half: torch.dtype) -> None:
    """Solved in the dtype of the parameters or in float32, with and without autocast, which changes nothing."""
    layer, module = LAYERS[name], made(name, torch.float32)
    inputs = layer.draw(2, dtype=torch.float32)
    rounded = [one.to(half) if one.is_floating_point() else one for one in inputs]
    wide = [one.float() if one.is_floating_point() else one for one in rounded]
    want = value_and_gradients(module, *wide)
    with torch.autocast("cpu", half):
        assert_close(value_and_gradients(module, *wide), want)
    for autocast in (False, True) if layer.half else (True,):
        with torch.autocast("cpu", half, enabled=autocast):
            got = value_and_gradients(module, *rounded)
        assert got[0].dtype == (half if layer.half and layer.orders else want[0].dtype)
        assert torch.equal(got[0], want[0].to(got[0].dtype))
        leaves = (rounded[0], *module.parameters())
        assert all(one.dtype == leaf.dtype for one, leaf in zip(got[1:], leaves, strict=False))
        assert_close([one.float() for one in got[1:]], want[1:], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("autocast", [False, True])
@IN_FRONT
def test_a_network_in_front_learns(name: str, autocast: bool) -> None:
    layer = LAYERS[name]
    assert layer.head is not None
    network = nn.Sequential(seeded(layer.head), made(name, torch.float32))
    x = torch.randn(6, 30)
    want = seeded(network, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = seeded(network, x)
    if not layer.orders:
        return
    if not name.startswith(("exact", "straight")):
        assert_close(out.float(), want, rtol=0.1 * autocast, atol=0.15 * autocast)
    out.float().square().sum().backward()
    gradient = network[0][0].weight.grad
    assert gradient is not None and gradient.dtype == torch.float32
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def distributed_network() -> nn.Module:
    layer = LAYERS["satnet, input mask"]
    assert layer.head is not None
    return nn.Sequential(seeded(layer.head), made("satnet, input mask")).double()


def distributed_loss(network: nn.Module, x: Tensor) -> Tensor:
    return seeded(network, x)[:, 3:].square().mean()


def distributed_worker(rank: int, port: int, x: Tensor, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        network = nn.parallel.DistributedDataParallel(distributed_network())
        distributed_loss(network, x[4 * rank : 4 * rank + 4]).backward()
        gradients = {name: p.grad for name, p in network.module.named_parameters()}
        torch.save(gradients, Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ddp_over_two_processes(tmp_path: Path) -> None:
    """The mean of two processes' gradients is that of the whole batch, in both."""
    x = torch.randn(8, 30, dtype=torch.float64)
    torch.multiprocessing.spawn(distributed_worker, (free_port(), x, str(tmp_path)), nprocs=2)
    network = distributed_network()
    distributed_loss(network, x).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
            assert_close(found[name], parameter.grad)


def test_the_table_has_what_is_public() -> None:
    import difflayers

    public = {value for name in difflayers.nn.__all__ if isinstance(value := getattr(difflayers.nn, name), type)}
    assert public == {type(made(name)) for name in LAYERS} & public
    assert set(LAYERS) - set(DIFFERENTIABLE) == {"assign"}


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith(("quadratic", "entropic", "exact"))])
def test_starts_of_matchings(name: str) -> None:
    """Multipliers broadcast over the batch; a start that does not fit is refused by name."""
    solve, cost = made(name).solve, LAYERS[name].draw(2)[0]
    cold = solve(cost)
    rows, columns = cold.multipliers
    assert rows.shape == (2, 3) and columns.shape == (2, 5)
    for start in (cold.multipliers, (rows[0], columns[0])):
        assert_close(solve(cost, start=start).value, cold.value, rtol=0, atol=1e-7)
    for wrong, words in [
        ((rows, columns[:, :3]), r"^start\[1\] must have shape \(2, 5\) or broadcast to it; got \(2, 3\)"),
        ((rows[:, :2], columns), r"^start\[0\] must have shape \(2, 3\) or broadcast to it; got \(2, 2\)"),
        ((rows, torch.zeros(3, 5)), r"^start\[1\] must have shape \(2, 5\)"),
        ((torch.full((3,), NAN), columns), r"^start\[0\] must be finite; got nan"),
        ((rows, torch.full((5,), INF)), r"^start\[1\] must be finite; got inf"),
    ]:
        with pytest.raises(ValueError, match=words):
            solve(cost, start=wrong)
    mapped = torch.vmap(lambda cost, rows, columns: solve(cost, start=(rows, columns)).value)(cost, rows, columns)
    assert_close(mapped, cold.value, rtol=0, atol=1e-7)
    for got, said in (
        (columns, "Tensor"),
        ((rows,), "a tuple of 1"),
        (cold, "[A-Z][a-z]*Solution"),
        ([rows, columns], "list"),
    ):
        with pytest.raises(
            TypeError, match=rf"^start must be a pair \(row_multipliers, column_multipliers\), as .*; got {said}$"
        ):
            solve(cost, start=got)
    with pytest.raises(TypeError, match=r"^start\[1\] must be a tensor; got list"):
        solve(cost, start=(rows, columns.tolist()))
