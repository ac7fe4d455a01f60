"""Finding the grid in photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from demos.sudoku.boards import parse_board
from demos.sudoku.photo.collection import load_collection, load_photograph
from demos.sudoku.photo.command import EXAMPLE
from demos.sudoku.photo.grid import Grid, GridNotFoundError, UInt8Array, darkness, find_grid, flatten
from demos.sudoku.photo.newspaper import Camera, photograph_page, print_page

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "sudoku_photos"
PUZZLE = parse_board(EXAMPLE)

CAMERAS = {
    "straight": Camera(),
    "turned": Camera(turn=17),
    "tilted": Camera(turn=-6, tilt=0.35),
    "on its side": Camera(turn=92, tilt=0.1),
    "upside down": Camera(turn=176),
    "turned by half a quarter": Camera(turn=45, size=(720, 960)),
    "bent": Camera(turn=4, tilt=0.1, bend=60),
    "blurred": Camera(turn=3, blur=2.5, size=(480, 640)),
    "in shadow": Camera(turn=-3, shade=0.8, noise=5),
    "noisy": Camera(turn=5, noise=20),
    "small": Camera(size=(360, 480)),
    "large": Camera(turn=8, bend=30, size=(2400, 3200)),
}


def photograph(camera: Camera, seed: int = 0, **printing: object) -> tuple[UInt8Array, np.ndarray]:
    generator = np.random.default_rng(seed)
    return photograph_page(print_page(PUZZLE, generator, **printing), camera, generator)


def nearest_turn(grid: Grid, corners: np.ndarray) -> float:
    """Return how far the corners are off, in pixels, whichever is the first."""
    return min(float(np.abs(grid.turned(q).corners - corners).max()) for q in range(4))


@pytest.mark.parametrize("name", CAMERAS)
def test_finds_the_grid_to_a_few_hundredths_of_a_cell(name: str) -> None:
    picture, corners = photograph(CAMERAS[name])
    grid = find_grid(picture)
    cell = float(np.sqrt(cv2.contourArea(corners))) / 9
    assert nearest_turn(grid, corners) < max(0.06 * cell, 1.5)
    assert grid.support > 0.9


@pytest.mark.parametrize("ink", [(200, 40, 40), (40, 60, 200), (20, 150, 150)])
def test_ink_of_any_colour_is_dark(ink: tuple[int, int, int]) -> None:
    picture, _ = photograph(Camera(noise=0), ink=ink)
    cells = flatten(darkness(picture), find_grid(picture), 32, -0.1)
    printed = cells.max((1, 2))
    assert printed[PUZZLE > 0].min() > 0.4
    assert printed[PUZZLE == 0].max() < 0.15


def lattice(cells: int) -> UInt8Array:
    picture = np.full((900, 700, 3), 230, np.uint8)
    for i in range(cells + 1):
        place = i * (540 // cells)
        end = cells * (540 // cells)
        cv2.line(picture, (80 + place, 100), (80 + place, 100 + end), (30, 30, 30), 2)
        cv2.line(picture, (80, 100 + place), (80 + end, 100 + place), (30, 30, 30), 2)
    return picture


@pytest.mark.parametrize("cells", [1, 5, 8, 10, 12, 15])
def test_a_grid_of_other_than_9x9_cells_is_none(cells: int) -> None:
    with pytest.raises(GridNotFoundError, match="no grid found"):
        find_grid(lattice(cells))


def test_a_grid_of_9x9_cells_without_thick_lines_or_digits_is_one() -> None:
    assert find_grid(lattice(9)).support > 0.95


def test_nothing_to_find() -> None:
    generator = np.random.default_rng(0)
    for picture in (
        np.full((400, 300, 3), 200, np.uint8),
        np.zeros((400, 300, 3), np.uint8),
        generator.integers(0, 256, (400, 300, 3)).astype(np.uint8),
        cv2.resize(generator.integers(0, 256, (20, 15, 3)).astype(np.uint8), (600, 800)),
    ):
        with pytest.raises(GridNotFoundError):
            find_grid(np.asarray(picture, np.uint8))


def test_a_tiny_picture_says_so() -> None:
    with pytest.raises(GridNotFoundError, match="40 x 30 pixels"):
        find_grid(np.zeros((30, 40, 3), np.uint8))


def test_a_picture_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"photograph: got uint8 \(80, 80\), wanted"):
        find_grid(np.zeros((80, 80), np.uint8))
    with pytest.raises(ValueError, match="photograph: got float64"):
        find_grid(np.zeros((80, 80, 3)))


def test_turning_a_grid_turns_its_corners_and_what_is_between_them() -> None:
    grid = find_grid(photograph(CAMERAS["bent"])[0])
    u, v = np.random.default_rng(0).uniform(0, 9, (2, 50))
    for quarters in range(5):
        turned = grid.turned(quarters)
        np.testing.assert_allclose(turned.corners, np.roll(grid.corners, quarters, 0), atol=1e-3)
        x, y = u, v
        for _ in range(quarters):
            x, y = 9 - y, x
        np.testing.assert_allclose(turned.locate(x, y), grid.locate(u, v), atol=2e-3)


def test_flatten_cuts_cells_in_the_order_of_rows() -> None:
    picture = np.arange(9 * 9 * 16, dtype=np.float32).reshape(36, 36)
    grid = Grid(
        np.diag([4.0, 4, 1]) @ np.eye(3) + np.array([[0, 0, -0.5], [0, 0, -0.5], [0, 0, 0]]), np.zeros((2, 21)), 1.0
    )
    cells = flatten(picture, grid, 4, 0.0)
    np.testing.assert_allclose(cells, picture.reshape(9, 4, 9, 4).swapaxes(1, 2).reshape(81, 4, 4), atol=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs in ../shared/data")
def test_finds_the_grid_in_every_photograph_of_the_collection() -> None:
    lines = (PHOTOGRAPHS / "outlines.csv").read_text().splitlines()[1:]
    outlines = {name: np.array(corners, float).reshape(4, 2) for name, *corners in (line.split(",") for line in lines)}
    boards = load_collection(PHOTOGRAPHS)
    assert len(boards) == 160
    for board in boards:
        grid = find_grid(load_photograph(board.path))
        if (outline := outlines.get(board.path.name)) is not None:
            # Outlines drawn by hand, of four corners of pages that are bent.
            cell = float(np.sqrt(cv2.contourArea(outline.astype(np.float32)))) / 9
            assert nearest_turn(grid, outline) < 0.6 * cell, board.path.name
