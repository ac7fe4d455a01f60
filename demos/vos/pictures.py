"""What came out, to look at: frames under coloured masks, a contact sheet, a video."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from demos.files import written_beside
from demos.vos.images import Frame, Labels

COLORS = np.array(
    [(230, 60, 60), (60, 160, 250), (250, 200, 40), (70, 200, 110), (200, 90, 220), (250, 140, 40), (60, 210, 210)],
    dtype=np.float64,
)
"""Of objects 1, 2, ..., over and over."""


def overlay(frame: Frame, labels: Labels, *, opacity: float = 0.5) -> Frame:
    """A frame with its objects tinted and outlined in white, uint8 (H, W, 3)."""
    picture = frame.astype(np.float64)
    for label in np.unique(labels):
        if label not in (0, 255):
            mask = labels == label
            color = COLORS[(int(label) - 1) % len(COLORS)]
            picture[mask] = (1 - opacity) * picture[mask] + opacity * color
            picture[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 255
    return picture.round().astype(np.uint8)


def contact_sheet_png(
    frames: Sequence[Frame],
    results: Mapping[str, Sequence[Labels]],
    *,
    times: Sequence[int],
    names: Sequence[int] | None = None,
    title: str = "",
) -> bytes:
    """A PNG: a row for each result, a column for each of the times; objects are tinted, see `overlay`.

    `names` are the numbers of these frames that are shown; the times if None.
    """
    height, width = frames[0].shape[:2]
    wide = 2.1
    size = wide * len(times) + 0.3, (wide * height / width + 0.06) * len(results) + 0.7
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(results), len(times), squeeze=False)
    for row, (name, labels) in zip(panels, results.items(), strict=True):
        for axes, t in zip(row, times, strict=True):
            axes.imshow(overlay(frames[t], labels[t]), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=9)
    for axes, t in zip(panels[0], times if names is None else names, strict=True):
        axes.set_title(f"frame {t}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    # Without the version of matplotlib, which would change the file for nothing.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def side_by_side(
    frames: Sequence[Frame], results: Mapping[str, Sequence[Labels]], *, columns: int = 2
) -> Iterator[Frame]:
    """Frames of a video: the results in a grid, each under its name."""
    height, width = frames[0].shape[:2]
    scale = max(1, round(320 / width))
    bar = 16
    rows = -(-len(results) // columns)
    for t, frame in enumerate(frames):
        canvas = Image.new("RGB", (columns * width * scale, rows * (height * scale + bar)), (24, 24, 24))
        draw = ImageDraw.Draw(canvas)
        for place, (name, labels) in enumerate(results.items()):
            x, y = place % columns * width * scale, place // columns * (height * scale + bar)
            tile = Image.fromarray(overlay(frame, labels[t]))
            canvas.paste(tile.resize((width * scale, height * scale), Image.Resampling.NEAREST), (x, y + bar))
            draw.text((x + 4, y + 2), name, fill=(240, 240, 240))
        yield np.asarray(canvas)


def write_video(path: Path, frames: Iterator[Frame] | Sequence[NDArray[np.uint8]], *, fps: float = 8.0) -> None:
    """Write an mp4 (H.264). Odd widths and heights lose their last column or row, as the format wants them even.

    Raises:
        ValueError: no frames; a suffix other than ``.mp4``.
    """
    import imageio.v2 as imageio
    import imageio_ffmpeg

    if path.suffix != ".mp4":
        raise ValueError(f"path must end in .mp4; got {path}")
    written = 0
    with written_beside(path) as temporary:
        writer: Any = imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=None)
        with _ffmpeg_errors(path), writer:
            for frame in frames:
                writer.append_data(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
                written += 1
        if not written:
            raise ValueError("frames must have one at least; got none")
        # The encoder is another process, which does not tell us of a full disk.
        with _ffmpeg_errors(path):
            found, _ = imageio_ffmpeg.count_frames_and_secs(str(temporary))
            if found != written:
                raise RuntimeError(f"{found} of {written} frames")


@contextmanager
def _ffmpeg_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise OSError(
            errno.EIO, f"the encoder did not write all of it (is the disk full?): {cause[0]}", str(path)
        ) from error
