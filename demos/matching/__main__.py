"""`python -m demos.matching`: solve one problem by every method, print what each gives up, and draw the assignments."""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from demos.command import check_seeds, guarded
from demos.devices import add_device, checked_device
from demos.files import check_output, write_atomically
from difflayers import functional

PROGRAM = "python -m demos.matching"

METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "Hungarian": functional.hungarian,
    "greedy": functional.greedy_matching,
    "DMM": functional.dmm_matching,
    "DMM, last iterate": lambda c: functional.dmm_matching(c, average=False),
    "quadratic, gamma 0.01": lambda c: functional.quadratic_matching(c, 0.01),
    "quadratic, gamma 0.1": lambda c: functional.quadratic_matching(c, 0.1),
    "quadratic, gamma 1": lambda c: functional.quadratic_matching(c, 1.0),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split(": ", 1)[1])
    parser.add_argument("--templates", type=int, default=6, metavar="N", help="rows of the cost (default: 6)")
    parser.add_argument("--proposals", type=int, default=9, metavar="M", help="columns of the cost (default: 9)")
    parser.add_argument("--seed", type=int, default=4, help="of the random cost (default: 4)")
    add_device(parser)
    parser.add_argument("--out", type=Path, default=Path("matching.png"), metavar="FILE", help="the picture (PNG)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    options = parser.parse_args(arguments)
    if not 1 <= options.templates <= options.proposals:
        parser.error(f"--templates must be from 1 to --proposals, {options.proposals}; got {options.templates}")
    return guarded(PROGRAM, lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Solve a random problem by every method, and write the table and the picture."""
    check_output(options.out, "--out", overwrite=options.overwrite)
    check_seeds(options)
    device = checked_device(options.device)
    cost = torch.rand(
        options.templates, options.proposals, generator=torch.Generator().manual_seed(options.seed), dtype=torch.float64
    )
    solutions = {name: solve(cost.to(device)).cpu() for name, solve in METHODS.items()}
    print(f"{'':22} {'cost':>7} {'above optimum':>14} {'columns off by':>15} {'signs off by':>13}")
    optimum = (solutions["Hungarian"] * cost).sum()
    for name, X in solutions.items():
        value, over = (X * cost).sum(), (X.sum(0) - 1).clamp(min=0).max()
        print(f"{name:22} {value:7.4f} {value - optimum:14.2g} {over:15.1g} {(-X).max().clamp(min=0) + 0.0:13.1g}")
    write_atomically(options.out, _picture(cost, solutions))
    print(f"\nPicture: {options.out}")


def _picture(cost: Tensor, solutions: dict[str, Tensor]) -> bytes:
    """The cost and every assignment, as shades: a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4).flat
    for axes, (name, table) in zip(panels, {"cost": cost, **solutions}.items(), strict=True):
        shades = {"cmap": "Greys", "vmin": 0, "vmax": 1} if name == "cost" else {"cmap": "Blues", "vmin": 0, "vmax": 1}
        axes.imshow(table.numpy(), **shades)
        axes.set(title=name, xticks=[], yticks=[])
        axes.set_xlabel("proposals", fontsize=8)
        axes.set_ylabel("templates", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
