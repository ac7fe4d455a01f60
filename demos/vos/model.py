"""The network: features of masks by pooling over a feature pyramid, and the matching of templates to proposals."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from demos.vos.config import KINDS, Kind, ModelConfig
from demos.vos.refine import Refinement
from difflayers import DMMMatching, MaskMatchingCost, QuadraticMatching, functional

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(nn.Module):
    """Features f of masks: the mean and the deviation, under the mask, of a feature pyramid's finest map and of the colours,
    and the mask's area, by two linear layers whose results are added. Without the area a speck, whose mean can be anything,
    is like many an object.

    Args:
        config: of the model.
        weights: torchvision's weights of the backbone ("DEFAULT" for those of ImageNet, downloaded by it), None for
            random ones. "small" has none.

    Shapes:
        frames (B, 3, H, W) in [0, 1] and masks (B, n, H, W), bool or in [0, 1], to (B, n, dimension).

    Example:
        >>> import torch
        >>> from demos.vos.model import Features, ModelConfig
        >>> f = Features(ModelConfig(dimension=16))
        >>> f(torch.rand(2, 3, 48, 64), torch.rand(2, 5, 48, 64) > 0.5).shape
        torch.Size([2, 5, 16])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, *, weights: str | None = None) -> None:
        super().__init__()
        self.config = config
        if config.backbone == "small":
            if weights is not None:
                raise ValueError(f"weights: the small backbone has none; got {weights}")
            self.body: nn.Module = _SmallPyramid()
            channels, levels = _SmallPyramid.CHANNELS, _SmallPyramid.LEVELS
        else:
            from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

            self.body = resnet_fpn_backbone(backbone_name=config.backbone, weights=weights, trainable_layers=5)
            channels, levels = 256, (256,) * 4
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.head = nn.Sequential(nn.LayerNorm(2 * (channels + 3)), nn.Linear(2 * (channels + 3), config.dimension))
        self.area = nn.Linear(1, config.dimension, bias=False)
        self.refinement = Refinement(levels, width=config.refine_width) if config.refine else None

    def maps(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, channels, h, w): the level of a quarter of the size, and the colours."""
        return self.look(frames)[0]

    def look(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The `maps`, and the four levels for the refinement, coarse to fine."""
        if (side := min(frames.shape[-2:])) > self.config.shorter:
            size = [round(length * self.config.shorter / side) for length in frames.shape[-2:]]
            frames = nn.functional.interpolate(frames, size=size, mode="area")
        frames = (frames - self.mean) / self.std
        found = self.body(frames)
        levels = [found[name] for name in "3210"] if isinstance(found, dict) else found
        quarter = levels[3] if isinstance(found, dict) else levels[2]
        colors = nn.functional.interpolate(frames, size=quarter.shape[-2:], mode="area")
        return torch.cat((quarter, colors), 1), levels

    def pool(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Maps (B, channels, h, w) and masks (B, n, h, w) in [0, 1], see `shrink`, to (B, n, dimension).

        A mask of nothing has means and deviations of zero.
        """
        share = masks.flatten(2).mean(-1, keepdim=True)
        weights = masks.flatten(2) / masks.flatten(2).sum(-1, keepdim=True).clamp_min(1e-6)
        flat = maps.flatten(2).mT
        mean = weights @ flat
        deviation = (weights @ flat.square() - mean.square()).clamp_min(1e-6).sqrt()
        size = (share.clamp_min(1e-5).log() + 5) / 2  # 0 for an object of 0.7% of the picture
        return self.head(torch.cat((mean, deviation), -1)) + self.area(size)

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Both in one."""
        maps = self.maps(frames)
        return self.pool(maps, shrink(masks, maps.shape[-2:]))


class _SmallPyramid(nn.Module):
    """Four stages of strides 2, 4, 8 and 16, and the way back up to 4.

    (B, 3, H, W) to four maps (B, LEVELS[s], h, w) of strides 16, 8, 4, and 2, the last without what comes from above.
    """

    CHANNELS = 48
    LEVELS = (CHANNELS, CHANNELS, CHANNELS, 16)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, self.CHANNELS, 1) for width in widths[2:])

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        ups = [self.laterals[2](levels[3])]
        for lateral, level in ((self.laterals[1], levels[2]), (self.laterals[0], levels[1])):
            ups.append(lateral(level) + nn.functional.interpolate(ups[-1], size=level.shape[-2:], mode="nearest"))
        return [*ups, levels[0]]


def shrink(masks: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Masks (B, n, H, W), bool or in [0, 1], to (B, n, h, w), float32: how much of each cell they cover."""
    if not masks.shape[1]:
        return masks.new_zeros((*masks.shape[:2], *size), dtype=torch.float32)
    return nn.functional.interpolate(masks.float(), size=tuple(size), mode="area")


class Method(NamedTuple):
    """One way to track."""

    features: Features
    matching: Matching
    refined: bool = False
    """Whether the features' refinement has the last word."""


class Matching(nn.Module):
    """From templates and proposals to an assignment, by one of four methods.

    Args:
        kind: ``"dmm"`` and ``"quadratic"`` are differentiable, ``"hungarian"`` and ``"greedy"`` are not.
        config: of the model; lam and unmatched_cost are used.

    Shapes:
        template features (..., K, n, d), K looks at each object, template masks (..., n, h, w), proposal features
        (..., m, d), proposal masks (..., m, h, w) to X and cost, both (..., n, m). The cost is the mean over the looks.
    """

    def __init__(self, kind: Kind, config: ModelConfig) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind}")
        self.kind: Kind = kind
        self.config = config
        self.cost = MaskMatchingCost(config.lam)
        self.layer: nn.Module | None = None
        if kind == "dmm":
            # Costs near -1 need more projections than the published five: see "Which one should I use?" in the docs.
            self.layer = DMMMatching(n_grad=40, n_proj=20, step_size=0.3, unmatched_cost=config.unmatched_cost)
        elif kind == "quadratic":
            self.layer = QuadraticMatching(gamma=0.1, unmatched_cost=config.unmatched_cost)

    def forward(
        self,
        template_features: Tensor,
        template_masks: Tensor,
        proposal_features: Tensor,
        proposal_masks: Tensor,
        template_mask: Tensor | None = None,
        proposal_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """X and the cost, (..., n, m); `template_mask` (..., n) and `proposal_mask` (..., m) say which are there."""
        cost = self.cost(
            template_features,
            template_masks.unsqueeze(-4),
            proposal_features.unsqueeze(-3),
            proposal_masks.unsqueeze(-4),
        ).mean(-3)
        if not cost.shape[-1]:
            return torch.zeros_like(cost), cost
        if self.layer is not None:
            return self.layer(cost, template_mask, proposal_mask), cost
        method = functional.hungarian if self.kind == "hungarian" else functional.greedy_matching
        return method(cost, template_mask, proposal_mask, unmatched_cost=self.config.unmatched_cost), cost
