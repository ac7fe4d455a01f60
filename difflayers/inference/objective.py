"""The learnt objective: what a layer thinks of a complete assignment, and up to where that can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers._checks import LARGEST_NUMBER, check_generator, check_mask, check_tensor, shown
from difflayers.functional._satnet import random_start, solve_satnet
from difflayers.inference.domains import Domains
from difflayers.nn import SATNet

MAX_ITER = 100
EPS = 1e-5
"""How far the layer is solved where an objective is to be compared: further than training does."""

_BATCH = 200
_FALSE = 0.01
"""A limit separates if at most this share of the spoilt solutions are within it, ..."""
_RIGHT = 0.5
"""... and at least this share of the solutions that it was not set by."""


class AcceptanceLimit(float):
    """The highest learnt objective that an accepted answer may have. A float that also says how well it tells right from wrong.

    The shares were measured on solutions that were not used to set the limit, and on spoilt copies of them. A search looks for
    low objectives. So a larger share of its wrong answers may be within the limit. Rules in addition to the limit help.
    """

    separates: bool
    """Whether `right` is at least 0.5 and `false` at most 0.01. If not, `search` and the others accept nothing by the
    objective."""
    right: float
    """Share of the solutions that are within the limit."""
    false: float
    """Share of spoilt solutions, with one variable changed, that are within it too."""
    auc: float
    """Chance that a solution has a lower objective than a spoilt one. 1 is perfect, 0.5 is guessing."""

    def __new__(cls, value: float, separates: bool, right: float, false: float, auc: float) -> "AcceptanceLimit":
        limit = super().__new__(cls, value)
        limit.separates, limit.right, limit.false, limit.auc = separates, right, false, auc
        return limit

    def __repr__(self) -> str:
        verdict = "separates" if self.separates else "does not separate"
        return (
            f"{float(self):.5g} ({verdict}: {self.right:.1%} of solutions within it, {self.false:.1%} of spoilt ones, "
            f"AUC {self.auc:.3f})"
        )

    def __reduce__(self) -> tuple[type["AcceptanceLimit"], tuple[float, bool, float, float, float]]:
        return AcceptanceLimit, (float(self), self.separates, self.right, self.false, self.auc)


@dataclass(frozen=True)
class Answers:
    """What was found for each problem of a batch; every field but the last has the batch's shape."""

    values: Tensor
    """(..., v), int64: the accepted answer, or else the one with the lowest learnt objective."""
    accepted: Tensor
    """bool: whether `judge` accepts it. An answer that is not accepted may still be right."""
    objective: Tensor
    """Its learnt objective, float64; inf where nothing was tried."""
    paths: Tensor
    """int64: how many attempts it took (decimations, roundings or hypotheses)."""
    passes: Tensor
    """int64: how many solves of the layer, those of learnt objectives included."""
    judge: str
    """What decides: "objective" (it is within the limit), "rules" (none is broken), "objective and rules", or "nothing" if
    there are no rules and no limit that separates."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; then this is what was found so far."""

    @classmethod
    def untried(cls, values: Tensor, judge: str) -> "Answers":
        """Of problems (B, v) that nothing has been tried on."""
        count, device = len(values), values.device
        return cls(
            values=values.clone(),
            accepted=torch.zeros(count, dtype=torch.bool, device=device),
            objective=torch.full((count,), torch.inf, dtype=torch.float64, device=device),
            paths=torch.zeros(count, dtype=torch.int64, device=device),
            passes=torch.zeros(count, dtype=torch.int64, device=device),
            judge=judge,
        )

    def to(self, device: torch.device | str) -> "Answers":
        """The same on another device."""
        names = ("values", "accepted", "objective", "paths", "passes")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def reshape(self, shape: Sequence[int]) -> "Answers":
        """The same in another shape of the batch."""
        each = {name: getattr(self, name).reshape(shape) for name in ("accepted", "objective", "paths", "passes")}
        return replace(self, values=self.values.reshape(*shape, self.values.shape[-1]), **each)

    def __str__(self) -> str:
        count = self.accepted.numel()
        means = [float(t.double().mean()) if count else 0.0 for t in (self.paths, self.passes)]
        return (
            f"{int(self.accepted.sum()):,} of {count:,} accepted (judge: {self.judge}), {means[0]:.1f} paths and "
            f"{means[1]:.1f} passes each" + (", interrupted" if self.interrupted else "")
        )


class Judge:
    """What accepts an answer: a limit of the objective, rules, both, or nothing."""

    def __init__(self, limit: float | None, rules: object | None) -> None:
        if limit is not None and (not isinstance(limit, float | int) or isinstance(limit, bool)):
            raise TypeError(f"limit must be a number, or None for no limit; got {type(limit).__name__}")
        if isinstance(limit, int) and abs(limit) > LARGEST_NUMBER:
            raise ValueError(f"limit must be at most {LARGEST_NUMBER:g}; got {shown(limit)}")
        if limit is not None and math.isnan(limit):
            raise ValueError("limit must be a number; got NaN")
        by_objective = limit is not None and getattr(limit, "separates", True)
        self.limit = float(limit) if limit is not None and by_objective else math.inf
        parts = ["objective"] * by_objective + ["rules"] * (rules is not None)
        self.name = " and ".join(parts) or "nothing"

    def accepts(self, objective: Tensor) -> Tensor:
        """Of answers that break no rule, which are accepted."""
        if self.name == "nothing":
            return torch.zeros_like(objective, dtype=torch.bool)
        return objective <= self.limit


