"""What the features are trained on.

A sample is three frames of a clip, the first two perhaps the same: the one an object is given in, the one in which it was last
seen, and the one to match in; with a refinement, which has a memory, objects are matched in the second too. Sample k of a run
is drawn from the seed and k alone, so that a run resumed after any step goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.vos.config import TrainConfig
from demos.vos.data import Clip
from demos.vos.proposals import ProposalSource
from demos.vos.tracking import frames_tensor
from difflayers.metrics import jaccard


@dataclass(frozen=True)
class Batch:
    """Samples, padded to the same numbers of objects and proposals; cut to the smallest frame."""

    frames: Tensor
    """(B, 3, 3, H, W): the given one, the latest look, the one to match in."""
    templates: Tensor
    """(B, 2, n, H, W), bool: true masks in the first two frames."""
    proposals: Tensor
    """(B, 2, m, H, W), bool: in the latter two frames."""
    truth: Tensor
    """(B, n, H, W), bool: true masks in the third frame."""
    template_mask: Tensor
    """(B, n), bool: which templates are there."""
    proposal_mask: Tensor
    """(B, 2, m), bool."""
    target: Tensor
    """(B, n, m), in the third frame: 1 for the proposal with the highest J of the object, if that is 1/2 at least; a row of
    0, hidden, else."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(value.to(device) for value in vars(self).values()))


class Sampler:
    """Draws samples from clips.

    Args:
        clips: with labels in every frame.
        source: of proposals.
        config: of the training.
    """

    def __init__(self, clips: Sequence[Clip], source: ProposalSource, config: TrainConfig) -> None:
        self.clips = [clip for clip in clips if len(clip) > 1]
        if not self.clips:
            raise ValueError("clips must have one of two frames or more; got none")
        self.source, self.config = source, config

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of a step, or every `ranks`-th sample of it, from `rank` on."""
        samples = [
            self._sample(np.random.default_rng((self.config.seed, step, i)))
            for i in range(rank, self.config.batch_size, ranks)
        ]
        n, m = max(len(one[1]) for one in samples), max(len(found) for one in samples for found in one[2])
        height, width = (min(one[0].shape[axis] for one in samples) for axis in (1, 2))
        B = len(samples)
        frames = torch.zeros(B, 3, 3, height, width)
        templates = torch.zeros(B, 2, n, height, width, dtype=torch.bool)
        proposals = torch.zeros(B, 2, m, height, width, dtype=torch.bool)
        truth = torch.zeros(B, n, height, width, dtype=torch.bool)
        template_mask, proposal_mask = torch.zeros(B, n, dtype=torch.bool), torch.zeros(B, 2, m, dtype=torch.bool)
        target = torch.zeros(B, n, m)
        for b, (pictures, masks, found) in enumerate(samples):
            frames[b] = frames_tensor(pictures[:, :height, :width])
            cut = torch.from_numpy(masks[:, :, :height, :width])
            templates[b, :, : len(masks)] = cut[:, :2].transpose(0, 1)
            truth[b, : len(masks)] = cut[:, 2]
            for k, of_frame in enumerate(found):
                proposals[b, k, : len(of_frame)] = torch.from_numpy(of_frame[:, :height, :width])
                proposal_mask[b, k, : len(of_frame)] = True
            template_mask[b, : len(masks)] = True
            target[b, : len(masks), : len(found[1])] = torch.from_numpy(assignment(masks[:, 2], found[1]))
        return Batch(frames, templates, proposals, truth, template_mask, proposal_mask, target)

    def _sample(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Frames (3, H, W, 3), masks of the objects in them (n, 3, H, W), proposals (m, H, W) in the latter two."""
        for _ in range(100):
            clip = self.clips[rng.integers(len(self.clips))]
            last = int(rng.integers(1, len(clip)))
            latest = int(rng.integers(max(0, last - self.config.gap), last))
            first = int(rng.integers(max(0, last - self.config.longest), latest + 1))
            labels = [one for t in (first, latest, last) if (one := clip.labels(t)) is not None]
            if len(labels) < 3:
                continue
            objects = [label for label in np.unique(labels[0]) if label not in (0, 255) and (labels[1] == label).any()]
            found = self.source.propose(clip, latest).masks, self.source.propose(clip, last).masks
            if not objects or not len(found[1]):
                continue
            masks = np.stack([np.stack([one == label for one in labels]) for label in objects])
            return np.stack([clip.frame(t) for t in (first, latest, last)]), masks, found
        raise ValueError("clips: found no object with a second labelled frame and proposals in 100 draws")


def assignment(truth: NDArray[np.bool_], proposals: NDArray[np.bool_], *, least: float = 0.5) -> NDArray[np.float32]:
    """The true assignment of masks (n, H, W) to proposals (m, H, W): the pairs of highest J first, 1/2 at least."""
    J = np.stack([jaccard(np.broadcast_to(mask, proposals.shape), proposals) for mask in truth])
    X = np.zeros(J.shape, dtype=np.float32)
    for index in np.argsort(-J, axis=None, kind="stable"):
        i, j = np.unravel_index(index, J.shape)
        if J[i, j] >= least and truth[i].any() and not X[i].any() and not X[:, j].any():
            X[i, j] = 1
    return X
