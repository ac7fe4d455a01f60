"""Puzzles with exactly one solution, seeded.

A puzzle is dug out of a solved board: its cells are visited in random order, and each is blanked unless that
would let in a second solution, until the wanted number of givens is left. Where the digging ends above that
number, it starts again from another board.

Every puzzle draws from a random stream of its own, keyed by the seed and the puzzle's number, so that the
same seed gives the same puzzles: whatever the count, the machine or the number of threads.

How few givens can be had: digging ends where every given is needed, on most 9x9 boards at 23 to 25 givens.
See :data:`MIN_GIVENS` for the price of less.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from tqdm import tqdm

from demos.sudoku.boards import Boards, Int8Array, check_box, obeys_rules

MIN_GIVENS = {2: 4, 3: 22}
"""The fewest givens that :func:`generate` accepts, by box size.

4x4 puzzles with fewer than 4 givens do not exist. 9x9 puzzles exist down to 17, but digging seldom gets
there. A puzzle takes 0.1 ms with 34 givens (10,000 of them 1.0 s), 0.2 ms with 28, 0.6 ms with 25, 1.2 ms
with 24, 4 ms with 23 and 17 ms with 22, on one core: ``python -m demos.sudoku generate --givens 34 --count
10000 --output FILE``, and so on. With 21 it would be 240 ms.
"""

HELD_OUT_GRIDS = 144
"""How many of the 288 solved 4x4 boards :func:`generate_split` keeps for the test puzzles."""

_CHUNK = 64  # puzzles a kernel call: often enough for a progress bar
_MAX_RESTARTS = 100_000  # only a guard against an endless loop: 22 givens take some 30 boards

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
def _count_solutions(board: Int8Array, box: int, limit: int) -> int:
    used = np.zeros((3, box * box), np.int64)
    if not _load(board, box, used):
        return 0
    return _search(board.copy(), box, used, -1, 0, limit, np.zeros(1, np.uint64), False)


# --- the generator ------------------------------------------------------------------------------------------


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
def _generate(
    box: int,
    lowest: int,
    highest: int,
    seed: np.uint64,
    first: int,
    grids: Int8Array,
    puzzles: Int8Array,
    solutions: Int8Array,
) -> bool:
    """Write the puzzles numbered first, first + 1, ...; solved boards come from ``grids``, if any."""
    state = np.zeros(1, np.uint64)
    used = np.zeros((3, box * box), np.int64)
    for i in range(len(puzzles)):
        _seed_stream(seed, np.uint64(first + i), state)
        givens = lowest + _below(highest - lowest + 1, state)
        for _ in range(_MAX_RESTARTS):
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


def _all_grids_4x4() -> Int8Array:
    """Enumerate the 288 solved 4x4 boards: shape (288, 16)."""
    rows = np.array(list(itertools.permutations(range(1, 5))), np.int8)
    bands = np.array([[*top, *bottom] for top in rows for bottom in rows if {*top[:2]} == {*bottom[2:]}], np.int8)
    grids = np.concatenate([np.repeat(bands, len(bands), axis=0), np.tile(bands, (len(bands), 1))], axis=1)
    return grids[obeys_rules(grids)]


def count_solutions(puzzle: Int8Array, limit: int = 2) -> int:
    """Count the solutions of one puzzle of shape (N ** 2,), stopping at ``limit``."""
    board = np.ascontiguousarray(puzzle, dtype=np.int8)
    box = Boards(board[None], board[None]).box
    if limit < 1:
        raise ValueError(f"limit: got {limit}, wanted 1 or more")
    return int(_count_solutions(board, box, limit))


def generate(
    box: int,
    givens: int | tuple[int, int],
    count: int,
    seed: int = 0,
    *,
    grids: Int8Array | None = None,
    progress: bool = False,
) -> Boards:
    """Generate ``count`` puzzles, each with exactly one solution.

    No two puzzles are the same, and no two 9x9 puzzles have the same solution. (There are only 288 solved 4x4
    boards, so those come up again and again.)

    Parameters
    ----------
    box
        The box size: 2 for 4x4 boards, 3 for 9x9 boards.
    givens
        How many cells each puzzle gives, or the lowest and highest number, between which each puzzle draws
        its own, all equally likely. At least ``MIN_GIVENS[box]``, and fewer than there are cells.
    count
        How many puzzles.
    seed
        A non-negative integer. The first puzzles of a larger count are those of a smaller one.
    grids
        Solved boards of shape (any, N ** 2) to draw from, instead of all there are. The same one then serves
        several puzzles.
    progress
        Show a progress bar on standard error if it takes more than a second.
    """
    size = check_box(box) ** 2
    lowest, highest = givens if isinstance(givens, tuple) else (givens, givens)
    if not MIN_GIVENS[box] <= lowest <= highest < size**2:
        got = lowest if lowest == highest else f"{lowest}-{highest}"
        raise ValueError(
            f"givens: got {got}, wanted {MIN_GIVENS[box]} to {size**2 - 1} for {size}x{size} boards, or a range within"
        )
    if count < 0:
        raise ValueError(f"count: got {count}, wanted 0 or more")
    if count >= 2**31:
        raise ValueError(f"count: got {count}, wanted at most 2**31 - 1")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: got {seed}, wanted 0 or more and less than 2**64")
    distinct_solutions = box == 3 and grids is None
    if grids is None:
        # All 4x4 boards are equally likely; 9x9 boards are filled at random.
        grids = _all_grids_4x4() if box == 2 else np.empty((0, size**2), np.int8)

    puzzles = np.empty((count, size**2), np.int8)
    solutions = np.empty((count, size**2), np.int8)
    seen: set[bytes] = set()
    done = drawn = 0
    with tqdm(
        total=count, desc="generating puzzles", unit=" puzzles", disable=not progress, delay=1, leave=False
    ) as bar:
        while done < count:
            chunk = min(_CHUNK, count - done)
            new_puzzles = np.empty((chunk, size**2), np.int8)
            new_solutions = np.empty((chunk, size**2), np.int8)
            if not _generate(box, lowest, highest, np.uint64(seed), drawn, grids, new_puzzles, new_solutions):
                raise ValueError(f"givens: no puzzle with {lowest} givens found in {_MAX_RESTARTS} boards")
            drawn += chunk
            before = done
            for puzzle, solution in zip(new_puzzles, new_solutions, strict=True):
                key = (solution if distinct_solutions else puzzle).tobytes()
                if key not in seen:
                    seen.add(key)
                    puzzles[done], solutions[done] = puzzle, solution
                    done += 1
            bar.update(done - before)
            if drawn > 20 * count + 10_000:
                raise ValueError(
                    f"count: got {count}, but only {done} different {size}x{size} puzzles with {lowest} to "
                    f"{highest} givens turned up in {drawn} draws: ask for fewer"
                )
    return Boards(puzzles, solutions)


def split_grids(seed: int) -> tuple[Int8Array, Int8Array]:
    """Split the 288 solved 4x4 boards into those for training and :data:`HELD_OUT_GRIDS` for testing."""
    grids = _all_grids_4x4()[np.random.Philox(key=seed).random_raw(288).argsort()]
    return grids[HELD_OUT_GRIDS:], grids[:HELD_OUT_GRIDS]


def generate_split(
    box: int, givens: int | tuple[int, int], train: int, test: int, seed: int = 0, *, progress: bool = False
) -> tuple[Boards, Boards]:
    """Generate training and test puzzles such that no solved board of the test puzzles was seen in training.

    9x9 puzzles have a solution of their own each. Of the 288 solved 4x4 boards, :data:`HELD_OUT_GRIDS`, drawn
    with the seed, are kept for the test puzzles.
    """
    if check_box(box) == 2:
        seen, unseen = split_grids(seed)
        return (
            generate(box, givens, train, seed, grids=seen, progress=progress),
            generate(box, givens, test, seed, grids=unseen, progress=progress),
        )
    boards = generate(box, givens, train + test, seed, progress=progress)
    return boards[:train], boards[train:]


def add_givens(boards: Boards, givens: int | tuple[int, int], seed: int = 0) -> Boards:
    """Give more cells of puzzles, chosen at random, with the digits of their solutions.

    Parameters
    ----------
    boards
        Puzzles with no more givens than wanted.
    givens
        How many cells each puzzle then gives; of a range the first puzzle gives the lowest number, the next one more, and
        after the highest the lowest again.
    seed
        A non-negative integer. A puzzle's cells depend on it and on the puzzle's place alone.
    """
    lowest, highest = givens if isinstance(givens, tuple) else (givens, givens)
    cells = boards.puzzles.shape[1]
    if not 0 < lowest <= highest < cells:
        raise ValueError(f"givens: got {lowest}-{highest}, wanted 1 to {cells - 1} or a range within")
    puzzles = boards.puzzles.copy()
    for i, (puzzle, solution) in enumerate(zip(puzzles, boards.solutions, strict=True)):
        wanted, blank = lowest + i % (highest - lowest + 1), np.flatnonzero(puzzle == 0)
        if (more := wanted - (cells - len(blank))) < 0:
            raise ValueError(f"givens: got {wanted} for puzzle {i + 1}, which gives {cells - len(blank)} already")
        added = np.random.default_rng([seed, i]).permutation(blank)[:more]
        puzzle[added] = solution[added]
    return Boards(puzzles, boards.solutions)
