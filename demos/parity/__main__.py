"""The command line: ``python -m demos.parity``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.devices import add_device, checked_device
from demos.files import csv_text
from demos.parity.config import GRADIENTS, LOSSES, Config

# torch and numba are imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    from demos.parity.study import Study

PROGRAM = "python -m demos.parity"
METRICS_NAME, SUMMARY_NAME, PICTURE_NAME = "metrics.csv", "summary.csv", "learning_curves.png"
_DEFAULTS = Config()

_DESCRIPTION = """\
Parity of a bit sequence, learnt from one bit of supervision for the whole sequence.

One SATNet layer (2 inputs, 1 output) goes along the sequence: its inputs are the next bit
and its own last output. Only the last output of all has a label. Unseen sequences test it.
"""

_EPILOG = f"""\
training:
  A start draws --draws random weights and keeps those whose output depends most on bit and
  last output together (no label is used). It has one epoch to bring the training loss below
  --give-up; otherwise the next start follows. Only training loss decides; test sequences are
  reported, never looked at to choose. The final test solves to a tighter tolerance than
  training does.

examples:
  {PROGRAM} --out runs/parity
  {PROGRAM} --out runs/parity --resume
  {PROGRAM} --lengths 20 --seeds 0 --gradient raw --loss bce --draws 1 --starts 1 --lr 0.1 \\
      --batch-size 100 --epochs 20 --out runs/published
"""


def _seeds(text: str) -> tuple[int, ...]:
    """Read seeds: ``3``, ``0-4``, ``0,2,7``."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            low, dash, high = part.partition("-")
            seeds += range(int(low), int(high if dash else low) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted seeds such as 3, 0-4 or 0,2,7") from None
    return tuple(seeds)


def _default(name: str) -> str:
    value = getattr(_DEFAULTS, name)
    return f"(default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; options that make a Config stay None if not given."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("runs")
    what.add_argument("--lengths", type=int, nargs="+", metavar="L", help=f"of the sequences {_default('lengths')}")
    what.add_argument("--seeds", type=_seeds, metavar="SEEDS", help="such as 3, 0-4 or 0,2,7 (default: 0-4)")
    what.add_argument("--train", type=int, metavar="N", help=f"sequences to train on {_default('train')}")
    what.add_argument("--test", type=int, metavar="N", help=f"other sequences, to test on {_default('test')}")
    layer = parser.add_argument_group("the layer")
    layer.add_argument("--aux", type=int, help=f"auxiliary variables {_default('aux')}")
    layer.add_argument("--m", type=int, help=f"number of clauses, the rank of the weights {_default('m')}")
    layer.add_argument("--max-iter", type=int, help=f"most sweeps to a solution {_default('max_iter')}")
    layer.add_argument("--eps", type=float, help=f"relative decrease at which the sweeps stop {_default('eps')}")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--gradient",
        choices=GRADIENTS,
        help="for the derivative of a step's output by the one before: the sign of what a flip of that does, or raw, the "
        f"derivative {_default('gradient')}",
    )
    training.add_argument(
        "--growth", type=float, help=f"of the gradient from step to step, if sign {_default('growth')}"
    )
    training.add_argument("--loss", choices=LOSSES, help=f"|z - y| or binary cross-entropy {_default('loss')}")
    training.add_argument("--draws", type=int, metavar="N", help=f"of weights, for a start {_default('draws')}")
    training.add_argument("--starts", type=int, metavar="N", help=f"at most so many {_default('starts')}")
    training.add_argument(
        "--give-up", type=float, metavar="LOSS", help=f"training loss above which a start ends {_default('give_up')}"
    )
    training.add_argument("--epochs", type=int, help=f"of the start that learns {_default('epochs')}")
    training.add_argument("--batch-size", type=int, help=f"sequences a step {_default('batch_size')}")
    training.add_argument("--lr", type=float, help=f"highest learning rate, of a cosine schedule {_default('lr')}")
    add_device(training)
    output = parser.add_argument_group("results")
    output.add_argument(
        "--out",
        type=Path,
        default=Path("runs/parity"),
        metavar="DIR",
        help=f"gets a checkpoint, {METRICS_NAME}, {SUMMARY_NAME}, {PICTURE_NAME} (default: %(default)s)",
    )
    output.add_argument("--resume", action="store_true", help="go on after the last whole epoch there")
    output.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    output.add_argument("--no-picture", action="store_true", help="tables only; needs no matplotlib")
    return parser


