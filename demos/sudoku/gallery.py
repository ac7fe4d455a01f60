"""A picture of a board of digit images beside its completed board, and a reader for digits that are always at hand."""

from __future__ import annotations

import io

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from demos.sudoku.boards import Int8Array
from demos.sudoku.images import ImageBoards, Pool
from demos.sudoku.model import VisualNet

_BLUE, _RED = "#2a6fbb", "#c0392b"


def visual_board_png(board: ImageBoards, read: Int8Array, answer: Int8Array, title: str) -> bytes:
    """Draw one board of images and its completion; return a PNG.

    Args:
        board: One board.
        read: Of shape (N ** 2,): what the reader took each given cell for.
        answer: Of shape (N ** 2,): the completed board. Digits of blank cells are blue; where the answer differs from what the
            reader saw, it is red, with the misread digit small beside it.
        title: Above the picture.
    """
    size = board.box**2
    images = iter(board.images().numpy())
    figure = Figure(figsize=(10.4, 5.6), dpi=110)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "the board, as images"), (right, "completed")):
        _grid(axes, size, board.box)
        axes.set_title(name, fontsize=11)
    for cell in range(size * size):
        row, column = divmod(cell, size)
        given = board.puzzles[0, cell] != 0
        if given:
            extent = (column + 0.06, column + 0.94, row + 0.94, row + 0.06)
            left.imshow(1 - next(images), cmap="gray", vmin=0, vmax=1, extent=extent)
        corrected = given and answer[cell] != read[cell]
        color = _RED if corrected else ("black" if given else _BLUE)
        right.text(column + 0.5, row + 0.53, str(answer[cell]), ha="center", va="center", fontsize=17, color=color)
        if corrected:
            right.text(column + 0.86, row + 0.25, str(read[cell]), ha="center", va="center", fontsize=8, color=color)
    figure.suptitle(title, fontsize=11, y=0.985)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.88, wspace=0.03)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _grid(axes: Axes, size: int, box: int) -> None:
    for line in range(size + 1):
        width = 2.0 if line % box == 0 else 0.6
        axes.plot((0, size), (line, line), color="black", linewidth=width, clip_on=False)
        axes.plot((line, line), (0, size), color="black", linewidth=width, clip_on=False)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
    axes.axis("off")


def teach_reader(net: VisualNet, pool: Pool, *, epochs: int = 8, batch_size: int = 32, seed: int = 0) -> None:
    """Train the reader of ``net`` alone on labelled images of digits, in some seconds for a thousand of them."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.from_numpy((pool.labels >= 1) & (pool.labels <= net.box**2))
    images = (pool.images[known].float() / 255).to(net.device)
    labels = (torch.from_numpy(pool.labels)[known] - 1).to(net.device)
    steps = epochs * -(-len(images) // batch_size)
    adam = torch.optim.Adam(net.reader.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=generator).split(batch_size):
            loss = torch.nn.functional.cross_entropy(net.reader(images[part]), labels[part])
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
            schedule.step()
