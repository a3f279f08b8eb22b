"""Networks as graphs of networkx and igraph, as edge lists of pandas, as files for Gephi.

Every round trip is exact: links, isolated neurons, names, shapes, couplings and weights. A graph
has a node per neuron. Layers that share their neurons one to one share nodes, so a chain is one
layered graph, from the inputs of the first layer to the outputs of the last.

Graph attribute: ``epitopo``, text that holds shapes and couplings. Node attributes: ``population``
(0, 1, ... from input to output: the neurons that layers share), ``index`` within it, ``layer`` and
``side`` ("input" or "output"), where these neurons first appear. Edge attributes: ``layer`` and,
if the network has weights, ``weight``. Edges lead from input to output neurons. A network of a
single layer is undirected, as the functions for bipartite graphs want it; its nodes are marked by
``bipartite`` (networkx) or ``type`` (igraph): 0 for inputs, 1 for outputs.
"""

from __future__ import annotations

import importlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from topo._description import Description, describe
from topo._flat import all_weights, as_network, by_layer, codes, flatten, integers, unflatten
from topo.adjacency import links
from topo.checks import check_type
from topo.files import reading, write_atomically
from topo.network import Coupling, Network

if TYPE_CHECKING:
    import igraph
    import networkx as nx
    import pandas as pd

__all__ = [
    "from_igraph",
    "from_networkx",
    "from_pandas",
    "read_gexf",
    "read_graphml",
    "to_igraph",
    "to_networkx",
    "to_pandas",
    "write_gexf",
    "write_graphml",
]

_NOT_XML = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def to_networkx(network: Network | sparse.csr_array) -> nx.Graph:
    """Make a networkx graph of a network, or of an adjacency (a network of one layer, "layer").

    Returns
    -------
    networkx.Graph, DiGraph or MultiDiGraph
        A single layer is an undirected bipartite graph. Several layers are a directed graph; a
        multigraph, if some lead from the same neurons to the same (gate and up). Nodes are
        numbered from 0. For the attributes see `topo.exchange`.

    Examples
    --------
    >>> import networkx, topo
    >>> graph = topo.to_networkx(topo.as_adjacency([[1, 0, 1], [0, 0, 1]]))
    >>> networkx.bipartite.degrees(graph, [0, 1, 2])[1]
    DegreeView({0: 1, 1: 0, 2: 2})
    >>> graph = topo.to_networkx(topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]}))
    >>> list(graph.edges(data="layer"))
    [(0, 2, 'fc1'), (0, 3, 'fc1'), (1, 3, 'fc1'), (3, 4, 'fc2')]
    >>> topo.from_networkx(graph)
    Network(fc1: 2x2, 3 links; fc2: 1x2, 1 link)
    """
    nx = _package("networkx")
    flat = flatten(network)
    graph = nx.Graph() if flat.bipartite else nx.MultiDiGraph() if flat.parallel else nx.DiGraph()
    graph.graph["epitopo"] = flat.description
    nodes = flat.nodes | ({"bipartite": flat.nodes["population"]} if flat.bipartite else {})
    graph.add_nodes_from(enumerate(_records(nodes)))
    ends = zip(flat.source.tolist(), flat.target.tolist(), strict=True)
    graph.add_edges_from(
        (u, v, data) for (u, v), data in zip(ends, _records(flat.edges), strict=True)
    )
    return graph


def from_networkx(graph: nx.Graph) -> Network:
    """Make the network again of a graph of `to_networkx`, or what is left of it.

    Nodes may have been renamed and nodes or edges removed; edges that were added need the
    attribute ``layer`` and, if the network has weights, ``weight``.

    Raises
    ------
    ValueError
        If attributes are missing or wrong, or an edge does not fit its layer.
    """
    check_type("graph", graph, _package("networkx").Graph)
    position = {node: i for i, node in enumerate(graph)}
    nodes = [data for _, data in graph.nodes(data=True)]
    edges = list(graph.edges(data=True))
    return unflatten(
        graph.graph.get("epitopo"),
        {key: [data.get(key) for data in nodes] for key in ("population", "index")},
        {key: [data.get(key) for *_, data in edges] for key in ("layer", "weight")},
        [(position[u], position[v]) for u, v, _ in edges],
        directed=graph.is_directed(),
    )


