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
from analysis.figure_files import draw_figure
from analysis.measures import (
    CLUSTERINGS,
    MEASURES,
    NETWORK_MEASURES,
    ON_REQUEST,
    CreditPaths,
    LayerState,
    Modularity,
    PathLength,
    SmallWorldness,
    Undefined,
    active_neurons,
    assortativity,
    barber_modularity,
    block_graph,
    clustering,
    credit_paths,
    degree_distribution,
    degree_preserving_null,
    degrees,
    elm_overlap,
    hub_agreement,
    itop_rate,
    lattice,
    lifetimes,
    link_ages,
    local_clustering,
    modularity,
    nestedness,
    network_summary,
    path_length,
    reasons,
    small_worldness,
    spectral_gap,
    summary,
    survival,
    turnover,
)
from analysis.papers import paper_table, run_table, score_cells
from analysis.power_law import LikelihoodRatio, PowerLaw, power_law
from analysis.published import published_results, published_zero_shot
from analysis.report import write_report
from analysis.runs import Run, RunError, by_data, find_runs
from analysis.scaling import draw_scaling, scaling_figure
from analysis.significance import paired_tests, win_rates
from analysis.splits import draw_splits, split_table, splits_figure
from analysis.table import compare, format_table
from analysis.zero_shot import zero_shot_table

__all__ = [
    "CLUSTERINGS",
    "MEASURES",
    "NETWORK_MEASURES",
    "ON_REQUEST",
    "CreditPaths",
    "LayerState",
    "LikelihoodRatio",
    "Modularity",
    "PathLength",
    "PowerLaw",
    "Run",
    "RunError",
    "SmallWorldness",
    "Undefined",
    "__version__",
    "active_neurons",
    "assortativity",
    "barber_modularity",
    "block_graph",
    "by_data",
    "cancellation_figure",
    "cancellation_table",
    "clustering",
    "compare",
    "credit_paths",
    "degree_distribution",
    "degree_preserving_null",
    "degrees",
    "draw_cancellation",
    "draw_figure",
    "draw_scaling",
    "draw_splits",
    "elm_overlap",
    "find_runs",
    "format_table",
    "hub_agreement",
    "itop_rate",
    "lattice",
    "lifetimes",
    "link_ages",
    "local_clustering",
    "modularity",
    "nestedness",
    "network_summary",
    "paired_tests",
    "paper_table",
    "path_length",
    "power_law",
    "published_results",
    "published_zero_shot",
    "reasons",
    "run_table",
    "scaling_figure",
    "score_cells",
    "small_worldness",
    "spectral_gap",
    "split_table",
    "splits_figure",
    "summary",
    "survival",
    "turnover",
    "win_rates",
    "write_report",
    "zero_shot_table",
]
