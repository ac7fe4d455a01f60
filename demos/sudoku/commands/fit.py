"""``python -m demos.sudoku fit``: a layer from solved boards, in closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from demos.sudoku.commands.common import describe_data, describe_result, set_up_torch
from demos.sudoku.data import encode, load_split
from demos.sudoku.fit_options import Fit
from demos.sudoku.model import build, satnet_of
from demos.sudoku.train import Trainer
from difflayers import functional


def fit(options: Fit) -> int:
    """Make a layer of the equations that the solved boards satisfy, test it, and write it as `train` would."""
    config = options.config
    if not options.overwrite:
        Trainer.check_output(options.output, resumable=False)
    set_up_torch(options.machine.device, options.machine.threads, config.box)
    print(describe_data(config))
    boards, _ = load_split(config, progress=True)
    start = time.perf_counter()
    bits, _ = encode(torch.from_numpy(boards.solutions))
    S = functional.solutions_to_S(satnet_of(build(config)).shuffle(bits), tolerance=options.tolerance)
    seconds = time.perf_counter() - start
    print(
        f"{S.shape[1]:,} equations hold in all {len(boards):,} solved boards; found in {seconds:.2g} seconds",
        flush=True,
    )
    trainer = Trainer(replace(config, m=S.shape[1]), options.output, name="fit", device=options.machine.device)
    with torch.no_grad():
        satnet_of(trainer.net).layer.S.copy_(S)
    result = trainer.fit()
    print(f"\nOf the unseen boards: {describe_result(result)}.")
    print(f"Checkpoint and metrics are in {options.output}")
    return 0
