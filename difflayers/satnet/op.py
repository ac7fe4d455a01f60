"""The SATNet operators as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rule.

The `autograd.Function` stands outside the operators, with `setup_context` and a generated vmap rule: that passes
gradcheck, opcheck, torch.compile, torch.export, vmap and torch.func alike.

Shapes: S (N, m), z and given (B, n), start (N, k) for all samples or (B, N, k), V and U (B, N, k), norms (B, N), sweeps and
decreases (B,).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from difflayers._ops import define, fold, library, unfold
from difflayers.satnet import cpu, cuda
from difflayers.satnet.oracle import input_directions


def _fake_mixing(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, max_iter: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, N, k = z.shape[0], S.shape[0], start.shape[-1]
    sweeps = S.new_empty(B, dtype=torch.int64)
    decreases = S.new_empty(B, dtype=torch.float64)
    return (
        torch.empty_like(z, memory_format=torch.contiguous_format),
        S.new_empty(B, N, k),
        S.new_empty(B, N),
        sweeps,
        decreases,
    )


def _fake_adjoint(
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, grad: Tensor, prox_lam: float, max_iter: int, eps: float
) -> Tensor:
    return V.new_empty(V.shape)


_mixing = define(
    "satnet_mixing(Tensor S, Tensor z, Tensor given, Tensor start, int max_iter, float eps)"
    " -> (Tensor out, Tensor V, Tensor norms, Tensor sweeps, Tensor decreases)",
    cpu.mixing,
    cuda.mixing,
    _fake_mixing,
)
_adjoint = define(
    "satnet_adjoint(Tensor S, Tensor V, Tensor norms, Tensor given, Tensor grad, float prox_lam, int max_iter, float eps)"
    " -> Tensor",
    cpu.adjoint,
    cuda.adjoint,
    _fake_adjoint,
)


def _each(op: Callable[..., Any], size: int, dims: Sequence[int | None], args: Sequence[Any]) -> tuple[Any, Any]:
    """A vmap rule for any operator: one call for each entry of the mapped dimension."""
    rows = [
        op(*(arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, dims, strict=True)))
        for i in range(size)
    ]
    if isinstance(rows[0], Tensor):
        return torch.stack(rows), 0
    stacked = tuple(torch.stack(column) for column in zip(*rows, strict=True))
    return stacked, (0,) * len(stacked)


def _fold_start(start: Tensor, dim: int | None, size: int, z: Tensor) -> Tensor:
    """As `fold`, where one start for all samples stays one if all of the mapped dimension share it."""
    if dim is None and start.ndim == 2:
        return start
    start = start.expand(size, *start.shape) if dim is None else start.movedim(dim, 0)
    if start.ndim == 3:  # one for the samples of each entry
        start = start.unsqueeze(1).expand(-1, z.shape[0] // size if size else 0, -1, -1)
    return start.reshape(-1, *start.shape[2:])


@torch.library.register_vmap("difflayers::satnet_mixing", lib=library)
def _vmap_mixing(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
    S, z, given, start, max_iter, eps = args
    size = info.batch_size
    if in_dims[0] is not None:
        return _each(_mixing, size, in_dims, args)
    z, given, start = fold(z, in_dims[1], size), fold(given, in_dims[2], size), _fold_start(start, in_dims[3], size, z)
    results = _mixing(S, z, given, start, max_iter, eps)
    return tuple(unfold(r, size) for r in results), (0,) * len(results)


@torch.library.register_vmap("difflayers::satnet_adjoint", lib=library)
def _vmap_adjoint(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
    S, *batched, prox_lam, max_iter, eps = args
    size = info.batch_size
    if in_dims[0] is not None:
        return _each(_adjoint, size, in_dims, args)
    folded = [fold(arg, dim, size) for arg, dim in zip(batched, in_dims[1:5], strict=True)]
    U = _adjoint(S, *folded, prox_lam, max_iter, eps)
    return unfold(U, size), 0


class SATNetFunction(torch.autograd.Function):
    """(S, z, given, start, ...) -> (probabilities, V, norms, sweeps, decreases); only the first is differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        S: Tensor, z: Tensor, given: Tensor, start: Tensor, max_iter: int, eps: float, prox_lam: float
    ) -> tuple[Tensor, ...]:
        return _mixing(S, z, given, start, max_iter, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        S, z, given, start, ctx.max_iter, ctx.eps, ctx.prox_lam = inputs
        _, V, norms, sweeps, decreases = output
        ctx.mark_non_differentiable(V, norms, sweeps, decreases)
        ctx.save_for_backward(S, z, given, start, V, norms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        needs_S, needs_z = ctx.needs_input_grad[:2]
        dS, dz = _SATNetAdjoint.apply(*ctx.saved_tensors, grad, ctx.prox_lam, ctx.max_iter, ctx.eps, needs_S, needs_z)
        return dS, dz, None, None, None, None, None


class _SATNetAdjoint(torch.autograd.Function):
    """The backward pass, as a function of its own that refuses to be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        S: Tensor,
        z: Tensor,
        given: Tensor,
        start: Tensor,
        V: Tensor,
        norms: Tensor,
        grad: Tensor,
        prox_lam: float,
        max_iter: int,
        eps: float,
        needs_S: bool,
        needs_z: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        with torch.autocast("cuda" if S.is_cuda else "cpu", enabled=False):
            U = _adjoint(S, V, norms, given, grad, prox_lam, max_iter, eps)
            scale = cpu.scaling(S)  # U is that of S / scale
            S = S / scale
            dS = weight_gradient(S, V, U) / scale if needs_S else None
            dz = input_gradient(S, U, z, given, start, grad) if needs_z else None
        return dS, dz

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "SATNet has no second derivatives: its gradient is itself the solution of a linear system that is not "
            "differentiated. Use create_graph=False, or finite differences of the gradient."
        )


def weight_gradient(S: Tensor, V: Tensor, U: Tensor) -> Tensor:
    """dl/dS = sum over the batch of U V'S + V U'S, by products over the flattened batch: O(N^2) or O(B k m) memory."""
    N, m = S.shape
    dS = torch.zeros_like(S)
    for v, u in zip(_chunks(V), _chunks(U), strict=True):
        if 2 * m >= N:
            M = torch.einsum("bik,bjk->ij", u, v)
            dS = dS + (M + M.T) @ S
        else:
            W, Phi = torch.einsum("bnk,nm->bkm", v, S), torch.einsum("bnk,nm->bkm", u, S)
            dS = dS + torch.einsum("bnk,bkm->nm", u, W) + torch.einsum("bnk,bkm->nm", v, Phi)
    return dS


def input_gradient(S: Tensor, U: Tensor, z: Tensor, given: Tensor, start: Tensor, grad: Tensor) -> Tensor:
    """dl/dz_i = dl/dout_i + pi (sin(pi z_i) v_T + cos(pi z_i) r_i) . sum_j (s_i . s_j) u_j for given i, 0 for free i."""
    n = z.shape[1]
    starts = start[..., 1 : n + 1, :].expand(len(U), n, start.shape[-1])
    sine = torch.sin(math.pi * torch.minimum(z, 1 - z).clamp(min=0))
    cosine = torch.sin(math.pi * (0.5 - z.clamp(0, 1)))
    pulls = []
    for u, s in zip(_chunks(U), _chunks(starts), strict=True):
        r = input_directions(s)
        pull = S[1 : n + 1] @ (S.T @ u)  # (b, n, k)
        pulls.append(torch.stack((pull[..., 0], (pull * r).sum(-1))))
    along, across = torch.cat(pulls, 1) if pulls else z.new_zeros(2, 0, n)
    return torch.where(given, grad + math.pi * (sine * along + cosine * across), 0)


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """Slices of a batch of about 64 MB, so that temporary copies do not grow with it."""
    if x.shape[0] == 0:
        return []
    return x.split(max(1, 2**24 // max(1, x.shape[1] * x.shape[2])))
