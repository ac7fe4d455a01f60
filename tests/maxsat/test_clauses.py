"""Clauses as clause matrices, rounding, relations, and layers from clauses."""

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from maxsat_problems import assignments, naive_cost, random_clauses
from torch.testing import assert_close

from difflayers import SATNet, functional
from difflayers.functional import Relation, clauses_to_S, hyperplane_rounding, relations
from difflayers.maxsat import Instance

INF = math.inf


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_S(clauses: list[list[int]], weights: list[float], n: int, aux: int = 0) -> torch.Tensor:
    S = torch.zeros(n + 1 + aux, len(clauses), dtype=torch.float64)
    for j, (clause, weight) in enumerate(zip(clauses, weights, strict=True)):
        scale = math.sqrt(weight / (4 * len(clause)))
        S[0, j] = -scale
        for literal in clause:
            S[abs(literal), j] = math.copysign(scale, literal)
    return S


@pytest.mark.parametrize("aux", [0, 3])
def test_S_is_the_definition(aux: int) -> None:
    clauses, weights = random_clauses(7, 25, (1, 2, 3, 6), floats=True)
    S = clauses_to_S(clauses, 7, weights=weights, aux=aux, dtype=torch.float64)
    assert_close(S, naive_S(clauses, weights, 7, aux), rtol=1e-14, atol=0)
    ones = clauses_to_S(clauses, 7, aux=aux, dtype=torch.float64)
    assert_close(ones, naive_S(clauses, [1.0] * 25, 7, aux), rtol=1e-14, atol=0)
    instance = Instance.from_clauses(clauses, 7, weights)
    assert torch.equal(clauses_to_S(instance, aux=aux, dtype=torch.float64), S)


def test_S_counts_violated_weight_of_short_clauses_up_to_a_constant() -> None:
    clauses, weights = random_clauses(5, 20, (1, 2), floats=True)
    S = clauses_to_S(clauses, 5, weights=weights, dtype=torch.float64)
    constant = sum(weight / 8 for clause, weight in zip(clauses, weights, strict=True) if len(clause) == 2)
    for x in assignments(5):
        signs = torch.tensor([1.0] + [1.0 if value else -1.0 for value in x], dtype=torch.float64)
        want = naive_cost(clauses, weights, x)[0]
        assert float((signs @ S).square().sum()) - constant == pytest.approx(want, abs=1e-12)


def test_S_leaves_out_tautologies_empty_clauses_and_repetitions() -> None:
    S = clauses_to_S([[1, 1, -2], [1, -1], [], [2]], n=3, dtype=torch.float64)
    assert_close(S, naive_S([[1, -2], [2]], [1, 1], 3))


