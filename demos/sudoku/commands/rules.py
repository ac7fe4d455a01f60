"""``python -m demos.sudoku rules``, ``exact`` and ``pairs``: what a layer has learnt, and what follows from it."""

from __future__ import annotations

from demos.files import write_atomically
from demos.sudoku.boards import Int8Array
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.commands.common import append, print_result, solved_boards
from demos.sudoku.data import domains_of, read_csv, to_values
from demos.sudoku.evaluation import Result
from demos.sudoku.extraction import compare, evaluate_exact, learn_rules, pairs_by_boards
from demos.sudoku.generator import generate
from demos.sudoku.model import restore, satnet_of
from demos.sudoku.options import Exact, Pairs, Rules
from demos.sudoku.rules import changed_boards, measure, rules_png
from difflayers import inference


def compare_with_rules(options: Rules) -> int:
    """Compare what a checkpoint has learnt with the rules, and draw it."""
    checkpoint = load_checkpoint(options.checkpoint)
    solver = satnet_of(restore(checkpoint))
    found = measure(solver)
    print(
        f"By the rules of Sudoku {found.pairs:,} pairs of bits exclude each other. Of the couplings s_i . s_j of the layer,"
    )
    for recall in (0.5, 0.8, 0.9, 1.0):
        print(
            f"  the strongest that hold {recall:4.0%} of these pairs are such pairs to {found.precision_at(recall):7.2%}"
        )
    print(f"average precision {found.average_precision:.4f}")
    print(f"Among the {found.pairs:,} strongest couplings are, of the pairs that exclude each other within a")
    for kind, share in found.recall_by_kind.items():
        print(f"  {kind:<6} {share:8.2%}")
    boards = generate(checkpoint.config.box, checkpoint.config.box**4 // 2, options.count, seed=1, progress=True)
    limit = checkpoint.limit
    told = "nothing is accepted by it" if limit is None else f"answers are accepted up to {limit:.2f}"
    print(f"The learnt objective of {options.count:,} generated boards; {told}.")
    layer, domains = solver.board_layer(), domains_of(solver.box)
    for name, changed in changed_boards(boards.solutions).items():
        values = inference.learnt_objective(layer, domains, to_values(changed)[0]).numpy()
        print(
            f"  {name:<20}{values.mean():7.2f} +- {values.std():.2f}, from {values.min():.2f} to {values.max():.2f}"
            + ("" if limit is None else f"; {(values <= limit).mean():7.2%} accepted")
        )
    if options.output is not None:
        size = checkpoint.config.box**2
        title = f"{size}x{size} Sudoku{checkpoint.config.variant}: what S has learnt, bits put in order four ways"
        write_atomically(options.output, rules_png(solver, title))
        print(f"picture: {options.output}")
    return 0


def _first(name: str, count: int, solutions: Int8Array) -> int:
    if not 1 <= count <= len(solutions):
        raise ValueError(f"{name}: got {count}, wanted 1 to {len(solutions)}, the solved boards there are")
    return count


def solve_by_rules(options: Exact) -> int:
    """Solve files of puzzles by extracted rules."""
    checkpoint = load_checkpoint(options.checkpoint)
    files = [(path.name, read_csv(path, checkpoint.config.box)) for path in options.data]
    solutions = solved_boards(options.solutions, checkpoint)
    if options.first is not None:
        solutions = solutions[: _first("--first", options.first, solutions)]
    net = None if options.counting else satnet_of(restore(checkpoint))
    rules = learn_rules(net, solutions, exactly_one=options.exactly_one)
    total, held, others = compare(rules, checkpoint.config.box)
    source = f"{'' if net is None else 'the layer and '}{len(solutions):,} solved boards"
    print(
        f"rules extracted from {source}: {held:,} of the {total:,} pairs of bits that "
        f"exclude each other in Sudoku, {others:,} pairs that do not"
    )
    for name, boards in files:
        described: Result = {
            "boards": f"{len(boards):,} boards from {name}",
            "rules from": len(solutions),
            "the layer's word": "no" if net is None else "yes",
        }
        result = described | evaluate_exact(rules, boards)
        print_result(result)
        if options.append is not None:
            append(options.append, result)
    return 0


def count_pairs(options: Pairs) -> int:
    """Count the exclusions extracted from more and more boards."""
    for path in options.checkpoint:
        checkpoint = load_checkpoint(path)
        solutions = solved_boards(options.solutions, checkpoint)
        counts = [_first("--counts", count, solutions) for count in options.counts]
        name = f"{'permuted' if checkpoint.config.permuted else 'original'}, trained on {checkpoint.config.train:,}"
        net = satnet_of(restore(checkpoint))
        for row in pairs_by_boards(net, name, solutions, counts, exactly_one=options.exactly_one):
            print_result(row)
            if options.append is not None:
                append(options.append, row)
    return 0
