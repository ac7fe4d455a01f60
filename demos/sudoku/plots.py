"""The learning-curve picture."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, PercentFormatter

from demos.sudoku.checkpoint import EpochMetrics

_BLUE, _ORANGE, _GRAY = "#2a6fbb", "#d9822b", "#8a8f98"


def learning_curve_png(history: list[EpochMetrics], title: str) -> bytes:
    """Draw what is right, and the losses, against minutes (below) and epochs (above); return a PNG."""
    minutes = [row.minutes for row in history]
    figure = Figure(figsize=(11, 4.4), dpi=150)
    FigureCanvasAgg(figure)
    right, loss = figure.subplots(1, 2)

    boards = [100 * row.boards_right for row in history]
    cells = [100 * row.blank_cells_right for row in history]
    right.plot(minutes, cells, "o-", color=_GRAY, markersize=3.5, label="blank cells right")
    right.plot(minutes, boards, "o-", color=_BLUE, markersize=3.5, linewidth=2, label="boards wholly right")
    right.annotate(
        f"{boards[-1]:.1f}%",
        (minutes[-1], boards[-1]),
        textcoords="offset points",
        xytext=(0, -14),
        ha="right",
        color=_BLUE,
        weight="bold",
    )
    right.set(ylim=(-3, 104), ylabel="right, on unseen boards")
    right.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    right.legend(loc="lower right", frameon=False, bbox_to_anchor=(1.0, 0.06))

    trained = [(row.minutes, row.train_loss) for row in history if row.train_loss is not None]
    loss.plot(
        [at for at, _ in trained],
        [value for _, value in trained],
        "o-",
        color=_ORANGE,
        markersize=3.5,
        label="training boards",
    )
    loss.plot(minutes, [row.test_loss for row in history], "o-", color=_BLUE, markersize=3.5, label="unseen boards")
    loss.set(yscale="log", ylabel="loss (binary cross-entropy a bit)")
    loss.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    loss.yaxis.set_minor_formatter(NullFormatter())
    loss.legend(loc="upper right", frameon=False)

    for axes in (right, loss):
        axes.set(xlim=(0, minutes[-1] * 1.03), xlabel="minutes of training and testing")
        axes.grid(alpha=0.25)
        axes.spines[["right"]].set_visible(False)
        _label_epochs(axes, history)
    figure.suptitle(title, y=0.97)
    # By hand: automatic layout would double the time, which a run spends after every epoch.
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.12, top=0.79, wspace=0.2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _label_epochs(axes: Axes, history: list[EpochMetrics]) -> None:
    """Mark about ten epochs on the upper edge, the last among them."""
    stride = max(1, round(len(history) / 10))
    shown = history[::-stride]
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks([row.minutes for row in shown], [str(row.epoch) for row in shown])
    top.set_xlabel("epochs")
    top.spines[["right"]].set_visible(False)
