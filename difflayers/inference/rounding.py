"""Rounding: the best of several assignments that one forward pass is rounded to, each improved by local search.

The layer's probabilities are rounded to one value a variable: the most probable ones first, then values drawn with their
probabilities, sharpened by a temperature. A local search then lowers the learnt objective by changing one open variable at a
time, the one that lowers it most, with the auxiliary vectors held fixed; when none does, these are solved for again. As in
`difflayers.inference.search`, an answer is accepted by the judge alone.
"""

from dataclasses import replace

import torch
from torch import Tensor

from difflayers._checks import check_number, check_size
from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.objective import (
    Answers,
    Effort,
    Judge,
    check_layer,
    check_problems,
    draw_seed,
    evaluate,
    solve,
    start_vectors,
)
from difflayers.inference.rules import Rules, check_rules
from difflayers.nn import SATNet


def value_rows(S: Tensor, domains: Domains) -> Tensor:
    """(v s, m): what each value adds to S'V along the truth direction, less than half its variable's change to another value.

    When a variable goes from value a to b, S'V changes by 2 (row b - row a): a bit is turned off and another one on, or the one
    bit of two values is turned over.
    """
    literals = domains.literals.to(S.device).flatten()
    bits = S[literals.abs()] * literals.sign()[:, None]  # row 0, the truth direction, where there is no value: times 0
    halves = torch.tensor([size == 2 for size in domains.sizes], device=S.device).repeat_interleave(domains.largest)
    return torch.where(halves[:, None], bits / 2, bits)


