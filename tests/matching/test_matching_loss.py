"""Fenchel-Young losses: their value, their gradient, what makes them 0, and what is refused."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matching_problems import make_problem
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap
from torch.testing import assert_close

from difflayers import functional

INF = math.inf
REGULARIZERS = ["quadratic", "entropic", "none"]
MATCHES: dict[str, Callable[..., Tensor]] = {
    "quadratic": functional.quadratic_matching,
    "entropic": functional.entropic_matching,
    "none": lambda cost, weight, **options: functional.hungarian(cost, **options),
}
loss = functional.matching_loss


def weigh(regularizer: str, weight: float | Tensor) -> dict[str, Any]:
    """The option of the layer that has a weight."""
    return {"quadratic": {"gamma": weight}, "entropic": {"epsilon": weight}, "none": {}}[regularizer]


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, when it first loads its rules


def batch(slack: bool, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Costs with forbidden pairs and masks, targets that are allowed, and the options that go with them."""
    p = make_problem(8, 4, 6, forbidden=0.3, masked=True, slack=slack, seed=seed)
    other = torch.rand(p.cost.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=p.cost.dtype)
    cost, anew = (c[..., :6] for c in (p.cost, torch.where(p.cost == INF, INF, other)))
    options: dict[str, Any] = {"template_mask": p.templates}
    if slack:
        options["unmatched_cost"] = torch.where(p.templates, p.cost[..., 6], 0)
    target = functional.assign(anew, p.templates, unmatched_cost=0.5 if slack else None)
    return cost, target, options


