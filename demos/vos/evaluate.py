"""Methods compared on clips: J and F of each, beside the best that choosing proposals can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from demos.vos.data import Clip
from demos.vos.metrics import DavisSummary, SequenceScores, davis_scores, davis_summary, youtube_vos_scores
from demos.vos.model import Features, Matching, Method, ModelConfig
from demos.vos.proposals import ProposalSource
from demos.vos.tracking import track

CEILING = "best proposal"

UNMATCHED_COSTS = (-0.55, -0.4, -0.25, -0.1)
"""What `calibrate` tries."""


@dataclass(frozen=True)
class Results:
    """What came out, by method (the ceiling included) and clip."""

    scores: dict[str, dict[str, SequenceScores]]

    def summary(self, method: str) -> DavisSummary:
        """Over the objects of all clips."""
        return davis_summary(self.scores[method])

    def table(self) -> list[list[str]]:
        """A header; a row for each clip, J / F of each method; the mean over all objects; the spread over clips of J."""
        methods = list(self.scores)
        rows = [["clip", "objects", *methods]]
        for clip, of_clip in self.scores[methods[0]].items():
            cells = [davis_summary([self.scores[method][clip]]) for method in methods]
            rows.append([clip, str(len(of_clip.objects)), *(f"{c.J.mean:.3f} / {c.F.mean:.3f}" for c in cells)])
        total = [self.summary(method) for method in methods]
        rows.append(["mean", str(total[0].objects), *(f"{c.J.mean:.3f} / {c.F.mean:.3f}" for c in total)])
        return rows


def evaluate(
    clips: Sequence[Clip],
    source: ProposalSource,
    methods: Mapping[str, Method],
    *,
    rules: str = "davis",
    progress: Callable[[], None] = lambda: None,
    keep: Callable[[Clip, dict[str, NDArray[np.uint8]]], None] = lambda clip, labels: None,
    adapt: Callable[[Mapping[str, Method], Clip], Mapping[str, Method]] = lambda methods, clip: methods,
) -> Results:
    """Track every clip by every method and compare with the truth.

    Args:
        clips: with labels in all frames that count.
        source: of proposals.
        methods: by name.
        rules: which frames count. "davis": all but the first and the last; "youtube-vos": the labelled ones after an
            object's first.
        progress: called after every frame.
        keep: called with each clip and its labels by method, the ceiling included.
        adapt: called with the methods before each clip, for those that track it: `demos.vos.finetune.finetuned`, say.

    Raises:
        ValueError: other rules; with "davis", frames without labels, or fewer than three.
    """
    if rules not in ("davis", "youtube-vos"):
        raise ValueError(f"rules must be davis or youtube-vos; got {rules}")
    scores: dict[str, dict[str, SequenceScores]] = {name: {} for name in (*methods, CEILING)}
    for clip in clips:
        found = [clip.labels(t) for t in range(len(clip))]
        annotated = [labels is not None for labels in found]
        if rules == "davis" and not all(annotated):
            lacking = clip.frame_names[annotated.index(False)]
            raise ValueError(f"{clip.name}: frame {lacking} has no labels; DAVIS counts every frame")
        if rules == "davis" and len(clip) < 3:
            raise ValueError(
                f"{clip.name}: got {len(clip)} frames, wanted 3 or more: the first and the last do not count"
            )
        truth = np.stack([np.zeros(clip.size, dtype=np.uint8) if labels is None else labels for labels in found])
        labels = track(clip, source, adapt(methods, clip), ceiling=CEILING, progress=progress)
        for name, result in labels.items():
            if rules == "davis":
                scores[name][clip.name] = davis_scores(truth, result, objects=clip.objects)
            else:
                scores[name][clip.name] = youtube_vos_scores(truth, result, annotated=annotated)
        keep(clip, labels)
    return Results(scores)


def with_unmatched_cost(config: ModelConfig, cost: float) -> ModelConfig:
    """The model with another unmatched cost; the confident cost goes along, 0.1 below."""
    return replace(config, unmatched_cost=cost, confident_cost=max(-1.0, cost - 0.1))


def calibrate(
    clips: Sequence[Clip],
    source: ProposalSource,
    kinds: Mapping[str, tuple[Features, str]],
    *,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Matching]:
    """For features and a kind of matching the unmatched cost, of `UNMATCHED_COSTS`, with the highest mean J on clips that are
    not tested on. The masks are not refined for it.

    How far apart costs are depends on how the features were trained, and a threshold that suits one set of features loses
    the objects of another.

    Args:
        clips: with labels in all frames.
        source: of proposals.
        kinds: by name, features and the kind of matching.
        progress: called after every frame.

    Returns:
        By name.
    """
    tried = {
        (name, cost): Method(features, Matching(kind, with_unmatched_cost(features.config, cost)))
        for name, (features, kind) in kinds.items()
        for cost in UNMATCHED_COSTS
    }
    names = {f"{name} {cost}": key for key in tried for name, cost in [key]}
    found: dict[str, list[SequenceScores]] = {name: [] for name in names}
    for clip in clips:
        labels = track(clip, source, {name: tried[key] for name, key in names.items()}, progress=progress)
        truth = np.stack([one for t in range(len(clip)) if (one := clip.labels(t)) is not None])
        for name, result in labels.items():
            found[name].append(davis_scores(truth, result, objects=clip.objects))
    best = {}
    for kind in kinds:
        own = [name for name, (of, _) in names.items() if of == kind]
        best[kind] = tried[names[max(own, key=lambda name: davis_summary(found[name]).J.mean)]].matching
    return best
