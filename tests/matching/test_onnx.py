"""DMM and entropic matching in other runtimes: exported to ONNX in plain operators."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from entropic_problems import make_problem as entropic_problem
from matching_problems import SIZES, make_problem, oracle_dmm, problem
from torch import Tensor, nn
from torch.testing import assert_close

from difflayers import DMMMatching, EntropicMatching, MaskMatchingCost, QuadraticMatching
from difflayers.matching.dmm import plain
from difflayers.matching.entropic.plain import entropic

# What the exporter itself does.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_plain_operators_are_the_oracle(size: str, average: bool) -> None:
    p = problem(size)
    options: dict[str, Any] = {"n_grad": 5, "n_proj": 4, "step_size": 0.3, "average": average}
    got = plain.dmm(p.cost, slack=p.slack, **options)
    assert_close(got, oracle_dmm(p, **options), rtol=0, atol=1e-12)


def exported(layer: nn.Module, arguments: tuple[Tensor, ...], names: list[str], folder: Path) -> Any:
    """What runs the exported layer."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    path = folder / "layer.onnx"
    torch.onnx.export(layer, arguments, str(path), input_names=names, output_names=["X"], dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    domains = {node.domain for node in onnx.load(str(path)).graph.node}
    assert domains <= {"", "ai.onnx"}, "plain operators"

    def run(*inputs: Tensor) -> Tensor:
        (X,) = session.run(["X"], {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return torch.from_numpy(X)

    return run


SLOW = pytest.mark.slow
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "dmm": lambda: DMMMatching(4, 3),
    "dmm, unmatched": lambda: DMMMatching(4, 3, unmatched_cost=0.4),
    "entropic": lambda: EntropicMatching(0.05),
    "entropic, unmatched": lambda: EntropicMatching(nn.Parameter(torch.tensor(0.1)), unmatched_cost=0.4),
    "entropic, both dustbins": lambda: EntropicMatching(0.1, unmatched_cost=0.4, unmatched_proposal_cost=0.3),
}


@pytest.mark.parametrize("size", ["odd", "masked and forbidden", pytest.param("births", marks=SLOW)])
def test_plain_sinkhorn_is_the_kernel(size: str) -> None:
    arguments, options = entropic_problem(size, epsilon=0.1)
    want = torch.ops.difflayers.entropic(*arguments, *options, 1e-9, 1000)[0]
    assert_close(entropic(*arguments[:-1], *options, 1e-9, 1000), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["dmm", *(pytest.param(name, marks=SLOW) for name in LAYERS if name != "dmm")])
def test_exported_layer_is_the_kernel(name: str, tmp_path: Path) -> None:
    """With masks and forbidden pairs, other ones than those that it was exported with."""
    layer = LAYERS[name]()
    names = ["cost", "template_mask", "proposal_mask"]
    shapes = torch.rand(2, 5, 8), torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 8, dtype=torch.bool)
    run = exported(layer, shapes, names, tmp_path)
    unmatched = layer.unmatched_cost is not None
    for seed in range(4):
        p = make_problem(2, 5, 8, forbidden=0.2, seed=seed, dtype=torch.float32)
        rows, columns = torch.rand(2, 5) < 0.7, torch.rand(2, 8) < 0.9
        cost = p.cost if unmatched or seed else torch.rand(2, 5, 8)
        if not unmatched:
            columns[:] = True
        assert_close(run(cost, rows, columns), layer(cost, rows, columns).detach(), rtol=0, atol=1e-5)
    tied = torch.full((2, 5, 8), 0.5)
    assert_close(run(tied, *shapes[1:]), layer(tied).detach(), rtol=0, atol=1e-5)


class Tracker(nn.Module):
    """A network whose cost is matched."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cost, self.match = nn.Linear(6, 4), MaskMatchingCost(0.3), DMMMatching(6, 3)

    def forward(self, x: Tensor, r: Tensor, y: Tensor, p: Tensor) -> Tensor:
        return self.match(self.cost(self.embed(x), r, self.embed(y), p))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_network_around_it_is_exported_whole(tmp_path: Path) -> None:
    model = Tracker().eval()
    inputs = torch.randn(3, 6), torch.rand(3, 4, 4), torch.randn(5, 6), torch.rand(5, 4, 4)
    run = exported(model, inputs, ["x", "r", "y", "p"], tmp_path)
    others = torch.randn(3, 6), torch.rand(3, 4, 4), torch.randn(5, 6), torch.rand(5, 4, 4)
    assert_close(run(*others), model(*others).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_quadratic_matching_says_that_it_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    with pytest.raises(Exception, match=r"No ONNX function found for .*difflayers\.quadratic"):
        torch.onnx.export(QuadraticMatching(), (torch.rand(2, 3),), str(tmp_path / "x.onnx"), dynamo=True)
