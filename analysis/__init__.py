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

from analysis.measures import (
    MEASURES,
    LayerState,
    active_neurons,
    degrees,
    elm_overlap,
    summary,
)
from analysis.power_law import PowerLaw, power_law
from analysis.report import write_report
from analysis.runs import Run, RunError, find_runs
from analysis.scaling import draw_scaling
from analysis.table import compare, format_table

__all__ = [
    "MEASURES",
    "LayerState",
    "PowerLaw",
    "Run",
    "RunError",
    "__version__",
    "active_neurons",
    "compare",
    "degrees",
    "draw_scaling",
    "elm_overlap",
    "find_runs",
    "format_table",
    "power_law",
    "summary",
    "write_report",
]
