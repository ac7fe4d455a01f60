"""The command line: ``python -m demos.reid``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.command import guarded
from demos.devices import add_device, checked_device
from demos.files import check_folder, csv_text, write_atomically

# torch and numba are imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    from demos.reid.train import Config, Run, Study

PROGRAM = "python -m demos.reid"
RUNS_NAME, SUMMARY_NAME, PICTURE_NAME = "runs.csv", "summary.csv", "accuracy.png"

_EXPERIMENTS = ("labels", "outcomes", "counts")
_METHODS = (
    *("pairs", "structured", "structured-entropic", "hinge", "hard", "rows", "sinkhorn"),
    *("dmm", "quadratic-0.05", "quadratic-1", "entropic", "blackbox", "straight-through"),
)
_QUICK = {"seeds": 2, "train": (256,), "steps": 150, "tuning_worlds": 1, "test": 300}
_FULL = {"seeds": 5, "train": (64, 256, 1024), "steps": 400, "tuning_worlds": 1, "test": 500}

_DESCRIPTION = """\
Features for re-identification, learnt through a matching layer and without one.

Every problem has 8 templates, each a look at an object, and 12 proposals, second looks
at the same objects and at 4 others. Objects come in clusters of look-alikes; all looks of
one time share a shift, and each has a nuisance of its own. A small network learns features
from few such problems. All features are tested in one way: the share of the templates of
unseen problems that functional.hungarian matches to the right proposal.

Without --full this is a quick version, about a minute long.
"""

_EPILOG = f"""\
experiments:
  labels          the true matches are known in training
  outcomes        only what became of each template's object, one of 3 things, is known; the
                  loss sees X P, the outcomes of the proposals pasted by the matching
  counts          only how many of 4 templates had which outcome is known; the loss sees sums of
                  4 rows of X P

methods:
  pairs           binary cross-entropy of each pair by itself (of outcomes: do they agree?)
  rows            cross-entropy of a softmax of each row (InfoNCE): no layer
  structured, structured-entropic
                  labels only: Fenchel-Young loss of the quadratic or the entropic matching, which
                  needs its solution but not its derivative
  hinge           labels only: structured hinge loss of the exact matching, with a margin of 1
  hard            outcomes only: rows, with labels by functional.hungarian among the pairs
                  whose outcomes agree, found anew at every step
  sinkhorn        through Sinkhorn's algorithm, 20 rounds unrolled
  dmm             through DMMMatching()
  quadratic-0.05, quadratic-1
                  through QuadraticMatching(gamma)
  entropic        through EntropicMatching(1)
  blackbox, straight-through
                  through ExactMatching, with either of its gradients

What goes through an X, rows included, has a choice of two losses, -log X or (X - X*)^2 (of
outcomes: of X P; of counts, and of the exact matching, the square alone). The loss, the
learning rate and the first scale of the similarities are
tuned over one grid, for each method and number of training problems, in worlds of their own.

examples:
  {PROGRAM}
  {PROGRAM} --experiments labels --methods rows dmm --train 64 512 --seeds 3
  {PROGRAM} --full --out runs/reid-full
