"""Random SATNet problems, and references for them that share no code with the package's kernels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from difflayers.satnet import common, cpu, op, oracle


class Problem(NamedTuple):
    """The inputs of the operator, in its order."""

    S: Tensor  # (n + 1 + aux, m)
    z: Tensor  # (B, n)
    given: Tensor  # (B, n), bool
    start: Tensor  # (n + 1 + aux, k), unit rows

    def to(self, dtype: torch.dtype) -> "Problem":
        return Problem(self.S.to(dtype), self.z.to(dtype), self.given, self.start.to(dtype))


def make_problem(
    batch: int,
    n: int,
    m: int,
    aux: int = 0,
    k: int | None = None,
    *,
    share_given: float = 0.4,
    share_exact: float = 0.3,
    truth: float = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Normal S and start; z uniform, of which `share_exact` exactly 0, 1/2 or 1. `k` defaults to the number of rows.

    `truth` multiplies the row of the truth direction. Where there are many more rows than columns, sum s_i v_i' = 0 has
    solutions and the SDP's optimum, 0, is hardly ever unique; a truth row too long to be balanced makes it so.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = n + 1 + aux

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    S = torch.randn(rows, m, generator=generator, dtype=torch.float64) / math.sqrt(m)
    S[0] *= truth
    z = 0.02 + 0.96 * uniform(batch, n)
    exact = torch.randint(3, (batch, n), generator=generator) / 2
    z = torch.where(uniform(batch, n) < share_exact, exact.double(), z)
    given = uniform(batch, n) < share_given
    start = normalize(torch.randn(rows, k or rows, generator=generator, dtype=torch.float64), dim=1)
    return Problem(S, z, given, start).to(dtype)


def kernel_adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, grad: Tensor, prox_lam: float, max_iter: int, eps: float
) -> Tensor:
    """U as the oracle has it. Kernels solve for S / scaling(S): norms come divided by its square, U multiplied by it."""
    pull = op.output_gradient(V, given, grad)
    return cpu.adjoint(S, V, norms, given, pull, prox_lam, max_iter, eps) / common.scaling(S) ** 2


def exact_adjoint(S: Tensor, V: Tensor, norms: Tensor, given: Tensor, dz: Tensor, prox_lam: float) -> Tensor:
    """U (N, k) of one sample, from theorem 1 as one dense linear system, of which the shortest solution is taken.

    (|g_i| + prox_lam) u_i + P_i sum over free j != i of (s_i . s_j) u_j = - P_i dv_i, with P_i = I - v_i v_i'.
    """
    U = torch.zeros_like(V)
    free = oracle.free_coordinates(given, len(V))
    if not free:
        return U
    v, lengths = V[free], norms[free] + prox_lam
    size, k = v.shape
    C = S[free] @ S[free].T
    P = torch.eye(k, dtype=V.dtype) - v[:, :, None] * v[:, None, :]
    blocks = C[:, :, None, None] * P[:, None]
    for a in range(size):
        blocks[a, a] = lengths[a] * torch.eye(k, dtype=V.dtype)
    right = V.new_zeros(size, k)
    for a, i in enumerate(free):
        sine = float(v[a, 1:].norm())
        if i <= len(given) and sine > 0:
            right[a] = -P[a, :, 0] * dz[i - 1] / (math.pi * sine)
    # all of it on the tangent space: the matrix maps tangents to tangents, and leaves out what is normal to them
    tangents = torch.block_diag(*(_tangents(row) for row in v))
    reduced = tangents.T @ blocks.transpose(1, 2).reshape(size * k, size * k) @ tangents
    solved = tangents @ (torch.linalg.pinv(reduced, rtol=1e-9, hermitian=True) @ (tangents.T @ right.reshape(-1)))
    U[free] = solved.reshape(size, k)
    return U


def _tangents(v: Tensor) -> Tensor:
    """An orthonormal basis (k, k - 1) of what is orthogonal to v."""
    return torch.linalg.svd(v[None, :]).Vh[1:].T
