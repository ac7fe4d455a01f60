"""Checks of arguments that all layers share: a TypeError or ValueError with the argument's name, what came, what is wanted."""

import math

from torch import Tensor


def check_size(name: str, value: int, least: int = 1) -> None:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    """A finite number of at least 0, or above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ValueError(f"{name} must be finite and {'above' if positive else 'at least'} 0; got {value}")


def check_device(name: str, tensor: Tensor) -> None:
    """A device that the layers have kernels for, or meta."""
    if tensor.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(
            f"{name} must be on the CPU or a CUDA device, where the layers have kernels; got {tensor.device}: see "
            "difflayers.backends()"
        )
