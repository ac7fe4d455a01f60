"""The layer among torch's own machinery: operators, compile, export, vmap, torch.func, autocast, copies, DDP."""

import copy
import io
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from satnet_problems import make_problem
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.testing import assert_close

from difflayers import SATNet, functional

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def seeded(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The same random start in each call."""
    torch.manual_seed(7)
    return function(*args, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 4])
@pytest.mark.parametrize(("n", "m"), [(5, 6), (17, 3)])
def test_opcheck(n: int, m: int, batch: int, dtype: torch.dtype) -> None:
    S, z, given, start = make_problem(batch, n, m, aux=2, k=8, dtype=dtype)
    torch.library.opcheck(torch.ops.difflayers.satnet_mixing.default, (S, z, given, start, 40, 1e-4))
    _, V, norms, _, _ = torch.ops.difflayers.satnet_mixing(S, z, given, start, 40, 1e-4)
    grad = torch.randn_like(V)
    torch.library.opcheck(torch.ops.difflayers.satnet_adjoint.default, (S, V, norms, given, grad, 1e-2, 40, 1e-4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_agree_with_their_fake_ones_on_other_strides(dtype: torch.dtype) -> None:
    S, z, given, start = make_problem(4, 5, 6, aux=2, k=8, dtype=dtype)
    strided = (S.T.contiguous().T, z.T.contiguous().T, given.T.contiguous().T, start.T.contiguous().T)
    torch.library.opcheck(torch.ops.difflayers.satnet_mixing.default, (*strided, 40, 1e-4))
    mixing = torch.ops.difflayers.satnet_mixing
    for got, want in zip(mixing(*strided, 40, 1e-4), mixing(S, z, given, start, 40, 1e-4), strict=True):
        assert_close(got, want, rtol=1e-4, atol=1e-4)


def gradients(layer: Callable[..., Tensor], S: Tensor, z: Tensor, given: Tensor) -> tuple[Tensor, ...]:
    S.grad, z.grad = None, None
    out = seeded(layer, z, given)
    out.square().sum().backward()
    assert S.grad is not None and z.grad is not None
    return out.detach(), S.grad, z.grad


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compile_without_graph_breaks(dtype: torch.dtype, dynamic: bool) -> None:
    layer = SATNet(6, 7, 2, dtype=dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (3, 5, 1) if dynamic else (3,):
        _, z, given, _ = make_problem(batch, 6, 7, aux=2, dtype=dtype, seed=batch)
        z.requires_grad_()
        want = gradients(layer, layer.S, z, given)
        got = gradients(compiled, layer.S, z, given)
        assert_close(got, want)
        assert want[2].abs().max() > 0


def test_compile_of_a_network_around_it_and_of_solve() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), SATNet(6, 7, input_mask=torch.arange(6) < 3))
    x = torch.randn(5, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(seeded(compiled, x), seeded(model, x))
    layer = model[2]

    z = torch.rand(5, 6)
    solve = torch.compile(layer.solve, fullgraph=True, backend="aot_eager")
    for start in (None, layer.solve(z).vectors.detach()):
        got, want = seeded(solve, z, start=start), seeded(layer.solve, z, start=start)
        for field, value in want._asdict().items():
            assert_close(getattr(got, field), value)


def test_bad_values_are_refused_under_compile_too() -> None:
    layer = SATNet(3, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    given = torch.ones(2, 3, dtype=torch.bool)
    compiled(torch.rand(2, 3), given)
    with pytest.raises(ValueError, match="z must be in"):
        compiled(torch.full((2, 3), float("nan")), given)


def test_export_with_a_dynamic_batch() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = SATNet(6, 7, 2)

        def forward(self, z: Tensor, given: Tensor) -> Tensor:
            return self.layer(z, given)

    model = Model()
    batch = torch.export.Dim("batch", min=1)
    _, z, given, _ = make_problem(4, 6, 7, dtype=torch.float32)
    exported = torch.export.export(model, (z, given), dynamic_shapes=({0: batch}, {0: batch}))
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (1, 4, 9):
        _, z, given, _ = make_problem(size, 6, 7, dtype=torch.float32, seed=size)
        assert_close(seeded(loaded, z, given), seeded(model, z, given))


def problem_with_layer(batch: int = 4) -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor]:
    S, z, given, _ = make_problem(batch, 5, 7, aux=1, k=8)

    def layer(S: Tensor, z: Tensor, given: Tensor) -> Tensor:
        return functional.satnet(S, z, given, eps=1e-8, max_iter=200)

    return layer, S, z, given


@pytest.mark.parametrize("z_dim", [0, 1])
def test_vmap_over_samples(z_dim: int) -> None:
    layer, S, z, given = problem_with_layer()
    mapped = vmap(layer, in_dims=(None, z_dim, 0), randomness="same")
    got = seeded(mapped, S, z if z_dim == 0 else z.T.contiguous(), given)
    assert torch.equal(got, seeded(layer, S, z, given))


def test_vmap_over_batches_and_masks_alone() -> None:
    layer, S, z, given = problem_with_layer(6)
    want = seeded(layer, S, z, given)
    blocks = vmap(layer, in_dims=(None, 0, 0), randomness="same")
    assert torch.equal(seeded(blocks, S, z.reshape(2, 3, 5), given.reshape(2, 3, 5)), want.reshape(2, 3, 5))
    nested = vmap(vmap(layer, in_dims=(None, 0, 0), randomness="same"), in_dims=(None, 0, 0), randomness="same")
    assert torch.equal(seeded(nested, S, z.reshape(2, 3, 5), given.reshape(2, 3, 5)), want.reshape(2, 3, 5))
    masks = vmap(layer, in_dims=(None, None, 0), randomness="same")
    got = seeded(masks, S, z[0], given)
    assert torch.equal(got, seeded(layer, S, z[0].expand(6, 5), given))


def test_vmap_over_an_ensemble_of_S() -> None:
    layer, S, z, given = problem_with_layer()
    ensemble = torch.stack((S, 2 * S + 0.1, S.flip(1)))
    want = torch.stack([seeded(layer, s, z, given) for s in ensemble])
    assert_close(seeded(vmap(layer, in_dims=(0, None, None), randomness="same"), ensemble, z, given), want)
    both = vmap(layer, in_dims=(0, 0, 0), randomness="same")
    assert_close(seeded(both, ensemble, z[:3], given[:3]), torch.stack([want[i, i] for i in range(3)]))


def test_vmap_refuses_a_start_for_each_sample_in_words() -> None:
    """The default, randomness='error', is torch's own refusal; the documentation says which to choose."""
    layer, S, z, given = problem_with_layer()
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(layer, in_dims=(None, 0, 0))(S, z, given)


def autograd_rows(layer: Callable[..., Tensor], S: Tensor, z: Tensor, given: Tensor) -> list[tuple[Tensor, Tensor]]:
    """d (sum of squares) / d (S, z), sample by sample, by plain autograd."""
    rows = []
    for zb, gb in zip(z, given, strict=True):
        s, x = S.clone().requires_grad_(), zb.clone().requires_grad_()
        rows.append(torch.autograd.grad(seeded(layer, s, x, gb).square().sum(), (s, x)))
    return rows  # type: ignore[return-value]


def test_gradient_of_each_sample_by_vmap_of_grad() -> None:
    layer, S, z, given = problem_with_layer()

    def loss(S: Tensor, z: Tensor, given: Tensor) -> Tensor:
        return layer(S, z, given).square().sum()

    per_sample = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0), randomness="same")
    dS, dz = seeded(per_sample, S, z, given)
    for b, (want_S, want_z) in enumerate(autograd_rows(layer, S, z, given)):
        assert_close(dS[b], want_S)
        assert_close(dz[b], want_z)
    members = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, None, None), randomness="same")
    dS, dz = seeded(members, torch.stack((S, S.flip(1))), z, given)
    assert_close(dS[0], sum(row[0] for row in autograd_rows(layer, S, z, given)))
    assert_close(dS[1].flip(1), dS[0], rtol=1e-4, atol=1e-6)  # the objective does not see the order of the columns


