"""The tables of the documentation say what the committed CSVs say."""

import importlib
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
sys.path.insert(0, str(DOCS))  # as where it is run
figures = importlib.import_module("figures")


def test_tables_are_those_of_the_csvs() -> None:
    used = set()
    for path in figures.PAGES:
        page = path.read_text(encoding="utf-8")
        assert figures.filled(page) == page, f"{path.name}: run python docs/figures.py"
        used |= {place[2] for place in figures.PLACE.finditer(page)}
    assert used == set(figures.TABLES)


def test_a_wrong_number_is_put_right() -> None:
    page = "Before.\n<!-- figures: exact -->\n| 99% |\n<!-- end of figures -->\nAfter.\n"
    right = figures.filled(page)
    assert right.startswith("Before.\n<!-- figures: exact -->\n| boards |") and right.endswith("-->\nAfter.\n")
    assert "| 99% |" not in right and figures.filled(right) == right


@pytest.mark.parametrize(("value", "told"), [("1", "100.0%"), ("0.986", "98.6%"), ("0", "0.0%")])
def test_shares(value: str, told: str) -> None:
    assert importlib.import_module("figure_cells").share(value) == told
