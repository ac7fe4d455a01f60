r"""The SDP relaxation of a MAXSAT instance, sparse, and the lower bound that its dual proves.

A clause of L literals is a column s of S, with entry -1 for the truth direction and +1 or -1 for each literal, times
sqrt(weight / (4 L)). For an assignment (unit vectors +v_T or -v_T), |V s|^2 without the scaling is (L + 1)^2 if no literal is
true, and at most (L - 1)^2 otherwise: so

    (|V s|^2 - (L - 1)^2) / (4 L)

is 1 for a violated clause, and at most 0 for a satisfied one; for L = 1 and 2 it is exactly 0 (Wang and Kolter, "Low-rank
semidefinite programming for the MAX2SAT problem", AAAI 2019). Its sum, minimised over unit vectors, is below the least
weight of violated clauses.

Short clauses are multiplied out, C_ij = sum over clauses of s_i s_j; long ones are kept as they are, with W = S'V.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse

from difflayers.maxsat.instance import Instance

EPS = float(np.finfo(float).eps)
LONG = 12  # literals; longer clauses are not multiplied out
DENSE = 3000  # rows up to which the bound's smallest eigenvalue is computed to the last digit
FAILURE = 1e-9  # probability that Lanczos overestimates it, beyond
LANCZOS_BYTES = 600_000_000  # memory for its vectors: more steps make a tighter bound


class Relaxation(NamedTuple):
    """sum_ij C_ij v_i . v_j + constant, to be minimised over unit vectors v_1 .. v_n, with v_0 = v_T; C has no diagonal."""

    n: int
    truth: np.ndarray
    """(n,): C_0i."""
    pairs: sparse.csr_array
    """(n, n), symmetric: what short clauses add to C_ij."""
    long: sparse.csr_array
    """(n, clauses): the columns of long clauses, truth row left out."""
    long_square: np.ndarray
    """(n,): the diagonal of long long', which C does not have."""
    constant: float
    """What to add for the weight of violated clauses."""
    rounding: float
    """By no more than this the numbers above change the value anywhere, for having been rounded to float64."""


def columns(instance: Instance, weights: np.ndarray) -> tuple[np.ndarray, sparse.csr_array]:
    """S for clauses weighted by `weights` (m,): minus its truth row (m,), and the rows of the variables (n, m)."""
    scale, clause = np.sqrt(weights / (4 * np.diff(instance.offsets))), instance.clause_of
    entries = np.sign(instance.literals) * scale[clause]
    shape = (instance.n, len(weights))
    return scale, sparse.csr_array((entries, (np.abs(instance.literals) - 1, clause)), shape=shape)


def relax(instance: Instance, weights: np.ndarray) -> Relaxation:
    """The relaxation of an instance, its clauses weighted by `weights` (m,), all finite."""
    lengths = np.diff(instance.offsets)
    scale, S = columns(instance, weights)
    most = int(np.bincount(np.abs(instance.literals), minlength=1).max())
    truth = -(S @ scale)
    is_short = lengths <= LONG
    short = S[:, is_short]
    product = sparse.coo_array(short @ short.T)
    off = product.row != product.col
    pairs = sparse.csr_array((product.data[off], (product.row[off], product.col[off])), shape=product.shape)
    pairs.eliminate_zeros()
    pairs.sort_indices()
    long = sparse.csr_array(S[:, ~is_short])
    constant = math.fsum(weights * ((lengths + 1) - (lengths - 1.0) ** 2) / (4 * lengths))
    square = np.asarray(long.multiply(long).sum(1)).reshape(-1)
    # No entry has more summands than a variable has clauses, each rounded a few times; entries count |V s|^2 at most.
    rounding = 4 * (most + 16) * EPS * math.fsum(weights * (lengths + 1.0) ** 2 / (4 * lengths))
    return Relaxation(instance.n, truth, pairs, long, square, constant, rounding)


