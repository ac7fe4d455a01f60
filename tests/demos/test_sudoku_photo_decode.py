"""Joint decoding of evidence and learnt rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demos.sudoku.boards import Int8Array, obeys_rules, parse_board
from demos.sudoku.generator import generate
from demos.sudoku.photo.collection import TrueBoard, fold_of
from demos.sudoku.photo.command import EXAMPLE
from demos.sudoku.photo.decode import (
    DOUBT,
    Decoder,
    UnsolvableError,
    learnt_rules,
    load_rules,
    save_rules,
    shipped_decoder,
    shipped_layer,
    weigh,
)
from demos.sudoku.photo.study import SPOILINGS, jointly, one_pass, spoil
from demos.sudoku.rules import exclusions

PUZZLE = parse_board(EXAMPLE)
SOLUTION = parse_board("534678912672195348198342567859761423426853791713924856961537284287419635345286179")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return shipped_decoder()


def evidence(puzzle: Int8Array, changes: dict[int, dict[int, float]] | None = None) -> np.ndarray:
    """Return the log-probabilities of a reader that is sure of a puzzle, but for some cells."""
    p = np.full((81, 10), 1e-7)
    p[np.arange(81), puzzle] = 1
    for cell, row in (changes or {}).items():
        p[cell] = 1e-7
        for digit, value in row.items():
            p[cell, digit] = value
    return np.log(p / p.sum(1, keepdims=True))


def test_a_sure_reading(decoder: Decoder) -> None:
    answer = decoder.decode(evidence(PUZZLE))
    assert (answer.board == SOLUTION).all()
    assert (answer.givens == PUZZLE).all()
    assert not answer.corrected.any()
    assert answer.accepted and answer.doubts == ()
    assert answer.sure > 0.999


def test_a_misread_a_missed_and_a_false_digit_are_put_right(decoder: Decoder) -> None:
    changes = {0: {3: 0.7, 5: 0.2}, 4: {0: 0.8, 7: 0.15}, 2: {1: 0.9, 0: 0.1}}
    answer = decoder.decode(evidence(PUZZLE, changes))
    assert (answer.board == SOLUTION).all()
    # The answer has the missed digit. Whether it is printed, or follows from those that are, remains what was read.
    assert (answer.givens == np.where(np.arange(81) == 4, 0, PUZZLE)).all()
    assert answer.corrected.nonzero()[0].tolist() == [0, 2]
    assert answer.overruled == 2
    assert answer.accepted


def test_a_digit_that_is_surely_wrong_is_overruled_if_the_others_exclude_it(decoder: Decoder) -> None:
    answer = decoder.decode(evidence(PUZZLE, {1: {5: 1.0}}))  # there is a 5 beside it
    assert (answer.board == SOLUTION).all()
    assert answer.corrected.nonzero()[0].tolist() == [1]
    assert not answer.accepted and answer.doubts == ("it disagrees with 1 of the digits that were read for sure",)


def exchangeable() -> list[int]:
    """Return four cells at the corners of a rectangle that hold two digits, which can be exchanged."""
    rows = SOLUTION.reshape(9, 9)
    return next(
        [9 * r + i, 9 * r + j, 9 * s + i, 9 * s + j]
        for r in range(9)
        for s in range(r + 1, 9)
        for i in range(9)
        for j in range(i + 1, 9)
        if rows[r, i] == rows[s, j] and rows[r, j] == rows[s, i] and (r // 3 == s // 3 or i // 3 == j // 3)
    )


def test_two_boards_that_agree_with_all_that_was_read_are_even(decoder: Decoder) -> None:
    puzzle = SOLUTION.copy()
    puzzle[exchangeable()] = 0
    answer = decoder.decode(evidence(puzzle))
    assert answer.sure == pytest.approx(0.5, abs=1e-6) and not answer.accepted
    assert "another board agrees" in answer.doubts[0] and "50%" in answer.doubts[0]


def test_a_digit_nearly_missed_decides_between_two_boards_as_one_of_four_is_printed(decoder: Decoder) -> None:
    puzzle = SOLUTION.copy()
    cells = exchangeable()
    puzzle[cells] = 0
    answer = decoder.decode(evidence(puzzle, {cells[0]: {0: 0.9, int(SOLUTION[cells[0]]): 0.1}}))
    assert (answer.board == SOLUTION).all()
    # By hand: either board has 0.9 for a blank, but blank it cannot be. What is left: 0.1 for this, for the other DOUBT / 10
    # in this cell, and for both the same in the three other cells.
    doubt = DOUBT / 10
    assert answer.sure == pytest.approx(0.1 / (0.1 + 3 * 0.9 * doubt + doubt), abs=2e-3)


def test_weights_are_those_of_all_puzzles_with_one_solution() -> None:
    # Two boards that differ in two cells: every set of printed cells is a puzzle, of one board if the set has one of the two.
    boards = np.stack([SOLUTION, SOLUTION]).copy()
    boards[1, [0, 40]] = [9, 9]
    p = np.random.default_rng(0).dirichlet(np.ones(10), 81)
    product = np.ones(2)
    for i, board in enumerate(boards):
        for cell in range(81):
            if cell not in (0, 40):
                product[i] *= p[cell, 0] + p[cell, board[cell]]
        a, b = ((p[cell, 0], p[cell, board[cell]]) for cell in (0, 40))
        product[i] *= a[1] * b[1] + a[1] * b[0] + a[0] * b[1]
    np.testing.assert_allclose(weigh(p, boards), product / product.sum(), rtol=1e-9)


def test_nonsense_is_not_accepted(decoder: Decoder) -> None:
    generator = np.random.default_rng(0)
    for _ in range(3):
        read = generator.integers(1, 10, 81).astype(np.int8) * (generator.random(81) < 0.5)
        answer = decoder.decode(evidence(read.astype(np.int8)))
        assert not answer.accepted
        assert any("disagrees" in doubt for doubt in answer.doubts)


def test_an_empty_grid_is_not_accepted(decoder: Decoder) -> None:
    answer = decoder.decode(evidence(np.zeros(81, np.int8)))
    assert not answer.accepted and answer.sure < 0.5


def test_evidence_of_another_shape_or_not_finite_is_refused(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match=r"log_probabilities: got shape \(81, 9\), wanted \(81, 10\)"):
        decoder.decode(np.zeros((81, 9)))
    with pytest.raises(ValueError, match="not finite"):
        decoder.decode(np.full((81, 10), np.nan))


def test_rules_without_a_board() -> None:
    net, limit = shipped_layer()
    with pytest.raises(UnsolvableError):
        Decoder(net, limit, [[-bit] for bit in range(1, 10)]).decode(evidence(PUZZLE))


def test_the_shipped_rules_are_those_of_the_shipped_layer(tmp_path: Path) -> None:
    net, _ = shipped_layer()
    rules = learnt_rules(net, generate(3, 30, 3000, seed=6).solutions)
    save_rules(rules, tmp_path / "rules.cnf.gz")
    assert load_rules() == load_rules(tmp_path / "rules.cnf.gz") == rules.clauses
    true = np.triu(sum(exclusions(3).values()) > 0, 1)
    held = {tuple(-i - 1 for i in clause) for clause in rules.clauses if len(clause) == 2}
    assert held == set(zip(*map(np.ndarray.tolist, np.nonzero(true)), strict=True))  # the rules of Sudoku


def test_puzzles_of_a_generator_are_solved_right(decoder: Decoder) -> None:
    boards = generate(3, 26, 5, seed=3)
    for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True):
        answer = decoder.decode(evidence(puzzle))
        assert (answer.board == solution).all() and obeys_rules(answer.board)


def test_spoiled_givens_and_what_the_methods_make_of_them(decoder: Decoder) -> None:
    logs = evidence(PUZZLE).astype(np.float32)
    tenth = np.flatnonzero(PUZZLE)[9::10]
    right = {}
    for name, how in SPOILINGS.items():
        spoiled, cells = spoil(logs, PUZZLE, how, np.random.default_rng(0))
        assert cells.tolist() == tenth.tolist()
        assert (spoiled.argmax(1) != PUZZLE).nonzero()[0].tolist() == tenth.tolist()
        assert (logs.argmax(1) == PUZZLE).all()
        right[name] = [bool((m(decoder)(spoiled[None], name).boards == SOLUTION).all()) for m in (one_pass, jointly)]
    assert right["misread narrowly, 6 to 3"] == [False, True]


def test_photographs_of_one_puzzle_are_in_one_fold() -> None:
    puzzles = [np.full(81, n % 7, np.int8) for n in range(40)]
    fold = fold_of([TrueBoard(Path(f"{n}.jpg"), puzzle) for n, puzzle in enumerate(puzzles)], 3)
    for n in range(7):
        assert len({int(f) for f in fold[n::7]}) == 1
    assert set(fold.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="at most the number of puzzles, 7"):
        fold_of([TrueBoard(Path("x.jpg"), puzzle) for puzzle in puzzles], 8)
