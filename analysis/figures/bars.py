"""Bars: how often each value of a factor is the best."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.look import COLOURS, percent

__all__ = ["win_rates"]


def win_rates(data: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a bar per value of a factor; the best has the strong colour.

    Parameters
    ----------
    data : DataFrame
        From `analysis.win_rates`: the values as index, columns cells and win_rate (NaN: no bar).
    ax : Axes
    """
    rates = data["win_rate"].to_numpy(float)
    best = rates == np.nanmax(rates, initial=0.0)
    places = np.arange(len(rates))
    ax.bar(
        places,
        np.nan_to_num(rates),
        width=0.68,
        color=[COLOURS[2] if b else "#b4c7d6" for b in best],
    )
    for place, rate in zip(places, rates, strict=True):
        text = "–" if np.isnan(rate) else f"{100 * rate:.0f}"
        ax.annotate(
            text,
            (place, 0.0 if np.isnan(rate) else rate),
            (0, 1.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
    cells = data["cells"].to_numpy()
    names = [str(name) for name in data.index]
    if len(set(cells.tolist())) > 1:
        names = [f"{name}\n(n = {n})" for name, n in zip(names, cells, strict=True)]
    ax.set_xticks(places, names)
    ax.set_xlim(-0.6, len(rates) - 0.4)
    ax.set_ylim(0, min(1.12, 1.15 * np.nanmax(rates, initial=0.1)))
    ax.yaxis.set_major_formatter(percent())
    ax.grid(visible=False, axis="x")
    return ax
