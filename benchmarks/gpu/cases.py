"""What is measured on a GPU: SATNet's training step and its parts, matching as the batch grows, and search."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.matching.instances import random_costs
from benchmarks.registry import Row, case, seconds
from benchmarks.satnet.instances import WEIGHTS, Instance, random_instance, sudoku_instance
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.data import domains_of, to_values
from demos.sudoku.generator import generate
from demos.sudoku.model import restore, satnet_of
from difflayers import functional, inference
from difflayers.functional._satnet import random_start
from difflayers.satnet import common, cuda, op

MAX_ITER, EPS, PROX_LAM = 40, 1e-4, 1e-2
BOARDS = 160


def gpu_seconds(function: Callable[[], Any], *, repeats: int = 9) -> tuple[float, float]:
    """Median and half the range of the middle half of `repeats` times by CUDA events, after two calls to warm up.

    Three times are enough where together they take more than a second.
    """
    times: list[float] = []
    for turn in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if turn >= 2:
            times.append(1e-3 * begin.elapsed_time(end))
        if len(times) >= 3 and sum(times) > 1:
            break
    times.sort()
    middle = times[len(times) // 4 : len(times) - len(times) // 4]
    return times[len(times) // 2], (middle[-1] - middle[0]) / 2


def _gpu() -> Row:
    properties = torch.cuda.get_device_properties(0)
    return {"gpu": properties.name, "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}


def _gpu_mm_gflops(size: int = 8192) -> float:
    """GFLOP/s of torch.mm in float32, without TF32 unless the user asked torch for it."""
    a, b = torch.randn(size, size, device="cuda"), torch.randn(size, size, device="cuda")
    return 2e-9 * size**3 / gpu_seconds(lambda: a @ b, repeats=5)[0]


def _instance(weights: str, B: int) -> Instance:
    """Up to BOARDS different boards, again and again."""
    different = min(B, BOARDS)
    instance = sudoku_instance(trained=weights == "trained", B=different)
    again = torch.arange(B) % different
    return instance._replace(z=instance.z[again], given=instance.given[again], bits=instance.bits[again])


def _to(instance: Instance, device: str, dtype: torch.dtype = torch.float32) -> Instance:
    S, z, given, bits, k = instance
    return Instance(S.to(device, dtype), z.to(device, dtype), given.to(device), bits.to(device, dtype), k)


def _step(instance: Instance) -> Tensor:
    """Forward and backward through the layer, as a training step does it: dS."""
    S = instance.S.detach().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    out = functional.satnet(S, instance.z, instance.given, k=instance.k, generator=generator)
    loss = torch.nn.functional.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), instance.bits)
    return torch.autograd.grad(loss, S)[0]


def _solved(instance: Instance) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The start, what `mixing` finds, and the gradient of the loss there."""
    S, z, given, bits, k = instance
    start = random_start(len(S), k, S.dtype, S.device, torch.Generator().manual_seed(1))
    solution = op._mixing(S, z, given, start, MAX_ITER, EPS)
    p = solution[0].clamp(1e-6, 1 - 1e-6)
    return start, solution, (p - bits) / (p * (1 - p)) / bits.numel()


def _necessary_gflop(instance: Instance) -> tuple[float, Row]:
    """Operations on free coordinates, in 1e9, that sweeps and iterations take: 2 N_f^2 k each, and half of one backward."""
    (N, _), k = instance.S.shape, instance.k
    _, (_, V, norms, sweeps, _), grad = _solved(instance)
    tolerance = common.residual_tolerance(EPS, instance.S.dtype)
    pull = op.output_gradient(V, instance.given, grad)
    _, iterations = cuda.solve_adjoint(instance.S, V, norms, instance.given, pull, PROX_LAM, MAX_ITER, tolerance)
    free = (N - 1 - instance.given.sum(1)).double()
    total = float((2 * free**2 * k * (sweeps + iterations + 0.5)).sum())
    return 1e-9 * total, {"sweeps": sweeps.double().mean().item(), "iterations": iterations.double().mean().item()}


@case("gpu-satnet-step", gpu=True)
def step() -> Iterator[Row]:
    """One training step at the 9x9 Sudoku size as the batch grows, against the CPU kernel (up to 160 boards) and torch.mm."""
    peak = _gpu_mm_gflops()
    for weights in ("fresh", "trained") if WEIGHTS.exists() else ("fresh",):
        for B in (1, 40, 160, 640, 4096, 9000):
            instance = _instance(weights, B)
            on_gpu = _to(instance, "cuda")
            gflop, counts = _necessary_gflop(on_gpu)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            median, spread = gpu_seconds(partial(_step, on_gpu))
            beyond = torch.cuda.max_memory_allocated() - before
            on_cpu = seconds(partial(_step, instance), repeats=3)[0] if B <= 160 else float("nan")
            yield {
                **_gpu(),
                "weights": weights,
                "B": B,
                "seconds": median,
                "spread": spread,
                "microseconds_per_board": 1e6 * median / B,
                "cpu_seconds": on_cpu,
                "ratio": on_cpu / median,
                **counts,
                "necessary_gflops": gflop / median,
                "torch_mm_gflops": peak,
                "share_of_mm": gflop / median / peak,
                "peak_mb": 1e-6 * beyond,
            }


