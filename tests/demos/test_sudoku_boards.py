"""The rules, and boards as text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from demos.sudoku.boards import (
    Boards,
    conflicts,
    format_board,
    format_line,
    obeys_rules,
    parse_board,
    side_by_side,
    unit_indices,
)

SOLVED_9 = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
SOLVED_4 = "1234341221434321"


def test_units_of_a_4x4_board() -> None:
    units = {tuple(unit) for unit in unit_indices(2).tolist()}
    assert units == {
        *[(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)],
        *[(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)],
        *[(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)],
    }


@pytest.mark.parametrize("text", [SOLVED_4, SOLVED_9])
def test_rules(text: str) -> None:
    board = parse_board(text)
    assert obeys_rules(board)
    assert not conflicts(board)
    for cell in range(len(board)):
        blank, wrong = board.copy(), board.copy()
        blank[cell] = 0
        wrong[cell] = board[cell] % board.max() + 1
        assert not obeys_rules(blank)
        assert not conflicts(blank)
        assert not obeys_rules(wrong)
        assert conflicts(wrong)
    assert obeys_rules(np.stack([board, blank, wrong])).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("broken", "text"),
    [("rows", "1313242431314242"), ("columns", "1234341212343412"), ("boxes", "1234234134124123")],
)
def test_each_kind_of_unit_counts(broken: str, text: str) -> None:
    """Only one kind of unit is broken; the other two hold."""
    board = parse_board(text)
    assert not obeys_rules(board), broken
    assert conflicts(board), broken


def test_parse_and_format_round_trip() -> None:
    text = SOLVED_9.replace("5", "0")
    board = parse_board(f" {text}\n")
    assert board.dtype == np.int8
    assert format_line(board) == text
    assert (parse_board(text.replace("0", ".")) == board).all()


def test_digits_of_16x16_boards() -> None:
    text = "123456789ABCDEFG" * 15 + "0g" + "." * 14
    board = parse_board(text)
    assert board[:16].tolist() == list(range(1, 17)) and board[-16:].tolist() == [0, 16] + 14 * [0]
    assert format_line(board) == text.replace("g", "G").replace(".", "0")
    assert format_board(board).splitlines()[0] == " 1 2 3 4 | 5 6 7 8 | 9 A B C | D E F G"
    with pytest.raises(ValueError, match=r"character 'H' at position 1 of .* wanted 1 to G, or 0"):
        parse_board("H" * 256)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("123", "3 characters in '123': wanted 16 (4x4), 81 (9x9) or 256 (16x16)"),
        ("1" * 80, "80 characters"),
        ("123434122143432x", "character 'x' at position 16"),
        (
            "5234341221434321",
            "character '5' at position 1 of '5234341221434321': wanted 1 to 4, or 0 or one of ._-*? for a blank",
        ),
        ("/234341221434321", "character '/' at position 1"),
        ("\N{SUPERSCRIPT TWO}234341221434321", "at position 1"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_board(text)


def test_drawing() -> None:
    board = parse_board(SOLVED_4)
    puzzle = parse_board("1234..1221434321")
    drawn = [" 1 2 | 3 4", " . . | 1 2", "-----+-----", " 2 1 | 4 3", " 4 3 | 2 1"]
    assert format_board(puzzle).splitlines() == drawn
    completed = format_board(board, puzzle).splitlines()
    assert completed[1] == "'3'4 | 1 2"
    assert completed[0] == drawn[0]
    colored = format_board(board, puzzle, color=True)
    assert colored.count("\x1b[1;32m") == 2
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == format_board(board)
    together = side_by_side(format_board(puzzle), colored, ("left", "right")).splitlines()
    assert len(together) == 6
    assert together[0].split() == ["left", "right"]
    assert together[1].count("3") == 2


def test_drawing_of_a_9x9_board() -> None:
    lines = format_board(parse_board(SOLVED_9)).splitlines()
    assert len(lines) == 11
    assert lines[0] == " 5 3 4 | 6 7 8 | 9 1 2"
    assert lines[3] == "-------+-------+-------"


def test_boards() -> None:
    solutions = np.stack([parse_board(SOLVED_4)] * 3)
    puzzles = solutions.copy()
    puzzles[0, :5] = 0
    boards = Boards(puzzles, solutions)
    assert len(boards) == 3
    assert boards.box == 2
    assert boards.givens.tolist() == [11, 16, 16]
    assert boards[:1].givens.tolist() == [11]
    with pytest.raises(ValueError, match="shape"):
        Boards(puzzles[:2], solutions)
