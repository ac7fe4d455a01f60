"""How well photographs are read, and what the rules give back: tables for photographs whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from demos.progress import progress_bar
from demos.sudoku.boards import Int8Array, format_line, obeys_rules
from demos.sudoku.photo.collection import TrueBoard, fold_of, load_photograph
from demos.sudoku.photo.decode import Answer, Decoder, shipped_decoder
from demos.sudoku.photo.grid import FloatArray, GridNotFoundError, find_grid
from demos.sudoku.photo.reader import CLASSES, CellReader, load_reader, read_cells, shipped_reader
from demos.sudoku.photo.training import reader_path

Table = list[dict[str, str | int | float]]


@dataclass(frozen=True)
class Outcomes:
    """What a method made of photographs."""

    boards: Int8Array
    """Of shape (photographs, 81)."""
    accepted: NDArray[np.bool_]
    seconds: float
    """A photograph."""


Method = Callable[[FloatArray, str], Outcomes]


def one_pass(decoder: Decoder) -> Method:
    """Take the reader at its word, and complete it in one forward pass of the layer."""

    def run(log_probabilities: FloatArray, description: str) -> Outcomes:
        begin = time.perf_counter()
        generator = torch.Generator(decoder.net.device).manual_seed(0)
        read = torch.from_numpy(log_probabilities.argmax(2).astype(np.int8)).to(decoder.net.device)
        boards = decoder.net.predict(read, generator=generator).cpu().numpy()
        accepted = decoder.objective(boards) <= decoder.limit
        return Outcomes(boards, accepted, (time.perf_counter() - begin) / len(boards))

    return run


def jointly(decoder: Decoder) -> Method:
    """Decode evidence and rules together, one photograph after the other."""

    def run(log_probabilities: FloatArray, description: str) -> Outcomes:
        begin = time.perf_counter()
        answers: list[Answer] = []
        with progress_bar(len(log_probabilities), description, " photographs") as bar:
            for logs in log_probabilities:
                answers.append(decoder.decode(logs))
                bar.update()
        boards, accepted = np.stack([a.board for a in answers]), np.array([a.accepted for a in answers])
        return Outcomes(boards, accepted, (time.perf_counter() - begin) / len(answers))

    return run


# --- what is spoiled on purpose -----------------------------------------------------------------------------


def hide(row: FloatArray, digit: int, other: int) -> FloatArray:
    """Return what a reader says that takes the cell to be blank, and is sure."""
    return _sure({0: 1.0})


def misread(row: FloatArray, digit: int, other: int) -> FloatArray:
    """Return what a reader says that takes the digit for another, and is sure."""
    return _sure({other: 1.0})


def misread_narrowly(row: FloatArray, digit: int, other: int) -> FloatArray:
    """Return what a reader says that takes the digit for another, 6 to 3."""
    return _sure({other: 0.6, digit: 0.3})


def _sure(probabilities: dict[int, float]) -> FloatArray:
    p = np.full(CLASSES, 1e-6, np.float32)
    for digit, value in probabilities.items():
        p[digit] = value
    logs: FloatArray = np.log(p / p.sum())
    return logs


SPOILINGS = {"hidden": hide, "misread for sure": misread, "misread narrowly, 6 to 3": misread_narrowly}


def spoil(
    log_probabilities: FloatArray,
    givens: Int8Array,
    how: Callable[[FloatArray, int, int], FloatArray],
    generator: np.random.Generator,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Spoil every 10th given, row by row; return what is read then, and which cells are spoiled."""
    cells = np.flatnonzero(givens)[9::10]
    spoiled = log_probabilities.copy()
    for cell in cells:
        digit = int(givens[cell])
        other = int(generator.choice([d for d in range(1, 10) if d != digit]))
        spoiled[cell] = how(spoiled[cell], digit, other)
    return spoiled, cells


# --- the study ----------------------------------------------------------------------------------------------


