"""The tables of the documentation and of README that come from committed CSVs, so that no number is typed twice.

A page marks the place of a table by two lines, ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``.

    python docs/figures.py            # write the tables into the pages
    python docs/figures.py --check    # name the tables that differ, and fail if there are any
"""

import re
import sys
from pathlib import Path

from figure_cells import ROOT, Table
from figure_tables import TABLES

DOCS = Path(__file__).resolve().parent
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PLACE = re.compile(r"(<!-- figures: ([\w-]+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


def markdown(table: Table) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def filled(page: str) -> str:
    """The text of a page, with its tables as the CSVs have them."""
    return PLACE.sub(lambda place: place[1] + markdown(TABLES[place[2]]()) + place[4], page)


def main(arguments: list[str]) -> int:
    stale = []
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            stale.append(path.name)
            if arguments != ["--check"]:
                path.write_text(after, encoding="utf-8")
    for name in stale:
        print(f"{name}: tables {'differ from the CSVs: python docs/figures.py' if arguments else 'written'}")
    return int(bool(stale and arguments))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
