"""Axes of kinds of numbers: densities, and those that hardly differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.look import percent

__all__ = ["density_axis", "least_span"]


def density_axis(ax: Axes, densities: pd.Series) -> None:
    """Percent, on a logarithmic axis from the lowest density to 1; linear where there is no link.

    Parameters
    ----------
    ax : Axes
    densities : Series
        What is drawn; of 0, a logarithmic axis shows that the line leaves it.
    """
    ax.yaxis.set_major_formatter(percent())
    positive = densities[densities > 0]
    if positive.empty:
        ax.set_ylim(-0.02, 1.02)
        return
    lowest = float(positive.min())
    ax.set_ylim(lowest / 1.4, 1.2)  # first: a logarithmic axis is not fitted to what is alike
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(percent())
    decades = range(int(np.floor(np.log10(lowest))), 1)
    ticks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    ax.set_yticks([t for t in ticks if lowest / 1.5 <= t <= 1])
    ax.minorticks_off()


def least_span(ax: Axes, span: float) -> None:
    """Widen the y axis about its middle to at least a span, so that noise is no evolution."""
    low, high = ax.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        ax.set_ylim(middle - span / 2, middle + span / 2)
