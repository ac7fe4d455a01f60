"""Clips in the layouts of DAVIS 2016 and 2017, YouTube-VOS and SegTrack v2, read when they are looked at.

A `Clip` is a list of frames, some of them with labels, and says which objects are given where. The readers look at names
of files only; pictures are read one at a time.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from demos.vos.images import FRAME_SUFFIXES, LABEL_SUFFIXES, VOID, Frame, Labels, read_frame, read_labels


class Clip(ABC):
    """One video with labels, of all its frames or of some."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """How many frames."""

    @abstractmethod
    def frame(self, t: int) -> Frame:
        """Frame t, uint8 (H, W, 3)."""

    @abstractmethod
    def labels(self, t: int) -> Labels | None:
        """The labels of frame t, uint8 (H, W), None if it has none."""

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width, of all frames."""
        height, width = self.frame(0).shape[:2]
        return height, width

    @cached_property
    def given(self) -> dict[int, tuple[int, ...]]:
        """By frame, the objects whose masks are given to the tracker there: those that appear in it first."""
        known: set[int] = set()
        appearing = {}
        for t in range(len(self)):
            labels = self.labels(t)
            if labels is not None and (new := set(map(int, np.unique(labels))) - known - {0, VOID}):
                appearing[t] = tuple(sorted(new))
                known |= new
        if not appearing:
            raise ValueError(f"{self.name}: got no labelled object in any frame, wanted one at least")
        return appearing

    @property
    def objects(self) -> tuple[int, ...]:
        """The labels of all objects."""
        return tuple(sorted(label for labels in self.given.values() for label in labels))

    @property
    def frame_names(self) -> Sequence[str]:
        """What the files of frame t are called, without suffix."""
        return [f"{t:05d}" for t in range(len(self))]


class FileClip(Clip):
    """A clip of image files.

    Args:
        name: of the clip.
        frames: the files of the frames, in order.
        annotations: by stem of the frame's name, what reads its labels, given the size of the frame.

    Raises:
        ValueError: no frames; labels without a frame.
    """

    def __init__(
        self, name: str, frames: Sequence[Path], annotations: dict[str, Callable[[tuple[int, int]], Labels]]
    ) -> None:
        if not frames:
            raise ValueError(f"{name}: got no frames, wanted one at least")
        self.name = name
        self.paths = list(frames)
        self._stems = [path.stem for path in frames]
        self._annotations = annotations
        if lost := sorted(set(annotations) - set(self._stems)):
            raise ValueError(f"{name}: frame {lost[0]} is missing in {frames[0].parent}, though it has labels")

    def __len__(self) -> int:
        return len(self.paths)

    def frame(self, t: int) -> Frame:
        picture = read_frame(self.paths[t])
        if t and picture.shape[:2] != self.size:
            raise ValueError(
                f"{self.paths[t]}: got a frame of {picture.shape[0]} x {picture.shape[1]}, wanted that of the first, "
                f"{self.size[0]} x {self.size[1]}"
            )
        return picture

    def labels(self, t: int) -> Labels | None:
        read = self._annotations.get(self._stems[t])
        return None if read is None else read(self.size)

    @property
    def frame_names(self) -> Sequence[str]:
        return self._stems


class YouTubeVosClip(FileClip):
    """A clip that knows the categories of its objects.

    Args:
        name, frames, annotations: see `FileClip`.
        categories: by label; empty where ``meta.json`` has none.
    """

    def __init__(
        self,
        name: str,
        frames: Sequence[Path],
        annotations: dict[str, Callable[[tuple[int, int]], Labels]],
        categories: dict[int, str],
    ) -> None:
        super().__init__(name, frames, annotations)
        self.categories = categories


def read_davis(
    root: str | Path, *, year: int = 2017, split: str | None = "val", resolution: str | None = "480p"
) -> list[FileClip]:
    """The clips of DAVIS 2016 or 2017.

    ``JPEGImages/RESOLUTION/CLIP/*.jpg``, ``Annotations/RESOLUTION/CLIP/*.png`` and ``ImageSets/YEAR/SPLIT.txt``, a clip a line.

    Args:
        root: the folder of those three.
        year: 2016: one object, of whatever is not 0 in the annotations. 2017: labels as they are.
        split: None for every clip there is; no ``ImageSets`` is needed then.
        resolution: None if the layout has no such folder.

    Raises:
        ValueError: files or folders that are not there; a gap in the numbers of the frames; labels without a frame.
    """
    if year not in (2016, 2017):
        raise ValueError(f"year must be 2016 or 2017; got {year}")
    root = Path(root)
    pictures, annotations = root / "JPEGImages", root / "Annotations"
    if resolution is not None:
        if pictures.is_dir() and not (pictures / resolution).is_dir():
            raise ValueError(
                f"{pictures / resolution}: no such folder; resolution None (--resolution none) reads {pictures}/CLIP, "
                f"which has {', '.join(sorted(entry.name for entry in listed(pictures))[:3]) or 'nothing'}"
            )
        pictures, annotations = pictures / resolution, annotations / resolution
    names = _names_in(root / "ImageSets" / str(year) / f"{split}.txt") if split is not None else _folders(pictures)
    clips = []
    for name in names:
        frames = _files(pictures / name, FRAME_SUFFIXES)
        _check_numbers(frames)
        readers = {path.stem: _reader(path, binary=year == 2016) for path in _files(annotations / name, LABEL_SUFFIXES)}
        clips.append(FileClip(name, frames, readers))
    return clips


