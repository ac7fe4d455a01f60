"""Checks of arguments that all functions share. An error is a TypeError or ValueError that names the argument, what came and
what is wanted."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch._subclasses.fake_tensor import FakeTensor

FLOATS = (torch.float32, torch.float64)
LARGEST_SIZE = 2**31 - 1
"""Of counts and sizes: what the kernels' int32 holds."""
LARGEST_K = 2**20
"""Of the dimension of vectors; beyond the square root of twice their number it makes no difference."""
LARGEST_NUMBER = 1e150
"""Of options that are numbers: their squares and products stay finite in float64."""


def check_size(name: str, value: int, least: int = 1, most: int = LARGEST_SIZE) -> None:
    """An integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int; got {type(value).__name__}")
    if not least <= value <= most:
        bounds = f"at least {least}" if value < least else f"at most {most}"
        raise ValueError(f"{name} must be {bounds}; got {shown(value)}")


def check_number(name: str, value: float, *, positive: bool = False, most: float = LARGEST_NUMBER) -> None:
    """A finite number of at least 0, or above 0, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(f"{name} must be finite and {'above' if positive else 'at least'} 0; got {shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:g}; got {shown(value)}")
    if positive and value < 1 / LARGEST_NUMBER:
        raise ValueError(f"{name} must be at least {1 / LARGEST_NUMBER:g}; got {shown(value)}")


def check_generator(name: str, value: Generator | None) -> None:
    """None or a torch.Generator."""
    if value is not None and not isinstance(value, Generator):
        raise TypeError(f"{name} must be a torch.Generator or None; got {type(value).__name__}")


def check_dtype(name: str, value: torch.dtype | None, allowed: Sequence[torch.dtype] = FLOATS) -> None:
    """None or one of the allowed dtypes."""
    if value is not None and not isinstance(value, torch.dtype):
        raise TypeError(f"{name} must be {_one_of(allowed)}; got {type(value).__name__}")
    if value is not None and value not in allowed:
        raise TypeError(f"{name} must be {_one_of(allowed)}; got {value}")


def _first_sentence(error: Exception) -> str:
    return re.split(r"\.\s|\n", str(error), maxsplit=1)[0]


def check_device_name(name: str, value: torch.device | str | int | None) -> None:
    """None, or what torch.device takes, if torch can make a tensor there."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, torch.device | str | int):
        raise TypeError(f"{name} must be a torch.device, a string or None; got {type(value).__name__}")
    try:
        device = torch.device(value)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must name a torch device; got {value!r}: {error}") from None
    try:  # torch.cuda.is_available() would refuse FakeTensorMode's devices, which need no GPU
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"{name} must be a device that is there; got {str(value)!r}: {_first_sentence(error)}"
        ) from None


def check_names(name: str, value: Sequence[str] | None, count: int) -> None:
    """None, or `count` strings."""
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence of {count} strings; got {type(value).__name__}")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"{name} must be strings; got {type(item).__name__}")
    if len(value) != count:
        raise ValueError(f"{name} must be one for each of {count}; got {len(value)}")


def listed_clauses(clauses: Any, at: int | None = None) -> list[Any]:
    """The clauses, or the literals of the clause with number `at`, as a list."""
    try:
        if isinstance(clauses, str | bytes | bytearray):
            raise TypeError
        return list(clauses)
    except TypeError:
        where = "" if at is None else f" as clause {at}"
        raise TypeError(f"clauses must be sequences of integers; got {type(clauses).__name__}{where}") from None


def check_tensor(
    name: str, value: Tensor, dtypes: Sequence[torch.dtype] | None = FLOATS, *, values: bool = False
) -> None:
    """A dense tensor of one of the dtypes (any if None), on a device that the layers have kernels for, or meta.

    With `values` it must have some: not on meta, and none of FakeTensorMode's.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        layout = "nested" if value.is_nested else "quantized" if value.is_quantized else str(value.layout)
        raise TypeError(
            f"{name} must be a dense tensor (torch.strided); got {layout}: use .to_dense(), .to_padded_tensor() or "
            ".dequantize()"
        )
    if dtypes is not None and value.dtype not in dtypes:
        raise TypeError(f"{name} must be {_one_of(dtypes)}; got {value.dtype}")
    if values and not holds_values(value):
        where = "on the meta device" if value.is_meta else "of FakeTensorMode"
        raise ValueError(f"{name} must hold values; got a tensor {where}, which has a shape only")
    check_device(name, value)


def holds_values(value: Tensor) -> bool:
    """Whether a tensor has more than a shape: it is neither on meta nor one of FakeTensorMode's."""
    return not (value.is_meta or isinstance(value, FakeTensor))


def as_array(name: str, value: Tensor) -> NDArray[Any]:
    """The values of any dense tensor; floats that NumPy lacks as float64."""
    check_tensor(name, value, None, values=True)
    value = value.detach().cpu().resolve_conj().resolve_neg()
    if value.dtype.is_floating_point and value.dtype not in (torch.float16, *FLOATS):
        value = value.double()
    return value.numpy()


def check_fits(name: str, value: float, dtype: torch.dtype) -> None:
    """A number that the dtype can hold."""
    most = torch.finfo(dtype).max
    if abs(value) > most:
        raise ValueError(
            f"{name} must be at most {most:.3g} in absolute value, the largest of {dtype}; got {shown(value)}"
        )


def filled(name: str, value: float, like: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of one number, which its dtype must be able to hold."""
    check_fits(name, value, like.dtype)
    return like.new_full(shape, float(value))


def check_mask(name: str, value: Tensor, *, values: bool = False) -> None:
    """A dense bool or integer tensor."""
    check_tensor(name, value, None, values=values)
    if value.dtype.is_floating_point or value.dtype.is_complex:
        raise TypeError(f"{name} must be a bool or integer tensor (nonzero where there is one); got {value.dtype}")


def check_device(name: str, tensor: Tensor) -> None:
    """A device that the layers have kernels for, or meta."""
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(
            f"{name} must be on the CPU or a CUDA device, where the layers have kernels; got {tensor.device}: see "
            "difflayers.backends()"
        )


def check_same_device(name: str, value: Tensor, other: str, device: torch.device) -> None:
    """On the device of another argument."""
    if value.device != device:
        raise ValueError(f"{name} must be on the device of {other}, {device}; got {value.device}")


def shown(value: Any) -> str:
    """A number as an error message shows it: an integer of a thousand digits is not printed whole."""
    text = (
        repr(value) if not isinstance(value, int) or abs(value) < 10**30 else f"an integer of {value.bit_length()} bits"
    )
    return text if len(text) <= 80 else text[:77] + "..."


def _one_of(dtypes: Sequence[torch.dtype]) -> str:
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
