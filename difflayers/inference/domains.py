"""Finite-domain variables as bits, which is what a SATNet layer completes."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from difflayers._checks import check_dtype, check_same_device, check_size, check_tensor


class Domains:
    """Variables with finitely many values (categories), and how they are written as bits.

    Variable i takes the values 0 to ``sizes[i] - 1``. A variable with two values takes one bit, which is the value. A variable
    with s > 2 values takes s bits, one-hot. A variable with a single value takes none. The bits of the variables follow each
    other in order.

    Args:
        sizes: how many values each variable has, 1 or more.
        names: one for each variable, all different, for messages and rules. "x1", "x2", ... if None.
        labels: for each variable the names of its values, all different. "0", "1", ... if None.

    Attributes:
        sizes: the sizes, as a tuple.
        largest: the largest of them.
        bits: how many bits there are: the n of the layer.
        names, labels: as given, or as they are by default.
        literals: (v, largest), int64: the signed number of the bit (as in DIMACS, from 1) that is true if and only if the
            variable has that value. A variable of two values has -b and b. 0 where there is no such value, or only one.

    Raises:
        TypeError, ValueError: a size is no integer or below 1; no variables; names or labels that do not fit or occur twice.

    Example:
        >>> import torch
        >>> from difflayers import Domains
        >>> domains = Domains([2, 3], names=["rain", "season"], labels=[["no", "yes"], ["spring", "summer", "winter"]])
        >>> domains.bits
        4
        >>> z, is_input = domains.encode(torch.tensor([1, 2]), torch.tensor([False, True]))
        >>> z, is_input
        (tensor([0., 0., 0., 1.]), tensor([False,  True,  True,  True]))
        >>> domains.decode(torch.tensor([0.9, 0.1, 0.2, 0.6]))
        tensor([1, 2])
        >>> domains.describe(int(domains.literals[1, 2]))
        'season = winter'
    """

    sizes: tuple[int, ...]
    largest: int
    bits: int
    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    literals: Tensor

    def __init__(
        self,
        sizes: Iterable[int],
        *,
        names: Sequence[str] | None = None,
        labels: Sequence[Sequence[str]] | None = None,
    ) -> None:
        if isinstance(sizes, int) or not isinstance(sizes, Iterable):
            raise TypeError(f"sizes must be integers, one for each variable; got {type(sizes).__name__}")
        if isinstance(sizes, Tensor) and sizes.ndim != 1:
            raise ValueError(f"sizes must have one dimension; got {sizes.ndim}")
        sizes = sizes.tolist() if isinstance(sizes, Tensor) else list(sizes)
        for i, size in enumerate(sizes):
            check_size(f"sizes[{i}]", size)
        if not sizes:
            raise ValueError("sizes must name at least one variable; got none")
        self.sizes, self.largest = tuple(sizes), max(sizes)
        if labels is not None and (isinstance(labels, str) or not isinstance(labels, Sequence)):
            raise TypeError(f"labels must be a sequence, one for each variable; got {type(labels).__name__}")
        self.names = self._checked("names", names, [f"x{i}" for i in range(1, len(sizes) + 1)])
        if labels is not None and len(labels) != len(sizes):
            raise ValueError(f"labels must be for {len(sizes)} variables; got {len(labels)}")
        self.labels = tuple(
            self._checked(f"labels[{i}]", None if labels is None else labels[i], [str(a) for a in range(size)])
            for i, size in enumerate(sizes)
        )
        self.literals = torch.zeros(len(sizes), self.largest, dtype=torch.int64)
        owners: list[tuple[int, int]] = []  # for each bit its variable, and the value of which it is the literal
        for i, size in enumerate(sizes):
            if size == 2:
                owners.append((i, 1))
                self.literals[i, :2] = torch.tensor([-len(owners), len(owners)])
            elif size > 2:
                self.literals[i, :size] = torch.arange(1, size + 1) + len(owners)
                owners += [(i, a) for a in range(size)]
        self.bits = len(owners)
        self._owner, self._value = torch.tensor(owners, dtype=torch.int64).reshape(-1, 2).T.contiguous()
        self._sizes = torch.tensor(sizes)
        # Where the probability of each value stands in (p, 1 - p, 1, -1): the last two for the only value and for no value.
        n, number = self.bits, self.literals.abs()
        self._source = torch.where(
            self.literals > 0, number - 1, torch.where(self.literals < 0, n + number - 1, 2 * n + 1)
        )
        self._source[self._sizes == 1, 0] = 2 * n

    @staticmethod
    def _checked(argument: str, given: Sequence[str] | None, default: list[str]) -> tuple[str, ...]:
        if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise TypeError(f"{argument} must be a sequence of {len(default)} names; got {type(given).__name__}")
        names = tuple(default if given is None else map(str, given))
        if len(names) != len(default):
            raise ValueError(f"{argument} must be {len(default)} names; got {given!r}")
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"{argument} must be all different; got {twice!r} twice")
        return names

    def __len__(self) -> int:
        """How many variables there are."""
        return len(self.sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Domains) and (self.sizes, self.names, self.labels) == (
            other.sizes,
            other.names,
            other.labels,
        )

    def __hash__(self) -> int:
        return hash((self.sizes, self.names, self.labels))

    def __repr__(self) -> str:
        runs: list[list[int]] = []
        for size in self.sizes:
            if runs and runs[-1][0] == size:
                runs[-1][1] += 1
            else:
                runs.append([size, 1])
        sizes = " + ".join(f"[{size}] * {count}" for size, count in runs[:6]) + (" + ..." if len(runs) > 6 else "")
        return f"Domains({sizes})"

    def check(self, values: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values that are in their domains, as int64, and a mask of the same shape.

        Args:
            values: (..., v), integers.
            given: (..., v), bool or integer, nonzero where the value is known; all if None. Where it is not, `values` may hold
                anything. Its shape may also be one that broadcasts to that of `values`, (v,) for instance.

        Returns:
            values, 0 where they are not given, and given as bool, both (..., v).

        Raises:
            TypeError: not tensors of integers.
            ValueError: shapes that do not fit; a value outside its domain, by the variable's name.
        """
        return self._check(values, given)

    def _check(
        self, values: Tensor, given: Tensor | None, names: tuple[str, str] = ("values", "given")
    ) -> tuple[Tensor, Tensor]:
        """`check`, with the names that the caller's arguments have."""
        for name, tensor in zip(names, (values, values if given is None else given), strict=True):
            check_tensor(name, tensor, None, values=True)
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                raise TypeError(f"{name} must be of an integer type; got {tensor.dtype}")
        if values.ndim < 1 or values.shape[-1] != len(self):
            raise ValueError(
                f"{names[0]} must have shape (..., {len(self)}), one for each variable; got {tuple(values.shape)}"
            )
        mask = torch.ones(values.shape, dtype=torch.bool, device=values.device) if given is None else given != 0
        check_same_device(names[1], mask, names[0], values.device)
        try:
            mask = mask.expand(values.shape)
        except RuntimeError:
            raise ValueError(
                f"{names[1]} must have the shape of {names[0]}, {tuple(values.shape)}; got {tuple(mask.shape)}"
            ) from None
        values = torch.where(mask, values.long(), 0)
        wrong = (values < 0) | (values >= self._sizes.to(values.device))
        if wrong.any():
            *where, i = wrong.nonzero()[0].tolist()
            at = f" at {tuple(where)}" if where else ""
            raise ValueError(
                f"{names[0]} must be in their domains; got {int(values[(*where, i)])} for {self.names[i]} (variable {i}){at}, "
                f"wanted 0 to {self.sizes[i] - 1}"
            )
        return values, mask

    def encode(
        self,
        values: Tensor,
        given: Tensor | None = None,
        *,
        excluded: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Values as bits, and which bits are given: what a layer takes.

        Args:
            values, given: see `check`.
            excluded: (..., v, largest), bool: values that a variable is known not to have. It counts where the value is not
                given.
            dtype: of the bits; torch's default if None.

        Returns:
            z (..., bits), 0 where not given, and is_input (..., bits), bool.

        Raises:
            TypeError, ValueError: see `check`; `excluded` of another shape.
        """
        check_dtype("dtype", dtype, (torch.float16, torch.bfloat16, torch.float32, torch.float64))
        values, given = self.check(values, given)
        owner, value = self._owner.to(values.device), self._value.to(values.device)
        z, is_input = given[..., owner] & (values[..., owner] == value), given[..., owner]
        if excluded is not None:
            check_tensor("excluded", excluded, None, values=True)
            if excluded.shape != (*values.shape, self.largest) or excluded.dtype != torch.bool:
                raise ValueError(
                    f"excluded must be bool of shape {(*values.shape, self.largest)}; "
                    f"got {excluded.dtype} of {tuple(excluded.shape)}"
                )
            of_two = (self._sizes.to(values.device) == 2)[owner]
            z = torch.where(is_input | ~of_two, z, excluded[..., owner, 0])
            is_input = is_input | excluded[..., owner, value] | (of_two & excluded[..., owner, 0])
        return z.to(dtype or torch.get_default_dtype()), is_input

    def decode(self, p: Tensor) -> Tensor:
        """The most probable value of each variable, the first of equals: (..., bits) in [0, 1] to (..., v), int64.

        Raises:
            TypeError, ValueError: p is no tensor of floats, of another shape, or NaN.
        """
        return self.marginals(p).argmax(-1)

    def probabilities(self, p: Tensor) -> Tensor:
        """What the bits' probabilities say of the values, normalized: (..., bits) in [0, 1] to (..., v, largest).

        They sum to 1 over a variable's values; there is 0 where it has no such value, and 1 / size where all its bits are 0.

        Raises:
            TypeError, ValueError: see `decode`.
        """
        scores = self.marginals(p)
        there = scores >= 0
        scores = scores.clamp(min=0)
        total = scores.sum(-1, keepdim=True)
        return torch.where(
            total > 0, scores / total.clamp(min=torch.finfo(p.dtype).tiny), there / there.sum(-1, keepdim=True)
        )

    def marginals(self, p: Tensor) -> Tensor:
        """The probability of each value's own bit, not normalized: (..., bits) to (..., v, largest), -1 where there is no
        value.

        Raises:
            TypeError, ValueError: see `decode`.
        """
        check_tensor("p", p, None, values=True)
        if not p.dtype.is_floating_point:
            raise TypeError(f"p must be a tensor of a floating dtype; got {p.dtype}")
        if p.ndim < 1 or p.shape[-1] != self.bits:
            raise ValueError(f"p must have shape (..., {self.bits}), one for each bit; got {tuple(p.shape)}")
        if not p.isfinite().all():
            raise ValueError(f"p must be finite; got {int((~p.isfinite()).sum())} entries that are inf or NaN")
        one = p.new_ones((*p.shape[:-1], 1))
        return torch.cat((p, 1 - p, one, -one), -1)[..., self._source.to(p.device)]

    def partial(self, pairs: Iterable[tuple[int | str, int | str]]) -> tuple[Tensor, Tensor]:
        """A partial assignment from pairs of a variable and its value, by number or by name.

        Args:
            pairs: (variable, value): each an integer from 0, or a name from `names`, `labels`. A dict's ``.items()`` is one.

        Returns:
            values and given, (v,) each: what `encode` and `inference.search` take.

        Raises:
            ValueError: an unknown name or number; two values for one variable.

        Example:
            >>> from difflayers import Domains
            >>> Domains([2, 3], names=["rain", "season"]).partial([("season", 2)])
            (tensor([0, 2]), tensor([False,  True]))
        """
        found: dict[int, int] = {}
        for variable, value in pairs:
            i = self._index("variable", variable, self.names)
            a = self._index(f"value of {self.names[i]}", value, self.labels[i])
            if found.setdefault(i, a) != a:
                raise ValueError(
                    f"pairs must have one value for each variable; got {self.labels[i][found[i]]!r} and "
                    f"{self.labels[i][a]!r} for {self.names[i]}"
                )
        values, given = torch.zeros(len(self), dtype=torch.int64), torch.zeros(len(self), dtype=torch.bool)
        for i, a in found.items():
            values[i], given[i] = a, True
        return values, given

    @staticmethod
    def _index(what: str, item: int | str, names: tuple[str, ...]) -> int:
        if isinstance(item, str) and item in names:
            return names.index(item)
        if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names):
            return item
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(f"{what} must be 0 to {len(names) - 1} or one of {shown}; got {item!r}")

    def clauses(self) -> list[list[int]]:
        """That each variable has exactly one value, as clauses over the bits; those of two values need none."""
        found: list[list[int]] = []
        for i, size in enumerate(self.sizes):
            if size > 2:
                own = self.literals[i, :size].tolist()
                found.append(own)
                found += [[-a, -b] for j, a in enumerate(own) for b in own[j + 1 :]]
        return found

    def describe(self, literal: int) -> str:
        """A literal in words: "season = winter", or "season != winter" for a negated bit of three values or more.

        Raises:
            ValueError: there is no such bit.
        """
        if not 1 <= abs(literal) <= self.bits:
            raise ValueError(f"literal must be 1 to {self.bits} or negated; got {literal}")
        i, a = int(self._owner[abs(literal) - 1]), int(self._value[abs(literal) - 1])
        if literal < 0 and self.sizes[i] == 2:
            return f"{self.names[i]} = {self.labels[i][0]}"
        return f"{self.names[i]} {'=' if literal > 0 else '!='} {self.labels[i][a]}"
