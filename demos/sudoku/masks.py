"""Puzzles made of solved boards in training: random cells given, and decimation as a search does it."""

from __future__ import annotations

import torch
from torch import Tensor

from demos.sudoku.data import encode
from demos.sudoku.model import BitNet

DECIMATED = 1 / 8
"""The share of the blank cells that a round of decimation gives."""


def mask(solutions: Tensor, givens: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return puzzles: of each solution random cells, a random number of them between the two in ``givens``."""
    low, high = givens
    counts = torch.randint(low, high + 1, (len(solutions), 1), generator=generator)
    ranks = torch.rand(solutions.shape, generator=generator).argsort(1).argsort(1)
    return torch.where(ranks < counts, solutions, 0)


@torch.no_grad()
def decimate(net: BitNet, puzzles: Tensor, solutions: Tensor, generator: torch.Generator) -> Tensor:
    """Return puzzles with the most confident of each one's blank cells given too, those that are right."""
    probabilities = net(*encode(puzzles.to(net.device)), generator=generator).cpu()
    best = probabilities.reshape(*puzzles.shape, net.box**2).topk(2)
    blank = puzzles == 0
    confidence = (best.values[..., 0] - best.values[..., 1]).masked_fill(~blank, -1)
    ranks = confidence.argsort(dim=1, descending=True, stable=True).argsort(1)
    chosen = (ranks < (blank.sum(1, keepdim=True) * DECIMATED).ceil()) & (best.indices[..., 0] + 1 == solutions)
    return torch.where(chosen & blank, solutions, puzzles)
