"""Measures of the topology over the steps of training: density, ELM overlap, active neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import topo
from analysis import figures
from analysis.figure_files.selection import Groups, broken, choose_layers, histories
from analysis.learning_curves import about_lines, over_seeds
from analysis.measures import MEASURES, active_neurons, elm_overlap, summary
from analysis.runs import Run
from analysis.shown import short_names
from topo.names import find

__all__ = [
    "active_figure",
    "add_methods",
    "densities",
    "density_figure",
    "layout",
    "network_density",
    "overlap_figure",
    "step_axis",
    "trend_figure",
]

_SHARES = {  # what they are called, and what they are
    "density": ("density", ""),
    "elm_overlap": ("ELM overlap", "of the regrown links, those that the same update had removed"),
    "active_neuron_rate": ("active neurons", "those with links after percolation"),
    "itop_rate": ("ITOP rate", "of the possible links, those that have ever existed"),
    "turnover": ("turnover", "of the links, those that an update replaces"),
}
_CORRELATIONS = ("assortativity", "hub_agreement")
_USUAL = ("density", "elm_overlap", "active_neuron_rate")


def densities(history: topo.History, last: int) -> pd.DataFrame:
    """Links and possible links of every layer, at the start, after updates and at the last step.

    Returns
    -------
    DataFrame
        Columns step, layer, links, possible; a value holds until the next step.
    """
    start = {name: layer.nnz for name, layer in history.at(0).layers.items()}
    begun = pd.DataFrame({"step": 0, "layer": list(start), "links": list(start.values())})
    table = pd.concat([begun, history.updates()[["step", "layer", "links"]]], ignore_index=True)
    final = table.groupby("layer", sort=False).tail(1)
    if last > history.steps[-1]:
        table = pd.concat([table, final.assign(step=last)], ignore_index=True)
    possible = {name: n_out * n_in for name, (n_out, n_in) in history.shapes.items()}
    return table.assign(possible=[possible[name] for name in table["layer"]])


def trend_figure(
    groups: Groups, *, metric: Sequence[str] | None = None, layers: Sequence[str] | None = None
) -> Figure:
    """Measures over steps: a panel per measure, a line per group.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`; runs without links are left out, a dense network has density 1 and all
        its neurons are active.
    metric : sequence of str, optional
        Columns of `analysis.summary`. Default: density, ELM overlap, active neurons.
    layers : sequence of str, optional
        Patterns of names; each layer that matches has a row of panels. Default: one row for the
        whole network; measures of layers are averaged then.

    Raises
    ------
    ValueError
        For an unknown measure or layer.
    RunError
        If no run is sparse.
    """
    names = list(_USUAL) if metric is None else list(metric)
    for name in names:
        find(MEASURES, name, "measure")
    found = histories(groups)
    known = list(dict.fromkeys(name for history in found.values() for name in history.shapes))
    rows = [None] if layers is None else choose_layers(known, layers)
    dense = not {*names}.isdisjoint(_WHOLE)  # of which it has a value
    shown = {  # low rank alone has no links
        label: runs
        for label, runs in groups.items()
        if label in found or (layers is None and runs[0].branches.dense and dense)
    }
    figure, axes = layout(len(rows), len(names))
    short = short_names(known)
    without = []
    for row, layer in zip(axes, rows, strict=True):
        for ax, name in zip(row, names, strict=True):
            part = _over_runs(shown, name, layer)
            figures.curves(part, "step", name, ax, order=list(groups), steps=name == "density")
            _label(ax, name, part)
            there = part.groupby("method")[name].count()
            missing = [k for k in found if k in there and not there[k]] if there.any() else []
            if missing:
                of = f" of {short[layer]}" if layer is not None else ""
                without.append(f" Without {_name(name)}{of}: {'; '.join(missing)}.")
            if layer is not None:
                ax.set_title(broken(short[layer], 34))
    for ax in axes[-1]:
        step_axis(ax)
    add_methods(figure, axes[0, 0], len(shown))
    told = f"{about_lines(shown)} {_explained(names, layers is None)}".strip()
    figures.footnote(figure, told + "".join(without))
    return figure


def density_figure(groups: Groups, *, layers: Sequence[str] | None = None) -> Figure:
    """Density over steps: `trend_figure` of it."""
    return trend_figure(groups, metric=["density"], layers=layers)


def overlap_figure(groups: Groups, *, layers: Sequence[str] | None = None) -> Figure:
    """ELM overlap over steps: `trend_figure` of it."""
    return trend_figure(groups, metric=["elm_overlap"], layers=layers)


def active_figure(groups: Groups, *, layers: Sequence[str] | None = None) -> Figure:
    """Active neurons after percolation, over steps: `trend_figure` of it."""
    return trend_figure(groups, metric=["active_neuron_rate"], layers=layers)


def layout(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Panels of the usual size, one to a column of a page or two and more across it."""
    width = figures.COLUMN if columns == 1 else figures.PAGE
    tall = 2.1 if columns == 1 else 1.75
    figure = figures.canvas(width, tall * rows + 0.4)
    return figure, figure.subplots(rows, columns, squeeze=False)


def step_axis(ax: Axes) -> None:
    """Whole steps, with their unit."""
    ax.set_xlabel("optimizer step")
    low, high = ax.get_xlim()
    if high - low < 1:  # one step alone
        middle = round((low + high) / 2)
        ax.set_xlim(middle - 1, middle + 1)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))


def add_methods(figure: Figure, ax: Axes, count: int) -> None:
    """Name the lines above the panels, if there are several."""
    handles, labels = ax.get_legend_handles_labels()
    if count < 2 or not labels:
        return
    letters = figure.get_figwidth() / rcParams["font.size"] * 125  # in a line
    columns = max(1, min(len(labels), int(letters / (max(map(len, labels)) + 8))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _over_runs(groups: Groups, metric: str, layer: str | None) -> pd.DataFrame:
    """A measure of a layer (None: of the network): method, step, its mean and its deviation."""
    parts = []
    for label, runs in groups.items():
        for run in runs:
            if layer is None:
                table = _of_network(run, metric)
            elif run.history is not None and layer in run.history.shapes:
                table = _of_layers(run, metric)
                table = table[table["layer"] == layer]
            else:
                continue
            parts.append(table.assign(method=label, seed=run.seed))
    return over_seeds(pd.concat(parts), "step", [metric])


def _of_network(run: Run, metric: str) -> pd.DataFrame:
    last = int(run.metrics["step"].max())
    if run.history is None:
        value = 1.0 if metric in _WHOLE else np.nan
        return pd.DataFrame({"step": [0, last], metric: value})
    if metric in _WHOLE:
        return _WHOLE[metric](run.history, last)
    return _of_layers(run, metric).groupby("step")[metric].mean().reset_index()


def network_density(history: topo.History, last: int) -> pd.DataFrame:
    """Columns step and density, of all layers together: see `densities`."""
    sums = densities(history, last).groupby("step", as_index=False)[["links", "possible"]].sum()
    return sums.assign(density=sums["links"] / sums["possible"])


def _active(history: topo.History, last: int) -> pd.DataFrame:
    table = active_neurons(history)
    return pd.concat([table, table.iloc[[-1]].assign(step=last)]).drop_duplicates("step")


# of all layers at once; of others, the mean over layers is shown
_WHOLE: dict[str, Callable[[topo.History, int], pd.DataFrame]] = {
    "density": network_density,
    "active_neuron_rate": _active,
}


def _of_layers(run: Run, metric: str) -> pd.DataFrame:
    history = run.history
    assert history is not None
    if metric == "density":
        table = densities(history, int(run.metrics["step"].max()))
        return table.assign(density=table["links"] / table["possible"])
    if metric == "elm_overlap":  # which was recorded: no topology is read
        return elm_overlap(history)
    return summary(history, [metric])


def _name(metric: str) -> str:
    return _SHARES.get(metric, (metric.replace("_", " "), ""))[0]


def _explained(metrics: Sequence[str], whole: bool) -> str:
    told = [f"{_name(m)}: {_SHARES[m][1]}" for m in metrics if _SHARES.get(m, ("", ""))[1]]
    means = [_name(m) for m in metrics if m not in _WHOLE] if whole else []
    if means:
        *others, last = means
        first = f"{', '.join(others)} and " if others else ""
        told.append(f"{first}{last} {'are means' if others else 'is the mean'} over layers")
    return " ".join(f"{x[0].upper()}{x[1:]}." for x in told)


def _label(ax: Axes, metric: str, data: pd.DataFrame) -> None:
    ax.set_ylabel(_name(metric))
    values = data[metric].dropna()
    if values.empty:
        ax.text(0.5, 0.5, "no value", transform=ax.transAxes, ha="center")
        ax.set_yticks([])
        return
    if metric == "density" and values.min() < 0.5:
        figures.density_axis(ax, values)
    elif metric in _SHARES:
        ax.yaxis.set_major_formatter(figures.percent())
        spread = data[f"{metric}_std"].fillna(0.0)
        low, high = (data[metric] - spread).min(), (data[metric] + spread).max()
        room = max(0.06 * (high - low), 0.005)
        ax.set_ylim(max(-0.002, low - room), min(1.002 + 0.02 * (high - low), high + room))
    elif metric in _CORRELATIONS:
        figures.least_span(ax, 0.2)
