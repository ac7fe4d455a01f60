"""How often completions are valid: ``python -m demos.tables.study FILE.csv --output DIR``.

The true constraints of the table are not known here. Two judges estimate what is valid (demos.tables.judges): rules that
counting finds in *all* rows of the file, those kept back included, and projections, which need no rules. How far they can be
trusted is told too: how many of the rows kept back pass, which are valid, and how many spoilt ones are caught.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import Tensor

from demos.command import run
from demos.files import csv_text, make_folder, write_atomically
from demos.tables.judges import Projections, counted_rules
from demos.tables.model import Run, Training, fill, learn, scores
from demos.tables.table import domains_of, encode, read
from difflayers import Domains, SATNet
from difflayers.inference import AcceptanceLimit, search, solve_exactly


@dataclass(frozen=True)
class Study:
    """Train on all rows but the last ones, and complete and check those."""

    file: tyro.conf.Positional[Path]
    """CSV with a header; complete rows."""
    output: Path
    """Folder of the run; gets validity.csv and check.csv."""
    test: int = 1000
    """So many rows at the end are kept back."""
    shares: tuple[float, ...] = (0.3, 0.5, 0.8)
    """Shares of the cells that are given."""
    counting: bool = False
    """Train no layer: rules by counting alone, and only the completions that need no layer."""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)


def counted(domains: Domains, seen: Tensor, training: Training) -> Run:
    """What counting alone learns: rules, and a layer that says nothing."""
    layer = SATNet(domains.bits, 1)
    torch.nn.init.zeros_(layer.S)
    began = time.perf_counter()
    rules = counted_rules(domains, seen, training.longest)
    nothing = AcceptanceLimit(math.nan, separates=False, right=math.nan, false=math.nan, auc=0.5)
    return Run(domains, layer, rules, nothing, time.perf_counter() - began)


def without_layer(learnt: Run, seen: Tensor, values: Tensor, given: Tensor, seed: int) -> dict[str, Tensor]:
    """The same rows completed in the ways that need no layer."""
    generator = torch.Generator().manual_seed(seed)
    often = learnt.domains.decode((learnt.domains.encode(seen)[0].mean(0) > 0.5).float())
    drawn = seen.gather(0, torch.randint(len(seen), values.shape, generator=generator))
    return {
        "most common value of each bit": torch.where(given, values, often),
        "most common value of each column": torch.where(given, values, seen.mode(0).values),
        "independent draws": torch.where(given, values, drawn),
        "SAT solver, any completion": solve_exactly(learnt.rules, learnt.domains, values, given).values,
    }


def completions(learnt: Run, values: Tensor, given: Tensor, seed: int) -> dict[str, Tensor]:
    """The same rows completed with the layer, from one pass to what `complete` does."""
    generator = torch.Generator().manual_seed(seed)
    likely = scores(learnt, values, given)
    one_path = search(learnt.layer, learnt.domains, values, given, paths=1, generator=generator)
    exact = solve_exactly(learnt.rules, learnt.domains, values, given, scores=likely)
    return {
        "one pass": torch.where(given, values, likely.argmax(-1)),
        "decimation, no rules": one_path.values,
        "SAT solver, likeliest completion": exact.values,
        "complete": fill(learnt, values, given, seed=seed).values,
    }


def spoil(values: Tensor, learnt: Run, generator: torch.Generator) -> Tensor:
    """Each row with one random cell changed to another value."""
    sizes = torch.tensor(learnt.domains.sizes)
    free = (sizes > 1).nonzero()[:, 0]
    column = free[torch.randint(len(free), (len(values),), generator=generator)]
    step = 1 + (torch.rand(len(values), generator=generator) * (sizes[column] - 1)).long().clamp(max=sizes[column] - 2)
    spoilt, rows = values.clone(), torch.arange(len(values))
    spoilt[rows, column] = (values[rows, column] + step) % sizes[column]
    return spoilt


def study(options: Study) -> None:
    """Train, complete, check; print and write the tables."""
    rows = read(options.file)
    domains = domains_of(rows)
    values, _ = encode(rows, domains)
    if not 0 < options.test < len(values):
        raise ValueError(f"--test: got {options.test}, wanted 1 to {len(values) - 1}")
    seen, kept = values[: -options.test], values[-options.test :]
    make_folder(options.output, "--output")
    learnt = (
        counted(domains, seen, options.training)
        if options.counting
        else learn(domains, seen, options.training, options.output)
    )
    print(f"{len(learnt.rules):,} rules, {learnt.seconds / 60:.1f} minutes; objective: {learnt.limit!r}")
    rules = counted_rules(domains, values, options.training.longest)
    projections = Projections.calibrated(seen, kept, domains.sizes)

    def judged(rows: Tensor) -> tuple[Tensor, Tensor]:
        return ~rules.violations(rows).any(1), projections.passes(rows)

    generator = torch.Generator().manual_seed(options.training.seed)
    table = []
    for share in options.shares:
        given = torch.rand(kept.shape, generator=generator) < share
        filled_rows = without_layer(learnt, seen, kept, given, options.training.seed)
        if not options.counting:
            filled_rows |= completions(learnt, kept, given, options.training.seed)
        for name, filled in filled_rows.items():
            by_rules, by_projections = judged(filled)
            row = {
                "given": share,
                "completion": name,
                "valid_by_rules": round(by_rules.double().mean().item(), 4),
                "valid_by_projections": round(by_projections.double().mean().item(), 4),
                "valid_by_both": round((by_rules & by_projections).double().mean().item(), 4),
            }
            table.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()))
    write_atomically(options.output / "validity.csv", csv_text(table).encode())
    unseen = Projections.of(seen, domains.sizes, projections.together)
    told = []
    for name, part in (
        ("learnt from", seen),
        ("kept back", kept),
        ("kept back, one cell spoilt", spoil(kept, learnt, generator)),
    ):
        broken = learnt.rules.violations(part).any(1)
        by_rules, by_projections = judged(part)
        valid = by_rules & by_projections
        told.append(
            {
                "rows": name,
                "number": len(part),
                "flagged_by_check": int(broken.sum()),
                "flagged_and_valid": int((broken & valid).sum()),
                "invalid": int((~valid).sum()),
                "new_to_rows_learnt_from": int((~unseen.passes(part)).sum()),
            }
        )
        print(", ".join(f"{key} {value}" for key, value in told[-1].items()))
    write_atomically(options.output / "check.csv", csv_text(told).encode())


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.tables.study", __doc__, Study, study, argv)


if __name__ == "__main__":
    sys.exit(main())
