"""Bits, files, and the split into training and test boards."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from demos.sudoku.boards import Boards, format_line
from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.data import (
    decode,
    encode,
    fingerprint,
    load_split,
    read_csv,
    read_puzzles,
    seen_solutions,
    write_csv,
)
from demos.sudoku.generator import generate

SOLVED = "1234341221434321"
PUZZLE = "1.34341221434321"


@pytest.mark.parametrize(("box", "givens"), [(2, 6), (3, 30)])
def test_bits(box: int, givens: int) -> None:
    boards = generate(box, givens, 7, seed=1)
    size = box**2
    puzzles = torch.from_numpy(boards.puzzles)
    bits, given = encode(puzzles)
    assert bits.shape == given.shape == (7, size**3)
    assert bits.dtype == torch.float32
    assert given.dtype == torch.bool
    for b in range(7):
        for row in range(size):
            for column in range(size):
                value = int(boards.puzzles[b, row * size + column])
                for digit in range(1, size + 1):
                    bit = (row * size + column) * size + digit - 1
                    assert bits[b, bit] == float(value == digit)
                    assert bool(given[b, bit]) == (value != 0)


def test_decoding_undoes_encoding() -> None:
    boards = generate(3, 30, 20, seed=1)
    puzzles, solutions = torch.from_numpy(boards.puzzles), torch.from_numpy(boards.solutions)
    answers = decode(encode(solutions)[0], puzzles)
    assert answers.dtype == torch.int8
    assert torch.equal(answers, solutions)


def test_decoding_keeps_givens_and_takes_the_most_probable_digit() -> None:
    puzzle = torch.zeros(1, 16, dtype=torch.int8)
    puzzle[0, 3] = 2
    probabilities = torch.full((1, 64), 0.25)
    probabilities[0, 4 * 0 + 2] = 0.3  # cell 0: digit 3
    probabilities[0, 4 * 3 + 3] = 0.9  # cell 3 is given: whatever its bits say, digit 2
    answer = decode(probabilities, puzzle)[0]
    assert answer[0] == 3
    assert answer[3] == 2


@pytest.mark.parametrize("name", ["boards.csv", "boards.csv.gz"])
def test_csv_round_trip(tmp_path: Path, name: str) -> None:
    boards = generate(3, 30, 20, seed=1)
    path = tmp_path / name
    write_csv(boards, path)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    first = path.read_bytes()
    write_csv(boards, path)
    assert path.read_bytes() == first
    again = read_csv(path, box=3)
    assert (again.puzzles == boards.puzzles).all()
    assert (again.solutions == boards.solutions).all()
    assert (read_puzzles(path) == boards.puzzles).all()


@pytest.mark.parametrize(
    "text",
    [
        f"puzzle,solution\n{PUZZLE},{SOLVED}\n",
        f"{PUZZLE},{SOLVED}\n",
        f"\ufeffid,Solution,Puzzle,rating\r\n7,{SOLVED},{PUZZLE},1.5\r\n\r\n",
        f"quizzes,solutions\n{PUZZLE.replace('.', '0')},{SOLVED}",
        *(f"puzzle,solution\n{PUZZLE.replace('.', blank)},{SOLVED}\n" for blank in "_-*?"),
        f"puzzle;solution\n{PUZZLE};{SOLVED}\n",
        f"{PUZZLE}\t{SOLVED}\n",
        f"puzzle,solution\r{PUZZLE},{SOLVED}\r",
    ],
)
def test_csv_dialects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boards"
    path.write_bytes(gzip.compress(text.encode()))  # no .gz in the name: it is told by its content
    boards = read_csv(path)
    assert format_line(boards.puzzles[0]) == PUZZLE.replace(".", "0")
    assert format_line(boards.solutions[0]) == SOLVED
    assert len(boards) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no boards"),
        ("puzzle,solution\n", "got no boards"),
        ("a,b\n", "line 1: got the header 'a,b', wanted a column puzzle and solution"),
        ("puzzle\n", "line 1: got the header 'puzzle'"),
        (f"puzzle,solution\n{PUZZLE}\n", "line 2: got 1 column(s), wanted puzzle and solution"),
        (f"puzzle,solution\n{PUZZLE},{SOLVED}\n12,{SOLVED}\n", "line 3, puzzle: 2 characters in '12'"),
        (
            f"puzzle,solution\n{PUZZLE},{SOLVED}\n\n{PUZZLE},{SOLVED[:-1]}x\n",
            "line 4, solution: character 'x'",
        ),
        (f"puzzle,solution\n{PUZZLE},{'1' * 16}\n", "line 2, solution: it breaks the rules"),
        (f"puzzle,solution\n{PUZZLE},{SOLVED}\n2{PUZZLE[1:]},{SOLVED}\n", "line 3, solution: it contradicts"),
        (f"puzzle,solution\n{PUZZLE},{SOLVED[:-1]}.\n", "line 2, solution: it breaks the rules"),
        (
            f"puzzle,solution\n{PUZZLE},{SOLVED}\n{'.' * 81},{'.' * 81}\n",
            "line 3, puzzle: got 81 cells, wanted 16",
        ),
        (f"puzzle,solution\n{PUZZLE},{SOLVED}\n{'1' * 200_000},2\n", "line 3: field larger than field limit"),
    ],
)
def test_csv_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "boards.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)


def test_csv_of_the_wrong_size(tmp_path: Path) -> None:
    path = tmp_path / "boards.csv"
    path.write_text(f"{PUZZLE},{SOLVED}\n")
    with pytest.raises(ValueError, match="got 4x4 boards, wanted 9x9 as box = 3"):
        read_csv(path, box=3)


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"\x1f\x8b cut off"])
def test_files_that_are_no_text(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "boards.csv"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="neither UTF-8 text nor gzipped text"):
        read_csv(path)


def test_puzzle_files(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.txt"
    path.write_text(f"{PUZZLE}\n\n{SOLVED}\n")
    assert [format_line(p) for p in read_puzzles(path)] == [PUZZLE.replace(".", "0"), SOLVED]
    path.write_text(f"name,puzzle\nfirst,{PUZZLE}\n")
    assert len(read_puzzles(path)) == 1
    path.write_text(f"{PUZZLE}\n{'11' + PUZZLE[2:]}\n")
    with pytest.raises(ValueError, match="line 2, puzzle: it gives a digit twice"):
        read_puzzles(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="got no puzzles"):
        read_puzzles(path)


def test_split_of_a_file(tmp_path: Path) -> None:
    boards = generate(2, (6, 9), 50, seed=1)
    path = tmp_path / "boards.csv.gz"
    write_csv(boards, path)
    config = replace(PRESETS[2], data=str(path), train=30, test=15)
    train, test = load_split(config)
    assert (train.puzzles == boards.puzzles[:30]).all()
    assert (test.puzzles == boards.puzzles[35:]).all()
    with pytest.raises(ValueError, match=r"train, test: got 40 \+ 15 boards, wanted no more than the 50 in"):
        load_split(replace(config, train=40))


def test_seen_solutions() -> None:
    boards = generate(3, 40, 30, seed=1)
    assert seen_solutions(boards[:20], boards[20:]) == 0
    assert seen_solutions(boards[:20], boards[15:]) == 5
    assert seen_solutions(boards, generate(2, 8, 5)) == 0


def test_fingerprint() -> None:
    boards = generate(2, 8, 30, seed=1)
    changed = Boards(boards.puzzles.copy(), boards.solutions)
    changed.puzzles[3, np.flatnonzero(boards.puzzles[3])[0]] = 0
    assert fingerprint(boards) == fingerprint(generate(2, 8, 30, seed=1))
    assert fingerprint(boards) != fingerprint(changed)
    assert fingerprint(boards[:10], boards[10:]) != fingerprint(boards[10:], boards[:10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 5}, "box: got 5"),
        ({"train": 0}, "train: got 0, wanted 1 or more"),
        ({"aux": -1}, "aux: got -1, wanted 0 or more"),
        ({"m": 0}, "m: got 0"),
        ({"k": 0}, "k: got 0"),
        ({"batch_size": 0}, "--batch-size: got 0"),
        ({"epochs": -1}, "epochs: got -1"),
        ({"lr": 0.0}, "lr: got 0.0, wanted a positive number"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"lr": 1e300}, "lr: got 1e+300, wanted a positive number, at most 1e+30"),
        ({"eps": 1.0}, "eps: got 1.0"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_config_errors(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig.from_dict({**vars(PRESETS[2]), **change})


def test_config_from_other_entries() -> None:
    early = {name: value for name, value in vars(PRESETS[2]).items() if name != "masks"}
    assert TrainConfig.from_dict(early) == PRESETS[2]
    with pytest.raises(ValueError, match="config: got the entries"):
        TrainConfig.from_dict({"box": 2})
