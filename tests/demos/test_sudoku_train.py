"""Training: it learns, it is reproducible, and it resumes to the same result."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demos.files import write_atomically
from demos.sudoku.boards import Boards, obeys_rules
from demos.sudoku.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from demos.sudoku.commands.common import complete
from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.data import encode, load_split, write_csv
from demos.sudoku.evaluation import evaluate
from demos.sudoku.generator import generate
from demos.sudoku.model import bit_loss, bit_net, build, satnet_of
from demos.sudoku.train import CURVE_NAME, METRICS_NAME, DivergedError, Trainer

ROOT = Path(__file__).parents[2]


def metrics(output: Path) -> list[dict[str, str]]:
    """Read the metrics CSV, less what is measured with a clock."""
    with open(output / METRICS_NAME, newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("minutes", "seconds")} for row in csv.DictReader(file)]


def silent(_: str) -> None:
    """Log nothing."""


class KilledError(Exception):
    """Stands for a kill."""


def kill_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    train_batch = Trainer._train_batch

    def killed(self: Trainer, batch: Boards) -> float:
        if self.step == step:
            raise KilledError
        return train_batch(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", killed)


# --- the network --------------------------------------------------------------------------------------------


def test_network_passes_given_bits_through() -> None:
    net = build(PRESETS[2])
    bits, given = encode(torch.from_numpy(generate(2, 6, 5).puzzles))
    out = net(bits, given, generator=torch.Generator().manual_seed(0))
    assert out.shape == bits.shape
    assert torch.equal(out[given], bits[given])
    assert ((out >= 0) & (out <= 1)).all()


def test_network_is_seeded() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build(replace(PRESETS[2], seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.layer.S, again.layer.S)
    assert not torch.equal(first.layer.S, other.layer.S)
    puzzles = torch.from_numpy(generate(2, 6, 5).puzzles)
    answers = [first.predict(puzzles, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*answers)


def test_loss() -> None:
    p = torch.tensor([[0.25, 0.5, 1.0, 0.0]])
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    wanted = -(math.log(0.75) + math.log(0.5)) / 4
    assert bit_loss(p, target).item() == pytest.approx(wanted, abs=1e-5)
    wrong = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = bit_loss(wrong, torch.tensor([[1.0, 0.0]]))
    torch.autograd.backward(loss)
    assert math.isfinite(loss.item())
    assert wrong.grad is not None
    assert wrong.grad.abs().max() < 1e6  # torch's own limit, 1e12, would drown every other bit


# --- training -----------------------------------------------------------------------------------------------


def test_it_learns(trained: Path) -> None:
    history = load_checkpoint(trained).history
    assert [row.epoch for row in history] == [0, 1, 2]
    assert history[0].boards_right < 0.05
    assert history[-1].boards_right > 0.8
    assert history[-1].blank_cells_right > history[-1].boards_right
    assert history[-1].test_loss < 0.5 * history[0].test_loss
    assert history[-1].lr == 0
    assert all(a.minutes < b.minutes for a, b in pairwise(history))


def test_files_of_a_run(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == sorted([CHECKPOINT_NAME, METRICS_NAME, CURVE_NAME])
    assert (trained / CURVE_NAME).read_bytes()[:4] == b"\x89PNG"
    rows = metrics(trained)
    wanted = ["epoch", "train_loss", "test_loss", "boards_right", "blank_cells_right", "given_cells_read", "lr"]
    assert list(rows[0]) == wanted
    history = load_checkpoint(trained).history
    assert [float(row["test_loss"]) for row in rows] == [row.test_loss for row in history]
    assert rows[0]["train_loss"] == ""
    tensors = load_file(trained / CHECKPOINT_NAME)
    assert {"model.layer.S", "adam.layer.S.exp_avg", "random.order", "random.starts", "random.masks"} <= set(tensors)


def test_evaluation_counts(trained: Path, small: TrainConfig) -> None:
    """Compare the shares with a count board by board."""
    checkpoint = load_checkpoint(trained)
    net = build(small)
    net.load_state_dict(checkpoint.model)
    boards = load_split(small)[1]
    result = evaluate(net, boards, batch_size=small.batch_size, seed=small.seed)
    assert result.boards_right == checkpoint.history[-1].boards_right
    assert result.loss == checkpoint.history[-1].test_loss

    # The layer's random starts differ from those above, so a few answers may; hence these are counted afresh.
    whole = evaluate(net, boards, batch_size=len(boards), seed=3)
    puzzles = torch.from_numpy(boards.puzzles)
    answers = net.predict(puzzles, generator=torch.Generator().manual_seed(3)).numpy()
    boards_right = cells = cells_right = obeying = 0
    for puzzle, answer, solution in zip(boards.puzzles, answers, boards.solutions, strict=True):
        boards_right += answer.tolist() == solution.tolist()
        obeying += bool(obeys_rules(answer))
        for given, a, s in zip(puzzle, answer, solution, strict=True):
            cells += given == 0
            cells_right += given == 0 and a == s
    assert whole.boards == len(boards)
    assert whole.boards_right == boards_right / len(boards)
    assert whole.blank_cells_right == cells_right / cells
    assert whole.rules_obeyed == obeying / len(boards)
    with pytest.raises(ValueError, match="boards: got none"):
        evaluate(net, boards[:0], batch_size=10, seed=0)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        evaluate(net, boards, batch_size=0, seed=0)


def test_same_seed_same_run(trained: Path, small: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(99)  # the global generator has no say
    Trainer(small, tmp_path, log=silent).fit()
    assert metrics(tmp_path) == metrics(trained)
    other = tmp_path / "other"
    Trainer(replace(small, seed=6, epochs=1), other, log=silent).fit()
    assert metrics(other)[0] != metrics(trained)[0]


@pytest.mark.parametrize("step", [10, 36, 50])
def test_resume_after_a_kill(
    trained: Path, small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed in the middle of an epoch, or at its start, the run goes on to the same losses and weights."""
    with monkeypatch.context() as patch:
        kill_at_step(patch, step)
        trainer = Trainer(small, tmp_path, log=silent)
        with pytest.raises(KilledError):
            trainer.fit()
    assert load_checkpoint(tmp_path).history[-1].epoch == step // 36
    torch.manual_seed(99)
    trainer = Trainer.resume(tmp_path, log=silent)
    assert trainer.epoch == step // 36
    result = trainer.fit()
    assert result.boards_right == load_checkpoint(trained).history[-1].boards_right
    assert metrics(tmp_path) == metrics(trained)
    ours, theirs = load_file(tmp_path / CHECKPOINT_NAME), load_file(trained / CHECKPOINT_NAME)
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_resume_after_sigkill(small: TrainConfig, tmp_path: Path) -> None:
    """The same with a process of its own and a real SIGKILL."""
    options = [
        *("--givens", "7-10", "--train", "360", "--test", "60", "--epochs", "4", "--batch-size", "10", "--lr", "0.008"),
        *("--seed", "5", "--threads", "1", "--output", str(tmp_path / "killed")),
    ]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "demos.sudoku", "train", "--box", "2", *options], cwd=ROOT, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 120
    path = tmp_path / "killed" / METRICS_NAME
    while not path.exists() or len(path.read_text().splitlines()) < 3:  # the header, epochs 0 and 1
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= load_checkpoint(tmp_path / "killed").history[-1].epoch < 4
    Trainer.resume(tmp_path / "killed", log=silent).fit()
    Trainer(replace(small, epochs=4), tmp_path / "whole", log=silent).fit()
    assert len(metrics(tmp_path / "whole")) == 5
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_resume_of_a_finished_run_changes_nothing(trained: Path, tmp_path: Path) -> None:
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    result = Trainer.resume(tmp_path, log=silent).fit()
    assert result.boards_right == load_checkpoint(trained).history[-1].boards_right
    assert (tmp_path / METRICS_NAME).read_bytes() == (trained / METRICS_NAME).read_bytes()


