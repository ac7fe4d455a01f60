"""From rows to a trained layer and its rules, and back from a run's folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from tqdm import tqdm

from demos.checkpoints import checkpoint_errors, load_weights, read_checkpoint, with_prefix
from demos.command import check_counts, check_rate, check_seeds
from demos.files import write_atomically
from demos.schedule import set_cosine_rate
from difflayers import Domains, SATNet
from difflayers.inference import (
    AcceptanceLimit,
    Answers,
    Rule,
    Rules,
    acceptance_limit,
    extract_rules,
    search,
    solve_exactly,
)

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "difflayers-table-2"


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
    longest: int = 6
    """The longest rules that are looked for, in literals: 2 to 8."""
    false_rules: float = 0.1
    """How many of the rules may be accidents, by expectation."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "m", "batch_size")
        check_counts(self, "aux", least=0)
        check_seeds(self)
        if not 2 <= self.longest <= 8:
            raise ValueError(f"--longest: got {self.longest}, wanted 2 to 8")
        check_rate("--lr", self.lr)
        if not 0 < self.false_rules < float("inf"):
            raise ValueError(f"--false-rules: got {self.false_rules}, wanted more than 0")


@dataclass(frozen=True)
class Run:
    """What was learnt from a table."""

    domains: Domains
    layer: SATNet
    rules: Rules
    limit: AcceptanceLimit
    """Up to which learnt objective an answer is taken, and whether the objective tells right from wrong at all."""
    seconds: float
    """What training and the extraction of the rules took."""


