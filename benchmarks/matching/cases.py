"""What is measured of matching: time against real peers, what each method gives up, growth with size."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.matching.instances import mask_costs, random_costs
from benchmarks.registry import Row, case, seconds
from difflayers import functional
from difflayers.matching.dmm import oracle


def _both(solve: Callable[[Tensor], Tensor], cost: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """Forward and backward."""

    def run() -> Tensor:
        c = cost.clone().requires_grad_()
        return torch.autograd.grad(solve(c), c, grad)[0]

    return run


def _cvxpylayer(n: int, m: int, gamma: float) -> Callable[[Tensor], tuple[Tensor, ...]]:
    import cvxpy  # not at hand everywhere that the GPU's cases run
    from cvxpylayers.torch import CvxpyLayer

    x, c = cvxpy.Variable((n, m), nonneg=True), cvxpy.Parameter((n, m))
    value = cvxpy.sum(cvxpy.multiply(c, x)) + gamma / 2 * cvxpy.sum_squares(x)
    problem = cvxpy.Problem(cvxpy.Minimize(value), [cvxpy.sum(x, axis=1) == 1, cvxpy.sum(x, axis=0) <= 1])
    return CvxpyLayer(problem, parameters=[c], variables=[x])


def _first_of(layer: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], Tensor]:
    return lambda cost: layer(cost)[0]


def sinkhorn(cost: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    """Entropic transport by POT, problem by problem; a row of slack takes the proposals that stay free."""
    import ot

    n, m = cost.shape[-2:]
    rows = cost.new_ones(n + (m > n))
    if m > n:
        rows[-1] = m - n
    out = []
    for c in cost.reshape(-1, n, m):
        table = torch.cat((c, c.new_zeros(1, m))) if m > n else c
        plan = ot.sinkhorn(
            rows, c.new_ones(m), table, epsilon, method="sinkhorn_log", numItermax=iterations, stopThr=0, warn=False
        )
        out.append(plan[:n])
    return torch.stack(out).reshape(cost.shape)


@case("matching-step")
def step() -> Iterator[Row]:
    """Forward + backward of 32 problems of 10 x 50: milliseconds a problem, against the oracle, cvxpylayers and Sinkhorn."""
    B, n, m, gamma = 32, 10, 50, 0.05
    for dtype in (torch.float32, torch.float64):
        cost = random_costs(B, n, m, dtype=dtype)
        grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        few, few_grad = cost[:4], grad[:4]
        exact = _first_of(_cvxpylayer(n, m, gamma))

        def loop(c: Tensor) -> Tensor:
            return torch.stack([oracle.dmm(one) for one in c])

        dmm, dmm_spread = seconds(_both(functional.dmm_matching, cost, grad), repeats=51)
        quadratic, quadratic_spread = seconds(
            _both(lambda c: functional.quadratic_matching(c, gamma), cost, grad), repeats=51
        )
        unrolled = seconds(_both(loop, few, few_grad), repeats=3)[0] / len(few)
        peer = seconds(_both(exact, cost, grad), repeats=5)[0] / B
        entropic = seconds(_both(lambda c: sinkhorn(c, gamma), few, few_grad), repeats=3)[0] / len(few)
        alone = seconds(_both(functional.dmm_matching, cost[:1, :2, :3], grad[:1, :2, :3]), repeats=101)[0]
        alone_quadratic = seconds(
            _both(lambda c: functional.quadratic_matching(c, gamma), cost[:1, :2, :3], grad[:1, :2, :3]), repeats=101
        )[0]
        yield {
            "dtype": str(dtype).removeprefix("torch."),
            "dmm ms": 1e3 * dmm / B,
            "spread": 1e3 * dmm_spread / B,
            "oracle ms": 1e3 * unrolled,
            "oracle ratio": unrolled * B / dmm,
            "quadratic ms": 1e3 * quadratic / B,
            "quadratic spread": 1e3 * quadratic_spread / B,
            "cvxpylayers ms": 1e3 * peer,
            "cvxpylayers ratio": peer * B / quadratic,
            "sinkhorn ms": 1e3 * entropic,
            "2 x 3 dmm call ms": 1e3 * alone,
            "2 x 3 quadratic call ms": 1e3 * alone_quadratic,
        }


@case("matching-growth")
def growth() -> Iterator[Row]:
    """Milliseconds a problem, forward + backward, as the batch and the problem grow; float32, gamma = epsilon = 0.05.

    cvxpylayers ratio: against quadratic, up to 2,500 pairs. pot ratio: against entropic, 100 rounds. Peers solve at most 8
    problems of a batch.
    """
    sizes = (
        (1, 2, 3),
        (65536, 2, 3),
        (1, 10, 50),
        (32, 10, 50),
        (1024, 10, 50),
        (32, 50, 50),
        (8, 200, 300),
        (2, 500, 500),
    )
    for B, n, m in sizes:
        cost = random_costs(B, n, m, dtype=torch.float32)
        grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1))
        few = min(B, 8)

        def each(solve: Callable[[Tensor], Tensor], count: int = B, cost: Tensor = cost, grad: Tensor = grad) -> float:
            return 1e3 * seconds(_both(solve, cost[:count], grad[:count]), repeats=5)[0] / count

        row: Row = {"B": B, "n": n, "m": m, "dmm ms": each(functional.dmm_matching)}
        row["quadratic ms"] = quadratic = each(lambda c: functional.quadratic_matching(c, 0.05))
        row["entropic ms"] = smooth = each(lambda c: functional.entropic_matching(c, 0.05))
        if n * m <= 2500:
            row["cvxpylayers ratio"] = each(_first_of(_cvxpylayer(n, m, 0.05)), few) / quadratic
        row["pot ratio"] = each(lambda c: sinkhorn(c, 0.05), few) / smooth
        yield row


@case("matching-warm")
def warm() -> Iterator[Row]:
    """Quadratic matching of costs that change slowly: 20 frames of 16 problems of 20 x 30 in float64, which drift by normal
    steps, each started anew or from the prices of the frame before. Newton steps and milliseconds a problem, forward alone."""
    generator = torch.Generator().manual_seed(3)
    for drift in (0.001, 0.01, 0.1):
        steps = torch.randn(20, 16, 20, 30, generator=generator, dtype=torch.float64)
        frames = random_costs(16, 20, 30) + drift * steps.cumsum(0)
        for gamma in (0.01, 0.1):
            row: Row = {"drift": drift, "gamma": gamma}
            for name in ("cold", "warm"):

                def track(name: str = name, gamma: float = gamma, frames: Tensor = frames) -> Tensor:
                    prices, used = None, torch.zeros(16, dtype=torch.int64)
                    for k, frame in enumerate(frames):
                        found = functional.solve_quadratic(frame, gamma, start=prices, require_convergence=True)
                        prices = found.multipliers if name == "warm" else None
                        used += found.iterations if k else 0
                    return used

                row[f"{name} steps"] = track().double().mean().item() / (len(frames) - 1)
                row[f"{name} ms"] = 1e3 * seconds(track, repeats=3)[0] / (len(frames) * 16)
            yield row


_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "dmm 10, 5, 0.1": lambda c: functional.dmm_matching(c, n_grad=10),
    "dmm 40, 5, 0.1": functional.dmm_matching,
    "dmm 40, 5, 0.1, last": lambda c: functional.dmm_matching(c, average=False),
    "dmm 40, 20, 0.1": lambda c: functional.dmm_matching(c, n_proj=20),
    "dmm 200, 20, 0.1": lambda c: functional.dmm_matching(c, n_grad=200, n_proj=20),
    "dmm 200, 20, 0.1, last": lambda c: functional.dmm_matching(c, n_grad=200, n_proj=20, average=False),
    "dmm 1000, 50, 0.05": lambda c: functional.dmm_matching(c, n_grad=1000, n_proj=50, step_size=0.05),
    "quadratic 0.01": lambda c: functional.quadratic_matching(c, 0.01),
    "quadratic 0.05": lambda c: functional.quadratic_matching(c, 0.05),
    "quadratic 0.2": lambda c: functional.quadratic_matching(c, 0.2),
    "quadratic 1": lambda c: functional.quadratic_matching(c, 1.0),
    "entropic 0.02": lambda c: functional.entropic_matching(c, 0.02),
    "entropic 0.1": lambda c: functional.entropic_matching(c, 0.1),
    "sinkhorn 0.02": lambda c: sinkhorn(c, 0.02),
    "sinkhorn 0.1": lambda c: sinkhorn(c, 0.1),
    "exact, blackbox": lambda c: functional.exact_matching(c, strength=1.0),
    "exact, straight-through": lambda c: functional.exact_matching(c, gradient="straight-through"),
    "hungarian": functional.hungarian,
}


def _learns(solve: Callable[[Tensor], Tensor], cost: Tensor, steps: int = 50, lr: float = 0.02) -> tuple[float, float]:
    """The share of problems whose first gradient is 0, and of templates put right, on the way to a given assignment.

    The targets are random assignments. Adam works on the cost itself, under the loss |X - target|^2; a template is right
    if the Hungarian assignment of the final cost is the target.
    """
    generator = torch.Generator().manual_seed(2)
    B, n, m = cost.shape
    columns = torch.stack([torch.randperm(m, generator=generator)[:n] for _ in range(B)])
    target = torch.zeros_like(cost).scatter_(2, columns[..., None], 1)
    c = cost.clone().requires_grad_()
    optimizer = torch.optim.Adam([c], lr=lr)
    flat = 0.0
    for turn in range(steps):
        optimizer.zero_grad()
        (solve(c) - target).square().sum().backward()
        assert c.grad is not None
        if turn == 0:
            flat = (c.grad.abs().amax((1, 2)) < 1e-12).double().mean().item()
        optimizer.step()
    right = (functional.hungarian(c.detach()) * target).sum((1, 2)) / n
    return flat, right.mean().item()


@case("matching-choice")
def choice() -> Iterator[Row]:
    """What each method gives up, on random costs and on costs like those of masks, 20 problems of 10 x 20, float64.

    gap: <C, X> above the linear program's optimum, mean (below 0: not feasible). rows, columns, signs: the largest
    violations. entropy: of the rows, in units of log 20: 0 for a permutation. no gradient: the share of problems whose first
    gradient is 0 all over. learned: the share of templates that 50 steps of Adam (0.02) on the cost itself bring to random
    targets, see `_learns`. ms: forward + backward of a problem, in a batch.
    """
    B, n, m = 20, 10, 20
    for costs, cost in (("random", random_costs(B, n, m)), ("masks", mask_costs(B, n, m))):
        optimum = (functional.hungarian(cost) * cost).sum((1, 2))
        grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1), dtype=cost.dtype)
        for name, solve in _METHODS.items():
            X = solve(cost)
            entropy = -(X.clamp(min=1e-300).log() * X.clamp(min=0)).sum(-1).mean() / torch.tensor(m).log()
            row: dict[str, Any] = {
                "costs": costs,
                "method": name,
                "gap": ((X * cost).sum((1, 2)) - optimum).mean().item(),
                "rows": (X.sum(2) - 1).abs().max().item(),
                "columns": (X.sum(1) - 1).clamp(min=0).max().item(),
                "signs": (-X).clamp(min=0).max().item(),
                "entropy": entropy.item(),
            }
            if name == "hungarian":
                row |= {
                    "no gradient": 1.0,
                    "learned": 0.0,
                    "ms": 1e3 * seconds(partial(solve, cost))[0] / B,
                }
            else:
                row["no gradient"], row["learned"] = _learns(solve, cost)
                row["ms"] = 1e3 * seconds(_both(solve, cost, grad), repeats=3)[0] / B
            yield row


def pygm_sinkhorn(cost: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    """pygmtools' Sinkhorn, the batch at once, in the log domain; its dummy rows take the proposals that stay free."""
    import pygmtools

    return pygmtools.sinkhorn(-cost, dummy_row=True, max_iter=iterations, tau=epsilon, backend="pytorch")


