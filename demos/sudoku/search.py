"""Search at inference: the learnt objective as the only knowledge of the rules.

A layer that has learnt Sudoku is good at two things that one forward pass does not use. It knows a solved board when it
sees one: with all cells given, the learnt objective ``min_aux |S'V|^2`` is nearly the same for every solved board and
higher by many standard deviations for a board with one wrong cell. And its most confident cells are nearly always right.
So:

* *Decimation* fixes the most confident of the blank cells at their most probable digits, solves again with these given,
  and so on until no cell is blank.
* The answer is *accepted* if its learnt objective is no higher than a limit that was set by solved training boards alone.
* If it is not, some cell on the way was fixed wrongly. A few *restarts* decimate from the puzzle again, from other random
  vectors, which decide otherwise where confidence is low. After them comes *backtracking*: the search goes back to a cell,
  takes it that its digit there is wrong (the bit is given to the layer as 0), and decimates from there. The alternatives
  are tried in the order of the confidence that they gainsay, summed along the way: limited discrepancy search (Harvey and
  Ginsberg, IJCAI 1995), best first.
* A decimation is *given up* on the way once the objective of the relaxation is above the limit: that of a completion can
  only be higher.

Rows, columns, boxes and what they exclude do not occur in this file. That a cell holds one digit does: it is how a board is
encoded and how an answer is read off, with search or without.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.progress import progress_bar
from demos.sudoku.boards import Int8Array
from demos.sudoku.data import encode
from demos.sudoku.model import SudokuNet


@dataclass(frozen=True)
class SearchOptions:
    """How long and in what steps to search."""

    coarse: float = 0.12
    """A round of a board's first decimation fixes this share of its blank cells, the most confident, and at least one. It is
    enough for most boards that give 24 cells or more. If it fails, the board is begun again, with care."""
    fraction: float = 0.03
    """The same for all later decimations."""
    sure: float = 0.9
    """And further ones whose confidence, the lead of the most probable digit over the next, is at least this."""
    paths: int = 30
    """A board is given up after this many decimations; 1 is the coarse one alone."""
    starts: int = 4
    """So many of the others begin with the puzzle, before the rest go back to a cell."""
    batch_size: int = 200
    """Boards that are worked on at a time. When one is done, the next takes its place."""

    def __post_init__(self) -> None:
        for name in ("coarse", "fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted more than 0 and at most 1")
        for name in ("paths", "starts", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 1 or more")


@dataclass(frozen=True)
class Answers:
    """What a search found for each puzzle."""

    boards: Int8Array
    """Of shape (count, N ** 2): the accepted answer, or else the one with the lowest learnt objective."""
    objective: NDArray[np.float64]
    """Of shape (count,): its learnt objective."""
    accepted: NDArray[np.bool_]
    """Of shape (count,): whether that is within the limit. Nothing else tells a right answer from a wrong one."""
    paths: NDArray[np.int64]
    """Of shape (count,): how many decimations it took, those given up on the way included."""
    solves: NDArray[np.int64]
    """Of shape (count,): how many forward passes of the layer it took, the objectives' included."""


