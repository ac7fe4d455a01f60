"""Tracking: from given masks and the proposals of every frame to labels, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.vos.data import Clip
from demos.vos.images import Labels
from demos.vos.model import Features, Matching, Method, shrink
from demos.vos.proposals import Proposals, ProposalSource
from demos.vos.refine import State


@dataclass(frozen=True)
class Observation:
    """What is seen in one frame."""

    maps: Tensor
    """(1, channels, h, w)."""
    features: Tensor
    """(m, d), of the proposals."""
    small: Tensor
    """(m, h, w): the proposals' masks, as large as the maps."""
    masks: Tensor
    """(m, H, W), bool: the proposals' masks."""
    levels: list[Tensor]
    """For the refinement; empty if the features have none."""


@torch.no_grad()
def observe(features: Features, frame: NDArray[np.uint8], proposals: Proposals) -> Observation:
    """The features of a frame and of its proposals. Works on the device of the features."""
    device = features.mean.device
    pictures = frames_tensor([frame]).to(device)
    maps, levels = (features.maps(pictures), []) if features.refinement is None else features.look(pictures)
    masks = torch.from_numpy(proposals.masks).to(device)
    small = shrink(masks[None], maps.shape[-2:])
    return Observation(maps, features.pool(maps, small)[0], small[0], masks, levels)


