"""topo: layers of neural networks as bipartite graphs.

Generators (`erdos_renyi`, `small_world`), link predictors (`link_scores`, `grow`), the graph of a
whole model (`Network`, `percolate`, `active_neuron_rate`) and its evolution on disk (`History`).
A layer's topology is a boolean `scipy.sparse.csr_array` of shape (n_out, n_in).
"""

from topo._version import __version__
from topo.absent import sample_absent
from topo.adjacency import as_adjacency, from_links, link_count, links
from topo.generators import GENERATORS, erdos_renyi, small_world
from topo.hashing import hash_links, sample_integers, stream, uniform
from topo.history import History, HistoryError, HistoryWriter
from topo.link_prediction import grow, link_scores
from topo.network import Coupling, Network, active_neuron_rate, percolate
from topo.predictors import PREDICTORS, Predictor
from topo.selection import select

__all__ = [
    "GENERATORS",
    "PREDICTORS",
    "Coupling",
    "History",
    "HistoryError",
    "HistoryWriter",
    "Network",
    "Predictor",
    "__version__",
    "active_neuron_rate",
    "as_adjacency",
    "erdos_renyi",
    "from_links",
    "grow",
    "hash_links",
    "link_count",
    "link_scores",
    "links",
    "percolate",
    "sample_absent",
    "sample_integers",
    "select",
    "small_world",
    "stream",
    "uniform",
]
