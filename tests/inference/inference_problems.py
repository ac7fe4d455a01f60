"""Problems with known rules, and layers that hold them without training."""

import itertools

import torch
from torch import Tensor

from difflayers import Domains, SATNet

ORDER = 4
LATIN = Domains([ORDER] * ORDER**2)
MIXED = Domains([2, 3, 1, 2, 4], names=["a", "b", "c", "d", "e"])


def latin_clauses() -> list[list[int]]:
    """That no row and no column of a Latin square holds a value twice."""
    cell = LATIN.literals.view(ORDER, ORDER, ORDER)
    lines = [*cell.unbind(0), *cell.unbind(1)]
    return [
        [-int(line[i, a]), -int(line[j, a])]
        for line in lines
        for i, j in itertools.combinations(range(ORDER), 2)
        for a in range(ORDER)
    ]


def latin_layer() -> SATNet:
    return SATNet.from_clauses(LATIN.clauses() + latin_clauses(), LATIN.bits, k=8)


def latin_squares() -> Tensor:
    """All 576 Latin squares of order 4, (576, 16)."""
    rows = list(itertools.permutations(range(ORDER)))
    found = [
        list(itertools.chain(*square))
        for square in itertools.product(rows, repeat=ORDER)
        if all(len(set(column)) == ORDER for column in zip(*square, strict=True))
    ]
    return torch.tensor(found)


def latin_problems(count: int, share: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latin squares with a random share of their cells given: values and given, (count, 16)."""
    generator = torch.Generator().manual_seed(seed)
    squares = latin_squares()
    values = squares[torch.randint(len(squares), (count,), generator=generator)]
    given = torch.rand(values.shape, generator=generator) < share
    return torch.where(given, values, 99), given


def is_latin(values: Tensor) -> Tensor:
    square = values.view(*values.shape[:-1], ORDER, ORDER)
    wanted = torch.arange(ORDER)
    return (square.sort(-1).values == wanted).all(-1).all(-1) & (square.mT.sort(-1).values == wanted).all(-1).all(-1)
