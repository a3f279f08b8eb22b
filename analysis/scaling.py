"""The figure of ``epitopo bench scaling``: time and memory of link prediction."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import PAGE, canvas, curves, percent, save, style

__all__ = ["draw_scaling", "scaling_figure"]

_LABELS = {
    "ch2_l3n": "CH2-L3n, topo",
    "ch3_l3p": "CH3-L3p, topo",
    "torch": "CH2-L3n, dense products in torch",
}
_ROWS = {"seconds": "time (s)", "extra_mb": "extra memory (MB)"}


def scaling_figure(table: pd.DataFrame) -> Figure:
    """Time and peak memory over density and size, one column of panels per sweep.

    As Figure 2 of arXiv 2501.19107, with the memory beside the time.

    Parameters
    ----------
    table : DataFrame
        What ``epitopo bench scaling --out FILE.csv`` wrote: sweep, n, density, predictor, seconds,
        extra_mb.

    Raises
    ------
    ValueError
        If the table is another one.
    """
    missing = {"sweep", "n", "density", "predictor", *_ROWS} - set(table.columns)
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(sorted(missing))}: "
            "it is to be that of `epitopo bench scaling --out FILE.csv`"
        )
    sweeps = table["sweep"].unique()
    figure = canvas(min(PAGE, 2.3 * len(sweeps)), 4.0)
    axes = figure.subplots(len(_ROWS), len(sweeps), sharex="col", sharey="row", squeeze=False)
    for column, sweep in zip(axes.T, sweeps, strict=True):
        part = table[table["sweep"] == sweep]
        x = "n" if part["n"].nunique() > 1 else "density"
        for ax, y in zip(column, _ROWS, strict=True):
            # what is below a megabyte or so is the allocator's noise
            shown = part.assign(
                label=part["predictor"].map(_LABELS), extra_mb=part["extra_mb"].clip(lower=1)
            )
            curves(shown, x, y, ax, by="label")
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(part[x].unique(), minor=False)
            ax.set_xticks([], minor=True)
            ax.xaxis.set_major_formatter(percent() if x == "density" else "{x:,.0f}")
            ax.tick_params(axis="x", labelrotation=45)
        column[0].set_title(sweep)
        column[-1].set_xlabel("density" if x == "density" else "neurons on each side")
    for ax, label in zip(axes[:, 0], _ROWS.values(), strict=True):
        ax.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_scaling(table: pd.DataFrame, out: str | os.PathLike[str]) -> Path:
    """Write `scaling_figure` to a file (.svg, .pdf or .png)."""
    with style():
        return save(scaling_figure(table), out)
