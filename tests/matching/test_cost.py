"""Costs of matching: overlap of masks and similarity of features."""

import itertools
import math
from typing import Any

import pytest
import torch
from layer_calls import DTYPES, F64, INF, NAN
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from difflayers import MaskMatchingCost, functional
from difflayers.matching import cost as cost_module


def naive_iou(r: Tensor, p: Tensor) -> Tensor:
    out = torch.zeros(len(r), len(p), dtype=F64)
    for i, a in enumerate(r.double()):
        for j, b in enumerate(p.double()):
            together, either = float((a * b).sum()), float((a + b - a * b).sum())
            out[i, j] = together / either if either > 0 else 0.0
    return out


def some_masks(kind: str, *shape: int) -> Tensor:
    masks = torch.rand(shape)
    masks = masks < 0.4 if kind == "bool" else masks
    masks = (masks < 0.4).float() if kind == "0 and 1" else masks
    masks[..., 0, :, :] = 0
    return masks.double() if kind == "float64" else masks


@pytest.mark.parametrize("kind", ["bool", "soft", "0 and 1", "float64"])
def test_mask_iou_is_a_loop_over_the_pairs(kind: str) -> None:
    """Empty masks included: the IoU of two of them is 0."""
    r, p = some_masks(kind, 2, 3, 5, 7), some_masks(kind, 2, 4, 5, 7)
    got = functional.mask_iou(r, p)
    assert got.shape == (2, 3, 4) and got.dtype == (torch.float32 if kind == "bool" else r.dtype)
    for b in range(2):
        assert_close(got[b].double(), naive_iou(r[b], p[b]), rtol=1e-5, atol=1e-6)
    assert (got[:, 0, 0] == 0).all() and (got >= 0).all() and (got <= 1).all()
    assert_close(functional.mask_iou(r[0], p)[1], got[1] * 0 + functional.mask_iou(r[0], p[1]))
    if kind != "soft":
        ones = r[0, 1:] if kind != "float64" else r[0, 1:].round()
        assert_close(functional.mask_iou(ones, ones).diagonal(), torch.ones(2, dtype=got.dtype))


def test_mask_iou_of_no_objects_and_no_pixels() -> None:
    for dtype in (torch.bool, torch.float32):
        masks = torch.ones(3, 4, 4).to(dtype)
        assert functional.mask_iou(masks[:0], masks).shape == (0, 3)
        assert torch.equal(functional.mask_iou(masks[:, :0], masks[:, :0]), torch.zeros(3, 3))


