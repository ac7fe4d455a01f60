"""Two opinions on whether a row is valid, by rows that are: neither knows the true constraints.

*Rules* that hold in all rows, by counting alone. A row that breaks one is hardly valid; one that breaks none may still be.

*Projections*: each column is looked at together with the columns that it has most to do with. Every combination of values
that a row shows there must occur in some known row. No rule has to be found for that, but a valid row that is the first to
show a rare combination is taken for invalid. How many columns are looked at together is set by rows that were kept back: the
most, up to 8, at which 99% of them pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from difflayers import Domains, SATNet
from difflayers.inference import Rules, extract_rules

RELATED = 20.0
"""Two columns have to do with each other if the likelihood ratio statistic of their independence is at least this."""
MOST = 8
"""At most so many columns are looked at together."""


def counted_rules(domains: Domains, values: Tensor, longest: int) -> Rules:
    """The rules that counting alone finds in rows (count, columns), without a layer's word."""
    silent = SATNet(domains.bits, 1)
    with torch.no_grad():
        silent.S.zero_()
    return extract_rules(silent, domains, values, longest=longest, progress=True)


def dependence(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The likelihood ratio statistic of independence (columns, columns): 2 N times the mutual information; diagonal 0."""
    largest = max(sizes)
    shown = one_hot(values, largest).double()  # (count, v, largest)
    flat = shown.flatten(1)
    joint = flat.T @ flat / len(values)
    alone = flat.mean(0)
    part = torch.where(joint > 0, joint * (joint / (alone[:, None] * alone)).log(), 0.0)
    v = values.shape[1]
    return 2 * len(values) * part.view(v, largest, v, largest).sum((1, 3)).fill_diagonal_(0)


@dataclass(frozen=True)
class Projections:
    """What known rows show in groups of related columns."""

    groups: list[Tensor]
    known: list[set[tuple[int, ...]]]
    together: int
    """At most so many columns are in a group."""

    @classmethod
    def of(cls, values: Tensor, sizes: tuple[int, ...], together: int) -> Projections:
        """Each column with the `together` - 1 that it depends on most, as far as it depends on any."""
        order = dependence(values, sizes).sort(dim=1, descending=True)
        groups = {
            tuple(sorted([column, *others[strength >= RELATED].tolist()]))
            for column, (strength, others) in enumerate(
                zip(order.values[:, : together - 1], order.indices[:, : together - 1], strict=True)
            )
        }
        chosen = [torch.tensor(group) for group in sorted(groups) if len(group) > 1]
        return cls(chosen, [set(map(tuple, values[:, group].tolist())) for group in chosen], together)

    @classmethod
    def calibrated(cls, seen: Tensor, kept: Tensor, sizes: tuple[int, ...], passing: float = 0.99) -> Projections:
        """Of groups as large as they may be for so large a share of the rows kept back to pass; known are then all rows."""
        together = 2
        while together < MOST and cls.of(seen, sizes, together + 1).passes(kept).double().mean() >= passing:
            together += 1
        return cls.of(torch.cat((seen, kept)), sizes, together)

    def passes(self, values: Tensor) -> Tensor:
        """Which rows (count, columns) show nothing new, (count,), bool."""
        fine = torch.ones(len(values), dtype=torch.bool)
        for group, known in zip(self.groups, self.known, strict=True):
            fine &= torch.tensor([row in known for row in map(tuple, values[:, group].tolist())], dtype=torch.bool)
        return fine
