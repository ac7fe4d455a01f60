"""The example: features of objects, learnt by matching.

Problems come from `demos.reid.data`. A network, `demos.reid.model`, gives every template and proposal a feature. The loss sees
an assignment of their similarities, through a matching layer or without one. All features are tested in one way: to how many
templates does the best matching give the right proposal?

    >>> from demos.reid.config import Config, Sizes
    >>> from demos.reid.data import make_problems
    >>> from demos.reid.model import EXPERIMENTS
    >>> seen, unseen = (make_problems(0, split, 256, Sizes()) for split in ("train", "test"))
    >>> loss = EXPERIMENTS["labels"]["dmm"].losses["square"]  # the squared error of X, through DMMMatching
    >>> features = train(loss, seen, Config(), lr=0.01, scale=4.0, seed=0)
    >>> 0.6 < score(features(unseen), unseen).hungarian < 0.8
    True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from demos.reid.config import Config
from demos.reid.data import Problems
from demos.reid.model import Features, Loss, counts, one_hot_outcomes
from demos.schedule import set_cosine_rate
from difflayers import functional


def train(loss: Loss, problems: Problems, config: Config, *, lr: float, scale: float, seed: int) -> Features:
    """Train features by Adam, the learning rate falling to 0 along half a cosine."""
    generator = torch.Generator().manual_seed(seed)
    net = Features(scale, generator=generator).to(problems.match.device)
    adam = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    for step, batch in enumerate(problems.batches(config.batch_size, config.steps, generator)):
        set_cosine_rate(adam, lr, step, config.steps)
        adam.zero_grad()
        torch.autograd.backward(loss(net(batch), batch, net))
        adam.step()
    return net


@dataclass(frozen=True)
class Score:
    """Shares of the templates, over all problems."""

    hungarian: float
    """Matched to the right proposal, by `functional.hungarian`."""
    greedy: float
    """The same by `functional.greedy_matching`."""
    argmax: float
    """The same where each template takes its most similar proposal, whatever the others take."""
    outcome: float
    """Matched by `functional.hungarian` to a proposal with the right outcome, be it the right proposal or not."""
    count: float
    """Counted under the right outcome, when all that is compared is the counts of a group."""


def score(S: Tensor, problems: Problems) -> Score:
    """Match by the similarities S, (B, n, m), and compare with the truth."""

    def share(match: Tensor) -> float:
        return (match == problems.match).float().mean().item()

    match = functional.hungarian(-S).argmax(-1)
    outcome = problems.proposal_outcome.gather(-1, match)
    truth, P = one_hot_outcomes(problems)
    wrong = counts(P.gather(-2, match[..., None].expand_as(truth)) - truth, problems.sizes.group).abs().sum() / 2
    return Score(
        hungarian=share(match),
        greedy=share(functional.greedy_matching(-S).argmax(-1)),
        argmax=share(S.argmax(-1)),
        outcome=(outcome == problems.template_outcome).float().mean().item(),
        count=1 - wrong.item() / match.numel(),
    )
