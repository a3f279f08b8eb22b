"""The layers of a network as a graph: a sample of the neurons, and the links between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

import topo
from analysis import figures
from analysis.figure_files.selection import (
    Groups,
    broken,
    choose_layers,
    few,
    histories,
    one_of_several,
    recorded,
    when,
)
from analysis.measures import degrees
from analysis.shown import evenly, short_names
from topo.names import find

__all__ = ["SAMPLES", "Drawn", "drawn_network", "network_figure"]

_GAP = 0.9  # between layers that share no neurons, in lengths of a layer
_WORDY = 8  # columns whose numbers there is room to explain
_MOST_PANELS = 3  # on a page
_LINKS = 250  # that are seen one by one; more are drawn fainter


def _spread(degree: npt.NDArray[np.int64], most: int) -> list[int]:
    return evenly(len(degree), most)


def _top(degree: npt.NDArray[np.int64], most: int) -> list[int]:
    return sorted(np.argsort(-degree, kind="stable")[:most].tolist())


SAMPLES: dict[str, Callable[[npt.NDArray[np.int64], int], list[int]]] = {
    "spread": _spread,
    "top": _top,
}
"""Which neurons of a column are drawn, by their links: evenly spread ones, those with the most."""


class Drawn(NamedTuple):
    """What `analysis.figures.layered_network` draws."""

    neurons: pd.DataFrame
    links: pd.DataFrame
    columns: dict[float, str]
    layers: dict[float, str]


class _Column(NamedTuple):
    x: float
    degree: npt.NDArray[np.int64]
    active: npt.NDArray[np.bool_]


def drawn_network(
    network: topo.Network, layers: Sequence[str], *, neurons: int = 40, sample: str = "spread"
) -> Drawn:
    """Columns of neurons and the links between them.

    Parameters
    ----------
    network : topo.Network
        A neuron is active if it has a link after percolation of the whole network.
    layers : sequence of str
        Names. Layers that follow one another in a chain share a column; others stand apart.
    neurons : int
        The most that a column shows.
    sample : {"spread", "top"}
        Which: evenly spread ones, or those with the most links.
    """
    pick = find(SAMPLES, sample, "sample")
    if neurons < 1:
        raise ValueError(f"neurons must be at least 1, not {neurons}")
    left = topo.percolate(network)
    chained = {
        (c.outputs[0], c.inputs[0])
        for c in network.couplings
        if len(c.outputs) == len(c.inputs) == 1 and c.head_dim is None
    }
    columns: list[_Column] = []
    ends: dict[str, tuple[int, int]] = {}  # of each layer: columns of its inputs and outputs
    for before, name in pairwise([None, *layers]):
        assert name is not None
        inputs, outputs = (
            _Column(0.0, degrees(network.layers[name], s), degrees(left.layers[name], s) > 0)
            for s in ("input", "output")
        )
        if before is not None and (before, name) in chained:
            last = columns[-1]
            columns[-1] = _Column(last.x, last.degree + inputs.degree, last.active | inputs.active)
        else:
            columns.append(inputs._replace(x=columns[-1].x + _GAP if columns else 0.0))
        columns.append(outputs._replace(x=columns[-1].x + 1))
        ends[name] = (len(columns) - 2, len(columns) - 1)
    picked = [pick(column.degree, neurons) for column in columns]
    y = [(np.arange(len(p)) + 0.5) / max(1, len(p)) for p in picked]
    dots = [
        pd.DataFrame({"x": c.x, "y": at, "active": c.active[p]})
        for c, p, at in zip(columns, picked, y, strict=True)
    ]
    lines = []
    for name, (i, j) in ends.items():
        shown = network.layers[name][picked[j]][:, picked[i]].tocoo()
        kept = left.layers[name][picked[j]][:, picked[i]].toarray()
        lines.append(
            pd.DataFrame(
                {
                    "x": columns[i].x,
                    "y": y[i][shown.col],
                    "to_x": columns[j].x,
                    "to_y": y[j][shown.row],
                    "active": kept[shown.row, shown.col],
                }
            )
        )
    short = short_names(layers)
    return Drawn(
        pd.concat(dots, ignore_index=True),
        pd.concat(lines, ignore_index=True),
        {c.x: _told(c, brief=len(columns) > _WORDY) for c in columns},
        {
            (columns[i].x + columns[j].x) / 2: broken(short[name], 26)
            for name, (i, j) in ends.items()
        },
    )


def network_figure(
    groups: Groups,
    *,
    layers: Sequence[str] | None = None,
    step: Sequence[int] | None = None,
    neurons: int = 40,
    sample: str = "spread",
) -> Figure:
    """The layered network of the first run of each group, a panel per step.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    layers : sequence of str, optional
        Patterns of names. Default: up to 4, evenly spread.
    step : sequence of int, optional
        Default: the end.
    neurons, sample
        As of `drawn_network`.

    Raises
    ------
    ValueError
        For a layer, a step, a number or a sample that is not there.
    RunError
        If no run is sparse.
    """
    panels = []
    every = histories(groups)
    each = 1 if step is None else max(len(recorded(history, step)) for history in every.values())
    found, left_out = few(every, _MOST_PANELS // each)
    for label, history in found.items():
        names = choose_layers(list(history.shapes), layers)
        for at in recorded(history, [history.steps[-1]] if step is None else step):
            drawn = drawn_network(history.at(at), names, neurons=neurons, sample=sample)
            panels.append((f"{label}, {when(at, history.steps)}", drawn, history))
    figure = figures.canvas(figures.PAGE, 2.75 * len(panels) + 0.3)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (title, drawn, _) in zip(axes, panels, strict=True):
        alpha = float(np.clip(_LINKS / max(1, len(drawn.links)), 0.12, 0.6))
        figures.layered_network(
            drawn.neurons, drawn.links, ax, columns=drawn.columns, layers=drawn.layers, alpha=alpha
        )
        ax.set_title(title)
    which = {"spread": "evenly spread", "top": "with the most links"}[sample]
    removed = any((~drawn.links["active"].to_numpy(bool)).any() for _, drawn, _ in panels)
    _, drawn, history = panels[0]
    some = f" {len(drawn.layers)} of {len(history.shapes)} layers."
    notes = [
        one_of_several(groups, found),
        f"At most {neurons} neurons of a column, {which}, and the links between them. Filled: "
        "active after percolation of the whole network; hollow: not."
        + " Numbers: neurons, and how many are active."
        * any(len(drawn.columns) > _WORDY for _, drawn, _ in panels)
        + " Orange: links that percolation would remove." * removed
        + some * (len(drawn.layers) < len(history.shapes)),
        left_out,
    ]
    figures.footnote(figure, " ".join(filter(None, notes)))
    return figure


def _told(column: _Column, *, brief: bool) -> str:
    count = len(column.active)
    share = 100 * column.active.mean() if count else 100.0
    if brief:
        return f"{count:,}\n{share:.3g} %"
    return f"{count:,} neuron{'s' * (count != 1)}\n{share:.3g} % active"
