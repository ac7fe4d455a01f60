"""How often completions are valid: ``python -m demos.tables.study FILE.csv --output DIR``.

The true constraints of the table are not known here. What a completion may not break is judged by the rows that the layer has
not seen: rules that hold in *all* rows of the file, those kept back included, by counting alone. They are more than what the
layer and its search were given, and none of them comes from the layer. What these rules do not know is not noticed, so the
figures are upper bounds; the held-out rows themselves break so many of the learnt rules as the last lines say.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import Tensor

from demos.command import run
from demos.files import csv_text, write_atomically
from demos.tables.__main__ import fill
from demos.tables.model import CHECKPOINT, Run, Training, load, train
from demos.tables.table import domains_of, encode, read
from difflayers import SATNet
from difflayers.inference import Rules, extract_rules, search, solve_exactly


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
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)


def completions(learnt: Run, seen: Tensor, values: Tensor, given: Tensor, seed: int) -> dict[str, Tensor]:
    """The same rows completed in several ways, from baselines to search."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.where(given, values, seen.mode(0).values)
    drawn = seen.gather(0, torch.randint(len(seen), values.shape, generator=generator))
    bits, is_input = learnt.domains.encode(values, given)
    with torch.no_grad():
        once = learnt.domains.decode(learnt.layer(bits, is_input, generator=generator))
    one_path = search(learnt.layer, learnt.domains, values, given, paths=1, generator=generator)
    exact = solve_exactly(learnt.rules, learnt.domains, values, given)
    return {
        "most common value": common,
        "independent draws": torch.where(given, values, drawn),
        "one pass": torch.where(given, values, once),
        "decimation, no rules": one_path.values,
        "SAT solver, learnt rules": exact.values,
        "search with learnt rules": fill(learnt, values, given, seed=seed)[0],
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
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if (options.output / CHECKPOINT).exists():
        learnt = load(options.output)
    else:
        learnt = train(domains, seen, options.training, options.output, torch.device("cpu"))
    print(f"{len(learnt.rules):,} rules, {(time.perf_counter() - began) / 60:.1f} minutes")
    blank = SATNet(domains.bits, 1)  # no layer's word: counting alone
    with torch.no_grad():
        blank.S.zero_()
    judge: Rules = extract_rules(blank, domains, values, longest=options.training.longest)
    generator = torch.Generator().manual_seed(options.training.seed)
    table = []
    for share in options.shares:
        given = torch.rand(kept.shape, generator=generator) < share
        for name, filled in completions(learnt, seen, kept, given, options.training.seed).items():
            valid = 1 - judge.violations(filled).any(1).double().mean().item()
            table.append({"given": share, "completion": name, "valid": round(valid, 4)})
            print(f"{share:.0%} given, {name}: {valid:.1%} valid")
    write_atomically(options.output / "validity.csv", csv_text(table).encode())
    told = [
        {"rows": name, "checked": len(part), "break_a_rule": int(learnt.rules.violations(part).any(1).sum())}
        for name, part in (
            ("learnt from", seen),
            ("kept back", kept),
            ("kept back, one cell spoilt", spoil(kept, learnt, generator)),
        )
    ]
    for row in told:
        print(f"rows {row['rows']}: {row['break_a_rule']:,} of {row['checked']:,} break a learnt rule")
    write_atomically(options.output / "check.csv", csv_text(told).encode())


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.tables.study", __doc__, Study, study, argv)


if __name__ == "__main__":
    sys.exit(main())
