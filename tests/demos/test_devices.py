"""The option --device, and the device that stands for a GPU where there is none."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda

from demos.devices import checked_device
from difflayers import DMMMatching, SATNet

TRAINED = str(Path(__file__).parents[2] / "demos" / "sudoku" / "results" / "original-9x9")
COMMANDS = [
    ["sudoku", "demo"],
    ["sudoku", "train"],
    ["sudoku", "eval", TRAINED],
    ["sudoku", "solve", "1" + 80 * ".", "--checkpoint", TRAINED],
    ["vos", "demo"],
    ["vos", "train"],
    ["parity"],
    ["reid"],
    ["matching"],
    ["clauses", "queens"],
    ["clauses", "sudoku"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_devices_that_cannot_be_used(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main = importlib.import_module(f"demos.{command[0]}.__main__").main
    for device, message in (
        ("abacus", "--device: got 'abacus', wanted cpu or cuda"),
        ("meta", "--device: got 'meta', wanted cpu or cuda"),
        ("cuda", "--device: got 'cuda', but torch sees no CUDA device; wanted cpu"),
    ):
        try:
            status = main([*command[1:], "--device", device])
        except SystemExit as end:
            status = end.code
        assert status == 2
        assert message in (text := capsys.readouterr().err) and "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflayers._cuda.why_not", lambda: "CUDA tensors need cuda.core: pip install it")
    with pytest.raises(ValueError, match=r"got 'cuda', but CUDA tensors need cuda\.core: pip install it; wanted"):
        checked_device("cuda")


def test_devices_by_number() -> None:
    with pretended_cuda():
        assert checked_device("cuda:0") == torch.device("cuda", 0)
        with pytest.raises(ValueError, match="--device: got 'cuda:1', but torch sees 1 CUDA devices; wanted cuda:0"):
            checked_device("cuda:1")


# --- the pretended device -----------------------------------------------------------------------------------


def test_pretended_device_refuses_what_a_real_one_does() -> None:
    with pretended_cuda():
        there, here = torch.arange(6.0, device="cuda").reshape(2, 3), torch.ones(2, 3)
        cuda, cpu = torch.Generator("cuda").manual_seed(0), torch.Generator().manual_seed(0)
        for mixed in (
            lambda: there + here,
            lambda: here @ there.mT,
            lambda: torch.cat((there, here)),
            lambda: torch.where(here > 0, there, there),
            lambda: here[there.long()],
            lambda: there.index_copy_(0, torch.tensor([0]), here[:1]),
            lambda: torch.nn.Linear(3, 2)(there),
            lambda: torch.nn.functional.one_hot(there.long()) + torch.zeros(2, 3, 6),
            lambda: SATNet(3, 2)(there / 6, there > 3),
            lambda: SATNet(3, 2).to("cuda")(here, here.bool()),
            lambda: torch.rand(3, generator=cuda),
            lambda: torch.rand(3, generator=cpu, device="cuda"),
            lambda: there.normal_(generator=cpu),
            lambda: here.normal_(generator=cuda),
        ):
            with pytest.raises((RuntimeError, ValueError), match=r"same device|generator|on the device"):
                mixed()
        for conversion in (there.numpy, lambda: np.asarray(there)):
            with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
                conversion()


def test_pretended_device_allows_what_a_real_one_does() -> None:
    with pretended_cuda() as launched:
        there = torch.arange(6.0, device="cuda").reshape(2, 3)
        assert there.is_cuda and there.device == torch.device("cuda", 0) and not there.cpu().is_cuda
        results = [there + torch.tensor(2.0), there[torch.tensor([0])], there.new_zeros(3), torch.zeros_like(there)]
        results += [torch.nn.functional.one_hot(there.long()), torch.empty(2, 3, device="cuda").copy_(torch.ones(2, 3))]
        assert all(result.is_cuda for result in results)
        assert there.to("cpu", torch.float64).tolist() == there.tolist() and there.sum().item() == 15
        with torch.autocast("cuda", torch.bfloat16):
            assert (there @ there.mT).dtype == torch.bfloat16
        assert not launched
        weight = torch.nn.Parameter(torch.rand(2, 3))
        (DMMMatching()(weight.to("cuda")).cpu() ** 2).sum().backward()
        assert not weight.grad.is_cuda and weight.grad.abs().sum() > 0 and launched == {"dmm", "dmm_adjoint"}
    assert not torch.zeros(1).is_cuda and torch.Generator().device.type == "cpu"
