"""Every kernel compiles by NVRTC for every supported architecture, without a GPU or a driver."""

from pathlib import Path
from typing import Any

import pytest
import torch
from host_device import signatures

from difflayers import _cuda
from difflayers.matching.dmm.cuda import dmm_geometry
from difflayers.matching.entropic.cuda import entropic_geometry
from difflayers.matching.exact.cuda import exact_geometry
from difflayers.matching.quadratic.cuda import quadratic_geometry
from difflayers.satnet import cuda as satnet

pytest.importorskip("cuda.core", reason="the extra cuda is not installed")

# and the KiB of shared memory that a block can have
ARCHITECTURES = {"sm_75": 64, "sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_120": 99}
CASES = [*((arch, torch.float32) for arch in ARCHITECTURES), ("sm_75", torch.float64), ("sm_120", torch.float64)]


def programs(arch: str, dtype: torch.dtype) -> list[_cuda.Program]:
    """What the layers would compile at common sizes: the Sudoku layer, and matching 10 x 50."""
    n, m, limit = 10, 50, 1024 * ARCHITECTURES[arch]
    capability = divmod(int(arch.removeprefix("sm_")), 10)
    return [
        _cuda.program("gram.cu", dtype, WARPS=satnet._GRAM_WARPS),
        satnet.geometry(1030, 32, dtype, limit, capability).program(dtype),
        dmm_geometry(n, m, dtype, limit).program("dmm.cu", dtype),
        entropic_geometry(n, m, dtype, limit).program("entropic.cu", dtype),
        quadratic_geometry(n, m, dtype, limit).program("quadratic.cu", dtype),
        exact_geometry(n, m, dtype, limit).program("exact.cu", dtype),
    ]


@pytest.mark.parametrize(("arch", "dtype"), CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_nvrtc_compiles_every_kernel(arch: str, dtype: torch.dtype) -> None:
    for program in programs(arch, dtype):
        code = bytes(_cuda.compile_program(program, arch).code)
        assert code[:4] == b"\x7fELF"
        for kernel in signatures(program):
            assert f".text.{kernel}\0".encode() in code, kernel


@pytest.mark.parametrize("k", [96, 130])
def test_nvrtc_compiles_for_long_vectors(k: int) -> None:
    """Tiles of 16 and of 8 rows, several strips of columns."""
    program = satnet.geometry(300, k, torch.float32, 99 * 1024, (8, 0)).program(torch.float32)
    assert bytes(_cuda.compile_program(program, "sm_80").code)[:4] == b"\x7fELF"


def test_nvrtc_says_where_a_source_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _cuda.program("dmm.cu", torch.float32, WARPS=1)
    monkeypatch.setattr(_cuda.Program, "source", lambda self: "int f() { return undefined_name; }")
    with pytest.raises(Exception, match="undefined_name"):
        _cuda.compile_program(program, "sm_80")


def test_nvrtc_results_are_kept_by_source_macros_and_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cuda.core.utils import FileStreamProgramCache

    monkeypatch.setattr(_cuda.Program, "source", lambda self: 'extern "C" __global__ void f(SCALAR* x) { *x = 1; }')
    one, other = (_cuda.program("any.cu", dtype) for dtype in (torch.float32, torch.float64))
    with FileStreamProgramCache(tmp_path) as cache:
        kept: list[Any] = []
        for program, arch, count in [(one, "sm_80", 1), (one, "sm_80", 1), (one, "sm_90", 2), (other, "sm_80", 3)]:
            kept.append(bytes(_cuda.compile_program(program, arch, cache).code))
            assert len(cache) == count
        assert kept[0] == kept[1] and kept[0] != kept[2]
        monkeypatch.setattr(_cuda.Program, "source", lambda self: 'extern "C" __global__ void f(SCALAR* x) { *x = 2; }')
        _cuda.compile_program(one, "sm_80", cache)
        assert len(cache) == 4