@case("matching-entropic")
def entropic() -> Iterator[Row]:
    """Entropic matching, forward + backward of 32 problems of 10 x 50 at each epsilon, against POT and pygmtools (100 rounds).

    off: the largest violation of a row's or a column's sum. passes: over the cost, mean.
    """
    B, n, m = 32, 10, 50
    for dtype in (torch.float32, torch.float64):
        cost = random_costs(B, n, m, dtype=dtype)
        grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        for epsilon in (0.01, 0.05, 0.5):
            solve = partial(functional.entropic_matching, epsilon=epsilon)
            ours, spread = seconds(_both(solve, cost, grad), repeats=51)
            pot = seconds(_both(partial(sinkhorn, epsilon=epsilon), cost[:4], grad[:4]), repeats=3)[0] / 4
            pygm = seconds(_both(partial(pygm_sinkhorn, epsilon=epsilon), cost, grad), repeats=3)[0] / B
            yield {
                "dtype": str(dtype).removeprefix("torch."),
                "epsilon": epsilon,
                "ms": 1e3 * ours / B,
                "spread": 1e3 * spread / B,
                "passes": functional.solve_entropic(cost, epsilon).iterations.double().mean().item(),
                "off": _off(solve(cost)),
                "pot ms": 1e3 * pot,
                "pot ratio": pot * B / ours,
                "pot off": _off(sinkhorn(cost[:4], epsilon)),
                "pygmtools ms": 1e3 * pygm,
                "pygmtools ratio": pygm * B / ours,
                "pygmtools off": _off(pygm_sinkhorn(cost, epsilon)),
            }


