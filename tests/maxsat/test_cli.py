"""`python -m difflayers.maxsat`: what it prints, where, and its exit codes."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from maxsat_problems import coloured, naive_cost, random_clauses

from difflayers.maxsat.__main__ import main


def write(path: Path, clauses: list[list[int]], weights: list[str] | None = None) -> str:
    """A .cnf, or a .wcnf of the new format."""
    lines = [f"{weight} " for weight in weights] if weights else [""] * len(clauses)
    text = "".join(f"{w}{' '.join(map(str, c))} 0\n" for w, c in zip(lines, clauses, strict=True))
    path.write_text(text if weights else f"p cnf {max(abs(x) for c in clauses for x in c)} {len(clauses)}\n{text}")
    return str(path)


def output(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, list[str]]:
    """The lines printed, by their first letter; nothing is printed to the standard error."""
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    assert err == ""
    lines: dict[str, list[str]] = {letter: [] for letter in "cosv"}
    for line in out.splitlines():
        letter, _, rest = line.partition(" ")
        lines[letter].append(rest)
    return lines


def test_as_a_command(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wcnf", [[1, 2], [-1], [-2]], ["h", "2", "3"])
    done = subprocess.run(
        [sys.executable, "-m", "difflayers.maxsat", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *comments, state, values = done.stdout.splitlines()
    assert (state, values) == ("s OPTIMUM FOUND", "v 10")
    assert comments[0] == "c 2 variables, 1 hard and 2 soft clauses" and "o 2" in comments
    assert "c bound 2 (relaxation), gap 0, relaxation 2" in comments
    assert re.fullmatch(r"c \d+ sweeps, converged, \d+\.\d\d s", comments[-2])
    assert comments[-1] == "c assignment by rounding"


def test_lines_agree_with_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clauses, weights = random_clauses(30, 200, (1, 2, 3), seed=1)
    lines = output(capsys, write(tmp_path / "a.wcnf", clauses, [f"{weight:g}" for weight in weights]))
    costs = [int(cost) for cost in lines["o"]]
    assert costs == sorted(set(costs), reverse=True) and costs
    assert lines["s"] == ["SATISFIABLE"]
    (values,) = lines["v"]
    assert len(values) == 30
    assert naive_cost(clauses, weights, [value == "1" for value in values]) == (costs[-1], 0)
    (bound,) = re.findall(r"bound (\d+) \(\w+\), gap (\d+)", "\n".join(lines["c"]))
    assert int(bound[0]) + int(bound[1]) == costs[-1] and int(bound[1]) > 0


def test_variables_without_clauses_have_values_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.cnf"
    path.write_text("p cnf 5 1\n-1 0\n")
    (values,) = output(capsys, str(path))["v"]
    assert len(values) == 5 and values[0] == "0"


def test_costs_are_printed_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.wcnf", [[1], [-1]], ["12345678.25", "123456789"])
    assert output(capsys, path)["o"][-1] == "12345678.25"
    path = write(tmp_path / "b.wcnf", [[1], [-1]], ["12345678", "123456789"])
    assert output(capsys, path)["o"][-1] == "12345678"


def test_hard_clauses_that_contradict_each_other_are_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = output(capsys, write(tmp_path / "a.wcnf", [[1], [-1], [2]], ["h", "h", "3"]))
    assert lines["s"] == ["UNSATISFIABLE"]
    assert "no assignment satisfies all hard clauses: proved by relaxation" in lines["c"]
    assert not lines["o"] and not lines["v"]


def test_a_search_that_fails_is_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.wcnf", *coloured(40))
    lines = output(capsys, path, "--sat", "0", "--rounds", "1", "--no-local-search")
    assert lines["s"] == ["UNKNOWN"] and not lines["o"] and not lines["v"]
    assert re.search(r"\d+ hard clauses violated", "\n".join(lines["c"]))


def test_options_reach_the_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clauses, weights = random_clauses(60, 400, (2, 3), seed=1)
    path = write(tmp_path / "a.wcnf", clauses, [f"{weight:g}" for weight in weights])

    def run(*options: str) -> tuple[str, int, str]:
        lines = output(capsys, path, *options)
        (sweeps,) = re.findall(r"(\d+ sweeps, (?:not )?converged)", "\n".join(lines["c"]))
        return sweeps, int(lines["o"][-1]), lines["v"][0]

    default = run()
    assert run("--seed", "0", "--quiet") == default
    seeds = [run("--seed", seed, "--rounds", "1", "--no-local-search")[2] for seed in "001"]
    assert seeds[0] == seeds[1] != seeds[2]
    assert run("--max-iter", "2")[0] == "2 sweeps, not converged"
    assert int(run("--eps", "0.1")[0].split()[0]) < int(default[0].split()[0])
    assert run("--rounds", "1", "--no-local-search")[1] > run("--no-local-search")[1] > default[1]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("none.cnf", None, [], r"error: path must be a file; there is no '.*none\.cnf'"),
        (
            "a.txt",
            "1 0\n",
            [],
            r"error: path must end in \.cnf, \.wcnf or \.dimacs, before a compression's ending; got 'a\.txt'",
        ),
        ("a.cnf", "hello\n", [], r"error: path must be a DIMACS file; 'a\.cnf' is not: .*"),
        ("a.wcnf", "hello\n", [], r"error: path must be a DIMACS file; 'a\.wcnf' is not: .*"),
        ("a.cnf", "1 0\n", ["--rounds", "0"], "error: rounds must be at least 1; got 0"),
        ("a.cnf", "", [], r"error: path must be a DIMACS file; 'a\.cnf' is not: it has neither a header nor a clause"),
        ("a.cnf", "1 0\n", ["--seed", str(2**64)], "error: --seed must be from .*"),
        ("a.cnf", "1 0\n", ["--exact", "-1"], "error: exact must be finite and at least 0; got -1.0"),
        ("a.cnf", "1 0\n", ["--eps", "nan"], "error: eps must be finite and at least 0; got nan"),
    ],
)
def test_errors_are_one_line_in_plain_words(
    name: str, text: str | None, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main([str(tmp_path / name), *options]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(message + "\n", err) and not re.search(r"^[osv]", out, re.MULTILINE)


def test_a_wrong_command_line_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["a.cnf", "--rounds", "many"], ["a.cnf", "--unheard-of"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
        assert "usage: python -m difflayers.maxsat" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    out = capsys.readouterr().out
    for option in ("FILE", "--rounds", "--max-iter", "--eps", "--no-local-search", "--seed", "--quiet"):
        assert option in out


def test_progress_bars_are_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.cnf", random_clauses(20, 80, (2, 3))[0])
    assert main([path]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([path]) == 0
    assert "hyperplanes" in capsys.readouterr().err
    assert main([path, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def started(path: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "difflayers.maxsat", path, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, SIGINT is ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can hear")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_with_the_best_so_far(number: int, tmp_path: Path) -> None:
    clauses, weights = random_clauses(200, 1200, (2, 3), seed=1)
    path = write(tmp_path / "a.wcnf", clauses, [f"{weight:g}" for weight in weights])
    process = started(path, "--rounds", "1000000")
    try:
        assert process.stdout is not None
        printed = [process.stdout.readline(), process.stdout.readline()]
        assert printed[1].startswith("o ")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    lines = ("".join(printed) + out).splitlines()
    assert (process.returncode, err) == (0, "") and lines[-2] == "s SATISFIABLE"
    assert any(", interrupted, " in line for line in lines)
    cost = int([line for line in lines if line.startswith("o ")][-1][2:])
    assert naive_cost(clauses, weights, [digit == "1" for digit in lines[-1][2:]]) == (cost, 0)


@pytest.mark.parametrize("where", ["read", "solve", "relax"])
def test_a_signal_before_the_first_sweep_is_no_traceback(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    module = "solver" if where == "relax" else "__main__"
    monkeypatch.setattr(f"difflayers.maxsat.{module}.{where}", interrupt)
    lines = output(capsys, write(tmp_path / "a.wcnf", [[1, 2], [-1], [-2]], ["h", "3", "2"]))
    assert lines["s"] == (["SATISFIABLE"] if where == "relax" else ["UNKNOWN"])


def test_signal_handlers_are_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    output(capsys, write(tmp_path / "a.wcnf", [[1, 2], [-1]], ["h", "3"]))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_it_runs_outside_the_main_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[int] = []
    path = write(tmp_path / "a.wcnf", [[1, 2], [-1]], ["h", "3"])
    thread = threading.Thread(target=lambda: found.append(main([path])))
    thread.start()
    thread.join()
    assert found == [0] and "s OPTIMUM FOUND" in capsys.readouterr().out


def test_whole_costs_are_printed_digit_by_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.wcnf", [[1], [-1]], ["9007199254740993", "9223372036854775807"])
    lines = output(capsys, path)
    assert lines["o"][-1] == "9007199254740993" and lines["s"] == ["OPTIMUM FOUND"] and lines["v"] == ["0"]


def test_exact_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clauses, weights = random_clauses(12, 70, (3,), seed=1)
    path = write(tmp_path / "a.wcnf", clauses, [f"{weight:g}" for weight in weights])
    assert output(capsys, path)["s"] == ["SATISFIABLE"]
    lines = output(capsys, path, "--exact", "100")
    assert lines["s"] == ["OPTIMUM FOUND"] and any(" (RC2), gap 0, " in line for line in lines["c"])


def test_a_header_that_miscounts_is_a_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.cnf").write_text("p cnf 2 5\n1 0\n")
    lines = output(capsys, str(tmp_path / "a.cnf"))
    assert "warning: the header says 5 clauses, the file has 1" in lines["c"]
