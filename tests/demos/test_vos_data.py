"""Readers of the four layouts, on tiny copies; palette PNGs; the synthetic clips."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demos.vos import data, synthetic
from demos.vos.data import read_davis, read_segtrack, read_youtube_vos
from demos.vos.images import PALETTE, read_frame, read_labels, write_labels
from demos.vos.synthetic import SyntheticClip, SyntheticConfig

HEIGHT, WIDTH = 12, 20
DAVIS_2016 = Path(__file__).parents[3] / "shared" / "data" / "davis2016"


def save_frame(path: Path, value: int = 90, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def labels(*objects: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Object k is a square of 3 x 3 at column 4 (k - 1)."""
    array = np.zeros(size, np.uint8)
    for k in objects:
        array[2:5, 4 * (k - 1) : 4 * (k - 1) + 3] = k
    return array


def davis_2017(root: Path, frames: int = 4, clips: tuple[str, ...] = ("cow", "ant")) -> Path:
    for clip in clips:
        for t in range(frames):
            save_frame(root / "JPEGImages" / "480p" / clip / f"{t:05d}.jpg", 40 * t)
            write_labels(root / "Annotations" / "480p" / clip / f"{t:05d}.png", labels(1, 2))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("cow\n")
    return root


def test_davis_2017(tmp_path: Path) -> None:
    (clip,) = read_davis(davis_2017(tmp_path))
    assert clip.name == "cow" and len(clip) == 4 and clip.size == (HEIGHT, WIDTH)
    assert clip.frame_names == ["00000", "00001", "00002", "00003"]
    assert clip.frame(3).dtype == np.uint8 and abs(int(clip.frame(3)[0, 0, 0]) - 120) < 3
    assert np.array_equal(clip.labels(2), labels(1, 2))
    assert clip.given == {0: (1, 2)} and clip.objects == (1, 2)
    assert [clip.name for clip in read_davis(tmp_path, split=None)] == ["ant", "cow"]


def test_davis_2016_is_one_object_whatever_its_grey(tmp_path: Path) -> None:
    for t in range(3):
        save_frame(tmp_path / "JPEGImages" / "cow" / f"{4 * t:05d}.jpg")  # every fourth frame is no gap
        path = tmp_path / "Annotations" / "cow" / f"{4 * t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(labels(1), np.uint8(255), np.uint8(0))).save(path)
    (clip,) = read_davis(tmp_path, year=2016, split=None, resolution=None)
    assert np.array_equal(clip.labels(1), labels(1)) and clip.given == {0: (1,)}


def test_reading_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    davis_2017(tmp_path)
    read: list[str] = []
    for name in ("read_frame", "read_labels"):
        original = getattr(data, name)
        monkeypatch.setattr(data, name, lambda path, *more, _f=original: (read.append(path.name), _f(path, *more))[1])
    (clip,) = read_davis(tmp_path)
    assert read == []
    clip.frame(0)
    assert read == ["00000.jpg"]
    clip.labels(2)
    assert read == ["00000.jpg", "00000.jpg", "00002.png"]  # the first for the size of all


