"""The command ``sudoku``: how far clauses as they are get, by propagation, one pass and decimation, beside a MAXSAT solver."""

from __future__ import annotations

import time

import numpy as np
import torch

from demos.clauses.options import Sudoku
from demos.clauses.problems import Propagation, sudoku
from demos.clauses.solve import decimate, probabilities
from demos.devices import checked_device
from demos.files import check_output, csv_text, write_atomically
from demos.sudoku.boards import Boards
from demos.sudoku.data import encode, read_csv
from demos.sudoku.generator import generate
from difflayers import SATNet


def solve_sudoku(options: Sudoku) -> None:
    """Solve Sudoku by its clauses."""
    if options.output is not None:
        check_output(options.output, "--output", overwrite=options.overwrite)
    device = checked_device(options.device)
    sets: list[tuple[str, Boards]] = [
        (f"generated, {givens} givens", generate(options.box, (givens, givens), options.count, options.seed))
        for givens in options.givens
    ]
    for path in options.data:
        boards = read_csv(path, options.box)[: options.count]
        sets.append((f"{path.name.split('.')[0]}, {boards.givens.mean():.1f} givens", boards))
    clauses = sudoku(options.box)
    layer = SATNet.from_clauses(clauses, max_iter=options.max_iter, eps=options.eps).to(device)
    print(f"Sudoku as {len(clauses)} clauses over {layer.n} variables, no training; boards wholly right:\n")
    propagate, rows = Propagation(clauses), []
    for name, boards in sets:
        bits, given = encode(torch.from_numpy(boards.puzzles))
        truth, _ = encode(torch.from_numpy(boards.solutions))
        right = truth.numpy().astype(np.int8)
        values = np.where(given.numpy(), bits.numpy(), -1).astype(np.int8)
        propagated = values.copy()
        for row in propagated:
            propagate(row)
        cells = (len(boards), -1, options.box**2)
        once = probabilities(layer, values, torch.Generator().manual_seed(options.seed)).reshape(cells).argmax(2)
        after = probabilities(layer, propagated, torch.Generator().manual_seed(options.seed)).reshape(cells).argmax(2)
        answer = right.reshape(cells).argmax(2)
        started = time.perf_counter()
        decimated = decimate(layer, clauses, values, share=options.share, seed=options.seed)
        row = {
            "boards": name,
            "count": len(boards),
            "unit propagation alone": (propagated == right).all(1).mean(),
            "one pass": (once == answer).all(1).mean(),
            "propagation, one pass": (after == answer).all(1).mean(),
            "decimation": (decimated == right).all(1).mean(),
            "seconds a board": (time.perf_counter() - started) / len(boards),
            "RC2": _rc2(clauses, values, right),
        }
        rows.append(row)
        shares = [
            f"{key} {value:.1%}" for key, value in row.items() if key not in ("boards", "count", "seconds a board")
        ]
        print(f"{name} ({len(boards)}): {', '.join(shares)}", flush=True)
    if options.output is not None:
        shown = [{key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        write_atomically(options.output, csv_text(shown).encode())


def _rc2(clauses: list[list[int]], values: np.ndarray, right: np.ndarray) -> float:
    """The share that python-sat's RC2 solves, the clauses hard: all of them, if the clauses are right."""
    from pysat.examples.rc2 import RC2
    from pysat.formula import WCNF

    solved = 0
    for row, want in zip(values, right, strict=True):
        formula = WCNF()
        formula.extend(clauses)
        formula.extend([[int(i) + 1 if row[i] else -int(i) - 1] for i in np.flatnonzero(row >= 0)])
        with RC2(formula) as solver:
            model = solver.compute()
        solved += model is not None and all((literal > 0) == bool(want[abs(literal) - 1]) for literal in model)
    return solved / len(values)