def _rounded(rows: list[dict[str, Any]]) -> str:
    return csv_text([{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows])


def summary(study: Study) -> list[dict[str, Any]]:
    """One row for each finished run, with its final test."""
    rows: list[dict[str, Any]] = []
    for length, seed in study.runs():
        if study.is_finished(length, seed):
            of_run = study.rows(length, seed)
            last = of_run[-1]
            row = {"length": length, "seed": seed, "starts": last.start, "epochs": len(of_run), "minutes": last.minutes}
            row |= {"train_loss": last.train_loss, "train_right": last.train_right}
            wrong = study.finished(length, seed).final_test()
            rows.append(row | {"test_wrong": wrong, "test_right": 1 - wrong / study.config.test})
    return rows


def _study(arguments: argparse.Namespace) -> Study:
    """The study to run, its output directory ready; ``ValueError`` for options that make no sense."""
    out: Path = arguments.out
    given = {f.name: getattr(arguments, f.name) for f in fields(Config) if getattr(arguments, f.name) is not None}
    if "lengths" in given:
        given["lengths"] = tuple(given["lengths"])
    config = Config(**given)
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file, wanted a directory")
    needed = ["safetensors", "tqdm"] + ([] if arguments.no_picture else ["matplotlib"])
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        instead = ", or pass --no-picture" if missing == ["matplotlib"] else ""
        raise ValueError(
            f"{missing[0]} is not installed; wanted: pip install '.[demos]' in the project's folder{instead}"
        )

    device = checked_device(arguments.device)

    from demos.parity.data import draw_split
    from demos.parity.study import CHECKPOINT_NAME, Study

    if arguments.resume:
        study = Study.load(out, device)
        for name, value in given.items():
            if value != getattr(study.config, name):
                raise ValueError(
                    f"--{name.replace('_', '-')}: got {value}, but the runs in {out} were started with "
                    f"{getattr(study.config, name)}; leave it out to resume"
                )
        return study
    for length in config.lengths:
        draw_split(length, config.train, config.test, seed=0)  # raises if there are too few sequences
    files = [out / name for name in (CHECKPOINT_NAME, METRICS_NAME, SUMMARY_NAME, PICTURE_NAME)]
    for path in files:
        if path.exists() and not arguments.overwrite:
            raise ValueError(f"--out: {path} exists; pass --resume, --overwrite to replace it, or another directory")
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        path.unlink(missing_ok=True)
    return Study(config, out, device)


def run(arguments: argparse.Namespace) -> int:
    """Train what the options describe; the status is 1 if a run did not come to 100%."""
    study = _study(arguments)

    import torch
    from tqdm import tqdm

    from demos.files import write_atomically

    torch.set_num_threads(1)  # a layer this small gains nothing from more
    for length, seed in study.runs():
        if study.is_finished(length, seed):
            continue
        training = study.begin(length, seed)
        while not training.finished:
            row = training.advance()
            study.history.append(row)
            study.save(training)
            write_atomically(arguments.out / METRICS_NAME, _rounded([vars(one) for one in study.history]).encode())
            tqdm.write(
                f"length {length}, seed {seed}, start {row.start}, epoch {row.epoch}: training loss {row.train_loss:.4f}, "
                f"{row.test_right:.1%} of unseen sequences" + (", given up" if row.given_up else "")
            )
    rows = summary(study)
    write_atomically(arguments.out / SUMMARY_NAME, _rounded(rows).encode())
    if not arguments.no_picture:
        from demos.parity.plots import learning_curves_png

        config = study.config
        title = f"Parity from one bit a sequence: SATNet(n=3, m={config.m}, aux={config.aux})"
        write_atomically(arguments.out / PICTURE_NAME, learning_curves_png(study.history, title))
    print(f"\n{'length':>6}{'seed':>6}{'starts':>8}{'epochs':>8}{'minutes':>9}{'unseen right':>14}{'wrong':>7}")
    for of_run in rows:
        print(
            f"{of_run['length']:6}{of_run['seed']:6}{of_run['starts']:8}{of_run['epochs']:8}{of_run['minutes']:9.2f}"
            f"{of_run['test_right']:14.2%}{of_run['test_wrong']:7}"
        )
    print(f"\nresults in {arguments.out}")
    return int(any(of_run["test_wrong"] for of_run in rows))


def main(argv: list[str] | None = None) -> int:
    """Run the command; wrong options end it with status 2 and one line that says what was wrong."""
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except ValueError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: {PROGRAM} --resume --out {arguments.out}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