def test_jacrev_is_the_jacobian() -> None:
    layer, S, z, given = problem_with_layer()
    got = seeded(jacrev(layer, argnums=(0, 1)), S, z, given)
    want = torch.autograd.functional.jacobian(lambda S, z: seeded(layer, S, z, given), (S, z))
    assert_close(got, want)
    assert got[0].abs().max() > 0


def test_functional_call() -> None:
    layer = SATNet(5, 7)
    S = torch.randn_like(layer.S)
    z, given = torch.rand(3, 5), torch.rand(3, 5) < 0.5
    got = seeded(functional_call, layer, {"S": S}, (z, given))
    assert torch.equal(got, seeded(functional.satnet, S, z, given, k=layer.k))


def pickled(layer: SATNet) -> SATNet:
    return pickle.loads(pickle.dumps(layer))


def saved(layer: SATNet) -> SATNet:
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=False)


@pytest.mark.parametrize("copied", [pickled, saved, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("used", [False, True])
def test_copies(copied: Callable[[SATNet], SATNet], used: bool) -> None:
    layer = SATNet(5, 7, 1, 30, 1e-3, 0.1, k=9, input_mask=torch.arange(5) < 2)
    z = torch.rand(3, 5)
    if used:
        layer(z).sum().backward()
    other = copied(layer)
    assert other is not layer and repr(other) == repr(layer) and other.state_dict().keys() == {"S"}
    assert torch.equal(seeded(other, z), seeded(layer, z))


def test_meta_device() -> None:
    layer = SATNet(5, 7, 1, device="meta", input_mask=torch.arange(5) < 2)
    assert layer.S.is_meta and layer.input_mask is not None and layer.input_mask.is_meta
    info = layer.solve(torch.rand(4, 2, 5, device="meta"))
    out = info.value
    assert out.is_meta and out.shape == (4, 2, 5) and out.dtype == torch.float32
    assert info.iterations.shape == info.objective.shape == (4, 2)
    assert layer.solve(torch.rand(4, 2, 5, device="meta"), start=info.vectors).vectors.shape == (4, 2, 7, 8)
    out.sum().backward()
    assert layer.S.grad is not None and layer.S.grad.shape == layer.S.shape
    with torch.device("meta"):
        assert SATNet(5, 7).S.is_meta
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    assert real.S.std() > 0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_solves_in_the_dtype_of_S(half: torch.dtype) -> None:
    layer = SATNet(5, 7, 2, max_iter=200, eps=1e-7)
    z, given = torch.rand(6, 5).to(half).float(), torch.rand(6, 5) < 0.5
    want = seeded(layer, z, given)
    (want_gradient,) = torch.autograd.grad(want.square().sum(), layer.S)
    with torch.autocast("cpu", half):
        for entry in (z, z.to(half)):
            out = seeded(layer, entry, given)
            assert out.dtype == torch.float32 and torch.equal(out, want)
            (gradient,) = torch.autograd.grad(out.square().sum(), layer.S)
            assert_close(gradient, want_gradient)


def test_autocast_with_a_layer_in_front() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), SATNet(5, 7, input_mask=torch.arange(5) < 3))
    x = torch.randn(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](x).dtype == torch.bfloat16
        out = seeded(model, x)
    assert out.dtype == torch.float32
    out[:, 3:].square().sum().backward()
    weight = model[0].weight
    assert weight.grad is not None and weight.grad.dtype == torch.float32 and weight.grad[:3].abs().sum() > 0
    assert_close(out, seeded(model, x), rtol=0.05, atol=0.05)


