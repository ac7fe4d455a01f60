"""Joint decoding: of all solved boards that the learnt rules allow, the one that the evidence of a photograph supports most.

A cell of the photograph is blank or shows the digit of the solution. So what the reader saw in it supports digit d with
``log(p(blank) + p(d))``, and a solved board with the sum of that over its cells: a cell that is surely blank says nothing, a
digit that was read for sure weighs much, and neither is law. A digit that was misread, missed, or seen in a blank cell is put
right if the rest of the board, by the rules, says so.

The rules are what a SATNet layer has learnt (`learnt_rules`); rows, columns and boxes do not occur in this file. The
boards with the most support are found exactly, as weighted MAXSAT (RC2, stratified: Ignatiev, Morgado, Marques-Silva, JSAT
2019).

A newspaper's puzzle has one solution. So of two boards that differ in some cells, the one whose digits were printed has one of
them at least printed in those cells; else both were solutions. The support of a board is therefore less the probability that
none of its digits is (`weigh`). Where a digit was nearly missed, that decides; where it was missed for sure, no board is
ahead, and none is accepted.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pysat.examples.rc2 import RC2Stratified
from pysat.formula import CNF, WCNF
from pysat.solvers import Solver

from demos.files import write_atomically
from demos.sudoku.boards import Int8Array
from demos.sudoku.data import domains_of, to_values
from demos.sudoku.model import SudokuNet
from demos.sudoku.photo.reader import CLASSES
from difflayers.inference import Rules, extract_rules, learnt_objective

RESULTS = Path(__file__).parents[1] / "results"
RULES = RESULTS / "photo" / "rules.cnf.gz"
"""The rules that the layer in ``results/original-9x9`` has learnt."""

DOUBT = 1e-3
"""The reader is taken to guess in this share of the cells, however sure it says it is."""
LEAST_SURE = 0.99
"""An answer is accepted from this probability on."""
MOST_OVERRULED = 0.15
"""And if it agrees with all but this share of the digits that were read."""
CONFIDENT = 0.99
"""And with every digit of which the reader is so sure: where they disagree, the answer is likelier wrong."""
BOARDS = 10
"""So many boards are weighed against each other."""
FAR = 7.0
"""Those that are so much, in log-probability, behind the best are not."""
_SCALE = 1000  # MAXSAT has integer weights


@dataclass(frozen=True)
class Answer:
    """What joint decoding made of one photograph."""

    board: Int8Array
    """The best solved board, (81,)."""
    read: Int8Array
    """The most probable reading of each cell by itself, (81,), 0 for blank."""
    confidence: NDArray[np.float64]
    """The probability of that reading, (81,)."""
    givens: Int8Array
    """The digits printed in the photograph as far as they agree with the board, (81,)."""
    sure: float
    """The probability of the board, against the other boards with the most support."""
    objective: float
    """Its learnt objective."""
    limit: float
    """The highest learnt objective of a board that the layer takes for solved."""

    @property
    def corrected(self) -> NDArray[np.bool_]:
        """Return the cells whose reading by itself was overruled, (81,)."""
        return self.givens != self.read

    @property
    def overruled(self) -> int:
        """Return how many digits that were read do not stand."""
        return int((self.corrected & (self.read > 0)).sum())

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Return why the answer is not accepted; empty if it is."""
        doubts = []
        if self.objective > self.limit:
            doubts.append(f"the layer does not take it for solved ({self.objective:.1f}, limit {self.limit:.1f})")
        if self.sure < LEAST_SURE:
            doubts.append(f"another board agrees with the photograph about as well ({self.sure:.0%} sure)")
        digits = int((self.read > 0).sum())
        if confident := int((self.corrected & (self.read > 0) & (self.confidence > CONFIDENT)).sum()):
            doubts.append(f"it disagrees with {confident} of the digits that were read for sure")
        if self.overruled > MOST_OVERRULED * digits:
            doubts.append(f"it disagrees with {self.overruled} of the {digits} digits that were read")
        return tuple(doubts)

    @property
    def accepted(self) -> bool:
        """Return whether nothing speaks against the answer."""
        return not self.doubts


class UnsolvableError(ValueError):
    """The learnt rules allow no board at all."""


