"""What ``photo``, ``photo-train`` and ``photo-study`` of ``python -m demos.sudoku`` do."""

from __future__ import annotations

import csv
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from demos.devices import checked_device
from demos.files import check_output, csv_text, write_atomically
from demos.sudoku.boards import format_board, format_line, parse_board, side_by_side
from demos.sudoku.generator import generate
from demos.sudoku.options import Machine
from demos.sudoku.photo.collection import load_collection, load_photograph, pictures_in
from demos.sudoku.photo.decode import Answer, Decoder, learnt_rules, save_rules, shipped_decoder, shipped_layer
from demos.sudoku.photo.draw import draw_answer, upright
from demos.sudoku.photo.grid import UInt8Array, find_grid
from demos.sudoku.photo.newspaper import Camera, photograph_page, print_page
from demos.sudoku.photo.options import STUDY_FILES, Photo, PhotoStudy, PhotoTrain
from demos.sudoku.photo.reader import CellReader, Reading, load_reader, read_cells, shipped_reader
from demos.sudoku.photo.study import run_study
from demos.sudoku.photo.training import train_all

COLUMNS = ("image", "givens", "answer", "accepted")
NO_BOARD = "0" * 81
EXAMPLE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
"""The puzzle on the page that is drawn when no photograph is given."""
EXAMPLE_BLOT = 14
"""The cell that has a blot there."""


def _set_up(machine: Machine) -> None:
    checked_device(machine.device)
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
        cv2.setNumThreads(machine.threads)


# --- photo --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of one photograph."""

    path: Path
    seconds: float
    failure: str | None = None
    photograph: UInt8Array | None = None
    reading: Reading | None = None
    answer: Answer | None = None

    @property
    def accepted(self) -> bool:
        return self.answer is not None and self.answer.accepted

    @property
    def row(self) -> dict[str, str]:
        """Return the row of ``--csv``."""
        givens = NO_BOARD if self.answer is None else format_line(self.answer.givens)
        board = NO_BOARD if self.answer is None else format_line(self.answer.board)
        return {"image": str(self.path), "givens": givens, "answer": board, "accepted": str(self.accepted)}


def solve_photograph(path: Path, reader: CellReader, decoder: Decoder) -> Result:
    """Find, read and decode the puzzle in one picture; what is wrong with it is in the result."""

    begin = time.perf_counter()
    try:
        photograph = load_photograph(path)
        reading = read_cells(reader, photograph, find_grid(photograph))
        answer = decoder.decode(reading.log_probabilities)
    except ValueError as error:
        return Result(path, time.perf_counter() - begin, failure=str(error))
    return Result(path, time.perf_counter() - begin, None, photograph, reading, answer)


def solve_photographs(options: Photo) -> int:
    """Solve photographs."""

    output = options.output
    paths = pictures_in(options.images)
    if not options.images:
        assert output is not None
        paths = [output / "newspaper.png"]
    pictures = _picture_paths(paths, output)
    for path in [*pictures, *([] if options.images else paths)]:
        check_output(path, "--output", overwrite=options.overwrite)
    _set_up(options.machine)
    reader = shipped_reader() if options.reader is None else load_reader(options.reader)
    reader, decoder = reader.to(options.machine.device), shipped_decoder(options.machine.device)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    if not options.images:
        write_atomically(paths[0], example_page())
    results = []
    for number, path in enumerate(paths):
        result = solve_photograph(path, reader, decoder)
        print(f"{path}  ({number + 1} of {len(paths)}, {result.seconds:.2f} s)")
        print(describe(result, color=sys.stdout.isatty()))
        if pictures and result.reading is not None:
            write_atomically(pictures[number], picture_of(result))
            print(f"Picture: {pictures[number]}")
        print(flush=True)
        # The pictures of a thousand photographs are not kept.
        results.append(Result(path, result.seconds, result.failure, answer=result.answer))
    accepted = sum(result.accepted for result in results)
    if len(results) > 1:
        print(f"{accepted} of {len(results)} photographs have an accepted answer.")
    if options.csv is not None:
        write_atomically(options.csv, rows_as_csv(results).encode())
        print(f"All results: {options.csv}")
    return 0 if accepted == len(results) else 1