def test_resume_wants_the_same_boards(small: TrainConfig, tmp_path: Path) -> None:
    data, changed = tmp_path / "boards.csv", tmp_path / "changed.csv"
    write_csv(generate(2, (6, 9), 60, seed=1), data)
    write_csv(generate(2, (6, 9), 60, seed=2), changed)
    config = replace(small, data=str(data), train=40, test=20, epochs=1)
    Trainer(config, tmp_path / "run", log=silent).fit()
    Trainer.resume(tmp_path / "run", log=silent)
    with pytest.raises(ValueError, match=re.escape(f"data: the boards from {changed} are not those")):
        Trainer.resume(tmp_path / "run", data=str(changed), log=silent)
    moved = data.rename(tmp_path / "moved.csv")
    assert Trainer.resume(tmp_path / "run", data=str(moved), log=silent).config.data == str(moved)


def test_seen_solutions_are_noted(small: TrainConfig, tmp_path: Path) -> None:
    data = tmp_path / "boards.csv"
    write_csv(generate(2, (6, 9), 400, seed=1), data)
    lines: list[str] = []
    Trainer(replace(small, data=str(data), train=300, test=100, epochs=1), tmp_path / "run", log=lines.append).fit()
    assert re.fullmatch(r"[1-9]\d* of the 100 test boards have the solution of a training board", lines[0])