def train(
    domains: Domains,
    values: Tensor,
    options: Training,
    folder: Path,
    device: torch.device,
    *,
    question: Tensor | None = None,
) -> Run:
    """Learn the constraints of complete rows (count, columns); goes on where an earlier call with the same options ended.

    In each row a random share of the cells is hidden, and the layer fills them in. Columns of `question`, (columns,), bool,
    are never hidden.
    """
    generator = torch.Generator().manual_seed(options.seed)
    layer = SATNet(domains.bits, options.m, options.aux, device=device)
    layer.reset_parameters(generator=generator)
    adam = torch.optim.Adam(layer.parameters(), lr=options.lr)
    begun, spent = 0, 0.0
    always = torch.zeros(len(domains), dtype=torch.bool) if question is None else question
    path = folder / CHECKPOINT
    if path.exists():
        begun, spent = _restore(path, domains, options, layer, adam, generator)
    steps = options.epochs * -(-len(values) // options.batch_size)
    for epoch in range(begun, options.epochs):
        began = time.perf_counter()
        batches = torch.randperm(len(values), generator=generator).split(options.batch_size)
        bar = tqdm(batches, f"epoch {epoch + 1} of {options.epochs}", leave=False)
        for step, index in enumerate(bar, epoch * len(batches)):
            set_cosine_rate(adam, options.lr, step, steps)
            share = torch.rand(len(index), 1, generator=generator)
            given = (torch.rand(len(index), len(domains), generator=generator) < share) | always
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
        spent += time.perf_counter() - began
        about = _describe(domains, options) | {"epochs": epoch + 1, "seconds": spent, "rules": None}
        _save(path, layer, about, _training_state(adam, generator))
    began = time.perf_counter()
    rules = extract_rules(
        layer, domains, values, longest=options.longest, false_rules=options.false_rules, progress=True
    )
    limit = acceptance_limit(layer, domains, values, given=question, generator=generator)
    spent += time.perf_counter() - began
    about = _describe(domains, options) | {
        "epochs": options.epochs,
        "seconds": spent,
        "rules": [[list(r.clause), r.support, r.expected, r.strength] for r in rules],
        "limit": [float(limit), limit.separates, limit.right, limit.false, limit.auc],
    }
    _save(path, layer, about, {})
    return Run(domains, layer, rules, limit, spent)


def learn(
    domains: Domains,
    values: Tensor,
    options: Training,
    folder: Path,
    *,
    question: Tensor | None = None,
) -> Run:
    """The run of a folder: trained, trained further or, if it has ended there, read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    if path.exists():
        about = _about(path, read_checkpoint(path, FORMAT, argument="--output", missing="")[0])
        _check_same(path, about, domains, options)
        if about["rules"] is not None:
            return load(folder)
    return train(domains, values, options, folder, torch.device("cpu"), question=question)


def load(folder: Path) -> Run:
    """Read a finished run."""
    path = folder / CHECKPOINT
    metadata, tensors = read_checkpoint(path, FORMAT, argument="RUN", missing="; train one first")
    about = _about(path, metadata)
    if about["rules"] is None:
        raise ValueError(
            f"RUN: the training in {folder} did not end; give the same train command again, it goes on there"
        )
    with checkpoint_errors("RUN", path, "a run of `python -m demos.tables train`"):
        domains = Domains([len(each) for each in about["labels"]], names=about["names"], labels=about["labels"])
        options = Training(**about["options"])
        layer = SATNet(domains.bits, options.m, options.aux)
        load_weights(layer, {**layer.state_dict(), "S": tensors["S"]})
        rules = Rules(domains, [Rule(tuple(clause), *rest) for clause, *rest in about["rules"]])
        return Run(domains, layer, rules, AcceptanceLimit(*about["limit"]), about["seconds"])


def searched(
    learnt: Run, values: Tensor, given: Tensor, *, paths: int, seed: int = 0, progress: bool = False
) -> Answers:
    """Complete rows (count, columns) by the layer's search alone."""
    return search(
        learnt.layer,
        learnt.domains,
        values,
        given,
        limit=learnt.limit,
        rules=learnt.rules,
        paths=paths,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )


def fill(
    learnt: Run, values: Tensor, given: Tensor, *, paths: int = 10, seed: int = 0, progress: bool = False
) -> Answers:
    """Complete rows (count, columns) so that they break no learnt rule, as far as the given cells allow it.

    By the layer's search, which takes likely values. The rules judge, and the objective with them where it separates. Where
    that accepts nothing, a SAT solver finds the likeliest values that break no rule (each column's by itself, as one pass of
    the layer sees them), or proves that there are none.
    """
    found = searched(learnt, values, given, paths=paths, seed=seed, progress=progress)
    rest = ~found.accepted
    if rest.any():
        exact = solve_exactly(
            learnt.rules, learnt.domains, values[rest], given[rest], scores=scores(learnt, values[rest], given[rest])
        )
        found.values[rest] = torch.where(exact.satisfiable[:, None], exact.values, found.values[rest])
        found.accepted[rest] = exact.satisfiable
    return found


def without_weaker(rules: list[Rule], domains: Domains) -> list[Rule]:
    """The rules without those that follow from a single other one, as "not blue" does from "green"."""
    makes_true = [frozenset().union(*(_values_of(domains, literal) for literal in rule.clause)) for rule in rules]
    return [
        rule
        for i, (rule, values) in enumerate(zip(rules, makes_true, strict=True))
        if not any(other < values or (other == values and j < i) for j, other in enumerate(makes_true))
    ]


def _values_of(domains: Domains, literal: int) -> frozenset[tuple[int, int]]:
    """Which values of which variable, (variable, value), make a literal true."""
    variable, value = (domains.literals.abs() == abs(literal)).nonzero()[-1].tolist()
    others = [a for a in range(domains.sizes[variable]) if a != value]
    positive = (literal > 0) == bool(domains.literals[variable, value] > 0)
    return frozenset((variable, a) for a in ([value] if positive else others))


@torch.no_grad()
def scores(learnt: Run, values: Tensor, given: Tensor) -> Tensor:
    """log-probabilities (count, columns, largest) of the values, each column by itself, as one pass of the layer sees them."""
    bits, is_input = learnt.domains.encode(values, given)
    out = learnt.layer(bits, is_input, generator=torch.Generator().manual_seed(0))
    return learnt.domains.probabilities(out).clamp(min=1e-6).log()


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    with checkpoint_errors("RUN", path, "a run of `python -m demos.tables train`"):
        about: dict[str, Any] = json.loads(metadata["about"])
        _ = about["rules"], about["options"], about["labels"], about["epochs"]
    return about


def _describe(domains: Domains, options: Training) -> dict[str, Any]:
    return {"names": list(domains.names), "labels": [list(each) for each in domains.labels], "options": asdict(options)}


def _check_same(path: Path, about: dict[str, Any], domains: Domains, options: Training) -> None:
    if any(about[name] != value for name, value in _describe(domains, options).items()):
        raise ValueError(f"--output: {path} is of another table or other options; take another folder, or delete it")


def _save(path: Path, layer: SATNet, about: dict[str, Any], state: dict[str, Tensor]) -> None:
    tensors = {"S": layer.S.detach().cpu(), **state}
    write_atomically(path, save(tensors, {"format": FORMAT, "about": json.dumps(about)}))


def _training_state(adam: torch.optim.Adam, generator: torch.Generator) -> dict[str, Tensor]:
    (of_S,) = adam.state_dict()["state"].values()
    return {"generator": generator.get_state(), **{f"adam.{name}": tensor.cpu() for name, tensor in of_S.items()}}


def _restore(
    path: Path, domains: Domains, options: Training, layer: SATNet, adam: torch.optim.Adam, generator: torch.Generator
) -> tuple[int, float]:
    """Go on where a run ended; returns how many epochs it had, and what they took."""
    metadata, tensors = read_checkpoint(path, FORMAT, argument="--output", missing="")
    about = _about(path, metadata)
    _check_same(path, about, domains, options)
    if about["rules"] is not None:
        raise ValueError(f"--output: the training in {path.parent} has ended; take another folder, or delete it")
    with checkpoint_errors("--output", path, "an interrupted run"):
        load_weights(layer, {**layer.state_dict(), "S": tensors["S"]})
        adam.load_state_dict(
            {"state": {0: with_prefix(tensors, "adam.")}, "param_groups": adam.state_dict()["param_groups"]}
        )
        generator.set_state(tensors["generator"])
    return int(about["epochs"]), float(about["seconds"])
