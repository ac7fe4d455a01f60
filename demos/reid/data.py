"""Synthetic re-identification: every problem is a handful of objects, seen twice.

A world is a fixed nonlinear map from what an object *is* and *how it is seen* to an observation. Problem k of a split is
drawn from a generator of its own, so that it depends on the seed, the split and k alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from demos.reid.config import Sizes

IDENTITY, NUISANCE, OBSERVED = 6, 6, 32
"""Dimensions of an object's identity, of what differs at every look, and of an observation."""

LOOK_ALIKE, SHIFT, NUISANCE_SCALE, NOISE = 0.5, 0.5, 1.0, 0.05
"""Standard deviations: of identities about the centre of their cluster (the centres' is 1), of the shift that all
observations of one look share, of the nuisance, and of the noise on every observed number."""

SPLITS = {"train": 0, "validation": 1, "test": 2}
_WORLD = 3


@dataclass(frozen=True)
class Problems:
    """A batch of problems, the first dimension of every field."""

    templates: Tensor
    """(B, n, OBSERVED): the first look."""
    proposals: Tensor
    """(B, m, OBSERVED): the second look, at the same objects and at others, in random order."""
    match: Tensor
    """(B, n), int64: the proposal that shows the same object as the template."""
    proposal_outcome: Tensor
    """(B, m), int64: what became of the object in the proposal. Chosen at random: it has nothing to do with its looks."""
    template_outcome: Tensor
    """(B, n), int64: what became of the object in the template, `proposal_outcome` at `match`."""
    sizes: Sizes

    def __len__(self) -> int:
        return len(self.match)

    def __getitem__(self, index: Tensor) -> Problems:
        return Problems(
            self.templates[index],
            self.proposals[index],
            self.match[index],
            self.proposal_outcome[index],
            self.template_outcome[index],
            self.sizes,
        )

    def to(self, device: torch.device | str) -> Problems:
        """The same on another device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if name != "sizes"}
        return Problems(**tensors, sizes=self.sizes)

    def batches(self, size: int, steps: int, generator: torch.Generator) -> Iterator[Problems]:
        """Batches of `size` problems (all of them, if there are fewer), going through all before any comes again."""
        size = min(size, len(self))
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(len(self), generator=generator)
            yield self[order[:size]]
            order = order[size:]


def make_problems(seed: int, split: str, count: int, sizes: Sizes) -> Problems:
    """The first `count` problems of a split of the world with this seed."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, wanted one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, wanted 0 or more")
    if count < 1:
        raise ValueError(f"count: got {count}, wanted 1 or more")
    drawn = [_draw(np.random.default_rng([seed, SPLITS[split], k]), sizes) for k in range(count)]
    first, second, match, outcome = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    inner, outer = _world(seed)
    dims = IDENTITY + NUISANCE

    def look(table: np.ndarray) -> Tensor:
        seen = np.tanh(table[..., :dims] @ inner) @ outer + NOISE * table[..., dims:]
        return torch.from_numpy(seen.astype(np.float32))

    return Problems(
        templates=look(first),
        proposals=look(second),
        match=torch.from_numpy(match),
        proposal_outcome=torch.from_numpy(outcome),
        template_outcome=torch.from_numpy(np.take_along_axis(outcome, match, axis=1)),
        sizes=sizes,
    )


def _world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The two matrices between identity, nuisance and observation."""
    rng = np.random.default_rng([seed, _WORLD])
    dims = IDENTITY + NUISANCE
    inner = rng.normal(size=(dims, OBSERVED)) * np.sqrt(1.5 / dims)
    return inner, rng.normal(size=(OBSERVED, OBSERVED)) / np.sqrt(OBSERVED)


def _draw(rng: np.random.Generator, sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Identity, nuisance and noise, side by side, of the templates and of the proposals; the match; the outcomes."""
    n, m = sizes.templates, sizes.proposals
    centres = rng.normal(size=(-(-m // sizes.cluster), IDENTITY))
    identity = centres[np.arange(m) // sizes.cluster] + LOOK_ALIKE * rng.normal(size=(m, IDENTITY))
    tables = []
    chosen, shown = rng.permutation(m)[:n], rng.permutation(m)
    for objects in (chosen, shown):
        shift = SHIFT * rng.normal(size=IDENTITY)
        nuisance = NUISANCE_SCALE * rng.normal(size=(len(objects), NUISANCE))
        noise = rng.normal(size=(len(objects), OBSERVED))
        tables.append(np.concatenate((identity[objects] + shift, nuisance, noise), axis=1))
    return tables[0], tables[1], np.argsort(shown)[chosen], rng.integers(sizes.outcomes, size=m)
