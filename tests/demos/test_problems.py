"""The demo on five kinds of problems."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from demos.problems.__main__ import Options, main, right, study, unseen
from demos.problems.kinds import COVER, EARLY, KINDS, LATE, NIGHT, Kind, futoshiki, latin, roster


@pytest.mark.parametrize("name", KINDS)
def test_generated_solutions_are_valid_and_seeded(name: str) -> None:
    kind = KINDS[name]()
    drawn = kind.draw(30, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, kind.draw(30, torch.Generator().manual_seed(0))) and len(drawn.unique(dim=0)) == 30
    assert kind.valid(drawn).all() and kind.domains.check(drawn)[1].all()
    given = kind.hide(30, torch.Generator().manual_seed(0))
    assert (given.sum(1) == kind.given + kind.question.sum()).all() and given[:, kind.question].all()
    assert right(kind, drawn, drawn, given) == 1 and right(kind, drawn.roll(1, 0), drawn, given) < 0.1


def changed(kind: Kind, at: int) -> torch.Tensor:
    """Which of 30 solutions are still valid when one variable has its next value."""
    values = kind.draw(30, torch.Generator().manual_seed(1))
    values[:, at] = (values[:, at] + 1) % kind.domains.sizes[at]
    return kind.valid(values)


@pytest.mark.parametrize("name", ["latin", "futoshiki", "roster"])
def test_one_changed_cell_makes_them_invalid(name: str) -> None:
    assert not changed(KINDS[name](), 3).any()


def test_two_queens_of_a_line_attack_each_other() -> None:
    valid = KINDS["queens"]().valid
    assert valid(torch.tensor([[0, 4, 7, 5, 2, 6, 1, 3]])).all()
    assert not valid(torch.tensor([[0, 1, 7, 5, 2, 6, 4, 3], [0, 4, 7, 5, 2, 6, 1, 0]])).any()


def test_an_edge_between_nodes_of_one_colour_is_invalid() -> None:
    kind = KINDS["colouring"]()
    values = torch.zeros(3, 55, dtype=torch.int64)
    values[1, 10] = 1  # the edge of the first two nodes
    values[2, [0, 10]] = 1
    assert kind.valid(values).tolist() == [True, False, True]
    assert kind.domains.names[10] == "edge1-2"


def test_signs_of_futoshiki_are_true_and_matter() -> None:
    kind = futoshiki(order=3, given=2)
    values = kind.draw(50, torch.Generator().manual_seed(0))
    assert kind.domains.names[9:11] == ("r0c0?r0c1", "r0c1?r0c2")
    assert torch.equal(values[:, 9] == 1, (values[:, 0] < values[:, 1]) & (values[:, 9] != 0))
    shown = values[:, 9] > 0
    values[:, 9] = 3 - values[:, 9]
    assert not kind.valid(values[shown]).any() and shown.any()


def test_the_roster_keeps_its_rules() -> None:
    shifts = roster().draw(40, torch.Generator().manual_seed(0)).view(40, 7, 7)
    assert ((shifts == 0).sum(2) == 2).all()
    assert all(((shifts == s).sum(1) == COVER[s]).all() for s in (EARLY, LATE, NIGHT))
    assert not ((shifts[..., :-1] == NIGHT) & (shifts[..., 1:] == EARLY)).any()


def test_the_table_of_a_small_kind_and_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KINDS, "latin", lambda: latin(order=4))
    command = ["--output", str(tmp_path), "--kinds", "latin", "--boards", "300", "--test", "20", "--epochs", "4"]
    assert main(command) == 0
    with (tmp_path / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (
        row["kind"] == "latin" and row["boards"] == "300" and float(row["exact"]) == 1.0 and float(row["search"]) > 0.9
    )
    assert float(row["one_pass"]) <= float(row["search"]) and int(row["rules"]) >= 192
    before = (tmp_path / "latin" / "checkpoint.safetensors").stat().st_mtime_ns
    assert main(command) == 0  # nothing is repeated
    assert (tmp_path / "latin" / "checkpoint.safetensors").stat().st_mtime_ns == before
    assert "kind latin" in capsys.readouterr().out


def test_how_many_are_tested_does_not_change_what_is_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt_from = []

    def learn(domains: object, seen: torch.Tensor, *rest: object, **named: object) -> None:
        learnt_from.append(seen)
        raise InterruptedError

    monkeypatch.setattr("demos.problems.__main__.learn", learn)
    for name in KINDS:
        for test in (1, 7):
            with pytest.raises(InterruptedError):
                study(name, Options(output=tmp_path, boards=20, test=test))  # type: ignore[arg-type]
        assert torch.equal(*learnt_from[-2:])


def test_problems_to_test_on_are_not_learnt_from() -> None:
    drawn = KINDS["queens"]().draw(92, torch.Generator().manual_seed(0))
    assert torch.equal(unseen(drawn, drawn[:60]), drawn[60:])


def test_bad_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--output", str(tmp_path), "--kinds", "queens"]
    assert main([*command, "--boards", "92"]) == 2
    assert "there are only 92 solutions of queens" in capsys.readouterr().err
