"""Draw an answer into the photograph, in perspective."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from demos.sudoku.boards import Int8Array
from demos.sudoku.photo.grid import FloatArray, Grid, UInt8Array

ANSWER = (20, 90, 215)
"""Digits that complete the puzzle: blue."""
CORRECTED = (215, 30, 30)
"""Givens that were read wrongly, and corrected: red."""
OUTLINE = (20, 150, 60)
"""The outline of the grid: green."""
_LEAST_CELL = 40  # smaller photographs are enlarged, so that the digits can be read
_SHIFT = 4  # cv2 draws in sixteenths of a pixel


@cache
def _outlines(digit: int) -> tuple[FloatArray, ...]:
    """Return the outline of a digit, one unit high, with its middle at the origin and v down."""
    path = TextPath((0, 0), str(digit), size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    polygons = [np.asarray(p, np.float32) for p in path.to_polygons()]
    points = np.concatenate(polygons)
    middle, height = (points.max(0) + points.min(0)) / 2, np.ptp(points[:, 1])
    return tuple(((p - middle) / height * np.array([1, -1])).astype(np.float32) for p in polygons)


def upright(photograph: UInt8Array, grid: Grid, quarters: int) -> tuple[UInt8Array, Grid]:
    """Turn a photograph, and the grid in it, clockwise by so many quarters, so that its digits stand upright.

    Args:
        photograph: The photograph as it is.
        grid: Where the grid is in it; its digits stand upright in lattice coordinates.
        quarters: See `demos.sudoku.photo.reader.Reading.quarters`.
    """
    for _ in range(quarters % 4):
        height = photograph.shape[0]
        photograph = np.ascontiguousarray(np.rot90(photograph, -1))
        # The pixel at (x, y) goes to (height - 1 - y, x).
        turn = np.array([[0.0, -1, height - 1], [1, 0, 0], [0, 0, 1]])
        grid = Grid(turn @ grid.homography, grid.bend, grid.support)
    return photograph, grid


def draw_answer(
    photograph: UInt8Array, grid: Grid, board: Int8Array, givens: Int8Array, corrected: NDArray[np.bool_]
) -> UInt8Array:
    """Draw an answer.

    Args:
        photograph: Of shape (height, width, 3), RGB.
        grid: Where the grid is in it.
        board: The answer, (81,), 0 for nothing to draw.
        givens: What is printed there, (81,): these digits are not drawn over.
        corrected: Of shape (81,): cells that were misread. They are framed, and their digit is drawn small in the corner.

    Returns:
        The picture, enlarged where the cells are small.
    """
    size = float(np.sqrt(abs(cv2.contourArea(grid.corners)))) / 9
    if size < _LEAST_CELL:
        factor = _LEAST_CELL / size
        photograph = np.asarray(
            cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8
        )
        grid, size = grid.scaled(factor), float(_LEAST_CELL)
    picture = photograph.copy()
    line = max(1, round(size / 25))
    along = np.linspace(0, 9, 64)
    for u, v in ((along, 0 * along), (0 * along + 9, along), (along[::-1], 0 * along + 9), (0 * along, along[::-1])):
        _polyline(picture, grid, u, v, OUTLINE, line)
    for cell in range(81):
        row, column = divmod(cell, 9)
        if corrected[cell]:
            u, v = column + np.array([0.06, 0.94, 0.94, 0.06, 0.06]), row + np.array([0.06, 0.06, 0.94, 0.94, 0.06])
            _polyline(picture, grid, u, v, CORRECTED, line)
        if not board[cell]:
            continue
        if not givens[cell]:
            _digit(picture, grid, int(board[cell]), column + 0.5, row + 0.5, 0.55, ANSWER)
        elif corrected[cell]:
            _digit(picture, grid, int(board[cell]), column + 0.8, row + 0.25, 0.28, CORRECTED)
    return picture


def _polyline(
    picture: UInt8Array,
    grid: Grid,
    u: NDArray[np.floating],
    v: NDArray[np.floating],
    color: tuple[int, int, int],
    width: int,
) -> None:
    points = (np.stack(grid.locate(u, v), 1) * 2**_SHIFT).round().astype(np.int32)
    cv2.polylines(picture, [points], False, color, width, cv2.LINE_AA, _SHIFT)


def _digit(
    picture: UInt8Array, grid: Grid, digit: int, u: float, v: float, height: float, color: tuple[int, int, int]
) -> None:
    polygons = []
    for outline in _outlines(digit):
        x, y = grid.locate(u + height * outline[:, 0], v + height * outline[:, 1])
        polygons.append((np.stack([x, y], 1) * 2**_SHIFT).round().astype(np.int32))
    cv2.fillPoly(picture, polygons, color, cv2.LINE_AA, _SHIFT)
