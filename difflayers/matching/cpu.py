"""Matching on CPU: what is checked of a batch, and the memory of its results, around the kernels."""

import numpy as np
import torch
from torch import Tensor

from difflayers._backends import run_threads
from difflayers.matching import kernels, newton


def dmm(
    cost: Tensor,
    templates: Tensor,
    n_grad: int,
    n_proj: int,
    step_size: float,
    average: bool,
    slack: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """`op.dmm`: the unrolled solver for a batch."""
    cost, templates = cost.detach().contiguous(), templates.contiguous()
    check_problems("cost", cost, templates, slack)
    check_range(cost, step_size)
    X = torch.empty_like(cost)
    bits = torch.empty(bits_shape(cost.shape, n_grad * n_proj if keep else 0), dtype=torch.uint8)
    operations = 4.0 * n_grad * n_proj * cost.numel()
    inputs = [cost.numpy(), n_grad, n_proj, step_size, average, slack]
    run_threads(kernels.dmm, inputs, [X.numpy(), bits.numpy()], operations)
    return X, bits


def bits_shape(shape: torch.Size, rounds: int) -> tuple[int, int, int]:
    """(B, rounds, bytes) for costs (B, n, m): n rows of bits of t, and one of q."""
    B, n, m = shape
    return B, rounds, (n + 1) * ((m + kernels.LANES - 1) // kernels.LANES)


def dmm_adjoint(
    cost: Tensor, bits: Tensor, grad: Tensor, n_grad: int, n_proj: int, step_size: float, average: bool, slack: bool
) -> Tensor:
    """`op.dmm_adjoint`: the gradient of the unrolled solver for a batch."""
    cost, bits, grad = (t.detach().contiguous() for t in (cost, bits, grad))
    out = torch.empty_like(cost)
    inputs = [cost.numpy(), bits.numpy(), grad.numpy(), n_grad, n_proj, step_size, average, slack]
    run_threads(kernels.dmm_adjoint, inputs, [out.numpy()], 4.0 * n_grad * n_proj * cost.numel())
    return out


def projection(
    A: Tensor, templates: Tensor, slack: bool, tolerance: float, max_iter: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`op.projection`: the Euclidean projection of a batch onto the assignment polytope."""
    A, templates = A.detach().contiguous(), templates.contiguous()
    check_problems(name, -A, templates, slack)
    (B, _, m), X = A.shape, torch.empty_like(A)
    beta, residuals = torch.empty(B, m, dtype=torch.float64), torch.empty(B, dtype=torch.float64)
    steps = torch.empty(B, dtype=torch.int64)
    inputs = [A.numpy(), templates.numpy(), slack, tolerance, max_iter]
    run_threads(newton.projection, inputs, [t.numpy() for t in (X, beta, steps, residuals)], 300.0 * A.numel())
    return X, beta, steps, residuals


def projection_adjoint(X: Tensor, beta: Tensor, grad: Tensor) -> Tensor:
    """`op.projection_adjoint`: the projection's generalised Jacobian times grad."""
    X, beta, grad = (t.detach().contiguous() for t in (X, beta, grad))
    out = torch.empty_like(grad)
    run_threads(newton.projection_adjoint, [X.numpy(), beta.numpy(), grad.numpy()], [out.numpy()], 60.0 * X.numel())
    return out


def check_range(cost: Tensor, step_size: float) -> None:
    """Steps must not overflow."""
    limit = torch.finfo(cost.dtype).max / max(1.0, 4 * step_size)
    if bool(((cost.abs() > limit) & (cost < torch.inf)).any()):
        raise ValueError(
            f"step_size * cost must be representable in {cost.dtype}; got step_size {step_size} and finite costs beyond "
            f"{limit:.3g}: scale the cost"
        )


def check_values(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """Costs must be finite or +inf, those in the column of `slack` finite."""
    whole = cost.detach().numpy()
    values = whole[:, :, :-1] if slack else whole
    if not (values > -np.inf).all():  # false for NaN, too
        where = tuple(int(i) for i in np.argwhere(~(values > -np.inf))[0])
        got = "NaN" if np.isnan(values[where]) else "inf of the wrong sign"
        raise ValueError(
            f"{name} must be finite, or inf where a pair is forbidden (of a cost +inf, of a score -inf); got {got} at "
            f"{where} of the flattened batch (problem, template, proposal)"
        )
    if slack:
        own = whole[:, :, -1][templates.numpy()]
        if not np.isfinite(own).all():
            raise ValueError(f"unmatched_cost must be finite; got {own[~np.isfinite(own)][0]}")


def check_problems(name: str, cost: Tensor, templates: Tensor, slack: bool) -> None:
    """Costs must be as above, and leave each template a proposal of its own (or the column of `slack`)."""
    check_values(name, cost, templates, slack)
    if slack:
        return
    wanted, allowed = templates.numpy(), cost.detach().numpy() < np.inf
    choices, count = allowed.sum(2), wanted.sum(1)
    unclear = ((choices < count[:, None]) & wanted).any(1)  # elsewhere any order of choosing leaves something
    for b in np.flatnonzero(unclear):
        lost = int(count[b]) - _largest_matching(allowed[b][wanted[b]])
        if lost > 0:
            raise ValueError(
                f"{name} leaves {lost} of the {int(count[b])} templates of problem {b} of the flattened batch without a "
                f"proposal of their own ({int(allowed[b][wanted[b]].any(0).sum())} proposals are allowed for any of them): "
                "allow more pairs, or set unmatched_cost, which lets a template stay unmatched at that cost"
            )


def _largest_matching(allowed: np.ndarray) -> int:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if allowed.size == 0:
        return 0
    return int((maximum_bipartite_matching(csr_array(allowed), perm_type="column") >= 0).sum())
