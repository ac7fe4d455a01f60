"""Every public name, with one or two arguments that are anything: a right answer, or an error that names an argument."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import variants
from torch import Tensor

import difflayers
from difflayers import Domains, functional, inference, maxsat, metrics, nn, verify
from difflayers._checks import holds_values

QUICK = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# What torch says of itself where a fake tensor meets a parameter.
IGNORED = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
LONG = settings(QUICK, max_examples=1500, derandomize=False)

COST = torch.tensor([[[0.1, 0.9, 0.4], [0.3, 0.2, 0.8]], [[0.5, 0.5, 0.5], [0.0, 1.0, 0.7]]])
MASKS = {"template_mask": torch.ones(2, 2, dtype=torch.bool), "proposal_mask": torch.ones(2, 3, dtype=torch.bool)}
COSTS = {"cost": COST, **MASKS, "unmatched_cost": 0.6}
BITS = torch.tensor([[1.0, 0.0, 0.5], [0.25, 1.0, 0.0]])
GIVEN = torch.tensor([[True, True, False], [True, False, False]])
S = torch.tensor([[0.5, 0.5], [-1.0, 0.5], [1.0, -0.5], [0.3, 0.2]])
START = torch.eye(4).expand(2, 4, 4).contiguous()
SOLVER = {"max_iter": 40, "eps": 1e-4, "prox_lam": 1e-2, "generator": None}
DOMAINS = Domains([2, 3])
LAYER = difflayers.SATNet.from_clauses([*DOMAINS.clauses(), [1, 2], [-1, 3]], DOMAINS.bits, k=8)
VALUES = torch.tensor([[0, 1], [1, 2]])
KNOWN = torch.tensor([[True, False], [False, False]])
RULES = inference.Rules.from_clauses(DOMAINS, [[1, 2], [-1, 3]])
TRUTH = torch.zeros(2, 5, 4, dtype=torch.int64)
TRUTH[:, 1:3, 1:3] = 1
CLAUSES = [[1, 2], [-1, 3], [-2, -3]]


class Case(NamedTuple):
    """A function, good arguments, and whether a result is right whatever the arguments were."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    right: Callable[[Any], bool]


def anything(result: Any) -> bool:
    return result is not None


def tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for item in result:
            yield from tensors(item)


def no_nan(result: Any) -> bool:
    """No NaN anywhere: those that came were refused, and none was made."""
    return not any(t.is_floating_point() and holds_values(t) and bool(t.isnan().any()) for t in tensors(result))


def in_unit(result: Any) -> bool:
    value = result if isinstance(result, Tensor) else result[0]
    return no_nan(result) and (
        not holds_values(value) or not value.numel() or -1e-5 <= value.min() <= value.max() <= 1 + 1e-5
    )


def matching(result: Any, tolerance: float = 0.0) -> bool:
    """Shares of 0 to 1, of which no template and no proposal has more than 1, but for the tolerance asked for."""
    X = result if isinstance(result, Tensor) else result[0]
    if not holds_values(X) or not X.numel():
        return True
    X, slack = X.double(), tolerance + (0.02 if X.dtype in (torch.float16, torch.bfloat16) else 1e-3)
    return bool((X >= -slack).all() and (X.sum(-1) <= 1 + slack).all() and (X.sum(-2) <= 1 + slack).all())


def dmm(result: Any) -> bool:
    return no_nan(result)


def called(module: type[torch.nn.Module], *inputs: str, method: str = "forward") -> Callable[..., Any]:
    """A module's constructor and one of its methods as one function."""

    def call(**arguments: Any) -> Any:
        calls = {name: arguments.pop(name) for name in inputs if name in arguments}
        return getattr(module(**arguments), method)(**calls)

    return call


def solved(method: str) -> Callable[..., Any]:
    return called(difflayers.SATNet, "z", "is_input", "generator", "start", method=method)


