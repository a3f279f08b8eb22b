"""The topology of one run as it evolves."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import figures
from analysis.figure_files.selection import (
    Groups,
    broken,
    choose_layers,
    histories,
)
from analysis.figure_files.trends import step_axis
from analysis.measures import active_neurons, degrees, elm_overlap
from analysis.runs import RunError
from analysis.shown import SIDES, evenly, full_ink, short_names

__all__ = ["topology_animation"]

_LAYERS = 3
_CELLS = 96


def topology_animation(
    groups: Groups, *, layers: Sequence[str] | None = None, frames: int = 60
) -> figures.Animation:
    """A run's adjacency matrices and degrees at its updates, ELM overlap and active neurons below.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`: one group, whose first run is drawn.
    layers : sequence of str, optional
        Patterns of names. Default: up to 3, evenly spread.
    frames : int
        The most: of more recorded steps, evenly spread ones are shown.

    Raises
    ------
    ValueError
        For a layer that is not there, or no frame.
    RunError
        If there are several groups, or the run has no links.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, not {frames}")
    found = histories(groups)
    if len(found) > 1:
        raise RunError(f"an animation is of one run, not of {', '.join(found)}: name one")
    label, history = next(iter(found.items()))
    names = choose_layers(list(history.shapes), layers, _LAYERS)
    chosen = {history.steps[i] for i in evenly(len(history.steps), frames)}
    shown = [
        (step, {name: network.layers[name] for name in names})
        for step, network in history.networks()
        if step in chosen
    ]
    overlap = elm_overlap(history).groupby("step")["elm_overlap"].mean()
    active = active_neurons(history).set_index("step")["active_neuron_rate"]
    start = {name: degrees(layer, "output") for name, layer in shown[0][1].items()}
    most = {
        name: max(int(degrees(layers[name], "output").max(initial=1)) for _, layers in shown)
        for name in names
    }
    densest = max(a.nnz / max(1, a.shape[0] * a.shape[1]) for _, own in shown for a in own.values())
    tiled = any(max(history.shapes[name]) > _CELLS for name in names)
    vmax = full_ink(densest) if tiled else 1.0
    short = short_names(names)
    figure = figures.canvas(max(figures.COLUMN, 2.1 * len(names)), 4.6)
    axes = figure.subplots(2, len(names), squeeze=False)
    time = figure.add_subplot()
    grid = figure.add_gridspec(3, len(names), height_ratios=[1.5, 1.0, 0.8])
    for row, panels in enumerate(axes):
        for column, ax in enumerate(panels):
            ax.set_subplotspec(grid[row, column])
    time.set_subplotspec(grid[2, :])
    for table, colour, name in ((active, 2, "active neurons"), (overlap, 5, "ELM overlap")):
        marker = "o" if len(table) == 1 else ""
        time.plot(table.index, table, color=figures.COLOURS[colour], marker=marker, label=name)
    time.set_ylim(0, 1.03)
    time.yaxis.set_major_formatter(figures.percent())
    time.legend(loc="center right", ncols=2)
    step_axis(time)
    now = time.axvline(0, color=figures.COLOURS[0], lw=figures.points(1.2))
    title = figure.suptitle("", x=0.01, ha="left")

    def draw(frame: int) -> None:
        step, own = shown[frame]
        title.set_text(f"{label}: step {step:,} of {history.steps[-1]:,}")
        now.set_xdata([step, step])
        for i, (name, (above, below)) in enumerate(zip(names, axes.T, strict=True)):
            for ax in (above, below):
                ax.clear()
            figures.adjacency(own[name], above, cells=_CELLS, vmax=vmax)
            above.set_title(broken(short[name], 20))
            above.set_xlabel("input neuron")
            figures.degree_distribution(
                start[name], below, label="start", colour="#888888", dashes=":"
            )
            counts = degrees(own[name], "output")
            figures.degree_distribution(counts, below, label="now", colour=figures.COLOURS[2])
            below.set_xlim(0.9, 1.15 * most[name])
            below.set_ylim(0.5 / max(1, len(counts)), 1.4)
            below.set_xlabel(SIDES["output"])
            if not below.lines:
                below.text(0.5, 0.5, "no links", transform=below.transAxes, ha="center")
            if i == 0:
                above.set_ylabel("output neuron")
                below.set_ylabel("share with at least k")
                if below.lines:
                    below.legend(loc="lower left")

    return figures.Animation(figure, draw, len(shown))
