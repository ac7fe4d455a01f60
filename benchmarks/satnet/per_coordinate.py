"""SATNet as it is usually written: one sample, one coordinate at a time, on W = V'S; numba, samples in parallel.

The algorithm is that of `difflayers.satnet.oracle` without momentum, forward and backward, in the form that the
widely used implementations have: memory-bound vector code. The backward pass takes as many sweeps as the forward pass.
"""

import math

import numpy as np
from numba import njit, prange

_FAST = {"contract", "reassoc", "nsz"}


@njit(fastmath=_FAST)
def _coordinate(row, W, own, square, g):
    """g = W s - |s|^2 own, W (k, m)."""
    for c in range(g.size):
        total = W.dtype.type(0)
        for j in range(row.size):
            total += row[j] * W[c, j]
        g[c] = total - square * own[c]


@njit(fastmath=_FAST)
def _spread(row, change, W):
    for c in range(change.size):
        for j in range(row.size):
            W[c, j] += change[c] * row[j]


@njit(parallel=True, fastmath=_FAST, cache=True)
def forward(S, V, given, max_iter, eps, norms, sweeps):
    """V (B, N, k) comes in as the start, the given rows in place, and leaves as the solution."""
    N, m = S.shape
    k = V.shape[2]
    square = (S * S).sum(1)
    for b in prange(len(V)):
        W = np.zeros((k, m), S.dtype)
        g = np.zeros(k, S.dtype)
        for i in range(N):
            _spread(S[i], V[b, i], W)
        first = 0.0
        for sweep in range(max_iter):
            decrease = 0.0
            for i in range(1, N):
                if not given[b, i]:
                    _coordinate(S[i], W, V[b, i], square[i], g)
                    norm = math.sqrt((g * g).sum())
                    for c in range(k):
                        new = -g[c] / norm
                        g[c] = new - V[b, i, c]
                        V[b, i, c] = new
                    decrease += norm * (g * g).sum()
                    norms[b, i] = norm
                    _spread(S[i], g, W)
            if sweep == 0:
                first = decrease
            sweeps[b] = sweep + 1
            if decrease < eps * first:
                break


@njit(parallel=True, fastmath=_FAST, cache=True)
def backward(S, V, given, norms, pull, prox_lam, sweeps, U):
    """U (B, N, k), 0 on entry, from pull = P dv (B, N, k), by `sweeps` (B,) sweeps of coordinate descent."""
    N, m = S.shape
    k = V.shape[2]
    square = (S * S).sum(1)
    for b in prange(len(V)):
        Phi = np.zeros((k, m), S.dtype)
        g = np.zeros(k, S.dtype)
        for _ in range(sweeps[b]):
            for i in range(1, N):
                if not given[b, i]:
                    _coordinate(S[i], Phi, U[b, i], square[i], g)
                    along = S.dtype.type(0)
                    for c in range(k):
                        g[c] += pull[b, i, c]
                        along += g[c] * V[b, i, c]
                    scale = S.dtype.type(-1 / (norms[b, i] + prox_lam))
                    for c in range(k):
                        new = scale * (g[c] - along * V[b, i, c])
                        g[c] = new - U[b, i, c]
                        U[b, i, c] = new
                    _spread(S[i], g, Phi)
