"""Weights without rounding: whole multiples of a common unit, so that costs, comparisons and proofs are exact."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real

import numpy as np
from torch import Tensor

from difflayers._checks import check_tensor, shown

LARGEST = 2**63
"""Of one weight, as in the files of the MaxSAT evaluations; the smallest is its reciprocal."""
MOST_BITS = 256
"""Of the weights' common denominator."""

Weight = int | float | Fraction
"""A weight that has been checked; the only float that is not finite is inf."""


def listed(weights: object, count: int) -> list[object]:
    """The weights as a list of `count` elements, each still to be checked."""
    if isinstance(weights, Tensor):
        check_tensor("weights", weights, None, values=True)
        items = weights.tolist() if weights.ndim else [weights.item()]
    elif isinstance(weights, np.ndarray):
        items = weights.tolist() if weights.ndim else [weights.item()]
    elif isinstance(weights, str | bytes | Mapping) or not (
        hasattr(weights, "__len__") and hasattr(weights, "__getitem__")
    ):
        raise TypeError(f"weights must be a sequence of numbers; got {type(weights).__name__}")
    else:
        items = list(weights)  # type: ignore[call-overload]
    if len(items) != count:
        raise ValueError(f"weights must be one for each of {count} clauses; got {len(items)}")
    return items


def check_weight(value: object, where: str) -> Weight:
    """A number that is 0, inf, or from 1 / LARGEST to LARGEST, as it is."""
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    number = _number(value)
    if number is None:
        raise TypeError(f"weights must be numbers; got {shown(value)} for {where}")
    if not number >= 0:
        raise ValueError(f"weights must be at least 0; got {shown(value)} for {where}")
    if number not in (0, math.inf) and not Fraction(1, LARGEST) <= number <= LARGEST:
        raise ValueError(f"weights must be 0, inf (hard), or from 2**-63 to 2**63; got {shown(value)} for {where}")
    return number


def _number(value: object) -> Weight | None:
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Rational):
        return Fraction(value)
    if isinstance(value, float | np.floating | Decimal):
        if isinstance(value, float) or not math.isfinite(value):
            return math.nan if value != value else float(value)
        return Fraction(*value.as_integer_ratio())
    return float(value) if isinstance(value, Real) else None


def exact(weights: Sequence[Weight]) -> tuple[np.ndarray, Fraction]:
    """Finite weights as whole multiples of one unit: int64 where their sum is below 2**63, Python's integers beyond."""
    ratios = [(weight, 1) if type(weight) is int else weight.as_integer_ratio() for weight in weights]
    denominator = 1
    for d in {d for _, d in ratios}:
        denominator = math.lcm(denominator, d)
        if denominator.bit_length() > MOST_BITS:
            raise ValueError(f"weights must have a common denominator below 2**{MOST_BITS}; theirs is larger")
    units = [p * (denominator // d) for p, d in ratios]
    return np.array(units, np.int64 if sum(units) < 2**63 else object), Fraction(1, denominator)
