"""Frames of a video file or of a folder of pictures, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from demos.vos.data import listed
from demos.vos.images import FRAME_SUFFIXES, Frame, read_frame

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg itself is silent; what is wrong with a file is said once

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


class Video:
    """Frames in order, read when they are asked for.

    Args:
        path: a video that OpenCV's FFmpeg reads, turned upright as it says, or a folder of pictures, in the order of names.
        most: frames after so many are left out.

    Attributes:
        size: height and width of every frame.
        fps: frames a second; 24 for a folder.
        count: how many frames there should be. Of a video that is what its header says, which need not be true.

    Raises:
        ValueError: no such file or folder, no frames, or what cannot be read as a video.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        if most is not None and most < 1:
            raise ValueError(f"most must be 1 or more; got {most}")
        self.path, self.fps, self._most = path, 24.0, most
        self._pictures: list[Path] = []
        if path.is_dir():
            self._pictures = sorted(one for one in listed(path) if one.suffix.lower() in FRAME_SUFFIXES)
            if not self._pictures:
                raise ValueError(f"{path}: got a folder without pictures, wanted frames ({', '.join(FRAME_SUFFIXES)})")
            self.count = len(self._pictures)
        elif path.is_file():
            capture = self._open()
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if np.isfinite(fps) and 1 <= fps <= 240 else self.fps
            self.count = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
        else:
            raise ValueError(f"{path}: no such file or folder; wanted a video or a folder of frames")
        self.count = self.count if most is None else min(self.count, most)
        self.first = next(self.frames())[1]
        self.size = self.first.shape[0], self.first.shape[1]

    def frames(self, start: int = 0) -> Iterator[tuple[str, Frame]]:
        """Names and pictures, from a frame on.

        Raises:
            ValueError: a picture of another size than the first, or one that cannot be read.
        """
        left = None if self._most is None else max(0, self._most - start)
        for t, (name, frame) in enumerate(islice(self._from(start), left), start=start):
            if t and frame.shape[:2] != self.size:
                raise ValueError(
                    f"{self.path}: got frame {name} of {frame.shape[0]} x {frame.shape[1]}, wanted that of the first, "
                    f"{self.size[0]} x {self.size[1]}"
                )
            yield name, frame

    def _from(self, start: int) -> Iterator[tuple[str, Frame]]:
        if self._pictures:
            for path in self._pictures[start:]:
                yield path.stem, read_frame(path)
            return
        capture = self._open()
        try:
            for _ in range(start):
                capture.grab()
            t = start
            while True:
                there, picture = capture.read()
                if not there:
                    break
                yield f"{t:05d}", cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8)
                t += 1
        finally:
            capture.release()
        if not t:
            raise ValueError(f"{self.path}: got no frame that can be read, wanted a video")

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise ValueError(
                f"{self.path}: cannot be read as a video; wanted one of {', '.join(VIDEO_SUFFIXES)}, or a folder"
            )
        return capture
