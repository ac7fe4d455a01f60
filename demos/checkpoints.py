"""Reading safetensors files that say in their metadata what they are."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer


@contextmanager
def checkpoint_errors(argument: str, path: Path, wanted: str) -> Iterator[None]:
    """Raise what goes wrong inside, where a file is taken apart, as a ``ValueError`` that names argument, file and cause."""
    try:
        yield
    except (
        SafetensorError,
        OSError,
        EOFError,
        pickle.UnpicklingError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
    ) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else " ".join(map(str.strip, str(error).splitlines()[:2]))
        raise ValueError(f"{argument}: {path} is not {wanted}: {cause or type(error).__name__}") from None


def read_safetensors(path: Path, *, argument: str, missing: str = "") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Raises ``ValueError``, naming ``argument``, where there is no such file (``missing`` follows its name), and where it is
    no safetensors file.
    """
    if not path.is_file():
        raise ValueError(f"{argument}: no file {path}{missing}")
    with checkpoint_errors(argument, path, "a safetensors file"), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle


def read_checkpoint(
    path: Path, wanted: str, *, argument: str, missing: str, wrong: str = ""
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file whose metadata names the format ``wanted``.

    Raises ``ValueError`` as `read_safetensors`, and where the file has another format (``wrong`` follows the one that is
    wanted).
    """
    metadata, tensors = read_safetensors(path, argument=argument, missing=missing)
    if metadata.get("format") != wanted:
        raise ValueError(f"{argument}: {path} has the format {metadata.get('format')!r}, wanted {wanted!r}{wrong}")
    return metadata, tensors


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a module; ``ValueError`` if names, dtypes or shapes are not its own."""
    own = module.state_dict()
    if missing := [name for name in own if name not in weights]:
        raise ValueError(f"it has no tensor {missing[0]}")
    if foreign := [name for name in weights if name not in own]:
        raise ValueError(f"it has a tensor {foreign[0]}, which the network does not")
    for name, wanted in own.items():
        found = weights[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise ValueError(
                f"tensor {name} is {found.dtype} of shape {tuple(found.shape)}, wanted {wanted.dtype} of {tuple(wanted.shape)}"
            )
    module.load_state_dict(dict(weights))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def training_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what a training needs to go on: the weights as ``model.*``, the optimizer's state as ``adam.PARAMETER.*``."""
    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        tensors |= {f"adam.{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def load_training(module: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `training_tensors` has returned."""
    load_weights(module, with_prefix(tensors, "model."))
    for name, parameter in module.named_parameters():
        if state := with_prefix(tensors, f"adam.{name}."):
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }


def check_same_run(path: Path, written: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, naming the options, if a checkpoint to be resumed was written with others than are wanted."""
    if other := [
        f"--{name.replace('_', '-')} {written.get(name)}" for name in wanted if written.get(name) != wanted[name]
    ]:
        raise ValueError(f"--resume: {path} is of a run with {', '.join(other)}; wanted the same options")
