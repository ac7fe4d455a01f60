"""The features, and the ways to learn them.

Similarities S = scale * cos(f(template), f(proposal)), the scale learnt too, are all that a method sees. Its loss is a
function of S and of what is known of the batch: the true matches, the outcomes alone, or counts of outcomes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from demos.reid.config import Experiment
from demos.reid.data import OBSERVED, Problems
from difflayers import DMMMatching, EntropicMatching, ExactMatching, QuadraticMatching, functional

FLOOR = 0.01
"""A layer's X may be exactly 0 where it should not be; X mixed with so much of the uniform assignment has a logarithm."""


class Features(nn.Module):
    """An observation to a unit vector, by two linear maps with a ReLU in between; and the scale of the similarities."""

    def __init__(self, scale: float, *, generator: torch.Generator, hidden: int = 64, dims: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(OBSERVED, hidden), nn.Linear(hidden, dims)
        for layer in (self.first, self.second):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        # Of the logits of pairs taken one by one, which need a start this low (SigLIP's); no matching depends on it.
        self.bias = nn.Parameter(torch.tensor(-scale))

    def embed(self, observation: Tensor) -> Tensor:
        return nn.functional.normalize(self.second(nn.functional.relu(self.first(observation))), dim=-1)

    def forward(self, problems: Problems) -> Tensor:
        """S, (B, n, m)."""
        return self.log_scale.exp() * self.embed(problems.templates) @ self.embed(problems.proposals).mT


def log_sinkhorn(S: Tensor, rounds: int = 20) -> Tensor:
    """log X for the X >= 0 with X 1 = 1, X' 1 <= 1 that maximises <S, X> + entropy: Sinkhorn, in logarithms.

    One more row, of similarity 0, takes what is left over of the columns: m - n in all. The last update is that of the
    rows, so that these sum to 1 exactly.
    """
    n, m = S.shape[-2:]
    if n == m:
        table, row_mass = S, S.new_zeros(n)
    else:
        table = torch.cat((S, S.new_zeros(*S.shape[:-2], 1, m)), dim=-2)
        row_mass = torch.cat((S.new_zeros(n), S.new_full((1,), math.log(m - n))))
    for _ in range(rounds):
        table = table.log_softmax(-2)
        table = table.log_softmax(-1) + row_mass[:, None]
    return table[..., :n, :]


Loss = Callable[[Tensor, Problems, Features], Tensor]


@dataclass(frozen=True)
class Assignment:
    """An assignment X of similarities S, and its logarithm, where that has a gradient."""

    X: Callable[[Tensor], Tensor]
    log: Callable[[Tensor], Tensor] | None


def _through(layer: nn.Module) -> Assignment:
    def log(S: Tensor) -> Tensor:
        X = layer(-S).clamp_min(0)  # the unrolled solver meets X >= 0 to a few digits only
        return ((1 - FLOOR) * X + FLOOR / X.shape[-1]).log()

    return Assignment(lambda S: layer(-S), log)


def _exact(layer: ExactMatching) -> Assignment:
    # X is 0 or 1: its logarithm says nothing that its square does not.
    return Assignment(lambda S: layer(-S), None)


ASSIGNMENTS = {
    "rows": Assignment(lambda S: S.softmax(-1), lambda S: S.log_softmax(-1)),
    "sinkhorn": Assignment(lambda S: log_sinkhorn(S).exp(), log_sinkhorn),
    "dmm": _through(DMMMatching()),
    "quadratic-0.05": _through(QuadraticMatching()),
    "quadratic-1": _through(QuadraticMatching(1.0)),
    "entropic": _through(EntropicMatching(1.0)),
    "blackbox": _exact(ExactMatching(strength=200.0)),
    "straight-through": _exact(ExactMatching("straight-through")),
}
"""Every method that has an X to differentiate."""


def _one_hot(index: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(index, classes).to(torch.float32)


def one_hot_outcomes(problems: Problems) -> tuple[Tensor, Tensor]:
    """The outcomes of the templates, (B, n, outcomes), and P, those of the proposals, (B, m, outcomes)."""
    classes = problems.sizes.outcomes
    return _one_hot(problems.template_outcome, classes), _one_hot(problems.proposal_outcome, classes)


def counts(outcomes: Tensor, group: int) -> Tensor:
    """Sums over groups of templates, (B, groups, outcomes)."""
    return torch.stack([part.sum(-2) for part in outcomes.split(group, -2)], dim=-2)


def _agreement(problems: Problems) -> Tensor:
    """(B, n, m), bool: the pairs whose outcomes are the same, the true ones among them."""
    return problems.template_outcome[..., :, None] == problems.proposal_outcome[..., None, :]


def _cross_entropy(log_X: Tensor, match: Tensor) -> Tensor:
    return -log_X.gather(-1, match[..., None]).mean()


def _losses(assignment: Assignment, square: Loss, log: Callable[[Tensor, Problems], Tensor]) -> dict[str, Loss]:
    """The loss of X, and that of log X where it has a gradient."""
    if assignment.log is None:
        return {"square": square}
    log_X = assignment.log
    return {"log": lambda S, problems, net: log(log_X(S), problems), "square": square}


def _labels(assignment: Assignment) -> dict[str, Loss]:
    """X against the true assignment."""

    def square(S: Tensor, problems: Problems, net: Features) -> Tensor:
        return (assignment.X(S) - _one_hot(problems.match, S.shape[-1])).square().sum(-1).mean()

    return _losses(assignment, square, lambda log_X, problems: _cross_entropy(log_X, problems.match))


def _outcomes(assignment: Assignment) -> dict[str, Loss]:
    """X P, with P the outcomes of the proposals, one-hot, against the outcomes of the templates."""

    def square(S: Tensor, problems: Problems, net: Features) -> Tensor:
        truth, P = one_hot_outcomes(problems)
        return (assignment.X(S) @ P - truth).square().sum(-1).mean()

    def log(log_X: Tensor, problems: Problems) -> Tensor:
        return -log_X.masked_fill(~_agreement(problems), -math.inf).logsumexp(-1).mean()

    return _losses(assignment, square, log)


def _counts(assignment: Assignment) -> dict[str, Loss]:
    """The sums of the rows of X P, group by group, against the counts of the outcomes of the templates."""

    def square(S: Tensor, problems: Problems, net: Features) -> Tensor:
        truth, P = one_hot_outcomes(problems)
        return counts(assignment.X(S) @ P - truth, problems.sizes.group).square().sum(-1).mean()

    return {"square": square}


def _pairs_loss(S: Tensor, truth: Tensor, net: Features) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(S + net.bias, truth)


def _structured(regularizer: Literal["quadratic", "entropic", "none"], margin: float = 0.0) -> Loss:
    """The Fenchel-Young loss of a matching layer: its gradient in S is X - X*, and X is not differentiated."""

    gamma = 1.0 if regularizer == "quadratic" else None
    epsilon = 1.0 if regularizer == "entropic" else None

    def loss(S: Tensor, problems: Problems, net: Features) -> Tensor:
        total = functional.matching_loss(
            -S, problems.match, regularizer, gamma=gamma, epsilon=epsilon, margin=margin, reduction="sum"
        )
        return total / problems.match.numel()

    return loss


def _hard_loss(S: Tensor, problems: Problems, net: Features) -> Tensor:
    """Cross-entropy of rows against the best assignment that agrees with the outcomes, found anew at every step."""
    cost = (-S.detach()).masked_fill(~_agreement(problems), math.inf)
    return _cross_entropy(S.log_softmax(-1), functional.hungarian(cost).argmax(-1))


@dataclass(frozen=True)
class Method:
    """One way to learn features in one experiment."""

    title: str
    losses: dict[str, Loss]
    """By name: tuning chooses one of them."""


_TITLES = {
    "rows": "softmax of each row",
    "sinkhorn": "through Sinkhorn",
    "dmm": "through DMMMatching",
    "quadratic-0.05": "through QuadraticMatching(0.05)",
    "quadratic-1": "through QuadraticMatching(1)",
    "entropic": "through EntropicMatching(1)",
    "blackbox": "through ExactMatching, blackbox",
    "straight-through": "through ExactMatching, straight-through",
}

EXPERIMENTS: dict[Experiment, dict[str, Method]] = {
    "labels": {
        "pairs": Method(
            "pairs, one by one",
            {"log": lambda S, problems, net: _pairs_loss(S, _one_hot(problems.match, S.shape[-1]), net)},
        ),
        "structured": Method("Fenchel-Young loss, quadratic", {"fenchel-young": _structured("quadratic")}),
        "structured-entropic": Method("Fenchel-Young loss, entropic", {"fenchel-young": _structured("entropic")}),
        "hinge": Method("structured hinge loss", {"hinge": _structured("none", margin=1.0)}),
        **{name: Method(title, _labels(ASSIGNMENTS[name])) for name, title in _TITLES.items()},
    },
    "outcomes": {
        "pairs": Method(
            "pairs, one by one",
            {"log": lambda S, problems, net: _pairs_loss(S, _agreement(problems).to(S.dtype), net)},
        ),
        "hard": Method("rows, labels by hungarian", {"log": _hard_loss}),
        **{name: Method(title, _outcomes(ASSIGNMENTS[name])) for name, title in _TITLES.items()},
    },
    "counts": {name: Method(title, _counts(ASSIGNMENTS[name])) for name, title in _TITLES.items()},
}
"""By what is known in training: the methods, by name."""
