"""Compiled kernels on disk: kept where they can be, and no error where they cannot."""

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
from numba.core import caching
from numba.core.dispatcher import Dispatcher

import difflayers
from difflayers import _numba

SOURCE = """
from difflayers._numba import kernel

@kernel
def double(x, out):
    for i in range(len(x)):
        out[i] = 2 * x[i]
"""


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    _numba._warn.cache_clear()
    yield
    _numba._warn.cache_clear()


def load(folder: Path) -> ModuleType:
    """A module with a kernel, as a new process would import it."""
    path = folder / "kernels_of_a_test.py"
    if not path.exists():
        path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("kernels_of_a_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType) -> list[float]:
    out = np.zeros(2)
    module.double(np.array([1.0, 2.0]), out)
    return list(out)


def files(tmp_path: Path, suffix: str) -> list[Path]:
    return sorted((tmp_path / "cache").rglob(f"*.{suffix}"))


def test_nothing_is_written_before_the_first_call_and_the_next_process_reads_it(tmp_path: Path) -> None:
    module = load(tmp_path)
    assert not (tmp_path / "cache").exists()
    assert call(module) == [2, 4] and len(files(tmp_path, "nbi")) == len(files(tmp_path, "nbc")) == 1
    again = load(tmp_path)
    assert call(again) == [2, 4] and sum(again.double.stats.cache_hits.values()) == 1


def test_without_a_folder_that_can_be_written_kernels_work_and_one_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [], raising=False)
    module = load(tmp_path)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR to a folder that can be written") as seen:
        assert call(module) == [2, 4]
    assert len(seen) == 1
    assert call(load(tmp_path)) == [2, 4]  # warned once: a second warning would be an error here


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04\x95"])
def test_a_damaged_file_is_compiled_anew_and_replaced(tmp_path: Path, suffix: str, content: bytes) -> None:
    call(load(tmp_path))
    for path in files(tmp_path, suffix):
        path.write_bytes(content)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert call(load(tmp_path)) == [2, 4]
    assert all("NUMBA_CACHE_DIR" in str(warning.message) for warning in seen)
    again = load(tmp_path)
    assert call(again) == [2, 4] and sum(again.double.stats.cache_hits.values()) == 1


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    with pytest.warns(RuntimeWarning, match="OSError in numba's cache"):
        assert call(load(tmp_path)) == [2, 4]


def test_a_change_of_another_file_makes_the_cache_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels call helpers of other files."""
    call(load(tmp_path))
    monkeypatch.setattr(_numba, "_stamp", lambda folder: "changed")
    again = load(tmp_path)
    assert call(again) == [2, 4] and sum(again.double.stats.cache_hits.values()) == 0


def test_import_compiles_and_writes_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    code = "import difflayers, os, sys; sys.exit(os.path.exists(os.environ['NUMBA_CACHE_DIR']))"
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=300).returncode == 0


def test_uncompiled_kernels_are_refused_by_name() -> None:
    code = "import difflayers, torch; difflayers.SATNet(3, 4)(torch.rand(1, 3), torch.ones(1, 3).bool())"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode != 0 and "NUMBA_DISABLE_JIT=1 is set: unset it" in done.stderr


HASHES = """
import hashlib, torch
from difflayers.functional import dmm_matching

cost = torch.rand(64, 10, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
(gradient,) = torch.autograd.grad(dmm_matching(cost).square().sum(), cost)
print(hashlib.sha256(gradient.numpy().tobytes()).hexdigest())
"""


def test_the_process_that_compiles_and_the_next_one_get_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels"), "PYTHONPATH": os.pathsep.join(sys.path)}
    compiled, loaded = (
        subprocess.run(
            [sys.executable, "-c", HASHES], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert compiled == loaded and len(compiled) == 65


def test_helpers_are_inlined_into_their_kernels() -> None:
    """A call would run other machine code in the process that compiles than in those that load the kernel."""
    found = []
    for module in pkgutil.walk_packages(difflayers.__path__, "difflayers."):
        if module.name.startswith("difflayers.cuda_ext"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Dispatcher) and not isinstance(value._cache, _numba._Cache):
                assert value.targetoptions.get("forceinline"), f"{module.name}.{name}"
                found.append(name)
    assert len(found) > 50
