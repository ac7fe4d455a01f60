"""A photograph of a newspaper that was never printed: a page with a puzzle, drawn, bent, tilted, lit and blurred."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demos.sudoku.boards import Int8Array
from demos.sudoku.photo.grid import FloatArray, UInt8Array

_WIDTH, _HEIGHT = 900, 1200
_LEFT, _TOP, _CELL = 190, 260, 60
_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_WORDS = (
    "weather",
    "market",
    "council",
    "bridge",
    "sunday",
    "river",
    "letter",
    "price",
    "garden",
    "report",
    "winter",
    "tram",
)


@dataclass(frozen=True)
class Camera:
    """How the page is photographed."""

    turn: float = 0.0
    """Degrees, clockwise."""
    tilt: float = 0.0
    """By how much the far side of the page is shorter than the near one, as a share."""
    bend: float = 0.0
    """By how many pixels the middle of the page is higher than its edges."""
    blur: float = 0.7
    """Standard deviation in pixels."""
    shade: float = 0.0
    """By how much the darkest corner is darker than the lightest one, as a share."""
    noise: float = 2.0
    """Standard deviation in grey levels of 255."""
    size: tuple[int, int] = (960, 1280)
    """Width and height of the photograph."""


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONTS / f"{name}.ttf"), size)


def print_page(
    givens: Int8Array,
    generator: np.random.Generator,
    *,
    font: str = "DejaVuSans",
    ink: tuple[int, int, int] = (30, 30, 34),
    blot: int | None = None,
) -> UInt8Array:
    """Print a page: a headline, columns of text, the puzzle, and a smaller grid below it; on a cell there may be a blot."""
    page = Image.new("RGB", (_WIDTH, _HEIGHT), (232, 228, 216))
    draw = ImageDraw.Draw(page)
    body, black = _font("DejaVuSerif", 17), (40, 40, 44)
    draw.text((60, 40), "Sudoku", fill=black, font=_font("DejaVuSerif-Bold", 60))
    for top, bottom, left, right in ((130, 235, 60, 840), (260, 800, 20, 170), (830, 1180, 60, 560)):
        for y in range(top, bottom, 24):
            line = ""
            while body.getlength(line + _WORDS[word := int(generator.integers(len(_WORDS)))]) < right - left:
                line += _WORDS[word] + " "
            draw.text((left, y), line, fill=black, font=body)
    for left, top, cell, size in ((_LEFT, _TOP, _CELL, 9), (600, 860, 26, 9)):
        for i in range(size + 1):
            width = max(1, cell // (14 if i % 3 == 0 else 40))
            a, b = i * cell, size * cell
            draw.line((left + a, top, left + a, top + b), fill=black, width=width)
            draw.line((left, top + a, left + b, top + a), fill=black, width=width)
    digits = _font(font, 36)
    for cell, digit in enumerate(givens.tolist()):
        if digit:
            row, column = divmod(cell, 9)
            middle = (_LEFT + (column + 0.5) * _CELL, _TOP + (row + 0.5) * _CELL)
            draw.text(middle, str(digit), fill=ink, font=digits, anchor="mm")
    if blot is not None:
        row, column = divmod(blot, 9)
        corner_x, corner_y = _LEFT + (column + 0.3) * _CELL, _TOP + (row + 0.46) * _CELL
        draw.ellipse((corner_x, corner_y, corner_x + 22, corner_y + 22), fill=ink)
    return np.asarray(page)


def photograph_page(page: UInt8Array, camera: Camera, generator: np.random.Generator) -> tuple[UInt8Array, FloatArray]:
    """Photograph a page.

    Returns:
        The photograph, (height, width, 3), and the corners of the grid in it, (4, 2), clockwise from its top left.
    """
    width, height = camera.size
    corners = np.array([[0, 0], [_WIDTH, 0], [_WIDTH, _HEIGHT], [0, _HEIGHT]], np.float32)
    middle = np.array([_WIDTH / 2, _HEIGHT / 2])
    seen = corners - middle
    seen[:2, 0] *= 1 - camera.tilt
    seen[:2, 1] *= 1 - camera.tilt / 2
    angle = np.deg2rad(camera.turn)
    seen = seen @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = 0.95 * min(width, height) / min(_WIDTH, _HEIGHT)
    seen = seen * scale + np.array([width / 2, height / 2])
    if scale < 1:  # a pixel of the photograph covers several of the page
        page = np.asarray(cv2.GaussianBlur(page, (0, 0), 0.4 / scale), np.uint8)
    to_photograph = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    p, q, w = np.tensordot(np.linalg.inv(to_photograph), np.stack([x, y, np.ones_like(x)]), 1)
    p, q = p / w, q / w
    q = q + camera.bend * np.sin(np.pi * p / _WIDTH)
    table = (70, 60, 52)
    photograph = cv2.remap(
        page,
        p.astype(np.float32),
        q.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=table,
    ).astype(np.float32)
    photograph *= 1 - camera.shade * (x / width + y / height)[..., None] / 2
    if camera.blur > 0:
        photograph = cv2.GaussianBlur(photograph, (0, 0), camera.blur)
    photograph = photograph + camera.noise * generator.standard_normal(photograph.shape)
    grid = np.array([[0, 0], [9, 0], [9, 9], [0, 9]]) * _CELL + np.array([_LEFT, _TOP])
    grid = np.stack([grid[:, 0], grid[:, 1] - camera.bend * np.sin(np.pi * grid[:, 0] / _WIDTH), np.ones(4)])
    place = to_photograph @ grid
    return photograph.clip(0, 255).astype(np.uint8), (place[:2] / place[2]).T.astype(np.float32)
