"""The option --device, the same in every demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

# torch is imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    import torch


def checked_device(name: str) -> torch.device:
    """Return the device that the option names; ``ValueError`` where the layers cannot run on it."""
    import torch

    import difflayers

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device: got {name!r}, wanted cpu or cuda")
    backend = next(one for one in difflayers.backends() if one.name == device.type)
    if not backend.available:
        raise ValueError(f"--device: got {name!r}, but {backend.detail}; wanted cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"--device: got {name!r}, but torch sees {count} CUDA devices; wanted cuda:0 to cuda:{count - 1}"
        )
    return device
