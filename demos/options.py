"""Options that several command lines have.

The value of one that need not be given is ``None``, of which the help says nothing: its text says what is done without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg


def _unless_none(default: str) -> str:
    return "" if default == "None" else f"(default: {default})"


def optional(metavar: str) -> object:
    """Annotate an option that may be ``None``; the help shows its value as ``metavar``."""
    return arg(metavar=metavar, help_behavior_hint=_unless_none)


Device = Annotated[str, arg(metavar="cpu|cuda")]
File = Annotated[Path | None, optional("FILE")]
Folder = Annotated[Path | None, optional("DIR")]
Whole = Annotated[int | None, optional("N")]
