"""The command line."""

from __future__ import annotations

import csv
import errno
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_cuda import Cuda

from demos.sudoku.__main__ import COMMANDS, main
from demos.sudoku.boards import Boards, format_line, obeys_rules, parse_board
from demos.sudoku.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from demos.sudoku.config import TrainConfig
from demos.sudoku.data import load_split, read_csv, read_puzzles, write_csv
from demos.sudoku.generator import generate
from demos.sudoku.train import CURVE_NAME, Trainer, start_weights

ROOT = Path(__file__).parents[2]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
QUICK = [
    *("--givens", "7-10", "--train", "360", "--test", "60", "--epochs", "2"),
    *("--batch-size", "10", "--lr", "0.008", "--seed", "5"),
]
"""Makes a run of the same configuration as the fixture ``trained``."""


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with exit status 2 and one line; return that line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("python -m demos.sudoku: error: ")
    return captured.err


# --- help ---------------------------------------------------------------------------------------------------


def test_help_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "demos.sudoku", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("usage: python -m demos.sudoku", "Examples:", *(f"• {command} " for command in COMMANDS)):
        assert word in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert f"usage: python -m demos.sudoku {command}" in text
    assert "(default: " in text
    if command in ("demo", "train"):
        assert f"(default: {600 if command == 'train' else 80})" in text
    assert "None" not in text


