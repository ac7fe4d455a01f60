"""What a layer has learnt: which pairs of bits exclude each other, and a picture of it.

The objective is ``sum_ij (s_i . s_j)(v_i . v_j)``, so the entry ``s_i . s_j`` of ``S S'`` is the price of bits i and j being
alike. Sudoku's rules are exclusions: of two bits for one cell, or for one digit in one row, column or box, not both are true.
A layer that has learnt them has large positive entries at these pairs and smaller ones elsewhere.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from demos.sudoku.boards import Int8Array, box_of
from demos.sudoku.model import SudokuNet

KINDS = ("cell", "row", "column", "box")


@dataclass(frozen=True)
class Coordinates:
    """Of each of the ``N ** 3`` bits: its cell, row, column, box and digit, each of shape (N ** 3,)."""

    cell: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    box: NDArray[np.int64]
    digit: NDArray[np.int64]

    @classmethod
    def of(cls, box: int) -> Coordinates:
        size = box * box
        cell, digit = np.divmod(np.arange(size**3), size)
        row, column = np.divmod(cell, size)
        return cls(cell, row, column, row // box * box + column // box, digit)


def exclusions(box: int) -> dict[str, NDArray[np.bool_]]:
    """Return which pairs of bits exclude each other, (N ** 3, N ** 3) for each of `KINDS`; a pair may be of two kinds."""
    at = Coordinates.of(box)
    same_digit = at.digit[:, None] == at.digit
    different = ~np.eye(len(at.cell), dtype=bool)
    masks = {"cell": (at.cell[:, None] == at.cell) & different}
    for kind in KINDS[1:]:
        where = getattr(at, kind)
        masks[kind] = (where[:, None] == where) & same_digit & different
    return masks


def couplings(net: SudokuNet) -> NDArray[np.float64]:
    """Return ``s_i . s_j`` for the bits of a board, in the board's order: (N ** 3, N ** 3)."""
    S = net.board_layer().S.detach()[1 : net.box**6 + 1].double()
    return (S @ S.mT).cpu().numpy()


@dataclass(frozen=True)
class Measurement:
    """How well the couplings tell the pairs that exclude each other from the others."""

    pairs: int
    """So many pairs exclude each other by the rules of Sudoku."""
    precision: NDArray[np.float64]
    """Share of rules among the strongest 1, 2, ... couplings."""
    recall: NDArray[np.float64]
    """Share of the rules that are among them."""
    recall_by_kind: dict[str, float]
    """Share of each kind's rules among the ``pairs`` strongest couplings."""

    @property
    def average_precision(self) -> float:
        return float((self.precision * np.diff(self.recall, prepend=0)).sum())

    def precision_at(self, recall: float) -> float:
        """Return the precision of as many of the strongest couplings as it takes to have this share of the rules."""
        return float(self.precision[np.searchsorted(self.recall, recall)])


def measure(net: SudokuNet) -> Measurement:
    """Compare the couplings of a trained layer with the rules, which it was never told."""
    kinds = exclusions(net.box)
    upper = np.triu_indices(net.box**6, 1)
    rule = np.logical_or.reduce([mask[upper] for mask in kinds.values()])
    order = np.argsort(-couplings(net)[upper], kind="stable")
    hits = rule[order].cumsum()
    pairs = int(hits[-1])
    strongest = np.zeros(len(order), bool)
    strongest[order[:pairs]] = True
    return Measurement(
        pairs=pairs,
        precision=hits / np.arange(1, len(order) + 1),
        recall=hits / pairs,
        recall_by_kind={kind: float(strongest[mask[upper]].mean()) for kind, mask in kinds.items()},
    )


def changed_boards(solutions: Int8Array, seed: int = 0) -> dict[str, Int8Array]:
    """Return the solved boards, and what one or two small changes make of each of them: boards that break the rules.

    ``one cell wrong``: a random cell holds another digit. ``two cells exchanged``: two random cells of one row hold each
    other's digit, so that rows, if nothing else, are still right.
    """
    rng = np.random.default_rng(seed)
    size = box_of(solutions.shape[1]) ** 2
    boards = np.arange(len(solutions))
    one, two = solutions.copy(), solutions.copy()
    cell = rng.integers(size**2, size=len(boards))
    one[boards, cell] = (one[boards, cell] - 1 + rng.integers(1, size, size=len(boards))) % size + 1
    row = size * rng.integers(size, size=len(boards))
    pair = row[:, None] + rng.random((len(boards), size)).argsort(1)[:, :2]
    two[boards[:, None], pair] = solutions[boards[:, None], pair[:, ::-1]]
    return {"solved": solutions, "one cell wrong": one, "two cells exchanged": two}


def rules_png(net: SudokuNet, title: str) -> bytes:
    """Draw the couplings, the bits put in order by cell, by row, by column and by box; return a PNG."""
    at = Coordinates.of(net.box)
    matrix = couplings(net)
    np.fill_diagonal(matrix, 0)
    limit = float(np.quantile(np.abs(matrix), 0.999))
    figure = Figure(figsize=(12, 12.6), dpi=100)
    FigureCanvasAgg(figure)
    size = net.box**2
    orders = {
        "cell by cell": np.lexsort((at.digit, at.cell)),
        "digit by digit, row by row": np.lexsort((at.column, at.row, at.digit)),
        "digit by digit, column by column": np.lexsort((at.row, at.column, at.digit)),
        "digit by digit, box by box": np.lexsort((at.cell, at.box, at.digit)),
    }
    for axes, (name, order) in zip(figure.subplots(2, 2).flat, orders.items(), strict=True):
        image = axes.imshow(
            matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
        )
        axes.set_title(f"bits {name}", fontsize=10)
        axes.set(xticks=np.arange(0, size**3, size**2), yticks=np.arange(0, size**3, size**2))
        axes.tick_params(labelsize=6)
    figure.suptitle(title, y=0.975)
    figure.subplots_adjust(left=0.04, right=0.985, top=0.93, bottom=0.075, wspace=0.1, hspace=0.1)
    bar = figure.colorbar(image, cax=figure.add_axes((0.3, 0.035, 0.4, 0.012)), orientation="horizontal")
    bar.set_label("$s_i \\cdot s_j$: the price of bits i and j being alike")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
