"""Reading the CSVs of the documentation's tables, and how their numbers are told."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, str]
Table = list[list[str]]


def read(path: str) -> list[Row]:
    """The rows of a CSV of the repository."""
    with open(ROOT / path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def share(value: str) -> str:
    """0.986 as 98.6%."""
    return f"{100 * float(value):.1f}%"


def two_places(value: str) -> str:
    """0.98612 as 98.61%, and nothing as nothing."""
    return value and f"{100 * float(value):.2f}%"


def count(value: str) -> str:
    return f"{int(value):,}"


def milliseconds(value: str) -> str:
    """To two figures below 100, else to three."""
    return f"{float(value):,.{2 if float(value) < 100 else 3}g}" if float(value) < 1000 else f"{float(value):,.0f}"


def two_figures(value: str) -> str:
    """A number to two figures, small ones with an exponent; 0 for what rounding left of a 0."""
    number = float(value)
    if abs(number) < 1e-12:
        return "0"
    return re.sub(r"e-0(\d)", r"e-\1", f"{number:.2g}") if abs(number) < 100 else f"{number:,.0f}"


def latest(benchmark: str, *key: str) -> list[Row]:
    """The last measured row of each key, in the order of the benchmark's last run."""
    rows: dict[tuple[str, ...], Row] = {}
    for row in read(f"benchmarks/results/{benchmark}.csv"):
        rows.pop(name := tuple(row[part] for part in key), None)
        rows[name] = row
    return list(rows.values())


def benchmark_table(rows: list[Row], columns: dict[str, Callable[[Row], str]]) -> Table:
    """A line for each row, a column for each entry."""
    return [list(columns), ["---"] * len(columns), *([told(row) for told in columns.values()] for row in rows)]


def field(name: str, told: Callable[[str], str] = two_figures, unit: str = "") -> Callable[[Row], str]:
    """A column that shows one field."""
    return lambda row: told(row[name]) + unit


def size(row: Row) -> str:
    return f"{count(row['n'])} x {count(row['m'])}"
