"""A layer's topology: its adjacency matrix and its degrees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import Locator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy import sparse
from scipy.special import zeta

from analysis.figures.look import COLOURS, percent, points
from analysis.power_law import PowerLaw

__all__ = ["adjacency", "degree_distribution"]

_MOST_TICKS = 5


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
    colour: Any = COLOURS[0],
    dashes: Any = "-",
    fit: PowerLaw | None = None,
) -> Axes:
    """Draw the share of neurons with links that have at least k, on two logarithmic axes.

    Parameters
    ----------
    degrees : array of int
        Neurons without links (degree 0) are left out.
    ax : Axes
    label, colour, dashes
        Of the line.
    fit : PowerLaw, optional
        Drawn over its tail where it fits: ``P(K >= k) ~ zeta(alpha, k)``.
    """
    k, counts = np.unique(degrees[degrees > 0], return_counts=True)
    if len(k):
        at_least = counts[::-1].cumsum()[::-1] / counts.sum()
        ax.plot(
            k,
            at_least,
            color=colour,
            ls=dashes,
            marker=".",
            ms=points(3.5),
            lw=points(1),
            label=label,
        )
        if fit is not None and fit.fits:
            tail = k[k >= fit.xmin]
            line = at_least[k >= fit.xmin][0] * zeta(fit.alpha, tail) / zeta(fit.alpha, fit.xmin)
            ax.plot(
                tail,
                line,
                color=COLOURS[5],
                lw=points(1.6),
                label=rf"power law, $\alpha$ = {fit.alpha:.2f}",
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(_FewLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(percent())
    ax.yaxis.set_minor_formatter(NullFormatter())
    # all that was drawn so far, and no impossible degree or share
    x = _drawn(ax.get_shared_x_axes().get_siblings(ax), 0)
    y = _drawn(ax.get_shared_y_axes().get_siblings(ax), 1)
    if len(x):
        ax.set_xlim(x.min() / 1.15, x.max() * 1.15)
        ax.set_ylim(y.min() / 1.4, 1.3)
    else:
        ax.set_ylim(0.07, 1.3)
    return ax


def _drawn(axes: Iterable[Axes], i: int) -> npt.NDArray[np.float64]:
    """All values of the lines in some axes: of x (0) or y (1)."""
    values = [np.asarray(line.get_data()[i], float) for ax in axes for line in ax.lines]
    return np.concatenate([np.empty(0), *values])


class _FewLocator(Locator):
    """Round numbers on a logarithmic axis: as many as a small panel has room for, at least two."""

    def __call__(self) -> Sequence[float]:
        return self.tick_values(*self.axis.get_view_interval())  # type: ignore[union-attr]

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        decades = 10.0 ** np.arange(np.floor(np.log10(vmin)), np.ceil(np.log10(vmax)) + 1)
        for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = np.sort(np.outer(decades, steps).ravel())
            ticks = ticks[(vmin <= ticks) & (ticks <= vmax)]
            if len(ticks) <= _MOST_TICKS:
                break
        ticks = ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]
        return ticks.tolist() if len(ticks) > 1 else MaxNLocator(3).tick_values(vmin, vmax)
