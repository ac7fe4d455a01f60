"""The options of ``python -m demos.sudoku fit``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from demos.options import File, Whole
from demos.sudoku.config import PRESETS, GivensIfAny, TrainConfig
from demos.sudoku.options import Command, Machine, Size


@dataclass(frozen=True)
class Fit(Command):
    """Make a layer from solved boards in closed form, in seconds, instead of training it.

    The layer gets the linear equations that all of the solved boards satisfy (SATNet.from_solutions), or the sets of bits of
    which exactly one is true (extract_rules, SATNet.from_equations). The output directory gets a checkpoint (safetensors) and
    the metrics (CSV), as after a training.
    """

    box: Size = 3
    """2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards."""
    output: Path = Path("runs/fit")
    """Directory of the run."""
    overwrite: bool = False
    """Replace an earlier run in the output directory."""
    data: File = None
    """CSV, plain or gzipped, with the columns puzzle and solution (default: generated boards)."""
    givens: GivensIfAny = None
    """Given cells of a generated board (default: as in training). Only testing needs puzzles."""
    train: int = 9000
    """Solved boards to learn from: the first ones of a file."""
    test: int = 1000
    """Boards to test on: the last ones of a file."""
    permuted: bool = False
    """Show the layer the bits of all boards in one random order, drawn from the seed."""
    exactly_one: bool = False
    """Search for sets of bits of which exactly one is true, which needs fewer boards."""
    tolerance: float = 1e-6
    """Mean squared error up to which an equation counts; more for solved boards with mistakes."""
    k: Whole = 32
    """The dimension of the layer's vectors."""
    max_iter: int = 1000
    """At most so many sweeps to a solution."""
    eps: float = 1e-7
    """The sweeps stop at this relative decrease."""
    batch_size: int = 40
    """Boards at a time, in testing."""
    seed: int = 0
    """Seeds the generated boards, the order of the bits, and the layer's random starts."""
    append: File = None
    """Append the result to this CSV as a row."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    @property
    def config(self) -> TrainConfig:
        """What to make, but for the number of equations, m."""
        return replace(
            PRESETS[self.box],
            data=None if self.data is None else str(self.data),
            givens=PRESETS[self.box].givens if self.givens is None else self.givens,
            train=self.train,
            test=self.test,
            permuted=self.permuted,
            aux=0,
            m=1,
            k=self.k,
            max_iter=self.max_iter,
            eps=self.eps,
            batch_size=self.batch_size,
            epochs=0,
            seed=self.seed,
        )

    def check(self) -> None:
        self.machine.check()
        _ = self.config  # it checks itself
        if self.train < 2:
            raise ValueError(f"--train: got {self.train}, wanted 2 or more")
        if self.data is not None and self.givens is not None:
            raise ValueError("--data, --givens: got both, wanted one of the two")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"--tolerance: got {self.tolerance}, wanted 0 or more and less than 1")
        if self.exactly_one and self.tolerance != Fit.tolerance:
            raise ValueError("--tolerance: got it with --exactly-one, which finds exact sets; wanted one of the two")

    def act(self) -> int:
        from demos.sudoku.commands.fit import fit

        return fit(self)
