"""The training loop.

A run lives in a directory of three files, all rewritten after every epoch: the checkpoint, the metrics as CSV
and the learning-curve picture. A run killed at any moment goes on from its last whole epoch, on the same
number of threads to the same losses, bit for bit, as if nothing had happened.

With ``torch.distributed`` set up, every process takes its share of each batch, of the test boards' too; the results are those
of one process, up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from demos.distributed import first_goes_first, loss_of_all, place, share
from demos.files import check_folder, csv_text, write_atomically
from demos.progress import progress_bar
from demos.schedule import cosine, set_cosine_rate
from demos.sudoku.boards import Boards
from demos.sudoku.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    EpochMetrics,
    load_checkpoint,
    save_checkpoint,
)
from demos.sudoku.config import TrainConfig
from demos.sudoku.data import domains_of, encode, fingerprint, load_split, seen_solutions, to_values
from demos.sudoku.evaluation import Evaluation, evaluate
from demos.sudoku.images import add_images
from demos.sudoku.masks import decimate, mask
from demos.sudoku.model import BitNet, Net, bit_loss, build, restore, satnet_of
from demos.sudoku.plots import learning_curve_png
from difflayers.inference import acceptance_limit

METRICS_NAME = "metrics.csv"
CURVE_NAME = "learning_curve.png"

_RUN_FILES = (CHECKPOINT_NAME, METRICS_NAME, CURVE_NAME)
_HEADER = "epoch  minutes  train loss  test loss  boards right  blank cells right"


def start_weights(path: Path, config: TrainConfig) -> dict[str, Tensor]:
    """Return the layer's weights in a checkpoint, to begin a run with."""
    checkpoint = load_checkpoint(path)
    names = ("box", "network", "aux", "m", "permuted", *(("seed",) if config.permuted else ()))  # it orders the bits
    for name in names:
        if getattr(checkpoint.config, name) != getattr(config, name):
            raise ValueError(
                f"start: {path} has {name} {getattr(checkpoint.config, name)}, wanted that of the run, {getattr(config, name)}"
            )
    return satnet_of(restore(checkpoint)).layer.state_dict()


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


def _be_silent(_: str) -> None:
    """Log nothing."""


