"""Parity of a bit sequence, learnt from one label a sequence: section 4.1 of the SATNet paper.

One SATNet layer goes along the sequence. Its two inputs are the next bit and what it said of the bits before; its output is
what it says now. Between two steps the output is rounded to 0 or 1, so that only the last application of the layer gets a
gradient. Only the last output has a label.
"""

from __future__ import annotations

import copy
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from tqdm import tqdm

from demos.checkpoints import checkpoint_errors, load_weights
from demos.command import check_counts, check_rate, check_seeds, run
from demos.devices import checked_device
from demos.files import csv_rows, csv_text, make_folder, write_atomically
from difflayers import SATNet

COLUMNS = ("length", "seed", "starts", "epochs", "minutes", "test_wrong")
"""Of results.csv."""


@dataclass(frozen=True)
class Options:
    """Train on sequences of each length, from each seed; test on sequences that were not trained on."""

    output: Path = Path("runs/parity")
    """Folder for results.csv and the weights. Runs that are finished there are not repeated; one
    that was interrupted goes on after its last whole epoch."""
    lengths: tuple[int, ...] = (20, 40)
    """Of the sequences, 2 to 62 bits."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each draws the sequences, the weights, the order and the layer's random starts of one run."""
    epochs: int = 20
    """At most so many. Training stops after the first in which all sequences of its second half came out right. If no more than
    60% did, which is chance, the weights are drawn anew."""
    train: int = 9000
    test: int = 1000
    batch_size: int = 50
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.1
    m: int = 4
    aux: int = 4
    prox_lam: float = 0.1
    eps: float = 1e-5
    device: str = "cpu"
    """cpu or cuda."""

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "train", "test", "batch_size", "m")
        check_counts(self, "aux", least=0)
        check_seeds(self, "seeds")
        check_rate("--lr", self.lr)
        for name in ("prox_lam", "eps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, wanted 0 or more")


def draw_sequences(length: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Different bit sequences (count, length), and their parities (count,)."""
    if not 2 <= length <= 62 or count > 2**length:
        raise ValueError(
            f"--lengths: got {length} with {count} sequences, wanted 2 to 62 and no more sequences than there are"
        )
    numbers = np.random.default_rng([seed, length]).choice(2**length, count, replace=False)
    bits = torch.from_numpy((numbers[:, None] >> np.arange(length)) & 1).float()
    return bits, bits.sum(1) % 2


def parity(layer: SATNet, bits: Tensor, generator: torch.Generator) -> Tensor:
    """The probability (B,) that an odd number of the bits (B, length) is 1."""

    def step(bit: Tensor, before: Tensor) -> Tensor:
        unknown = torch.full_like(before, 0.5)
        return layer(torch.stack((bit, before, unknown), 1), generator=generator)[:, 2]

    state = bits[:, 0]
    with torch.no_grad():
        for bit in bits.T[1:-1]:
            state = step(bit, state).round()
    return step(bits[:, -1], state)


def train(options: Options, length: int, seed: int) -> dict[str, float]:
    """One run; returns its row of the table."""
    device, generator = checked_device(options.device), torch.Generator().manual_seed(seed)
    bits, labels = (t.to(device) for t in draw_sequences(length, options.train + options.test, seed))
    given = torch.tensor([True, True, False])
    layer = SATNet(3, options.m, options.aux, 200, options.eps, options.prox_lam, input_mask=given, device=device)
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[options.optimizer](layer.parameters(), lr=options.lr)
    fresh = copy.deepcopy(optimizer.state_dict())
    epoch, starts, half, seconds = 0, 0, 0.0, 0.0
    interrupted = options.output / f"length-{length}-seed-{seed}.state"
    if interrupted.exists():
        with checkpoint_errors("--output", interrupted, "the state of an interrupted run; delete it to begin anew"):
            weights, state, drawn, (epoch, starts, half, seconds) = torch.load(interrupted)
            load_weights(layer, weights)
            optimizer.load_state_dict(state)
            generator.set_state(drawn)
    while epoch < options.epochs and half < 1:
        began = time.perf_counter()
        if half <= 0.6:
            layer.reset_parameters(generator=generator)
            optimizer.load_state_dict(fresh)
            starts += 1
        epoch, right = epoch + 1, []
        batches = torch.randperm(options.train, generator=generator).split(options.batch_size)
        for index in tqdm(batches, f"length {length}, seed {seed}, epoch {epoch}", leave=False):
            probability = parity(layer, bits[index], generator)
            # A probability of exactly 0 or 1 has an infinite cross-entropy.
            loss = binary_cross_entropy(probability.clamp(1e-6, 1 - 1e-6), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right.append((probability.round() == labels[index]).float().mean().item())
        half = sum(right[len(right) // 2 :]) / (len(right) - len(right) // 2)
        seconds += time.perf_counter() - began
        buffer = io.BytesIO()
        counts = (epoch, starts, half, seconds)
        torch.save((layer.state_dict(), optimizer.state_dict(), generator.get_state(), counts), buffer)
        write_atomically(interrupted, buffer.getvalue())
    with torch.no_grad():
        test = parity(layer, bits[options.train :], generator).round() != labels[options.train :]
    write_atomically(options.output / f"length-{length}-seed-{seed}.safetensors", save({"S": layer.S.detach().cpu()}))
    interrupted.unlink(missing_ok=True)
    return dict(zip(COLUMNS, (length, seed, starts, epoch, round(seconds / 60, 2), int(test.sum())), strict=True))


def _finished(table: Path) -> list[dict[str, str]]:
    """The rows of runs that are finished."""
    if not table.exists():
        return []
    (_, header), *rest = list(csv_rows(table)) or [(1, [])]
    if header != list(COLUMNS):
        raise ValueError(f"--output: {table} has the columns {','.join(header)}, wanted {','.join(COLUMNS)}")
    for line, row in rest:
        if len(row) != len(header):
            raise ValueError(f"--output: {table}, line {line}: {len(row)} cells, wanted {len(header)}")
    return [dict(zip(header, row, strict=True)) for _, row in rest]


def study(options: Options) -> None:
    """Train what is not there yet, and print the table."""
    torch.set_num_threads(1)  # a layer this small gains nothing from more
    checked_device(options.device)
    make_folder(options.output, "--output")
    table = options.output / "results.csv"
    rows = _finished(table)
    for length in options.lengths:
        for seed in options.seeds:
            if not any((row["length"], row["seed"]) == (str(length), str(seed)) for row in rows):
                rows.append({name: str(value) for name, value in train(options, length, seed).items()})
                write_atomically(table, csv_text(rows).encode())
                print(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    print(f"results in {table}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run("python -m demos.parity", __doc__, Options, study, argv)


if __name__ == "__main__":
    sys.exit(main())