SATNET = {"S": S, "z": BITS, "is_input": GIVEN, "k": 4, **SOLVER, "start": START}
LAYERED = {"n": 3, "m": 2, "aux": 0, "max_iter": 40, "eps": 1e-4, "prox_lam": 1e-2, "weight_normalize": True, "k": 4}
MODULE = {
    **LAYERED,
    "input_mask": GIVEN[0],
    "device": None,
    "dtype": None,
    "z": BITS,
    "is_input": GIVEN,
    "start": START,
}
SEARCHED = {"layer": LAYER, "domains": DOMAINS, "values": VALUES, "given": KNOWN, "limit": 0.5, "generator": None}
PAIRS = {"starts": 2, "paths": 2, "k": 8, "batch_size": 4}
QUADRATIC = {"gamma": 0.05, "tolerance": 1e-9, "max_iter": 100, "require_convergence": True}
ENTROPIC = {**QUADRATIC, "epsilon": 0.05, "unmatched_proposal_cost": 0.6}
del ENTROPIC["gamma"]
DMM = {"n_grad": 5, "n_proj": 2, "step_size": 0.1, "average": True}
EXACT = {"gradient": "blackbox", "strength": 10.0}
FEATURES = {
    "template_features": torch.rand(2, 2, 4),
    "template_masks": torch.rand(2, 2, 3, 3),
    "proposal_features": torch.rand(2, 3, 4),
    "proposal_masks": torch.rand(2, 3, 3, 3),
}
VERIFIED = {"cost": COST.double(), **MASKS, "unmatched_cost": 0.6}