def frames_tensor(frames: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Frames (H, W, 3) as one tensor (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(list(frames))).permute(0, 3, 1, 2).float().div(255)


class Tracker:
    """The state of one clip: of every object its templates, from the frame it was given in and from the last sure match.

    Args:
        features, matching: the network.
        refined: the features' refinement has the last word.

    Each step matches all objects known so far to the proposals of the frame. An object's mask is its row of X times the
    proposals; a pixel gets the object with the largest value there, if it is above 1/2, the background's share. An object
    whose best proposal costs at most ``confident_cost`` and has more than half of its row's weight gets a new last
    template, from the proposal's mask, which is what later proposals look like; the first one stays. The refinement begins with
    the given mask, and carries its state and its own last mask of each object from frame to frame.

    Raises:
        ValueError: refined, by features without a refinement.
    """

    def __init__(self, features: Features, matching: Matching, refined: bool = False) -> None:
        if refined and features.refinement is None:
            raise ValueError("refined: the features have no refinement, wanted those of a model with refine")
        self.features, self.matching = features, matching
        self.refinement = features.refinement if refined else None
        self._state: State = []
        self._before = torch.zeros(0)  # (n, H, W): the refined masks of the frame before
        self._remembered = torch.zeros(0)  # (n, 2, width): see Refinement.remember
        self.objects: list[int] = []
        self.costs: list[float] = []
        """Of each object in the last step: the cost of the proposal that it was matched with, NaN if it stayed unmatched."""
        self._looks = torch.zeros(0)  # (2, n, d): first and last
        self._masks = torch.zeros(0)  # (n, h, w): where the object was last

    def add(self, observation: Observation, labels: Labels, objects: Iterable[int]) -> None:
        """Take up objects that are given in this frame."""
        objects = list(objects)
        if known := set(objects) & set(self.objects):
            raise ValueError(f"objects: got {sorted(known)}, which are tracked already")
        given = torch.from_numpy(labels[None] == np.array(objects)[:, None, None]).to(observation.maps.device)
        small = shrink(given[None], observation.maps.shape[-2:])
        with torch.no_grad():
            looks = self.features.pool(observation.maps, small).expand(2, -1, -1)
        first = not self.objects
        self._looks = looks.clone() if first else torch.cat((self._looks, looks), 1)
        self._masks = small[0] if first else torch.cat((self._masks, small[0]))
        if self.refinement is not None:
            masks = given.float()
            with torch.no_grad():
                remembered = self.refinement.remember(observation.levels, _zeros(masks), masks)
                _, state = self.refinement(observation.levels, _zeros(masks), masks, masks, remembered)
            self._before = masks if first else torch.cat((self._before, masks))
            self._remembered = remembered if first else torch.cat((self._remembered, remembered))
            pairs = zip(self._state, state, strict=True)
            self._state = state if first else [(torch.cat((a, c)), torch.cat((b, d))) for (a, b), (c, d) in pairs]
        self.objects += objects

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on later. A refinement's memory is not part of it."""
        if self.refinement is not None:
            raise ValueError("refined: the state of a refinement is not kept")
        return {"objects": torch.tensor(self.objects), "looks": self._looks, "masks": self._masks}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the tracker that the state is of."""
        device = self.features.mean.device
        self.objects = state["objects"].tolist()
        self._looks, self._masks = state["looks"].to(device), state["masks"].to(device)

    @torch.no_grad()
    def step(self, observation: Observation, followed: Sequence[int] = ()) -> Labels:
        """The labels of a frame, (H, W).

        Args:
            observation: of the frame.
            followed: objects whose own last masks, carried on, are the first proposals, in this order. They are expected
                there; an object that is not followed is expected where it was last.
        """
        height, width = observation.masks.shape[-2:]
        if not self.objects:
            return np.zeros((height, width), dtype=np.uint8)
        expected = self._masks.clone()
        for row, label in enumerate(followed):
            expected[self.objects.index(label)] = observation.small[row]
        X, cost = self.matching(self._looks, expected, observation.features, observation.small)
        self.costs = [math.nan] * len(self.objects)
        if len(observation.masks):
            weight, best = X.max(-1)
            of_best = cost.gather(-1, best[:, None])[:, 0]
            self.costs = torch.where(weight > 0.5, of_best, math.nan).tolist()
            sure = (weight > 0.5) & (of_best <= self.matching.config.confident_cost)
            self._looks[1, sure] = observation.features[best[sure]]
            self._masks = torch.where(sure[:, None, None], observation.small[best], self._masks)
        pasted = paste(X, observation.masks)
        if self.refinement is not None:
            logits, self._state = self.refinement(
                observation.levels, _zeros(pasted), pasted, self._before, self._remembered, self._state
            )
            pasted = self._before = logits.sigmoid()
        return merge(pasted, self.objects)


def _zeros(masks: Tensor) -> Tensor:
    """All objects are in the one picture."""
    return torch.zeros(len(masks), dtype=torch.int64, device=masks.device)


def paste(X: Tensor, masks: Tensor) -> Tensor:
    """X P: an assignment (n, m) and masks (m, H, W) to soft masks (n, H, W). Proposals of no weight cost nothing."""
    used = (X > 1e-3).any(0)
    return torch.einsum("nm,mhw->nhw", X[:, used], masks[used].to(X.dtype))


def merge(soft: Tensor, objects: list[int]) -> Labels:
    """Soft masks (n, H, W) to labels: the arg max with a background of 1/2 everywhere."""
    value, index = soft.max(0)
    labels = torch.tensor(objects, device=soft.device)[index]
    return torch.where(value > 0.5, labels, 0).to(torch.uint8).cpu().numpy()


def track(
    clip: Clip,
    source: ProposalSource,
    methods: Mapping[str, Method],
    *,
    watch: Callable[[int, Proposals], None] = lambda t, proposals: None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, NDArray[np.uint8]]:
    """Track the objects of a clip by several methods side by side.

    Args:
        clip: objects are given in the frames they first appear in, see `Clip.given`.
        source: of proposals.
        methods: by name. What shares its features is looked at once.
        watch: called with every frame's number and its proposals.
        progress: called after every frame.

    Returns:
        By name, labels (T, H, W). Where an object is given, its mask is the given one.
    """
    trackers = {name: Tracker(*method) for name, method in methods.items()}
    followers = {name: source.follower() for name in methods}
    results = {name: np.zeros((len(clip), *clip.size), dtype=np.uint8) for name in methods}
    for t in range(len(clip)):
        frame, proposals = clip.frame(t), source.propose(clip, t)
        given = clip.given.get(t, ())
        labels = clip.labels(t) if given else None
        seen: dict[int, Observation] = {}
        offered, objects = proposals, list[int]()
        for name, tracker in trackers.items():
            key, follower = id(tracker.features), followers[name]
            if follower is not None:  # each tracker has proposals of its own
                objects, masks = follower.propose(frame)
                offered = offered.after(masks)
                seen[key] = observe(tracker.features, frame, proposals.after(masks))
            elif key not in seen:
                seen[key] = observe(tracker.features, frame, proposals)
            results[name][t] = tracker.step(seen[key], objects)
            if labels is not None:
                tracker.add(seen[key], labels, given)
                inside = np.isin(labels, given)
                results[name][t][inside] = labels[inside]
            if follower is not None:
                follower.keep(frame, results[name][t])
        watch(t, offered)
        progress()
    return results
