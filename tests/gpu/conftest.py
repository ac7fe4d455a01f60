"""Kernels on the host instead of a device."""

import pytest
from host_device import COMPILER, HostDevice

from difflayers import _cuda
from difflayers.satnet import cuda


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """Launches on any tensor go to this device, with blocks of two warps for SATNet."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to compile the kernels for the host")
    device = HostDevice()
    monkeypatch.setattr(_cuda, "device_of", lambda tensor: device)
    monkeypatch.setattr(cuda, "_WARPS", (2,))
    return device
