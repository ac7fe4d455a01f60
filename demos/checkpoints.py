"""Reading safetensors files that say in their metadata what they are."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_checkpoint(
    path: Path, wanted: str, *, argument: str, missing: str, wrong: str = ""
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file whose metadata names the format ``wanted``.

    Raises ``ValueError``, naming ``argument``, where there is no such file (``missing`` follows its name), where it is no
    safetensors file, and where it has another format (``wrong`` follows the one that is wanted).
    """
    if not path.is_file():
        raise ValueError(f"{argument}: no file {path}{missing}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle, not a dict
    except SafetensorError as error:
        raise ValueError(f"{argument}: {path} is not a safetensors file: {error}") from None
    if metadata.get("format") != wanted:
        raise ValueError(f"{argument}: {path} has the format {metadata.get('format')!r}, wanted {wanted!r}{wrong}")
    return metadata, tensors


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
