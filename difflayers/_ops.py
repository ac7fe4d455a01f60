"""What the operators of all layers share: their library, autocast, and how torch.vmap folds a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

library = torch.library.Library("difflayers", "DEF")


def define(schema: str, cpu: Callable[..., Any], cuda: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register `torch.ops.difflayers.NAME` with its CPU and CUDA kernels and its fake, and return it."""
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for kernel, key in ((cpu, "CPU"), (cuda, "CUDA")):
        library.impl(name, _without_autocast(kernel, key.lower()), key)
    torch.library.register_fake(f"difflayers::{name}", fake, lib=library)
    return getattr(torch.ops.difflayers, name)


def _without_autocast(kernel: Callable[..., Any], device: str) -> Callable[..., Any]:
    """A solver's own matrix products keep the dtype of its input."""

    def run(*args: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return kernel(*args)

    return run


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where the tensor is (it knows no meta device)."""
    return tensor.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(tensor.device.type)


def plain(tensor: Tensor) -> bool:
    """Whether a tensor is memory of the CPU that can be read now: not traced, compiled, mapped, or of another class.

    A kernel may then be called without the dispatcher, which takes longer than a small problem.
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is Tensor
        and tensor.is_cpu
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and torch._C._get_tracing_state() is None
    )


def in_forward_mode() -> bool:
    """Whether a derivative of forward mode is being taken."""
    return torch.autograd.forward_ad._current_level >= 0


def differentiating() -> bool:
    """Whether a derivative can be asked for, of reverse or of forward mode: what it needs has to be kept."""
    return torch.is_grad_enabled() or in_forward_mode()


class Rules(NamedTuple):
    """An autograd function that has a rule for forward mode, and the same without, since torch.compile traces no other."""

    whole: Any
    traced: Any

    def apply(self, *args: Any) -> Any:
        """As of the function."""
        if torch.compiler.is_compiling():
            return self.traced.apply(*args)
        stack = torch._C._functorch.get_interpreter_stack() or ()
        if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1:
            raise NotImplementedError(
                "torch passes no forward mode through the forward mode of an autograd function: for second derivatives use "
                "torch.func.hessian, or jacfwd of jacrev"
            )
        return self.whole.apply(*args)


def forward_mode(function: type[torch.autograd.Function]) -> Rules:
    """The decorator of a function that has a rule for forward mode (`jvp`)."""
    without = {"jvp": staticmethod(torch.autograd.Function.jvp)}
    return Rules(function, type(function.__name__, (function,), without))


def fold(arg: Tensor, dim: int | None, size: int) -> Tensor:
    """The mapped dimension, put in front of the batch and made one with it."""
    arg = arg.unsqueeze(0).expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
    return arg.reshape(arg.shape[0] * arg.shape[1], *arg.shape[2:])


def unfold(result: Tensor, size: int) -> Tensor:
    """The inverse for a result: (size * B, ...) to (size, B, ...)."""
    return result.reshape(size, result.shape[0] // size if size else 0, *result.shape[1:])


def fold_all(name: str, op: Any) -> None:
    """Register the vmap rule of an operator each of whose tensors has a batch dimension, which takes in the mapped one."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [
            fold(arg, dim, size) if isinstance(arg, Tensor) else arg for arg, dim in zip(args, in_dims, strict=True)
        ]
        result = op(*folded)
        if isinstance(result, Tensor):
            return unfold(result, size), 0
        return tuple(unfold(r, size) for r in result), (0,) * len(result)

    torch.library.register_vmap(f"difflayers::{name}", rule, lib=library)
