"""`python -m demos.clauses`: rules as clauses, with no training, and rules read out of a trained layer."""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import torch

from demos.clauses.problems import Propagation, queens, sudoku
from demos.clauses.solve import decimate, probabilities
from demos.command import guarded
from demos.devices import add_device, checked_device
from demos.files import check_output, csv_text, write_atomically
from difflayers import SATNet, functional, maxsat

PROGRAM = "python -m demos.clauses"
PICTURES = (".png", ".svg", ".pdf")


def run_queens(options: argparse.Namespace) -> int:
    """Place N queens."""
    n = options.n
    if not 4 <= n <= 40:
        limit = "at least 4, below which there is no solution" if n < 4 else "at most 40: the layer's matrix is dense"
        raise ValueError(f"--n must be {limit}; got {n}")
    if options.out.suffix.lower() not in PICTURES:
        raise ValueError(f"--out must end in one of {', '.join(PICTURES)}; got {options.out}")
    _refuse(options.out, options.overwrite)
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
    _draw_queens(relaxed.reshape(n, n), (board == 1).reshape(n, n), options.out)
    print(f"\nPicture: {options.out}")
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
    figure.savefig(picture, format=path.suffix[1:] or "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())


def run_sudoku(options: argparse.Namespace) -> int:
    """Solve Sudoku by its clauses."""
    from demos.sudoku.boards import Boards
    from demos.sudoku.data import encode, read_csv
    from demos.sudoku.generator import generate

    if options.count < 1:
        raise ValueError(f"--count must be at least 1; got {options.count}")
    if not 0 <= options.share <= 1:
        raise ValueError(f"--share must be from 0 to 1; got {options.share}")
    if not (options.givens or options.data):
        raise ValueError("--givens or --data must name boards; got neither")
    _refuse(options.out, options.overwrite)
    device = checked_device(options.device)
    sets: list[tuple[str, Boards]] = [
        (f"generated, {givens} givens", generate(options.box, (givens, givens), options.count, options.seed))
        for givens in options.givens
    ]
    for path in options.data:
        boards = read_csv(path, options.box)[: options.count]
        sets.append((f"{Path(path).name.split('.')[0]}, {boards.givens.mean():.1f} givens", boards))
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
    if options.out is not None:
        shown = [{key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, csv_text(shown).encode())
    return 0


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


def run_read(options: argparse.Namespace) -> int:
    """Read the strongest rules out of a trained Sudoku layer."""
    from demos.sudoku.checkpoint import load_checkpoint
    from demos.sudoku.model import build, satnet_of
    from demos.sudoku.rules import measure

    if options.top < 1:
        raise ValueError(f"--top must be at least 1; got {options.top}")
    checkpoint = load_checkpoint(options.checkpoint)
    net = build(checkpoint.config)
    net.load_state_dict(checkpoint.model)
    net = satnet_of(net)
    numbers = range(1, net.box**2 + 1)
    names = [f"r{r}c{c}={d}" for r in numbers for c in numbers for d in numbers]
    S = net.board_layer().S.detach()[: len(names) + 1]
    found = functional.relations(S, len(names), top=None, names=names)
    exclusions = [relation for relation in found if relation.kind == "different"]
    print(f"the {options.top} strongest exclusions of two variables that training has found:\n")
    for relation in exclusions[: options.top]:
        print(f"  {relation}")
    measured = measure(net)
    print(
        f"\nThe rules of Sudoku say of {measured.pairs} pairs of variables that not both are true. Of the strongest exclusions,"
    )
    for count in (100, 1000, measured.pairs // 2, measured.pairs):
        if count <= measured.pairs:
            print(f"  {measured.precision[count - 1]:8.2%} of {count} are among these rules")
    return 0


def _refuse(path: Path | None, overwrite: bool) -> None:
    if path is not None:
        check_output(path, "--out", overwrite=overwrite)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split(": ", 1)[1])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    place = commands.add_parser("queens", help="N queens by clauses alone, with a picture")
    place.add_argument("--n", type=int, default=8, help="queens, and rows of the board (default: 8)")
    place.add_argument(
        "--out", type=Path, default=Path("queens.png"), metavar="FILE", help="picture (default: queens.png)"
    )
    place.set_defaults(run=run_queens)

    solve = commands.add_parser("sudoku", help="Sudoku by clauses alone, beside RC2")
    solve.add_argument("--givens", type=int, nargs="*", default=[36, 28], help="of generated boards (default: 36 28)")
    solve.add_argument("--data", nargs="*", default=[], metavar="FILE", help="CSV files of boards, plain or gzipped")
    solve.add_argument("--count", type=int, default=100, help="boards of each kind (default: 100)")
    solve.add_argument("--box", type=int, choices=(2, 3), default=3, help="2 for 4x4 boards, 3 for 9x9 (default: 3)")
    solve.add_argument("--max-iter", type=int, default=200, help="most sweeps of a pass (default: 200)")
    solve.add_argument("--eps", type=float, default=1e-5, help="relative gain of a sweep to stop at (default: 1e-5)")
    solve.add_argument(
        "--share",
        type=float,
        default=0.1,
        help="of the cells still open, decided in each round of decimation (default: 0.1)",
    )
    solve.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV")
    solve.set_defaults(run=run_sudoku)

    read = commands.add_parser("read", help="the strongest rules in a trained Sudoku layer, in words")
    read.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint of demos.sudoku, or the directory of a run"
    )
    read.add_argument("--top", type=int, default=20, help="how many to print (default: 20)")
    read.set_defaults(run=run_read)

    for command in (place, solve):
        add_device(command)
        command.add_argument("--seed", type=int, default=0, help="of boards and random starts (default: 0)")
        command.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    options = parser.parse_args(arguments)

    def act() -> int:
        if not 0 <= getattr(options, "seed", 0) < 2**64:
            raise ValueError(f"--seed must be from 0 to 2**64 - 1; got {options.seed}")
        status: int = options.run(options)
        return status

    return guarded(f"{PROGRAM} {options.command}", act)


if __name__ == "__main__":
    raise SystemExit(main())
