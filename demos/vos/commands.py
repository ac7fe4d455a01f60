"""The commands ``train`` and ``eval``: features from clips, and what they are worth on others."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demos.command import naming
from demos.devices import checked_device
from demos.distributed import joined
from demos.files import check_folder, check_output, write_atomically
from demos.progress import progress_bar
from demos.vos.checkpoint import NAMES, export_features, load_trained
from demos.vos.config import KINDS, SHIPPED
from demos.vos.data import Clip, YouTubeVosClip, read_categories, read_davis, read_segtrack, read_youtube_vos
from demos.vos.evaluate import calibrate, evaluate
from demos.vos.finetune import finetuned
from demos.vos.images import write_labels
from demos.vos.model import Method
from demos.vos.options import TUNING_CLIPS, Evaluate, Layout, Train
from demos.vos.pasted import paste_clips
from demos.vos.proposals import ProposalSource
from demos.vos.proposals.files import CachedProposals
from demos.vos.proposals.maskrcnn import MaskRCNNProposals
from demos.vos.proposals.network import load_mask_network
from demos.vos.proposals.sources import source_from
from demos.vos.report import EVERY_OBJECT_NAME, SCORES_NAME, print_results, scores_csv
from demos.vos.samples import Sampler
from demos.vos.scores import segtrack_miou, youtube_vos_summary
from demos.vos.synthetic import synthetic_clips
from demos.vos.tracking import track
from demos.vos.train import Trainer, fit


def train_features(options: Train) -> None:
    """Train features, or resume; with torchrun in several processes."""
    with joined(options.device) as device:
        _train(options, device)


def _train(options: Train, device_name: str) -> None:
    check_folder(options.output, "--output")
    if options.export is not None:
        check_output(options.export, "--export", overwrite=options.resume or options.overwrite)
    device = checked_device(device_name)
    if options.model.backbone == "small":
        torch.set_num_threads(1)
    clips, tuning = _training_clips(options)
    source = source_from(options.proposals, seed=options.training.seed)
    name = "refined" if options.model.refine else options.training.loss
    path = options.output / NAMES[name]
    if options.export is not None and options.export.resolve() == path.resolve():
        raise ValueError(f"--export: {path} is the checkpoint of the training, wanted another file")
    trainer = Trainer(
        Sampler(clips, source, options.training),
        options.model,
        path,
        resume=options.resume,
        overwrite=options.overwrite,
        device=device,
    )
    if trainer.rank:
        trainer.fit()
        return
    if trainer.epoch:
        print(f"resuming after epoch {trainer.epoch} of {trainer.config.epochs}")
    try:
        features = fit(trainer, f"training, {name}")
        if tuning:
            with progress_bar(sum(map(len, tuning)), "choosing the unmatched costs", " frames") as bar:
                matchings = calibrate(tuning, source, {kind: (features, kind) for kind in KINDS}, progress=bar.update)
            trainer.keep_unmatched_costs({kind: one.config.unmatched_cost for kind, one in matchings.items()})
    except KeyboardInterrupt:
        print(f"\n--resume goes on after epoch {trainer.epoch}", file=sys.stderr)
        raise
    print(f"{len(clips)} clips; mean loss by epoch: {', '.join(f'{loss:.3f}' for loss in trainer.history)}")
    if tuning:
        costs = ", ".join(f"{kind} {cost}" for kind, cost in trainer.unmatched_costs.items())
        print(f"Unmatched costs, by J on {len(tuning)} other clips: {costs}")
    print(f"Features: {path}")
    if options.export is not None:
        export_features(path, options.export)
        print(f"Features alone: {options.export}")


def _training_clips(options: Train) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on, and others to choose unmatched costs on."""
    clips: list[Clip]
    tuning: list[Clip]
    count, seed = options.tuning_clips, options.training.seed
    if options.data is None:
        clips = [*synthetic_clips("train", options.train_clips, seed)]
        tuning = [*synthetic_clips("tune", TUNING_CLIPS if count is None else count, seed)]
    else:
        clips = read_clips(options.data, options.layout, "--data")
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
    if options.paste:
        rng = np.random.default_rng((20191101, seed))
        clips = clips + _pasted(clips, options.paste, rng)
        if tuning:
            tuning = _pasted(tuning, len(tuning), rng)
    return clips, tuning


def _pasted(clips: Sequence[Clip], count: int, rng: np.random.Generator) -> list[Clip]:
    with naming("--paste"):
        return [*paste_clips(clips, count, rng)]


def read_clips(data: Path, layout: Layout, option: str) -> list[Clip]:
    """Read the clips in a folder; errors name the option that the folder came by."""
    clips: Sequence[Clip]
    with naming(option):
        if layout.layout in ("davis2016", "davis2017"):
            resolution = None if layout.resolution == "none" else layout.resolution
            clips = read_davis(data, year=int(layout.layout[-4:]), split=layout.split, resolution=resolution)
        elif layout.layout == "youtube-vos":
            clips = read_youtube_vos(data)
        else:
            clips = read_segtrack(data)
    if unknown := set(layout.clips) - {clip.name for clip in clips}:
        raise ValueError(f"--clips: got {sorted(unknown)[0]}, which {data} does not have")
    return [clip for clip in clips if not layout.clips or clip.name in layout.clips]