@case("gpu-satnet-parts", gpu=True)
def parts() -> Iterator[Row]:
    """Where the time of a step goes, in float32 and float64, with blocks of fewer warps too."""
    warps = cuda._WARPS
    try:
        for dtype in (torch.float32, torch.float64):
            for most in (8, 4):
                cuda._WARPS = tuple(count for count in warps if count <= most)
                for B in (40, 640):
                    instance = _to(_instance("fresh", B), "cuda", dtype)
                    S, z, given, _, _ = instance
                    start, solution, grad = _solved(instance)
                    _, V, norms, _, _ = solution
                    pull = op.output_gradient(V, given, grad)
                    U = op._adjoint(S, V, norms, given, pull, PROX_LAM, MAX_ITER, EPS)
                    work: dict[str, Callable[[], Any]] = {
                        "start": partial(op._mixing, S, z, given, start, 0, EPS),
                        "10 sweeps": partial(op._mixing, S, z, given, start, 10, 0.0),
                        "forward": partial(op._mixing, S, z, given, start, MAX_ITER, EPS),
                        "backward solve": partial(op._adjoint, S, V, norms, given, pull, PROX_LAM, MAX_ITER, EPS),
                        "dS": partial(op.weight_gradient, S, V, U),
                    }
                    row: Row = {**_gpu(), "dtype": str(dtype).removeprefix("torch."), "warps": most, "B": B}
                    yield {**row, **{f"{name} ms": 1e3 * gpu_seconds(part)[0] for name, part in work.items()}}
    finally:
        cuda._WARPS = warps


@case("gpu-satnet-growth", gpu=True)
def growth() -> Iterator[Row]:
    """How a step of 40 samples grows with n, m and k, fresh weights, float32."""
    sizes = {"n": (81, 243, 729, 2187), "m": (75, 300, 600, 1200), "k": (8, 16, 32, 48, 64, 128)}
    for name, values in sizes.items():
        for value in values:
            instance = random_instance(**{name: value})
            median, spread = gpu_seconds(partial(_step, _to(instance, "cuda")))
            yield {**_gpu(), "varied": name, "value": value, "seconds": median, "spread": spread}


_LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dmm": functional.dmm_matching,
    "quadratic": functional.quadratic_matching,
}


def _match(solve: Callable[[Tensor], Tensor], cost: Tensor, grad: Tensor) -> Tensor:
    c = cost.detach().requires_grad_()
    return torch.autograd.grad(solve(c), c, grad)[0]


@case("gpu-matching", gpu=True)
def matching() -> Iterator[Row]:
    """Forward and backward of 10 x 50 problems at default options, float32, as the batch grows; the CPU kernel to 1,024."""
    for name, solve in _LAYERS.items():
        for B in (32, 256, 1024, 4096, 16_384, 65_536):
            cost = random_costs(B, 10, 50, dtype=torch.float32)
            grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1))
            on_gpu = partial(_match, solve, cost.cuda(), grad.cuda())
            median, spread = gpu_seconds(on_gpu)
            with torch.no_grad():
                forward, _ = gpu_seconds(partial(solve, cost.cuda()))
            on_cpu = seconds(partial(_match, solve, cost, grad), repeats=3)[0] if B <= 1024 else float("nan")
            yield {
                **_gpu(),
                "layer": name,
                "B": B,
                "seconds": median,
                "spread": spread,
                "forward_seconds": forward,
                "microseconds_per_problem": 1e6 * median / B,
                "cpu_seconds": on_cpu,
                "ratio": on_cpu / median,
            }


def _assigned(device: str, cost: Tensor) -> dict[str, Callable[[], Any]]:
    """Exact and entropic matching of the same problems on a device, forward."""
    cost = cost.to(device)
    return {"exact": partial(functional.assign, cost), "entropic": partial(functional.entropic_matching, cost)}


@case("gpu-exact", gpu=True)
def exact() -> Iterator[Row]:
    """Exact assignments of uniform float32 costs, and entropic matching of the same, forward, against the CPU kernels."""
    for B, n, m in ((208, 300, 300), (5, 1024, 1024), (1024, 10, 50), (65_536, 10, 50)):
        cost = random_costs(B, n, m, dtype=torch.float32)
        row: Row = {**_gpu(), "B": B, "n": n, "m": m}
        on_gpu, on_cpu = _assigned("cuda", cost), _assigned("cpu", cost)
        for name in on_gpu:
            median, spread = gpu_seconds(on_gpu[name])
            cpu = seconds(on_cpu[name], repeats=3)[0] if B <= 1024 else float("nan")
            row |= {f"{name} ms": 1e3 * median, f"{name} spread ms": 1e3 * spread, f"{name} CPU ratio": cpu / median}
        yield row


def _searched(device: str, givens: int, boards: int) -> inference.Answers:
    """Search with the shipped weights for 9x9 boards."""
    checkpoint = load_checkpoint(WEIGHTS)
    layer = satnet_of(restore(checkpoint)).board_layer().to(device)
    values, given = to_values(generate(3, givens, boards, seed=1).puzzles)
    generator = torch.Generator().manual_seed(0)
    return inference.search(layer, domains_of(3), values, given, limit=checkpoint.limit, generator=generator)


@case("gpu-search", gpu=True)
def search() -> Iterator[Row]:
    """Generated 9x9 puzzles completed by search with the shipped weights, boards a second, against the CPU."""
    for givens, boards in ((36, 1000), (28, 200)):
        row: Row = {**_gpu(), "givens": givens, "boards": boards}
        for name, device in (("gpu", "cuda"), ("cpu", "cpu")):
            _searched(device, givens, 2)  # compiles what is to be compiled
            begin = time.perf_counter()
            found = _searched(device, givens, boards)
            row |= {f"{name} boards a second": boards / (time.perf_counter() - begin)}
            row |= {f"{name} accepted": float(found.accepted.double().mean())}
        yield row
