"""The commands and their options; those of photographs are in `demos.sudoku.photo.options`.

Nothing here imports torch, so that ``--help`` and wrong options answer at once; only `Command.act` imports what does the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from demos.command import check_counts, check_seeds
from demos.files import check_output
from demos.options import File, Whole, optional
from demos.sudoku.config import DEFAULTS, GivensIfAny, TrainConfig, TrainOptions

PROGRAM = "python -m demos.sudoku"

Run = Annotated[Path, arg(metavar="CHECKPOINT")]
Real = Annotated[float | None, optional("X")]
Size = Literal[2, 3, 4]


@dataclass(frozen=True)
class Command:
    """A command with its options."""

    def check(self) -> None:
        """Raise ``ValueError``, naming the option, for what can be seen to be wrong without torch."""

    def act(self) -> int:
        """Do it; return the exit status."""
        raise NotImplementedError


@dataclass(frozen=True)
class Machine:
    """What computes."""

    device: str = "cpu"
    """cpu or cuda."""
    threads: Whole = None
    """CPU threads (default: all cores for 9x9; 1 for 4x4, too small to gain by more)."""

    def check(self) -> None:
        check_counts(self, "threads")


@dataclass(frozen=True)
class Solver:
    """What replaces the settings of a trained layer."""

    k: Whole = None
    """Dimension of the vectors (default: as trained)."""
    max_iter: Whole = None
    """Most sweeps to a solution (default: as trained)."""
    eps: Real = None
    """Relative decrease at which the sweeps stop (default: as trained)."""

    def check(self, *, patient: bool) -> None:
        """Check that a ``patient`` method, which solves as far as it needs to, is not told how far."""
        for name in ("max_iter", "eps"):
            if patient and getattr(self, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')}: got it with --search, --rounding or --joint, which solve as far as they "
                    "need to; wanted it with one forward pass alone"
                )


@dataclass(frozen=True)
class Search:
    """Search at inference."""

    search: bool = False
    """Fix the surest cells and solve again, until none is blank; begin again or go back until the answer is accepted."""
    paths: int = 30
    """Give a board up after so many times; 1: the coarse one alone."""
    starts: int = 4
    """So many of the later times begin with the puzzle, before the rest go back to a cell."""

    def check(self) -> None:
        """Check the numbers."""
        check_counts(self, "paths")
        check_counts(self, "starts", least=0)


@dataclass(frozen=True)
class Demo(Command):
    """The quick demo: 4x4 boards, from nothing (the default).

    Generate 4x4 puzzles, train a network on them from nothing, and solve boards whose solutions it never saw.
    """

    output: Path = Path("runs/sudoku-4x4")
    """Where checkpoint, metrics and learning curve go; an earlier demo there is replaced, any other run is not."""
    training: OmitArgPrefixes[TrainOptions] = DEFAULTS[2]
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    @property
    def config(self) -> TrainConfig:
        """What to train."""
        return TrainConfig.of(self.training, box=2)

    def check(self) -> None:
        self.machine.check()
        check_counts(self.training, "epochs")
        _ = self.config  # it checks itself

    def act(self) -> int:
        from demos.sudoku.demo import demo

        return demo(self)


@dataclass(frozen=True)
class Train(Command):
    """Train a network, or resume its training.

    The output directory gets a checkpoint (safetensors), the metrics (CSV) and the learning curve (PNG), renewed after every
    epoch. Processes of torchrun share each batch and train as one would. The defaults are those for 9x9 boards;
    `train --box 2 --help` lists those for 4x4, `--box 4` those for 16x16.
    """

    box: Size = 3
    """2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards."""
    output: Path = Path("runs/train-9x9")
    """Directory of the run."""
    resume: bool = False
    """Continue the run in the output directory after its last whole epoch, with its options."""
    overwrite: bool = False
    """Replace an earlier run in the output directory."""
    data: File = None
    """CSV, plain or gzipped, with the columns puzzle and solution (default: generated boards)."""
    training: OmitArgPrefixes[TrainOptions] = DEFAULTS[3]
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    @property
    def config(self) -> TrainConfig:
        """What to train."""
        return TrainConfig.of(self.training, self.box, None if self.data is None else str(self.data))

    def check(self) -> None:
        self.machine.check()
        if self.resume and self.overwrite:
            raise ValueError("--resume, --overwrite: got both, wanted one")
        check_counts(self.training, "epochs")
        if self.config.data is not None and not self.resume and self.config.givens != DEFAULTS[self.box].givens:
            raise ValueError(
                "--givens: got it together with --data, whose boards are as they are; wanted one of the two"
            )

    def act(self) -> int:
        from demos.sudoku.commands.train import train

        return train(self)


@dataclass(frozen=True)
class Evaluate(Command):
    """Evaluate a checkpoint.

    The boards are the test boards of its own run, those in a file (--data), or newly generated ones (--givens).
    """

    checkpoint: Positional[Run]
    """A checkpoint, or the directory of a run."""
    data: File = None
    """CSV with the columns puzzle and solution, plain or gzipped."""
    test: Whole = None
    """Of the file, only the last N boards (default: all)."""
    givens: GivensIfAny = None
    """Generate boards with so many given cells."""
    count: int = 1000
    """How many to generate."""
    batch_size: Whole = None
    """Boards at a time (default: as trained)."""
    seed: Whole = None
    """Seeds generated boards (default: 1) and the layer's random starts (default: the run's seed)."""
    mnist_root: Annotated[str | None, optional("DIR")] = None
    """For a network that reads images: where MNIST is (default: as trained)."""
    reader: File = None
    """Weights of `reader`: put it before the layer, or in the place of its own; images are drawn by that reader's seed."""
    draws: int = 1
    """Draw the images of the boards so many times, which makes so many times as many boards."""
    solver: OmitArgPrefixes[Solver] = field(default_factory=Solver)
    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    rounding: Whole = None
    """Round one pass N times at most, and improve by local search; with --search: search if none is accepted."""
    solutions: File = None
    """With --search or --joint: propagate rules extracted from the layer and the solved boards of this puzzle,solution CSV."""
    rules_alone: bool = False
    """With --solutions: accept what breaks none of these rules, whatever its learnt objective."""
    exactly_one: bool = False
    """With --solutions: look for sets of which exactly one is true directly, from the solved boards alone."""
    joint: bool = False
    """For images: try readings, the most probable first, until a completion is accepted: in one pass, or by --search."""
    readings: int = 100
    """With --joint: most readings of a board."""
    margin: float = 0.0
    """With --joint: accept an answer only if no other reading, exp(-margin) times as probable or more, has one, too."""
    append: File = None
    """Append the result to this CSV as a row."""
    failures: File = None
    """Write the boards that are not wholly right, with their answers, as CSV."""
    overwrite: bool = False
    """Let --failures replace a file."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        self.search.check()
        self.solver.check(patient=self.search.search or self.joint or self.rounding is not None)
        check_counts(self, "count", "batch_size", "rounding", "readings", "draws")
        if self.seed is not None:
            check_seeds(self)
        if self.data is not None and self.givens is not None:
            raise ValueError("--data, --givens: got both, wanted one of the two")
        if self.rounding is not None and self.joint:
            raise ValueError("--rounding, --joint: got both, wanted one of the two")
        if self.solutions is not None and (self.rounding is not None or not (self.search.search or self.joint)):
            message = "got it with --rounding, or without --search or --joint, which propagate rules"
            raise ValueError(f"--solutions: {message}")
        for name in ("rules_alone", "exactly_one"):
            if getattr(self, name) and self.solutions is None:
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option}: got it without --solutions, from which the rules are extracted")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"--margin: got {self.margin}, wanted a finite number of 0 or more")
        if self.margin and not self.joint:
            raise ValueError("--margin: got it without --joint, which compares readings")
        if self.failures is not None:
            check_output(self.failures, "--failures", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.commands.evaluate import evaluate_checkpoint

        return evaluate_checkpoint(self)


@dataclass(frozen=True)
class Solve(Command):
    """Solve puzzles with a checkpoint.

    Complete a puzzle, or every puzzle in a file, and tell whether the answer obeys the rules of Sudoku. The rules are checked
    by this program: the network was never told them. The exit status is 1 if an answer breaks the rules.
    """

    puzzle: Annotated[Positional[str], arg(metavar="PUZZLE|FILE")]
    """81, 16 or 256 characters, row by row, 0 or . for a blank; or a file: one such puzzle a line, or a CSV (column puzzle)."""
    checkpoint: Run
    """A checkpoint, or the directory of a run."""
    output: File = None
    """For a file of puzzles: write puzzle,solution CSV."""
    overwrite: bool = False
    """Let --output replace a file."""
    seed: int = 0
    """Seeds the layer's random starts."""
    solver: OmitArgPrefixes[Solver] = field(default_factory=Solver)
    search: OmitArgPrefixes[Search] = field(default_factory=Search)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        self.search.check()
        self.solver.check(patient=self.search.search)
        check_seeds(self)
        if self.output is not None:
            check_output(self.output, "--output", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.commands.solve import solve

        return solve(self)


@dataclass(frozen=True)
class Rules(Command):
    """What a checkpoint has learnt: a picture, and a comparison with the rules.

    Compare the learnt couplings s_i . s_j with the rules of Sudoku, which the layer was never told, and draw them, put in order
    by cell, row, column and box.
    """

    checkpoint: Positional[Run]
    """A checkpoint, or the directory of a run."""
    count: int = 1000
    """Boards to compare objectives on, generated."""
    output: File = None
    """Write the picture, a PNG, here (default: no picture)."""
    overwrite: bool = False
    """Let --output replace a file."""

    def check(self) -> None:
        check_counts(self, "count")
        if self.output is not None:
            check_output(self.output, "--output", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.commands.rules import compare_with_rules

        return compare_with_rules(self)


@dataclass(frozen=True)
class Exact(Command):
    """Solve puzzles exactly, by rules extracted from a checkpoint.

    Extract rules from a layer and solved boards, and let a SAT solver complete puzzles by them. Nobody wrote the rules down:
    that they are those of Sudoku is only compared. Needs python-sat.
    """

    checkpoint: Positional[Run]
    """A checkpoint, or the directory of a run."""
    data: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE [FILE ...]", help_behavior_hint="(required)")]
    """CSV with the columns puzzle and solution."""
    solutions: File = None
    """puzzle,solution CSV with the solved boards to extract from (default: those of the training)."""
    first: Whole = None
    """Extract from the first N solved boards alone (default: all)."""
    exactly_one: bool = False
    """Look for sets of which exactly one is true directly, from the solved boards alone."""
    counting: bool = False
    """Extract from the solved boards alone: the layer has no say."""
    append: File = None
    """Append the results to this CSV, a row for each FILE."""

    def check(self) -> None:
        if not self.data:
            raise ValueError("FILE: got none, wanted one or more")

    def act(self) -> int:
        from demos.sudoku.commands.rules import solve_by_rules

        return solve_by_rules(self)


@dataclass(frozen=True)
class Pairs(Command):
    """How many rules are extracted from how many boards, with a layer and without.

    Count the pairs of bits that exclude each other, as they are extracted from a layer and so many solved boards, and from the
    boards alone.
    """

    checkpoint: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="CHECKPOINT [CHECKPOINT ...]", help_behavior_hint="(required)")
    ]
    """A checkpoint, or the directory of a run."""
    solutions: File = None
    """puzzle,solution CSV with the solved boards to extract from (default: those of the training)."""
    counts: tuple[int, ...] = (300, 1000, 3000, 9000)
    """How many of the boards."""
    exactly_one: bool = False
    """Look for sets of which exactly one is true directly, from the solved boards alone."""
    append: File = None
    """Append the results to this CSV."""

    def check(self) -> None:
        if not self.checkpoint:
            raise ValueError("CHECKPOINT: got none, wanted one or more")

    def act(self) -> int:
        from demos.sudoku.commands.rules import count_pairs

        return count_pairs(self)


@dataclass(frozen=True)
class Generate(Command):
    """Generate puzzles with exactly one solution.

    They are written as puzzle,solution CSV. The same seed gives the same puzzles.
    """

    box: Size = 3
    """2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards."""
    givens: GivensIfAny = None
    """Given cells a board, at least 22 for 9x9, 4 for 4x4 and 110 for 16x16 (default: as in training)."""
    count: int = 10
    """How many."""
    source: Annotated[File, arg(name="from")] = None
    """Take the file's first puzzles and give more cells of their solutions; of a range LO-HI the numbers in turn."""
    seed: int = 0
    """Seeds the puzzles."""
    output: File = None
    """Gzipped if it ends in .gz (default: standard output)."""
    overwrite: bool = False
    """Let --output replace a file."""

    def check(self) -> None:
        if self.output is not None:
            check_output(self.output, "--output", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.commands.generate import generate_puzzles

        return generate_puzzles(self)
