"""Clauses into the clause matrix of SATNet, vectors into assignments, and learnt matrices into relations to read."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from difflayers._checks import (
    check_device_name,
    check_generator,
    check_names,
    check_same_device,
    check_size,
    check_tensor,
    holds_values,
)
from difflayers.maxsat.instance import Instance
from difflayers.maxsat.relaxation import columns

_MOST_ENTRIES = 2**29
_LARGEST_ENTRY = 1e150  # products of two are finite in float64


def clauses_to_S(
    clauses: Iterable[Sequence[int]] | Instance,
    n: int | None = None,
    *,
    weights: Sequence[float] | np.ndarray | Tensor | None = None,
    aux: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""The clause matrix S whose SDP is the relaxation of a MAXSAT instance: one column for each clause.

    .. math:: s_j = \sqrt{\frac{w_j}{4 |s_j|}}\, (-1, \sigma_{1j}, \dots, \sigma_{nj}, 0, \dots, 0)^\top, \qquad
       \sigma_{ij} \in \{-1, 0, 1\},

    with :math:`|s_j|` the number of literals: :math:`\|S^\top V\|^2 = \sum_j (\dots)` then counts, up to a constant, the weight
    of violated clauses for clauses of one and two literals, and bounds it from below for longer ones (see `maxsat.solve`).

    Args:
        clauses: sequences of signed integers (DIMACS convention: i for variable i, -i for its negation), or an `Instance`.
            Repeated literals count once, tautologies and empty clauses are left out.
        n: number of variables; the largest that occurs if None.
        weights: one for each clause, see `maxsat.Instance.from_clauses`; 1 if None. inf (a hard clause) counts 1 + the sum of
            all others.
        aux: auxiliary rows, all 0.
        dtype, device: of the result, any floating dtype; torch's defaults if None.

    Returns:
        (n + 1 + aux, m), row 0 the truth direction.

    Raises:
        TypeError, ValueError: see `maxsat.Instance.from_clauses`; no clauses, or no variables; more than 2**29 entries, since S
            is dense; weights that dtype cannot hold.

    References:
        Wang, Kolter, "Low-rank semidefinite programming for the MAX2SAT problem", AAAI 2019; SATNet, section 3.1.

    Example:
        >>> from difflayers import functional
        >>> functional.clauses_to_S([[1, -2]])
        tensor([[-0.3536],
                [ 0.3536],
                [-0.3536]])
    """
    if isinstance(clauses, Instance) and not (n is None and weights is None):
        raise ValueError(f"n and weights must be None with an Instance, which has its own; got {n!r} and {weights!r}")
    check_result(aux, dtype, device)
    instance = clauses if isinstance(clauses, Instance) else Instance.from_clauses(clauses, n, weights)
    if instance.n < 1 or len(instance.hard) < 1:
        raise ValueError(
            f"clauses must hold a variable and a clause that can be violated and satisfied; got {instance.n} variables, "
            f"{len(instance.hard)} such clauses"
        )
    shape = (instance.n + 1 + aux, len(instance.hard))
    check_entries("clauses", shape)
    dtype = dtype or torch.get_default_dtype()
    scale, variables = columns(instance, instance.finite_weights())
    rows, cols = variables.nonzero()
    truth, entries = torch.from_numpy(-scale).to(dtype), torch.from_numpy(variables.data).to(dtype)
    if not (truth.isfinite().all() and truth.all()):
        raise ValueError(f"weights must have square roots that {dtype} can hold; got {_range(instance)}")
    S = torch.zeros(shape, dtype=dtype, device="cpu")
    S[0] = truth
    S[torch.from_numpy(rows.astype(np.int64)) + 1, torch.from_numpy(cols.astype(np.int64))] = entries
    return S.to(torch.get_default_device() if device is None else device)


