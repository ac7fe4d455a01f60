"""A CUDA device made of the CPU, strict about what is where: a program that forgets a tensor on the CPU fails as on a GPU.

A tensor "on cuda:0" is a wrapper around one on the CPU that says so of itself. An operator on it is refused where torch
refuses it on a real device: other tensors on the CPU (but for numbers, and for indices into a tensor), a generator of the
other device, `numpy()`. What it cannot show: CUDA kernels (the CPU's work in their place), streams, memory, how the GPU rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

_MAY_MIX = {aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Their indices may be on the CPU."""


class OnCuda(Tensor):
    """A tensor on the device; `inner` has its values."""

    inner: Tensor
    launched: ClassVar[set[str]] = set()
    """The operators of the package that have run."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCuda:
        size, stride, offset = inner.size(), inner.stride(), inner.storage_offset()
        self: OnCuda = Tensor._make_wrapper_subclass(
            cls, size, strides=stride, storage_offset=offset, dtype=inner.dtype
        )
        self.inner = inner
        return self

    def __repr__(self, **unused: Any) -> str:
        return f"OnCuda({self.inner!r})"

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return self.inner.numpy(force=True)

    def __array__(self, *unused: Any, **unused_too: Any) -> Any:
        return self.numpy()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _MAY_MIX:
            _check(func, args, kwargs)
        if func.namespace == "difflayers":
            cls.launched.add(func._schema.name.partition("::")[2])
        inner_args, inner_kwargs = tree_map_only(OnCuda, lambda one: one.inner, (args, kwargs))
        out = tree_map_only(Tensor, OnCuda, func(*inner_args, **inner_kwargs))
        return return_and_correct_aliasing(func, args, kwargs, out)


class CudaGenerator(torch.Generator):
    """A generator of the device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls if torch.device(device).type == "cuda" else _GENERATOR)

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return CUDA


_GENERATOR = torch.Generator


class _Autocast(torch.autocast):
    """Autocast of the device, which is the CPU's."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


_AUTOCASTS = torch.is_autocast_enabled


def _is_cuda(device: Any) -> bool:
    if isinstance(device, int):
        return True
    return device is not None and torch.device(device).type == "cuda"


def _check(func: Any, args: Any, kwargs: Any) -> None:
    operands = [args[0], args[2:]] if func in _INDEXED else [args, kwargs]
    flat = tree_flatten(operands)[0]
    for one in flat:
        if type(one) is not OnCuda and isinstance(one, Tensor) and one.dim():
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {CUDA} and cpu! ({func})"
            )
        if isinstance(one, torch.Generator) and not isinstance(one, CudaGenerator):
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")


class _ToCuda(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return OnCuda(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: OnCuda) -> Tensor:
        return grad.inner.clone()


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: OnCuda) -> Tensor:
        return tensor.inner.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return OnCuda(grad.clone())


def _moved(tensor: Tensor, device: Any) -> Tensor:
    if _is_cuda(device) == isinstance(tensor, OnCuda):
        return tensor
    moved: Tensor = (_ToCuda if _is_cuda(device) else _ToCpu).apply(tensor)
    return moved


class _Factories(TorchDispatchMode):
    """What a function of torch's in C++ makes on the device of its arguments, as `one_hot` makes a range of classes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = not any(isinstance(one, Tensor) for one in tree_flatten((args, kwargs))[0])
        return OnCuda(out) if made and type(out) is Tensor else out


_BUILT_IN = (BuiltinFunctionType, MethodDescriptorType)


class _Moves(TorchFunctionMode):
    """What has a device among its arguments."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cpu:
            return _moved(args[0], "cpu")
        if func is Tensor.cuda:
            return _moved(args[0], CUDA)
        if func is Tensor.to:
            tensor, *rest = args
            for wanted in (*rest, kwargs.get("device"), kwargs.get("dtype")):
                if isinstance(wanted, torch.device | str):
                    tensor = _moved(tensor, wanted)
                elif isinstance(wanted, torch.dtype):
                    tensor = tensor.type(wanted)
                elif isinstance(wanted, Tensor):
                    tensor = _moved(tensor, wanted.device).type(wanted.dtype)
            return tensor
        device = kwargs.pop("device", None)
        generator = kwargs.get("generator")
        on_cuda = any(isinstance(one, OnCuda) for one in tree_flatten((args, kwargs))[0])
        if generator is not None and (_is_cuda(device) or (on_cuda and device is None)) != isinstance(
            generator, CudaGenerator
        ):
            raise RuntimeError(f"Expected a generator of the other device than {generator.device} ({func})")
        with _Factories() if on_cuda and isinstance(func, _BUILT_IN) else nullcontext():
            out = func(*args, **kwargs)
        return out if device is None else tree_map_only(Tensor, lambda one: _moved(one, device), out)


@contextmanager
def pretended_cuda() -> Iterator[set[str]]:
    """Within it there is one CUDA device; yields the names of the package's operators that have run on it."""
    OnCuda.launched = set()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.is_current_stream_capturing": lambda: False,
            "torch.Generator": CudaGenerator,
            "torch.autocast": _Autocast,
            "torch.is_autocast_enabled": lambda *kind: _AUTOCASTS(*("cpu" for _ in kind)),
            "difflayers._cuda.why_not": lambda: None,
            "difflayers._cuda.describe": lambda: "pretended",
            "torch.optim.Optimizer._cuda_graph_capture_health_check": lambda _: None,
            "torch.optim.Optimizer._accelerator_graph_capture_health_check": lambda _: None,
        }.items():
            stack.enter_context(mock.patch(name, value, create=name.endswith("health_check")))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.enter_context(_Moves())
        yield OnCuda.launched


@dataclass(frozen=True)
class Cuda:
    """What a test of ``--device cuda`` runs on."""

    exact: bool
    """Whether results are those of the CPU to the last bit."""
    used: Callable[[], bool]
    """Whether something has been computed there since this was last asked."""
