"""``python -m demos.sudoku solve``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from demos.sudoku.boards import Boards, Int8Array, conflicts, format_line, obeys_rules, parse_board
from demos.sudoku.commands.common import complete, draw, load_net, verdict
from demos.sudoku.data import read_puzzles, to_boards, write_csv
from demos.sudoku.evaluation import search
from demos.sudoku.model import bit_net
from demos.sudoku.options import Solve


def solve(options: Solve) -> int:
    """Solve one puzzle or a file of them."""
    is_file = Path(options.puzzle).is_file()
    puzzles = read_puzzles(options.puzzle) if is_file else one_puzzle(options)
    checkpoint, net = load_net(options.checkpoint, options.solver, options.machine)
    if puzzles.shape[1] != checkpoint.config.box**4:
        size = checkpoint.config.box**2
        raise ValueError(
            f"PUZZLE|FILE: got {puzzles.shape[1]} cells, wanted {size**2}: the network in "
            f"{options.checkpoint} was trained on {size}x{size} boards"
        )
    said = ""
    if options.search.search:
        paths, starts = options.search.paths, options.search.starts
        found = search(net, puzzles, checkpoint.limit, paths=paths, starts=starts, seed=options.seed)
        answers = to_boards(found.values)
        said = "accepts it" if found.accepted[0] else "does not accept it: the search was given up"
        if checkpoint.limit is None:
            said = "has no limit up to which it accepts"
    else:
        answers = complete(bit_net(net), puzzles, seed=options.seed)
    obeying = obeys_rules(answers)
    if is_file:
        write_answers(options, puzzles, answers)
        print(
            f"{int(obeying.sum()):,} of {len(obeying):,} answers obey the rules of Sudoku (checked by the "
            "rules, which the network was never told)",
            file=sys.stderr,
        )
    else:
        print(draw(puzzles[0], answers[0]))
        if said:
            print(f"\nThe network's own objective {said}.")
        print(f"\n{verdict(answers[0])}")
    return 0 if obeying.all() else 1


def one_puzzle(options: Solve) -> Int8Array:
    """Return the puzzle on the command line: shape (1, N ** 2)."""
    try:
        puzzle = parse_board(options.puzzle)
    except ValueError as error:
        raise ValueError(f"PUZZLE|FILE: neither a file nor a puzzle: {error}") from None
    if conflicts(puzzle):
        raise ValueError("PUZZLE: it gives a digit twice in a row, column or box")
    if options.output is not None:
        raise ValueError("--output: got it with a single puzzle, wanted a file of puzzles")
    return puzzle[None]


def write_answers(options: Solve, puzzles: Int8Array, answers: Int8Array) -> None:
    """Write the answers to a file of puzzles."""
    if options.output is not None:
        write_csv(Boards(puzzles, answers), options.output)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["puzzle", "answer", "obeys the rules"])
    for puzzle, answer in zip(puzzles, answers, strict=True):
        writer.writerow([format_line(puzzle), format_line(answer), "yes" if obeys_rules(answer) else "no"])
