"""One's own video: reading it, the first masks, the proposals that need no download, and the command."""

from __future__ import annotations

import csv
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from demos.vos import track as module
from demos.vos.__main__ import main
from demos.vos.checkpoint import load_trained
from demos.vos.config import SHIPPED
from demos.vos.given import masks_from_boxes, read_first_masks
from demos.vos.images import PALETTE, read_labels, write_labels
from demos.vos.model import Matching
from demos.vos.pictures import write_video
from demos.vos.proposals.appearance import Appearance, distances, pixels_of
from demos.vos.proposals.embedded import EmbeddedProposals, Follower
from demos.vos.track import COLUMNS, Sightings, TrackRun
from demos.vos.video import Video
from difflayers.metrics import jaccard

HEIGHT, WIDTH, FRAMES = 64, 96, 24


def scene(t: int, *, hidden: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """A red square that moves to the right and a blue disk that does not, on a grey texture; the frame and its labels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frame = (np.random.default_rng(0).integers(70, 110, (HEIGHT, WIDTH, 1)) + np.zeros(3)).astype(np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    square = (abs(rows - 20) < 9) & (abs(columns - 20 - 2 * t) < 9)
    disk = (rows - 46) ** 2 + (columns - 30) ** 2 < 100
    for label, (mask, colour) in enumerate(((square, (200, 30, 30)), (disk, (30, 60, 210))), start=1):
        if label not in hidden:
            frame[mask] = colour + (frame[mask] - 90) // 3
            labels[mask] = label
    return frame, labels


def folder(path: Path, frames: int = FRAMES, hidden: dict[int, tuple[int, ...]] | None = None) -> list[np.ndarray]:
    path.mkdir(parents=True)
    truth = []
    for t in range(frames):
        frame, labels = scene(t, hidden=(hidden or {}).get(t, ()))
        Image.fromarray(frame).save(path / f"{t:04d}.png")
        truth.append(labels)
    write_labels(path.parent / "first.png", truth[0])
    return truth


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = folder(tmp_path / "frames", hidden=dict.fromkeys(range(8, 12), (2,)))
    command = [
        "track",
        str(tmp_path / "frames"),
        "--masks",
        str(tmp_path / "first.png"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"object 1: seen in {FRAMES} of {FRAMES} frames\n" in text and "object 2: seen in" in text
    found = [read_labels(tmp_path / "out" / "masks" / f"{t:04d}.png") for t in range(FRAMES)]
    assert np.array_equal(found[0], truth[0])
    for label in (1, 2):
        J = [float(jaccard(a == label, b == label)) for a, b in zip(truth, found, strict=True) if (a == label).any()]
        assert np.mean(J) > 0.75, (label, J)
    table = rows(tmp_path / "out" / "objects.csv")
    assert tuple(table[0]) == COLUMNS and len(table) == 2 * FRAMES
    for row in table:
        mask = found[int(row["frame"])] == int(row["object"])
        assert int(row["pixels"]) == mask.sum() and row["seen"] == str(int(mask.any()))
        if mask.any():
            y, x = np.nonzero(mask)
            assert float(row["x"]) == pytest.approx(x.mean(), abs=0.01) and int(row["left"]) == x.min()
            assert int(row["height"]) == np.ptp(y) + 1
        assert row["cost"] == "" or -1 <= float(row["cost"]) <= 1
    assert all(row["cost"] == "" for row in table[:2]) and any(row["cost"] for row in table)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out" / "overlay.mp4"))[0] == FRAMES
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contact-sheet.png",
        "masks",
        "objects.csv",
        "overlay.mp4",
    ]
    assert main(command) == 2
    assert "exists; pass --resume to go on, --overwrite" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 2
    assert "there is nothing to resume" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "frames", frames=9)
    command = ["track", str(tmp_path / "frames"), "--masks", str(tmp_path / "first.png")]
    monkeypatch.setattr(module, "_EVERY", 3)
    stop = "0007"
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0
    kept = module.write_labels

    def stopped(path: Path, labels: np.ndarray, *, overwrite: bool) -> None:
        if path.stem == stop:
            raise KeyboardInterrupt
        kept(path, labels, overwrite=overwrite)

    monkeypatch.setattr(module, "write_labels", stopped)
    assert main([*command, "--output", str(tmp_path / "parts")]) == 130
    assert not (tmp_path / "parts" / "objects.csv").exists()
    assert f"--resume --output {tmp_path / 'parts'} goes on" in capsys.readouterr().err
    stop = "0001"  # before the first of the states that are written every few frames
    assert main([*command, "--output", str(tmp_path / "early")]) == 130
    monkeypatch.setattr(module, "write_labels", kept)
    assert main([*command, "--output", str(tmp_path / "early"), "--resume"]) == 0
    assert "resuming at frame 1\n" in capsys.readouterr().out
    assert (tmp_path / "early" / "objects.csv").read_bytes() == (tmp_path / "whole" / "objects.csv").read_bytes()
    first = tmp_path / "other.png"
    write_labels(first, np.where(scene(0)[1] == 1, 1, 0))
    resumed = ["--output", str(tmp_path / "parts"), "--resume"]
    assert main(["track", str(tmp_path / "frames"), "--masks", str(first), *resumed]) == 2
    assert "has a run of another video, other masks or options" in capsys.readouterr().err
    assert main([*command, *resumed]) == 0
    assert "resuming at frame 6" in capsys.readouterr().out
    assert (tmp_path / "parts" / "objects.csv").read_bytes() == (tmp_path / "whole" / "objects.csv").read_bytes()
    for path in (tmp_path / "whole" / "masks").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / "masks" / path.name).read_bytes()


class LongVideo(Video):
    """A square that moves to and fro; counts how many of the frames that it has given are still held by somebody."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.fps, self._most, self.count, self.size = path, 24.0, None, count, (32, 48)
        self.alive = self.most_alive = 0
        self.first = next(self.frames())[1]

    def _from(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        for t in range(start, self.count):
            frame = np.full((*self.size, 3), 90, np.uint8)
            frame[10:16, 10 + t % 20 : 16 + t % 20] = 200, 30, 30
            self.alive += 1
            self.most_alive = max(self.alive, self.most_alive)
            weakref.finalize(frame, self._gone)
            yield f"{t:05d}", frame

    def _gone(self) -> None:
        self.alive -= 1


def tensors_alive() -> list[torch.Tensor]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is torch.Tensor]


def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    video, features = LongVideo(tmp_path / "long", 80), load_trained(SHIPPED).features
    first = (video.first[..., 0] == 200).astype(np.uint8)
    proposals = EmbeddedProposals(top=2)
    matching = Matching("dmm", features.config)
    run = TrackRun(video, first, features, matching, proposals.regions, proposals.follower(), tmp_path / "out")
    others = tensors_alive()  # kept, so that none of their ids is given to another
    known, tensors, numbers = set(map(id, others)), {}, []
    for t, _, labels in run.steps():
        if t in (20, 70):
            tensors[t] = sum(one.numel() for one in tensors_alive() if id(one) not in known)
        numbers.append(int((labels > 0).sum()))
    assert len(numbers) == 80 and numbers[0] == 36
    # Six for the contact sheet, the first, the last of the follower, and those of the loops.
    assert video.most_alive <= 12
    assert tensors[70] <= 1.05 * tensors[20]


def test_the_truth_of_some_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = folder(tmp_path / "frames", frames=4)
    (tmp_path / "known").mkdir()
    for name, t in (("0000", 0), ("0001", 1), ("frame_000003", 3), ("other", 2), ("0077", 2)):
        write_labels(tmp_path / "known" / f"{name}.png", truth[t])
    command = ["track", str(tmp_path / "frames"), "--masks", str(tmp_path / "first.png")]
    assert main([*command, "--truth", str(tmp_path / "known"), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for label in (1, 2):
        found = [read_labels(tmp_path / "out" / "masks" / f"{t:04d}.png") == label for t in (1, 3)]
        mean = np.mean([float(jaccard(truth[t] == label, mask)) for t, mask in zip((1, 3), found, strict=True)])
        assert f"object {label}: mean J {mean:.3f} over 2 frames whose masks are known" in text and mean > 0.7
        own = [row for row in rows(tmp_path / "out" / "scores.csv") if row["object"] == str(label)]
        assert [row["frame"] for row in own] == ["0001", "0003"]
        assert abs(np.mean([float(row["J"]) for row in own]) - mean) < 1e-5
    assert main([*command, "--truth", str(tmp_path / "frames.txt"), "--output", str(tmp_path / "no")]) == 2
    assert "frames.txt is no folder" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main([*command, "--truth", str(tmp_path / "none"), "--output", str(tmp_path / "out2")]) == 2
    assert "has no masks of a frame after the first" in capsys.readouterr().err


def test_a_shorter_video_replaces_a_longer_one_with_all_its_masks(tmp_path: Path) -> None:
    for name, frames in (("long", 5), ("short", 3)):
        folder(tmp_path / name / "frames", frames=frames)
    rest = ["--masks", str(tmp_path / "long" / "first.png"), "--output", str(tmp_path / "out"), "--overwrite"]
    assert main(["track", str(tmp_path / "long" / "frames"), *rest]) == 0
    masks = tmp_path / "out" / "masks"
    (masks / "mine.png").write_bytes(b"not of a run")
    assert len(list(masks.iterdir())) == 6
    assert main(["track", str(tmp_path / "short" / "frames"), *rest]) == 0
    assert sorted(path.name for path in masks.iterdir()) == ["0000.png", "0001.png", "0002.png", "mine.png"]


def test_an_appearance_is_learned_from_one_frame() -> None:
    frame, labels = scene(0)
    pixels = pixels_of(frame)
    look = Appearance(pixels, labels == 1)
    moved, truth = scene(3)
    likely = look(pixels_of(moved).reshape(-1, pixels.shape[-1])).reshape(HEIGHT, WIDTH)
    assert likely[truth == 1].mean() > 0.8 and likely[truth != 1].mean() < 0.1
    same = Appearance(pixels, labels == 1)(pixels_of(moved).reshape(-1, pixels.shape[-1])).reshape(HEIGHT, WIDTH)
    assert np.array_equal(likely, same)
    far = distances(labels == 1)
    assert (far[labels == 1] > 0).all() and (far[labels != 1] < 0).all()


def test_a_video_of_one_frame_and_a_tiny_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame, labels = scene(0)
    write_video(tmp_path / "one.mp4", [frame])
    labels[:] = 0
    labels[5, 5] = 9
    write_labels(tmp_path / "first.png", labels)
    command = [
        "track",
        str(tmp_path / "one.mp4"),
        "--masks",
        str(tmp_path / "first.png"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "The video has one frame" in text and "object 9: seen in 1 of 1 frames; it has 1 pixels in the first" in text
    assert np.array_equal(read_labels(tmp_path / "out" / "masks" / "00000.png"), labels)


def test_boxes_on_a_video_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [scene(t) for t in range(4)]
    write_video(tmp_path / "clip.mp4", [frame for frame, _ in frames])
    video = Video(tmp_path / "clip.mp4")
    assert video.size == (HEIGHT, WIDTH) and video.fps == 8 and len(list(video.frames())) == 4 == video.count
    assert [name for name, _ in video.frames(2)] == ["00002", "00003"]
    boxes = ["--box", "10,10,20,20", "--box", "18,34,24,24"]
    assert main(["track", str(tmp_path / "clip.mp4"), *boxes, "--output", str(tmp_path / "out")]) == 0
    first = read_labels(tmp_path / "out" / "masks" / "00000.png")
    for label in (1, 2):
        assert jaccard(frames[0][1] == label, first == label) > 0.6
    assert main(["track", str(tmp_path / "clip.mp4"), "--box", "90,0,20,20", "--output", str(tmp_path / "no")]) == 2
    assert "--box: got 90,0,20,20, wanted x,y,width,height inside the frame of 96 x 64" in capsys.readouterr().err
    assert main(["track", str(tmp_path / "clip.mp4"), "--box", "1,2,3"]) == 2
    assert "Error parsing --box: got 1,2,3, wanted four whole numbers x,y,width,height" in capsys.readouterr().err
    for both, told in ((["--box", "1,2,3,4", "--masks", "a.png"], "both"), ([], "neither")):
        assert main(["track", str(tmp_path / "clip.mp4"), *both]) == 2
        assert f"--masks, --box: got {told}, wanted one of them" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_box_without_surroundings_is_its_ellipse() -> None:
    frame, _ = scene(0)
    labels = masks_from_boxes(frame, [(0, 0, WIDTH, HEIGHT), (3, 4, 2, 2)])
    assert 0.7 < (labels > 0).mean() < 0.85 and (labels == 2).sum() == 4
    with pytest.raises(ValueError, match="--box: got 46,30,4,4, which later boxes hide"):
        masks_from_boxes(frame, [(46, 30, 4, 4), (0, 0, WIDTH, HEIGHT)])


@pytest.mark.parametrize("mode", ["palette", "binary", "grey", "colours", "davis colours"])
def test_first_masks(mode: str, tmp_path: Path) -> None:
    _, labels = scene(0)
    path = tmp_path / "mask.png"
    wanted = labels
    if mode == "palette":
        labels[0, 0] = 255
        write_labels(path, labels)
        wanted = np.where(labels == 255, 0, labels)
    elif mode == "binary":
        Image.fromarray(np.where(labels, np.uint8(255), np.uint8(0))).save(path)
        wanted = (labels > 0).astype(np.uint8)
    elif mode == "grey":
        Image.fromarray(labels).save(path)
    elif mode == "colours":
        Image.fromarray(np.array([(0, 0, 0), (255, 255, 255), (9, 200, 40)], np.uint8)[labels]).save(path)
    else:
        wanted = np.where(labels == 1, 7, np.where(labels == 2, 3, 0)).astype(np.uint8)
        Image.fromarray(PALETTE[wanted]).save(path)
    assert np.array_equal(read_first_masks(path, (HEIGHT, WIDTH)), wanted)
    with pytest.raises(ValueError, match="got a mask of 64 x 96, wanted that of the frame, 5 x 6"):
        read_first_masks(path, (5, 6))


def test_wrong_masks_and_videos(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "frames", frames=2)
    write_labels(tmp_path / "none.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(
        tmp_path / "photo.jpg"
    )
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._0.png").write_bytes(b"macOS")
    frames, first = str(tmp_path / "frames"), str(tmp_path / "first.png")
    for options, message in (
        ([frames, "--masks", str(tmp_path / "none.png")], "got no object, every pixel is background"),
        ([frames, "--masks", str(tmp_path / "photo.jpg")], "a PNG, not a JPEG"),
        ([frames, "--masks", str(tmp_path / "missing.png")], "no such file"),
        ([str(tmp_path / "text.mp4"), "--masks", first], "cannot be read as a video"),
        ([str(tmp_path / "empty"), "--masks", first], "a folder without pictures"),
        ([str(tmp_path / "nowhere"), "--masks", first], "no such file or folder"),
    ):
        assert main(["track", *options, "--output", str(tmp_path / "out")]) == 2
        assert message in (error := capfd.readouterr().err) and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "frames" / "0009.png")
    assert main(["track", frames, "--masks", first, "--output", str(tmp_path / "out")]) == 2
    assert "got frame 0009 of 9 x 9, wanted that of the first, 64 x 96" in capfd.readouterr().err
    capfd.readouterr()
    for output, told in ((frames, "is the folder of the frames"), (first + "/below", "is a file, wanted a directory")):
        assert main(["track", frames, "--masks", first, "--output", output, "--overwrite"]) == 2
        assert told in capfd.readouterr().err


def test_regions_and_the_follower() -> None:
    frame, labels = scene(0)
    regions = EmbeddedProposals().regions(frame)
    for label in (1, 2):
        assert max(float(jaccard(labels == label, mask)) for mask in regions.masks) > 0.8
    assert len(EmbeddedProposals(top=1).regions(frame)) == 1
    follower = Follower()
    found, masks = follower.propose(frame)
    assert found == [] and masks.shape == (0, HEIGHT, WIDTH)
    follower.keep(frame, labels)
    moved, truth = scene(1)
    found, masks = follower.propose(moved)
    assert found == [1, 2]
    assert [float(jaccard(truth == k, mask)) > 0.7 for k, mask in zip(found, masks, strict=True)] == [True, True]
    follower.keep(moved, truth * 0)
    assert follower.propose(moved)[0] == []
    small = np.full((5, 7, 3), 50, np.uint8)
    tiny = Follower()
    tiny.keep(small, np.eye(5, 7, dtype=np.uint8))
    found, masks = tiny.propose(small)
    assert found == [1] and masks.shape == (1, 5, 7)
    assert EmbeddedProposals().regions(small).masks.shape[1:] == (5, 7)


def test_shipped_features() -> None:
    features, costs = load_trained()
    assert features.config.backbone == "small" and SHIPPED.stat().st_size < 400_000
    assert "dmm" in costs
    assert features(torch.rand(1, 3, 32, 48), torch.rand(1, 2, 32, 48) > 0.5).isfinite().all()


def test_sightings() -> None:
    one = Sightings(5)
    for t, seen in enumerate([True, False, False, True, False]):
        one.add(t, seen)
    assert (one.seen, one.frames, one.lost) == (2, 5, [(1, 2), (4, 4)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, meta: meta.pop("model"), "is not a checkpoint of features: no 'model'"),
        (lambda tensors, meta: meta.update(model="[1"), "is not a checkpoint of features: Expecting"),
        (lambda tensors, meta: meta.update(model='{"depth": 3}'), "unexpected keyword argument 'depth'"),
        (
            lambda tensors, meta: meta.update(unmatched_costs="7"),
            "is not a checkpoint of features: 'int' object has",
        ),
        (lambda tensors, meta: tensors.popitem(), "is not a checkpoint of features: it has no tensor"),
        (lambda tensors, meta: tensors.update({k: v.int() for k, v in tensors.items()}), "is torch.int32"),
    ],
)
def test_files_of_something_else_are_no_features(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with safe_open(SHIPPED, "pt") as file:
        meta, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, meta)
    save_file(tensors, tmp_path / "other.safetensors", meta)
    with pytest.raises(ValueError, match=message):
        load_trained(tmp_path / "other.safetensors")
