"""Files that a kill or a full disk cannot leave half written, and tables in them."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give the name of a file beside ``path`` to write to; it takes the place of ``path`` when the block ends.

    If the block fails, the new file goes and the old one stays. An ``OSError`` names ``path``. Missing folders
    are made.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_atomically(path: Path, raw: bytes) -> None:
    """Write a file such that a kill or a full disk at any moment leaves the old one or the new one."""
    with written_beside(path) as temporary, open(temporary, "wb") as file:
        file.write(raw)


def check_output(path: Path, option: str, *, overwrite: bool) -> None:
    """Raise ``ValueError``, naming the option, if a file is there and not to be replaced, or cannot be written.

    To be called before the work, so that none is lost.
    """
    if path.is_dir():
        raise ValueError(f"{option}: {path} is a directory, wanted a file")
    if path.exists() and not overwrite:
        raise ValueError(f"{option}: {path} exists; pass --overwrite to replace it")
    check_folder(path.absolute().parent, option)


def check_folder(path: Path, option: str) -> None:
    """Raise ``ValueError``, naming the option, if a folder cannot be written to, or is not there and cannot be made.

    To be called before the work, so that none is lost.
    """
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{option}: {folder} is a file, wanted a directory")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option}: {folder} is a directory that cannot be written to")


def make_folder(path: Path, option: str) -> None:
    """Make a folder, and those above it; a ``ValueError`` names the option if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{option}: {path} is a file, wanted a directory") from None
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be made: {error.strerror}") from None


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows of the same columns, at least one row, as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read_text(path: Path) -> str:
    """Return a file's text, UTF-8, plain or gzipped, its lines ended by a newline alone.

    Raises ``ValueError``, naming the file, if it cannot be read or holds something else.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither UTF-8 text nor gzipped text: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not empty, each with the number of its last line.

    Cells are separated by what its first line has most of: commas, semicolons or tabs. Raises ``ValueError``, naming the file
    and the line, for what is no CSV: an open quote, a null character, a cell of more than 131,072 characters.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
        if row is None:
            return
        if len(row) > 1 or "".join(row).strip():
            yield reader.line_num, row
