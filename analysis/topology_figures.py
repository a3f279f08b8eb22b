"""The figures and the table of a report that show the topology: over time, start and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.sparse import csr_array

import topo
from analysis import figures
from analysis.learning_curves import about_lines, add_legend, over_seeds
from analysis.measures import active_neurons, degrees
from analysis.page import Item, html_table, svg
from analysis.power_law import PowerLaw, power_law
from analysis.runs import Run

__all__ = ["topology_items"]

Groups = Mapping[str, Sequence[Run]]
Ends = Mapping[str, tuple[topo.Network, topo.Network]]  # of each group's first run
Fits = Mapping[tuple[str, str, str], PowerLaw]  # by group, layer and side
SIDES = {"output": "links per output neuron", "input": "links per input neuron"}
MOST_LAYERS = 4  # that are pictured


def topology_items(groups: Groups) -> list[Item]:
    """The evolution, adjacency pictures, degree distributions and their fits; none if all dense.

    Of networks with many layers, `MOST_LAYERS` from the first to the last are pictured.
    """
    ends = {
        label: (_some(history.at(0)), _some(history.at(history.steps[-1])))
        for label, runs in groups.items()
        if (history := runs[0].history) is not None
    }
    if not ends:
        return []
    fits = {
        (label, name, side): power_law(degrees(adjacency, side))
        for label, (_, end) in ends.items()
        for name, adjacency in end.layers.items()
        for side in SIDES
    }
    seeds = ", ".join(f"{label} seed {groups[label][0].seed}" for label in ends)
    every = max(len(g[0].history.shapes) for g in groups.values() if g[0].history is not None)
    if every > MOST_LAYERS:
        seeds += f"; {MOST_LAYERS} of {every} layers"
    return [
        _evolution(groups),
        _adjacency(ends, seeds),
        _degrees(ends, fits, seeds),
        _fits(fits, seeds),
    ]


def _some(network: topo.Network) -> topo.Network:
    """A network of a few layers that are spread over all."""
    names = list(network.layers)
    if len(names) <= MOST_LAYERS:
        return network
    chosen = np.linspace(0, len(names) - 1, MOST_LAYERS).round().astype(int)
    return topo.Network({names[i]: network.layers[names[i]] for i in chosen}, couplings=())


def _over_time(run: Run) -> pd.DataFrame:
    """Density, ELM overlap and active neurons at the start, after every update, and at the end."""
    last = run.metrics["step"].max()
    if run.history is None:
        full = {"density": 1.0, "elm_overlap": np.nan, "active_neuron_rate": 1.0}
        return pd.DataFrame([{"step": s, **full} for s in (0, last)])
    possible = {name: n_out * n_in for name, (n_out, n_in) in run.history.shapes.items()}
    updates = run.history.updates()
    layers = pd.DataFrame(
        {
            "step": updates["step"],
            "density": updates["links"] / np.array([possible[n] for n in updates["layer"]], float),
            "elm_overlap": updates["overlap"],
        }
    )
    start = run.history.at(0).layers
    begun = np.mean([layer.nnz / possible[name] for name, layer in start.items()])
    table = pd.concat(
        [
            pd.DataFrame({"step": [0], "density": [begun], "elm_overlap": [np.nan]}),
            layers.groupby("step", as_index=False).mean(),
        ]
    ).merge(active_neurons(run.history), on="step")
    # nothing changes between the last update and the end of training
    return pd.concat([table, table.iloc[[-1]].assign(step=last, elm_overlap=np.nan)])


def _evolution(groups: Groups) -> Item:
    rows = []
    shown = {  # low rank alone has no links
        label: runs
        for label, runs in groups.items()
        if runs[0].branches.dense or runs[0].history is not None
    }
    for label, runs in shown.items():
        for run in runs:
            rows.append(_over_time(run).assign(method=label, seed=run.seed))
    columns = ["density", "elm_overlap", "active_neuron_rate"]
    data = over_seeds(pd.concat(rows), "step", columns)
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 3)
    figures.curves(data, "step", "density", axes[0])
    axes[0].set(title="a  Density", ylabel="density", yscale="log")
    lowest = data["density"].min()
    decades = range(int(np.floor(np.log10(lowest))), 1)
    ticks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    axes[0].set_yticks([t for t in ticks if lowest / 1.5 <= t <= 1])
    axes[0].set_ylim(lowest / 1.4, 1.2)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes[0].minorticks_off()
    figures.curves(data, "step", "elm_overlap", axes[1])
    axes[1].set(title="b  ELM overlap", ylabel="regrown links just removed")
    axes[1].set_ylim(bottom=0.0)
    if data["elm_overlap"].isna().all():
        axes[1].text(0.5, 0.5, "nothing was regrown", transform=axes[1].transAxes, ha="center")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    figures.curves(data, "step", "active_neuron_rate", axes[2])
    axes[2].set(title="c  Active neurons", ylabel="active after percolation")
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    for ax in axes:
        ax.set_xlabel("optimizer step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    low_rank = any(runs[0].branches.low_rank is not None for runs in groups.values())
    branches = " Branches of low rank are not counted." if low_rank else ""
    low, high = axes[2].get_ylim()
    axes[2].set_ylim(max(low, -0.01), min(high, 1.005))
    add_legend(figure, axes[0], "best")
    return Item(
        "Figure",
        "The topology as it evolves",
        f"{about_lines(shown)} Density and ELM overlap are means over the sparse layers, at the "
        "start and after every update; a dense network has no updates, so no overlap. Panel c "
        f"counts the neurons of all sparse layers, those of their inputs, too.{branches}",
        svg(figure, "density, ELM overlap and active neuron rate over optimizer steps"),
    )


def _adjacency(ends: Ends, seeds: str) -> Item:
    pictures = [
        (label, when, network)
        for label, both in ends.items()
        for when, network in zip(("start", "end"), both, strict=True)
    ]
    columns = max(len(network.layers) for _, _, network in pictures)
    short = _short([name for _, _, network in pictures for name in network.layers])
    density = max(n.density for _, _, n in pictures)
    vmax = min(1.0, 5 * density)
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.35 * len(pictures)), layout="constrained")
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
        f"Each layer's links ({seeds}) as the density of tiles of neurons; black is "
        f"{100 * vmax:.3g} % and more. The diagonal of a small-world start is its ring lattice; a "
        "correlated start repeats the correlations of the inputs, tile by tile. Stripes "
        "are neurons with more links than others: vertical ones inputs, horizontal ones outputs.",
        svg(figure, "adjacency matrices of every sparse layer at the start and the end"),
    )


def _degrees(ends: Ends, fits: Fits, seeds: str) -> Item:
    columns = max(len(end.layers) for _, end in ends.values())
    panels = [(label, side) for label in ends for side in SIDES]
    short = _short([name for _, end in ends.values() for name in end.layers])
    figure = Figure(figsize=(2.9 * columns + 0.6, 2.3 * len(panels)), layout="constrained")
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
            ax.legend(loc="lower left")
        axes[row][0].set_ylabel("share with at least k")
    return Item(
        "Figure",
        "Degree distributions",
        "Share of active neurons with at least k links (complementary cumulative distribution), "
        f"at the start and the end of training ({seeds}). An orange line marks a power law where "
        "the data support one; the table of fits says why there is none elsewhere.",
        svg(figure, "degree distributions of both sides of every sparse layer"),
    )


def _short(names: list[str]) -> dict[str, str]:
    """Layers' names without the parts that all have, such as "model" and "layers"."""
    parts = {name: name.split(".") for name in names}
    common = set.intersection(*(set(p[:-1]) for p in parts.values()))
    short = {name: ".".join(x for x in p if x not in common) for name, p in parts.items()}
    return short if len(set(short.values())) == len(parts) else {name: name for name in names}


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
            "no fit, because": "; ".join(fit.reasons) or "(fits)",
        }
        for (label, name, side), fit in fits.items()
    ]
    return Item(
        "Table",
        "Power-law fits of the final degrees",
        "Discrete maximum likelihood with the tail chosen by Kolmogorov-Smirnov distance (Clauset, "
        f"Shalizi, Newman 2009; {seeds}). A fit counts only if the tail has 50 neurons and 10 "
        "distinct degrees, the likelihood ratio prefers neither an exponential nor a lognormal, "
        "and α is at most 4 (random graphs have tails as steep as that).",
        html_table(pd.DataFrame(rows), frozenset({"method", "layer", "side", "no fit, because"})),
    )
