"""The problems: for each a generator of solutions, what is hidden of them, and a checker that the learning never sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from difflayers import Domains, functional


@dataclass(frozen=True)
class Kind:
    """One kind of problem."""

    domains: Domains
    draw: Callable[[int, Generator], Tensor]
    """So many solutions, (count, v); fewer where there are no more."""
    question: Tensor
    """Which variables are always given, (v,), bool."""
    given: int
    """So many of the others are given too."""
    valid: Callable[[Tensor], Tensor]
    """Which assignments (count, v) are solutions, (count,), bool."""
    boards: int
    """To learn from."""
    longest: int = 2
    """Rules of so many literals are looked for."""
    epochs: int = 20
    m: int = 200
    aux: int = 50

    def hide(self, count: int, generator: Generator) -> Tensor:
        """What is given in so many problems, (count, v), bool."""
        chance = torch.rand(count, len(self.domains), generator=generator).masked_fill(self.question, 2.0)
        return self.question | (chance.argsort(1).argsort(1) < self.given)


def _first(v: int, others: int) -> Tensor:
    """A mask of v variables that are not always given, and of others that are."""
    return torch.arange(v + others) >= v


def _each_once(lines: Tensor) -> Tensor:
    """Whether the values of all lines (..., lines, size) differ within each line."""
    ordered = lines.sort(-1).values
    return (ordered[..., 1:] != ordered[..., :-1]).all(-1).all(-1)


def _latin(squares: Tensor) -> Tensor:
    return _each_once(squares) & _each_once(squares.mT)


def _latin_squares(order: int, count: int, generator: Generator) -> Tensor:
    """Latin squares (count, order, order): each row a random assignment of the values that its columns do not have yet.

    By Hall's theorem there is always one.
    """
    used = torch.zeros(count, order, order, dtype=torch.bool)
    rows = []
    for _ in range(order):
        cost = torch.rand(count, order, order, generator=generator).masked_fill(used, torch.inf)
        rows.append(functional.assign(cost))
        used.scatter_(2, rows[-1][..., None], True)
    return torch.stack(rows, 1)


def latin(order: int = 7, given: float = 0.4) -> Kind:
    """Latin squares: each value once in every row and column."""
    names = [f"r{r}c{c}" for r in range(order) for c in range(order)]
    return Kind(
        domains=Domains([order] * order**2, names=names),
        draw=lambda count, generator: _latin_squares(order, count, generator).flatten(1),
        question=_first(order**2, 0),
        given=round(given * order**2),
        valid=lambda values: _latin(values.view(-1, order, order)),
        boards=3000,
    )


def futoshiki(order: int = 5, given: int = 4, signs: float = 0.5) -> Kind:
    """Futoshiki: a Latin square with inequality signs between neighbours, which are variables too, and given.

    A sign is "none", "<" or ">": of the first cell and the one right of it or below it.
    """
    cells = torch.arange(order**2).view(order, order)
    first = torch.cat((cells[:, :-1].flatten(), cells[:-1].flatten()))
    second = torch.cat((cells[:, 1:].flatten(), cells[1:].flatten()))
    v, names = order**2, [f"r{r}c{c}" for r in range(order) for c in range(order)]
    edges = [f"{names[a]}?{names[b]}" for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    labels = [[str(a + 1) for a in range(order)]] * v + [["none", "<", ">"]] * len(edges)

    def draw(count: int, generator: Generator) -> Tensor:
        squares = _latin_squares(order, count, generator).flatten(1)
        shown = torch.rand(count, len(first), generator=generator) < signs
        return torch.cat((squares, torch.where(shown, 1 + (squares[:, first] > squares[:, second]).long(), 0)), 1)

    def valid(values: Tensor) -> Tensor:
        squares, sign = values[:, :v], values[:, v:]
        less = squares[:, first] < squares[:, second]
        return _latin(squares.reshape(-1, order, order)) & torch.where(sign == 1, less, (sign == 0) | ~less).all(1)

    domains = Domains([len(each) for each in labels], names=[*names, *edges], labels=labels)
    return Kind(domains, draw, _first(v, len(edges)), given, valid, boards=9000, longest=3, epochs=10)


def queens(size: int = 8, given: int = 3) -> Kind:
    """Queens that do not attack each other: for each row the column of its queen; some are on the board already."""
    a, b = torch.triu_indices(size, size, 1)

    def valid(values: Tensor) -> Tensor:
        apart = (values[:, a] - values[:, b]).abs()
        return ((apart != 0) & (apart != b - a)).all(1)

    def draw(count: int, generator: Generator) -> Tensor:
        found = torch.tensor(list(itertools.permutations(range(size))))
        found = found[valid(found)]
        return found[torch.randperm(len(found), generator=generator)[:count]]

    return Kind(
        domains=Domains([size] * size, names=[f"row{r + 1}" for r in range(size)]),
        draw=draw,
        question=_first(size, 0),
        given=given,
        valid=valid,
        boards=62,
        epochs=400,
        m=100,
    )


def colouring(nodes: int = 10, colours: int = 3, given: int = 3, edges: float = 0.5) -> Kind:
    """Colouring of a random graph: its edges are Boolean variables, and given; some nodes are coloured already."""
    a, b = torch.triu_indices(nodes, nodes, 1)
    names = [f"node{i + 1}" for i in range(nodes)]
    names += [f"edge{i + 1}-{j + 1}" for i, j in zip(a.tolist(), b.tolist(), strict=True)]

    def draw(count: int, generator: Generator) -> Tensor:
        colour = torch.randint(colours, (count, nodes), generator=generator)
        edge = (torch.rand(count, len(a), generator=generator) < edges) & (colour[:, a] != colour[:, b])
        return torch.cat((colour, edge.long()), 1)

    def valid(values: Tensor) -> Tensor:
        colour, edge = values[:, :nodes], values[:, nodes:] > 0
        return ~(edge & (colour[:, a] == colour[:, b])).any(1)

    domains = Domains([colours] * nodes + [2] * len(a), names=names)
    return Kind(domains, draw, _first(nodes, len(a)), given, valid, boards=3000, longest=3)


OFF, EARLY, LATE, NIGHT = range(4)
COVER = (2, 2, 2, 1)
"""So many nurses of seven are off, early, late and on the night shift each day."""


def roster(nurses: int = 7, days: int = 7, given: float = 0.4) -> Kind:
    """A roster: one shift a day or none, two early, two late and one at night each day, nobody early after a night, and two
    days off in the week."""
    pattern = torch.arange(4).repeat_interleave(torch.tensor(COVER))

    def draw(count: int, generator: Generator) -> Tensor:
        shifts = torch.zeros(count, nurses, days, dtype=torch.int64)
        for day in range(days):
            before = (shifts[..., :day] == OFF).sum(2)
            rows = torch.arange(count)
            while len(rows):  # a random day for each roster, again where it will not do
                today = pattern[torch.rand(len(rows), nurses, generator=generator).argsort(1)]
                off = before[rows] + (today == OFF).long()
                # Nobody may have more days off to come than there are days.
                wrong = (off > COVER[OFF]) | (off < COVER[OFF] - (days - day - 1))
                if day:
                    wrong |= (shifts[rows, :, day - 1] == NIGHT) & (today == EARLY)
                fine = ~wrong.any(1)
                shifts[rows[fine], :, day] = today[fine]
                rows = rows[~fine]
        return shifts.flatten(1)

    def valid(values: Tensor) -> Tensor:
        shifts = values.view(-1, nurses, days)
        covered = torch.stack([(shifts == s).sum(1) == number for s, number in enumerate(COVER)]).all(0).all(1)
        tired = (shifts[..., :-1] == NIGHT) & (shifts[..., 1:] == EARLY)
        return covered & ((shifts == OFF).sum(2) == COVER[OFF]).all(1) & ~tired.flatten(1).any(1)

    return Kind(
        domains=Domains(
            [4] * (nurses * days),
            names=[f"nurse{n + 1}-day{d + 1}" for n in range(nurses) for d in range(days)],
            labels=[["off", "early", "late", "night"]] * (nurses * days),
        ),
        draw=draw,
        question=_first(nurses * days, 0),
        given=round(given * nurses * days),
        valid=valid,
        boards=9000,
        longest=6,
        epochs=7,
    )


KINDS: dict[str, Callable[[], Kind]] = {
    "latin": latin,
    "futoshiki": futoshiki,
    "queens": queens,
    "colouring": colouring,
    "roster": roster,
}
