"""Search: complete partial assignments by decimation, accept what the judge accepts, go back where it does not.

A trained layer is good at two things that one forward pass does not use. It often knows a solution when it sees one: the
learnt objective of a complete assignment tells right from wrong (`acceptance_limit` measures whether it does). And what it is
surest of is nearly always right, above all which values a variable does *not* have. So:

* *Decimation* excludes the values that are far less probable than the best of their variable, fixes the variables it is surest
  of, solves again with these given, from where the last solve ended, and so on until every variable is fixed.
* The answer is accepted or not by the *judge*: the limit of the learnt objective, rules, or both.
* If it is not, something on the way was decided wrongly. A few *restarts* decimate from the problem again, from other random
  vectors, which decide otherwise where confidence is low. After them comes *backtracking*: the search goes back to a variable,
  takes it that its value there is wrong, and decimates from there. The alternatives are tried in the order of the confidence
  that they gainsay, summed along the way: limited discrepancy search (Harvey and Ginsberg, IJCAI 1995), best first.
* A decimation is *given up* on the way once the relaxation's objective is above the limit, since that of a completion can only
  be higher, or once rules are broken.
* *Rules* say more than unit propagation finds. After the first decimation each unknown bit is assumed, true and false, and what
  contradicts the rules is excluded (failed-literal probing; Freeman, "Improvements to propositional satisfiability search
  algorithms", PhD thesis, 1995).
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from difflayers._checks import LARGEST_K, check_size
from difflayers._progress import ProgressBar
from difflayers.inference.domains import Domains
from difflayers.inference.objective import (
    EPS,
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
from difflayers.inference.rules import Propagator, Rules, check_rules
from difflayers.nn import SATNet

COARSE, FINE = 0.12, 0.03
"""A round of the first decimation fixes this share of the open variables, one of the later, careful ones that."""
SURE = 0.9
"""It also fixes those whose most probable value leads by this much ..."""
UNLIKELY = 0.1
"""... and excludes the values that are less probable than this share of their variable's best."""
FIRST_ITER, FIRST_EPS = 100, 1e-4
NEXT_ITER, NEXT_EPS = 30, 1e-5
"""How far a decimation solves the layer at its start, and from there on: the last round's vectors are nearly right. A layer
that is itself solved further is solved so far here too."""
JUDGE_ITER = 40


@dataclass(frozen=True)
class SearchRound:
    """One pass of the layer in a search, as `search` tells its `watch`; on the CPU."""

    problem: int
    """Index of the problem in the flattened batch."""
    path: int
    """Which of its decimations, from 1."""
    values: Tensor
    """(v,), int64: what is fixed so far."""
    given: Tensor
    """(v,), bool: which variables are fixed."""
    probabilities: Tensor
    """(v, s): the probability of each value of each variable in this pass."""


@dataclass(order=True)
class _Node:
    """Where a decimation starts: values that are fixed, and values that are taken to be wrong."""

    cost: float
    order: int
    values: Tensor = field(compare=False)
    given: Tensor = field(compare=False)
    wrong: Tensor = field(compare=False)


class _Tree:
    """The search for one problem: where its decimations may start, and the best that they found."""

    def __init__(self, index: int, root: _Node) -> None:
        self.index, self.root = index, root
        self.heap: list[_Node] = []
        self.pushed: set[bytes] = set()
        self.cost, self.paths, self.passes = 0.0, 0, 0
        self.best, self.objective, self.accepted = root.values, float("inf"), False

    def push(self, cost: float, values: Tensor, given: Tensor, wrong: Tensor) -> None:
        key = b"".join(t.numpy().tobytes() for t in (torch.where(given, values, -1), wrong))
        if key not in self.pushed:  # a restart comes by the same places
            self.pushed.add(key)
            heapq.heappush(self.heap, _Node(cost, len(self.pushed), values, given, wrong))

    def descend(self, starts: int) -> _Node:
        """Where the next decimation starts: some at the root, then at the alternative that gainsays the least confidence."""
        self.paths += 1
        node = self.root if self.paths <= 1 + starts or not self.heap else heapq.heappop(self.heap)
        self.cost = node.cost
        return node

    def forget(self) -> None:
        """Drop the alternatives; a problem that took a hundred decimations has thousands."""
        self.heap.clear()
        self.pushed.clear()


