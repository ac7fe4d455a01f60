"""What DMM, quadratic matching, the projection and the baselines refuse, by name."""

from typing import Any

import pytest
import torch
from layer_calls import F64, INF, NAN, SOLVERS, solve
from matching_problems import assignments
from torch import Tensor
from torch.testing import assert_close

from difflayers import DMMMatching, QuadraticMatching, functional

COST = torch.rand(2, 3, 4)


def spoiled(value: float) -> Tensor:
    cost = COST.clone()
    cost[1, 2, 0] = value
    return cost


HALL = torch.tensor([[0.1, INF, INF], [0.2, INF, INF], [0.3, 0.1, 0.2]])  # two templates want proposal 0 alone
BLIND = torch.tensor([[0.1, 0.2, 0.3], [INF, INF, INF]])
WIDE_HALL = torch.cat(
    (torch.rand(3, 2), torch.full((3, 4), INF)), 1
)  # three templates, two proposals, three each elsewhere


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    ("cost", "error", "words"),
    [
        (COST.tolist(), TypeError, "cost must be a tensor; got list"),
        (COST.numpy(), TypeError, "cost must be a tensor; got ndarray"),
        (None, TypeError, "cost must be a tensor; got NoneType"),
        (COST.int(), TypeError, "cost must be float16, bfloat16, float32 or float64; got torch.int32"),
        (COST > 0, TypeError, "cost must be float16, bfloat16, float32 or float64; got torch.bool"),
        (COST.to(torch.complex64), TypeError, "cost must be float16, bfloat16, float32 or float64"),
        (COST.to_sparse(), TypeError, r"cost must be a dense tensor \(torch.strided\); got torch.sparse_coo"),
        (COST[0, 0], ValueError, r"cost must have shape \(\.\.\., n, m\).*got \(4,\)"),
        (torch.tensor(1.0), ValueError, r"cost must have shape"),
        (spoiled(NAN), ValueError, r"cost.* must be finite.*got NaN at \(1, 2, 0\)"),
        (spoiled(-INF), ValueError, r"cost.* must be finite.*got inf of the wrong sign at \(1, 2, 0\)"),
    ],
)
def test_bad_costs(name: str, cost: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        solve(name, cost)


@pytest.mark.parametrize("name", ["dmm", "quadratic", "hungarian"])
@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (
            torch.rand(4, 3),
            "cost must have at least as many proposals.*got 4 templates and 3 proposals.*unmatched_cost",
        ),
        (HALL, r"cost.* leaves 1 of the 3 templates of problem 0.*3 proposals are allowed.*unmatched_cost"),
        (BLIND, r"cost.* leaves 1 of the 2 templates of problem 0"),
        (WIDE_HALL, r"cost.* leaves 1 of the 3 templates of problem 0.*2 proposals are allowed"),
        (torch.stack((torch.zeros(3, 3), HALL)), r"cost.* leaves 1 of the 3 templates of problem 1"),
        (torch.full((2, 2), INF), r"cost.* leaves 2 of the 2 templates.*0 proposals are allowed"),
    ],
)
def test_infeasible_problems(name: str, cost: Tensor, words: str) -> None:
    """An error, unless templates may stay unmatched; greedy matching leaves them so."""
    with pytest.raises(ValueError, match=f"^{words}"):
        solve(name, cost)
    X = solve(name, cost, unmatched_cost=5.0)
    assert X.isfinite().all() and (X[cost == INF] == 0).all()
    assert functional.greedy_matching(cost).sum() >= 0


@pytest.mark.parametrize("name", ["dmm", "quadratic", "hungarian"])
def test_masks_that_leave_too_few_proposals(name: str) -> None:
    with pytest.raises(ValueError, match=r"leaves 1 of the 3 templates of problem 1"):
        solve(name, COST, None, torch.tensor([[1, 1, 1, 0], [1, 0, 0, 1]]))
    with pytest.raises(ValueError, match=r"leaves 1 of the 2 templates of problem 0"):
        solve(name, torch.rand(3, 1), torch.tensor([1, 1, 0]))
    assert solve(name, HALL, torch.tensor([1, 0, 1])).sum() == pytest.approx(2, abs=1e-5)


