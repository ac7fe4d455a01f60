"""What the operators of all layers share: their library, autocast, and how torch.vmap folds a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("difflayers", "DEF")


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register `torch.ops.difflayers.NAME` with its CPU kernel and its fake, and return it.

    The kernel runs without autocast: a solver's own matrix products keep the dtype of its input.
    """
    name = schema.partition("(")[0]

    def run(*args: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return kernel(*args)

    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CPU")
    torch.library.register_fake(f"difflayers::{name}", fake, lib=library)
    return getattr(torch.ops.difflayers, name)


def fold(arg: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped dimension, put in front of the batch and made one with it."""
    arg = arg.unsqueeze(0).expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
    return arg.reshape(-1, *arg.shape[2:])


def unfold(result: Tensor, size: int) -> Tensor:
    """The inverse for a result: (size * B, ...) to (size, B, ...)."""
    return result.reshape(size, result.shape[0] // size if size else 0, *result.shape[1:])
