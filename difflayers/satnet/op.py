"""The SATNet operators as torch sees them: schemas, fake tensors, vmap rules, and the differentiation rule.

The `autograd.Function` stands outside the operators, with `setup_context` and a generated vmap rule: that passes
gradcheck, opcheck, torch.compile, torch.export, vmap and torch.func alike.

Shapes: S (N, m), z and given (B, n), start (N, k) for all samples or (B, N, k), V, U and pull (B, N, k), norms (B, N), sweeps
and decreases (B,).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

from difflayers._ops import define, fold, library, unfold
from difflayers.satnet import cpu, cuda
from difflayers.satnet.common import input_directions, scaling


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
    S: Tensor, V: Tensor, norms: Tensor, given: Tensor, pull: Tensor, prox_lam: float, max_iter: int, eps: float
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
    "satnet_adjoint(Tensor S, Tensor V, Tensor norms, Tensor given, Tensor pull, float prox_lam, int max_iter, float eps)"
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


class _VectorsReverse(torch.autograd.Function):
    """(S, z, ...) -> (out, V, norms, sweeps, decreases). V alone has a derivative: the implicit function."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        S: Tensor, z: Tensor, given: Tensor, start: Tensor, prox_lam: float, max_iter: int, eps: float
    ) -> tuple[Tensor, ...]:
        out, V, norms, sweeps, decreases = _mixing(S, z, given, start, max_iter, eps)
        # Floating point all, and none marked as not differentiable: under vmap torch.func gives each a tangent.
        return out, V, norms, sweeps.double(), decreases

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        S, z, given, start, *ctx.options = inputs
        _, V, norms, _, _ = output
        ctx.save_for_backward(S, z, given, start, V, norms)
        ctx.save_for_forward(S, z, given, start, V, norms)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (S, z, given, start, V, norms), pull = ctx.saved_tensors, grads[1]
        with torch.autocast("cuda" if S.is_cuda else "cpu", enabled=False):
            U = _apply(_SolveReverse, _Solve, S, V, norms, given, pull, *ctx.options)
            scale = scaling(S.detach())  # U is that of S / scale
            scaled = S / scale
            dS = weight_gradient(scaled, V, U) / scale if ctx.needs_input_grad[0] else None
            dz = input_gradient(scaled, U, pull, z, given, start) if ctx.needs_input_grad[1] else None
        return dS, dz, None, None, None, None, None


class _Vectors(_VectorsReverse):
    """The same with forward mode: dV of the free rows solves the linear system, those of the given ones move with z."""

    @staticmethod
    def jvp(ctx: Any, dS: Tensor | None, dz: Tensor | None, *unused: Any) -> tuple[Any, ...]:
        _refuse_nested_forward_mode()
        S, z, given, start, V, norms = ctx.saved_tensors
        scale = scaling(S.detach())
        scaled, pull, fixed = S / scale, torch.zeros_like(V), torch.zeros_like(V)
        if dS is not None:
            pull = _gram_change(scaled, dS / scale, V)
        if dz is not None:
            n = z.shape[1]
            along, across = (torch.where(given, math.pi * dz * x, 0).unsqueeze(-1) for x in _sine_and_cosine(z))
            moved = across * input_directions(start)[..., 1 : n + 1, :]
            moved = torch.cat((moved[..., :1] + along, moved[..., 1:]), -1)
            fixed = torch.nn.functional.pad(moved, (0, 0, 1, V.shape[1] - 1 - n))
            pull = pull + gram_product(scaled, fixed)
        dV = fixed + _apply(_SolveReverse, _Solve, S, V, norms, given, pull, *ctx.options)
        zeros = torch.zeros_like(z[:, :1].sum(1), dtype=torch.float64)
        return torch.zeros_like(z), dV, torch.zeros_like(norms), zeros, zeros.clone()


