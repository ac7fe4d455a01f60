"""The picture: accuracy against the number of training problems."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from demos.reid.model import EXPERIMENTS

_STYLES = {
    "pairs": ("#8a8f98", ":", "s"),
    "structured": ("#8d6cab", ":", "D"),
    "structured-entropic": ("#5b3f78", ":", "^"),
    "hinge": ("#c29ddb", ":", "v"),
    "hard": ("#8d6cab", ":", "D"),
    "rows": ("#222222", "--", "o"),
    "sinkhorn": ("#3b9b6d", "-", "^"),
    "dmm": ("#2a6fbb", "-", "o"),
    "quadratic-0.05": ("#f0b27a", "-", "v"),
    "quadratic-1": ("#d9622b", "-", "v"),
    "entropic": ("#1f6e4a", "-", "s"),
    "blackbox": ("#b5485d", "-", "P"),
    "straight-through": ("#e3a0ad", "-", "X"),
}
_TITLES = {
    "labels": "learnt from matches",
    "outcomes": "learnt from outcomes",
    "counts": "learnt from counts of outcomes",
}


def accuracy_png(table: list[dict[str, Any]], untrained: float, seeds: int) -> bytes:
    """Draw a summary (`train.summarize`), one panel an experiment; return a PNG."""
    experiments = list(dict.fromkeys(row["experiment"] for row in table))
    figure = Figure(figsize=(4.4 * len(experiments), 6.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(experiments), sharey=True, squeeze=False)[0]
    counts = sorted({row["train"] for row in table})
    for experiment, axes in zip(experiments, panels, strict=True):
        shown = [
            name
            for name in EXPERIMENTS[experiment]
            if any((row["experiment"], row["method"]) == (experiment, name) for row in table)
        ]
        for place, name in enumerate(shown):
            rows = [row for row in table if (row["experiment"], row["method"]) == (experiment, name)]
            color, line, marker = _STYLES[name]
            axes.errorbar(
                # Side by side, so that error bars do not hide one another.
                [row["train"] * 1.035 ** (place - (len(shown) - 1) / 2) for row in rows],
                [100 * row["hungarian_mean"] for row in rows],
                [100 * (row["hungarian_std"] or 0) for row in rows],
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4.5,
                capsize=2,
                label=EXPERIMENTS[experiment][name].title,
            )
        axes.axhline(100 * untrained, color="#8a8f98", linewidth=0.8)
        axes.annotate(
            "observations as they are",
            (0.99, 100 * untrained),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(0, 2),
            ha="right",
            fontsize=8,
        )
        axes.set(xscale="log", xlabel="training problems", title=_TITLES[experiment])
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8.5)
    panels[0].set_ylabel(f"templates matched rightly, unseen problems\n(mean and deviation, {seeds} seeds)")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    buffer = io.BytesIO()
    # Without the version of matplotlib, which would change the file for nothing.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
