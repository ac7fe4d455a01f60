"""Search at inference, joint decoding of images, and what the layer has learnt."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from demos.sudoku.boards import obeys_rules
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.data import encode, load_split
from demos.sudoku.generator import generate
from demos.sudoku.images import ImageBoards
from demos.sudoku.joint import most_probable, read_jointly
from demos.sudoku.model import SudokuNet, VisualNet, build, satnet_of
from demos.sudoku.rules import changed_boards, couplings, exclusions, measure, rules_png
from demos.sudoku.search import SearchOptions, learnt_objective, objective_limit, search

ROOT = Path(__file__).parents[2]


class Info(NamedTuple):
    objective: Tensor


class Scripted:
    """Stands for a network that knows one 4x4 solution, but is for wrong digits in some cells until told they are wrong.

    Its objective is the number of cells that are given and differ from the solution.
    """

    box = 2
    device = torch.device("cpu")

    def __init__(self, solution: np.ndarray, traps: dict[int, tuple[int, float]]) -> None:
        self.target = encode(torch.from_numpy(solution)[None])[0].reshape(16, 4)
        self.traps = traps  # cell: the wrong digit, and the confidence in it
        self.calls: list[tuple[Tensor, Tensor]] = []

    def complete(self, bits: Tensor, given: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Info]:
        self.calls.append((bits, given))
        out = []
        for b, g in zip(bits.reshape(-1, 16, 4), given.reshape(-1, 16, 4), strict=True):
            p = 0.6 * self.target
            for cell, (digit, confidence) in self.traps.items():
                if not g[cell, digit - 1]:
                    p[cell] = 0
                    p[cell, digit - 1] = confidence
            out.append(torch.where(g, b, p).flatten())
        differ = bits.reshape(-1, 16, 4) * (1 - self.target)
        return torch.stack(out), Info(differ.sum((1, 2)))


def scripted(traps: dict[int, tuple[int, float]]) -> tuple[Any, np.ndarray, np.ndarray]:
    boards = generate(2, 6, 1, seed=3)
    blank = np.flatnonzero(boards.puzzles[0] == 0)
    solution = boards.solutions[0]
    placed = {int(blank[i]): (int(solution[blank[i]]) % 4 + 1, confidence) for i, (_, confidence) in traps.items()}
    return Scripted(solution, placed), boards.puzzles, boards.solutions


def test_without_traps_one_path_does() -> None:
    net, puzzles, solutions = scripted({})
    found = search(net, puzzles, 0.5, SearchOptions(coarse=0.2, fraction=0.2, sure=2))
    assert (found.boards == solutions).all()
    assert found.accepted.tolist() == [True] and found.paths.tolist() == [1] and found.objective.tolist() == [0]
    # 10 blanks, a fifth of those left and at least one a round: 2, 2, 1, 1, 1, 1, 1, 1; then the objective.
    assert found.solves.tolist() == [9]


def test_later_decimations_go_by_smaller_steps() -> None:
    net, puzzles, _ = scripted({2: (0, 0.1)})
    coarse = search(net, puzzles, 0.5, SearchOptions(coarse=1, fraction=0.2, sure=2, paths=1))
    fine = search(net, puzzles, 0.5, SearchOptions(coarse=1, fraction=0.2, sure=2, paths=2))
    assert coarse.solves.tolist() == [2] and fine.solves.tolist() == [2 + 9]


def test_sure_cells_are_fixed_at_once() -> None:
    net, puzzles, _ = scripted({})
    assert search(net, puzzles, 0.5, SearchOptions(coarse=0.01, sure=0.5)).solves.tolist() == [2]


def test_backtracking_goes_first_where_confidence_was_least() -> None:
    # Right cells have a confidence of 0.6: with 0.1 the trap is the first to be gone back to.
    net, puzzles, solutions = scripted({2: (0, 0.1)})
    options = SearchOptions(coarse=0.2, fraction=0.2, sure=2, starts=2)
    for paths in (1, 2, 3):  # the coarse decimation, and two fine ones from the start
        stuck = search(net, puzzles, 0.5, replace(options, paths=paths))
        assert stuck.accepted.tolist() == [False] and stuck.objective.tolist() == [1]
        assert stuck.paths.tolist() == [paths] and (stuck.boards != solutions).sum() == 1
    found = search(net, puzzles, 0.5, replace(options, paths=4))
    assert (found.boards == solutions).all() and found.paths.tolist() == [4]
    # With 0.9 it is the first cell to be fixed, together with a right one, and the second to be gone back to.
    net, puzzles, solutions = scripted({2: (0, 0.9)})
    found = search(net, puzzles, 0.5, replace(options, paths=200))
    assert (found.boards == solutions).all() and found.paths.tolist() == [5]


def test_a_decimation_is_given_up_when_its_objective_is_over_the_limit() -> None:
    net, puzzles, _ = scripted({2: (0, 0.9)})
    found = search(net, puzzles, 0.5, SearchOptions(coarse=0.2, fraction=0.1, sure=2, paths=2))
    # The coarse one goes on to its end. The fine one stops with 8 of 16 cells blank, not with 9, when most are.
    assert found.solves.tolist() == [9 + 3] and found.boards.all()


@pytest.mark.parametrize("starts", [1, 4])
def test_some_decimations_begin_with_the_puzzle(starts: int) -> None:
    net, puzzles, _ = scripted({2: (0, 0.1)})
    search(net, puzzles, -1.0, SearchOptions(coarse=1, fraction=0.2, sure=2, paths=9, starts=starts))
    # Nothing is given but the puzzle, and nothing taken to be wrong.
    begun = [given for _, given in net.calls if given.sum() == 6 * 4]
    assert len(begun) == 1 + starts


def test_two_wrong_cells_are_both_gone_back_to() -> None:
    net, puzzles, solutions = scripted({2: (0, 0.1), 5: (0, 0.2)})
    found = search(net, puzzles, 0.5, SearchOptions(coarse=0.2, fraction=0.2, sure=2, paths=20))
    assert (found.boards == solutions).all() and found.accepted.all()


def test_what_is_wrong_is_given_to_the_layer_as_false() -> None:
    net, puzzles, _ = scripted({2: (0, 0.1)})
    cell, (digit, _) = next(iter(net.traps.items()))
    search(net, puzzles, 0.5, SearchOptions(coarse=0.2, fraction=0.2, sure=2, paths=3, starts=1))
    marked = [(bits, given) for bits, given in net.calls if given[0, cell * 4 + digit - 1] and not given[0].all()]
    told = [(bits, given) for bits, given in marked if given[0].reshape(16, 4)[cell].sum() == 1]
    assert told and all(bits[0, cell * 4 + digit - 1] == 0 for bits, _ in told)


def test_given_cells_are_kept(trained: Path, small: TrainConfig) -> None:
    net, _, boards = load(trained)
    found = search(net, boards.puzzles, -1.0, SearchOptions(paths=2, batch_size=7))  # nothing is accepted
    assert not found.accepted.any() and (found.paths == 2).all()
    given = boards.puzzles != 0
    assert (found.boards[given] == boards.puzzles[given]).all() and found.boards.all()


def load(trained: Path) -> tuple[SudokuNet, float, Any]:
    checkpoint = load_checkpoint(trained)
    net = satnet_of(build(checkpoint.config))
    net.load_state_dict(checkpoint.model)
    assert checkpoint.limit is not None
    return net, checkpoint.limit, load_split(checkpoint.config)[1]


def test_search_solves_more_than_one_pass(trained: Path) -> None:
    net, limit, _ = load(trained)
    hard = generate(2, 4, 60, seed=11)
    puzzles = torch.from_numpy(hard.puzzles)
    one_pass = net.predict(puzzles, generator=torch.Generator().manual_seed(0)).numpy()
    found = search(net, hard.puzzles, limit, SearchOptions(paths=20, batch_size=25))
    right = (found.boards == hard.solutions).all(1)
    assert right.mean() > (one_pass == hard.solutions).all(1).mean() + 0.1
    assert obeys_rules(found.boards[found.accepted]).mean() > 0.85  # two epochs have not taught it everything
    again = search(net, hard.puzzles, limit, SearchOptions(paths=20, batch_size=25))
    assert (again.boards == found.boards).all() and (again.paths == found.paths).all()


def test_learnt_objective_tells_a_wrong_cell(trained: Path) -> None:
    net, limit, boards = load(trained)
    solutions = torch.from_numpy(boards.solutions)
    wrong = solutions.clone()
    wrong[:, 5] = wrong[:, 5] % 4 + 1
    generator = torch.Generator().manual_seed(0)
    assert (learnt_objective(net, solutions, generator=generator) <= limit).all()
    higher = learnt_objective(net, wrong, generator=generator) > learnt_objective(net, solutions, generator=generator)
    assert higher.all()


def test_limit() -> None:
    net, _, solutions = scripted({})
    boards = np.repeat(solutions, 201, 0)
    boards[::4, 0] = boards[::4, 0] % 4 + 1  # objectives of 0, a quarter of 1
    assert objective_limit(net, boards, batch_size=30) == pytest.approx(8)
    boards = np.repeat(solutions, 201, 0)
    boards[0] = 5 - boards[0]  # one of 16 or nearly so: no matter
    assert objective_limit(net, boards, batch_size=30) == 0
    with pytest.raises(ValueError, match="solutions: got none"):
        objective_limit(net, boards[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction: got 0.0, wanted more than 0"),
        ({"coarse": 1.5}, "coarse: got 1.5, wanted more than 0"),
        ({"paths": 0}, "paths: got 0, wanted 1 or more"),
        ({"starts": 0}, "starts: got 0, wanted 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0, wanted 1 or more"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)


# --- joint decoding -----------------------------------------------------------------------------------------


def test_readings_come_from_the_most_probable_down() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    readings = [tuple(reading.tolist()) for reading in most_probable(p)]
    everything = list(itertools.product(range(1, 5), repeat=3))
    assert sorted(readings) == everything
    chance = {r: float(np.prod([p[cell, digit - 1] for cell, digit in enumerate(r)])) for r in everything}
    assert [chance[r] for r in readings] == pytest.approx(sorted(chance.values(), reverse=True))
    assert [r.shape for r in most_probable(np.zeros((0, 4)))] == [(0,)]


def test_a_misread_digit_is_corrected(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver, _, _ = load(trained)
    net = VisualNet(solver)
    boards = generate(2, 9, 20, seed=4)
    # Tighter than what the run has set, as two epochs have not taught it everything.
    generator = torch.Generator().manual_seed(0)
    limit = float(learnt_objective(solver, torch.from_numpy(boards.solutions), generator=generator).max())
    picks = np.where(boards.puzzles > 0, 0, -1).astype(np.int32)
    images = ImageBoards(boards.puzzles, boards.solutions, torch.zeros(1, 28, 28, dtype=torch.uint8), picks)
    seen = torch.nn.functional.one_hot(torch.from_numpy(boards.puzzles).long(), 5)[..., 1:] * 0.98 + 0.005
    first = (boards.puzzles != 0).argmax(1)
    for b, cell in enumerate(first):  # in each board the first given cell is misread, and the right digit comes second
        digit = int(boards.puzzles[b, cell]) - 1
        seen[b, cell] = torch.tensor([0.1, 0.1, 0.1, 0.1])
        seen[b, cell, digit], seen[b, cell, (digit + 1) % 4] = 0.3, 0.5
    parts = iter(seen.split(8))
    monkeypatch.setattr(net, "read", lambda *_: next(parts))
    found = read_jointly(net, images, limit, readings=10, batch_size=8)
    right = (found.boards == boards.solutions).all(1)
    assert right.mean() > 0.7
    assert (right[found.accepted]).mean() > 0.9
    assert set(found.tried[right].tolist()) <= {2, 3, 4}
    with pytest.raises(ValueError, match="readings: got 0"):
        read_jointly(net, images, limit, readings=0)


# --- what is learnt -----------------------------------------------------------------------------------------


def test_exclusions_are_the_rules() -> None:
    kinds = exclusions(3)
    # Each of 729 bits excludes 8 of its cell, and 20 of its digit.
    assert int(np.logical_or.reduce(list(kinds.values())).sum()) == 729 * 28
    assert {name: int(mask.sum()) for name, mask in kinds.items()} == dict.fromkeys(kinds, 729 * 8)
    bits = encode(torch.from_numpy(generate(3, 34, 3).solutions))[0].numpy().astype(bool)
    for board in bits:
        for mask in kinds.values():
            assert not mask[np.ix_(board, board)].any()


def test_changed_boards_break_the_rules() -> None:
    solutions = generate(3, 34, 50, seed=6).solutions
    kinds = changed_boards(solutions)
    assert obeys_rules(kinds.pop("solved")).all()
    for name, boards in kinds.items():
        assert not obeys_rules(boards).any()
        assert set((boards != solutions).sum(1).tolist()) == {1 if name == "one cell wrong" else 2}
        assert boards.min() >= 1 and boards.max() <= 9
    rows = np.sort(kinds["two cells exchanged"].reshape(-1, 9, 9), 2)
    assert (rows == np.arange(1, 10)).all()


def test_couplings_in_the_order_of_the_board() -> None:
    net = satnet_of(build(replace(PRESETS[2], permuted=True, seed=3)))
    assert net.permutation is not None
    S = net.layer.S.detach()[1:65].double()
    matrix = couplings(net)
    for i, j in ((0, 1), (5, 60), (63, 2)):
        assert matrix[net.permutation[i], net.permutation[j]] == pytest.approx(float(S[i] @ S[j]))


def test_measurement_of_a_layer_that_holds_the_rules() -> None:
    net = satnet_of(build(PRESETS[2]))
    rule = np.logical_or.reduce(list(exclusions(2).values()))
    values, vectors = np.linalg.eigh(rule + 40.0 * np.eye(64))
    S = torch.zeros_like(net.layer.S)
    S[1:65, :64] = torch.from_numpy(vectors * np.sqrt(values)).float()
    net.layer.S.data = S
    found = measure(net)
    assert found.pairs == rule.sum() // 2
    assert found.average_precision == pytest.approx(1)
    assert found.precision_at(1.0) == 1
    assert set(found.recall_by_kind.values()) == {1.0}
    assert rules_png(net, "title")[:4] == b"\x89PNG"


def test_the_trained_layer_knows_a_solved_board() -> None:
    """The 9x9 weights of the project, on boards of another source: solved ones are accepted, one wrong cell is not."""
    net, limit, _ = load_large()
    boards = torch.from_numpy(generate(3, 30, 20, seed=5).solutions)
    wrong = boards.clone()
    wrong[:, 40] = wrong[:, 40] % 9 + 1
    generator = torch.Generator().manual_seed(0)
    assert (learnt_objective(net, boards, generator=generator) <= limit).all()
    assert (learnt_objective(net, wrong, generator=generator) > limit).all()


def load_large() -> tuple[SudokuNet, float, None]:
    checkpoint = load_checkpoint(ROOT / "demos" / "sudoku" / "results" / "original-9x9")
    net = satnet_of(build(checkpoint.config))
    net.load_state_dict(checkpoint.model)
    assert checkpoint.limit is not None
    return net, checkpoint.limit, None
