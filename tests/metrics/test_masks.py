"""J and F of masks, against the official algorithm, and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_masks import blobs, official_boundary, official_F, official_J
from scipy import ndimage

from difflayers.metrics import boundary_f, jaccard

SIZES = st.integers(1, 24) | st.sampled_from([63, 64, 65, 127, 128, 129, 200])
TOLERANCES = (0.008, 0.1, 1.0, 2.5, 9)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 24), SIZES)
def test_the_official_numbers_to_the_last_digit(a: int, b: int, c: int, height: int, width: int) -> None:
    truth, prediction, void = (blobs(seed, height, width) for seed in (a, b, c))
    for one in (None, void):
        assert jaccard(truth, prediction, void=one) == official_J(truth, prediction, one)
        for tolerance in TOLERANCES:
            exact = min(tolerance, 500.0)  # beyond the picture
            assert boundary_f(truth, prediction, void=one, tolerance=tolerance) == official_F(
                truth, prediction, one, exact
            )


def test_a_picture_of_the_usual_size() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((3, 480, 854)), (0, 9, 9))
    truth, prediction = smooth > 0.01, np.roll(smooth, (4, 7), (1, 2)) > 0.012
    noise = rng.random((3, 480, 854)) < 0.5
    for g, m in ((truth, prediction), (truth, noise), (noise, truth)):
        assert jaccard(g, m).tolist() == [official_J(*pair) for pair in zip(g, m, strict=True)]
        assert boundary_f(g, m).tolist() == [official_F(*pair) for pair in zip(g, m, strict=True)]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([1, 5, 30]), st.sampled_from([1, 7, 64, 130]))
def test_disks_larger_than_the_picture(a: int, b: int, height: int, width: int) -> None:
    truth, prediction = blobs(a, height, width), blobs(b, height, width)
    g, m = official_boundary(truth).any(), official_boundary(prediction).any()
    for tolerance in (0.999, 1e3, 1e308):  # a share of the diagonal; pixels
        assert boundary_f(truth, prediction, tolerance=tolerance) == float(g == m)


def test_masks_of_every_kind_are_met() -> None:
    sums = [blobs(seed, 9, 11).sum() for seed in range(60)]
    assert {0, 1, 99} <= set(map(int, sums)) and len(set(sums)) > 10


def one_pixel(y: int, x: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y, x] = True
    return mask


@pytest.mark.parametrize(
    ("y", "x", "shift", "expected"),
    [
        # 20 x 30: the radius is ceil(0.008 * 36.06) = 1. The boundary of one pixel is the 2 x 2 block it ends.
        (10, 10, 0, 1.0),
        (10, 10, 2, 0.5),  # columns 9, 10 and 11, 12: of each block the half next to the other is within 1
        (10, 10, 5, 0.0),
        (0, 0, 0, 1.0),
    ],
)
def test_one_pixel(y: int, x: int, shift: int, expected: float) -> None:
    truth, prediction = one_pixel(y, x), one_pixel(y, x + shift)
    value = float(boundary_f(truth, prediction))
    assert value == expected


def test_a_pixel_in_the_last_corner_has_a_boundary_of_three_others() -> None:
    corner = one_pixel(19, 29)
    assert set(zip(*np.nonzero(official_boundary(corner)), strict=True)) == {(18, 28), (18, 29), (19, 28)}
    assert boundary_f(corner, corner) == 1
    # One pixel at (17, 27) has the boundary {16, 17} x {26, 27}: with radius 1 (17, 27) alone is near to none of the
    # three, whose nearest, (18, 28), is sqrt(2) away.
    assert boundary_f(corner, one_pixel(17, 27)) == 0
    # With radius 1.5: 1 of the 4 is near, 1 of the 3 is near; F = 2 (1/4) (1/3) / (7/12).
    assert boundary_f(corner, one_pixel(17, 27), tolerance=1.5) == pytest.approx(2 / 7)


def test_empty_and_full_masks() -> None:
    empty, full, pixel = np.zeros((5, 5), bool), np.ones((5, 5), bool), one_pixel(2, 2, (5, 5))
    cases = [(empty, empty, 1, 1), (empty, pixel, 0, 0), (pixel, empty, 0, 0), (full, full, 1, 1)]
    cases += [(full, empty, 0, 1), (full, pixel, 0.04, 0)]  # a full picture has no boundary either
    for truth, prediction, J, F in cases:
        assert jaccard(truth, prediction) == pytest.approx(J)
        assert boundary_f(truth, prediction) == F


def test_disk_radius_of_davis_is_8_pixels_at_480p() -> None:
    truth, seven = np.zeros((480, 854), bool), np.zeros((480, 854), bool)
    truth[:, 300:] = True
    for shift, expected in ((8, 1.0), (9, 0.0)):
        seven = np.roll(truth, shift, axis=1) & (np.arange(854) >= 300)
        assert boundary_f(truth, seven) == expected


def test_batches_and_tensors() -> None:
    truth = np.stack([blobs(seed, 12, 17) for seed in range(12)]).reshape(3, 4, 12, 17)
    prediction = np.stack([blobs(seed + 3, 12, 17) for seed in range(12)]).reshape(3, 4, 12, 17)
    for measure in (jaccard, boundary_f):
        values = measure(truth, prediction)
        assert values.shape == (3, 4) and values.dtype == np.float64
        one_by_one = [
            [measure(g, m) for g, m in zip(*rows, strict=True)] for rows in zip(truth, prediction, strict=True)
        ]
        assert np.array_equal(values, np.array(one_by_one))
        assert np.array_equal(values, measure(torch.from_numpy(truth), torch.from_numpy(prediction).to(torch.uint8)))
    assert jaccard(truth[:0], prediction[:0]).shape == boundary_f(truth[:0], prediction[:0]).shape


def test_void_pixels_are_taken_out_of_both() -> None:
    truth, prediction = blobs(3, 12, 17), blobs(9, 12, 17)
    void = np.zeros((12, 17), bool)
    void[:, 8:] = True
    g, m = truth & ~void, prediction & ~void
    assert jaccard(truth, prediction, void=void) == jaccard(g, m)
    assert boundary_f(truth, prediction, void=void) == boundary_f(g, m)


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_results_do_not_depend_on_threads_dtype_or_layout(measure) -> None:  # type: ignore[no-untyped-def]
    masks = np.stack([blobs(seed, 300, 401) for seed in range(24)])
    truth, prediction = masks[:12], masks[12:]
    torch.set_num_threads(1)
    expected = measure(truth, prediction)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert np.array_equal(measure(truth, prediction), expected)
    for dtype in (np.uint8, np.int8, np.int16, np.uint32, np.int64):
        values = np.where(truth, np.array(100 if np.dtype(dtype).itemsize == 1 else 256, dtype), np.array(0, dtype))
        assert np.array_equal(measure(values, prediction), expected)
    still = truth.copy()
    still.flags.writeable = False
    assert np.array_equal(measure(still, np.asfortranarray(prediction)), expected)
    assert np.array_equal(measure(torch.from_numpy(truth), prediction), expected)


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_void_of_every_shape(measure) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((2, 3, 4, 5, 5)) < 0.5
    for shape in ((5, 5), (4, 5, 5), (3, 1, 5, 5), (3, 4, 5, 5), (1, 1, 1, 5), (4, 5, 1), (5, 1, 1)):
        void = rng.random(shape) < 0.3
        try:
            whole = np.broadcast_to(void, truth.shape)
        except ValueError:
            with pytest.raises(ValueError, match="void must broadcast"):
                measure(truth, prediction, void=void)
            continue
        assert np.array_equal(measure(truth, prediction, void=void), measure(truth & ~whole, prediction & ~whole))


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_wrong_masks(measure) -> None:  # type: ignore[no-untyped-def]
    mask = np.zeros((4, 5), bool)
    with pytest.raises(TypeError, match="prediction must be bool or integer; got float64"):
        measure(mask, mask * 0.5)
    with pytest.raises(ValueError, match=r"prediction must have the shape of truth, \(4, 5\); got \(5, 4\)"):
        measure(mask, mask.T)
    with pytest.raises(ValueError, match=r"truth must have shape \(\.\.\., H, W\)"):
        measure(mask[0], mask[0])
    with pytest.raises(ValueError, match="void must broadcast"):
        measure(mask, mask, void=mask.T)
    for wrong, name in ((mask * np.nan, "float64"), (mask.astype(str), "<U5"), ("mask", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=name):
            measure(mask, wrong)
    with pytest.raises(ValueError, match="prediction must hold values; got a tensor on the meta device"):
        measure(mask, torch.zeros(4, 5, dtype=torch.bool, device="meta"))
    with pytest.raises(TypeError, match="prediction must be a dense tensor"):
        measure(mask, torch.zeros(4, 5, dtype=torch.int64).to_sparse())
    with pytest.raises(ValueError, match="a pixel at least"):
        measure(mask[:0], mask[:0])


def test_wrong_tolerances() -> None:
    mask = np.eye(3, dtype=bool)
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance must be a positive number"):
            boundary_f(mask, mask, tolerance=value)
    with pytest.raises(TypeError, match="tolerance must be a number; got str"):
        boundary_f(mask, mask, tolerance="8")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.int8])
def test_tolerance_is_any_real_number(number: type) -> None:
    truth = np.zeros((9, 9), bool)
    truth[2:6, 2:6] = True
    assert boundary_f(truth, np.roll(truth, 1, 0), tolerance=number(2)) == boundary_f(
        truth, np.roll(truth, 1, 0), tolerance=2
    )
