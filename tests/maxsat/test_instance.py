"""Instances from clauses and from files, and what an assignment costs."""

import bz2
import gzip
import lzma
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from maxsat_problems import assignments, naive_cost, random_clauses

from difflayers import maxsat
from difflayers.maxsat import Instance
from difflayers.maxsat.dimacs import COMPRESSED

INF = math.inf


def test_arrays_hold_the_clauses_in_order() -> None:
    instance = Instance.from_clauses([[1, -3], [2], [-1, -2, 3]], weights=[2, INF, 0.5])
    assert instance.n == 3
    assert instance.literals.tolist() == [1, -3, 2, -1, -2, 3] and instance.literals.dtype == np.int64
    assert instance.offsets.tolist() == [0, 2, 3, 6] and instance.offsets.dtype == np.int64
    assert instance.weights.tolist() == [2, INF, 0.5] and instance.weights.dtype == np.float64
    assert instance.hard.tolist() == [False, True, False]
    assert instance.clauses == [[1, -3], [2], [-1, -2, 3]]
    assert (instance.empty_weight, instance.empty_hard, instance.soft_weight) == (0, 0, 2.5)


def test_weights_are_1_where_none_are_given() -> None:
    assert Instance.from_clauses([[1], [2, 3]]).weights.tolist() == [1, 1]


def test_repeated_literals_count_once() -> None:
    assert Instance.from_clauses([[2, 1, 2, 2, 1]]).clauses == [[2, 1]]


@pytest.mark.parametrize("weight", [1.0, INF])
def test_tautologies_are_left_out_but_their_variables_count(weight: float) -> None:
    instance = Instance.from_clauses([[1, 4, -1], [2]], weights=[weight, 3])
    assert instance.clauses == [[2]] and instance.weights.tolist() == [3]
    assert instance.n == 4 and instance.soft_weight == 3
    assert instance.cost([False, True, False, False]) == (0, 0)


def test_empty_clauses_count_in_every_cost() -> None:
    instance = Instance.from_clauses([[], [1], [], [], []], weights=[2, 1, INF, 0.5, INF])
    assert instance.clauses == [[1]]
    assert (instance.empty_weight, instance.empty_hard) == (2.5, 2)
    assert instance.soft_weight == 3.5
    assert instance.cost([True]) == (2.5, 2) and instance.cost([False]) == (3.5, 2)


def test_weight_zero_leaves_a_clause_out() -> None:
    instance = Instance.from_clauses([[1], [-2], []], weights=[0, 1, 0])
    assert instance.clauses == [[-2]] and instance.n == 2 and instance.empty_weight == 0


def test_inf_is_hard() -> None:
    instance = Instance.from_clauses([[1], [-1]], weights=[INF, 1e18])
    assert instance.hard.tolist() == [True, False] and instance.soft_weight == 10**18


def test_n_may_be_above_the_largest_variable() -> None:
    assert Instance.from_clauses([[1, -2]], n=5).n == 5
    assert Instance.from_clauses([[1, -2]], n=2).n == 2
    assert Instance.from_clauses([], n=3).n == 3
    assert Instance.from_clauses([]).n == 0
    assert Instance.from_clauses([[1], [-7, 2]]).n == 7


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_numpy_integers_are_integers(dtype: type) -> None:
    instance = Instance.from_clauses(np.array([[1, 127], [3, 2]], dtype), weights=np.array([2, 3], dtype))
    assert instance.clauses == [[1, 127], [3, 2]] and instance.weights.tolist() == [2, 3]
    assert all(type(literal) is int for clause in instance.clauses for literal in clause)


def test_unsigned_literals_do_not_wrap_into_tautologies() -> None:
    assert Instance.from_clauses([np.array([1, 255], np.uint8)]).clauses == [[1, 255]]
    assert Instance.from_clauses([np.array([-128, 5], np.int8)]).n == 128


def test_clauses_may_be_a_generator_of_tuples() -> None:
    assert Instance.from_clauses((i, -i - 1) for i in (1, 2)).clauses == [[1, -2], [2, -3]]


