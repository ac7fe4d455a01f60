"""What all command lines share: reading the options, and how a command ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from demos.command import check_counts, check_seeds, guarded, run
from demos.files import written_beside

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Numbers:
    """What options can hold."""

    epochs: int | None = None
    lengths: tuple[int, ...] = (3,)
    seed: int = 0


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("epochs", 0, "--epochs: got 0, wanted 1 or more"),
        ("lengths", (3, -1), "--lengths: got -1, wanted 1 or more"),
        ("lengths", (10**30,), r"--lengths: got 10+, wanted at most 2\*\*31 - 1"),
        ("seed", -1, r"--seed: got -1, wanted 0 or more and less than 2\*\*63"),
        ("seed", 2**63, r"--seed: got 9223372036854775808, wanted 0 or more and less than 2\*\*63"),
    ],
)
def test_numbers_out_of_range_are_named(option: str, value: Any, told: str) -> None:
    options = Numbers(**{option: value})

    def check() -> None:
        check_counts(options, "epochs", "lengths")
        check_seeds(options)

    with pytest.raises(ValueError, match=told):
        check()


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def act() -> None:
        with written_beside(tmp_path / "out") as temporary:
            temporary.write_text("half")
            signal.raise_signal(signal.SIGTERM)

    assert guarded("program", act) == 143
    assert "interrupted" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


# --- reading the options ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """Draw something."""

    file: tyro.conf.Positional[Path]
    """To draw."""
    colours: tuple[Literal["red", "blue"], ...] = ("red",)
    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "size")


@dataclass(frozen=True)
class Show:
    """Show something."""

    times: int = 1


Command = Annotated[Draw, tyro.conf.subcommand("draw")] | Annotated[Show, tyro.conf.subcommand("show")]


def command(*words: str) -> tuple[int, list[Any]]:
    read: list[Any] = []
    status = run("program", "Pictures.", Command, read.append, list(words), command="show")
    return status, read


def test_options_are_read_into_the_dataclass() -> None:
    assert command("draw", "a.png", "--colours", "blue", "red", "--grey") == (
        0,
        [Draw(Path("a.png"), ("blue", "red"), grey=True)],
    )
    assert command() == command("show") == (0, [Show()])
    assert command("--times", "3") == (0, [Show(3)])
    read: list[Any] = []
    assert run("program", None, Show, read.append, [], start=Show(5)) == 0 and read == [Show(5)]


def test_an_action_gives_the_status() -> None:
    assert run("program", None, Show, lambda read: read.times, ["--times", "7"]) == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paint"], "Unrecognized options: paint; Available subcommands: draw, show"),
        (["draw"], "Missing from program draw: PATH"),
        (["draw", "a", "--size"], "'--size'"),
        (["draw", "a", "--size", "x"], "Error parsing --size: no type matching INT could be instantiated from ['x']."),
        (["show", "--times", "x"], "Error parsing --times: invalid literal for int() with base 10: 'x'"),
        (["draw", "a", "--size", "0"], "program: error: --size: got 0, wanted 1 or more"),
        (["draw", "a", "--colours", "red", "green"], "'--colours'"),
        (["draw", "a", "--gray"], "Unrecognized options: --gray; Perhaps you meant: --grey"),
        (["draw", "a", "--no-grey"], "Unrecognized options: --no-grey"),
        (["draw", "a", "b"], "Unrecognized options: b"),
    ],
)
def test_wrong_options_are_one_line_that_names_them(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == (2, [])
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("program: error: ") and told in error
    assert "helptext" not in error and "─" not in error


def test_the_help_is_printed_and_nothing_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == (0, [])
    out, error = capsys.readouterr()
    assert "Pictures." in out and "Show something." in out and error == ""
    assert command("draw", "--help") == (0, [])
    out = capsys.readouterr().out
    assert "--size INT" in out and "To draw." in out and "--no-grey" not in out


@pytest.mark.parametrize(
    "program",
    [
        "print('a\\n' * 10**6)",
        "print('a')",
        "[print('a' * 9999) for _ in range(999)]",
        "run('p', 'a' * 10**6, int, print, ['-h'])",
    ],
)
def test_a_reader_that_has_had_enough_ends_a_command_silently(program: str) -> None:
    """As `head` does."""
    action = f"from demos.command import guarded, run; import sys; sys.exit(guarded('p', lambda: {program}))"
    with subprocess.Popen(
        [sys.executable, "-c", action], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("terminal", [False, True])
def test_wrong_options_are_one_line_everywhere(encoding: str, terminal: bool) -> None:
    """With boxes drawn by lines or by dashes, in colours or not."""
    program = "from tests.demos.test_command import command; command('draw', 'a', '--size', '0')"
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests/demos", "PYTHONIOENCODING": encoding, "TERM": "xterm", "COLUMNS": "40"},
        stdout=slave if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(master)
    os.close(slave)
    assert done.stderr == "program: error: --size: got 0, wanted 1 or more\n"


@dataclass(frozen=True)
class Described:
    """Not shown."""

    number: int = 0


DESCRIPTION = """\
The first line.

A paragraph of several
lines, which are one when it is printed, and are broken where the boxes end.

  name          what it is, told at such length that it
                takes more than one line
  python -m program --with --so --many --options --that --they --take --two --lines
"""


@pytest.mark.parametrize("width", [80, 120])
def test_a_help_is_as_wide_as_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run("program", DESCRIPTION, Described, lambda _: None, ["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width and "--number INT" in "".join(lines)
    if width == 80:
        assert "  name          what it is, told at such length that it takes more than one line" in lines
        assert any(line.startswith(("      --take", "      --lines")) for line in lines)
    assert not any(before == after == "" for before, after in itertools.pairwise(lines))
