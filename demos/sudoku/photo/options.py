"""The commands ``photo``, ``photo-train`` and ``photo-study`` and their options; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from demos.command import check_counts, check_rate, check_seeds
from demos.files import check_folder, check_output
from demos.options import File, Folder
from demos.sudoku.options import Command, Machine

STUDY_FILES = ("methods.csv", "spoiled.csv", "photographs.csv")

Data = Annotated[Path, arg(metavar="DATA")]


@dataclass(frozen=True)
class Photo(Command):
    """Solve photographed puzzles.

    Find the 9x9 grid in photographs, read its printed digits, and complete it: what was read and the learnt rules are decoded
    together, so that misread digits are corrected. The exit status is 1 if a photograph has no accepted answer.
    """

    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="[IMAGE|FOLDER ...]", help_behavior_hint="")] = ()
    """JPEG, PNG, WebP, AVIF, TIFF or HEIC, or folders of them (default: a newspaper page, drawn beside its answer)."""
    output: Folder = None
    """Draw answers into DIR/NAME-solved.jpg: blue digits complete the puzzle, cells in red frames were misread."""
    csv: File = None
    """Write a row for each: image, givens, answer, accepted."""
    overwrite: bool = False
    """Let --output and --csv replace files."""
    reader: File = None
    """Weights of the reader (default: those shipped)."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        if not self.images and self.output is None:
            raise ValueError("--output: wanted a directory for the page that is drawn, as no IMAGE is given")
        if self.output is not None:
            check_folder(self.output, "--output")
        if self.csv is not None:
            check_output(self.csv, "--csv", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.photo.command import solve_photographs

        return solve_photographs(self)


@dataclass(frozen=True)
class ReaderConfig:
    """How the reader is trained."""

    rendered_steps: int = 2500
    """Steps on rendered cells alone."""
    mixed_steps: int = 600
    """Steps, after these, on rendered cells and cells of photographs."""
    batch_size: int = 128
    """Cells a step."""
    learning_rate: float = 2e-3
    """Of Adam, at the start; it falls to nothing along half a cosine. The second stage has half as much."""
    blanks: float = 0.35
    """This share of the cells is blank."""
    sideways: float = 0.1
    """This share is turned by a quarter or a half, with any digit as the target: so the reader is not sure of such ones."""
    seed: int = 0
    """Seeds all that is random."""

    def __post_init__(self) -> None:
        check_counts(self, "rendered_steps", "mixed_steps", "batch_size")
        check_rate("--learning-rate", self.learning_rate)
        check_seeds(self)
        for name in ("blanks", "sideways"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name}: got {getattr(self, name)}, wanted a share from 0 to 1")


@dataclass(frozen=True)
class PhotoTrain(Command):
    """Teach the reader of photographed digits.

    It learns digits rendered with the fonts of this machine, and then also the photographs of a collection: one reader for each
    fold, which has not seen the fold's photographs, and one of all. The output directory gets reader-rendered, reader-fold-0,
    ... and reader-full.safetensors, of which those already there are kept, and the rules that the layer has learnt,
    rules.cnf.gz.
    """

    data: Positional[Data]
    """A collection: pictures with NAME.dat beside each NAME.jpg."""
    folds: int = 5
    """Of the cross-validation."""
    output: Path = Path("runs/photo")
    """Where the readers are."""
    training: OmitArgPrefixes[ReaderConfig] = field(default_factory=ReaderConfig)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        check_counts(self, "folds")

    def act(self) -> int:
        from demos.sudoku.photo.command import teach_readers

        return teach_readers(self)


@dataclass(frozen=True)
class PhotoStudy(Command):
    """Measure reading and decoding of photographs whose truth is known.

    Compare the reader alone, one pass of the layer, and joint decoding; also with every 10th given hidden or misread on
    purpose. Each photograph is read by the reader of its fold, which photo-train has made, or all by one reader (--reader).
    """

    data: Positional[Data]
    """A collection: pictures with NAME.dat beside each NAME.jpg."""
    folds: int = 5
    """Of the cross-validation."""
    output: Path = Path("runs/photo")
    """Where the readers are."""
    reader: Annotated[File, arg(metavar="FILE|shipped")] = None
    """Read all photographs with these weights, or with those shipped."""
    csv: Folder = None
    """Write methods.csv, spoiled.csv and photographs.csv here."""
    overwrite: bool = False
    """Let --csv replace files."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)

    def check(self) -> None:
        self.machine.check()
        check_counts(self, "folds")
        for name in STUDY_FILES:
            if self.csv is not None:
                check_output(self.csv / name, "--csv", overwrite=self.overwrite)

    def act(self) -> int:
        from demos.sudoku.photo.command import measure

        return measure(self)
