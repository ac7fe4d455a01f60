"""The benchmarks compare like with like."""

from unittest.mock import patch

import pytest
import torch

from benchmarks.registry import CASES, machine, seconds
from benchmarks.satnet import cases
from benchmarks.satnet.instances import random_instance, sudoku_instance


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
    assert {"satnet-step", "satnet-quality", "satnet-growth", "satnet-first-call"} <= set(CASES)
    assert all(case.__doc__ for case in CASES.values())
    assert machine()["threads"] == torch.get_num_threads()
    median, spread = seconds(lambda: sum(range(1000)), repeats=3)
    assert median > 0 <= spread
