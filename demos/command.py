"""What all command lines share: how they end, and options made of a dataclass."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

MOST = 2**31 - 1
"""Of counts: what torch's and the kernels' sizes hold."""
MOST_RATE = 1e30
"""Of learning rates; greater ones do not fit into float32."""


def check_counts(options: Any, *names: str, least: int = 1) -> None:
    """Raise ``ValueError``, naming the option, unless those that are set, numbers or tuples of them, are from ``least`` on."""
    for name in names:
        value = getattr(options, name)
        for count in value if isinstance(value, tuple) else (value,):
            if count is not None and not least <= count <= MOST:
                wanted = f"{least} or more" if count < least else "at most 2**31 - 1"
                raise ValueError(f"--{name.replace('_', '-')}: got {count}, wanted {wanted}")


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Put the option's name before a ``ValueError`` that is raised inside, unless an option is named already."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("--") else f"{option}: {error}") from None


def check_rate(name: str, value: float) -> None:
    """Raise ``ValueError``, naming the option, unless it is a learning rate."""
    if not 0 < value <= MOST_RATE:
        raise ValueError(f"{name}: got {value}, wanted a positive number, at most {MOST_RATE:g}")


def check_seeds(options: Any, name: str = "seed") -> None:
    """Raise ``ValueError``, naming the option, unless it is a seed, or a tuple of them, for torch and for NumPy."""
    value = getattr(options, name)
    for seed in value if isinstance(value, tuple) else (value,):
        if not 0 <= seed < 2**63:
            raise ValueError(f"--{name}: got {seed}, wanted 0 or more and less than 2**63")


def guarded(program: str, action: Callable[[], int | None]) -> int:
    """Act, and return the exit status.

    Options or files that make no sense (a ``ValueError``), and files that cannot be read or written (an ``OSError``), end in
    one line on stderr and status 2; Ctrl-C in the line ``interrupted`` and status 130; SIGTERM likewise and in 143; a pipe that
    nobody reads on in 141.
    """
    terminated, owner = False, os.getpid()

    def terminate(*_: Any) -> None:
        nonlocal terminated
        if os.getpid() != owner:  # a worker process, which has nothing to tidy up
            os._exit(143)
        terminated = True
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        status = action() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has had enough
        with suppress(OSError):  # what is left to be written goes nowhere, or Python would complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 143 if terminated else 130
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def run(
    program: str,
    description: str | None,
    options: Any,
    action: Callable[[Any], int | None],
    argv: list[str] | None,
    *,
    start: Any = None,
    command: str | None = None,
) -> int:
    """Read the options, a dataclass or a union of them (subcommands), and act on them, `guarded`.

    The dataclass's fields are the options, the texts below them the help.

    Args:
        program, description: For the help.
        options: The dataclass, or the union.
        action: What to do with the options that were read; it may return an exit status.
        argv: The words of the command line; those of the process if None.
        start: Options to start from, instead of the dataclass's own defaults.
        command: The subcommand that is meant where none is given.
    """
    words = sys.argv[1:] if argv is None else argv
    if command is not None and (not words or (words[0].startswith("-") and words[0] not in ("-h", "--help"))):
        words = [command, *words]

    def act() -> int | None:
        read = _read(program, description, options, words, start)
        return 0 if read is None else action(read)

    return guarded(program, act)


def _read(program: str, description: str | None, options: Any, words: list[str], start: Any) -> Any:
    """The options; None if the help was asked for, and has been printed. Raise ``ValueError`` for wrong ones."""
    import tyro

    more = {} if start is None else {"default": start}
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)  # no --no-x, no "--x None"
    told, helped = io.StringIO(), _Help()
    try:
        with redirect_stderr(told), redirect_stdout(helped):
            return tyro.cli(options, prog=program, description=description, args=words, config=config, **more)
    except SystemExit as end:
        if not end.code:
            print(wrapped(helped.getvalue(), shutil.get_terminal_size().columns), end="")
            return None
    raise ValueError(_one_line(told.getvalue()))


class _Help(io.StringIO):
    """What tyro prints; it draws boxes and colours as for stdout."""

    def __init__(self) -> None:
        super().__init__()
        self._like = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._like.encoding

    def isatty(self) -> bool:
        return self._like.isatty()


_BOX = "╭+"
"""What the first box of a help begins with."""
_HANGING = 8
"""From this indentation on, lines that stand below each other belong together."""


def wrapped(text: str, width: int) -> str:
    """A help whose description is as wide as its boxes: tyro prints each paragraph of it as one line.

    A line "  name    what it is" goes on below "what it is".
    """
    lines = text.splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    first = next((i for i, line in enumerate(plain) if line and line[0] in _BOX), len(lines))
    entries: list[tuple[str, int]] = []  # of the description, and where each goes on
    for before, line in itertools.pairwise(plain[:first]):
        if not before and not line:
            continue
        indent = len(line) - len(line.lstrip())
        if entries and indent >= _HANGING and indent == entries[-1][1]:
            entries[-1] = (f"{entries[-1][0]} {line.strip()}", indent)
        else:
            item = re.match(r" +\S.*?\S {2,}(?=\S)", line)
            hang = indent if indent >= _HANGING else indent + 4 * (indent > 0)
            entries.append((line, item.end() if item else hang))
    told = [
        "\n".join(
            textwrap.wrap(line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False)
        )
        for line, hang in entries
    ]
    usage = textwrap.wrap(lines[0], width, subsequent_indent=" " * 7, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*usage, *told, *lines[first:], ""])


def _one_line(told: str) -> str:
    """What is said of wrong options in a box of many lines, without the help in it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    lines = [line.strip(" │|") for line in plain.splitlines()[1:-1]]
    parts = [" ".join(part.split()) for part in re.split(r"(?:^|\n)[─-]*\n", "\n".join(lines))]
    help_texts = ("Argument helptext", "For full helptext", "Got errors")
    kept = [part for part in parts if part and not part.startswith(help_texts)]
    return re.sub(r"^Error parsing [^:]*: (?=--)", "", "; ".join(kept))