@pytest.mark.parametrize(
    ("clauses", "options", "error", "message"),
    [
        ([[1], [2, 0]], {}, ValueError, r"clauses: literals must not be 0; got 0 in clause 1"),
        ([[1], [-3]], {"n": 2}, ValueError, r"clauses: literals must be of variables 1 to n = 2; got -3 in clause 1"),
        ([[1.0]], {}, TypeError, "clauses must hold integers; got float in clause 0"),
        ([[1], ["2"]], {}, TypeError, "clauses must hold integers; got str in clause 1"),
        ([[True]], {}, TypeError, "clauses must hold integers; got bool in clause 0"),
        ([[1, True]], {}, TypeError, "clauses must hold integers; got bool in clause 0"),
        ([[1, 1.0]], {}, TypeError, "clauses must hold integers; got float in clause 0"),
        ([[[1]]], {}, TypeError, "clauses must hold integers; got list in clause 0"),
        ([torch.tensor([1, 2])], {}, TypeError, "clauses must hold integers; got Tensor in clause 0"),
        ([[1], 2], {}, TypeError, "clauses must be sequences of integers; got int as clause 1"),
        (7, {}, TypeError, "clauses must be sequences of integers; got int"),
        ([[1]], {"n": 1.0}, TypeError, "n must be an int; got float"),
        ([], {"n": -1}, ValueError, "n must be at least 0; got -1"),
        ([[1], [2]], {"weights": [1]}, ValueError, "weights must be one for each of 2 clauses; got 1"),
        ([[1], [2]], {"weights": [1, 2, 3]}, ValueError, "weights must be one for each of 2 clauses; got 3"),
        ([[1], [2]], {"weights": [1, -0.5]}, ValueError, r"weights must be at least 0; got -0.5 for clause 1"),
        ([[1]], {"weights": [math.nan]}, ValueError, "weights must be at least 0; got nan for clause 0"),
        ([[1]], {"weights": [-INF]}, ValueError, "weights must be at least 0; got -inf for clause 0"),
        ([[1]], {"weights": ["heavy"]}, TypeError, "weights must be numbers; got 'heavy' for clause 0"),
        ([[1]], {"weights": [None]}, TypeError, "weights must be numbers; got None for clause 0"),
        ([[1]], {"weights": 2}, TypeError, "weights must be a sequence of numbers; got int"),
        ([[1]], {"weights": iter([2])}, TypeError, "weights must be a sequence of numbers; got list_iterator"),
    ],
)
def test_errors_of_from_clauses(clauses: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Instance.from_clauses(clauses, **options)


@pytest.mark.parametrize("seed", range(5))
def test_cost_is_that_of_a_plain_loop(seed: int) -> None:
    clauses, weights = random_clauses(6, 30, (0, 1, 2, 3, 5), floats=True, seed=seed)
    weights = [INF if j % 4 == 0 else weight for j, weight in enumerate(weights)]
    instance = Instance.from_clauses(clauses, 6, weights)
    for x in assignments(6):
        soft, hard = naive_cost(clauses, weights, x)
        got = instance.cost(x)
        assert got == (pytest.approx(soft, abs=1e-12), hard)
        assert isinstance(got[0], float) and isinstance(got[1], int)
        assert instance.cost(np.array(x)) == instance.cost(torch.tensor(x)) == instance.cost(np.array(x, float)) == got


def test_cost_without_clauses_is_zero() -> None:
    assert Instance.from_clauses([], n=2).cost([True, False]) == (0, 0)
    assert Instance.from_clauses([]).cost([]) == (0, 0)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ([True], r"assignment must have shape \(2,\); got \(1,\)"),
        ([[True, False]], r"assignment must have shape \(2,\); got \(1, 2\)"),
        ([1, -1], "assignment must hold bools, or 0 and 1"),
        ([0.5, 1.0], "assignment must hold bools, or 0 and 1"),
    ],
)
def test_cost_of_no_assignment_is_an_error(assignment: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Instance.from_clauses([[1, 2]]).cost(assignment)


class Case:
    """A file's text and the instance in it."""

    def __init__(self, name: str, text: str, n: int, clauses: list[list[int]], weights: list[float]) -> None:
        self.name, self.text, self.n, self.clauses, self.weights = name, text, n, clauses, weights


FILES = [
    Case("a.cnf", "c comment\np cnf 5 2\n1 -2 0\n3 0\n", 5, [[1, -2], [3]], [1, 1]),
    Case("small-header.cnf", "p cnf 2 1\n1 -4 0\n", 4, [[1, -4]], [1]),
    Case("satlib.cnf", "c SATLIB\np cnf 2 2\n1 0\n-2 1 0\n%\n0\n", 2, [[1], [-2, 1]], [1, 1]),
    Case("latin.cnf", "c caf\xe9\np cnf 1 1\n-1 0\n", 1, [[-1]], [1]),
    Case("old.wcnf", "c old\np wcnf 6 3 10\n10 1 -2 0\n3 2 0\n4 -1 3 0\n", 6, [[1, -2], [2], [-1, 3]], [INF, 3, 4]),
    Case("old-soft.wcnf", "p wcnf 3 2\n10 1 -2 0\n3 3 0\n", 3, [[1, -2], [3]], [10, 3]),
    Case("new.wcnf", "c new\n7 -1 0\nh 1 2 0\n9 3 -2 0\nh 3 0\n", 3, [[-1], [1, 2], [3, -2], [3]], [7, INF, 9, INF]),
    Case("decimal.wcnf", "h 1 2 0\n2.5 -1 0\n0.125 -2 0\n", 2, [[1, 2], [-1], [-2]], [INF, 2.5, 0.125]),
    Case("two.dots.wcnf", "1 1 0\n", 1, [[1]], [1]),
    Case("other.wcnf.cnf", "p cnf 1 1\n1 0\n", 1, [[1]], [1]),
]
OPENERS: dict[str, Callable[..., Any]] = {
    "": lambda path, mode, **options: path.open(mode, **options),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


@pytest.mark.parametrize("ending", OPENERS)
@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_file_is_read(case: Case, ending: str, tmp_path: Path) -> None:
    path = tmp_path / (case.name + ending)
    with OPENERS[ending](path, "wt", encoding="latin-1") as file:
        file.write(case.text)
    for instance in (maxsat.read(path), maxsat.read(str(path))):
        assert instance.n == case.n
        assert instance.clauses == case.clauses and instance.weights.tolist() == case.weights


def test_empty_clauses_of_a_file_count(tmp_path: Path) -> None:
    path = tmp_path / "empty.wcnf"
    path.write_text("h 0\n2 0\n3 1 0\n")
    instance = maxsat.read(path)
    assert (instance.clauses, instance.empty_hard, instance.empty_weight) == ([[1]], 1, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.cnf", b"hello world\n"),
        ("words.wcnf", b"hello world\n"),
        ("bytes.cnf", b"\x00\xff\xfe\x80"),
        ("decimal.cnf", b"p cnf 2 1\n1 2.5 0\n"),
        ("literal.wcnf", b"h 1 x 0\n"),
        ("weight.wcnf", b"p wcnf 2 1 10\nx 1 0\n"),
        ("nan.wcnf", b"nan 1 0\n"),
        ("open.cnf", b"p cnf 2 1\n1 2\n"),
        ("plain.cnf.gz", b"p cnf 2 1\n1 2 0\n"),
        ("plain.cnf.bz2", b"p cnf 2 1\n1 2 0\n"),
        ("plain.cnf.xz", b"p cnf 2 1\n1 2 0\n"),
        ("cut.cnf.gz", gzip.compress(b"p cnf 2 1\n1 2 0\n" * 100)[:-20]),
    ],
)
def test_nonsense_is_an_error_that_names_the_file(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"path must be a DIMACS file; '{name}' is not"):
        maxsat.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.cnf.txt", "a.gz", "cnf", "a.wcnf.gz.cnf.zip"])
def test_a_wrong_ending_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("p cnf 1 1\n1 0\n")
    with pytest.raises(ValueError, match=rf"path must end in \.cnf, \.wcnf or \.dimacs.*got '{name}'"):
        maxsat.read(tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must be a file; there is no '.*none\.wcnf\.gz'"):
        maxsat.read(tmp_path / "none.wcnf.gz")
    (tmp_path / "folder.cnf").mkdir()
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        maxsat.read(tmp_path / "folder.cnf")


def test_a_file_that_may_not_be_read_is_not_called_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(COMPRESSED, ".gz", refuse)
    (tmp_path / "a.cnf.gz").write_bytes(b"")
    with pytest.raises(PermissionError):
        maxsat.read(tmp_path / "a.cnf.gz")
