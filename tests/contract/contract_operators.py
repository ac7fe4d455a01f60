"""Every operator of the package, with arguments for it: what a layer's functions call with torch seeing no further."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import difflayers  # noqa: F401 - which registers them

OPS = torch.ops.difflayers
DMM_OPTIONS = (6, 3, 0.1, True)


def _rand(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def _problem(batch: int, slack: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A cost (batch, 3 or 4, 5 or 10), with forbidden pairs and templates that are not there, and which are."""
    n, m = (4, 9) if slack else (3, 5)
    cost, templates = _rand(batch, n, m + slack, seed=0, dtype=dtype), torch.ones(batch, n, dtype=torch.bool)
    cost[:, 0, 1] = math.inf
    templates[1:, -1] = False
    cost.masked_fill_(~templates.unsqueeze(-1), math.inf)
    return cost, templates


def _dmm(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    cost, templates = _problem(batch, slack, dtype)
    _, bits = OPS.dmm(cost, templates, *DMM_OPTIONS, slack, True)
    along = (cost, bits, torch.randn_like(cost), *DMM_OPTIONS, slack)
    return [
        ("dmm", (cost, templates, *DMM_OPTIONS, slack, True)),
        ("dmm", (cost, templates, *DMM_OPTIONS, slack, False)),
        ("dmm_adjoint", along),
        ("dmm_tangent", along),
    ]


def _quadratic(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    cost, templates = _problem(batch, slack, dtype)
    weight, start = torch.full((batch,), 0.25, dtype=torch.float64), cost.new_zeros(batch, cost.shape[2]).double()
    solve = (cost, weight, templates, start, slack, 1e-9, 100, "cost")
    X, _, columns, _, _ = OPS.quadratic(*solve)
    return [("quadratic", solve), ("quadratic_adjoint", (X, columns, torch.randn_like(X)))]


def _entropic(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    found = []
    for births in (False, True):
        cost, templates = _problem(batch, slack, dtype)
        m = cost.shape[2] - slack
        proposals = torch.ones(batch, m, dtype=torch.bool)
        if births:
            cost = torch.cat((cost, _rand(batch, 1, m + slack, seed=1, dtype=dtype)), 1)
        weight, start = torch.full((batch,), 0.1, dtype=dtype), torch.empty(batch, 0, dtype=torch.float64)
        solve = (cost, weight, templates, proposals, start, slack, births, 1e-9, 100)
        X, _, _, tight, _, _ = OPS.entropic(*solve)
        found += [
            ("entropic", solve),
            ("entropic_centre", (X, tight, torch.randn_like(X), births and not slack)),
        ]
    return found


def _exact(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    cost, templates = _problem(batch, slack, dtype)
    prices = cost.new_zeros(batch, cost.shape[2] - slack, dtype=torch.float64)
    columns, alpha, beta, _ = OPS.exact(cost, templates, None, slack, True, "cost")
    return [
        ("exact", (cost, templates, None, slack, True, "cost")),
        ("exact", (cost, templates, prices, slack, False, "cost")),
        ("exact_certificate", (cost, templates, columns, alpha, beta, slack)),
    ]


def _target(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    cost, templates = _problem(batch, slack, dtype)
    n, m = templates.shape[1], cost.shape[2] - slack
    indices = torch.arange(2, n + 2).expand(batch, n).clone()
    whole = torch.nn.functional.one_hot(indices, m).to(dtype)
    return [("matching_target", (target, cost, templates, slack)) for target in (indices, whole)]


def _satnet(batch: int, low_rank: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    n, m = (17, 3) if low_rank else (5, 6)
    S, start = torch.randn(n + 3, m).to(dtype), torch.nn.functional.normalize(torch.randn(n + 3, 8), dim=1).to(dtype)
    z, given = _rand(batch, n, seed=1, dtype=dtype), torch.rand(batch, n) < 0.5
    z[1:, 0] = 0.5
    solve = (S, z, given, start, 40, 1e-4)
    _, V, norms, _, _ = OPS.satnet_mixing(*solve)
    return [
        ("satnet_mixing", solve),
        ("satnet_adjoint", (S, V, norms, given, torch.randn_like(V), 1e-2, 40, 1e-4)),
    ]


def _ranges(batch: int, slack: bool, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    return [("check_range", (_rand(batch, 3, seed=0, dtype=dtype), 0.0, 1.0, "z"))]


OPERATORS: dict[str, Callable[[int, bool, torch.dtype], list[tuple[str, tuple[Any, ...]]]]] = {
    "dmm": _dmm,
    "quadratic": _quadratic,
    "entropic": _entropic,
    "exact": _exact,
    "target": _target,
    "satnet": _satnet,
    "ranges": _ranges,
}
"""By method: (batch, slack (of SATNet: more rows than columns), dtype) -> names of operators with arguments."""