CASES = {
    "functional.assign": Case(functional.assign, COSTS, anything),
    "functional.clauses_to_S": Case(
        functional.clauses_to_S,
        {"clauses": CLAUSES, "n": 3, "weights": [1.0, 2.0, 3.0], "aux": 1, "dtype": None, "device": None},
        no_nan,
    ),
    "functional.solutions_to_S": Case(
        functional.solutions_to_S,
        {"solutions": (BITS == 1).int(), "tolerance": 1e-6, "aux": 1, "dtype": None, "device": None},
        no_nan,
    ),
    "functional.equations_to_S": Case(
        functional.equations_to_S,
        {"A": torch.tensor([[1, 1, 1]]), "b": torch.tensor([1]), "aux": 1, "dtype": None, "device": None},
        no_nan,
    ),
    "functional.default_k": Case(functional.default_k, {"rows": 9}, anything),
    "functional.dmm_matching": Case(functional.dmm_matching, {**COSTS, **DMM}, dmm),
    "functional.entropic_matching": Case(functional.entropic_matching, {**COSTS, **ENTROPIC}, matching),
    "functional.exact_matching": Case(functional.exact_matching, {**COSTS, **EXACT}, matching),
    "functional.greedy_matching": Case(functional.greedy_matching, COSTS, matching),
    "functional.hungarian": Case(functional.hungarian, COSTS, matching),
    "functional.hyperplane_rounding": Case(
        functional.hyperplane_rounding, {"V": START, "S": S, "rounds": 3, "generator": None}, anything
    ),
    "functional.mask_iou": Case(
        functional.mask_iou,
        {"template_masks": FEATURES["template_masks"], "proposal_masks": FEATURES["proposal_masks"]},
        in_unit,
    ),
    "functional.mask_matching_cost": Case(functional.mask_matching_cost, {**FEATURES, "lam": 0.5}, no_nan),
    "functional.matching_loss": Case(
        functional.matching_loss,
        {
            **COSTS,
            "target": torch.tensor([[0, 1], [2, -1]]),
            "regularizer": "quadratic",
            "gamma": 0.05,
            "margin": 0.1,
            "reduction": "mean",
        },
        no_nan,
    ),
    "functional.project_assignment": Case(
        functional.project_assignment,
        {"X": COST, **MASKS, "allow_unmatched": True, "tolerance": 1e-9, "max_iter": 100, "require_convergence": True},
        matching,
    ),
    "functional.quadratic_matching": Case(functional.quadratic_matching, {**COSTS, **QUADRATIC}, matching),
    "functional.relations": Case(
        functional.relations, {"S": S, "n": 3, "top": 2, "names": ["a", "b", "c"], "aux": False}, anything
    ),
    "functional.satnet": Case(functional.satnet, SATNET, in_unit),
    "functional.satnet_loss": Case(
        functional.satnet_loss,
        {"probabilities": BITS, "target": BITS.round(), "is_input": GIVEN, "smoothing": 0.01, "reduction": "mean"},
        no_nan,
    ),
    "functional.satnet_vectors": Case(functional.satnet_vectors, SATNET, no_nan),
    "functional.solve_dmm": Case(functional.solve_dmm, {**COSTS, **DMM, "tolerance": 1e-3}, dmm),
    "functional.solve_entropic": Case(functional.solve_entropic, {**COSTS, **ENTROPIC, "start": None}, matching),
    "functional.solve_exact": Case(functional.solve_exact, {**COSTS, **EXACT, "start": None}, matching),
    "functional.solve_quadratic": Case(functional.solve_quadratic, {**COSTS, **QUADRATIC, "start": None}, matching),
    "functional.solve_satnet": Case(functional.solve_satnet, SATNET, in_unit),
    "nn.DMMMatching": Case(called(nn.DMMMatching, "cost", *MASKS), {**COSTS, **DMM}, dmm),
    "nn.EntropicMatching": Case(called(nn.EntropicMatching, "cost", *MASKS), {**COSTS, **ENTROPIC}, matching),
    "nn.ExactMatching": Case(called(nn.ExactMatching, "cost", *MASKS), {**COSTS, **EXACT}, matching),
    "nn.MaskMatchingCost": Case(called(nn.MaskMatchingCost, *FEATURES), {**FEATURES, "lam": 0.5}, no_nan),
    "nn.QuadraticMatching": Case(called(nn.QuadraticMatching, "cost", *MASKS), {**COSTS, **QUADRATIC}, matching),
    "nn.SATNet": Case(solved("forward"), MODULE, in_unit),
    "nn.SATNet.solve": Case(solved("solve"), MODULE, in_unit),
    "nn.SATNet.from_clauses": Case(
        nn.SATNet.from_clauses,
        {
            "clauses": CLAUSES,
            "n": 3,
            "weights": [1.0, 2.0, 3.0],
            "learnable": False,
            "m": 2,
            "aux": 1,
            "k": 4,
        },
        anything,
    ),
    "inference.Domains": Case(
        Domains, {"sizes": [2, 3], "names": ["a", "b"], "labels": [["x", "y"], ["p", "q", "r"]]}, anything
    ),
    "inference.Domains.encode": Case(
        DOMAINS.encode, {"values": VALUES, "given": KNOWN, "excluded": None, "dtype": None}, no_nan
    ),
    "inference.Domains.decode": Case(DOMAINS.decode, {"p": torch.rand(2, DOMAINS.bits)}, anything),
    "inference.Domains.probabilities": Case(DOMAINS.probabilities, {"p": torch.rand(2, DOMAINS.bits)}, in_unit),
    "inference.Rules": Case(inference.Rules.from_clauses, {"domains": DOMAINS, "clauses": [[1, 2]]}, anything),
    "inference.Rules.violations": Case(RULES.violations, {"values": VALUES, "given": KNOWN}, anything),
    "inference.acceptance_limit": Case(
        inference.acceptance_limit,
        {"layer": LAYER, "domains": DOMAINS, "solutions": VALUES, "given": KNOWN[0], "generator": None},
        anything,
    ),
    "inference.decode": Case(
        inference.decode,
        {
            "layer": LAYER,
            "domains": DOMAINS,
            "log_probabilities": torch.full((2, 2, 3), -1.0),
            "observed": KNOWN,
            "limit": 0.5,
            "hypotheses": 5,
            "paths": 1,
            "batch_size": 4,
            "generator": None,
        },
        anything,
    ),
    "inference.extract_rules": Case(
        inference.extract_rules,
        {"layer": LAYER, "domains": DOMAINS, "solutions": VALUES, "longest": 2, "false_rules": 0.1},
        anything,
    ),
    "inference.learnt_objective": Case(
        inference.learnt_objective, {"layer": LAYER, "domains": DOMAINS, "values": VALUES, "generator": None}, no_nan
    ),
    "inference.round_best": Case(
        inference.round_best, {**SEARCHED, "rules": None, "roundings": 3, "temperature": 0.5, "batch_size": 4}, anything
    ),
    "inference.search": Case(inference.search, {**SEARCHED, "rules": None, **PAIRS}, anything),
    "inference.solve_exactly": Case(
        inference.solve_exactly,
        {"rules": RULES, "domains": DOMAINS, "values": VALUES, "given": KNOWN, "unique": False},
        anything,
    ),
    "maxsat.Instance": Case(
        maxsat.Instance.from_clauses, {"clauses": CLAUSES, "n": 3, "weights": [1.0, 2.0, 3.0]}, anything
    ),
    "maxsat.read": Case(maxsat.read, {"path": "no such file.cnf"}, anything),
    "maxsat.solve": Case(
        maxsat.solve,
        {
            "problem": CLAUSES,
            "n": 3,
            "weights": [1.0, 2.0, 3.0],
            "k": 4,
            "max_iter": 20,
            "eps": 1e-6,
            "rounds": 2,
            "local_search": True,
            "hard_weight": None,
            "sat": 0.0,
            "exact": 0.0,
            "generator": None,
        },
        anything,
    ),
    "metrics.boundary_f": Case(
        metrics.boundary_f, {"truth": TRUTH, "prediction": TRUTH, "void": None, "tolerance": 0.008}, anything
    ),
    "metrics.jaccard": Case(metrics.jaccard, {"truth": TRUTH, "prediction": TRUTH, "void": None}, anything),
    "metrics.sequence_statistics": Case(
        metrics.sequence_statistics, {"values": torch.tensor([0.5, 0.7, 0.9, 0.1])}, anything
    ),
    "verify.entropic_matching": Case(
        verify.entropic_matching, {**VERIFIED, "epsilon": 0.5, "unmatched_proposal_cost": 0.6}, anything
    ),
    "verify.matching_lp": Case(verify.matching_lp, VERIFIED, anything),
    "verify.quadratic_matching": Case(verify.quadratic_matching, {**VERIFIED, "gamma": 0.5}, anything),
    "verify.satnet": Case(
        verify.satnet, {"S": S.double(), "z": BITS.double(), "is_input": GIVEN, "k": 4, "generator": None}, anything
    ),
}
RESULTS = {  # made by the functions above, or without arguments
    "functional": {
        "DMMSolution",
        "EntropicSolution",
        "ExactSolution",
        "QuadraticSolution",
        "Relation",
        "SATNetSolution",
    },
    "inference": {"AcceptanceLimit", "Answers", "ExactAnswers", "Rule", "SearchRound"},
    "maxsat": {"Solution"},
    "metrics": {"Statistics"},
    "verify": {"MatchingSolution", "SDPSolution"},
    "nn": set(),
}


