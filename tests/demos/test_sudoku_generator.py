"""Generated puzzles, checked by a solver of another kind."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from demos.sudoku.boards import Boards, Int8Array, obeys_rules, unit_indices
from demos.sudoku.config import parse_givens
from demos.sudoku.generator import (
    HELD_OUT_GRIDS,
    MIN_GIVENS,
    add_givens,
    count_solutions,
    generate,
    generate_split,
    split_grids,
)


def reference_solutions(puzzle: Int8Array, limit: int = 2) -> list[list[int]]:
    """Find up to ``limit`` solutions the plainest way, by sets of the digits that each cell can see."""
    size = int(len(puzzle) ** 0.5)
    units = unit_indices(int(size**0.5)).tolist()
    peers = [{other for unit in units if cell in unit for other in unit} - {cell} for cell in range(len(puzzle))]
    board = [int(digit) for digit in puzzle]
    found: list[list[int]] = []

    def search() -> None:
        blanks = [cell for cell, digit in enumerate(board) if digit == 0]
        if not blanks:
            found.append(board.copy())
            return
        options = {cell: set(range(1, size + 1)) - {board[peer] for peer in peers[cell]} for cell in blanks}
        cell = min(blanks, key=lambda c: len(options[c]))
        for digit in options[cell]:
            board[cell] = digit
            search()
            if len(found) >= limit:
                return
        board[cell] = 0

    search()
    return found


def distinct(boards: Int8Array) -> int:
    return len({board.tobytes() for board in boards})


def check(boards: Boards, lowest: int, highest: int) -> None:
    assert obeys_rules(boards.solutions).all()
    assert ((boards.puzzles == 0) | (boards.puzzles == boards.solutions)).all()
    assert ((boards.givens >= lowest) & (boards.givens <= highest)).all()
    for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True):
        assert reference_solutions(puzzle) == [solution.tolist()]


@pytest.mark.parametrize("givens", [(28, 36), 34, 24, (22, 22), 80])
def test_9x9_puzzles_have_one_solution(givens: int | tuple[int, int]) -> None:
    boards = generate(3, givens, 12, seed=11)
    lowest, highest = givens if isinstance(givens, tuple) else (givens, givens)
    check(boards, lowest, highest)
    assert distinct(boards.solutions) == 12


@pytest.mark.parametrize("givens", [4, (4, 8), 15])
def test_4x4_puzzles_have_one_solution(givens: int | tuple[int, int]) -> None:
    boards = generate(2, givens, 200, seed=11)
    lowest, highest = givens if isinstance(givens, tuple) else (givens, givens)
    check(boards, lowest, highest)
    assert distinct(boards.puzzles) == 200


def test_ranges_of_givens_are_used_in_full() -> None:
    assert set(generate(3, (30, 33), 200, seed=2).givens.tolist()) == {30, 31, 32, 33}


def test_boards_are_well_mixed() -> None:
    """Each digit in each cell, and each pair of digits in cells that do not see each other, equally often."""
    solutions = generate(3, 60, 4000, seed=4).solutions
    for digit in range(1, 10):
        assert np.abs((solutions == digit).mean(0) - 1 / 9).max() < 0.025  # 5 standard deviations
    pairs = np.bincount(9 * (solutions[:, 0] - 1) + solutions[:, 80] - 1, minlength=81) / 4000
    assert np.abs(pairs - 1 / 81).max() < 0.0095
    small = generate(2, 8, 2000, seed=4).solutions
    assert distinct(small) > 280


def test_same_seed_same_puzzles() -> None:
    first, again, other = (generate(3, (28, 36), 150, seed=seed) for seed in (3, 3, 4))
    longer = generate(3, (28, 36), 200, seed=3)
    assert (first.puzzles == again.puzzles).all()
    assert (first.solutions == again.solutions).all()
    assert (longer.puzzles[:150] == first.puzzles).all()
    assert distinct(np.concatenate([first.solutions, other.solutions])) == 300


def test_puzzles_stay_the_same_over_time() -> None:
    """A change here changes what every seed means: trained checkpoints then do not know their boards."""
    small, large = generate(2, 4, 1, seed=0), generate(3, 28, 1, seed=0)
    assert "".join(map(str, small.puzzles[0])) == SMALL_PUZZLE
    assert "".join(map(str, large.puzzles[0])) == LARGE_PUZZLE
    assert "".join(map(str, split_grids(0)[1][0])) == FIRST_HELD_OUT


SMALL_PUZZLE = "0300001034000000"
LARGE_PUZZLE = "090400000080709050000000604927500030800002000005090002040007000060040871070010005"
FIRST_HELD_OUT = "3142421313242431"


@pytest.mark.parametrize(("box", "givens"), [(2, (4, 8)), (3, 34)])
def test_no_test_solution_occurs_in_training(box: int, givens: int | tuple[int, int]) -> None:
    train, test = generate_split(box, givens, 500, 200, seed=6)
    assert (len(train), len(test)) == (500, 200)
    assert not {s.tobytes() for s in train.solutions} & {s.tobytes() for s in test.solutions}
    assert distinct(train.puzzles) == 500
    assert distinct(test.puzzles) == 200


def test_split_of_the_4x4_grids() -> None:
    train, test = split_grids(1)
    assert len(test) == HELD_OUT_GRIDS
    assert distinct(np.concatenate([train, test])) == 288
    assert obeys_rules(np.concatenate([train, test])).all()
    assert {g.tobytes() for g in split_grids(2)[1]} != {g.tobytes() for g in test}


def test_count_solutions() -> None:
    blank = np.zeros(16, np.int8)
    assert count_solutions(blank, limit=1000) == 288
    assert count_solutions(blank) == 2
    twice = blank.copy()
    twice[:2] = 1
    assert count_solutions(twice) == 0
    for puzzle in generate(3, 24, 5, seed=1).puzzles:
        assert count_solutions(puzzle) == 1
        for cell in np.flatnonzero(puzzle)[:3]:
            fewer = puzzle.copy()
            fewer[cell] = 0
            assert count_solutions(fewer, limit=50) == len(reference_solutions(fewer, limit=50))
    with pytest.raises(ValueError, match="limit"):
        count_solutions(blank, limit=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 100, 1), "box: got 5, wanted 2"),
        ((4, 100, 1), "givens: got 100, wanted 110 to 255 for 16x16 boards"),
        ((3, 21, 1), "givens: got 21, wanted 22 to 80 for 9x9 boards"),
        ((3, (30, 81), 1), "givens: got 30-81"),
        ((3, (36, 30), 1), "givens: got 36-30"),
        ((2, 3, 1), "givens: got 3, wanted 4 to 15 for 4x4 boards"),
        ((3, 30, -1), "count: got -1"),
        ((3, 30, 1, -1), "seed: got -1"),
        ((2, 15, 5000), "count: got 5000, but only 4"),
    ],
)
def test_errors(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(*arguments)


@pytest.mark.parametrize(("text", "givens"), [("34", (34, 34)), ("28-36", (28, 36))])
def test_parse_givens(text: str, givens: tuple[int, int]) -> None:
    assert parse_givens(text) == givens


@pytest.mark.parametrize("text", ["", "many", "28-", "-3", "28-36-40", "3.5"])
def test_parse_givens_errors(text: str) -> None:
    with pytest.raises(ValueError, match="such as 34 or a range such as 28-36"):
        parse_givens(text)


def test_no_puzzles() -> None:
    assert generate(3, 30, 0).puzzles.shape == (0, 81)


def test_lowest_givens_are_within_reach() -> None:
    for box, givens in MIN_GIVENS.items():
        assert (generate(box, givens, 10, seed=9).givens == givens).all()


@pytest.mark.slow
def test_speed() -> None:
    generate(3, 34, 1)
    start = time.perf_counter()
    boards = generate(3, (28, 36), 10_000, seed=1)
    assert time.perf_counter() - start < 15
    assert distinct(boards.solutions) == 10_000


def test_more_cells_are_given() -> None:
    boards = generate(3, 24, 7, seed=3)
    more = add_givens(boards, (24, 26), seed=1)
    assert more.givens.tolist() == [24, 25, 26, 24, 25, 26, 24]
    assert ((boards.puzzles == 0) | (more.puzzles == boards.puzzles)).all()
    assert ((more.puzzles == 0) | (more.puzzles == boards.solutions)).all()
    assert (add_givens(boards[:4], (24, 26), seed=1).puzzles == more.puzzles[:4]).all()
    assert (add_givens(boards, (24, 26), seed=2).puzzles != more.puzzles).any()
    for givens in (23, (20, 30)):
        with pytest.raises(ValueError, match=r"givens: got \d+ for puzzle 1, which gives 24 already"):
            add_givens(boards, givens)
    for givens in (0, 81, (30, 29)):
        with pytest.raises(ValueError, match="wanted 1 to 80"):
            add_givens(boards, givens)


def test_16x16_boards_are_shuffled_and_have_one_solution() -> None:
    boards = generate(4, (150, 170), 4, seed=5)
    check(boards, 150, 170)
    assert distinct(boards.solutions) == 4
    assert (generate(4, (150, 170), 2, seed=5).puzzles == boards.puzzles[:2]).all()
    assert distinct(np.concatenate((boards.solutions, generate(4, 250, 4, seed=6).solutions))) == 8
    train, test = generate_split(4, 250, 3, 2, seed=1)
    assert not {board.tobytes() for board in train.solutions} & {board.tobytes() for board in test.solutions}
