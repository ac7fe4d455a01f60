"""What an installation holds."""

import importlib.metadata
import importlib.resources
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import difflayers

ROOT = Path(__file__).parents[1]
CUDA_SOURCES = [
    "README.md",
    "common.cuh",
    "dmm.cu",
    "entropic.cu",
    "exact.cu",
    "gram.cu",
    "satnet.cu",
    "quadratic.cu",
    "state.cuh",
]


def test_package_data_is_found_in_this_installation() -> None:
    assert importlib.resources.files("difflayers").joinpath("py.typed").is_file()
    for name in CUDA_SOURCES:
        assert importlib.resources.files("difflayers.cuda_ext").joinpath(name).is_file()


def test_version_and_extras_are_those_of_the_metadata() -> None:
    metadata = importlib.metadata.metadata("torch-difflayers")
    assert metadata["Version"] == difflayers.__version__
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra") or []) == {
        "browser",
        "cuda",
        "verify",
        "demos",
        "maxsat",
        "onnx",
        "test",
        "docs",
        "web",
    }


def test_every_folder_of_the_package_is_listed() -> None:
    listed = {
        line.strip()
        for line in (ROOT / "setup.cfg").read_text(encoding="utf-8").splitlines()
        if line.startswith("    ")
    }
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "difflayers").rglob("__init__.py")}
    assert folders <= listed, folders - listed


def test_citation_names_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {difflayers.__version__}" in lines


@pytest.mark.slow
def test_wheel_is_pure_and_holds_package_data(tmp_path: Path) -> None:
    """Builds it, which fetches setuptools."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("torch_difflayers-*-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "difflayers").rglob("*.py")}
    assert {"difflayers/py.typed", *(f"difflayers/cuda_ext/{name}" for name in CUDA_SOURCES), *sources} <= names
    assert not any(name.startswith(("tests/", "demos/", "benchmarks/")) for name in names)
