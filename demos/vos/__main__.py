"""The command line: ``python -m demos.vos``."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demos.command import guarded
from demos.devices import checked_device
from demos.vos.options import (
    CHECKPOINT_NAMES,
    EVERY_OBJECT_NAME,
    LOSSES,
    MATCHINGS,
    PROGRAM,
    SCORES_NAME,
    SHEET_NAME,
    TUNING_CLIPS,
    VIDEO_NAME,
    build_parser,
)

# torch and numba are imported after the options are read, so that --help answers at once.
if TYPE_CHECKING:
    from demos.vos.data import Clip
    from demos.vos.evaluate import Results, Scores
    from demos.vos.model import Features, Method
    from demos.vos.proposals import ProposalSource
    from demos.vos.train import Trainer

_NEEDED = (
    "PIL",
    "cv2",
    "imageio",
    "imageio_ffmpeg",
    "matplotlib",
    "safetensors",
    "skimage",
    "tabulate",
    "torchvision",
    "tqdm",
)
_FIRST_TUNING_SEED, _FIRST_TEST_SEED = 10**6, 2 * 10**6


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


# --- the demo -----------------------------------------------------------------------------------------------


def run_demo(arguments: argparse.Namespace) -> None:
    """Train on synthetic clips, track unseen ones, show what came out."""
    output: Path = arguments.output
    checkpoints = {"pairs": output / CHECKPOINT_NAMES["pairs"], "layer": output / CHECKPOINT_NAMES["refined"]}
    names = [SCORES_NAME, SHEET_NAME, VIDEO_NAME, *(path.name for path in checkpoints.values())]
    _check_output(output, names, overwrite=arguments.overwrite)
    for name in ("train_clips", "test_clips", "tuning_clips"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, wanted 1 or more")
    import torch

    from demos.files import write_atomically
    from demos.progress import progress_bar
    from demos.vos.evaluate import CEILING, calibrate, evaluate
    from demos.vos.model import Method, ModelConfig
    from demos.vos.pictures import contact_sheet_png, side_by_side, write_video
    from demos.vos.proposals import NoisyProposals
    from demos.vos.synthetic import SyntheticClip, SyntheticConfig
    from demos.vos.train import Sampler, TrainConfig, Trainer

    device = checked_device(arguments.device)
    torch.set_num_threads(1)  # pictures this small gain nothing from more
    options = {"batch_size": 8, **_given(arguments, [field.name for field in fields(TrainConfig)])}
    configs = {loss: TrainConfig(loss=loss, **options) for loss in LOSSES}
    seed = configs["layer"].seed
    look_alikes = min(2, arguments.objects)
    shapes = SyntheticConfig(objects=arguments.objects, look_alikes=look_alikes)
    first = 1000 * seed
    training = [SyntheticClip(first + i, shapes) for i in range(arguments.train_clips)]
    testing = [SyntheticClip(_FIRST_TEST_SEED + first + i, shapes) for i in range(arguments.test_clips)]
    tuning = [SyntheticClip(_FIRST_TUNING_SEED + first + i, shapes) for i in range(arguments.tuning_clips)]
    source = NoisyProposals(seed=seed)
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
        model = ModelConfig(refine=loss == "layer")
        sampler = Sampler(training, source, config)
        trainer = Trainer(sampler, model, checkpoints[loss], overwrite=True, device=device)
        features[loss] = _fit(trainer, f"training, {loss}")
    compared = {
        "greedy": (features["pairs"], "greedy"),
        "Hungarian": (features["pairs"], "hungarian"),
        "DMM, per pair": (features["pairs"], "dmm"),
        "DMM, layer": (features["layer"], "dmm"),
    }
    with progress_bar(sum(map(len, tuning)), "choosing the unmatched cost", " frames") as bar:
        matchings = calibrate(tuning, source, compared, progress=bar.update)
    methods = {name: Method(of, matchings[name]) for name, (of, _) in compared.items()}
    methods["DMM, refined"] = methods["DMM, layer"]._replace(refined=True)
    kept: dict[str, Any] = {}

    def keep(clip: Clip, labels: dict[str, Any]) -> None:
        if not kept:
            kept.update(labels)

    with progress_bar(sum(map(len, testing)), "tracking", " frames") as bar:
        results = evaluate(testing, source, methods, progress=bar.update, keep=keep)
    write_atomically(output / SCORES_NAME, _scores_csv(results.scores).encode())
    shown = testing[0]
    frames = [shown.frame(t) for t in range(len(shown))]
    rows = {"truth": [shown.labels(t) for t in range(len(shown))], **kept}
    times = [round(i * (len(shown) - 1) / 5) for i in range(6)]
    title = f"{shown.name}: the masks of frame 0 are given"
    write_atomically(output / SHEET_NAME, contact_sheet_png(frames, rows, times=times, title=title))
    write_video(output / VIDEO_NAME, side_by_side(frames, rows, columns=3))
    _print_results(results)
    print(
        "\n'per pair', 'layer': how the features were trained; 'refined': those of the layer, with a refinement of the masks."
        f"\n'{CEILING}' looks at the truth: the most that choosing one proposal for each object and frame can do."
    )
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
    from demos.distributed import joined

    with joined(arguments.device) as device:
        _train(arguments, device)


def _train(arguments: argparse.Namespace, device_name: str) -> None:
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
    if arguments.export is not None and arguments.export.exists() and not (arguments.resume or arguments.overwrite):
        raise ValueError(f"--export: {arguments.export} exists; pass --overwrite to replace it")
    import torch

    from demos.progress import progress_bar
    from demos.vos.evaluate import calibrate
    from demos.vos.model import ModelConfig
    from demos.vos.proposals import source_from
    from demos.vos.train import Sampler, TrainConfig, Trainer, export_features

    torch.set_num_threads(1 if arguments.backbone in (None, "small") else torch.get_num_threads())
    config = TrainConfig(**{"batch_size": 8, **_given(arguments, [field.name for field in fields(TrainConfig)])})
    model = ModelConfig(**_given(arguments, ["backbone", "refine"]))
    device = checked_device(device_name)
    clips, tuning = _training_clips(arguments, config.seed)
    source = source_from(arguments.proposals, seed=config.seed)
    sampler = Sampler(clips, source, config)
    name = "refined" if model.refine else config.loss
    path = arguments.output / CHECKPOINT_NAMES[name]
    trainer = Trainer(sampler, model, path, resume=arguments.resume, overwrite=arguments.overwrite, device=device)
    if trainer.rank:
        trainer.fit()
        return
    if trainer.epoch:
        print(f"resuming after epoch {trainer.epoch} of {config.epochs}")
    try:
        features = _fit(trainer, f"training, {name}")
        if tuning:
            with progress_bar(sum(map(len, tuning)), "choosing the unmatched costs", " frames") as bar:
                kinds = {kind: (features, kind) for kind in MATCHINGS}
                matchings = calibrate(tuning, source, kinds, progress=bar.update)
            trainer.keep_unmatched_costs({kind: one.config.unmatched_cost for kind, one in matchings.items()})
    except KeyboardInterrupt:
        print(f"\ninterrupted; --resume goes on after epoch {trainer.epoch}", file=sys.stderr)
        raise
    print(f"{len(clips)} clips; mean loss by epoch: {', '.join(f'{loss:.3f}' for loss in trainer.history)}")
    if tuning:
        costs = ", ".join(f"{kind} {cost}" for kind, cost in trainer.unmatched_costs.items())
        print(f"Unmatched costs, by J on {len(tuning)} other clips: {costs}")
    print(f"Features: {path}")
    if arguments.export is not None:
        export_features(path, arguments.export)
        print(f"Features alone: {arguments.export}")


def _training_clips(arguments: argparse.Namespace, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on, and others to choose unmatched costs on."""
    import numpy as np

    from demos.vos.synthetic import SyntheticClip

    clips: list[Clip]
    tuning: list[Clip]
    count = arguments.tuning_clips
    if count is not None and count < 0:
        raise ValueError(f"--tuning-clips: got {count}, wanted 0 or more")
    if arguments.data is None:
        count = TUNING_CLIPS if count is None else count
        clips = [SyntheticClip(1000 * seed + i) for i in range(arguments.train_clips)]
        tuning = [SyntheticClip(_FIRST_TUNING_SEED + 1000 * seed + i) for i in range(count)]
    else:
        clips = _read_clips(arguments)
        count = min(TUNING_CLIPS, len(clips) // 5) if count is None else count
        if count >= len(clips):
            raise ValueError(f"--tuning-clips: got {count} of {len(clips)} clips, which leaves none to train on")
        clips, tuning = clips[: len(clips) - count], clips[len(clips) - count :]
        # Tracking is measured in every frame; of the training itself three labelled frames are enough.
        tuning = [
            clip
            for clip in tuning
            if len(clip) > 2 and all(clip.labels(t) is not None for t in range(len(clip))) and 0 in clip.given
        ]
    if arguments.paste:
        rng = np.random.default_rng((20191101, seed))
        clips = clips + _pasted(clips, arguments.paste, rng)
        if tuning:
            tuning = _pasted(tuning, len(tuning), rng)
    return clips, tuning


def _pasted(clips: Sequence[Clip], count: int, rng: Any) -> list[Clip]:
    from demos.vos.pasted import paste_clips

    try:
        return [*paste_clips(clips, count, rng)]
    except ValueError as error:
        raise ValueError(f"--paste: {error}") from None


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
    import numpy as np

    from demos.files import write_atomically
    from demos.progress import progress_bar
    from demos.vos.evaluate import evaluate, with_unmatched_cost
    from demos.vos.finetune import finetuned
    from demos.vos.images import write_labels
    from demos.vos.model import Matching, Method
    from demos.vos.scores import segtrack_miou, youtube_vos_summary
    from demos.vos.tracking import track
    from demos.vos.train import load_features, load_unmatched_costs

    output: Path | None = arguments.output
    if arguments.finetune < 0:
        raise ValueError(f"--finetune: got {arguments.finetune}, wanted 0 or more steps")
    if arguments.labels_only and output is None:
        raise ValueError("--labels-only: got no --output, wanted a directory to write them to")
    if arguments.seen is not None and arguments.layout != "youtube-vos":
        raise ValueError(
            f"--seen: got the layout {arguments.layout}, wanted youtube-vos, whose measure knows seen categories"
        )
    if output is not None:
        _check_output(output, [SCORES_NAME, EVERY_OBJECT_NAME], overwrite=arguments.overwrite)
    clips = _read_clips(arguments)
    seen = None if arguments.seen is None else _seen(arguments.seen, clips)
    if arguments.paste is not None:
        clips = _pasted(clips, arguments.paste, np.random.default_rng(20191101))
    source = _source(arguments)
    device = checked_device(arguments.device)
    methods: dict[str, Method] = {}
    for text in arguments.features:
        name, equals, path = text.rpartition("=")
        checkpoint = _checkpoint(Path(path))
        features, costs = load_features(checkpoint, device=device), load_unmatched_costs(checkpoint)
        for matching in arguments.matchings:
            label = f"{matching}, {name}" if equals else matching
            if label in methods:
                raise ValueError(f"--features: got two of one name; wanted NAME=PATH with different names, got {text}")
            chosen = costs.get(matching, features.config.unmatched_cost)
            cost = chosen if arguments.unmatched_cost is None else arguments.unmatched_cost
            model = with_unmatched_cost(features.config, cost)
            methods[label] = Method(features, Matching(matching, model))
            if features.refinement is not None:
                methods[f"{label}, refined"] = Method(features, Matching(matching, model), True)

    def keep(clip: Clip, labels: dict[str, Any]) -> None:
        if output is not None:
            for method, result in labels.items():
                folder = output / method.replace(", ", "-").replace(" ", "-") / clip.name
                for name, frame in zip(clip.frame_names, result, strict=True):
                    write_labels(folder / f"{name}.png", frame, overwrite=arguments.overwrite)

    def adapt(methods: Mapping[str, Method], clip: Clip) -> Mapping[str, Method]:
        if not arguments.finetune:
            return methods
        return finetuned(methods, clip, steps=arguments.finetune, lr=arguments.finetune_lr)

    with progress_bar(sum(map(len, clips)), "tracking", " frames") as bar:
        if arguments.labels_only:
            for clip in clips:
                keep(clip, track(clip, source, adapt(methods, clip), progress=bar.update))
        else:
            rules = "davis" if arguments.layout.startswith("davis") else "youtube-vos"
            results = evaluate(clips, source, methods, rules=rules, progress=bar.update, keep=keep, adapt=adapt)
    if arguments.labels_only:
        print(f"Labels of {len(clips)} clips by {', '.join(methods)} are in {output}")
        return
    _print_results(results)
    for name, of_method in results.scores.items():
        if arguments.layout == "segtrack":
            by_object, by_frame = segtrack_miou(of_method)
            print(f"{name}: mIoU {by_object:.3f} over objects, {by_frame:.3f} over frames")
        if seen is not None:
            total = youtube_vos_summary(of_method, seen)
            print(
                f"{name}: G {total.G:.3f} (J seen {total.J_seen:.3f}, unseen {total.J_unseen:.3f}; "
                f"F seen {total.F_seen:.3f}, unseen {total.F_unseen:.3f})"
            )
    if output is not None:
        write_atomically(output / SCORES_NAME, _scores_csv(results.scores).encode())
        if results.every_object:
            write_atomically(output / EVERY_OBJECT_NAME, _scores_csv(results.every_object).encode())
        print(f"\nLabels and {SCORES_NAME} are in {output}")


def _seen(path: Path, clips: Sequence[Clip]) -> dict[tuple[str, int], bool]:
    """By clip and label, whether the object's category is in the training set that `path` describes."""
    from demos.vos.data import YouTubeVosClip, read_categories

    known = {category for of_clip in read_categories(path).values() for category in of_clip.values()}
    if not known:
        raise ValueError(f"--seen: {path} names no categories; wanted the meta.json of the training set")
    return {
        (clip.name, label): category in known
        for clip in clips
        if isinstance(clip, YouTubeVosClip)
        for label, category in clip.categories.items()
    }


def _source(arguments: argparse.Namespace) -> ProposalSource:
    from demos.vos.proposals import CachedProposals, MaskRCNNProposals, source_from

    source: ProposalSource
    if arguments.proposals == "maskrcnn":
        source = MaskRCNNProposals(
            arguments.weights, backbone=arguments.detector, top=arguments.top, device=checked_device(arguments.device)
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


def _check_output(output: Path, names: Sequence[str], *, overwrite: bool) -> None:
    from demos.files import check_folder

    check_folder(output, "--output")
    existing = [str(output / name) for name in names if (output / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"--output: {existing[0]} exists; pass --overwrite to replace it, or another directory")


def _print_results(results: Results) -> None:
    from tabulate import tabulate

    from demos.vos.evaluate import table

    titles = {"\nJ / F:\n": results.scores}
    if results.every_object:
        titles[
            "\nJ / F of every object, in the frames after its first (as YouTube-VOS counts; this is not DAVIS's measure):\n"
        ] = results.every_object
    for title, scores in titles.items():
        header, *rows = table(scores)
        print(title)
        print(tabulate(rows, header, disable_numparse=True, stralign="right"))
    for note in results.notes:
        print(note)


def _scores_csv(scores: Scores) -> str:
    from difflayers.metrics import sequence_statistics

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("mean", "recall", "decay")
    writer.writerow(["method", "clip", "object", *(f"{measure}_{name}" for measure in "JF" for name in names)])
    for method, of_method in scores.items():
        for clip, of_clip in of_method.items():
            for i, label in enumerate(of_clip.objects):
                values = [sequence_statistics(of_clip.of_object(measure)[i]) for measure in "JF"]
                writer.writerow([method, clip, label, *(round(getattr(v, n), 5) for v in values for n in names)])
    return buffer.getvalue()


def run_track(arguments: argparse.Namespace) -> None:
    """Follow objects through a video of one's own."""
    from demos.vos.track import track_video

    device = checked_device(arguments.device)
    track_video(arguments, _checkpoint(arguments.features), device)


_COMMANDS = {"demo": run_demo, "train": run_train, "eval": run_eval, "track": run_track}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; wrong options end it with status 2 and one line that says what was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["demo", *words]
    options = build_parser().parse_args(words)

    def act() -> None:
        if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            raise ValueError(f"{missing[0]} is not installed; wanted: pip install '.[demos]' in the project's folder")
        _COMMANDS[options.command](options)

    try:
        return guarded(PROGRAM, act)
    except RuntimeError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
