"""The process that `exact` starts: reads an instance, runs python-sat, prints what it finds as lines of JSON."""

import json
import math
import pickle
import sys


def say(kind: str, **what: object) -> None:
    print(json.dumps({"kind": kind, **what}), flush=True)


def satisfy(clauses: list[list[int]]) -> None:
    from pysat.solvers import Solver

    with Solver(name="cadical195", bootstrap_with=clauses) as solver:
        if solver.solve():
            say("model", model=[literal for literal in solver.get_model() if literal > 0], bound=None)
        else:
            say("infeasible")


def optimise(hard: list[list[int]], soft: list[list[int]], weights: list[int], step: int) -> None:
    from pysat.examples.rc2 import RC2Stratified
    from pysat.formula import WCNF

    class Reporting(RC2Stratified):  # type: ignore[misc, unused-ignore]
        """Says each lower bound that a core proves, and the model of each level of weights."""

        def process_core(self) -> None:
            super().process_core()
            say("bound", bound=self.cost * step)

        def finish_level(self) -> None:
            model = self.oracle.get_model() or []
            mapped = [self.vmap.i2e[v] for v in model if v > 0 and v in self.vmap.i2e]
            say("model", model=mapped, bound=self.cost * step)
            super().finish_level()

    formula = WCNF()
    formula.extend(hard)
    formula.extend(soft, weights)
    with Reporting(formula, adapt=True, exhaust=True, minz=True) as solver:
        model = solver.compute()
        if model is None:
            say("infeasible")
        else:
            say("model", model=[literal for literal in model if literal > 0], bound=solver.cost * step)


def main() -> None:
    order = pickle.load(sys.stdin.buffer)
    sys.path[:] = order["path"]
    try:
        import resource

        # If nobody is left to stop it.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(order["seconds"]) + 5,) * 2)
    except (ImportError, ValueError, OverflowError):
        pass
    try:
        pairs = list(zip(order["clauses"], order["hard"], strict=True))
        hard = [clause for clause, is_hard in pairs if is_hard]
        if order["task"] == "satisfy":
            satisfy(hard)
        else:
            soft = [clause for clause, is_hard in pairs if not is_hard]
            weights = [w for w, is_hard in zip(order["weights"], order["hard"], strict=True) if not is_hard]
            optimise(hard, soft, weights, order["step"])
        say("end")
    except Exception as error:
        say("error", message=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
