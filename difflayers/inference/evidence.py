"""Decoding of uncertain observations: what was seen is evidence, not truth.

A reader that takes each observed variable at its most probable value loses the whole problem by one mistake. Here the readings
of all observed variables together are hypotheses, tried from the most probable down. The layer completes each, by `search` or
in one pass, and the first completion that the judge accepts is the answer: most mistakes make a problem that the learnt rules
do not allow. Not all: a problem with one value exchanged for another can have a solution too, so the order of the hypotheses
matters.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from difflayers._checks import check_mask, check_number, check_size, check_tensor
from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.objective import (
    Answers,
    Effort,
    Judge,
    check_layer,
    draw_seed,
    evaluate,
    solve,
    start_vectors,
)
from difflayers.inference.rules import Propagator, Rules, check_rules
from difflayers.inference.search import search
from difflayers.nn import SATNet


def likeliest(log_probabilities: list[list[float]]) -> Iterator[tuple[float, list[int]]]:
    """Joint values of independent variables, from the most probable to the least.

    Args:
        log_probabilities: for each variable those of its values; -inf for one that it cannot have.

    Yields:
        By how much the log-probability falls behind the best one, and one value for each variable.
    """
    order = [
        sorted((a for a, p in enumerate(row) if p > -math.inf), key=lambda a: -row[a]) for row in log_probabilities
    ]
    # Of taking a variable's r-th value instead of its first.
    costs = [[row[ranked[0]] - row[a] for a in ranked] for row, ranked in zip(log_probabilities, order, strict=True)]
    # Those with a choice, the least certain first.
    variables = sorted((i for i, c in enumerate(costs) if len(c) > 1), key=lambda i: costs[i][1])

    def values(ranks: dict[int, int]) -> list[int]:
        return [ranked[ranks.get(i, 0)] for i, ranked in enumerate(order)]

    yield 0.0, values({})
    if not variables:
        return
    # A state is a choice of ranks for some variables, the last of them at place `last`. Its successors, none cheaper than
    # itself, raise the last one's rank, add the next variable, or put the next one in the last one's place: each choice of
    # ranks has exactly one predecessor.
    heap = [(costs[variables[0]][1], 0, 0, {variables[0]: 1})]
    pushed = 0
    while heap:
        cost, _, last, ranks = heapq.heappop(heap)
        yield cost, values(ranks)
        variable = variables[last]
        rank, own = ranks[variable], costs[variable]
        successors = []
        if rank + 1 < len(own):
            successors.append((cost + own[rank + 1] - own[rank], last, ranks | {variable: rank + 1}))
        if last + 1 < len(variables):
            following = variables[last + 1]
            added = costs[following][1]
            successors.append((cost + added, last + 1, ranks | {following: 1}))
            if rank == 1:
                rest = {i: r for i, r in ranks.items() if i != variable}
                successors.append((cost + added - own[1], last + 1, rest | {following: 1}))
        for new_cost, new_last, new_ranks in successors:
            pushed += 1
            heapq.heappush(heap, (new_cost, pushed, new_last, new_ranks))


@torch.no_grad()
def decode(
    layer: SATNet,
    domains: Domains,
    log_probabilities: Tensor,
    observed: Tensor,
    *,
    limit: float | None = None,
    rules: Rules | None = None,
    hypotheses: int = 100,
    paths: int = 1,
    margin: float = 0.0,
    batch_size: int = 200,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Answers:
    """Complete assignments from uncertain observations: try joint readings, the likeliest first, until one is accepted.

    Args:
        layer, domains, limit, batch_size, generator, progress: those of `search`.
        log_probabilities: (..., v, largest), of the values that each observed variable was seen to have, up to a constant
            for each variable; -inf for those that it cannot have. Where a variable is not observed, or has no such value, it
            may hold anything. Observed variables are taken to be seen independently of each other.
        observed: (..., v), bool.
        rules: what they refute is not completed, and an answer that breaks one is not accepted.
        hypotheses: at most so many joint readings are tried for a problem.
        paths: decimations for each, as in `search`. 0: each is completed in one pass of the layer, which is many times faster,
            and enough where one pass solves most problems.
        margin: an answer is accepted only if no other reading that is at least exp(-margin) times as probable has a completion
            that the judge accepts, too. 0: the first one is taken. A margin guards against a wrong reading whose problem has
            a solution, at the price of more hypotheses; `rules` refute most of them at once.

    Returns:
        `Answers`: the completion of the first hypothesis that is accepted, else that of the most probable one. `paths` are
        hypotheses tried. With a margin, an answer with a rival is not accepted, nor is one whose rivals `hypotheses` were too
        few to rule out.

    Raises:
        TypeError, ValueError: as `search`; NaN or +inf where a variable is observed; one that cannot have any value; a margin
            below 0.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, -3]])    # all three are alike
        >>> seen = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]).log()
        >>> found = inference.decode(layer, Domains([2, 2, 2]), seen, torch.tensor([True, True, False]), limit=0.5)
        >>> found.values, found.paths                                   # x1 is surer than x2
        (tensor([0, 0, 0]), tensor(2))
    """
    S = check_layer(layer, domains)
    log_probabilities, observed, shape = _check_evidence(domains, log_probabilities, observed)
    check_size("hypotheses", hypotheses)
    check_size("paths", paths, least=0)
    check_size("batch_size", batch_size)
    check_number("margin", margin)
    judge, judged = Judge(limit, rules), check_rules(rules, domains)
    propagator = None if judged is None else Propagator(judged)
    random = torch.Generator().manual_seed(draw_seed(generator))
    seeds = [draw_seed(random) for _ in range(hypotheses)]
    answers = Answers.untried(torch.zeros(observed.shape, dtype=torch.int64), judge.name)
    with ProgressBar(progress, len(observed), "decoding", "problems") as bar:
        for part in torch.arange(len(observed)).split(batch_size):
            streams = {b: likeliest(log_probabilities[b, observed[b]].tolist()) for b in part.tolist()}
            # Of problems with an answer: by how much the log-probability of its reading is below that of the likeliest.
            behind: dict[int, float] = {}
            interrupted = False
            for attempt in range(hypotheses):
                open_, values, losses = [], [], []
                for b in list(streams):
                    loss, reading = next(streams[b], (math.inf, None))
                    if reading is None or loss > behind.get(b, math.inf) + margin:
                        del streams[b]
                        continue
                    row = torch.zeros(len(domains), dtype=torch.int64)
                    row[observed[b]] = torch.tensor(reading, dtype=torch.int64)
                    open_.append(b)
                    values.append(row)
                    losses.append(loss)
                if not open_:
                    break
                index, tried, short = torch.tensor(open_), torch.stack(values), torch.tensor(losses).double()
                answers.paths[index] += 1
                if propagator is not None and attempt > 0:
                    probing = torch.ones(len(index), dtype=torch.bool)
                    refuted = propagator(propagator.known(tried, observed[index]), probing)[1]
                    index, tried, short = index[~refuted], tried[~refuted], short[~refuted]
                if len(index):
                    if paths:
                        found = search(
                            layer,
                            domains,
                            tried,
                            observed[index],
                            limit=limit,
                            rules=rules,
                            paths=paths,
                            batch_size=batch_size,
                            generator=torch.Generator().manual_seed(seeds[attempt]),
                        ).to("cpu")
                    else:
                        start = start_vectors(S, layer.k, seeds[attempt], 0)
                        found = _in_one_pass(layer, domains, tried, observed[index], start, judge, judged)
                    answers.passes[index] += found.passes
                    rival = found.accepted & answers.accepted[index]
                    answer = found.accepted & ~rival
                    kept = answer | (answers.objective[index] == math.inf)
                    answers.values[index[kept]] = found.values[kept]
                    answers.objective[index[kept]] = found.objective[kept]
                    answers.accepted[index[found.accepted]] = answer[found.accepted]
                    behind |= dict(zip(index[answer].tolist(), short[answer].tolist(), strict=True))
                    for b in index[rival].tolist():
                        del streams[b]
                    interrupted = found.interrupted
                if margin == 0:
                    streams = {b: stream for b, stream in streams.items() if b not in behind}
                if interrupted or not streams:
                    break
            # Rivals are ruled out unless the next reading may be one.
            doubtful = [
                b
                for b, stream in streams.items()
                if b in behind and (interrupted or next(stream, (math.inf, None))[0] <= behind[b] + margin)
            ]
            answers.accepted[doubtful] = False
            if interrupted:
                return replace(answers.to(S.device), interrupted=True).reshape(shape)
            bar.update(len(part))
    return answers.to(S.device).reshape(shape)


def _in_one_pass(
    layer: SATNet, domains: Domains, values: Tensor, given: Tensor, start: Tensor, judge: Judge, rules: Rules | None
) -> Answers:
    """The completions that one pass gives, judged; on the CPU. Ctrl-C leaves them untried."""
    untried = Answers.untried(torch.where(given, values, 0), judge.name)
    S, effort = layer._matrix().detach(), Effort.of(layer)
    try:
        z, is_input = domains.encode(values, given, dtype=S.dtype)
        p, _, V = solve(S, z, is_input, start, effort)
        completed = torch.where(given, values, domains.decode(p).cpu())
        objective = evaluate(S, domains, completed, V, effort)[0].cpu()
    except KeyboardInterrupt:
        return replace(untried, interrupted=True)
    accepted = judge.accepts(objective)
    if rules is not None:
        accepted &= ~rules.violations(completed).any(-1)
    passes = torch.full_like(untried.passes, 2)
    return replace(untried, values=completed, objective=objective, accepted=accepted, passes=passes)


def _check_evidence(domains: Domains, log_probabilities: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """(B, v, largest), float64 with -inf where there is no value, and (B, v), on the CPU; and the batch's shape."""
    v, s = len(domains), domains.largest
    check_tensor("log_probabilities", log_probabilities, None, values=True)
    check_mask("observed", observed, values=True)
    if not log_probabilities.dtype.is_floating_point:
        raise TypeError(f"log_probabilities must be of a floating dtype; got {log_probabilities.dtype}")
    if log_probabilities.ndim < 2 or log_probabilities.shape[-2:] != (v, s):
        raise ValueError(f"log_probabilities must have shape (..., {v}, {s}); got {tuple(log_probabilities.shape)}")
    shape = log_probabilities.shape[:-2]
    zeros = torch.zeros(*shape, v, dtype=torch.int64)
    _, seen = domains._check(zeros, observed.cpu(), ("log_probabilities", "observed"))
    seen = seen.reshape(-1, v)
    none = domains.marginals(torch.zeros(domains.bits)) < 0
    logs = log_probabilities.detach().cpu().double().reshape(-1, v, s).masked_fill(none, -math.inf)
    wrong = (seen[..., None] & (logs.isnan() | (logs == math.inf))).any(-1)
    impossible = seen & (logs == -math.inf).all(-1)
    for mask, what in (
        (wrong, "finite or -inf; got NaN or inf"),
        (impossible, "above -inf for some value; got -inf for all"),
    ):
        if mask.any():
            b, i = mask.nonzero()[0].tolist()
            raise ValueError(f"log_probabilities must be {what} for {domains.names[i]} of problem {b}")
    return logs, seen, shape
