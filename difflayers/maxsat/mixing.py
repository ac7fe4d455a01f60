"""The mixing method on the relaxation of a MAXSAT instance, one sweep at a time, and what its vectors say."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from difflayers.maxsat import kernels
from difflayers.maxsat.relaxation import Relaxation, dual_bound


class Mixing:
    """Vectors V (n, k) of the variables, with v_T = e_0."""

    def __init__(self, relaxation: Relaxation, k: int, draw: np.random.Generator) -> None:
        self.relaxation = relaxation
        # Beyond this size memory counts more than the last digits, which the bound does not need.
        dtype = np.float64 if relaxation.n * k <= 10**7 else np.float32
        pairs, long = relaxation.pairs, relaxation.long
        try:
            self.V = draw.standard_normal((relaxation.n, k), dtype)
            self.V /= np.linalg.norm(self.V, axis=1, keepdims=True)
            self.W = np.ascontiguousarray((long.T @ self.V).astype(dtype))
        except MemoryError as error:
            raise ValueError(f"k must be small enough for memory; {relaxation.n} vectors of k = {k} are not") from error
        self.sweeps, self.first, self.converged = 0, 0.0, relaxation.n == 0
        self._value: tuple[float, np.ndarray] | None = None
        self._arrays = (
            relaxation.truth.astype(dtype),
            pairs.indptr.astype(np.int64),
            pairs.indices.astype(np.int64),
            pairs.data.astype(dtype),
            long.indptr.astype(np.int64),
            long.indices.astype(np.int64),
            long.data.astype(dtype),
            relaxation.long_square.astype(dtype),
        )

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Pieces of a sweep of about a second at most, between which Ctrl-C is heard."""
        cost = max(1, self.relaxation.pairs.nnz + self.relaxation.long.nnz) * self.V.shape[1]
        rows = max(1, int(self.relaxation.n * min(1.0, 5e8 / cost)))
        for first in range(0, self.relaxation.n, rows):
            yield first, min(first + rows, self.relaxation.n)

    def sweep(self, eps: float) -> None:
        """One pass of coordinate descent over all variables."""
        self._value = None
        decrease = sum(kernels.sweep(self.V, self.W, *self._arrays, a, b) for a, b in self._slices())
        self.sweeps += 1
        if self.sweeps == 1:
            self.first = decrease
        self.converged = decrease <= eps * self.first

    def value(self) -> tuple[float, np.ndarray]:
        """The relaxation's value at V, and |g_i| there."""
        if self._value is None:
            norms = np.empty(self.relaxation.n)
            total = kernels.pulls(self.V, self.W, *self._arrays, norms)
            self._value = float(total) + self.along() + self.relaxation.constant, norms
        return self._value

    def along(self) -> float:
        """sum_i C_0i v_i . v_T, the multiplier of the truth row."""
        return float(self.relaxation.truth @ self.V[:, 0].astype(np.float64))

    def bound(self, draw: np.random.Generator, steps: Callable[[int], Iterable[int]] = range) -> float:
        """The dual's, with multipliers at V as it is; it is never above the relaxation's value, and 0 is one anyway."""
        value, norms = self.value()
        return dual_bound(self.relaxation, norms, self.along(), draw, steps) if value > 0 else 0.0

    def probabilities(self) -> np.ndarray:
        """(n,), float64: arccos(-v_i . v_T) / pi."""
        return np.arccos(np.clip(-self.V[:, 0].astype(float), -1, 1)) / math.pi

    def round(self, draw: np.random.Generator) -> np.ndarray:
        """Goemans-Williamson: true where v_i is on the side of v_T of a random hyperplane."""
        normal = draw.standard_normal((self.V.shape[1],), self.V.dtype)
        return np.greater(self.V @ normal, 0) == (float(normal[0]) > 0)
