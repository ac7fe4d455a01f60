"""Photographs from files: one picture, a folder of them, and a collection with its truth."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from demos.sudoku.photo.grid import UInt8Array

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff")


def load_photograph(path: Path) -> UInt8Array:
    """Read a picture as RGB, (height, width, 3), turned as its EXIF data say; ``ValueError`` if it is none."""
    if path.suffix.lower() in (".heic", ".heif"):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ValueError(f"{path}: HEIC pictures need pillow-heif (pip install pillow-heif)") from None
        register_heif_opener()
    try:
        with Image.open(path) as picture:
            turned = ImageOps.exif_transpose(picture)
            if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
                turned = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
            return np.asarray(turned.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def pictures_in(paths: Iterable[Path]) -> list[Path]:
    """Return the files among ``paths`` and the pictures in the folders among them, in the order of numbers in their names."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not inside:
                raise ValueError(f"{path}: no pictures ({', '.join(SUFFIXES)}) in this folder")
            found += sorted(inside, key=_natural)
        else:
            found.append(path)
    return found


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort image2 before image10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


@dataclass(frozen=True)
class TrueBoard:
    """A photograph and the digits printed in it."""

    path: Path
    givens: NDArray[np.int8]
    """Of shape (81,), 0 for a blank."""


def load_collection(folder: Path) -> list[TrueBoard]:
    """Read the names and the truth of a collection: pictures ``NAME.jpg``, and beside each ``NAME.dat``.

    The layout is that of Wicht and Hennebert (SoCPaR 2014): a ``.dat`` file has two lines about the telephone and then
    nine rows of nine digits, 0 for a blank.
    """
    if (folder / "images").is_dir():
        folder = folder / "images"
    boards = []
    for path in pictures_in([folder]):
        truth = path.with_suffix(".dat")
        if not truth.is_file():
            raise ValueError(f"{path}: no {truth.name} with the truth beside it")
        digits = " ".join(truth.read_text(encoding="latin-1").splitlines()[2:]).split()
        if len(digits) != 81 or not all(len(d) == 1 and d.isdigit() for d in digits):
            raise ValueError(f"{truth}: wanted two lines and then nine rows of nine digits")
        boards.append(TrueBoard(path, np.array([int(d) for d in digits], np.int8)))
    return boards


def fold_of(boards: list[TrueBoard], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each photograph; photographs of the same puzzle are in the same one."""
    keys = [board.givens.tobytes() for board in boards]
    groups: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    if folds > len(groups):
        raise ValueError(f"folds: got {folds}, wanted at most the number of puzzles, {len(groups)}")
    order = np.random.default_rng(seed).permutation(len(groups))
    members = [list(groups.values())[g] for g in order]
    members.sort(key=len, reverse=True)  # the largest first, each into the smallest fold
    sizes, fold = np.zeros(folds, np.int64), np.zeros(len(boards), np.int64)
    for group in members:
        smallest = int(sizes.argmin())
        fold[group] = smallest
        sizes[smallest] += len(group)
    return fold
