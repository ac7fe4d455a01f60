"""Importing the package needs nothing optional, and brings nothing optional along."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import difflayers

OPTIONAL = ["cvxpy", "cvxpylayers", "matplotlib", "pysat", "safetensors", "torchvision", "tqdm"]

USE = """
import torch, difflayers
from difflayers import DMMMatching, MaskMatchingCost, QuadraticMatching, SATNet, functional
layer = SATNet(3, 4)
out = layer(torch.tensor([[0.0, 1.0, 0.5]]), torch.tensor([[True, True, False]]))
out.sum().backward()
assert layer.S.grad is not None and "cpu" in str(difflayers.backends())
features, masks = torch.randn(3, 4, requires_grad=True), torch.rand(3, 5, 5) < 0.5
cost = MaskMatchingCost()(features, masks, features.detach().flip(0), masks.flip(0))
(DMMMatching()(cost) + QuadraticMatching(1.0)(cost)).square().sum().backward()
assert features.grad is not None
assert functional.hungarian(cost).sum() == 3 and functional.greedy_matching(cost).sum() == 3
sparse = torch.tensor([[0.0, float("inf")], [0.0, 0.0]])  # its feasibility is a question for scipy
assert functional.dmm_matching(sparse).shape == (2, 2)
from difflayers import maxsat
assert maxsat.solve([[1, 2], [-1, 2], [1, -2], [-1, -2]]).optimal
assert str(SATNet.from_clauses([[1]]).rules()[0]) == "x1 is true (0.5)"
"""

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *, blocked: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """In a new interpreter, in which `blocked` cannot be imported and a warning is an error once torch is loaded."""
    warnings = "import torch, warnings; warnings.simplefilter('error')\n"
    source = BLOCK.format(blocked=blocked or []) + warnings + code
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", OPTIONAL)
def test_works_without(name: str) -> None:
    done = run(USE, blocked=[name])
    assert done.returncode == 0, done.stderr


def test_works_without_any_of_them() -> None:
    done = run(USE, blocked=[*OPTIONAL, "cuda", "tabulate"])
    assert done.returncode == 0, done.stderr


def test_what_is_not_optional_is_a_dependency() -> None:
    """scipy too: assignments of 0 and 1, and whether forbidden pairs leave one, are its."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.match(r"[\w-]+", item)[0] for item in project["dependencies"]}  # type: ignore[index]
    assert core == {"numba", "numpy", "scipy", "torch"} and not core & set(OPTIONAL)
    assert any(item.startswith("cvxpylayers") for item in project["optional-dependencies"]["test"])
    done = run(USE, blocked=["scipy"])
    assert done.returncode != 0 and "No module named 'scipy" in done.stderr


def test_blocking_blocks() -> None:
    done = run("import tqdm", blocked=["tqdm"])
    assert done.returncode != 0 and "No module named 'tqdm'" in done.stderr


def test_import_brings_nothing_optional() -> None:
    """What torch and numba do not load themselves, the package does not load."""
    done = run(
        "import numba\nbefore = set(sys.modules)\nimport difflayers\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    assert done.returncode == 0, done.stderr
    assert "'difflayers'" in done.stdout
    assert not [name for name in OPTIONAL if f"'{name}'" in done.stdout], done.stdout


def test_import_prints_nothing() -> None:
    done = run("import difflayers")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verify_without_cvxpy_says_what_to_install() -> None:
    done = run("import difflayers.verify", blocked=["cvxpy"])
    assert done.returncode != 0
    assert "ImportError: difflayers.verify needs cvxpy: pip install 'cvxpy'" in done.stderr


def test_exact_maxsat_without_python_sat_says_what_to_install() -> None:
    done = run("from difflayers import maxsat\nmaxsat.solve([[1]], exact=1)", blocked=["pysat"])
    assert done.returncode != 0
    assert "ImportError: exact needs python-sat: pip install 'python-sat>=1.8.dev1'" in done.stderr


def test_hard_clauses_without_python_sat_are_a_warning_where_the_search_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.wcnf"
    path.write_text("".join(f"h {a}1 {b}2 {c}3 0\n" for a in ("", "-") for b in ("", "-") for c in ("", "-")))
    done = run(f"from difflayers.maxsat.__main__ import main\nsys.exit(main([{str(path)!r}]))", blocked=["pysat"])
    assert (done.returncode, done.stderr) == (0, "") and "s UNKNOWN" in done.stdout
    assert "c warning: 1 hard clauses are violated still; " in done.stdout
    assert "needs python-sat: pip install 'python-sat>=1.8.dev1'" in done.stdout


def test_progress_bars_without_tqdm_say_what_to_install() -> None:
    done = run("from difflayers import maxsat\nmaxsat.solve([[1]], progress=True)", blocked=["tqdm"])
    assert done.returncode != 0
    assert "ImportError: progress needs tqdm: pip install 'tqdm'" in done.stderr


def test_backends_is_data_and_a_table() -> None:
    table = difflayers.backends()
    rows = {backend.name: backend for backend in table}
    assert rows["cpu"].available and "numba" in rows["cpu"].detail
    assert rows["cuda"].available == torch.cuda.is_available() and rows["cuda"].detail
    lines = str(table).splitlines()
    assert lines[0].split() == ["backend", "available", "detail"] and len(lines) == 1 + len(table)
    for line, backend in zip(lines[1:], table, strict=True):
        assert line.split()[:2] == [backend.name, "yes" if backend.available else "no"] and backend.detail in line
    assert len({line.index(backend.detail) for line, backend in zip(lines[1:], table, strict=True)}) == 1
