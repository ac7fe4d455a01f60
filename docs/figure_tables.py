"""The tables of the documentation that come from committed CSVs, by name."""

import re
from collections.abc import Callable

from figure_cells import (
    Row,
    Table,
    benchmark_table,
    count,
    field,
    latest,
    milliseconds,
    read,
    share,
    size,
    two_figures,
    two_places,
)


def choice() -> Table:
    """A row for each option's value, a column for each problem."""
    rows = read("benchmarks/results/satnet-choice.csv")
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    units = {"m": "{} b", "aux": "{} b", "k": "{}", "lr": "{}", "eps": "{}"}
    table = [["option", *problems], ["---"] * (1 + len(problems))]
    for first in rows[: len(rows) // len(problems)]:
        name = first["varied"]
        value = units[name].format(first[name]) if name in units else ""
        told = "`m` = b, `aux` = b/2, default `k`, `lr` = 0.02, `eps` = 1e-4" if name == "-" else f"`{name}` = {value}"
        found = [row for row in rows if row["varied"] == name and (name == "-" or row[name] == first[name])]
        table.append([told, *(f"{share(row['valid'])} ({float(row['steps']):,.0f})" for row in found)])
    return table


def _search(rows: list[Row]) -> Table:
    def found(pattern: str) -> Callable[[str], str]:
        return lambda value: re.findall(pattern, value)[0]

    columns = {
        "boards": field("boards", lambda value: value.replace(".csv.gz", "")),
        "decimations, at most": field("method", found(r"at most (\d+) paths")),
        "after one": field("accepted within so many paths", found(r"^1: ([\d.]+%)")),
        "wholly right": field("boards wholly right", share),
        "wrong, accepted": field("accepted, and wrong", str),
        "passes": field("mean forward passes a board", milliseconds),
        "ms a board": field("milliseconds a board", milliseconds),
    }
    return benchmark_table(rows, columns)


def search() -> Table:
    """By the layer alone."""
    return _search([row for row in read(f"{ORIGINAL}/search.csv") if "rules" not in row["method"]])


def search_with_rules() -> Table:
    return _search([row for row in read(f"{ORIGINAL}/search.csv") if "rules" in row["method"]])


def _accepted(path: str, *more: tuple[str, str]) -> Table:
    """What was made of boards and accepted, with columns of the CSV under other heads."""
    columns = {
        "boards": field("boards", lambda value: value.replace(".csv.gz", "")),
        "method": field("method", lambda value: value.replace("1 paths", "1 path")),
        "wholly right": field("boards wholly right", share),
        "accepted": field("answers accepted", share),
        "wrong, accepted": field("accepted, and wrong", str),
        **{head: field(name, milliseconds) for head, name in more},
        "ms a board": field("milliseconds a board", milliseconds),
    }
    return benchmark_table(read(path), columns)


def fits() -> Table:
    """Layers fitted in closed form, by how many boards."""
    columns = {
        "boards": field("boards", str),
        "solved boards": field("solved boards", count),
        "equations looked for": field("equations looked for", str),
        "found": field("equations", count),
        "seconds": field("seconds", two_figures),
        "unseen boards": field("test boards", count),
        "right in one pass": field("boards wholly right", share),
        "ms a board": field("milliseconds a board", milliseconds),
    }
    return benchmark_table(read(f"{FIT}/fits.csv"), columns)


def fit_pass() -> Table:
    """One pass of the layers that were fitted, and trained further."""
    columns = ["boards", "layer", "sweeps, at most", "wholly right", "blank cells right", "ms a board"]
    table = [columns, ["---"] * len(columns)]
    for told, name in (
        ("equations", "pass.csv"),
        ("sets of exactly one, 100 boards", "pass-100.csv"),
        ("equations, trained further", "pass-trained-2.csv"),
        ("sets from 9,000 boards, trained further", "pass-trained-8.csv"),
    ):
        for row in read(f"{FIT}/{name}"):
            sweeps = re.search(r"([\d,]+) sweeps", row["method"])
            assert sweeps
            shares = (share(row["boards wholly right"]), two_places(row["blank cells right"]))
            boards = row["boards"].replace(".csv.gz", "")
            table.append([boards, told, sweeps[1], *shares, milliseconds(row["milliseconds a board"])])
    return table


def fit_search() -> Table:
    """Search with the layers that were fitted."""
    head, line, *body = _search(read(f"{FIT}/search.csv") + read(f"{FIT}/search-100.csv"))
    layers = ["equations"] * len(read(f"{FIT}/search.csv")) + ["sets of exactly one, 100 boards"] * len(body)
    named = [[boards, layer, *rest] for (boards, *rest), layer in zip(body, layers, strict=False)]
    return [[head[0], "layer", *head[1:]], [line[0], "---", *line[1:]], *named]


def few_boards() -> Table:
    return _accepted("demos/sudoku/results/few-boards/search-1000.csv", ("passes", "mean forward passes a board"))


def joint() -> Table:
    return _accepted("demos/sudoku/results/visual-9x9/joint-with-rules.csv", ("readings", "mean readings a board"))


EXACT: dict[str, Callable[[Row], str]] = {
    "boards": field("boards", lambda value: value.replace(".csv.gz", "")),
    "wholly right": field("boards wholly right", share),
    "wrong": field("answers, and wrong", str),
    "proved the only answer": field("proved to be the only answer", count),
    "ms a board": field("milliseconds a board", milliseconds),
}


def naming() -> Table:
    """What each step makes of images that nobody labelled."""
    shown = {"training images right": two_places, "training boards right": two_places, "test images right": two_places}
    columns = {"step": field("step", str), **{name: field(name, told) for name, told in shown.items()}}
    columns |= {name: field(name, lambda value: value and count(value)) for name in ("exclusions found", "false")}
    return benchmark_table(read(f"{READERS}/none-0.csv"), columns)


def images() -> Table:
    """Boards of images, read by several readers."""
    columns = ["known", "reader", "boards", "margin", "wholly right", "accepted", "wrong, accepted", "ms a board"]
    table = [columns, ["---"] * len(columns)]
    for known, name in (("labels of given cells", "given"), ("none of given cells", "none")):
        for row in read(f"{READERS}/joint-{name}.csv"):
            boards, seed = re.match(r"[\d,]+", row["boards"]), re.search(r"seed (\d+)", row["boards"])
            margin = re.search(r"margin (\d+)", row["method"])
            assert boards and seed
            shares = (two_places(row[name]) for name in ("boards wholly right", "answers accepted"))
            told = [known, f"seed {seed[1]}", boards[0], margin[1] if margin else "0", *shares]
            table.append([*told, row["accepted, and wrong"], milliseconds(row["milliseconds a board"])])
    return table


def exact() -> Table:
    return benchmark_table(read(f"{ORIGINAL}/exact.csv"), EXACT)


def exact_few() -> Table:
    """By rules from few boards."""
    rows = read("demos/sudoku/results/few-boards/exact.csv")
    return benchmark_table(rows, {"solved boards": field("rules from", count), **EXACT})


def growth() -> Table:
    """What a training step costs as boards grow."""
    columns = {
        "board": field("board", str),
        "bits": field("bits", count),
        "weights": field("weights", count),
        "boards a step": field("boards a step", count),
        "CPU seconds a step": field("CPU seconds a step"),
        "peak memory": field("peak memory, MB", count, " MB"),
        "of that before the first step": field("of that before the first step, MB", count, " MB"),
    }
    return benchmark_table(read("demos/sudoku/results/growth.csv"), columns)


def pairs() -> Table:
    """Which exclusions are found from how many boards."""
    columns = ["layer", "boards", "counting alone", "with the layer"]

    def told(row: Row, how: str) -> str:
        false = int(row[f"{how}: false"])
        return f"{count(row[f'{how}: found'])}, {f'and {false} false' if false else 'none false'}"

    rows = read("demos/sudoku/results/rules/pairs.csv")
    body = [[row["layer"], count(row["boards"]), *(told(row, how) for how in columns[2:])] for row in rows]
    return [columns, ["---"] * len(columns), *body]


def problems() -> Table:
    columns = {
        "kind": field("kind", str),
        "boards": field("boards", count),
        "minutes": field("minutes", lambda value: f"{float(value):.1f}"),
        "rules": field("rules", count),
        "longest": field("longest_rule", str),
        "AUC": field("auc", lambda value: f"{float(value):.2f}"),
        "one pass": field("one_pass", share),
        "search": field("search", share),
        "exact, extracted rules": field("exact", share),
    }
    return benchmark_table(read("demos/problems/results/results.csv"), columns)


def validity() -> Table:
    """Completions of rows of two tables that both judges find valid."""
    found = {name: read(f"demos/tables/results/{name}/validity.csv") for name in NAMES}
    shares = list(dict.fromkeys(row["given"] for row in found["gcc"]))
    head = [f"{NAMES[name]}, {float(given):.0%} given" for name in found for given in shares]
    table = [["completion", *head], ["---"] * (1 + len(head))]
    for how in dict.fromkeys(row["completion"] for row in found["gcc"]):
        cells = [row["valid_by_both"] for rows in found.values() for row in rows if row["completion"] == how]
        table.append([how, *map(share, cells)])
    return table


def matching_comparison() -> Table:
    columns = {"method": field("method", "`{}`".format), "gap": field("gap"), "off": field("off")}
    return benchmark_table(latest("matching-comparison", "method"), {**columns, "microseconds": field("us")})


def matching_choice() -> Table:
    columns = {
        "costs": field("costs", str),
        "method": field("method", str),
        **{name: field(name) for name in ("gap", "columns", "signs", "entropy")},
        **{name: field(name, lambda value: f"{float(value):.0%}") for name in ("no gradient", "learned")},
        "ms a problem": field("ms"),
    }
    return benchmark_table(latest("matching-choice", "costs", "method"), columns)


def matching_exact() -> Table:
    rows = [row for row in latest("matching-exact", "costs", "B", "n", "m") if row["costs"] == "uniform"]
    columns = {
        "problems": field("B", count),
        "size": size,
        "`assign`, ms": field("assign ms"),
        "`solve_exact`, ms": field("solve ms"),
        **{f"{peer}, ratio": field(f"{peer} ratio") for peer in ("scipy", "lapx", "torch-linear-assignment")},
    }
    return benchmark_table(rows, columns)


def matching_entropic() -> Table:
    columns = {
        "dtype": field("dtype", str),
        "epsilon": field("epsilon", str),
        "here, ms": field("ms"),
        "off": field("off"),
        "POT, ms": field("pot ms"),
        "POT, ratio": field("pot ratio"),
        "pygmtools, ms": field("pygmtools ms"),
        "pygmtools, ratio": field("pygmtools ratio"),
        "pygmtools, off": field("pygmtools off"),
    }
    return benchmark_table(latest("matching-entropic", "dtype", "epsilon"), columns)


def matching_memory() -> Table:
    columns = {
        "problems": field("B", count),
        "size": size,
        "method": field("method", str),
        "costs": field("costs mb", unit=" MB"),
        "peak beyond them": field("peak mb", unit=" MB"),
    }
    return benchmark_table(latest("matching-memory", "method", "B", "n", "m"), columns)


def matching_step() -> Table:
    columns = {
        "dtype": field("dtype", str),
        "DMM, ms": field("dmm ms"),
        "oracle, ratio": field("oracle ratio"),
        "quadratic, ms": field("quadratic ms"),
        "cvxpylayers, ratio": field("cvxpylayers ratio"),
        "Sinkhorn, ms": field("sinkhorn ms"),
        "2 x 3, DMM, ms": field("2 x 3 dmm call ms"),
        "2 x 3, quadratic, ms": field("2 x 3 quadratic call ms"),
    }
    return benchmark_table(latest("matching-step", "dtype"), columns)


def matching_growth() -> Table:
    columns = {
        "problems": field("B", count),
        "size": size,
        "DMM, ms": field("dmm ms"),
        "quadratic, ms": field("quadratic ms"),
        "cvxpylayers, ratio": field("cvxpylayers ratio", lambda value: two_figures(value) if value else "-"),
        "entropic, ms": field("entropic ms"),
        "POT, ratio": field("pot ratio"),
    }
    return benchmark_table(latest("matching-growth", "B", "n", "m"), columns)


def matching_warm() -> Table:
    columns = {"drift": field("drift", str), "gamma": field("gamma", str)}
    for name, head in (("cold", "anew"), ("warm", "warm")):
        columns |= {f"{head}, steps": field(f"{name} steps"), f"{head}, ms": field(f"{name} ms")}
    return benchmark_table(latest("matching-warm", "drift", "gamma"), columns)


def alternatives() -> Table:
    """README's comparison: milliseconds of other packages and of this one, from the same runs."""

    def one(benchmark: str, **key: str) -> Row:
        return next(row for row in latest(benchmark, *key) if key.items() <= row.items())

    def times(row: Row, here: str, *others: str, scale: float = 1) -> list[str]:
        told = [milliseconds(str(scale * float(row[name]))) for name in (here, *others)]
        return ["; ".join(told[1:]), told[0]]

    step = one("satnet-step", weights="fresh")
    quadratic = one("matching-step", dtype="float32")
    entropic = one("matching-entropic", dtype="float32", epsilon="0.05")
    large = one("matching-exact", costs="uniform", B="208", n="300", m="300")
    small = one("matching-exact", costs="uniform", B="1024", n="10", m="50")
    masks = one("metrics", frames="60", height="480", width="854")
    rows = {
        "the reference SATNet": [
            "the same arguments and checkpoints; right gradients of the inputs; float64; no compiler",
            "training step of 40 9x9 boards (against one coordinate at a time, as the reference does it)",
            *times(step, "seconds", "per_coordinate_seconds", scale=1000),
            "`satnet-step`",
        ],
        "DMM_Net's matching layer": [
            "algorithm 1 as published, rows that sum to 1, batches with masks",
            "[differences](docs/matching.md#what-differs-from-the-published-dmm-code)",
            *[""] * 3,
        ],
        "cvxpylayers": [
            "the same solution and gradient of the quadratic problem",
            "quadratic matching, 32 of 10 x 50, forward and backward, for one problem",
            *times(quadratic, "quadratic ms", "cvxpylayers ms"),
            "`matching-step`",
        ],
        "POT; pygmtools": [
            "columns of at most 1, a tolerance that is met, an implicit gradient",
            "entropic matching, 32 of 10 x 50, forward and backward, for one problem",
            *times(entropic, "ms", "pot ms", "pygmtools ms"),
            "`matching-entropic`",
        ],
        "scipy in a loop; lapx": [
            "whole batches",
            "exact matching, 208 of 300 x 300",
            *times(large, "assign ms", "scipy ms", "lapx ms"),
            "`matching-exact`",
        ],
        "": [
            "",
            "exact matching, 1,024 of 10 x 50",
            *times(small, "assign ms", "scipy ms", "lapx ms"),
            "`matching-exact`",
        ],
        "the official J and F of masks": [
            "the same numbers",
            "a pair of masks at 480p",
            *times(masks, "ms", "official_ms"),
            "`metrics`",
        ],
    }
    columns = ["instead of", "you get", "task", "its time", "here", "NAME"]
    return [columns, ["---"] * len(columns), *([name, *row] for name, row in rows.items())]


READERS = "demos/sudoku/results/readers"
FIT = "demos/sudoku/results/fit"
ORIGINAL = "demos/sudoku/results/original-9x9"
NAMES = {"gcc": "GCC", "axtls": "axTLS"}


def embedded() -> Table:
    """A column for each sequence of DAVIS, a row for each method, J."""
    rows = read("demos/vos/results/davis2016-embedded.csv")
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    table = [["J", *clips, "mean"], ["---"] * (len(clips) + 2)]
    for method, told in (("dmm", "DMM"), ("best proposal", "best proposal")):
        found = {row["clip"]: float(row["J_mean"]) for row in rows if row["method"] == method}
        table.append([told, *(f"{found[clip]:.3f}" for clip in clips), f"{sum(found.values()) / len(found):.3f}"])
    return table


TABLES: dict[str, Callable[[], Table]] = {
    "alternatives": alternatives,
    "choice": choice,
    "embedded": embedded,
    "exact": exact,
    "exact-few": exact_few,
    "few-boards": few_boards,
    "fit-pass": fit_pass,
    "fit-search": fit_search,
    "fits": fits,
    "growth": growth,
    "images": images,
    "joint": joint,
    "matching-choice": matching_choice,
    "matching-comparison": matching_comparison,
    "matching-entropic": matching_entropic,
    "matching-exact": matching_exact,
    "matching-growth": matching_growth,
    "matching-memory": matching_memory,
    "matching-step": matching_step,
    "matching-warm": matching_warm,
    "naming": naming,
    "pairs": pairs,
    "problems": problems,
    "search": search,
    "search-with-rules": search_with_rules,
    "validity": validity,
}
