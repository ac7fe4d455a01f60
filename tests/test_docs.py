"""What the documentation says runs, and everything public is documented."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import difflayers
import difflayers.maxsat

ROOT = Path(__file__).parents[1]
# Whatever stands directly in the package and has no underscore is public.
MODULES = [
    "difflayers",
    *sorted(
        f"difflayers.{module.name}" for module in pkgutil.iter_modules(difflayers.__path__) if module.name[0] != "_"
    ),
]
INTERNAL = {"difflayers.matching", "difflayers.satnet"}  # kernels; their faces are nn and functional
MODULES = [name for name in MODULES if name not in INTERNAL]
# Every module of the package with an example in it: doctest runs those of a module's own functions, not of imported ones.
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "difflayers").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)
WITHOUT_EXAMPLE = {"default_k", "read"}  # one line of arithmetic; reads a file
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
BLOCK = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0 and results.attempted > 0


@pytest.mark.parametrize("name", MODULES)
def test_every_function_and_layer_has_an_example_that_runs(name: str) -> None:
    for path, item in public(name):
        if inspect.isfunction(item) or (inspect.isclass(item) and issubclass(item, torch.nn.Module)):
            finder = doctest.DocTestFinder(recurse=False)
            (found,) = finder.find(item, module=importlib.import_module(item.__module__))
            assert (item.__module__ in WITH_EXAMPLES and found.examples) or item.__name__ in WITHOUT_EXAMPLE, path


def test_examples_of_the_maxsat_modules_are_among_them() -> None:
    assert {"difflayers.functional._clauses", "difflayers.maxsat.solver"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_of_a_page(page: Path) -> None:
    """Each page's blocks run in order, in one namespace."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), namespace)


def test_each_demo_has_a_page_that_names_its_first_file() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"\*\*The first file to read\*\* is `(demos/(\w+)/[\w/]+\.py)`", text)
    assert {demo for _, demo in named} == {path.parent.name for path in (ROOT / "demos").glob("*/__main__.py")}
    assert all((ROOT / file).is_file() for file, _ in named)


def test_readme_example_is_a_network_that_gets_gradients() -> None:
    (first, *_) = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    namespace: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), namespace)
    (model,) = [value for value in namespace.values() if isinstance(value, torch.nn.Sequential)]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values()), gradients


def public(name: str) -> list[tuple[str, object]]:
    module = importlib.import_module(name)
    names = [item for item in module.__all__ if not inspect.ismodule(getattr(module, item))]
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


def callables() -> list[tuple[str, object]]:
    """The public functions, layers, and methods of public classes, that have an Args section or should."""
    found: dict[str, object] = {}
    for module in MODULES:
        for path, item in public(module):
            if inspect.isfunction(item):
                found[path] = item
            elif inspect.isclass(item) and item.__module__.startswith("difflayers"):
                if issubclass(item, torch.nn.Module):
                    found[path] = item
                for name, method in vars(item).items():
                    method = getattr(method, "__func__", method)  # of a class method
                    if inspect.isfunction(method) and not name.startswith("_") and name != "extra_repr":
                        found[f"{path}.{name}"] = method
    return sorted(found.items())


@pytest.mark.parametrize(("path", "function"), [pytest.param(*pair, id=pair[0]) for pair in callables()])
def test_every_argument_is_documented(path: str, function: object) -> None:
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]  # type: ignore[arg-type]
    text = inspect.getdoc(function) or ""
    if not names or (len(names) <= 2 and "Args:" not in text):
        return  # what one or two arguments are can be said in the first line
    arguments = re.split(r"\n(?:Returns|Raises|Shapes|Yields|Attributes):", text.split("Args:")[1])[0]
    for name in names:
        assert re.search(rf"^ +(\w+, )*{name}(, \w+)*:", arguments, re.MULTILINE), name


def test_names_at_the_top() -> None:
    names = {"DMMMatching", "MaskMatchingCost", "QuadraticMatching", "SATNet", "backends", "functional"}
    assert names <= set(difflayers.__all__) and all(hasattr(difflayers, name) for name in difflayers.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", difflayers.__version__)
