"""Five kinds of problems, learnt from solutions alone, in one table.

Latin squares, Futoshiki, queens, colouring of graphs, and a nurse roster. For each a generator draws solutions. One SATNet
layer learns from them what it may not break, by the loop that learns tables (demos.tables). Problems that it has not seen are
then solved in three ways: by one pass of the layer, by search, and by a SAT solver with the rules that were extracted. A
checker that the learning never sees counts the valid answers that keep what was given.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from demos.command import check_counts, check_seeds, run
from demos.files import csv_text, make_folder, write_atomically
from demos.problems.kinds import KINDS, Kind
from demos.tables.model import Run, Training, learn, scores, searched
from difflayers.inference import Answers, solve_exactly

Name = Literal["latin", "futoshiki", "queens", "colouring", "roster"]


@dataclass(frozen=True)
class Options:
    """Learn and test each kind; what is finished in the folder is not repeated, what was interrupted goes on."""

    output: Path = Path("runs/problems")
    """Folder for results.csv, and a folder for each kind."""
    kinds: tuple[Name, ...] = ("latin", "futoshiki", "queens", "colouring", "roster")
    test: int = 200
    """Problems to test on."""
    boards: int | None = None
    """Solutions to learn from; each kind has its own number."""
    epochs: int | None = None
    """Each kind has its own number."""
    paths: int = 30
    """Attempts of the search for a problem."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "test", "boards", "epochs", "paths")
        check_seeds(self)


def right(kind: Kind, values: Tensor, truth: Tensor, given: Tensor) -> float:
    """Share of answers that are valid and keep what was given."""
    return float((kind.valid(values) & ((values == truth) | ~given).all(1)).double().mean())


def unseen(drawn: Tensor, seen: Tensor) -> Tensor:
    """Those of the solutions (count, v) that are not among the others."""
    known = set(map(tuple, seen.tolist()))
    return drawn[[i for i, row in enumerate(drawn.tolist()) if tuple(row) not in known]]


def answers(learnt: Run, values: Tensor, given: Tensor, options: Options) -> tuple[Tensor, Answers, Tensor]:
    """One pass, search, and the SAT solver's answers."""
    once = torch.where(given, values, scores(learnt, values, given).argmax(-1))
    found = searched(learnt, values, given, paths=options.paths, seed=options.seed, progress=True)
    return once, found, solve_exactly(learnt.rules, learnt.domains, values, given).values


def study(name: Name, options: Options) -> dict[str, object]:
    """Learn one kind, test it, and return its row of the table."""
    kind = KINDS[name]()
    generator = torch.Generator().manual_seed(options.seed)
    boards = kind.boards if options.boards is None else options.boards
    seen = kind.draw(boards, generator)
    kept = unseen(kind.draw(boards + options.test, generator), seen)[: options.test]
    if not len(kept):
        raise ValueError(f"--boards: got {boards}, but there are only {len(seen)} solutions of {name}")
    training = Training(
        epochs=kind.epochs if options.epochs is None else options.epochs,
        m=kind.m,
        aux=kind.aux,
        longest=kind.longest,
        seed=options.seed,
    )
    learnt = learn(kind.domains, seen, training, options.output / name, question=kind.question)
    given = kind.hide(len(kept), generator)
    began = time.perf_counter()
    once, found, exact = answers(learnt, kept, given, options)
    return {
        "kind": name,
        "boards": len(seen),
        "minutes": round(learnt.seconds / 60, 2),
        "rules": len(learnt.rules),
        "longest_rule": max((len(rule.clause) for rule in learnt.rules), default=0),
        "judge": found.judge,
        "auc": round(learnt.limit.auc, 4),
        "tested": len(kept),
        "one_pass": round(right(kind, once, kept, given), 4),
        "search": round(right(kind, found.values, kept, given), 4),
        "accepted": round(float(found.accepted.double().mean()), 4),
        "paths": round(float(found.paths.double().mean()), 2),
        "exact": round(right(kind, exact, kept, given), 4),
        "test_seconds": round(time.perf_counter() - began, 1),
    }


def act(options: Options) -> None:
    """Study what is not there yet, and print the table."""
    make_folder(options.output, "--output")
    table = options.output / "results.csv"
    rows: list[dict[str, object]] = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    for name in options.kinds:
        if not any(row["kind"] == name for row in rows):
            rows.append(study(name, options))
            write_atomically(table, csv_text(rows).encode())
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    print(f"results in {table}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.problems", __doc__, Options, act, argv)


if __name__ == "__main__":
    sys.exit(main())
