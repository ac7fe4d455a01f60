"""Methods compared on clips: J and F of each, beside the best that choosing proposals can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demos.vos.ceiling import best_choice
from demos.vos.config import Kind
from demos.vos.data import Clip
from demos.vos.images import VOID
from demos.vos.model import Features, Matching, Method
from demos.vos.proposals import Proposals, ProposalSource
from demos.vos.scores import (
    DavisSummary,
    SequenceScores,
    davis_scores,
    davis_summary,
    late_objects,
    without_later_frame,
    youtube_vos_scores,
)
from demos.vos.tracking import track

CEILING = "best proposal"

UNMATCHED_COSTS = (-0.55, -0.4, -0.25, -0.1)
"""What `calibrate` tries."""


Scores = dict[str, dict[str, SequenceScores]]
"""By method (the ceiling included) and clip."""


@dataclass(frozen=True)
class Results:
    """What came out."""

    scores: Scores
    """By the rules that were asked for."""
    every_object: Scores = field(default_factory=dict)
    """With the rules of DAVIS, if some objects are not in their clip's first frame: all objects, by those of YouTube-VOS."""
    notes: tuple[str, ...] = ()
    """What was left out, and why: a line each."""

    def summary(self, method: str) -> DavisSummary:
        """Over the objects of all clips."""
        return davis_summary(self.scores[method])


class _Ceiling:
    """The best choice of proposals in every frame of a clip in which its objects are not given."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.labels = np.zeros((len(clip), *clip.size), dtype=np.uint8)
        self.unproven = 0

    def __call__(self, t: int, proposals: Proposals) -> None:
        truth = self.clip.labels(t)
        if truth is None:
            return
        given = self.clip.given.get(t, ())
        choice = best_choice(truth, proposals.masks, [one for one in self.clip.objects if one not in given])
        inside = np.isin(truth, given)
        self.labels[t] = np.where(inside, truth, choice.labels)
        self.unproven += not choice.exact


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
        rules: what counts. "davis": the objects of a clip's first frame, in all frames but the first and the last;
            "youtube-vos": every object, in the labelled frames after its first.
        progress: called after every frame.
        keep: called with each clip and its labels by method, the ceiling included.
        adapt: called with the methods before each clip, for those that track it: `demos.vos.finetune.finetuned`, say.

    Returns:
        `Results`. Objects and clips of which nothing can be said are left out, and named in its notes.

    Raises:
        ValueError: other rules; with "davis", frames without labels, or fewer than three; no object that counts in any clip.
    """
    if rules not in ("davis", "youtube-vos"):
        raise ValueError(f"rules must be davis or youtube-vos; got {rules}")
    names = (*methods, CEILING)
    scores: Scores = {name: {} for name in names}
    every: Scores = {name: {} for name in names}
    any_late, notes = False, []
    for clip in clips:
        truth, annotated = _truth(clip, rules)
        if not ((truth > 0) & (truth != VOID)).any():
            notes.append(f"{clip.name}: not tracked, as no frame has an object")
            for _ in range(len(clip)):
                progress()
            continue
        last_only, late = without_later_frame(truth, annotated), late_objects(truth)
        counted = [label for label in clip.objects if label not in last_only]
        of_first = [label for label in clip.objects if label not in late]
        if last_only:
            notes.append(
                f"{clip.name}: left out {_objects(last_only)}, in the last labelled frame only, of which nothing can be said"
            )
        if rules == "davis" and late:
            any_late = True
            notes.append(f"{clip.name}: DAVIS counts the objects of the first frame only, which lacks {_objects(late)}")
        if not counted:
            notes.append(f"{clip.name}: not tracked, as no object of it counts")
            for _ in range(len(clip)):
                progress()
            continue
        ceiling = _Ceiling(clip)
        labels = track(clip, source, adapt(methods, clip), watch=ceiling, progress=progress)
        labels[CEILING] = ceiling.labels
        if ceiling.unproven:
            notes.append(
                f"{clip.name}: {CEILING} is only the best choice found, not proven to be the best, in {ceiling.unproven} frames"
            )
        for name, result in labels.items():
            of_every = youtube_vos_scores(truth, result, objects=counted, annotated=annotated)
            if rules == "youtube-vos":
                scores[name][clip.name] = of_every
            else:
                every[name][clip.name] = of_every
                if of_first:
                    scores[name][clip.name] = davis_scores(truth, result)
        keep(clip, labels)
    if not scores[CEILING]:
        raise ValueError("clips: no object counts: " + ("; ".join(notes) or "there are no clips"))
    return Results(scores, every if any_late else {}, tuple(notes))


def _objects(labels: Sequence[int]) -> str:
    return f"object{'s' * (len(labels) > 1)} {', '.join(map(str, labels))}"


def _truth(clip: Clip, rules: str) -> tuple[NDArray[np.uint8], list[bool]]:
    """The labels of all frames, background where there are none, and which frames have some."""
    found = [clip.labels(t) for t in range(len(clip))]
    annotated = [labels is not None for labels in found]
    if rules == "davis" and not all(annotated):
        lacking = clip.frame_names[annotated.index(False)]
        raise ValueError(f"{clip.name}: frame {lacking} has no labels; DAVIS counts every frame")
    if rules == "davis" and len(clip) < 3:
        raise ValueError(f"{clip.name}: got {len(clip)} frames, wanted 3 or more: the first and the last do not count")
    return np.stack([np.zeros(clip.size, dtype=np.uint8) if labels is None else labels for labels in found]), annotated


def calibrate(
    clips: Sequence[Clip],
    source: ProposalSource,
    kinds: Mapping[str, tuple[Features, Kind]],
    *,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Matching]:
    """For features and a kind of matching the unmatched cost, of `UNMATCHED_COSTS`, with the highest mean J on clips that are
    not tested on. The masks are not refined for it.

    How far apart costs are depends on how the features were trained, and a threshold that suits one set of features loses
    the objects of another.

    Args:
        clips: with labels in all frames, and an object in the first.
        source: of proposals.
        kinds: by name, features and the kind of matching.
        progress: called after every frame.

    Returns:
        By name.
    """
    tried = {
        (name, cost): Method(features, Matching(kind, features.config.with_unmatched_cost(cost)))
        for name, (features, kind) in kinds.items()
        for cost in UNMATCHED_COSTS
    }
    names = {f"{name} {cost}": key for key in tried for name, cost in [key]}
    found: dict[str, list[SequenceScores]] = {name: [] for name in names}
    for clip in clips:
        labels = track(clip, source, {name: tried[key] for name, key in names.items()}, progress=progress)
        truth = np.stack([one for t in range(len(clip)) if (one := clip.labels(t)) is not None])
        for name, result in labels.items():
            found[name].append(davis_scores(truth, result))
    best = {}
    for kind in kinds:
        own = [name for name, (of, _) in names.items() if of == kind]
        best[kind] = tried[names[max(own, key=lambda name: davis_summary(found[name]).J.mean)]].matching
    return best