def youtube_vos(root: Path) -> Path:
    for t in range(0, 30, 5):
        save_frame(root / "JPEGImages" / "0a1b" / f"{t:05d}.jpg")
    write_labels(root / "Annotations" / "0a1b" / "00005.png", labels(2))
    write_labels(root / "Annotations" / "0a1b" / "00015.png", labels(1, 2))
    objects = {"1": {"category": "zebra", "frames": ["00015"]}, "2": {"category": "ape", "frames": ["00005"]}}
    (root / "meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}))
    return root


def test_youtube_vos_has_sparse_labels_and_objects_that_come_later(tmp_path: Path) -> None:
    (clip,) = read_youtube_vos(youtube_vos(tmp_path))
    assert len(clip) == 6 and clip.labels(0) is None and clip.labels(1) is not None
    assert clip.given == {1: (2,), 3: (1,)} and clip.objects == (1, 2)
    assert clip.categories == {1: "zebra", 2: "ape"}
    (tmp_path / "meta.json").unlink()
    assert read_youtube_vos(tmp_path, names=["0a1b"])[0].categories == {}
    (tmp_path / "meta.json").write_text('{"videos": {"0a1b": {"objects": {"1": {}}}}}')
    assert read_youtube_vos(tmp_path)[0].categories == {}
    (tmp_path / "meta.json").write_text('{"videos": ["0a1b"]}')
    with pytest.raises(ValueError, match=r"meta\.json: wanted videos"):
        read_youtube_vos(tmp_path)


def test_segtrack(tmp_path: Path) -> None:
    for t in range(3):
        for clip in ("one", "two"):
            save_frame(tmp_path / "JPEGImages" / clip / f"f_{t}.png")
        save_frame(tmp_path / "GroundTruth" / "one" / f"f_{t}.png", 255)
        for k in (1, 2):
            path = tmp_path / "GroundTruth" / "two" / str(k) / f"f_{t}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((labels(k) > 0).astype(np.uint8) * 255).convert("RGB").save(path)
    one, two = read_segtrack(tmp_path)
    assert one.objects == (1,) and one.labels(2).min() == 1
    assert two.given == {0: (1, 2)} and np.array_equal(two.labels(1), labels(1, 2))
    assert [clip.name for clip in read_segtrack(tmp_path, names=["two"])] == ["two"]
    Image.new("L", (3, 3)).save(tmp_path / "GroundTruth" / "two" / "1" / "f_1.bmp")
    with pytest.raises(ValueError, match="got a mask of 3 x 3, wanted that of the frame, 12 x 20"):
        two.labels(1)


def test_errors_of_the_readers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val\.txt: no such file"):
        read_davis(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        read_davis(tmp_path, split=None)
    with pytest.raises(ValueError, match="year must be 2016 or 2017; got 2018"):
        read_davis(tmp_path, year=2018)
    root = davis_2017(tmp_path / "a")
    (clip,) = read_davis(root)
    frames, masks = root / "JPEGImages" / "480p" / "cow", root / "Annotations" / "480p" / "cow"
    Image.new("RGB", (WIDTH, HEIGHT)).save(masks / "00001.png")
    with pytest.raises(ValueError, match=r"00001\.png: got an image of mode RGB, wanted a palette"):
        clip.labels(1)
    write_labels(masks / "00001.png", labels(1, size=(HEIGHT + 1, WIDTH)), overwrite=True)
    with pytest.raises(ValueError, match=r"got labels of 13 x 20, wanted those of the frame, 12 x 20"):
        clip.labels(1)
    save_frame(frames / "00002.jpg", size=(6, 6))
    with pytest.raises(ValueError, match=r"00002\.jpg: got a frame of 6 x 6"):
        clip.frame(2)
    (frames / "00002.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00002\.jpg: cannot be read"):
        clip.frame(2)
    (frames / "00002.jpg").unlink()
    with pytest.raises(ValueError, match=r"00002\.jpg: no such file"):
        clip.frame(2)
    with pytest.raises(ValueError, match=r"frame 00002\.jpg is missing"):
        read_davis(root)
    (frames / "00003.jpg").unlink()
    with pytest.raises(ValueError, match=r"cow: frame 00002 is missing .* though it has labels"):
        read_davis(root)
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="got no names of clips"):
        read_davis(root)
    (root / "ImageSets" / "2017" / "val.txt").write_text("gnu\n")
    with pytest.raises(ValueError, match="gnu: no such folder"):
        read_davis(root)
    (root / "JPEGImages" / "480p" / "gnu").mkdir()
    (root / "Annotations" / "480p" / "gnu").mkdir()
    with pytest.raises(ValueError, match="gnu: got no frames"):
        read_davis(root)
    empty = youtube_vos(tmp_path / "b")
    for path in (empty / "Annotations" / "0a1b").iterdir():
        write_labels(path, labels(), overwrite=True)
    with pytest.raises(ValueError, match="0a1b: got no labelled object"):
        _ = read_youtube_vos(empty)[0].given


def test_palette_png(tmp_path: Path) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = tmp_path / "new" / "labels.png"
    write_labels(path, array)
    with Image.open(path) as image:
        assert image.mode == "P" and list(image.getpalette()[:12]) == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert PALETTE[255].tolist() == [224, 224, 192] and len({tuple(color) for color in PALETTE}) == 256
    assert np.array_equal(read_labels(path), array)
    assert np.array_equal(read_frame(path), PALETTE[array])
    with pytest.raises(ValueError, match="exists; pass overwrite"):
        write_labels(path, array)
    write_labels(path, array[:1], overwrite=True)
    assert read_labels(path).shape == (1, 32) and [p.name for p in path.parent.iterdir()] == ["labels.png"]
    for wrong in (array[None], array * 0.5, array.astype(int) + 1, array.astype(int) - 1):
        with pytest.raises(ValueError, match="labels must be integers from 0 to 255"):
            write_labels(tmp_path / "wrong.png", wrong)
    assert not (tmp_path / "wrong.png").exists()


def test_synthetic_clips_depend_on_the_seed_alone() -> None:
    a, b = SyntheticClip(3), SyntheticClip(3)
    backwards = [b.frame(t) for t in reversed(range(len(b)))][::-1]
    assert all(np.array_equal(a.frame(t), frame) for t, frame in enumerate(backwards))
    assert np.array_equal(a.labels(7), b.labels(7))
    assert not np.array_equal(a.frame(0), SyntheticClip(4).frame(0))
    assert not np.array_equal(a.frame(0), a.frame(1))


def test_synthetic_masks_are_exact_and_shapes_move_and_hide() -> None:
    config = SyntheticConfig(frames=10, height=64, width=96, objects=2, look_alikes=1, distractors=1, bars=1)
    clip = SyntheticClip(1, config)
    assert set(clip.objects) == {1, 2} and clip.frame(0).shape == (64, 96, 3)
    instances = np.stack([clip.instances(t) for t in range(10)])
    assert set(map(int, np.unique(instances))) == {0, 1, 2, 3, 4, 5}
    assert np.array_equal(clip.labels(4), np.where(instances[4] <= 2, instances[4], 0))
    centers = [np.argwhere(frame == 1).mean(0) for frame in instances if (frame == 1).any()]
    assert np.hypot(*(centers[-1] - centers[0])) > 3
    # Something passes behind something: of some shape less is seen than before, and then the picture there is another's.
    areas = np.stack([(instances == k).sum((1, 2)) for k in (1, 2, 3, 4)])
    assert (areas.min(1) < 0.8 * areas.max(1)).any()
    # Exactness: a pixel that belongs to a shape all along the way of a plain background would differ from it.
    plain = SyntheticClip(1, config)
    plain._drawn = ([], *clip._drawn[1:])
    same = np.abs(clip.frame(5).astype(int) - plain.frame(5)).sum(-1) == 0
    assert not same[(instances[5] > 0) & (instances[5] < 5)].mean() > 0.1
    assert same[instances[5] == 0].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": 0}, "objects must be 1 or more"),
        ({"bars": -1}, "bars must be 0 or more"),
        ({"look_alikes": 4}, "look_alikes must be at most objects, 3; got 4"),
        ({"distractors": 200}, "at most 100 shapes"),
    ],
)
def test_wrong_synthetic_configs(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**options)


