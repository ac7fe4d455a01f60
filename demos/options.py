"""Options that need not be given, as the dataclasses of command lines have them.

Their value is ``None`` then, of which the help says nothing: the text of such an option says what is done without it.
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


File = Annotated[Path | None, optional("FILE")]
Folder = Annotated[Path | None, optional("DIR")]
Whole = Annotated[int | None, optional("N")]
