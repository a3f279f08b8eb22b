"""The figures that ``epitopo-analysis figure`` writes, by name: what each needs and draws.

The functions here read runs and measure them; what they measured is drawn by `analysis.figures`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.cancellation import ATTENTION, cancellation_figure, warn_of_left_out
from analysis.figure_files.animated import topology_animation
from analysis.figure_files.drawn_network import network_figure
from analysis.figure_files.layers import adjacency_figure, degree_figure
from analysis.figure_files.lives import survival_figure
from analysis.figure_files.selection import Groups
from analysis.figure_files.starts import starts_figure
from analysis.figure_files.training import flops_figure, learning_figure
from analysis.figure_files.trends import active_figure, density_figure, overlap_figure, trend_figure
from analysis.figure_files.wins import win_rate_figure
from analysis.runs import find_runs
from analysis.scaling import scaling_figure
from analysis.splits import splits_figure, warn_of_budgets
from topo.names import find

__all__ = ["FIGURES", "FigureFile", "draw_figure"]


@dataclass(frozen=True)
class FigureFile:
    """A figure that a command writes.

    Attributes
    ----------
    help : str
        What it shows, in one line.
    draw : callable
        Takes what `read` gives (nothing, if there are no inputs) and, as keyword-only arguments,
        the options of the figure.
    read : callable or None
        Of the command's inputs; None: there are none.
    inputs : str
        What the inputs are.
    ending : str
        Of the file, unless another is named.
    """

    help: str
    draw: Callable[..., Figure | figures.Animation]
    read: Callable[[Sequence[str]], Any] | None = find_runs
    inputs: str = "Run folders, or folders of run folders."
    ending: str = ".svg"

    @property
    def options(self) -> list[str]:
        """Names of the options."""
        parameters = inspect.signature(self.draw).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def draw_figure(
    name: str,
    inputs: Sequence[str],
    out: str | os.PathLike[str],
    *,
    style: str = "paper",
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a figure by its name.

    Parameters
    ----------
    name : str
        In `FIGURES`.
    inputs : sequence of str
        Run folders, folders of them, or as the figure says.
    out : path
        A file: .pdf, .svg, .png; an animation's ends in .gif.
    style : {"paper", "screen"}
    options : mapping of str to object, optional
        Of the figure: the keyword arguments of its function.

    Raises
    ------
    ValueError
        If a name or an option is unknown, or what is to be drawn is not there; no file is written.
    """
    entry = find(FIGURES, name, "figure")
    given = dict(options or {})
    for option in given:
        find(dict.fromkeys(entry.options), option, f"option of the figure {name}")
    with figures.style(style):
        drawn = entry.draw(*([] if entry.read is None else [entry.read(inputs)]), **given)
        if isinstance(drawn, figures.Animation):
            return figures.save_animation(drawn, out)
        return figures.save(drawn, out)


_NO_TABLE = "{} is not the CSV file of `epitopo bench scaling --out FILE.csv`"


def _read_table(inputs: Sequence[str]) -> pd.DataFrame:
    if len(inputs) > 1:
        raise ValueError(f"the figure scaling takes one table, not {len(inputs)}")
    try:
        table = pd.read_csv(inputs[0])
    except ValueError as error:  # no text, no columns, or rows of different lengths
        raise ValueError(_NO_TABLE.format(inputs[0])) from error
    if "predictor" not in table:
        raise ValueError(_NO_TABLE.format(inputs[0]))
    return table


def _cancellation(groups: Groups, *, projection: Sequence[str] = ATTENTION) -> Figure:
    figure = cancellation_figure(groups, projection)
    warn_of_left_out(groups)
    return figure


def _splits(groups: Groups) -> Figure:
    figure = splits_figure(groups)
    warn_of_budgets(groups)
    return figure


FIGURES: dict[str, FigureFile] = {
    "starts": FigureFile(
        "Adjacency matrices and degrees of start topologies: small worlds, scale-free.",
        starts_figure,
        read=None,
    ),
    "scaling": FigureFile(
        "Time and memory of link prediction.",
        scaling_figure,
        read=_read_table,
        inputs="The CSV file of `epitopo bench scaling --out`.",
    ),
    "win-rates": FigureFile(
        "How often each method, or value of a setting, is the best.", win_rate_figure
    ),
    "learning": FigureFile("Learning curves: losses and scores.", learning_figure),
    "density": FigureFile("Density over the steps of training.", density_figure),
    "flops": FigureFile(
        "Training operations relative to dense: the integral of the density.", flops_figure
    ),
    "elm-overlap": FigureFile(
        "Share of the regrown links that were just removed, over steps.", overlap_figure
    ),
    "active-neurons": FigureFile(
        "Share of neurons that are active after percolation, over steps.", active_figure
    ),
    "trend": FigureFile("Any measures of the topology over steps.", trend_figure),
    "adjacency": FigureFile("Adjacency matrices of layers, at some steps.", adjacency_figure),
    "degrees": FigureFile("Degree distributions of layers with their fits.", degree_figure),
    "network": FigureFile("The layers as a graph, inactive neurons hollow.", network_figure),
    "survival": FigureFile("Share of links that live to an age.", survival_figure),
    "animation": FigureFile(
        "The topology as it evolves, as a GIF.", topology_animation, ending=".gif"
    ),
    "cancellation": FigureFile(
        "Cancellation of the two branches of layers with low rank.", _cancellation
    ),
    "splits": FigureFile("Scores over the share of low rank.", _splits),
}
"""In the order of the command's help."""
