"""Puzzles with exactly one solution, seeded.

A puzzle is dug out of a solved board, a random one or, for 16x16 boards, one that is shuffled. Its cells are visited in
random order, and each is blanked unless that would let in a second solution, until the wanted number of givens is left.
Where the digging ends above that number, it starts again from another board.

Every puzzle draws from a random stream of its own, keyed by the seed and the puzzle's number, so that the
same seed gives the same puzzles: whatever the count, the machine or the number of threads.

How few givens can be had: digging ends where every given is needed, on most 9x9 boards at 23 to 25 givens.
See `MIN_GIVENS` for the price of less.
"""

from __future__ import annotations

import itertools

import numpy as np
from tqdm import tqdm

from demos.sudoku import digging
from demos.sudoku.boards import Boards, Int8Array, check_box, obeys_rules

MIN_GIVENS = {2: 4, 3: 22, 4: 110}
"""The fewest givens that `generate` accepts, by box size.

4x4 puzzles with fewer than 4 givens do not exist. 9x9 puzzles exist down to 17, but digging seldom gets
there. A puzzle takes 0.1 ms with 34 givens (10,000 of them 1.0 s), 0.2 ms with 28, 0.6 ms with 25, 1.2 ms
with 24, 4 ms with 23 and 17 ms with 22, on one core: ``python -m demos.sudoku generate --givens 34 --count
10000 --output FILE``, and so on. With 21 it would be 240 ms.
16x16 puzzles with fewer than 110 givens have not been tried.
"""

HELD_OUT_GRIDS = 144
"""How many of the 288 solved 4x4 boards `generate_split` keeps for the test puzzles."""

_CHUNK = 64  # puzzles a kernel call: often enough for a progress bar


def _all_grids_4x4() -> Int8Array:
    """Enumerate the 288 solved 4x4 boards: shape (288, 16)."""
    rows = np.array(list(itertools.permutations(range(1, 5))), np.int8)
    bands = np.array([[*top, *bottom] for top in rows for bottom in rows if {*top[:2]} == {*bottom[2:]}], np.int8)
    grids = np.concatenate([np.repeat(bands, len(bands), axis=0), np.tile(bands, (len(bands), 1))], axis=1)
    return grids[obeys_rules(grids)]


def _shuffled_grid(box: int, seed: int, number: int) -> Int8Array:
    """Shuffle the digits of one solved board, its bands, the rows of each, its stacks, the columns of each, and transpose it
    or not: shape (N ** 2,).

    The boards that come of it are few of all there are, but no two cells, digits or lines are told apart.
    """
    size = box * box
    random = np.random.default_rng([seed, number])
    rows, columns = np.mgrid[:size, :size]
    board = random.permutation(size)[(box * (rows % box) + rows // box + columns) % size] + 1
    for _ in range(2):
        order = np.concatenate([box * band + random.permutation(box) for band in random.permutation(box)])
        board = board[order].T
    return (board.T if random.integers(2) else board).astype(np.int8).ravel()


def count_solutions(puzzle: Int8Array, limit: int = 2) -> int:
    """Count the solutions of one puzzle of shape (N ** 2,), stopping at ``limit``."""
    board = np.ascontiguousarray(puzzle, dtype=np.int8)
    box = Boards(board[None], board[None]).box
    if limit < 1:
        raise ValueError(f"limit: got {limit}, wanted 1 or more")
    return int(digging.count(board, box, limit))


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

    No two puzzles are the same, and no two 9x9 or 16x16 puzzles have the same solution. (There are only 288 solved 4x4
    boards, so those come up again and again.)

    Args:
        box: The box size: 2 for 4x4 boards, 3 for 9x9 boards, 4 for 16x16 boards.
        givens: How many cells each puzzle gives, or the lowest and highest number, between which each puzzle draws its own, all
            equally likely. At least ``MIN_GIVENS[box]``, and fewer than there are cells.
        count: How many puzzles.
        seed: A non-negative integer. The first puzzles of a larger count are those of a smaller one.
        grids: Solved boards of shape (any, N ** 2) to draw from, instead of all there are. The same one then serves several
            puzzles.
        progress: Show a progress bar on standard error if it takes more than a second.
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
    distinct_solutions = box > 2 and grids is None
    shuffled = box == 4 and grids is None
    if grids is None:
        # All 4x4 boards are equally likely; 9x9 boards are filled at random, 16x16 ones are shuffled (see below).
        grids = _all_grids_4x4() if box == 2 else np.empty((0, size**2), np.int8)

    puzzles = np.empty((count, size**2), np.int8)
    solutions = np.empty((count, size**2), np.int8)
    seen: set[bytes] = set()
    done = drawn = 0
    with tqdm(
        total=count, desc="generating puzzles", unit=" puzzles", disable=not progress, delay=1, leave=False
    ) as bar:
        while done < count:
            chunk = 1 if shuffled else min(_CHUNK, count - done)
            if shuffled:
                grids = _shuffled_grid(box, seed, drawn)[None]
            new_puzzles = np.empty((chunk, size**2), np.int8)
            new_solutions = np.empty((chunk, size**2), np.int8)
            if not digging.dig_all(box, lowest, highest, np.uint64(seed), drawn, grids, new_puzzles, new_solutions):
                raise ValueError(f"givens: no puzzle with {lowest} givens found in {digging.MAX_RESTARTS} boards")
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
    """Split the 288 solved 4x4 boards into those for training and `HELD_OUT_GRIDS` for testing."""
    grids = _all_grids_4x4()[np.random.Philox(key=seed).random_raw(288).argsort()]
    return grids[HELD_OUT_GRIDS:], grids[:HELD_OUT_GRIDS]


def generate_split(
    box: int, givens: int | tuple[int, int], train: int, test: int, seed: int = 0, *, progress: bool = False
) -> tuple[Boards, Boards]:
    """Generate training and test puzzles such that no solved board of the test puzzles was seen in training.

    9x9 and 16x16 puzzles have a solution of their own each. Of the 288 solved 4x4 boards, `HELD_OUT_GRIDS`, drawn
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

    Args:
        boards: Puzzles with no more givens than wanted.
        givens: How many cells each puzzle then gives; of a range the first puzzle gives the lowest number, the next one more,
            and after the highest the lowest again.
        seed: A non-negative integer. A puzzle's cells depend on it and on the puzzle's place alone.
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
