"""The picture: unseen sequences right, epoch after epoch, one start after another."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from demos.parity.train import EpochMetrics

_COLORS = ("#2a6fbb", "#d9822b", "#3b9b6d", "#8d6cab", "#8a8f98")


def learning_curves_png(history: list[EpochMetrics], title: str) -> bytes:
    """Draw the metrics of all runs, one panel a length; return a PNG."""
    lengths = list(dict.fromkeys(row.length for row in history))
    figure = Figure(figsize=(5.2 * len(lengths), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for length, axes in zip(lengths, panels, strict=True):
        seeds = list(dict.fromkeys(row.seed for row in history if row.length == length))
        for place, seed in enumerate(seeds):
            rows = [row for row in history if (row.length, row.seed) == (length, seed)]
            color = _COLORS[place % len(_COLORS)]
            x, y = range(1, len(rows) + 1), [100 * row.test_right for row in rows]
            axes.plot(x, y, "o-", color=color, markersize=4, label=f"seed {seed}")
            lost = [at for at, row in zip(x, rows, strict=True) if row.given_up]
            axes.plot(lost, [y[at - 1] for at in lost], "x", color=color, markersize=9)
        axes.plot([], [], "x", color="#222222", markersize=9, label="start given up")
        axes.set(ylim=(40, 102), xlabel="epochs, all starts", title=f"length {length}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center right", frameon=False, fontsize=8.5)
    panels[0].set_ylabel("parity right, unseen sequences")
    figure.suptitle(title)
    buffer = io.BytesIO()
    # Without the version of matplotlib, which would change the file for nothing.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
