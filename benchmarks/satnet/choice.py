"""How options of the layer matter on five problems: docs/howto-choose.md is written from these rows."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from benchmarks.registry import Row, case
from benchmarks.satnet.problems import Problem, problems
from difflayers import SATNet

SECONDS = {"parity of 4 bits": 3.0, "sum of 3 bits": 5.0}  # of training a run; 12 for the others
SETTINGS: dict[str, list[float]] = {
    "m": [0.25, 0.5, 1, 2],  # times the bits
    "aux": [0, 0.25, 0.5, 1],  # times the bits
    "k": [4, 8, 32],  # beside the default
    "lr": [0.002, 0.005, 0.01, 0.05, 0.1],
    "eps": [1e-2, 1e-3, 1e-6],
}
DEFAULT = {"m": 1.0, "aux": 0.5, "k": 0.0, "lr": 0.02, "eps": 1e-4}


@case("satnet-choice")
def choice() -> Iterator[Row]:
    """Share of unseen instances completed validly in one pass after a fixed time of training, one option varied at a time.

    m and aux in multiples of the bits; k 0: the default. Adam, batches of 40, one thread. Two seeds (five of the
    first two problems).
    """
    torch.set_num_threads(1)
    varied = [("-", DEFAULT)] + [
        (name, DEFAULT | {name: value})
        for name, values in SETTINGS.items()
        for value in values
        if DEFAULT[name] != value
    ]
    for problem in problems():
        for name, setting in varied:
            budget = SECONDS.get(problem.name, 12.0)
            runs = [_run(problem, setting, budget, seed) for seed in range(5 if problem.name in SECONDS else 2)]
            yield {
                "problem": problem.name,
                "varied": name,
                **setting,
                "valid": sum(run[0] for run in runs) / len(runs),
                "worst": min(run[0] for run in runs),
                "steps": sum(run[1] for run in runs) / len(runs),
                "seconds": budget,
            }


def _run(problem: Problem, setting: dict[str, float], budget: float, seed: int) -> tuple[float, int]:
    """Train for `budget` seconds; the share of valid completions of the test rows, and the number of steps."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    bits = problem.domains.bits
    m, aux = max(2, round(setting["m"] * bits)), round(setting["aux"] * bits)
    layer = SATNet(bits, m, aux, eps=setting["eps"], k=int(setting["k"]) or None)
    optimizer = torch.optim.Adam(layer.parameters(), lr=setting["lr"])
    end, steps = time.process_time() + budget, 0
    while time.process_time() < end:
        rows = problem.train[torch.randint(len(problem.train), (40,), generator=generator)]
        p, target, is_input = _complete(layer, problem, rows, generator)
        loss = binary_cross_entropy(p.clamp(1e-3, 1 - 1e-3)[~is_input], target[~is_input])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    with torch.no_grad():
        asked = torch.Generator().manual_seed(1000)
        p, _, _ = _complete(layer, problem, problem.test, asked)
    return problem.valid(problem.domains.decode(p)).double().mean().item(), steps


def _complete(
    layer: SATNet, problem: Problem, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's probabilities on rows of which some variables are given, the bits of the rows, and which are given."""
    given = problem.masks(len(rows), generator)
    target, _ = problem.domains.encode(rows)
    z, is_input = problem.domains.encode(rows, given)
    return layer(z, is_input), target, is_input
