"""The parity demo."""

from __future__ import annotations

import csv
import importlib.util
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
import torch
from pretended_cuda import Cuda
from torch import Tensor, nn

from demos.parity.__main__ import METRICS_NAME, PICTURE_NAME, SUMMARY_NAME, main
from demos.parity.config import Config
from demos.parity.data import draw_split
from demos.parity.model import ParityChain
from demos.parity.study import CHECKPOINT_NAME, Study, weights_name
from demos.parity.train import TEST_EPS, TEST_MAX_ITER, Run, is_right, sequence_loss

RESULTS = Path(__file__).parents[2] / "demos" / "parity" / "results"
SMALL = [*("--lengths", "8", "--train", "200", "--test", "56"), *("--batch-size", "20", "--epochs", "2")]


def chain(gradient: str = "raw", growth: float = 1.0) -> ParityChain:
    net = ParityChain(4, 4, 40, 1e-3, gradient=gradient, growth=growth)
    net.draw_weights(torch.Generator().manual_seed(0), draws=20)
    return net


class SoftXor(nn.Module):
    """In the layer's place: s (a + b - 2 a b), for a parameter s."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        a, b = z[:, 0], z[:, 1]
        return torch.stack((a, b, self.s * (a + b - 2 * a * b)), 1)


# --- data ---------------------------------------------------------------------------------------------------


def test_labels_are_the_chained_xor() -> None:
    for part in draw_split(20, 200, 50, seed=0):
        assert part.bits.unique().tolist() == [0, 1] and 0.3 < part.parity.mean() < 0.7
        for bits, parity in zip(part.bits.int().tolist(), part.parity.tolist(), strict=True):
            assert reduce(xor, bits) == parity


def test_no_sequence_occurs_twice() -> None:
    train, test = draw_split(4, 10, 6, seed=0)
    assert len({tuple(bits) for bits in torch.cat((train.bits, test.bits)).tolist()}) == 16
    longest, _ = draw_split(62, 300, 1, seed=0)
    assert 0.3 < longest.bits.mean(0).min() and longest.bits.mean(0).max() < 0.7


def test_sequences_depend_on_length_and_seed_alone() -> None:
    torch.manual_seed(0)
    first = draw_split(20, 50, 10, seed=1)[0].bits
    torch.manual_seed(1)
    assert torch.equal(first, draw_split(20, 50, 10, seed=1)[0].bits)
    assert not torch.equal(first, draw_split(20, 50, 10, seed=2)[0].bits)
    assert not torch.equal(first, draw_split(21, 50, 10, seed=1)[0].bits[:, :20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, 1), "length: got 1, wanted 2 to 62"),
        ((63, 1, 1), "length: got 63"),
        ((3, 8, 1), r"train, test: got 8 \+ 1 sequences, wanted at most 8"),
        ((3, 0, 1), "train, test: got 0 and 1"),
    ],
)
def test_impossible_splits(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_split(*arguments, seed=0)


# --- the chain ----------------------------------------------------------------------------------------------


def test_every_output_feeds_the_next_step() -> None:
    net = chain()
    net.layer = SoftXor()  # type: ignore[assignment]
    train, _ = draw_split(9, 100, 1, seed=0)
    assert torch.equal(net(train.bits).detach(), train.parity)


def test_chain_is_the_layer_over_and_over() -> None:
    net, train = chain(), draw_split(5, 30, 1, seed=0)[0]
    bits = train.bits
    generator = torch.Generator().manual_seed(3)
    state = bits[:, 0]
    for t in range(1, 5):
        z = torch.stack((bits[:, t], state, torch.full((30,), 0.5)), 1)
        state = net.layer(z, generator=generator)[:, 2]
    torch.testing.assert_close(net(bits, generator=torch.Generator().manual_seed(3)), state, rtol=0, atol=0)


def test_sign_changes_the_gradient_only() -> None:
    """sum over t of (product of the growths and signs after t) dz_t / dS at the given z_{t-1}, written out for length 4."""
    net = chain("sign", growth=1.5)
    net.layer = SoftXor()  # type: ignore[assignment]
    with torch.no_grad():
        net.layer.s.fill_(0.8)
    bits = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    out = net(bits)
    (gradient,) = torch.autograd.grad(out.sum(), net.layer.s)
    with torch.no_grad():
        torch.testing.assert_close(out, net(bits))
    net.gradient = "raw"
    raw = net(bits)
    torch.testing.assert_close(out, raw)
    # States 0.8, 0.16, 0.672; a flip of the state raises the output where the bit is 0, lowers it where it is 1.
    by_hand = (0.84) + 1.5 * -1 * (0.2) + 1.5**2 * (-1) ** 2 * (1.0)
    assert gradient.item() == pytest.approx(by_hand, rel=1e-5)
    (exact,) = torch.autograd.grad(raw.sum(), net.layer.s)
    slope = 0.8 * (1 - 2)
    assert exact.item() == pytest.approx(0.84 + slope * 0.2 + slope**2 * 1.0, rel=1e-5)


def test_drawn_weights_are_those_with_the_largest_interaction() -> None:
    nets = [ParityChain(4, 4, 40, 1e-3, gradient="sign", growth=1.1) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    best = 0.0
    for _ in range(30):
        nets[0].layer.reset_parameters(generator=generator)
        low, high = nets[0].slopes(generator=generator).tolist()
        opposed = low * high < 0
        assert nets[0].interaction(generator=torch.Generator().manual_seed(0)) >= 0
        best = max(best, min(abs(low), abs(high)) if opposed else 0)
    nets[1].draw_weights(torch.Generator().manual_seed(0), draws=30)
    assert nets[1].interaction(generator=torch.Generator().manual_seed(5)) == pytest.approx(best, abs=0.05)
    assert best > 0.1


def test_loss_and_count() -> None:
    z, y = torch.tensor([0.9, 0.5, 0.2, 0.7]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert is_right(z, y).tolist() == [True, False, True, False]
    assert sequence_loss(z, y, "absolute").item() == pytest.approx((0.1 + 0.5 + 0.2 + 0.7) / 4)
    torch.testing.assert_close(sequence_loss(z, y, "bce"), nn.functional.binary_cross_entropy(z, y))
    assert sequence_loss(1 - y, y, "bce").isfinite()


# --- training and the command line --------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{name: value for name, value in row.items() if name != "minutes"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small study; not to be written to."""
    out = tmp_path_factory.mktemp("parity") / "new" / "results"
    assert main([*SMALL, "--seeds", "0,1", "--out", str(out)]) == 0
    return out


