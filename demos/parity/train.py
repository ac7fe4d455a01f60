"""Training: for each length and seed, one start after another until one learns.

A start is a draw of weights. Nothing but training sequences and the parity of each whole one decides whether it is given
up; test sequences are looked at to report, never to choose.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from demos.checkpoints import with_prefix
from demos.parity.config import Config
from demos.parity.data import Sequences, draw_split
from demos.parity.model import ParityChain
from demos.progress import progress_bar
from demos.schedule import set_cosine_rate


def sequence_loss(probability: Tensor, parity: Tensor, name: str) -> Tensor:
    """The loss of the last output, the only one with a label."""
    if name == "absolute":
        return (probability - parity).abs().mean()
    # At 0 and 1 the gradient of the logarithm is infinite.
    return torch.nn.functional.binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), parity)


def is_right(probability: Tensor, parity: Tensor) -> Tensor:
    """Which come out right; exactly 1/2 is wrong."""
    return (probability - 0.5) * (2 * parity - 1) > 0


TEST_EPS, TEST_MAX_ITER = 1e-6, 200
"""How the final test solves: much further than training does."""


@dataclass(frozen=True)
class EpochMetrics:
    """One row of the metrics CSV."""

    length: int
    seed: int
    start: int
    """From 1: which draw of weights."""
    epoch: int
    """From 1, of this start."""
    minutes: float
    """Since the run with this length and seed began, tests included, interruptions not."""
    train_loss: float
    """Mean over the epoch."""
    late_loss: float
    """Mean over its second half: what decides whether the start is given up."""
    train_right: float
    """Share of the training sequences, as they came in this epoch."""
    test_wrong: int
    test_right: float
    """Of the unseen sequences after the epoch, with the layer as it is trained; decides nothing."""
    given_up: bool


class Run:
    """The training of one length and seed, an epoch at a time."""

    def __init__(self, config: Config, length: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.config, self.length, self.seed = config, length, seed
        self.train_set, self.test_set = (
            part.to(device) for part in draw_split(length, config.train, config.test, seed)
        )
        # On the CPU, whatever the device: the order of the sequences and every random start are the same on all of them.
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[EpochMetrics] = []
        self.net = ParityChain(
            config.m, config.aux, config.max_iter, config.eps, gradient=config.gradient, growth=config.growth
        ).to(device)
        self._begin(1)

    @property
    def finished(self) -> bool:
        """Whether a start has had all its epochs."""
        return self.epoch == self.config.epochs and not self.history[-1].given_up

    def advance(self) -> EpochMetrics:
        """Train for an epoch, of a new start if the last one was given up, and test."""
        began = time.perf_counter()
        if self.history and self.history[-1].given_up:
            self._begin(self.start + 1)
        self.epoch += 1
        losses, right = self._train()
        late = losses[len(losses) // 2 :]
        late_loss = sum(late) / len(late)
        wrong = len(self.test_set) - self.test()
        before = self.history[-1].minutes if self.history else 0.0
        self.history.append(
            EpochMetrics(
                length=self.length,
                seed=self.seed,
                start=self.start,
                epoch=self.epoch,
                minutes=before + (time.perf_counter() - began) / 60,
                train_loss=sum(losses) / len(losses),
                late_loss=late_loss,
                train_right=right / len(self.train_set),
                test_wrong=wrong,
                test_right=1 - wrong / len(self.test_set),
                # A loss that is not a number is no better than chance.
                given_up=not late_loss <= self.config.give_up and self.start < self.config.starts,
            )
        )
        return self.history[-1]

    def test(self) -> int:
        """How many of the unseen sequences come out right, always with the same random starts of the layer."""
        return self._right(self.seed)

    def _right(self, starts_seed: int) -> int:
        generator = torch.Generator().manual_seed(starts_seed)
        with torch.no_grad():
            return int(is_right(self.net(self.test_set.bits, generator=generator), self.test_set.parity).sum())

    def final_test(self) -> int:
        """How many of the unseen sequences come out wrong if the layer's problem is solved to the end."""
        layer = self.net.layer
        as_trained = layer.eps, layer.max_iter
        layer.eps, layer.max_iter = TEST_EPS, TEST_MAX_ITER
        try:
            return len(self.test_set) - self._right(0)
        finally:
            layer.eps, layer.max_iter = as_trained

    def state(self) -> dict[str, Tensor]:
        """All tensors that :meth:`restore` needs."""
        (adam,) = self.adam.state_dict()["state"].values()
        return {
            "S": self.net.layer.S.detach().cpu(),
            "generator": self.generator.get_state(),
            **{f"adam.{name}": tensor.cpu() for name, tensor in adam.items()},
        }

    def restore(self, state: dict[str, Tensor], history: list[EpochMetrics]) -> None:
        """Go back to the end of an epoch."""
        self.history = list(history)
        self.start, self.epoch = history[-1].start, history[-1].epoch
        with torch.no_grad():
            self.net.layer.S.copy_(state["S"])
        self._new_adam()
        adam = with_prefix(state, "adam.")
        self.adam.load_state_dict({"state": {0: adam}, "param_groups": self.adam.state_dict()["param_groups"]})
        self.generator.set_state(state["generator"])

    def _begin(self, start: int) -> None:
        self.start, self.epoch = start, 0
        self.net.draw_weights(self.generator, draws=self.config.draws)
        self._new_adam()

    def _new_adam(self) -> None:
        # Adam divides by the size of the gradient plus eps: its usual 1e-8 would stop it where the gradient is smaller.
        self.adam = torch.optim.Adam(self.net.parameters(), lr=self.config.lr, eps=1e-30)

    def _train(self) -> tuple[list[float], int]:
        """Train once on every sequence; return the loss of each batch and how many came out right."""
        config, losses, right = self.config, [], 0
        order = torch.randperm(len(self.train_set), generator=self.generator)
        batches = order.split(config.batch_size)
        steps, done = config.epochs * len(batches), (self.epoch - 1) * len(batches)
        text = f"length {self.length}, seed {self.seed}, start {self.start}, epoch {self.epoch}"
        with progress_bar(len(batches), text, " batches") as bar:
            for step, index in enumerate(batches, done):
                set_cosine_rate(self.adam, config.lr, step, steps)
                batch: Sequences = self.train_set[index]
                probability = self.net(batch.bits, generator=self.generator)
                loss = sequence_loss(probability, batch.parity, config.loss)
                self.adam.zero_grad()
                torch.autograd.backward(loss)
                self.adam.step()
                losses.append(loss.item())
                right += int(is_right(probability.detach(), batch.parity).sum())
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                bar.update()
        return losses, right
