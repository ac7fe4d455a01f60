"""Which digit an image shows, without a label of any: by images that look alike, and by the labels of the blank cells.

Of a training board are known the images of its given cells, the digits of its blank cells, and which cells these are. A digit
in a given cell is one that the blank cells hold once less. That is all: nothing here knows of rows, columns and boxes, nor how
often a digit occurs on a board.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from demos.sudoku.boards import Boards, Int8Array, box_of
from demos.sudoku.data import encode, to_values
from demos.sudoku.extraction import learn_rules
from demos.sudoku.images import ImageBoards
from difflayers.inference import Rules

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

REFUTED = float(np.log(1e-3))
"""What a rule's word against a digit in one cell adds to the log-probability that its image shows it."""
RARE = 0.1
"""Two digits are together on so few boards, of those expected by chance, only by wrong names;"""
ENOUGH = 15.0
"""if so many are expected."""


@dataclass(frozen=True)
class Occurrences:
    """Where which image is on which board, without what it shows."""

    images: torch.Tensor
    """Those that occur, uint8 of shape (images, 28, 28)."""
    board: IntArray
    """Of each given cell, row by row and board by board: the number of the board,"""
    cell: IntArray
    """of the cell,"""
    image: IntArray
    """and of the image."""
    blank_labels: Int8Array
    """Of shape (boards, N ** 2): the digits of the blank cells, 0 in the given ones."""

    @classmethod
    def of(cls, boards: ImageBoards) -> Occurrences:
        """Take what may be known of boards; the digits of their given cells are not looked at."""
        given = boards.picks >= 0
        board, cell = np.nonzero(given)
        used, image = np.unique(boards.picks[given], return_inverse=True)
        labels = np.where(given, 0, boards.solutions).astype(np.int8)
        return cls(boards.pool[torch.from_numpy(used).long()], board, cell, image.astype(np.int64), labels)

    @property
    def digits(self) -> int:
        """How many digits there are."""
        return box_of(self.blank_labels.shape[1]) ** 2

    def boards(self, names: IntArray) -> Int8Array:
        """The solved boards if the images had these names, each a digit less 1."""
        solved = self.blank_labels.copy()
        solved[self.board, self.cell] = names[self.image] + 1
        return solved


def group(features: NDArray[np.float32], count: int, seed: int) -> IntArray:
    """Put rows that are alike into groups: k-means of their 50 principal components."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    count = min(count, len(features))
    parts = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096, max_iter=40)
    groups: IntArray = means.fit_predict(parts).astype(np.int64)
    return groups


def name_groups(seen: Occurrences, groups: IntArray) -> IntArray:
    """Name each image, by a digit less 1: as its group that digit whose share of the blank cells falls most where it occurs."""
    digits, boards = seen.digits, len(seen.blank_labels)
    share = np.stack([(seen.blank_labels == digit).sum(1) for digit in range(1, digits + 1)], 1).astype(np.float64)
    share /= np.maximum(share.sum(1, keepdims=True), 1)
    occurs = np.zeros((boards, int(groups.max()) + 1))
    np.add.at(occurs, (seen.board, groups[seen.image]), 1)
    more = (occurs.T @ share) / np.maximum(occurs.sum(0), 1)[:, None] - share.mean(0)
    names: IntArray = more.argmin(1)[groups]
    return names


def surest_boards(seen: Occurrences, read: FloatArray, share: float) -> IntArray:
    """Return that share of the boards, by number, whose least sure image is surest."""
    least = np.ones(len(seen.blank_labels))
    np.minimum.at(least, seen.board, read.max(1)[seen.image])
    return np.argsort(-least, kind="stable")[: max(1, round(share * len(least)))].astype(np.int64)


def refuted(seen: Occurrences, rules: Rules) -> FloatArray:
    """Of each image and digit: in how many of its cells the rules exclude that digit beside the blank cells' digits."""
    bits = rules.domains.bits
    excludes = np.zeros((bits, bits), np.float32)
    for clause in rules.clauses:
        if len(clause) == 2 and max(clause) < 0:
            excludes[-clause[0] - 1, -clause[1] - 1] = excludes[-clause[1] - 1, -clause[0] - 1] = 1
    against = np.zeros((len(seen.images), seen.digits))
    for part in np.array_split(np.arange(len(seen.blank_labels)), -(-len(seen.blank_labels) // 1000)):
        true = encode(torch.from_numpy(seen.blank_labels[part]))[0].numpy()
        excluded = (true @ excludes > 0).reshape(len(part), -1, seen.digits)
        here = slice(*np.searchsorted(seen.board, (part[0], part[-1] + 1)))
        np.add.at(against, seen.image[here], excluded[seen.board[here] - part[0], seen.cell[here]])
    return against


def correct(seen: Occurrences, read: FloatArray, rules: Rules) -> IntArray:
    """Name each image by the reader and the rules together: the digit of highest log-probability, less 1."""
    names: IntArray = (np.log(np.maximum(read, 1e-12)) + REFUTED * refuted(seen, rules)).argmax(1)
    return names


def plausible(boards: Int8Array) -> NDArray[np.bool_]:
    """Return which boards hold no two digits that are together far more rarely than chance explains.

    Two digits that exclude each other are together on a board with a wrong name alone, so on few.
    """
    true = encode(torch.from_numpy(boards))[0].numpy()
    together, total = true.T @ true, true.sum(0)
    expected = np.outer(total, total) / len(boards)
    rare = ((together < RARE * expected) & (expected >= ENOUGH)).astype(np.float32)
    size = box_of(boards.shape[1]) ** 2
    cells = np.arange(len(total)) // size
    rare[cells[:, None] == cells] = 0  # of one cell's digits a board has one
    kept: NDArray[np.bool_] = ((true @ rare) * true).sum(1) == 0
    return kept


def count_rules(boards: Int8Array) -> Rules:
    """Count rules in those of the boards that are plausible."""
    return learn_rules(None, boards[plausible(boards)])


def boards_as_read(seen: Occurrences, puzzles: Int8Array, names: IntArray, rules: Rules) -> Boards:
    """Return the boards as the images are named, without those that break a rule."""
    solved = seen.boards(names)
    kept = ~rules.violations(to_values(solved)[0]).any(-1).numpy()
    return Boards(np.where(puzzles != 0, solved, 0).astype(np.int8)[kept], solved[kept])