def test_loss_that_is_not_finite(small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_train_batch", lambda *_: float("nan"))
    with pytest.raises(DivergedError, match="the loss is nan in epoch 1, batch 1: try a lower learning rate"):
        Trainer(small, tmp_path, log=silent).fit()


# --- checkpoints --------------------------------------------------------------------------------------------


def test_atomic_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_checkpoint_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint: no file"):
        load_checkpoint(tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(b"not this")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_checkpoint(tmp_path)
    from safetensors.torch import save_file

    save_file({"S": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has the format None, wanted 'difflayers-sudoku-1'"):
        load_checkpoint(path)


def test_output_directories(trained: Path, tmp_path: Path) -> None:
    Trainer.check_output(tmp_path)
    Trainer.check_output(tmp_path / "new")
    with pytest.raises(ValueError, match=re.escape(f"output: {trained} already holds {CHECKPOINT_NAME}")):
        Trainer.check_output(trained)
    for name in (METRICS_NAME, CURVE_NAME):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"already holds {name}; pass --resume"):
            Trainer.check_output(tmp_path)
        (tmp_path / name).unlink()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="is a file, wanted a directory"):
        Trainer.check_output(file)


def test_weights_alone_cannot_be_resumed(trained: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(trained)
    save_checkpoint(tmp_path / CHECKPOINT_NAME, replace(whole, adam={}, random={}))
    assert load_checkpoint(tmp_path).model.keys() == whole.model.keys()
    with pytest.raises(ValueError, match="weights only"):
        Trainer.resume(tmp_path)


def test_a_run_stays_on_its_kind_of_device(trained: Path, tmp_path: Path) -> None:
    """The state of a CUDA generator is 16 bytes, a seed and an offset."""
    checkpoint = load_checkpoint(trained)
    random = {**checkpoint.random, "starts": torch.zeros(16, dtype=torch.uint8)}
    save_checkpoint(tmp_path / CHECKPOINT_NAME, replace(checkpoint, random=random))
    with pytest.raises(ValueError, match=r"device: got cpu, but the run in .* was started on cuda, .*; wanted cuda$"):
        Trainer.resume(tmp_path)


def test_a_run_may_begin_with_learnt_weights(trained: Path, small: TrainConfig, tmp_path: Path) -> None:
    config = replace(small, start=str(trained), epochs=1)
    trainer = Trainer(config, tmp_path, log=silent)
    trainer.fit()
    learnt = load_checkpoint(trained)
    assert trainer.history[0].boards_right == learnt.history[-1].boards_right > 0.1
    resumed = Trainer.resume(tmp_path, log=silent)
    assert torch.equal(satnet_of(resumed.net).layer.S, satnet_of(trainer.net).layer.S)
    assert not torch.equal(satnet_of(resumed.net).layer.S, learnt.model["layer.S"])
    with pytest.raises(ValueError, match=r"has m [0-9]+, wanted that of the run"):
        Trainer(replace(config, m=small.m + 1), tmp_path / "other", log=silent).fit()
    with pytest.raises(ValueError, match="wanted satnet, whose layer alone"):
        replace(config, network="convnet")
    assert config.variant.endswith(", from learnt weights of the layer")


def test_what_becomes_of_a_board_does_not_depend_on_the_boards_beside_it(small: TrainConfig) -> None:
    net = build(small)
    boards = load_split(small)[1][:30]
    whole = evaluate(net, boards, batch_size=30, seed=3).answers
    assert (evaluate(net, boards, batch_size=7, seed=3).answers == whole).all()
    assert (evaluate(net, boards[20:], batch_size=7, seed=3).answers == whole[20:]).all()
    assert (complete(bit_net(net), boards.puzzles, seed=3, batch_size=11) == whole).all()
    assert not (evaluate(net, boards, batch_size=7, seed=4).answers == whole).all()
