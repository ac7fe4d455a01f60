"""Rules read off a layer: how many are found from how many boards, and what a SAT solver makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from demos.sudoku.boards import Boards, Int8Array, box_of
from demos.sudoku.data import domains_of, to_boards, to_values
from demos.sudoku.evaluation import Result
from demos.sudoku.model import SudokuNet
from demos.sudoku.rules import exclusions
from difflayers.inference import Rules, extract_rules, solve_exactly


def learn_rules(net: SudokuNet | None, solutions: Int8Array, *, exactly_one: bool = False) -> Rules:
    """Extract rules from solved boards, (count, N ** 2), and a layer; from the boards alone if there is none."""
    layer, domains = None if net is None else net.board_layer(), domains_of(box_of(solutions.shape[1]))
    return extract_rules(layer, domains, to_values(solutions)[0], exactly_one=exactly_one, progress=True)


def compare(rules: Rules, box: int) -> tuple[int, int, int]:
    """Return how many pairs of bits exclude each other in Sudoku, how many of them the rules hold, and how many others.

    That a cell holds one digit, which is how a board is written, is among them.
    """
    true = np.triu(np.logical_or.reduce(list(exclusions(box).values())), 1)
    wanted = set(zip(*(index.tolist() for index in np.nonzero(true)), strict=True))
    pairs = {tuple(sorted(clause)) for clause in rules.clauses if len(clause) == 2}
    held = {(-high - 1, -low - 1) for low, high in pairs if high < 0}
    return len(wanted), len(held & wanted), len(pairs) - len(held & wanted)


def pairs_by_boards(
    net: SudokuNet, layer: str, solutions: Int8Array, counts: list[int], *, exactly_one: bool = False
) -> Iterator[Result]:
    """Yield a row for each number of boards: the exclusions found with the layer, and by counting alone."""
    for count in counts:
        row: Result = {"layer": layer, "boards": count}
        for name, source in (("with the layer", net), ("counting alone", None)):
            total, held, others = compare(learn_rules(source, solutions[:count], exactly_one=exactly_one), net.box)
            row |= {"exclusions": total, f"{name}: found": held, f"{name}: false": others}
        yield row


def evaluate_exact(rules: Rules, boards: Boards) -> Result:
    """Complete boards so that no rule is broken, one after the other."""
    begin = time.perf_counter()
    found = solve_exactly(rules, rules.domains, *to_values(boards.puzzles), unique=True, progress=True)
    seconds = time.perf_counter() - begin
    if found.interrupted:
        raise KeyboardInterrupt
    assert found.unique is not None
    right = torch.from_numpy((to_boards(found.values) == boards.solutions).all(1))
    return {
        "boards wholly right": float(right.double().mean()),
        "answers, and wrong": int((found.satisfiable & ~right).sum()),
        "refuted": int((~found.satisfiable).sum()),
        "proved to be the only answer": int(found.unique.sum()),
        "milliseconds a board": 1e3 * seconds / len(boards),
    }