def _synchronize_normalization(net: Net) -> None:
    """Have batch normalization see whole batches, not this process's share."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return
    if net.device.type != "cuda":
        raise ValueError(
            f"device: got {net.device} and {place()[1]} processes for a network with batch normalization, which has to see "
            "whole batches and can across GPUs alone; wanted cuda, or one process"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(net)  # in place: the network itself is none


class Trainer:
    """One training run.

    Args:
        config: What to train, on what, how.
        output: The directory of the run; see `check_output`.
        name: The command this run belongs to, kept in its checkpoints.
        device: A torch device.
        boards: The run's boards, to train on and to test on, if they are loaded already.
        log: Gets a line of text for each epoch, and notes.

    With ``torch.distributed`` set up, the processes train together. The first one alone writes files and logs.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        *,
        name: str = "train",
        device: str = "cpu",
        boards: tuple[Boards, Boards] | None = None,
        log: Callable[[str], None] = tqdm.write,
    ) -> None:
        self.config = config
        self.output = output
        self.name = name
        self.device = device
        rank, self.ranks = place()
        self.first = rank == 0
        self.log = log if self.first else _be_silent
        train_boards, test_boards = boards or load_split(config, progress=self.first)
        self.data_fingerprint = fingerprint(train_boards, test_boards)
        with first_goes_first():  # it downloads MNIST
            self.train_boards = add_images(train_boards, config, train=True)
            self.test_boards = add_images(test_boards, config, train=False)
        self.net = build(config).to(device)
        self._trained: nn.Module = self.net
        if self.ranks > 1:
            _synchronize_normalization(self.net)
            self._trained = DistributedDataParallel(self.net)
        self.adam = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        # The order of the boards and the layer's random starts are drawn from generators of their own, which are in the same
        # state in all processes.
        self.generators = {
            "order": torch.Generator().manual_seed(config.seed),
            "starts": torch.Generator(device).manual_seed(config.seed),
            "masks": torch.Generator().manual_seed(config.seed),
        }
        self.step = 0
        self.history: list[EpochMetrics] = []
        self.limit: float | None = None

    @classmethod
    def resume(
        cls,
        output: Path,
        *,
        data: str | None = None,
        mnist_root: str | None = None,
        device: str = "cpu",
        log: Callable[[str], None] = tqdm.write,
    ) -> Trainer:
        """Take up the run in ``output`` after its last whole epoch; ``data`` and ``mnist_root`` say where these are now."""
        checkpoint = load_checkpoint(output)
        config = checkpoint.config
        config = replace(config, data=data or config.data, mnist_root=mnist_root or config.mnist_root)
        trainer = cls(config, output, name=checkpoint.name, device=device, log=log)
        if trainer.data_fingerprint != checkpoint.data_fingerprint:
            raise ValueError(
                f"data: the boards from {config.data or 'the generator'} are not those that the run in "
                f"{output} was trained on, so it cannot go on to the same result"
            )
        if not checkpoint.random:
            raise ValueError(f"output: the checkpoint in {output} holds weights only, wanted that of a training run")
        starts = trainer.generators["starts"]
        if starts.get_state().shape != checkpoint.random["starts"].shape:
            started_on = "cpu" if starts.device.type == "cuda" else "cuda"
            raise ValueError(
                f"device: got {device}, but the run in {output} was started on {started_on}, whose random numbers another "
                f"device does not go on with; wanted {started_on}"
            )
        trainer.net.load_state_dict(checkpoint.model)
        names = [name for name, _ in trainer.net.named_parameters()]
        trainer.adam.load_state_dict(
            {
                "state": {i: checkpoint.adam[name] for i, name in enumerate(names) if name in checkpoint.adam},
                "param_groups": trainer.adam.state_dict()["param_groups"],
            }
        )
        for generator_name, generator in trainer.generators.items():
            generator.set_state(checkpoint.random[generator_name])
        trainer.step = checkpoint.step
        trainer.history = checkpoint.history
        trainer.limit = checkpoint.limit
        return trainer

    @property
    def epoch(self) -> int:
        """The last epoch done."""
        return max(len(self.history) - 1, 0)

    @staticmethod
    def check_output(output: Path, *, resumable: bool = True) -> None:
        """Raise ``ValueError`` if the directory holds a file that a new run would overwrite."""
        check_folder(output, "output")
        for name in _RUN_FILES:
            if (output / name).exists():
                resume = "--resume to continue that run, " if resumable else ""
                raise ValueError(
                    f"output: {output} already holds {name}; pass {resume}--overwrite to replace it, or another --output"
                )

    def fit(self) -> Evaluation:
        """Train to the last epoch, and return how the network then does on the unseen boards.

        The first checkpoint is written before the first epoch. An earlier run in the directory stays whole until then.
        """
        config = self.config
        if self.first:
            self.output.mkdir(parents=True, exist_ok=True)
        if config.start is not None and not self.history:
            satnet_of(self.net).layer.load_state_dict(start_weights(Path(config.start), config))
        seen = seen_solutions(self.train_boards, self.test_boards)
        self.log(f"{seen:,} of the {len(self.test_boards):,} test boards have the solution of a training board")
        before = 60 * self.history[-1].minutes if self.history else 0.0
        start = time.perf_counter()
        self.log(_HEADER)
        for row in self.history:
            self._log_row(row)
        result = None
        # Epoch 0 is the untrained network.
        for epoch in range(len(self.history), config.epochs + 1):
            epoch_start = time.perf_counter()
            train_loss = self._train_epoch(epoch) if epoch else None
            seconds = time.perf_counter() - epoch_start if epoch else 0.0
            result = self.test()
            self.history.append(
                EpochMetrics(
                    epoch=epoch,
                    minutes=(before + time.perf_counter() - start) / 60,
                    train_loss=train_loss,
                    test_loss=result.loss,
                    boards_right=result.boards_right,
                    blank_cells_right=result.blank_cells_right,
                    given_cells_read=result.given_cells_read,
                    lr=config.lr * cosine(self.step, self._steps()),
                    seconds=seconds,
                )
            )
            if self.first:
                if epoch == config.epochs and config.network == "satnet":
                    self.limit = self._limit()
                save_checkpoint(self.output / CHECKPOINT_NAME, self.checkpoint())
                self.write_metrics()
            self._log_row(self.history[-1])
        return result or self.test()

    def _limit(self) -> float | None:
        """The limit of the learnt objective, by the training boards; none where it does not tell right from wrong."""
        solver = satnet_of(self.net)
        limit = acceptance_limit(
            solver.board_layer(),
            domains_of(solver.box),
            to_values(self.train_boards.solutions)[0],
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        self.log(f"limit of the learnt objective: {limit!r}")
        return float(limit) if limit.separates else None

    def test(self) -> Evaluation:
        """Evaluate the network on the unseen boards, always from the same random starts."""
        return evaluate(
            self.net,
            self.test_boards,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
        )

    def checkpoint(self) -> Checkpoint:
        """Return the state of the run."""
        states = self.adam.state_dict()["state"]
        return Checkpoint(
            config=self.config,
            name=self.name,
            data_fingerprint=self.data_fingerprint,
            threads=torch.get_num_threads(),
            step=self.step,
            history=self.history,
            limit=self.limit,
            model=self.net.state_dict(),
            adam={name: states[i] for i, (name, _) in enumerate(self.net.named_parameters()) if i in states},
            random={name: generator.get_state() for name, generator in self.generators.items()},
        )

    def write_metrics(self) -> None:
        """Write the metrics CSV and the learning-curve picture."""
        rows = [
            asdict(row) | {"minutes": round(row.minutes, 4), "seconds": round(row.seconds, 3)} for row in self.history
        ]
        write_atomically(self.output / METRICS_NAME, csv_text(rows).encode())
        size = self.config.box**2
        task = f"{size}x{size} Sudoku{self.config.variant}"
        title = f"{task} from {self.config.train:,} boards: {self.config.network_description}"
        if self.config.epochs:
            write_atomically(self.output / CURVE_NAME, learning_curve_png(self.history, title))
        else:  # that of an earlier run
            (self.output / CURVE_NAME).unlink(missing_ok=True)

    def _steps(self) -> int:
        return self.config.epochs * math.ceil(len(self.train_boards) / self.config.batch_size)

    def _train_epoch(self, epoch: int) -> float:
        """Train once on every board; return the mean loss."""
        config, boards = self.config, self.train_boards
        order = torch.randperm(len(boards), generator=self.generators["order"]).numpy()
        total = 0.0
        self.net.train()
        with progress_bar(len(boards), f"epoch {epoch}/{config.epochs}", " boards") as bar:
            for first in range(0, len(boards), config.batch_size):
                batch = boards[order[first : first + config.batch_size]]
                loss = self._train_batch(batch)
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the loss is {loss} in epoch {epoch}, batch {first // config.batch_size + 1}: "
                        "try a lower learning rate"
                    )
                total += loss * len(batch)
                bar.update(len(batch))
                bar.set_postfix(loss=f"{total / (first + len(batch)):.4f}", refresh=False)
        return total / len(boards)

    def _train_batch(self, batch: Boards) -> float:
        """Take a step down the gradient of the batch's mean loss, and return that; this process computes its share."""
        set_cosine_rate(self.adam, self.config.lr, self.step, self._steps())
        part = share(len(batch))
        if self.config.masks is not None:
            # Drawn for the whole batch, whatever the share.
            solutions = torch.from_numpy(batch.solutions)
            puzzles, solutions = mask(solutions, self.config.masks, self.generators["masks"])[part], solutions[part]
            for _ in range(self.config.decimation):
                assert isinstance(self.net, BitNet)
                puzzles = decimate(self.net, puzzles, solutions, self.generators["starts"])
            batch = Boards(puzzles.numpy(), solutions.numpy())
        else:
            batch = batch[part]
        target, _ = encode(torch.from_numpy(batch.solutions).to(self.device))
        counted, terms = None, target.numel()
        if not self.config.given_labels:
            counted = ~encode(torch.from_numpy(batch.puzzles).to(self.device))[1]
            terms = int(counted.sum())
        probabilities = self._trained(*self.net.inputs(batch), generator=self.generators["starts"])
        loss, value = loss_of_all(bit_loss(probabilities, target, counted), terms)
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()
        self.step += 1
        return value

    def _log_row(self, row: EpochMetrics) -> None:
        train_loss = "" if row.train_loss is None else f"{row.train_loss:.5f}"
        self.log(
            f"{row.epoch:5d}  {row.minutes:7.2f}  {train_loss:>10}  {row.test_loss:9.5f}"
            f"  {row.boards_right:12.1%}  {row.blank_cells_right:17.2%}"
        )
