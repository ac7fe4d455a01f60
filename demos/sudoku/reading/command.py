"""``python -m demos.sudoku reader``."""

from __future__ import annotations

import time

import numpy as np

from demos.files import csv_text, make_folder, write_atomically
from demos.sudoku.commands.common import set_up_torch
from demos.sudoku.data import load_split, write_csv
from demos.sudoku.extraction import compare
from demos.sudoku.images import ImageBoards, load_pool, with_images
from demos.sudoku.model import DigitReader
from demos.sudoku.reading.grounding import (
    IntArray,
    Occurrences,
    boards_as_read,
    correct,
    count_rules,
    group,
    name_groups,
    surest_boards,
)
from demos.sudoku.reading.options import BOARDS_FILE, METRICS_FILE, READER_FILE, Reader
from demos.sudoku.reading.training import LOOKS, look, save_reader, share_read, train_reader
from difflayers.inference import Rules

SUREST = 2 / 9
"""Without labels, rules are first counted in this share of the boards."""
SMOOTHING = 0.1
"""While some of the names are wrong."""


class Lesson:
    """One reader being taught; each step is measured against labels that it does not see."""

    def __init__(self, options: Reader) -> None:
        self.options, self.config = options, options.reading
        split = self.config.boards(options.box, options.data)
        train, test = load_split(split, progress=True)
        pools = [load_pool(self.config.images, train=part, mnist_root=self.config.mnist_root) for part in (True, False)]
        self.boards: ImageBoards = with_images(train, pools[0], self.config.seed)
        self.test = with_images(test, pools[1], self.config.seed)
        self.seen = Occurrences.of(self.boards)
        self.digits = options.box**2
        shown = (pools[1].labels >= 1) & (pools[1].labels <= self.digits)
        self.test_images, self.test_labels = pools[1].images[shown], pools[1].labels[shown] - 1
        # The images' true digits: for --labels given, and to measure.
        self.truth = np.zeros(len(self.seen.images), np.int64)
        self.truth[self.seen.image] = self.boards.puzzles[self.seen.board, self.seen.cell] - 1
        self.rows: list[dict[str, str | float | int]] = []
        self.start = time.perf_counter()

    def measure(
        self, step: str, names: IntArray, reader: DigitReader | None = None, rules: Rules | None = None
    ) -> None:
        """Add a row to the metrics, and print it."""
        wrong = np.unique(self.seen.board[(names != self.truth)[self.seen.image]])
        row: dict[str, str | float | int] = {
            "step": step,
            "minutes": f"{(time.perf_counter() - self.start) / 60:.2f}",
            "training images right": f"{(names == self.truth).mean():.5f}",
            "training boards right": f"{1 - len(wrong) / len(self.boards):.5f}",
            "test images right": "",
            "exclusions found": "",
            "false": "",
        }
        if reader is not None:
            row["test images right"] = f"{share_read(reader, self.test_images, self.test_labels):.5f}"
        if rules is not None:
            row["exclusions found"], row["false"] = compare(rules, self.options.box)[1:]
        self.rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True)

    def ground(self) -> tuple[IntArray, Rules]:
        """Name the images without labels; return the names, and rules of the boards as named."""
        config, seen = self.config, self.seen
        features = (seen.images.reshape(len(seen.images), -1).float() / 255).numpy()
        names = name_groups(seen, group(features, config.groups, config.seed))
        self.measure("groups of images, named", names)
        for turn in range(1, config.rounds + 1):
            reader = train_reader(
                seen.images, names, self.digits, config, epochs=config.naming_epochs, smoothing=SMOOTHING
            )
            probabilities, hidden = look(reader, seen.images)
            read = probabilities.double().numpy()
            self.measure(f"reader {turn}", read.argmax(1), reader)
            if turn < config.rounds:
                names = name_groups(seen, group(hidden.numpy(), config.groups, config.seed))
                self.measure(f"groups of its features, named, {turn}", names)
        rules = count_rules(seen.boards(read.argmax(1))[surest_boards(seen, read, SUREST)])
        names = correct(seen, read, rules)
        self.measure("names corrected by rules of the surest boards", names, rules=rules)
        rules = count_rules(seen.boards(names))
        names = correct(seen, read, rules)
        self.measure("names corrected by rules of all boards", names, rules=rules)
        return names, rules


def teach(options: Reader) -> int:
    """Teach a reader."""
    set_up_torch(options.machine.device, options.machine.threads, options.box)
    lesson = Lesson(options)
    config, folder = options.reading, options.output
    make_folder(folder, "--output")
    if config.labels == "none":
        names, rules = lesson.ground()
        as_read = boards_as_read(lesson.seen, lesson.boards.puzzles, names, rules)
        write_csv(as_read, folder / BOARDS_FILE)
        print(f"{len(as_read):,} of {len(lesson.boards):,} boards, as read, break no rule: {folder / BOARDS_FILE}")
    else:
        names = lesson.truth
    reader = train_reader(lesson.seen.images, names, lesson.digits, config, epochs=config.epochs)
    reader.looks = LOOKS
    lesson.measure("the reader in the end", look(reader, lesson.seen.images)[0].argmax(1).numpy(), reader)
    save_reader(reader, folder / READER_FILE, config, lesson.digits)
    write_atomically(folder / METRICS_FILE, csv_text(lesson.rows).encode())
    print(f"{READER_FILE} and {METRICS_FILE} are in {folder}")
    return 0
