"""What all command lines share: how they end, and options made of a dataclass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def guarded(program: str, action: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Act, and return the exit status.

    Options or files that make no sense (a ``ValueError``), and files that cannot be read or written (an ``OSError``), end in
    one line on stderr and status 2; Ctrl-C in the line ``interrupted`` and status 130; a pipe that nobody reads on in 141.
    """
    try:
        return action() or 0
    except BrokenPipeError:  # the reader, `head` say, has had enough
        sys.stderr.close()
        return 141
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130


def run(
    program: str,
    description: str | None,
    options: Any,
    action: Callable[[Any], int | None],
    argv: list[str] | None,
) -> int:
    """Read the options, a dataclass or a union of them (subcommands), and act on them, :func:`guarded`.

    The dataclass's fields are the options, the texts below them the help.
    """
    import tyro

    arguments = tyro.cli(options, prog=program, description=description, args=argv)
    return guarded(program, lambda: action(arguments))