def test_wrong_synthetic_seeds_and_frames() -> None:
    with pytest.raises(ValueError, match="seed must be"):
        SyntheticClip(-1)
    with pytest.raises(IndexError, match=r"t must be in \[0, 24\)"):
        SyntheticClip(0).frame(24)


@pytest.mark.skipif(not DAVIS_2016.is_dir(), reason="no DAVIS 2016 in ../shared/data")
def test_real_davis_2016() -> None:
    clips = {clip.name: clip for clip in read_davis(DAVIS_2016, year=2016)}
    assert len(clips) == 7 and len(clips["libby"]) == 49 and clips["libby"].size == (480, 854)
    assert set(np.unique(clips["libby"].labels(10))) == {0, 1}


def test_docstring_examples() -> None:
    results = doctest.testmod(synthetic)
    assert results.failed == 0 and results.attempted > 0


def test_hidden_files_are_none_of_the_data(tmp_path: Path) -> None:
    """macOS writes ._NAME beside each file on other systems' disks."""
    davis_2017(tmp_path)
    for path in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png"), *(tmp_path / "JPEGImages" / "480p").iterdir()]:
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "JPEGImages" / "480p" / ".AppleDouble").mkdir()
    clips = read_davis(tmp_path, split=None)
    assert [clip.name for clip in clips] == ["ant", "cow"] and [len(clip) for clip in clips] == [4, 4]
    assert clips[0].given == {0: (1, 2)}


def test_another_layout_is_hinted_at(tmp_path: Path) -> None:
    save_frame(tmp_path / "JPEGImages" / "cow" / "00000.jpg")
    with pytest.raises(
        ValueError, match=r"480p: no such folder; resolution None .--resolution none. reads .*, which has cow"
    ):
        read_davis(tmp_path, split=None)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("\ufeffcow\n", encoding="utf-8")
    write_labels(tmp_path / "Annotations" / "cow" / "00000.png", labels(1))
    (clip,) = read_davis(tmp_path, resolution=None)
    assert clip.name == "cow"
