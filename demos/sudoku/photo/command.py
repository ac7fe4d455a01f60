"""The commands ``photo``, ``photo-train`` and ``photo-study`` of ``python -m demos.sudoku``."""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.devices import add_device, checked_device
from demos.sudoku.boards import format_board, format_line, side_by_side

# torch, OpenCV and matplotlib are imported inside the commands, so that --help and wrong options answer at once.
if TYPE_CHECKING:
    from demos.sudoku.photo.decode import Answer, Decoder
    from demos.sudoku.photo.grid import UInt8Array
    from demos.sudoku.photo.reader import CellReader, Reading

COLUMNS = ("image", "givens", "answer", "accepted")
NO_BOARD = "0" * 81
EXAMPLE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
"""The puzzle on the page that is drawn when no photograph is given."""
EXAMPLE_BLOT = 14
"""The cell that has a blot there."""


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to the command line."""
    photo = commands.add_parser(
        "photo",
        help="solve photographed puzzles",
        description="Find the 9x9 grid in photographs, read its printed digits, and complete it: what was read and the "
        "learnt rules are decoded together, so that misread digits are corrected. The exit status is 1 if a photograph "
        "has no accepted answer.",
    )
    photo.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE|FOLDER",
        help="photographs: JPEG, PNG, WebP, AVIF, TIFF or HEIC; or folders of them (default: a newspaper page that is drawn, "
        "and written beside its answer)",
    )
    photo.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write each photograph with its answer drawn in as DIR/NAME-solved.jpg: blue digits complete the puzzle, cells in "
        "red frames were misread at first",
    )
    photo.add_argument("--csv", type=Path, metavar="FILE", help=f"write a row for each: {', '.join(COLUMNS)}")
    photo.add_argument("--overwrite", action="store_true", help="let --output and --csv replace files")
    photo.add_argument("--reader", type=Path, metavar="FILE", help="weights of the reader (default: those shipped)")
    _add_machine(photo)

    train = commands.add_parser(
        "photo-train",
        help="teach the reader of photographed digits",
        description="Teach the reader on digits rendered with the fonts of this machine, and then also on the photographs "
        "of a collection; one reader for each fold, which has not seen the fold's photographs, and one of all. The output "
        "directory gets reader-rendered, reader-fold-0, ... and reader-full.safetensors, of which those already there are "
        "kept, and the rules that the layer has learnt, rules.cnf.gz.",
    )
    _add_data(train)
    train.add_argument("--rendered-steps", type=int, help="steps on rendered digits alone (default: 2500)")
    train.add_argument("--mixed-steps", type=int, help="steps on both after these (default: 600)")
    train.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")

    study = commands.add_parser(
        "photo-study",
        help="measure reading and decoding of photographs whose truth is known",
        description="Compare the reader alone, one pass of the layer, and joint decoding; also with every 10th "
        "given hidden or misread on purpose. Each photograph is read by the reader of its fold, which "
        "photo-train has made, or all by one reader (--reader).",
    )
    _add_data(study)
    study.add_argument(
        "--reader",
        type=Path,
        metavar="FILE|shipped",
        help="read all photographs with these weights, or with those shipped",
    )
    study.add_argument(
        "--csv", type=Path, metavar="DIR", help="write methods.csv, spoiled.csv and photographs.csv here"
    )
    study.add_argument("--overwrite", action="store_true", help="let --csv replace files")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: all cores)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a collection: pictures with NAME.dat beside each NAME.jpg"
    )
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/photo"),
        metavar="DIR",
        help="where the readers are (default: %(default)s)",
    )
    _add_machine(parser)


def _set_up(arguments: argparse.Namespace) -> None:
    import cv2
    import torch

    checked_device(arguments.device)
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(f"--threads: got {arguments.threads}, wanted 1 or more")
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(arguments.threads)


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
    from demos.sudoku.photo.collection import load_photograph
    from demos.sudoku.photo.grid import find_grid
    from demos.sudoku.photo.reader import read_cells

    begin = time.perf_counter()
    try:
        photograph = load_photograph(path)
        reading = read_cells(reader, photograph, find_grid(photograph))
        answer = decoder.decode(reading.log_probabilities)
    except ValueError as error:
        return Result(path, time.perf_counter() - begin, failure=str(error))
    return Result(path, time.perf_counter() - begin, None, photograph, reading, answer)


def run_photo(arguments: argparse.Namespace) -> int:
    """Solve photographs."""
    from demos.files import check_folder, check_output, write_atomically
    from demos.sudoku.photo.collection import pictures_in

    output = arguments.output
    if not arguments.images and output is None:
        raise ValueError("--output: wanted a directory for the page that is drawn, as no IMAGE is given")
    paths = pictures_in(arguments.images) if arguments.images else [output / "newspaper.png"]
    if output is not None:
        check_folder(output, "--output")
    pictures = _picture_paths(paths, output)
    for path in [*pictures, *([] if arguments.images else paths)]:
        check_output(path, "--output", overwrite=arguments.overwrite)
    if arguments.csv is not None:
        check_output(arguments.csv, "--csv", overwrite=arguments.overwrite)
    _set_up(arguments)

    from demos.sudoku.photo.decode import shipped_decoder
    from demos.sudoku.photo.reader import load_reader, shipped_reader

    reader = shipped_reader() if arguments.reader is None else load_reader(arguments.reader)
    reader, decoder = reader.to(arguments.device), shipped_decoder(arguments.device)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    if not arguments.images:
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
    if arguments.csv is not None:
        write_atomically(arguments.csv, rows_as_csv(results).encode())
        print(f"All results: {arguments.csv}")
    return 0 if accepted == len(results) else 1


def example_page() -> bytes:
    """Return the photograph of a newspaper page with a puzzle, as PNG; a blot hides half of one of its digits."""
    import numpy as np
    from PIL import Image

    from demos.sudoku.boards import parse_board
    from demos.sudoku.photo.newspaper import Camera, photograph_page, print_page

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
    import numpy as np
    from PIL import Image

    from demos.sudoku.photo.draw import draw_answer, upright

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


def run_photo_train(arguments: argparse.Namespace) -> int:
    """Teach the reader."""
    from demos.sudoku.photo.collection import load_collection

    boards = load_collection(arguments.data)
    _set_up(arguments)
    from demos.sudoku.photo.training import ReaderConfig, train_all

    options = {name: getattr(arguments, name) for name in ("rendered_steps", "mixed_steps", "seed")}
    config = ReaderConfig(**{name: value for name, value in options.items() if value is not None})
    for path in train_all(boards, arguments.output, config, folds=arguments.folds, device=arguments.device):
        print(path)
    print(_write_rules(arguments.output / "rules.cnf.gz"))
    return 0


def _write_rules(path: Path) -> str:
    """Write what the layer in ``results/original-9x9`` has learnt, as far as 3,000 solved boards support it."""
    from demos.sudoku.generator import generate
    from demos.sudoku.photo.decode import learnt_rules, save_rules, shipped_layer

    net, _ = shipped_layer()
    rules = learnt_rules(net, generate(3, 30, 3000, seed=6).solutions)
    save_rules(rules, path)
    pairs = sum(len(rule.clause) == 2 for rule in rules)
    return (
        f"{path}: {pairs:,} pairs of bits of two cells that exclude each other, and {len(rules) - pairs:,} longer rules"
    )


# --- photo-study --------------------------------------------------------------------------------------------


def run_photo_study(arguments: argparse.Namespace) -> int:
    """Measure reading and decoding."""
    from demos.files import check_output, csv_text, write_atomically
    from demos.sudoku.photo.collection import load_collection

    boards = load_collection(arguments.data)
    names = ("methods.csv", "spoiled.csv", "photographs.csv")
    if arguments.csv is not None:
        for name in names:
            check_output(arguments.csv / name, "--csv", overwrite=arguments.overwrite)
    _set_up(arguments)
    from tabulate import tabulate

    from demos.sudoku.photo.study import run_study

    tables = run_study(
        boards, arguments.output, folds=arguments.folds, reader=arguments.reader, device=arguments.device
    )
    for name, table in zip(names, tables, strict=True):
        if name != "photographs.csv":
            print(tabulate(table, headers="keys"), end="\n\n")
        if arguments.csv is not None:
            arguments.csv.mkdir(parents=True, exist_ok=True)
            write_atomically(arguments.csv / name, csv_text(table).encode())
    return 0


COMMANDS = {"photo": run_photo, "photo-train": run_photo_train, "photo-study": run_photo_study}
