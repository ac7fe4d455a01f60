"""Rounding at inference: the best of several boards that one forward pass is rounded to, each improved by local search.

The layer's probabilities are rounded to one digit a cell: the most probable ones first, then digits drawn with their
probabilities, sharpened by a temperature. A local search then lowers the learnt objective by changing one blank cell's digit
at a time, the one that lowers it most, with the auxiliary vectors held fixed; when none does, these are solved for again. As in
:mod:`demos.sudoku.search`, rows, columns and boxes do not occur, and an answer is accepted by its learnt objective alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from demos.progress import progress_bar
from demos.sudoku.boards import Int8Array
from demos.sudoku.data import encode
from demos.sudoku.model import SudokuNet
from demos.sudoku.search import Answers, SearchOptions, search


@dataclass(frozen=True)
class RoundingOptions:
    """How often to round."""

    roundings: int = 10
    """A board is given up after so many."""
    temperature: float = 0.5
    """All but the first are drawn from the softmax, over a cell's digits, of the bits' log-odds divided by this."""
    batch_size: int = 200
    """Boards at a time."""

    def __post_init__(self) -> None:
        for name in ("roundings", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted 1 or more")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, wanted a positive number")


@torch.no_grad()
def local_search(
    net: SudokuNet, coupling: Tensor, boards: Tensor, blank: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, int]:
    """Lower the learnt objective by changing one cell at a time.

    Parameters
    ----------
    net
        A trained network.
    coupling
        Its :meth:`~demos.sudoku.model.SudokuNet.couplings`.
    boards
        Of shape (B, N ** 2), int8, complete.
    blank
        bool, of that shape: the cells that may change.
    generator
        Where the layer's random starts are drawn from.

    Returns
    -------
    The best boards met, their learnt objectives, (B,), and how many passes of the layer it took.
    """
    size = net.box**2
    best, lowest = boards.clone(), torch.full((len(boards),), torch.inf, device=boards.device)
    coupling = coupling.unflatten(1, (-1, size))
    own = coupling.flatten(1).diagonal().unflatten(0, (-1, size))
    least_gain = 1e-4 * float(own.mean())  # far above rounding: the search ends
    cells = torch.arange(size**2, device=boards.device)
    active, passes = torch.arange(len(boards), device=boards.device), 0
    while len(active):
        bits, _ = encode(boards)
        objective, pull = net.field(bits, torch.ones_like(bits, dtype=torch.bool), generator=generator)
        passes += 1
        better = objective < lowest[active] - least_gain
        active, boards, pull = active[better], boards[better].clone(), pull[better].unflatten(1, (-1, size))
        best[active], lowest[active] = boards, objective[better]
        changed = torch.zeros(len(active), dtype=torch.bool, device=boards.device)
        while True:
            now = boards.long() - 1
            held = pull.gather(2, now[..., None])
            # Of |S'V|^2, when the cell's digit now goes from 1 to -1 and another one from -1 to 1.
            between = coupling[cells * size + now, cells]
            change = 4 * (pull - held + own + own[cells, now][..., None] - 2 * between)
            change = change.masked_fill(~blank[active][..., None] | (one_hot(now, size) == 1), torch.inf)
            least, place = change.flatten(1).min(1)
            index = (least < -least_gain).nonzero()[:, 0]
            if not len(index):
                break
            cell, digit = place[index] // size, place[index] % size
            pull[index] += 2 * (coupling[place[index]] - coupling[cell * size + now[index, cell]])
            boards[index, cell] = (digit + 1).to(boards.dtype)
            changed[index] = True
        active, boards = active[changed], boards[changed]
    return best, lowest, passes


@torch.no_grad()
def round_best(
    net: SudokuNet,
    puzzles: Int8Array,
    limit: float,
    options: RoundingOptions = RoundingOptions(),
    *,
    seed: int = 0,
) -> Answers:
    """Complete puzzles by the best of several roundings of one forward pass.

    Parameters
    ----------
    net
        A trained network.
    puzzles
        Of shape (count, N ** 2), 0 for a blank.
    limit
        The highest learnt objective of an answer that is accepted: :func:`demos.sudoku.search.objective_limit`.
    options
        How often to round.
    seed
        Seeds what is random.

    Returns
    -------
    The answers, whose ``paths`` are roundings here.
    """
    size = net.box**2
    generator = torch.Generator(net.device).manual_seed(seed)
    coupling = net.couplings()
    parts: list[Answers] = []
    with progress_bar(len(puzzles), "rounding", " boards") as bar:
        for start in range(0, len(puzzles), options.batch_size):
            given_digits = torch.from_numpy(puzzles[start : start + options.batch_size]).to(net.device)
            blank = given_digits == 0
            probabilities, _ = net.complete(*encode(given_digits), generator=generator)
            odds = torch.logit(probabilities, eps=1e-6).unflatten(1, (-1, size)) / options.temperature
            boards, objective = given_digits.clone(), torch.full((len(blank),), torch.inf, device=net.device)
            paths = torch.zeros(len(blank), dtype=torch.int64, device=net.device)
            solves = torch.ones_like(paths)
            for round_ in range(options.roundings):
                left = (objective > limit).nonzero()[:, 0]
                if not len(left):
                    break
                if round_ == 0:
                    digits = odds[left].argmax(2)
                else:
                    drawn = torch.multinomial(odds[left].flatten(0, 1).softmax(1), 1, generator=generator)
                    digits = drawn.view(len(left), -1)
                tried = torch.where(blank[left], (digits + 1).to(torch.int8), given_digits[left])
                tried, found, passes = local_search(net, coupling, tried, blank[left], generator=generator)
                paths[left] += 1
                solves[left] += passes
                better = found < objective[left]
                boards[left[better]], objective[left[better]] = tried[better], found[better]
            parts.append(
                Answers(
                    boards=boards.cpu().numpy(),
                    objective=objective.cpu().double().numpy(),
                    accepted=(objective <= limit).cpu().numpy(),
                    paths=paths.cpu().numpy(),
                    solves=solves.cpu().numpy(),
                )
            )
            bar.update(len(blank))
    return Answers(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def round_then_search(
    net: SudokuNet,
    puzzles: Int8Array,
    limit: float,
    rounding: RoundingOptions,
    options: SearchOptions,
    *,
    seed: int = 0,
) -> Answers:
    """Complete puzzles by :func:`round_best`, and those without an accepted answer by :func:`demos.sudoku.search.search`.

    Returns
    -------
    The answers; ``paths`` are roundings and decimations together.
    """
    found = round_best(net, puzzles, limit, rounding, seed=seed)
    rest = np.flatnonzero(~found.accepted)
    if len(rest) == 0:
        return found
    later = search(net, puzzles[rest], limit, options, seed=seed)
    better = later.objective < found.objective[rest]
    found.boards[rest[better]], found.objective[rest[better]] = later.boards[better], later.objective[better]
    found.accepted[rest] = later.accepted
    found.paths[rest] += later.paths
    found.solves[rest] += later.solves
    return found