class _SolveReverse(torch.autograd.Function):
    """The linear system of all derivatives: U = -(D + P C_off P)^-1 P R over the free rows, for any R (B, N, k).

    D_i = |g_i| + prox_lam and P_i = I - v_i v_i', of S divided by its scaling. |g_i| counts as the function of S and V that
    it is, so that U can be differentiated in S, V and R, as often as one likes: each derivative is this system again.
    With mu_i = v_i . (C U + R)_i, the system says P_i ((D U + C_off U + R)_i - mu_i v_i) = 0 and v_i . u_i = 0, whose
    derivatives are those below.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        S: Tensor,
        V: Tensor,
        norms: Tensor,
        given: Tensor,
        R: Tensor,
        prox_lam: float,
        max_iter: int,
        eps: float,
    ) -> Tensor:
        return _adjoint(S, V, norms, given, R, prox_lam, max_iter, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        S, V, norms, given, R, *ctx.options = inputs
        ctx.save_for_backward(S, V, norms, given, R, output)
        ctx.save_for_forward(S, V, norms, given, R, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        S, V, norms, given, R, U = ctx.saved_tensors
        scale = scaling(S.detach())
        scaled = S / scale
        Y = _apply(_SolveReverse, _Solve, S, V, norms, given, grad, *ctx.options)
        mu, nu = _dot(V, gram_product(scaled, U) + R), _dot(V, gram_product(scaled, Y) + grad)
        moved = _dot(Y, U) * V
        dV = -nu * U - mu * Y - gram_product(scaled, moved)
        dS = (weight_gradient(scaled, U, Y) - weight_gradient(scaled, moved, V)) / scale
        return dS, dV, None, None, Y, None, None, None


class _Solve(_SolveReverse):
    """The same with forward mode."""

    @staticmethod
    def jvp(ctx: Any, dS: Tensor | None, dV: Tensor | None, *others: Any) -> Tensor:
        (S, V, norms, given, R, U), dR = ctx.saved_tensors, others[2]
        scale = scaling(S.detach())
        scaled = S / scale
        pull, change, turned = torch.zeros_like(V), torch.zeros_like(V), torch.zeros_like(V)
        if dR is not None:
            pull = pull + dR
        if dS is not None:
            pull = pull + _gram_change(scaled, dS / scale, U)
            change = change + _gram_change(scaled, dS / scale, V)
        if dV is not None:
            turned = _dot(dV, U) * V
            pull = pull - _dot(V, gram_product(scaled, U) + R) * dV - gram_product(scaled, turned)
            change = change + gram_product(scaled, dV)
        pull = pull - _dot(V, change) * U  # |g_i| changes by -v_i . change_i
        return _apply(_SolveReverse, _Solve, S, V, norms, given, pull, *ctx.options) - turned


class _ProbabilitiesReverse(torch.autograd.Function):
    """arccos(-v_i . v_T) / pi of the free variables and z of the given ones; `out` has their values already."""

    generate_vmap_rule = True

    @staticmethod
    def forward(V: Tensor, z: Tensor, given: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        V, _, given, _ = inputs
        ctx.save_for_backward(V, given)
        ctx.save_for_forward(V, given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        V, given = ctx.saved_tensors
        return output_gradient(V, given, grad), torch.where(given, grad, 0), None, None


class _Probabilities(_ProbabilitiesReverse):
    """The same with forward mode."""

    @staticmethod
    def jvp(ctx: Any, dV: Tensor | None, dz: Tensor | None, *unused: Any) -> Tensor:
        V, given = ctx.saved_tensors
        free = torch.zeros_like(V[:, 1 : given.shape[1] + 1, 0])
        if dV is not None:
            dV = dV[:, 1 : given.shape[1] + 1]
            sine, cosine, across = _off_axis(V, given.shape[1])
            free = (sine * dV[..., 0] - cosine * (across * dV[..., 1:]).sum(-1)) / math.pi
        return torch.where(given, 0 if dz is None else dz, free)


def _apply(reverse: type[torch.autograd.Function], both: type[torch.autograd.Function], *args: Any) -> Any:
    """both.apply; under torch.compile, which takes no function that has a forward mode, reverse.apply."""
    if torch.compiler.is_compiling():
        return reverse.apply(*args)
    return both.apply(*args)


def _refuse_nested_forward_mode() -> None:
    """torch runs a function's own forward mode with forward mode off, so that a second level would see no tangents."""
    if sum(level.key() == TransformType.Jvp for level in retrieve_all_functorch_interpreters()) > 1:
        raise NotImplementedError(
            "SATNet has no forward mode over forward mode: torch gives an autograd.Function none. Use jacfwd(jacrev(f)) or "
            "jacrev(jacfwd(f)) for second derivatives."
        )


