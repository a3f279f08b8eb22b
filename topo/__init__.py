"""topo: layers of neural networks as bipartite graphs.

Generators (`erdos_renyi`, `small_world`, `scale_free`, `receptive_field`, `correlated`), link
predictors (`link_scores`, `grow`), the graph of a whole model (`Network`, `percolate`,
`active_neuron_rate`), its evolution on disk (`History`) and its exchange with other tools
(`to_networkx`, `save_npz`, ... and back).
A layer's topology is a boolean `scipy.sparse.csr_array` of shape (n_out, n_in).
"""

from topo._version import __version__
from topo.absent import sample_absent
from topo.adjacency import as_adjacency, from_links, link_count, links
from topo.edge_list import read_edge_list
from topo.evaluation import evaluate_predictor
from topo.exchange import (
    from_igraph,
    from_networkx,
    from_pandas,
    read_gexf,
    read_graphml,
    to_igraph,
    to_networkx,
    to_pandas,
    write_gexf,
    write_graphml,
)
from topo.generators import (
    GENERATORS,
    correlated,
    equal_partition,
    erdos_renyi,
    receptive_field,
    resort,
    scale_free,
    small_world,
)
from topo.hashing import hash_links, sample_integers, stream, uniform
from topo.history import History, HistoryError, HistoryWarning
from topo.history_writer import HistoryWriter
from topo.link_prediction import grow, link_scores
from topo.network import Coupling, Network
from topo.npz import load_npz, save_npz
from topo.percolation import active_neuron_rate, percolate
from topo.predictors import PREDICTORS, Predictor
from topo.selection import select

__all__ = [
    "GENERATORS",
    "PREDICTORS",
    "Coupling",
    "History",
    "HistoryError",
    "HistoryWarning",
    "HistoryWriter",
    "Network",
    "Predictor",
    "__version__",
    "active_neuron_rate",
    "as_adjacency",
    "correlated",
    "equal_partition",
    "erdos_renyi",
    "evaluate_predictor",
    "from_igraph",
    "from_links",
    "from_networkx",
    "from_pandas",
    "grow",
    "hash_links",
    "link_count",
    "link_scores",
    "links",
    "load_npz",
    "percolate",
    "read_edge_list",
    "read_gexf",
    "read_graphml",
    "receptive_field",
    "resort",
    "sample_absent",
    "sample_integers",
    "save_npz",
    "scale_free",
    "select",
    "small_world",
    "stream",
    "to_igraph",
    "to_networkx",
    "to_pandas",
    "uniform",
    "write_gexf",
    "write_graphml",
]
