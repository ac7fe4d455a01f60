"""What is measured of exact matching: time against scipy, lapx and torch-linear-assignment, at several sizes."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.matching.instances import random_costs
from benchmarks.registry import Row, case, seconds
from difflayers import functional


def scipy_loop(cost: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return torch.stack([torch.from_numpy(linear_sum_assignment(one)[1]) for one in cost.numpy()])


def lapx_batch(cost: Tensor) -> Tensor:
    """lapx on as many threads as torch has; it works in float64."""
    import lap

    n, m = cost.shape[-2:]
    threads = torch.get_num_threads()
    _, rows, columns = lap.lapjvx_batch(cost.numpy().astype(np.float64), extend_cost=n != m, n_threads=threads)
    return torch.stack([torch.as_tensor(j[np.argsort(i)]) for i, j in zip(rows, columns, strict=True)])


def torch_linear_assignment(cost: Tensor) -> Tensor:
    """On a CPU a loop over scipy, too."""
    from torch_linear_assignment import batch_linear_assignment

    return batch_linear_assignment(cost)


COSTS: dict[str, Callable[[int, int, int], Tensor]] = {
    "uniform": lambda B, n, m: random_costs(B, n, m, dtype=torch.float32),
    "integers below 100": lambda B, n, m: (100 * random_costs(B, n, m, dtype=torch.float32)).floor(),
}


@case("matching-exact")
def exact() -> Iterator[Row]:
    """Milliseconds a batch of exact assignments, float32: `functional.assign` against scipy in a loop and batches of others."""
    for B, n, m in (
        (1, 2, 3),
        (1, 10, 50),
        (1024, 10, 50),
        (65536, 2, 3),
        (208, 300, 300),
        (8, 500, 500),
        (1, 2000, 2000),
    ):
        for name, make in COSTS.items():
            cost = make(B, n, m)
            repeats = 101 if B * n * m < 1e5 else 5
            ours, spread = seconds(lambda cost=cost: functional.assign(cost), repeats=repeats)  # type: ignore[misc]
            solved = seconds(lambda cost=cost: functional.solve_exact(cost), repeats=repeats)[0]  # type: ignore[misc]
            scipy = seconds(lambda cost=cost: scipy_loop(cost), repeats=min(repeats, 9) // 2)[0]  # type: ignore[misc]
            lapx = seconds(lambda cost=cost: lapx_batch(cost), repeats=min(repeats, 9) // 2)[0]  # type: ignore[misc]
            tla = seconds(lambda cost=cost: torch_linear_assignment(cost), repeats=min(repeats, 9) // 2)[0]  # type: ignore[misc]
            yield {
                "costs": name,
                "B": B,
                "n": n,
                "m": m,
                "assign ms": 1e3 * ours,
                "spread": 1e3 * spread,
                "solve ms": 1e3 * solved,
                "scipy ms": 1e3 * scipy,
                "scipy ratio": scipy / ours,
                "lapx ms": 1e3 * lapx,
                "lapx ratio": lapx / ours,
                "torch-linear-assignment ms": 1e3 * tla,
                "torch-linear-assignment ratio": tla / ours,
            }
