"""Cells to learn from: digits of the fonts of this machine, printed, lit and photographed at random."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate

from demos.sudoku.photo.grid import FloatArray
from demos.sudoku.photo.reader import CELL, MARGIN

GLYPH = 40
"""A digit of a font is drawn 32 pixels high into 40 x 40."""
# Fonts whose digits are not those of a newspaper, or are none at all.
_UNLIKE = re.compile(
    r"symbol|dingbat|math|emoji|icon|music|stix(size|nonuni|int)|cmex|cmsy|cmmi|initials|d05|display|chancery|comic.*ital|"
    r"smallcap|-sc|libertine_[ik]|ostf|oblique$|smcp|keyb|outline|shadow|engraved|STIXSiz|STIXNon|barcode|ornament|noto(?!sans-|serif-)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Glyphs:
    """The digits of many fonts."""

    images: Tensor
    """Of shape (fonts, 9, GLYPH, GLYPH), in [0, 1]."""
    names: tuple[str, ...]


def load_glyphs() -> Glyphs:
    """Draw the digits of the fonts that matplotlib ships or finds on this machine; those that look the same count once."""
    from matplotlib import font_manager

    paths = {Path(p) for p in font_manager.findSystemFonts()}
    paths |= {Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    images, names, seen = [], [], set()
    for path in sorted(paths, key=lambda p: p.name):
        if _UNLIKE.search(path.stem):
            continue
        drawn = _draw(path)
        if drawn is None or (key := (drawn > 0.5).tobytes()) in seen:
            continue
        seen.add(key)
        images.append(drawn)
        names.append(path.name)
    if not images:
        raise ValueError("no fonts on this machine have digits that can be drawn")
    return Glyphs(torch.from_numpy(np.stack(images)), tuple(names))


def _draw(path: Path) -> FloatArray | None:
    """Draw the digits 1 to 9, or return None if this font has none of its own."""
    try:
        font = ImageFont.truetype(str(path), 64)
    except OSError:
        return None
    drawn = []
    heights = []
    for digit in "123456789":
        left, top, right, bottom = font.getbbox(digit)
        width, height = int(right - left), int(bottom - top)
        if width < 4 or height < 16 or width > 90 or height > 110:
            return None
        heights.append(height)
        picture = Image.new("L", (width + 2, height + 2))
        ImageDraw.Draw(picture).text((1 - left, 1 - top), digit, fill=255, font=font)
        wide = max(1, round(picture.width * 32 / picture.height))
        if wide > GLYPH:
            return None
        picture = picture.resize((wide, 32), Image.Resampling.BOX)
        canvas = Image.new("L", (GLYPH, GLYPH))
        canvas.paste(picture, ((GLYPH - wide) // 2, (GLYPH - 32) // 2))
        drawn.append(np.asarray(canvas, np.float32) / 255)
    if max(heights) > 1.15 * min(heights):  # old-style figures
        return None
    glyphs: FloatArray = np.stack(drawn)
    apart = np.abs(glyphs[:, None] - glyphs[None]).mean((2, 3)) + np.eye(9)
    if glyphs.mean((1, 2)).min() < 0.03 or apart.min() < 0.02:  # empty, or the box for what a font lacks
        return None
    return glyphs


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator) * (high - low) + low


def affine(images: Tensor, turn: Tensor, grow: Tensor, shear: Tensor, shift: Tensor, size: int) -> Tensor:
    """Turn (radians), enlarge (B, 2), shear and shift (B, 2; a unit is half the picture) images, (B, H, W)."""
    cos, sin = turn.cos(), turn.sin()
    forward = torch.stack([cos, -sin + shear * cos, sin, cos + shear * sin], 1).reshape(-1, 2, 2) * grow[:, None]
    back = torch.linalg.inv(forward)
    theta = torch.cat([back, -back @ shift[..., None]], 2)
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    points = torch.stack([*torch.meshgrid(axis, axis, indexing="xy"), torch.ones(size, size)], -1)
    grid = torch.einsum("bij,hwj->bhwi", theta, points)
    return grid_sample(images[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]


def render_cells(glyphs: Glyphs, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Print cells: a digit or nothing, the lines around it, and what newspapers have besides.

    Args:
        glyphs: The digits.
        labels: Of shape (B,), int64: 0 for a blank, or 1 to 9.
        generator: Where all that is random is drawn from.

    Returns:
        Of shape (B, CELL, CELL): 0 for paper and about 1 for ink.
    """
    count = len(labels)
    font = torch.randint(len(glyphs.images), (count,), generator=generator)
    images = glyphs.images[font, (labels - 1).clamp_min(0)]
    height = _uniform(generator, 0.38, 0.8, count, 1) / (1 + 2 * MARGIN) * GLYPH / 32
    # affine() takes the size of the picture to be that of the cell.
    stretch = _uniform(generator, 0.9, 1.1, count, 2) * torch.cat(
        [_uniform(generator, 0.72, 1.15, count, 1), torch.ones(count, 1)], 1
    )
    digit = affine(
        images,
        _uniform(generator, -0.06, 0.06, count),
        height * stretch,
        _uniform(generator, -0.1, 0.1, count),
        _uniform(generator, -0.14, 0.14, count, 2),
        CELL,
    )
    digit = digit * _uniform(generator, 0.45, 1.1, count, 1, 1) * (labels > 0)[:, None, None]
    page = _lines(count, generator)
    tint = _uniform(generator, 0, 0.35, count, 1, 1) * (_uniform(generator, 0, 1, count, 1, 1) < 0.1)
    page = torch.maximum(page, tint + _dirt(glyphs, count, generator))
    return torch.maximum(page, digit)


