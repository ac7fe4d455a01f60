"""`python -m demos.clauses`: clauses that say what the puzzles say, propagation, decimation, the command line."""

import csv
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from pretended_cuda import Cuda

from demos.clauses.__main__ import main
from demos.clauses.problems import Propagation, queens, sudoku
from demos.clauses.solve import decimate
from demos.sudoku.boards import obeys_rules
from demos.sudoku.generator import generate
from difflayers import SATNet, maxsat

RESULTS = Path(__file__).parents[2] / "demos" / "sudoku" / "results"


def test_the_clauses_of_queens_are_its_rules() -> None:
    instance = maxsat.Instance.from_clauses(queens(6))
    for columns in permutations(range(6)):
        board = np.zeros((6, 6), bool)
        board[np.arange(6), columns] = True
        attacked = any(abs(columns[i] - columns[j]) == j - i for i in range(6) for j in range(i + 1, 6))
        assert (instance.cost(board.reshape(-1))[0] > 0) == attacked
    assert instance.cost(np.zeros(36, bool))[0] == 12  # no queen in any row or column


@pytest.mark.parametrize("box", [2, 3])
def test_the_clauses_of_sudoku_are_its_rules(box: int) -> None:
    size = box**2
    instance, boards = maxsat.Instance.from_clauses(sudoku(box)), generate(box, (8, 8) if box == 2 else (36, 36), 20, 0)
    draw = np.random.default_rng(0)
    for solution in boards.solutions:
        bits = (solution[:, None] == np.arange(1, size + 1)).reshape(-1)
        assert instance.cost(bits) == (0, 0)
        for i in draw.choice(len(bits), 10, replace=False):  # no bit can change alone
            changed = bits.copy()
            changed[i] = ~changed[i]
            assert instance.cost(changed)[0] > 0
        other = solution.copy()
        other[[0, 1]] = other[[1, 0]]  # breaks a column
        assert not obeys_rules(other)
        assert instance.cost((other[:, None] == np.arange(1, size + 1)).reshape(-1))[0] > 0


def test_propagation_draws_what_follows_and_no_more() -> None:
    propagate = Propagation([[-1, 2], [-2, 3], [4, 5], [-3, -4, 6]])
    values = np.array([1, -1, -1, -1, -1, -1], np.int8)
    assert propagate(values) and values.tolist() == [1, 1, 1, -1, -1, -1]
    values[4] = 0
    assert propagate(values) and values.tolist() == [1, 1, 1, 1, 0, 1]
    assert not propagate(np.array([1, 0, -1, -1, -1, -1], np.int8))
    assert not Propagation([[1, 2], [1, -2]])(np.array([0, -1], np.int8))  # two units that disagree


def test_decimation_solves_small_boards_and_decides_nothing_wrong_by_itself() -> None:
    clauses = sudoku(2)
    layer = SATNet.from_clauses(clauses, max_iter=200, eps=1e-5)
    boards = generate(2, (4, 6), 30, 0)
    bits = (boards.puzzles[..., None] == np.arange(1, 5)).reshape(30, -1)
    values = np.where(np.repeat(boards.puzzles > 0, 4, 1), bits, -1).astype(np.int8)
    before = values.copy()
    answers = decimate(layer, clauses, values, share=0.1, seed=0, progress=False)
    assert (values == before).all() and (answers[values >= 0] == values[values >= 0]).all()
    right = (boards.solutions[..., None] == np.arange(1, 5)).reshape(30, -1)
    assert ((answers == right).all(1)).mean() >= 0.9
    instance = maxsat.Instance.from_clauses(clauses)
    for answer in answers[(answers >= 0).all(1)]:
        assert instance.cost(answer == 1) == (0, 0)


def test_queens_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "queens.png"
    assert main(["queens", "--n", "6", "--output", str(picture)]) in (0, 1)
    printed = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG") and "no training" in printed
    assert main(["queens", "--n", "8", "--output", str(picture)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["queens", "--n", "8", "--output", str(picture), "--overwrite"]) == 0
    board = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [row.count("Q") for row in board] == [1] * 8
    assert main(["queens", "--n", "3", "--output", str(tmp_path / "three.png")]) == 2
    assert "--n: got 3, wanted 4 or more" in capsys.readouterr().err
    for wrong in (["--n", "41"], ["--output", "a.txt"], ["--seed", "-1"], ["--seed", str(2**63)]):
        assert main(["queens", *wrong]) == 2
        assert f"{wrong[0]}: got {wrong[1]}, wanted " in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--count", "0"], ["--share", "nan"], ["--share", "1.5"], ["--eps", "-1"], ["--givens"]]
)
def test_wrong_options_of_sudoku_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sudoku", *wrong]) == 2
    assert f"error: {wrong[0]}" in capsys.readouterr().err


def test_sudoku_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    assert main(["sudoku", "--box", "2", "--givens", "8", "5", "--count", "4", "--output", str(table)]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["boards"] for row in rows] == ["generated, 8 givens", "generated, 5 givens"]
    for row in rows:
        assert float(row["RC2"]) == 1 and float(row["decimation"]) >= float(row["unit propagation alone"])


@pytest.mark.parametrize("name", ["original-9x9", "permuted-9x9"])
def test_the_trained_layer_holds_the_rules(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(RESULTS / name), "--top", "30"]) == 0
    out = capsys.readouterr().out
    pairs = re.findall(r"r(\d)c(\d)=(\d) differs from r(\d)c(\d)=(\d) ", out)
    assert len(pairs) == 30
    for r, c, d, s, e, f in (map(int, pair) for pair in pairs):  # by the board's own names, permuted or not
        same_unit = r == s or c == e or ((r - 1) // 3, (c - 1) // 3) == ((s - 1) // 3, (e - 1) // 3)
        assert (r, c) == (s, e) if d != f else same_unit
    assert re.search(r"100\.00% of 1000 ", out) and re.search(r"8[78]\.\d\d% of 10206 ", out)
    assert main(["read", str(RESULTS / name), "--top", "0"]) == 2
    assert "--top: got 0, wanted 1 or more" in capsys.readouterr().err


def test_it_runs_on_cuda(cuda: Cuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["queens", "--n", "6", "--output", str(tmp_path / "queens.png")],
        ["sudoku", "--box", "2", "--givens", "6", "--count", "3"],
    ):
        assert main([*command, "--device", "cuda"]) == 0
    assert cuda.used()
    assert "6 queens, 0 clauses violated" in (text := capsys.readouterr().out) and "decimation 100.0%" in text
