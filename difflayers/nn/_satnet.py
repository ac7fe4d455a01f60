"""SATNet as a module."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from difflayers import functional
from difflayers._checks import check_device_name, check_dtype, check_generator, check_mask, check_size
from difflayers.functional import Relation
from difflayers.functional._satnet import check_options
from difflayers.maxsat import Instance


class _Options(TypedDict):
    """The options of `functional.satnet`."""

    k: int
    max_iter: int
    eps: float
    prox_lam: float
    generator: torch.Generator | None
    start: Tensor | None


class SATNet(nn.Module):
    r"""A layer with a MAXSAT instance whose clauses are learnt. It completes a partly given assignment of n variables.

    For the problem, its gradient, errors and references see `difflayers.functional.satnet`. Train it with the loss
    `difflayers.functional.satnet_loss`. The arguments up to ``weight_normalize``, the parameter ``S`` and
    ``forward(z, is_input)`` are those of the reference implementation (github.com/locuslab/SATNet), whose code and checkpoints
    work unchanged.

    Args:
        n: number of variables.
        m: rank of the clause matrix, its number of columns.
        aux: number of auxiliary variables, never given and never returned.
        max_iter: at most so many sweeps of the solver.
        eps: stop after a sweep that lowers the objective by less than about eps times what the first sweep did. Exactly: see
            `difflayers.functional.satnet`.
        prox_lam: added to the diagonal of the backward system.
        weight_normalize: start S at standard normal numbers times sqrt(0.5 / (n + 1 + aux + m)), else times 1.
        k: dimension of the vectors. Default: `difflayers.functional.default_k` of the rows of S. The reference implementation
            always has 32.
        input_mask: (n,), bool or integer: which variables are given, if they are always the same. The layer can then be called
            with z alone. Not part of the state dict.
        device, dtype: of S. float32 or float64.

    Attributes:
        S: (n + 1 + aux, m), the learnable clause matrix: row 0 is the truth direction, then the variables, then aux.
        fixed: columns that do not learn, (n + 1 + aux, clauses), or None: see `from_clauses`.

    Shapes:
        z (..., n) and is_input (..., n) to (..., n).

    Example:
        >>> import torch
        >>> from difflayers import SATNet
        >>> layer = SATNet(n=3, m=8, aux=5)
        >>> z = torch.tensor([[1.0, 0.0, 0.5]])
        >>> is_input = torch.tensor([[True, True, False]])
        >>> layer(z, is_input).shape
        torch.Size([1, 3])
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid(), SATNet(3, 8, input_mask=is_input[0]))
        >>> model(torch.randn(2, 4)).shape
        torch.Size([2, 3])
    """

    S: nn.Parameter
    input_mask: Tensor | None
    fixed: Tensor | None

    def __init__(
        self,
        n: int,
        m: int,
        aux: int = 0,
        max_iter: int = 40,
        eps: float = 1e-4,
        prox_lam: float = 1e-2,
        weight_normalize: bool = True,
        *,
        k: int | None = None,
        input_mask: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("n", n)
        check_size("m", m)
        check_size("aux", aux, least=0)
        check_options(k, max_iter, eps, prox_lam)
        check_dtype("dtype", dtype)
        check_device_name("device", device)
        self.n, self.m, self.aux = n, m, aux
        self._values: dict[str, Tensor] = {}  # of buffers that define the layer, as long as they are on meta
        self.max_iter, self.eps, self.prox_lam = max_iter, eps, prox_lam
        self.weight_normalize = weight_normalize
        self.k = functional.default_k(n + 1 + aux) if k is None else k
        if input_mask is not None:
            check_mask("input_mask", input_mask)
            if input_mask.shape != (n,):
                raise ValueError(f"input_mask must have shape ({n},); got {tuple(input_mask.shape)}")
            if input_mask.is_meta:
                raise ValueError("input_mask must have values; got a tensor on meta")
            input_mask = input_mask != 0
        self.register_buffer("input_mask", None, persistent=False)
        self.register_buffer("fixed", None)
        self.S = nn.Parameter(torch.empty(n + 1 + aux, m, device=device, dtype=dtype))
        self._define("input_mask", input_mask)
        self.reset_parameters()

    def reset_parameters(self, *, generator: torch.Generator | None = None) -> None:
        """Draw S anew: independent normal numbers, scaled as `weight_normalize` says.

        Args:
            generator: where they are drawn from, on its own device: a CPU generator gives the same S on every device. If
                None: torch's global one of the device of S.
        """
        check_generator("generator", generator)
        where = self.S.device if generator is None else generator.device
        with torch.no_grad():
            self.S.copy_(torch.randn(self.S.shape, generator=generator, dtype=self.S.dtype, device=where))
            if self.weight_normalize:
                self.S.mul_((0.5 / (self.n + 1 + self.aux + self.m)) ** 0.5)

    def _define(self, name: str, values: Tensor | None) -> None:
        """Set a buffer that defines the layer, on the device of S."""
        setattr(self, name, None if values is None else values.to(self.S.device, copy=True))
        if values is not None and self.S.is_meta:
            self._values[name] = values.detach().clone()

    def _apply(self, fn: Any, recurse: bool = True) -> "SATNet":
        """`to`, `to_empty` and the like: the buffers that define the layer keep their values, on meta and back, too."""
        before = {name: getattr(self, name) for name in ("input_mask", "fixed")}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            values = self._values.pop(name, None) if old is None or old.is_meta else old
            if values is not None and new is not None:
                if new.is_meta:
                    self._values[name] = values.detach().cpu()
                else:
                    new.copy_(values)
        return self

    def forward(
        self,
        z: Tensor | tuple[Tensor, Tensor],
        is_input: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Probabilities (..., n): given entries as they came, the others solved for.

        Args:
            z: (..., n) in [0, 1], the dtype of S; or a pair (z, is_input), as `nn.Sequential` passes it on.
            is_input: (..., n), bool or integer, nonzero where z is given. May be left out if `input_mask` was set; if
                both are there, this one counts.
            generator: where the random start is drawn from; torch's global one if None.
            start: (..., n + 1 + aux, k), vectors to start at instead: see `difflayers.functional.satnet`.

        Raises:
            TypeError, ValueError: see `difflayers.functional.satnet`; also if there is no mask at all.
        """
        z, is_input = self._inputs(z, is_input)
        return functional.satnet(self._matrix(), z, is_input, **self._options(generator, start))

    def solve(
        self,
        z: Tensor | tuple[Tensor, Tensor],
        is_input: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> functional.SATNetSolution:
        """The same as a call, and also the vectors and how the solver ended: `functional.solve_satnet`.

        Args:
            z, is_input, generator, start: those of `forward`. ``start=previous.vectors`` solves a problem from the solution
                of a similar one.

        Raises:
            TypeError, ValueError: as `forward`.

        Example:
            >>> import torch
            >>> from difflayers import SATNet
            >>> layer = SATNet(n=3, m=8, aux=5)
            >>> z, is_input = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[True, True, False]])
            >>> found = layer.solve(z, is_input)
            >>> found.value.shape, found.vectors.shape
            (torch.Size([1, 3]), torch.Size([1, 9, 8]))
            >>> bool(layer.solve(1 - z, is_input, start=found.vectors).iterations.item() <= 40)
            True
        """
        z, is_input = self._inputs(z, is_input)
        return functional.solve_satnet(self._matrix(), z, is_input, **self._options(generator, start))

    def _inputs(self, z: Tensor | tuple[Tensor, Tensor], is_input: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and mask, out of the forms in which `forward` takes them."""
        if isinstance(z, tuple | list):
            if is_input is not None or len(z) != 2:
                raise TypeError(
                    "z must be a tensor, or one pair (z, is_input) with no further is_input; "
                    f"got a {type(z).__name__} of {len(z)}" + (" and is_input" if is_input is not None else "")
                )
            z, is_input = z
        if not isinstance(z, Tensor):
            raise TypeError(f"z must be a tensor; got {type(z).__name__}")
        if z.ndim < 1 or z.shape[-1] != self.n:
            raise ValueError(f"z must have shape (..., {self.n}); got {tuple(z.shape)}")
        if is_input is None:
            if self.input_mask is None:
                raise ValueError(
                    "is_input is missing: pass forward(z, is_input), one pair (z, is_input), or set input_mask when "
                    "constructing the layer"
                )
            is_input = self.input_mask.expand(z.shape)
        return z, is_input

    def _options(self, generator: torch.Generator | None, start: Tensor | None) -> _Options:
        return {
            "k": self.k,
            "max_iter": self.max_iter,
            "eps": self.eps,
            "prox_lam": self.prox_lam,
            "generator": generator,
            "start": start,
        }

    @classmethod
    def from_clauses(
        cls,
        clauses: Iterable[Sequence[int]] | Instance,
        n: int | None = None,
        *,
        weights: Sequence[float] | None = None,
        learnable: bool = False,
        m: int = 0,
        aux: int = 0,
        **options: Any,
    ) -> "SATNet":
        r"""A layer made from clauses that you state. They are fixed, or training starts from them.

        Args:
            clauses, n, weights: see `functional.clauses_to_S`.
            learnable: S starts at the clauses and learns. False: they stay; only what `m` adds learns.
            m: further columns, drawn at random as those of a fresh layer: rules to be learnt beside the given ones.
            aux: auxiliary variables. Given clauses do not touch them.
            options: the other arguments of `SATNet`, by name.

        Returns:
            A layer. With ``learnable=False`` and ``m=0`` it has no parameters that require a gradient. Fixed columns are in
            the buffer `fixed` (n + 1 + aux, clauses), the others in the parameter `S`; `from_state_dict` loads both.

        Raises:
            TypeError, ValueError: see `functional.clauses_to_S`.

        Example:
            >>> import torch
            >>> from difflayers import SATNet
            >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3]])     # 1 implies 2, 2 implies 3
            >>> z, is_input = torch.tensor([[1.0, 0.5, 0.5]]), torch.tensor([[True, False, False]])
            >>> layer(z, is_input, generator=torch.Generator().manual_seed(0)).round()
            tensor([[1., 1., 1.]])
        """
        check_size("m", m, least=0)
        given = functional.clauses_to_S(clauses, n, weights=weights, aux=aux, dtype=options.get("dtype"), device="cpu")
        return cls._with_columns(given, learnable, m, aux, options)

    @classmethod
    def from_equations(
        cls,
        A: Tensor,
        b: Tensor,
        *,
        learnable: bool = False,
        m: int = 0,
        aux: int = 0,
        max_iter: int = 1000,
        eps: float = 1e-7,
        **options: Any,
    ) -> "SATNet":
        r"""A layer made from linear equations over its bits, A z = b. They are fixed, or training starts from them.

        Where a rule can be written as an equation, such as "exactly one of these is true", state it like this rather than as
        clauses: the relaxation is far tighter.

        Args:
            A, b: see `functional.equations_to_S`.
            learnable, m, aux, max_iter, eps, options: as for `from_solutions`.

        Returns:
            A layer as `from_clauses` makes it.

        Raises:
            TypeError, ValueError: see `functional.equations_to_S`.

        Example:
            >>> import torch
            >>> from difflayers import SATNet
            >>> A = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
            >>> layer = SATNet.from_equations(A, torch.tensor([1, 1, 1]))       # exactly one of 1, 2; of 3, 4; of 1, 3
            >>> z, is_input = torch.tensor([[1.0, 0.5, 0.5, 0.5]]), torch.tensor([[True, False, False, False]])
            >>> layer(z, is_input, generator=torch.Generator().manual_seed(0)).round()
            tensor([[1., 0., 0., 1.]])
        """
        check_size("m", m, least=0)
        given = functional.equations_to_S(A, b, aux=aux, dtype=options.get("dtype"), device="cpu")
        return cls._with_columns(given, learnable, m, aux, {**options, "max_iter": max_iter, "eps": eps})

    @classmethod
    def from_solutions(
        cls,
        solutions: Tensor,
        *,
        tolerance: float = 1e-6,
        learnable: bool = False,
        m: int = 0,
        aux: int = 0,
        max_iter: int = 1000,
        eps: float = 1e-7,
        **options: Any,
    ) -> "SATNet":
        r"""A layer that knows the linear equations which solutions satisfy: learnt in closed form, in one step.

        Where the rules of a problem are such equations ("exactly one of these is true"), this replaces the training. From
        solved Sudoku boards it finds the rules of Sudoku, all of them and no others. See `functional.solutions_to_S` for what
        it can find and what not, and for how many solutions it needs. Rules that are no equations are missing, and neither the
        objective nor `inference.acceptance_limit` shows that: check answers, or give `inference.search` rules.

        Args:
            solutions, tolerance: see `functional.solutions_to_S`.
            learnable: S starts at the equations and learns. False: they stay; only what `m` adds learns.
            m: further columns, drawn at random as those of a fresh layer: rules to be learnt beside the equations.
            aux: auxiliary variables. The equations do not touch them.
            max_iter, eps: as for `SATNet`. Exact rules need a more accurate solution than learning does: far more sweeps. A
                state dict does not hold them: give them to `from_state_dict` again.
            options: the other arguments of `SATNet`, by name.

        Returns:
            A layer as `from_clauses` makes it: fixed columns are in the buffer `fixed`, the others in the parameter `S`.

        Raises:
            TypeError, ValueError: see `functional.solutions_to_S`.

        Example:
            >>> import torch
            >>> from difflayers import SATNet
            >>> solutions = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]])    # one of the first three is true
            >>> layer = SATNet.from_solutions(solutions)
            >>> z, is_input = torch.tensor([[0.5, 0.0, 0.5, 1.0]]), torch.tensor([[False, True, False, True]])
            >>> layer(z, is_input, generator=torch.Generator().manual_seed(0)).round()
            tensor([[1., 0., 0., 1.]])
        """
        check_size("m", m, least=0)
        given = functional.solutions_to_S(
            solutions, tolerance=tolerance, aux=aux, dtype=options.get("dtype"), device="cpu"
        )
        return cls._with_columns(given, learnable, m, aux, {**options, "max_iter": max_iter, "eps": eps})

    @classmethod
    def _with_columns(cls, given: Tensor, learnable: bool, m: int, aux: int, options: dict[str, Any]) -> "SATNet":
        """A layer whose first columns are given, and m further ones random."""
        layer = cls(given.shape[0] - 1 - aux, max(m, 1), aux, **options)
        added = layer.S.detach()[:, :m]
        if learnable:
            layer.S = nn.Parameter(torch.cat((given.to(added.device), added), 1))
        else:
            layer.S = nn.Parameter(added.clone(), requires_grad=m > 0)
            layer._define("fixed", given)
        layer.m = layer.S.shape[1]
        return layer

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, aux: int = 0, **options: Any) -> "SATNet":
        """A layer with the sizes and values of a state dict, that of a layer made by `from_clauses` included.

        Args:
            state: what `state_dict()` of a SATNet gave: S, and `fixed` if the layer had fixed clauses.
            aux: of the rows of S, how many belong to auxiliary variables: the state dict does not say.
            options: the other arguments of `SATNet`, by name.

        Raises:
            ValueError: the state dict is not of a SATNet.

        Example:
            >>> from difflayers import SATNet
            >>> layer = SATNet.from_clauses([[-1, 2], [-2, 3]])
            >>> SATNet.from_state_dict(layer.state_dict())
            SATNet(n=3, m=0, aux=0, k=8, max_iter=40, eps=0.0001, prox_lam=0.01, 2 fixed clauses)
        """
        if "S" not in state or not set(state) <= {"S", "fixed"}:
            raise ValueError(f"state must be a state dict of a SATNet, S and perhaps fixed; got {sorted(state)}")
        S = state["S"]
        layer = cls(S.shape[0] - 1 - aux, max(S.shape[1], 1), aux, dtype=S.dtype, **options)
        layer.m = S.shape[1]
        layer.S = nn.Parameter(layer.S.detach()[:, : layer.m].clone(), requires_grad=layer.m > 0)
        if "fixed" in state:
            layer._define("fixed", state["fixed"])
        if not layer.S.is_meta:  # there S has no values to load
            layer.load_state_dict(state)
        return layer

    def rules(self, top: int | None = 20, *, names: Sequence[str] | None = None, aux: bool = False) -> list[Relation]:
        """The strongest relations between variables in the clause matrix. These are tendencies, which nothing has checked.

        See `functional.relations`. For rules that are checked against data see `inference.extract_rules`.

        Args:
            top: how many; all if None.
            names: of the n variables; "x1", "x2", ... if None.
            aux: also relations with auxiliary variables.
        """
        return functional.relations(self._matrix(), self.n, top=top, names=names, aux=aux)

    def _matrix(self) -> Tensor:
        """The whole clause matrix: fixed columns, then S."""
        return self.S if self.fixed is None else torch.cat((self.fixed, self.S), 1)

    def extra_repr(self) -> str:
        parts = [f"n={self.n}, m={self.m}, aux={self.aux}, k={self.k}"]
        parts.append(f"max_iter={self.max_iter}, eps={self.eps:g}, prox_lam={self.prox_lam:g}")
        if self.fixed is not None:
            parts.append(f"{self.fixed.shape[1]} fixed clauses")
        if self.input_mask is not None:
            parts.append(f"input_mask={int(self.input_mask.sum())} given")
        return ", ".join(parts)
