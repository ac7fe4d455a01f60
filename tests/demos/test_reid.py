"""The re-identification demo."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended_cuda import Cuda

from demos.reid.__main__ import PICTURE_NAME, RUNS_NAME, SUMMARY_NAME, main
from demos.reid.config import FIRST_TUNING_SEED, Config, Sizes
from demos.reid.data import IDENTITY, NUISANCE, OBSERVED, Problems, _draw, make_problems
from demos.reid.model import ASSIGNMENTS, EXPERIMENTS, Features, counts, log_sinkhorn
from demos.reid.study import Study, grid, summarize
from demos.reid.train import score, train
from difflayers import functional

SIZES = Sizes(templates=3, proposals=5, cluster=2, outcomes=2, group=2)
CONFIG = Config(
    experiments=("labels",),
    methods=("rows", "dmm"),
    train=(4, 8),
    steps=2,
    batch_size=4,
    seeds=2,
    tuning_worlds=1,
    test=6,
    sizes=SIZES,
)
TINY = [
    *("--templates", "3", "--proposals", "5", "--cluster", "2", "--outcomes", "2", "--group", "2"),
    *("--train", "4", "--steps", "1", "--batch-size", "4", "--seeds", "2", "--test", "4"),
]
CASES = [(experiment, name) for experiment, methods in EXPERIMENTS.items() for name in methods]


def fields(problems: Problems) -> list[torch.Tensor]:
    return [value for value in vars(problems).values() if isinstance(value, torch.Tensor)]


# --- data ---------------------------------------------------------------------------------------------------


def test_problems_depend_on_seed_split_and_place_alone() -> None:
    torch.manual_seed(0)
    many = make_problems(3, "train", 6, SIZES)
    torch.manual_seed(1)
    few = make_problems(3, "train", 4, SIZES)
    for a, b in zip(fields(many), fields(few), strict=True):
        torch.testing.assert_close(a[:4], b, rtol=0, atol=0)
    for other in (make_problems(4, "train", 6, SIZES), make_problems(3, "test", 6, SIZES)):
        assert not any(bool((a == b).all(1).any()) for a, b in zip(many.templates, other.templates, strict=True))


def test_labels_are_right() -> None:
    """What generates the looks says which are of the same object: identities differ by the two shifts only."""
    import numpy as np

    problems = make_problems(0, "train", 50, SIZES)
    for k in range(50):
        first, second, match, outcome = _draw(np.random.default_rng([0, 0, k]), SIZES)
        assert first.shape == (3, IDENTITY + NUISANCE + OBSERVED) and second.shape[0] == 5
        moved = first[:, None, :IDENTITY] - second[None, :, :IDENTITY]
        same = np.abs(moved - moved[0, match[0]]).max(-1) < 1e-9
        assert same.sum() == 3 and same[np.arange(3), match].all()
        assert problems.match[k].tolist() == match.tolist() and len(set(match.tolist())) == 3
        assert problems.template_outcome[k].tolist() == outcome[match].tolist()
    # Every place and outcome occurs.
    assert set(problems.match.flatten().tolist()) == set(range(5))
    assert set(problems.proposal_outcome.flatten().tolist()) == {0, 1}


def test_batches_go_through_all_problems() -> None:
    problems = make_problems(0, "train", 6, SIZES)
    batches = list(problems.batches(2, 5, torch.Generator().manual_seed(0)))
    seen = [tuple(look.flatten().tolist()) for batch in batches[:3] for look in batch.templates]
    assert len(batches) == 5 and len(set(seen)) == 6
    assert [len(batch) for batch in problems.batches(9, 2, torch.Generator().manual_seed(0))] == [6, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proposals": 2}, "proposals: got 2, wanted at least as many as templates, 3"),
        ({"templates": 0}, "templates: got 0, wanted 1 or more"),
        ({"cluster": 0}, "cluster: got 0"),
        ({"outcomes": 1}, "outcomes: got 1, wanted 2 or more"),
        ({"group": 0}, "group: got 0"),
    ],
)
def test_wrong_sizes(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES, **change)


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1, "train", 1), "seed"), ((0, "training", 1), "split"), ((0, "train", 0), "count")]
)
def test_wrong_arguments_of_problems(arguments: tuple[int, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_problems(*arguments, SIZES)


# --- methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(4, 7), (4, 4), (1, 1), (1, 3)])
def test_sinkhorn_is_the_entropic_optimum(n: int, m: int) -> None:
    """Feasible, and of the optimum's form: log X - S is a row's number plus a column's, the latter 0 where X' 1 < 1
    would be: with the slack row's masses, the columns sum to 1 exactly."""
    S = 2 * torch.randn(3, n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_X = log_sinkhorn(S, rounds=2000)
    X = log_X.exp()
    torch.testing.assert_close(X.sum(-1), torch.ones(3, n, dtype=torch.float64))
    assert X.sum(-2).max() < 1 + 1e-6
    potential = log_X - S
    rest = potential - potential.mean(-1, keepdim=True) - potential.mean(-2, keepdim=True)
    torch.testing.assert_close(rest, -potential.mean((-2, -1), keepdim=True).expand_as(S))
    if n < m:
        left = 1 - X.sum(-2)
        torch.testing.assert_close(left.sum(-1), torch.full((3,), m - n, dtype=torch.float64))
        # The slack row has similarity 0: its logarithm shares the columns' numbers.
        same = left.log() - potential[:, 0]
        torch.testing.assert_close(same, same[:, :1].expand_as(same), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_logarithm_of_an_assignment(name: str) -> None:
    S = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    X, log = ASSIGNMENTS[name].X(S), ASSIGNMENTS[name].log
    if log is None:
        assert set(X.unique().tolist()) == {0, 1}
    else:
        torch.testing.assert_close(log(S).exp(), X, rtol=0, atol=0.03)


@pytest.mark.parametrize(("experiment", "name"), CASES)
def test_every_loss_is_least_near_the_truth_and_has_a_gradient(experiment: str, name: str) -> None:
    problems = make_problems(0, "train", 4, SIZES)
    net = Features(1.0, generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.one_hot(problems.match, 5).float()
    for loss in EXPERIMENTS[experiment][name].losses.values():
        with torch.no_grad():
            right, wrong = (loss(S, problems, net) for S in (8 * truth, 8 * truth.roll(1, -1)))
        # Agreement makes many pairs positive: for it, the true pairs alone are not the best answer.
        assert right < wrong or (experiment, name) == ("outcomes", "pairs")
        net.zero_grad()
        torch.autograd.backward(loss(net(problems), problems, net))
        gradient = net.first.weight.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["structured", "structured-entropic", "hinge"])
def test_structured_losses_have_the_gradients_of_their_values(name: str) -> None:
    """X itself is not differentiated, and need not be (Danskin)."""
    (structured_loss,) = EXPERIMENTS["labels"][name].losses.values()
    problems = make_problems(0, "train", 2, SIZES)
    net = Features(1.0, generator=torch.Generator().manual_seed(0))
    S = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda S: structured_loss(S, problems, net), S)
    perfect = 100 * torch.nn.functional.one_hot(problems.match, 5).double()
    assert abs(structured_loss(perfect, problems, net).item()) < 1e-9


def test_hard_labels_agree_with_the_outcomes() -> None:
    """They are the best assignment among the pairs that agree, whatever the similarities say."""
    problems = make_problems(0, "train", 8, SIZES)
    agreement = problems.template_outcome[..., None] == problems.proposal_outcome[:, None]
    S = 3 * torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0))
    X = functional.hungarian((-S).masked_fill(~agreement, torch.inf))
    assert agreement[X.bool()].all()
    expected = -(S.log_softmax(-1) * X).sum(-1).mean()
    net = Features(1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(EXPERIMENTS["outcomes"]["hard"].losses["log"](S, problems, net), expected)


# --- training -----------------------------------------------------------------------------------------------


def test_score() -> None:
    problems = make_problems(0, "test", 10, SIZES)
    truth = torch.nn.functional.one_hot(problems.match, 5).float()
    perfect = score(truth, problems)
    assert vars(perfect) == {"hungarian": 1, "greedy": 1, "argmax": 1, "outcome": 1, "count": 1}
    assert score(-truth, problems).hungarian == 0
    # Templates 0 and 1 are one group: exchanged, they are counted rightly.
    swapped = score(truth[:, [1, 0, 2]], problems)
    assert swapped.hungarian == pytest.approx(1 / 3) and swapped.count == 1
    exchanged = problems.template_outcome[:, 0] != problems.template_outcome[:, 1]
    assert swapped.outcome == pytest.approx(1 - 2 * exchanged.sum().item() / 30) and swapped.outcome < 1


def test_counts() -> None:
    outcomes = torch.tensor([[0, 2, 1, 1, 1]])
    table = counts(torch.nn.functional.one_hot(outcomes, 3).float(), 3)
    assert table.tolist() == [[[1, 1, 1], [0, 2, 0]]]


def test_training_learns_and_is_deterministic() -> None:
    sizes = Sizes(templates=4, proposals=6)
    problems, unseen = make_problems(0, "train", 64, sizes), make_problems(0, "test", 100, sizes)
    config = replace(CONFIG, steps=120, batch_size=16, sizes=sizes)
    loss = EXPERIMENTS["labels"]["dmm"].losses["log"]
    nets = [train(loss, problems, config, lr=1e-2, scale=4.0, seed=seed) for seed in (0, 0, 1)]
    with torch.no_grad():
        results = [score(net(unseen), unseen).hungarian for net in nets]
    weights = [net.first.weight for net in nets]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    fresh = Features(4.0, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert min(results) > score(fresh(unseen), unseen).hungarian + 0.05


def test_every_loss_trains_on_cuda(cuda: Cuda) -> None:
    problems = make_problems(0, "train", 8, SIZES)
    for experiment, name in CASES:
        for loss in EXPERIMENTS[experiment][name].losses.values():
            cpu, there = (
                train(loss, problems.to(device), CONFIG, lr=1e-2, scale=4.0, seed=0) for device in ("cpu", "cuda")
            )
            weight = there.first.weight
            assert weight.device.type == "cuda" and weight.isfinite().all()
            assert not cuda.exact or torch.equal(weight.cpu(), cpu.first.weight)


def test_tuning_looks_at_its_own_worlds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import demos.reid.study as module

    asked = []

    def spy(seed: int, split: str, count: int, sizes: Sizes) -> Problems:
        asked.append((seed, split))
        return make_problems(seed, split, count, sizes)

    monkeypatch.setattr(module, "make_problems", spy)
    study = Study(CONFIG)
    study.tune("labels", "rows", 4)
    assert set(asked) == {(FIRST_TUNING_SEED, "train"), (FIRST_TUNING_SEED, "validation")}


def test_a_study_is_the_same_each_time_and_a_part_of_it_too() -> None:
    ticks = []
    runs = [run for cell in Study(CONFIG, progress=lambda text, done: ticks.append(done)).run() for run in cell]
    assert sum(ticks) == Study(CONFIG).trainings()
    assert len(runs) == len(set(runs)) == 2 * 2 * 2
    assert {len(grid(EXPERIMENTS["labels"][name])) for name in ("pairs", "structured")} == {9}
    part = replace(CONFIG, methods=("dmm",), train=(8,))
    again = [run for cell in Study(part).run() for run in cell]
    assert again == [run for run in runs if run.method == "dmm" and run.train == 8]

    table = summarize(runs)
    assert [(row["method"], row["train"]) for row in table] == [("rows", 4), ("rows", 8), ("dmm", 4), ("dmm", 8)]
    dmm, rows = (
        [run.score.hungarian for run in runs if run.method == name and run.train == 8] for name in ("dmm", "rows")
    )
    assert table[3]["hungarian_mean"] == pytest.approx(sum(dmm) / 2, abs=1e-5)
    assert table[3]["hungarian_std"] == pytest.approx(abs(dmm[0] - dmm[1]) / 2**0.5, abs=1e-5)
    assert table[3]["lead_mean"] == pytest.approx((sum(dmm) - sum(rows)) / 2, abs=1e-5)
    assert summarize(again)[0]["lead_mean"] == "" and summarize(again[:1])[0]["hungarian_std"] == ""


# --- command line -------------------------------------------------------------------------------------------


def test_command_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "results"
    command = [*TINY, "--output", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "lead over rows" in printed and "observations as they are" in printed and str(out) in printed
    assert (out / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")
    with (out / RUNS_NAME).open() as file:
        runs = list(csv.DictReader(file))
    assert [(run["experiment"], run["method"]) for run in runs[::2]] == CASES
    with (out / SUMMARY_NAME).open() as file:
        summary = list(csv.DictReader(file))
    assert len(summary) == len(CASES) and all(row["seeds"] == "2" for row in summary)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    assert main(command) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([*command, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_command_on_cuda(cuda: Cuda, tmp_path: Path) -> None:
    command = [*TINY, "--methods", "dmm", "hard", "--no-picture", "--output"]
    assert main([*command, str(tmp_path / "cpu")]) == 0 and not cuda.used()
    assert main([*command, str(tmp_path / "cuda"), "--device", "cuda"]) == 0 and cuda.used()
    if cuda.exact:
        for name in (RUNS_NAME, SUMMARY_NAME):
            assert (tmp_path / "cuda" / name).read_bytes() == (tmp_path / "cpu" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps: got 0, wanted 1 or more"),
        (["--tuning-worlds", "0"], "--tuning-worlds: got 0"),
        (["--train", "4", "4"], "--train: got [4, 4], wanted different numbers"),
        (["--proposals", "2"], "--proposals: got 2"),
        (["--methods", "hard", "--experiments", "labels"], "--methods: none of hard fits the experiment 'labels'"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main([*TINY, *options, "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--methods", "magic"]) == 2
    assert "invalid choice 'magic' for argument '--methods'" in capsys.readouterr().err


def test_out_must_be_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([*TINY, "--output", str(tmp_path / "file")]) == 2
    assert "wanted a directory" in capsys.readouterr().err


def test_no_matplotlib(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    command = [*TINY, "--methods", "hard", "--output", str(tmp_path)]  # which fits one experiment
    assert main(command) == 2
    assert "pip install '.[demos]' in the project's folder, or pass --no-picture" in capsys.readouterr().err
    assert main([*command, "--no-picture"]) == 0
    assert not (tmp_path / PICTURE_NAME).exists() and (tmp_path / RUNS_NAME).exists()
    assert (tmp_path / SUMMARY_NAME).read_text().splitlines()[1].startswith("outcomes,hard,4,2,")


def test_help_explains_methods_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "150" in text and "64 256 1024" not in text
    assert main(["--full", "--help"]) == 0 and "64 256 1024" in capsys.readouterr().out
    for name in {name for _, name in CASES} | {"--overwrite", "--full", "labels", "outcomes", "counts"}:
        assert name in text