def check_result(aux: int, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """What S is to be like: its auxiliary rows, its dtype and its device."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating one; got {dtype}")
    check_device_name("device", device)
    check_size("aux", aux, least=0)


def check_entries(name: str, shape: tuple[int, int]) -> None:
    """The shape of a dense S, which the argument of that name makes."""
    if math.prod(shape) > _MOST_ENTRIES:
        raise ValueError(f"{name} must make S, which is dense, of at most 2**29 entries; got variables for {shape}")


def _range(instance: Instance) -> str:
    weights = instance.finite_weights()
    return f"{weights.min():g} to {weights.max():g}"


def hyperplane_rounding(
    V: Tensor, S: Tensor, *, rounds: int = 100, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Goemans-Williamson rounding: the best of some random hyperplanes, by the objective itself.

    A hyperplane with normal r gives each row the sign :math:`x_i = \mathrm{sign}(v_i^\top r) \, \mathrm{sign}(v_\top^\top r)`,
    so that the truth direction, row 0, is +1; the objective is :math:`\sum_{ij} (s_i^\top s_j) x_i x_j = \|S^\top x\|^2`.

    Args:
        V: (..., N, k): unit vectors, row 0 the truth direction.
        S: (N, m): the clause matrix.
        rounds: how many hyperplanes, shared by the batch.
        generator: where normals are drawn from; torch's global one if None.

    Returns:
        x (..., N) of -1 and 1 in the dtype of V, +1 for true, and its objective (...).

    Raises:
        TypeError: V or S is not a dense tensor, or their dtypes differ.
        ValueError: shapes that do not fit; rounds below 1; another device; NaN or infinite entries, or an objective that the
            dtype cannot hold.

    Example:
        >>> import torch
        >>> from difflayers import functional
        >>> S = functional.clauses_to_S([[1], [-2]])
        >>> V = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.8, 0.6]])
        >>> functional.hyperplane_rounding(V, S, generator=torch.Generator().manual_seed(0))
        (tensor([ 1.,  1., -1.]), tensor(0.))
    """
    for name, value in (("V", V), ("S", S)):
        check_tensor(name, value, None)
    if V.dtype != S.dtype or not V.dtype.is_floating_point:
        raise TypeError(f"V and S must be of one floating dtype; got {V.dtype} and {S.dtype}")
    check_same_device("S", S, "V", V.device)
    check_generator("generator", generator)
    if V.ndim < 2 or S.ndim != 2 or V.shape[-2] != S.shape[0]:
        raise ValueError(f"V must have shape (..., N, k) and S (N, m); got {tuple(V.shape)} and {tuple(S.shape)}")
    check_size("rounds", rounds)
    V, S = V.detach(), S.detach()
    if holds_values(V) and holds_values(S) and not (V.isfinite().all() and S.isfinite().all()):
        raise ValueError("V and S must be finite; got NaN or inf")
    best = V.new_full(V.shape[:-2], math.inf)
    x = V.new_ones(V.shape[:-1])
    where = V.device if generator is None else generator.device
    for _ in range(rounds):
        normal = torch.randn(V.shape[-1], generator=generator, dtype=V.dtype, device=where)
        side = V @ normal.to(V.device)
        signs = torch.where((side >= 0) == (side[..., :1] >= 0), 1.0, -1.0).to(V.dtype)
        value = (signs @ S).square().sum(-1)
        better = value < best
        best, x = torch.where(better, value, best), torch.where(better[..., None], signs, x)
    if holds_values(best) and best.isinf().any():
        raise ValueError(f"S must be small enough for its objective in {S.dtype}; got entries up to {S.abs().max():g}")
    return x, best


class Relation(NamedTuple):
    """What a clause matrix says of two variables, or of one and the truth."""

    first: str
    second: str
    """"true" where the relation is about `first` alone."""
    kind: str
    """"equal" or "different"; of one variable "true" or "false"."""
    strength: float
    """``2 |s_i . s_j|``: by so much the objective falls as v_i . v_j goes from 0 to where the relation holds."""

    def __str__(self) -> str:
        if self.second == "true":
            return f"{self.first} is {self.kind} ({self.strength:.3g})"
        verb = "equals" if self.kind == "equal" else "differs from"
        return f"{self.first} {verb} {self.second} ({self.strength:.3g})"


def relations(
    S: Tensor, n: int, *, top: int | None = 20, names: Sequence[str] | None = None, aux: bool = False
) -> list[Relation]:
    """The strongest relations between variables in a clause matrix, given or learnt: the largest products s_i . s_j, by size.

    The objective has the term 2 (s_i . s_j)(v_i . v_j): a negative product pulls the two vectors together (equal), a
    positive one apart (different). With the truth direction, row 0, that is "true" and "false".

    Args:
        S: (n + 1 + aux, m).
        n: number of variables.
        top: how many; all if None.
        names: of the n variables; "x1", "x2", ... if None.
        aux: also relations with auxiliary rows, "aux1", "aux2", ...

    Returns:
        A list of `Relation`, the strongest first; products of exactly 0 are none.

    Raises:
        TypeError: S is not a dense floating tensor; names are not strings.
        ValueError: n or names do not fit S; S has NaN, infinite or huge entries.

    Example:
        >>> from difflayers import functional
        >>> S = functional.clauses_to_S([[1, 2], [-1, -2], [3]])
        >>> [str(relation) for relation in functional.relations(S, 3, names=["rain", "sun", "earth"])]
        ['earth is true (0.5)', 'rain differs from sun (0.5)']
    """
    check_size("n", n)
    check_tensor("S", S, None, values=True)
    if not S.dtype.is_floating_point:
        raise TypeError(f"S must be of a floating dtype; got {S.dtype}")
    if S.ndim != 2 or S.shape[0] < n + 1:
        raise ValueError(f"S must have shape (n + 1 + aux, m) with n = {n}; got {tuple(S.shape)}")
    if not (S.detach().double().abs() <= _LARGEST_ENTRY).all():
        raise ValueError(f"S must have entries of at most {_LARGEST_ENTRY:g} in size; got NaN, inf or larger ones")
    check_names("names", names, n)
    if top is not None:
        check_size("top", top)
    labels = ["true", *(names if names is not None else [f"x{i}" for i in range(1, n + 1)])]
    labels += [f"aux{i}" for i in range(1, S.shape[0] - n)]
    rows = S.shape[0] if aux else n + 1
    C = (S[:rows].detach().double() @ S[:rows].detach().double().T).cpu()
    i, j = torch.triu_indices(rows, rows, 1)
    values = C[i, j]
    # Rounding leaves traces of products that are 0.
    noise = max(1e-12, 8 * torch.finfo(S.dtype).eps)
    order = values.abs().argsort(descending=True, stable=True)
    order = order[values[order].abs() > noise * C.diagonal().amax()]
    found = []
    for a, b, value in zip(i[order[:top]].tolist(), j[order[:top]].tolist(), values[order[:top]].tolist(), strict=True):
        if a == 0:
            found.append(Relation(labels[b], "true", "false" if value > 0 else "true", 2 * abs(value)))
        else:
            found.append(Relation(labels[a], labels[b], "different" if value > 0 else "equal", 2 * abs(value)))
    return found
