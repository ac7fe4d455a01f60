"""The command ``photo``, and reading what is in photographs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demos.sudoku.__main__ import main
from demos.sudoku.boards import format_line, parse_board
from demos.sudoku.photo.collection import load_collection, load_photograph, pictures_in
from demos.sudoku.photo.command import COLUMNS, EXAMPLE, EXAMPLE_BLOT, percent, solve_photograph
from demos.sudoku.photo.decode import Decoder, shipped_decoder
from demos.sudoku.photo.draw import ANSWER, CORRECTED, draw_answer, upright
from demos.sudoku.photo.grid import UInt8Array, find_grid
from demos.sudoku.photo.newspaper import Camera, photograph_page, print_page
from demos.sudoku.photo.reader import CellReader, load_reader, read_cells, save_reader, shipped_reader

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "sudoku_photos"
PUZZLE = parse_board(EXAMPLE)
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def photograph(camera: Camera, seed: int = 0, **printing: object) -> UInt8Array:
    generator = np.random.default_rng(seed)
    return photograph_page(print_page(PUZZLE, generator, **printing), camera, generator)[0]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return shipped_decoder()


@pytest.fixture(scope="module")
def picture() -> UInt8Array:
    return photograph(Camera(turn=-7, tilt=0.1, bend=20, blur=1.0, shade=0.4))


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("font", "ink", "camera"),
    [
        ("DejaVuSans", (30, 30, 34), Camera(turn=12, tilt=0.2)),
        ("DejaVuSans-Bold", (200, 40, 40), Camera(bend=50, blur=1.5)),
        ("DejaVuSerif", (30, 30, 34), Camera(turn=-5, shade=0.7, noise=6)),
        ("DejaVuSerif-Bold", (40, 60, 200), Camera(turn=3, blur=1.2, size=(480, 640))),
    ],
)
def test_reads_printed_digits(font: str, ink: tuple[int, int, int], camera: Camera) -> None:
    picture = photograph(camera, font=font, ink=ink)
    reading = read_cells(shipped_reader(), picture, find_grid(picture))
    assert format_line(reading.digits) == EXAMPLE
    assert reading.quarters == 0
    np.testing.assert_allclose(np.exp(reading.log_probabilities).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photograph_on_its_side_is_turned(quarters: int, picture: UInt8Array) -> None:
    turned = np.ascontiguousarray(np.rot90(picture, quarters))
    reading = read_cells(shipped_reader(), turned, find_grid(turned))
    assert reading.quarters == quarters
    assert format_line(reading.digits) == EXAMPLE
    back, grid = upright(turned, reading.grid, reading.quarters)
    assert (back == picture).all()
    straight = read_cells(shipped_reader(), picture, find_grid(picture))
    np.testing.assert_allclose(grid.corners, straight.grid.corners, atol=3)


def test_weights_are_small_and_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = CellReader().eval()
    path = tmp_path / "reader.safetensors"
    save_reader(reader, path, seed=0)
    assert path.stat().st_size < 400_000
    cells = torch.rand(5, 32, 32)
    torch.testing.assert_close(load_reader(path)(cells), reader(cells), atol=5e-3, rtol=0)
    with pytest.raises(ValueError, match="reader: no file"):
        load_reader(tmp_path / "none.safetensors")


# --- drawing ------------------------------------------------------------------------------------------------


def test_the_answer_is_drawn_where_cells_are_blank(picture: UInt8Array) -> None:
    grid = read_cells(shipped_reader(), picture, find_grid(picture)).grid
    corrected = np.zeros(81, bool)
    corrected[0] = True
    drawn = draw_answer(picture, grid, parse_board(SOLUTION), PUZZLE, corrected)
    factor = drawn.shape[0] / picture.shape[0]
    for color, wanted in ((ANSWER, PUZZLE == 0), (CORRECTED, corrected)):
        rows, columns = np.nonzero(np.abs(drawn.astype(int) - color).sum(2) < 40)
        middles = grid.scaled(factor).locate(np.arange(81) % 9 + 0.5, np.arange(81) // 9 + 0.5)
        cells = np.hypot(columns[:, None] - middles[0], rows[:, None] - middles[1]).argmin(1)
        assert (np.bincount(cells, minlength=81) > 20).tolist() == wanted.tolist()


# --- the command --------------------------------------------------------------------------------------------


def save(picture: UInt8Array, path: Path, **options: object) -> Path:
    if path.suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(picture).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".heic", ".tif"])
def test_every_kind_of_picture_is_read(suffix: str, picture: UInt8Array, tmp_path: Path) -> None:
    path = save(picture, tmp_path / f"a{suffix}")
    loaded = load_photograph(path)
    assert loaded.shape == picture.shape and loaded.dtype == np.uint8
    assert np.abs(loaded.astype(int) - picture).mean() < 8


def test_exif_orientation_and_transparency(picture: UInt8Array, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(np.ascontiguousarray(np.rot90(picture)), tmp_path / "a.png", exif=exif)
    assert (load_photograph(path) == picture).all()
    image = Image.fromarray(picture).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "b.png")
    assert (load_photograph(tmp_path / "b.png") == 255).all()


def test_several_photographs_a_folder_a_table_and_pictures(
    picture: UInt8Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    save(picture, folder / "image10.jpg")
    save(np.full_like(picture, 200), folder / "image9.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.jpg").write_bytes(b"no picture either")
    table, output = tmp_path / "all.csv", tmp_path / "solved"
    lone = save(picture, tmp_path / "image10.jpg")
    assert main(["photo", str(folder), str(lone), "--output", str(output), "--csv", str(table)]) == 1
    said = capsys.readouterr().out
    assert "Failed: no grid found." in said and "not a picture that can be read" in said
    assert "2 of 4 photographs have an accepted answer." in said
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [Path(row["image"]).name for row in rows] == ["broken.jpg", "image9.png", "image10.jpg", "image10.jpg"]
    assert [row["accepted"] for row in rows] == ["False", "False", "True", "True"]
    for row in rows[:2]:
        assert row["givens"] == row["answer"] == "0" * 81
    for row in rows[2:]:
        assert row["givens"] == EXAMPLE and row["answer"] == SOLUTION
    assert sorted(p.name for p in output.iterdir()) == ["image10-solved-2.jpg", "image10-solved.jpg"]
    # Nothing is replaced unasked.
    before = table.read_bytes()
    assert main(["photo", str(lone), "--csv", str(table)]) == 2
    assert "--overwrite" in capsys.readouterr().err and table.read_bytes() == before
    assert main(["photo", str(lone), "--output", str(output)]) == 2
    assert main(["photo", str(lone), "--csv", str(table), "--overwrite"]) == 0
    assert table.read_text().count("\n") == 2


def test_without_a_photograph_a_page_is_drawn_whose_blot_the_rules_see_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["photo", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    row, column = divmod(EXAMPLE_BLOT, 9)
    assert f"Row {row + 1}, column {column + 1}: {EXAMPLE[EXAMPLE_BLOT]}; by itself it was read as" in said
    assert "Accepted" in said
    for name in ("newspaper.png", "newspaper-solved.jpg"):
        Image.open(tmp_path / name).load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo"], "--output: wanted a directory"),
        (["photo", "{}/empty"], "no pictures"),
        (["photo", "{}/a.png", "--csv", "{}/a.png/all.csv"], "is a file, wanted a directory"),
        (["photo", "{}/a.png", "--output", "{}/a.png"], "is a file, wanted a directory"),
        (["photo", "{}/a.png", "--reader", "{}/none.safetensors"], "reader: no file"),
        (["photo", "{}/a.png", "--threads", "0"], "--threads: got 0"),
        (["photo", "{}/a.png", "--device", "tpu"], "--device: got 'tpu'"),
        (["photo-study", "{}"], "no a.dat with the truth"),
        (["photo-train", "{}/empty"], "no pictures"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    save(np.zeros((80, 80, 3), np.uint8), tmp_path / "a.png")
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_missing_is_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["photo", str(tmp_path / "none.jpg")]) == 1
    assert "no such file" in capsys.readouterr().out


def test_a_puzzle_with_too_few_digits_is_not_accepted(
    decoder: Decoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    few = PUZZLE.copy()
    few[40:] = 0
    path = save(photograph_page(print_page(few, generator), Camera(), generator)[0], tmp_path / "few.png")
    result = solve_photograph(path, shipped_reader(), decoder)
    assert result.reading is not None and (result.reading.digits == few).all()
    assert not result.accepted
    assert main(["photo", str(path), "--output", str(tmp_path / "out")]) == 1
    assert "No reading is accepted: another board agrees" in capsys.readouterr().out
    assert (tmp_path / "out" / "few-solved.jpg").is_file()  # it shows what was read


def test_percent() -> None:
    assert [percent(p) for p in (0.5, 0.991, 0.9999, 1.0)] == ["50%", "99%", "99.99%", "more than 99.999%"]


# --- collections --------------------------------------------------------------------------------------------


def test_a_collection_and_its_truth(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    rows = "\n".join(" ".join(EXAMPLE[9 * r : 9 * r + 9]) for r in range(9))
    for name in ("image2", "image10"):
        (tmp_path / f"{name}.jpg").write_bytes(buffer.getvalue())
        (tmp_path / f"{name}.dat").write_text(f"telephone\n8x8:24 JPG\n{rows}\n")
    boards = load_collection(tmp_path)
    assert [board.path.stem for board in boards] == ["image2", "image10"]
    assert (boards[0].givens == PUZZLE).all()
    assert pictures_in([tmp_path, tmp_path / "image2.jpg"])[-1].name == "image2.jpg"
    (tmp_path / "image2.dat").write_text("telephone\n8x8\n1 2 3\n")
    with pytest.raises(ValueError, match="nine rows of nine digits"):
        load_collection(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs in ../shared/data")
def test_the_shipped_reader_and_rules_solve_the_photographs(decoder: Decoder) -> None:
    """They have been trained on these; docs/sudoku-photo.md has the cross-validation."""
    right = read = 0
    boards = load_collection(PHOTOGRAPHS)
    for board in boards:
        result = solve_photograph(board.path, shipped_reader(), decoder)
        assert result.answer is not None and result.reading is not None, board.path.name
        read += int((result.reading.digits == board.givens).all())
        right += int(result.accepted and (result.answer.givens == board.givens).all())
    assert read >= 0.975 * len(boards)
    assert right >= 0.975 * len(boards)
