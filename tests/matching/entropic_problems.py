"""Problems of entropic matching as its operators take them, of all kinds and odd sizes."""

import torch
from torch import Tensor

# batch, n, m, slack (a column of unmatched templates), births (a row of unmatched proposals), forbidden, masked
SIZES: dict[str, tuple[int, int, int, bool, bool, float, bool]] = {
    "n = m = 1": (2, 1, 1, False, False, 0.0, False),
    "n = 1": (3, 1, 9, False, False, 0.0, False),
    "n = m": (3, 7, 7, False, False, 0.0, False),
    "odd": (3, 6, 13, False, False, 0.0, False),
    "paper's": (2, 10, 50, False, False, 0.0, False),
    "forbidden": (4, 6, 13, False, False, 0.5, False),
    "masked and forbidden": (5, 9, 17, False, False, 0.3, True),
    "slack, n > m": (3, 9, 4, True, False, 0.0, False),
    "slack, masked and forbidden": (5, 9, 7, True, False, 0.3, True),
    "births": (3, 4, 7, False, True, 0.0, False),
    "births, n = m": (3, 5, 5, False, True, 0.0, False),
    "births, masked and forbidden": (5, 6, 9, False, True, 0.3, True),
    "both dustbins": (3, 6, 9, True, True, 0.0, False),
    "both dustbins, m = 1": (2, 4, 1, True, True, 0.0, False),
    "both dustbins, masked and forbidden": (5, 8, 7, True, True, 0.3, True),
    "larger": (2, 37, 70, False, False, 0.0, False),
    "empty batch": (0, 4, 6, False, False, 0.0, False),
}


def make_problem(
    size: str, *, epsilon: float, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[bool, bool]]:
    """(cost, epsilon, templates, proposals, no start), (slack, births): uniform costs; each template has a proposal of its own.

    `masked`: only some rows and columns are there, and in the last problem none.
    """
    batch, n, m, slack, births, forbidden, masked = SIZES[size]
    generator = torch.Generator().manual_seed(sorted(SIZES).index(size))
    cost = scale * torch.rand(batch, n + births, m + slack, generator=generator, dtype=torch.float64)
    templates, proposals = torch.ones(batch, n, dtype=torch.bool), torch.ones(batch, m, dtype=torch.bool)
    for b in range(batch):
        rows, columns = torch.randperm(n, generator=generator), torch.randperm(m, generator=generator)
        if masked:
            left = 0 if b == batch - 1 else int(torch.randint(1, min(n, m) + 1, (), generator=generator))
            rows, columns = rows[:left], columns[: (left + m + 1) // 2 if left else 0]
        templates[b], proposals[b] = False, False
        templates[b, rows], proposals[b, columns] = True, True
        pairs = torch.rand(n, m, generator=generator) >= forbidden
        if len(rows) <= len(columns):
            pairs[rows, columns[: len(rows)]] = True
        cost[b, :n, :m].masked_fill_(~(pairs & templates[b][:, None] & proposals[b]), torch.inf)
        if slack:
            cost[b, :n, m].masked_fill_(~templates[b], torch.inf)
        if births:
            cost[b, n, :m].masked_fill_(~proposals[b], torch.inf)
    weights = torch.full((batch,), epsilon, dtype=dtype)
    return (cost.to(dtype), weights, templates, proposals, torch.empty(batch, 0, dtype=torch.float64)), (slack, births)
