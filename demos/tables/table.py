"""Tables as values of finite-domain variables: reading and writing CSV, errors by line and column."""

from __future__ import annotations

import csv
import difflib
import io
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from demos.files import check_output, csv_rows, write_atomically
from difflayers import Domains

LARGEST = 200
"""A column of more different values than this is not learnt as a category."""
FEW = 20
"""In so many rows or fewer, all values of a column may differ by chance; in more it is an identifier."""


@dataclass(frozen=True)
class Rows:
    """The cells of a CSV file as they stand there."""

    path: Path
    columns: list[str]
    cells: list[list[str]]
    lines: list[int]
    """Where each row ends in the file, from 1."""

    def without(self, ignored: tuple[str, ...]) -> Rows:
        """The same without some columns; a ValueError for one that is not there."""
        for name in ignored:
            if name not in self.columns:
                raise ValueError(f"--ignore: {self.path} has no column {name!r}")
        kept = [i for i, name in enumerate(self.columns) if name not in ignored]
        cells = [[row[i] for i in kept] for row in self.cells]
        return Rows(self.path, [self.columns[i] for i in kept], cells, self.lines)


def read(path: Path) -> Rows:
    """Read a CSV file with a header: comma, semicolon or tab between cells, gzip or not.

    Raises ``ValueError``, with the line, for a file that is none: no header, a column's name empty or twice, a row of
    another length, bytes that are no UTF-8.
    """
    cells, lines = [], []
    for line, row in csv_rows(path):
        cells.append([cell.strip() for cell in row])
        lines.append(line)
    if not cells:
        raise ValueError(f"{path}: empty, wanted a header and rows")
    columns, cells, lines = cells[0], cells[1:], lines[1:]
    for i, name in enumerate(columns):
        if not name or name in columns[:i]:
            raise ValueError(
                f"{path}, line 1, column {i + 1}: the name {name!r} is {'there twice' if name else 'empty'}"
            )
    for row, line in zip(cells, lines, strict=True):
        if len(row) != len(columns):
            raise ValueError(f"{path}, line {line}: {len(row)} cells, wanted {len(columns)} as in the header")
    return Rows(path, columns, cells, lines)


def domains_of(rows: Rows) -> Domains:
    """Each column as a variable, its values in order (as numbers if they are).

    Raises ``ValueError`` for an empty cell, for a column of more than 200 different values or with another one in each row, and
    where no column has two.
    """
    if not rows.cells:
        raise ValueError(f"{rows.path}: no rows")
    labels = []
    for c, name in enumerate(rows.columns):
        values = {row[c] for row in rows.cells}
        if "" in values:
            line = next(line for row, line in zip(rows.cells, rows.lines, strict=True) if not row[c])
            raise ValueError(
                f"{rows.path}, line {line}, column {name!r}: empty; the rows to learn from must be complete"
            )
        if len(values) > LARGEST:
            raise ValueError(
                f"{rows.path}, column {name!r}: {len(values):,} different values, wanted at most {LARGEST}; group them, or "
                f"leave the column out with --ignore {shlex.quote(name)}"
            )
        if len(values) == len(rows.cells) > FEW:
            raise ValueError(
                f"{rows.path}, column {name!r}: another value in each row, so nothing can be learnt about it; leave the column "
                f"out with --ignore {shlex.quote(name)}"
            )
        labels.append(sorted(values, key=_order))
    if all(len(each) == 1 for each in labels):
        raise ValueError(f"{rows.path}: no column has two different values, so there is nothing to learn")
    return Domains([len(each) for each in labels], names=rows.columns, labels=labels)


def _order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def encode(rows: Rows, domains: Domains) -> tuple[Tensor, Tensor]:
    """The cells as values and a mask, (rows, columns) in the order of the domains; an empty cell is not given.

    Raises ``ValueError``, with line and column, for a value that the domains do not know and for columns that are not theirs.
    """
    missing = [name for name in domains.names if name not in rows.columns]
    if missing:
        raise ValueError(f"{rows.path}: no column {missing[0]!r}; wanted the columns of the table that was learnt from")
    places = [rows.columns.index(name) for name in domains.names]
    values = torch.zeros(len(rows.cells), len(domains), dtype=torch.int64)
    given = torch.zeros(values.shape, dtype=torch.bool)
    numbers = [{label: a for a, label in enumerate(labels)} for labels in domains.labels]
    for r, (row, line) in enumerate(zip(rows.cells, rows.lines, strict=True)):
        for v, c in enumerate(places):
            if row[c]:
                if row[c] not in numbers[v]:
                    near = difflib.get_close_matches(row[c], domains.labels[v], 3, 0) or domains.labels[v][:3]
                    raise ValueError(
                        f"{rows.path}, line {line}, column {domains.names[v]!r}: {row[c]!r} did not occur in the table that "
                        f"was learnt from, which has {', '.join(near)}{' ...' if domains.sizes[v] > len(near) else ''}"
                    )
                values[r, v], given[r, v] = numbers[v][row[c]], True
    return values, given


def write(path: Path, rows: Rows, domains: Domains, values: Tensor, *, overwrite: bool) -> None:
    """Write the rows with their blanks filled, columns that were not learnt as they were."""
    check_output(path, "--output", overwrite=overwrite)
    places = {name: v for v, name in enumerate(domains.names)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows.columns)
    for row, filled in zip(rows.cells, values.tolist(), strict=True):
        known = [(places.get(name), cell) for name, cell in zip(rows.columns, row, strict=True)]
        writer.writerow([cell if v is None else domains.labels[v][filled[v]] for v, cell in known])
    write_atomically(path, buffer.getvalue().encode())
