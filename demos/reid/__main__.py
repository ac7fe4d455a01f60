"""Features for re-identification, learnt through a matching layer and without one.

Every problem has 8 templates, each a look at an object, and 12 proposals, second looks
at the same objects and at 4 others. Objects come in clusters of look-alikes; all looks of
one time share a shift, and each has a nuisance of its own. A small network learns features
from few such problems. All features are tested in one way: the share of the templates of
unseen problems that functional.hungarian matches to the right proposal.

Without --full this is a quick version, about a minute long.

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
  python -m demos.reid
  python -m demos.reid --experiments labels --methods rows dmm --train 64 512 --seeds 3
  python -m demos.reid --full --output runs/reid-full
"""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Any

from demos.command import run
from demos.devices import checked_device
from demos.files import check_output, csv_text, write_atomically
from demos.reid.config import FULL, Options

# torch and numba are imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    from demos.reid.study import Run, Study

PROGRAM = "python -m demos.reid"
RUNS_NAME, SUMMARY_NAME, PICTURE_NAME = "runs.csv", "summary.csv", "accuracy.png"


def act(options: Options) -> None:
    """Run the study that the options describe."""
    output, config = options.output, options.config
    files = {name: output / name for name in (RUNS_NAME, SUMMARY_NAME, PICTURE_NAME)}
    for path in files.values():
        check_output(path, "--output", overwrite=options.overwrite)
    needed = ["tqdm", "matplotlib"] if options.picture else ["tqdm"]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        instead = ", or pass --no-picture" if missing == ["matplotlib"] else ""
        raise ValueError(
            f"{missing[0]} is not installed; wanted: pip install '.[demos]' in the project's folder{instead}"
        )

    import torch

    from demos.progress import progress_bar
    from demos.reid.study import Study, summarize, untrained

    device = checked_device(options.device)
    torch.set_num_threads(1)  # networks this small gain nothing from more
    started = time.perf_counter()
    runs: list[Run] = []
    study = Study(config, device=device)
    with progress_bar(study.trainings(), "", " trainings") as bar:

        def progress(text: str, done: int) -> None:
            if text:
                bar.set_description(text, refresh=False)
            bar.update(done)

        study.progress = progress
        try:
            for cell in study.run():
                runs += cell
                # After every cell, so that an interruption loses little.
                write_atomically(files[RUNS_NAME], csv_text([_run_row(one) for one in runs]).encode())
                if len(runs) == len(cell):  # those of an earlier study are out of date now
                    files[SUMMARY_NAME].unlink(missing_ok=True)
                    files[PICTURE_NAME].unlink(missing_ok=True)
        except KeyboardInterrupt:
            if runs:
                print(f"\nthe trainings that were finished are in {files[RUNS_NAME]}", file=sys.stderr)
            raise
    table = summarize(runs)
    write_atomically(files[SUMMARY_NAME], csv_text(table).encode())
    raw = untrained(config)
    if options.picture:
        from demos.reid.plots import accuracy_png

        write_atomically(files[PICTURE_NAME], accuracy_png(table, raw.hungarian, config.seeds))
    print(_table(table, study))
    print(f"\nobservations as they are: {raw.hungarian:.1%} by hungarian, {raw.argmax:.1%} by argmax")
    print(f"{study.trainings():,} trainings in {(time.perf_counter() - started) / 60:.1f} minutes; results in {output}")


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


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    words = sys.argv[1:] if argv is None else argv
    return run(PROGRAM, __doc__, Options, act, words, start=FULL if "--full" in words else Options())


if __name__ == "__main__":
    sys.exit(main())
