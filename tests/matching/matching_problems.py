"""Random matching problems, and references for them that share no code with the package's kernels."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from difflayers.matching.dmm import oracle


class Problem(NamedTuple):
    """The inputs of the operators: forbidden pairs are +inf, the column of unmatched templates is the last."""

    cost: Tensor  # (B, n, m)
    templates: Tensor  # (B, n), bool
    slack: bool

    def to(self, dtype: torch.dtype) -> "Problem":
        return self._replace(cost=self.cost.to(dtype))


def make_problem(
    batch: int,
    n: int,
    m: int,
    *,
    forbidden: float = 0.0,
    masked: bool = False,
    slack: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Uniform costs. A share `forbidden` of the pairs is, as far as that leaves each template a proposal of its own.

    `masked`: only some of the rows and columns are there, others in each problem, the last problem has none. With `slack`
    there is one column more.
    """
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    cost = torch.rand(batch, n, m + slack, generator=generator, dtype=torch.float64)
    templates = torch.ones(batch, n, dtype=torch.bool)
    for b in range(batch):
        rows, columns = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
        if masked:
            left = 0 if b == batch - 1 else integer(1, min(n, m))
            rows, columns = rows[:left], columns[: integer(left, m)]
        there = torch.zeros(n, m + slack, dtype=torch.bool)
        there[rows[:, None], columns[None, :]] = True
        there &= torch.rand(there.shape, generator=generator) >= forbidden
        if not slack:
            there[rows, columns[: len(rows)]] = True  # a proposal for each template
        else:
            there[rows, m] = True
        cost[b].masked_fill_(~there, math.inf)
        templates[b] = False
        templates[b, rows] = True
    return Problem(cost.to(dtype), templates, slack)


# batch, n, m, further arguments of make_problem
SIZES: dict[str, tuple[int, int, int, dict[str, object]]] = {
    "n = m = 1": (2, 1, 1, {}),
    "n = 1": (3, 1, 9, {}),
    "m = 1, slack": (3, 4, 1, {"slack": True}),
    "n = m": (3, 7, 7, {}),
    "whole bytes": (2, 5, 16, {}),
    "odd": (3, 6, 13, {}),
    "paper's": (2, 10, 50, {}),
    "forbidden": (4, 6, 13, {"forbidden": 0.5}),
    "almost all forbidden": (4, 7, 9, {"forbidden": 0.95}),
    "masked": (5, 7, 11, {"masked": True}),
    "masked and forbidden": (5, 9, 17, {"masked": True, "forbidden": 0.3}),
    "slack": (3, 6, 9, {"slack": True}),
    "slack, n > m": (3, 9, 4, {"slack": True}),
    "slack, masked and forbidden": (5, 9, 7, {"slack": True, "masked": True, "forbidden": 0.3}),
    "slack, nothing else allowed": (2, 3, 5, {"slack": True, "forbidden": 1.0}),
    "larger": (2, 37, 70, {}),
    "larger, forbidden": (2, 33, 41, {"forbidden": 0.6}),
    "empty batch": (0, 4, 6, {}),
}


def problem(size: str) -> Problem:
    batch, n, m, options = SIZES[size]
    return make_problem(batch, n, m, seed=sorted(SIZES).index(size), **options)  # type: ignore[arg-type]


def oracle_dmm(p: Problem, cost: Tensor | None = None, **options: object) -> Tensor:
    """The oracle on each problem of a batch, differentiable in `cost`."""
    cost = p.cost if cost is None else cost
    X = [oracle.dmm(c, slack=p.slack, **options) for c in cost]  # type: ignore[arg-type]
    return torch.stack(X) if X else torch.zeros_like(cost)


def projection_arguments(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float = 1e-9, max_iter: int = 500
) -> tuple[Any, ...]:
    """What the quadratic operator takes to project scores A (B, n, m), -inf where forbidden."""
    ones, none = A.new_ones(len(A), dtype=torch.float64), A.new_zeros(len(A), A.shape[2], dtype=torch.float64)
    return -A, ones, templates, none, slack, tolerance, max_iter, "X"


