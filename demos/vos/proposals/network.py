"""The network that draws an object's mask, given the picture and what is known of the object: a small U-Net.

It takes the place of the refinement network of Robinson et al. (2020, "Learning fast and robust target models for video object
segmentation"): a target model that is learned from the given frame says roughly which pixels are the object's, and a network
that is trained once, on any objects, makes a mask of that. Here the target model is a forest (`appearance`).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from demos.checkpoints import checkpoint_errors, load_weights, read_checkpoint, with_prefix
from demos.vos.images import Frame
from demos.vos.proposals.cues import Maps

SHIPPED = Path(__file__).parent / "masks.safetensors"
"""Weights that come with the demo, see docs/vos.md."""
FORMAT = "difflayers-vos-masks-1"
SIZE = 128
"""Rows and columns of what the network sees."""
_LEAST = 24
"""Of pixels: the side of the smallest square that is looked at."""
_MARGIN = 1.7
"""The side of the square that is looked at, in longer sides of the moved mask's bounding box."""


class MaskNetwork(nn.Module):
    """A U-Net of five levels.

    Shapes:
        (B, 6, SIZE, SIZE), the picture's colours and the maps of `cues`, in [0, 1], to logits (B, SIZE, SIZE).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 24, 32, 48, 64, 96)
        self.stem = nn.Conv2d(6, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(a, b, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Block(a + b, a) for a, b in pairwise(widths[1:]))
        self.last = nn.Sequential(
            nn.Conv2d(widths[0] + widths[1], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        seen = torch.cat(((seen[:, :3] - 0.45) / 0.25, seen[:, 3:] * 2 - 1), 1)
        x = self.stem(seen).relu()
        levels = [x]
        for block in self.down:
            x = block(x)
            levels.append(x)
        for block, level in zip([*self.up[::-1], self.last], levels[-2::-1], strict=True):
            x = nn.functional.interpolate(x, size=level.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((x, level), 1))
        return x[:, 0]


class _Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.around = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.around(x)).relu()


def load_mask_network(path: Path = SHIPPED) -> MaskNetwork:
    """Read the weights of a network that `python -m demos.vos train-masks` has trained.

    Raises:
        ValueError: no such file, or one of something else.
    """
    missing = "; `python -m demos.vos train-masks` makes one"
    _, tensors = read_checkpoint(path, FORMAT, argument="--mask-network", missing=missing)
    network = MaskNetwork()
    with checkpoint_errors("--mask-network", path, "a network that draws masks"):
        weights = with_prefix(tensors, "model.")
        load_weights(
            network, {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        )
    return network.eval()


@cache
def shipped_network() -> MaskNetwork:
    """The network that comes with the demo, read once."""
    return load_mask_network()


def window(
    mask: NDArray[np.bool_],
    *,
    margin: float = _MARGIN,
    shift: tuple[float, float] = (0.0, 0.0),
    degrees: float = 0.0,
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """(2, 3): the map from a picture's x and y to those of a square of SIZE x SIZE around a mask of one pixel at least.

    Args:
        mask: (H, W).
        margin: the square's side, in longer sides of the bounding box.
        shift: of the centre, x and y, in sides of the square.
        degrees, mirrored: how the square is turned and flipped; for training.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    side = max(_LEAST, margin * (1 + max(rows[-1] - rows[0], columns[-1] - columns[0])))
    x, y = (columns[0] + columns[-1]) / 2 + shift[0] * side, (rows[0] + rows[-1]) / 2 + shift[1] * side
    matrix = cv2.getRotationMatrix2D((x, y), degrees, SIZE / side)
    matrix[:, 2] += (SIZE - 1) / 2 - np.array([x, y])
    if mirrored:
        matrix[0] = -matrix[0]
        matrix[0, 2] += SIZE - 1
    return np.asarray(matrix, dtype=np.float32)


def cut(picture: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a window shows of a picture (H, W, d); 0 outside of it."""
    return np.asarray(cv2.warpAffine(picture, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR))


@torch.no_grad()
def drawn(network: MaskNetwork, frame: Frame, maps: Maps) -> NDArray[np.float32]:
    """(H, W), in [0, 1]: how likely each pixel is the object's; the moved mask of the maps has a pixel above 1/2."""
    matrix = window(maps[..., 0] > 0.5)
    seen = np.concatenate((cut(np.float32(1 / 255) * frame, matrix), cut(maps, matrix)), 2)
    likely = network(torch.from_numpy(seen.transpose(2, 0, 1)[None].copy())).sigmoid()[0].numpy()
    size = frame.shape[1], frame.shape[0]
    return np.asarray(cv2.warpAffine(likely, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
