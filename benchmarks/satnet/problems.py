"""Five small problems of different size, to see how options of the layer matter: a generator and a checker each."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from difflayers import Domains


@dataclass(frozen=True)
class Problem:
    """`rows` (count, variables) are valid assignments; `given` says which variables are given in how many draws."""

    name: str
    domains: Domains
    train: Tensor
    test: Tensor
    valid: Callable[[Tensor], Tensor]
    givens: int | None  # so many variables at random, or the first `inputs`
    inputs: int = 0

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        variables = self.train.shape[1]
        if self.givens is None:
            return (torch.arange(variables) < self.inputs).expand(count, -1)
        order = torch.rand(count, variables, generator=generator).argsort(1)
        return order < self.givens


def problems(seed: int = 0) -> list[Problem]:
    generator = torch.Generator().manual_seed(seed)
    return [_parity(), _adder(generator), _sudoku(generator), _latin(generator), _options(generator)]


def _split(rows: Tensor, train: int, test: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = rows[torch.randperm(len(rows), generator=generator)]
    return rows[:train], rows[train : train + test]


def _parity() -> Problem:
    """Four bits and their parity; all 16 rows are both seen and asked."""
    bits = torch.tensor(list(itertools.product([0, 1], repeat=4)))
    rows = torch.cat([bits, bits.sum(1, keepdim=True) % 2], 1)
    return Problem("parity of 4 bits", Domains([2] * 5), rows, rows, lambda r: r[:, :4].sum(1) % 2 == r[:, 4], None, 4)


def _adder(generator: torch.Generator) -> Problem:
    """Two numbers of three bits and their sum of four; 48 of the 64 rows are seen."""
    weights = torch.tensor([4, 2, 1])
    bits = torch.tensor(list(itertools.product([0, 1], repeat=6)))
    total = (bits[:, :3] * weights).sum(1) + (bits[:, 3:] * weights).sum(1)
    rows = torch.cat([bits, total[:, None] >> torch.tensor([3, 2, 1, 0]) & 1], 1)

    def valid(r: Tensor) -> Tensor:
        answer = (r[:, 6:] * torch.tensor([8, 4, 2, 1])).sum(1)
        return (r[:, :3] * weights).sum(1) + (r[:, 3:6] * weights).sum(1) == answer

    return Problem("sum of 3 bits", Domains([2] * 10), *_split(rows, 48, 16, generator), valid, None, 6)


def _squares(size: int) -> Tensor:
    """All Latin squares of an order: those with the first row in order, times all permutations of the symbols."""
    rows = list(itertools.permutations(range(size)))
    squares: list[tuple[tuple[int, ...], ...]] = [(rows[0],)]
    for _ in range(size - 1):
        squares = [(*s, r) for s in squares for r in rows if all(a != b for t in s for a, b in zip(r, t, strict=True))]
    return torch.tensor(rows)[:, torch.tensor(squares)].flatten(0, 1)


def _each_once(boards: Tensor, size: int) -> Tensor:
    """Whether each of the last dimension's lines holds each of `size` values once."""
    return (boards.sort(-1).values == torch.arange(size)).all(-1).flatten(1).all(1)


def _blocks(boards: Tensor) -> Tensor:
    return boards.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)


def _sudoku(generator: torch.Generator) -> Problem:
    """4x4 Sudoku with 8 given cells: 144 of the 288 boards are seen."""
    boards = _squares(4)
    boards = boards[_each_once(_blocks(boards), 4)].flatten(1)

    def valid(r: Tensor) -> Tensor:
        b = r.view(-1, 4, 4)
        return _each_once(b, 4) & _each_once(b.mT, 4) & _each_once(_blocks(b), 4)

    return Problem("4x4 Sudoku", Domains([4] * 16), *_split(boards, 144, 144, generator), valid, 8)


def _latin(generator: torch.Generator) -> Problem:
    """Latin squares of order 5 with 15 given cells: 2,000 squares are seen."""
    squares = _squares(5).flatten(1)

    def valid(r: Tensor) -> Tensor:
        b = r.view(-1, 5, 5)
        return _each_once(b, 5) & _each_once(b.mT, 5)

    return Problem("Latin square of order 5", Domains([5] * 25), *_split(squares, 2000, 300, generator), valid, 15)


def _options(generator: torch.Generator) -> Problem:
    """30 options of a product, 24 rules that one requires or excludes another or one of two; 15 are given."""
    variables = 30
    pairs = torch.stack([torch.randperm(variables, generator=generator)[:2] for _ in range(24)])
    signs = torch.randint(2, (24, 2), generator=generator).bool()
    signs[(~signs[:, 0] & ~signs[:, 1]).nonzero().flatten()[1::2]] = True  # fewer exclusions

    def valid(r: Tensor) -> Tensor:
        return (r[:, pairs].bool() == signs).any(-1).all(1)

    rows = torch.randint(2, (2_000_000, variables), generator=generator)
    return Problem(
        "30 options, 24 rules", Domains([2] * variables), *_split(rows[valid(rows)], 1000, 300, generator), valid, 15
    )
