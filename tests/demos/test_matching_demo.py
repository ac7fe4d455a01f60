"""`python -m demos.matching`."""

from pathlib import Path

import pytest
from pretended_cuda import Cuda

from demos.matching.__main__ import main


def test_it_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "m.png"
    main(["--templates", "3", "--proposals", "4", "--output", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    costs = {line[:22].strip(): float(line[22:].split()[0]) for line in lines[1:8]}
    assert len(costs) == 7 and costs["Hungarian"] <= costs["greedy"]
    assert costs["quadratic, gamma 0.01"] == pytest.approx(costs["Hungarian"], abs=0.05)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_overwrites_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "m.png"
    picture.write_text("mine")
    assert main(["--output", str(picture)]) == 2
    assert "--overwrite" in capsys.readouterr().err and picture.read_text() == "mine"
    assert main(["--templates", "5", "--proposals", "4"]) == 2
    assert "--proposals: got 4, wanted 5 or more" in capsys.readouterr().err


def test_it_runs_on_cuda(cuda: Cuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--output", str(tmp_path / "cpu.png")])
    cpu = capsys.readouterr().out
    assert not cuda.used()
    main(["--output", str(tmp_path / "cuda.png"), "--device", "cuda"])
    assert cuda.used()
    assert not cuda.exact or capsys.readouterr().out == cpu.replace("cpu.png", "cuda.png")
