"""What is measured of SATNet: one training step, quality at equal effort, growth with size, the first call."""

import json
from collections.abc import Iterator
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.registry import Row, case, mm_gflops, run_alone, seconds
from benchmarks.satnet import per_coordinate
from benchmarks.satnet.instances import WEIGHTS, Instance, sudoku_instance
from difflayers import functional
from difflayers.functional._satnet import objective, random_start
from difflayers.satnet import common, cpu, op, oracle

MAX_ITER, EPS, PROX_LAM = 40, 1e-4, 1e-2


def _start(instance: Instance, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return random_start(len(instance.S), instance.k, instance.S.dtype, torch.device("cpu"), generator)


def _loss_gradient(probabilities: Tensor, bits: Tensor) -> Tensor:
    """d/dz of the mean binary cross-entropy."""
    p = probabilities.clamp(1e-6, 1 - 1e-6)
    return (p - bits) / (p * (1 - p)) / bits.numel()


def _step(instance: Instance) -> tuple[Tensor, Tensor]:
    """Forward and backward through the layer, as a training step does it: the loss and dS."""
    S = instance.S.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    out = functional.satnet(S, instance.z, instance.given, k=instance.k, generator=generator)
    loss = torch.nn.functional.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), instance.bits)
    (dS,) = torch.autograd.grad(loss, S)
    return loss.detach(), dS


def _rows_given(instance: Instance) -> np.ndarray:
    """The mask over all N rows, the truth direction given and the auxiliary rows free."""
    mask = torch.zeros(len(instance.z), len(instance.S), dtype=torch.bool)
    mask[:, 0] = True
    mask[:, 1 : 1 + instance.z.shape[1]] = instance.given
    return mask.numpy()


def _baseline_step(instance: Instance) -> tuple[Tensor, Tensor, Tensor]:
    """The same step by the per-coordinate loop: the loss, dS and the sweeps."""
    S, given = instance.S.numpy(), _rows_given(instance)
    B, N = len(instance.z), len(S)
    V = torch.stack(
        [oracle.relax_inputs(z, g, _start(instance)) for z, g in zip(instance.z, instance.given, strict=True)]
    )
    norms, sweeps = torch.zeros(B, N), torch.zeros(B, dtype=torch.int64)
    per_coordinate.forward(S, V.numpy(), given, MAX_ITER, EPS, norms.numpy(), sweeps.numpy())
    v = V[:, 1 : 1 + instance.z.shape[1]]
    solved = torch.atan2(v[..., 1:].norm(dim=-1), -v[..., 0]) / torch.pi
    out = torch.where(instance.given, instance.z, solved)
    loss = torch.nn.functional.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), instance.bits)
    grad = _loss_gradient(out, instance.bits)
    pull = op.output_gradient(V, instance.given, grad)
    U = torch.zeros_like(V)
    per_coordinate.backward(
        S, V.numpy(), given, norms.numpy(), pull.numpy(), np.float32(PROX_LAM), sweeps.numpy(), U.numpy()
    )
    return loss, op.weight_gradient(instance.S, V, U), sweeps


def _necessary_gflop(instance: Instance) -> tuple[float, Row]:
    """Operations that the step cannot do without, in 1e9, and the sweeps and iterations they come from.

    2 N_f^2 k (or 4 N_f m k) for each sweep and iteration, half of one to start the backward solve, C and dS.
    """
    S, (N, m), k = instance.S, instance.S.shape, instance.k
    out, V, norms, sweeps, _ = cpu.mixing(S, instance.z, instance.given, _start(instance), MAX_ITER, EPS)
    grad = _loss_gradient(out, instance.bits)
    tolerance = common.residual_tolerance(EPS, instance.S.dtype)
    pull = op.output_gradient(V, instance.given, grad)
    _, iterations = cpu.solve_adjoint(S, V, norms, instance.given, pull, PROX_LAM, MAX_ITER, tolerance)
    free = (N - 1 - instance.given.sum(1)).double()
    gram = free <= 2 * m
    forward = torch.where(gram, 2 * free**2, 4 * free * m) * k * sweeps
    backward = torch.where(gram, 2 * free**2, 8 * free * m) * k * (iterations + 0.5)
    shared = N * N * m * bool(gram.any())  # C, one triangle of it, kept for the backward pass
    gradient = float((2 * free * N * k).sum()) + 2 * N * N * m
    total = float(forward.sum() + backward.sum()) + shared + gradient
    return 1e-9 * total, {"sweeps": sweeps.double().mean().item(), "iterations": iterations.double().mean().item()}


