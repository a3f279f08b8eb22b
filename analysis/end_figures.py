"""The figures and the table of a report that show the topology at the start and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from scipy.sparse import csr_array

import topo
from analysis import figures
from analysis.measures import degrees
from analysis.page import Item, html_table, svg
from analysis.power_law import PowerLaw, power_law
from analysis.runs import Run
from analysis.shown import SIDES, full_ink, short_names, spread

__all__ = ["end_items"]

Groups = Mapping[str, Sequence[Run]]
Ends = Mapping[str, tuple[topo.Network, topo.Network]]  # of each group's first run
Fits = Mapping[tuple[str, str, str], PowerLaw]  # by group, layer and side
MOST_GROUPS = 6
MOST_LAYERS = 4


def end_items(groups: Groups) -> list[Item]:
    """Adjacency pictures, degree distributions and their fits; none if all networks are dense.

    Of networks with many layers, `MOST_LAYERS` from the first to the last are pictured, and of
    many groups `MOST_GROUPS`.
    """
    first = {label: runs[0] for label, runs in groups.items() if runs[0].history is not None}
    if not first:
        return []
    shown = {label: first[label] for label in spread(list(first), MOST_GROUPS)}
    ends = {label: _ends(run) for label, run in shown.items()}
    fits = {
        (label, name, side): power_law(degrees(adjacency, side))
        for label, (_, end) in ends.items()
        for name, adjacency in end.layers.items()
        for side in SIDES
    }
    seeds = ", ".join(f"{label} seed {run.seed}" for label, run in shown.items())
    if len(first) > len(shown):
        seeds += f"; {len(shown)} of {len(first)} methods"
    every = max(len(run.history.shapes) for run in shown.values() if run.history is not None)
    if every > MOST_LAYERS:
        seeds += f"; {MOST_LAYERS} of {every} layers"
    return [_adjacency(ends, seeds), _degrees(ends, fits, seeds), _fits(fits, seeds)]


def _ends(run: Run) -> tuple[topo.Network, topo.Network]:
    history = run.history
    assert history is not None
    return _some(history.at(0)), _some(history.at(history.steps[-1]))


def _some(network: topo.Network) -> topo.Network:
    """A network of a few layers that are spread over all."""
    chosen = spread(list(network.layers), MOST_LAYERS)
    return topo.Network({name: network.layers[name] for name in chosen}, couplings=())


def _adjacency(ends: Ends, seeds: str) -> Item:
    pictures = [
        (label, when, network)
        for label, both in ends.items()
        for when, network in zip(("start", "end"), both, strict=True)
    ]
    columns = max(len(network.layers) for _, _, network in pictures)
    short = short_names([name for _, _, network in pictures for name in network.layers])
    density = max(n.density for _, _, n in pictures)
    vmax = full_ink(density)
    figure = figures.Sheet(
        figsize=(2.9 * columns + 0.6, 2.35 * len(pictures)), layout="constrained"
    )
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for row, (label, when, network) in enumerate(pictures):
        for ax, (name, layer) in _panels(axes[row], network):
            figures.adjacency(layer, ax, vmax=vmax)
            ax.set_xlabel("input neuron")
            ax.set_title(_title(f"{label}, {when}", short[name]))
        axes[row][0].set_ylabel("output neuron")
    bar = figure.colorbar(axes[0][0].images[0], ax=axes, shrink=0.25, aspect=14, pad=0.01)
    bar.set_label("density of a tile", fontsize=8.5)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    bar.outline.set_visible(False)
    return Item(
        "Figure",
        "Adjacency matrices at the start and the end",
        f"Each layer's links ({seeds}) as the density of tiles of neurons; full ink is "
        f"{100 * vmax:.3g} % and more. The diagonal of a small-world start is its ring lattice; a "
        "correlated start repeats the correlations of the inputs, tile by tile. Stripes "
        "are neurons with more links than others: vertical ones inputs, horizontal ones outputs.",
        svg(figure, "adjacency matrices of every sparse layer at the start and the end"),
    )


def _degrees(ends: Ends, fits: Fits, seeds: str) -> Item:
    columns = max(len(end.layers) for _, end in ends.values())
    panels = [(label, side) for label in ends for side in SIDES]
    short = short_names([name for _, end in ends.values() for name in end.layers])
    figure = figures.Sheet(figsize=(2.9 * columns + 0.6, 2.3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), columns, squeeze=False)
    for row, (label, side) in enumerate(panels):
        start, end = ends[label]
        for ax, (name, layer) in _panels(axes[row], end):
            figures.degree_distribution(
                degrees(start.layers[name], side), ax, label="start", colour="#888888", dashes=":"
            )
            figures.degree_distribution(
                degrees(layer, side),
                ax,
                label="end",
                colour=figures.COLOURS[2],
                fit=fits[label, name, side],
            )
            ax.set_title(_title(label, short[name]))
            ax.set_xlabel(SIDES[side])
            if ax.lines:
                ax.legend(loc="lower left")
            else:
                ax.text(0.5, 0.5, "no links", transform=ax.transAxes, ha="center")
        axes[row][0].set_ylabel("share with at least k")
    return Item(
        "Figure",
        "Degree distributions",
        "Share of the neurons with links that have at least k of them (complementary cumulative "
        f"distribution), at the start and the end of training ({seeds}). An orange line marks a "
        "power law where the data support one; the table of fits says why there is none elsewhere.",
        svg(figure, "degree distributions of both sides of every sparse layer"),
    )


def _title(of: str, layer: str) -> str:
    """On one line if there is room."""
    return f"{of}: {layer}" if len(of) + len(layer) < 28 else f"{of}\n{layer}"


def _panels(
    axes: Sequence[Axes], network: topo.Network
) -> Iterator[tuple[Axes, tuple[str, csr_array]]]:
    """Axes and layers side by side; what no layer needs is blank."""
    for ax in axes[len(network.layers) :]:
        ax.set_axis_off()
    yield from zip(axes, network.layers.items(), strict=False)


def _fits(fits: Fits, seeds: str) -> Item:
    rows = [
        {
            "method": label,
            "layer": name,
            "side": side,
            "α": f"{fit.alpha:.2f}" if fit.fits else "–",
            "smallest degree of the tail": "–" if np.isnan(fit.xmin) else f"{fit.xmin:g}",
            "KS distance": "–" if np.isnan(fit.ks) else f"{fit.ks:.3f}",
            "neurons in the tail": str(fit.tail),
            "no fit, because": "; ".join(fit.reasons),
        }
        for (label, name, side), fit in fits.items()
    ]
    table = pd.DataFrame(rows)
    fitting = np.array([fit.fits for fit in fits.values()])
    body = ""
    if fitting.any():
        body = html_table(table[fitting].drop(columns="no fit, because"), _TEXT)
    if not fitting.all():
        unfit = html_table(table[~fitting].drop(columns="α"), _TEXT)
        body += (
            f"<details><summary>No power law in {_share(~fitting)}: why</summary>{unfit}</details>"
        )
    return Item(
        "Table",
        "Power-law fits of the final degrees",
        f"A power law fits {_share(fitting)}. Discrete maximum likelihood, the tail chosen by "
        f"Kolmogorov-Smirnov distance (Clauset, Shalizi, Newman 2009; {seeds}). A fit counts only "
        "if the tail has 50 neurons and 10 distinct degrees, the likelihood ratio prefers neither "
        "an exponential nor a lognormal, and α is at most 4 (random graphs have tails as steep as "
        "that).",
        body,
    )


_TEXT = frozenset({"method", "layer", "side", "no fit, because"})


def _share(which: np.ndarray) -> str:
    return f"{which.sum() or 'none'} of the {len(which)} degree sequences"
