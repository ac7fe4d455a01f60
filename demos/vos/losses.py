"""The loss of a batch, pair by pair or through the matching layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from demos.vos.config import TrainConfig
from demos.vos.model import Features, Matching, shrink
from demos.vos.samples import Batch


class Losses(nn.Module):
    """The loss of a batch, by `TrainConfig.loss`.

    "pairs": binary cross-entropy of every template with every proposal, by itself. The logit is a multiple of the unmatched
    cost minus the pair's; the multiple is learnt along. "layer": squared difference of X and the true assignment, and the
    overlap of X P with the true masks, through the matching.

    With a refinement, a mask loss is added: binary cross-entropy and overlap (Dice) of the refined masks with the true ones, in
    the second and the third frame. Its gradient goes through the pasted masks X P and the matching to the features.
    """

    def __init__(self, features: Features, config: TrainConfig) -> None:
        super().__init__()
        self.features, self.config = features, config
        self.matching = Matching(config.matching, features.config)
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, batch: Batch) -> Tensor:
        """A number."""
        B = len(batch.frames)
        with self._autocast(batch):
            flat, levels = self.features.look(batch.frames.flatten(0, 1))
        maps = flat.float().unflatten(0, (B, 3))
        size = maps.shape[-2:]
        templates = shrink(batch.templates.flatten(0, 1), size).unflatten(0, (B, 2))
        proposals = shrink(batch.proposals.flatten(0, 1), size).unflatten(0, (B, 2))
        looks = torch.stack([self.features.pool(maps[:, k], templates[:, k]) for k in (0, 1)], 1)
        if not looks.isfinite().all():
            raise RuntimeError("the features of masks are no longer finite; a lower lr may help")
        X, cost = self._match(looks, templates[:, 1], maps, proposals, batch, 1)
        if self.config.loss == "pairs":
            logits = self.scale * (self.features.config.unmatched_cost - cost)
            there = batch.template_mask[..., None] & batch.proposal_mask[:, 1, None]
            return nn.functional.binary_cross_entropy_with_logits(logits[there], batch.target[there])
        there = batch.template_mask
        distance = (X - batch.target).square().sum(-1)[there].mean()
        pasted = torch.einsum("bnm,bmhw->bnhw", X, proposals[:, 1])[there]
        loss = distance + _dice(pasted, shrink(batch.truth, size)[there])
        if self.features.refinement is None:
            return loss
        first = looks[:, :1].expand_as(looks)
        earlier, _ = self._match(first, templates[:, 0], maps, proposals, batch, 0)
        with self._autocast(batch):
            return loss + self._mask_loss(levels, (earlier, X), batch)

    def terms(self, batch: Batch) -> int:
        """How many the loss of a batch is the mean of: pairs of an object and a proposal, or objects."""
        if self.config.loss == "pairs":
            return int((batch.template_mask.sum(1) * batch.proposal_mask[:, 1].sum(1)).sum())
        return int(batch.template_mask.sum())

    def _autocast(self, batch: Batch) -> torch.autocast:
        return torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=self.config.amp)

    def _match(
        self, looks: Tensor, masks: Tensor, maps: Tensor, proposals: Tensor, batch: Batch, k: int
    ) -> tuple[Tensor, Tensor]:
        """Match in the second (k = 0) or the third (k = 1) frame."""
        seen = self.features.pool(maps[:, k + 1], proposals[:, k])
        X, cost = self.matching(looks, masks, seen, proposals[:, k], batch.template_mask, batch.proposal_mask[:, k])
        return X, cost

    def _mask_loss(self, levels: list[Tensor], assignments: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        refine = self.features.refinement
        assert refine is not None
        there = batch.template_mask
        rows = there.nonzero()[:, 0]
        of_frame = [[level.unflatten(0, (-1, 3))[:, k] for level in levels] for k in range(3)]
        given = batch.templates[:, 0][there].float()
        looks = refine.remember(of_frame[0], rows, given)
        _, state = refine(of_frame[0], rows, given, given, looks)
        before, loss = given, given.new_zeros(())
        for k, (X, truth) in enumerate(zip(assignments, (batch.templates[:, 1], batch.truth), strict=True)):
            with torch.autocast(X.device.type, enabled=False):
                pasted = torch.einsum("bnm,bmhw->bnhw", X, batch.proposals[:, k].to(X.dtype))[there]
            logits, state = refine(of_frame[k + 1], rows, pasted, before, looks, state)
            wanted = truth[there].float()
            before = logits.sigmoid()
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits, wanted) + _dice(before, wanted)
        return loss / 2


def _dice(masks: Tensor, truth: Tensor) -> Tensor:
    """1 - the overlap of masks and truth (N, h, w), the mean."""
    together, both = (masks * truth).sum((1, 2)), masks.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * together + 1) / (both + 1)).mean()