def test_an_optimizer_learns_a_formula() -> None:
    """x3 = x1 xor x2, the problem that a linear layer cannot solve."""
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    z = torch.cat((inputs, (inputs.sum(1, keepdim=True) == 1).float()), 1)
    layer = SATNet(3, 16, 4, input_mask=torch.tensor([True, True, False]))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        out = layer(torch.cat((inputs, torch.full((4, 1), 0.5)), 1))
        loss = nn.functional.binary_cross_entropy(out[:, 2].clamp(1e-6, 1 - 1e-6), z[:, 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 0.5 < losses[0]
    assert torch.equal(layer(z)[:, 2].round(), z[:, 2])


def ddp_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), SATNet(6, 9, 1, input_mask=torch.arange(6) < 3)).double()


def ddp_loss(network: nn.Module, x: Tensor) -> Tensor:
    return seeded(network, x)[:, 3:].square().mean()


def ddp_worker(rank: int, port: int, x: Tensor, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        network = nn.parallel.DistributedDataParallel(ddp_network())
        ddp_loss(network, x[4 * rank : 4 * rank + 4]).backward()
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
    x = torch.randn(8, 4, dtype=torch.float64)
    torch.multiprocessing.spawn(ddp_worker, (free_port(), x, str(tmp_path)), nprocs=2)
    network = ddp_network()
    ddp_loss(network, x).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
            assert_close(found[name], parameter.grad)