@pytest.mark.parametrize("chunk", [1, 7, 20, 64, 10**9])
def test_mask_iou_takes_pixels_in_slices(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    r, p = some_masks("bool", 2, 3, 6, 7), some_masks("bool", 2, 5, 6, 7)
    want = functional.mask_iou(r, p)
    monkeypatch.setattr(cost_module, "_CHUNK", chunk)
    assert torch.equal(functional.mask_iou(r, p), want)


class Largest(TorchDispatchMode):
    """The number of entries of the largest floating-point tensor made, and of how many."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.dtype.is_floating_point:
                self.size = max(self.size, tensor.numel())
        return result


def test_mask_iou_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of size n m H W; of bool masks none of n H W in floating point either, however large the batch."""
    monkeypatch.setattr(cost_module, "_CHUNK", 4000)
    r, p = some_masks("bool", 8, 9, 32, 32), some_masks("bool", 8, 11, 32, 32)
    with Largest() as seen:
        functional.mask_iou(r, p)
    assert seen.size <= 4000
    with Largest() as seen:
        functional.mask_iou(r.float(), p.float())
    assert seen.size <= p.numel()


def test_mask_iou_counts_more_pixels_than_half_precision_holds() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        masks = torch.ones(2, 300, 300, dtype=dtype)
        masks[1, :150] = 0
        iou = functional.mask_iou(masks, masks)
        assert iou.dtype == dtype and iou.tolist() == [[1, 0.5], [0.5, 1]]
    masks = torch.rand(3, 200, 200) < 0.5
    want = functional.mask_iou(masks, masks)
    soft = functional.mask_iou(masks.float(), masks.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.mask_iou(masks, masks), want)
        assert torch.equal(functional.mask_iou(masks.float(), masks.float()), soft)


@pytest.mark.parametrize("lam", [0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["bool", "soft", "float64"])
def test_cost_by_hand(kind: str, lam: float) -> None:
    dtype = F64 if kind == "float64" else torch.float32
    f, g = torch.randn(2, 3, 5, dtype=dtype), torch.randn(2, 4, 5, dtype=dtype)
    f[0, 1] = 0
    r, p = some_masks(kind, 2, 3, 4, 4), some_masks(kind, 2, 4, 4, 4)
    C = functional.mask_matching_cost(f, r, g, p, lam)
    assert C.shape == (2, 3, 4) and C.dtype == dtype
    for b in range(2):
        iou = naive_iou(r[b], p[b])
        for i, j in itertools.product(range(3), range(4)):
            lengths = float(f[b, i].norm() * g[b, j].norm())
            cosine = float(f[b, i] @ g[b, j]) / lengths if lengths else 0.0
            assert float(C[b, i, j]) == pytest.approx((lam - 1) * cosine - lam * float(iou[i, j]), abs=1e-5)
    assert C.min() >= -1 - 1e-6 and C.max() <= 1 + 1e-6
    wide = functional.mask_matching_cost(f.double(), r, g.double(), p, lam)
    assert wide.dtype == F64, "that of the features"
    assert_close(
        functional.mask_matching_cost(f[0], r[0], g, p, lam)[1],
        functional.mask_matching_cost(f[0], r[0], g[1], p[1], lam),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *DTYPES])
def test_cost_of_features_of_any_length(dtype: torch.dtype) -> None:
    """The cosine does not depend on it: zeros, the smallest and the largest numbers of the dtype."""
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    f = torch.tensor([[0, 0, 0], [3 * least, 4 * least, 0], [0.75 * most, most, 0], [3, 4, 0]], dtype=F64).to(dtype)
    g = torch.tensor([[0, 0, 0], [4 * least, 3 * least, 0], [most, 0.75 * most, 0], [4, 3, 0]], dtype=F64).to(dtype)
    r = torch.rand(4, 2, 2)
    C = functional.mask_matching_cost(f, r, g, r, 0.0)
    assert C.dtype == dtype
    want = torch.full((4, 4), -0.96)
    want[0], want[:, 0] = 0, 0
    assert_close(C.float(), want, rtol=0, atol={torch.float16: 1e-3, torch.bfloat16: 5e-3}.get(dtype, 1e-6))
    f.requires_grad_()
    (gradient,) = torch.autograd.grad(functional.mask_matching_cost(f, r, g, r).float().sum(), f)
    assert (gradient[0] == 0).all() and gradient[3].abs().max() > 0 and not gradient.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES])
@pytest.mark.parametrize(("value", "got"), [(255, "255"), (-0.5, "-0.5"), (NAN, "nan"), (INF, "inf"), (1.5, "1.5")])
def test_masks_outside_0_and_1_are_refused(value: float, got: str, dtype: torch.dtype) -> None:
    """Masks of 0 to 255, or logits, would give an IoU that means nothing. Under compile and vmap, too."""
    fine = torch.rand(2, 3, 4, 4).to(dtype)
    bad = fine.clone()
    bad[1, 2, 3, 3] = value
    with pytest.raises(ValueError, match=rf"^template_masks must be in \[0, 1\]; got {got}$"):
        functional.mask_iou(bad, fine)
    with pytest.raises(ValueError, match=rf"^proposal_masks must be in \[0, 1\]; got {got}$"):
        functional.mask_iou(fine, bad)
    with pytest.raises(ValueError, match=rf"proposal_masks must be in \[0, 1\]; got {got}$"):
        torch.vmap(functional.mask_iou)(fine, bad)
    if dtype == torch.float32:
        compiled = torch.compile(functional.mask_iou, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(fine, fine), functional.mask_iou(fine, fine))
        with pytest.raises(ValueError, match=rf"proposal_masks must be in \[0, 1\]; got {got}$"):
            compiled(fine, bad)
    if not math.isfinite(value):
        features = torch.randn(3, 5)
        bad_features = features.clone()
        bad_features[1, 1] = value
        with pytest.raises(ValueError, match=rf"^proposal_features must be finite; got {got}"):
            functional.mask_matching_cost(features, fine[0].float(), bad_features, fine[0].float())


