"""The loss to train a SATNet layer by: its values, its bounded gradients, and its errors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from difflayers import SATNet, functional

BITS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
OUT = torch.tensor([[0.9, 0.2, 0.5], [1.0, 0.0, 0.0]])
GIVEN = torch.tensor([[True, False, False], [False, False, False]])


def by_hand(z: float, t: float, smoothing: float) -> float:
    q = smoothing + (1 - 2 * smoothing) * z
    return -t * math.log(q) - (1 - t) * math.log(1 - q)


@pytest.mark.parametrize("smoothing", [0.01, 0.2])
def test_values(smoothing: float) -> None:
    want = torch.tensor(
        [
            [by_hand(z, t, smoothing) for z, t in zip(*rows, strict=True)]
            for rows in zip(OUT.tolist(), BITS.tolist(), strict=True)
        ]
    )
    loss = functional.satnet_loss(OUT, BITS, smoothing=smoothing, reduction="none")
    assert_close(loss, want)
    free = torch.where(GIVEN, 0, want)
    assert_close(functional.satnet_loss(OUT, BITS, GIVEN, smoothing=smoothing, reduction="none"), free)
    assert_close(functional.satnet_loss(OUT, BITS.bool(), GIVEN, smoothing=smoothing), free.sum() / 5)
    assert_close(functional.satnet_loss(OUT, BITS.int(), GIVEN, smoothing=smoothing, reduction="sum"), free.sum())
    assert functional.satnet_loss(OUT, BITS, torch.ones_like(GIVEN)).item() == 0
    assert functional.satnet_loss(OUT[:0], BITS[:0]).item() == 0


def test_gradients_have_a_bound_and_do_not_vanish() -> None:
    z = torch.tensor([0.0, 1e-30, 1e-6, 0.1, 0.5, 1.0], requires_grad=True)
    functional.satnet_loss(z, torch.ones(6), reduction="sum").backward()
    assert z.grad is not None and z.grad.abs().max() <= 98 + 1e-4
    assert (z.grad < -0.9).all() and (z.grad[:3] < -97).all()
    assert torch.autograd.gradcheck(
        lambda x: functional.satnet_loss(x, torch.tensor([1.0, 0.0, 0.3])),
        torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64, requires_grad=True),
    )


def test_a_fresh_layer_without_auxiliary_variables_learns() -> None:
    """Where a plain cross entropy meets wrong outputs of 0 and 1, and gradients of 1e4."""
    inputs = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    bits = torch.cat((inputs, inputs[:, [0, 1, 0]] * inputs[:, [1, 2, 2]]), 1)
    given = (torch.arange(6) < 3).expand_as(bits)
    torch.manual_seed(1)
    layer = SATNet(6, 20)
    optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        functional.satnet_loss(layer(bits, given), bits, given).backward()
        assert layer.S.grad is not None and layer.S.grad.isfinite().all() and layer.S.grad.abs().max() < 50
        optimizer.step()
    assert torch.equal(layer(bits, given).round(), bits)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"probabilities": OUT.double() + 1}, ValueError, r"probabilities must be in .*; got 1.9"),
        ({"probabilities": OUT * math.nan}, ValueError, "probabilities must be in .*; got nan"),
        ({"probabilities": [0.5]}, TypeError, "probabilities must be a tensor; got list"),
        ({"probabilities": OUT.half()}, TypeError, "probabilities must be float32 or float64"),
        ({"target": BITS - 1}, ValueError, r"target must be in \[0, 1\]; got -1"),
        ({"target": BITS[0]}, ValueError, r"target must have the shape of probabilities, \(2, 3\); got \(3,\)"),
        ({"target": BITS + 0j}, TypeError, "target must be bool, integer or floating; got torch.complex64"),
        ({"target": BITS.to("meta")}, ValueError, "target must be on the device of probabilities"),
        ({"is_input": BITS}, TypeError, "is_input must be a bool or integer tensor"),
        ({"is_input": GIVEN[:1]}, ValueError, "is_input must have the shape of probabilities"),
        ({"smoothing": 0.5}, ValueError, "smoothing must be at least 1e-6 and below 1/2; got 0.5"),
        ({"smoothing": 0}, ValueError, "smoothing must be finite and above 0; got 0"),
        ({"reduction": "x"}, ValueError, "reduction must be one of 'mean', 'sum', 'none'; got 'x'"),
    ],
)
def test_errors(changed: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"probabilities": OUT, "target": BITS, "is_input": GIVEN, **changed}
    with pytest.raises(kind, match=message):
        functional.satnet_loss(**arguments)


def test_under_transformations() -> None:
    want = functional.satnet_loss(OUT, BITS, GIVEN, reduction="none").sum(1)

    def each(z: Tensor, t: Tensor, given: Tensor) -> Tensor:
        return functional.satnet_loss(z, t, given, reduction="sum")

    assert_close(torch.vmap(each)(OUT, BITS, GIVEN), want)
    assert functional.satnet_loss(OUT.to("meta"), BITS.to("meta")).is_meta
