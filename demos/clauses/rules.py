"""The command ``read``: rules in words, out of a layer that has learnt Sudoku."""

from __future__ import annotations

from demos.clauses.options import Read
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.model import build, satnet_of
from demos.sudoku.rules import measure
from difflayers import functional


def read_rules(options: Read) -> None:
    """Read the strongest rules out of a trained Sudoku layer."""
    checkpoint = load_checkpoint(options.checkpoint)
    net = build(checkpoint.config)
    net.load_state_dict(checkpoint.model)
    net = satnet_of(net)
    numbers = range(1, net.box**2 + 1)
    names = [f"r{r}c{c}={d}" for r in numbers for c in numbers for d in numbers]
    S = net.board_layer().S.detach()[: len(names) + 1]
    found = functional.relations(S, len(names), top=None, names=names)
    exclusions = [relation for relation in found if relation.kind == "different"]
    print(f"the {options.top} strongest exclusions of two variables that training has found:\n")
    for relation in exclusions[: options.top]:
        print(f"  {relation}")
    measured = measure(net)
    print(
        f"\nThe rules of Sudoku say of {measured.pairs} pairs of variables that not both are true. Of the strongest exclusions,"
    )
    for count in (100, 1000, measured.pairs // 2, measured.pairs):
        if count <= measured.pairs:
            print(f"  {measured.precision[count - 1]:8.2%} of {count} are among these rules")