# --- evaluation ---------------------------------------------------------------------------------------------


def evaluate_clips(options: Evaluate) -> None:
    """Track the objects of clips in files by every method, and compare."""
    output = options.output
    if output is not None:
        for name in (SCORES_NAME, EVERY_OBJECT_NAME):
            check_output(output / name, "--output", overwrite=options.overwrite)
    device = checked_device(options.device)
    clips = read_clips(options.data, options.layout, "DATA")
    seen = None if options.seen is None else _seen(options.seen, clips)
    if options.paste is not None:
        clips = _pasted(clips, options.paste, np.random.default_rng(20191101))
    source = _source(options, device)
    methods = _methods(options, device)
    if output is not None and not options.overwrite:
        for folder in (output / _folder_name(name) for name in methods):
            if folder.exists():
                raise ValueError(f"--output: {folder} exists; pass --overwrite to replace it, or another folder")

    def keep(clip: Clip, labels: dict[str, Any]) -> None:
        if output is not None:
            for method, result in labels.items():
                folder = output / _folder_name(method) / clip.name
                for name, frame in zip(clip.frame_names, result, strict=True):
                    write_labels(folder / f"{name}.png", frame, overwrite=options.overwrite)

    def adapt(methods: Mapping[str, Method], clip: Clip) -> Mapping[str, Method]:
        if not options.finetune:
            return methods
        return finetuned(methods, clip, steps=options.finetune, lr=options.finetune_lr)

    with progress_bar(sum(map(len, clips)), "tracking", " frames") as bar:
        if options.labels_only:
            for clip in clips:
                keep(clip, track(clip, source, adapt(methods, clip), progress=bar.update))
        else:
            rules = "davis" if options.layout.layout.startswith("davis") else "youtube-vos"
            results = evaluate(clips, source, methods, rules=rules, progress=bar.update, keep=keep, adapt=adapt)
    if options.labels_only:
        print(f"Labels of {len(clips)} clips by {', '.join(methods)} are in {output}")
        return
    print_results(results)
    for name, of_method in results.scores.items():
        if options.layout.layout == "segtrack":
            by_object, by_frame = segtrack_miou(of_method)
            print(f"{name}: mIoU {by_object:.3f} over objects, {by_frame:.3f} over frames")
        if seen is not None:
            total = youtube_vos_summary(of_method, seen)
            print(
                f"{name}: G {total.G:.3f} (J seen {total.J_seen:.3f}, unseen {total.J_unseen:.3f}; "
                f"F seen {total.F_seen:.3f}, unseen {total.F_unseen:.3f})"
            )
    if output is not None:
        write_atomically(output / SCORES_NAME, scores_csv(results.scores))
        if results.every_object:
            write_atomically(output / EVERY_OBJECT_NAME, scores_csv(results.every_object))
        print(f"\nLabels and {SCORES_NAME} are in {output}")


def _folder_name(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def _methods(options: Evaluate, device: torch.device) -> dict[str, Method]:
    """Every matching with every set of features, refined and not if these have a refinement."""
    methods: dict[str, Method] = {}
    for text in options.features or (str(SHIPPED),):
        name, equals, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
        if equals and (not name or "/" in name):
            raise ValueError(f"--features: got {text}, wanted NAME=PATH with a name that a folder can have")
        trained = load_trained(Path(path), device=device)
        for kind in options.matchings:
            label = f"{kind}, {name}" if equals else kind
            if label in methods:
                raise ValueError(f"--features: got two of one name; wanted NAME=PATH with different names, got {text}")
            methods[label] = Method(trained.features, trained.matching(kind, options.unmatched_cost))
            if trained.features.refinement is not None:
                methods[f"{label}, refined"] = methods[label]._replace(refined=True)
    return methods


def _seen(path: Path, clips: Sequence[Clip]) -> dict[tuple[str, int], bool]:
    """By clip and label, whether the object's category is in the training set that `path` describes."""
    with naming("--seen"):
        categories = read_categories(path)
    known = {category for of_clip in categories.values() for category in of_clip.values()}
    if not known:
        raise ValueError(f"--seen: {path} names no categories; wanted the meta.json of the training set")
    return {
        (clip.name, label): category in known
        for clip in clips
        if isinstance(clip, YouTubeVosClip)
        for label, category in clip.categories.items()
    }


def _source(options: Evaluate, device: torch.device) -> ProposalSource:
    source: ProposalSource
    if options.proposals == "maskrcnn":
        detector = options.detector
        source = MaskRCNNProposals(detector.weights, backbone=detector.detector, top=options.top, device=device)
    else:
        network = None if options.mask_network is None else load_mask_network(options.mask_network)
        source = source_from(options.proposals, top=options.top, network=network)
    if options.cache is None:
        return source
    if not options.cache.is_dir():  # one that is full may be read only
        check_folder(options.cache, "--cache")
    return CachedProposals(source, options.cache)
