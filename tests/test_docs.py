"""What the documentation says runs, and everything public is documented."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import difflayers
import difflayers.maxsat

ROOT = Path(__file__).parents[1]
MODULES = [
    "difflayers",
    "difflayers.nn",
    "difflayers.functional",
    "difflayers.maxsat",
    "difflayers.verify",
    "difflayers._backends",
]
# Every module of the package with an example in it: doctest runs those of a module's own functions, not of imported ones.
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "difflayers").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0 and results.attempted > 0


def test_examples_are_found_where_they_are_written() -> None:
    assert {
        "difflayers._backends",
        "difflayers.functional._assignment",
        "difflayers.functional._matching",
        "difflayers.functional._satnet",
        "difflayers.matching.cost",
        "difflayers.nn",
        "difflayers.verify",
    } <= set(WITH_EXAMPLES)
    for path, item in public("difflayers.functional") + public("difflayers.nn") + public("difflayers.verify"):
        if inspect.isfunction(item) or (inspect.isclass(item) and issubclass(item, torch.nn.Module)):
            finder = doctest.DocTestFinder(recurse=False)
            (found,) = finder.find(item, module=importlib.import_module(item.__module__))
            assert (item.__module__ in WITH_EXAMPLES and found.examples) or item.__name__ == "default_k", path


def test_examples_of_the_maxsat_modules_are_among_them() -> None:
    assert {"difflayers.functional._clauses", "difflayers.maxsat.solver"} <= set(WITH_EXAMPLES)


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
        (difflayers.functional.dmm_matching, set()),
        (difflayers.functional.quadratic_matching, set()),
        (difflayers.functional.project_assignment, set()),
        (difflayers.functional.hungarian, set()),
        (difflayers.functional.greedy_matching, set()),
        (difflayers.functional.mask_iou, set()),
        (difflayers.functional.mask_matching_cost, set()),
        (difflayers.functional.clauses_to_S, set()),
        (difflayers.functional.hyperplane_rounding, set()),
        (difflayers.functional.relations, set()),
        (difflayers.maxsat.solve, set()),
        (difflayers.maxsat.Instance.from_clauses, set()),
        (difflayers.SATNet.from_clauses, set()),
        (difflayers.SATNet.rules, {"self"}),
        (difflayers.SATNet, set()),
        (difflayers.SATNet.forward, {"self"}),
        (difflayers.DMMMatching, set()),
        (difflayers.DMMMatching.forward, {"self"}),
        (difflayers.QuadraticMatching, set()),
        (difflayers.QuadraticMatching.forward, {"self"}),
        (difflayers.MaskMatchingCost, set()),
        (difflayers.MaskMatchingCost.forward, {"self"}),
    ],
)
def test_every_argument_is_documented(function: object, ignored: set[str]) -> None:
    arguments = re.split(r"\n(?:Returns|Raises|Shapes):", inspect.getdoc(function).split("Args:")[1])[0]  # type: ignore[union-attr]
    for name in inspect.signature(function).parameters:  # type: ignore[arg-type]
        assert name in ignored or re.search(rf"^ +(\w+, )*{name}(, \w+)*:", arguments, re.MULTILINE), name


def test_names_at_the_top() -> None:
    names = {"DMMMatching", "MaskMatchingCost", "QuadraticMatching", "SATNet", "backends", "functional"}
    assert names <= set(difflayers.__all__) and all(hasattr(difflayers, name) for name in difflayers.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", difflayers.__version__)
