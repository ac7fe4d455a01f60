"""The kernels of entropic matching against the oracle, in value and derivative, over kinds and odd sizes; exp."""

import math

import numpy as np
import pytest
import torch
from entropic_problems import SIZES, make_problem
from numba import njit
from torch.testing import assert_close

from difflayers.matching.entropic import cpu, oracle
from difflayers.matching.entropic.exp import exp
from difflayers.matching.entropic.problems import sums


@njit
def _exp_of_each(x, out):
    for i in range(len(x)):
        out[i] = exp(x[i])


def test_exp_is_exact_to_two_units_in_the_last_place() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate((np.linspace(-708, 709, 400_001), rng.normal(size=100_000), 1e-9 * rng.normal(size=1000)))
    got = np.empty_like(x)
    _exp_of_each(x, got)
    want = np.exp(x.astype(np.longdouble))
    assert np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    assert (np.abs(got - want) <= 2 * np.spacing(want.astype(np.float64))).all()


def test_exp_at_its_ends() -> None:
    x = np.array([0.0, -0.0, -708.0, -708.1, -1e4, -np.inf, 709.0, 800.0, np.inf, np.nan, -1e300, 1.0])
    got = np.empty_like(x)
    _exp_of_each(x, got)
    highest = math.exp(709.0)
    want = [1, 1, math.exp(-708), 0, 0, 0, highest, highest, highest, np.nan, 0, math.e]
    np.testing.assert_allclose(got, want, rtol=4e-16)


@pytest.mark.parametrize("epsilon", [0.1, 2.0])
@pytest.mark.parametrize("size", SIZES)
def test_solution_is_the_oracles(size: str, epsilon: float) -> None:
    args, (slack, births) = make_problem(size, epsilon=epsilon)
    X, alpha, beta, _, iterations, residuals = cpu.entropic(*args, slack, births, 1e-9, 1000)
    wanted = sums(args[2], args[3], slack, births)
    assert (residuals <= 1e-9).all() and (iterations < 100).all()
    for b, c in enumerate(args[0]):
        rows, columns = wanted.rows[b] > 0, wanted.columns[b] > 0
        assert (X[b][~rows] == 0).all() and (X[b][:, ~columns] == 0).all()
        assert (alpha[b][~rows] == 0).all() and (beta[b][~columns] == 0).all()
        columns &= (c[rows] < torch.inf).any(0)
        if not rows.any() or not columns.any():
            continue
        part = c[rows][:, columns]
        limits = wanted.rows[b][rows], wanted.columns[b][columns]
        want, *_ = oracle.entropic(part, epsilon, *limits, equal=births, rounds=4_000)
        assert_close(X[b][rows][:, columns], want, rtol=0, atol=1e-7)
        back = (-(part + alpha[b][rows][:, None] + beta[b][columns]) / epsilon).exp()
        assert_close(back, X[b][rows][:, columns], rtol=0, atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("size", SIZES)
def test_derivative_is_the_oracles(size: str, epsilon: float) -> None:
    args, (slack, births) = make_problem(size, epsilon=epsilon)
    X, _, _, tight, _, _ = cpu.entropic(*args, slack, births, 1e-11, 1000)
    grad = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    poisoned = grad.masked_fill(X == 0, math.nan)
    Y, a, b = cpu.entropic_centre(X, tight, poisoned, births and not slack)
    for k in range(len(X)):
        want = oracle.derivative(X[k], tight[k].double(), grad[k], births and not slack)
        assert_close(Y[k], want, rtol=0, atol=1e-8)
    left = torch.where(X > 0, grad - a[:, :, None] - b[:, None], 0)
    assert_close(Y, X * left, rtol=0, atol=1e-10)


def test_derivative_keeps_its_digits_close_to_a_permutation() -> None:
    share = 1e-7
    X = torch.tensor([[[1 - share, share], [share, 1 - share]]], dtype=torch.float64)
    G = torch.tensor([[[0.3, 1.0], [0.5, 0.1]]], dtype=torch.float64)
    Y, _, _ = cpu.entropic_centre(X, torch.ones(1, 2, dtype=torch.bool), G, False)
    cycle = share * (1 - share) / 2 * float(G[0, 0, 1] + G[0, 1, 0] - G[0, 0, 0] - G[0, 1, 1])
    assert_close(Y[0], torch.tensor([[-cycle, cycle], [cycle, -cycle]], dtype=torch.float64), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", ["odd", "both dustbins", "births"])
def test_float32(size: str) -> None:
    args, (slack, births) = make_problem(size, epsilon=0.1)
    single = args[0].float(), args[1].float(), *args[2:]
    X, *_ = cpu.entropic(*single, slack, births, 1e-9, 1000)
    exact, *_ = cpu.entropic(args[0].float().double(), args[1].float().double(), *args[2:], slack, births, 1e-9, 1000)
    assert X.dtype == torch.float32
    assert_close(X.double(), exact, rtol=0, atol=1e-7)


def test_derivative_of_the_oracle_is_that_of_its_loop() -> None:
    """The system in (alpha, beta) against autograd through all rounds."""
    C = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    X, _, beta = oracle.entropic(C, 0.2)
    grad = torch.randn(3, 5, dtype=torch.float64)
    (want,) = torch.autograd.grad((X * grad).sum(), C)
    assert (beta > 0).any() and (beta == 0).any()
    got = -oracle.derivative(X.detach(), (beta > 0).double(), grad) / 0.2
    assert_close(got, want, rtol=0, atol=1e-9)
    assert oracle.objective(C, X, 0.2) < oracle.objective(C, torch.eye(3, 5, dtype=torch.float64), 0.2)
