"""The progress bar of everything in the package that takes long."""

import sys
from types import TracebackType
from typing import Any


class ProgressBar:
    """A bar on the standard error if wanted, by tqdm; it goes when done, and seldom redraws where nobody watches."""

    def __init__(self, wanted: bool, total: int, name: str, unit: str) -> None:
        self._bar: Any = None
        if not wanted:
            return
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("progress needs tqdm: pip install tqdm") from error
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}", leave=False, mininterval=interval, dynamic_ncols=True)

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
