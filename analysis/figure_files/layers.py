"""Layers at some steps of runs: their adjacency matrices and their degrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures
from analysis.figure_files.selection import Groups, Picture, broken, pictures
from analysis.measures import degrees
from analysis.power_law import PowerLaw, power_law
from analysis.shown import SIDES, full_ink, short_names
from topo.names import find

__all__ = ["adjacency_figure", "degree_figure"]

_LAW = "power law, "
_CELLS = 96  # tiles along a side


def adjacency_figure(
    groups: Groups, *, layers: Sequence[str] | None = None, step: Sequence[int] | None = None
) -> Figure:
    """Adjacency matrices: a column per layer, a row per group and step.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`; the first run of each group that is sparse is drawn.
    layers : sequence of str, optional
        Patterns of layers' names. Default: up to 4, evenly spread.
    step : sequence of int, optional
        Default: the start and the end.

    Raises
    ------
    ValueError
        For a layer or a step that is not there.
    RunError
        If no run is sparse.
    """
    shown, note = pictures(groups, layers, step)
    figure, axes = _grid(shown, 1.42)
    every = [layer for picture in shown for layer in picture.layers.values()]
    tiled = any(max(layer.shape) > _CELLS for layer in every)
    densest = max(layer.nnz / max(1, layer.shape[0] * layer.shape[1]) for layer in every)
    vmax = full_ink(densest) if tiled else 1.0
    for row, picture in zip(axes, shown, strict=True):
        for ax, layer in zip(row, picture.layers.values(), strict=False):
            figures.adjacency(layer, ax, cells=_CELLS, vmax=vmax)
        row[0].set_ylabel(f"{picture.run}, {picture.when}\noutput neuron")
    for ax in _lowest(axes, shown):
        ax.set_xlabel("input neuron")
    if tiled:
        image = axes[0, 0].images[0]
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 1.6 / len(axes)), aspect=16, pad=0.01)
        bar.set_label("density of a tile")
        bar.ax.yaxis.set_major_formatter(figures.percent())
        bar.outline.set_visible(False)
    darker = f" Black: {100 * vmax:.3g} % and more." if tiled and vmax < 1 else ""
    figures.footnote(figure, (note + darker).strip())
    return figure


def degree_figure(
    groups: Groups,
    *,
    layers: Sequence[str] | None = None,
    step: Sequence[int] | None = None,
    side: Sequence[str] | None = None,
) -> Figure:
    """Degree distributions: a column per layer, a row per group and side, a line per step.

    Parameters
    ----------
    groups, layers, step
        As of `adjacency_figure`. The degrees of the last step have a power law drawn where the
        data support one.
    side : sequence of {"output", "input"}, optional
        Whose degrees. Default: both.

    Raises
    ------
    ValueError
        For a layer, a step or a side that is not there.
    RunError
        If no run is sparse.
    """
    sides = list(SIDES) if side is None else list(side)
    for name in sides:
        find(SIDES, name, "side")
    shown, note = pictures(groups, layers, step, rows=len(sides))
    rows = [
        ([p for p in shown if p.run == run], name)
        for run in dict.fromkeys(p.run for p in shown)
        for name in sides
    ]
    figure, axes = _grid([own[-1] for own, _ in rows], 1.5)
    lines: dict[str, Line2D] = {}  # by label, of all panels
    for row, (own, name) in zip(axes, rows, strict=True):
        for ax, layer in zip(row, own[-1].layers, strict=False):
            for picture, look in zip(own, _looks(len(own)), strict=True):
                counts = degrees(picture.layers[layer], name)
                figures.degree_distribution(
                    counts,
                    ax,
                    label=picture.when,
                    fit=_fit(counts) if picture is own[-1] else None,
                    **look,
                )
            for line in ax.lines:
                text = str(line.get_label())
                lines.setdefault(text.split(",")[0], line)
                if text.startswith(_LAW):  # its exponent is the panel's own
                    ax.legend([line], [text.removeprefix(_LAW)], loc="lower left", handlelength=1)
            ax.set_xlabel(SIDES[name])
            if not ax.lines:
                ax.text(0.5, 0.5, "no links", transform=ax.transAxes, ha="center")
        row[0].set_ylabel(f"{own[0].run}\nshare with at least k")
    figure.legend(list(lines.values()), list(lines), loc="outside upper left", ncols=len(lines))
    laws = "A power law is fitted to the last step, and drawn where the data support one."
    figures.footnote(figure, f"{note} {laws}".strip())
    return figure


def _looks(count: int) -> list[dict[str, Any]]:
    """Of the lines of so many steps: grey to blue, or dark to light."""
    if count <= 2:
        last = {"colour": figures.COLOURS[2], "dashes": "-"}
        return [{"colour": "#888888", "dashes": ":"}, last][2 - count :]
    colours = figures.depth_colours(count)
    return [{"colour": colours.to_rgba(float(i)), "dashes": "-"} for i in range(count)]  # type: ignore[arg-type]


def _fit(counts: npt.NDArray[np.int64]) -> PowerLaw | None:
    return power_law(counts) if len(counts) else None


def _grid(shown: Sequence[Picture], height: float) -> tuple[Figure, npt.NDArray[Any]]:
    """Panels, a row per picture and a column per layer, with titles; those of no layer are off."""
    columns = max(len(picture.layers) for picture in shown)
    short = short_names([name for picture in shown for name in picture.layers])
    width = min(figures.PAGE, max(figures.COLUMN, 1.6 * columns + 0.5))
    figure = figures.canvas(width, height * len(shown) + 0.35)
    axes = figure.subplots(len(shown), columns, squeeze=False)
    above: list[str] = []
    for row, picture in zip(axes, shown, strict=True):
        names = list(picture.layers)
        for ax in row[len(names) :]:
            ax.set_axis_off()
        if names != above:  # else it is as in the row above
            for ax, name in zip(row, names, strict=False):
                ax.set_title(broken(short[name], 17))
        above = names
    return figure, axes


def _lowest(axes: npt.NDArray[Any], shown: Sequence[Picture]) -> Iterator[Axes]:
    """The last panel of each column."""
    for column, panels in enumerate(axes.T):
        there = [ax for ax, p in zip(panels, shown, strict=True) if column < len(p.layers)]
        yield there[-1]
