"""What a caller can get wrong in one argument: variants of a good value, by its kind. For tests of every public function."""

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode


def _with(value: float) -> Callable[[Tensor], Any]:
    """A floating tensor with one entry replaced."""

    def change(x: Tensor) -> Any:
        x = x.clone() if x.is_floating_point() else x.to(torch.float32)
        if x.numel():
            x.view(-1)[-1] = value
        return x

    return change


def _mkldnn(x: Tensor) -> Any:
    return x.to(torch.float32).contiguous().to_mkldnn() if x.ndim and x.numel() else None


def _nested(x: Tensor) -> Any:
    return torch.nested.nested_tensor(list(x), layout=torch.jagged) if x.ndim > 1 else None


def _negative_bit(x: Tensor) -> Any:
    """The same values, with a sign that only the tensor's flag tells."""
    return torch.complex(torch.zeros_like(x), -x).conj().imag if x.dtype in (torch.float32, torch.float64) else None


def _inference(x: Tensor) -> Any:
    with torch.inference_mode():
        return x.clone()


def _fake(x: Tensor) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(x.shape, dtype=x.dtype)


def _quantized(x: Tensor) -> Any:
    with warnings.catch_warnings():  # torch says that quantized tensors go
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x.to(torch.float32), 0.1, 0, torch.quint8)


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "as it is": lambda x: x,
    "NaN": _with(math.nan),
    "inf": _with(math.inf),
    "-inf": _with(-math.inf),
    "huge": _with(3e38),
    "denormal": _with(1e-42),
    "negative": _with(-1.0),
    "large integers": lambda x: torch.full(x.shape, 2**62),
    "all zero": torch.zeros_like,
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "complex": lambda x: x.to(torch.complex64),
    "int64": lambda x: x.long(),
    "bool": lambda x: x.bool(),
    "sparse": lambda x: x.to_sparse() if x.ndim else None,
    "mkldnn": _mkldnn,
    "nested": _nested,
    "meta": lambda x: x.to("meta"),
    "negative bit": _negative_bit,
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "one dimension more": lambda x: x.unsqueeze(0),
    "one dimension less": lambda x: x[0] if x.ndim and len(x) else x,
    "no dimensions": lambda x: x.new_zeros(()),
    "last dimension empty": lambda x: x[..., :0] if x.ndim else x,
    "empty batch": lambda x: x[:0] if x.ndim else x,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "strided": lambda x: torch.stack((x, x), -1)[..., 0],
    "reversed": lambda x: x.flip(0) if x.ndim else x,
    "expanded": lambda x: x[:1].expand_as(x) if x.ndim and len(x) else x,
    "overlapping": lambda x: x.new_ones(()).expand(x.shape),
    "inference": _inference,
    "fake": _fake,
    "parameter": lambda x: torch.nn.Parameter(x) if x.is_floating_point() else x,
    "not a leaf": lambda x: x.clone().requires_grad_() * 1 if x.is_floating_point() else x,
    "quantized": _quantized,
    "bfloat16": lambda x: x.bfloat16(),
    "uint8": lambda x: x.to(torch.uint8),
    "requires a gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "string": lambda x: "x",
}
NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, True, 2**31, 2**40, 2**63, 10**400, 0.0, -0.0, 0.5, 1.5, -1.0, math.nan, math.inf, -math.inf,
    1e-320, 1e-100, 1e-30, 1e30, 1e39, 1e100, 1e200, "x", None, [], 1j, np.float32(0.5), np.float64(0.5), np.int64(3),
    np.array(3), np.array([0.5]), np.bool_(True), Fraction(1, 2), torch.tensor(0.5), torch.tensor(3),
    torch.tensor([1.0, 2.0]), torch.tensor(math.nan), torch.tensor(0.5, device="meta"),
]  # fmt: skip
OTHERS: list[Any] = [
    None, 0, 1, -1, 2**63, 0.5, math.nan, "x", "", b"x", True, [], (), {}, object(), torch.tensor(1.0), torch.float16,
    torch.int64, torch.device("meta"), "nowhere", [["x"]], [[0]], [[2**63]], [[1.5]],
]  # fmt: skip


def variants(value: Any) -> list[tuple[str, Any]]:
    """Named variants of a good value, made anew."""
    if isinstance(value, Tensor):
        made = [(name, change(value)) for name, change in TENSORS.items()]
        return [(name, x) for name, x in made if x is not None or name == "None"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [(repr(x), x) for x in NUMBERS]
    return [(repr(x), x) for x in OTHERS]
