"""Rendering cells and teaching the reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demos.sudoku.__main__ import main
from demos.sudoku.boards import parse_board
from demos.sudoku.photo import rendering, training
from demos.sudoku.photo.command import EXAMPLE
from demos.sudoku.photo.newspaper import Camera, photograph_page, print_page
from demos.sudoku.photo.options import ReaderConfig
from demos.sudoku.photo.reader import CELL, WEIGHTS, load_reader
from demos.sudoku.photo.rendering import GLYPH, Glyphs, affine, photograph_cells, render_cells
from demos.sudoku.photo.training import PhotographedCells, train_reader

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    from demos.sudoku.photo.newspaper import _FONTS

    drawn = [rendering._draw(_FONTS / name) for name in FONTS]
    return Glyphs(torch.from_numpy(np.stack([d for d in drawn if d is not None])), FONTS)


def test_digits_of_fonts_are_drawn_and_symbols_are_not(glyphs: Glyphs) -> None:
    from demos.sudoku.photo.newspaper import _FONTS

    assert glyphs.images.shape == (3, 9, GLYPH, GLYPH)
    assert (glyphs.images.amax((2, 3)) > 0.9).all()
    assert rendering._draw(_FONTS / "STIXSizOneSymReg.ttf") is None
    assert rendering._draw(_FONTS / "none.ttf") is None


def test_affine_moves_turns_and_enlarges() -> None:
    image = torch.zeros(1, 32, 32)
    image[0, 12:20, 20:24] = 1
    still = affine(image, torch.zeros(1), torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2), 32)
    torch.testing.assert_close(still, image, atol=1e-5, rtol=0)
    quarter = affine(image, torch.full((1,), torch.pi / 2), torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2), 32)
    torch.testing.assert_close(quarter, image.rot90(-1, (1, 2)), atol=1e-4, rtol=0)
    moved = affine(image, torch.zeros(1), torch.ones(1, 2), torch.zeros(1), torch.tensor([[-0.25, 0.125]]), 32)
    torch.testing.assert_close(moved, image.roll((2, -4), (1, 2)), atol=1e-4, rtol=0)


def test_rendered_cells_have_ink_in_the_middle_where_there_is_a_digit(glyphs: Glyphs) -> None:
    labels = torch.arange(200) % 2 * 8
    cells = render_cells(glyphs, labels, torch.Generator().manual_seed(0))
    assert cells.shape == (200, CELL, CELL)
    middle = cells[:, 10:22, 10:22].mean((1, 2))
    assert middle[labels > 0].mean() > 3 * middle[labels == 0].mean()
    again = render_cells(glyphs, labels, torch.Generator().manual_seed(0))
    assert torch.equal(cells, again)
    taken = photograph_cells(cells, torch.Generator().manual_seed(0))
    assert taken.shape == cells.shape and taken.min() >= 0 and taken.max() <= 1.5


def test_the_reader_learns_and_the_same_seed_learns_the_same(glyphs: Glyphs) -> None:
    short = ReaderConfig(rendered_steps=3, mixed_steps=3, batch_size=16)
    twice = [train_reader(glyphs, short) for _ in range(2)]
    for a, b in zip(*(reader.state_dict().values() for reader in twice), strict=True):
        assert torch.equal(a, b)
    first = train_reader(glyphs, ReaderConfig(rendered_steps=60, batch_size=64))
    labels = torch.arange(300) % 10
    cells = photograph_cells(
        render_cells(glyphs, labels, torch.Generator().manual_seed(7)), torch.Generator().manual_seed(8)
    )
    assert (first(cells).argmax(1) == labels).float().mean() > 0.2  # of ten classes
    photographed = PhotographedCells(
        cells[:243].reshape(3, 81, CELL, CELL).numpy(), labels[:243].reshape(3, 81).numpy()
    )
    mixed = train_reader(glyphs, short, start=first, photographed=photographed)
    assert not torch.equal(mixed.body[0].weight, first.body[0].weight)


def test_digits_on_their_side_have_any_digit_as_target() -> None:
    labels = torch.arange(1000) % 10
    _, target = training._turn_some(torch.rand(1000, 4, 4), labels, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.sum(1), torch.ones(1000))
    odd = target.max(1).values < 0.5
    assert not odd[labels == 0].any() and 0.3 < odd[labels > 0].float().mean() < 0.5
    assert (target[odd][:, 0] == 0).all()


@pytest.mark.parametrize("name", ["rendered_steps", "mixed_steps", "batch_size"])
def test_wrong_configurations(name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}: got 0"):
        ReaderConfig(**{name: 0})


def test_train_and_study_a_collection(
    glyphs: Glyphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "load_glyphs", lambda: glyphs)
    data, output, results = tmp_path / "data", tmp_path / "readers", tmp_path / "results"
    data.mkdir()
    puzzle = parse_board(EXAMPLE)
    other = np.where(puzzle > 0, 10 - puzzle, 0).astype(np.int8)  # the digits renamed: a puzzle as well
    for number, givens in enumerate((puzzle, puzzle, other)):
        generator = np.random.default_rng(number)
        picture, _ = photograph_page(print_page(givens, generator), Camera(turn=3.0 * number), generator)
        Image.fromarray(picture).save(data / f"image{number}.jpg")
        rows = "\n".join(" ".join(map(str, row)) for row in givens.reshape(9, 9).tolist())
        (data / f"image{number}.dat").write_text(f"telephone\n960x1280\n{rows}\n")
    train = [
        "photo-train",
        str(data),
        "--folds",
        "2",
        "--output",
        str(output),
        "--rendered-steps",
        "2",
        "--mixed-steps",
        "2",
    ]
    assert main(train) == 0
    names = ["reader-fold-0", "reader-fold-1", "reader-full", "reader-rendered"]
    assert sorted(path.stem for path in output.glob("*.safetensors")) == names
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.safetensors")}
    (output / "reader-full.safetensors").unlink()
    assert main(train) == 0  # goes on where it was
    changed = {p.name for p in output.glob("*.safetensors") if p.stat().st_mtime_ns != before[p.name]}
    assert changed == {"reader-full.safetensors"}
    load_reader(output / "reader-full.safetensors")
    capsys.readouterr()
    for fold in (0, 1):  # two steps teach nothing
        (output / f"reader-fold-{fold}.safetensors").write_bytes(WEIGHTS.read_bytes())
    study = ["photo-study", str(data), "--folds", "2", "--output", str(output), "--csv", str(results)]
    assert main(study) == 0
    said = capsys.readouterr().out
    assert "reader alone" in said and "joint decoding" in said
    lines = (results / "methods.csv").read_text().splitlines()
    assert lines[1].startswith("reader alone,3,3,3,0") and lines[-1].startswith("joint decoding,3,,,,3,3,0")
    assert {line.split(",")[-1] for line in (results / "photographs.csv").read_text().splitlines()[1:]} == {"0", "1"}
    assert main(study) == 2
    assert "--overwrite" in capsys.readouterr().err
