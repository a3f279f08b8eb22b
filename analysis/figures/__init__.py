"""Figures: functions that take data and axes, compute nothing, and return the axes."""

from analysis.figures.animation import Animation, save_animation
from analysis.figures.axes import density_axis, least_span
from analysis.figures.bars import win_rates
from analysis.figures.graph import layered_network
from analysis.figures.lines import cancellation, curves, depth_colours, splits
from analysis.figures.look import (
    COLOURS,
    COLUMN,
    PAGE,
    STYLES,
    TALL,
    Sheet,
    canvas,
    footnote,
    percent,
    points,
    save,
    style,
    use,
)
from analysis.figures.topology import adjacency, degree_distribution

__all__ = [
    "COLOURS",
    "COLUMN",
    "PAGE",
    "STYLES",
    "TALL",
    "Animation",
    "Sheet",
    "adjacency",
    "cancellation",
    "canvas",
    "curves",
    "degree_distribution",
    "density_axis",
    "depth_colours",
    "footnote",
    "layered_network",
    "least_span",
    "percent",
    "points",
    "save",
    "save_animation",
    "splits",
    "style",
    "use",
    "win_rates",
]
