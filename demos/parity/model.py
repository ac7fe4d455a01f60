"""One SATNet layer, applied along a sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from difflayers import SATNet

OUT = 2
"""Of the layer's variables: the next bit of the sequence, what it returned for the bits before, what it returns now."""


class ParityChain(nn.Module):
    """z_1 = x_1, z_t = layer(x_t, z_{t-1}): the same layer and weights at every step, the last z is the answer.

    Parameters
    ----------
    m, aux, max_iter, eps
        Of the :class:`difflayers.SATNet` layer, which has 3 variables.
    gradient
        What stands for dz_t / dz_{t-1} in the backward pass. ``raw``: the derivative. ``sign``: `growth` times the sign of
        layer(x_t, 1) - layer(x_t, 0), that is, of what a flip of the previous output does. The forward pass and the
        derivative of every z_t with respect to the weights are the same.
    growth
        What the gradient is multiplied by on its way from one step to the one before, if it is that of the sign.
    """

    def __init__(self, m: int, aux: int, max_iter: int, eps: float, *, gradient: str, growth: float) -> None:
        super().__init__()
        given = torch.tensor([True, True, False])
        self.layer = SATNet(3, m, aux, max_iter, eps, input_mask=given, dtype=torch.float32)
        self.gradient, self.growth = gradient, growth

    def forward(self, bits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Probabilities of odd parity, (B,), for bits (B, length)."""
        if self.gradient == "sign" and torch.is_grad_enabled():
            return self._with_signs(bits, generator)
        state = bits[:, 0]
        for bit in bits.T[1:]:
            state = self.step(bit, state, generator=generator)
        return state

    def _with_signs(self, bits: Tensor, generator: torch.Generator | None) -> Tensor:
        slopes = self.growth * self.slopes(generator=generator).sign()
        state = bits[:, 0]
        for bit in bits.T[1:]:
            before = state.detach()
            # The difference is 0; its derivative is what is passed back.
            state = self.step(bit, before, generator=generator) + slopes[bit.long()] * (state - before)
        return state

    def step(self, bit: Tensor, state: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The next state, (B,)."""
        z = torch.stack((bit, state, torch.zeros_like(bit)), 1)
        out: Tensor = self.layer(z, generator=generator)[:, OUT]
        return out

    def slopes(self, *, generator: torch.Generator | None = None) -> Tensor:
        """layer(x, 1) - layer(x, 0) for x = 0 and 1: (2,)."""
        corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], device=next(self.parameters()).device)
        with torch.no_grad():
            out = self.step(corners[:, 0], corners[:, 1], generator=generator)
        return out[1::2] - out[::2]

    def interaction(self, *, generator: torch.Generator | None = None) -> float:
        """How far the output goes up with the state for one value of the bit and down for the other, the smaller of the two.

        0 where it goes the same way for both: the signs of the slopes then say nothing of the bits.
        """
        up, down = self.slopes(generator=generator).tolist()
        return min(abs(up), abs(down)) if up * down < 0 else 0.0

    def draw_weights(self, generator: torch.Generator, *, draws: int) -> None:
        """Draw S anew: of so many random ones that whose :meth:`interaction` is largest.

        No label and no sequence is used. One draw takes S as it comes.
        """
        best, weights = -1.0, self.layer.S.detach().clone()
        for _ in range(draws):
            self.layer.reset_parameters(generator=generator)
            interaction = self.interaction(generator=generator)
            if interaction > best:
                best, weights = interaction, self.layer.S.detach().clone()
        with torch.no_grad():
            self.layer.S.copy_(weights)
