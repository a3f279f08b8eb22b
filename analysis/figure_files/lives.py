"""How long links live."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import figures
from analysis.figure_files.selection import Groups, histories
from analysis.figure_files.trends import add_methods, layout
from analysis.measures import survival
from analysis.measures.pooled import pooled_lives
from analysis.runs import RunError

__all__ = ["survival_figure"]

_COHORTS = {"start": "links of the start", "grown": "links grown later"}


def survival_figure(groups: Groups) -> Figure:
    """Share of links that live to an age: those of the start, and those grown later.

    Raises
    ------
    RunError
        If no run is sparse, or no topology was updated.
    """
    found = histories(groups)
    shown = {label: groups[label] for label, history in found.items() if len(history.steps) > 1}
    if not shown:
        raise RunError(f"no topology of {', '.join(found)} was ever updated: no link dies")
    left_out = [label for label in found if label not in shown]
    table = pd.concat(
        pooled_lives([survival(run.history) for run in runs if run.history is not None]).assign(
            method=label
        )
        for label, runs in shown.items()
    )
    last = max(r.history.steps[-1] for own in shown.values() for r in own if r.history)
    figure, (axes,) = layout(1, 2)
    for ax, (cohort, title) in zip(axes, _COHORTS.items(), strict=True):
        data = table[table["cohort"] == cohort]
        figures.curves(data, "age", "survival", ax, order=list(groups), steps=True)
        ax.set_title(title)
        ax.set(xlabel="age (optimizer steps)", ylabel="links that live on")
        ax.set_xlim(-0.03 * last, 1.03 * last)
        ax.set_ylim(0, 1.03)
        ax.yaxis.set_major_formatter(figures.percent())
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if data.empty:
            ax.text(0.5, 0.5, "there are none", transform=ax.transAxes, ha="center")
    add_methods(figure, max(axes, key=lambda ax: len(ax.lines)), len(shown))
    several = any(len(runs) > 1 for runs in shown.values())
    without = f" Without updates, so not shown: {', '.join(left_out)}." if left_out else ""
    figures.footnote(
        figure,
        f"Kaplan-Meier over the links of all layers{' and seeds' * several} together; those alive "
        f"at the end are censored.{without}",
    )
    return figure
