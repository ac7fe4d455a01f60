"""Random bit sequences and their parity; no sequence occurs twice, so that those to test on are unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_LENGTH = 62
"""A sequence is drawn as the binary digits of an int64."""


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences."""

    bits: Tensor
    """(B, length), float32: 0 or 1."""
    parity: Tensor
    """(B,), float32: 1 if an odd number of bits is 1. All the supervision there is."""

    def __len__(self) -> int:
        return len(self.parity)

    def __getitem__(self, index: slice | Tensor) -> Sequences:
        return Sequences(self.bits[index], self.parity[index])

    def to(self, device: torch.device | str) -> Sequences:
        """The same on another device."""
        return Sequences(self.bits.to(device), self.parity.to(device))


def draw_split(length: int, train: int, test: int, seed: int) -> tuple[Sequences, Sequences]:
    """Draw sequences to train and to test on, all different; they depend on the length and the seed alone."""
    if not 2 <= length <= MAX_LENGTH:
        raise ValueError(f"length: got {length}, wanted 2 to {MAX_LENGTH}")
    if train < 1 or test < 1:
        raise ValueError(f"train, test: got {train} and {test}, wanted 1 or more of each")
    if train + test > 2**length:
        raise ValueError(
            f"train, test: got {train} + {test} sequences, wanted at most {2**length}: there are no more of length {length}"
        )
    numbers = np.random.default_rng([seed, length]).choice(2**length, train + test, replace=False)
    bits = (numbers[:, None] >> np.arange(length)) & 1
    sequences = Sequences(torch.from_numpy(bits).float(), torch.from_numpy(bits.sum(1) % 2).float())
    return sequences[:train], sequences[train:]
