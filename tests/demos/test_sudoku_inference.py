"""Sudoku by the inference library: search, rounding, joint decoding of images, and what the layer has learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demos.sudoku.boards import obeys_rules
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.config import PRESETS
from demos.sudoku.data import domains_of, encode, load_split, to_boards, to_values
from demos.sudoku.evaluation import evaluate_joint, read_jointly, round_best, round_then_search, search
from demos.sudoku.generator import generate
from demos.sudoku.images import ImageBoards
from demos.sudoku.model import SudokuNet, VisualNet, build, restore, satnet_of
from demos.sudoku.rules import changed_boards, couplings, exclusions, measure, rules_png
from difflayers.inference import learnt_objective

ROOT = Path(__file__).parents[2]


def load(trained: Path) -> tuple[SudokuNet, float, Any]:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.limit is not None
    return satnet_of(restore(checkpoint)), checkpoint.limit, load_split(checkpoint.config)[1]


def load_large() -> tuple[SudokuNet, float]:
    checkpoint = load_checkpoint(ROOT / "demos" / "sudoku" / "results" / "original-9x9")
    assert checkpoint.limit is not None
    return satnet_of(restore(checkpoint)), checkpoint.limit


def test_given_cells_are_kept(trained: Path) -> None:
    net, _, boards = load(trained)
    found = search(net, boards.puzzles, -1.0, paths=2)  # nothing is accepted
    assert not found.accepted.any() and (found.paths == 2).all()
    answers, given = to_boards(found.values), boards.puzzles != 0
    assert (answers[given] == boards.puzzles[given]).all() and answers.all()


def test_search_solves_more_than_one_pass(trained: Path) -> None:
    net, limit, _ = load(trained)
    hard = generate(2, 4, 60, seed=11)
    puzzles = torch.from_numpy(hard.puzzles)
    one_pass = net.predict(puzzles, generator=torch.Generator().manual_seed(0)).numpy()
    found = search(net, hard.puzzles, limit, paths=20)
    answers = to_boards(found.values)
    assert (answers == hard.solutions).all(1).mean() > (one_pass == hard.solutions).all(1).mean() + 0.1
    assert obeys_rules(answers[found.accepted.numpy()]).mean() > 0.85  # two epochs have not taught it everything
    again = search(net, hard.puzzles, limit, paths=20)
    assert torch.equal(again.values, found.values) and torch.equal(again.paths, found.paths)


def test_search_on_permuted_bits_is_that_on_the_bits_in_order(trained: Path) -> None:
    net, limit, boards = load(trained)
    permutation = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    checkpoint = load_checkpoint(trained)
    shuffled = SudokuNet(2, aux=net.layer.aux, m=net.layer.m, k=net.layer.k, permutation=permutation)
    shuffled.layer.S.data[0], shuffled.layer.S.data[65:] = (
        checkpoint.model["layer.S"][0],
        checkpoint.model["layer.S"][65:],
    )
    shuffled.layer.S.data[1:65] = checkpoint.model["layer.S"][1:65][permutation]
    plain, found = (search(each, boards.puzzles[:20], limit, paths=3) for each in (net, shuffled))
    assert torch.equal(plain.values, found.values) and torch.equal(plain.objective, found.objective)
    assert plain.accepted.any()


def test_the_trained_layer_knows_a_solved_board() -> None:
    """The 9x9 weights of the project, on boards of another source: solved ones are accepted, one wrong cell is not."""
    net, limit = load_large()
    boards = to_values(generate(3, 30, 20, seed=5).solutions)[0]
    wrong = boards.clone()
    wrong[:, 40] = (wrong[:, 40] + 1) % 9
    layer, domains = net.board_layer(), domains_of(3)
    assert (learnt_objective(layer, domains, boards) <= limit).all()
    assert (learnt_objective(layer, domains, wrong) > limit).all()


def test_search_takes_over_what_rounding_leaves() -> None:
    net, limit = load_large()
    boards = generate(3, 28, 12, seed=5)
    one = round_best(net, boards.puzzles, limit, roundings=1)
    both = round_then_search(net, boards.puzzles, limit, roundings=1, paths=3, starts=4, seed=0)
    kept = one.accepted
    assert both.accepted.sum() > kept.sum() > 0
    assert torch.equal(both.values[kept], one.values[kept]) and torch.equal(both.passes[kept], one.passes[kept])
    right = torch.from_numpy((to_boards(both.values) == boards.solutions).all(1))
    assert right[both.accepted].all()
    assert (both.paths[kept] == 1).all() and (both.paths[~kept] > 1).all()


# --- joint decoding -----------------------------------------------------------------------------------------


def test_a_misread_digit_is_corrected(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver, _, _ = load(trained)
    net = VisualNet(solver)
    boards = generate(2, 9, 20, seed=4)
    # Tighter than what the run has set, as two epochs have not taught it everything.
    objective = learnt_objective(solver.board_layer(), domains_of(2), to_values(boards.solutions)[0])
    limit = float(objective.max()) + 1e-3
    given = boards.puzzles != 0
    picks = np.full(given.shape, -1, np.int32)
    picks[given] = np.arange(given.sum())[::-1]  # an image for each, in another order than that of the cells
    images = ImageBoards(boards.puzzles, boards.solutions, torch.zeros(given.sum(), 28, 28, dtype=torch.uint8), picks)
    seen = torch.nn.functional.one_hot(torch.from_numpy(boards.puzzles).long(), 5)[..., 1:] * 0.98 + 0.005
    first = (boards.puzzles != 0).argmax(1)
    for b, cell in enumerate(first):  # in each board the first given cell is misread, and the right digit comes second
        digit = int(boards.puzzles[b, cell]) - 1
        seen[b, cell] = torch.tensor([0.1, 0.1, 0.1, 0.1])
        seen[b, cell, digit], seen[b, cell, (digit + 1) % 4] = 0.3, 0.5
    read = seen[torch.from_numpy(given)].flip(0)
    parts = iter(read.split(8))
    monkeypatch.setattr(net.reader, "probabilities", lambda _: next(parts))
    found = read_jointly(net, images, limit, readings=10, paths=1, batch_size=8)
    right = torch.from_numpy((to_boards(found.values) == boards.solutions).all(1))
    assert right.double().mean() > 0.7
    assert right[found.accepted].double().mean() > 0.9
    assert set(found.paths[right].tolist()) <= {2, 3, 4}
    parts = iter(read.split(1000))
    row, _ = evaluate_joint(net, images, limit, readings=10, paths=1, seed=0)
    assert row["boards wholly right"] == float(right.double().mean())
    with pytest.raises(ValueError, match="wanted one that reads images"):
        read_jointly(solver, images, limit, readings=1, paths=1)


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
