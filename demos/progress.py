"""The progress bar of everything here that takes long."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm

from demos.distributed import place


def progress_bar(total: int, description: str, unit: str) -> tqdm[NoReturn]:
    """Return a progress bar that goes when done, and seldom redraws where nobody watches (a log file).

    Of several processes, the first alone shows it.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        mininterval=interval,
        dynamic_ncols=True,
        disable=place()[0] > 0,
    )
