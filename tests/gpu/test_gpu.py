"""The whole chain on a GPU, against the CPU kernels: make test-gpu."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matching_problems import SIZES as MATCHING_SIZES
from matching_problems import problem as matching_problem
from matching_problems import projection
from satnet_problems import make_problem
from torch import Tensor
from torch.testing import assert_close

import difflayers
from difflayers import DMMMatching, QuadraticMatching, SATNet, functional
from difflayers.satnet import cpu, cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

OPS = torch.ops.difflayers
DTYPES = [torch.float64, torch.float32]
SIZES = {  # batch, n, m, aux, k
    "one of each": (1, 1, 1, 0, 1),
    "n = 1": (3, 1, 3, 0, 8),
    "m = 1": (3, 7, 1, 2, 6),
    "k = 1": (3, 6, 5, 2, 1),
    "k above n": (2, 4, 5, 1, 33),
    "one whole tile": (2, 32, 33, 0, 8),
    "odd": (5, 13, 9, 6, 5),
    "strips": (3, 90, 60, 11, 70),
    "tiles of 8": (3, 90, 60, 11, 130),
    "many samples": (700, 61, 40, 20, 16),
    "Sudoku's": (40, 729, 600, 300, 32),
    "not in shared memory": (2, 2500, 1600, 0, 72),
    "empty batch": (0, 5, 6, 0, 8),
}


def on_gpu(*tensors: Tensor) -> list[Tensor]:
    return [t.cuda() for t in tensors]


def relative(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, 0 where both are nothing."""
    size = float(want.norm())
    return float((got.cpu().double() - want.double()).norm()) / (size if size > 0 else 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_satnet_is_the_cpu_kernel(size: str, share: float, dtype: torch.dtype) -> None:
    """A few sweeps and iterations, in which rounding does not grow: every output and every gradient."""
    if size == "m = 1" and dtype == torch.float32:
        pytest.skip("with one clause g nearly vanishes for some coordinates, and rounding decides its sign")
    p = make_problem(*SIZES[size], share_given=share, seed=sorted(SIZES).index(size)).to(dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    want, got = cpu.mixing(*p, 3, 0.0), OPS.satnet_mixing(*on_gpu(*p), 3, 0.0)
    for found, wanted in zip(got[:3], want[:3], strict=True):
        assert found.is_cuda and relative(found, wanted) < tolerance
    assert torch.equal(got[3].cpu(), want[3])
    grad = torch.randn(len(p.z), *p.start.shape, dtype=dtype)
    _, V, norms, _, _ = want
    args = (p.S, V, norms, p.given, grad)
    U, iterations = cuda.solve_adjoint(*on_gpu(*args), 1e-1, 3, 0.0)
    wanted_U, wanted_iterations = cpu.solve_adjoint(*args, 1e-1, 3, 0.0)
    assert relative(U, wanted_U) < 100 * tolerance and torch.equal(iterations.cpu(), wanted_iterations)


def both(layer: Callable[..., Tensor], *inputs: Tensor) -> list[tuple[Tensor, ...]]:
    """Output and gradients on the CPU and on the GPU, under the same loss."""
    found = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).detach().requires_grad_(t.is_floating_point()) for t in inputs]
        out = layer(*leaves)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape).to(device)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = torch.autograd.grad((out * weights).sum(), wanted)
        assert all(t.device.type == device for t in (out, *gradients))
        found.append(tuple(t.detach().cpu() for t in (out, *gradients)))
    return found


