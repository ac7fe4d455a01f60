"""What only SATNet asks of torch's transformations, beside the contract of all layers."""

import pytest
import torch
from contract_layers import value_and_gradients
from satnet_problems import make_problem
from torch import nn
from torch.func import vmap
from torch.testing import assert_close

from difflayers import SATNet, functional


def test_a_layer_made_on_meta_is_filled_later() -> None:
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


def test_compile_of_the_defaults() -> None:
    """Stopping rule and all, value and gradients."""
    torch.compiler.reset()
    layer = SATNet(6, 7, 2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    z, given = torch.rand(3, 6), torch.rand(3, 6) < 0.5
    assert_close(value_and_gradients(compiled, z, given), value_and_gradients(layer, z, given))


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


def test_vmap_refuses_a_start_for_each_sample_in_words() -> None:
    """The default, randomness='error', is torch's own refusal; the documentation says which to choose."""
    S, z, given, _ = make_problem(4, 5, 7)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(functional.satnet, in_dims=(None, 0, 0))(S, z, given)
