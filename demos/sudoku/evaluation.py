"""How a network does on boards whose solutions are known: in one pass, and by what `difflayers.inference` offers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from demos.distributed import share, totals
from demos.progress import progress_bar
from demos.sudoku.boards import Boards, Int8Array, obeys_rules
from demos.sudoku.data import domains_of, encode, to_boards, to_values
from demos.sudoku.images import ImageBoards
from demos.sudoku.model import Net, VisualNet, bit_loss, satnet_of
from difflayers import inference

Result = dict[str, str | float | int | None]


@dataclass(frozen=True)
class Evaluation:
    """How a network does on boards whose solutions are known."""

    boards: int
    loss: float
    boards_right: float
    """Share of boards that equal their solution in every cell."""
    blank_cells_right: float
    given_cells_read: float | None
    """Of boards with images: share of the given cells that the reader alone reads right."""
    rules_obeyed: float
    """Share of completed boards that obey the rules of Sudoku."""
    answers: Int8Array
    """Of shape (boards, N ** 2): the completed boards."""
    seconds: float


def evaluate(
    net: Net,
    boards: Boards,
    *,
    batch_size: int,
    seed: int,
    description: str = "testing",
) -> Evaluation:
    """Complete the puzzles of ``boards`` and compare; every batch has the same random start, drawn from ``seed``.

    So what becomes of a board depends on its puzzle and the seed alone, up to rounding: not on the boards beside it.

    Several processes share each batch, and all return what came of the whole.
    """
    if len(boards) == 0:
        raise ValueError("boards: got none, wanted at least one to evaluate on")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, wanted 1 or more")
    start = time.perf_counter()
    loss = read = 0.0
    answers = np.zeros_like(boards.puzzles)
    net.eval()
    with torch.no_grad(), progress_bar(len(boards), description, " boards") as bar:
        for first in range(0, len(boards), batch_size):
            whole = boards[first : first + batch_size]
            part = share(len(whole))
            batch = whole[part]
            generator = torch.Generator(net.device).manual_seed(seed)
            puzzles = torch.from_numpy(batch.puzzles).to(net.device)
            solutions = torch.from_numpy(batch.solutions).to(net.device)
            if isinstance(net, VisualNet):
                images, cells = net.inputs(batch)
                seen = net.read(images, cells)
                read += int((seen.argmax(-1) + 1 == puzzles)[cells].sum())
                probabilities = net.complete(seen, cells, generator=generator)
            else:
                probabilities = net(*net.inputs(batch), generator=generator)
            loss += bit_loss(probabilities, encode(solutions)[0]).item() * len(batch)
            answers[first : first + batch_size][part] = net.answers(probabilities, puzzles).cpu().numpy()
            bar.update(len(whole))
    loss, read, *digits = totals([loss, read, *answers.ravel().tolist()], net.device)
    answers = np.array(digits, np.int8).reshape(answers.shape)
    same = answers == boards.solutions
    givens = int(boards.givens.sum())
    blanks = boards.puzzles.size - givens
    return Evaluation(
        boards=len(boards),
        loss=loss / len(boards),
        boards_right=float(same.all(1).mean()),
        blank_cells_right=int((same & (boards.puzzles == 0)).sum()) / max(blanks, 1),
        given_cells_read=read / max(givens, 1) if isinstance(net, VisualNet) else None,
        rules_obeyed=float(obeys_rules(answers).mean()),
        answers=answers,
        seconds=time.perf_counter() - start,
    )


def search(
    net: Net,
    puzzles: Int8Array,
    limit: float | None,
    *,
    paths: int,
    starts: int = 4,
    seed: int = 0,
    rules: inference.Rules | None = None,
) -> inference.Answers:
    """Complete puzzles, (count, N ** 2), by `difflayers.inference.search`."""
    solver = satnet_of(net)
    return inference.search(
        solver.board_layer(),
        domains_of(solver.box),
        *to_values(puzzles),
        limit=limit,
        rules=rules,
        paths=paths,
        starts=starts,
        generator=torch.Generator().manual_seed(seed),
        progress=True,
    )


def round_best(
    net: Net, puzzles: Int8Array, limit: float | None, *, roundings: int, seed: int = 0
) -> inference.Answers:
    """Complete puzzles by `difflayers.inference.round_best`."""
    solver = satnet_of(net)
    return inference.round_best(
        solver.board_layer(),
        domains_of(solver.box),
        *to_values(torch.from_numpy(puzzles).to(solver.device)),
        limit=limit,
        roundings=roundings,
        generator=torch.Generator().manual_seed(seed),
        progress=True,
    )


def round_then_search(
    net: Net, puzzles: Int8Array, limit: float | None, *, roundings: int, paths: int, starts: int, seed: int
) -> inference.Answers:
    """Round, and search where no rounding is accepted; ``paths`` are roundings and decimations together."""
    found = round_best(net, puzzles, limit, roundings=roundings, seed=seed)
    rest = (~found.accepted).nonzero()[:, 0]
    if len(rest) == 0:
        return found
    later = search(net, puzzles[rest.cpu().numpy()], limit, paths=paths, starts=starts, seed=seed)
    better = later.accepted | (later.objective < found.objective[rest])
    found.values[rest[better]], found.objective[rest[better]] = later.values[better], later.objective[better]
    found.accepted[rest] = later.accepted
    found.paths[rest] += later.paths
    found.passes[rest] += later.passes
    return replace(found, interrupted=found.interrupted or later.interrupted)


def read_jointly(
    net: Net,
    boards: ImageBoards,
    limit: float | None,
    *,
    readings: int,
    paths: int,
    margin: float = 0.0,
    seed: int = 0,
    rules: inference.Rules | None = None,
    batch_size: int = 1000,
) -> inference.Answers:
    """Read and complete boards of images by `difflayers.inference.decode`.

    Of the boards only the images are used, and which cells are given.
    """
    if not isinstance(net, VisualNet):
        raise ValueError(f"network: got a {type(net).__name__}, wanted one that reads images")
    net.eval()
    given = boards.picks >= 0
    shown, which = np.unique(boards.picks[given], return_inverse=True)  # an image is on many boards and read once
    images = boards.pool[torch.from_numpy(shown).long()].to(net.device)
    with torch.no_grad():
        read = torch.cat([net.reader.probabilities(part.float() / 255) for part in images.split(batch_size)])
    seen = read.new_ones(*boards.puzzles.shape, read.shape[1])
    seen[torch.from_numpy(given)] = read[torch.from_numpy(which)]
    solver = satnet_of(net)
    return inference.decode(
        solver.board_layer(),
        domains_of(solver.box),
        seen.double().clamp(min=1e-30).log(),
        torch.from_numpy(boards.puzzles != 0).to(net.device),
        limit=limit,
        rules=rules,
        hypotheses=readings,
        paths=paths,
        margin=margin,
        generator=torch.Generator().manual_seed(seed),
        progress=True,
    )


def told(found: inference.Answers, right: NDArray[np.bool_]) -> Result:
    """Return what was accepted, rightly or not."""
    accepted = found.accepted.cpu().numpy()
    return {
        "boards wholly right": float(right.mean()),
        "answers accepted": float(accepted.mean()),
        "accepted, and wrong": int((accepted & ~right).sum()),
        "not accepted, but right": int((~accepted & right).sum()),
    }


def rules_told(rules: inference.Rules | None, limit: float | None, margin: float = 0.0) -> str:
    """What a method says of its rules and its margin."""
    told = "" if rules is None else f", {len(rules):,} rules"
    told += f", margin {margin:g}" if margin else ""
    return told + ("" if rules is None or limit is not None else ", judged by these alone")


def evaluate_search(
    net: Net,
    boards: Boards,
    limit: float | None,
    *,
    roundings: int | None,
    paths: int | None,
    starts: int,
    seed: int,
    rules: inference.Rules | None = None,
) -> tuple[Result, inference.Answers]:
    """Evaluate rounding (``roundings``), search (``paths``, and ``rules`` that it propagates) or both, one after the other."""
    start = time.perf_counter()
    if roundings is None:
        assert paths is not None
        most, method = paths, f"search, at most {paths} paths" + (f", {starts} restarts" if starts != 4 else "")
        method += rules_told(rules, limit)
        found = search(net, boards.puzzles, limit, paths=paths, starts=starts, seed=seed, rules=rules)
    elif paths is None:
        most, method = roundings, f"at most {roundings} roundings, local search"
        found = round_best(net, boards.puzzles, limit, roundings=roundings, seed=seed)
    else:
        most = roundings + paths
        method = f"at most {roundings} roundings, local search; then search, at most {paths} paths"
        found = round_then_search(
            net, boards.puzzles, limit, roundings=roundings, paths=paths, starts=starts, seed=seed
        )
    if found.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    right = (to_boards(found.values) == boards.solutions).all(1)
    accepted, tried = found.accepted.cpu().numpy(), found.paths.cpu().numpy()
    steps = [count for count in (1, 2, 5, 10, 20, 30, 50, 100, 200, 500, 1000) if count < most]
    return {
        "method": method,
        **told(found, right),
        "accepted within so many paths": ", ".join(
            f"{count}: {(accepted & (tried <= count)).mean():.1%}" for count in (*steps, most)
        ),
        "mean paths a board": float(tried.mean()),
        "mean forward passes a board": float(found.passes.double().mean()),
        "milliseconds a board": 1e3 * seconds / len(boards),
        "CPU threads": torch.get_num_threads(),
    }, found


def evaluate_joint(
    net: Net,
    boards: ImageBoards,
    limit: float | None,
    *,
    readings: int,
    paths: int,
    margin: float = 0.0,
    seed: int,
    rules: inference.Rules | None = None,
) -> tuple[Result, inference.Answers]:
    """Evaluate joint decoding of boards of images."""
    start = time.perf_counter()
    found = read_jointly(net, boards, limit, readings=readings, paths=paths, margin=margin, seed=seed, rules=rules)
    if found.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    right = (to_boards(found.values) == boards.solutions).all(1)
    return {
        "method": f"joint, at most {readings} readings, "
        + (f"{paths} paths each" if paths else "one pass each")
        + rules_told(rules, limit, margin),
        **told(found, right),
        "mean readings a board": float(found.paths.double().mean()),
        "milliseconds a board": 1e3 * seconds / len(boards),
        "CPU threads": torch.get_num_threads(),
    }, found
