"""Exact completion: rules handed to a SAT solver."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.rules import Rules, check_rules


@dataclass(frozen=True)
class ExactAnswers:
    """What a SAT solver found for each problem of a batch; every field but the last has the batch's shape."""

    values: Tensor
    """(..., v), int64: an assignment that satisfies the rules. If there is none: the known values, and 0 elsewhere."""
    satisfiable: Tensor
    """bool: whether there is one. False is a proof that the rules and the known values exclude each other."""
    unique: Tensor | None
    """bool: whether it is proved that there is no other one; None without ``unique=True``."""
    interrupted: bool = False
    """Whether Ctrl-C ended it. `satisfiable` is then also False where nothing was tried."""

    def __str__(self) -> str:
        told = f"{int(self.satisfiable.sum()):,} of {self.satisfiable.numel():,} satisfiable"
        if self.unique is not None:
            told += f", {int(self.unique.sum()):,} of them in one way"
        return told + (", interrupted" if self.interrupted else "")


def solve_exactly(
    rules: Rules,
    domains: Domains,
    values: Tensor,
    given: Tensor,
    *,
    scores: Tensor | None = None,
    unique: bool = False,
    progress: bool = False,
) -> ExactAnswers:
    """Complete partial assignments so that no rule is broken, by a SAT solver, or prove that it cannot be done.

    With `scores`, the completion is the best one: of those that break no rule it has the largest sum of its values' scores.
    With log-probabilities it is the likeliest one, if the variables are independent apart from the rules. A MaxSAT solver
    finds it (RC2; Ignatiev, Morgado and Marques-Silva 2019). That is fast if few rules conflict with the best values, and may
    take very long if many do.

    Args:
        rules: given, learnt (`extract_rules`) or both (their sum).
        domains: the variables.
        values: (..., v), integers: the known values.
        given: (..., v), bool: where they are known.
        scores: (..., v, largest), floats: what each value is worth; differences below 0.001 do not count. What stands
            where there is no such value, or for a known one, does not matter. If None, any completion will do.
        unique: also find out whether there is another completion.
        progress: show a progress bar (tqdm) on the standard error.

    Returns:
        `ExactAnswers`. They are right if the rules are right.

    Raises:
        TypeError, ValueError: values outside their domains; rules over other domains; scores that are not finite or of another
            shape.
        ImportError: python-sat is not installed: ``pip install 'python-sat>=1.8.dev1'``.

    Example:
        >>> import torch
        >>> from difflayers import Domains, inference
        >>> domains = Domains([2, 2, 3])
        >>> rules = inference.Rules.from_clauses(domains, [[-1, 2], [-2, 5]])
        >>> found = inference.solve_exactly(rules, domains, *domains.partial([("x1", 1)]), unique=True)
        >>> found.values, found.unique
        (tensor([1, 1, 2]), tensor(True))
    """
    if not isinstance(domains, Domains):
        raise TypeError(f"domains must be Domains; got {type(domains).__name__}")
    if check_rules(rules, domains) is None:
        raise TypeError("rules must be Rules; got None")
    values, given = domains.check(values, given)
    shape = values.shape[:-1]
    values, given = values.reshape(-1, len(domains)).cpu(), given.reshape(-1, len(domains)).cpu()
    costs = None if scores is None else _costs(scores, domains, (*shape, len(domains), domains.largest))
    found, satisfiable = values.clone(), torch.zeros(len(values), dtype=torch.bool)
    alone = torch.zeros(len(values), dtype=torch.bool)
    interrupted = False
    with _solver(rules) as solver, ProgressBar(progress, len(values), "solving", "problems") as bar:
        try:
            for b in range(len(values)):
                known = domains.literals[torch.arange(len(domains)), values[b]][given[b]]
                assumptions = known[known != 0].tolist()
                satisfiable[b] = solver.solve(assumptions=assumptions)
                if satisfiable[b]:
                    model = solver.get_model() if costs is None else _best(rules, assumptions, costs[b])
                    bits = torch.zeros(domains.bits)
                    bits[[i - 1 for i in model if 0 < i <= domains.bits]] = 1
                    found[b] = domains.decode(bits)
                    if unique:
                        alone[b] = _is_alone(solver, domains, found[b], given[b], assumptions)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
    answers = ExactAnswers(
        found.reshape(*shape, len(domains)), satisfiable.reshape(shape), alone.reshape(shape) if unique else None
    )
    return replace(answers, interrupted=interrupted)


def _costs(scores: Tensor, domains: Domains, shape: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """For each problem what its literals cost where they are true, in thousandths: what they are worse than the best value."""
    if not isinstance(scores, Tensor) or not scores.dtype.is_floating_point:
        raise TypeError(
            f"scores must be a tensor of a floating dtype; got {getattr(scores, 'dtype', type(scores).__name__)}"
        )
    if scores.shape != shape:
        raise ValueError(f"scores must have shape {shape}; got {tuple(scores.shape)}")
    there = (domains.literals != 0).to(scores.device)
    scores = scores.detach().double().reshape(-1, *shape[-2:])
    if not scores[:, there].isfinite().all():
        raise ValueError("scores must be finite; got NaN or infinity")
    scores = scores.masked_fill(~there, -torch.inf)
    cost = ((scores.max(-1, keepdim=True).values - scores) * 1000).masked_fill(~there, 0).round().long().cpu()
    return [
        [
            (literal, c)
            for literal, c in zip(domains.literals.flatten().tolist(), row.flatten().tolist(), strict=True)
            if c > 0
        ]
        for row in cost
    ]


def _best(rules: Rules, assumptions: list[int], costs: list[tuple[int, int]]) -> list[int]:
    """The model of least cost; there is one."""
    from pysat.examples.rc2 import RC2Stratified
    from pysat.formula import WCNF

    formula = WCNF()
    formula.extend(rules.clauses + [[b, -b] for b in range(1, rules.domains.bits + 1)] + [[i] for i in assumptions])
    known = set(assumptions)
    for literal, cost in costs:
        if literal not in known and -literal not in known:
            formula.append([-literal], weight=cost)
    with RC2Stratified(formula) as solver:
        model: list[int] = solver.compute()
    return model


def _is_alone(solver: Any, domains: Domains, found: Tensor, given: Tensor, assumptions: list[int]) -> bool:
    """Whether no other assignment with the given values satisfies the rules: the solver is asked for one that differs."""
    own = domains.literals[torch.arange(len(domains)), found][~given]
    switch = solver.nof_vars() + 1  # turns the clause "some variable differs" on for this problem alone
    solver.add_clause([-switch, *(-own[own != 0]).tolist()])
    other = solver.solve(assumptions=[*assumptions, switch])
    solver.add_clause([-switch])
    return not other


def _solver(rules: Rules) -> Any:
    try:
        from pysat.solvers import Solver
    except ImportError as error:
        raise ImportError("solve_exactly needs python-sat: pip install 'python-sat>=1.8.dev1'") from error
    return Solver(name="glucose4", bootstrap_with=rules.clauses + [[b, -b] for b in range(1, rules.domains.bits + 1)])
