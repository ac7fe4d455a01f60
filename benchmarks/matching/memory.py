"""What is measured of memory: how far each method's peak lies above what its process held before, in a process of its own."""

from collections.abc import Iterator

from benchmarks.registry import Row, case, run_alone

_CODE = """
import torch
from pathlib import Path
from benchmarks.matching.cases import sinkhorn
from benchmarks.matching.exact import lapx_batch, scipy_loop
from benchmarks.matching.instances import random_costs
from difflayers import functional

def both(solve, cost):
    cost = cost.requires_grad_()
    solve(cost).square().sum().backward()

def status(field):  # megabytes, from Linux
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024e-6

run = {run}
run(random_costs(2, 3, 5, dtype=torch.float32))
cost = random_costs({B}, {n}, {m}, dtype=torch.float32)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
run(cost)
print(status("VmHWM") - before)
"""

_EXACT = {
    "assign": "functional.assign",
    "hungarian": "functional.hungarian",
    "solve_exact": "functional.solve_exact",
    "scipy, in a loop": "scipy_loop",
    "lapx, its batch": "lapx_batch",
}
_RELAXED = {
    "dmm": "lambda c: both(functional.dmm_matching, c)",
    "quadratic 0.05": "lambda c: both(lambda x: functional.quadratic_matching(x, 0.05), c)",
    "entropic 0.05": "lambda c: both(lambda x: functional.entropic_matching(x, 0.05), c)",
    "exact, blackbox": "lambda c: both(functional.exact_matching, c)",
    "sinkhorn 0.05, by POT": "lambda c: both(lambda x: sinkhorn(x, 0.05), c)",
}


@case("matching-memory")
def memory() -> Iterator[Row]:
    """Megabytes beyond the costs: exact assignments forward, relaxed ones forward and backward; float32."""
    for methods, (B, n, m) in ((_EXACT, (208, 300, 300)), (_RELAXED, (1024, 10, 50))):
        for name, run in methods.items():
            extra = float(run_alone(_CODE.format(run=run, B=B, n=n, m=m)))
            yield {"method": name, "B": B, "n": n, "m": m, "costs mb": 4e-6 * B * n * m, "peak mb": extra}
