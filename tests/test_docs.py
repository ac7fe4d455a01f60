"""What the documentation says runs, and everything public is documented."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import difflayers

ROOT = Path(__file__).parents[1]
MODULES = ["difflayers", "difflayers.nn", "difflayers.functional", "difflayers.verify", "difflayers._backends"]
WITH_EXAMPLES = ["difflayers.nn", "difflayers.functional", "difflayers.verify", "difflayers._backends"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0 and results.attempted > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_of_a_page(page: Path) -> None:
    """Each page's blocks run in order, in one namespace."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), namespace)


def test_readme_example_is_a_network_that_gets_gradients() -> None:
    (first, *_) = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    namespace: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), namespace)
    (model,) = [value for value in namespace.values() if isinstance(value, torch.nn.Sequential)]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values()), gradients


def public(name: str) -> list[tuple[str, object]]:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", ["Backend", "Backends", "backends"])
    return [(f"{name}.{item}", getattr(module, item)) for item in names]


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(importlib.import_module(name))
    for path, item in public(name):
        assert inspect.getdoc(item), path
        if inspect.isclass(item):
            for method_name, method in vars(item).items():
                if inspect.isfunction(method) and not method_name.startswith("_") and method_name != "extra_repr":
                    assert inspect.getdoc(method), f"{path}.{method_name}"


@pytest.mark.parametrize(
    ("function", "ignored"),
    [
        (difflayers.functional.satnet, set()),
        (difflayers.SATNet, {"device", "dtype"}),  # "device, dtype: ..." shares a line
        (difflayers.SATNet.forward, {"self"}),
    ],
)
def test_every_argument_is_documented(function: object, ignored: set[str]) -> None:
    arguments = inspect.getdoc(function).split("Args:")[1]  # type: ignore[union-attr]
    for name in inspect.signature(function).parameters:  # type: ignore[arg-type]
        assert name in ignored or re.search(rf"^ +{name}(, \w+)*:", arguments, re.MULTILINE), name
    if "device" in ignored:
        assert re.search(r"^ +device, dtype:", arguments, re.MULTILINE)


def test_names_at_the_top() -> None:
    assert {"SATNet", "backends", "functional"} <= set(difflayers.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", difflayers.__version__)
