"""What stands behind the page: what each tab computes, without a browser and without Gradio."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from demos.sudoku.boards import obeys_rules, parse_board
from demos.sudoku.photo.command import EXAMPLE, example_page
from demos.vos.track import OBJECTS_NAME, OVERLAY_NAME
from demos.vos.video import Video
from demos.web import matching, puzzle, render, sudoku, tracking
from demos.web.__main__ import main


def drawn(board: np.ndarray) -> np.ndarray:
    """A grid into which digits are drawn with a round pen, a little off the middle of their cells."""
    ink = np.zeros((puzzle.SIDE, puzzle.SIDE), np.uint8)
    for cell in np.flatnonzero(board):
        row, column = divmod(int(cell), 9)
        place = 60 * column + 17 + cell % 3, 60 * row + 44 + cell % 4
        cv2.putText(ink, str(board[cell]), place, cv2.FONT_HERSHEY_SIMPLEX, 1.3, 255, 5, cv2.LINE_AA)
    return ink


def test_a_photograph_is_read_and_solved(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(example_page())
    _, reading = puzzle.read_photograph(path)
    evidence = reading.log_probabilities.astype(np.float64)
    cells = sudoku.cells_of(evidence)
    assert sum(cell["kind"] == "given" for cell in cells) > 20
    assert all("sure" in cell["note"] for cell in cells)
    answer = puzzle.decoder().decode(sudoku.evidence_of(cells, evidence))
    assert answer.accepted and np.array_equal(answer.givens, parse_board(EXAMPLE))
    assert "Solved" in sudoku.verdict(answer, cells)
    board = sudoku.solution_board(answer)
    assert board.count('class="solved"') == 51 and board.count('class="wrong"') == answer.corrected.sum()


def test_a_drawing_is_read() -> None:
    board = parse_board(EXAMPLE)
    evidence = puzzle.read_drawing(drawn(board))
    read = evidence.argmax(1)
    assert np.array_equal(read > 0, board > 0)
    assert (read == board)[board > 0].mean() > 0.85
    answer = puzzle.decoder().decode(evidence)
    assert answer.accepted and np.array_equal(answer.givens, board)
    assert not puzzle.read_drawing(np.zeros((puzzle.SIDE, puzzle.SIDE), np.uint8)).argmax(1).any()


def test_typed_digits_are_certain_and_overrule_what_was_read() -> None:
    cells = sudoku.typed_cells(sudoku._rows(EXAMPLE))
    answer = puzzle.decoder().decode(sudoku.evidence_of(cells, None))
    assert answer.accepted and obeys_rules(answer.board) and np.array_equal(answer.givens, parse_board(EXAMPLE))
    read = sudoku.evidence_of(sudoku.blank_cells(), None)
    assert sudoku.evidence_of(cells, read).argmax(1).tolist() == parse_board(EXAMPLE).tolist()
    cells[0]["kind"] = "given"
    assert sudoku.evidence_of(cells, read).argmax(1)[0] == 0
    with pytest.raises(ValueError, match="wanted 16"):
        sudoku.typed_cells("123")
    with pytest.raises(ValueError, match="got 16 cells"):
        sudoku.typed_cells("1" * 16)


def test_a_puzzle_that_contradicts_itself_is_said_to() -> None:
    cells = sudoku.blank_cells()
    for cell in (0, 8):
        cells[cell].update(digit="7", kind="typed")
    answer = puzzle.decoder().decode(sudoku.evidence_of(cells, None))
    said = sudoku.verdict(answer, cells)
    assert not answer.accepted and "7 stands in row 1, column 1 and again in row 1, column 9" in said
    assert sudoku.clashes(sudoku.typed_cells(EXAMPLE)) == ""


def test_the_search_is_watched() -> None:
    rounds, line = puzzle.watch_search(parse_board(EXAMPLE))
    assert "accepted" in line and rounds[0].given.sum() == 30 < rounds[-1].given.sum()
    first, last = (sudoku.heat_map(rounds, number) for number in (1, len(rounds)))
    assert first.count("fixed") - 1 == 30 and first != last
    assert "Solve a puzzle first" in sudoku.heat_map([], 1)


def test_matching_methods_and_gradients() -> None:
    value = matching.cost_rows(matching.START)
    cost = matching.costs_of(value)
    assert np.array_equal(cost, matching.START)
    found = matching.assignments(cost, 0.1, 0.05)
    exact = found["Exact"]
    assert set(np.unique(exact)) == {0.0, 1.0} and (exact.sum(1) == 1).all()
    for X in found.values():
        assert np.allclose(X.sum(1), 1, atol=1e-6) and (cost * X).sum() >= (cost * exact).sum() - 1e-6
    slopes = matching.gradients(cost, (0, 0), 0.1, 0.05)
    step = 1e-5
    for name in list(found)[1:3]:
        moved = cost.copy()
        moved[0, 0] += step
        difference = (matching.assignments(moved, 0.1, 0.05)[name] - found[name])[0, 0] / step
        assert slopes[name][0, 0] == pytest.approx(difference, abs=1e-3)
    shown = matching.show_gradients(cost, 0.1, 0.05, (0, 0))
    assert shown.count("<table>") == 4 == matching.show_assignments(cost, 0.1, 0.05, (0, 0)).count("<table>")


def test_painted_masks_and_boxes() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9, 3:12], labels[12:18, 15:28] = 1, 3
    strokes = tracking.strokes_of(labels)
    assert np.array_equal(tracking.labels_of(render.read_address(render.png_address(strokes)), (20, 30)), labels)
    assert np.array_equal(tracking.labels_of(strokes.repeat(2, 0).repeat(2, 1), (20, 30)), labels)
    with pytest.raises(ValueError, match="nothing has been painted"):
        tracking.labels_of(np.zeros((20, 30, 4), np.uint8), (20, 30))
    with pytest.raises(ValueError, match="nothing has been painted"):
        render.read_address("")
    assert tracking.boxes_of("1, 2, 3, 4\n\n5 6 7 8") == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(ValueError, match="got '1,2', wanted a box"):
        tracking.boxes_of("1,2")


def test_a_clip_is_tracked(tmp_path: Path) -> None:
    folder, labels = tracking.synthetic(2000003)
    video = Video(folder, most=3)
    run = tracking.run_of(video, labels, tmp_path)
    steps = list(run.steps())
    assert [t for t, _, _ in steps] == [0, 1, 2] and np.array_equal(steps[0][2], labels)
    table = tracking.table_of(tmp_path / OBJECTS_NAME)
    assert table.count("3 of 3") == 3 and (tmp_path / OVERLAY_NAME).stat().st_size > 0
    shown = tracking.canvas_of(video.first, labels)
    assert (shown["width"], shown["height"]) == (320, 192) and shown["start"].startswith("data:image/png")


def test_messages_cannot_hold_markup() -> None:
    assert render.message("<b>", "bad", ["<i>"]) == (
        '<div class="message bad" role="alert">&lt;b&gt;<ul><li>&lt;i&gt;</li></ul></div>'
    )


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "70000"]) == 2
    assert "--port: got 70000, wanted 0 to 65535" in capsys.readouterr().err
    assert main(["--threads", "0"]) == 2
    assert "--threads: got 0, wanted 1 or more" in capsys.readouterr().err
