"""Mask proposals: what they are. Where they come from: `files`, `noisy`, `embedded`, `maskrcnn`, `pasted`.

A source gives the proposals of one frame of a clip; which object they show, if any, it does not say, and their order means
nothing. Masks are bool (m, H, W), scores float32 (m,), best first; m may be 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels


@dataclass(frozen=True)
class Proposals:
    """Of one frame."""

    masks: NDArray[np.bool_]
    """(m, H, W)."""
    scores: NDArray[np.float32]
    """(m,), falling."""

    def __len__(self) -> int:
        return len(self.scores)

    def top(self, count: int) -> Proposals:
        """The first `count`."""
        return Proposals(self.masks[:count], self.scores[:count])

    def after(self, masks: NDArray[np.bool_]) -> Proposals:
        """With other masks before them, of score 1."""
        if not len(masks):
            return self
        scores = np.concatenate((np.ones(len(masks), dtype=np.float32), self.scores))
        return Proposals(np.concatenate((masks, self.masks)), scores)


class ProposalSource(ABC):
    """Gives the proposals of any frame."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the proposals depend on, the clip aside: a cache of something else is not used."""

    @abstractmethod
    def propose(self, clip: Clip, t: int) -> Proposals:
        """The proposals of frame t."""

    def follower(self) -> Following | None:
        """What makes further proposals from a tracker's own masks, one for each tracker; None if nothing does."""
        return None


class Following(Protocol):
    """Proposals that depend on what a tracker has found."""

    def keep(self, frame: Frame, labels: Labels) -> None:
        """What the tracker says of a frame."""

    def propose(self, frame: Frame) -> tuple[list[int], NDArray[np.bool_]]:
        """Some of the objects, and a mask of each in the next frame, (n, H, W)."""


def checked_top(top: int) -> int:
    if top < 1:
        raise ValueError(f"top must be 1 or more; got {top}")
    return top