@torch.no_grad()
def learnt_objective(net: SudokuNet, boards: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return the layer's objective for completed boards of shape (B, N ** 2), minimized over its auxiliary variables."""
    bits, _ = encode(boards)
    _, info = net.complete(bits, torch.ones_like(bits, dtype=torch.bool), generator=generator)
    return info.objective


def objective_of(net: SudokuNet, boards: Int8Array, *, seed: int = 0, batch_size: int = 200) -> NDArray[np.float64]:
    """Return the learnt objectives, (count,), of completed boards of shape (count, N ** 2), in batches."""
    generator = torch.Generator(net.device).manual_seed(seed)
    parts = [
        learnt_objective(net, torch.from_numpy(boards[i : i + batch_size]).to(net.device), generator=generator)
        for i in range(0, len(boards), batch_size)
    ]
    return torch.cat(parts).cpu().double().numpy()


def objective_limit(net: SudokuNet, solutions: Int8Array, *, seed: int = 0, batch_size: int = 200) -> float:
    """Return the highest objective at which an answer is accepted, from solved boards that the network was trained on.

    It is eight times as far above their median as their 90th percentile, about ten standard deviations. Percentiles further out
    would not do: a solved board in some hundreds has an objective far above the others'. A right answer turned down costs time,
    as the search goes on; a wrong one that is accepted is final.
    """
    if len(solutions) == 0:
        raise ValueError("solutions: got none, wanted solved boards to set the limit by")
    objective = objective_of(net, solutions, seed=seed, batch_size=batch_size)
    middle, high = np.quantile(objective, [0.5, 0.9])
    return float(middle + 8 * (high - middle))


@dataclass(order=True)
class _Node:
    """Where a decimation starts: a partial board, and the digits taken to be wrong."""

    cost: float
    order: int
    board: Int8Array = field(compare=False)
    wrong: NDArray[np.bool_] = field(compare=False)


class _Tree:
    """The search for one puzzle."""

    def __init__(self, index: int, puzzle: Int8Array, size: int, options: SearchOptions) -> None:
        self.index = index
        self.options = options
        self.root = _Node(0.0, 0, puzzle, np.zeros((len(puzzle), size), bool))
        self.heap: list[_Node] = []
        self.pushed: set[bytes] = set()
        self.best: Int8Array = puzzle
        self.objective = float("inf")
        self.accepted = False
        self.paths = 0
        self.solves = 0
        self.descend()

    def push(self, cost: float, board: Int8Array, wrong: NDArray[np.bool_]) -> None:
        key = board.tobytes() + wrong.tobytes()
        if key not in self.pushed:  # a restart comes by the same places
            self.pushed.add(key)
            heapq.heappush(self.heap, _Node(cost, len(self.pushed), board, wrong))

    def descend(self) -> None:
        """Start the next decimation: some from the puzzle, then from the alternative that gainsays the least confidence."""
        self.paths += 1
        begin = self.paths <= 1 + self.options.starts or not self.heap
        node = self.root if begin else heapq.heappop(self.heap)
        self.cost, self.board, self.wrong = node.cost, node.board.copy(), node.wrong
        self.hopeless = False

    def forget(self) -> None:
        """Drop the alternatives; a board that took a hundred decimations has thousands."""
        self.heap.clear()
        self.pushed.clear()

    @property
    def ended(self) -> bool:
        """Whether the decimation has."""
        return self.hopeless or bool(self.board.all())

    def look(self, objective: float, limit: float) -> None:
        """Give up a decimation that has no acceptable end.

        With most cells blank, the solver stops too far from the minimum for its objective to tell. The coarse decimation goes
        on in any case, so that there is an answer.
        """
        blank = int((self.board == 0).sum())
        self.hopeless = self.paths > 1 and 2 * blank <= len(self.board) and objective > limit

    def fix(self, probabilities: NDArray[np.float32]) -> None:
        """One round of decimation; what it decides is kept as alternatives for later, unless it is coarse."""
        coarse = self.paths == 1
        blank = np.flatnonzero(self.board == 0)
        p = np.where(self.wrong[blank], -1.0, probabilities[blank])
        digits = p.argmax(1)
        ordered = np.sort(p, axis=1)
        confidence = ordered[:, -1] - np.maximum(ordered[:, -2], 0)
        share = self.options.coarse if coarse else self.options.fraction
        count = max(1, round(share * len(blank)), int((confidence >= self.options.sure).sum()))
        chosen = np.argsort(-confidence, kind="stable")[:count]
        before = self.board.copy()
        for c in chosen:
            cell, digit = blank[c], digits[c]
            wrong = self.wrong.copy()
            wrong[cell, digit] = True
            if not coarse and not wrong[cell].all():
                self.push(self.cost + float(confidence[c]), before, wrong)
            self.board[cell] = digit + 1


@torch.no_grad()
def search(
    net: SudokuNet,
    puzzles: Int8Array,
    limit: float,
    options: SearchOptions = SearchOptions(),
    *,
    seed: int = 0,
    description: str = "searching",
) -> Answers:
    """Complete puzzles by decimation, acceptance by the learnt objective, and backtracking.

    Parameters
    ----------
    net
        A trained network.
    puzzles
        Of shape (count, N ** 2), 0 for a blank.
    limit
        The highest learnt objective of an answer that is accepted: :func:`objective_limit`.
    options
        How long to search.
    seed
        Seeds the layer's random starts. The answers also depend on ``options.batch_size`` and the order of the puzzles.
    description
        For the progress bar.
    """
    count, cells = puzzles.shape
    size = net.box**2
    generator = torch.Generator(net.device).manual_seed(seed)
    waiting = iter(range(count))
    active: list[_Tree] = []
    done: dict[int, _Tree] = {}
    with progress_bar(count, description, " boards") as bar:
        while True:
            while len(active) < options.batch_size and (index := next(waiting, None)) is not None:
                active.append(_Tree(index, puzzles[index], size, options))
            if not active:
                break
            _judge(net, [tree for tree in active if tree.board.all()], limit, generator)
            for tree in active:
                if tree.accepted or (tree.ended and tree.paths == options.paths):
                    done[tree.index] = tree
                    tree.forget()
                    bar.update()
                elif tree.ended:
                    tree.descend()
            active = [tree for tree in active if tree.index not in done]
            if not active:
                continue
            boards = torch.from_numpy(np.stack([tree.board for tree in active])).to(net.device)
            wrong = torch.from_numpy(np.stack([tree.wrong for tree in active])).to(net.device)
            bits, given = encode(boards)
            probabilities, info = net.complete(bits, given | wrong.flatten(1), generator=generator)
            found = probabilities.reshape(-1, cells, size).cpu().numpy()
            for tree, p, objective in zip(active, found, info.objective.tolist(), strict=True):
                tree.solves += 1
                tree.look(objective, limit)
                if not tree.hopeless:
                    tree.fix(p)
    trees = [done[i] for i in range(count)]
    return Answers(
        boards=np.stack([tree.best for tree in trees]),
        objective=np.array([tree.objective for tree in trees]),
        accepted=np.array([tree.accepted for tree in trees]),
        paths=np.array([tree.paths for tree in trees]),
        solves=np.array([tree.solves for tree in trees]),
    )


def _judge(net: SudokuNet, trees: list[_Tree], limit: float, generator: torch.Generator) -> None:
    """Compute the learnt objective of finished boards, and accept those within the limit."""
    if not trees:
        return
    boards = torch.from_numpy(np.stack([tree.board for tree in trees])).to(net.device)
    for tree, objective in zip(trees, learnt_objective(net, boards, generator=generator).tolist(), strict=True):
        tree.solves += 1
        if objective < tree.objective:
            tree.best, tree.objective = tree.board.copy(), objective
        tree.accepted = objective <= limit