@pytest.mark.parametrize("module", [functional, inference, maxsat, metrics, nn, verify])
def test_every_public_name_is_in_the_table(module: Any) -> None:
    name = module.__name__.removeprefix("difflayers.")
    listed = {key.split(".")[1] for key in CASES if key.startswith(name + ".")}
    assert listed | RESULTS[name] == set(module.__all__)


@pytest.mark.parametrize("name", sorted(CASES))
def test_good_arguments(name: str) -> None:
    case = CASES[name]
    if name == "maxsat.read":
        with pytest.raises(OSError, match=re.escape("no such file.cnf")):
            case.function(**case.arguments)
    else:
        assert case.right(case.function(**case.arguments))


def check(name: str, changed: dict[str, Any], told: str) -> None:
    case = CASES[name]
    arguments = {**case.arguments, **changed}
    error: Exception | None = None
    try:
        result = case.function(**arguments)
    except (TypeError, ValueError, OSError, RuntimeError) as raised:
        error = raised
    if error is None:
        judge = case.right
        if judge is matching and not arguments.get("require_convergence", True):  # none was asked for
            judge = no_nan
        elif judge is matching:
            judge = partial(matching, tolerance=arguments.get("tolerance", 0))
        assert judge(result), f"{told}: {result}"
        return
    problem = f"{told}: {type(error).__name__}: {error}"
    if isinstance(error, OSError):
        assert set(arguments) & {"path", "problem"}, problem
    elif isinstance(error, RuntimeError):
        wanted = "Clarabel did not solve" if name.startswith("verify.") else "converge"
        own = "Inference tensors cannot be saved for backward"  # torch's, of any operation
        assert wanted in str(error) or own in str(error), problem
    else:
        assert any(re.search(rf"\b{argument}\b", str(error)) for argument in arguments), problem


@st.composite
def mutated(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], str]:
    """One or two arguments of a function, changed; and what was changed to what."""
    arguments = CASES[name].arguments
    changed, told = {}, []
    for argument in draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)):
        label, value = draw(st.sampled_from(variants(arguments[argument])))
        changed[argument] = value
        told.append(f"{argument}: {label}")
    return changed, f"{name} with {', '.join(told)}"


def run(name: str, profile: settings) -> None:
    @profile
    @given(mutated(name))
    def any_arguments(drawn: tuple[dict[str, Any], str]) -> None:
        torch.manual_seed(0)
        check(name, *drawn)

    any_arguments()


@IGNORED
@pytest.mark.parametrize("name", sorted(CASES))
def test_any_arguments(name: str) -> None:
    run(name, QUICK)


@IGNORED
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_any_arguments_at_length(name: str) -> None:
    run(name, LONG)
