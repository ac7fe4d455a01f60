"""From rows to a trained layer and its rules, and back from a run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from tqdm import tqdm

from demos.checkpoints import read_checkpoint, with_prefix
from demos.files import write_atomically
from demos.schedule import set_cosine_rate
from difflayers import Domains, SATNet
from difflayers.inference import Rule, Rules, extract_rules

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "difflayers-table-1"


@dataclass(frozen=True)
class Training:
    """How a layer is trained on the rows of a table."""

    epochs: int = 10
    m: int = 150
    """Columns of the clause matrix."""
    aux: int = 50
    """Auxiliary variables."""
    batch_size: int = 50
    lr: float = 3e-3
    """The highest learning rate; it falls to 0 along half a cosine."""
    longest: int = 3
    """The longest rules that are looked for, in literals: 2 or 3."""
    false_rules: float = 0.1
    """How many of the rules may be accidents, by expectation."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "m", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, wanted 1 or more")


@dataclass(frozen=True)
class Run:
    """What was learnt from a table."""

    domains: Domains
    layer: SATNet
    rules: Rules


def train(domains: Domains, values: Tensor, options: Training, folder: Path, device: torch.device) -> Run:
    """Learn the constraints of complete rows (count, columns); goes on where an earlier call with the same options ended.

    In each row a random share of the cells is hidden, and the layer fills them in.
    """
    generator = torch.Generator().manual_seed(options.seed)
    layer = SATNet(domains.bits, options.m, options.aux, device=device)
    layer.reset_parameters(generator=generator)
    adam = torch.optim.Adam(layer.parameters(), lr=options.lr)
    begun = 0
    path = folder / CHECKPOINT
    if path.exists():
        begun = _restore(path, domains, options, layer, adam, generator)
    steps = options.epochs * -(-len(values) // options.batch_size)
    for epoch in range(begun, options.epochs):
        batches = torch.randperm(len(values), generator=generator).split(options.batch_size)
        bar = tqdm(batches, f"epoch {epoch + 1} of {options.epochs}", leave=False)
        for step, index in enumerate(bar, epoch * len(batches)):
            set_cosine_rate(adam, options.lr, step, steps)
            share = torch.rand(len(index), 1, generator=generator)
            given = torch.rand(len(index), len(domains), generator=generator) < share
            bits, _ = domains.encode(values[index])
            _, is_input = domains.encode(values[index], given)
            bits, is_input = bits.to(device), is_input.to(device)
            out = layer(bits, is_input, generator=generator)
            hidden = ~is_input
            # A probability of exactly 0 or 1 has an infinite cross-entropy.
            loss = (
                binary_cross_entropy(out[hidden].clamp(1e-3, 1 - 1e-3), bits[hidden]) if hidden.any() else out.sum() * 0
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        _save(path, domains, options, layer, epoch + 1, None, _training_state(adam, generator))
    rules = extract_rules(
        layer, domains, values, longest=options.longest, false_rules=options.false_rules, progress=True
    )
    _save(path, domains, options, layer, options.epochs, rules, _training_state(adam, generator))
    return Run(domains, layer, rules)


def load(folder: Path) -> Run:
    """Read a finished run."""
    path = folder / CHECKPOINT
    metadata, tensors = read_checkpoint(path, FORMAT, argument="RUN", missing="; train one first")
    about = _about(path, metadata)
    if about["rules"] is None:
        raise ValueError(
            f"RUN: the training in {folder} did not end; give the same train command again, it goes on there"
        )
    domains = Domains([len(each) for each in about["labels"]], names=about["names"], labels=about["labels"])
    options = Training(**about["options"])
    layer = SATNet(domains.bits, options.m, options.aux)
    with torch.no_grad():
        layer.S.copy_(tensors["S"])
    return Run(domains, layer, Rules(domains, [Rule(tuple(clause), *rest) for clause, *rest in about["rules"]]))


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(metadata["about"])
    except (KeyError, json.JSONDecodeError):
        raise ValueError(f"RUN: {path} is damaged") from None
    return about


def _save(
    path: Path,
    domains: Domains,
    options: Training,
    layer: SATNet,
    epochs: int,
    rules: Rules | None,
    state: dict[str, Tensor],
) -> None:
    listed = None if rules is None else [[list(r.clause), r.support, r.expected, r.strength] for r in rules]
    about = {
        "names": domains.names,
        "labels": domains.labels,
        "options": asdict(options),
        "epochs": epochs,
        "rules": listed,
    }
    tensors = {"S": layer.S.detach().cpu(), **({} if rules is not None else state)}
    write_atomically(path, save(tensors, {"format": FORMAT, "about": json.dumps(about)}))


def _training_state(adam: torch.optim.Adam, generator: torch.Generator) -> dict[str, Tensor]:
    (of_S,) = adam.state_dict()["state"].values()
    return {"generator": generator.get_state(), **{f"adam.{name}": tensor.cpu() for name, tensor in of_S.items()}}


def _restore(
    path: Path, domains: Domains, options: Training, layer: SATNet, adam: torch.optim.Adam, generator: torch.Generator
) -> int:
    """Go on where a run ended; returns how many epochs it had."""
    metadata, tensors = read_checkpoint(path, FORMAT, argument="--output", missing="")
    about = _about(path, metadata)
    if about["options"] != asdict(options) or about["labels"] != [list(each) for each in domains.labels]:
        raise ValueError(f"--output: {path} is of another table or other options; take another folder, or delete it")
    if about["rules"] is not None:
        raise ValueError(f"--output: the training in {path.parent} has ended; take another folder, or delete it")
    with torch.no_grad():
        layer.S.copy_(tensors["S"])
    adam.load_state_dict(
        {"state": {0: with_prefix(tensors, "adam.")}, "param_groups": adam.state_dict()["param_groups"]}
    )
    generator.set_state(tensors["generator"])
    return int(about["epochs"])