"""


def _default(name: str) -> str:
    quick, full = (
        " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in (_QUICK[name], _FULL[name])
    )
    return f"(default: {quick})" if quick == full else f"(default: {quick}; {full} with --full)"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the sizes of the results in the documentation")
    parser.add_argument(
        "--experiments", nargs="+", choices=_EXPERIMENTS, metavar="NAME", help="(default: all that the methods fit)"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=_METHODS, default=_METHODS, metavar="NAME", help="(default: all)"
    )
    output = parser.add_argument_group("results")
    output.add_argument(
        "--out",
        type=Path,
        default=Path("runs/reid"),
        metavar="DIR",
        help=f"gets {RUNS_NAME}, {SUMMARY_NAME} and {PICTURE_NAME} (default: %(default)s)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    output.add_argument("--no-picture", action="store_true", help="tables only; needs no matplotlib")
    training = parser.add_argument_group("training")
    training.add_argument("--seeds", type=int, metavar="N", help=f"seeds 0 to N - 1, a world each {_default('seeds')}")
    training.add_argument(
        "--train", type=int, nargs="+", metavar="N", help=f"numbers of training problems {_default('train')}"
    )
    training.add_argument("--steps", type=int, help=f"steps of Adam {_default('steps')}")
    training.add_argument("--batch-size", type=int, default=16, help="problems a step (default: %(default)s)")
    training.add_argument(
        "--tuning-worlds", type=int, metavar="N", help=f"worlds to tune in {_default('tuning_worlds')}"
    )
    training.add_argument("--test", type=int, metavar="N", help=f"problems to test on in a world {_default('test')}")
    add_device(training)
    problems = parser.add_argument_group("problems")
    problems.add_argument("--templates", type=int, default=8, metavar="N", help="(default: %(default)s)")
    problems.add_argument("--proposals", type=int, default=12, metavar="M", help="N or more (default: %(default)s)")
    problems.add_argument("--cluster", type=int, default=3, help="objects that look alike (default: %(default)s)")
    problems.add_argument("--outcomes", type=int, default=3, help="how many there are (default: %(default)s)")
    problems.add_argument(
        "--group", type=int, default=4, help="templates whose outcomes are counted together (default: %(default)s)"
    )
    return parser


def _config(arguments: argparse.Namespace) -> Config:
    from demos.reid.data import Sizes
    from demos.reid.model import EXPERIMENTS
    from demos.reid.train import Config

    fitting = [name for name, methods in EXPERIMENTS.items() if set(methods) & set(arguments.methods)]
    preset: dict[str, Any] = dict(_FULL if arguments.full else _QUICK)
    preset |= {name: getattr(arguments, name) for name in preset if getattr(arguments, name) is not None}
    preset["train"] = tuple(preset["train"])
    return Config(
        experiments=tuple(name for name in _EXPERIMENTS if name in (arguments.experiments or fitting)),
        methods=tuple(arguments.methods),
        batch_size=arguments.batch_size,
        sizes=Sizes(arguments.templates, arguments.proposals, arguments.cluster, arguments.outcomes, arguments.group),
        **preset,
    )


def _run_row(run: Run) -> dict[str, Any]:
    row = {name: value for name, value in vars(run).items() if name not in ("point", "score")}
    return row | vars(run.point) | {name: round(value, 5) for name, value in vars(run.score).items()}


def _table(table: list[dict[str, Any]], study: Study) -> str:
    """The summary for people: percentages, and what a training step took."""
    lines = []

    def percent(row: dict[str, Any], name: str) -> str:
        if row[f"{name}_mean"] == "":
            return ""
        mean, spread = 100 * row[f"{name}_mean"], row[f"{name}_std"]
        sign = "+" if name == "lead" else ""
        return f"{mean:{sign}.1f}" + ("" if spread == "" else f" ± {100 * spread:.1f}")

    for experiment in dict.fromkeys(row["experiment"] for row in table):
        lines.append(
            f"\n{experiment:20}{'train':>6}{'hungarian %':>15}{'lead over rows':>16}{'greedy %':>14}{'argmax %':>14}"
            f"{'loss':>15}{'lr':>7}{'scale':>7}{'ms a step':>11}"
        )
        for row in table:
            if row["experiment"] == experiment:
                times = study.step_seconds[experiment, row["method"]]
                lines.append(
                    f"{row['method']:20}{row['train']:6}{percent(row, 'hungarian'):>15}{percent(row, 'lead'):>16}"
                    f"{percent(row, 'greedy'):>14}{percent(row, 'argmax'):>14}{row['loss']:>15}{row['lr']:7g}{row['scale']:7g}"
                    f"{1e3 * sorted(times)[len(times) // 2]:11.2f}"
                )
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """Run the study that the options describe; ``ValueError`` for options that make no sense."""
    out: Path = arguments.out
    files = {name: out / name for name in (RUNS_NAME, SUMMARY_NAME, PICTURE_NAME)}
    existing = [str(path) for path in files.values() if path.exists()]
    if existing and not arguments.overwrite:
        raise ValueError(f"--out: {existing[0]} exists; pass --overwrite to replace it, or another directory")
    check_folder(out, "--out")
    needed = ["tqdm"] if arguments.no_picture else ["tqdm", "matplotlib"]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        instead = ", or pass --no-picture" if missing == ["matplotlib"] else ""
        raise ValueError(
            f"{missing[0]} is not installed; wanted: pip install '.[demos]' in the project's folder{instead}"
        )

    import torch

    from demos.progress import progress_bar
    from demos.reid.train import Study, summarize, untrained

    config, device = _config(arguments), checked_device(arguments.device)
    torch.set_num_threads(1)  # networks this small gain nothing from more
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    runs: list[Run] = []
    with progress_bar(config.trainings(), "", " trainings") as bar:

        def progress(text: str, done: int) -> None:
            if text:
                bar.set_description(text, refresh=False)
            bar.update(done)

        study = Study(config, device=device, progress=progress)
        for cell in study.run():
            runs += cell
            # After every cell, so that an interruption loses little.
            write_atomically(files[RUNS_NAME], csv_text([_run_row(one) for one in runs]).encode())
            if len(runs) == len(cell):  # those of an earlier study are out of date now
                files[SUMMARY_NAME].unlink(missing_ok=True)
                files[PICTURE_NAME].unlink(missing_ok=True)
    table = summarize(runs)
    write_atomically(files[SUMMARY_NAME], csv_text(table).encode())
    raw = untrained(config)
    if not arguments.no_picture:
        from demos.reid.plots import accuracy_png

        write_atomically(files[PICTURE_NAME], accuracy_png(table, raw.hungarian, config.seeds))
    print(_table(table, study))
    print(f"\nobservations as they are: {raw.hungarian:.1%} by hungarian, {raw.argmax:.1%} by argmax")
    print(f"{config.trainings():,} trainings in {(time.perf_counter() - started) / 60:.1f} minutes; results in {out}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; wrong options end it with status 2 and one line that says what was wrong."""
    parser = build_parser()
    options = parser.parse_args(arguments)

    def act() -> None:
        try:
            run(options)
        except KeyboardInterrupt:
            print(f"\nthe trainings that were finished are in {options.out / RUNS_NAME}", file=sys.stderr)
            raise

    return guarded(PROGRAM, act)


if __name__ == "__main__":
    sys.exit(main())
