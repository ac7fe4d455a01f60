"""The instances that the cases run on: the 9x9 Sudoku size, with fresh or trained weights."""

from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from demos.sudoku.data import encode
from demos.sudoku.generator import generate
from difflayers import SATNet

WEIGHTS = Path(__file__).parents[2] / "demos" / "sudoku" / "results" / "original-9x9" / "checkpoint.safetensors"


class Instance(NamedTuple):
    """One batch: S (N, m), z and given (B, n), the full bits (B, n), and k."""

    S: Tensor
    z: Tensor
    given: Tensor
    bits: Tensor
    k: int


def random_instance(B: int = 40, n: int = 729, aux: int = 300, m: int = 600, k: int = 32, seed: int = 0) -> Instance:
    """Fresh weights; bits at random, 4 of 9 variables given in runs of 9."""
    generator = torch.Generator().manual_seed(seed)
    layer = SATNet(n, m, aux)
    layer.reset_parameters(generator=generator)
    bits = (torch.rand(B, n, generator=generator) < 1 / 9).float()
    given = (torch.rand(B, -(-n // 9), generator=generator) < 4 / 9).repeat_interleave(9, 1)[:, :n]
    return Instance(layer.S.detach(), bits * given, given, bits, k)


def sudoku_instance(*, trained: bool, B: int = 40, k: int = 32, seed: int = 0) -> Instance:
    """B boards with 36 given cells, and the weights of a fresh layer or of the trained one that the demo ships."""
    boards = generate(3, 36, B, seed)
    z, given = encode(torch.from_numpy(boards.puzzles))
    bits, _ = encode(torch.from_numpy(boards.solutions))
    S = safetensors.torch.load_file(WEIGHTS)["model.layer.S"] if trained else random_instance(1, seed=seed).S
    return Instance(S, z, given, bits, k)
