"""Pieces of the page as HTML: messages, boards, matrices, and the templates of what can be typed, dragged and painted on."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent


def widget(name: str) -> dict[str, str]:
    """What `gr.HTML` needs for a widget of this folder: its template and its JavaScript."""
    template, code = ((HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    return {"html_template": template, "js_on_load": code}


def message(text: str, kind: str = "", points: Sequence[str] = ()) -> str:
    """A line about what came out, `kind` good, bad or nothing, with a list below it."""
    listed = "".join(f"<li>{html.escape(point)}</li>" for point in points)
    role = "alert" if kind == "bad" else "status"
    return (
        f'<div class="message {kind}" role="{role}">{html.escape(text)}{f"<ul>{listed}</ul>" if listed else ""}</div>'
    )


def still_board(cells: Sequence[tuple[str, str, str, str]], label: str) -> str:
    """A board that cannot be changed: of each cell the text, its class, its style and its note."""
    shown = "".join(
        f'<div class="{kind}" style="{style}" title="{html.escape(note)}">{text}</div>'
        for text, kind, style, note in cells
    )
    return f'<div class="board" role="img" aria-label="{html.escape(label)}">{shown}</div>'


def shade(share: float) -> str:
    """White to blue, as the style of a cell."""
    share = min(1.0, max(0.0, share))
    red, green, blue = (round(255 + share * (dark - 255)) for dark in (30, 90, 200))
    return f"background: rgb({red}, {green}, {blue}); color: {'#fff' if share > 0.6 else '#0f172a'}"


def diverging(share: float) -> str:
    """Blue for -1, white for 0, orange for 1, as the style of a cell."""
    dark = (194, 65, 12) if share > 0 else (29, 78, 216)
    size = min(1.0, abs(share))
    red, green, blue = (round(255 + size * (d - 255)) for d in dark)
    return f"background: rgb({red}, {green}, {blue}); color: {'#fff' if size > 0.6 else '#0f172a'}"


def matrix(
    values: NDArray[np.float64],
    title: str,
    style: Callable[[float], str],
    *,
    note: str = "",
    entry: tuple[int, int] | None = None,
) -> str:
    """A matrix as a table, each number in its shade."""
    rows = []
    for i, row in enumerate(values):
        cells = "".join(
            f'<td style="{style(float(x))}"{" class=entry" if (i, j) == entry else ""}>{_number(float(x))}</td>'
            for j, x in enumerate(row)
        )
        rows.append(f"<tr>{cells}</tr>")
    below = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f'<div class="matrix"><table><caption>{html.escape(title)}</caption>{"".join(rows)}</table>{below}</div>'


def _number(x: float) -> str:
    return "0" if abs(x) < 5e-3 else f"{x:.2f}"


def png_address(picture: NDArray[np.uint8]) -> str:
    """A picture, (H, W, 3) or (H, W, 4), as an address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_address(address: str) -> NDArray[np.uint8]:
    """The picture, (H, W, 4), in such an address.

    Raises:
        ValueError: there is none in it.
    """
    start = "data:image/png;base64,"
    if not address.startswith(start):
        raise ValueError("nothing has been painted")
    with Image.open(io.BytesIO(base64.b64decode(address.removeprefix(start)))) as picture:
        return np.asarray(picture.convert("RGBA"))
