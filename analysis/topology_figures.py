"""The figures of a report about the topology: over time, at every step, at the start and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis import figures, measures
from analysis.end_figures import end_items
from analysis.learning_curves import about_lines, add_legend, over_seeds
from analysis.page import Item, svg
from analysis.runs import Run
from analysis.slider import MOST_BYTES, slider_item
from analysis.survival_figure import survival_item

__all__ = ["MEASURED", "topology_items"]

Groups = Mapping[str, Sequence[Run]]
Summaries = Mapping[Path, pd.DataFrame]

MEASURED = (
    *("links", "density", "active_neuron_rate", "elm_overlap", "turnover", "itop_rate"),
    *("in_degree_mean", "in_degree_std", "in_degree_max"),
    *("out_degree_mean", "out_degree_std", "out_degree_max"),
    *("clustering", "hub_agreement"),
)
"""What the report shows of `analysis.summary`."""


class _Panel(NamedTuple):
    title: str
    label: str
    share: bool = True  # written in percent
    least: float = 1e-6  # height of the axis: rounding is no evolution


_PANELS = {
    "density": _Panel("Density", "density"),
    "active_neuron_rate": _Panel("Active neurons", "active after percolation"),
    "elm_overlap": _Panel("ELM overlap", "regrown links just removed"),
    "turnover": _Panel("Turnover", "links replaced"),
    "itop_rate": _Panel("ITOP rate", "links that ever existed"),
    "clustering": _Panel("Clustering", "Latapy's coefficient", share=False),
    "in_degree_spread": _Panel("Spread of in-degrees", "deviation / mean", share=False),
    "out_degree_spread": _Panel("Spread of out-degrees", "deviation / mean", share=False),
    "hub_agreement": _Panel("Hub agreement", "rank correlation", share=False, least=0.2),
}


def topology_items(groups: Groups, slider_bytes: int = MOST_BYTES) -> list[Item]:
    """Measures over time, lives of links, the slider, the start and the end; none if all dense.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
    slider_bytes : int
        Bound of the slider's size.
    """
    histories = {r.path: r.history for runs in groups.values() for r in runs if r.history}
    if not histories:
        return []
    summaries = {path: measures.summary(h, MEASURED) for path, h in histories.items()}
    return [
        _evolution(groups, summaries),
        *survival_item(groups),
        *slider_item(groups, summaries, slider_bytes),
        *end_items(groups),
    ]


def _over_time(run: Run, summaries: Summaries) -> pd.DataFrame:
    """The measures at the start, after every update, and at the end of training."""
    last = run.metrics["step"].max()
    if run.history is None:
        return pd.DataFrame({"step": [0, last], "density": 1.0, "active_neuron_rate": 1.0})
    layers = summaries[run.path]
    for side in ("in", "out"):
        mean = layers[f"{side}_degree_mean"].replace(0, np.nan)
        layers = layers.assign(**{f"{side}_degree_spread": layers[f"{side}_degree_std"] / mean})
    table = layers.groupby("step")[[c for c in _PANELS if c in layers]].mean().reset_index()
    possible = sum(n_out * n_in for n_out, n_in in run.history.shapes.values())
    table["density"] = layers.groupby("step")["links"].sum().to_numpy() / possible
    table["active_neuron_rate"] = measures.active_neurons(run.history)["active_neuron_rate"]
    # nothing changes between the last update and the end of training
    end = table.iloc[[-1]].assign(step=last, elm_overlap=np.nan, turnover=np.nan)
    return pd.concat([table, end])


def _evolution(groups: Groups, summaries: Summaries) -> Item:
    shown = {  # low rank alone has no links
        label: runs
        for label, runs in groups.items()
        if runs[0].branches.dense or runs[0].history is not None
    }
    sparse = [label for label, runs in shown.items() if runs[0].history is not None]
    rows = [
        _over_time(run, summaries).assign(method=label)
        for label, runs in shown.items()
        for run in runs
    ]
    data = over_seeds(pd.concat(rows), "step", list(_PANELS))
    figure = figures.Sheet(figsize=(9.2, 7.4), layout="constrained")
    axes = figure.subplots(3, 3)
    for ax, letter, (column, panel) in zip(axes.flat, "abcdefghi", _PANELS.items(), strict=True):
        steps = column == "density"
        figures.curves(data, "step", column, ax, order=list(groups), steps=steps)
        _label(ax, data, column, panel)
        ax.set_title(f"{letter}  {panel.title}")
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    figures.density_axis(axes[0][0], data["density"])
    add_legend(figure, axes[0][0], "best")
    low_rank = any(runs[0].branches.low_rank is not None for runs in groups.values())
    return Item(
        "Figure",
        "The topology as it evolves",
        f"{about_lines(shown)} At the start and after every update; means over the sparse layers, "
        "but a is of the possible links of all of them together, and b counts their neurons, their "
        "inputs too. c: share of the regrown links "
        "that the same update had removed. d: share of the links that an update replaced. e: share "
        "of the possible links that have existed up to then. f: overlap of the neighbourhoods of "
        "two neurons of a side that share one, as a share of their union. g, h: standard "
        "deviation of the links per output and per input neuron over their mean. i: rank "
        "correlation of the links that enter and leave a neuron. A dense network has a and b alone."
        f"{_without(data, sparse)}{' Branches of low rank are not counted.' * low_rank}",
        svg(figure, "nine measures of the topology over optimizer steps"),
    )


def _label(ax: Axes, data: pd.DataFrame, column: str, panel: _Panel) -> None:
    if not (there := data[column].notna().any()):
        ax.text(0.5, 0.5, "nothing to measure", transform=ax.transAxes, ha="center")
        ax.set_yticks([])
    ax.set_ylabel(panel.label)
    ax.set_xlim(-0.03 * max(1, data["step"].max()), 1.03 * max(1, data["step"].max()))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if column == "density" or not there:
        return
    if panel.share:
        ax.yaxis.set_major_formatter(figures.percent())
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.01), min(high, 1.005))
    low, high = ax.get_ylim()
    if high - low < panel.least:
        figures.least_span(ax, max(panel.least, 0.1))


def _without(data: pd.DataFrame, sparse: Sequence[str]) -> str:
    """Which methods have no line in a panel where others have one."""
    told = []
    for letter, column in zip("abcdefghi", _PANELS, strict=True):
        there = data.groupby("method")[column].count()
        missing = [label for label in sparse if not there[label]]
        if 0 < len(missing) < len(sparse):
            told.append(f" No value in {letter}: {'; '.join(missing)}.")
    return "".join(told)
