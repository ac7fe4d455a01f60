"""The tab *Sudoku*: a photograph, a drawing or typed digits; what was read, the solution, and the search round by round."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demos.sudoku.boards import conflicts, parse_board
from demos.sudoku.photo.command import EXAMPLE, example_page, percent
from demos.sudoku.photo.decode import Answer
from demos.sudoku.photo.draw import draw_answer, upright
from demos.web import render
from demos.web.puzzle import SIDE, Evidence, Round, decoder, read_drawing, read_photograph, read_picture, watch_search

SURE = 0.95
"""What was read with less is marked."""
Cells = list[dict[str, str]]
"""What the board on the page shows: of each cell its digit, kind and note."""


# --- what was read --------------------------------------------------------------------------------------------


def cells_of(evidence: Evidence) -> Cells:
    """The board that the most probable readings make, doubtful cells marked."""
    p = np.exp(evidence)
    cells = []
    for index, row in enumerate(p):
        digit, sure = int(row.argmax()), float(row.max())
        doubt = sure < SURE
        second = int(np.argsort(-row)[1])
        note = f"read as {digit or 'blank'}, {percent(sure)} sure"
        if doubt:
            note += f"; or {second or 'blank'}, {row[second]:.0%}"
        cells.append(_cell(index, str(digit or ""), "doubt" if doubt else "given" if digit else "", note))
    return cells


def _cell(index: int, digit: str, kind: str, note: str) -> dict[str, str]:
    place = f"row {index // 9 + 1}, column {index % 9 + 1}: "
    return {"digit": digit, "kind": kind, "note": note, "place": place}


def blank_cells() -> Cells:
    """A board to type into."""
    return [_cell(index, "", "", "blank") for index in range(81)]


def typed_cells(text: str) -> Cells:
    """A board from 81 characters; blanks and line breaks between them do not count.

    Raises:
        ValueError: other characters, or another number of them.
    """
    board = parse_board("".join(text.split()))
    if len(board) != 81:
        raise ValueError(f"got {len(board)} cells, wanted the 81 of a 9x9 board")
    return [_cell(i, str(d or ""), "typed", "typed" if d else "blank") for i, d in enumerate(board.tolist())]


# --- solving --------------------------------------------------------------------------------------------------


def evidence_of(cells: Cells, read: Evidence | None) -> Evidence:
    """What a board says: certainty where somebody has typed, what was read elsewhere."""
    digits = np.array([int(cell["digit"] or 0) for cell in cells])
    certain = np.full((81, 10), np.log(1e-9))
    certain[np.arange(81), digits] = 0
    if read is None:
        return certain
    typed = np.array([cell["kind"] == "typed" for cell in cells])
    return np.where(typed[:, None], certain, read)


def clashes(cells: Cells) -> str:
    """Say where a digit that was typed stands twice in a row, column or box; empty if nowhere."""
    board = np.array([int(cell["digit"] or 0) for cell in cells], np.int8)
    if not conflicts(board):
        return ""
    for i in range(81):
        for j in range(i + 1, 81):
            (a, b), (c, d) = divmod(i, 9), divmod(j, 9)
            if board[i] and board[i] == board[j] and (a == c or b == d or (a // 3 == c // 3 and b // 3 == d // 3)):
                return f"{board[i]} stands in row {a + 1}, column {b + 1} and again in row {c + 1}, column {d + 1}"
    return ""


def solution_board(answer: Answer) -> str:
    """The solution: given digits black, those found blue, those read wrongly and put right red."""
    cells = []
    for digit, given, changed in zip(answer.board, answer.givens, answer.corrected, strict=True):
        kind = "wrong" if changed else "" if given else "solved"
        cells.append((str(digit), kind, "", "put right" if changed else ""))
    return render.still_board(cells, "the solution")


def verdict(answer: Answer, cells: Cells) -> str:
    """What came out, in words."""
    points = []
    for cell in answer.corrected.nonzero()[0]:
        seen, right = (str(board[cell] or "blank") for board in (answer.read, answer.givens))
        points.append(f"row {cell // 9 + 1}, column {cell % 9 + 1}: {right}, not {seen}, which the rules exclude")
    if answer.accepted:
        return render.message(f"Solved, {percent(answer.sure)} sure.", "good", points)
    reasons = [*answer.doubts, *([clash] if (clash := clashes(cells)) else [])]
    return render.message("No answer is accepted. The board shown is the best one.", "bad", [*reasons, *points])


# --- the search -----------------------------------------------------------------------------------------------


def heat_map(rounds: list[Round], number: int) -> str:
    """One round of the search: each cell its likeliest digit, the bluer the surer; what is fixed is bold."""
    if not rounds:
        return render.message("Solve a puzzle first; then the rounds of its search are here.")
    one = rounds[min(max(number, 1), len(rounds)) - 1]
    cells = []
    for p, given in zip(one.probabilities, one.given, strict=True):
        sure = float(p.max())
        style = render.shade(1.0 if given else sure) + ("" if given else "; font-weight: 400")
        cells.append((str(int(p.argmax()) + 1), "", style, "fixed" if given else f"{sure:.0%}"))
    board = render.still_board(cells, f"round {number} of {len(rounds)}")
    fixed = int(one.given.sum())
    return (
        board
        + f'<p class="legend">attempt {one.path}; {fixed} of 81 cells are fixed; white 0%, dark blue 100% sure</p>'
    )


# --- the tab --------------------------------------------------------------------------------------------------

_LEGEND = """<p class="legend"><span><i><b>5</b></i>given</span><span><i style="background:#fde68a">5</i>doubtful</span>\
<span><i style="color:#1d4ed8">5</i>found</span><span><i style="background:#fecaca;color:#991b1b">5</i>put right</span></p>"""


def _grid_picture() -> str:
    lines = "".join(
        f'<path d="M{60 * i} 0V540M0 {60 * i}H540" stroke="#0f172a" stroke-width="{3 if i % 3 == 0 else 1}"/>'
        for i in range(10)
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{SIDE}">{lines}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def add_tab() -> None:
    """Lay the tab out, inside of a page of Gradio's."""
    import gradio as gr

    pen = {"image": _grid_picture(), "width": SIDE, "height": SIDE, "look": "square", "alt": "an empty grid", "pen": 7,
           "colors": [{"name": "Pen", "color": "#0f172a"}], "start": "", "strokes": ""}  # fmt: skip
    evidence, photo, rounds = gr.State(None), gr.State(None), gr.State([])
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            with gr.Tabs():
                with gr.Tab("Photograph"):
                    upload = gr.File(
                        label="A photograph: JPEG, PNG, WebP or HEIC", type="filepath", height=160, elem_id="photo"
                    )
                    example = gr.Button("Use an example")
                    with gr.Accordion("Take one with the camera", open=False):
                        camera = gr.Image(sources=["webcam"], type="numpy", label="Camera")
                with gr.Tab("Draw"):
                    drawing = gr.HTML(pen, **render.widget("paint"), elem_id="drawing")
                    read = gr.Button("Read the drawing")
                with gr.Tab("Type"):
                    text = gr.Textbox(label="81 digits, row by row; 0 or . for a blank", lines=9, value=_rows(EXAMPLE))
                    take = gr.Button("Take these digits")
            status = gr.HTML(render.message("Give a puzzle, or type digits into the board. Arrow keys move."))
            picture = gr.Image(
                label="The solution in the photograph", visible=False, interactive=False, buttons=["download"]
            )
        with gr.Column(min_width=300):
            board = gr.HTML({"cells": blank_cells()}, **render.widget("board"), elem_id="board")
            with gr.Row():
                solve = gr.Button("Solve", variant="primary")
                clear = gr.Button("Clear the board")
            gr.HTML(_LEGEND)
            verdict_line = gr.HTML()
            answer = gr.HTML(elem_id="answer")
    with gr.Accordion("Watch the search", open=True):
        number = gr.Slider(1, 2, value=1, step=1, label="Round of the search", interactive=True)
        heat = gr.HTML(heat_map([], 1), elem_id="heat")

    def show(cells: Cells, found: Evidence | None, seen: Any, line: str) -> list[Any]:
        return [{"cells": cells}, found, seen, line]

    def from_picture(path: str | None, taken: NDArray[np.uint8] | None) -> list[Any]:
        if path is None and taken is None:
            return show(blank_cells(), None, None, render.message("No photograph."))
        try:
            seen = read_photograph(Path(path)) if path is not None else read_picture(np.asarray(taken)[..., :3])
        except ValueError as error:
            said = str(error) if path is None else str(error).replace(path, Path(path).name)
            return show(blank_cells(), None, None, render.message(f"{said}.", "bad"))
        found = seen[1].log_probabilities.astype(np.float64)
        digits, doubts = int((found.argmax(1) > 0).sum()), int((np.exp(found.max(1)) < SURE).sum())
        doubtful = {0: "no cell is", 1: "1 cell is"}.get(doubts, f"{doubts} cells are")
        line = f"{_read(digits)}; {doubtful} doubtful. Correct what is wrong, and solve again."
        return show(cells_of(found), found, seen, render.message(line))

    def from_drawing(value: dict[str, Any]) -> list[Any]:
        try:
            found = read_drawing(render.read_address(value["strokes"])[..., 3])
        except ValueError as error:
            return show(blank_cells(), None, None, render.message(f"{error}.".capitalize(), "bad"))
        return show(cells_of(found), found, None, render.message(f"{_read(int((found.argmax(1) > 0).sum()))}."))

    def from_text(value: str) -> list[Any]:
        try:
            return show(typed_cells(value), None, None, render.message("Taken."))
        except ValueError as error:
            return show(blank_cells(), None, None, render.message(f"{error}.".capitalize(), "bad"))

    def solved(value: dict[str, Any], found: Evidence | None, seen: Any) -> list[Any]:
        cells = value["cells"]
        if not any(cell["digit"] for cell in cells):
            return ["", "", gr.Image(visible=False), [], gr.Slider(maximum=2, value=1), heat_map([], 1)]
        result = decoder().decode(evidence_of(cells, found))
        steps, line = watch_search(result.givens)
        drawn = gr.Image(visible=False)
        if seen is not None and result.accepted:
            upright_picture, grid = upright(seen[0], seen[1].grid, seen[1].quarters)
            drawn = gr.Image(
                draw_answer(upright_picture, grid, result.board, result.givens, result.corrected), visible=True
            )
        said = verdict(result, cells) + render.message(line)
        return [
            said,
            solution_board(result),
            drawn,
            steps,
            gr.Slider(maximum=max(2, len(steps)), value=1),
            heat_map(steps, 1),
        ]

    taken = [board, evidence, photo, status]
    results = [verdict_line, answer, picture, rounds, number, heat]
    solving = {"fn": solved, "inputs": [board, evidence, photo], "outputs": results}
    upload.change(lambda path: from_picture(path, None), [upload], taken).then(**solving)
    camera.input(lambda image: from_picture(None, image), [camera], taken).then(**solving)
    example.click(lambda: from_picture(str(_example()), None), None, taken).then(**solving)
    read.click(from_drawing, [drawing], taken).then(**solving)
    take.click(from_text, [text], taken).then(**solving)
    clear.click(lambda: show(blank_cells(), None, None, render.message("Cleared.")), None, taken).then(**solving)
    solve.click(**solving)
    number.change(heat_map, [rounds, number], [heat], show_progress="hidden")


def _read(digits: int) -> str:
    return f"Read {digits} digit{'s' * (digits != 1)}"


def _rows(board: str) -> str:
    return "\n".join(board[i : i + 9] for i in range(0, 81, 9))


@cache
def _example() -> Path:
    """The photograph of a page that is drawn, of which a digit is half hidden by a blot."""
    path = Path(mkdtemp()) / "example.png"
    path.write_bytes(example_page())
    return path
