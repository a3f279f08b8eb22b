"""The figure of a report that shows how the training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from analysis import figures
from analysis.forms import form
from analysis.page import Item, svg
from analysis.runs import Run

__all__ = ["about_lines", "add_legend", "learning_curves", "over_seeds"]

Groups = Mapping[str, Sequence[Run]]


def learning_curves(groups: Groups) -> Item:
    """Loss in training and evaluation, and the score or what comes near it.

    Panels are of the columns that the runs' metrics have. Rows of steps that were not evaluated
    are no gaps in the lines of the evaluations.
    """
    rows = [
        {"method": label, "seed": run.seed, **line}
        for label, runs in groups.items()
        for run in runs
        for line in run.metrics.to_dict("records")
    ]
    first = next(iter(groups.values()))[0]
    x = "epoch" if first.unit == "samples" else "step"
    table = pd.DataFrame(rows)
    columns = _panels(table, first.measure)
    figure = figures.Sheet(figsize=(9.2, 2.9), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    cut = ""
    for ax, column, letter in zip(axes, columns, "abc", strict=False):
        data = over_seeds(table[table[column].notna()], x, [column])
        figures.curves(data, x, column, ax, order=list(groups))
        name = form(column).name.replace("train ", "training ")
        ax.set(title=f"{letter}  {name[0].upper()}{name[1:]}", xlabel=_X[x])
        _label_steps(ax, data[x].max())
        if column.endswith("_loss"):
            log = data[column].min() > 0
            ax.set(ylabel="cross-entropy (nats)", yscale="log" if log else "linear")
            if log:
                _plain_ticks(ax)
        elif form(column).percent:
            low = _lowest(data, column)
            ax.set(ylabel="accuracy", ylim=(low, 1.0 + 0.02 * (1.0 - low)))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            if data[column].min() < low:
                cut = f" Panel {letter} is cut off below {low:.0%}."
        else:
            ax.set(ylabel=name.split()[-1], yscale="log")
            _plain_ticks(ax)
    where = "lower right" if form(columns[-1]).percent else "upper right"
    add_legend(figure, axes[-1], where)
    told = [form(c).name.replace("train ", "training ") for c in columns]
    told_all = ", ".join(told[:-1]) + (" and " if len(told) > 1 else "") + told[-1]
    over = "epochs" if x == "epoch" else "steps"
    return Item(
        "Figure",
        "Learning curves",
        about_lines(groups) + cut,
        svg(figure, f"{told_all} over {over}"),
    )


def over_seeds(data: pd.DataFrame, x: str, columns: list[str]) -> pd.DataFrame:
    """Mean and standard deviation (``_std``) of columns over each method's runs with a value."""
    grouped = data.groupby(["method", x], sort=False)[columns]
    return grouped.mean().join(grouped.std().add_suffix("_std")).reset_index()


def about_lines(groups: Groups) -> str:
    """What the lines of a figure, and the bands around them, are."""
    counts = {len(runs) for runs in groups.values()}
    if counts == {1}:
        return "One run of each method."
    how_many = f"{counts.pop()} runs" if len(counts) == 1 else "the runs of each method"
    return (
        f"Mean over {how_many} (where some have no value, over the others), band: one standard "
        "deviation."
    )


def add_legend(figure: Figure, ax: Axes, where: Any) -> None:
    """In a panel, or below the figure where it would cover the lines."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) <= 4:
        if labels:
            ax.legend(loc=where)
        return
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.25 * -(-len(labels) // 4))
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


_X = {"epoch": "epoch", "step": "optimizer step"}


def _panels(table: pd.DataFrame, measure: str) -> list[str]:
    losses = ["train_loss", *(c for c in ("test_loss", "valid_loss") if c in table)]
    near = (measure, "valid_accuracy", "valid_perplexity")
    return losses[:2] + [c for c in near if c in table][:1]


def _lowest(data: pd.DataFrame, column: str) -> float:
    """Where the axis of a share begins, so that what is near the best is seen."""
    final = data.groupby("method")[column].last()
    return max(0.0, min(0.9, 1.0 - 4 * (1.0 - float(final.min()))))


def _label_steps(ax: Axes, last: float) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if last == 1:
        ax.set_xticks([1])


def _plain_ticks(ax: Axes) -> None:
    """Numbers instead of powers of ten, as many as a short axis needs."""
    low, high = ax.get_ylim()
    if high / low < 100:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