def test_help_of_train_for_4x4_boards(capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults are those of the boards' size, and of the output too."""
    assert main(["train", "--box", "2", "--resume", "--help"]) == 0
    text = capsys.readouterr().out
    assert "(default: 80)" in text and "(default: runs/train-4x4)" in text and "600" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_read_without_torch(command: str) -> None:
    code = f"import sys; from demos.sudoku.__main__ import main; sys.argv[1:] = ['{command}', '--help']"
    code += "; main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "Unrecognized options: tarin"),
        (["train", "--box", "5"], "invalid choice '5' for argument '--box'"),
        (["train", "--epochs", "0"], "--epochs: got 0, wanted 1 or more"),
        (["demo", "--epochs", "0"], "--epochs: got 0, wanted 1 or more"),
        (["train", "--nonsense", "4"], "Unrecognized options: --nonsense"),
        (["generate", "--givens", "few"], "Error parsing --givens: got 'few', wanted a number such as 34"),
        (["solve", "1" * 16], "--checkpoint"),
        (["--nonsense"], "Unrecognized options: --nonsense"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(arguments, capsys)


# --- the quick demo -----------------------------------------------------------------------------------------


def test_demo_in_short(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command means the demo; it shows a board and may replace itself, but nothing else."""
    monkeypatch.chdir(tmp_path)
    assert main(QUICK) == 0
    out = capsys.readouterr().out
    output = tmp_path / "runs" / "sudoku-4x4"
    history = load_checkpoint(output).history
    assert history[-1].boards_right == load_checkpoint(trained).history[-1].boards_right
    assert "completed by the network" in out
    assert "(checked by the rules, which the network was never told)" in out
    assert f"Of the unseen boards: {round(60 * history[-1].boards_right)} of 60 boards wholly right" in out
    assert "144 never occur in training" in out
    assert "The learnt objective accepts it" in out and re.search(r"with the rules, [5-9] come out wholly right", out)
    assert "scikit-learn's digits" in out and "MNIST is not in data/mnist" in out
    assert (output / CURVE_NAME).exists()

    assert main(["--epochs", "1", "--train", "40", "--test", "20"]) == 0
    assert "replacing the earlier demo" in capsys.readouterr().out
    assert len(load_checkpoint(output).history) == 2

    shutil.copy(trained / CHECKPOINT_NAME, output)  # made by `train`
    assert "already holds" in fails(["demo", "--epochs", "1"], capsys)


@pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST in ../shared/data")
def test_demo_reads_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--output", str(tmp_path), "--mnist-root", str(MNIST)]) == 0
    out = capsys.readouterr().out
    assert "MNIST's test images" in out and re.search(r"with the rules, (9|10) come out wholly right", out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_solves_unseen_boards(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--seed", str(seed)]) == 0
    assert load_checkpoint(tmp_path).history[-1].boards_right > 0.99
    assert "It obeys the rules of Sudoku" in capsys.readouterr().out


# --- train --------------------------------------------------------------------------------------------------


def test_train_from_a_file(
    trained: Path, small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file with the same boards comes the same run."""
    train, test = load_split(small)
    data = tmp_path / "boards.csv.gz"
    boards = Boards(np.concatenate([train.puzzles, test.puzzles]), np.concatenate([train.solutions, test.solutions]))
    write_csv(boards, data)
    options = ["--box", "2", "--data", str(data), *QUICK[2:]]
    assert main(["train", *options, "--output", str(tmp_path / "run")]) == 0
    assert "the first 360 to train on, the last 60 to test on" in capsys.readouterr().out
    ours, theirs = load_checkpoint(tmp_path / "run").history, load_checkpoint(trained).history
    assert [row.test_loss for row in ours] == [row.test_loss for row in theirs]


def test_train_overwrites_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "train",
        "--box",
        "2",
        "--train",
        "40",
        "--test",
        "20",
        "--epochs",
        "1",
        "--output",
        str(tmp_path),
    ]
    assert main(options) == 0
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    capsys.readouterr()
    message = fails([*options, "--seed", "1"], capsys)
    assert f"{tmp_path} already holds {CHECKPOINT_NAME}; pass --resume to continue that run, --overwrite" in message
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before
    assert main([*options, "--seed", "1", "--overwrite"]) == 0
    assert load_checkpoint(tmp_path).config.seed == 1
    capsys.readouterr()
    assert "wanted one" in fails([*options, "--resume", "--overwrite"], capsys)


def test_overwriting_replaces_a_run_once_the_new_one_is_on_disk(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = ["train", "--box", "2", "--train", "40", "--test", "20", "--output", str(tmp_path), "--overwrite"]
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        assert main(options) == 2
        assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # A kill in the first epoch leaves the new run to be resumed.
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_: sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        main(options)
    assert load_checkpoint(tmp_path).config.train == 40


def test_interrupted_training_says_how_to_resume(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_batch = Trainer._train_batch

    def interrupt(self: Trainer, *boards: object) -> float:
        if self.step == 50:
            raise KeyboardInterrupt
        return train_batch(self, *boards)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", interrupt)
        assert main(["train", "--box", "2", *QUICK, "--output", str(tmp_path)]) == 130
    command = f"train --resume --output {tmp_path}"
    assert f"resume after epoch 1 with: python -m demos.sudoku {command}" in capsys.readouterr().err
    assert main(command.split()) == 0
    assert f"resuming the run in {tmp_path} after epoch 1 of 2" in capsys.readouterr().out
    ours, theirs = load_checkpoint(tmp_path).history, load_checkpoint(trained).history
    assert [row.test_loss for row in ours] == [row.test_loss for row in theirs]


def test_resuming_keeps_the_options(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    resume = ["train", "--resume", "--output", str(tmp_path)]
    message = fails([*resume, "--batch-size", "50"], capsys)
    assert "--batch-size: got 50, but the run in" in message
    assert "was started with 10; leave it out to resume" in message
    assert "--givens: got 4-8" in fails([*resume, "--givens", "4-8"], capsys)
    assert main([*resume, "--box", "2", *QUICK]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data missing.csv", "missing.csv: cannot be read: No such file or directory"),
        ("--data missing.csv --givens 30", "--givens: got it together with --data"),
        ("--givens 12", "givens: got 12, wanted 22 to 80"),
        ("--m 0", "--m: got 0, wanted 1 or more"),
        ("--lr -1", "--lr: got -1.0, wanted a positive number"),
        ("--threads 0", "--threads: got 0, wanted 1 or more"),
        ("--resume", "checkpoint: no file runs/train-9x9"),
    ],
)
def test_train_errors(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "fit", lambda _: pytest.fail("it trains"))
    capsys.readouterr()
    assert main(["train", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_interrupted_training_goes_on_on_cuda(
    cuda: Cuda, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_batch = Trainer._train_batch

    def interrupt(self: Trainer, *boards: object) -> float:
        if self.step == 50:
            raise KeyboardInterrupt
        return train_batch(self, *boards)  # type: ignore[arg-type]

    out = ["--output", str(tmp_path), "--device", "cuda"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", interrupt)
        assert main(["train", "--box", "2", *QUICK, *out]) == 130
    assert main(["train", "--resume", *out]) == 0 and cuda.used()
    if cuda.exact:
        ours, theirs = load_checkpoint(tmp_path), load_checkpoint(trained)
        assert [row.test_loss for row in ours.history] == [row.test_loss for row in theirs.history]
        assert all(torch.equal(weights, theirs.model[name]) for name, weights in ours.model.items())


@pytest.mark.parametrize(
    "options",
    [
        ["--images", "digits"],
        ["--network", "convnet-mask", "--layers", "2", "--filters", "8"],
        ["--masks", "7-10", "--decimation", "2", "--permuted"],
    ],
)
def test_other_trainings_on_cuda(cuda: Cuda, options: list[str], tmp_path: Path) -> None:
    few = ["--train", "40", "--test", "20", "--epochs", "1", "--batch-size", "10"]
    for device in ("cpu", "cuda"):
        command = ["train", "--box", "2", *few, *options, "--device", device, "--output", str(tmp_path / device)]
        assert main(command) == 0
    cpu, there = (load_checkpoint(tmp_path / device).model for device in ("cpu", "cuda"))
    assert all(weights.isfinite().all() for weights in there.values())
    if cuda.exact:
        assert all(torch.equal(weights, cpu[name]) for name, weights in there.items())
    if "digits" in options:
        assert main(["eval", str(tmp_path / "cuda"), "--joint", "--device", "cuda"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["eval", "RUN"],
        ["eval", "RUN", "--search", "--paths", "3"],
        ["eval", "RUN", "--rounding", "2"],
        ["eval", "RUN", "--rounding", "1", "--search", "--paths", "2"],
        ["solve", "1...............", "--checkpoint", "RUN"],
        ["solve", "1...............", "--checkpoint", "RUN", "--search"],
    ],
)
def test_eval_and_solve_on_cuda(
    cuda: Cuda, options: list[str], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(trained) if option == "RUN" else option for option in options]
    status = main(command)
    cpu = capsys.readouterr().out
    assert not cuda.used()
    assert main([*command, "--device", "cuda"]) == status or not cuda.exact
    there = capsys.readouterr().out
    assert cuda.used()
    if cuda.exact:
        timed = re.compile("milliseconds.*")
        assert timed.sub("", there) == timed.sub("", cpu)


def test_training_that_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trainer, "_train_batch", lambda *_: float("inf"))
    assert main(["train", "--box", "2", *QUICK, "--output", str(tmp_path)]) == 1
    assert "the loss is inf in epoch 1, batch 1: try a lower learning rate" in capsys.readouterr().err


# --- eval ---------------------------------------------------------------------------------------------------


def test_eval_of_the_runs_own_boards(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(trained)]) == 0
    out = capsys.readouterr().out
    last = load_checkpoint(trained).history[-1]
    assert "the 60 test boards of the run;\n0 of them have the solution of a training board" in out
    assert re.search(rf"boards wholly right +{last.boards_right:.2%}", out)
    assert re.search(rf"blank cells right +{last.blank_cells_right:.2%}", out)


def test_eval_of_other_boards(
    trained: Path, small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(trained / CHECKPOINT_NAME), "--givens", "7", "--count", "50"]) == 0
    out = capsys.readouterr().out
    assert "50 generated boards, 7 of 16 cells given;\n0 of them have the solution of a training board" in out

    data = tmp_path / "boards.csv"
    train, _ = load_split(small)
    write_csv(train, data)
    assert main(["eval", str(trained), "--data", str(data), "--test", "30"]) == 0
    out = capsys.readouterr().out
    assert f"30 boards from {data};\n30 of them have the solution of a training board" in out

    assert "wanted 1 to 360" in fails(["eval", str(trained), "--data", str(data), "--test", "361"], capsys)
    assert "got both" in fails(["eval", str(trained), "--data", str(data), "--givens", "7"], capsys)
    assert "no file" in fails(["eval", str(tmp_path)], capsys)
    assert "--batch-size: got 0" in fails(["eval", str(trained), "--batch-size", "0"], capsys)


def test_eval_of_generated_boards_knows_the_held_out_grids(
    trained: Path, small: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever --seed: the seed of the run says which grids training never saw."""
    for seed in ("5", "6", "7"):
        assert main(["eval", str(trained), "--givens", "7-10", "--count", "40", "--seed", seed]) == 0
        assert "\n0 of them have the solution of a training board" in capsys.readouterr().out


def test_eval_when_the_boards_have_changed(
    small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "boards.csv"
    write_csv(generate(2, (7, 10), 60, seed=1), data)
    options = ["--box", "2", "--data", str(data), "--train", "40", "--test", "20", "--epochs", "1"]
    assert main(["train", *options, "--output", str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 0
    write_csv(generate(2, (7, 10), 60, seed=2), data)
    capsys.readouterr()
    assert "no longer gives the boards of the run" in fails(["eval", str(tmp_path / "run")], capsys)
    assert main(["eval", str(tmp_path / "run"), "--givens", "8", "--count", "20"]) == 0
    assert "whether it saw some of these is unknown" in capsys.readouterr().out


# --- solve --------------------------------------------------------------------------------------------------


def test_solve_a_puzzle(trained: Path, small: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    easy = generate(2, 12, 1, seed=8)
    status = main(["solve", format_line(easy.puzzles[0]), "--checkpoint", str(trained)])
    out = capsys.readouterr().out
    assert status == 0
    assert "It obeys the rules of Sudoku (checked by the rules, which the network was never told)." in out
    drawn = [line.split("    ")[-1] for line in out.splitlines()[1:6]]
    digits = "".join(re.findall(r"\d", "".join(line[-12:] for line in drawn)))
    assert digits == format_line(easy.solutions[0])


def test_solve_says_when_the_rules_are_broken(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("demos.sudoku.model.BitNet.predict", lambda _, puzzles, **__: puzzles * 0 + 1)
    assert main(["solve", "1...............", "--checkpoint", str(trained)]) == 1
    assert "It breaks the rules of Sudoku (checked by the rules" in capsys.readouterr().out


def test_solve_a_file(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards = generate(2, (8, 10), 30, seed=9)
    path, answers = tmp_path / "puzzles.csv", tmp_path / "answers.csv"
    write_csv(boards, path)
    status = main(["solve", str(path), "--checkpoint", str(trained)])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "puzzle,answer,obeys the rules"
    rows = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in rows] == [format_line(puzzle) for puzzle in boards.puzzles]
    obeying = [bool(obeys_rules(parse_board(row[1]))) for row in rows]
    assert [row[2] == "yes" for row in rows] == obeying
    assert sum(obeying) > 20
    assert f"{sum(obeying)} of 30 answers obey the rules" in captured.err
    assert status == (0 if all(obeying) else 1)

    assert main(["solve", str(path), "--checkpoint", str(trained), "--output", str(answers)]) == status
    assert [line.rsplit(",", 1)[0] for line in lines[1:]] == answers.read_text().splitlines()[1:]
    capsys.readouterr()
    solve = ["solve", str(path), "--checkpoint", str(trained), "--output", str(answers)]
    assert "exists; pass --overwrite to replace it" in fails(solve, capsys)


@pytest.mark.parametrize(
    ("puzzle", "message"),
    [
        ("12", "PUZZLE|FILE: neither a file nor a puzzle: 2 characters in '12'"),
        ("11..............", "PUZZLE: it gives a digit twice in a row, column or box"),
        ("." * 81, "got 81 cells, wanted 16: the network in"),
    ],
)
def test_solve_errors(trained: Path, puzzle: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(["solve", puzzle, "--checkpoint", str(trained)], capsys)


def test_solve_output_wants_a_file_of_puzzles(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solve = ["solve", "." * 16, "--checkpoint", str(trained), "--output", str(tmp_path / "a")]
    assert "--output: got it with a single puzzle" in fails(solve, capsys)


# --- search and rules ---------------------------------------------------------------------------------------


def test_eval_with_search(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    options = [
        "eval",
        str(trained),
        "--givens",
        "4",
        "--count",
        "40",
        "--search",
        "--append",
        str(table),
    ]
    for paths in ("1", "20"):
        assert main([*options, "--paths", paths]) == 0
    shown = capsys.readouterr().out
    assert "search, at most 20 paths" in shown
    with open(table, newline="") as file:
        one, many = csv.DictReader(file)
    assert one["boards"] == "40 generated boards, 4 of 16 cells given"
    assert float(one["mean paths a board"]) == 1 < float(many["mean paths a board"])
    assert float(many["answers accepted"]) > float(one["answers accepted"])
    *_, last = many["accepted within so many paths"].split(", ")
    assert last == f"20: {float(many['answers accepted']):.1%}" and "10: " in many["accepted within so many paths"]
    for row in (one, many):  # accepted, less those wrongly so, and those wrongly not: the right ones
        right = (
            40 * float(row["answers accepted"]) - int(row["accepted, and wrong"]) + int(row["not accepted, but right"])
        )
        assert right == pytest.approx(40 * float(row["boards wholly right"]), abs=0.1)
    without = [*options[:-3], "--append", str(table)]
    assert main(without) == 2
    told = capsys.readouterr()
    assert "--append: " in told.err and not told.out  # before the work


@pytest.mark.parametrize("method", [[], ["--search", "--paths", "1"]])
def test_eval_tells_the_failures_and_the_shares_by_givens(
    trained: Path, method: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, total = tmp_path / "failures.csv", tmp_path / "total.csv"
    eval_ = ["eval", str(trained), "--givens", "4-6", "--count", "60", *method, "--failures", str(table)]
    assert main([*eval_, "--append", str(total)]) == 0
    out = capsys.readouterr().out
    with open(table, newline="") as file:
        failures = list(csv.DictReader(file))
    with open(total, newline="") as file:
        (row,) = csv.DictReader(file)
    assert len(failures) == round(60 * (1 - float(row["boards wholly right"]))) < 60
    assert failures or method  # by search all are right
    assert f"{len(failures)} boards that are not wholly right: {table}" in out
    shares = {
        int(g): (int(n), float(p.rstrip("%"))) for g, n, p in re.findall(r"^ +(\d) +(\d+) +([\d.]+%)$", out, re.M)
    }
    assert sum(n for n, _ in shares.values()) == 60
    for givens, (count, percent) in shares.items():
        wrong = [f for f in failures if int(f["givens"]) == givens == 16 - f["puzzle"].count("0")]
        assert percent == pytest.approx(100 * (1 - len(wrong) / count), abs=0.06)
    for failure in failures:
        pairs = zip(failure["answer"], failure["solution"], strict=True)
        assert int(failure["wrong cells"]) == sum(a != s for a, s in pairs) > 0
        assert failure["accepted"] in (("yes", "no") if method else ("",))
    assert main(eval_) == 2
    assert "--failures" in capsys.readouterr().err
    assert main([*eval_, "--overwrite"]) == 0


def test_eval_with_rounding(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    options = ["eval", str(trained), "--givens", "5", "--count", "40", "--append", str(table)]
    assert main([*options, "--rounding", "1"]) == 0
    assert main([*options, "--rounding", "8"]) == 0
    assert main([*options, "--rounding", "1", "--search", "--paths", "4"]) == 0
    assert "at most 1 roundings, local search; then search, at most 4 paths" in capsys.readouterr().out
    with open(table, newline="") as file:
        one, many, both = csv.DictReader(file)
    assert float(both["answers accepted"]) > float(one["answers accepted"])
    assert float(many["answers accepted"]) > float(one["answers accepted"])
    assert 1 == float(one["mean paths a board"]) < float(many["mean paths a board"]) <= 8
    assert many["accepted within so many paths"].startswith(f"1: {float(one['answers accepted']):.1%}, ")


def test_eval_refuses_what_does_not_fit(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--joint"], "--joint: the network reads no images"),
        (["--search", "--paths", "0"], "--paths: got 0, wanted 1 or more"),
        (["--rounding", "0"], "--rounding: got 0, wanted 1 or more"),
        (["--rounding", "2", "--joint"], "--rounding, --joint: got both"),
        (["--search", "--rules-alone"], "--rules-alone: got it without --solutions"),
        (["--search", "--margin", "3"], "--margin: got it without --joint"),
        (["--joint", "--margin", "-1"], "--margin: got -1.0, wanted a finite number of 0 or more"),
        (["--joint", "--margin", "nan"], "--margin: got nan"),
    ):
        assert main(["eval", str(trained), "--givens", "8", "--count", "2", *options]) == 2
        assert message in capsys.readouterr().err


def test_without_a_limit_nothing_is_accepted(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / CHECKPOINT_NAME, replace(load_checkpoint(trained), limit=None))
    puzzle = format_line(generate(2, 10, 1, seed=8).puzzles[0])
    assert main(["solve", puzzle, "--checkpoint", str(tmp_path), "--search", "--paths", "1"]) == 0
    assert "has no limit up to which it accepts" in capsys.readouterr().out


def test_generate_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "source.csv", tmp_path / "more.csv"
    write_csv(generate(2, 5, 6, seed=3), source)
    options = ["generate", "--box", "2", "--from", str(source), "--givens", "6-8"]
    assert main([*options, "--count", "6", "--output", str(output)]) == 0
    assert read_csv(output, 2).givens.tolist() == [6, 7, 8, 6, 7, 8]
    capsys.readouterr()
    assert "wanted 1 to 6" in fails([*options, "--count", "7"], capsys)


def test_search_with_extracted_rules(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards, table = tmp_path / "boards.csv", tmp_path / "table.csv"
    write_csv(generate(2, 5, 200, seed=3), boards)
    options = ["eval", str(trained), "--givens", "4", "--count", "40", "--solutions", str(boards)]
    assert main([*options, "--search", "--append", str(table)]) == 0
    capsys.readouterr()
    with open(table, newline="") as file:
        (row,) = csv.DictReader(file)
    assert re.fullmatch(r"search, at most 30 paths, \d+ rules", row["method"])
    assert float(row["boards wholly right"]) == 1 and row["accepted, and wrong"] == "0"
    assert main([*options, "--search", "--rules-alone"]) == 0
    assert re.search(r"search, at most 30 paths, \d+ rules, judged by these alone", capsys.readouterr().out)
    for wrong in ([], ["--search", "--rounding", "3"]):
        assert "--solutions: got it with --rounding, or without" in fails([*options, *wrong], capsys)


def test_solve_with_search(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    easy = generate(2, 10, 1, seed=8)
    assert main(["solve", format_line(easy.puzzles[0]), "--checkpoint", str(trained), "--search"]) == 0
    assert "The network's own objective accepts it." in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--max-iter", "7"], ["--eps", "0.5"]])
def test_search_decides_how_far_to_solve(option: list[str], trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solve = ["solve", "1" + 15 * ".", "--checkpoint", str(trained), "--search", *option]
    assert f"{option[0]}: got it with --search" in fails(solve, capsys)


def test_rules(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "rules.png"
    assert main(["rules", str(trained), "--count", "20", "--output", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "320 pairs of bits exclude each other" in shown and "average precision" in shown
    assert "solved" in shown and "two cells exchanged" in shown
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "exists; pass --overwrite" in fails(["rules", str(trained), "--output", str(picture)], capsys)


def test_puzzles_are_solved_by_extracted_rules(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boards, table = tmp_path / "boards.csv", tmp_path / "table.csv"
    write_csv(generate(2, 5, 20, seed=3), boards)
    assert main(["exact", str(trained), str(boards), "--append", str(table)]) == 0
    assert "320 of the 320 pairs of bits" in capsys.readouterr().out
    with open(table, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["boards"] == "20 boards from boards.csv" and row["rules from"] == "360"
    assert (row["boards wholly right"], row["answers, and wrong"], row["proved to be the only answer"]) == (
        "1",
        "0",
        "20",
    )
    # From few boards the rules are not all found, so that there are other answers.
    assert main(["exact", str(trained), str(boards), "--first", "5"]) == 0
    assert "proved to be the only answer                 0" in capsys.readouterr().out
    assert "--first: got 0, wanted 1 to 360" in fails(["exact", str(trained), str(boards), "--first", "0"], capsys)


def test_few_boards_are_enough_if_sets_are_found_directly(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boards, table = tmp_path / "boards.csv", tmp_path / "table.csv"
    write_csv(generate(2, 5, 20, seed=3), boards)
    exact = ["exact", str(trained), str(boards), "--first", "60", "--counting"]
    assert main(exact) == 0
    assert "from 60 solved boards: 320 of the 320" not in capsys.readouterr().out
    assert main([*exact, "--exactly-one", "--append", str(table)]) == 0
    assert "from 60 solved boards: 320 of the 320 pairs of bits that exclude each other in Sudoku, 0 " in (
        capsys.readouterr().out
    )
    assert main([*exact[:-1], "--exactly-one", "--append", str(table)]) == 0
    assert "from the layer and 60 solved boards: 320 of the 320" in capsys.readouterr().out
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["the layer's word"] for row in rows] == ["no", "yes"]
    assert {row["boards wholly right"] for row in rows} == {"1"}
    pairs = ["pairs", str(trained), "--counts", "60", "--exactly-one"]
    assert main(pairs) == 0
    assert re.search(r"counting alone: found +320\n", capsys.readouterr().out)
    assert "--exactly-one: got it without --solutions" in fails(["eval", str(trained), "--exactly-one"], capsys)


def test_pairs_by_number_of_boards(trained: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    assert main(["pairs", str(trained), "--counts", "40", "360", "--append", str(table)]) == 0
    with open(table, newline="") as file:
        few, many = csv.DictReader(file)
    assert few["layer"] == "original, trained on 360"
    assert 96 <= int(few["counting alone: found"]) <= int(few["with the layer: found"]) <= 320
    assert many["with the layer: found"] == "320" and many["with the layer: false"] == "0"


def test_images_from_training_to_joint_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    options = [*QUICK[:-6], "--epochs", "1", "--batch-size", "10", "--images", "digits", "--output", str(run)]
    assert main(["train", "--box", "2", *options]) == 0
    assert "4x4 boards, images of scikit-learn's digits, generated" in capsys.readouterr().out
    assert main(["eval", str(run)]) == 0
    assert "given cells read right" in capsys.readouterr().out
    assert main(["eval", str(run), "--joint", "--readings", "3", "--givens", "9", "--count", "10"]) == 0
    assert "joint, at most 3 readings, one pass each" in capsys.readouterr().out
    options = ["--joint", "--search", "--paths", "1", "--readings", "2", "--givens", "9", "--count", "4"]
    assert main(["eval", str(run), *options]) == 0
    assert "joint, at most 2 readings, 1 paths each" in capsys.readouterr().out
    boards = tmp_path / "boards.csv"
    write_csv(generate(2, 5, 200, seed=3), boards)
    assert main(["eval", str(run), *options, "--solutions", str(boards), "--margin", "2.5"]) == 0
    assert re.search(r"joint, at most 2 readings, 1 paths each, \d+ rules, margin 2.5", capsys.readouterr().out)
    assert main(["eval", str(run), "--search"]) == 2
    assert "--search: alone it solves puzzles of digits" in capsys.readouterr().err
    assert main(["eval", str(run), "--rounding", "2"]) == 2
    assert "--rounding: it solves puzzles of digits, wanted --joint for" in capsys.readouterr().err
    # Behind the reader is a network that solves puzzles of digits as well.
    assert main(["solve", format_line(generate(2, 12, 1).puzzles[0]), "--checkpoint", str(run)]) in (0, 1)


# --- generate -----------------------------------------------------------------------------------------------


def test_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--givens", "30-32", "--count", "20", "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "boards.csv"
    options = ["generate", "--givens", "30-32", "--count", "20", "--seed", "4", "--output", str(path)]
    assert main(options) == 0
    assert f"20 puzzles written to {path}" in capsys.readouterr().out
    assert path.read_text() == printed
    boards = read_csv(path, box=3)
    assert (boards.puzzles == generate(3, (30, 32), 20, seed=4).puzzles).all()
    assert "exists; pass --overwrite" in fails(options, capsys)
    assert main([*options, "--overwrite"]) == 0
    capsys.readouterr()
    assert "givens: got 9" in fails(["generate", "--givens", "9"], capsys)
    assert main(["generate", "--box", "2", "--count", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_reader_that_stops_early() -> None:
    command = f"{sys.executable} -m demos.sudoku generate --count 3000 | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "puzzle,solution\n"
    assert "rror" not in done.stderr
    assert "pipe" not in done.stderr


@pytest.mark.parametrize("permuted", [[], ["--permuted"]])
def test_a_layer_is_fitted_to_solved_boards(
    permuted: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without training: from half of the 4x4 boards the rules of all of them."""
    run = tmp_path / "run"
    fit = ["fit", "--box", "2", "--train", "500", "--test", "100", *permuted, "--output", str(run)]
    assert main(fit) == 0
    out = capsys.readouterr().out
    assert "40 equations hold in 500 solved boards with a mean squared error of at most 1e-06" in out
    assert "Of the unseen boards: 100 of 100 boards wholly right (100.0%)" in out
    checkpoint = load_checkpoint(run)
    assert (checkpoint.name, checkpoint.config.m, checkpoint.config.aux, checkpoint.config.epochs) == ("fit", 40, 0, 0)
    assert checkpoint.limit is not None and len(checkpoint.history) == 1
    assert not (run / CURVE_NAME).exists()
    assert "pass --overwrite to replace it" in fails(fit, capsys)
    assert "--train: got 1, wanted 2 or more" in fails([*fit, "--overwrite", "--train", "1"], capsys)
    assert "--tolerance: got 2.0" in fails([*fit, "--overwrite", "--tolerance", "2"], capsys)
    assert "got both" in fails([*fit, "--data", "x.csv", "--givens", "5"], capsys)
    assert main(["eval", str(run), "--givens", "4", "--count", "50", "--search"]) == 0
    assert re.search(r"boards wholly right +100\.00%\nanswers accepted +100\.00%", capsys.readouterr().out)
    table = tmp_path / "fits.csv"
    options = ["--exactly-one", "--train", "60", "--output", str(tmp_path / "few"), "--append", str(table)]
    assert main(["fit", "--box", "2", "--test", "100", *permuted, *options]) == 0
    out = capsys.readouterr().out
    assert "64 equations hold in 60 solved boards; found" in out
    with open(table, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["solved boards"], row["equations looked for"], row["equations"]) == ("60", "exactly one", "64")
    assert (row["test boards"], row["boards wholly right"]) == ("100", "1")
    assert "Of the unseen boards: 100 of 100 boards wholly right (100.0%)" in out
    assert "got it with --exactly-one" in fails(["fit", "--exactly-one", "--tolerance", "0.1"], capsys)
    options = [
        "--start",
        str(run),
        "--m",
        "40",
        "--aux",
        "0",
        "--k",
        "32",
        "--epochs",
        "1",
        "--train",
        "40",
        "--test",
        "40",
    ]
    assert main(["train", "--box", "2", *options, *permuted, "--lr", "1e-4", "--output", str(tmp_path / "tuned")]) == 0
    assert "Of the unseen boards" in capsys.readouterr().out
    assert (tmp_path / "tuned" / CURVE_NAME).exists()
    config = load_checkpoint(tmp_path / "tuned").config
    with pytest.raises(ValueError, match=f"has permuted {bool(permuted)}, wanted that of the run, {not permuted}"):
        start_weights(run, replace(config, permuted=not permuted))
    if permuted:
        with pytest.raises(ValueError, match="has seed 0, wanted that of the run, 1"):
            start_weights(run, replace(config, seed=1))
    assert main([*fit, "--output", str(tmp_path / "tuned"), "--overwrite"]) == 0
    assert not (tmp_path / "tuned" / CURVE_NAME).exists()


def test_growth_is_measured_in_a_process_for_each_size(tmp_path: Path) -> None:
    table = tmp_path / "growth.csv"
    assert main(["growth", "--boxes", "2", "3", "--batch-size", "2", "--steps", "1", "--append", str(table)]) == 0
    with open(table, newline="") as file:
        small, large = csv.DictReader(file)
    assert (small["board"], small["bits"], large["board"], large["bits"]) == ("4x4", "64", "9x9", "729")
    assert int(large["weights"]) == (1 + 729 + 300) * 600
    assert 0 < float(small["seconds a step"]) < float(large["seconds a step"])
    assert 0 < int(large["of that before the first step, MB"]) <= int(large["peak memory, MB"])


def test_16x16_boards_from_generating_to_solving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards, run, solved = tmp_path / "boards.csv", tmp_path / "run", tmp_path / "solved.csv"
    assert main(["generate", "--box", "4", "--givens", "240", "--count", "3", "--output", str(boards)]) == 0
    sizes = ["--m", "8", "--aux", "0", "--k", "4", "--max-iter", "2", "--batch-size", "1", "--epochs", "1"]
    options = ["--data", str(boards), "--train", "2", "--test", "1", *sizes, "--output", str(run)]
    capsys.readouterr()
    assert "--images: got it for 16x16 boards" in fails(["train", "--box", "4", *options, "--images", "digits"], capsys)
    assert main(["train", "--box", "4", *options]) == 0
    assert "16x16 boards" in capsys.readouterr().out
    assert main(["solve", str(boards), "--checkpoint", str(run), "--output", str(solved)]) in (0, 1)
    assert read_csv(boards).puzzles.tolist() == read_puzzles(solved).tolist()
