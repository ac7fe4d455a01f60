"""The package index has another project called difflayers: nothing may tell a user to install that one."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from difflayers import _distribution

ROOT = Path(__file__).parents[1]
PLACES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "pyproject.toml",
    "difflayers",
    "cuda_ext",
    "demos",
    "docs",
    "benchmarks",
)
TEXT = {".py", ".md", ".toml", ".cfg", ".ipynb", ".cu", ".cuh", ".html", ".txt"}
# The extras of the bare name, or pip (uv, conda ...) told to install it.
WRONG = re.compile(r"(?<![\w-])difflayers\[|\binstall\b[^\n#]*?(?<![\w/.-])difflayers(?![\w./-])")


def pages() -> list[Path]:
    found = [ROOT / place for place in PLACES if (ROOT / place).is_file()]
    for place in PLACES:
        found += [p for p in (ROOT / place).rglob("*") if p.suffix in TEXT and "_build" not in p.parts]
    return [path for path in found if path.name != "_distribution.py"]


def test_no_page_and_no_message_installs_the_other_project() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in pages()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WRONG.search(line)
    ]
    assert len(pages()) > 50 and not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "pip install difflayers",
        "pip install 'difflayers[cuda]'",
        "uv pip install difflayers",
        "needs difflayers[maxsat]",
    ],
)
def test_the_search_finds_the_wrong_name(line: str) -> None:
    assert WRONG.search(line)


@pytest.mark.parametrize(
    "line",
    ["pip install torch-difflayers", "pip install '.[cuda]'", "install with difflayers/cuda_ext", "import difflayers"],
)
def test_the_search_leaves_the_right_names(line: str) -> None:
    assert not WRONG.search(line)


def test_what_a_missing_package_is_installed_by_is_what_the_extra_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == _distribution.NAME
    extras = project["optional-dependencies"]
    listed = {re.split(r"[>=<]", item)[0] for name, extra in extras.items() if name != "test" for item in extra}
    for package, requirement in _distribution.REQUIREMENTS.items():
        assert re.split(r"[>=<]", requirement)[0] in listed
        assert _distribution.needs("x", package) == f"x needs {package}: pip install '{requirement}'"


def test_the_other_project_beside_this_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        assert name == "difflayers"
        return "0.1.1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.warns(UserWarning, match=r"'difflayers' 0\.1\.1 .* pip uninstall difflayers torch-difflayers"):
        _distribution.warn_of_other_project()


def test_alone_it_warns_of_nothing() -> None:
    _distribution.warn_of_other_project()