@case("satnet-step")
def step() -> Iterator[Row]:
    """One training step (forward + backward) at the 9x9 Sudoku size, float32, against the per-coordinate loop."""
    for weights in ("fresh", "trained") if WEIGHTS.exists() else ("fresh",):
        instance = sudoku_instance(trained=weights == "trained")
        median, spread = seconds(partial(_step, instance))
        base, _ = seconds(partial(_baseline_step, instance), repeats=3)
        loss, _ = _step(instance)
        base_loss, _, base_sweeps = _baseline_step(instance)
        gflop, counts = _necessary_gflop(instance)
        peak = mm_gflops()
        yield {
            "weights": weights,
            "seconds": median,
            "spread": spread,
            "per_coordinate_seconds": base,
            "ratio": base / median,
            "loss": loss.item(),
            "per_coordinate_loss": base_loss.item(),
            **counts,
            "per_coordinate_sweeps": base_sweeps.double().mean().item(),
            "necessary_gflops": gflop / median,
            "torch_mm_gflops": peak,
            "share_of_mm": gflop / median / peak,
        }


@case("satnet-parts")
def parts() -> Iterator[Row]:
    """Where the time of a step goes: forward and backward, one thread and all."""
    instance = sudoku_instance(trained=WEIGHTS.exists())
    S, z, given, start = instance.S, instance.z, instance.given, _start(instance)
    out, V, norms, _, _ = cpu.mixing(S, z, given, start, MAX_ITER, EPS)
    pull = op.output_gradient(V, given, _loss_gradient(out, instance.bits))
    U = cpu.adjoint(S, V, norms, given, pull, PROX_LAM, MAX_ITER, EPS)
    work = {
        "start and gather": lambda: cpu.mixing(S, z, given, start, 0, EPS),
        "10 sweeps more": lambda: cpu.mixing(S, z, given, start, 10, 0.0),
        "forward": lambda: cpu.mixing(S, z, given, start, MAX_ITER, EPS),
        "backward solve": lambda: cpu.adjoint(S, V, norms, given, pull, PROX_LAM, MAX_ITER, EPS),
        "dS": lambda: op.weight_gradient(S, V, U),
    }
    threads = torch.get_num_threads()
    for name, function in work.items():
        row: Row = {"part": name}
        for count in (1, threads):
            torch.set_num_threads(count)
            row["seconds, 1 thread" if count == 1 else "seconds, all threads"] = seconds(function)[0]
        yield row