class Decoder:
    """Joint decoding with the rules and the objective that a layer has learnt.

    Args:
        net: The layer.
        limit: The highest learnt objective of a board that is accepted.
        clauses: What it has learnt: clauses over bits in DIMACS signs, bit 9 c + d of cell c (from 0) and digit d (from 1).
    """

    def __init__(self, net: SudokuNet, limit: float, clauses: list[list[int]]) -> None:
        self.net = net
        self._layer = net.board_layer()
        self.limit = limit
        self.clauses = clauses

    def objective(self, boards: Int8Array) -> NDArray[np.float64]:
        """Return the learnt objectives, (...), of solved boards, (..., 81)."""
        values, _ = to_values(boards)
        random = torch.Generator().manual_seed(0)
        found: NDArray[np.float64] = (
            learnt_objective(self._layer, domains_of(3), values, generator=random).cpu().numpy()
        )
        return found

    def decode(self, log_probabilities: NDArray[np.floating]) -> Answer:
        """Decode what was read.

        Args:
            log_probabilities: Of shape (81, 10): of blank and the digits 1 to 9 in each cell.
        """
        if log_probabilities.shape != (81, CLASSES):
            raise ValueError(f"log_probabilities: got shape {log_probabilities.shape}, wanted (81, {CLASSES})")
        if not np.isfinite(log_probabilities).all():
            raise ValueError("log_probabilities: got some that are not finite")
        p = np.exp(log_probabilities.astype(np.float64))
        p = (1 - DOUBT) * p / p.sum(1, keepdims=True) + DOUBT / CLASSES
        support = np.log(p[:, :1] + p[:, 1:])
        boards = self._most_supported(support)
        weights = weigh(p, boards)
        board, sure = boards[weights.argmax()], float(weights.max())
        read = p.argmax(1).astype(np.int8)
        stands = p[np.arange(81), board] > p[:, 0]
        return Answer(
            board=board,
            read=read,
            confidence=p.max(1),
            givens=np.where(stands, board, 0).astype(np.int8),
            sure=sure,
            objective=float(self.objective(board)),
            limit=self.limit,
        )

    def _most_supported(self, support: NDArray[np.float64]) -> Int8Array:
        """Return the boards with the most support, of shape (81, 9), the best first: (up to BOARDS, 81)."""
        # Filled in directly: WCNF.append() looks at every literal of ten thousand clauses each time.
        problem = WCNF()
        problem.nv = 9 * 81
        problem.hard = [*self.clauses]
        for cell, row in enumerate(support):
            literals = [9 * cell + digit for digit in range(1, 10)]
            problem.hard.append(literals)
            order = np.argsort(-row, kind="stable")
            first, second = int(order[0]), int(order[1])
            # Not to be the best supported digit costs what the second is behind; to be another than that costs the rest.
            soft = [(literals[first], row[first] - row[second])]
            soft += [(-literals[digit], row[second] - row[digit]) for digit in order[2:]]
            for literal, weight in soft:
                if (rounded := round(_SCALE * weight)) > 0:
                    problem.soft.append([literal])
                    problem.wght.append(rounded)
        problem.topw = sum(problem.wght) + 1
        boards: list[Int8Array] = []
        most = np.inf
        while len(boards) < BOARDS:
            with Solver(bootstrap_with=problem.hard) as solver:
                model, cost = solver.get_model() if solver.solve() else None, 0
            if model is None:
                break
            if problem.soft:
                # One for each board: to go on with one is slower, and not sound once strata have hardened clauses.
                with RC2Stratified(problem, blo="full") as best:
                    model, cost = best.compute(), best.cost
            if cost > most:
                break
            if not boards:
                # No board that counts breaks a clause that alone costs more than the best board and FAR: these become hard.
                most = cost + _SCALE * FAR
                both = list(zip(problem.soft, problem.wght, strict=True))
                problem.hard += [clause for clause, weight in both if weight > most]
                problem.soft = [clause for clause, weight in both if weight <= most]
                problem.wght = [weight for _, weight in both if weight <= most]
            boards.append(_board(model))
            problem.hard.append([-bit for bit in model[: 9 * 81] if bit > 0])
        if not boards:
            raise UnsolvableError("the learnt rules allow no board")
        return np.stack(boards)


def _board(model: list[int]) -> Int8Array:
    return np.array([(bit - 1) % 9 + 1 for bit in model[: 9 * 81] if bit > 0], np.int8)


def weigh(p: NDArray[np.float64], boards: Int8Array) -> NDArray[np.float64]:
    """Return the probabilities of boards, of which one is the only solution of the puzzle that is printed.

    Board i has the weight ``prod_c (b_c + p_ic)``, where ``b_c`` is the probability that cell c is blank and ``p_ic`` that
    it shows the digit of the board; times, of the other boards j that for which it is least, ``1 - prod_c b_c / (b_c + p_ic)``
    over the cells in which i and j differ: the probability that a digit is printed there.

    Args:
        p: Of shape (81, 10): probabilities of blank and the digits 1 to 9, none of them zero.
        boards: Of shape (count, 81).

    Returns:
        Of shape (count,), with the sum 1.
    """
    blank = p[:, 0]
    either = blank + p[np.arange(81), boards]
    logs = np.log(either).sum(1)
    none = np.log(blank / either)
    for i, board in enumerate(boards):
        unprinted = ((boards != board) @ none[i])[np.arange(len(boards)) != i]
        if len(unprinted):
            logs[i] += np.log(-np.expm1(unprinted.max()))
    weights: NDArray[np.float64] = np.exp(logs - logs.max())
    return weights / weights.sum()


def learnt_rules(net: SudokuNet, solutions: Int8Array) -> Rules:
    """Return what a layer has learnt, as far as solved boards, (count, 81), support it."""
    return extract_rules(net.board_layer(), domains_of(3), to_values(solutions)[0])


def save_rules(rules: Rules, path: Path) -> None:
    """Write all clauses as gzipped DIMACS."""
    write_atomically(path, gzip.compress(rules.to_cnf().encode(), mtime=0))


def load_rules(path: Path = RULES) -> list[list[int]]:
    """Read clauses from gzipped DIMACS."""
    return CNF(from_string=gzip.decompress(path.read_bytes()).decode()).clauses


def shipped_layer(device: str = "cpu") -> tuple[SudokuNet, float]:
    """Return the layer in ``results/original-9x9``, solved to the end, and the limit of its objective."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import restore, satnet_of

    checkpoint = load_checkpoint(RESULTS / "original-9x9")
    if checkpoint.limit is None:
        raise ValueError(f"{RESULTS / 'original-9x9'}: the checkpoint has no limit for the learnt objective")
    return satnet_of(restore(checkpoint, max_iter=100, eps=1e-5).to(device)), checkpoint.limit


def shipped_decoder(device: str = "cpu") -> Decoder:
    """Return the decoder with that layer and the rules that it has learnt."""
    return Decoder(*shipped_layer(device), load_rules())
