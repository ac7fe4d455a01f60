"""The demo on tables."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
import torch

from demos.schedule import set_cosine_rate
from demos.tables.__main__ import main
from demos.tables.judges import RELATED, Projections, dependence
from demos.tables.model import fill, load, scores, without_weaker
from demos.tables.study import main as study
from demos.tables.table import domains_of, encode, read
from difflayers import Domains
from difflayers.inference import Answers, Rule, search

SMALL = ["--epochs", "2", "--m", "20", "--aux", "4"]


def rows(count: int, seed: int = 0) -> list[list[str]]:
    """Cars: an electric one has no gears, an automatic one is not the cheap model, and the colour is free."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    while len(found) < count:
        a, b, c, d = torch.randint(12, (4,), generator=generator).tolist()
        engine, gears = ["petrol", "diesel", "electric"][a % 3], ["none", "manual", "automatic"][b % 3]
        model, colour = ["basic", "plus"][c % 2], ["red", "blue", "10", "9"][d % 4]
        if (engine == "electric") == (gears == "none") and not (gears == "automatic" and model == "basic"):
            found.append([engine, gears, model, colour])
    return found


def write(path: Path, cells: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["engine", "gears", "model", "colour"], *cells])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    table = write(folder / "cars.csv", rows(400))
    assert main(["train", str(table), "--output", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


def test_the_rules_of_the_table_are_found_and_none_else(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learnt = load(trained)
    values, _ = encode(read(write(trained.parent / "more.csv", rows(300, seed=1))), learnt.domains)
    assert not learnt.rules.violations(values).any()  # new rows break none
    assert main(["rules", str(trained), "--top", "0"]) == 0
    told = capsys.readouterr().out
    assert "engine = electric" in told and "gears = automatic" in told and "colour" not in told


def test_blanks_are_filled_validly(trained: Path, tmp_path: Path) -> None:
    cells = [["electric", "", "", ""], ["", "automatic", "", "red"], ["", "", "basic", ""], ["", "none", "", "9"]]
    partial, filled = write(tmp_path / "partial.csv", cells), tmp_path / "filled.csv"
    assert main(["complete", str(trained), str(partial), "--output", str(filled)]) == 0
    with filled.open() as file:
        head, *found = csv.reader(file)
    assert head == ["engine", "gears", "model", "colour"]
    for row, given in zip(found, cells, strict=True):
        assert all(a == b for a, b in zip(row, given, strict=True) if b)
        assert (row[0] == "electric") == (row[1] == "none") and not (row[1] == "automatic" and row[2] == "basic")
    before = filled.read_bytes()
    assert main(["complete", str(trained), str(partial), "--output", str(filled)]) == 2
    assert filled.read_bytes() == before


def test_a_row_that_cannot_be_completed_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = write(tmp_path / "partial.csv", [["petrol", "", "", ""], ["electric", "manual", "", ""]])
    assert main(["complete", str(trained), str(partial), "--output", str(tmp_path / "out.csv")]) == 1
    assert "1 of 2 rows break no learnt rule" in (told := capsys.readouterr().out)
    assert "line 3: its given cells break learnt rules: " in told and "engine" in told.splitlines()[-1]


def test_check_says_which_rows_break_which_rules(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "rows.csv", [*rows(5, seed=2), ["diesel", "automatic", "basic", "red"]], delimiter=";")
    assert main(["check", str(trained), str(table)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 of 6 rows break a learnt rule" and all(line.startswith("line 7: ") for line in lines[:-1])
    assert any("gears = automatic" in line and "model" in line for line in lines)
    assert main(["check", str(trained), str(write(tmp_path / "fine.csv", rows(5, seed=3)))]) == 0


def test_check_leaves_out_what_follows_from_a_rule_that_it_names(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "rows.csv", [["electric", "manual", "plus", "red"]])
    assert main(["check", str(trained), str(table)]) == 1
    *lines, _ = capsys.readouterr().out.splitlines()
    assert lines == ["line 2: if engine = electric then gears = none"]


def test_rules_that_follow_from_another_are_weaker() -> None:
    domains = Domains([2, 3, 3])  # bits: 1; 2, 3, 4; 5, 6, 7
    strong, weak, weakest, equal, apart = [Rule(c) for c in [(-1, 2), (-1, -3), (-1, -3, 5), (-1, 2, 2), (-4, 6)]]
    assert without_weaker([weakest, weak, strong, equal, apart], domains) == [strong, apart]
    assert without_weaker([weak, apart], domains) == [weak, apart]
    assert without_weaker([Rule((1, -2)), Rule((1, 3, 4))], domains) == [Rule((1, -2))]  # the same, said twice
    assert without_weaker([Rule((-1,)), Rule((1,))], domains) == [Rule((-1,)), Rule((1,))]


def test_rules_as_dimacs(trained: Path, tmp_path: Path) -> None:
    assert main(["rules", str(trained), "--cnf", str(tmp_path / "rules.cnf")]) == 0
    assert "\np cnf 11 " in (tmp_path / "rules.cnf").read_text()


def test_values_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    assert domains_of(read(write(tmp_path / "cars.csv", rows(100)))).labels[3] == ("9", "10", "blue", "red")


def test_an_interrupted_training_goes_on_to_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, command = trained.parent / "cars.csv", ["--output", str(tmp_path), *SMALL]
    with monkeypatch.context() as patch:
        done = iter(range(100))

        def stop(optimizer: torch.optim.Optimizer, *rest: object) -> None:
            if next(done) >= 10:  # in the second epoch of 8 batches
                raise KeyboardInterrupt
            set_cosine_rate(optimizer, *rest)  # type: ignore[arg-type]

        patch.setattr("demos.tables.model.set_cosine_rate", stop)
        assert main(["train", str(table), *command]) == 130
    assert main(["check", str(tmp_path), str(table)]) == 2  # not finished
    assert main(["train", str(table), *command]) == 0
    assert torch.equal(load(tmp_path).layer.S, load(trained).layer.S)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, wanted a header"),
        ("a,a\n1,2\n", "line 1, column 2: the name 'a' is there twice"),
        ("a,\n1,2\n", "line 1, column 2: the name '' is empty"),
        ("a,b\n1,2\n1\n", "line 3: 1 cells, wanted 2"),
        ("a,b\n1,2\n1,\n", "line 3, column 'b': empty"),
        ("a,b\n", "no rows"),
        ('a,b\n1,"2\n', "line 2: unexpected end of data"),
        ("id,b\n" + "".join(f"{i},0\n" for i in range(300)), "column 'id': 300 different values, wanted at most 200"),
        ("a b,b\n" + "".join(f"{i},0\n" for i in range(30)), "column 'a b': another value in each row"),
        ("a,b\n1,2\n", "no column has two different values"),
    ],
)
def test_a_bad_table_is_named_by_line_and_column(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    assert main(["train", str(tmp_path / "bad.csv"), "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_values_and_columns_that_were_not_learnt(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "rows.csv", [["petrol", "manual", "basic", "red"], ["petrol", "manul", "basic", "red"]])
    assert main(["check", str(trained), str(table)]) == 2
    assert "line 3, column 'gears': 'manul' did not occur" in (told := capsys.readouterr().err) and "manual" in told
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    assert main(["check", str(trained), str(tmp_path / "other.csv")]) == 2
    assert "no column 'engine'" in capsys.readouterr().err
    assert main(["check", str(tmp_path), str(table)]) == 2
    assert "train one first" in capsys.readouterr().err
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(table.read_bytes())[:-12])
    assert main(["check", str(trained), str(tmp_path / "cut.csv.gz")]) == 2
    assert "Compressed file ended" in capsys.readouterr().err


def test_a_row_is_filled_and_written_as_csv_whatever_its_cells_hold(tmp_path: Path) -> None:
    """Quotes, commas, unicode, a constant column, and a column that is not learnt and stays as it was."""
    head = ['größe, "cm"', "Stadt", "constant", "note"]
    cells = [[f'{"klein"}, "{i % 2}"', ("東京", "Zürich")[i % 2], "x", ""] for i in range(60)]
    table, partial, filled = (tmp_path / name for name in ("table.csv", "partial.csv", "filled.csv"))
    for path, rows_of in ((table, cells), (partial, [["", "東京", "", 'a "b", c']])):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows_of])
    assert main(["train", str(table), "--output", str(tmp_path / "run"), "--ignore", "note", *SMALL]) == 0
    assert main(["complete", str(tmp_path / "run"), str(partial), "--output", str(filled)]) == 0
    with filled.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [head, ['klein, "0"', "東京", "x", 'a "b", c']]


def test_the_study_runs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(trained.parent / "cars.csv"), "--output", str(tmp_path), "--test", "100", "--shares", "0.5", *SMALL]
    assert study(command) == 0
    told = capsys.readouterr().out
    assert "completion complete, valid_by_rules 1.0, valid_by_projections 1.0, valid_by_both 1.0" in told
    assert "rows kept back, number 100, flagged_by_check 0, flagged_and_valid 0, invalid 0" in told
    with (tmp_path / "check.csv").open() as file:
        spoilt = list(csv.DictReader(file))[-1]
    assert int(spoilt["flagged_by_check"]) > 20 and spoilt["flagged_and_valid"] == "0"
    with (tmp_path / "validity.csv").open() as file:
        shares = {row["completion"]: float(row["valid_by_both"]) for row in csv.DictReader(file)}
    assert shares["independent draws"] < 0.9 < shares["SAT solver, likeliest completion"]


def test_the_study_by_counting_alone(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(trained.parent / "cars.csv"), "--output", str(tmp_path), "--test", "100", "--shares", "0.5"]
    assert study([*command, "--counting"]) == 0
    told = capsys.readouterr().out
    assert "SAT solver, any completion, valid_by_rules 1.0, valid_by_projections 1.0" in told and "one pass" not in told
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_projections_know_what_rows_show_and_catch_what_they_do_not() -> None:
    """Of four columns the third says whether one of the first two is 1; the fourth has nothing to do with them."""
    values = torch.randint(2, (600, 4), generator=torch.Generator().manual_seed(0))
    values[:, 2] = values[:, 0] | values[:, 1]
    strength = dependence(values, (2,) * 4)
    assert (strength[2, :2] > 50).all() and (strength[3] < RELATED).all() and torch.equal(strength, strength.T)
    judge = Projections.calibrated(values[:500], values[500:], (2,) * 4)
    assert judge.passes(values).all() and judge.together == 8
    wrong = values.clone()
    wrong[:, 2] = 1 - wrong[:, 2]
    assert not judge.passes(wrong).any()


def test_where_the_objective_cannot_tell_the_rules_judge(trained: Path) -> None:
    """The colour is free, so a row with another one is as good: an objective that called it wrong would be mistaken."""
    learnt = load(trained)
    assert not learnt.limit.separates and learnt.limit.auc < 0.95 and "does not separate" in repr(learnt.limit)
    values, _ = encode(read(trained.parent / "cars.csv"), learnt.domains)
    given = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    found = search(learnt.layer, learnt.domains, values, given, limit=learnt.limit, rules=learnt.rules, paths=5)
    assert found.judge == "rules" and found.accepted.double().mean() > 0.9
    assert not learnt.rules.violations(found.values[found.accepted]).any()
    blind = search(learnt.layer, learnt.domains, values[:20], given[:20], limit=learnt.limit, paths=2)
    assert blind.judge == "nothing" and not blind.accepted.any()


def test_the_likeliest_completion_is_taken_where_the_search_finds_none(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = load(trained)
    values, _ = encode(read(trained.parent / "cars.csv"), learnt.domains)
    values, given = values[:40], torch.rand((40, 4), generator=torch.Generator().manual_seed(1)) < 0.3

    def none(*problem: object, **options: object) -> Answers:
        return Answers.untried(values, "rules")

    monkeypatch.setattr("demos.tables.model.search", none)
    found = fill(learnt, values, given)
    assert found.accepted.all() and not learnt.rules.violations(found.values).any()
    likely = scores(learnt, values, given)
    every = torch.cartesian_prod(*map(torch.arange, learnt.domains.sizes))
    every = every[~learnt.rules.violations(every).any(1)]
    for row in range(40):
        fits = every[(every == values[row])[:, given[row]].all(1)]
        worth = likely[row].gather(1, fits.T)[~given[row]].sum(0)
        mine = likely[row].gather(1, found.values[row][:, None])[:, 0][~given[row]].sum()
        assert mine >= worth.max() - 5e-3