def read_youtube_vos(root: str | Path, *, names: Sequence[str] | None = None) -> list[YouTubeVosClip]:
    """The clips of one split of YouTube-VOS.

    ``JPEGImages/CLIP/*.jpg``, ``Annotations/CLIP/*.png`` (every fifth frame, or only those in which objects appear) and
    ``meta.json``, which may be missing, or say nothing of categories, as that of the validation set.

    Args:
        root: the folder of the split, such as ``train`` or ``valid``.
        names: of the clips; all if None.

    Raises:
        ValueError: files or folders that are not there; labels without a frame; a ``meta.json`` of another form.
    """
    root = Path(root)
    categories = read_categories(root / "meta.json") if (root / "meta.json").is_file() else {}
    clips = []
    for name in _folders(root / "Annotations") if names is None else names:
        frames = _files(root / "JPEGImages" / name, FRAME_SUFFIXES)
        readers = {path.stem: _reader(path) for path in _files(root / "Annotations" / name, LABEL_SUFFIXES)}
        clips.append(YouTubeVosClip(name, frames, readers, categories.get(name, {})))
    return clips


def read_categories(path: Path) -> dict[str, dict[int, str]]:
    """By clip and label, the categories that a ``meta.json`` of YouTube-VOS knows.

    Raises:
        ValueError: no such file, or one of another form.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {
            name: {
                int(label): str(entry["category"]) for label, entry in video["objects"].items() if "category" in entry
            }
            for name, video in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted videos and their objects; {error!r}") from None


def read_segtrack(root: str | Path, *, names: Sequence[str] | None = None) -> list[FileClip]:
    """The clips of SegTrack v2.

    ``JPEGImages/CLIP/*`` and ``GroundTruth/CLIP/*`` for one object, ``GroundTruth/CLIP/1/*``, ``2/*`` and so on for several,
    each a black and white image; lighter than 127 is inside. Where objects overlap, the one with the higher number is seen.

    Args:
        root: the folder of those two.
        names: of the clips; all if None.

    Raises:
        ValueError: files or folders that are not there; a mask without a frame.
    """
    root = Path(root)
    clips = []
    for name in _folders(root / "JPEGImages") if names is None else names:
        frames = _files(root / "JPEGImages" / name, FRAME_SUFFIXES)
        truth = root / "GroundTruth" / name
        if not truth.is_dir():
            raise ValueError(f"{truth}: no such folder")
        parts = sorted((path for path in listed(truth) if path.is_dir()), key=lambda path: (len(path.name), path.name))
        by_stem: dict[str, list[tuple[int, Path]]] = {}
        for number, folder in enumerate(parts or [truth], start=1):
            for path in _files(folder, (*LABEL_SUFFIXES, ".jpg")):
                by_stem.setdefault(path.stem, []).append((number, path))
        clips.append(FileClip(name, frames, {stem: _merged(masks) for stem, masks in by_stem.items()}))
    return clips


def _reader(path: Path, *, binary: bool = False) -> Callable[[tuple[int, int]], Labels]:
    def read(size: tuple[int, int]) -> Labels:
        labels = read_labels(path, size)
        return (labels != 0).astype(np.uint8) if binary else labels

    return read


def _merged(masks: list[tuple[int, Path]]) -> Callable[[tuple[int, int]], Labels]:
    def read(size: tuple[int, int]) -> Labels:
        labels = np.zeros(size, dtype=np.uint8)
        for number, path in masks:
            mask = read_frame(path).mean(-1) > 127  # some of the files are RGB
            if mask.shape != size:
                raise ValueError(
                    f"{path}: got a mask of {mask.shape[0]} x {mask.shape[1]}, wanted that of the frame, {size[0]} x {size[1]}"
                )
            labels[mask] = number
        return labels

    return read


def _names_in(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it lists the clips of the split")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path}: got no names of clips, wanted one a line")
    return names


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    names = sorted(entry.name for entry in listed(path) if entry.is_dir())
    if not names:
        raise ValueError(f"{path}: got no folders, wanted one a clip")
    return names


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    return sorted(entry for entry in listed(path) if entry.suffix.lower() in suffixes)


def listed(folder: Path) -> list[Path]:
    """What a folder has, hidden files left out: macOS writes ``._NAME`` beside each file on other systems' disks."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _check_numbers(frames: list[Path]) -> None:
    """Frames are numbered in equal steps."""
    if len(frames) < 2 or not all(path.stem.isdigit() for path in frames):
        return
    numbers = [int(path.stem) for path in frames]
    step = min(b - a for a, b in pairwise(numbers))
    for path, (a, b) in zip(frames, pairwise(numbers), strict=False):
        if b != a + step:
            name = f"{a + step:0{len(path.stem)}d}{path.suffix}"
            raise ValueError(f"{path.parent}: frame {name} is missing, between {a} and {b}")
