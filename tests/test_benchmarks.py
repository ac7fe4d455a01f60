"""The benchmarks compare like with like."""

import csv
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from benchmarks.__main__ import _append, main
from benchmarks.gpu import cases as gpu_cases
from benchmarks.matching.cases import _cvxpylayer, _learns, sinkhorn
from benchmarks.matching.exact import lapx_batch, scipy_loop, torch_linear_assignment
from benchmarks.matching.instances import mask_costs, random_costs
from benchmarks.maxsat.cases import exact, random_clauses, restarts
from benchmarks.registry import CASES, ON_GPU, machine, seconds
from benchmarks.satnet import cases
from benchmarks.satnet.instances import random_instance, sudoku_instance
from difflayers import functional, maxsat


def test_baseline_solves_the_same_problem() -> None:
    """At a tight eps the per-coordinate loop and the layer agree in loss and gradient."""
    instance = random_instance(B=4, n=36, aux=4, m=60, k=16)  # a unique solution
    with patch.object(cases, "EPS", 1e-7), patch.object(cases, "MAX_ITER", 2000):
        loss, dS, _ = cases._baseline_step(instance)
    generator = torch.Generator().manual_seed(1)
    S = instance.S.clone().requires_grad_()
    out = cases.functional.satnet(
        S, instance.z, instance.given, k=instance.k, eps=1e-7, max_iter=2000, generator=generator
    )
    layer_loss = torch.nn.functional.binary_cross_entropy(out.clamp(1e-6, 1 - 1e-6), instance.bits)
    (layer_dS,) = torch.autograd.grad(layer_loss, S)
    assert layer_loss.item() == pytest.approx(loss.item(), rel=1e-3)
    assert (layer_dS - dS).norm() < 2e-2 * dS.norm()


def test_sudoku_instance_has_the_size_that_the_cases_name() -> None:
    instance = sudoku_instance(trained=False, B=3)
    assert instance.S.shape == (1030, 600)
    assert instance.given.sum(1).tolist() == [36 * 9] * 3
    assert torch.equal(instance.z[instance.given], instance.bits[instance.given])


def test_registry_and_machine() -> None:
    assert {"satnet-step", "satnet-quality", "matching-step", "matching-choice", "maxsat-random"} <= set(CASES)
    assert all(case.__doc__ for case in CASES.values())
    assert machine()["threads"] == torch.get_num_threads()
    median, spread = seconds(lambda: sum(range(1000)), repeats=3)
    assert median > 0 <= spread


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of cvxpylayers
def test_peers_of_matching_solve_the_same_problem() -> None:
    cost = random_costs(3, 4, 6)
    (exact_X,) = _cvxpylayer(4, 6, 0.3)(cost, solver_args={"eps": 1e-10})
    assert (exact_X - functional.quadratic_matching(cost, 0.3)).abs().max() < 1e-6
    for m in (4, 6):  # with and without proposals to spare
        sharp = sinkhorn(random_costs(3, 4, m), 0.01, iterations=2000)
        assert (sharp.sum(2) - 1).abs().max() < 1e-6 and (sharp.sum(1) - 1).max() < 5e-3
        optimum = (functional.hungarian(random_costs(3, 4, m)) * random_costs(3, 4, m)).sum((1, 2))
        assert ((sharp * random_costs(3, 4, m)).sum((1, 2)) - optimum).abs().max() < 0.05


def test_peers_of_exact_matching_solve_the_same_problem() -> None:
    for n, m in ((4, 4), (4, 6)):
        cost = random_costs(3, n, m, dtype=torch.float32)
        for peer in (scipy_loop, lapx_batch, torch_linear_assignment):
            assert torch.equal(peer(cost), functional.assign(cost))


def test_costs_like_those_of_masks() -> None:
    cost = mask_costs(5, 4, 9)
    assert cost.shape == (5, 4, 9) and cost.min() >= -1 and cost.max() <= 1
    right = (functional.hungarian(cost)[:, :, :4] * torch.eye(4)).sum() / 20
    assert right > 0.8, "the first proposals are the templates, seen again"


def test_learning_a_cost_tells_gradients_from_none() -> None:
    cost = random_costs(4, 3, 5)
    flat, learned = _learns(lambda c: functional.quadratic_matching(c, 1.0), cost, steps=200)
    assert flat == 0 and learned > 0.6
    flat, learned = _learns(lambda c: functional.quadratic_matching(c, 1e-3), cost, steps=5)
    assert flat == 1 and learned < 0.6


def test_peers_of_maxsat_solve_the_same_problem() -> None:
    clauses = random_clauses(12, 60, 2, 0)
    instance = maxsat.Instance.from_clauses(clauses, 12)
    optimum = exact(clauses)
    assert optimum == min(instance.cost([bool(x >> i & 1) for i in range(12)])[0] for x in range(2**12))
    assert restarts(instance, 0.2) == optimum


def test_gpu_cases_are_run_when_asked_for_and_there_is_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {
        "gpu-satnet-step",
        "gpu-satnet-parts",
        "gpu-satnet-growth",
        "gpu-matching",
        "gpu-exact",
        "gpu-search",
    } == ON_GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments in (["--gpu"], ["gpu-matching"]):
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
        with pytest.raises(SystemExit):
            main()
        assert "gpu-matching" in (said := capsys.readouterr().err) and "torch sees no CUDA device" in said


def test_gpu_cases_work_on_the_instances_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_cases, "BOARDS", 3)
    instance = gpu_cases._instance("fresh", 5)
    assert instance.z.shape == (5, 729) and torch.equal(instance.z[3:], instance.z[:2])
    small = random_instance(B=2, n=18, aux=2, m=20, k=8)
    assert gpu_cases._to(small, "cpu", torch.float64).S.dtype == torch.float64
    start, (out, *_), grad = gpu_cases._solved(small)
    assert start.shape == (21, 8) and out.shape == grad.shape == (2, 18)
    assert gpu_cases._step(small).abs().max() > 0
    cost = random_costs(3, 4, 6)
    assert gpu_cases._match(functional.quadratic_matching, cost, torch.randn_like(cost)).shape == cost.shape
    assert {name: work().shape for name, work in gpu_cases._assigned("cpu", cost).items()} == {
        "exact": cost.shape[:-1],
        "entropic": cost.shape,
    }
    assert bool(gpu_cases._searched("cpu", 36, 1).accepted.all())


def test_results_are_added_to_those_of_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "case.csv"
    _append(path, [{"n": 1, "a, ms": 0.5}, {"n": 2, "ratio": 1 / 3}])
    _append(path, [{"n": 3, "b": 7.0}])
    with path.open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert (first["n"], first["a, ms"], first["ratio"]) == ("1", "0.5", "")
    assert (second["n"], second["ratio"], third["n"], third["b"]) == ("2", "0.3333", "3", "7")
    assert first["date"] == third["date"] and [one.name for one in tmp_path.iterdir()] == ["case.csv"]
