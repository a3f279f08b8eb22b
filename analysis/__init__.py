"""analysis: measures, tables, figures and reports of sparse topologies and their evolution.

Works on `topo` networks and histories and on what a training run left on disk; never needs torch.
"""

from importlib import metadata

import topo

__version__ = metadata.version("epitopo")

if getattr(topo, "__version__", None) != __version__:
    version = getattr(topo, "__version__", "unknown")
    raise ImportError(
        f"analysis {__version__} needs its sibling topo of the same version, but Python found "
        f"{topo!r} of version {version}: rename that folder, or start Python elsewhere; if it is "
        "epitopo's own, reinstall epitopo"
    )

from analysis.cancellation import cancellation_figure, cancellation_table, draw_cancellation
from analysis.measures import (
    MEASURES,
    LayerState,
    active_neurons,
    degrees,
    elm_overlap,
    summary,
)
from analysis.papers import paper_table, run_table, score_cells
from analysis.power_law import PowerLaw, power_law
from analysis.published import published_results, published_zero_shot
from analysis.report import write_report
from analysis.runs import Run, RunError, by_data, find_runs
from analysis.scaling import draw_scaling
from analysis.significance import paired_tests, win_rates
from analysis.splits import draw_splits, split_table, splits_figure
from analysis.table import compare, format_table
from analysis.zero_shot import zero_shot_table

__all__ = [
    "MEASURES",
    "LayerState",
    "PowerLaw",
    "Run",
    "RunError",
    "__version__",
    "active_neurons",
    "by_data",
    "cancellation_figure",
    "cancellation_table",
    "compare",
    "degrees",
    "draw_cancellation",
    "draw_scaling",
    "draw_splits",
    "elm_overlap",
    "find_runs",
    "format_table",
    "paired_tests",
    "paper_table",
    "power_law",
    "published_results",
    "published_zero_shot",
    "run_table",
    "score_cells",
    "split_table",
    "splits_figure",
    "summary",
    "win_rates",
    "write_report",
    "zero_shot_table",
]
