"""A command line made of a dataclass: its fields are the options, the texts below them the help."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro


def run(
    program: str,
    description: str | None,
    options: Any,
    action: Callable[[Any], int | None],
    argv: list[str] | None,
) -> int:
    """Read the options, a dataclass or a union of them (subcommands), and act on them; returns the exit status.

    Options that make no sense (a ``ValueError``) and files that cannot be read or written end in one line on stderr and status
    2, Ctrl-C in status 130.
    """
    arguments = tyro.cli(options, prog=program, description=description, args=argv)
    try:
        return action(arguments) or 0
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{program}: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
