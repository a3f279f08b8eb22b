"""The figure of a report that shows how long links live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis import figures, measures
from analysis.learning_curves import add_legend
from analysis.measures.pooled import pooled_lives
from analysis.page import Item, svg
from analysis.runs import Run

__all__ = ["survival_item"]

Groups = Mapping[str, Sequence[Run]]
_PANELS = {
    "start": "a  Links of the start",
    "grown": "b  Links that were grown",
    "ages": "c  Ages at the end",
}


def survival_item(groups: Groups) -> list[Item]:
    """Kaplan-Meier curves of links and their ages at the end; none if no topology evolves."""
    evolving = {
        label: [r for r in runs if r.history is not None and len(r.history.steps) > 1]
        for label, runs in groups.items()
    }
    evolving = {label: runs for label, runs in evolving.items() if runs}
    if not evolving:
        return []
    table = pd.concat(
        pooled_lives(
            [measures.survival(run.history) for run in runs if run.history is not None]
        ).assign(method=label)
        for label, runs in evolving.items()
    )
    figure = figures.Sheet(figsize=(9.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    last = max(r.history.steps[-1] for own in evolving.values() for r in own if r.history)
    for ax, (cohort, title) in zip(axes, _PANELS.items(), strict=True):
        ax.set_xlim(-0.03 * last, 1.03 * last)
        _draw(ax, table[table["cohort"] == cohort], groups)
        ax.set_title(title)
    axes[0].set_ylabel("links that live on")
    axes[2].set_ylabel("links at least this old")
    add_legend(figure, max(axes, key=lambda ax: len(ax.lines)), "best")
    several = any(len(runs) > 1 for runs in evolving.values())
    left_out = [label for label in groups if label not in evolving]
    without = f" Without updates, hence not shown: {', '.join(left_out)}." if left_out else ""
    return [
        Item(
            "Figure",
            "How long links live",
            "a, b: share of links that reach an age (Kaplan-Meier; links alive at the last update "
            "are censored), of those of the start and of those grown later. c: of the links alive "
            "after the last update, the share that is at least so old. The links of all sparse "
            f"layers{' and seeds' * several} are counted together. A link that an update removes "
            f"and regrows at once lives on.{without}",
            svg(figure, "survival of links over their age, and the distribution of their ages"),
        )
    ]


def _draw(ax: Axes, data: pd.DataFrame, methods: Iterable[str]) -> None:
    figures.curves(data, "age", "survival", ax, order=list(methods), steps=True)
    if not data["survival"].notna().any():
        ax.text(0.5, 0.5, "there are none", transform=ax.transAxes, ha="center")
    ax.set(xlabel="age (optimizer steps)", ylim=(0.0, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
