"""`python -m difflayers.maxsat FILE`: solve a DIMACS file, in the output format of the MaxSAT evaluations."""

import argparse
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from difflayers.maxsat import Solution, read, solve


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m difflayers.maxsat",
        description="Solve a MAXSAT instance by an SDP relaxation, rounding and local search, and, where that leaves hard "
        "clauses violated, by a SAT solver. Prints 'o COST' for each better assignment, 's OPTIMUM FOUND', 's SATISFIABLE' "
        "(hard clauses satisfied), 's UNSATISFIABLE' (they cannot be) or 's UNKNOWN', and 'v' with one 0 or 1 for each "
        "variable. Ctrl-C and SIGTERM end early with the best assignment so far.",
    )
    parser.add_argument("file", metavar="FILE", help=".cnf or .wcnf (old or new format), plain or .gz")
    parser.add_argument("--rounds", type=int, default=100, help="random hyperplanes (default: 100)")
    parser.add_argument("--max-iter", type=int, default=1000, help="most sweeps of the mixing method (default: 1000)")
    parser.add_argument("--eps", type=float, default=1e-6, help="relative gain of a sweep to stop at (default: 1e-6)")
    parser.add_argument("--no-local-search", action="store_true", help="roundings as they are")
    parser.add_argument(
        "--sat",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for a SAT solver, if hard clauses are violated still (default: 60)",
    )
    parser.add_argument(
        "--exact", type=float, default=0.0, metavar="SECONDS", help="for an exact solver, RC2, at the end (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of starts and hyperplanes (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)

    def improved(cost: float, hard_violations: int) -> None:
        if hard_violations == 0:
            print(f"o {cost}", flush=True)

    with _stoppable(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        try:
            if not -(2**63) <= options.seed < 2**64:
                raise ValueError(f"--seed must be from -2**63 to 2**64 - 1; got {options.seed}")
            instance = read(options.file)
            hard, soft = int(instance.hard.sum()), int((~instance.hard).sum())
            print(f"c {instance.n} variables, {hard} hard and {soft} soft clauses")
            solution = solve(
                instance,
                max_iter=options.max_iter,
                eps=options.eps,
                rounds=options.rounds,
                local_search=not options.no_local_search,
                sat=options.sat,
                exact=options.exact,
                generator=torch.Generator().manual_seed(options.seed),
                progress=not options.quiet and sys.stderr.isatty(),
                on_improvement=improved,
            )
        except KeyboardInterrupt:  # before there was anything to return
            print("c interrupted\ns UNKNOWN", flush=True)
            return 0
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        _ignore_stops()
        for warning in warned:
            print(f"c warning: {warning.message}")
        report(solution)
    return 0


def report(solution: Solution) -> None:
    """Print what was found, and what was proved."""
    relaxation = "none" if solution.relaxation is None else f"{solution.relaxation:.6g}"
    print(f"c bound {solution.bound} ({solution.bound_by}), gap {solution.gap}, relaxation {relaxation}")
    converged = "converged" if solution.converged else "not converged"
    stopped = ", interrupted" if solution.interrupted else ""
    print(f"c {solution.sweeps} sweeps, {converged}{stopped}, {solution.seconds:.2f} s")
    if solution.infeasible:
        print(f"c no assignment satisfies all hard clauses: proved by {solution.infeasible_by}")
        print("s UNSATISFIABLE", flush=True)
        return
    if solution.hard_violations:
        print(f"c {solution.hard_violations} hard clauses violated")
        print("s UNKNOWN", flush=True)
        return
    print(f"c assignment by {solution.found_by}")
    print("s OPTIMUM FOUND" if solution.optimal else "s SATISFIABLE")
    print("v ", end="")
    for digits in solution.digits():
        print(digits, end="")
    print(flush=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where no signal is heard
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stops() -> None:
    """A second signal must not cut off what is printed."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    except ValueError:
        pass


if __name__ == "__main__":
    sys.exit(main())
