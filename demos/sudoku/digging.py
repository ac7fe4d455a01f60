"""Counting solutions and digging puzzles: the compiled part of `demos.sudoku.generator`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from demos.sudoku.boards import Int8Array

MAX_RESTARTS = 100_000
"""Solved boards a puzzle: only a guard against an endless loop. 22 givens take some 30 boards."""

_F = TypeVar("_F", bound=Callable[..., Any])


def _jit(function: _F) -> _F:
    """``numba.njit(cache=True)``, seen by a type checker as the function itself."""
    return cast(_F, njit(cache=True)(function))


# --- random numbers: splitmix64, its state in state[0] ------------------------------------------------------


@_jit
def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_jit
def _below(n: int, state: NDArray[np.uint64]) -> int:
    """Draw an integer from 0 to n - 1."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return int(((_mix(state[0]) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@_jit
def _seed_stream(seed: np.uint64, number: np.uint64, state: NDArray[np.uint64]) -> None:
    state[0] = _mix(_mix(seed + np.uint64(0x9E3779B97F4A7C15)) + number * np.uint64(0xD1342543DE82EF95))


@_jit
def _shuffle(values: NDArray[np.int64], state: NDArray[np.uint64]) -> None:
    for i in range(len(values) - 1, 0, -1):
        j = _below(i + 1, state)
        values[i], values[j] = values[j], values[i]


# --- the solver ---------------------------------------------------------------------------------------------
# used[0], used[1], used[2]: by row, column, box, the digits in use as bits 0 to N - 1.


@_jit
def _count_bits(mask: int) -> int:
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@_jit
def _digit(bit: int) -> int:
    digit = 1
    while bit > 1:
        bit >>= 1
        digit += 1
    return digit