def run_study(
    boards: list[TrueBoard], folder: Path, *, folds: int, reader: Path | None = None, device: str = "cpu"
) -> tuple[Table, Table, Table]:
    """Return the table of methods, the same with every 10th given spoiled, and one row a photograph.

    Args:
        boards: The collection.
        folder: Where the readers of the folds are.
        folds: How many folds there are.
        reader: Read all photographs with these weights instead; ``shipped`` for those that are shipped.
        device: Where reader and layer are.
    """
    decoder = shipped_decoder(device)
    fold = np.zeros(len(boards), np.int64)
    if reader is None:
        fold = fold_of(boards, folds)
        readers = [load_reader(reader_path(folder, f"fold-{f}")).to(device) for f in range(folds)]
    else:
        readers = [shipped_reader() if str(reader) == "shipped" else load_reader(reader)]
        readers = [r.to(device) for r in readers]
    puzzles = {board.givens.tobytes(): board for board in boards}
    solved = {key: _solution(decoder, board) for key, board in puzzles.items()}
    solutions = np.stack([solved[board.givens.tobytes()] for board in boards])
    read, seconds, photographs = _read_all(boards, [readers[f] for f in fold])
    givens = np.stack([board.givens for board in boards])
    wrong = (read.argmax(2) != givens).sum(1)
    methods: Table = [
        {
            "method": "reader alone",
            "photographs": len(boards),
            "grid found": sum(bool(row["grid found"]) for row in photographs),
            "all givens read right": int((wrong == 0).sum()),
            "cells read wrongly": int(wrong.sum()),
            "wholly right": "",
            "accepted": "",
            "accepted, and wrong": "",
            "milliseconds a photograph": round(1000 * seconds),
        }
    ]
    runs = {"one pass": one_pass(decoder), "joint decoding": jointly(decoder)}
    for name, method in runs.items():
        found = method(read, name)
        right = (found.boards == solutions).all(1)
        methods.append(
            {
                "method": name,
                "photographs": len(boards),
                "grid found": "",
                "all givens read right": "",
                "cells read wrongly": "",
                "wholly right": int(right.sum()),
                "accepted": int(found.accepted.sum()),
                "accepted, and wrong": int((found.accepted & ~right).sum()),
                "milliseconds a photograph": round(1000 * found.seconds),
            }
        )
    # The last is joint decoding.
    for row, f, r, a in zip(photographs, fold.tolist(), right.tolist(), found.accepted.tolist(), strict=True):
        row |= {"wholly right": int(r), "accepted": int(a), "fold": f}
    spoiled: Table = []
    for how, function in SPOILINGS.items():
        generator = np.random.default_rng(0)
        pairs = [spoil(logs, truth, function, generator) for logs, truth in zip(read, givens, strict=True)]
        changed = np.stack([logs for logs, _ in pairs])
        for name in ("one pass", "joint decoding"):
            found = runs[name](changed, f"{how}, {name}")
            right = (found.boards == solutions).all(1)
            back = [b == s for b, s in zip(found.boards, solutions, strict=True)]
            spoiled.append(
                {
                    "every 10th given": how,
                    "method": name,
                    "photographs": len(boards),
                    "givens spoiled": sum(len(cells) for _, cells in pairs),
                    "given back": int(sum(b[cells].sum() for b, (_, cells) in zip(back, pairs, strict=True))),
                    "wholly right": int(right.sum()),
                    "accepted": int(found.accepted.sum()),
                    "accepted, and wrong": int((found.accepted & ~right).sum()),
                }
            )
    return methods, spoiled, photographs


def _solution(decoder: Decoder, board: TrueBoard) -> Int8Array:
    """Return the one solution of a photograph's true givens."""
    logs = np.stack([_sure({int(digit): 1.0}) for digit in board.givens])
    answer = decoder.decode(logs)
    if not answer.accepted or (answer.givens != board.givens).any() or not obeys_rules(answer.board):
        raise ValueError(f"{board.path.with_suffix('.dat')}: the truth is no puzzle with one solution")
    return answer.board


def _read_all(boards: list[TrueBoard], readers: list[CellReader]) -> tuple[FloatArray, float, Table]:
    """Read each photograph; where no grid is found, nothing is."""
    read, rows = [], Table()
    total = 0.0
    with progress_bar(len(boards), "reading", " photographs") as bar:
        for board, reader in zip(boards, readers, strict=True):
            photograph = load_photograph(board.path)
            begin = time.perf_counter()
            try:
                reading = read_cells(reader, photograph, find_grid(photograph))
                logs, found = reading.log_probabilities, reading.grid.support
            except GridNotFoundError:
                logs, found = np.full((81, CLASSES), -np.log(CLASSES), np.float32), 0.0
            total += time.perf_counter() - begin
            wrong = int((logs.argmax(1) != board.givens).sum())
            rows.append(
                {
                    "photograph": board.path.name,
                    "givens": format_line(board.givens),
                    "grid found": int(found > 0),
                    "support": round(found, 3),
                    "cells read wrongly": wrong,
                    "least sure cell": round(float(np.exp(logs.max(1).min())), 4),
                }
            )
            read.append(logs)
            bar.update()
    return np.stack(read), total / len(boards), rows
