"""Local search: it ends where no single change lowers the learnt objective, which it tells right."""

import torch
from inference_problems import MIXED
from torch import Tensor

from difflayers import SATNet
from difflayers.inference import learnt_objective
from difflayers.inference.objective import Effort, start_vectors
from difflayers.inference.rounding import local_search


def problem(aux: int) -> tuple[SATNet, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = SATNet(MIXED.bits, 12, aux)
    sizes = torch.tensor(MIXED.sizes)
    values = (torch.rand(12, len(MIXED)) * sizes).long()
    return layer, values, torch.rand(12, len(MIXED)) < 0.7


def run(layer: SATNet, values: Tensor, open_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    S = layer.S.detach()
    return local_search(S, MIXED, values, open_, start_vectors(S, layer.k, 0, 0), Effort.of(layer))


def test_it_ends_where_no_single_variable_lowers_the_objective() -> None:
    layer, values, open_ = problem(0)  # without auxiliary variables the search sees the whole objective
    found, objective, passes = run(layer, values, open_)
    changed = (found != values).any(1)
    assert changed.any() and (passes[changed] == 2).all()  # one to begin with, and one that finds it as foreseen
    assert torch.equal(found[~open_], values[~open_])
    torch.testing.assert_close(objective, learnt_objective(layer, MIXED, found))
    for row, cells, lowest in zip(found, open_, objective, strict=True):
        for i in cells.nonzero()[:, 0].tolist():
            others = row.repeat(MIXED.sizes[i], 1)
            others[:, i] = torch.arange(MIXED.sizes[i])
            assert learnt_objective(layer, MIXED, others).min() > lowest - 1e-4


def test_with_auxiliary_variables_it_never_ends_higher() -> None:
    layer, values, _ = problem(5)
    found, objective, _ = run(layer, values, torch.ones_like(values, dtype=torch.bool))
    before = learnt_objective(layer, MIXED, values)
    assert (objective <= before * 1.001 + 1e-4).all() and (objective < before - 1e-3).any()
    torch.testing.assert_close(objective, learnt_objective(layer, MIXED, found), rtol=1e-2, atol=1e-2)