def check_layer(layer: SATNet, domains: Domains) -> Tensor:
    """The whole clause matrix of a layer whose variables are the bits of the domains."""
    if not isinstance(layer, SATNet):
        raise TypeError(f"layer must be a SATNet; got {type(layer).__name__}")
    if not isinstance(domains, Domains):
        raise TypeError(f"domains must be Domains; got {type(domains).__name__}")
    if layer.n != domains.bits:
        raise ValueError(f"domains must have {layer.n} bits, as many as the layer has variables; got {domains.bits}")
    S = layer._matrix().detach()
    check_tensor("S of the layer", S, values=True)
    return S


class Effort(NamedTuple):
    """How far the layer is solved."""

    max_iter: int
    eps: float

    @classmethod
    def of(cls, layer: SATNet, max_iter: int = MAX_ITER, eps: float = EPS) -> "Effort":
        """So far, or as far as the layer itself, if that is further: a layer of exact equations needs it."""
        return cls(max(max_iter, layer.max_iter), min(eps, layer.eps))


def check_problems(
    domains: Domains, values: Tensor, given: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor, torch.Size]:
    """values and given, flattened to (B, v) and on the device, and the batch's shape."""
    values, given = domains.check(values, given)
    shape = values.shape[:-1]
    return values.reshape(-1, len(domains)).to(device), given.reshape(-1, len(domains)).to(device), shape


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed from the generator. All that is random follows from it and from the attempt's number, but not from the batch."""
    check_generator("generator", generator)
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def start_vectors(S: Tensor, k: int, seed: int, attempt: int) -> Tensor:
    """(N, k): where the solves of one attempt begin. They are the same for every problem and on every device."""
    generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * attempt) % 2**63)
    return random_start(S.shape[0], k, S.dtype, S.device, generator)


@torch.no_grad()
def learnt_objective(
    layer: SATNet, domains: Domains, values: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""The layer's objective for complete assignments, minimized over its auxiliary variables.

    .. math:: \min_{v_{n+1}, \dots, v_{n+aux}} \|S^\top V\|^2, \qquad v_i = \pm v_\top \text{ for the bits.}

    Args:
        layer: a trained layer.
        domains: of its variables.
        values: (..., v), complete.
        generator: where the auxiliary variables' start is drawn from; torch's global one if None.

    Returns:
        (...), float64, on the device of the layer.

    Raises:
        TypeError, ValueError: domains that do not fit the layer; values outside them.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3]])             # 1 implies 2, 2 implies 3
        >>> inference.learnt_objective(layer, Domains([2, 2, 2]), torch.tensor([[1, 1, 1], [1, 0, 0]])).round(decimals=3)
        tensor([0.2500, 1.2500], dtype=torch.float64)
    """
    S = check_layer(layer, domains)
    values, _, shape = check_problems(domains, values, None, S.device)
    start, effort = start_vectors(S, layer.k, draw_seed(generator), 0), Effort.of(layer)
    parts = [evaluate(S, domains, part, start, effort)[0] for part in values.split(_BATCH)]
    return torch.cat(parts).reshape(shape) if parts else S.new_empty(shape, dtype=torch.float64)


def evaluate(S: Tensor, domains: Domains, values: Tensor, start: Tensor, effort: Effort) -> tuple[Tensor, Tensor]:
    """The learnt objectives of (B, v), float64, and the vectors (B, N, k), from a start (N, k) or (B, N, k)."""
    bits, given = domains.encode(values, dtype=S.dtype)
    _, objective, V = solve(S, bits, given, start, effort)
    return objective, V


def solve(S: Tensor, z: Tensor, given: Tensor, start: Tensor, effort: Effort) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (B, n), objectives (B,) and vectors (B, N, k) of the layer, from a start (N, k) or (B, N, k).

    z and given come from any device; the rest is on that of S.
    """
    z, given = z.to(S.device), given.to(S.device)
    found = solve_satnet(S, z, given, start=start.expand(len(z), *start.shape[-2:]), **effort._asdict(), prox_lam=0.0)
    return found.value, found.objective, found.vectors


