"""What all command lines share: how they end, and options made of a dataclass."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
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


def guarded(program: str, action: Callable[[], int | None], interrupted: str = "interrupted") -> int:
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
        return action() or 0
    except BrokenPipeError:  # the reader, `head` say, has had enough
        sys.stderr.close()
        return 141
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
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
) -> int:
    """Read the options, a dataclass or a union of them (subcommands), and act on them, :func:`guarded`.

    The dataclass's fields are the options, the texts below them the help.
    """
    import tyro

    arguments = tyro.cli(options, prog=program, description=description, args=argv)
    return guarded(program, lambda: action(arguments))