@pytest.mark.parametrize("size", ["odd", "strips", "many samples"])
def test_satnet_layer_and_every_gradient(size: str) -> None:
    S, z, given, _ = make_problem(*SIZES[size], truth=8, seed=1)
    k = SIZES[size][-1]

    def layer(S: Tensor, z: Tensor, given: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(4)  # on the CPU: the same start for both
        return functional.satnet(S, z, given, k=k, eps=1e-9, max_iter=400, prox_lam=0.1, generator=generator)

    want, got = both(layer, S, z, given)
    for found, wanted in zip(got, want, strict=True):
        assert relative(found, wanted) < 1e-4


def test_weights_from_a_cpu_generator_are_those_of_the_cpu() -> None:
    cpu, there = SATNet(7, 5, 2), SATNet(7, 5, 2, device="cuda")
    for layer in (cpu, there):
        layer.reset_parameters(generator=torch.Generator().manual_seed(1))
    assert torch.equal(there.S.cpu(), cpu.S)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", MATCHING_SIZES)
def test_matching_is_the_cpu_kernel(size: str, dtype: torch.dtype) -> None:
    p = matching_problem(size).to(dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    cost, templates = on_gpu(p.cost, p.templates)
    options = (40, 5, 0.1, True, p.slack)
    want, want_bits = OPS.dmm(p.cost, p.templates, *options, True)
    X, bits = OPS.dmm(cost, templates, *options, True)
    grad = torch.randn(p.cost.shape, dtype=dtype)
    assert X.is_cuda and relative(X, want) < tolerance
    wanted = OPS.dmm_adjoint(p.cost, want_bits, grad, *options)
    assert relative(OPS.dmm_adjoint(cost, bits, grad.cuda(), *options), wanted) < 10 * tolerance
    want, _, beta, _, _ = projection(OPS, -5 * p.cost, p.templates, p.slack, 1e-9, 500)
    Y, _, _, _, residuals = projection(OPS, -5 * cost, templates, p.slack, 1e-9, 500)
    assert relative(Y, want) < 1e-6 and bool((residuals <= 1e-9).all())
    wanted = OPS.quadratic_adjoint(want, beta, grad)
    assert relative(OPS.quadratic_adjoint(*on_gpu(want, beta, grad)), wanted) < tolerance


LAYERS: dict[str, Callable[[], Any]] = {
    "dmm": DMMMatching,
    "dmm, unmatched": lambda: DMMMatching(5, 3, average=False, unmatched_cost=0.4),
    "quadratic": lambda: QuadraticMatching(0.3),
    "quadratic, unmatched": lambda: QuadraticMatching(0.3, unmatched_cost=0.4),
}


@pytest.mark.parametrize("shape", [(3, 10, 50), (2, 64, 200), (1, 300, 400), (5000, 4, 7)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_matching_layers_and_their_gradients(name: str, shape: tuple[int, ...]) -> None:
    want, got = both(LAYERS[name](), torch.rand(shape, dtype=torch.float64))
    for found, wanted in zip(got, want, strict=True):
        assert relative(found, wanted) < 1e-6


def sudoku(batch: int = 40) -> list[Tensor]:
    p = make_problem(batch, 729, 600, 300, 32, share_given=0.44, share_exact=1.0, dtype=torch.float32)
    return on_gpu(*p)


def test_same_bits_every_time_and_in_any_batch() -> None:
    S, z, given, start = sudoku(300)
    first = OPS.satnet_mixing(S, z, given, start, 20, 1e-4)
    again = OPS.satnet_mixing(S, z, given, start, 20, 1e-4)
    part = OPS.satnet_mixing(S, z[77:80], given[77:80], start, 20, 1e-4)
    for a, b, c in zip(first, again, part, strict=True):
        assert torch.equal(a, b) and torch.equal(a[77:80], c)
    grad = torch.randn_like(first[1])
    U, V = (OPS.satnet_adjoint(S, *first[1:3], given, grad, 1e-2, 20, 1e-4) for _ in range(2))
    assert torch.equal(U, V)
    cost = torch.rand(500, 10, 50, device="cuda")
    for layer in (DMMMatching(), QuadraticMatching(0.05)):
        assert torch.equal(layer(cost), layer(cost))


def test_runs_on_the_current_stream() -> None:
    """Behind work that is still under way there, not beside it."""
    S, z, given, start = sudoku(8)
    want = OPS.satnet_mixing(S, z, given, start, 5, 0.0)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(z)
        torch.cuda._sleep(200_000_000)
        late.copy_(z)
        found = OPS.satnet_mixing(S, late, given, start, 5, 0.0)[0]
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, want)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_backward_pass_does_not_wait_for_the_device() -> None:
    S, z, given, start = sudoku(8)
    _, V, norms, _, _ = OPS.satnet_mixing(S, z, given, start, 5, 0.0)
    cost, templates = torch.rand(9, 4, 6, device="cuda"), torch.ones(9, 4, dtype=torch.bool, device="cuda")
    X, bits = OPS.dmm(cost, templates, 4, 3, 0.1, True, False, True)
    Y, _, beta, _, _ = projection(OPS, -cost, templates, False, 1e-9, 500)
    for attempt in range(2):  # the second time everything is loaded
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        try:
            OPS.satnet_adjoint(S, V, norms, given, V, 1e-2, 5, 1e-4)
            OPS.dmm_adjoint(cost, bits, X, 4, 3, 0.1, True, False)
            OPS.quadratic_adjoint(Y, beta, X)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_graph_capture_with_a_fixed_number_of_sweeps() -> None:
    S, z, given, start = sudoku(8)
    grad = torch.randn(len(z), *start.shape, device=z.device, dtype=z.dtype)
    cost, templates = torch.rand(9, 4, 6, device="cuda"), torch.ones(9, 4, dtype=torch.bool, device="cuda")

    def step() -> tuple[Tensor, ...]:
        out, V, norms, _, _ = OPS.satnet_mixing(S, z, given, start, 6, 0.0)
        U = OPS.satnet_adjoint(S, V, norms, given, grad, 1e-2, 6, 1e-4)
        X, bits = OPS.dmm(cost, templates, 4, 3, 0.1, True, False, True)
        Y, _, beta, _, _ = projection(OPS, -cost, templates, False, 1e-9, 500)
        return out, U, X, OPS.dmm_adjoint(cost, bits, X, 4, 3, 0.1, True, False), Y, OPS.quadratic_adjoint(Y, beta, X)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(2):
        z.copy_(z.flip(0)), given.copy_(given.flip(0)), cost.copy_(cost.flip(0))
        graph.replay()
        for found, want in zip(captured, step(), strict=True):
            assert torch.equal(found, want)


def test_layers_in_a_network_under_compile_and_autocast() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Sigmoid(), SATNet(6, 7, input_mask=torch.arange(6) < 3))
    model.cuda()
    x = torch.randn(5, 4, device="cuda")
    torch.manual_seed(0)
    want = model(x)
    torch.manual_seed(0)
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert_close(got, want)
    with torch.autocast("cuda", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_bad_values_are_refused_and_the_device_goes_on() -> None:
    layer = SATNet(3, 4, device="cuda")
    given = torch.ones(2, 3, dtype=torch.bool, device="cuda")
    with pytest.raises(ValueError, match="z must be in"):
        layer(torch.full((2, 3), float("nan"), device="cuda"), given)
    with pytest.raises(ValueError, match="must be finite"):
        DMMMatching()(torch.full((2, 3, 4), float("nan"), device="cuda"))
    assert layer(torch.rand(2, 3, device="cuda"), given).isfinite().all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_two_devices() -> None:
    S, z, given, start = sudoku(8)
    want = OPS.satnet_mixing(S, z, given, start, 5, 0.0)[0]
    moved = [t.to("cuda:1") for t in (S, z, given, start)]
    found = OPS.satnet_mixing(*moved, 5, 0.0)[0]  # the current device is another one
    assert found.device.index == 1 and torch.equal(found.cpu(), want.cpu())


def test_backends_tell_the_truth() -> None:
    (row,) = [backend for backend in difflayers.backends() if backend.name == "cuda"]
    assert row.available and torch.cuda.get_device_name(0) in row.detail


SMALL = """
import sys
sys.path[:0] = {path!r}
import torch
from satnet_problems import make_problem
from difflayers import functional
for dtype in (torch.float32, torch.float64):
    for sizes in ((3, 13, 9, 6, 5), (2, 70, 40, 11, 33)):
        S, z, given, _ = make_problem(*sizes, dtype=dtype)
        S, z, given = S.cuda().requires_grad_(), z.cuda().requires_grad_(), given.cuda()
        functional.satnet(S, z, given, k=sizes[-1], max_iter=4).sum().backward()
    for shape in ((3, 4, 7), (2, 40, 60)):
        cost = torch.rand(shape, dtype=dtype, device="cuda", requires_grad=True)
        functional.dmm_matching(cost, n_grad=3).square().sum().backward()
        functional.quadratic_matching(cost, 0.05).square().sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not there")
def test_compute_sanitizer(tool: str) -> None:
    root = Path(__file__).parents[2]
    code = SMALL.format(path=[str(root / "tests/satnet"), str(root)])
    # torch's own kernels are not asked about, nor attributes of the device that cuda.core asks for in vain
    filters = {"initcheck": ["--kernel-name-exclude", "kns=at"], "memcheck": ["--report-api-errors", "no"]}.get(
        tool, []
    )
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *filters, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
