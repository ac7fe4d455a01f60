"""Refinement: from pasted masks X P and the picture to final masks, by four ConvLSTM stages, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

State = list[tuple[Tensor, Tensor]]
"""For each stage its hidden and its cell state, both (N, width, h, w)."""

_SHARPNESS = 5.0
"""Of the comparison with what object and background look like."""

_LEAST = 0.1
"""Pasted masks are squeezed to be at least so far from 0 and 1; a clamp would have no gradient there. Nearer to 0 and 1 their
logits outweigh all that the stages learn to add in the first hundreds of steps, and no pixel changes sides."""

_REACH = 8.0
"""What the stages add is so many times their last convolution. Hidden states are within -1 and 1: without this, Adam's steps
are too short to overrule a pasted mask."""


class ConvLSTMCell(nn.Module):
    """A convolutional LSTM cell (Shi et al., NeurIPS 2015, equation 3, without peepholes).

    Args:
        inputs: channels of the input.
        width: channels of the state.

    Shapes:
        x (N, inputs, h, w) and a state of two (N, width, h, w), None for zeros, to the next state.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(inputs + width, 4 * width, 3, padding=1)
        assert self.gates.bias is not None
        with torch.no_grad():
            self.gates.bias[width : 2 * width] = 1.0  # remember, to begin with

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next state: hidden, cell."""
        if state is None:
            zero = x.new_zeros(len(x), self.width, *x.shape[-2:])
            state = zero, zero
        hidden, cell = state
        i, f, o, g = self.gates(torch.cat((x, hidden), 1)).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class Refinement(nn.Module):
    """The decoder of DMM-Net (Zeng et al., arXiv 1909.12471): ConvLSTM stages with skips from the backbone.

    Each stage sees the backbone's map of its scale, the pasted mask, the object's mask in the frame before, and the stage
    below. Beyond the paper, it sees where the picture looks like the object and where like its background in the frame that the
    object was given in: the cosines of every pixel of the finest map, after a convolution, with the means in and outside of
    that mask (`remember`). What comes out is added to the logit of the pasted mask, and is 0 before training: an untrained
    refinement changes nothing. Objects are refined one by one, with the same weights.

    Args:
        channels: of the backbone's maps, coarse to fine; the paper has four.
        width: channels of every stage.

    Shapes:
        levels: maps (B, channels[s], h_s, w_s), coarse to fine. rows (N,), int64: which of the B pictures an object is in.
        pasted and before (N, H, W), in [0, 1]; looks from `remember`. To logits (N, H, W) and the state for the next frame.

    Example:
        >>> import torch
        >>> from demos.vos.refine import Refinement
        >>> refine = Refinement((8, 8, 8, 8), width=4)
        >>> levels = [torch.rand(1, 8, 6 * 2**s, 10 * 2**s) for s in range(4)]
        >>> pasted = torch.rand(3, 96, 160)
        >>> rows = torch.zeros(3, dtype=torch.int64)
        >>> looks = refine.remember(levels, rows, pasted)
        >>> logits, state = refine(levels, rows, pasted, pasted, looks)
        >>> logits.shape, len(state)
        (torch.Size([3, 96, 160]), 4)
    """

    def __init__(self, channels: Sequence[int], *, width: int = 16) -> None:
        super().__init__()
        self.skips = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1), nn.GroupNorm(1, width), nn.ReLU()) for count in channels
        )
        self.cells = nn.ModuleList(ConvLSTMCell(width + 4 + (width if s else 0), width) for s in range(len(channels)))
        self.pixels = nn.Sequential(nn.Conv2d(channels[-1], width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def remember(self, levels: Sequence[Tensor], rows: Tensor, masks: Tensor) -> Tensor:
        """What objects and their backgrounds look like: masks (N, H, W) in the pictures they are given in, to (N, 2, width)."""
        pixels = self.pixels(levels[-1])[rows].flatten(2).float()
        inside = nn.functional.interpolate(masks[:, None], size=levels[-1].shape[-2:], mode="area").flatten(2)
        weights = torch.cat((inside, 1 - inside), 1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-6) @ pixels.mT

    def forward(
        self,
        levels: Sequence[Tensor],
        rows: Tensor,
        pasted: Tensor,
        before: Tensor,
        looks: Tensor,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """One frame."""
        pixels = nn.functional.normalize(self.pixels(levels[-1])[rows].float(), dim=1)
        alike = torch.einsum("nkc,nchw->nkhw", nn.functional.normalize(looks, dim=-1), pixels)
        alike = (_SHARPNESS * alike).softmax(1)
        masks = torch.stack((pasted, before), 1)
        following: State = []
        below: Tensor | None = None
        for s, (level, skip, cell) in enumerate(zip(levels, self.skips, self.cells, strict=True)):
            size = level.shape[-2:]
            parts = [skip(level)[rows]]
            parts += [nn.functional.interpolate(maps, size=size, mode="area") for maps in (masks, alike)]
            if below is not None:
                parts.append(nn.functional.interpolate(below, size=size, mode="bilinear"))
            following.append(cell(torch.cat(parts, 1), None if state is None else state[s]))
            below = following[-1][0]
        assert below is not None
        change = _REACH * nn.functional.interpolate(self.last(below), size=pasted.shape[-2:], mode="bilinear")[:, 0]
        # X P may pass 1 by a little, as rows of X are within the projections' tolerance.
        return (_LEAST + (1 - 2 * _LEAST) * pasted.clamp(0, 1)).logit() + change.float(), following