class _Paths:
    """The decimations under way: a row for each, on the CPU, but for the vectors."""

    def __init__(self, rows: int, domains: Domains, layer: SATNet, k: int, seed: int, rules: Rules | None) -> None:
        v, s, S = len(domains), domains.largest, layer._matrix().detach()
        self.first, self.next = Effort.of(layer, FIRST_ITER, FIRST_EPS), Effort.of(layer, NEXT_ITER, NEXT_EPS)
        self.last = Effort.of(layer, JUDGE_ITER, EPS)
        self.domains, self.S, self.k, self.seed = domains, S, k, seed
        self.propagator = None if rules is None else Propagator(rules)
        self.trees: list[_Tree | None] = [None] * rows
        self.values = torch.zeros(rows, v, dtype=torch.int64)
        self.given = torch.zeros(rows, v, dtype=torch.bool)
        self.wrong = torch.zeros(rows, v, s, dtype=torch.bool)
        """Values that this path takes to be wrong: the search's own decisions."""
        self.excluded = torch.zeros(rows, v, s, dtype=torch.bool)
        """Values that it has excluded since, those of `wrong` too."""
        self.fresh = torch.zeros(rows, dtype=torch.bool)
        self.hopeless = torch.zeros(rows, dtype=torch.bool)
        self.broken = torch.zeros(rows, dtype=torch.bool)
        self.V = S.new_zeros(rows, len(S), k)
        self.none = domains.marginals(torch.zeros(domains.bits)) < 0
        """Values that there are not."""
        self._starts: dict[int, Tensor] = {}

    def begin(self, row: int, node: _Node) -> None:
        """Start a decimation in a row, for the tree that is there."""
        tree = self.trees[row]
        assert tree is not None
        self.values[row], self.given[row], self.wrong[row] = node.values, node.given, node.wrong
        self.excluded[row] = node.wrong
        self.fresh[row], self.hopeless[row], self.broken[row] = True, False, False
        if tree.paths not in self._starts:
            self._starts[tree.paths] = start_vectors(self.S, self.k, self.seed, tree.paths)
        self.V[row] = self._starts[tree.paths]

    def active(self) -> Tensor:
        """The rows that are in use, (A,)."""
        return torch.tensor([row for row, tree in enumerate(self.trees) if tree is not None], dtype=torch.int64)

    def _first(self, rows: Tensor) -> Tensor:
        """Which of the rows are their problem's first decimation, (A,)."""
        return torch.tensor([self.trees[row].paths == 1 for row in rows.tolist()], dtype=torch.bool)

    def propagate(self, rows: Tensor) -> None:
        """Fix and exclude what the rules imply; a first decimation goes on without them where it has broken one."""
        if self.propagator is None:
            return
        rows = rows[~self.broken[rows]]
        known = self.propagator.known(self.values[rows], self.given[rows], self.excluded[rows])
        true, conflict = self.propagator(known, ~self._first(rows))
        n = self.domains.bits
        scores = self.domains.marginals(0.5 + 0.5 * (true[:, :n].float() - true[:, n:].float()))
        fine = rows[~conflict]
        scores = scores[~conflict]
        given = (scores == 1).any(-1)
        self.values[fine] = torch.where(given, scores.argmax(-1), 0)
        self.given[fine] = given
        self.excluded[fine] |= (scores == 0) & ~given[..., None]
        for row in rows[conflict].tolist():
            self.broken[row] = True
            self.hopeless[row] = self.trees[row].paths > 1

    def solve(self, rows: Tensor, limit: float) -> Tensor:
        """One pass of the layer; returns the values' probabilities (A, v, s), and gives up rows that cannot be accepted."""
        z, known = self.domains.encode(
            self.values[rows], self.given[rows], excluded=self.excluded[rows], dtype=self.S.dtype
        )
        p = torch.empty(len(rows), self.domains.bits, dtype=self.S.dtype)
        for fresh, effort in ((True, self.first), (False, self.next)):
            part = (self.fresh[rows] == fresh).nonzero()[:, 0]
            if not len(part):
                continue
            these = rows[part]
            out, objective, V = solve(self.S, z[part], known[part], self.V[these], effort)
            self.V[these], p[part] = V, out.cpu()
            # With most variables open, the solver stops too far from the minimum for its objective to tell.
            told = 2 * self.given[these].sum(1) >= len(self.domains)
            for row, above in zip(these.tolist(), (told & (objective.cpu() > limit)).tolist(), strict=True):
                tree = self.trees[row]
                assert tree is not None
                tree.passes += 1
                # The first decimation goes on in any case, so that there is an answer.
                self.hopeless[row] |= above and tree.paths > 1
        self.fresh[rows] = False
        return self.domains.marginals(p)

    def decide(self, rows: Tensor, scores: Tensor) -> None:
        """One round of decimation; what a careful one fixes is kept as alternatives for later."""
        scores = torch.where(self.excluded[rows], -1.0, scores)
        best, second = scores.topk(2, -1).values.unbind(-1)
        lead, value = best - second.clamp(min=0), scores.argmax(-1)
        given, before = self.given[rows], self.values[rows]
        lead = torch.where(given, -torch.inf, torch.where(second < 0, torch.inf, lead))
        first = self._first(rows)
        share = torch.where(first, COARSE, FINE) * (~given).sum(1)
        count = torch.maximum(share.round().clamp(min=1), (lead >= SURE).sum(1))
        order = lead.argsort(dim=1, descending=True, stable=True)
        fixed = (order.argsort(dim=1) < count[:, None]) & ~given & (best >= 0)
        unlikely = (scores < UNLIKELY * best[..., None]) & (scores >= 0) & ~given[..., None]
        self.hopeless[rows] |= ((best < 0) & ~given).any(1)
        for i in (~first).nonzero()[:, 0].tolist():
            tree, row = self.trees[rows[i]], rows[i]
            assert tree is not None
            for variable in order[i, : int(count[i])].tolist():
                wrong = self.wrong[row].clone()
                wrong[variable, value[i, variable]] = True
                if fixed[i, variable] and not (wrong | self.none)[variable].all():
                    tree.push(tree.cost + float(lead[i, variable].clamp(max=1)), before[i], given[i], wrong)
        self.values[rows] = torch.where(fixed, value, before)
        self.given[rows] = given | fixed
        self.excluded[rows] |= unlikely

    def judge(self, rows: Tensor, judge: Judge) -> None:
        """Compute the learnt objective of complete assignments, and accept."""
        objective, _ = evaluate(self.S, self.domains, self.values[rows], self.V[rows], self.last)
        accepted = judge.accepts(objective).cpu() & ~self.broken[rows]
        for row, value, yes in zip(rows.tolist(), objective.tolist(), accepted.tolist(), strict=True):
            tree = self.trees[row]
            assert tree is not None
            tree.passes += 1
            if yes or (value < tree.objective):
                tree.best, tree.objective = self.values[row].clone(), value
            tree.accepted = yes


