"""Readers of images of digits: taught with the labels of the given cells, or with those of the blank cells alone."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from demos.sudoku.__main__ import main
from demos.sudoku.boards import obeys_rules
from demos.sudoku.data import domains_of, read_csv, write_csv
from demos.sudoku.extraction import compare, learn_rules
from demos.sudoku.generator import generate
from demos.sudoku.images import ImageBoards, load_pool, with_images
from demos.sudoku.model import DigitReader
from demos.sudoku.reading.grounding import (
    Occurrences,
    boards_as_read,
    correct,
    count_rules,
    group,
    name_groups,
    plausible,
    refuted,
    surest_boards,
)
from demos.sudoku.reading.options import ReadingConfig
from demos.sudoku.reading.training import distort, load_reader, look, save_reader, train_reader
from difflayers.inference import Rules


@pytest.fixture(scope="module")
def boards() -> ImageBoards:
    """4x4 boards of scikit-learn's digits."""
    return with_images(generate(2, 7, 400, seed=3), load_pool("digits", train=True), seed=0)


def truth_of(seen: Occurrences, boards: ImageBoards) -> np.ndarray:
    truth = np.zeros(len(seen.images), np.int64)
    truth[seen.image] = boards.puzzles[seen.board, seen.cell] - 1
    return truth


def test_no_given_digit_is_known(boards: ImageBoards) -> None:
    """What is learnt from is the same whatever the given cells hold."""
    seen = Occurrences.of(boards)
    given = boards.puzzles != 0
    hidden = np.where(given, 1, boards.solutions).astype(np.int8)
    other = Occurrences.of(ImageBoards(np.where(given, 1, 0).astype(np.int8), hidden, boards.pool, boards.picks))
    for name in ("images", "board", "cell", "image", "blank_labels"):
        assert np.array_equal(np.asarray(getattr(seen, name)), np.asarray(getattr(other, name))), name
    assert (seen.blank_labels[given] == 0).all()
    assert np.array_equal(seen.boards(truth_of(seen, boards)), boards.solutions)


def test_groups_are_named_by_the_blank_cells(boards: ImageBoards) -> None:
    seen = Occurrences.of(boards)
    truth = truth_of(seen, boards)
    order = np.array([2, 0, 3, 1])  # groups are numbered as they come
    assert np.array_equal(name_groups(seen, order[truth]), truth)
    features = (seen.images.reshape(len(seen.images), -1).float() / 255).numpy()
    names = name_groups(seen, group(features, 20, 0))
    assert (names == truth).mean() > 0.95
    assert np.array_equal(names, name_groups(seen, group(features, 20, 0)))


def test_rules_correct_names(boards: ImageBoards) -> None:
    seen = Occurrences.of(boards)
    truth = truth_of(seen, boards)
    rules = learn_rules(None, boards.solutions)
    against = refuted(seen, rules)
    assert (against[np.arange(len(truth)), truth] == 0).all()
    rng = np.random.default_rng(0)
    names = np.where(rng.random(len(truth)) < 0.1, (truth + 1) % 4, truth)
    read = np.full((len(truth), 4), 0.05)
    read[np.arange(len(truth)), names] = 0.85
    corrected = correct(seen, read, rules)
    assert (corrected == truth).mean() > 0.97 > (names == truth).mean()
    # As the images were named at first, many boards break a rule, and those that break none are right.
    kept = boards_as_read(seen, boards.puzzles, names, rules)
    assert 0 < len(kept) < 0.7 * len(boards) and obeys_rules(kept.solutions).all()
    assert len(boards_as_read(seen, boards.puzzles, truth, rules)) == len(boards)


def test_boards_with_wrong_names_are_not_counted_in(boards: ImageBoards) -> None:
    seen = Occurrences.of(boards)
    truth = truth_of(seen, boards)
    names = np.where(np.random.default_rng(1).random(len(truth)) < 0.01, (truth + 1) % 4, truth)
    read = seen.boards(names)
    wrong = (read != boards.solutions).any(1)
    assert 0.02 < wrong.mean() < 0.2
    assert np.array_equal(plausible(read), ~wrong) and plausible(boards.solutions).all()
    total, held, others = compare(count_rules(read), 2)
    assert held == total and others == compare(learn_rules(None, boards.solutions), 2)[2]
    assert compare(learn_rules(None, read), 2)[1] < total


def test_refuted_counts_cells() -> None:
    """One board, one rule: an image beside a 2 in the next cell is no 2."""
    puzzle = np.zeros((1, 16), np.int8)
    puzzle[0, 0] = 3
    solution = generate(2, 8, 1, seed=0).solutions
    picks = np.where(puzzle > 0, 0, -1).astype(np.int32)
    seen = Occurrences.of(ImageBoards(puzzle, solution, torch.zeros(1, 28, 28, dtype=torch.uint8), picks))
    digit = int(solution[0, 1])
    rules = Rules.from_clauses(domains_of(2), [[-digit, -(4 + digit)], [-(digit % 4 + 1), -(4 + digit % 4 + 1)]])
    assert np.array_equal(refuted(seen, rules)[0], np.eye(4)[digit - 1])


