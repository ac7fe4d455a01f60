"""The SATNet layer as a plain loop: one sample, one coordinate at a time, to be read beside the paper.

Algorithm and theorem numbers are those of Wang, Donti, Wilder, Kolter, "SATNet: Bridging deep learning and logical
reasoning using a differentiable satisfiability solver", ICML 2019 (arXiv 1905.12149); the mixing method is Wang, Chang,
Kolter, arXiv 1706.00476. This file is never optimised: every kernel is tested against it, in values and gradients.

Where to find what: algorithm 1 is `forward` (relax the inputs, solve the SDP, read off probabilities) and `backward`;
algorithm 2 is `mixing`; algorithm 3 and theorem 1 are `coordinate_descent`, `weight_gradient` and `input_gradient`.

Notation: N = n + 1 + aux rows s_i of S in R^m, unit vectors v_i in R^k, the rows of V. Row 0 is the truth direction,
v_0 = v_T = e_0 (the paper's v_⊤), rows 1..n are the variables, the rest are auxiliary. C = S S'.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from difflayers.satnet.common import LEAST_REFERENCE, MOMENTUM, input_directions


def rounding(norms: Tensor, lengths: Tensor, unit: float) -> float:
    """By how much rounding alone may seem to lower the objective in a sweep: sum_i e_i^2 / max(|g_i|, e_i).

    e_i = unit |s_i| |S|, with unit half the dtype's eps, is about the error of g_i, and v_i moves by e_i / |g_i|.
    norms (N,) = |g_i|, 0 where i is given; lengths (N,) = |s_i|.
    """
    errors = unit * lengths * lengths.norm()
    moved = errors**2 / torch.maximum(norms, errors)
    return float(moved[(norms > 0) & (errors > 0)].sum())


class Solution(NamedTuple):
    """What the forward pass of one sample leaves behind."""

    z: Tensor  # (n,) probabilities
    V: Tensor  # (N, k) unit vectors
    norms: Tensor  # (N,) |g_i| at the last update of coordinate i, 0 where i is given
    sweeps: int
    relative_decrease: float  # of the objective in the last sweep, in units of the reference


def objective(S: Tensor, V: Tensor) -> Tensor:
    """f(V) = sum_ij (s_i . s_j)(v_i . v_j) = |S'V|^2: the SDP's objective, in its low-rank factor V."""
    return (S.T @ V).square().sum()


def free_coordinates(given: Tensor, N: int) -> list[int]:
    """The coordinates to solve for: all but the truth direction and the given variables, in their order."""
    n = len(given)
    return [i for i in range(1, N) if i > n or not given[i - 1]]


def relax_inputs(z: Tensor, given: Tensor, start: Tensor) -> Tensor:
    """Algorithm 1, step 1, relaxing the inputs: the vectors before any sweep, (N, k).

    Given i: v_i = -cos(pi z_i) v_T + sin(pi z_i) r_i, so that arccos(-v_i . v_T) = pi z_i. Free i: the unit start vector.
    """
    V = start.clone()
    V[0] = 0
    V[0, 0] = 1
    r = input_directions(start)
    for i in range(1, len(z) + 1):
        if given[i - 1]:
            V[i] = math.sin(math.pi * z[i - 1]) * r[i]
            V[i, 0] -= math.cos(math.pi * z[i - 1])
    return V


def other_vectors(C: Tensor, i: int, X: Tensor) -> Tensor:
    """sum over j != i of (s_i . s_j) x_j: the only way in which one coordinate feels the others."""
    return C[i] @ X - C[i, i] * X[i]


def mixing(
    S: Tensor,
    z: Tensor,
    given: Tensor,
    start: Tensor,
    *,
    max_iter: int = 40,
    eps: float = 1e-4,
    momentum: float = MOMENTUM,
) -> Solution:
    """Algorithm 2, the forward pass by coordinate descent (the mixing method), for one sample.

    S (N, m); z (n,) in [0, 1]; given (n,) bool; start (N, k), unit rows. The update v_i = -g_i / |g_i| is the exact
    minimiser over v_i and lowers f by |g_i| |v_i_new - v_i_old|^2. Stops after the first sweep that lowers f by less than
    eps times the reference, or after max_iter sweeps. The reference is what the first sweep lowered f by, and at least half
    of its sum_i |g_i|, the scale of f: a start near the solution, from which a sweep gains little, counts as near. A sweep that
    lowers f by no more than `rounding` counts as one that lowers it by nothing, and is the last whatever eps is.

    Not in the paper: `momentum`. A sweep starts from V + momentum (V - V_previous), the free rows extrapolated (each has
    length 1 again once it is updated). A sweep that ends above the last f is taken back, momentum is halved and the next
    sweep is a plain one. momentum = 0 is the paper's algorithm to the letter.
    """
    C, lengths, unit = S @ S.T, S.double().norm(dim=1), torch.finfo(S.dtype).eps / 2
    V = relax_inputs(z, given, start)
    norms = S.new_zeros(len(S))
    free = free_coordinates(given, len(S))
    previous, extrapolated = V.clone(), False
    sweeps, reference, relative, f = 0, 0.0, 0.0, float(objective(S, V))
    while free and sweeps < max_iter:
        decrease = 0.0
        swept_norms = norms.clone()
        for i in free:
            g = other_vectors(C, i, V)
            swept_norms[i] = g.norm()
            if swept_norms[i] > 0:  # a variable that nothing pulls at stays where it is
                v = -g / swept_norms[i]
                decrease += float(swept_norms[i] * (v - V[i]).square().sum())
                V[i] = v
        sweeps += 1
        swept_f = float(objective(S, V))
        if extrapolated:  # the sum above starts at the extrapolated point
            decrease = f - swept_f
        if extrapolated and decrease <= 0:
            V, extrapolated, momentum = previous.clone(), False, momentum / 2
            continue
        norms, f = swept_norms, swept_f
        if sweeps == 1:
            reference = max(decrease, LEAST_REFERENCE * float(norms.sum()))
        if decrease <= rounding(norms.double(), lengths, unit):
            decrease = 0.0
        relative = decrease / reference if reference > 0 else 0.0
        if decrease < eps * reference or decrease == 0:
            break
        extrapolated = momentum > 0
        if extrapolated and sweeps < max_iter:
            V, previous = V + momentum * (V - previous), V
    return Solution(probabilities(V, z, given), V, norms, sweeps, relative)


def probabilities(V: Tensor, z: Tensor, given: Tensor) -> Tensor:
    """Algorithm 1, step 3: z_i = arccos(-v_i . v_T) / pi for free i, written as an arc tangent, accurate at 0 and 1."""
    out = z.clone()
    for i in range(1, len(z) + 1):
        if not given[i - 1]:
            out[i - 1] = torch.atan2(V[i, 1:].norm(), -V[i, 0]) / math.pi
    return out


def output_gradient(V: Tensor, given: Tensor, dz: Tensor) -> Tensor:
    """P_i dv_i for the free outputs, (N, k), from dl/dz_i: the backward pass of `probabilities`.

    dv_i = dz_i / (pi sin(pi z_i)) v_T, and P_i v_T has length sin(pi z_i): the product is dz_i / pi times a unit
    tangent, finite up to z_i = 0 and 1, where the tangent has no direction and that one coordinate contributes 0.
    """
    dV = torch.zeros_like(V)
    for i in range(1, len(dz) + 1):
        sine = V[i, 1:].norm()
        if not given[i - 1] and sine > 0:
            dV[i, 0] = dz[i - 1] / math.pi * sine
            dV[i, 1:] = -dz[i - 1] / math.pi * V[i, 0] * V[i, 1:] / sine
    return dV


def coordinate_descent(
    S: Tensor,
    solution: Solution,
    given: Tensor,
    dz: Tensor,
    *,
    prox_lam: float = 1e-2,
    max_iter: int = 40,
    eps: float = 1e-4,
) -> tuple[Tensor, int]:
    """Algorithm 3, the linear system of the backward pass (theorem 1) by coordinate descent: U (N, k), and its sweeps.

    Solves u_i = -P_i (sum over j != i of (s_i . s_j) u_j + dv_i) / (|g_i| + prox_lam), P_i = I - v_i v_i', over free i:
    the minimiser over tangent U of  q(U) = 1/2 sum_i (|g_i| + prox_lam) |u_i|^2 + 1/2 sum_{i != j} C_ij u_i . u_j
    + sum_i dv_i . u_i.  An update lowers q by 1/2 (|g_i| + prox_lam) |u_i_new - u_i_old|^2. Stops on the same rule as the
    forward pass, applied to q.
    """
    C = S @ S.T
    V, U = solution.V, torch.zeros_like(solution.V)
    dV = output_gradient(V, given, dz)
    free = [i for i in free_coordinates(given, len(S)) if solution.norms[i] + prox_lam > 0]
    sweeps, first = 0, 0.0
    while free and sweeps < max_iter:
        decrease = 0.0
        for i in free:
            step = other_vectors(C, i, U) + dV[i]
            u = -(step - (V[i] @ step) * V[i]) / (solution.norms[i] + prox_lam)
            decrease += float(0.5 * (solution.norms[i] + prox_lam) * (u - U[i]).square().sum())
            U[i] = u
        sweeps += 1
        first = decrease if sweeps == 1 else first
        if decrease <= eps * first:
            break
    return U, sweeps


def input_gradient(S: Tensor, V: Tensor, U: Tensor, z: Tensor, given: Tensor, start: Tensor, dz: Tensor) -> Tensor:
    """dl/dz of the inputs: the given value passes through, and moves v_i = -cos(pi z_i) v_T + sin(pi z_i) r_i."""
    Phi = U.T @ S  # (k, m)
    r = input_directions(start)
    out = torch.zeros_like(z)
    for i in range(1, len(z) + 1):
        if given[i - 1]:
            dv = math.cos(math.pi * z[i - 1]) * r[i]  # (dv_i / dz_i) / pi
            dv[0] += math.sin(math.pi * z[i - 1])
            out[i - 1] = dz[i - 1] + math.pi * dv @ (Phi @ S[i])
    return out


def weight_gradient(S: Tensor, V: Tensor, U: Tensor) -> Tensor:
    """dl/dS = U W + V Phi with W = V'S and Phi = U'S (theorem 1)."""
    return U @ (V.T @ S) + V @ (U.T @ S)


def _samples(z: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(z, *others, strict=True)


def forward(S: Tensor, z: Tensor, given: Tensor, start: Tensor, **options: float) -> list[Solution]:
    """`mixing` for each sample of a batch: z and given (B, n), start (N, k) for all or (B, N, k)."""
    starts = start.expand(len(z), *start.shape[-2:])
    return [mixing(S, *sample, **options) for sample in _samples(z, given, starts)]  # type: ignore[arg-type]


def backward(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, solutions: list[Solution], dz: Tensor, **options: float
) -> tuple[Tensor, Tensor]:
    """dl/dS (N, m), summed over the batch, and dl/dz (B, n), from dl/dz of the outputs (B, n)."""
    dS, rows, starts = torch.zeros_like(S), [], start.expand(len(z), *start.shape[-2:])
    for solution, (zb, gb, sb, db) in zip(solutions, _samples(z, given, starts, dz), strict=True):
        U, _ = coordinate_descent(S, solution, gb, db, **options)  # type: ignore[arg-type]
        dS += weight_gradient(S, solution.V, U)
        rows.append(input_gradient(S, solution.V, U, zb, gb, sb, db))
    return dS, torch.stack(rows) if rows else torch.zeros_like(z)
