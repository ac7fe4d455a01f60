"""Statistics over a sequence."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from difflayers.metrics import sequence_statistics


def test_statistics_by_hand() -> None:
    values = [1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 0.2, 0.2, 0.1]
    # 1, 3, 5, 7, 9 are the ends: frames 1 to 3 and 7 to 9.
    found = sequence_statistics(values)
    assert found.mean == pytest.approx(5 / 9) and found.recall == pytest.approx(4 / 9)  # 0.5 itself is not above 1/2
    assert found.decay == pytest.approx(2.9 / 3 - 0.5 / 3)
    # Of ten: 1, 3.25, 5.5, 7.75, 10 round to 1, 3, 6 (5.5 and a little), 8, 10.
    assert sequence_statistics(np.arange(10) / 10).decay == pytest.approx(0.1 - 0.8)
    # Of three: 1, 1.5, 2, 2.5, 3 round to 1, 2, 2, 3, 3 (the added 1e-10 breaks ties upwards).
    assert sequence_statistics([0.9, 0.6, 0.3]).decay == pytest.approx(0.75 - 0.3)
    assert sequence_statistics([0.7]).decay == 0


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 100, 255, 256, 257, 300, 1000])
def test_decay_is_that_of_the_official_code_without_its_overflow(frames: int) -> None:
    values = np.random.default_rng(frames).random(frames)
    ends = [int(x) for x in np.round(np.linspace(1, frames, 5) + 1e-10) - 1]  # in 8 bits there
    quarters = [values[a : b + 1] for a, b in pairwise(ends)]
    found = sequence_statistics(values)
    assert found.decay == np.nanmean(quarters[0]) - np.nanmean(quarters[3])
    assert found.mean == np.nanmean(values) and found.recall == np.nanmean(values > 0.5)
    assert sequence_statistics(torch.from_numpy(values)) == sequence_statistics(list(values)) == found


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], ValueError, "a frame at least"),
        (np.ones((2, 2)), ValueError, r"shape \(T,\)"),
        ([0.5, math.nan], ValueError, "must be finite"),
        ([0.5, math.inf], ValueError, "must be finite"),
        ([0.5j], TypeError, "real numbers; got complex128"),
        (["a"], TypeError, "real numbers"),
    ],
)
def test_wrong_values(values: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sequence_statistics(values)  # type: ignore[arg-type]