def test_learns_the_parity_of_every_unseen_sequence(finished: Path) -> None:
    summary, metrics = rows(finished / SUMMARY_NAME), rows(finished / METRICS_NAME)
    assert [(row["seed"], row["test_wrong"], row["test_right"]) for row in summary] == [
        ("0", "0", "1.0"),
        ("1", "0", "1.0"),
    ]
    assert (finished / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")
    # A start that does not learn is given up after its epoch, and the next one has all its epochs.
    given_up = [row for row in metrics if row["given_up"] == "True"]
    assert given_up and all(float(row["late_loss"]) > 0.45 for row in given_up)
    assert {row["epoch"] for row in given_up} == {"1"}
    kept = [row for row in metrics if row["given_up"] == "False"]
    assert [row["epoch"] for row in kept] == ["1", "2"] * 2
    study = Study.load(finished)
    assert set(study.weights) == {weights_name(8, 0), weights_name(8, 1)}
    assert Run(study.config, 8, 1).test() < 56 and Run(study.config, 8, 1).final_test() > 0
    assert study.finished(8, 1).test() == 56


def test_final_test_solves_further(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(Config(lengths=(8,), train=20, test=30, draws=1), 8, 0)
    solvers = []

    def forward(net: ParityChain, bits: Tensor, *, generator: torch.Generator) -> Tensor:
        solvers.append((net.layer.eps, net.layer.max_iter))
        return torch.cat((run.test_set.parity[:-1], 1 - run.test_set.parity[-1:]))

    monkeypatch.setattr(ParityChain, "forward", forward)
    assert run.final_test() == 1
    assert solvers == [(TEST_EPS, TEST_MAX_ITER)] and (run.net.layer.eps, run.net.layer.max_iter) == (1e-3, 40)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_interrupted_study_goes_on_to_the_same_result(
    epochs: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, calls = Run.advance, [0]

    def interrupted(run: Run) -> object:
        calls[0] += 1
        if calls[0] > epochs:
            raise KeyboardInterrupt
        return advance(run)

    out = ["--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", interrupted)
        assert main([*SMALL, "--seeds", "0,1", *out]) == 130
    assert "--resume" in capsys.readouterr().err
    assert main(["--resume", "--lr", "0.1", *out]) == 2
    assert "--lr: got 0.1, but the runs" in capsys.readouterr().err
    assert main(["--resume", "--no-picture", *out]) == 0
    assert rows(tmp_path / "out" / METRICS_NAME) == rows(finished / METRICS_NAME)
    weights, expected = Study.load(tmp_path / "out").weights, Study.load(finished).weights
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


def test_study_on_cuda(cuda: Cuda, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted there in the first run, on the CPU in the second, and finished there again."""
    advance = Run.advance

    def stopping(run: Run) -> object:
        if (run.seed, run.epoch) == stop:
            raise KeyboardInterrupt
        return advance(run)

    out = ["--no-picture", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", stopping)
        stop = 0, 1
        assert main([*SMALL, "--seeds", "0,1", "--device", "cuda", *out]) == 130 and cuda.used()
        stop = 1, 1
        assert main(["--resume", *out]) == 130 and not cuda.used()
    assert main(["--resume", "--device", "cuda", *out]) == 0 and cuda.used()
    if cuda.exact:
        assert rows(tmp_path / METRICS_NAME) == rows(finished / METRICS_NAME)
        assert rows(tmp_path / SUMMARY_NAME) == rows(finished / SUMMARY_NAME)
        weights, expected = Study.load(tmp_path).weights, Study.load(finished).weights
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_last_start_is_kept_and_failure_is_the_exit_status(tmp_path: Path) -> None:
    command = [*SMALL, "--seeds", "1", "--epochs", "1", "--lr", "1e-9", "--starts", "2", "--no-picture"]
    assert main([*command, "--out", str(tmp_path)]) == 1
    assert [(row["start"], row["given_up"]) for row in rows(tmp_path / METRICS_NAME)] == [("1", "True"), ("2", "False")]
    (summary,) = rows(tmp_path / SUMMARY_NAME)
    assert int(summary["test_wrong"]) > 0 and not (tmp_path / PICTURE_NAME).exists()


def test_published_settings_run(tmp_path: Path) -> None:
    command = ["--gradient", "raw", "--loss", "bce", "--draws", "1", "--starts", "1", "--epochs", "1", "--lr", "0.1"]
    assert main([*SMALL, *command, "--seeds", "0", "--no-picture", "--out", str(tmp_path)]) in (0, 1)
    (row,) = rows(tmp_path / METRICS_NAME)
    assert 0.3 < float(row["train_loss"]) < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "1"], "lengths: got [1], wanted different numbers of 2 or more"),
        (["--lengths", "8", "8"], "lengths: got [8, 8]"),
        (["--seeds", "2-1"], "seeds: got [], wanted"),
        (["--train", "0"], "train: got 0, wanted 1 or more"),
        (["--aux", "-1"], "aux: got -1, wanted 0 or more"),
        (["--lr", "nan"], "lr: got nan, wanted a positive number"),
        (["--growth", "0"], "growth: got 0.0"),
        (["--eps", "1"], "eps: got 1.0"),
        (["--lengths", "5", "--train", "30", "--test", "3"], "wanted at most 32"),
        (["--resume"], "to resume from"),
        (["--resume", "--overwrite"], "--resume, --overwrite: got both"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main([*options, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_config_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="gradient: got 'none', wanted one of sign, raw"):
        Config(gradient="none")
    with pytest.raises(ValueError, match="config: got the entries"):
        Config.from_dict({"lengths": [20]})


def test_results_are_not_overwritten(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert main([*SMALL, "--out", str(finished)]) == 2
    assert "pass --resume, --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    for name, message in (("file", "is a file, wanted a directory"), (CHECKPOINT_NAME, "is not a safetensors file")):
        (tmp_path / name).write_bytes(b"x")
        out = tmp_path / name if name == "file" else tmp_path
        assert main(["--resume", "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main([*SMALL, "--seeds", "0", "--epochs", "1", "--starts", "1", "--overwrite", "--out", str(tmp_path)]) in (
        0,
        1,
    )
    assert len(rows(tmp_path / METRICS_NAME)) == 1


def test_no_matplotlib(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert main([*SMALL, "--out", str(tmp_path)]) == 2
    assert "pip install '.[demos]' in the project's folder, or pass --no-picture" in capsys.readouterr().err


def test_seeds_that_are_no_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seeds", "one"])
    assert "wanted seeds such as 3, 0-4 or 0,2,7" in capsys.readouterr().err


@pytest.mark.parametrize("length", [20, 40])
def test_weights_of_the_results(length: int) -> None:
    """Those that the documentation speaks of, whatever their length, on 200 sequences of length 40 of another draw."""
    study = Study.load(RESULTS / f"length-{length}")
    assert set(study.weights) == {weights_name(length, seed) for seed in range(5)}
    net, (unseen, _) = (
        ParityChain(4, 4, TEST_MAX_ITER, TEST_EPS, gradient="raw", growth=1),
        draw_split(40, 200, 1, seed=99),
    )
    for S in study.weights.values():
        with torch.no_grad():
            net.layer.S.copy_(S)
            assert is_right(net(unseen.bits, generator=torch.Generator().manual_seed(9)), unseen.parity).all()
    with (RESULTS / f"length-{length}" / SUMMARY_NAME).open() as file:
        assert [(row["seed"], row["test_wrong"]) for row in csv.DictReader(file)] == [
            (str(seed), "0") for seed in range(5)
        ]