def to_igraph(network: Network | sparse.csr_array) -> igraph.Graph:
    """Make an igraph graph of a network, or of an adjacency (a network of one layer, "layer").

    Returns
    -------
    igraph.Graph
        A single layer is an undirected bipartite graph, several layers a directed graph. For the
        attributes see `topo.exchange`.

    Examples
    --------
    >>> import topo
    >>> graph = topo.to_igraph(topo.as_adjacency([[1, 0, 1], [0, 0, 1]]))
    >>> graph.is_bipartite(), graph.vs["type"], graph.degree()
    (True, [False, False, False, True, True], [1, 0, 2, 2, 1])
    >>> topo.from_igraph(graph)
    Network(layer: 2x3, 3 links)
    """
    ig = _package("igraph")
    flat = flatten(network)
    nodes = dict(flat.nodes)
    if flat.bipartite:
        nodes["type"] = [bool(p) for p in nodes["population"]]
    return ig.Graph(
        n=len(nodes["index"]),
        edges=np.column_stack([flat.source, flat.target]),
        directed=not flat.bipartite,
        graph_attrs={"epitopo": flat.description},
        vertex_attrs=nodes,
        edge_attrs=flat.edges,
    )


def from_igraph(graph: igraph.Graph) -> Network:
    """Make the network again of a graph of `to_igraph`, or what is left of it.

    As `from_networkx`.
    """
    check_type("graph", graph, _package("igraph").Graph)

    def values(of: Any, key: str) -> list[Any]:
        return of[key] if key in of.attributes() else [None] * len(of)

    return unflatten(
        graph["epitopo"] if "epitopo" in graph.attributes() else None,
        {key: values(graph.vs, key) for key in ("population", "index")},
        {key: values(graph.es, key) for key in ("layer", "weight")},
        graph.get_edgelist(),
        directed=graph.is_directed(),
    )


def to_pandas(network: Network | sparse.csr_array) -> pd.DataFrame:
    """Make an edge list of a network, or of an adjacency (a network of one layer, "layer").

    Returns
    -------
    pandas.DataFrame
        Columns: layer (categorical), row (output neuron), column (input neuron) and, if the
        network has weights, weight. What no edge list holds, shapes and couplings, is in
        ``.attrs``, which pandas keeps in Parquet but not in CSV files.

    Examples
    --------
    >>> import topo
    >>> frame = topo.to_pandas(topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]}))
    >>> frame
      layer  row  column
    0   fc1    0       0
    1   fc1    1       0
    2   fc1    1       1
    3   fc2    0       1
    >>> topo.from_pandas(frame)
    Network(fc1: 2x2, 3 links; fc2: 1x2, 1 link)
    """
    import pandas as pd

    network = as_network(network)
    ends = [links(a) for a in network.layers.values()]
    code = np.repeat(np.arange(len(ends)), [a.nnz for a in network.layers.values()])
    frame = pd.DataFrame(
        {
            "layer": pd.Categorical.from_codes(code, pd.Index(network.layers, dtype=object)),
            "row": np.concatenate([rows for rows, _ in ends]),
            "column": np.concatenate([cols for _, cols in ends]),
        }
    )
    weights = all_weights(network)
    if weights is not None:
        frame["weight"] = weights
    frame.attrs["epitopo"] = describe(network)
    return frame


