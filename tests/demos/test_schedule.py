"""The learning rate of the demos' trainings."""

from __future__ import annotations

import pytest
import torch

from demos.schedule import cosine, set_cosine_rate


def test_cosine() -> None:
    assert cosine(0, 100) == 1
    assert cosine(25, 100) == pytest.approx(0.5 + 0.5 * 2**-0.5)
    assert cosine(50, 100) == pytest.approx(0.5)
    assert cosine(100, 100) == 0


def test_every_group_gets_the_rate() -> None:
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([{"params": [first]}, {"params": [second], "lr": 5.0}], lr=1.0)
    set_cosine_rate(adam, 0.5, 50, 100)
    assert [group["lr"] for group in adam.param_groups] == pytest.approx([0.25, 0.25])
