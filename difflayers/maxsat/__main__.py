"""`python -m difflayers.maxsat FILE`: solve a DIMACS file, in the output format of the MaxSAT evaluations."""

import argparse
import sys

import torch

from difflayers.maxsat import read, solve


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m difflayers.maxsat",
        description="Solve a MAXSAT instance by an SDP relaxation, rounding and local search. Prints 'o COST' for each better "
        "assignment, 's OPTIMUM FOUND', 's SATISFIABLE' (hard clauses satisfied) or 's UNKNOWN', and 'v' with one 0 or 1 for "
        "each variable. Ctrl-C ends early with the best assignment so far.",
    )
    parser.add_argument("file", metavar="FILE", help=".cnf or .wcnf (old or new format), plain or .gz")
    parser.add_argument("--rounds", type=int, default=100, help="random hyperplanes (default: 100)")
    parser.add_argument("--max-iter", type=int, default=1000, help="most sweeps of the mixing method (default: 1000)")
    parser.add_argument("--eps", type=float, default=1e-6, help="relative gain of a sweep to stop at (default: 1e-6)")
    parser.add_argument("--no-local-search", action="store_true", help="roundings as they are")
    parser.add_argument("--seed", type=int, default=0, help="of starts and hyperplanes (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)

    def improved(cost: float, hard_violations: int) -> None:
        if hard_violations == 0:
            print(f"o {cost:.12g}" if cost != int(cost) else f"o {int(cost)}", flush=True)

    try:
        instance = read(options.file)
        print(
            f"c {instance.n} variables, {int(instance.hard.sum())} hard and {int((~instance.hard).sum())} soft clauses"
        )
        solution = solve(
            instance,
            max_iter=options.max_iter,
            eps=options.eps,
            rounds=options.rounds,
            local_search=not options.no_local_search,
            generator=torch.Generator().manual_seed(options.seed),
            progress=not options.quiet and sys.stderr.isatty(),
            on_improvement=improved,
        )
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"c bound {solution.bound:.12g}, gap {solution.gap:.12g}, relaxation {solution.relaxation:.6g}")
    print(
        f"c {solution.sweeps} sweeps, {'converged' if solution.converged else 'not converged'}, {solution.seconds:.2f} s"
    )
    if solution.hard_violations:
        print(f"c {solution.hard_violations} hard clauses violated")
        print("s UNKNOWN")
        return 0
    print("s OPTIMUM FOUND" if solution.optimal else "s SATISFIABLE")
    print("v " + "".join("1" if value else "0" for value in solution.assignment.tolist()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