def _lines(count: int, generator: torch.Generator) -> Tensor:
    """Draw the four lines around each cell, thick or thin."""
    axis = torch.arange(CELL) + 0.5
    page = torch.zeros(count, CELL, CELL)
    edge = MARGIN / (1 + 2 * MARGIN) * CELL
    for side in range(4):
        middle = edge if side % 2 == 0 else CELL - edge
        place = middle + torch.randn(count, 1, 1, generator=generator)
        slope = 0.015 * torch.randn(count, 1, 1, generator=generator)
        half = _uniform(generator, 0.2, 1.6, count, 1, 1)
        across, along = (axis[None, None, :], axis[None, :, None])[:: 1 if side < 2 else -1]
        distance = (across - place - slope * (along - CELL / 2)).abs()
        line = ((half - distance) + 0.5).clamp(0, 1) * _uniform(generator, 0.2, 1.1, count, 1, 1)
        line = line * (_uniform(generator, 0, 1, count, 1, 1) < 0.97)
        page = torch.maximum(page, line)
    return page


def _dirt(glyphs: Glyphs, count: int, generator: torch.Generator) -> Tensor:
    """Print what shines through from behind, hatching, and clouds; most of it faint."""
    font = torch.randint(len(glyphs.images), (count,), generator=generator)
    number = torch.randint(9, (count,), generator=generator)
    behind = affine(
        glyphs.images[font, number].flip(2),
        _uniform(generator, -math.pi, math.pi, count),
        _uniform(generator, 0.3, 1.5, count, 2),
        torch.zeros(count),
        _uniform(generator, -1, 1, count, 2),
        CELL,
    )
    dirt = behind * _uniform(generator, -0.15, 0.2, count, 1, 1).clamp_min(0)
    angle, length = _uniform(generator, 0, math.pi, count, 1, 1), _uniform(generator, 3, 8, count, 1, 1)
    axis = torch.arange(CELL) + 0.5
    wave = (2 * math.pi * (axis[:, None] * angle.cos() + axis * angle.sin()) / length).cos() * 0.5 + 0.5
    hatched = _uniform(generator, 0, 1, count, 1, 1) < 0.06
    dirt = dirt + wave * hatched * _uniform(generator, 0, 0.4, count, 1, 1)
    cloud = interpolate(torch.randn(count, 1, 5, 5, generator=generator), CELL, mode="bicubic", align_corners=False)[
        :, 0
    ]
    return (dirt + cloud * _uniform(generator, 0, 0.06, count, 1, 1)).clamp_min(0)


def photograph_cells(cells: Tensor, generator: torch.Generator) -> Tensor:
    """Vary cells, (B, CELL, CELL), printed or cut from a photograph: moved, blurred, lighter or darker, noisy."""
    count = len(cells)
    cells = affine(
        cells,
        _uniform(generator, -0.08, 0.08, count),
        _uniform(generator, 0.88, 1.12, count, 2),
        _uniform(generator, -0.06, 0.06, count),
        _uniform(generator, -0.1, 0.1, count, 2),
        CELL,
    )
    reach = torch.arange(-4.0, 5.0)
    for axis in (2, 3):
        width = _uniform(generator, -0.4, 2.0, count, 1).clamp_min(0.2)
        kernel = (-0.5 * (reach / width) ** 2).exp()
        kernel = kernel / kernel.sum(1, keepdim=True)
        shape = (count, 1, 9, 1) if axis == 2 else (count, 1, 1, 9)
        padding = (4, 0) if axis == 2 else (0, 4)
        cells = conv2d(cells[None], kernel.view(shape), padding=padding, groups=count)[0]
    cells = cells.clamp_min(0) ** _uniform(generator, 0.8, 1.25, count, 1, 1)
    cells = cells * _uniform(generator, 0.7, 1.4, count, 1, 1)
    noise = torch.randn(cells.shape, generator=generator) * _uniform(generator, 0, 0.06, count, 1, 1)
    # Dark photographs have coarse noise, the darker the more.
    coarse = torch.randn(count, 1, CELL // 2, CELL // 2, generator=generator)
    coarse = interpolate(coarse, CELL, mode="bilinear", align_corners=False)[:, 0]
    coarse = coarse * _uniform(generator, -0.8, 0.25, count, 1, 1).clamp_min(0)
    return (cells + noise + coarse).clamp(0, 1.5)