F, R = torch.randn(3, 5), torch.rand(3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((F.tolist(), R, F, R), TypeError, "template_features must be a tensor; got list"),
        ((F, R, None, R), TypeError, "proposal_features must be a tensor; got NoneType"),
        ((F.int(), R, F.int(), R), TypeError, "template_features must be float16, bfloat16, float32 or.*torch.int32"),
        ((F, R, F.double(), R), TypeError, "proposal_features must have the dtype of template_features.*float64"),
        ((F.to_sparse(), R, F, R), TypeError, "template_features must be a dense tensor"),
        ((F, R.to_sparse(), F, R), TypeError, "template_masks must be a dense tensor"),
        (
            (F, R, F.to("meta"), R),
            ValueError,
            "proposal_features must be on the device of template_features, cpu; got meta",
        ),
        ((F[0], R, F, R), ValueError, r"template_features must have shape \(\.\.\., objects, d\).*got \(5,\)"),
        ((F, R, F[:, :4], R), ValueError, r"proposal_features must have shape.*d = 5 for both; got \(3, 4\)"),
        ((F, R[:2], F, R), ValueError, "template_features and its masks.*got 3 features and 2 masks"),
        ((F, R, F, R[:2]), ValueError, "proposal_features and its masks"),
        ((F, R.tolist(), F, R), TypeError, "template_masks must be a tensor; got list"),
        ((F, R, F, R.int()), TypeError, "proposal_masks must be bool, or floating point.*torch.int32"),
        (
            (F, R, F, R > 0),
            TypeError,
            "proposal_masks must have the dtype of template_masks, torch.float32.*torch.bool",
        ),
        ((F, R[0], F, R), ValueError, r"template_masks must have shape \(\.\.\., objects, H, W\); got \(4, 4\)"),
        ((F, R, F, R[:, :3]), ValueError, r"proposal_masks must have the height and width.*\(4, 4\); got \(3, 4\)"),
        (
            (F, R.expand(2, 3, 4, 4), F, R.expand(3, 3, 4, 4)),
            ValueError,
            "batch dimensions must broadcast.*proposal_masks",
        ),
        (
            (F.expand(2, 3, 5), R, F.expand(3, 3, 5), R),
            ValueError,
            "batch dimensions must broadcast.*template_features",
        ),
        ((F.expand(2, 3, 5), R.expand(3, 3, 4, 4), F, R), ValueError, "batch dimensions must broadcast.*masks"),
        ((F, R, F, R.to("meta")), ValueError, "proposal_masks must be on the device of template_masks, cpu; got meta"),
        ((F, R, F, R, -0.1), ValueError, "lam must be finite and at least 0"),
        ((F, R, F, R, 1.1), ValueError, r"lam must be in \[0, 1\]; got 1.1"),
        ((F, R, F, R, NAN), ValueError, "lam must be finite"),
        ((F, R, F, R, "1"), TypeError, "lam must be a number; got str"),
    ],
)
def test_bad_input_of_the_cost(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        functional.mask_matching_cost(*arguments)
    if len(arguments) == 5:
        with pytest.raises(error, match=f"^{words}"):
            MaskMatchingCost(arguments[4])
    elif "masks" in words.split()[0]:
        with pytest.raises(error, match=f"^{words}"):
            functional.mask_iou(arguments[1], arguments[3])
