"""DIMACS files of clauses: .cnf, and .wcnf in the old and the new format."""

import bz2
import gzip
import lzma
import re
import warnings
import zlib
from collections.abc import Callable
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import IO

from difflayers.maxsat.instance import MOST_VARIABLES, Instance, from_checked
from difflayers.maxsat.weights import Weight, check_weight

COMPRESSED: dict[str, Callable[..., IO[str]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}
KINDS = {".cnf": "cnf", ".wcnf": "wcnf", ".dimacs": ""}
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
# A whole clause on a line of its own, as nearly all are: no need to look at its tokens one by one.
_CLAUSE = re.compile(r"((?:[+-]?[1-9][0-9]{0,8}[ \t]+)*)0[ \t]*\n?")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?")


def read(path: str | Path) -> Instance:
    """Read a DIMACS file: .cnf (every clause soft, weight 1) or .wcnf (old and new format), plain or compressed (.gz ...).

    A clause ends with 0; it may go over several lines, or share one. A line that begins with ``c`` is a comment; one that
    begins with ``%`` ends the clauses, as in the files of SATLIB. In a .wcnf each clause begins with its weight: ``h``, or the
    header's top or more, is hard; 0 leaves the clause out; decimal weights are exact too. Variables are as many as the header
    says, or more if clauses have more. A file whose name ends in .dimacs is what its header says, or a .cnf without one.

    Raises:
        TypeError: path is no path.
        FileNotFoundError: no such file.
        ValueError: the name ends in none of these (before a compression's ending: .gz, .bz2, .xz, .lzma; capitals are no
            matter), or the file is not DIMACS: the message names the line.

    Warns:
        UserWarning: the file has fewer or more clauses than its header says.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path must be a str or a Path; got {type(path).__name__}")
    path = Path(path)
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in COMPRESSED else ""
    if not endings or endings[-1] not in KINDS:
        raise ValueError(f"path must end in .cnf, .wcnf or .dimacs, before a compression's ending; got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file; there is no {str(path)!r}")
    try:
        with COMPRESSED.get(packed, open)(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            return _Parser(KINDS[endings[-1]]).parse(file)
    except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the file cannot be read at all
        raise ValueError(f"path must be a DIMACS file; {path.name!r} is not: {error}") from error


class _Parser:
    """Token by token, since a clause may end anywhere."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.header: tuple[int, int] | None = None
        self.top: int | None = None
        self.clauses: list[list[int]] = []
        self.weights: list[Weight] = []
        self.open: list[int] = []
        self.weight: Weight | None = None
        self.began = 0
        """The line where the clause that is open began; 0 if none is."""

    def parse(self, lines: IO[str]) -> Instance:
        for number, line in enumerate(lines, 1):
            tokens = line.split()
            if not tokens or tokens[0].startswith("c"):
                continue
            if tokens[0].startswith("%") and not self.began:
                break
            try:
                if tokens[0] == "p":
                    self._header(tokens)
                elif not self._whole(tokens[0], line):
                    self._tokens(tokens, number)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
        if self.began:
            raise ValueError(f"the clause that begins on line {self.began} has no 0 at its end")
        if self.header is None and not self.clauses:
            raise ValueError("it has neither a header nor a clause")
        if self.header is not None and self.header[1] != len(self.clauses):
            warnings.warn(
                f"the header says {self.header[1]} clauses, the file has {len(self.clauses)}", UserWarning, stacklevel=3
            )
        largest = max((abs(literal) for clause in self.clauses for literal in clause), default=0)
        n = max(largest, self.header[0] if self.header else 0)
        return from_checked(self.clauses, n, self.weights if self.kind == "wcnf" else None)

    def _header(self, tokens: list[str]) -> None:
        if self.header is not None or self.clauses or self.began:
            raise ValueError("there is one header, before all clauses")
        kind = tokens[1] if len(tokens) > 1 else ""
        numbers = tokens[2:]
        counts = (2,) if kind == "cnf" else (2, 3)
        if kind not in ("cnf", "wcnf") or len(numbers) not in counts or not all(t.isdecimal() for t in numbers):
            raise ValueError(
                "the header must be 'p cnf VARIABLES CLAUSES' or 'p wcnf VARIABLES CLAUSES [TOP]'; got "
                + _shown(" ".join(tokens))
            )
        if self.kind and kind != self.kind:
            raise ValueError(f"the header of a .{self.kind} must say so; got {_shown(' '.join(tokens))}")
        self.kind = kind
        n, m, *top = (int(_integer(token, "number")) for token in numbers)
        if n > MOST_VARIABLES:
            raise ValueError(f"there can be 2**31 - 1 variables at most; got {n}")
        self.header, self.top = (n, m), top[0] if top else None

    def _whole(self, first: str, line: str) -> bool:
        """Whether the line is one whole clause, which is then taken."""
        if self.began:
            return False
        line = line.lstrip()
        found = _CLAUSE.fullmatch(line[len(first) :].lstrip() if self.kind == "wcnf" else line)
        if found is None:
            return False
        if self.kind == "wcnf":
            self.weights.append(self._weight(first))
        self.clauses.append(list(map(int, found[1].split())))
        return True

    def _tokens(self, tokens: list[str], number: int) -> None:
        self.kind = self.kind or "cnf"
        weighted = self.kind == "wcnf"
        for token in tokens:
            if not self.began:
                self.began = number
                if weighted:
                    self.weight = self._weight(token)
                    continue
            literal = _integer(token, "literal")
            if literal:
                if abs(literal) > MOST_VARIABLES:
                    raise ValueError(f"literals must be of variables 1 to 2**31 - 1; got {token}")
                self.open.append(literal)
                continue
            self.clauses.append(self.open)
            if weighted:
                assert self.weight is not None
                self.weights.append(self.weight)
            self.open, self.began = [], 0

    def _weight(self, token: str) -> Weight:
        if token == "h":
            return inf
        if len(token) > 200 or not _DECIMAL.fullmatch(token):
            raise ValueError(f"a clause must begin with h or its weight, a number; got {_shown(token)}")
        weight = int(token) if _INTEGER.fullmatch(token) else Fraction(token)
        if self.top is not None and weight >= self.top > 0:
            return inf
        return check_weight(weight, "this clause")


def _integer(token: str, what: str) -> int:
    if not _INTEGER.fullmatch(token):
        raise ValueError(f"a {what} must be a whole number; got {_shown(token)}")
    return int(token)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