@torch.no_grad()
def search(
    layer: SATNet,
    domains: Domains,
    values: Tensor,
    given: Tensor,
    *,
    limit: float | None = None,
    rules: Rules | None = None,
    paths: int = 30,
    starts: int = 4,
    k: int | None = None,
    batch_size: int = 200,
    generator: torch.Generator | None = None,
    progress: bool = False,
    watch: Callable[[SearchRound], None] | None = None,
) -> Answers:
    """Complete partial assignments with a trained layer: fix the surest values, solve again, and go back if necessary.

    The method: `difflayers.inference.search`, the module.

    Args:
        layer: a trained layer, or one from solutions. It is solved at least as far as its `max_iter` and `eps` say.
        domains: of its variables.
        values: (..., v), integers: the known values.
        given: (..., v), bool: where they are known.
        limit: the highest learnt objective of an answer that is accepted: `acceptance_limit`, or a number. One that does not
            separate accepts nothing, but for what rules say.
        rules: `Rules`, given or from `extract_rules`: what they imply by unit propagation is fixed without a pass of the layer,
            from the second decimation on by failed-literal probing too; an answer that breaks one is not accepted. Where no
            limit separates, they alone accept.
        paths: a problem is given up after so many decimations; 1 is one without any going back.
        starts: so many of these, after the first, begin at the problem itself. 0 is best for a layer of equations, whose
            solutions hardly depend on where they begin.
        k: dimension of the vectors; that of the layer if None.
        batch_size: problems at a time. When one is done, the next takes its place.
        generator: where one seed is drawn from; torch's global generator if None.
        progress: show a progress bar (tqdm) on the standard error.
        watch: called with a `SearchRound` after each pass of the layer that completes a problem, those of learnt objectives
            left out. It changes nothing.

    Returns:
        `Answers`. Ctrl-C ends the search, and they are what was found so far. Each depends on its problem and the seed alone,
        not on those beside it. Without anything that accepts, all paths are tried, and the answer is that of lowest objective.

    Raises:
        TypeError, ValueError: values outside their domains; domains or rules that do not fit; a limit of NaN; sizes below 1.

    References:
        Harvey and Ginsberg, "Limited discrepancy search", IJCAI 1995.

    Example:
        >>> import torch
        >>> from difflayers import Domains, SATNet, inference
        >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3], [1, -3]])    # all three are alike
        >>> domains, solutions = Domains([2, 2, 2]), torch.tensor([[0, 0, 0], [1, 1, 1]] * 10)
        >>> limit = inference.acceptance_limit(layer, domains, solutions)
        >>> values, given = domains.partial([("x2", 1)])
        >>> found = inference.search(layer, domains, values, given, limit=limit)
        >>> found.values, found.accepted
        (tensor([1, 1, 1]), tensor(True))
    """
    S = check_layer(layer, domains)
    values, given, shape = check_problems(domains, values, given, torch.device("cpu"))
    for name, number in (("paths", paths), ("batch_size", batch_size)):
        check_size(name, number)
    check_size("starts", starts, least=0)
    if k is not None:
        check_size("k", k, most=LARGEST_K)
    judge, judged = Judge(limit, rules), check_rules(rules, domains)
    given = given | torch.tensor([size == 1 for size in domains.sizes])
    none = torch.zeros(len(domains), domains.largest, dtype=torch.bool)
    trees = [_Tree(i, _Node(0.0, 0, values[i], given[i], none)) for i in range(len(values))]
    waiting = iter(trees)
    k = layer.k if k is None else k
    state = _Paths(min(batch_size, len(trees)), domains, layer, k, draw_seed(generator), judged)
    interrupted = False
    with ProgressBar(progress, len(trees), "searching", "problems") as bar:
        try:
            while _step(state, waiting, judge, paths, starts, bar, watch):
                pass
        except KeyboardInterrupt:
            interrupted = True
    answers = Answers.untried(values, judge.name)
    for i, tree in enumerate(trees):
        answers.values[i], answers.objective[i], answers.accepted[i] = tree.best, tree.objective, tree.accepted
        answers.paths[i], answers.passes[i] = tree.paths, tree.passes
    return replace(answers.to(S.device), interrupted=interrupted).reshape(shape)


