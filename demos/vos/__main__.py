"""The command line: ``python -m demos.vos``."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# torch and numba are imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    from demos.vos.data import Clip
    from demos.vos.evaluate import Results
    from demos.vos.model import Features
    from demos.vos.proposals import ProposalSource
    from demos.vos.train import Trainer

PROGRAM = "python -m demos.vos"
SCORES_NAME, SHEET_NAME, VIDEO_NAME = "scores.csv", "contact-sheet.png", "overlay.mp4"
CHECKPOINT_NAMES = {"pairs": "pairs.safetensors", "layer": "layer.safetensors"}
LAYOUTS = ("davis2016", "davis2017", "youtube-vos", "segtrack")
MATCHINGS = ("greedy", "hungarian", "dmm", "quadratic")
_NEEDED = ("PIL", "imageio", "imageio_ffmpeg", "matplotlib", "safetensors", "tabulate", "torchvision", "tqdm")
_FIRST_TUNING_SEED, _FIRST_TEST_SEED = 10**6, 2 * 10**6
_TUNING_CLIPS = 4

_DESCRIPTION = """\
Video object segmentation by matching mask proposals: DMM-Net's tracker.

Without a command this is the demo: it trains features on synthetic video from nothing, pair
by pair and through the matching layer, tracks the objects of unseen clips, and compares.
"""

_EPILOG = f"""\
examples:
  {PROGRAM}
  {PROGRAM} train --loss layer --output runs/vos-layer
  {PROGRAM} train --data DAVIS --layout davis2016 --split train --paste 30 --output runs/vos-davis
  {PROGRAM} eval DAVIS --layout davis2017 --proposals maskrcnn --cache runs/proposals --features runs/vos-davis
  {PROGRAM} eval DAVIS --layout davis2016 --proposals DAVIS/Proposals/480p --features pairs=A layer=B

