"""What all demos read and write: nothing is lost when the disk is full, and what cannot be read is said by name."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demos import files
from demos.checkpoints import load_weights, read_checkpoint
from demos.files import check_output, csv_rows, make_folder, write_atomically
from demos.parity.__main__ import main as parity
from demos.sudoku.__main__ import main as sudoku
from demos.sudoku.photo.reader import WEIGHTS, load_reader
from demos.tables.__main__ import main as tables
from demos.vos.__main__ import main as vos
from demos.vos.pictures import write_video

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes the first bytes of a file and no more."""

    def fsync(_: int) -> None:
        raise FULL

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"cannot be written: No space left on device.*table\.csv"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.usefixtures("full_disk")
def test_generated_boards_are_kept_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "boards.csv"
    path.write_bytes(b"old")
    command = ["generate", "--box", "2", "--count", "2", "--givens", "6-8", "--overwrite", "--output", str(path)]
    assert sudoku(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_bytes() == b"old"


def test_a_video_that_is_cut_short_does_not_replace_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imageio_ffmpeg

    path = tmp_path / "overlay.mp4"
    frames = [np.full((16, 16, 3), 40 * t, np.uint8) for t in range(4)]
    write_video(path, frames)
    old = path.read_bytes()

    def cut(name: str) -> Any:
        Path(name).write_bytes(Path(name).read_bytes()[:100])
        return real(name)

    real = imageio_ffmpeg.count_frames_and_secs
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", cut)
    with pytest.raises(OSError, match="the encoder did not write all of it"):
        write_video(path, frames[:2])
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["overlay.mp4"]


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"x")
    check_output(tmp_path / "new" / "deep" / "file", "--out", overwrite=False)
    check_output(there, "--out", overwrite=True)
    for path, message in (
        (there, "exists; pass --overwrite"),
        (tmp_path, "is a directory, wanted a file"),
        (there / "file", "is a file, wanted a directory"),
    ):
        with pytest.raises(ValueError, match=f"^--out: .*{message}"):
            check_output(path, "--out", overwrite=False)


# --- CSV ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_csv_of_every_separator_and_line_end(tmp_path: Path, separator: str, end: str, pack: Any) -> None:
    path = tmp_path / "table"
    path.write_bytes(pack(end.join(separator.join(row) for row in ("ab", "12", "34")).encode("utf-8-sig")))
    assert list(csv_rows(path)) == [(1, ["a", "b"]), (2, ["1", "2"]), (3, ["3", "4"])]


BAD_CSV = {
    "long cell": (b"puzzle,solution\n1," + b"x" * 140_000, "line 2: field larger than field limit"),
    "open quote": (b'puzzle,solution\n1,"x', "line 2: unexpected end of data"),
    "binary": (b"\x93\x00\xff\xfe", "neither UTF-8 text nor gzipped text"),
    "half a gzip": (gzip.compress(b"a,b\n1,2\n" * 99)[:30], "neither UTF-8 text nor gzipped text"),
    "directory": (None, "cannot be read: Is a directory"),
}


@pytest.mark.parametrize(("raw", "message"), BAD_CSV.values(), ids=BAD_CSV)
@pytest.mark.parametrize("demo", ["sudoku", "tables", "parity"])
def test_what_is_no_csv_is_one_line_that_names_the_file(
    demo: str, raw: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.csv"
    if raw is None:
        path.mkdir()
    else:
        path.write_bytes(raw)
    status = {
        "sudoku": lambda: sudoku(["train", "--data", str(path), "--output", str(tmp_path / "run")]),
        "tables": lambda: tables(["train", str(path), "--output", str(tmp_path / "run")]),
        "parity": lambda: parity(["--output", str(tmp_path), "--epochs", "1"]),
    }[demo]()
    error = capsys.readouterr().err
    assert status == 2
    assert message in error and str(path) in error and error.count("\n") == 1


# --- safetensors --------------------------------------------------------------------------------------------


BAD_CHECKPOINTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "another's": {},
    "nothing but the format": {"format": "own"},
    "no JSON": {"format": "own", "config": "{", "model": "{", "about": "{"},
    "other JSON": {"format": "own", "config": "[1]", "model": "[1]", "about": "[1]"},
}


@pytest.mark.parametrize("made", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
@pytest.mark.parametrize("demo", ["sudoku", "photo", "clauses", "tables", "vos"])
def test_checkpoints_of_something_else_are_one_line_that_names_the_file(
    demo: str, made: bytes | dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from demos.clauses.__main__ import main as clauses
    from demos.sudoku.checkpoint import _FORMAT as SUDOKU
    from demos.tables.model import CHECKPOINT, FORMAT
    from demos.vos.checkpoint import FORMAT as VOS

    path = tmp_path / CHECKPOINT
    own = {"tables": FORMAT, "vos": VOS}.get(demo, SUDOKU)
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        metadata = {name: own if value == "own" else value for name, value in made.items()}
        save_file({"S": torch.zeros(3, 2)}, path, metadata)
    (tmp_path / "clip").mkdir()
    status = {
        "sudoku": lambda: sudoku(["solve", "." * 81, "--checkpoint", str(path)]),
        "photo": lambda: sudoku(["photo", "--reader", str(path), "--output", str(tmp_path / "out")]),
        "clauses": lambda: clauses(["read", str(path)]),
        "tables": lambda: tables(["rules", str(tmp_path)]),
        "vos": lambda: vos(["track", str(tmp_path / "clip"), "--features", str(path), "--box", "0,0,2,2"]),
    }[demo]()
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1 and "Traceback" not in error
    if demo != "vos":  # which looks at the clip first
        assert str(path) in error


def test_weights_of_another_dtype_shape_or_name_are_refused(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    right = layer.state_dict()
    for wrong, message in (
        ({**right, "bias": torch.zeros(3, dtype=torch.int32)}, r"tensor bias is torch.int32"),
        ({**right, "bias": torch.zeros(4)}, r"tensor bias is torch.float32 of shape \(4,\)"),
        ({"bias": right["bias"]}, "no tensor weight"),
        ({**right, "other": right["bias"]}, "a tensor other"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(layer, wrong)
    tensors = {name: t.int().contiguous() for name, t in load_reader(WEIGHTS).state_dict().items()}
    save_file(tensors, tmp_path / "reader.safetensors")
    with pytest.raises(ValueError, match=r"reader: .*reader.safetensors is not .*torch.int32"):
        load_reader(tmp_path / "reader.safetensors")
    with pytest.raises(ValueError, match="model: no file"):
        read_checkpoint(tmp_path / "none", "x", argument="model", missing="")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--output: .*file is a file, wanted a directory"):
        make_folder(tmp_path / "file", "--output")
    with pytest.raises(ValueError, match=r"--output: .*below cannot be made: Not a directory"):
        make_folder(tmp_path / "file" / "below", "--output")
