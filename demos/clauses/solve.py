"""The layer from clauses at work: one pass, and decimation (decide the surest, propagate, solve again)."""

import numpy as np
import torch
from tqdm import tqdm

from demos.clauses.problems import Clauses, Propagation
from difflayers import SATNet


def probabilities(layer: SATNet, values: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """One pass: values (B, n) of 1, 0 and -1 (undecided) to probabilities (B, n)."""
    z = torch.from_numpy(values).to(layer.S)
    with torch.no_grad():
        out = layer(z.clamp(min=0), z >= 0, generator=generator)
    return out.cpu().numpy().astype(np.float64)


def decimate(
    layer: SATNet, clauses: Clauses, values: np.ndarray, *, share: float, seed: int, progress: bool = True
) -> np.ndarray:
    """Solve, set the `share` of the undecided variables that are surest to be true, propagate, and again.

    Each round of the batch (B, n) takes one pass of the layer. A sample that runs into a contradiction stays as it was before
    that round, undecided variables at -1: no search, no going back.
    """
    propagate, generator = Propagation(clauses), torch.Generator().manual_seed(seed)
    values = values.copy()
    alive = np.array([propagate(row) for row in values])
    with tqdm(
        total=int((values < 0).sum()),
        desc="decimation",
        unit=" variables",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        while len(active := np.flatnonzero(alive & (values < 0).any(1))):
            p = np.where(values[active] < 0, probabilities(layer, values[active], generator), -1)
            before = int((values < 0).sum())
            for b, row in zip(active, p, strict=True):
                new = values[b].copy()
                # Of the undecided variables of a Sudoku cell or a queens row about one is true: count those expected to be.
                expected = row[row >= 0].sum()
                for i in np.argsort(-row, kind="stable")[: max(1, int(share * expected))]:
                    if new[i] < 0:
                        new[i] = 1
                        alive[b] = propagate(new)
                        if not alive[b]:
                            break
                if alive[b]:
                    values[b] = new
            bar.update(before - int((values < 0).sum()))
    return values
