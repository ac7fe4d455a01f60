"""The parity demo."""

from __future__ import annotations

import csv
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
import torch
from pretended_cuda import Cuda
from safetensors.torch import load_file

from demos.parity.__main__ import Options, draw_sequences, main, parity, study, train
from difflayers import SATNet

RESULTS = Path(__file__).parents[2] / "demos" / "parity" / "results"


def small(folder: Path, **options: object) -> Options:
    values = {"lengths": (6,), "seeds": (0,), "train": 40, "test": 20, "epochs": 1, "batch_size": 20} | options
    return Options(output=folder, **values)  # type: ignore[arg-type]


class Xor(SATNet):
    """In the layer's place: what it should learn, a little unsure."""

    def forward(self, z: torch.Tensor, is_input: object = None, **options: object) -> torch.Tensor:  # type: ignore[override]
        out = z.clone()
        out[:, 2] = self.S[0, 0] * (z[:, 0] + z[:, 1] - 2 * z[:, 0] * z[:, 1]) + 0.1
        assert out.requires_grad == torch.is_grad_enabled()
        return out


def test_labels_are_the_chained_xor_of_different_sequences() -> None:
    bits, labels = draw_sequences(10, 1000, seed=0)
    assert len({tuple(row) for row in bits.tolist()}) == 1000 and bits.unique().tolist() == [0, 1]
    assert all(reduce(xor, map(int, row)) == label for row, label in zip(bits.tolist(), labels.tolist(), strict=True))
    assert not torch.equal(bits, draw_sequences(10, 1000, seed=1)[0])
    with pytest.raises(ValueError, match="--lengths: got 3 with 9 sequences"):
        draw_sequences(3, 9, seed=0)


def test_states_are_rounded_and_only_the_last_application_gets_a_gradient() -> None:
    layer, (bits, labels) = Xor(3, 1), draw_sequences(9, 100, seed=0)
    with torch.no_grad():
        layer.S.fill_(0.8)
    out = parity(layer, bits, torch.Generator())
    # 0.9 for odd and 0.1 for even: rounded states do not drift, those that are not would.
    torch.testing.assert_close(out, 0.1 + 0.8 * labels)
    (gradient,) = torch.autograd.grad(out.sum(), layer.S)
    torch.testing.assert_close(gradient[0, 0], labels.sum())


def test_a_run_is_the_same_again_and_on_another_device(tmp_path: Path, cuda: Cuda) -> None:
    for name, device in (("a", "cpu"), ("b", "cpu"), ("c", "cuda")):
        (tmp_path / name).mkdir()
        train(small(tmp_path / name, device=device), 6, 0)
    a, b, c = (load_file(tmp_path / name / "length-6-seed-0.safetensors")["S"] for name in "abc")
    assert torch.equal(a, b) and torch.equal(a, c)


def test_the_command_trains_what_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(small(tmp_path))
    first = (tmp_path / "results.csv").read_text()
    study(small(tmp_path, seeds=(0, 1)))
    table = (tmp_path / "results.csv").read_text()
    assert table.startswith(first) and len(table.splitlines()) == 3
    assert "length 6, seed 1" in capsys.readouterr().out
    SATNet(3, 4, 4).load_state_dict(load_file(tmp_path / "length-6-seed-1.safetensors"))


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = small(tmp_path, epochs=3, train=40, batch_size=2)
    whole = train(options, 6, 0)
    weights = (tmp_path / "length-6-seed-0.safetensors").read_bytes()
    (tmp_path / "length-6-seed-0.safetensors").unlink()
    calls = iter(range(100))

    def interrupt(*arguments: torch.Tensor) -> torch.Tensor:
        if next(calls) == 50:  # in the third epoch of 20 batches
            raise KeyboardInterrupt
        return torch.nn.functional.binary_cross_entropy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("demos.parity.__main__.binary_cross_entropy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(options, 6, 0)
    again = train(options, 6, 0)
    assert again | {"minutes": 0} == whole | {"minutes": 0} and again["epochs"] == 3
    assert (tmp_path / "length-6-seed-0.safetensors").read_bytes() == weights
    assert not (tmp_path / "length-6-seed-0.state").exists()


@pytest.mark.parametrize("length", ["20", "40"])
def test_the_results_are_what_the_documentation_says(length: str) -> None:
    rows = [
        row for row in csv.DictReader((RESULTS / "results.csv").read_text().splitlines()) if row["length"] == length
    ]
    assert [row["seed"] for row in rows] == list("01234") and all(row["test_wrong"] == "0" for row in rows)


def test_the_weights_answer_unseen_sequences() -> None:
    layer = SATNet(3, 4, 4, 200, 1e-5, input_mask=torch.tensor([True, True, False]))
    layer.load_state_dict(load_file(RESULTS / "length-20-seed-0.safetensors"))
    bits, labels = draw_sequences(33, 500, seed=7)  # another length, too
    assert torch.equal(parity(layer, bits, torch.Generator().manual_seed(0)).round(), labels)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--output",
        str(tmp_path),
        "--lengths",
        "5",
        "--seeds",
        "3",
        "--train",
        "20",
        "--test",
        "8",
        "--epochs",
        "1",
    ]
    assert main(options) == 0 and "length 5, seed 3" in capsys.readouterr().out
    assert main([*options, "--lengths", "63"]) == 2
    assert capsys.readouterr().err.startswith("python -m demos.parity: error: --lengths: got 63")
    assert main(["--help"]) == 0
    assert "--prox-lam" in capsys.readouterr().out
