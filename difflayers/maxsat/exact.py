"""python-sat in a process of its own, which can be stopped: a SAT solver for hard clauses, RC2 for the optimum."""

import importlib.util
import json
import math
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from difflayers.maxsat.instance import Instance

WORKER = Path(__file__).with_name("_pysat_worker.py")
Task = Literal["satisfy", "optimise"]


class News(NamedTuple):
    """What the process has found out; what it has not is None."""

    bound: int | None = None
    """No assignment that satisfies the hard clauses costs fewer units, empty clauses not counted."""
    x: np.ndarray | None = None
    """(n,), bool: an assignment that satisfies the hard clauses."""
    infeasible: bool = False
    """Whether there is none."""


def available() -> bool:
    """Whether python-sat is installed."""
    try:
        return importlib.util.find_spec("pysat") is not None
    except (ImportError, ValueError):
        return False


def run(task: Task, instance: Instance, seconds: float) -> Generator[News]:
    """What python-sat finds out about an instance in so many seconds, as it does; an empty `News` a few times a second.

    Raises:
        RuntimeError: the process failed.
    """
    until = time.monotonic() + seconds
    with _started(task, instance, seconds) as (process, lines):
        while (left := until - time.monotonic()) > 0:
            try:
                line = lines.get(timeout=min(left, 0.2))
            except queue.Empty:
                yield News()
                continue
            if line is None:
                raise RuntimeError(f"python-sat's process ended with exit status {process.wait()}, without an answer")
            said = json.loads(line)
            if said["kind"] == "error":
                raise RuntimeError(f"python-sat failed: {said['message']}")
            if said["kind"] == "end":
                return
            if said["kind"] == "model":
                x = np.zeros(instance.n, bool)
                x[[literal - 1 for literal in said["model"] if 0 < literal <= instance.n]] = True
                yield News(said["bound"], x)
            else:
                yield News(said.get("bound"), None, said["kind"] == "infeasible")


@contextmanager
def _started(
    task: Task, instance: Instance, seconds: float
) -> Iterator[tuple["subprocess.Popen[bytes]", "queue.SimpleQueue[bytes | None]"]]:
    """The process and the lines it prints, None at the end; it does not outlive the block."""
    windows = sys.platform == "win32"
    process = subprocess.Popen(
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for this process, which then stops that one.
        start_new_session=not windows,
        creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if windows else 0,  # type: ignore[attr-defined, unused-ignore]
    )
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    step = math.gcd(*instance.units.tolist()) or 1
    order = {
        "path": sys.path,
        "task": task,
        "seconds": seconds,
        "clauses": instance.clauses,
        "hard": instance.hard.tolist(),
        "weights": [u // step for u in instance.units.tolist()],
        "step": step,
    }

    def talk() -> None:
        assert process.stdin is not None and process.stdout is not None
        try:
            with process.stdin:
                pickle.dump(order, process.stdin)
            for line in process.stdout:
                if line.startswith(b"{"):  # solvers in C may print too
                    lines.put(line)
        except (OSError, ValueError):  # it is gone, or has been stopped
            pass
        lines.put(None)

    thread = threading.Thread(target=talk, daemon=True)
    try:
        thread.start()
        yield process, lines
    finally:
        process.kill()
        process.wait()
        thread.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
