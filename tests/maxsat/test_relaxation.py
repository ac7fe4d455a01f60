"""The relaxation against its definition and cvxpy, and its lower bound against exact optima."""

import math
from collections.abc import Callable, Sequence

import cvxpy
import numpy as np
import pytest
import torch
from maxsat_problems import assignments, enumerated_optimum, naive_cost, random_clauses
from numpy.testing import assert_allclose

from difflayers import functional, maxsat
from difflayers.maxsat import Instance, relaxation
from difflayers.maxsat.mixing import Mixing
from difflayers.maxsat.relaxation import dual_bound, relax

PATHS = pytest.mark.parametrize("long", [12, 2, 0], ids=["short", "mixed", "long"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(instance: Instance) -> tuple[np.ndarray, float]:
    """The dense clause matrix, and what the definition subtracts: the weighted sum of (L - 1)^2 / (4 L)."""
    S = functional.clauses_to_S(instance, dtype=torch.float64).numpy()
    weights = np.where(instance.hard, 1 + instance.soft_weight, instance.weights)
    lengths = np.array([len(clause) for clause in instance.clauses])
    return S, float((weights * (lengths - 1) ** 2 / (4 * lengths)).sum())


def mixing(instance: Instance, V: np.ndarray | None = None, *, k: int | None = None, seed: int = 0) -> Mixing:
    """The solver's state, at V if given."""
    weights = np.where(instance.hard, 1 + instance.soft_weight, instance.weights)
    k = functional.default_k(instance.n + 1) if k is None else k
    if V is not None:
        k = V.shape[1]
    state = Mixing(relax(instance, weights), k, np.random.default_rng(seed))
    if V is not None:
        state.V[:] = V
        state.W[:] = state.relaxation.long.T @ V
    return state


def descended(instance: Instance, sweeps: int) -> Mixing:
    state = mixing(instance)
    for _ in range(sweeps):
        state.sweep(0.0)
    return state


def naive_value(instance: Instance, V: np.ndarray) -> float:
    S, subtract = columns(instance)
    rows = np.concatenate((np.eye(1, V.shape[1]), V))
    return float(np.square(rows.T @ S).sum()) - subtract


def unit_vectors(n: int, k: int, seed: int = 0) -> np.ndarray:
    V = np.random.default_rng(seed).standard_normal((n, k))
    return V / np.linalg.norm(V, axis=1, keepdims=True)


def sdp_value(instance: Instance) -> float:
    S, subtract = columns(instance)
    X = cvxpy.Variable((len(S), len(S)), PSD=True)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.trace((S @ S.T) @ X)), [cvxpy.diag(X) == 1])
    problem.solve(cvxpy.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert problem.status == cvxpy.OPTIMAL
    return float(problem.value) - subtract


def example(
    seed: int, *, n: int = 8, m: int = 30, lengths: Sequence[int] = (1, 2, 3, 5), hard: float = 0.0
) -> Instance:
    clauses, weights = random_clauses(n, m, lengths, hard=hard, floats=True, seed=seed)
    return Instance.from_clauses(clauses, n, weights)


def raw_bound(state: Mixing, seed: int = 0) -> float:
    """The dual's value, where `Mixing.bound` ends at 0."""
    _, norms = state.value()
    return dual_bound(state.relaxation, norms, state.along(), np.random.default_rng(seed))


@PATHS
@pytest.mark.parametrize("seed", range(4))
def test_a_converged_solve_is_the_sdps_optimum(seed: int, long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    instance = example(seed, m=60, lengths=(1, 1, 1, 2, 2, 3, 5), hard=0.2 * (seed % 2))
    rest, certain = instance.without_opposites()
    want, certain_weight = sdp_value(rest), instance.number(certain)
    solution = maxsat.solve(instance, eps=1e-14, max_iter=20000, rounds=1, generator=generator(seed))
    assert solution.converged
    assert solution.relaxation == pytest.approx(want + certain_weight, rel=1e-6)
    assert solution.bound <= max(0.0, want) + certain_weight + 1e-7
    bound = raw_bound(descended(rest, 3000))
    assert bound <= want + 1e-7 * abs(want) and bound == pytest.approx(want, rel=1e-4)
    if seed % 2 == 0:  # opposite clauses cost the same anywhere
        assert sdp_value(instance) == pytest.approx(want + certain_weight, rel=1e-6)


def test_a_converged_solve_with_clauses_longer_than_long_is_the_sdps_optimum() -> None:
    instance = example(3, n=16, m=60, lengths=(1, 2, 13, 16))
    assert max(len(clause) for clause in instance.clauses) > relaxation.LONG > 3
    want = sdp_value(instance)
    solution = maxsat.solve(instance, eps=1e-14, max_iter=20000, rounds=1, generator=generator())
    assert solution.relaxation == pytest.approx(want, rel=1e-6)
    bound = raw_bound(descended(instance, 3000))
    assert bound <= want + 1e-7 * abs(want) and bound == pytest.approx(want, rel=1e-3)


@PATHS
def test_value_and_gradient_are_those_of_the_definition(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    instance = example(0, hard=0.2)
    V = unit_vectors(instance.n, 6)
    value, norms = mixing(instance, V).value()
    assert value == pytest.approx(naive_value(instance, V), rel=1e-12)
    S, _ = columns(instance)
    C = S @ S.T
    np.fill_diagonal(C, 0)
    g = C @ np.concatenate((np.eye(1, 6), V))
    assert_allclose(norms, np.linalg.norm(g[1:], axis=1), rtol=1e-12)


@PATHS
def test_a_sweep_is_coordinate_descent(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    instance = example(1)
    state = mixing(instance, unit_vectors(instance.n, 6))
    S, _ = columns(instance)
    rows = np.concatenate((np.eye(1, 6), state.V))
    for _ in range(3):
        before = naive_value(instance, state.V)
        state.sweep(0.0)
        for i in range(1, len(rows)):
            g = (S[i] @ S.T) @ rows - (S[i] @ S[i]) * rows[i]
            rows[i] = -g / np.linalg.norm(g)
        assert_allclose(state.V, rows[1:], atol=1e-10)
        assert_allclose(state.W, state.relaxation.long.T @ state.V, atol=1e-10)
    decrease = before - naive_value(instance, state.V)
    state.first, converged = decrease / 1.001, []
    state.V[:], state.W[:] = rows[1:], state.relaxation.long.T @ rows[1:]
    for eps in (0.0, 1.0):
        state.sweep(eps)
        converged.append(state.converged)
    assert converged == [False, True]


def test_the_first_sweep_says_when_to_stop() -> None:
    instance = example(1)
    values = []
    for eps in (1e-2, 1e-4):
        state = mixing(instance, unit_vectors(instance.n, 6))
        values = [naive_value(instance, state.V)]
        while not state.converged:
            state.sweep(eps)
            values.append(naive_value(instance, state.V))
        falls = -np.diff(values)
        assert state.sweeps == len(falls) > 2
        assert falls[-1] <= eps * falls[0] and (falls[:-1] > eps * falls[0]).all()


def test_long_clauses_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance.from_clauses([[1, -2, 3], [-1, 2], [1, 2, 3, 4]])
    weights = np.array([1.0, 2.0, 3.0])
    whole = relax(instance, weights)
    assert whole.long.shape == (4, 0) and not whole.long_square.any()
    monkeypatch.setattr(relaxation, "LONG", 3)
    parts = relax(instance, weights)
    assert parts.long.shape == (4, 1) and parts.pairs.nnz == 2 * 3  # 1-2, 1-3, 2-3
    assert_allclose(parts.truth, whole.truth)
    product = (parts.long @ parts.long.T).toarray()
    assert_allclose(parts.long_square, np.diag(product))
    assert_allclose(parts.pairs.toarray() + product - np.diag(np.diag(product)), whole.pairs.toarray(), atol=1e-15)
    assert parts.constant == whole.constant


@PATHS
@pytest.mark.parametrize("length", range(1, 8))
def test_the_loss_is_1_where_violated_and_at_most_0_where_satisfied(
    length: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    clause = [i if i % 3 else -i for i in range(1, length + 1)]
    instance = Instance.from_clauses([clause])
    for x in assignments(length):
        V = np.where(x, 1.0, -1.0)[:, None] * np.eye(1, 3)
        loss, _ = mixing(instance, V).value()
        if naive_cost([clause], [1.0], x) == (1, 0):
            assert loss == pytest.approx(1, abs=1e-12)
        elif length <= 2:
            assert loss == pytest.approx(0, abs=1e-12)
        else:
            assert loss < 1e-12


@pytest.mark.parametrize("length", [11, 12, 13, 40])
def test_the_loss_of_a_long_clause(length: int) -> None:
    """(2 t - L - 1)^2 - (L - 1)^2, over 4 L, with t true literals."""
    instance = Instance.from_clauses([list(range(1, length + 1))])
    for true in range(length + 1):
        V = np.where(np.arange(length) < true, 1.0, -1.0)[:, None] * np.eye(1, 2)
        want = ((2 * true - length - 1) ** 2 - (length - 1) ** 2) / (4 * length)
        assert mixing(instance, V).value()[0] == pytest.approx(want, abs=1e-12)
        assert (want == 1) == (true == 0) and (want <= 0) == (true > 0)


@pytest.mark.parametrize("dense", [3000, 0], ids=["eigenvalue", "lanczos"])
@pytest.mark.parametrize("sweeps", [0, 1, 4, 300])
@PATHS
def test_the_bound_is_never_above_the_optimum(
    long: int, sweeps: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    monkeypatch.setattr(relaxation, "DENSE", dense)
    for seed in range(12):
        clauses, weights = random_clauses(7, 35, (1, 2, 3, 4), hard=0.15 * (seed % 3), floats=True, seed=seed)
        instance = Instance.from_clauses(clauses, 7, weights)
        state = mixing(instance, seed=seed)
        for _ in range(sweeps):
            state.sweep(0.0)
        bound = state.bound(np.random.default_rng(seed))
        value = state.value()[0]
        assert bound <= enumerated_optimum(clauses, weights, 7) + 1e-9
        assert bound <= max(0.0, value) + 1e-9  # weak duality
        if sweeps == 300 and dense:
            assert bound == pytest.approx(max(0.0, value), abs=1e-2)


@pytest.mark.parametrize("dense", [3000, 0], ids=["eigenvalue", "lanczos"])
@PATHS
def test_any_multipliers_give_a_bound(long: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros among them too, on variables that have clauses."""
    monkeypatch.setattr(relaxation, "LONG", long)
    monkeypatch.setattr(relaxation, "DENSE", dense)
    draw = np.random.default_rng(0)
    # Neither variable is pulled at by the truth direction, and the SDP's optimum is 0 less the constant.
    balanced = Instance.from_clauses([[1, 2], [-1, -2], [2, 3], [-2, -3], [1, 3], [-1, -3]])
    for seed in range(30):
        instance = balanced if seed % 3 == 0 else example(seed, n=6, m=15, lengths=(1, 2, 3))
        whole = relax(instance, instance.weights)
        scale = np.abs(whole.truth).max() + np.abs(whole.pairs.toarray()).sum(1).max(initial=0.1)
        norms = scale * draw.random(instance.n) * (draw.random(instance.n) < 0.5) * (seed % 6 > 0)
        bound = dual_bound(whole, norms, scale * draw.standard_normal(), draw)
        optimum = enumerated_optimum(instance.clauses, instance.weights.tolist(), instance.n)
        assert bound <= optimum + 1e-9
        assert bound <= mixing(instance).value()[0] + 1e-9


@pytest.mark.parametrize("dense", [3000, 0], ids=["eigenvalue", "lanczos"])
def test_the_bound_holds_where_the_truth_row_is_the_longest(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single literals only: the truth direction pulls at all variables, and each of them at it alone."""
    monkeypatch.setattr(relaxation, "DENSE", dense)
    for seed in range(10):
        clauses, weights = random_clauses(9, 30, (1,), floats=True, seed=seed)
        instance = Instance.from_clauses(clauses, 9, weights)
        optimum = enumerated_optimum(clauses, weights, 9)
        for sweeps in (0, 1):
            bound = raw_bound(mixing(instance, unit_vectors(9, 8, seed)) if sweeps == 0 else descended(instance, 1))
            assert bound <= optimum + 1e-9
            if sweeps == 1 and dense:
                assert bound == pytest.approx(optimum, rel=1e-6)


@pytest.mark.parametrize("dense", [3000, 0], ids=["eigenvalue", "lanczos"])
@pytest.mark.parametrize("n", [2, 9, 60])
def test_the_bound_holds_at_vectors_that_ignore_the_truth(n: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth row's multiplier is then 0, and all of the bound is its share of the eigenvalue; the optimum is 0."""
    monkeypatch.setattr(relaxation, "DENSE", dense)
    V = np.concatenate((np.zeros((n, 1)), unit_vectors(n, 8)), 1)
    bound = raw_bound(mixing(Instance.from_clauses([[i] for i in range(1, n + 1)]), V))
    assert bound <= 1e-9
    if dense:
        assert bound > -0.1 * n


def test_a_variable_that_nothing_pulls_at_leaves_w_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LONG", 0)
    state = mixing(Instance.from_clauses([[1], [2], [-2]]), unit_vectors(2, 8))
    before = state.V[1].copy()
    state.sweep(0.0)
    assert state.value()[1][1] == 0 and np.array_equal(state.V[1], before)
    assert_allclose(state.W, state.relaxation.long.T @ state.V, atol=1e-12)


@pytest.mark.parametrize("sweeps", [3, 100])
@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_lanczos_is_below_the_eigenvalue_and_not_far(hard: float, sweeps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bound the same eigenvalue; the longer Lanczos iterates, the closer it comes."""
    for seed in range(2):
        instance = example(seed, n=250, m=1200, lengths=(1, 2, 3), hard=hard)
        state = descended(instance, sweeps)
        exact = raw_bound(state)
        monkeypatch.setattr(relaxation, "DENSE", 0)
        long = raw_bound(state, seed)
        monkeypatch.setattr(relaxation, "LANCZOS_BYTES", 0)
        short = raw_bound(state, seed)
        monkeypatch.undo()
        assert short < long < exact <= state.value()[0] + 1e-9
        assert exact - long < 0.2 * abs(exact) + 0.02 * instance.soft_weight


@pytest.mark.parametrize("size", [2, 3, 30, 101, 250])
def test_smallest_eigenvalue_is_a_number_below(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LANCZOS_BYTES", 0)  # 100 steps
    for seed in range(3):
        draw = np.random.default_rng(seed)
        A = draw.standard_normal((size, size))
        A = A + A.T
        eigenvalues = np.linalg.eigvalsh(A)
        above = float(np.abs(A).sum(1).max())
        counted: list[int] = []

        def steps(count: int, counted: list[int] = counted) -> range:
            counted.append(count)
            return range(count)

        def product(x: np.ndarray, A: np.ndarray = A) -> np.ndarray:
            return A @ x

        found = relaxation._smallest_eigenvalue(product, size, above, draw, steps)
        assert counted == [min(size - 1, 100)]
        assert found < eigenvalues[0]
        if size > 100:
            assert found > eigenvalues[0] - 0.05 * (above - eigenvalues[0])


@PATHS
def test_lanczos_is_given_the_dense_matrix_and_a_number_above_it(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "LONG", long)
    seen: list[float] = []

    def exact(product: Callable[..., np.ndarray], size: int, above: float, *rest: object) -> float:
        A = np.stack([product(row) for row in np.eye(size)])
        assert_allclose(A, A.T, atol=1e-12)
        eigenvalues = np.linalg.eigvalsh(A)
        assert above >= eigenvalues[-1]
        seen.append(eigenvalues[0])
        return seen[-1]

    monkeypatch.setattr(relaxation, "_smallest_eigenvalue", exact)
    for seed in range(12):
        lengths = [(1,), (2,), (1, 2, 3), (1, 4)][seed % 4]
        state = descended(example(seed, lengths=lengths, hard=0.2 * (seed % 3)), seed % 3)
        monkeypatch.setattr(relaxation, "DENSE", 3000)
        want = raw_bound(state)
        monkeypatch.setattr(relaxation, "DENSE", 0)
        assert raw_bound(state) == pytest.approx(want, rel=1e-9)
    assert len(seen) == 12 and min(seen) < -1e-3


def test_lanczos_ends_early_in_an_invariant_space() -> None:
    found = relaxation._smallest_eigenvalue(lambda x: 2 * x, 200, 5.0, np.random.default_rng(0), range)
    assert 1.9 < found < 2


def test_unused_variables_change_nothing() -> None:
    clauses, weights = random_clauses(6, 30, (1, 2, 3), floats=True)
    moved = [[literal + 3 * (1 if literal > 0 else -1) for literal in clause] for clause in clauses]
    few = maxsat.solve(clauses, weights=weights, eps=1e-12, max_iter=5000, generator=generator())
    many = maxsat.solve(moved, n=20, weights=weights, eps=1e-12, max_iter=5000, generator=generator())
    assert many.assignment.shape == many.probabilities.shape == (20,)
    assert many.bound == pytest.approx(few.bound, rel=1e-4) and many.bound > 0
    assert many.relaxation == pytest.approx(few.relaxation, rel=1e-6)
    assert many.cost == pytest.approx(few.cost)
    state = mixing(Instance.from_clauses(moved, 20, weights))
    before = state.V.copy()
    state.sweep(0.0)
    unused = [i for i in range(20) if i < 3 or i >= 9]
    assert (state.V[unused] == before[unused]).all() and not (state.value()[1][unused]).any()


@pytest.mark.parametrize("hard_weight", [0.01, 3.0, 1e4, 1e8])
def test_the_bound_holds_for_any_weight_of_hard_clauses(hard_weight: float) -> None:
    for seed in range(15):
        clauses, weights = random_clauses(7, 30, (1, 2, 3), hard=0.4, floats=True, seed=seed)
        optimum = enumerated_optimum(clauses, weights, 7)
        assert math.isfinite(optimum)
        for max_iter in (2, 2000):
            solution = maxsat.solve(
                clauses,
                weights=weights,
                hard_weight=hard_weight,
                max_iter=max_iter,
                rounds=1,
                generator=generator(seed),
            )
            assert 0 <= solution.bound <= optimum + 1e-7


@pytest.mark.parametrize("hard_weight", [None, 1e2, 1e5])
def test_the_bound_sees_through_heavy_hard_clauses(hard_weight: float | None) -> None:
    """1 is true, implies 2, which implies 3: soft clauses against 2 and 3 are lost."""
    clauses, weights = [[1], [-1, 2], [-2, 3], [-2], [3], [-3]], [math.inf] * 3 + [2.0, 5.5, 1.25]
    solution = maxsat.solve(
        clauses, weights=weights, hard_weight=hard_weight, eps=1e-14, max_iter=100000, generator=generator()
    )
    assert solution.cost == 3.25 and solution.hard_violations == 0
    assert 3.2 < solution.bound <= 3.25 + 1e-9


def test_nothing_to_violate_has_the_bound_0() -> None:
    whole = relax(Instance.from_clauses([], 4), np.zeros(0))
    steps: Callable[[int], range] = range
    assert dual_bound(whole, np.zeros(4), 0.0, np.random.default_rng(0), steps) == 0