def projection(kernels: Any, *args: Any) -> tuple[Tensor, ...]:
    """The same, by the kernels of a module, with its five results."""
    return kernels.quadratic(*projection_arguments(*args))  # type: ignore[no-any-return]


def _repeated_rows(n: int, m: int, g: torch.Generator) -> Tensor:
    return torch.rand(1, m, generator=g, dtype=torch.float64).repeat(n, 1)


def _repeated_columns(n: int, m: int, g: torch.Generator) -> Tensor:
    return torch.rand(n, 1, generator=g, dtype=torch.float64).repeat(1, m)


def _two_kinds_of_rows(n: int, m: int, g: torch.Generator) -> Tensor:
    return torch.rand(2, m, generator=g, dtype=torch.float64).repeat(n, 1)[:n]


def _rank_one(n: int, m: int, g: torch.Generator) -> Tensor:
    return torch.rand(n, 1, generator=g, dtype=torch.float64) @ torch.rand(1, m, generator=g, dtype=torch.float64)


# Costs whose optimal assignments, or the multipliers of whose constraints, are many.
DEGENERATE: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "zero": lambda n, m, g: torch.zeros(n, m, dtype=torch.float64),
    "equal": lambda n, m, g: torch.full((n, m), 0.3, dtype=torch.float64),
    "repeated rows": _repeated_rows,
    "repeated columns": _repeated_columns,
    "two kinds of rows": _two_kinds_of_rows,
    "integers": lambda n, m, g: torch.randint(4, (n, m), generator=g).double(),
    "bits": lambda n, m, g: torch.randint(2, (n, m), generator=g).double(),
    "rank one": _rank_one,
    "negative identity": lambda n, m, g: -torch.eye(n, m, dtype=torch.float64),
    "all want one": lambda n, m, g: 1 - torch.eye(1, m, dtype=torch.float64).repeat(n, 1),
    "of any size": lambda n, m, g: 10 ** (6 * torch.rand(n, m, generator=g, dtype=torch.float64) - 3),
    "random": lambda n, m, g: torch.rand(n, m, generator=g, dtype=torch.float64),
}


def degenerate(name: str, n: int, m: int, seed: int = 0) -> Tensor:
    return DEGENERATE[name](n, m, torch.Generator().manual_seed(seed))


def kkt_error(A: Tensor, X: Tensor, beta: Tensor, templates: Tensor, slack: bool) -> float:
    """How far X (n, m) is from the projection of A by the conditions of Karush, Kuhn and Tucker, given the columns' beta.

    The largest deviation from X_ij = max(0, A_ij - alpha_i - beta_j) with the alpha_i that fits best, X 1 = 1, X' 1 <= 1,
    beta >= 0, and beta_j > 0 only where column j sums to 1. Where all hold, X is the projection.
    """
    A, X = A[templates], X[templates].double()
    columns = X[:, :-1] if slack else X
    errors = [torch.zeros(1, dtype=torch.float64), -beta, (X.sum(1) - 1).abs(), columns.sum(0) - 1]
    bounded = beta[:-1] if slack else beta
    errors.append((1 - columns.sum(0))[bounded > 0])
    if slack:
        errors.append(beta[-1:].abs())
    for a, x in zip(A.double(), X, strict=True):
        j = int(x.argmax())
        alpha = a[j] - beta[j] - x[j]
        errors.append((x - (a - alpha - beta).clamp(min=0)).abs())
    return float(torch.cat(errors).max())


def assignments(n: int, m: int, *, may_miss: bool = False) -> list[tuple[int | None, ...]]:
    """Every way to give n templates proposals of their own, or (`may_miss`) none."""
    choices: list[int | None] = [*range(m), *([None] * n if may_miss else [])]
    return sorted(set(itertools.permutations(choices, n)), key=str)
