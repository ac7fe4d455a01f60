"""Learn the constraints of a table from its rows.

  python -m demos.tables train FILE.csv --output RUN
  python -m demos.tables complete RUN PARTIAL.csv --output FILLED.csv
  python -m demos.tables check RUN ROWS.csv
  python -m demos.tables rules RUN

A row is an assignment, a column a variable with finitely many values. One SATNet layer learns which rows there are; rules are
read off it and checked against the rows. An empty cell is a blank.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from demos.command import check_counts, check_seeds, run
from demos.devices import checked_device
from demos.files import check_output, make_folder, write_atomically
from demos.tables.model import Training, fill, load, train, without_weaker
from demos.tables.table import domains_of, encode, read, write


@dataclass(frozen=True)
class Train:
    """Learn from complete rows. The same command again goes on where it was interrupted."""

    file: tyro.conf.Positional[Path]
    """CSV with a header."""
    output: Path
    """Folder of the run."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out, an identifier for instance."""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    device: str = "cpu"
    """cpu or cuda."""


@dataclass(frozen=True)
class Complete:
    """Fill the blanks of rows so that no learnt rule is broken, with what the layer finds likeliest."""

    run: tyro.conf.Positional[Path]
    file: tyro.conf.Positional[Path]
    """CSV with the columns of the table; an empty cell is a blank."""
    output: Path
    """CSV with the blanks filled."""
    overwrite: bool = False
    """Replace the output if it is there."""
    paths: int = 10
    """Attempts of the search for a row."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "paths")
        check_seeds(self)


@dataclass(frozen=True)
class Check:
    """List the rows that break learnt rules, and the rules. The exit status is 1 if there is one."""

    run: tyro.conf.Positional[Path]
    file: tyro.conf.Positional[Path]
    """CSV with the columns of the table; an empty cell breaks no rule."""


@dataclass(frozen=True)
class ListRules:
    """Print the rules, strongest first, in words, or as DIMACS."""

    run: tyro.conf.Positional[Path]
    top: int = 50
    """So many; 0 for all."""
    cnf: Path | None = None
    """Write all of them to this file instead, as DIMACS."""
    overwrite: bool = False
    """Replace that file if it is there."""

    def __post_init__(self) -> None:
        if self.top < 0:
            raise ValueError(f"--top: got {self.top}, wanted 0 or more")


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Complete, tyro.conf.subcommand("complete")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[ListRules, tyro.conf.subcommand("rules")]
)


def act(command: Train | Complete | Check | ListRules) -> int:
    """Do what the command line says."""
    if isinstance(command, Train):
        device = checked_device(command.device)
        rows = read(command.file).without(command.ignore)
        domains = domains_of(rows)
        make_folder(command.output, "--output")
        learnt = train(domains, encode(rows, domains)[0], command.training, command.output, device)
        print(f"{len(rows.cells):,} rows, {len(domains)} columns, {domains.bits} bits: {len(learnt.rules):,} rules")
        told = "tells" if learnt.limit.separates else "does not tell"
        print(f"the learnt objective alone {told} valid rows from spoilt ones: {learnt.limit!r}")
        return 0
    if isinstance(command, ListRules) and command.cnf is not None:
        check_output(command.cnf, "--cnf", overwrite=command.overwrite)
    if isinstance(command, Complete):
        check_output(command.output, "--output", overwrite=command.overwrite)
    learnt = load(command.run)
    if isinstance(command, Complete):
        rows = read(command.file)
        values, given = encode(rows, learnt.domains)
        filled = fill(learnt, values, given, paths=command.paths, seed=command.seed, progress=True)
        valid = filled.accepted
        write(command.output, rows, learnt.domains, filled.values, overwrite=command.overwrite)
        print(f"{int(valid.sum()):,} of {len(valid):,} rows break no learnt rule; written to {command.output}")
        broken = learnt.rules.violations(values, given)
        for row in (~valid).nonzero()[:20, 0].tolist():
            first = next((learnt.rules.describe(learnt.rules[r]) for r in broken[row].nonzero()[:, 0].tolist()), None)
            told = f": {first}" if first else "; no completion keeps all rules"
            print(f"  line {rows.lines[row]}: its given cells break learnt rules{told}")
        return int(not valid.all())
    if isinstance(command, Check):
        rows = read(command.file)
        broken = learnt.rules.violations(*encode(rows, learnt.domains))
        for line, row in zip(rows.lines, broken, strict=True):
            violated = [learnt.rules[r] for r in row.nonzero()[:, 0].tolist()]
            for rule in without_weaker(violated, learnt.domains):
                print(f"line {line}: {learnt.rules.describe(rule)}")
        print(f"{int(broken.any(1).sum()):,} of {len(rows.cells):,} rows break a learnt rule")
        return int(broken.any())
    if command.cnf is not None:
        write_atomically(command.cnf, learnt.rules.to_cnf().encode())
        print(f"{len(learnt.rules):,} rules written to {command.cnf}")
        return 0
    listed = without_weaker(list(learnt.rules), learnt.domains)
    for rule in listed[: command.top or None]:
        print(f"{learnt.rules.describe(rule)}    (support {rule.support}, strength {rule.strength:.3g})")
    weaker = len(learnt.rules) - len(listed)
    print(
        f"{len(learnt.rules):,} rules"
        + (f", {weaker:,} of which follow from another one and are not listed" if weaker else "")
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.tables", __doc__, Command, act, argv)


if __name__ == "__main__":
    sys.exit(main())
