"""Finite-domain variables as bits."""

from collections.abc import Callable

import pytest
import torch
from inference_problems import MIXED

from difflayers import Domains


@pytest.mark.parametrize("sizes", [[2], [3], [1], [2, 2, 2], [1, 2, 3, 4, 9], [5, 1, 2]])
def test_values_come_back(sizes: list[int]) -> None:
    domains = Domains(sizes)
    values = torch.stack([torch.randint(size, (50,)) for size in sizes], 1)
    z, is_input = domains.encode(values)
    assert z.shape == (50, domains.bits) and is_input.all()
    assert domains.bits == sum({1: 0, 2: 1}.get(size, size) for size in sizes)
    assert torch.equal(domains.decode(z), values)
    assert torch.equal(domains.decode(z.view(5, 10, domains.bits)), values.view(5, 10, len(sizes)))


def test_bits_of_mixed_variables() -> None:
    z, is_input = MIXED.encode(torch.tensor([1, 2, 0, 7, 3]), torch.tensor([True, True, False, False, True]))
    assert z.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 1]
    assert is_input.tolist() == [True, True, True, True, False, True, True, True, True]
    assert MIXED.encode(torch.zeros(5, dtype=torch.int8), dtype=torch.float64)[0].dtype == torch.float64


def test_literals_are_true_where_the_variable_has_the_value() -> None:
    values = torch.stack([torch.randint(size, (30,)) for size in MIXED.sizes], 1)
    z, _ = MIXED.encode(values)
    for i, size in enumerate(MIXED.sizes):
        for a in range(MIXED.largest):
            literal = int(MIXED.literals[i, a])
            assert (literal != 0) == (a < size and size > 1)
            if literal:
                assert torch.equal((z[:, abs(literal) - 1] == 1) == (literal > 0), values[:, i] == a)


def test_excluded_values() -> None:
    excluded = torch.zeros(5, 4, dtype=torch.bool)
    excluded[0, 0] = excluded[1, 2] = excluded[3, 1] = excluded[4, 0] = True
    given = torch.tensor([False, False, False, False, True])
    z, is_input = MIXED.encode(torch.tensor([0, 0, 0, 0, 2]), given, excluded=excluded)
    assert z.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0]
    assert is_input.tolist() == [True, False, False, True, True, True, True, True, True]
    with pytest.raises(ValueError, match="excluded must be bool of shape"):
        MIXED.encode(torch.tensor([0, 0, 0, 0, 2]), given, excluded=excluded[:2])


def test_probabilities() -> None:
    p = torch.tensor([0.9, 0.2, 0.1, 0.1, 0.5, 0.0, 0.0, 0.0, 0.0])
    found = MIXED.probabilities(p)
    assert found[0].tolist() == pytest.approx([0.1, 0.9, 0, 0])
    assert found[1].tolist() == pytest.approx([0.5, 0.25, 0.25, 0])
    assert found[2].tolist() == [1, 0, 0, 0]
    assert found[4].tolist() == [0.25] * 4
    assert MIXED.decode(p).tolist() == [1, 0, 0, 0, 0]


def test_two_values_for_one_variable() -> None:
    assert MIXED.partial({"a": 1, 4: "3"}.items())[0].tolist() == [1, 0, 0, 0, 3]
    with pytest.raises(ValueError, match="one value for each variable; got '1' and '2' for b"):
        MIXED.partial([("b", 1), ("a", 0), (1, "2")])


ZEROS = torch.zeros(5, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Domains([]), ValueError, "sizes must name at least one variable"),
        (lambda: Domains([2, 0]), ValueError, r"sizes\[1\] must be at least 1; got 0"),
        (lambda: Domains([2, 2.5]), TypeError, r"sizes\[1\] must be an int"),  # type: ignore[list-item]
        (lambda: Domains(3), TypeError, "sizes must be integers"),  # type: ignore[arg-type]
        (lambda: Domains([2, 2], names=["a"]), ValueError, "names must be 2 names"),
        (lambda: Domains([2, 2], names=["a", "a"]), ValueError, "names must be all different; got 'a' twice"),
        (lambda: Domains([2, 2], labels=[["n", "y"], ["n"]]), ValueError, r"labels\[1\] must be 2 names"),
        (lambda: MIXED.encode(ZEROS[:4]), ValueError, r"values must have shape \(..., 5\)"),
        (lambda: MIXED.encode(torch.zeros(5)), TypeError, "values must be of an integer type"),
        (lambda: MIXED.encode([0] * 5), TypeError, "values must be a tensor; got list"),  # type: ignore[arg-type]
        (
            lambda: MIXED.encode(torch.tensor([[0] * 5, [0, 3, 0, 0, 0]])),
            ValueError,
            r"got 3 for b \(variable 1\) at \(1,\), wanted 0 to 2",
        ),
        (lambda: MIXED.encode(torch.tensor([-1, 0, 0, 0, 0])), ValueError, "got -1 for a"),
        (lambda: MIXED.encode(ZEROS, ZEROS[:3] == 0), ValueError, "given must have the shape of values"),
        (lambda: MIXED.decode(torch.zeros(8)), ValueError, r"p must have shape \(..., 9\)"),
        (
            lambda: MIXED.decode(torch.full((9,), torch.nan)),
            ValueError,
            "p must be finite; got 9 entries that are inf or NaN",
        ),
        (lambda: MIXED.partial([("f", 1)]), ValueError, "variable must be 0 to 4 or one of a, b, c, d, e; got 'f'"),
        (lambda: MIXED.partial([("b", 3)]), ValueError, "value of b must be 0 to 2"),
        (lambda: MIXED.describe(0), ValueError, "literal must be 1 to 9"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_words() -> None:
    assert [MIXED.describe(i) for i in (1, -1, 2, -2)] == ["a = 1", "a = 0", "b = 0", "b != 0"]
    assert repr(Domains([9] * 81 + [2])) == "Domains([9] * 81 + [2] * 1)"
    assert len(Domains([4]).clauses()) == 1 + 6 and Domains([2, 1]).clauses() == []