def assignments(n: int, m: int, slack: bool) -> list[Tensor]:
    out = []
    for columns in itertools.permutations([*range(m), *([-1] * n if slack else [])], n):
        out.append(torch.nn.functional.one_hot(torch.tensor(columns) + 1, m + 1)[:, 1:].double())
    return out


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("slack", [False, True])
def test_perceptron_and_hinge_by_enumeration(slack: bool, margin: float) -> None:
    """The margin is paid for each template in which an assignment differs from the target."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    own = torch.rand(3, generator=generator, dtype=torch.float64)
    target = torch.tensor([2, -1 if slack else 3, 0])
    Y = torch.nn.functional.one_hot(target + 1, 5)[:, 1:].double()

    def value(X: Tensor) -> Tensor:
        return (cost * X).sum() + (own * (1 - X.sum(1))).sum()

    def differs(X: Tensor) -> Tensor:
        return (X != Y).any(1).sum()

    best = min(value(X) - margin * differs(X) for X in assignments(3, 4, slack))
    got = loss(cost, target, "none", margin=margin, unmatched_cost=own if slack else None)
    assert_close(got, value(Y) - best)
    assert got > 0


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_gradient_is_the_target_less_the_match(regularizer: Any, slack: bool, margin: float) -> None:
    cost, target, options = batch(slack)
    if slack:
        options["unmatched_cost"].requires_grad_()
    cost.requires_grad_()
    Y = torch.nn.functional.one_hot(target + 1, 7)[..., 1:].double()
    values = loss(cost, target, regularizer, **weigh(regularizer, 0.3), margin=margin, reduction="none", **options)
    values.sum().backward()
    moved = cost.detach() + margin * Y
    with torch.no_grad():
        if slack:
            options["unmatched_cost"] = options["unmatched_cost"] + margin * (1 - Y.sum(2))
        X = MATCHES[regularizer](moved, 0.3, **options)
    assert cost.grad is not None
    assert_close(cost.grad, Y - X, rtol=0, atol=1e-8)
    assert (values >= 0).all() and values.max() > 0.1 and cost.grad.abs().max() > 0.5


@pytest.mark.parametrize("slack", [False, True])
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_gradients_are_those_of_the_value(regularizer: Any, slack: bool) -> None:
    cost, target, options = batch(slack, seed=3)
    allowed = cost < INF
    own = options.pop("unmatched_cost", None)

    def value(entries: Tensor, weight: Tensor, own: Tensor | None) -> Tensor:
        C = torch.full_like(cost, INF).masked_scatter(allowed, entries)
        given = {**weigh(regularizer, weight), "unmatched_cost": own, "reduction": "none", "margin": 0.1}
        return loss(C, target, regularizer, **given, **options)

    weights = torch.linspace(0.3, 0.5, 8, dtype=torch.float64, requires_grad=regularizer != "none")
    inputs = (cost[allowed].requires_grad_(), weights, own.requires_grad_() if own is not None else None)
    assert gradcheck(value, inputs, eps=1e-7, atol=1e-5, check_forward_ad=True)
    if regularizer != "none":
        assert gradgradcheck(value, inputs, eps=1e-7, atol=1e-4)


def test_weights_are_each_problems_own() -> None:
    cost, weight = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64) + 0.1
    target = functional.assign(torch.rand(2, 3, 4, 5))
    for regularizer, name in (("quadratic", "gamma"), ("entropic", "epsilon")):
        got = loss(cost, target, regularizer, reduction="none", **{name: weight})  # type: ignore[arg-type]
        for b in torch.cartesian_prod(torch.arange(2), torch.arange(3)):
            one = tuple(b)
            want = loss(cost[one], target[one], regularizer, **{name: float(weight[one])})  # type: ignore[arg-type]
            assert_close(got[one], want)


@pytest.mark.parametrize("births", [None, 0.3])
@pytest.mark.parametrize("slack", [None, 0.2])
def test_entropic_value_is_that_of_a_convex_solver(slack: float | None, births: float | None) -> None:
    """<C, Y> + Omega(Y) written out, less the optimum of Clarabel; the gradient is the target less its X."""
    pytest.importorskip("cvxpy")
    from difflayers import verify

    n, m, epsilon = (4, 3, 0.3) if slack is not None else (3, 4, 0.3)
    cost = torch.rand(2, n, m, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cost[0, 0, 0] = INF
    target = torch.tensor([[1, 0, 2, -1], [-1, 1, -1, 0]] if slack is not None else [[1, 0, 2], [3, 1, 0]])
    Y = torch.nn.functional.one_hot(target + 1, m + 1)[..., 1:].double()
    options = {"unmatched_cost": slack, "unmatched_proposal_cost": births}
    best = verify.entropic_matching(cost, epsilon, **options)
    entries = [torch.where(Y > 0, cost, 0) * Y]
    total = Y.sum((1, 2))
    if slack is not None:
        entries.append(slack * (1 - Y.sum(2, keepdim=True)))
        total = total + (1 - Y.sum(2)).sum(1)
    if births is not None:
        entries.append(births * (1 - Y.sum(1, keepdim=True)))
        total = total + (1 - Y.sum(1)).sum(1)
    value = sum(part.sum((1, 2)) for part in entries) - epsilon * total
    if slack is not None and births is not None:  # where the dustbins meet
        met = Y.sum((1, 2))
        value = value + 0.5 * (slack + births) * met + epsilon * (torch.special.xlogy(met, met) - met)
    cost.requires_grad_()
    got = loss(cost, target, "entropic", epsilon=epsilon, reduction="none", **options)
    assert_close(got, value - best.objective, rtol=0, atol=1e-7)
    assert got.min() > 0.1
    got.sum().backward()
    assert_close(cost.grad, Y - best.X, rtol=0, atol=1e-5)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_zero_where_the_match_is_the_target_and_only_there(regularizer: Any) -> None:
    cost = torch.rand(50, 4, 6, dtype=torch.float64)
    X = MATCHES[regularizer](cost, 0.2)
    assert loss(cost, X, regularizer, **weigh(regularizer, 0.2), reduction="none").max() < 1e-8
    other = X.roll(1, -1)
    assert (loss(cost, other, regularizer, **weigh(regularizer, 0.2), reduction="none") > 1e-3).all()


def test_loss_is_convex() -> None:
    a, b = torch.rand(2, 30, 4, 6, dtype=torch.float64)
    target = functional.assign(torch.rand(30, 4, 6))
    for regularizer in REGULARIZERS:
        at = [loss(c, target, regularizer, reduction="none") for c in (a, (a + b) / 2, b)]
        assert (at[1] <= (at[0] + at[2]) / 2 + 1e-9).all()


def test_indices_matrices_and_reductions_are_one() -> None:
    cost, target, options = batch(True)
    Y = torch.nn.functional.one_hot(target + 1, 7)[..., 1:]
    each = loss(cost, target, reduction="none", **options)
    for other in (Y, Y.bool(), Y.float()):
        assert torch.equal(loss(cost, other, reduction="none", **options), each)
    assert_close(loss(cost, target, **options), each.mean())
    assert_close(loss(cost, target, reduction="sum", **options), each.sum())
    assert loss(torch.rand(0, 2, 3), torch.zeros(0, 2, dtype=torch.int64)) == 0
    assert loss(torch.rand(2, 3).half(), torch.tensor([0, 1])).dtype == torch.float16
    assert loss(torch.rand(2, 5, 3, 4), torch.zeros(2, 5, 3, 4) + torch.eye(3, 4), reduction="none").shape == (2, 5)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_compiled_mapped_and_on_meta(regularizer: Any) -> None:
    cost, target = torch.rand(5, 3, 6), torch.arange(3).expand(5, 3)

    def each(c: Tensor, t: Tensor) -> Tensor:
        return loss(c, t, regularizer, margin=0.1)

    want = grad(lambda c: 5 * each(c, target))(cost)
    assert_close(vmap(grad(each))(cost, target), want)
    torch.compiler.reset()
    compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
    c = cost.clone().requires_grad_()
    compiled(c, target).backward()
    assert c.grad is not None
    assert_close(5 * c.grad, want)
    with pytest.raises(ValueError, match="target must hold indices below 6"):
        compiled(cost, target + 9)
    assert loss(cost.to("meta"), target.to("meta"), regularizer, reduction="none").shape == (5,)
    one = torch.ops.difflayers.matching_target
    for given in (target, torch.eye(3, 6).expand(5, 3, 6)):
        for slack in (False, True):
            wide = torch.rand(5, 3, 6 + slack)
            torch.library.opcheck(one.default, (given, wide, torch.ones(5, 3, dtype=torch.bool), slack))


def test_what_is_refused_by_name() -> None:
    cost, good = torch.rand(2, 3, 4), torch.arange(3).expand(2, 3)
    eye = torch.eye(3, 4).expand(2, 3, 4)
    for bad, words in [
        (good + 2, "target must hold indices below 4, or -1; got 4"),
        (good - 2, "target must hold indices below 4, or -1; got -2"),
        (good - 1, r"target must give each template one proposal; only with .* \(index -1\); got 0 for \(0, 0\)"),
        (good * 0, r"target must give each proposal to one template at most; got 3 for \(0, 0\) of the flattened"),
        (2 * eye, "one template at most; got 2 for"),
        (-eye, "target must be at least 0; got -1"),
        (eye * math.nan, "target must be at least 0; got nan"),
        (good[:1], r"target must have the shape of the cost, \(2, 3, 4\), or be int64 indices \(2, 3\)"),
        (good.float(), "target must have the shape of the cost"),
        (good.int(), "target must have the shape of the cost"),
    ]:
        with pytest.raises(ValueError, match=words):
            loss(cost, bad)
    for unmatched in (None, 0.5):
        with pytest.raises(ValueError, match=r"target must not have pairs that the cost forbids .* got \(0, 1, 1\)"):
            loss(cost, good, proposal_mask=torch.arange(4) != 1, unmatched_cost=unmatched)
    with pytest.raises(ValueError, match=r"regularizer must be one of .* got 'entropy'"):
        loss(cost, good, "entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"reduction must be one of .* got 'max'"):
        loss(cost, good, reduction="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unmatched_proposal_cost must be None .* got regularizer 'none'"):
        loss(cost, good, "none", unmatched_proposal_cost=0.3)
    with pytest.raises(ValueError, match="epsilon must be"):
        loss(cost, good, "entropic", epsilon=-1.0)
    with pytest.raises(ValueError, match="margin must be finite and at least 0"):
        loss(cost, good, margin=-1.0)
    with pytest.raises(ValueError, match=r"cost.* must be finite"):
        loss(cost * math.nan, good)
    with pytest.raises(TypeError, match="target must be a tensor"):
        loss(cost, [0, 1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("regularizer", "margin"), [("quadratic", 0.0), ("entropic", 0.0), ("none", 0.0), ("none", 0.5)]
)
def test_scores_are_learnt_from_matches(regularizer: Any, margin: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, 9, 6, generator=generator)
    target = functional.assign(x @ torch.randn(6, generator=generator))
    w = torch.zeros(6, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.05)
    for _ in range(60):
        adam.zero_grad()
        loss(x[:100] @ w, target[:100], regularizer, **weigh(regularizer, 1.0), margin=margin).backward()
        adam.step()
    assert (functional.assign(x[100:] @ w.detach()) == target[100:]).float().mean() > 0.95


@pytest.mark.parametrize("regularizer", ["quadratic", "entropic", "none"])
def test_the_mean_of_float16_costs_is_theirs_even_if_the_sum_does_not_fit(regularizer: Any) -> None:
    cost = torch.tensor([[100.0, 0.0], [0.0, 100.0]], dtype=torch.float16).expand(400, 2, 2)
    loss = functional.matching_loss(cost, torch.tensor([0, 1]).expand(400, 2), regularizer)
    assert loss.dtype == torch.float16 and loss.item() == pytest.approx(200, rel=1e-3)


@pytest.mark.parametrize(
    ("regularizer", "option"), [("entropic", "gamma"), ("quadratic", "epsilon"), ("none", "gamma")]
)
def test_options_of_another_layer_are_refused(regularizer: Any, option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be None but with the regularizer"):
        functional.matching_loss(torch.rand(2, 3), torch.tensor([0, 1]), regularizer, **{option: 0.05})  # type: ignore[arg-type]