def test_hall_violations_are_found_wherever_there_is_one() -> None:
    """Random patterns of allowed pairs, against a search over all assignments."""
    found = {False: 0, True: 0}
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        C = torch.rand(3, 4, generator=generator).masked_fill(torch.rand(3, 4, generator=generator) < 0.6, INF)
        feasible = any(all(C[i, j] < INF for i, j in enumerate(choice)) for choice in assignments(3, 4))  # type: ignore[index]
        found[feasible] += 1
        if feasible:
            functional.dmm_matching(C)
        else:
            with pytest.raises(ValueError, match="without a proposal of their own"):
                functional.dmm_matching(C)
    assert min(found.values()) > 10


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"template_mask": torch.ones(3)}, TypeError, "template_mask must be a bool or integer tensor.*float32"),
        ({"template_mask": [True] * 3}, TypeError, "template_mask must be a tensor; got list"),
        ({"template_mask": torch.ones(4).bool()}, ValueError, r"template_mask must have shape \(2, 3\).*got \(4,\)"),
        ({"template_mask": torch.tensor(True)}, ValueError, r"template_mask must have shape \(2, 3\).*got \(\)"),
        ({"template_mask": torch.ones(3, 3).bool()}, ValueError, r"template_mask must broadcast to \(2, 3\)"),
        ({"template_mask": torch.ones(1, 2, 3).bool()}, ValueError, r"template_mask must have shape \(2, 3\)"),
        ({"proposal_mask": torch.ones(4)}, TypeError, "proposal_mask must be a bool or integer tensor"),
        ({"proposal_mask": torch.ones(4).to(torch.complex64)}, TypeError, "proposal_mask must be a bool or integer"),
        ({"proposal_mask": torch.ones(3).bool()}, ValueError, r"proposal_mask must have shape \(2, 4\).*got \(3,\)"),
        ({"proposal_mask": torch.ones(1).bool()}, ValueError, r"proposal_mask must have shape \(2, 4\)"),
        ({"template_mask": torch.ones(3, device="meta").bool()}, ValueError, "template_mask must be on the device"),
        ({"proposal_mask": torch.ones(4, device="meta").bool()}, ValueError, "proposal_mask must be on the device"),
        (
            {"unmatched_cost": 10**400},
            ValueError,
            "unmatched_cost must be finite; got|unmatched_cost must be at most 1e",
        ),
        ({"template_mask": torch.ones(3).bool().to_sparse()}, TypeError, "template_mask must be a dense tensor"),
        ({"unmatched_cost": "1"}, TypeError, "unmatched_cost must be a number or a tensor; got str"),
        ({"unmatched_cost": True}, TypeError, "unmatched_cost must be a number or a tensor; got bool"),
        ({"unmatched_cost": INF}, ValueError, "unmatched_cost must be finite; got inf"),
        ({"unmatched_cost": NAN}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": torch.ones(4)}, ValueError, r"unmatched_cost must be a number or broadcast to \(2, 3\)"),
        ({"unmatched_cost": torch.tensor([1, 1, INF])}, ValueError, "unmatched_cost must be finite; got inf"),
        ({"unmatched_cost": torch.tensor([1, 1, -INF])}, ValueError, "unmatched_cost must be finite; got -inf"),
        ({"unmatched_cost": torch.tensor([NAN, 1, 1])}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": torch.tensor(1j)}, TypeError, "unmatched_cost must be a number or a real tensor"),
        ({"unmatched_cost": torch.tensor(True)}, TypeError, "unmatched_cost must be a number or a real tensor"),
        ({"unmatched_cost": torch.ones(3, device="meta")}, ValueError, "unmatched_cost must be on the device"),
    ],
)
def test_bad_masks_and_unmatched_costs(name: str, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        SOLVERS[name](COST, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_grad": 0}, ValueError, "n_grad must be at least 1; got 0"),
        ({"n_grad": 2.0}, TypeError, "n_grad must be an int; got float"),
        ({"n_grad": True}, TypeError, "n_grad must be an int; got bool"),
        ({"n_proj": 0}, ValueError, "n_proj must be at least 1; got 0"),
        ({"n_proj": "5"}, TypeError, "n_proj must be an int; got str"),
        ({"step_size": 0}, ValueError, "step_size must be finite and above 0; got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": NAN}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": INF}, ValueError, "step_size must be finite and above 0"),
        ({"step_size": torch.tensor(0.1)}, TypeError, "step_size must be a number; got Tensor"),
        ({"unmatched_cost": NAN}, ValueError, "unmatched_cost must be finite; got nan"),
        ({"unmatched_cost": "a"}, TypeError, "unmatched_cost must be a number or a tensor; got str"),
    ],
)
def test_bad_options_of_dmm(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        DMMMatching(**options)
    with pytest.raises(error, match=f"^{words}"):
        functional.dmm_matching(COST, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gamma": 0}, ValueError, "gamma must be finite and above 0; got 0"),
        ({"gamma": -1.0}, ValueError, "gamma must be finite and above 0"),
        ({"gamma": NAN}, ValueError, "gamma must be finite and above 0"),
        ({"gamma": "1"}, TypeError, "gamma must be a number; got str"),
        ({"gamma": 10**400}, ValueError, "gamma must be at most 1e\\+150; got an integer of 1329 bits"),
        (
            {"gamma": torch.tensor(1)},
            TypeError,
            r"gamma must be float16, bfloat16, float32 or float64; got torch.int64",
        ),
        ({"max_iter": 2**63}, ValueError, "max_iter must be at most 2147483647; got 9223372036854775808"),
        ({"tolerance": 1e200}, ValueError, "tolerance must be at most"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and above 0"),
        ({"tolerance": None}, TypeError, "tolerance must be a number; got NoneType"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1; got 0"),
        ({"max_iter": 5.0}, TypeError, "max_iter must be an int; got float"),
        ({"unmatched_cost": INF}, ValueError, "unmatched_cost must be finite; got inf"),
    ],
)
def test_bad_options_of_quadratic_matching(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        QuadraticMatching(**options)
    with pytest.raises(error, match=f"^{words}"):
        functional.quadratic_matching(COST, **options)
    if "tolerance" in options or "max_iter" in options:
        with pytest.raises(error, match=f"^{words}"):
            functional.project_assignment(COST, **options)


def test_bad_values_of_gamma_as_a_tensor() -> None:
    for value in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match=rf"^gamma must be finite and above 0; got {value}"):
            functional.quadratic_matching(COST, torch.tensor(value))
    with pytest.raises(ValueError, match=r"^gamma must be on the device of cost, cpu; got meta"):
        functional.quadratic_matching(COST, torch.tensor(1.0, device="meta"))
    with pytest.raises(ValueError, match=r"^gamma must broadcast to the batch, \(2,\); got \(3,\)"):
        functional.quadratic_matching(COST, torch.ones(3))


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        ([[1.0]], TypeError, "X must be a tensor; got list"),
        (COST.int(), TypeError, "X must be float16, bfloat16, float32 or float64"),
        (COST[0, 0], ValueError, "X must have shape"),
        (spoiled(NAN), ValueError, r"X must be finite.*got NaN at \(1, 2, 0\)"),
        (spoiled(INF), ValueError, r"X must be finite.*got inf of the wrong sign at \(1, 2, 0\)"),
        (-HALL, ValueError, "X leaves 1 of the 3 templates"),
        (torch.rand(4, 3), ValueError, "X must have at least as many proposals.*Set allow_unmatched"),
    ],
)
def test_bad_input_of_the_projection(X: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        functional.project_assignment(X)


def test_projection_with_unmatched_templates() -> None:
    X = torch.tensor([[0.3, -1.0], [0.2, 0.1], [2.0, -INF]], dtype=F64)
    Y = functional.project_assignment(X, allow_unmatched=True)
    assert (Y.sum(1) <= 1 + 1e-12).all() and (Y.sum(0) <= 1 + 1e-12).all() and Y[2, 1] == 0
    assert_close(
        functional.project_assignment(0.1 * torch.eye(3, dtype=F64), allow_unmatched=True).sum(),
        torch.tensor(2.325, dtype=F64),
    )
