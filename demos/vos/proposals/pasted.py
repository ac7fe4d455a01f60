"""Proposals of clips that are pasted together, from those of their parts."""

from __future__ import annotations

import numpy as np

from demos.vos.data import Clip
from demos.vos.pasted import PastedClip, shifted
from demos.vos.proposals import Proposals, ProposalSource, checked_top


class PastedProposals(ProposalSource):
    """Proposals of pasted clips put together from those of their parts; other clips are passed on.

    Those of the clip behind lose what is hidden by pasted objects. Those of a clip whose objects are pasted move along and
    lose what is not pasted, or hidden by later ones: *semi-synthetic*, and kinder than a detector would be to the outlines of
    pasted objects, not to the pieces that they are in.

    Args:
        source: of the proposals of the parts.
        top: at most so many, the largest.
    """

    def __init__(self, source: ProposalSource, *, top: int = 50) -> None:
        self.source, self.top = source, checked_top(top)

    @property
    def identity(self) -> str:
        return f"{self.source.identity} pasted"

    def propose(self, clip: Clip, t: int) -> Proposals:
        if not isinstance(clip, PastedClip):
            return self.source.propose(clip, t)
        owner = clip.owner(t)
        found = []
        for index, (part, shift) in enumerate(clip.parts):
            proposals = self.source.propose(part, t)
            for mask, score in zip(proposals.masks, proposals.scores, strict=True):
                visible = shifted(mask, shift) & (owner == index)
                if visible.any():
                    found.append((visible, score))
        found.sort(key=lambda entry: (-entry[1], -entry[0].sum()))
        found = found[: self.top]
        masks = np.stack([mask for mask, _ in found]) if found else np.zeros((0, *clip.size), dtype=bool)
        return Proposals(masks, np.array([score for _, score in found], dtype=np.float32))
