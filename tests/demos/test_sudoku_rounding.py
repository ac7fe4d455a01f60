"""Rounding at inference: the field of the learnt objective, local search, and the best of several roundings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.data import encode
from demos.sudoku.generator import generate
from demos.sudoku.model import SudokuNet, restore, satnet_of
from demos.sudoku.rounding import RoundingOptions, local_search, round_best, round_then_search
from demos.sudoku.search import SearchOptions, learnt_objective

ROOT = Path(__file__).parents[2]


def random_net(*, aux: int = 0) -> SudokuNet:
    torch.manual_seed(0)
    return SudokuNet(2, aux=aux, m=40, max_iter=200, eps=1e-7, permutation=torch.randperm(64))


def large() -> tuple[SudokuNet, float]:
    checkpoint = load_checkpoint(ROOT / "demos" / "sudoku" / "results" / "original-9x9")
    assert checkpoint.limit is not None
    return satnet_of(restore(checkpoint, max_iter=100, eps=1e-5)), checkpoint.limit


def random_boards(count: int) -> torch.Tensor:
    return torch.randint(1, 5, (count, 16), generator=torch.Generator().manual_seed(3)).to(torch.int8)


def test_the_field_is_half_the_derivative() -> None:
    net = random_net()
    bits, _ = encode(random_boards(1))
    given = torch.ones_like(bits, dtype=torch.bool)
    objective, pull = net.field(bits, given)
    S = net.unshuffle(net.layer.S.detach()[1:].mT).mT
    flipped = bits.repeat(64, 1)
    flipped.diagonal().mul_(-1).add_(1)
    after, _ = net.field(flipped, torch.ones_like(flipped, dtype=torch.bool))
    # x -> -x of one bit: -4 x pull, and 4 times its own square.
    x = 2 * bits[0] - 1
    torch.testing.assert_close(after - objective, 4 * S.square().sum(1) - 4 * x * pull[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(objective, learnt_objective(net, random_boards(1)).to(objective.dtype))


def test_local_search_ends_where_no_single_cell_lowers_the_objective() -> None:
    net = random_net()  # without auxiliary variables the search sees the whole objective
    boards = random_boards(6)
    blank = torch.rand(6, 16, generator=torch.Generator().manual_seed(4)) < 0.7
    found, objective, passes = local_search(net, net.couplings(), boards, blank)
    assert passes == 2  # one to begin with, and one that finds that all the changes were as foreseen
    assert torch.equal(found[~blank], boards[~blank])
    assert (objective < learnt_objective(net, boards)).all()
    torch.testing.assert_close(objective, learnt_objective(net, found).to(objective.dtype))
    for board, cells, lowest in zip(found, blank, objective, strict=True):
        others = board.repeat(int(cells.sum()) * 4, 1)
        for i, cell in enumerate(cells.nonzero()[:, 0]):
            others[4 * i : 4 * i + 4, cell] = torch.arange(1, 5)
        assert learnt_objective(net, others).min() > lowest - 1e-3


def test_local_search_with_auxiliary_variables_never_ends_higher() -> None:
    net = random_net(aux=20)
    boards = random_boards(6)
    found, objective, passes = local_search(net, net.couplings(), boards, torch.ones(6, 16, dtype=torch.bool))
    assert (objective <= learnt_objective(net, boards) * 1.001).all() and passes > 1
    torch.testing.assert_close(objective, learnt_objective(net, found).to(objective.dtype), rtol=1e-2, atol=1e-2)


def test_wrong_cells_of_solved_boards_are_mended() -> None:
    net, limit = large()
    boards = generate(3, 30, 20, seed=5)
    blank = boards.puzzles == 0
    broken = boards.solutions.copy()
    rng = np.random.default_rng(0)
    for board, cells in zip(broken, blank, strict=True):
        for cell in rng.choice(np.flatnonzero(cells), 3, replace=False):
            board[cell] = board[cell] % 9 + 1
    found, objective, _ = local_search(net, net.couplings(), torch.from_numpy(broken), torch.from_numpy(blank))
    assert (found.numpy() == boards.solutions).all(1).mean() >= 0.9
    assert (objective.numpy() <= limit).mean() >= 0.9


def test_more_roundings_solve_more_boards() -> None:
    net, limit = large()
    boards = generate(3, 28, 20, seed=5)
    one = round_best(net, boards.puzzles, limit, RoundingOptions(roundings=1))
    found = round_best(net, boards.puzzles, limit, RoundingOptions(roundings=12))
    assert found.accepted.sum() > one.accepted.sum() >= 3
    assert (found.boards[found.accepted] == boards.solutions[found.accepted]).all()
    assert (found.objective <= one.objective).all()
    assert (found.paths[one.accepted] == 1).all() and (found.paths[~found.accepted] == 12).all()
    assert (found.solves > found.paths).all()
    given = boards.puzzles != 0
    assert (found.boards[given] == boards.puzzles[given]).all() and found.boards.all()
    again = round_best(net, boards.puzzles, limit, RoundingOptions(roundings=12))
    assert (again.boards == found.boards).all() and (again.objective == found.objective).all()


def test_search_takes_over_what_rounding_leaves() -> None:
    net, limit = large()
    boards = generate(3, 28, 20, seed=5)
    one = round_best(net, boards.puzzles, limit, RoundingOptions(roundings=1))
    both = round_then_search(net, boards.puzzles, limit, RoundingOptions(roundings=1), SearchOptions(paths=3))
    kept = one.accepted
    assert both.accepted.sum() > kept.sum() and (both.objective <= one.objective).all()
    assert (both.boards[kept] == one.boards[kept]).all() and (both.solves[kept] == one.solves[kept]).all()
    assert (both.boards[both.accepted] == boards.solutions[both.accepted]).all()
    assert (both.paths[kept] == 1).all() and (both.paths[~kept] > 1).all() and (both.solves > one.solves)[~kept].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roundings": 0}, "roundings: got 0, wanted 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0, wanted 1 or more"),
        ({"temperature": 0.0}, "temperature: got 0.0, wanted a positive number"),
        ({"temperature": float("nan")}, "temperature: got nan"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoundingOptions(**options)
