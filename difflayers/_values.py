"""Checks of what tensors hold, as an operator: seen by torch.compile, torch.export and vmap, which know no values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from difflayers._cuda import capturing
from difflayers._ops import define, library


def in_range(name: str, x: Tensor, low: float, high: float) -> Tensor:
    """0, to be added to what is computed of x; a ValueError that names it unless low <= x <= high throughout (not for NaN)."""
    if torch.onnx.is_in_onnx_export():  # other runtimes have no such operator
        return x.new_zeros(())
    token: Tensor = _check_range(x.detach(), low, high, name)
    return token


def _check(x: Tensor, low: float, high: float, name: str) -> Tensor:
    """Waits for a device, but in a CUDA graph."""
    if not capturing(x) and x.numel():
        least, most = x.aminmax()
        if not bool((least >= low) & (most <= high)):  # NaN is passed on by both
            wanted = "finite" if high > 1e30 else f"in [{low:g}, {high:g}]"
            bad = x[~((x >= low) & (x <= high))][0]
            raise ValueError(f"{name} must be {wanted}; got {float(bad):g}")
    return x.new_zeros(())


def _fake(x: Tensor, low: float, high: float, name: str) -> Tensor:
    return x.new_zeros(())


_check_range = define("check_range(Tensor x, float low, float high, str name) -> Tensor", _check, _check, _fake)


@torch.library.register_vmap("difflayers::check_range", lib=library)
def _vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, None]:
    return _check_range(*args), None
