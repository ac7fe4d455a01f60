"""``python -m demos.sudoku fit``: a layer from solved boards, in closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from demos.sudoku.boards import Int8Array
from demos.sudoku.commands.common import append, check_append, describe_data, describe_result, set_up_torch
from demos.sudoku.data import encode, load_split
from demos.sudoku.extraction import learn_rules
from demos.sudoku.fit_options import Fit
from demos.sudoku.model import SudokuNet, build, satnet_of
from demos.sudoku.train import Trainer
from difflayers import functional

COLUMNS = (
    *("boards", "solved boards", "equations looked for", "equations", "seconds"),
    *("test boards", "boards wholly right", "blank cells right", "milliseconds a board", "CPU threads"),
)
"""Of `fit --append`."""


def fit(options: Fit) -> int:
    """Make a layer of the equations that the solved boards satisfy, test it, and write it as `train` would."""
    config = options.config
    if not options.overwrite:
        Trainer.check_output(options.output, resumable=False)
    if options.append is not None:
        check_append(options.append, COLUMNS)
    set_up_torch(options.machine.device, options.machine.threads, config.box)
    print(describe_data(config))
    boards = load_split(config, progress=True)
    solved = boards[0].solutions
    start = time.perf_counter()
    S = equations(satnet_of(build(config)), solved, options)
    seconds = time.perf_counter() - start
    error = "" if options.exactly_one else f" with a mean squared error of at most {options.tolerance:g}"
    print(
        f"{S.shape[1]:,} equations hold in {len(solved):,} solved boards{error}; found in {seconds:.2g} seconds",
        flush=True,
    )
    config = replace(config, m=S.shape[1])
    trainer = Trainer(config, options.output, name="fit", device=options.machine.device, boards=boards)
    with torch.no_grad():
        satnet_of(trainer.net).layer.S.copy_(S)
    result = trainer.fit()
    print(f"\nOf the unseen boards: {describe_result(result)}.")
    print(f"Checkpoint and metrics are in {options.output}")
    if options.append is not None:
        row = (
            *(f"{config.box**2}x{config.box**2}{config.variant}", len(solved)),
            *("exactly one" if options.exactly_one else "all", S.shape[1], seconds),
            *(result.boards, result.boards_right, result.blank_cells_right),
            *(1e3 * result.seconds / result.boards, torch.get_num_threads()),
        )
        append(options.append, dict(zip(COLUMNS, row, strict=True)))
    return 0


def equations(net: SudokuNet, solutions: Int8Array, options: Fit) -> Tensor:
    """Return the equations that solved boards satisfy, as a clause matrix in the order of the network's bits."""
    if options.exactly_one:
        A, b = learn_rules(None, solutions, exactly_one=True).equations()
        return functional.equations_to_S(net.shuffle(A), b)
    bits, _ = encode(torch.from_numpy(solutions))
    return functional.solutions_to_S(net.shuffle(bits), tolerance=options.tolerance)