@_jit
def _flip(cell: int, bit: int, box: int, used: NDArray[np.int64]) -> None:
    """Enter the digit of this bit in the unit masks, or take it out."""
    size = box * box
    row, column = cell // size, cell % size
    used[0, row] ^= bit
    used[1, column] ^= bit
    used[2, row // box * box + column // box] ^= bit


@_jit
def _candidates(cell: int, box: int, used: NDArray[np.int64]) -> int:
    """Return the digits that no unit of the cell holds yet, as bits."""
    size = box * box
    row, column = cell // size, cell % size
    taken: int = used[0, row] | used[1, column] | used[2, row // box * box + column // box]
    return ((1 << size) - 1) & ~taken


@_jit
def _load(board: Int8Array, box: int, used: NDArray[np.int64]) -> bool:
    """Fill the unit masks from a board; False if a digit stands twice in a unit."""
    used[:] = 0
    for cell in range(len(board)):
        if board[cell]:
            bit = 1 << (board[cell] - 1)
            if not _candidates(cell, box, used) & bit:
                return False
            _flip(cell, bit, box, used)
    return True


@_jit
def _search(
    board: Int8Array,
    box: int,
    used: NDArray[np.int64],
    first_cell: int,
    first_candidates: int,
    limit: int,
    state: NDArray[np.uint64],
    randomly: bool,
) -> int:
    """Count the solutions of ``board``, up to ``limit``, by depth-first search, most constrained cell first.

    ``first_cell``, if not negative, is decided first and takes only the digits in ``first_candidates``.
    ``randomly`` breaks ties between cells and picks digits at random. On return at the limit, ``board`` holds
    the last solution and ``used`` belongs to it; otherwise both are as they were.
    """
    cells = len(board)
    # order[:depth] are the cells decided so far, order[depth:blanks] those that are still blank.
    order = np.empty(cells, np.int64)
    untried = np.empty(cells, np.int64)
    blanks = 0
    for cell in range(cells):
        if board[cell] == 0:
            order[blanks] = cell
            blanks += 1
    if blanks == 0:
        return 1

    found = 0
    depth = 0
    forward = True
    while True:
        if forward:
            best, best_count, mask, ties = depth, 1 << 30, 0, 1
            for position in range(depth, blanks):
                cell = order[position]
                if depth == 0 and first_cell >= 0:
                    if cell == first_cell:
                        best, mask = position, first_candidates
                    continue
                here = _candidates(cell, box, used)
                count = _count_bits(here)
                if count < best_count:
                    best, best_count, mask, ties = position, count, here, 1
                    if count == 0 or (count == 1 and not randomly):
                        break
                elif randomly and count == best_count:
                    ties += 1
                    if _below(ties, state) == 0:
                        best, mask = position, here
            order[depth], order[best] = order[best], order[depth]
            untried[depth] = mask
            depth += 1

        # Give the last cell in order[:depth] its next digit.
        cell = order[depth - 1]
        if board[cell]:
            _flip(cell, 1 << (board[cell] - 1), box, used)
            board[cell] = 0
        mask = untried[depth - 1]
        if mask == 0:
            depth -= 1
            if depth == 0:
                return found
            forward = False
            continue
        if randomly:
            for _ in range(_below(_count_bits(mask), state)):
                mask &= mask - 1
        bit = mask & -mask
        untried[depth - 1] ^= bit
        board[cell] = _digit(bit)
        _flip(cell, bit, box, used)
        forward = depth < blanks
        if not forward:
            found += 1
            if found == limit:
                return found


@_jit
def count(board: Int8Array, box: int, limit: int) -> int:
    """Count the solutions of a board, up to ``limit``."""
    used = np.zeros((3, box * box), np.int64)
    if not _load(board, box, used):
        return 0
    return _search(board.copy(), box, used, -1, 0, limit, np.zeros(1, np.uint64), False)


# --- digging ------------------------------------------------------------------------------------------------


@_jit
def _is_only_place(cell: int, bit: int, board: Int8Array, box: int, used: NDArray[np.int64]) -> bool:
    """Tell whether, in some unit of the blank ``cell``, no other blank cell can take the digit."""
    size = box * box
    row, column = cell // size, cell % size
    top, left = row // box * box, column // box * box
    in_row, in_column, in_box = True, True, True
    for i in range(size):
        other = row * size + i
        if other != cell and board[other] == 0 and _candidates(other, box, used) & bit:
            in_row = False
        other = i * size + column
        if other != cell and board[other] == 0 and _candidates(other, box, used) & bit:
            in_column = False
        other = (top + i // box) * size + left + i % box
        if other != cell and board[other] == 0 and _candidates(other, box, used) & bit:
            in_box = False
    return in_row or in_column or in_box


@_jit
def _dig(board: Int8Array, box: int, givens: int, used: NDArray[np.int64], state: NDArray[np.uint64]) -> bool:
    """Blank cells of a solved board in place until ``givens`` are left; False if it ends above that number.

    One visit to each cell is enough: a cell that cannot be blanked now cannot be blanked later, with fewer
    givens.
    """
    cells = len(board)
    order = np.arange(cells)
    _shuffle(order, state)
    _load(board, box, used)
    left = cells
    for position in range(cells):
        if left == givens:
            return True
        if left - (cells - position) > givens:
            return False
        cell = order[position]
        digit = board[cell]
        bit = 1 << (digit - 1)
        board[cell] = 0
        _flip(cell, bit, box, used)
        others = _candidates(cell, box, used) & ~bit
        if (
            others
            and not _is_only_place(cell, bit, board, box, used)
            and _search(board.copy(), box, used.copy(), cell, others, 1, state, False)
        ):
            board[cell] = digit
            _flip(cell, bit, box, used)
        else:
            left -= 1
    return left == givens


@_jit
def dig_all(
    box: int,
    lowest: int,
    highest: int,
    seed: np.uint64,
    first: int,
    grids: Int8Array,
    puzzles: Int8Array,
    solutions: Int8Array,
) -> bool:
    """Write the puzzles numbered first, first + 1, ...; from solved boards in ``grids``, if any. False if one is not found."""
    state = np.zeros(1, np.uint64)
    used = np.zeros((3, box * box), np.int64)
    for i in range(len(puzzles)):
        _seed_stream(seed, np.uint64(first + i), state)
        givens = lowest + _below(highest - lowest + 1, state)
        for _ in range(MAX_RESTARTS):
            if len(grids):
                solutions[i] = grids[_below(len(grids), state)]
            else:
                solutions[i] = 0
                used[:] = 0
                _search(solutions[i], box, used, -1, 0, 1, state, True)
            puzzles[i] = solutions[i]
            if _dig(puzzles[i], box, givens, used, state):
                break
        else:
            return False
    return True
