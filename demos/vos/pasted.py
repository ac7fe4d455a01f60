"""Semi-synthetic clips: objects of some clips, with their masks, pasted onto another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demos.vos.data import Clip
from demos.vos.images import VOID, Frame, Labels


class PastedClip(Clip):
    """A clip with the objects of other clips in front of its own.

    Args:
        base: the clip behind; its labels keep their numbers.
        others: clips with labels in every frame, each with the shift (y, x) in pixels of its picture. Their objects follow
            in number; the later is in front of the earlier. Frames beyond the shortest clip are left out.
        name: of the result; made from those of the parts and their shifts if None.

    Attributes:
        parts: the clips that it is made of, from the back to the front, each with its shift.

    Raises:
        ValueError: no other clips; pictures of another size; labels that are missing, or more than 254 objects.
    """

    def __init__(self, base: Clip, others: Sequence[tuple[Clip, tuple[int, int]]], *, name: str | None = None) -> None:
        if not others:
            raise ValueError("others must have a clip at least; got none")
        for clip, _ in others:
            if clip.size != base.size:
                raise ValueError(
                    f"others: got {clip.name} of {clip.size[0]} x {clip.size[1]}, wanted the size of {base.name}, "
                    f"{base.size[0]} x {base.size[1]}"
                )
        self.parts = [(base, (0, 0)), *others]
        own_name = "+".join([base.name, *(f"{clip.name}@{y},{x}" for clip, (y, x) in others)])
        self.name = own_name if name is None else name
        self._counts = [max(clip.objects) for clip, _ in self.parts]
        if sum(self._counts) > 254:
            raise ValueError(f"{self.name}: got {sum(self._counts)} objects, wanted 254 at most")

    def __len__(self) -> int:
        return min(len(clip) for clip, _ in self.parts)

    def frame(self, t: int) -> Frame:
        frame, owner = self.parts[0][0].frame(t).copy(), self.owner(t)
        for index, (clip, shift) in enumerate(self.parts[1:], start=1):
            inside = owner == index
            frame[inside] = shifted(clip.frame(t), shift)[inside]
        return frame

    def labels(self, t: int) -> Labels:
        labels, owner = _labels(self.parts[0][0], t).copy(), self.owner(t)
        start = 0
        for index, ((clip, shift), count) in enumerate(zip(self.parts, self._counts, strict=True)):
            if index:
                inside = owner == index
                labels[inside] = shifted(_labels(clip, t), shift)[inside] + start
            start += count
        return labels

    def owner(self, t: int) -> NDArray[np.uint8]:
        """Which part is seen where, (H, W): its place in `parts`."""
        owner = np.zeros(self.parts[0][0].size, dtype=np.uint8)
        for index, (clip, shift) in enumerate(self.parts[1:], start=1):
            moved = shifted(_labels(clip, t), shift)
            owner[(moved > 0) & (moved < VOID)] = index
        return owner


def _labels(clip: Clip, t: int) -> Labels:
    labels = clip.labels(t)
    if labels is None:
        raise ValueError(f"{clip.name}: frame {clip.frame_names[t]} has no labels")
    return labels


def paste_clips(clips: Sequence[Clip], count: int, rng: np.random.Generator) -> list[PastedClip]:
    """Clips of which each has the objects of two others pasted onto it, moved by a fifth of the picture at most.

    Args:
        clips: to paste from, with labels in every frame.
        count: how many to make; they are of different clips, or order of clips.
        rng: what they are drawn from.

    Raises:
        ValueError: fewer than three clips of one size, or too few for so many.
    """
    by_size: dict[tuple[int, int], list[Clip]] = {}
    for clip in clips:
        by_size.setdefault(clip.size, []).append(clip)
    bases = [clip for clip in clips if len(by_size[clip.size]) >= 3]
    if not bases:
        raise ValueError(f"clips: got {len(clips)}, wanted 3 of one size or more to paste from")
    most = sum((len(by_size[clip.size]) - 1) * (len(by_size[clip.size]) - 2) for clip in bases)
    if not 0 <= count <= most:
        raise ValueError(f"count: got {count}, wanted 0 to {most}, as many as can be made of {len(bases)} clips")
    made: dict[str, PastedClip] = {}
    while len(made) < count:
        base = bases[rng.integers(len(bases))]
        partners = [clip for clip in by_size[base.size] if clip is not base]
        limits = np.array(base.size) // 5
        others = []
        for i in rng.choice(len(partners), 2, replace=False):
            y, x = rng.integers(-limits, limits + 1)
            others.append((partners[i], (int(y), int(x))))
        pasted = PastedClip(base, others)
        made.setdefault(pasted.name, pasted)
    return list(made.values())


def shifted(picture: NDArray[Any], shift: tuple[int, int]) -> NDArray[Any]:
    """The picture (H, W, ...) moved by (y, x), with 0 where nothing comes from."""
    result = np.zeros_like(picture)
    height, width = picture.shape[:2]
    y, x = shift
    target = slice(max(0, y), min(height, height + y)), slice(max(0, x), min(width, width + x))
    origin = slice(max(0, -y), min(height, height - y)), slice(max(0, -x), min(width, width - x))
    result[target] = picture[origin]
    return result