def _step(
    state: _Paths,
    waiting: Iterator[_Tree],
    judge: Judge,
    paths: int,
    starts: int,
    bar: ProgressBar,
    watch: Callable[[SearchRound], None] | None,
) -> bool:
    """One round of all decimations under way; False if there are none."""
    for row, tree in enumerate(state.trees):
        if tree is None and (following := next(waiting, None)) is not None:
            state.trees[row] = following
            state.begin(row, following.descend(starts))
    rows = state.active()
    if not len(rows):
        return False
    state.propagate(rows)
    complete = state.given[rows].all(1) & ~state.hopeless[rows]
    if complete.any():
        state.judge(rows[complete], judge)
    ended = complete | state.hopeless[rows]
    for row in rows[ended].tolist():
        tree = state.trees[row]
        assert tree is not None
        if tree.accepted or tree.paths >= paths or tree.root.given.all():
            state.trees[row] = None
            tree.forget()
            bar.update()
        else:
            state.begin(row, tree.descend(starts))
    if len(rows := rows[~ended]):
        scores = state.solve(rows, judge.limit)
        if watch is not None:
            for row, p in zip(rows.tolist(), scores, strict=True):
                tree = state.trees[row]
                assert tree is not None
                watch(
                    SearchRound(tree.index, tree.paths, state.values[row].clone(), state.given[row].clone(), p.clone())
                )
        left = ~state.hopeless[rows]
        if left.any():
            state.decide(rows[left], scores[left])
    return True
