"""Run cases and keep their rows."""

import argparse
import csv
import io
from pathlib import Path

import torch
from tabulate import tabulate

import benchmarks.gpu.cases
import benchmarks.inference.cases
import benchmarks.matching.cases
import benchmarks.matching.exact
import benchmarks.matching.memory
import benchmarks.maxsat.cases
import benchmarks.metrics.cases
import benchmarks.satnet.cases
import benchmarks.satnet.choice  # noqa: F401  (these register their cases)
from benchmarks.registry import CASES, ON_GPU, Row, machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks and keep their results.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run (default: all but those of --gpu)")
    parser.add_argument("--gpu", action="store_true", help="run all cases that need a CUDA device")
    parser.add_argument("--list", action="store_true", help="list the cases and what they show")
    parser.add_argument("--no-save", action="store_true", help="print only; do not append to benchmarks/results")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CASES]:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    if options.list:
        summaries = [(name, (case.__doc__ or "").splitlines()[0]) for name, case in CASES.items()]
        print(tabulate(summaries, tablefmt="plain"))
        return
    names = options.names or [name for name in CASES if (name in ON_GPU) == options.gpu]
    if not torch.cuda.is_available() and (needing := sorted(ON_GPU & set(names))):
        parser.error(f"{', '.join(needing)}: torch sees no CUDA device")
    for name in names:
        print(f"\n{name}: {CASES[name].__doc__}")
        rows = []
        for row in CASES[name]():
            rows.append(row)
            print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
        print("\n" + tabulate([{key: _short(value) for key, value in row.items()} for row in rows], headers="keys"))
        if not options.no_save:
            _append(RESULTS / f"{name}.csv", rows)


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _append(path: Path, rows: list[Row]) -> None:
    """Add rows to a CSV file, with the columns of its rows and of these."""
    path.parent.mkdir(exist_ok=True)
    before: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            before = list(csv.DictReader(file))
    about = machine()
    added = [{**about, **{key: _short(value) for key, value in row.items()}} for row in rows]
    columns = list(dict.fromkeys(key for row in (*before, *added) for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*before, *added])
    whole = path.with_suffix(".part")
    whole.write_text(text.getvalue(), newline="")
    whole.replace(path)


if __name__ == "__main__":
    main()
