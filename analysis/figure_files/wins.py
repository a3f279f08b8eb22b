"""Win rates over methods, or over the values of settings."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.figure_files.selection import Groups
from analysis.papers import METHOD, find_factor, run_table, score_cells
from analysis.runs import RunError
from analysis.significance import win_rates

__all__ = ["pooled_win_rates", "win_rate_figure"]


def pooled_win_rates(runs: pd.DataFrame, by: str) -> pd.DataFrame:
    """Win rates over all cells, whatever the score of a cell is.

    Parameters
    ----------
    runs : DataFrame
        From `analysis.run_table`.
    by : str
        A setting's dotted key; sparse methods are compared alone.

    Returns
    -------
    DataFrame
        As `analysis.win_rates`; numbers in their order.

    Raises
    ------
    RunError
        If no two runs differ in the setting alone.
    """
    parts = []
    for _, part in runs[runs["sparsity"].notna()].groupby("measure", sort=False):
        cells = score_cells(part, by)
        parts.append(win_rates(cells, higher_is_better=bool(part["higher_is_better"].iloc[0])))
    sums = pd.concat(parts)[["cells", "wins"]].groupby(level=0, sort=False).sum() if parts else None
    if sums is None or not (sums["cells"] > 0).any():
        raise RunError(
            f"no two runs differ in {by} alone: train the other values with the same settings "
            "and seeds (epitopo sweep)"
        )
    numbers = pd.to_numeric(pd.Series(sums.index.astype(str), index=sums.index), errors="coerce")
    if numbers.notna().all():
        sums = sums.loc[numbers.sort_values().index]
    return sums.assign(win_rate=sums["wins"] / sums["cells"].where(sums["cells"] > 0))


def win_rate_figure(groups: Groups, *, by: Sequence[str] | None = None) -> Figure:
    """A bar per value of a factor: the share of cells (a setting and a seed) in which it is best.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    by : sequence of str, optional
        Settings, a panel each, by dotted keys or their last parts. Default: the method.

    Raises
    ------
    ValueError
        For an unknown setting.
    RunError
        If no two runs differ in a setting alone.
    """
    table = run_table(run for runs in groups.values() for run in runs)
    factors = [find_factor(table, name) for name in by or [METHOD]]
    rates = [pooled_win_rates(table, factor) for factor in factors]
    bars = sum(len(r) for r in rates)
    width = min(figures.PAGE, max(figures.COLUMN, 0.42 * bars + 0.6 * len(rates)))
    figure = figures.canvas(width, 2.2)
    axes = figure.subplots(
        1, len(rates), squeeze=False, sharey=True, width_ratios=[len(r) + 0.5 for r in rates]
    )[0]
    for ax, factor, data in zip(axes, factors, rates, strict=True):
        figures.win_rates(data, ax)
        ax.set_xlabel(factor.rpartition(".")[2])
        if max(len(str(name)) for name in data.index) * len(data) > 9 * width * 1.6 / len(rates):
            ax.tick_params(axis="x", labelrotation=30)
    axes[0].set_ylabel("win rate")
    counts = "; ".join(
        f"{f.rpartition('.')[2]}: {int(r['cells'].max())}"
        for f, r in zip(factors, rates, strict=True)
    )
    figures.footnote(
        figure,
        "Share of cells in which a value is the best, equals sharing the win. Cells (all other "
        f"settings and the seed alike): {counts}.",
    )
    return figure