def test_surest_boards(boards: ImageBoards) -> None:
    seen = Occurrences.of(boards)
    read = np.full((len(seen.images), 4), 0.1)
    read[:, 0] = 0.7
    doubtful = seen.image[seen.board == 5][0]
    read[doubtful] = 0.25
    with_it = set(seen.board[seen.image == doubtful].tolist())
    chosen = surest_boards(seen, read, 1 - len(with_it) / len(boards))
    assert with_it.isdisjoint(chosen.tolist()) and len(chosen) == len(boards) - len(with_it)


def test_a_reader_is_kept_and_looks_several_times(tmp_path: Path, boards: ImageBoards) -> None:
    seen = Occurrences.of(boards)
    truth = truth_of(seen, boards)
    config = ReadingConfig(batch_size=32, lr=5e-3)
    reader = train_reader(seen.images, truth, 4, config, epochs=2)
    again = train_reader(seen.images, truth, 4, config, epochs=2)
    assert all(
        torch.equal(a, b) for a, b in zip(reader.state_dict().values(), again.state_dict().values(), strict=True)
    )
    read, features = look(reader, seen.images)
    assert (read.argmax(1).numpy() == truth).mean() > 0.9
    torch.testing.assert_close(reader.body[-1](features).softmax(1), read)
    save_reader(reader, tmp_path / "reader", config, 4)
    loaded, how = load_reader(tmp_path / "reader", 4)
    assert how == config
    images = seen.images[:5].float() / 255
    moved = [reader(images.roll((i, j), (1, 2))).softmax(1) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    torch.testing.assert_close(loaded.probabilities(images), torch.stack(moved).mean(0))
    torch.testing.assert_close(reader.probabilities(images), reader(images).softmax(1))
    with pytest.raises(ValueError, match=r"--reader: .* it reads the digits 1 to 4, wanted 1 to 9"):
        load_reader(tmp_path / "reader", 9)
    with pytest.raises(ValueError, match=r"--reader: no file .*; `python -m demos.sudoku reader` makes one"):
        load_reader(tmp_path / "none", 4)
    with pytest.raises(ValueError, match="--groups: got 1, wanted 2 or more"):
        replace(config, groups=1)


def test_distorted_images_are_different_and_alike(boards: ImageBoards) -> None:
    images = boards.pool[:50].float() / 255
    one, other = (distort(images, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert one.shape == images.shape and not torch.allclose(one, other)
    assert 0 <= float(one.min()) and float(one.max()) <= 1 + 1e-6
    assert float((one.mean((1, 2)) / images.mean((1, 2)) - 1).abs().mean()) < 0.2


def test_from_the_command_line(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reader taught with no label of a given cell, then put before a layer."""
    write_csv(generate(2, (6, 8), 420, seed=9), tmp_path / "data.csv.gz")
    output = tmp_path / "reader"
    options = ["--box", "2", "--data", str(tmp_path / "data.csv.gz"), "--train", "400", "--test", "20"]
    learn = [*options, "--images", "digits", "--groups", "30", "--batch-size", "32", "--output", str(output)]
    assert main(["reader", *learn, "--labels", "none", "--epochs", "6", "--naming-epochs", "4"]) == 0
    with open(output / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-2]["training images right"]) > 0.98 and float(rows[-1]["test images right"]) > 0.9
    as_read = read_csv(output / "boards.csv.gz", 2)
    assert 350 < len(as_read) <= 400
    assert main(["reader", *learn]) == 2
    assert "already holds reader.safetensors; pass --overwrite" in capsys.readouterr().err
    test = ["eval", str(trained), "--data", str(tmp_path / "data.csv.gz"), "--test", "20"]
    joint = ["--joint", "--search", "--paths", "1", "--solutions", str(output / "boards.csv.gz"), "--rules-alone"]
    reader = ["--reader", str(output / "reader.safetensors"), "--draws", "2"]
    assert main([*test, *reader, *joint, "--append", str(tmp_path / "joint.csv")]) == 0
    with open(tmp_path / "joint.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["boards"].startswith("40 boards, 2 draws of the images for 20 boards from")
    assert row["boards"].endswith("reader of seed 0") and float(row["boards wholly right"]) > 0.7
    capsys.readouterr()
    assert main([*test, "--draws", "2"]) == 2
    assert "--draws: got 2 for boards without images" in capsys.readouterr().err


def test_a_reader_taught_with_labels(tmp_path: Path) -> None:
    options = ["--box", "2", "--images", "digits", "--train", "60", "--test", "10", "--epochs", "12"]
    assert main(["reader", *options, "--batch-size", "16", "--output", str(tmp_path)]) == 0
    assert not (tmp_path / "boards.csv.gz").exists()
    with open(tmp_path / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test images right"]) > 0.85
    assert isinstance(load_reader(tmp_path / "reader.safetensors", 4)[0], DigitReader)
