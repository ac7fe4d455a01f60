"""Search: rounds that start at the last one's vectors beside rounds that start at random."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch

from benchmarks.registry import Row, case
from demos.sudoku.boards import Int8Array
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.data import domains_of, to_values
from demos.sudoku.generator import generate
from demos.sudoku.model import restore, satnet_of
from difflayers import inference
from difflayers.inference.objective import start_vectors

WEIGHTS = Path(__file__).parents[2] / "demos" / "sudoku" / "results" / "original-9x9"
BOARDS = 40

search_module = import_module("difflayers.inference.search")  # the function hides it in the package


@contextmanager
def rounds_start_anew() -> Iterator[None]:
    """Every round of every decimation begins at random vectors and is solved to the end, as in version 0.2."""
    paths = search_module._Paths
    solve, draws = paths.solve, iter(range(10**6, 10**9))

    def cold(state: object, rows: torch.Tensor, limit: float) -> torch.Tensor:
        state.fresh[rows] = True  # type: ignore[attr-defined]
        state.V[rows] = start_vectors(state.S, state.k, state.seed, next(draws))  # type: ignore[attr-defined]
        scores: torch.Tensor = solve(state, rows, limit)
        return scores

    with mock.patch.object(search_module, "FIRST_EPS", 1e-5), mock.patch.object(paths, "solve", cold):
        yield


@case("inference-search")
def search() -> Iterator[Row]:
    """Sudoku by search with the shipped weights, ms a board: rounds that start warm, and rounds that start at random."""
    checkpoint = load_checkpoint(WEIGHTS)
    layer, domains = satnet_of(restore(checkpoint)).board_layer(), domains_of(3)
    for givens in (36, 28, 24):
        boards = generate(3, givens, BOARDS, seed=1)
        solutions = to_values(boards.solutions)[0]

        def run(puzzles: Int8Array = boards.puzzles, paths: int = 30) -> inference.Answers:
            return inference.search(
                layer,
                domains,
                *to_values(puzzles),
                limit=checkpoint.limit,
                paths=paths,
                generator=torch.Generator().manual_seed(0),
            )

        run(boards.puzzles[:2], 1)
        begin = time.perf_counter()
        warm = run()
        between = time.perf_counter()
        with rounds_start_anew():
            cold = run()
        end = time.perf_counter()
        row: Row = {"givens": givens, "boards": BOARDS}
        for name, found, seconds in (("warm", warm, between - begin), ("cold", cold, end - between)):
            row |= {
                f"{name}_ms": 1e3 * seconds / BOARDS,
                f"{name}_right": float((found.values == solutions).all(1).double().mean()),
                f"{name}_passes": float(found.passes.double().mean()),
            }
        yield row | {"ratio": row["cold_ms"] / row["warm_ms"]}
