"""Teach the reader: first on rendered cells alone, then on these and cells of photographs, half and half."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from demos.progress import progress_bar
from demos.sudoku.photo.collection import TrueBoard, fold_of, load_photograph
from demos.sudoku.photo.grid import FloatArray, find_grid
from demos.sudoku.photo.options import ReaderConfig
from demos.sudoku.photo.reader import (
    CELL,
    CLASSES,
    CellReader,
    cut_cells,
    load_reader,
    log_probabilities,
    save_reader,
    turned_cells,
)
from demos.sudoku.photo.rendering import Glyphs, load_glyphs, photograph_cells, render_cells


@dataclass(frozen=True)
class PhotographedCells:
    """Cells of photographs with their labels."""

    cells: FloatArray
    """Of shape (photographs, 81, CELL, CELL)."""
    labels: NDArray[np.int64]
    """Of shape (photographs, 81)."""


def cells_of(boards: list[TrueBoard], reader: CellReader) -> PhotographedCells:
    """Cut the cells of photographs whose truth is known; of the four turns, that which the reader finds likest the truth."""
    cells, labels = [], []
    with progress_bar(len(boards), "finding grids", " photographs") as bar:
        for board in boards:
            photograph = load_photograph(board.path)
            views = turned_cells(cut_cells(photograph, find_grid(photograph)))
            read = log_probabilities(reader, views.reshape(-1, CELL, CELL), glance=True).reshape(4, 81, CLASSES)
            truth = board.givens.astype(np.int64)
            likeliest = np.take_along_axis(read, truth[None, :, None], 2).sum((1, 2)).argmax()
            cells.append(views[likeliest])
            labels.append(truth)
            bar.update()
    return PhotographedCells(np.stack(cells), np.stack(labels))


def _turn_some(cells: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn some of the digits; return the cells and the target distributions, (B, CLASSES)."""
    target = one_hot(labels, CLASSES).float()
    draw = torch.rand(len(labels), generator=generator)
    quarters = torch.randint(1, 4, (len(labels),), generator=generator)
    # Upside down, 1, 6, 8 and 9 are digits again, and 2 and 5 nearly.
    odd = (labels > 0) & (draw < share) & ((quarters != 2) | torch.isin(labels, torch.tensor([3, 4, 7])))
    for q in (1, 2, 3):
        chosen = odd & (quarters == q)
        cells[chosen] = cells[chosen].rot90(q, (1, 2))
    any_digit = torch.full((CLASSES,), 1 / 9)
    any_digit[0] = 0
    target[odd] = any_digit
    return cells, target


def train_reader(
    glyphs: Glyphs,
    config: ReaderConfig,
    *,
    start: CellReader | None = None,
    photographed: PhotographedCells | None = None,
    device: str = "cpu",
    description: str = "learning to read",
) -> CellReader:
    """Train a reader.

    Args:
        glyphs: The digits of fonts to render.
        config: How.
        start: Where to begin: the result of the first stage. None: at random weights.
        photographed: With these it is the second stage, without them the first.
        device: Where the network is. Cells are rendered on the CPU.
        description: For the progress bar.
    """
    generator = torch.Generator().manual_seed(config.seed + (photographed is not None))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reader = CellReader().to(device)
        if start is not None:
            reader.load_state_dict(start.state_dict())
        steps = config.rendered_steps if photographed is None else config.mixed_steps
        rate = config.learning_rate * (1 if photographed is None else 0.5)
        optimizer = torch.optim.AdamW(reader.parameters(), rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        reader.train()
        with progress_bar(steps, description, " steps") as bar:
            for _ in range(steps):
                cells, labels = _batch(glyphs, config, photographed, generator)
                cells, target = _turn_some(photograph_cells(cells, generator), labels, config.sideways, generator)
                loss = -(target.to(device) * log_softmax(reader(cells.to(device)), 1)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
                bar.update()
    return reader.eval()


def _batch(
    glyphs: Glyphs, config: ReaderConfig, photographed: PhotographedCells | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw cells and labels."""
    count = config.batch_size
    from_photographs = 0 if photographed is None else count // 2
    rendered = count - from_photographs
    labels = torch.randint(1, 10, (rendered,), generator=generator)
    labels *= torch.rand(rendered, generator=generator) >= config.blanks
    cells = render_cells(glyphs, labels, generator)
    if photographed is None:
        return cells, labels
    flat = torch.from_numpy(photographed.labels.ravel())
    number = torch.bincount(flat, minlength=CLASSES).clamp_min(1)
    share = torch.full((CLASSES,), (1 - config.blanks) / 9)
    share[0] = config.blanks
    drawn = torch.multinomial((share / number)[flat], from_photographs, replacement=True, generator=generator)
    real = torch.from_numpy(photographed.cells.reshape(-1, CELL, CELL)[drawn.numpy()])
    return torch.cat([cells, real]), torch.cat([labels, flat[drawn]])


def reader_path(folder: Path, name: str) -> Path:
    """Return where a reader is kept: ``rendered``, ``fold-0``, ..., or ``full``."""
    return folder / f"reader-{name}.safetensors"


def train_all(
    boards: list[TrueBoard],
    folder: Path,
    config: ReaderConfig,
    *,
    folds: int,
    device: str = "cpu",
) -> list[Path]:
    """Train the reader of rendered cells, one for each fold that has not seen its photographs, and one that has seen all.

    A reader that is in the folder already is kept, so that training continues where it was stopped.

    Returns:
        Where the readers are, in that order.
    """
    glyphs = load_glyphs()
    folder.mkdir(parents=True, exist_ok=True)
    names = ["rendered", *(f"fold-{fold}" for fold in range(folds)), "full"]
    paths = [reader_path(folder, name) for name in names]
    about = {"fonts": len(glyphs.names), "seed": config.seed, "rendered_steps": config.rendered_steps}
    if not paths[0].is_file():
        save_reader(train_reader(glyphs, config, device=device, description="rendered"), paths[0], **about)
    start = load_reader(paths[0])
    if all(path.is_file() for path in paths):
        return paths
    cells = cells_of(boards, start)
    about |= {"mixed_steps": config.mixed_steps, "photographs": len(boards)}
    fold = fold_of(boards, folds)
    for number, (name, path) in enumerate(zip(names, paths, strict=True)):
        if path.is_file():
            continue
        seen = fold != number - 1  # for the last, which is no fold, all
        part = PhotographedCells(cells.cells[seen], cells.labels[seen])
        reader = train_reader(glyphs, config, start=start, photographed=part, device=device, description=name)
        save_reader(reader, path, **about)
    return paths