def vectors(
    S: Tensor, z: Tensor, given: Tensor, start: Tensor, prox_lam: float, max_iter: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, V, sweeps, decreases) of a batch, differentiable in V alone: give `out` to `probabilities`."""
    out, V, _, sweeps, decreases = _apply(_VectorsReverse, _Vectors, S, z, given, start, prox_lam, max_iter, eps)
    return out.detach(), V, sweeps.detach().long(), decreases.detach()


def probabilities(V: Tensor, z: Tensor, given: Tensor, out: Tensor) -> Tensor:
    """(B, n), differentiable: `out`, as a function of V and z."""
    result: Tensor = _apply(_ProbabilitiesReverse, _Probabilities, V, z, given, out)
    return result


def _off_axis(V: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the variables' vectors: the length of what is orthogonal to v_T (sin pi z), v_i . v_T, and that direction or 0."""
    rows = V[:, 1 : n + 1]
    sine = torch.linalg.vector_norm(rows[..., 1:], dim=-1)
    off = sine > 0
    return sine, rows[..., 0], rows[..., 1:] * torch.where(off, 1 / torch.where(off, sine, 1), 0).unsqueeze(-1)


def output_gradient(V: Tensor, given: Tensor, grad: Tensor) -> Tensor:
    """P_i dv_i for the free outputs, (B, N, k), from dl/dout (B, n): dz_i / pi times the unit tangent towards v_T, or 0."""
    n = given.shape[1]
    sine, cosine, across = _off_axis(V, n)
    # 1 / pi as a literal: dynamo keeps math.pi for the backward pass that it traced first, and fails in this one
    pull = torch.where(given, 0, grad) * 0.3183098861837907
    rows = torch.cat(((pull * sine).unsqueeze(-1), -(pull * cosine).unsqueeze(-1) * across), -1)
    return torch.nn.functional.pad(rows, (0, 0, 1, V.shape[1] - 1 - n))


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


def input_gradient(S: Tensor, U: Tensor, pull: Tensor, z: Tensor, given: Tensor, start: Tensor) -> Tensor:
    """pi (sin(pi z_i) v_T + cos(pi z_i) r_i) . (dl/dv_i + sum_j (s_i . s_j) u_j) for given i, 0 for free i."""
    n = z.shape[1]
    starts = start[..., 1 : n + 1, :].expand(len(U), n, start.shape[-1])
    pulls = []
    for u, p, r in zip(_chunks(U), _chunks(pull), _chunks(starts), strict=True):
        total = p[:, 1 : n + 1] + S[1 : n + 1] @ (S.T @ u)  # (b, n, k)
        pulls.append(torch.stack((total[..., 0], (total * input_directions(r)).sum(-1))))
    along, across = torch.cat(pulls, 1) if pulls else z.new_zeros(2, 0, n)
    sine, cosine = _sine_and_cosine(z)
    return torch.where(given, math.pi * (sine * along + cosine * across), 0)


def _sine_and_cosine(z: Tensor) -> tuple[Tensor, Tensor]:
    """Of pi z, exact at 0, 1/2 and 1; z a rounding error outside counts as 0 or 1."""
    return torch.sin(math.pi * torch.minimum(z, 1 - z).clamp(min=0)), torch.sin(math.pi * (0.5 - z.clamp(0, 1)))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """x_i . y_i, with a dimension of size 1 left for the vectors."""
    return (x * y).sum(-1, keepdim=True)


def gram_product(S: Tensor, x: Tensor) -> Tensor:
    """S S'x for each sample."""
    return S @ (S.T @ x)


def _gram_change(S: Tensor, dS: Tensor, x: Tensor) -> Tensor:
    """(dS S' + S dS') x for each sample."""
    return dS @ (S.T @ x) + S @ (dS.T @ x)


def _chunks(x: Tensor) -> Sequence[Tensor]:
    """Slices of a batch of about 16 MB, so that temporary copies do not grow with it."""
    if x.shape[0] == 0:
        return []
    return x.split(max(1, 2**22 // max(1, x.shape[1] * x.shape[2])))
