"""Figures: functions that take data and axes, compute nothing, and return the axes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from scipy import sparse
from scipy.special import zeta

from analysis.power_law import PowerLaw
from topo.files import write_atomically

__all__ = [
    "COLOURS",
    "adjacency",
    "cancellation",
    "curves",
    "degree_distribution",
    "depth_colours",
    "save",
    "splits",
    "style",
]

#: Okabe and Ito's palette: told apart with every common colour vision deficiency.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_MARKERS = "osD^vP"

_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "figure.dpi": 100,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "pdf.fonttype": 42,
    "svg.hashsalt": "epitopo",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures: ``with style(): ...``."""
    with rc_context(_STYLE):
        yield


def save(figure: Figure, out: str | os.PathLike[str]) -> Path:
    """Write a figure as a whole, the same bytes every time.

    Raises
    ------
    ValueError
        If the file's ending is that of no format.
    """
    file = Path(out)
    kind = file.suffix[1:].lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{file} must end in .svg, .pdf or .png, so that its format is known")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=undated)
    write_atomically(file, buffer.getvalue())
    return file


def curves(data: pd.DataFrame, x: str, y: str, ax: Axes, *, by: str = "method") -> Axes:
    """Draw one line per group, with a band of one standard deviation where there is one.

    Parameters
    ----------
    data : DataFrame
        Columns `by`, `x`, `y` (the mean) and, optionally, ``y + "_std"``.
    x, y : str
        Columns.
    ax : Axes
    by : str
        The column that tells the lines apart.
    """
    for i, (label, group) in enumerate(data.groupby(by, sort=False)):
        colour = COLOURS[i % len(COLOURS)]
        finite = group[y].notna()
        is_line = (finite & finite.shift(fill_value=False)).any()
        ax.plot(
            group[x],
            group[y],
            color=colour,
            ls=_DASHES[(i + i // len(COLOURS)) % len(_DASHES)],
            marker="" if is_line else "o",
            ms=4,
            label=str(label),
        )
        if f"{y}_std" in group:
            spread = group[f"{y}_std"].fillna(0.0)
            ax.fill_between(
                group[x], group[y] - spread, group[y] + spread, color=colour, alpha=0.15, lw=0
            )
    return ax


def adjacency(matrix: sparse.csr_array, ax: Axes, *, cells: int = 96, vmax: float = 1.0) -> Axes:
    """Picture a layer: one pixel per link, or the density of each tile of a larger layer.

    Parameters
    ----------
    matrix : csr_array of bool, shape (n_out, n_in)
        Output neurons downwards, input neurons to the right.
    ax : Axes
    cells : int
        The largest number of tiles along a side.
    vmax : float
        The density that is drawn darkest.
    """
    n_out, n_in = matrix.shape
    tall, wide = min(n_out, cells), min(n_in, cells)
    coo = matrix.tocoo()
    tile = (coo.row.astype(np.int64) * tall // n_out) * wide + coo.col.astype(
        np.int64
    ) * wide // n_in
    links = np.bincount(tile, minlength=tall * wide).reshape(tall, wide)
    rows = np.diff(-(-np.arange(tall + 1) * n_out // tall))
    cols = np.diff(-(-np.arange(wide + 1) * n_in // wide))
    ax.imshow(
        links / np.outer(rows, cols),
        cmap="Greys",
        vmin=0.0,
        vmax=vmax,
        aspect="auto",
        interpolation="nearest",
        extent=(0, n_in, n_out, 0),
    )
    ax.grid(visible=False)
    ax.set_xticks([0, n_in])
    ax.set_yticks([0, n_out])
    return ax


def degree_distribution(
    degrees: npt.NDArray[np.int64],
    ax: Axes,
    *,
    label: str = "",
    colour: str = COLOURS[0],
    dashes: Any = "-",
    fit: PowerLaw | None = None,
) -> Axes:
    """Draw the share of active neurons with at least k links, on two logarithmic axes.

    Parameters
    ----------
    degrees : array of int
        Inactive neurons (degree 0) are left out.
    ax : Axes
    label, colour, dashes
        Of the line.
    fit : PowerLaw, optional
        Drawn over its tail where it fits: ``P(K >= k) ~ zeta(alpha, k)``.
    """
    k, counts = np.unique(degrees[degrees > 0], return_counts=True)
    if len(k):
        at_least = counts[::-1].cumsum()[::-1] / counts.sum()
        ax.plot(k, at_least, color=colour, ls=dashes, marker=".", ms=3.5, lw=1, label=label)
        if fit is not None and fit.fits:
            tail = k[k >= fit.xmin]
            line = at_least[k >= fit.xmin][0] * zeta(fit.alpha, tail) / zeta(fit.alpha, fit.xmin)
            ax.plot(
                tail,
                line,
                color=COLOURS[5],
                lw=1.6,
                label=rf"power law, $\alpha$ = {fit.alpha:.2f}",
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if ax.lines:  # all that was drawn so far, and no impossible degree or share
        drawn = [line.get_data() for line in ax.lines]
        x, y = (np.concatenate(values) for values in zip(*drawn, strict=True))
        ax.set_xlim(x.min() / 1.15, x.max() * 1.15)
        ax.set_ylim(y.min() / 1.4, 1.3)
    return ax


def depth_colours(blocks: int) -> ScalarMappable:
    """A colour for each block of a network, by its number, dark to light.

    Viridis without its lightest part, which is faint on white: its lightness tells blocks apart
    with every colour vision, and in grey.
    """
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, blocks)))
    return ScalarMappable(BoundaryNorm(np.arange(blocks + 1) - 0.5, blocks), colours)


def cancellation(
    data: pd.DataFrame, ax: Axes, *, colours: ScalarMappable, mean: pd.DataFrame | None = None
) -> Axes:
    """Draw the overlap cancellation ratio of one projection: a line per block, and their mean.

    Parameters
    ----------
    data : DataFrame
        Columns block (its number), step, overlap_cancellation_ratio.
    ax : Axes
    colours : ScalarMappable
        From `depth_colours`.
    mean : DataFrame, optional
        Columns step, overlap_cancellation_ratio: the thick line, labelled "mean of the blocks".
    """
    y = "overlap_cancellation_ratio"
    for block, line in data.groupby("block"):
        marker = "o" if len(line) == 1 else ""
        colour = colours.to_rgba(float(block))  # type: ignore[arg-type]
        label = f"block {block}"
        ax.plot(line["step"], line[y], color=colour, lw=1.1, marker=marker, ms=4, label=label)
    if mean is not None:
        marker = "D" if len(mean) == 1 else ""
        label = "mean of the blocks"
        ax.plot(mean["step"], mean[y], color=COLOURS[5], lw=2.8, marker=marker, ms=5, label=label)
    return ax


def splits(data: pd.DataFrame, ax: Axes, *, by: str = "method") -> Axes:
    """Draw scores over the share of low rank in a budget, a line per method.

    Parameters
    ----------
    data : DataFrame
        Columns `by`, share (in [0, 1]), score and score_std (NaN: no error bar).
    ax : Axes
    by : str
        The column that tells the lines apart.
    """
    for i, (label, line) in enumerate(data.groupby(by, sort=False)):
        ax.errorbar(
            line["share"],
            line["score"],
            yerr=line["score_std"] if line["score_std"].notna().any() else None,
            color=COLOURS[i % len(COLOURS)],
            ls=_DASHES[(i + i // len(COLOURS)) % len(_DASHES)],
            marker=_MARKERS[i % len(_MARKERS)],
            ms=5,
            capsize=3,
            elinewidth=1.0,
            label=str(label),
        )
    return ax
