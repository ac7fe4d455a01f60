"""The example: objects followed through video by matching mask proposals, from data to result.

The masks of a clip's first frame are given. Every later frame brings proposals: masks that do not say which object they show,
and some show none. A network learns features of masks; a matching layer says which proposal is which object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demos.devices import checked_device
from demos.files import check_output, write_atomically
from demos.progress import progress_bar
from demos.vos.checkpoint import NAMES
from demos.vos.config import Kind, Loss, ModelConfig, TrainConfig
from demos.vos.data import Clip
from demos.vos.evaluate import CEILING, calibrate, evaluate
from demos.vos.model import Features, Method
from demos.vos.options import Demo
from demos.vos.pictures import contact_sheet_png, side_by_side, write_video
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.report import SCORES_NAME, print_results, scores_csv
from demos.vos.samples import Sampler
from demos.vos.synthetic import SyntheticClip, SyntheticConfig, synthetic_clips
from demos.vos.train import Trainer, fit

SHEET_NAME, VIDEO_NAME = "contact-sheet.png", "overlay.mp4"


def demo(options: Demo) -> None:
    """Train on synthetic clips, track unseen ones, show what came out."""
    output, seed, device = options.output, options.schedule.seed, checked_device(options.device)
    paths: dict[Loss, Path] = {"pairs": output / NAMES["pairs"], "layer": output / NAMES["refined"]}
    for path in (output / SCORES_NAME, output / SHEET_NAME, output / VIDEO_NAME, *paths.values()):
        check_output(path, "--output", overwrite=options.overwrite)
    torch.set_num_threads(1)  # pictures this small gain nothing from more

    # Data: textured shapes that move, turn and hide each other, some with a look-alike. Proposals are made from the truth.
    shapes = SyntheticConfig(objects=options.objects, look_alikes=min(2, options.objects))
    training = synthetic_clips("train", options.train_clips, seed, shapes)
    tuning = synthetic_clips("tune", options.tuning_clips, seed, shapes)
    testing = synthetic_clips("test", options.test_clips, seed, shapes)
    source = NoisyProposals(seed=seed)
    print(
        f"{len(training)} clips to train on, {len(tuning)} to choose a threshold on, {len(testing)} to test on: "
        f"{shapes.frames} frames of {shapes.height} x {shapes.width}, {shapes.objects} objects, "
        f"{shapes.look_alikes + shapes.distractors} distractors.\nProposals are made from the truth, with noise.",
        flush=True,
    )

    # Model and loop: features that are trained in two ways, pair by pair, and through the matching layer.
    features: dict[str, Features] = {}
    for loss, path in paths.items():
        config = TrainConfig(**vars(options.schedule), loss=loss)
        model = ModelConfig(refine=loss == "layer")
        trainer = Trainer(Sampler(training, source, config), model, path, overwrite=True, device=device)
        features[loss] = fit(trainer, f"training, {loss}")

    # Matchings of these features. Each has a cost at which an object counts as hidden, chosen on clips of their own.
    compared: dict[str, tuple[Features, Kind]] = {
        "greedy": (features["pairs"], "greedy"),
        "Hungarian": (features["pairs"], "hungarian"),
        "DMM, per pair": (features["pairs"], "dmm"),
        "DMM, layer": (features["layer"], "dmm"),
    }
    with progress_bar(sum(map(len, tuning)), "choosing the unmatched cost", " frames") as bar:
        matchings = calibrate(tuning, source, compared, progress=bar.update)
    methods = {name: Method(of, matchings[name]) for name, (of, _) in compared.items()}
    methods["DMM, refined"] = methods["DMM, layer"]._replace(refined=True)

    # Result: J and F of every method on clips that were not seen, and the first of these clips to look at.
    tracked: dict[str, NDArray[np.uint8]] = {}

    def keep(clip: Clip, labels: dict[str, NDArray[np.uint8]]) -> None:
        if clip is testing[0]:
            tracked.update(labels)

    with progress_bar(sum(map(len, testing)), "tracking", " frames") as bar:
        results = evaluate(testing, source, methods, progress=bar.update, keep=keep)
    write_atomically(output / SCORES_NAME, scores_csv(results.scores))
    _show(testing[0], tracked, options)
    print_results(results)
    print(
        "\n'per pair', 'layer': how the features were trained; 'refined': those of the layer, with a refinement of the masks."
        f"\n'{CEILING}' looks at the truth: the most that choosing one proposal for each object and frame can do."
    )
    print(f"Pictures: {output / SHEET_NAME}, {output / VIDEO_NAME}; every object's scores: {output / SCORES_NAME}")


def _show(clip: SyntheticClip, tracked: dict[str, NDArray[np.uint8]], options: Demo) -> None:
    """A contact sheet and a video of a clip."""
    frames = [clip.frame(t) for t in range(len(clip))]
    rows: dict[str, Any] = {"truth": [clip.labels(t) for t in range(len(clip))], **tracked}
    times = [round(i * (len(clip) - 1) / 5) for i in range(6)]
    title = f"{clip.name}: the masks of frame 0 are given"
    write_atomically(options.output / SHEET_NAME, contact_sheet_png(frames, rows, times=times, title=title))
    write_video(options.output / VIDEO_NAME, side_by_side(frames, rows, columns=3))
