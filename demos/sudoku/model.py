"""The network: one SATNet layer over the bits of a board."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from demos.sudoku.boards import check_box
from demos.sudoku.config import TrainConfig
from demos.sudoku.data import decode, encode
from difflayers import SATNet

_LOSS_FLOOR = 1e-6


class SudokuNet(nn.Module):
    """A SATNet layer with one variable for each of the ``N ** 3`` bits of a board.

    Parameters
    ----------
    box
        Box size: 2 for 4x4 boards, 3 for 9x9 boards.
    aux, m, k, max_iter, eps
        Those of :class:`difflayers.SATNet`.
    """

    def __init__(
        self, box: int, *, aux: int, m: int, k: int | None = None, max_iter: int = 40, eps: float = 1e-4
    ) -> None:
        super().__init__()
        self.box = check_box(box)
        self.layer = SATNet(box**6, m, aux, max_iter, eps, k=k)

    @classmethod
    def from_config(cls, config: TrainConfig) -> SudokuNet:
        """Build it with initial weights drawn from the run's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(config.box, aux=config.aux, m=config.m, k=config.k, max_iter=config.max_iter, eps=config.eps)

    def forward(self, bits: Tensor, given: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Complete the bits.

        Parameters
        ----------
        bits
            Of shape (B, N ** 3), in [0, 1].
        given
            bool, of that shape. Given bits pass through.
        generator
            Where the layer's random starts are drawn from.

        Returns
        -------
        The probability of each bit, of that shape.
        """
        out: Tensor = self.layer(bits, given, generator=generator)
        return out

    @torch.no_grad()
    def predict(self, puzzles: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Complete puzzles of shape (B, N ** 2): each blank cell gets its most probable digit."""
        return decode(self(*encode(puzzles), generator=generator), puzzles)


def bit_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over all bits, given ones included, as in the SATNet paper.

    Probabilities are first kept away from 0 and 1, where the logarithm has no value.
    """
    return nn.functional.binary_cross_entropy(probabilities.clamp(_LOSS_FLOOR, 1 - _LOSS_FLOOR), target)