def from_pandas(
    frame: pd.DataFrame,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    couplings: Iterable[Coupling] | None = None,
) -> Network:
    """Make a network of an edge list: of `to_pandas`, or any with its columns.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns layer, row, column and, optionally, weight, in any order of rows.
    shapes : mapping of str to (int, int), optional
        ``(n_out, n_in)`` by layer name, from input to output. Default: those in ``frame.attrs``.
    couplings : iterable of Coupling, optional
        Default, with `shapes`: a chain.

    Raises
    ------
    ValueError
        If columns are missing or wrong, or there are no shapes.

    Examples
    --------
    >>> import pandas, topo
    >>> frame = pandas.DataFrame({"layer": ["fc", "fc"], "row": [1, 0], "column": [0, 2]})
    >>> topo.from_pandas(frame, shapes={"fc": (2, 3)})
    Network(fc: 2x3, 2 links)
    """
    check_type("frame", frame, _package("pandas").DataFrame)
    missing = {"layer", "row", "column"} - set(frame.columns)
    if missing:
        raise ValueError(f"an edge list needs the columns {', '.join(sorted(missing))}")
    if shapes is not None:
        check_type("shapes", shapes, Mapping)
        strange = [s for s in shapes.values() if not isinstance(s, Sequence) or len(s) != 2]
        if strange:
            raise ValueError(f"shapes are (n_out, n_in) by layer name, not {strange[0]!r}")
        described = Description(dict(shapes), None, None)
    elif "epitopo" in frame.attrs:
        described = Description.parse(frame.attrs["epitopo"])
    else:
        raise ValueError(
            "the edge list does not say how many neurons there are: pass "
            "shapes={layer: (n_out, n_in), ...}"
        )
    if couplings is not None:
        described = replace(described, couplings=tuple(couplings))
    weight = None
    if "weight" in frame.columns:
        weight = frame["weight"].to_numpy()
        if weight.dtype.kind not in "biuf":
            raise ValueError(f"weights are numbers, the column weight holds {weight.dtype}")
        if described.dtypes is None:
            described = replace(described, dtypes=dict.fromkeys(described.shapes, weight.dtype))
    return by_layer(
        described,
        codes(frame["layer"].tolist(), described),
        rows=integers("rows", frame["row"].to_numpy()),
        cols=integers("columns", frame["column"].to_numpy()),
        weights=weight,
    )


def write_graphml(network: Network | sparse.csr_array, path: str | os.PathLike[str]) -> None:
    """Write the graph of `to_networkx` as GraphML, which Gephi opens; `read_graphml` reads it.

    Raises
    ------
    ValueError
        If a layer's name holds a control character, which XML cannot.
    """
    _write(_package("networkx").write_graphml_xml, _for_xml(network), path)


def read_graphml(path: str | os.PathLike[str]) -> Network:
    """Read a network from a file of `write_graphml`.

    Raises
    ------
    ValueError
        If the file is damaged or of another origin.
    """
    nx = _package("networkx")
    with reading(Path(path), "GraphML of topo.write_graphml") as f:
        return from_networkx(nx.read_graphml(f))


def write_gexf(network: Network | sparse.csr_array, path: str | os.PathLike[str]) -> None:
    """Write the graph of `to_networkx` as GEXF, Gephi's own format; `read_gexf` reads it.

    Raises
    ------
    ValueError
        If a layer's name holds a control character, which XML cannot.
    """
    graph = _for_xml(network)
    graph.graph["name"] = graph.graph["epitopo"]  # the one graph attribute of GEXF
    _write(_package("networkx").write_gexf, graph, path)


def read_gexf(path: str | os.PathLike[str]) -> Network:
    """Read a network from a file of `write_gexf`.

    Raises
    ------
    ValueError
        If the file is damaged or of another origin.
    """
    nx = _package("networkx")
    with reading(Path(path), "GEXF of topo.write_gexf") as f:
        graph = nx.read_gexf(f)
        graph.graph["epitopo"] = graph.graph.get("name")
        return from_networkx(graph)


def _records(columns: Mapping[str, list[Any]]) -> Iterable[dict[str, Any]]:
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _for_xml(network: Network | sparse.csr_array) -> nx.Graph:
    for name in as_network(network).layers:
        if _NOT_XML.search(name):
            raise ValueError(f"XML cannot hold the layer name {name!r}: rename it, or use save_npz")
    graph = to_networkx(network)
    for data in graph.nodes.values():
        data["label"] = f"{data['layer']} {data['side']} {data['index']}"
    return graph


def _write(
    writer: Callable[[Any, io.BytesIO], None], graph: nx.Graph, path: str | os.PathLike[str]
) -> None:
    content = io.BytesIO()
    writer(graph, content)
    write_atomically(Path(path), content.getvalue())


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'epitopo[graphs]'") from error
