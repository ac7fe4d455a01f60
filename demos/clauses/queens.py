"""The example: a layer that is made of clauses, with no training, places queens on a board."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import torch

from demos.clauses.options import Queens
from demos.clauses.problems import queens
from demos.clauses.solve import decimate, probabilities
from demos.devices import checked_device
from demos.files import check_output, write_atomically
from difflayers import SATNet, maxsat


def place_queens(options: Queens) -> int:
    """Place N queens."""
    n = options.n
    check_output(options.output, "--output", overwrite=options.overwrite)
    device = checked_device(options.device)
    clauses = queens(n)
    print(f"{n} queens: {n * n} variables, {len(clauses)} clauses, no training")
    started = time.perf_counter()
    solution = maxsat.solve(clauses, generator=torch.Generator().manual_seed(options.seed))
    print(
        f"maxsat.solve (relaxation, 100 hyperplanes, single flips): {solution.cost:g} clauses violated, "
        f"{time.perf_counter() - started:.1f} s"
    )
    started = time.perf_counter()
    layer = SATNet.from_clauses(clauses, max_iter=200, eps=1e-6, dtype=torch.float64).to(device)
    undecided = np.full((1, n * n), -1, np.int8)
    relaxed = probabilities(layer, undecided, torch.Generator().manual_seed(options.seed))[0]
    board = decimate(layer, clauses, undecided, share=0.0, seed=options.seed)[0]
    solved = bool((board >= 0).all())
    cost, _ = maxsat.Instance.from_clauses(clauses).cost(board == 1)
    print(
        f"SATNet.from_clauses, one queen at a time: {int((board == 1).sum())} queens, {cost:g} clauses violated, "
        f"{time.perf_counter() - started:.1f} s\n"
    )
    for row in (board == 1).reshape(n, n):
        print("  " + " ".join("Q" if queen else "." for queen in row))
    _draw_queens(relaxed.reshape(n, n), (board == 1).reshape(n, n), options.output)
    print(f"\nPicture: {options.output}")
    return 0 if solved and cost == 0 else 1


def _draw_queens(relaxed: np.ndarray, board: np.ndarray, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(board)
    figure = Figure(figsize=(9, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(relaxed, cmap="Blues", vmin=0, vmax=max(1e-9, relaxed.max()))
    left.set_title("the relaxation, before anything is decided")
    squares = np.indices((n, n)).sum(0) % 2
    right.imshow(squares, cmap="Greys", vmin=-0.3, vmax=3)
    for r, c in zip(*np.nonzero(board), strict=True):
        right.text(c, r, "♛", ha="center", va="center", fontsize=200 / n, family="DejaVu Sans")
    right.set_title(f"{n} queens")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower())
    write_atomically(path, picture.getvalue())
