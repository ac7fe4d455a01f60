"""The networks: bits in, probabilities of bits out; and in front of them, for images of digits, a reader of digits.

Every network here has the same interface. ``inputs(boards)`` makes what ``forward`` takes from a batch of boards, and
``answers(probabilities, puzzles)`` reads the completed boards off what it returns.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from demos.checkpoints import load_weights
from demos.sudoku.boards import Boards, check_box
from demos.sudoku.checkpoint import Checkpoint
from demos.sudoku.config import TrainConfig
from demos.sudoku.data import decode, encode
from demos.sudoku.images import ImageBoards
from difflayers import SATNet

_LOSS_FLOOR = 1e-6
_MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1))


class BitNet(nn.Module):
    """What networks over the ``N ** 3`` bits of a board have in common.

    Args:
        box: Box size: 2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards.
        permutation: Of shape (N ** 3,): the network sees its bits in this order, and its answers are put back.
    """

    permutation: Tensor | None
    inverse: Tensor | None

    def __init__(self, box: int, permutation: Tensor | None = None) -> None:
        super().__init__()
        self.box = check_box(box)
        if permutation is not None and not torch.equal(permutation.sort().values, torch.arange(box**6)):
            raise ValueError(f"permutation: wanted each of 0 to {box**6 - 1} once")
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse", None if permutation is None else permutation.argsort(), persistent=False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def shuffle(self, bits: Tensor) -> Tensor:
        """Put the bits into the network's order."""
        return bits if self.permutation is None else bits[:, self.permutation]

    def unshuffle(self, bits: Tensor) -> Tensor:
        """Put the bits back into the board's order."""
        return bits if self.inverse is None else bits[:, self.inverse]

    def inputs(self, boards: Boards) -> tuple[Tensor, Tensor]:
        """Return bits and mask, (B, N ** 3) each, of the puzzles."""
        return encode(torch.from_numpy(boards.puzzles).to(self.device))

    def answers(self, probabilities: Tensor, puzzles: Tensor) -> Tensor:
        """Give each blank cell its most probable digit."""
        return decode(probabilities, puzzles)

    @torch.no_grad()
    def predict(self, puzzles: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Complete puzzles of shape (B, N ** 2): each blank cell gets its most probable digit."""
        return self.answers(self(*encode(puzzles), generator=generator), puzzles)


class SudokuNet(BitNet):
    """A SATNet layer with one variable for each of the ``N ** 3`` bits of a board.

    Args:
        box, permutation: As for `BitNet`.
        aux, m, k, max_iter, eps: Those of `difflayers.SATNet`.
    """

    def __init__(
        self,
        box: int,
        *,
        aux: int,
        m: int,
        k: int | None = None,
        max_iter: int = 40,
        eps: float = 1e-4,
        permutation: Tensor | None = None,
    ) -> None:
        super().__init__(box, permutation)
        self.layer = SATNet(box**6, m, aux, max_iter, eps, k=k)

    def forward(self, bits: Tensor, given: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Complete the bits.

        Args:
            bits: Of shape (B, N ** 3), in [0, 1].
            given: bool, of that shape. Given bits pass through.
            generator: Where the layer's random starts are drawn from.

        Returns:
            The probability of each bit, of that shape.
        """
        return self.unshuffle(self.layer(self.shuffle(bits), self.shuffle(given), generator=generator))

    def board_layer(self) -> SATNet:
        """Return the layer with its variables in the board's order, as `difflayers.inference` takes it."""
        if self.inverse is None:
            return self.layer
        layer, S = copy.deepcopy(self.layer), self.layer.S.detach()
        bits = 1 + self.inverse
        layer.S.data = torch.cat((S[:1], S[bits], S[1 + len(bits) :]))
        return layer


class ConvNet(BitNet):
    """The convolutional network that the SATNet paper compares with, after Park (2016).

    ``layers`` 3x3 convolutions with ``filters`` filters each, batch normalization and ReLU, over the board as an N x N image
    with a channel for each digit; a 1x1 convolution and a sigmoid then give the probability of each bit.

    Args:
        box, permutation: As for `BitNet`.
        masked: Whether the mask of the given cells is a further channel ("ConvNetMask").
        layers, filters: The paper has 10 and 512.
    """

    def __init__(
        self,
        box: int,
        *,
        masked: bool,
        layers: int = 10,
        filters: int = 512,
        permutation: Tensor | None = None,
    ) -> None:
        super().__init__(box, permutation)
        self.masked = masked
        size = box * box
        # The mask is one of bits, as the permuted task knows no cells: as many channels again.
        channels = [size * (1 + masked)] + [filters] * layers
        blocks: list[nn.Module] = []
        for i in range(layers):
            blocks += [
                nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*blocks, nn.Conv2d(filters, size, 1))

    def forward(self, bits: Tensor, given: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the probability of each bit, given ones included; as for `SudokuNet`, but nothing is random."""
        size = self.box**2
        channels = [bits, given.to(bits.dtype)] if self.masked else [bits]
        image = torch.cat([self._image(self.shuffle(c), size) for c in channels], 1)
        out = self.body(image).sigmoid().permute(0, 2, 3, 1).flatten(1)
        return self.unshuffle(out)

    @staticmethod
    def _image(bits: Tensor, size: int) -> Tensor:
        return bits.reshape(-1, size, size, size).permute(0, 3, 1, 2)


class DigitReader(nn.Module):
    """A small convolutional network that reads a digit: images (B, 28, 28) in [0, 1] to logits (B, digits).

    Args:
        digits: How many digits there are.
        looks: `probabilities` are the mean over so many looks at an image, each of which is moved by a pixel: at most 9.
    """

    def __init__(self, digits: int, *, looks: int = 1) -> None:
        super().__init__()
        self.looks = looks
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5),
            nn.BatchNorm2d(16),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Linear(128, digits),
        )
        # Few channels and large batches: with the channels last, and the maximum taken before the ReLU, which commutes with
        # it, a step is much faster on a CPU.
        self.body.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images[:, None])
        return logits

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities of the digits, (B, digits)."""
        looks = [self(images.roll(move, (1, 2)) if any(move) else images).softmax(-1) for move in _MOVES[: self.looks]]
        return torch.stack(looks).mean(0) if len(looks) > 1 else looks[0]


class VisualNet(nn.Module):
    """A reader of digits in front of a network over bits: boards whose given cells are images.

    The probabilities of the digits in a given cell are the bits of that cell for the network behind, which is told which
    cells are given. Gradients flow through it to the reader.
    """

    def __init__(self, solver: BitNet) -> None:
        super().__init__()
        self.solver = solver
        self.box = solver.box
        self.reader = DigitReader(solver.box**2)

    @property
    def device(self) -> torch.device:
        return self.solver.device

    def inputs(self, boards: Boards) -> tuple[Tensor, Tensor]:
        """Return the images of the given cells, (G, 28, 28), row by row and board by board, and which they are, (B, N ** 2)."""
        if not isinstance(boards, ImageBoards):
            raise TypeError(f"boards: got {type(boards).__name__}, wanted ImageBoards, which have images")
        return boards.images().to(self.device), torch.from_numpy(boards.puzzles != 0).to(self.device)

    def read(self, images: Tensor, cells: Tensor) -> Tensor:
        """Return the probabilities of the digits, (B, N ** 2, N): zero where a cell is not given."""
        size = self.box**2
        read = self.reader.probabilities(images)
        return read.new_zeros(*cells.shape, size).masked_scatter(cells[..., None], read)

    def forward(self, images: Tensor, cells: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Read and complete: the probability of each bit, (B, N ** 3)."""
        return self.complete(self.read(images, cells), cells, generator=generator)

    def complete(self, read: Tensor, cells: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Complete what ``read`` has returned."""
        given = cells.repeat_interleave(self.box**2, 1)
        out: Tensor = self.solver(read.flatten(1), given, generator=generator)
        return out

    def answers(self, probabilities: Tensor, puzzles: Tensor) -> Tensor:
        """Give every cell its most probable digit; of the puzzles only shape and dtype matter, since they are not known."""
        return decode(probabilities, torch.zeros_like(puzzles))


Net = BitNet | VisualNet


def bit_net(net: Net) -> BitNet:
    """Return the network over bits that ``net`` is, or that stands behind its reader."""
    return net.solver if isinstance(net, VisualNet) else net


def satnet_of(net: Net) -> SudokuNet:
    """Return the SATNet layer's network in ``net``; ``ValueError`` if it has a convolutional network instead."""
    solver = bit_net(net)
    if not isinstance(solver, SudokuNet):
        raise ValueError(
            f"network: got a {type(solver).__name__}, wanted one with a SATNet layer and its learnt objective"
        )
    return solver


def build(config: TrainConfig) -> Net:
    """Build the network of a run, with initial weights and permutation drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        permutation = None
        if config.permuted:
            generator = torch.Generator().manual_seed(config.seed)
            permutation = torch.randperm(config.box**6, generator=generator)
        solver: BitNet
        if config.network == "satnet":
            solver = SudokuNet(
                config.box,
                aux=config.aux,
                m=config.m,
                k=config.k,
                max_iter=config.max_iter,
                eps=config.eps,
                permutation=permutation,
            )
        else:
            solver = ConvNet(
                config.box,
                masked=config.network == "convnet-mask",
                layers=config.layers,
                filters=config.filters,
                permutation=permutation,
            )
        return solver if config.images is None else VisualNet(solver)


def restore(checkpoint: Checkpoint, **changes: Any) -> Net:
    """Build the network of a checkpoint, with its weights; ``changes`` replace entries of its configuration."""
    net = build(replace(checkpoint.config, **changes))
    load_weights(net, checkpoint.model)
    return net


def bit_loss(probabilities: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy over all bits, given ones included, as in the SATNet paper; or over those counted.

    Probabilities are first kept away from 0 and 1, where the logarithm has no value. Of no bits at all it is 0.
    """
    kept = probabilities.clamp(_LOSS_FLOOR, 1 - _LOSS_FLOOR)
    if counted is not None:
        kept, target = kept[counted], target[counted]
    return nn.functional.binary_cross_entropy(kept, target) if kept.numel() else kept.sum()
