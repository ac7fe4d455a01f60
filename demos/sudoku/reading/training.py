"""Train a reader on images with names, and keep it in a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from demos.checkpoints import checkpoint_errors, load_weights, read_checkpoint
from demos.files import write_atomically
from demos.progress import progress_bar
from demos.schedule import set_cosine_rate
from demos.sudoku.model import DigitReader
from demos.sudoku.reading.options import ReadingConfig

_FORMAT = "difflayers-sudoku-reader-1"
LOOKS = 9
"""A finished reader takes the mean of so many looks at an image, each a pixel apart."""


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and move each image a little, at random: (B, H, W)."""
    count = len(images)

    def uniform(most: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * most

    angle, scale, shear = uniform(0.2), 1 + uniform(0.1), uniform(0.2)
    theta = torch.stack(
        (
            torch.stack((scale * angle.cos(), shear - scale * angle.sin(), uniform(0.15)), 1),
            torch.stack((scale * angle.sin(), scale * angle.cos(), uniform(0.15)), 1),
        ),
        1,
    )
    grid = affine_grid(theta, [count, 1, *images.shape[1:]], align_corners=False)
    return grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def train_reader(
    images: Tensor,
    names: NDArray[np.int64],
    digits: int,
    config: ReadingConfig,
    *,
    epochs: int,
    smoothing: float = 0.0,
    description: str = "learning to read",
) -> DigitReader:
    """Train a reader from random weights.

    Args:
        images: uint8 of shape (count, 28, 28).
        names: Of each image: the digit less 1.
        digits: How many there are.
        config: How.
        epochs: Times through the images.
        smoothing: This share of the target is spread over all digits: where some names are wrong, the reader should not be too
            sure.
        description: For the progress bar.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reader = DigitReader(digits)
    optimizer = torch.optim.AdamW(reader.parameters(), config.lr)
    target = torch.from_numpy(names)
    steps, step = epochs * -(-len(images) // config.batch_size), 0
    reader.train()
    with progress_bar(epochs * len(images), description, " images") as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(images), generator=generator).split(config.batch_size):
                set_cosine_rate(optimizer, config.lr, step, steps)
                logits = reader(distort(images[batch].float() / 255, generator))
                loss = cross_entropy(logits, target[batch], label_smoothing=smoothing)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                step += 1
                bar.update(len(batch))
    return reader.eval()


@torch.no_grad()
def look(reader: DigitReader, images: Tensor, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the digits, (count, digits), and the features that they are read from, (count, features)."""
    features, read = [], []
    last = reader.body[-1]
    assert isinstance(last, nn.Linear)
    for part in images.split(batch_size):
        features.append(reader.body[:-1](part[:, None].float() / 255))
        read.append(last(features[-1]).softmax(1))
    return torch.cat(read), torch.cat(features)


@torch.no_grad()
def share_read(reader: DigitReader, images: Tensor, names: NDArray[np.int64], *, batch_size: int = 1000) -> float:
    """Return the share of the images that the reader reads as they are named."""
    read = torch.cat([reader.probabilities(part.float() / 255) for part in images.split(batch_size)])
    return float((read.argmax(1).numpy() == names).mean())


def save_reader(reader: DigitReader, path: Path, config: ReadingConfig, digits: int) -> None:
    """Write the weights, with how they were made."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in reader.state_dict().items()}
    metadata = {"format": _FORMAT, "digits": str(digits), "config": json.dumps(asdict(config), sort_keys=True)}
    write_atomically(path, save(tensors, metadata))


def load_reader(path: Path, digits: int) -> tuple[DigitReader, ReadingConfig]:
    """Read a reader and how it was made, given its file; ``ValueError`` if it reads other digits."""
    metadata, tensors = read_checkpoint(
        path, _FORMAT, argument="--reader", missing="; `python -m demos.sudoku reader` makes one"
    )
    with checkpoint_errors("--reader", path, "one of `python -m demos.sudoku reader`"):
        config = ReadingConfig(**json.loads(metadata["config"]))
        if int(metadata["digits"]) != digits:
            raise ValueError(f"it reads the digits 1 to {metadata['digits']}, wanted 1 to {digits}")
        reader = DigitReader(digits, looks=LOOKS)
        load_weights(reader, tensors)
    return reader.eval(), config
