"""A network drawn as a graph: neurons in columns, links as lines between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from analysis.figures.look import COLOURS, points

__all__ = ["layered_network"]


def layered_network(
    neurons: pd.DataFrame,
    links: pd.DataFrame,
    ax: Axes,
    *,
    columns: Mapping[float, str],
    layers: Mapping[float, str] | None = None,
    alpha: float = 0.3,
) -> Axes:
    """Draw neurons in columns and their links; inactive neurons are hollow.

    Parameters
    ----------
    neurons : DataFrame
        Columns x (that of its column), y (in [0, 1], downwards) and active (bool).
    links : DataFrame
        Columns x, y (of the input neuron), to_x, to_y (of the output neuron) and active (bool:
        whether it is left after percolation; else it is drawn in orange).
    ax : Axes
    columns : mapping of float to str
        What is written below the columns, by x.
    layers : mapping of float to str, optional
        What is written above the links, by x.
    alpha : float
        How opaque a link is, in (0, 1].
    """
    ends = links[["x", "y", "to_x", "to_y"]].to_numpy(float).reshape(-1, 2, 2)
    active = links["active"].to_numpy(bool)
    for shown, colour, opaque, label in (
        (active, COLOURS[2], alpha, "link"),
        (~active, COLOURS[5], max(alpha, 0.5), "link that percolation removes"),
    ):
        if shown.any():
            lines = LineCollection(
                list(ends[shown]), colors=colour, alpha=opaque, lw=points(0.7), label=label
            )
            ax.add_collection(lines)
    fill = np.where(neurons["active"].to_numpy(bool), COLOURS[0], "#ffffff")
    ax.scatter(
        neurons["x"],
        neurons["y"],
        s=points(3.2) ** 2,
        c=list(fill),
        edgecolors=COLOURS[0],
        linewidths=points(0.7),
        zorder=3,
    )
    for x, name in (layers or {}).items():
        ax.text(x, -0.035, name, ha="center", va="bottom", fontsize=rcParams["xtick.labelsize"])
    ax.set_xlim(min(columns) - 0.12, max(columns) + 0.12)
    ax.set_ylim(1.02, -0.1)  # downwards, as the rows of a matrix
    ax.set_xticks(list(columns), list(columns.values()))
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax
