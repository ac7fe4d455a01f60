"""The page in a real browser: each tab's main path, wrong input, a narrow window; nothing is asked for elsewhere.

With PICTURES=DIR in the environment, pictures of the tabs are written there; those of the documentation are made so.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demos.vos.pictures import write_video
from demos.vos.synthetic import SyntheticClip

pytestmark = pytest.mark.browser


def shot(page: Any, name: str) -> None:
    """A picture for the documentation, if one is wanted."""
    if folder := os.environ.get("PICTURES"):
        page.wait_for_timeout(1500)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        picture.quantize(256).save(Path(folder) / f"{name}.png", optimize=True)


def tab(page: Any, name: str) -> None:
    page.wait_for_timeout(1000)  # in a narrow window, tabs that do not fit move into a menu
    shown = page.get_by_role("tab", name=name, exact=True)
    if not shown.is_visible():
        page.locator(".overflow-menu:not(.hide) > button").click()
        shown = page.locator(".overflow-dropdown").get_by_text(name, exact=True).locator("visible=true")
    shown.click()


def button(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def digits(page: Any) -> list[str]:
    return [page.locator("#board input").nth(i).input_value() for i in range(81)]


def wait_for_text(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def drag(page: Any, selector: str, points: list[tuple[float, float]]) -> None:
    """Draw with the mouse; points in [0, 1]."""
    canvas = page.locator(f"{selector} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def test_an_example_is_solved_corrected_and_watched(open_page: Any) -> None:
    page = open_page()
    button(page, "Use an example")
    wait_for_text(page, "Solved")
    assert page.locator("#answer .board > *").count() == 81
    assert digits(page)[:5] == ["5", "3", "", "", "7"]
    before = page.locator("#heat .board").inner_html()
    slider = page.get_by_label("number input for Round of the search")
    slider.fill("4")
    slider.press("Enter")
    page.wait_for_function("before => document.querySelector('#heat .board').innerHTML !== before", arg=before)
    shot(page, "web-sudoku")
    page.locator("#board input").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.type("5")
    assert digits(page)[2] == "5"
    button(page, "Solve")
    wait_for_text(page, "row 1, column 3: blank, not 5, which the rules exclude")


def test_a_digit_drawn_with_the_mouse(open_page: Any) -> None:
    page = open_page()
    tab(page, "Draw")
    u, v = 4.5 / 9, 4.5 / 9
    drag(page, "#drawing", [(u, v - 0.035), (u, v + 0.035)])
    button(page, "Read the drawing")
    wait_for_text(page, "Read 1 digit.")
    assert digits(page) == [""] * 40 + ["1"] + [""] * 40
    button(page, "Clear the board")
    wait_for_text(page, "Cleared")
    assert digits(page) == [""] * 81


def test_typed_digits_and_wrong_input(open_page: Any, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "puzzle.txt").write_text("no picture")
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(tmp_path / "empty.png")
    upload = page.locator("#photo input[type=file]")
    upload.set_input_files(tmp_path / "puzzle.txt")
    wait_for_text(page, "puzzle.txt: not a picture that can be read.")
    page.locator("#photo [aria-label=Clear]").click()
    upload.set_input_files(tmp_path / "empty.png")
    page.locator(".message.bad").filter(has_text="grid").wait_for()
    tab(page, "Type")
    page.get_by_label("81 digits").fill("12")
    button(page, "Take these digits")
    wait_for_text(page, "2 characters in '12'")
    assert page.locator(".toast-body").count() == 0


def test_matching_follows_its_costs(open_page: Any) -> None:
    page = open_page()
    tab(page, "Matching")
    page.locator("#assignments table").first.wait_for()
    assert page.locator("#assignments table").count() == 4 == page.locator("#gradients table").count()
    shot(page, "web-matching")
    exact = page.locator("#assignments table").nth(3)
    assert exact.locator("td").nth(0).inner_text() == "1.00"
    slider = page.get_by_label("cost of template 1 and proposal 1")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('#assignments table')[3].querySelector('td').innerText === '0'")
    page.get_by_label("The entry whose gradient is shown").click()
    page.get_by_role("option", name="template 2, proposal 3").click()
    page.wait_for_function("document.querySelectorAll('#gradients td')[6].classList.contains('entry')")


def test_a_clip_is_painted_and_tracked(open_page: Any) -> None:
    page = open_page()
    tab(page, "Tracking")
    button(page, "Track")
    wait_for_text(page, "Nothing has been painted")
    drag(page, "#canvas", [(0.08, 0.55), (0.17, 0.62)])
    page.get_by_text("Boxes instead of paint, and how many frames").click()
    frames = page.get_by_label("number input for Frames, at most")
    frames.fill("4")
    frames.press("Enter")
    button(page, "Track")
    page.locator("#objects table").wait_for()
    assert "of 4" in page.locator("#objects").inner_text()
    page.locator("video").wait_for()
    assert page.locator("#live img").count() == 1
    boxes = page.get_by_label("Boxes in pixels")
    boxes.fill("1, 2, 3")
    button(page, "Track")
    wait_for_text(page, "wanted a box")


def test_a_video_of_ones_own_and_a_wrong_one(open_page: Any, tmp_path: Path) -> None:
    page = open_page()
    tab(page, "Tracking")
    clip = SyntheticClip(3)
    write_video(tmp_path / "clip.mp4", [clip.frame(t) for t in range(3)])
    (tmp_path / "wrong.mp4").write_text("no video")
    upload = page.locator("#video input[type=file]")
    upload.set_input_files(tmp_path / "wrong.mp4")
    wait_for_text(page, "wrong.mp4: cannot be read as a video")
    page.locator("#video [aria-label=Clear]").click()
    upload.set_input_files(tmp_path / "clip.mp4")
    wait_for_text(page, "Paint the objects, and track them.")
    button(page, "Use the true masks")
    wait_for_text(page, "The true masks of a video of your own are not known")
    drag(page, "#canvas", [(0.4, 0.5), (0.5, 0.5)])
    button(page, "Track")
    page.locator("#objects table").wait_for()
    assert "of 3" in page.locator("#objects").inner_text() and page.locator(".toast-body").count() == 0


@pytest.mark.parametrize("name", ["Sudoku", "Matching", "Tracking"])
def test_a_narrow_window_does_not_scroll_sideways(open_page: Any, name: str) -> None:
    page = open_page(360)
    tab(page, name)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.body.scrollWidth <= window.innerWidth")
    if name == "Sudoku":
        shot(page, "web-narrow")


def test_tracking_for_the_gallery(open_page: Any) -> None:
    page = open_page()
    tab(page, "Tracking")
    button(page, "Use the true masks")
    wait_for_text(page, "These are the true masks.")
    button(page, "Track")
    page.locator("#objects table").wait_for()
    assert "of 24" in page.locator("#objects").inner_text()
    page.locator("video").wait_for()
    shot(page, "web-tracking")
