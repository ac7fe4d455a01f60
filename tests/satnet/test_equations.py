"""Clause matrices made from linear equations: known ones, and those that solutions satisfy."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from difflayers import Domains, SATNet, inference
from difflayers.functional import equations_to_S, solutions_to_S


def permutations(size: int) -> Tensor:
    """All permutation matrices: exactly one is true in each row and in each column."""
    return torch.tensor(
        [np.eye(size, dtype=int)[list(p)].ravel().tolist() for p in itertools.permutations(range(size))]
    )


def signs(solutions: Tensor) -> Tensor:
    return torch.nn.functional.pad(2 * solutions.double() - 1, (1, 0), value=1.0)


def latin_squares() -> Tensor:
    """All 576 Latin squares of four values, (576, 16)."""
    rows = list(itertools.permutations(range(4)))
    squares = []
    for first, second, third in itertools.product(rows, repeat=3):
        if all(len({a, b, c}) == 3 for a, b, c in zip(first, second, third, strict=True)):
            last = tuple(6 - a - b - c for a, b, c in zip(first, second, third, strict=True))
            squares.append((*first, *second, *third, *last))
    return torch.tensor(squares)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float32, torch.float64])
def test_equations_of_permutation_matrices(dtype: torch.dtype) -> None:
    solutions = permutations(4)
    S = solutions_to_S(solutions.to(dtype), dtype=torch.float64)
    # Four rows and four columns, one of which follows from the others.
    assert S.shape == (17, 7)
    torch.testing.assert_close(S.T @ S, torch.eye(7, dtype=torch.float64))
    assert float((signs(solutions) @ S).abs().max()) < 1e-12
    rows = torch.zeros(8, 17, dtype=torch.float64)
    for i in range(4):
        rows[i, 1 + 4 * i : 5 + 4 * i], rows[4 + i, 1 + i :: 4] = 1, 1
    rows[:, 0] = 2  # one +1 and three -1
    torch.testing.assert_close(rows @ S @ S.T, rows)  # the equations that we know are among those found


def test_objective_is_zero_at_all_assignments_that_satisfy_the_equations_and_nowhere_else() -> None:
    some = permutations(4)[torch.randperm(24, generator=generator())[:16]]
    S = solutions_to_S(some, dtype=torch.float64)
    every = torch.tensor(list(itertools.product((0, 1), repeat=16)))
    objective = (signs(every) @ S).square().sum(1)
    right = set(map(tuple, permutations(4).tolist()))
    zero = {tuple(x) for x in every[objective < 1e-9].tolist()}
    assert zero == right  # eight of them it never saw
    assert float(objective[objective >= 1e-9].min()) > 0.1


def test_equations_of_other_kinds() -> None:
    solutions = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 1, 0, 1]])
    S = solutions_to_S(solutions, dtype=torch.float64)
    assert S.shape == (6, 4)
    for equation in ([0, 1, -1, 0, 0, 0], [0, 1, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 0, 1]):
        u = torch.tensor(equation, dtype=torch.float64)
        torch.testing.assert_close(S @ (S.T @ u), u)


def test_copies_and_order_do_not_matter() -> None:
    solutions = permutations(4)
    P = solutions_to_S(solutions, dtype=torch.float64)
    Q = solutions_to_S(solutions.flip(0).repeat(400, 1), dtype=torch.float64)  # more than are summed at a time
    torch.testing.assert_close(P @ P.T, Q @ Q.T)


def test_solutions_with_mistakes_need_a_tolerance() -> None:
    solutions = permutations(4).repeat(50, 1)
    wrong = torch.rand(solutions.shape, generator=generator()) < 0.002
    spoilt = torch.where(wrong, 1 - solutions, solutions)
    with pytest.raises(ValueError, match=r"solutions must satisfy a linear equation .* at most 1e-06; got 1200 whose"):
        solutions_to_S(spoilt)
    S, exact = solutions_to_S(spoilt, tolerance=0.05).double(), solutions_to_S(solutions).double()
    assert S.shape == exact.shape
    assert float((S @ S.T - exact @ exact.T).abs().max()) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_aux_and_device(dtype: torch.dtype) -> None:
    S = solutions_to_S(permutations(3), aux=2, dtype=dtype, device="cpu")
    assert S.dtype == dtype and S.shape == (12, 5) and not S[10:].any() and S.device.type == "cpu"
    assert solutions_to_S(permutations(3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("solutions", "options", "error", "message"),
    [
        (torch.zeros(3), {}, ValueError, r"solutions must have shape \(count, n\), neither 0; got \(3,\)"),
        (torch.zeros(0, 4), {}, ValueError, r"solutions must have shape \(count, n\), neither 0; got \(0, 4\)"),
        (torch.full((2, 2), 0.5), {}, ValueError, "solutions must be of 0 and 1; got other values"),
        (torch.full((2, 2), torch.nan), {}, ValueError, "solutions must be of 0 and 1; got other values"),
        ([[0, 1]], {}, TypeError, "solutions must be a tensor; got list"),
        (torch.eye(2), {"tolerance": -1.0}, ValueError, "tolerance must be finite and at least 0; got -1"),
        (torch.eye(2), {"tolerance": "1"}, TypeError, "tolerance must be a number; got str"),
        (torch.eye(2), {"aux": -1}, ValueError, "aux must be at least 0; got -1"),
        (torch.eye(2), {"dtype": torch.int64}, TypeError, "dtype must be a floating one"),
        (torch.zeros(1, 40_000), {}, ValueError, r"solutions must make S, which is dense, of at most 2\*\*29 entries"),
        (
            torch.tensor(list(itertools.product((0, 1), repeat=3))),
            {},
            ValueError,
            "solutions must satisfy a linear equation with a mean squared error of at most 1e-06; got 8 whose",
        ),
    ],
)
def test_errors(solutions: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solutions_to_S(solutions, **options)


def test_the_objective_of_known_equations_is_their_squared_error() -> None:
    A, b = torch.randn(4, 6, generator=generator()), torch.randn(4, generator=generator(1))
    S = equations_to_S(A, b, aux=2, dtype=torch.float64)
    assert S.shape == (9, 4) and not S[7:].any()
    every = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    errors = (every.double() @ A.T.double() - b.double()).square().sum(1)
    torch.testing.assert_close((signs(every) @ S[:7]).square().sum(1), errors)
    weighted = equations_to_S(3 * A, 3 * b, dtype=torch.float64)
    torch.testing.assert_close(weighted, 3 * S[:7])


@pytest.mark.parametrize(
    ("A", "b", "error", "message"),
    [
        (torch.ones(3), torch.ones(3), ValueError, r"A must have shape \(equations, n\), neither 0; got \(3,\)"),
        (torch.ones(0, 3), torch.ones(0), ValueError, "A must have shape"),
        (torch.ones(2, 3), torch.ones(3), ValueError, r"b must have shape \(2,\); got \(3,\)"),
        (torch.ones(2, 3), [1, 1], TypeError, "b must be a tensor; got list"),
        (torch.ones(1, 3, dtype=torch.complex64), torch.ones(1), TypeError, "A must be real; got torch.complex64"),
        (
            torch.full((1, 3), torch.nan),
            torch.ones(1),
            ValueError,
            "must be finite numbers that torch.float32 can hold",
        ),
        (torch.ones(1, 3), torch.tensor([1e300], dtype=torch.float64), ValueError, "b must be finite numbers"),
    ],
)
def test_errors_of_known_equations(A: Any, b: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        equations_to_S(A, b)


def test_a_layer_from_known_equations() -> None:
    """A Latin square of three: each value once in each row and column. The first row and one cell say the rest."""
    domains = Domains([3] * 9)
    lines = [[3 * i + j for j in range(3)] for i in range(3)] + [[3 * j + i for j in range(3)] for i in range(3)]
    clauses = []
    for line, value in itertools.product(lines, range(3)):
        bits = [int(domains.literals[cell, value]) for cell in line]
        clauses += [bits, *([-p, -q] for p, q in itertools.combinations(bits, 2))]
    A, b = inference.Rules.from_clauses(domains, clauses).equations()
    assert A.shape == (27, 27) and bool((A.sum(1) == 3).all()) and bool((b == 1).all())
    layer = SATNet.from_equations(A, b, aux=1, k=12, learnable=True, m=2)
    assert layer.S.shape == (29, 29) and (layer.max_iter, layer.eps) == (1000, 1e-7)
    layer = SATNet.from_equations(A, b)
    values = torch.tensor([0, 1, 2, 1, 2, 0, 2, 0, 1])
    z, known = domains.encode(values, torch.arange(9) < 4, dtype=torch.float32)
    assert torch.equal(domains.decode(layer(z, known, generator=generator())), values)


def test_equations_of_rules() -> None:
    domains = Domains([2, 2, 2, 3])
    alike, unlike, one = [[1, -2], [-1, 2]], [[2, 3], [-2, -3]], [[1, -2, 3], [-1, 2], [-1, -3], [2, -3]]
    own = [0, 0, 0, 1, 1, 1]
    for clauses, want in (
        ([], [(own, 1)]),
        (alike, [(own, 1), ([-1, 1, 0, 0, 0, 0], 0)]),
        (unlike, [(own, 1), ([0, 1, 1, 0, 0, 0], 1)]),
        ([[1, 2]], [(own, 1)]),
        (
            [[1, -1], [1, 2], [-1, -2], [1, -1, 2]],
            [(own, 1), ([1, 1, 0, 0, 0, 0], 1)],
        ),  # what is always true says nothing
        ([[1, -1], [1, -1, 2], [-1, -2], [1, -2]], [(own, 1)]),
        ([[1], [-2]], [(own, 1), ([1, 0, 0, 0, 0, 0], 1), ([0, -1, 0, 0, 0, 0], 0)]),
        ([[1, 1, 2], [-1, -2, -1]], [(own, 1), ([1, 1, 0, 0, 0, 0], 1)]),
        ([[1, 2, 3], [-1, -2], [-1, -3]], [(own, 1)]),  # 2 and 3 may both be true
        (one, [(own, 1), ([1, -1, 1, 0, 0, 0], 0)]),
        (one + one[::-1], [(own, 1), ([1, -1, 1, 0, 0, 0], 0)]),
    ):
        A, b = inference.Rules.from_clauses(domains, clauses).equations()
        found = sorted(zip(A.tolist(), b.tolist(), strict=True))
        assert found == sorted(want), clauses


def test_a_layer_from_solutions() -> None:
    solutions = permutations(4)
    layer = SATNet.from_solutions(solutions, aux=1, prox_lam=0.1, k=9, dtype=torch.float64)
    assert layer.fixed is not None and layer.fixed.shape == (18, 7) and layer.fixed.dtype == torch.float64
    assert (layer.n, layer.m, layer.aux, layer.max_iter, layer.eps, layer.k) == (16, 0, 1, 1000, 1e-7, 9)
    assert layer.prox_lam == 0.1 and not [p for p in layer.parameters() if p.requires_grad]
    learns = SATNet.from_solutions(solutions, learnable=True, m=3, max_iter=50, eps=1e-4)
    assert learns.fixed is None and learns.S.shape == (17, 10) and learns.S.requires_grad
    assert (learns.m, learns.max_iter, learns.eps) == (10, 50, 1e-4)
    beside = SATNet.from_solutions(solutions, m=3)
    assert beside.fixed is not None and beside.fixed.shape == (17, 7) and beside.S.shape == (17, 3)
    copy = SATNet.from_state_dict(beside.state_dict())
    assert torch.equal(copy.fixed, beside.fixed)


def test_it_completes_what_it_never_saw() -> None:
    """Latin squares: all is learnt from half of them, in one step, and unseen ones are completed and told from wrong ones."""
    squares = latin_squares()[torch.randperm(576, generator=generator(1))]
    domains = Domains([4] * 16)
    bits = domains.encode(squares, torch.ones_like(squares, dtype=torch.bool), dtype=torch.float32)[0]
    layer = SATNet.from_solutions(bits[:288])
    limit = inference.acceptance_limit(layer, domains, squares[:288], generator=generator())
    assert limit.separates
    unseen = squares[288:]
    assert bool((inference.learnt_objective(layer, domains, unseen, generator=generator()) <= float(limit)).all())
    shown = torch.rand(unseen.shape, generator=generator(2)) < 0.7
    found = inference.search(layer, domains, torch.where(shown, unseen, 0), shown, limit=limit, generator=generator())
    assert bool(found.accepted.all())
    values = found.values.reshape(-1, 4, 4)
    for lines in (values, values.transpose(1, 2)):
        assert bool((lines.sort(2).values == torch.arange(4)).all())
    assert bool((values.flatten(1) == unseen)[shown].all())


def test_search_solves_a_layer_as_far_as_the_layer_itself() -> None:
    """A layer with exact rules needs many sweeps; with the few of a learnt one its search finds less."""
    from difflayers.inference.objective import Effort

    layer = SATNet.from_solutions(permutations(4))
    assert Effort.of(layer, 100, 1e-4) == (1000, 1e-7)
    assert Effort.of(SATNet(4, 4), 100, 1e-4) == (100, 1e-4)
    assert Effort.of(SATNet(4, 4, max_iter=200, eps=1e-3), 100, 1e-4) == (200, 1e-4)
