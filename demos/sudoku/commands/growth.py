"""``python -m demos.sudoku growth``: what a training step costs as boards grow."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import replace

import torch

from demos.sudoku.commands.common import append, print_result, set_up_torch
from demos.sudoku.config import PRESETS
from demos.sudoku.data import encode
from demos.sudoku.evaluation import Result
from demos.sudoku.generator import generate
from demos.sudoku.growth_options import Growth
from demos.sudoku.model import bit_loss, build


def growth(options: Growth) -> int:
    """Measure training steps, for each size of boards in a process of its own, whose peak of memory is then its own."""
    context = multiprocessing.get_context("spawn")
    for box in options.boxes:
        with context.Pool(1) as pool:
            row = pool.apply(measure_steps, (box, options))
        print_result(row)
        if options.append is not None:
            append(options.append, row)
    return 0


def measure_steps(box: int, options: Growth) -> Result:
    """Train a fresh network with the default sizes for so many steps, after one that is not counted, always on new boards."""
    set_up_torch("cpu", options.threads, box)
    config = replace(PRESETS[box], batch_size=options.batch_size)
    boards = generate(box, config.givens, config.batch_size * (1 + options.steps), config.seed)
    net = build(config)
    adam = torch.optim.Adam(net.parameters(), lr=config.lr)
    before = peak_megabytes()
    seconds, processor = [], []
    for first in range(0, len(boards), config.batch_size):
        batch = boards[first : first + config.batch_size]
        start, started = time.perf_counter(), time.process_time()
        bits, given = net.inputs(batch)
        target, _ = encode(torch.from_numpy(batch.solutions))
        loss = bit_loss(net(bits, given, generator=torch.Generator().manual_seed(first)), target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - started)
    return {
        "board": f"{box**2}x{box**2}",
        "bits": box**6,
        "m": config.m,
        "aux": config.aux,
        "k": config.k,
        "weights": sum(parameter.numel() for parameter in net.parameters()),
        "boards a step": config.batch_size,
        "seconds a step": round(statistics.median(seconds[1:]), 4),
        "CPU seconds a step": round(statistics.median(processor[1:]), 4),
        "peak memory, MB": round(peak_megabytes()),
        "of that before the first step, MB": round(before),
        "CPU threads": torch.get_num_threads(),
    }


def peak_megabytes() -> float:
    """Return the most memory that this process has held so far."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