def acceptance_limit(
    layer: SATNet,
    domains: Domains,
    solutions: Tensor,
    *,
    given: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> AcceptanceLimit:
    r"""The highest learnt objective at which an answer is accepted, set by known solutions, and whether it tells right from
    wrong.

    Solutions often have nearly the same learnt objective, and a higher one as soon as one variable is wrong. Where that is not
    so, the limit says so (`AcceptanceLimit.separates`) and nothing is accepted by it. Where it is so, an accepted answer is
    right as far as one wrong variable shows. A rule that the layer does not know, and that changing one variable never breaks
    alone, stays unnoticed: check such rules by yourself, or give them to `search` as `rules`.

    Half of the solutions set the limit: eight times as far above their median as their 90th percentile, or 0.8% of the way to
    the lowest of the spoilt ones if that is more. Percentiles further out would not do, since a few solutions have an
    objective far above the others'. Spoilt copies of them, in each of which one
    variable has another value, may lower it: to halfway between the highest of the solutions (the worst 1% left out) and the
    lowest of the spoilt ones (the lowest 0.5% left out), if these lie below. The other half of the solutions, and spoilt
    copies of those, say what the limit is worth. A spoilt copy that is one of the solutions is left out; one that is a
    solution nobody gave counts as wrong, so that problems with free choices are taken not to separate.

    Args:
        layer: a trained layer.
        domains: of its variables.
        solutions: (count, v). Up to 2,000 are used. Solutions that the layer has not seen are better than those it was made
            from. A layer that has learnt few solutions by heart gives unseen ones a higher objective, so that a limit set by
            the former accepts none of the latter (`separates` is about the solutions that it was set by).
        given: (v,), bool: variables that are part of the question and are not spoilt.
        generator: where what is random is drawn from; torch's global one if None.

    Returns:
        An `AcceptanceLimit`, a float.

    Raises:
        TypeError, ValueError: see `learnt_objective`; fewer than two solutions; no variable that could be spoilt.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, -3]])    # all three are alike
        >>> limit = inference.acceptance_limit(layer, Domains([2, 2, 2]), torch.tensor([[0, 0, 0], [1, 1, 1]] * 10))
        >>> limit.separates
        True
    """
    S = check_layer(layer, domains)
    check_tensor("solutions", solutions, None, values=True)
    if solutions.ndim != 2:
        raise ValueError(f"solutions must have shape (count, {len(domains)}); got {tuple(solutions.shape)}")
    solutions, _ = domains._check(solutions, None, ("solutions", ""))
    if len(solutions) < 2:
        raise ValueError(f"solutions must be two or more; got {len(solutions)}")
    free = torch.tensor([size > 1 for size in domains.sizes])
    if given is not None:
        check_mask("given", given, values=True)
        if given.shape != free.shape:
            raise ValueError(f"given must have shape ({len(domains)},); got {tuple(given.shape)}")
        free &= given.cpu() == 0
    if not free.any():
        raise ValueError("given must leave a variable with two values or more that can be spoilt; got none")
    seed = draw_seed(generator)
    random = torch.Generator().manual_seed(seed)
    solutions = solutions.cpu()
    known = set(map(tuple, solutions.tolist()))
    kept = solutions[torch.randperm(len(solutions), generator=random)[: 10 * _BATCH]]
    spoilt = _spoil(kept, domains, free, random)
    fresh = torch.tensor([tuple(row) not in known for row in spoilt.tolist()])
    start, effort = start_vectors(S, layer.k, seed, 0), Effort.of(layer)
    with torch.no_grad():
        both = torch.cat((kept, spoilt)).to(S.device)
        parts = [evaluate(S, domains, part, start, effort)[0].cpu() for part in both.split(_BATCH)]
    right, wrong = torch.cat(parts).split(len(kept))
    half = len(kept) // 2
    return _set_limit((right[:half], wrong[:half][fresh[:half]]), (right[half:], wrong[half:][fresh[half:]]))


def _spoil(solutions: Tensor, domains: Domains, free: Tensor, generator: torch.Generator) -> Tensor:
    """Copies in each of which one of the free variables has another value."""
    where = free.nonzero()[:, 0]
    chosen = where[torch.randint(len(where), (len(solutions),), generator=generator)]
    sizes = torch.tensor(domains.sizes)[chosen]
    step = 1 + (torch.rand(len(solutions), generator=generator) * (sizes - 1)).long().clamp(max=sizes - 2)
    spoilt, rows = solutions.clone(), torch.arange(len(solutions))
    spoilt[rows, chosen] = (solutions[rows, chosen] + step) % sizes
    return spoilt


def _set_limit(setting: Sequence[Tensor], testing: Sequence[Tensor]) -> AcceptanceLimit:
    """The limit from objectives of solutions and spoilt ones, measured on others."""
    right, wrong = setting
    middle, high, top = right.quantile(right.new_tensor([0.5, 0.9, 0.99])).tolist()
    # Solutions that are all alike differ by rounding alone.
    lowest = float(wrong.quantile(0.005)) if len(wrong) else middle
    limit = middle + 8 * max(high - middle, 1e-3 * (lowest - middle), 1e-4 * abs(middle), 1e-6)
    if len(wrong) and lowest <= limit:
        limit = max((top + lowest) / 2, middle)
    right, wrong = testing
    within = float((right <= limit).double().mean())
    false = float((wrong <= limit).double().mean()) if len(wrong) else math.nan
    auc = math.nan
    if len(wrong):
        lower, equal = (right[:, None] < wrong).double().mean(), (right[:, None] == wrong).double().mean()
        auc = float(lower + equal / 2)
    # Without a wrong assignment to try there is nothing to know.
    separates = len(wrong) > 0 and false <= _FALSE and within >= _RIGHT
    return AcceptanceLimit(limit, separates, within, false, auc)
