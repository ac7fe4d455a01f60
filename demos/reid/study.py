"""The study: every method tuned over one grid, trained with every seed, tested; every number comes from the seeds alone."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from demos.reid.config import FIRST_TUNING_SEED, Config, Experiment
from demos.reid.data import Problems, make_problems
from demos.reid.model import EXPERIMENTS, Method
from demos.reid.train import Score, score, train

LEARNING_RATES, SCALES = (3e-3, 1e-2, 3e-2), (1.0, 4.0, 16.0)
"""What every method is tuned over, together with its losses; the scales are those that training starts with."""


@dataclass(frozen=True)
class Point:
    """A point of the grid."""

    loss: str
    lr: float
    scale: float


def grid(method: Method) -> list[Point]:
    return [Point(*values) for values in itertools.product(method.losses, LEARNING_RATES, SCALES)]


QUALITY = {"labels": "hungarian", "outcomes": "outcome", "counts": "count"}
"""By experiment, the score that tuning looks at: it uses nothing that is not known in training."""


@dataclass(frozen=True)
class Run:
    """One training, tested."""

    experiment: str
    method: str
    train: int
    seed: int
    point: Point
    score: Score


class Study:
    """Runs cell after cell; data is drawn once for each world."""

    def __init__(
        self,
        config: Config,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[str, int], None] = lambda text, done: None,
    ) -> None:
        self.config, self.device = config, device
        fitting = [name for name, methods in EXPERIMENTS.items() if set(methods) & set(config.methods)]
        for name in config.experiments:
            if name not in fitting:
                raise ValueError(
                    f"--methods: none of {', '.join(config.methods)} fits the experiment {name!r}; "
                    f"wanted some of {', '.join(EXPERIMENTS[name])}"
                )
        self.experiments = [name for name in fitting if name in (config.experiments or fitting)]
        self.progress = progress
        self.step_seconds: dict[tuple[str, str], list[float]] = {}
        self._data: dict[tuple[int, str], Problems] = {}

    def cells(self) -> Iterator[tuple[Experiment, str, int]]:
        """What is trained: experiment, method, number of training problems."""
        for experiment in self.experiments:
            for name in EXPERIMENTS[experiment]:
                if name in self.config.methods:
                    for count in self.config.train:
                        yield experiment, name, count

    def trainings(self) -> int:
        """How many there are."""
        points = [len(grid(EXPERIMENTS[experiment][name])) for experiment, name, _ in self.cells()]
        return sum(number * self.config.tuning_worlds + self.config.seeds for number in points)

    def run(self) -> Iterator[list[Run]]:
        """For each cell, its trainings with all seeds."""
        for cell in self.cells():
            self.progress(", ".join(map(str, cell)), 0)
            point = self.tune(*cell)
            yield [Run(*cell, seed, point, self._test(*cell, point, seed, "test")) for seed in range(self.config.seeds)]

    def tune(self, experiment: Experiment, method: str, count: int) -> Point:
        """The point of the grid best on the validation problems of the tuning worlds; the first of equals."""
        seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.config.tuning_worlds)

        def quality(point: Point) -> float:
            scores = [self._test(experiment, method, count, point, seed, "validation") for seed in seeds]
            return sum(getattr(one, QUALITY[experiment]) for one in scores)

        return max(grid(EXPERIMENTS[experiment][method]), key=quality)

    def _test(self, experiment: Experiment, method: str, count: int, point: Point, seed: int, split: str) -> Score:
        problems = self._problems(seed, "train", max(self.config.train))[torch.arange(count)]
        loss = EXPERIMENTS[experiment][method].losses[point.loss]
        started = time.perf_counter()
        net = train(loss, problems, self.config, lr=point.lr, scale=point.scale, seed=seed)
        net.bias.item()  # waits for the device
        seconds = (time.perf_counter() - started) / self.config.steps
        self.step_seconds.setdefault((experiment, method), []).append(seconds)
        unseen = self._problems(seed, split, self.config.test)
        with torch.no_grad():
            result = score(net(unseen), unseen)
        self.progress("", 1)
        return result

    def _problems(self, seed: int, split: str, count: int) -> Problems:
        key = (seed, split)
        if key not in self._data:
            self._data[key] = make_problems(seed, split, count, self.config.sizes).to(self.device)
        return self._data[key]


def untrained(config: Config) -> Score:
    """Cosine similarities of the observations themselves, mean over the seeds."""
    scores = []
    for seed in range(config.seeds):
        problems = make_problems(seed, "test", config.test, config.sizes)
        scores.append(
            score(
                nn.functional.normalize(problems.templates, dim=-1)
                @ nn.functional.normalize(problems.proposals, dim=-1).mT,
                problems,
            )
        )
    return Score(*(statistics.mean(values) for values in zip(*(vars(one).values() for one in scores), strict=True)))


def summarize(runs: list[Run]) -> list[dict[str, object]]:
    """One row for each cell: means and standard deviations over the seeds, and the lead over the softmax of rows.

    The lead is taken seed by seed, in the same world, so that its deviation is free of how hard the worlds are.
    """
    cells: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.experiment, run.method, run.train), []).append(run)
    table = []
    for (experiment, method, count), of_cell in cells.items():
        row: dict[str, object] = {"experiment": experiment, "method": method, "train": count, "seeds": len(of_cell)}
        row |= vars(of_cell[0].point)
        for name in vars(of_cell[0].score):
            row |= _moments(name, [getattr(run.score, name) for run in of_cell])
        rows = {run.seed: run.score.hungarian for run in cells.get((experiment, "rows", count), [])}
        row |= _moments("lead", [run.score.hungarian - rows[run.seed] for run in of_cell if run.seed in rows])
        table.append(row)
    return table


def _moments(name: str, values: list[float]) -> dict[str, object]:
    return {
        f"{name}_mean": round(statistics.mean(values), 5) if values else "",
        f"{name}_std": round(statistics.stdev(values), 5) if len(values) > 1 else "",
    }
