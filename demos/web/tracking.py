"""The tab *Tracking*: a clip, the objects of its first frame, and the overlay as they are followed."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demos.vos.checkpoint import load_trained
from demos.vos.given import masks_from_boxes
from demos.vos.images import Frame, Labels
from demos.vos.model import Features, Matching
from demos.vos.pictures import COLORS, overlay
from demos.vos.proposals.embedded import EmbeddedProposals
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from demos.vos.track import OBJECTS_NAME, OVERLAY_NAME, TrackRun, summary
from demos.vos.video import Video
from demos.web import render

CLIPS = {f"Synthetic clip {i + 1}": seed for i, seed in enumerate((2000003, 2000004, 2000006, 2000009))}
OBJECTS = 3
"""Pens, and objects of a synthetic clip."""
MOST = 300
"""Frames, at most."""
_LONGER = 960
"""The first frame is shown with so many pixels on the longer side, or fewer; what is painted is scaled back."""
_FOLDER = TemporaryDirectory(prefix="difflayers-")
"""Of the synthetic clips; gone when the page ends."""


@cache
def synthetic(seed: int) -> tuple[Path, Labels]:
    """A synthetic clip: the folder of its frames, and the labels of the first."""
    clip = SyntheticClip(seed, SyntheticConfig(height=192, width=320, objects=OBJECTS))
    folder = Path(_FOLDER.name) / clip.name
    folder.mkdir()
    for t in range(len(clip)):
        Image.fromarray(clip.frame(t)).save(folder / f"{t:05d}.png")
    return folder, clip.labels(0)


def strokes_of(labels: Labels) -> NDArray[np.uint8]:
    """Labels as if they had been painted, (H, W, 4)."""
    picture = np.zeros((*labels.shape, 4), np.uint8)
    for label in map(int, np.unique(labels[labels > 0])):
        picture[labels == label] = (*COLORS[(label - 1) % len(COLORS)], 255)
    return picture


def labels_of(strokes: NDArray[np.uint8], size: tuple[int, int]) -> Labels:
    """What was painted, (h, w, 4), as labels of the size (H, W): of each pixel the pen whose colour is nearest.

    Raises:
        ValueError: nothing has been painted.
    """
    if strokes.shape[:2] != size:
        strokes = np.asarray(Image.fromarray(strokes).resize((size[1], size[0]), Image.Resampling.NEAREST))
    distance = np.square(strokes[..., None, :3].astype(np.float64) - COLORS[:OBJECTS]).sum(-1)
    labels = np.where(strokes[..., 3] > 127, distance.argmin(-1) + 1, 0).astype(np.uint8)
    if not labels.any():
        raise ValueError("nothing has been painted: paint an object, or give a box")
    return labels


def boxes_of(text: str) -> list[list[int]]:
    """Boxes x, y, width, height, one a line.

    Raises:
        ValueError: something else.
    """
    boxes = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            box = [int(part) for part in line.replace(",", " ").split()]
        except ValueError:
            box = []
        if len(box) != 4:
            raise ValueError(f"got {line.strip()!r}, wanted a box: four whole numbers x, y, width, height")
        boxes.append(box)
    return boxes


@cache
def _network() -> tuple[Features, Matching]:
    """The features that come with the demo, and the DMM layer with the threshold that their training has chosen."""
    trained = load_trained()
    return trained.features, trained.matching("dmm")


def run_of(video: Video, first: Labels, output: Path) -> TrackRun:
    """The run of `demos.vos track` with its defaults; what comes out is in `output`."""
    proposals = EmbeddedProposals(top=30)
    return TrackRun(video, first, *_network(), proposals.regions, proposals.follower(), output)


def table_of(path: Path) -> str:
    """What became of each object, as a table."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for label in sorted({int(row["object"]) for row in rows}):
        own = [row for row in rows if int(row["object"]) == label]
        seen = [row for row in own if row["seen"] == "1"]
        lost = [row["frame"] for row in own if row["seen"] == "0"]
        color = "rgb({:.0f}, {:.0f}, {:.0f})".format(*COLORS[(label - 1) % len(COLORS)])
        cells = (f'<td><b style="color:{color}">●</b> {label}</td>', f"<td>{len(seen)} of {len(own)}</td>",
                 f"<td>{own[0]['pixels']}</td>", f"<td>{seen[-1]['pixels'] if seen else 0}</td>",
                 f"<td>{html.escape(', '.join(lost[:8]) + (' ...' if len(lost) > 8 else '')) or 'none'}</td>")  # fmt: skip
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("object", "seen in frames", "pixels at first", "at last", "not seen in")
    )
    return f'<div class="matrix"><table><caption>Objects</caption><tr>{head}</tr>{"".join(lines)}</table></div>'


def canvas_of(frame: Frame, labels: Labels | None = None) -> dict[str, Any]:
    """What the page paints on: a first frame, and labels to begin with."""
    shrink = min(1.0, _LONGER / max(frame.shape[:2]))
    size = round(frame.shape[1] * shrink), round(frame.shape[0] * shrink)
    shown = np.asarray(Image.fromarray(frame).resize(size))
    start = "" if labels is None else render.png_address(strokes_of(labels))
    pens = ["rgb({:.0f}, {:.0f}, {:.0f})".format(*COLORS[i]) for i in range(OBJECTS)]
    return {
        "image": render.png_address(shown), "width": size[0], "height": size[1], "look": "mask", "alt": "the first frame",
        "pen": 24, "colors": [{"name": f"Object {i + 1}", "color": pen} for i, pen in enumerate(pens)],
        "start": start, "strokes": start,
    }  # fmt: skip


def add_tab() -> None:
    """Lay the tab out, inside of a page of Gradio's."""
    import gradio as gr

    first_clip = next(iter(CLIPS))
    folder, _ = synthetic(CLIPS[first_clip])
    path = gr.State(str(folder))
    gr.Markdown("Choose a clip, paint its objects into the first frame, and watch where they go.")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            clip = gr.Dropdown(list(CLIPS), value=first_clip, label="Clip")
            upload = gr.File(
                label="Or a video of your own: mp4 or the like", type="filepath", height=160, elem_id="video"
            )
            canvas = gr.HTML(canvas_of(Video(folder).first), **render.widget("paint"), elem_id="canvas")
            with gr.Row():
                known = gr.Button("Use the true masks")
                start = gr.Button("Track", variant="primary")
            with gr.Accordion("Boxes instead of paint, and how many frames", open=False):
                boxes = gr.Textbox(label="Boxes in pixels: x, y, width, height; one object a line", lines=2)
                most = gr.Slider(1, MOST, value=100, step=1, label="Frames, at most")
        with gr.Column(min_width=300):
            status = gr.HTML(render.message("Three pens, three objects. The eraser mends."))
            live = gr.Image(label="Overlay", interactive=False, buttons=["download"], elem_id="live")
            film = gr.Video(
                label="All frames", visible=False, interactive=False, loop=True, autoplay=True, buttons=["download"]
            )
            table = gr.HTML(elem_id="objects")

    def choose(name: str) -> tuple[str, dict[str, Any], str]:
        frames, _ = synthetic(CLIPS[name])
        return str(frames), canvas_of(Video(frames).first), render.message("Paint the objects, and track them.")

    def load(file: str | None) -> tuple[Any, Any, str]:
        if file is None:
            return gr.skip(), gr.skip(), render.message("No video.")
        try:
            frame = Video(Path(file)).first
        except ValueError as error:
            return gr.skip(), gr.skip(), render.message(f"{str(error).replace(file, Path(file).name)}.", "bad")
        return file, canvas_of(frame), render.message("Paint the objects, and track them.")

    def truth(place: str) -> tuple[Any, str]:
        for seed in CLIPS.values():
            frames, labels = synthetic(seed) if str(seed) in Path(place).name else ("", None)
            if str(frames) == place:
                return canvas_of(Video(Path(place)).first, labels), render.message("These are the true masks.")
        return gr.skip(), render.message("The true masks of a video of your own are not known: paint them.", "bad")

    def tracked(place: str, painted: dict[str, Any], text: str, frames: float) -> Iterator[tuple[Any, ...]]:
        nothing = gr.Video(visible=False)
        try:
            video = Video(Path(place), most=int(frames))
            boxed = boxes_of(text or "")  # None while its drawer is closed
            if boxed:
                first = masks_from_boxes(video.first, boxed)
            else:
                first = labels_of(render.read_address(painted["strokes"]), video.size)
            with TemporaryDirectory() as output:
                run = run_of(video, first, Path(output))
                for t, frame, labels in run.steps():
                    line = render.message(f"Frame {t + 1} of {max(video.count, t + 1)}")
                    yield line, overlay(frame, labels), nothing, ""
                said = render.message("Tracked.", "good", summary(run, t + 1).splitlines())
                film_path = str(Path(output) / OVERLAY_NAME)
                yield said, gr.skip(), gr.Video(film_path, visible=True), table_of(Path(output) / OBJECTS_NAME)
        except ValueError as error:
            said = str(error).replace(place, Path(place).name).removeprefix("--box: ")
            yield render.message(f"{said[0].upper()}{said[1:]}.", "bad"), gr.skip(), nothing, ""

    clip.input(choose, [clip], [path, canvas, status])
    upload.upload(load, [upload], [path, canvas, status])
    known.click(truth, [path], [canvas, status])
    start.click(tracked, [path, canvas, boxes, most], [status, live, film, table], show_progress="hidden")
