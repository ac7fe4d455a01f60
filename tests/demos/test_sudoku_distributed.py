"""Sudoku in several processes: they train as one would."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist

from demos import distributed
from demos.distributed import first_goes_first, joined, loss_of_all, share, totals
from demos.sudoku import model, train
from demos.sudoku.__main__ import main as command_line
from demos.sudoku.boards import Boards
from demos.sudoku.checkpoint import CHECKPOINT_NAME, EpochMetrics, load_checkpoint
from demos.sudoku.commands.train import train_here
from demos.sudoku.config import PRESETS, TrainConfig
from demos.sudoku.options import Train
from demos.sudoku.train import CURVE_NAME, METRICS_NAME, DivergedError, Trainer

OnTwo = Callable[..., subprocess.CompletedProcess[str]]

# Two processes have shares of one board and two; of each epoch's last batch the first has none.
TINY = replace(PRESETS[2], train=19, test=7, epochs=2, batch_size=3)
CASES = {
    "boards": TINY,
    "masks": replace(TINY, masks=(2, 8), decimation=2),
    "blank": replace(TINY, images="digits", given_labels=False),
}
OPTIONS = ["train", "--box", "2", "--train", "19", "--test", "7", "--epochs", "2", "--batch-size", "3"]


class PlainReader(nn.Sequential):
    """A reader without batch normalization, which the CPU cannot share."""

    def __init__(self, digits: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(28 * 28, digits))

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each digit."""
        read: Tensor = self(images).softmax(-1)
        return read


class StoppedError(Exception):
    """Stands for an interruption."""


@pytest.fixture(autouse=True)
def _plain_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "DigitReader", PlainReader)


def silent(_: str) -> None:
    """Log nothing."""


def first_gradient(config: TrainConfig, output: Path) -> dict[str, Tensor]:
    """The gradient of a batch, and its loss."""
    trainer = Trainer(config, output, log=silent)
    loss = trainer._train_batch(trainer.train_boards[:3])
    found = {name: p.grad.clone() for name, p in trainer.net.named_parameters() if p.grad is not None}
    return {**found, "loss": torch.tensor(loss, dtype=torch.float64)}


def stop_after_an_epoch(output: Path, patch: pytest.MonkeyPatch) -> None:
    """Begin a run and leave it in its second epoch."""
    train_batch = Trainer._train_batch

    def stop(self: Trainer, batch: Boards) -> float:
        if self.step == 9:
            raise StoppedError
        return train_batch(self, batch)

    patch.setattr(Trainer, "_train_batch", stop)
    with pytest.raises(StoppedError):
        Trainer(TINY, output, log=silent).fit()


# --- what the two processes do ------------------------------------------------------------------------------


def work(output: Path, device: str) -> None:
    rank = dist.get_rank()
    assert (device, dist.get_backend(), dist.get_world_size()) == ("cpu", "gloo", 2)
    assert [len(range(count)[share(count)]) for count in (3, 1, 0)] == [[1, 0, 0], [2, 1, 0]][rank]
    assert totals([rank, 2.5], torch.device("cpu")) == [1, 5]
    with first_goes_first():
        if rank == 0:
            time.sleep(0.2)
            (output / "first").touch()
        assert (output / "first").exists()
    with pytest.raises(StoppedError), first_goes_first():
        raise StoppedError

    for name, config in CASES.items():
        gradient = first_gradient(config, output / "never")
        lines: list[str] = []
        trainer = Trainer(config, output / name, log=lines.append)
        trainer.fit()
        assert bool(lines) == (rank == 0)
        flat = torch.cat([p.detach().flatten() for p in trainer.net.parameters()])
        both = [torch.empty_like(flat) for _ in range(2)]
        dist.all_gather(both, flat)
        assert torch.equal(*both)
        if rank == 0:
            save_file(gradient, output / f"{name}.safetensors")
    assert not (output / "never").exists()

    with pytest.MonkeyPatch.context() as patch:
        stop_after_an_epoch(output / "stopped", patch)

    with pytest.raises(ValueError, match=r"device: got cpu and 2 processes .*; wanted cuda, or one process"):
        Trainer(replace(TINY, network="convnet", layers=1, filters=2), output / "never", log=silent)

    # A loss that is not finite, in one process alone.
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            bit_loss = train.bit_loss
            patch.setattr(train, "bit_loss", lambda *args: bit_loss(*args) * math.nan)
        with pytest.raises(DivergedError):
            Trainer(TINY, output / "diverged", log=silent).fit()
        command = Train(box=2, output=output / "diverged", overwrite=True, training=TINY.options)
        assert command.config == TINY
        assert train_here(command, device) == 1
    raise StoppedError


def main() -> None:
    """Of each process."""
    model.DigitReader = PlainReader  # type: ignore[misc, assignment]
    torch.set_num_threads(1)
    with pytest.raises(StoppedError), joined("cpu") as device:
        work(Path(sys.argv[1]), device)
    assert not dist.is_initialized()