def example_page() -> bytes:
    """Return the photograph of a newspaper page with a puzzle, as PNG; a blot hides half of one of its digits."""
    generator = np.random.default_rng(0)
    page = print_page(parse_board(EXAMPLE), generator, blot=EXAMPLE_BLOT)
    camera = Camera(turn=-9, tilt=0.12, bend=28, blur=1.0, shade=0.45, noise=4)
    photograph, _ = photograph_page(page, camera, generator)
    buffer = io.BytesIO()
    Image.fromarray(photograph).save(buffer, "PNG")
    return buffer.getvalue()


def _picture_paths(paths: list[Path], output: Path | None) -> list[Path]:
    """Return where the pictures go: names are made different where photographs of several folders share one."""
    if output is None:
        return []
    names: list[str] = []
    for path in paths:
        name, count = f"{path.stem}-solved.jpg", 1
        while name in names:
            count += 1
            name = f"{path.stem}-solved-{count}.jpg"
        names.append(name)
    return [output / name for name in names]


def rows_as_csv(results: list[Result]) -> str:
    """Write results as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.row for result in results)
    return buffer.getvalue()


def picture_of(result: Result) -> bytes:
    """Return the photograph with the answer drawn in, as JPEG; without an accepted answer, with what was read."""
    assert result.photograph is not None and result.reading is not None and result.answer is not None
    photograph, grid = upright(result.photograph, result.reading.grid, result.reading.quarters)
    answer = result.answer
    if answer.accepted:
        picture = draw_answer(photograph, grid, answer.board, answer.givens, answer.corrected)
    else:
        picture = draw_answer(photograph, grid, answer.read, np.zeros_like(answer.read), np.zeros(81, bool))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def describe(result: Result, *, color: bool = False) -> str:
    """Say what became of a photograph."""
    if result.answer is None:
        return f"Failed: {result.failure}."
    answer = result.answer
    if not answer.accepted:
        lines = [
            side_by_side(format_board(answer.read), format_board(answer.board, answer.givens), ("read", "best answer"))
        ]
        lines += [f"No reading is accepted: {'; '.join(answer.doubts)}."]
        return "\n".join(lines)
    drawn = format_board(answer.board, answer.givens, color=color)
    lines = [side_by_side(format_board(answer.givens), drawn, ("puzzle", "answer"))]
    for cell in answer.corrected.nonzero()[0]:
        row, column = divmod(int(cell), 9)
        seen = str(answer.read[cell]) if answer.read[cell] else "blank"
        right = str(answer.givens[cell]) if answer.givens[cell] else "blank"
        lines.append(
            f"Row {row + 1}, column {column + 1}: {right}; by itself it was read as {seen}, which the rules exclude."
        )
    lines.append(f"Accepted, {percent(answer.sure)} sure; {(answer.givens > 0).sum()} digits were read.")
    return "\n".join(lines)


def percent(p: float) -> str:
    """Write a probability near 1 with as many digits as tell it from 1, up to 99.9999%."""
    for digits in range(5):
        if (text := f"{p:.{digits}%}") != f"{1:.{digits}%}":
            return text
    return "more than 99.999%"


# --- photo-train --------------------------------------------------------------------------------------------


def teach_readers(options: PhotoTrain) -> int:
    """Teach the reader."""
    boards = load_collection(options.data)
    _set_up(options.machine)
    device = options.machine.device
    for path in train_all(boards, options.output, options.training, folds=options.folds, device=device):
        print(path)
    print(_write_rules(options.output / "rules.cnf.gz"))
    return 0


def _write_rules(path: Path) -> str:
    """Write what the layer in ``results/original-9x9`` has learnt, as far as 3,000 solved boards support it."""
    net, _ = shipped_layer()
    rules = learnt_rules(net, generate(3, 30, 3000, seed=6).solutions)
    save_rules(rules, path)
    pairs = sum(len(rule.clause) == 2 for rule in rules)
    return (
        f"{path}: {pairs:,} pairs of bits of two cells that exclude each other, and {len(rules) - pairs:,} longer rules"
    )


# --- photo-study --------------------------------------------------------------------------------------------


def measure(options: PhotoStudy) -> int:
    """Measure reading and decoding."""
    boards = load_collection(options.data)
    _set_up(options.machine)
    device = options.machine.device
    tables = run_study(boards, options.output, folds=options.folds, reader=options.reader, device=device)
    for name, table in zip(STUDY_FILES, tables, strict=True):
        if name != "photographs.csv":
            print(tabulate(table, headers="keys"), end="\n\n")
        if options.csv is not None:
            options.csv.mkdir(parents=True, exist_ok=True)
            write_atomically(options.csv / name, csv_text(table).encode())
    return 0
