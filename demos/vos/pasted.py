"""Semi-synthetic clips: objects of some clips, with their masks, pasted onto another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels


class PastedClip(Clip):
    """A clip with the objects of other clips in front of its own.

    Args:
        base: the clip behind; its labels keep their numbers.
        others: clips with labels in every frame, each with the shift (y, x) in pixels of its picture. Their objects follow
            in number; the later is in front of the earlier. Frames beyond the shortest clip are left out.
        name: of the result; made from those of the parts if None.

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
        self.base, self.others = base, list(others)
        self.name = "+".join([base.name, *(clip.name for clip, _ in others)]) if name is None else name
        self._counts = [max(clip.objects) for clip in (base, *(clip for clip, _ in others))]
        if sum(self._counts) > 254:
            raise ValueError(f"{self.name}: got {sum(self._counts)} objects, wanted 254 at most")

    def __len__(self) -> int:
        return min(len(self.base), *(len(clip) for clip, _ in self.others))

    def frame(self, t: int) -> Frame:
        return self._compose(t)[0]

    def labels(self, t: int) -> Labels:
        return self._compose(t)[1]

    def _compose(self, t: int) -> tuple[Frame, Labels]:
        frame, labels = self.base.frame(t).copy(), _labels(self.base, t).copy()
        start = self._counts[0]
        for (clip, shift), count in zip(self.others, self._counts[1:], strict=True):
            moved = _shifted(_labels(clip, t), shift)
            inside = (moved > 0) & (moved < 255)
            frame[inside] = _shifted(clip.frame(t), shift)[inside]
            labels[inside] = moved[inside] + start
            start += count
        return frame, labels


def _labels(clip: Clip, t: int) -> Labels:
    labels = clip.labels(t)
    if labels is None:
        raise ValueError(f"{clip.name}: frame {clip.frame_names[t]} has no labels")
    return labels


def _shifted(picture: Frame, shift: tuple[int, int]) -> Frame:
    """The picture moved by (y, x), with 0 where nothing comes from."""
    result = np.zeros_like(picture)
    height, width = picture.shape[:2]
    y, x = shift
    target = slice(max(0, y), min(height, height + y)), slice(max(0, x), min(width, width + x))
    origin = slice(max(0, -y), min(height, height - y)), slice(max(0, -x), min(width, width - x))
    result[target] = picture[origin]
    return result
