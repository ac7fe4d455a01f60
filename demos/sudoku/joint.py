"""Joint decoding of boards of digit images: what the reader saw is evidence, not truth.

One forward pass takes the reader's most probable digit in each given cell at its word, so that a single misread digit
costs the board. Here the readings of all given cells together are hypotheses, tried from the most probable down. The layer
completes each, and the first completion is accepted whose learnt objective is within the limit that solved training boards
set (see :mod:`demos.sudoku.search`): most misread digits make a board that the learnt rules do not allow. Not all: a puzzle
with one digit exchanged for another can have a solution too, so the order of the readings matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from demos.progress import progress_bar
from demos.sudoku.boards import Int8Array
from demos.sudoku.images import ImageBoards
from demos.sudoku.model import SudokuNet, VisualNet, satnet_of
from demos.sudoku.search import SearchOptions, learnt_objective, search


@dataclass(frozen=True)
class Readings:
    """What joint decoding found for each board."""

    boards: Int8Array
    """Of shape (count, N ** 2): the accepted answer; if there is none, the completion of the most probable reading."""
    accepted: NDArray[np.bool_]
    """Of shape (count,): whether its learnt objective is within the limit."""
    tried: NDArray[np.int64]
    """Of shape (count,): how many readings were completed."""


def most_probable(probabilities: NDArray[np.float64]) -> Iterator[NDArray[np.int8]]:
    """Yield the readings of cells that are read independently, from the most probable to the least.

    Parameters
    ----------
    probabilities
        Of shape (cells, N): of the digits in each cell.

    Yields
    ------
    Digits, 1 to N, of shape (cells,).
    """
    if len(probabilities) == 0:
        yield np.zeros(0, np.int8)
        return
    order = np.argsort(-probabilities, axis=1, kind="stable")
    logs = np.log(np.take_along_axis(probabilities, order, 1).clip(min=1e-30))
    costs = logs[:, :1] - logs  # of taking a cell's r-th digit instead of its first
    cells = np.argsort(costs[:, 1], kind="stable")  # the least certain first

    def digits(ranks: dict[int, int]) -> NDArray[np.int8]:
        chosen = order[:, 0].copy()
        for cell, rank in ranks.items():
            chosen[cell] = order[cell, rank]
        return (chosen + 1).astype(np.int8)

    yield digits({})
    # A state is a choice of ranks for some cells, the last of them at place `last` in `cells`. Its successors, none cheaper
    # than itself, raise the last one's rank, add the next cell, or put the next cell in the last one's place: each choice
    # of ranks has exactly one predecessor.
    heap = [(float(costs[cells[0], 1]), 0, 0, {int(cells[0]): 1})]
    pushed = 0
    while heap:
        cost, _, last, ranks = heapq.heappop(heap)
        yield digits(ranks)
        cell = int(cells[last])
        successors = []
        if ranks[cell] + 1 < probabilities.shape[1]:
            step = costs[cell, ranks[cell] + 1] - costs[cell, ranks[cell]]
            successors.append((cost + float(step), last, ranks | {cell: ranks[cell] + 1}))
        if last + 1 < len(cells):
            following = int(cells[last + 1])
            added = float(costs[following, 1])
            successors.append((cost + added, last + 1, ranks | {following: 1}))
            if ranks[cell] == 1:
                rest = {c: r for c, r in ranks.items() if c != cell}
                moved = cost + added - float(costs[cell, 1])
                successors.append((moved, last + 1, rest | {following: 1}))
        for new_cost, new_last, new_ranks in successors:
            pushed += 1
            heapq.heappush(heap, (new_cost, pushed, new_last, new_ranks))


@torch.no_grad()
def read_jointly(
    net: VisualNet,
    boards: ImageBoards,
    limit: float,
    *,
    readings: int = 100,
    options: SearchOptions | None = None,
    batch_size: int = 100,
    seed: int = 0,
) -> Readings:
    """Read and complete boards of images.

    Parameters
    ----------
    net
        A trained network with a SATNet layer.
    boards
        Of these only the images are used, and which cells are given.
    limit
        The highest learnt objective of an answer that is accepted: :func:`demos.sudoku.search.objective_limit`.
    readings
        At most so many are completed for a board.
    options
        Complete each reading by a search, rather than in one forward pass.
    batch_size
        Boards at a time.
    seed
        Seeds the layer's random starts.
    """
    if readings < 1:
        raise ValueError(f"readings: got {readings}, wanted 1 or more")
    solver = satnet_of(net)
    generator = torch.Generator(net.device).manual_seed(seed)
    answers = np.zeros_like(boards.puzzles)
    accepted = np.zeros(len(boards), bool)
    tried = np.zeros(len(boards), np.int64)
    net.eval()
    with progress_bar(len(boards), "reading", " boards") as bar:
        for first in range(0, len(boards), batch_size):
            batch = boards[first : first + batch_size]
            given = batch.puzzles != 0
            seen = net.read(*net.inputs(batch)).cpu().double().numpy()
            hypotheses = [most_probable(p[cells]) for p, cells in zip(seen, given, strict=True)]
            open_ = list(range(len(batch)))
            for attempt in range(readings):
                puzzles = np.zeros((len(open_), batch.puzzles.shape[1]), np.int8)
                left = []
                for row, b in enumerate(open_):
                    reading = next(hypotheses[b], None)
                    if reading is not None:
                        puzzles[row, given[b]] = reading
                        left.append(row)
                open_, puzzles = [open_[row] for row in left], puzzles[left]
                if not open_:
                    break
                if options is None:
                    found, objective = _in_one_pass(solver, puzzles, generator)
                else:
                    result = search(
                        solver, puzzles, limit, options, seed=seed + attempt, description=f"reading {attempt + 1}"
                    )
                    found, objective = result.boards, result.objective
                for b, answer, value in zip(open_, found, objective, strict=True):
                    tried[first + b] += 1
                    accepted[first + b] = value <= limit
                    if attempt == 0 or value <= limit:
                        answers[first + b] = answer
                open_ = [b for b in open_ if not accepted[first + b]]
            bar.update(len(batch))
    return Readings(answers, accepted, tried)


def _in_one_pass(
    solver: SudokuNet, puzzles: Int8Array, generator: torch.Generator
) -> tuple[Int8Array, NDArray[np.float64]]:
    """Complete puzzles; return the boards and their learnt objectives."""
    completed = solver.predict(torch.from_numpy(puzzles).to(solver.device), generator=generator)
    objective = learnt_objective(solver, completed, generator=generator)
    return completed.cpu().numpy(), objective.cpu().double().numpy()