def _exact(instance: Instance, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective (B,), dS and loss gradient at full convergence, in float64."""
    S, z = instance.S.double(), instance.z.double()
    out, V, norms, _, _ = cpu.mixing(S, z, instance.given, start.double(), 5000, 1e-9)
    grad = _loss_gradient(out, instance.bits.double())
    pull = op.output_gradient(V, instance.given, grad)
    U = cpu.solve_adjoint(S, V, norms, instance.given, pull, PROX_LAM, 5000, 1e-12)[0] / common.scaling(S) ** 2
    return objective(S, V), op.weight_gradient(S, V, U), grad


@case("satnet-quality")
def quality() -> Iterator[Row]:
    """Objective and gradient error of the layer and of plain coordinate descent, for the sweeps that each takes.

    gap: (f - f*) over the decrease of the first sweep. sweeps to match: sweeps until the gap of plain coordinate descent at
    its own stop. dS error: relative, of the whole backward pass at the solver's own V, against the converged one. U error:
    relative, of the linear solve alone, at the same V.
    """
    for weights in ("fresh", "trained") if WEIGHTS.exists() else ("fresh",):
        instance = sudoku_instance(trained=weights == "trained", B=16)
        start = _start(instance)
        optimum, exact_dS, _ = _exact(instance, start)
        S, z, given = instance.S.double(), instance.z.double(), instance.given
        with patch.object(cpu, "MOMENTUM", 0.0):
            _, V0, _, _, _ = cpu.mixing(S, z, given, start.double(), 0, EPS)
            _, V1, _, _, _ = cpu.mixing(S, z, given, start.double(), 1, EPS)
            _, Vp, _, _, _ = cpu.mixing(S, z, given, start.double(), MAX_ITER, EPS)
        first = objective(S, V0) - objective(S, V1)
        plain_gap = (objective(S, Vp) - optimum) / first
        for momentum in (0.0, 0.3, 0.5, 0.7):
            with patch.object(cpu, "MOMENTUM", momentum):
                out, V, norms, sweeps, _ = cpu.mixing(S, z, given, start.double(), MAX_ITER, EPS)
                matched = torch.full((len(z),), MAX_ITER)
                for count in range(MAX_ITER, 0, -1):
                    _, Vc, _, _, _ = cpu.mixing(S, z, given, start.double(), count, 0.0)
                    reached = (objective(S, Vc) - optimum) / first <= plain_gap * (1 + 1e-9)
                    matched = torch.where(reached, count, matched)
            grad = _loss_gradient(out, instance.bits.double())
            pull = op.output_gradient(V, given, grad)
            exact_U = cpu.solve_adjoint(S, V, norms, given, pull, PROX_LAM, 5000, 1e-12)[0] / common.scaling(S) ** 2
            scaled_U, iterations = cpu.solve_adjoint(
                S, V, norms, given, pull, PROX_LAM, MAX_ITER, common.residual_tolerance(EPS, S.dtype)
            )
            U = scaled_U / common.scaling(S) ** 2
            descent = torch.zeros_like(V)
            lengths = norms * common.scaling(S) ** 2
            arrays = [V.numpy(), _rows_given(instance), lengths.numpy(), pull.numpy()]
            per_coordinate.backward(S.numpy(), *arrays, PROX_LAM, sweeps.numpy(), descent.numpy())
            dS, descent_dS = op.weight_gradient(S, V, U), op.weight_gradient(S, V, descent)
            yield {
                "weights": weights,
                "momentum": momentum,
                "sweeps": sweeps.double().mean().item(),
                "gap": ((objective(S, V) - optimum) / first).mean().item(),
                "sweeps to match": matched.double().mean().item(),
                "iterations": iterations.double().mean().item(),
                "U error": _relative(U, exact_U),
                "U error, descent": _relative(descent, exact_U),
                "dS error": _relative(dS, exact_dS),
                "dS error, descent": _relative(descent_dS, exact_dS),
                "dS cosine": _cosine(dS, exact_dS),
                "dS cosine, descent": _cosine(descent_dS, exact_dS),
            }


def _relative(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


def _cosine(x: Tensor, y: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0).item()


_MEMORY = """
import json, resource, sys
sys.path.insert(0, {root!r})
from benchmarks.registry import seconds
from benchmarks.satnet.cases import _step
from benchmarks.satnet.instances import random_instance
_step(random_instance(2, 20, 10, 10, 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
instance = random_instance({B}, {n}, {aux}, {m}, {k})
_step(instance)
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps([peak, seconds(lambda: _step(instance), repeats=3)[0]]))
"""


@case("satnet-growth")
def growth() -> Iterator[Row]:
    """Time and peak memory of a step as B, n, m and k grow, each from B 40, n 729, aux 300, m 600, k 32; fresh weights."""
    base = {"B": 40, "n": 729, "aux": 300, "m": 600, "k": 32}
    for name, values in {
        "B": (1, 10, 40, 160, 640),
        "n": (81, 243, 729, 2187, 6561),
        "m": (75, 300, 600, 1200),
        "k": (8, 32, 64, 128),
    }.items():
        for value in values:
            sizes = {**base, name: value}
            root = str(WEIGHTS.parents[4])
            peak, time_taken = json.loads(run_alone(_MEMORY.format(root=root, **sizes)))
            yield {"grows": name, **sizes, "seconds": time_taken, "peak_mb": peak}


_FIRST = """
import json, os, sys, tempfile, time
if {fresh}:
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
sys.path.insert(0, {root!r})
import torch
started = time.perf_counter()
from difflayers import SATNet
layer = SATNet(20, 10, 5, dtype=torch.{dtype})
times = [time.perf_counter() - started]
for _ in range(2):
    started = time.perf_counter()
    out = layer(torch.rand(4, 20, dtype=torch.{dtype}), torch.rand(4, 20) < 0.5)
    times.append(time.perf_counter() - started)
    started = time.perf_counter()
    out.sum().backward()
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""


@case("satnet-first-call")
def first_call() -> Iterator[Row]:
    """Seconds to import and for the first and second step of a small layer, on a fresh install and on a used one."""
    for dtype in ("float32", "float64"):
        for fresh in (True, False):
            code = _FIRST.format(fresh=fresh, root=str(WEIGHTS.parents[4]), dtype=dtype)
            if not fresh:
                run_alone(code)
            names = ("import", "first forward", "first backward", "second forward", "second backward")
            yield {
                "dtype": dtype,
                "cache": "empty" if fresh else "filled",
                **dict(zip(names, json.loads(run_alone(code)), strict=True)),
            }