`{PROGRAM} COMMAND --help` lists the options of a command.
"""


# --- options ------------------------------------------------------------------------------------------------


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Options that make a TrainConfig; what is not given stays None."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, help="a checkpoint after each (default: 4)")
    group.add_argument("--steps", type=int, help="an epoch (default: 40)")
    group.add_argument("--batch-size", type=int, help="samples a step (default: 8)")
    group.add_argument("--lr", type=float, help="highest learning rate, of a cosine schedule (default: 0.003)")
    group.add_argument("--seed", type=int, help="seeds all that is random (default: 0)")


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, default="davis2017", help="of the data (default: %(default)s)")
    parser.add_argument("--split", help="DAVIS: ImageSets/YEAR/SPLIT.txt (default: all clips there are)")
    parser.add_argument(
        "--resolution",
        default="480p",
        help="DAVIS: the folder below JPEGImages; none for no folder (default: %(default)s)",
    )
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="of these names alone (default: all)")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="the demo (the default)", description="Train on synthetic video and compare."
    )
    demo.add_argument(
        "--output", type=Path, default=Path("runs/vos"), metavar="DIR", help="what comes out (default: %(default)s)"
    )
    demo.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    demo.add_argument("--train-clips", type=int, default=32, metavar="N", help="to train on (default: %(default)s)")
    demo.add_argument("--test-clips", type=int, default=10, metavar="N", help="to test on (default: %(default)s)")
    demo.add_argument("--objects", type=int, default=3, metavar="N", help="in a clip (default: %(default)s)")
    _add_training(demo)
    demo.set_defaults(run=run_demo)

    train = commands.add_parser("train", help="train features", description="Train features, or resume a training.")
    train.add_argument("--data", type=Path, metavar="DIR", help="clips to train on (default: synthetic ones)")
    _add_layout(train)
    train.add_argument(
        "--proposals", default="noisy", metavar="DIR|noisy", help="(default: noisy, made from the truth)"
    )
    train.add_argument(
        "--paste", type=int, default=0, metavar="N", help="also N clips with objects of two others pasted onto them"
    )
    train.add_argument("--train-clips", type=int, default=32, metavar="N", help="synthetic ones (default: %(default)s)")
    train.add_argument("--loss", choices=("pairs", "layer"), help="pair by pair or through the layer (default: layer)")
    train.add_argument("--matching", choices=("dmm", "quadratic"), help="the layer (default: dmm)")
    train.add_argument(
        "--backbone", help="small, or a ResNet of torchvision's: resnet18 ... resnet152 (default: small)"
    )
    train.add_argument(
        "--output", type=Path, default=Path("runs/vos-train"), metavar="DIR", help="(default: %(default)s)"
    )
    train.add_argument("--resume", action="store_true", help="go on after the last whole epoch")
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    _add_training(train)
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser(
        "eval",
        help="track the objects of real clips and compare",
        description="Track the objects of clips, given where they first appear, and print J / F for each matching and each "
        "set of features, beside the best single proposal a frame for each object.",
    )
    evaluate.add_argument("data", type=Path, help="the root of the data")
    _add_layout(evaluate)
    evaluate.add_argument(
        "--proposals",
        required=True,
        metavar="DIR|noisy|maskrcnn",
        help="a folder of palette PNGs or COCO JSON; made from the truth; or found by torchvision's Mask R-CNN",
    )
    evaluate.add_argument(
        "--weights", default="COCO", help="Mask R-CNN: a file, or COCO to download (default: %(default)s)"
    )
    evaluate.add_argument("--detector", default="resnet50", help="Mask R-CNN: its backbone (default: %(default)s)")
    evaluate.add_argument("--top", type=int, default=50, help="proposals a frame, at most (default: %(default)s)")
    evaluate.add_argument("--cache", type=Path, metavar="DIR", help="keep the proposals there")
    evaluate.add_argument(
        "--features",
        nargs="+",
        required=True,
        metavar="[NAME=]PATH",
        help="checkpoints, or the directories of their runs",
    )
    evaluate.add_argument(
        "--matchings", nargs="+", choices=MATCHINGS, default=["greedy", "hungarian", "dmm"], metavar="NAME",
        help=f"of {', '.join(MATCHINGS)} (default: greedy hungarian dmm)",
    )  # fmt: skip
    evaluate.add_argument(
        "--unmatched-cost",
        type=float,
        metavar="C",
        help="of an object that is hidden, in [-1, 1] (default: the checkpoint's)",
    )
    evaluate.add_argument("--output", type=Path, metavar="DIR", help="also write the labels as palette PNGs, and a CSV")
    evaluate.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    evaluate.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    evaluate.set_defaults(run=run_eval)
    return parser


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


# --- the demo -----------------------------------------------------------------------------------------------


def run_demo(arguments: argparse.Namespace) -> None:
    """Train on synthetic clips, track unseen ones, show what came out."""
    output: Path = arguments.output
    names = [SCORES_NAME, SHEET_NAME, VIDEO_NAME, *CHECKPOINT_NAMES.values()]
    _check_output(output, names, overwrite=arguments.overwrite)
    for name in ("train_clips", "test_clips"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, wanted 1 or more")
    import torch

    from demos.files import write_atomically
    from demos.progress import progress_bar
    from demos.vos.evaluate import CEILING, calibrate, evaluate
    from demos.vos.model import ModelConfig
    from demos.vos.pictures import contact_sheet_png, side_by_side, write_video
    from demos.vos.proposals import NoisyProposals
    from demos.vos.synthetic import SyntheticClip, SyntheticConfig
    from demos.vos.train import Sampler, TrainConfig, Trainer

    torch.set_num_threads(1)  # pictures this small gain nothing from more
    options = {"batch_size": 8, **_given(arguments, [field.name for field in fields(TrainConfig)])}
    configs = {loss: TrainConfig(loss=loss, **options) for loss in CHECKPOINT_NAMES}
    seed = configs["layer"].seed
    look_alikes = min(2, arguments.objects)
    shapes = SyntheticConfig(objects=arguments.objects, look_alikes=look_alikes)
    first = 1000 * seed
    training = [SyntheticClip(first + i, shapes) for i in range(arguments.train_clips)]
    testing = [SyntheticClip(_FIRST_TEST_SEED + first + i, shapes) for i in range(arguments.test_clips)]
    tuning = [SyntheticClip(_FIRST_TUNING_SEED + first + i, shapes) for i in range(_TUNING_CLIPS)]
    source, model = NoisyProposals(seed=seed), ModelConfig()
    print(
        f"{len(training)} clips to train on, {len(tuning)} to choose a threshold on, {len(testing)} to test on: "
        f"{shapes.frames} frames of "
        f"{shapes.height} x {shapes.width}, {shapes.objects} objects, {shapes.look_alikes + shapes.distractors} distractors.\n"
        "Proposals are made from the truth, with noise.",
        flush=True,
    )
    output.mkdir(parents=True, exist_ok=True)
    features = {}
    for loss, config in configs.items():
        path = output / CHECKPOINT_NAMES[loss]
        features[loss] = _fit(
            Trainer(Sampler(training, source, config), model, path, overwrite=True), f"training, {loss}"
        )
    compared = {
        "greedy": (features["pairs"], "greedy"),
        "Hungarian": (features["pairs"], "hungarian"),
        "DMM, per pair": (features["pairs"], "dmm"),
        "DMM, layer": (features["layer"], "dmm"),
    }
    with progress_bar(sum(map(len, tuning)), "choosing the unmatched cost", " frames") as bar:
        methods = calibrate(tuning, source, compared, progress=bar.update)
    kept: dict[str, Any] = {}

    def keep(clip: Clip, labels: dict[str, Any]) -> None:
        if not kept:
            kept.update(labels)

    with progress_bar(2 * sum(map(len, testing)), "tracking", " frames") as bar:
        results = evaluate(testing, source, methods, progress=bar.update, keep=keep)
    write_atomically(output / SCORES_NAME, _scores_csv(results).encode())
    shown = testing[0]
    frames = [shown.frame(t) for t in range(len(shown))]
    rows = {"truth": [shown.labels(t) for t in range(len(shown))], **kept}
    times = [round(i * (len(shown) - 1) / 5) for i in range(6)]
    title = f"{shown.name}: the masks of frame 0 are given"
    write_atomically(output / SHEET_NAME, contact_sheet_png(frames, rows, times=times, title=title))
    write_video(output / VIDEO_NAME, side_by_side(frames, rows, columns=3))
    _print_table(results)
    print(f"\n'{CEILING}' looks at the truth: the best that choosing one proposal for each object and frame can do.")
    print(f"Pictures: {output / SHEET_NAME}, {output / VIDEO_NAME}; every object's scores: {output / SCORES_NAME}")


def _fit(trainer: Trainer, description: str) -> Features:
    from demos.progress import progress_bar

    total = trainer.config.epochs * trainer.config.steps
    with progress_bar(total, description, " steps") as bar:
        bar.update(trainer.epoch * trainer.config.steps)

        def progress(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        return trainer.fit(progress)


# --- training -----------------------------------------------------------------------------------------------


def run_train(arguments: argparse.Namespace) -> None:
    """Train features, or resume."""
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
    import torch

    from demos.vos.model import ModelConfig
    from demos.vos.proposals import source_from
    from demos.vos.train import Sampler, TrainConfig, Trainer

    torch.set_num_threads(1 if arguments.backbone in (None, "small") else torch.get_num_threads())
    config = TrainConfig(**{"batch_size": 8, **_given(arguments, [field.name for field in fields(TrainConfig)])})
    model = ModelConfig(**_given(arguments, ["backbone"]))
    device = _device(arguments.device)
    clips = _training_clips(arguments, config.seed)
    sampler = Sampler(clips, source_from(arguments.proposals, seed=config.seed), config)
    path = arguments.output / CHECKPOINT_NAMES[config.loss]
    trainer = Trainer(sampler, model, path, resume=arguments.resume, overwrite=arguments.overwrite, device=device)
    if trainer.epoch:
        print(f"resuming after epoch {trainer.epoch} of {config.epochs}")
    try:
        _fit(trainer, f"training, {config.loss}")
    except KeyboardInterrupt:
        print(f"\ninterrupted; --resume goes on after epoch {trainer.epoch}", file=sys.stderr)
        raise
    print(f"{len(clips)} clips; mean loss by epoch: {', '.join(f'{loss:.3f}' for loss in trainer.history)}")
    print(f"Features: {path}")


def _training_clips(arguments: argparse.Namespace, seed: int) -> list[Clip]:
    import numpy as np

    from demos.vos.pasted import PastedClip
    from demos.vos.synthetic import SyntheticClip

    clips: list[Clip]
    if arguments.data is None:
        clips = [SyntheticClip(1000 * seed + i) for i in range(arguments.train_clips)]
    else:
        clips = _read_clips(arguments)
    rng = np.random.default_rng((20191101, seed))
    pasted: list[Clip] = []
    if arguments.paste and len(clips) < 3:
        raise ValueError(f"--paste: got {len(clips)} clips, wanted 3 or more to paste from")
    for _ in range(arguments.paste):
        base, *others = (clips[i] for i in rng.choice(len(clips), 3, replace=False))
        if all(clip.size == base.size for clip in others):
            limits = np.array(base.size) // 5
            shifts = [rng.integers(-limits, limits + 1) for _ in others]
            pasted.append(
                PastedClip(base, [(clip, (int(y), int(x))) for clip, (y, x) in zip(others, shifts, strict=True)])
            )
    return clips + pasted


def _read_clips(arguments: argparse.Namespace) -> list[Clip]:
    from demos.vos.data import read_davis, read_segtrack, read_youtube_vos

    layout = arguments.layout
    clips: Sequence[Clip]
    if layout in ("davis2016", "davis2017"):
        resolution = None if arguments.resolution == "none" else arguments.resolution
        clips = read_davis(arguments.data, year=int(layout[-4:]), split=arguments.split, resolution=resolution)
    elif layout == "youtube-vos":
        clips = read_youtube_vos(arguments.data)
    else:
        clips = read_segtrack(arguments.data)
    if arguments.clips is None:
        return list(clips)
    if unknown := set(arguments.clips) - {clip.name for clip in clips}:
        raise ValueError(f"--clips: got {sorted(unknown)[0]}, which {arguments.data} does not have")
    return [clip for clip in clips if clip.name in arguments.clips]


# --- evaluation ---------------------------------------------------------------------------------------------


def run_eval(arguments: argparse.Namespace) -> None:
    """Evaluate on clips in files."""
    from demos.progress import progress_bar
    from demos.vos.evaluate import evaluate
    from demos.vos.metrics import segtrack_miou
    from demos.vos.model import Matching
    from demos.vos.train import load_features

    output: Path | None = arguments.output
    if output is not None:
        _check_output(output, [SCORES_NAME], overwrite=arguments.overwrite)
    clips = _read_clips(arguments)
    source = _source(arguments)
    device = _device(arguments.device)
    methods = {}
    for text in arguments.features:
        name, equals, path = text.rpartition("=")
        features = load_features(_checkpoint(Path(path)), device=device)
        config = features.config
        if (cost := arguments.unmatched_cost) is not None:
            config = replace(config, unmatched_cost=cost, confident_cost=max(-1.0, cost - 0.1))
        for matching in arguments.matchings:
            label = f"{matching}, {name}" if equals else matching
            if label in methods:
                raise ValueError(f"--features: got two of one name; wanted NAME=PATH with different names, got {text}")
            methods[label] = (features, Matching(matching, config))

    def keep(clip: Clip, labels: dict[str, Any]) -> None:
        from demos.vos.images import write_labels

        if output is not None:
            for method, result in labels.items():
                folder = output / method.replace(", ", "-").replace(" ", "-") / clip.name
                for name, frame in zip(clip.frame_names, result, strict=True):
                    write_labels(folder / f"{name}.png", frame, overwrite=arguments.overwrite)

    rules = "youtube-vos" if arguments.layout == "youtube-vos" else "davis"
    with progress_bar(2 * sum(map(len, clips)), "tracking", " frames") as bar:
        results = evaluate(clips, source, methods, rules=rules, progress=bar.update, keep=keep)
    _print_table(results)
    if arguments.layout == "segtrack":
        for name, of_method in results.scores.items():
            by_object, by_frame = segtrack_miou(of_method)
            print(f"{name}: mIoU {by_object:.3f} over objects, {by_frame:.3f} over frames")
    if output is not None:
        from demos.files import write_atomically

        write_atomically(output / SCORES_NAME, _scores_csv(results).encode())
        print(f"\nLabels and {SCORES_NAME} are in {output}")


def _source(arguments: argparse.Namespace) -> ProposalSource:
    from demos.vos.proposals import CachedProposals, MaskRCNNProposals, source_from

    source: ProposalSource
    if arguments.proposals == "maskrcnn":
        source = MaskRCNNProposals(
            arguments.weights, backbone=arguments.detector, top=arguments.top, device=_device(arguments.device)
        )
    else:
        source = source_from(arguments.proposals, top=arguments.top)
    return source if arguments.cache is None else CachedProposals(source, arguments.cache)


def _checkpoint(path: Path) -> Path:
    """A file, or the only checkpoint of a run's directory."""
    if not path.is_dir():
        return path
    found = [path / name for name in CHECKPOINT_NAMES.values() if (path / name).is_file()]
    if len(found) != 1:
        raise ValueError(f"--features: {path} has {len(found)} checkpoints, wanted one; name the file")
    return found[0]


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _check_output(output: Path, names: Sequence[str], *, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file, wanted a directory")
    existing = [str(output / name) for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"--output: {existing[0]} exists; pass --overwrite to replace it, or another directory")


def _print_table(results: Results) -> None:
    from tabulate import tabulate

    header, *rows = results.table()
    print("\nJ / F:\n")
    print(tabulate(rows, header, disable_numparse=True, stralign="right"))


def _scores_csv(results: Results) -> str:
    from demos.vos.metrics import statistics

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("mean", "recall", "decay")
    writer.writerow(["method", "clip", "object", *(f"{measure}_{name}" for measure in "JF" for name in names)])
    for method, of_method in results.scores.items():
        for clip, scores in of_method.items():
            for i, label in enumerate(scores.objects):
                values = [statistics(scores.of_object(measure)[i]) for measure in "JF"]
                writer.writerow([method, clip, label, *(round(getattr(v, n), 5) for v in values for n in names)])
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; wrong options end it with status 2 and one line that says what was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["demo", *words]
    options = build_parser().parse_args(words)
    try:
        if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            raise ValueError(f"{missing[0]} is not installed; wanted: pip install 'difflayers[demos]'")
        options.run(options)
    except ValueError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
