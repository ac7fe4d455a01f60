"""DIMACS files: every way in which generators write them, and errors that name the line."""

import bz2
import gzip
import lzma
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from difflayers import maxsat
from difflayers.maxsat.dimacs import COMPRESSED

INF = math.inf


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
    Case("lines.cnf", "p cnf 4 3\n1 -2\n3\n0 2 0 -4\n\nc in between\n0\n", 4, [[1, -2, 3], [2], [-4]], [1, 1, 1]),
    Case("lines.wcnf", "p wcnf 3 3 10\n10\n1\n-2 0 3 2 0 4 -1\n3 0\n", 3, [[1, -2], [2], [-1, 3]], [INF, 3, 4]),
    Case("several.wcnf", "h 1 2 0 7 -1 0\n 2.5 -2 0\n", 2, [[1, 2], [-1], [-2]], [INF, 7, 2.5]),
    Case("bom.cnf", "\ufeffp cnf 1 1\n1 0\n", 1, [[1]], [1]),
    Case("indented.cnf", "  c x\n p cnf 2 2\n\t1 0\n -2 0\n  %\n 0\n\n", 2, [[1], [-2]], [1, 1]),
    Case("percent.wcnf", "p wcnf 2 2 9\n9 1 0\n3 -2 0\n%\n0\n", 2, [[1], [-2]], [INF, 3]),
    Case("CAPITALS.CNF", "p cnf 1 1\n1 0\n", 1, [[1]], [1]),
    Case("Mixed.WCnf", "3 1 0\n", 1, [[1]], [3]),
    Case("a.dimacs", "p cnf 2 1\n1 -2 0\n", 2, [[1, -2]], [1]),
    Case("w.DIMACS", "p wcnf 2 1 5\n4 1 -2 0\n", 2, [[1, -2]], [4]),
    Case("bare.dimacs", "1 -2 0\n", 2, [[1, -2]], [1]),
    Case("bare.cnf", "1 -2 0\n+3 0\n", 3, [[1, -2], [3]], [1, 1]),
    Case("ends.cnf", "p cnf 2 2\r\n1 0\r-2 0\r\n", 2, [[1], [-2]], [1, 1]),
    Case("tabs.cnf", "p\tcnf  2   2\n1\t 0\n-2 \t0", 2, [[1], [-2]], [1, 1]),
    Case("zero.wcnf", "p wcnf 7 3 9\n0 6 -2 0\n2 1 0\n0.0 0\n", 7, [[1]], [2]),
    Case("large.wcnf", f"{2**63} 1 0\n{2**53 + 1} -1 0\n", 1, [[1], [-1]], [2**63, 2**53 + 1]),
    Case("top.wcnf", f"p wcnf 1 2 {2**64}\n{2**64} 1 0\n{2**63 - 1} -1 0\n", 1, [[1], [-1]], [INF, 2**63 - 1]),
    Case("empty.cnf", "p cnf 0 0\n", 0, [], []),
    Case("sparse.cnf", "p cnf 20000000 1\n-7 0\n", 20_000_000, [[-7]], [1]),
    Case("two.dots.wcnf", "1 1 0\n", 1, [[1]], [1]),
    Case("other.wcnf.cnf", "p cnf 1 1\n1 0\n", 1, [[1]], [1]),
]
OPENERS: dict[str, Callable[..., Any]] = {
    "": lambda path, mode: path.open(mode),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


@pytest.mark.parametrize("ending", OPENERS)
@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_file_is_read(case: Case, ending: str, tmp_path: Path) -> None:
    path = tmp_path / (case.name + ending)
    with OPENERS[ending](path, "wb") as file:
        file.write(case.text.encode("latin-1" if "latin" in case.name else "utf-8"))
    for instance in (maxsat.read(path), maxsat.read(str(path))):
        assert instance.n == case.n
        assert instance.clauses == case.clauses and instance.weights.tolist() == [
            float(weight) for weight in case.weights
        ]
        assert instance.soft_units * instance.unit == sum(Fraction(w) for w in case.weights if w != INF)


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
        ("cut.cnf.gz", gzip.compress(b"p cnf 2 1\n1 2 0\n" * 100, mtime=0)[:-20]),
    ],
)
def test_nonsense_is_an_error_that_names_the_file(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"path must be a DIMACS file; '{name}' is not"):
        maxsat.read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.cnf", "", "it has neither a header nor a clause"),
        ("a.wcnf", "\n\nc only a comment\n", "it has neither a header nor a clause"),
        ("a.dimacs", "%\n0\n", "it has neither a header nor a clause"),
        ("a.cnf", "p cnf 2 1\n1 2\n", "the clause that begins on line 2 has no 0 at its end"),
        ("a.wcnf", "h 1 0\n\n3", "the clause that begins on line 3 has no 0 at its end"),
        ("a.cnf", "c\np cnf 2 1\n1 2.5 0\n", "line 3: a literal must be a whole number; got '2.5'"),
        ("a.cnf", "p cnf 2 1\n1 2 0 x\n", "line 2: a literal must be a whole number; got 'x'"),
        ("a.cnf", "p cnf 2 1\n1 1_0 0\n", "line 2: a literal must be a whole number; got '1_0'"),
        ("a.cnf", "p cnf 2 1\n1 \u0663 0\n", "line 2: a literal must be a whole number; got '\u0663'"),
        ("a.cnf", "p cnf 2 1\n1\n% 0\n", "line 3: a literal must be a whole number; got '%'"),
        ("a.cnf", f"1 0\n{2**63} 0\n", f"line 2: literals must be of variables 1 to .*; got {2**63}"),
        ("a.cnf", f"1 0\n-{2**31} 0\n", f"line 2: literals must be of variables 1 to .*; got -{2**31}"),
        ("a.cnf", "1 0\n" + 5000 * "7" + " 0\n", "line 2: a literal must be a whole number; got '777.*\\.\\.\\.'"),
        ("a.wcnf", "h 1 0\n-3 -1 0\n", "line 2: weights must be at least 0; got -3 for this clause"),
        ("a.wcnf", "h 1 0\n-0.5 -1 0\n", "line 2: weights must be at least 0; got .* for this clause"),
        ("a.wcnf", f"\n{2**63 + 1} 1 0\n", "line 2: weights must be 0, inf .* or from .* for this clause"),
        ("a.wcnf", "1e99 1 0\n", "line 1: weights must be 0, inf .* or from .* for this clause"),
        ("a.wcnf", "nan 1 0\n", "line 1: a clause must begin with h or its weight, a number; got 'nan'"),
        ("a.wcnf", "1/3 1 0\n", "line 1: a clause must begin with h or its weight, a number; got '1/3'"),
        ("a.wcnf", "1 0\n0 2 0\nh 2 0 hard\n", "line 3: a clause must begin with h or its weight.* got 'hard'"),
        ("a.cnf", "p cnf 2\n1 0\n", "line 1: the header must be 'p cnf VARIABLES CLAUSES' or .*; got 'p cnf 2'"),
        ("a.cnf", "p cnf -2 1\n1 0\n", "line 1: the header must be .*; got 'p cnf -2 1'"),
        ("a.cnf", "p cnf 2 1 9\n1 0\n", "line 1: the header must be .*; got 'p cnf 2 1 9'"),
        ("a.cnf", "c\np dnf 2 1\n1 0\n", "line 2: the header must be .*; got 'p dnf 2 1'"),
        ("a.cnf", f"p cnf {2**31} 1\n1 0\n", r"line 1: there can be 2\*\*31 - 1 variables at most; got 2147483648"),
        ("a.cnf", "p wcnf 2 1 9\n9 1 0\n", r"line 1: the header of a \.cnf must say so; got 'p wcnf 2 1 9'"),
        ("a.wcnf", "p cnf 2 1\n1 0\n", r"line 1: the header of a \.wcnf must say so; got 'p cnf 2 1'"),
        ("a.cnf", "p cnf 2 1\n1 0\np cnf 2 1\n", "line 3: there is one header, before all clauses"),
        ("a.cnf", "1 0\np cnf 2 1\n", "line 2: there is one header, before all clauses"),
    ],
)
def test_errors_name_the_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"path must be a DIMACS file; '{name}' is not: {message}$"):
        maxsat.read(tmp_path / name)


@pytest.mark.parametrize(("says", "has"), [(3, 2), (1, 2)])
def test_a_header_that_miscounts_clauses_is_a_warning(says: int, has: int, tmp_path: Path) -> None:
    path = tmp_path / "a.cnf"
    path.write_text(f"p cnf 2 {says}\n1 0\n-2 0\n")
    with pytest.warns(UserWarning, match=f"the header says {says} clauses, the file has {has}"):
        assert maxsat.read(path).clauses == [[1], [-2]]


@pytest.mark.parametrize("path", [None, 3, b"a.cnf"])
def test_a_path_is_a_path(path: Any) -> None:
    with pytest.raises(TypeError, match="path must be a str or a Path; got"):
        maxsat.read(path)


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