def test_hard_clauses_weigh_one_more_than_all_others() -> None:
    S = clauses_to_S([[1], [2], [3], []], weights=[INF, 2, 3.5, 1], dtype=torch.float64)
    assert_close(S, naive_S([[1], [2], [3]], [7.5, 2, 3.5], 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_S_has_the_dtype_asked_for(dtype: torch.dtype) -> None:
    S = clauses_to_S([[1, -2]], dtype=dtype, device="cpu")
    assert S.dtype == dtype and S.device.type == "cpu" and not S.requires_grad
    assert clauses_to_S([[1]]).dtype == torch.float32


@pytest.mark.parametrize(
    ("clauses", "options", "error", "message"),
    [
        ([], {"n": 3}, ValueError, "clauses must hold a variable and a clause.*got 3 variables, 0 such clauses"),
        ([[]], {}, ValueError, "clauses must hold a variable and a clause.*got 0 variables, 0 such clauses"),
        ([[1, -1]], {}, ValueError, "clauses must hold a variable and a clause.*got 1 variables, 0 such clauses"),
        ([[1]], {"aux": -1}, ValueError, "aux must be at least 0; got -1"),
        ([[1]], {"aux": 1.0}, TypeError, "aux must be an int; got float"),
        ([[1]], {"dtype": torch.int64}, TypeError, "dtype must be a floating one; got torch.int64"),
        ([[0]], {}, ValueError, "clauses: literals must not be 0"),
        ([[2]], {"n": 1}, ValueError, "clauses: literals must be of variables 1 to n = 1"),
        ([["a"]], {}, TypeError, "clauses must hold integers; got str"),
        (
            [[10**9]],
            {},
            ValueError,
            r"clauses must make S, which is dense, of at most 2\*\*29 entries; got variables for",
        ),
        ([[1]], {"aux": 2**30}, ValueError, "clauses must make S, which is dense"),
        ([[1]], {"dtype": "float32"}, TypeError, "dtype must be a floating one; got float32"),
        ([[1]], {"device": 2.5}, TypeError, "device must be a torch.device, a string or None; got float"),
        ([[1]], {"device": "gpu"}, ValueError, "device must name a torch device; got .gpu."),
        ([[1]], {"weights": [1e80]}, ValueError, "weights must be 0, inf"),
        (
            [[1]],
            {"weights": [2.0**40], "dtype": torch.float16},
            ValueError,
            "weights must have square roots that torch.float16 can",
        ),
        ([[1]], {"weights": [2**-60], "dtype": torch.float16}, ValueError, "weights must have square roots that"),
        ([[1]], {"weights": [1, 2]}, ValueError, "weights must be one for each of 1 clauses; got 2"),
        (Instance.from_clauses([[1]]), {"n": 2}, ValueError, "n and weights must be None with an Instance"),
        (Instance.from_clauses([[1]]), {"weights": [2]}, ValueError, "n and weights must be None with an Instance"),
    ],
)
def test_errors_of_clauses_to_S(clauses: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        clauses_to_S(clauses, **options)


def vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    V = torch.randn(*shape, generator=generator(seed), dtype=dtype)
    return torch.nn.functional.normalize(V, dim=-1)


def objective(x: torch.Tensor, S: torch.Tensor) -> float:
    """sum_ij (s_i . s_j) x_i x_j, term by term."""
    C = (S @ S.T).tolist()
    return sum(C[i][j] * float(x[i]) * float(x[j]) for i in range(len(S)) for j in range(len(S)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)])
def test_rounding_gives_signs_and_their_objective(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    S = torch.randn(6, 9, generator=generator(1), dtype=dtype)
    V = vectors(*batch, 6, 4, dtype=dtype)
    x, value = hyperplane_rounding(V, S, rounds=5, generator=generator())
    assert x.shape == (*batch, 6) and value.shape == batch and x.dtype == value.dtype == dtype
    assert (x.abs() == 1).all() and (x[..., 0] == 1).all()
    for row, found in zip(x.reshape(-1, 6), value.reshape(-1), strict=True):
        assert float(found) == pytest.approx(objective(row, S), rel=1e-5)


def test_rounding_is_the_best_of_its_hyperplanes() -> None:
    S, V, rounds = torch.randn(8, 12, generator=generator(1), dtype=torch.float64), vectors(4, 8, 3), 20
    drawn = generator(5)
    normals = [torch.randn(3, generator=drawn, dtype=torch.float64) for _ in range(rounds)]
    x, value = hyperplane_rounding(V, S, rounds=rounds, generator=generator(5))
    several = 0
    for b in range(4):
        candidates = []
        for normal in normals:
            side = torch.sign(V[b] @ normal)
            candidates.append(side * side[0])
        values = [objective(candidate, S) for candidate in candidates]
        assert float(value[b]) == pytest.approx(min(values), rel=1e-10)
        assert torch.equal(x[b], candidates[int(np.argmin(values))])
        several += max(values) > min(values) + 1e-6
    assert several == 4
    first = hyperplane_rounding(V, S, rounds=1, generator=generator(5))[1]
    assert (value <= first).all() and (value < first).any()


def test_rounding_of_a_sample_does_not_depend_on_its_batch() -> None:
    S, V = torch.randn(6, 9, generator=generator(1), dtype=torch.float64), vectors(5, 6, 4)
    x, value = hyperplane_rounding(V, S, rounds=4, generator=generator())
    for b in range(5):
        alone = hyperplane_rounding(V[b], S, rounds=4, generator=generator())
        assert torch.equal(alone[0], x[b]) and alone[1] == pytest.approx(float(value[b]))


def test_rounding_draws_from_the_generator() -> None:
    S, V = torch.randn(40, 90, generator=generator(1)), vectors(40, 4, dtype=torch.float32)
    a, b, c = (hyperplane_rounding(V, S, rounds=2, generator=generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.manual_seed(7)
    first, second = hyperplane_rounding(V, S, rounds=1)[0], hyperplane_rounding(V, S, rounds=1)[0]
    torch.manual_seed(7)
    assert torch.equal(hyperplane_rounding(V, S, rounds=1)[0], first) and not torch.equal(second, first)


def test_rounding_needs_no_gradient() -> None:
    x, value = hyperplane_rounding(vectors(6, 4).requires_grad_(), torch.randn(6, 9).double().requires_grad_())
    assert not x.requires_grad and not value.requires_grad


@pytest.mark.parametrize(
    ("V", "S", "options", "error", "message"),
    [
        ([[1.0]], torch.ones(1, 1), {}, TypeError, "V must be a tensor; got list"),
        (torch.ones(1, 1), [[1.0]], {}, TypeError, "S must be a tensor; got list"),
        (torch.ones(2, 2).double(), torch.ones(2, 2), {}, TypeError, "V and S must be of one floating dtype"),
        (torch.ones(2, 2).int(), torch.ones(2, 2).int(), {}, TypeError, "V and S must be of one floating dtype"),
        (torch.ones(3, 2), torch.ones(2, 2), {}, ValueError, r"V must have shape .*; got \(3, 2\) and \(2, 2\)"),
        (torch.ones(2), torch.ones(2, 2), {}, ValueError, "V must have shape"),
        (torch.ones(2, 2), torch.ones(2), {}, ValueError, "V must have shape"),
        (torch.ones(2, 2), torch.ones(2, 2), {"rounds": 0}, ValueError, "rounds must be at least 1; got 0"),
        (torch.ones(2, 2), torch.ones(2, 2), {"rounds": 1.0}, TypeError, "rounds must be an int; got float"),
    ],
)
def test_errors_of_rounding(V: Any, S: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hyperplane_rounding(V, S, **options)


def naive_relations(S: torch.Tensor, n: int, aux: bool) -> dict[tuple[str, str], tuple[str, float]]:
    labels = ["true", *(f"x{i}" for i in range(1, n + 1)), *(f"aux{i}" for i in range(1, len(S) - n))]
    found = {}
    for i, j in itertools.combinations(range(len(S) if aux else n + 1), 2):
        product = float(S[i] @ S[j])
        if i == 0:
            found[labels[j], "true"] = ("false" if product > 0 else "true", 2 * abs(product))
        else:
            found[labels[i], labels[j]] = ("different" if product > 0 else "equal", 2 * abs(product))
    return found


@pytest.mark.parametrize("aux", [False, True])
def test_relations_are_all_pairs_the_strongest_first(aux: bool) -> None:
    S = torch.randn(8, 10, generator=generator(), dtype=torch.float64)
    found, want = relations(S, 5, top=None, aux=aux), naive_relations(S, 5, aux)
    assert len(found) == len(want) == (28 if aux else 15)
    for relation in found:
        kind, strength = want[relation.first, relation.second]
        assert relation.kind == kind and relation.strength == pytest.approx(strength, rel=1e-12)
    strengths = [relation.strength for relation in found]
    assert strengths == sorted(strengths, reverse=True)
    assert relations(S, 5, top=4, aux=aux) == found[:4]
    assert relations(S, 5, aux=aux) == found[:20]


def test_relations_of_clauses_say_what_they_mean() -> None:
    """Every relation agrees with the clauses of two literals that give it; tied ones keep the order of their rows."""
    S = clauses_to_S([[1], [-2], [3, 4], [-3, -4], [-5, 6], [5, -6]])
    assert [str(relation) for relation in relations(S, 6)] == [
        "x1 is true (0.5)",
        "x2 is false (0.5)",
        "x3 differs from x4 (0.5)",
        "x5 equals x6 (0.5)",
    ]
    assert relations(S, 6)[2] == Relation("x3", "x4", "different", pytest.approx(0.5))


def test_relations_by_name() -> None:
    S = clauses_to_S([[1], [-1, 2], [1, -2]], aux=1)
    S[3] = S[1]
    names = ["rain", "wet"]
    assert {str(relation) for relation in relations(S, 2, names=names)} == {
        "rain is true (0.5)",
        "rain equals wet (0.5)",
    }
    assert "rain differs from aux1 (1)" in [str(relation) for relation in relations(S, 2, names=names, aux=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_zero_are_no_relations(dtype: torch.dtype) -> None:
    S = torch.randn(4, 6, generator=generator(), dtype=dtype)
    S[2] = 0
    S[3] -= (S[3] @ S[1]) / (S[1] @ S[1]) * S[1]  # orthogonal but for rounding
    assert {(r.first, r.second) for r in relations(S, 3)} == {("x1", "true"), ("x3", "true")}
    assert relations(torch.zeros(4, 6, dtype=dtype), 3) == []


@pytest.mark.parametrize(
    ("S", "n", "options", "error", "message"),
    [
        (torch.ones(3, 2), 3, {}, ValueError, r"S must have shape .* n = 3; got \(3, 2\)"),
        (torch.ones(3), 2, {}, ValueError, r"S must have shape .*; got \(3,\)"),
        ([[1.0]], 2, {}, TypeError, "S must be a tensor; got list"),
        (torch.ones(3, 2), 0, {}, ValueError, "n must be at least 1; got 0"),
        (torch.ones(3, 2), 2, {"names": ["a"]}, ValueError, "names must be one for each of 2; got 1"),
        (torch.ones(3, 2), 2, {"top": 0}, ValueError, "top must be at least 1; got 0"),
        (torch.ones(3, 2), 2, {"top": 2.0}, TypeError, "top must be an int; got float"),
    ],
)
def test_errors_of_relations(S: Any, n: int, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        relations(S, n, **options)


CHAIN = [[-1, 2], [-2, 3], [-3, 4]]  # 1 implies 2, and so on


def deduce(layer: SATNet, z: list[float], given: list[int], seed: int = 0) -> list[float]:
    mask = torch.zeros(len(z), dtype=torch.bool)
    mask[given] = True
    return layer(torch.tensor(z), mask, generator=generator(seed)).tolist()


def test_fixed_clauses_are_a_buffer() -> None:
    layer = SATNet.from_clauses(CHAIN, 5, weights=[1, 2, 3], aux=2, max_iter=7, eps=1e-3, prox_lam=0.1, k=9)
    assert layer.fixed is not None and torch.equal(layer.fixed, clauses_to_S(CHAIN, 5, weights=[1, 2, 3], aux=2))
    assert layer.S.shape == (8, 0) and not layer.S.requires_grad and layer.m == 0
    assert [parameter for parameter in layer.parameters() if parameter.requires_grad] == []
    assert (layer.n, layer.aux, layer.max_iter, layer.eps, layer.prox_lam, layer.k) == (5, 2, 7, 1e-3, 0.1, 9)
    assert "3 fixed clauses" in repr(layer)
    assert sorted(layer.state_dict()) == ["S", "fixed"]


def test_fixed_clauses_beside_columns_that_learn() -> None:
    layer = SATNet.from_clauses(CHAIN, m=6, aux=1)
    assert layer.fixed is not None and layer.fixed.shape == (6, 3) and not layer.fixed.requires_grad
    assert layer.S.shape == (6, 6) and layer.S.requires_grad and layer.m == 6
    torch.manual_seed(1)
    first = SATNet.from_clauses(CHAIN, m=200).S
    torch.manual_seed(1)
    assert torch.equal(first, SATNet(4, 200).S)  # drawn as those of a fresh layer


@pytest.mark.parametrize("m", [0, 4])
def test_clauses_as_a_start(m: int) -> None:
    layer = SATNet.from_clauses(CHAIN, learnable=True, m=m)
    assert layer.fixed is None and layer.S.shape == (5, 3 + m) and layer.S.requires_grad and layer.m == 3 + m
    assert torch.equal(layer.S[:, :3], clauses_to_S(CHAIN))
    assert list(layer.state_dict()) == ["S"] and bool((layer.S[:, 3:] != 0).all())


@pytest.mark.parametrize("options", [{}, {"learnable": True}, {"m": 3}, {"learnable": True, "m": 3}])
def test_a_layer_from_clauses_is_the_function_of_its_whole_matrix(options: dict[str, Any]) -> None:
    layer = SATNet.from_clauses(CHAIN, dtype=torch.float64, aux=1, **options)
    z, given = torch.rand(6, 4, dtype=torch.float64), torch.rand(6, 4) < 0.5
    parts = [layer.S] if layer.fixed is None else [layer.fixed, layer.S]
    want = functional.satnet(torch.cat(parts, 1), z, given, k=layer.k, generator=generator())
    assert torch.equal(layer(z, given, generator=generator()), want)
    assert layer(z, given).dtype == torch.float64


@pytest.mark.parametrize("learnable", [False, True])
def test_unit_propagation(learnable: bool) -> None:
    layer = SATNet.from_clauses(CHAIN, learnable=learnable, max_iter=500, eps=1e-9)
    for seed in range(5):
        assert [round(p) for p in deduce(layer, [1, 0.5, 0.5, 0.5], [0], seed)] == [1, 1, 1, 1]
        assert [round(p) for p in deduce(layer, [0.5, 0.5, 0.5, 0], [3], seed)] == [0, 0, 0, 0]
        assert [round(p) for p in deduce(layer, [1, 0, 0.5, 0], [0, 1, 3], seed)] == [1, 0, 0, 0]


def test_what_formulas_imply_is_deduced() -> None:
    """Random implications that lead from given values to all others, beside clauses that hold anyway."""
    for seed in range(20):
        draw = np.random.default_rng(seed)
        hidden, order = draw.random(8) < 0.5, draw.permutation(8)
        true = [int(i + 1) if hidden[i] else -int(i + 1) for i in range(8)]
        clauses = [[-true[order[draw.integers(j)]], true[order[j]]] for j in range(2, 8)]
        clauses += [
            [true[i], int(draw.choice([-1, 1])) * (j + 1)] for i, j in draw.permutation(8).reshape(4, 2).tolist()
        ]
        given = order[:2].tolist()
        models = [
            x
            for x in assignments(8)
            if all(x[i] == hidden[i] for i in given) and naive_cost(clauses, [1.0] * len(clauses), x)[0] == 0
        ]
        assert models == [tuple(hidden.tolist())]
        layer = SATNet.from_clauses(clauses, 8, max_iter=2000, eps=1e-10)
        found = deduce(layer, [float(hidden[i]) if i in given else 0.5 for i in range(8)], given, seed)
        assert [p > 0.5 for p in found] == hidden.tolist(), (seed, clauses, given, found)


def test_gradients_are_only_where_columns_learn() -> None:
    z = torch.rand(3, 4, requires_grad=True)
    given = torch.tensor([True, True, False, False])
    layer = SATNet.from_clauses(CHAIN, m=5, aux=1, input_mask=given)
    layer(z, generator=generator())[:, 2:].sum().backward()
    assert layer.fixed is not None and layer.fixed.grad is None
    assert layer.S.grad is not None and layer.S.grad.shape == (6, 5) and bool(layer.S.grad.abs().sum() > 0)
    assert z.grad is not None and bool((z.grad[:, :2] != 0).any())
    fixed = SATNet.from_clauses(CHAIN, input_mask=given)
    z = torch.rand(3, 4, requires_grad=True)
    fixed(z, generator=generator())[:, 2:].sum().backward()
    assert fixed.S.grad is None and z.grad is not None and bool((z.grad[:, :2] != 0).any())
    start = SATNet.from_clauses(CHAIN, learnable=True, m=2, input_mask=given)
    start(torch.rand(3, 4), generator=generator())[:, 2:].sum().backward()
    assert start.S.grad is not None and bool((start.S.grad[:, :3] != 0).any() and (start.S.grad[:, 3:] != 0).any())


def test_gradients_of_added_columns_are_those_of_the_whole_matrix() -> None:
    layer = SATNet.from_clauses(CHAIN, m=5, dtype=torch.float64, eps=1e-10, max_iter=1000)
    z, given = torch.rand(3, 4, dtype=torch.float64), torch.tensor([True, True, False, False])
    layer(z, given.expand(3, 4), generator=generator())[:, 2:].sum().backward()
    assert layer.fixed is not None
    S = torch.cat((layer.fixed, layer.S.detach()), 1).requires_grad_()
    out = functional.satnet(S, z, given.expand(3, 4), k=layer.k, eps=1e-10, max_iter=1000, generator=generator())
    out[:, 2:].sum().backward()
    assert S.grad is not None and torch.equal(layer.S.grad, S.grad[:, 3:])


def test_training_moves_added_columns_and_leaves_clauses_alone() -> None:
    layer = SATNet.from_clauses(CHAIN, 6, m=4, input_mask=torch.tensor([1, 0, 0, 0, 1, 0]))
    assert layer.fixed is not None
    fixed, S = layer.fixed.clone(), layer.S.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    z = torch.rand(8, 6).round()
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (layer(z, generator=generator())[:, 5] - z[:, 4]).square().mean()  # 5 equals 6: not among the clauses
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(layer.fixed, fixed) and not torch.equal(layer.S, S)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("m", [0, 3])
@pytest.mark.parametrize("learnable", [False, True])
def test_copies_are_the_same_layer(learnable: bool, m: int) -> None:
    layer = SATNet.from_clauses(CHAIN, 5, weights=[1, 2, 3], learnable=learnable, m=m)
    other = SATNet.from_clauses([[1], [2], [3]], 5, learnable=learnable, m=m)
    other.load_state_dict(layer.state_dict(), strict=True)
    z, given = torch.rand(3, 5), torch.rand(3, 5) < 0.5
    want = layer(z, given, generator=generator())
    for copied in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(z, given, generator=generator()), want)
        assert copied.S.requires_grad == layer.S.requires_grad and copied.m == layer.m
        assert copied.S.data_ptr() != layer.S.data_ptr() or layer.S.numel() == 0
    assert layer.double()(z.double(), given).dtype == torch.float64


def test_a_layer_takes_an_instance() -> None:
    instance = Instance.from_clauses(CHAIN, 6, [1, 2, INF])
    layer = SATNet.from_clauses(instance)
    assert layer.fixed is not None and layer.n == 6 and torch.equal(layer.fixed, clauses_to_S(instance))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"m": -1}, ValueError, "m must be at least 0; got -1"),
        ({"m": 1.5}, TypeError, "m must be an int; got float"),
        ({"aux": -1}, ValueError, "aux must be at least 0; got -1"),
        ({"n": 2}, ValueError, "clauses: literals must be of variables 1 to n = 2"),
        ({"weights": [1]}, ValueError, "weights must be one for each of 3 clauses"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"dtype": torch.float16}, TypeError, "dtype must be float32 or float64"),
        ({"input_mask": torch.ones(3)}, TypeError, "input_mask"),
    ],
)
def test_errors_of_from_clauses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SATNet.from_clauses(CHAIN, **options)


def test_rules_are_the_relations_of_fixed_and_added_columns() -> None:
    layer = SATNet.from_clauses([[1, 2], [-1, -2]], 3, m=2, aux=1)
    names = ["a", "b", "c"]
    assert layer.fixed is not None
    S = torch.cat((layer.fixed, layer.S), 1)
    assert layer.rules() == relations(S, 3)
    assert layer.rules(2, names=names) == relations(S, 3, top=2, names=names)
    assert layer.rules(None, aux=True) == relations(S, 3, top=None, aux=True)
    assert len(layer.rules(None, aux=True)) == 10 and len(layer.rules(None)) == 6
    assert [str(rule) for rule in SATNet.from_clauses([[1, 2], [-1, -2]]).rules()] == ["x1 differs from x2 (0.5)"]
    assert SATNet(3, 4).rules(1)[0].strength > 0
