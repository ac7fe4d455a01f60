"""The masks of the first frame, as people have them: a palette PNG, black and white, colours, or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from demos.vos.images import PALETTE, VOID, Frame, Labels, open_image

_MOST_COLOURS = 32


def read_first_masks(path: Path, size: tuple[int, int]) -> Labels:
    """The objects of a mask image.

    A palette image holds labels (255: pixels that belong to none). A greyscale one with one value beside 0 is one object, with
    more it holds labels. In colours, black is the background and every other colour an object: those of DAVIS's palette have
    its numbers, others are numbered as they come, row by row.

    Args:
        path: of an image.
        size: (H, W), of the frame.

    Raises:
        ValueError: no such file; another size; no object; more than 32 colours, as in a JPEG.
    """
    with open_image(path) as image:
        if image.mode in ("P", "L", "1"):
            labels = np.asarray(image).astype(np.uint8)
            values = np.unique(labels[labels > 0])
            if image.mode != "P" and len(values) == 1:
                labels = (labels > 0).astype(np.uint8)
        else:
            labels = _of_colours(path, np.asarray(image.convert("RGB")))
    if labels.shape != size:
        raise ValueError(
            f"{path}: got a mask of {labels.shape[0]} x {labels.shape[1]}, wanted that of the frame, {size[0]} x {size[1]}"
        )
    labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
    if not labels.any():
        raise ValueError(f"{path}: got no object, every pixel is background; wanted a pixel of one at least")
    return labels


def _of_colours(path: Path, picture: Frame) -> Labels:
    code = picture.astype(np.int64) @ np.array([65536, 256, 1])
    values, first = np.unique(code, return_index=True)
    if len(values) > _MOST_COLOURS:
        raise ValueError(
            f"{path}: got {len(values)} colours, wanted {_MOST_COLOURS} at most, one an object, sharp: a PNG, not a JPEG"
        )
    known = {int(colour.astype(np.int64) @ np.array([65536, 256, 1])): label for label, colour in enumerate(PALETTE)}
    labels = np.zeros(code.shape, dtype=np.uint8)
    found = [int(value) for value in values[np.argsort(first)] if value]
    numbers = [known[value] for value in found] if all(value in known for value in found) else range(1, len(found) + 1)
    for value, number in zip(found, numbers, strict=True):
        labels[code == value] = number
    return labels


def masks_from_boxes(frame: Frame, boxes: Sequence[Sequence[int]]) -> Labels:
    """What GrabCut (Rother et al. 2004) takes for the object in each box (x, y, width, height); labels 1, 2, ... in order.

    Where it finds nothing, or the box has no surroundings to tell the object from, the object is the ellipse in the box. Of
    boxes that overlap the later is in front.

    Raises:
        ValueError: a box that is not inside the frame, or without an area; more than 254.
    """
    if len(boxes) > VOID - 1:
        raise ValueError(f"--box: got {len(boxes)} boxes, wanted {VOID - 1} at most")
    height, width = frame.shape[:2]
    labels = np.zeros((height, width), dtype=np.uint8)
    for label, box in enumerate(boxes, start=1):
        x, y, w, h = box
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
            raise ValueError(
                f"--box: got {','.join(map(str, box))}, wanted x,y,width,height inside the frame of {width} x {height}"
            )
        labels[_in_box(frame, x, y, w, h)] = label
    for label, box in enumerate(boxes, start=1):
        if not (labels == label).any():
            raise ValueError(f"--box: got {','.join(map(str, box))}, which later boxes hide; wanted it to be seen")
    return labels


def _in_box(frame: Frame, x: int, y: int, w: int, h: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    around = max(w, h) // 2 + 4
    y0, x0 = max(0, y - around), max(0, x - around)
    part = np.ascontiguousarray(frame[y0 : y + h + around, x0 : x + w + around])
    inside = np.zeros(frame.shape[:2], dtype=bool)
    mask = np.full(part.shape[:2], cv2.GC_BGD, np.uint8)
    mask[y - y0 : y - y0 + h, x - x0 : x - x0 + w] = cv2.GC_PR_FGD
    if min(w, h) >= 4 and (mask == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)
        cv2.grabCut(part, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        found = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
        if found.sum() >= 0.1 * w * h:
            inside[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = found
            return inside
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    reach = ((rows + 0.5 - y - h / 2) / (h / 2)) ** 2 + ((columns + 0.5 - x - w / 2) / (w / 2)) ** 2
    return inside | (reach <= 1)