def _off(X: Tensor) -> float:
    """The largest violation of a constraint."""
    return max((X.sum(2) - 1).abs().max().item(), (X.sum(1) - 1).max().item(), -X.min().item(), 0.0)


@case("matching-comparison")
def comparison() -> Iterator[Row]:
    """The four methods on 200 random problems of 6 x 12, float64: distance to the linear program, violation, time.

    gap: <C, X> above the optimum, mean. off: the largest violation of a constraint. us: forward + backward of a problem.
    """
    cost = random_costs(200, 6, 12)
    grad = torch.randn(cost.shape, generator=torch.Generator().manual_seed(1), dtype=cost.dtype)
    optimum = (functional.hungarian(cost) * cost).sum((1, 2))
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "dmm 40, 5, 0.1": functional.dmm_matching,
        "dmm 1000, 50, 0.05": lambda c: functional.dmm_matching(c, n_grad=1000, n_proj=50, step_size=0.05),
        "quadratic 0.05": lambda c: functional.quadratic_matching(c, 0.05),
        "entropic 0.001": lambda c: functional.entropic_matching(c, 0.001),
        "entropic 0.01": lambda c: functional.entropic_matching(c, 0.01),
        "entropic 0.05": lambda c: functional.entropic_matching(c, 0.05),
        "exact": functional.exact_matching,
    }
    for name, solve in methods.items():
        X = solve(cost)
        time, spread = seconds(_both(solve, cost, grad), repeats=7)
        yield {
            "method": name,
            "gap": ((X * cost).sum((1, 2)) - optimum).mean().item(),
            "off": _off(X),
            "us": 1e6 * time / len(cost),
            "spread": 1e6 * spread / len(cost),
        }
