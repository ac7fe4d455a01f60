"""Every layer under torch.compile and torch.export."""

import io
from typing import Any

import pytest
import torch
from contract_layers import LAYERS, made, seeded, value_and_gradients
from torch import nn
from torch.testing import assert_close

F32 = torch.float32
SOLVING = [name for name, layer in LAYERS.items() if layer.solves]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def compiled(call: Any, dynamic: bool | None = None) -> Any:
    return torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)


@pytest.mark.parametrize("name", LAYERS)
def test_compile_without_graph_breaks(name: str) -> None:
    """Values and gradients, at sizes that change; without gradients; and what is refused is refused there too."""
    layer, module = LAYERS[name], made(name, F32)
    fast = compiled(module, dynamic=True)
    inputs = layer.draw(3, dtype=F32)
    sizes = layer.more_sizes[0] if layer.more_sizes else layer.sizes
    largest = []
    for given in (*layer.calls(inputs), layer.inputs((5, *sizes), F32, torch.Generator().manual_seed(5))):
        want = value_and_gradients(module, *given)
        assert_close(value_and_gradients(fast, *given), want)
        largest.append(float(want[min(1, len(want) - 1)].abs().max()))
    assert max(largest) > 0, "there is something to compare"
    with torch.no_grad():  # one more graph, for both
        inputs = inputs[: layer.least]
        assert_close(seeded(fast, *inputs), seeded(module, *inputs))
        for value, words in layer.bad:
            with pytest.raises(ValueError, match=words):
                fast(torch.full_like(inputs[0], value), *inputs[1:])


@pytest.mark.parametrize("name", SOLVING)
def test_compile_of_solve(name: str) -> None:
    """At fixed sizes; and once more from what it found, where it takes a start."""
    layer, module = LAYERS[name], made(name, F32)
    inputs = layer.draw(2, dtype=F32)[: layer.least]
    solve = compiled(module.solve)
    want = seeded(module.solve, *inputs)
    starts: list[dict[str, Any]] = [{}] + ([{"start": layer.start(want)}] if layer.start else [])
    for start in starts:
        got, want = seeded(solve, *inputs, **start), seeded(module.solve, *inputs, **start)
        for field, value in want._asdict().items():
            assert_close(getattr(got, field), value)


@pytest.mark.parametrize("name", ["satnet, input mask", "dmm", "entropic"])  # each by itself is compiled above
def test_compile_of_a_network_around_it(name: str) -> None:
    layer = LAYERS[name]
    assert layer.head is not None
    network = nn.Sequential(seeded(layer.head), made(name, F32))
    x = torch.randn(5, 30)
    assert_close(value_and_gradients(compiled(network), x), value_and_gradients(network, x))


@pytest.mark.parametrize("name", LAYERS)
def test_export_with_a_dynamic_batch(name: str) -> None:
    layer, module = LAYERS[name], made(name, F32)
    batch = torch.export.Dim("batch", min=1)
    inputs = layer.draw(4, dtype=F32)
    exported = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    for size in (1, 4, 9):
        inputs = layer.draw(size, dtype=F32, seed=size)
        with torch.no_grad():
            assert_close(seeded(loaded, *inputs), seeded(module, *inputs))
