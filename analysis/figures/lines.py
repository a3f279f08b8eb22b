"""Lines: over steps, over blocks of layers, over the splits of a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap

from analysis.figures.look import COLOURS, points

__all__ = ["cancellation", "curves", "depth_colours", "splits"]

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_MARKERS = "osD^vP"


def curves(
    data: pd.DataFrame,
    x: str,
    y: str,
    ax: Axes,
    *,
    by: str = "method",
    order: Sequence[str] | None = None,
    steps: bool = False,
) -> Axes:
    """Draw one line per group, with a band of one standard deviation where there is one.

    Parameters
    ----------
    data : DataFrame
        Columns `by`, `x`, `y` (the mean) and, optionally, ``y + "_std"``.
    x, y : str
        Columns.
    ax : Axes
    by : str
        The column that tells the lines apart.
    order : sequence of str, optional
        All that a set of figures shows: a line looks the same in each, whichever others are there.
        Default: what `data` has, in its order.
    steps : bool
        Each value holds until the next.
    """
    places = list(data[by].unique() if order is None else order)
    for label, group in data.groupby(by, sort=False):
        i = places.index(label)
        colour = COLOURS[i % len(COLOURS)]
        finite = group[y].notna()
        is_line = (finite & finite.shift(fill_value=False)).any()
        ax.plot(
            group[x],
            group[y],
            color=colour,
            ls=_DASHES[(i + i // len(COLOURS)) % len(_DASHES)],
            drawstyle="steps-post" if steps else "default",
            marker="" if is_line or not finite.any() else "o",
            ms=points(4),
            label=str(label),
        )
        if f"{y}_std" in group:
            spread = group[f"{y}_std"].fillna(0.0)
            low, high = group[y] - spread, group[y] + spread
            step: Any = "post" if steps else None
            ax.fill_between(group[x], low, high, color=colour, alpha=0.15, lw=0, step=step)
    return ax


def depth_colours(blocks: int) -> ScalarMappable:
    """A colour for each block of a network, by its number, dark to light.

    Viridis without its lightest part, which is faint on white: its lightness tells blocks apart
    with every colour vision, and in grey.
    """
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, blocks)))
    return ScalarMappable(BoundaryNorm(np.arange(blocks + 1) - 0.5, blocks), colours)


def cancellation(
    data: pd.DataFrame, ax: Axes, *, colours: ScalarMappable, mean: pd.DataFrame | None = None
) -> Axes:
    """Draw the overlap cancellation ratio of one projection: a line per block, and their mean.

    Parameters
    ----------
    data : DataFrame
        Columns block (its number), step, overlap_cancellation_ratio.
    ax : Axes
    colours : ScalarMappable
        From `depth_colours`.
    mean : DataFrame, optional
        Columns step, overlap_cancellation_ratio: the thick line, labelled "mean of the blocks".
    """
    y = "overlap_cancellation_ratio"
    for block, line in data.groupby("block"):
        ax.plot(
            line["step"],
            line[y],
            color=colours.to_rgba(float(block)),  # type: ignore[arg-type]
            lw=points(1.1),
            marker="o" if len(line) == 1 else "",
            ms=points(4),
            label=f"block {block}",
        )
    if mean is not None:
        ax.plot(
            mean["step"],
            mean[y],
            color=COLOURS[5],
            lw=points(2.8),
            marker="D" if len(mean) == 1 else "",
            ms=points(5),
            label="mean of the blocks",
        )
    return ax


def splits(data: pd.DataFrame, ax: Axes, *, by: str = "method") -> Axes:
    """Draw scores over the share of low rank in a budget, a line per method.

    Parameters
    ----------
    data : DataFrame
        Columns `by`, share (in [0, 1]), score and score_std (NaN: no error bar).
    ax : Axes
    by : str
        The column that tells the lines apart.
    """
    for i, (label, line) in enumerate(data.groupby(by, sort=False)):
        ax.errorbar(
            line["share"],
            line["score"],
            yerr=line["score_std"] if line["score_std"].notna().any() else None,
            color=COLOURS[i % len(COLOURS)],
            ls=_DASHES[(i + i // len(COLOURS)) % len(_DASHES)],
            marker=_MARKERS[i % len(_MARKERS)],
            ms=points(5),
            capsize=points(3),
            elinewidth=points(1.0),
            label=str(label),
        )
    return ax
