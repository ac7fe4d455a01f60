"""Your own video: objects followed frame by frame from the masks of the first, in bounded memory, resumable."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import nn

from demos.checkpoints import checkpoint_errors, read_checkpoint
from demos.command import naming
from demos.devices import checked_device
from demos.files import check_folder, write_atomically
from demos.progress import progress_bar
from demos.vos.checkpoint import load_trained
from demos.vos.config import SHIPPED
from demos.vos.data import listed
from demos.vos.given import masks_from_boxes, read_first_masks
from demos.vos.images import Frame, Labels, read_labels, write_labels
from demos.vos.model import Features, Matching
from demos.vos.options import Track
from demos.vos.pictures import contact_sheet_png, overlay, write_video
from demos.vos.proposals import Following, Proposals
from demos.vos.proposals.embedded import EmbeddedProposals
from demos.vos.proposals.maskrcnn import MaskRCNNProposals
from demos.vos.proposals.network import SHIPPED as NETWORK
from demos.vos.proposals.network import load_mask_network
from demos.vos.report import SCORES_NAME
from demos.vos.tracking import Tracker, observe
from demos.vos.video import Video
from difflayers.metrics import jaccard

MASKS_NAME, OBJECTS_NAME, OVERLAY_NAME = "masks", "objects.csv", "overlay.mp4"
SHEET_NAME, STATE_NAME = "contact-sheet.png", "state.safetensors"
_FORMAT = "difflayers-track-1"
_EVERY = 20
"""Frames between two states on disk."""
COLUMNS = ("frame", "name", "object", "seen", "pixels", "x", "y", "left", "top", "width", "height", "cost")


@dataclass
class Sightings:
    """How often an object was seen, and where it was lost."""

    first_pixels: int
    seen: int = 0
    frames: int = 0
    lost: list[tuple[int, int]] | None = None
    """Runs of frames without it, both ends included."""

    def add(self, t: int, seen: bool) -> None:
        """One more frame."""
        self.frames += 1
        self.seen += seen
        if not seen:
            runs = self.lost = self.lost or []
            if runs and runs[-1][1] == t - 1:
                runs[-1] = runs[-1][0], t
            else:
                runs.append((t, t))


class TrackRun:
    """One video tracked into one folder: a palette PNG a frame, a CSV of the objects, at the end a video.

    A state is written every few frames, so that a run that was stopped goes on from it.

    Args:
        video: the frames.
        first: (H, W), the objects of the first frame, one at least.
        features, matching: the network.
        regions: a frame's proposals; `follower` adds those that carry the last masks on.
        output: the folder. It may exist.
        mark: what else the result depends on, for `resume` to compare.
        resume: go on from the state there.

    Raises:
        ValueError: with resume, no state, or that of another run.
    """

    def __init__(
        self,
        video: Video,
        first: Labels,
        features: Features,
        matching: Matching,
        regions: Callable[[Frame], Proposals],
        follower: Following | None,
        output: Path,
        *,
        mark: str = "",
        resume: bool = False,
    ) -> None:
        self.video, self.first, self.regions, self.follower, self.output = video, first, regions, follower, output
        self.tracker = Tracker(features, matching)
        self.objects = [int(label) for label in np.unique(first[first > 0])]
        self.sightings = {label: Sightings(int((first == label).sum())) for label in self.objects}
        parts = [
            video.first.tobytes(),
            first.tobytes(),
            _weights(features),
            repr(matching.config).encode(),
            matching.kind.encode(),
        ]
        self._mark = hashlib.sha256(
            b"|".join(hashlib.sha256(part).digest() for part in parts) + mark.encode()
        ).hexdigest()
        self.start = self._restored() if resume else 0

    @property
    def _rows_path(self) -> Path:
        return self.output / f".{OBJECTS_NAME}.part"

    def run(self, progress: Callable[[], None] = lambda: None) -> int:
        """Track all frames that are left; the number of frames of the video."""
        frames = self.start
        for t, _, _ in self.steps():
            frames = t + 1
            progress()
        return frames

    def steps(self) -> Iterator[tuple[int, Frame, Labels]]:
        """Track all frames that are left, one a step: its number, the picture, its labels. The last step writes the video."""
        self.output.mkdir(parents=True, exist_ok=True)
        t, earlier = self.start, _names(self.output / OBJECTS_NAME) | _names(self._rows_path)
        with self._rows_path.open("a" if self.start else "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not self.start:
                writer.writerow(COLUMNS)
            for name, frame in self.video.frames(self.start):
                labels = self._step(t, frame)
                write_labels(self.output / MASKS_NAME / f"{name}.png", labels, overwrite=True)
                writer.writerows(self._rows(t, name, labels))
                t += 1
                if t == 1 or t % _EVERY == 0:
                    file.flush()
                    self._save(t, name, file.tell())
                yield t - 1, frame, labels
        pictures = (overlay(frame, labels) for frame, labels in self._results())
        write_video(self.output / OVERLAY_NAME, _even(pictures), fps=self.video.fps)
        write_atomically(self.output / SHEET_NAME, self._sheet(t))
        stale = earlier - _names(self._rows_path)  # of a longer run that this one replaces
        for path in (self.output / MASKS_NAME).glob("*.png"):
            if path.stem in stale:
                path.unlink()
        self._rows_path.replace(self.output / OBJECTS_NAME)
        (self.output / STATE_NAME).unlink(missing_ok=True)

    def _results(self) -> Iterator[tuple[Frame, Labels]]:
        for name, frame in self.video.frames():
            yield frame, read_labels(self.output / MASKS_NAME / f"{name}.png", self.video.size)

    def _sheet(self, frames: int) -> bytes:
        """Six frames, or fewer, side by side."""
        times = sorted({round(i * (frames - 1) / 5) for i in range(6)})
        shown = {t: pair for t, pair in enumerate(self._results()) if t in times}
        pictures, labels = [shown[t][0] for t in times], [shown[t][1] for t in times]
        title = f"{self.video.path.stem}: the masks of frame 0 are given"
        return contact_sheet_png(pictures, {"tracked": labels}, times=range(len(times)), names=times, title=title)

    def _step(self, t: int, frame: Frame) -> Labels:
        proposals, followed = self.regions(frame), list[int]()
        if self.follower is not None and t:
            followed, masks = self.follower.propose(frame)
            proposals = proposals.after(masks)
        seen = observe(self.tracker.features, frame, proposals)
        if t:
            labels = self.tracker.step(seen, followed)
        else:
            labels = self.first
            self.tracker.add(seen, labels, self.objects)
            self.tracker.costs = [math.nan] * len(self.objects)
        if self.follower is not None:
            self.follower.keep(frame, labels)
        return labels

    def _rows(self, t: int, name: str, labels: Labels) -> Iterator[list[object]]:
        for label, cost in zip(self.objects, self.tracker.costs, strict=True):
            y, x = np.nonzero(labels == label)
            self.sightings[label].add(t, len(y) > 0)
            shown = "" if math.isnan(cost) else f"{cost:.4f}"
            if len(y):
                left, top = int(x.min()), int(y.min())
                place: list[object] = [f"{x.mean():.2f}", f"{y.mean():.2f}", left, top]
                place += [int(x.max()) - left + 1, int(y.max()) - top + 1]
            else:
                place = [""] * 6
            yield [t, name, label, int(len(y) > 0), len(y), *place, shown]

    def _save(self, t: int, name: str, written: int) -> None:
        tensors = {key: value.cpu().contiguous() for key, value in self.tracker.state().items()}
        metadata = {
            "format": _FORMAT,
            "mark": self._mark,
            "next": json.dumps([t, name, written]),
            "sightings": json.dumps({label: vars(one) for label, one in self.sightings.items()}),
        }
        write_atomically(self.output / STATE_NAME, save(tensors, metadata))

    def _restored(self) -> int:
        missing = "; there is nothing to resume, start without --resume, or with --overwrite"
        metadata, tensors = read_checkpoint(self.output / STATE_NAME, _FORMAT, argument="--resume", missing=missing)
        if metadata.get("mark") != self._mark:
            raise ValueError(
                f"--resume: {self.output} has a run of another video, other masks or options; give another --output"
            )
        with checkpoint_errors("--resume", self.output / STATE_NAME, "the state of a run"):
            self.tracker.restore(tensors)
            t, name, written = json.loads(metadata["next"])
            for label, one in json.loads(metadata["sightings"]).items():
                one["lost"] = None if one["lost"] is None else [(a, b) for a, b in one["lost"]]
                self.sightings[int(label)] = Sightings(**one)
        with self._rows_path.open("r+b") as file:
            file.truncate(written)
        last = next(self.video.frames(t - 1))[1]
        if self.follower is not None:
            self.follower.keep(self.video.first, self.first)  # what the objects look like
            self.follower.keep(last, read_labels(self.output / MASKS_NAME / f"{name}.png", self.video.size))
        return int(t)


def _weights(module: nn.Module) -> bytes:
    return b"".join(value.cpu().numpy().tobytes() for value in module.state_dict().values())


def _names(objects: Path) -> set[str]:
    """Of the frames that a table of objects knows."""
    if not objects.exists():
        return set()
    with objects.open(encoding="utf-8", newline="") as file:
        return {row["name"] for row in csv.DictReader(file) if row.get("name")}


def _even(pictures: Iterator[Frame]) -> Iterator[Frame]:
    """Of two rows and columns at least, as the format of the video wants."""
    for picture in pictures:
        yield np.pad(picture, ((0, picture.shape[0] == 1), (0, picture.shape[1] == 1), (0, 0)), mode="edge")


def summary(run: TrackRun, frames: int) -> str:
    """What became of each object, a line each."""
    lines = []
    for label, one in run.sightings.items():
        lost = [f"{a}" if a == b else f"{a} to {b}" for a, b in one.lost or []]
        text = f"object {label}: seen in {one.seen} of {one.frames} frames"
        if lost:
            text += f", not in {', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}"
        if one.first_pixels < 100:
            text += f"; it has {one.first_pixels} pixels in the first frame, of which little can be learned"
        lines.append(text)
    if frames == 1:
        lines.append("The video has one frame: there was nothing to track, the result is the given masks.")
    return "\n".join(lines)


def scores_of(run: TrackRun, truth: Path) -> list[tuple[str, int, float]]:
    """Frame, object and J, in each frame after the first whose masks are known.

    Args:
        run: that has ended.
        truth: a folder of palette PNGs, some of the frames'. They are named as these, or end in the frame's number.

    Raises:
        ValueError: none for a frame after the first; another size.
    """
    tracked = sorted((run.output / MASKS_NAME).glob("*.png"))
    names = {path.stem: path for path in tracked}
    found: list[tuple[str, int, float]] = []
    for path in sorted(one for one in listed(truth) if one.suffix.lower() == ".png"):
        number = re.search(r"\d+$", path.stem)
        if path.stem not in names and (number is None or int(number[0]) >= len(tracked)):
            continue
        mask = names[path.stem] if path.stem in names or number is None else tracked[int(number[0])]
        if mask == tracked[0]:
            continue
        wanted, got = read_labels(path, run.video.size), read_labels(mask)
        found += [(mask.stem, label, float(jaccard(wanted == label, got == label))) for label in run.objects]
    if not found:
        raise ValueError(
            f"--truth: {truth} has no masks of a frame after the first, wanted palette PNGs named as the frames"
        )
    return found


def track_video(options: Track) -> None:
    """The command ``track``: reads what it is given, tracks, and says what came out."""
    device = checked_device(options.device)
    with naming("VIDEO"):
        video = Video(options.video)
    output = Path("runs/track") / options.video.resolve().stem if options.output is None else options.output
    check_folder(output, "--output")
    if output.resolve() == options.video.resolve():
        raise ValueError(
            f"--output: {output} is the folder of the frames, wanted another: pictures there would be frames"
        )
    there = [
        name
        for name in (OBJECTS_NAME, OVERLAY_NAME, SHEET_NAME, STATE_NAME, MASKS_NAME, SCORES_NAME)
        if (output / name).exists()
    ]
    if there and not (options.resume or options.overwrite):
        raise ValueError(
            f"--output: {output / there[0]} exists; pass --resume to go on, --overwrite to replace it, or another folder"
        )
    with naming("--box" if options.masks is None else "--masks"):
        if options.masks is None:
            first = masks_from_boxes(video.first, options.box)
        else:
            first = read_first_masks(options.masks, video.size)
    if options.truth is not None and not options.truth.is_dir():
        raise ValueError(f"--truth: {options.truth} is no folder")
    trained = load_trained(SHIPPED if options.features is None else options.features, device=device)
    draws = load_mask_network(options.mask_network or NETWORK)
    embedded = EmbeddedProposals(top=30, network=draws)
    regions: Callable[[Frame], Proposals] = embedded.regions
    mark = embedded.identity
    if options.proposals == "maskrcnn":
        network = MaskRCNNProposals(options.detector.weights, backbone=options.detector.detector, device=device)
        regions, mark = network.look, network.identity
    mark += hashlib.sha256(_weights(draws)).hexdigest()
    run = TrackRun(
        video, first, trained.features, trained.matching(options.matching, options.unmatched_cost), regions,
        embedded.follower(), output, mark=mark, resume=options.resume,
    )  # fmt: skip
    if run.start:
        print(f"resuming at frame {run.start}")
    try:
        with progress_bar(max(0, video.count - run.start), "tracking", " frames") as bar:
            frames = run.run(bar.update)
    except KeyboardInterrupt:
        if (output / STATE_NAME).exists():
            print(f"\n--resume --output {output} goes on", file=sys.stderr)
        raise
    print(summary(run, frames))
    if options.truth is not None:
        with naming("--truth"):
            scores = scores_of(run, options.truth)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("frame", "object", "J"))
        writer.writerows((frame, label, f"{J:.5f}") for frame, label, J in scores)
        write_atomically(output / SCORES_NAME, table.getvalue().encode())
        for label in run.objects:
            own = [J for _, of, J in scores if of == label]
            print(f"object {label}: mean J {np.mean(own):.3f} over {len(own)} frames whose masks are known")
    if frames < video.count and options.video.is_file():
        print(f"The video's header says {video.count} frames; {frames} could be read.")
    print(
        f"Proposals: {options.proposals}. {MASKS_NAME}/, {OBJECTS_NAME}, {OVERLAY_NAME} and {SHEET_NAME} are in {output}"
    )
