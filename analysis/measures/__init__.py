"""Measures of bipartite graphs, of layered networks, and of their evolution.

One measure, one short module. Functions take an adjacency of shape (n_out, n_in), a `topo.Network`
or a `topo.History`; `summary` puts what they find into one table. A measure that has no value is an
`Undefined`: NaN, with the reason.
"""

from analysis.measures.barber import Modularity, barber_modularity, modularity
from analysis.measures.clusterings import CLUSTERINGS, clustering, local_clustering
from analysis.measures.correlations import assortativity, hub_agreement
from analysis.measures.credit import CreditPaths, credit_paths
from analysis.measures.degree_counts import degree_distribution, degrees
from analysis.measures.distances import PathLength, path_length
from analysis.measures.evolution import active_neurons, elm_overlap, itop_rate
from analysis.measures.graphs import block_graph
from analysis.measures.lives import lifetimes, link_ages, survival, turnover
from analysis.measures.nested import nestedness
from analysis.measures.network_summaries import NETWORK_MEASURES, network_summary
from analysis.measures.nulls import degree_preserving_null, lattice
from analysis.measures.small_worlds import SmallWorldness, small_worldness
from analysis.measures.spectrum import spectral_gap
from analysis.measures.state import MEASURES, ON_REQUEST, LayerState
from analysis.measures.summaries import reasons, summary
from analysis.measures.undefined import Undefined

__all__ = [
    "CLUSTERINGS",
    "MEASURES",
    "NETWORK_MEASURES",
    "ON_REQUEST",
    "CreditPaths",
    "LayerState",
    "Modularity",
    "PathLength",
    "SmallWorldness",
    "Undefined",
    "active_neurons",
    "assortativity",
    "barber_modularity",
    "block_graph",
    "clustering",
    "credit_paths",
    "degree_distribution",
    "degree_preserving_null",
    "degrees",
    "elm_overlap",
    "hub_agreement",
    "itop_rate",
    "lattice",
    "lifetimes",
    "link_ages",
    "local_clustering",
    "modularity",
    "nestedness",
    "network_summary",
    "path_length",
    "reasons",
    "small_worldness",
    "spectral_gap",
    "summary",
    "survival",
    "turnover",
]
