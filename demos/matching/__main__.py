"""Solve one matching problem by every method, print what each gives up, and draw the assignments."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from demos.command import check_counts, check_seeds, run
from demos.devices import checked_device
from demos.files import check_output, write_atomically
from demos.options import Device
from difflayers import functional

METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "Hungarian": functional.hungarian,
    "greedy": functional.greedy_matching,
    "DMM": functional.dmm_matching,
    "DMM, last iterate": lambda c: functional.dmm_matching(c, average=False),
    "quadratic, gamma 0.01": lambda c: functional.quadratic_matching(c, 0.01),
    "quadratic, gamma 0.1": lambda c: functional.quadratic_matching(c, 0.1),
    "quadratic, gamma 1": lambda c: functional.quadratic_matching(c, 1.0),
}


@dataclass(frozen=True)
class Options:
    """A problem of random costs."""

    templates: int = 6
    """Rows of the cost."""
    proposals: int = 9
    """Columns of the cost, as many as rows or more."""
    seed: int = 4
    """Of the cost."""
    output: Path = Path("matching.png")
    """The picture."""
    overwrite: bool = False
    """Replace that file if it is there."""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "templates")
        check_counts(self, "proposals", least=self.templates)
        check_seeds(self)


def compare(options: Options) -> None:
    """Solve a random problem by every method, and write the table and the picture."""
    check_output(options.output, "--output", overwrite=options.overwrite)
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
    write_atomically(options.output, _picture(cost, solutions))
    print(f"\nPicture: {options.output}")


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


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.matching", __doc__, Options, compare, argv)


if __name__ == "__main__":
    sys.exit(main())