def local_search(
    S: Tensor, domains: Domains, values: Tensor, open_: Tensor, start: Tensor, effort: Effort
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower the learnt objective of complete assignments (B, v) by changing one open variable, (B, v), at a time.

    Returns the best that were met, their objectives (B,), float64, and the passes of the layer it took, (B,).
    """
    rows = value_rows(S, domains)
    v, s = len(domains), domains.largest
    K = rows @ rows.T
    own = K.diagonal().view(v, s)
    blocks = K.view(v, s, v, s).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (v, s, s): within each variable
    # Far above rounding: the search ends.
    least_gain = 1e-4 * float(S[1 : domains.bits + 1].square().sum(1).mean())
    none = domains.marginals(S.new_zeros(domains.bits)) < 0
    first = torch.arange(v, device=S.device) * s
    best, lowest = values.clone(), torch.full((len(values),), torch.inf, dtype=torch.float64, device=S.device)
    passes = torch.zeros(len(values), dtype=torch.int64, device=S.device)
    active = torch.arange(len(values), device=S.device)
    while len(active):
        objective, V = evaluate(S, domains, values, start, effort)
        passes[active] += 1
        better = objective < lowest[active] - least_gain
        active, values, V = active[better], values[better].clone(), V[better]
        best[active], lowest[active] = values, objective[better]
        pull = (torch.einsum("nm,bnk,bk->bm", S, V, V[:, 0]) @ rows.T).view(-1, v, s)
        changed = torch.zeros(len(active), dtype=torch.bool, device=S.device)
        while len(active):
            now = first + values
            # Of |S'V|^2, when the variable takes another value.
            between = blocks[torch.arange(v, device=S.device), values]
            change = 4 * (pull - pull.gather(2, values[..., None]) + own + own.flatten()[now][..., None] - 2 * between)
            fixed = ~open_[active][..., None] | none
            change = change.masked_fill(fixed, torch.inf).scatter(2, values[..., None], torch.inf)
            least, place = change.flatten(1).min(1)
            index = (least < -least_gain).nonzero()[:, 0]
            if not len(index):
                break
            variable, value = place[index] // s, place[index] % s
            pull[index] += 2 * (K[place[index]] - K[now[index, variable]]).view(-1, v, s)
            values[index, variable] = value
            changed[index] = True
        active, values = active[changed], values[changed]
    return best, lowest, passes


@torch.no_grad()
def round_best(
    layer: SATNet,
    domains: Domains,
    values: Tensor,
    given: Tensor,
    *,
    limit: float | None = None,
    rules: Rules | None = None,
    roundings: int = 10,
    temperature: float = 0.5,
    batch_size: int = 200,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Answers:
    """Complete partial assignments by the best of several roundings of one forward pass, each improved by local search.

    Cheaper than `search`, and enough where much is given. The method: `difflayers.inference.rounding`.

    Args:
        layer, domains, values, given, limit, batch_size, generator, progress: those of `search`.
        rules: an answer that breaks one is not accepted; where no limit separates, they alone accept.
        roundings: a problem is given up after so many.
        temperature: all but the first are drawn from the softmax, over a variable's values, of the log-odds divided by this.

    Returns:
        `Answers`, whose `paths` are roundings; as for `search`.

    Raises:
        TypeError, ValueError: as `search`; a temperature that is not above 0.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, -3]])    # all three are alike
        >>> values, given = torch.tensor([0, 1, 0]), torch.tensor([False, True, False])
        >>> inference.round_best(layer, Domains([2, 2, 2]), values, given, limit=0.5).values
        tensor([1, 1, 1])
    """
    S = check_layer(layer, domains)
    values, given, shape = check_problems(domains, values, given, S.device)
    check_size("roundings", roundings)
    check_size("batch_size", batch_size)
    check_number("temperature", temperature, positive=True)
    judge, judged = Judge(limit, rules), check_rules(rules, domains)
    given = given | torch.tensor([size == 1 for size in domains.sizes], device=S.device)
    seed = draw_seed(generator)
    answers = Answers.untried(values, judge.name)
    with ProgressBar(progress, len(values), "rounding", "problems") as bar:
        try:
            for part in torch.arange(len(values), device=S.device).split(batch_size):
                _round_batch(layer, domains, values, given, part, answers, judge, judged, roundings, temperature, seed)
                bar.update(len(part))
        except KeyboardInterrupt:
            answers = replace(answers, interrupted=True)
    return answers.reshape(shape)


def _round_batch(
    layer: SATNet,
    domains: Domains,
    values: Tensor,
    given: Tensor,
    left: Tensor,
    answers: Answers,
    judge: Judge,
    rules: Rules | None,
    roundings: int,
    temperature: float,
    seed: int,
) -> None:
    """Round the problems `left` and write what comes of it into `answers`."""
    S = layer._matrix().detach()
    z, known = domains.encode(values[left], given[left], dtype=S.dtype)
    start, effort = start_vectors(S, layer.k, seed, 0), Effort.of(layer)
    p, _, _ = solve(S, z, known, start, effort)
    answers.passes[left] += 1
    scores = domains.marginals(p)
    odds = torch.where(scores < 0, -torch.inf, torch.logit(scores.clamp(0, 1), eps=1e-6) / temperature)
    for attempt in range(roundings):
        if attempt == 0:
            drawn = odds.argmax(2)
        else:  # the same random numbers for every problem: its answer does not depend on those beside it
            random = torch.Generator().manual_seed((seed + attempt) % 2**63)
            uniform = torch.rand(len(domains), generator=random, dtype=torch.float64).to(S.device)
            total = odds.double().softmax(2).cumsum(2)
            drawn = (total <= uniform[:, None] * total[..., -1:]).sum(2)
        tried = torch.where(given[left], values[left], drawn)
        tried, objective, passes = local_search(S, domains, tried, ~given[left], start, effort)
        answers.paths[left] += 1
        answers.passes[left] += passes
        accepted = judge.accepts(objective)
        if rules is not None:
            accepted &= ~rules.violations(tried).any(-1)
        better = accepted | (objective < answers.objective[left])
        answers.values[left[better]], answers.objective[left[better]] = tried[better], objective[better]
        answers.accepted[left] = accepted
        left, odds = left[~accepted], odds[~accepted]
        if not len(left):
            break