# --- tests --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, run_on_two: OnTwo) -> Path:
    """What two processes have left."""
    output = tmp_path_factory.mktemp("two")
    script = output / "two.py"
    script.write_text("from tests.demos.test_sudoku_distributed import main\nmain()\n")
    done = run_on_two(str(script), str(output))
    assert done.returncode == 0, done.stderr
    # One of the two processes speaks.
    assert done.stderr.count("the loss is nan in epoch 1, batch 1: try a lower learning rate") == 1
    assert done.stdout.count("19 to train on, 7 to test on") == 1
    return output


def assert_same_run(found: Path, wanted: Path) -> None:
    """Compare metrics and weights, up to rounding."""
    ours, theirs = load_checkpoint(found), load_checkpoint(wanted)
    assert ours.config == theirs.config and ours.step == theirs.step == 14
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert_same_row(mine, other)
    assert (ours.limit is None) == (theirs.limit is None)
    assert ours.limit is None or ours.limit == pytest.approx(theirs.limit, rel=1e-5)
    assert all(torch.equal(state, theirs.random[name]) for name, state in ours.random.items())
    for name, weights in ours.model.items():
        # By 2e-8 in the mean, and 5e-7 at most. But Adam divides gradients by their own size, which may turn rounding of those
        # near 0 into steps of up to lr, 5e-3.
        difference = (weights - theirs.model[name]).abs()
        assert difference.mean() < 1e-6 and difference.max() < 1e-4, (name, difference.mean(), difference.max())


def assert_same_row(mine: EpochMetrics, other: EpochMetrics) -> None:
    # In float32; they differ by 4e-7 at most, after 14 steps.
    assert mine.test_loss == pytest.approx(other.test_loss, rel=1e-5)
    assert (mine.train_loss or 0) == pytest.approx(other.train_loss or 0, rel=1e-5)
    for name in ("epoch", "lr", "boards_right", "blank_cells_right", "given_cells_read"):
        assert getattr(mine, name) == getattr(other, name), name


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(two: Path, tmp_path: Path, name: str) -> None:
    one = tmp_path / name
    Trainer(CASES[name], one, log=silent).fit()
    assert_same_run(two / name, one)
    assert sorted(path.name for path in (two / name).iterdir()) == sorted([CHECKPOINT_NAME, METRICS_NAME, CURVE_NAME])


@pytest.mark.parametrize("name", CASES)
def test_their_gradient_is_that_of_the_batch(two: Path, tmp_path: Path, name: str) -> None:
    """Both have the same weights here, so that the order of a sum and a factor differ, by 1e-6 of the largest entry."""
    wanted, found = first_gradient(CASES[name], tmp_path), load_file(two / f"{name}.safetensors")
    assert set(found) == set(wanted)
    for parameter, gradient in wanted.items():
        scale = gradient.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=1e-5 * scale)


def test_one_process_goes_on_with_the_run_of_two(two: Path, tmp_path: Path) -> None:
    assert load_checkpoint(two / "stopped").history[-1].epoch == 1
    Trainer.resume(two / "stopped", log=silent).fit()
    Trainer(TINY, tmp_path, log=silent).fit()
    assert_same_run(two / "stopped", tmp_path)


def test_two_processes_go_on_with_the_run_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_on_two: OnTwo
) -> None:
    with monkeypatch.context() as patch:
        stop_after_an_epoch(tmp_path / "run", patch)
    done = run_on_two("-m", "demos.sudoku", "train", "--resume", "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after epoch 1 of 2") == done.stdout.count("Of the unseen boards") == 1
    Trainer(TINY, tmp_path / "one", log=silent).fit()
    assert_same_run(tmp_path / "run", tmp_path / "one")


def test_the_command_line(tmp_path: Path, run_on_two: OnTwo, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_on_two("-m", "demos.sudoku", *OPTIONS, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert command_line([*OPTIONS, "--output", str(tmp_path / "one")]) == 0
    clock = re.compile(r"( +\d+)  +\d+\.\d\d |/(one|two)\b")
    wanted = capfd.readouterr()
    assert clock.sub(r"\1", done.stdout) == clock.sub(r"\1", wanted.out)
    assert done.stderr.count("epoch 1/2") == wanted.err.count("epoch 1/2") == 1  # the progress bars
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_one_process_alone() -> None:
    with joined("cuda:1") as device:
        assert device == "cuda:1" and not dist.is_initialized()
    assert share(5) == slice(0, 5) and totals([1.5], torch.device("cpu")) == [1.5]
    loss = torch.tensor(0.5)
    assert loss_of_all(loss, 7) == (loss, 0.5)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    for device, message in (
        ("cuda:0", "--device: got cuda:0 and 2 processes, wanted cpu, or cuda for a GPU each"),
        ("cuda", "--device: got cuda and 2 processes or more on this machine, where torch finds 1 GPUs; wanted a GPU"),
    ):
        assert command_line([*OPTIONS, "--device", device]) == 2
        assert message in capsys.readouterr().err
