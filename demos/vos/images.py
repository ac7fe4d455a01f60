"""Image files: frames, and labels as palette PNGs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from demos.files import write_atomically

Frame = NDArray[np.uint8]
"""(H, W, 3), RGB."""
Labels = NDArray[np.uint8]
"""(H, W): 0 background, 1 to 254 objects, `VOID`."""

VOID = 255
"""The label of pixels that do not count."""

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
LABEL_SUFFIXES = (".png", ".bmp")


def read_frame(path: Path) -> Frame:
    """A picture in RGB."""
    with open_image(path) as image:
        return np.asarray(image.convert("RGB"))


def read_labels(path: Path, size: tuple[int, int] | None = None) -> Labels:
    """A label image: palette indices, or grey values as they are.

    Args:
        path: of a palette or greyscale file, 8 bits or less a pixel.
        size: (H, W), that of the frame it belongs to, if known.

    Raises:
        ValueError: no such file; not an image; colours instead of labels; another size.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise ValueError(
                f"{path}: got an image of mode {image.mode}, wanted a palette or greyscale image, whose values are labels"
            )
        labels = np.asarray(image).astype(np.uint8)
    if size is not None and labels.shape != size:
        raise ValueError(
            f"{path}: got labels of {labels.shape[0]} x {labels.shape[1]}, wanted those of the frame, {size[0]} x {size[1]}"
        )
    return labels


def write_labels(path: Path, labels: Labels, *, overwrite: bool = False) -> None:
    """Write labels as a PNG with the palette of DAVIS and PASCAL VOC.

    Args:
        path: of the new file; folders are made.
        labels: (H, W), integers from 0 to 255.
        overwrite: replace a file that is there.

    Raises:
        ValueError: another shape, labels that do not fit; the file exists.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "biu" or not array.size or array.min() < 0 or array.max() > 255:
        raise ValueError(f"labels must be integers from 0 to 255 of shape (H, W); got {array.dtype} {array.shape}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; pass overwrite to replace it")
    image = Image.fromarray(array.astype(np.uint8))
    image.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _palette() -> NDArray[np.uint8]:
    """Color i: bits 0, 3, 6 of i are the highest of red, bits 1, 4, 7 of green, bits 2, 5 of blue."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for i in range(256):
        for bit in range(8):
            palette[i, bit % 3] |= (i >> bit & 1) << 7 - bit // 3
    return palette


PALETTE = _palette()
"""(256, 3), RGB."""


def open_image(path: Path) -> Image.Image:
    """An image, read whole.

    Raises:
        ValueError: no such file; what is no image.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from None
    return image