def dual_bound(
    relaxation: Relaxation,
    norms: np.ndarray,
    along: float,
    generator: np.random.Generator,
    steps: Callable[[int], Iterable[int]] = range,
) -> float:
    """A lower bound on the weight of violated clauses, from multipliers y_i = -|g_i| and y_0 = `along` = sum_i C_0i v_i . v_T.

    For any y and positive d the optimum is at least sum y + sum d min(0, lambda), if D^-1/2 (C - diag(y)) D^-1/2 has no
    eigenvalue below lambda; d is 1, and larger for the truth row, whose entries are many. Up to DENSE rows lambda is
    computed; beyond, it is bounded by Lanczos iterations from a random start, which is wrong with a probability below
    FAILURE (Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13(4), 1992, theorem 4.2). `steps` counts them. All that
    float64 may have rounded off on the way is subtracted.
    """
    entries = np.diff(relaxation.pairs.indptr) + np.diff(relaxation.long.indptr)
    touched = np.flatnonzero((norms > 0) | (relaxation.truth != 0) | (entries > 0))
    pairs, long = relaxation.pairs[touched][:, touched], relaxation.long[touched]
    diagonal = norms[touched] - relaxation.long_square[touched]
    # Gershgorin's bound on the rows of variables, and the truth row scaled to count no more than they do.
    above = float((abs(pairs).sum(1) + abs(long) @ abs(long).sum(0) + diagonal).max(initial=0))
    pull = float(np.linalg.norm(relaxation.truth))
    if pull == 0 and len(touched) == 0:
        return relaxation.constant - relaxation.rounding
    above = max(above, 1e-3 * pull)
    heavy = max(1.0, (pull / above) ** 2)
    truth, first = relaxation.truth[touched] / math.sqrt(heavy), -along / heavy
    size = len(touched) + 1
    if size <= DENSE:
        dense = np.empty((size, size))
        dense[1:, 1:] = pairs.toarray() + (long @ long.T).toarray() + np.diag(diagonal)
        dense[0, 1:] = dense[1:, 0] = truth
        dense[0, 0] = first
        lowest = float(np.linalg.eigvalsh(dense)[0]) - 4 * size * EPS * float(np.abs(dense).sum(1).max())
    else:

        def product(x: np.ndarray) -> np.ndarray:
            rest = pairs @ x[1:] + long @ (long.T @ x[1:]) + diagonal * x[1:] + truth * x[0]
            return np.concatenate(([first * x[0] + truth @ x[1:]], rest))

        highest = max(first, above) + float(np.linalg.norm(truth))
        lowest = _smallest_eigenvalue(product, size, highest, generator, steps)
        lowest -= 4 * size * EPS * (highest + abs(lowest))
    shares = (along, -math.fsum(norms[touched]), (heavy + len(touched)) * min(0.0, lowest), relaxation.constant)
    return math.fsum(shares) - relaxation.rounding - 8 * EPS * sum(map(abs, shares))


def _smallest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    above: float,
    generator: np.random.Generator,
    steps: Callable[[int], Iterable[int]],
) -> float:
    """A number below every eigenvalue, but for a probability FAILURE; `above` is above all of them.

    Lanczos on above - A, positive semidefinite: T steps find its largest eigenvalue to a relative error of epsilon, with
    log(1.648 sqrt(N) / FAILURE) = sqrt(epsilon) (2 T - 1).
    """
    count = min(size - 1, 1000, max(100, LANCZOS_BYTES // (8 * size)))
    basis = np.zeros((count, size))
    diagonal, off = np.zeros(count), np.zeros(count)
    x = generator.standard_normal(size)
    basis[0] = x / np.linalg.norm(x)
    used = count
    for q in steps(count):
        y = above * basis[q] - product(basis[q])
        diagonal[q] = y @ basis[q]
        y -= diagonal[q] * basis[q] + (off[q - 1] * basis[q - 1] if q else 0)
        y -= basis[: q + 1].T @ (basis[: q + 1] @ y)  # orthogonal to all before it, rounding errors too
        off[q] = np.linalg.norm(y)
        if q + 1 == count or off[q] < 1e-12 * above:
            used = q + 1
            break
        basis[q + 1] = y / off[q]
    T = np.diag(diagonal[:used]) + np.diag(off[: used - 1], 1) + np.diag(off[: used - 1], -1)
    largest = float(np.linalg.eigvalsh(T)[-1])
    epsilon = (math.log(1.648 * math.sqrt(size) / FAILURE) / (2 * count - 1)) ** 2
    return above - largest / (1 - min(epsilon, 0.9))
