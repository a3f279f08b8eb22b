"""A network as one list of neurons and one of links, and back: what graphs of any kind share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo._description import Description, describe
from topo.network import Network
from topo.populations import neurons, number_populations

__all__ = [
    "Flat",
    "all_weights",
    "as_network",
    "by_layer",
    "codes",
    "flatten",
    "integers",
    "unflatten",
]

_SIDES = ("output", "input")  # of an adjacency's axes
_NUMBERS: Any = (int, float, np.integer, np.floating)


class Flat(NamedTuple):
    """A network as one list of neurons and one of links."""

    description: str
    bipartite: bool
    parallel: bool
    nodes: dict[str, list[Any]]
    edges: dict[str, list[Any]]
    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]


def flatten(network: Network | sparse.csr_array) -> Flat:
    """All neurons and links of a network with their attributes, as `topo.exchange` names them."""
    network = as_network(network)
    shapes = {name: a.shape for name, a in network.layers.items()}
    population, start, source, target = neurons(network)
    sizes = np.diff(start)
    first: dict[int, tuple[str, int]] = {}
    for end, p in population.items():
        first.setdefault(p, end)
    nodes: dict[str, list[Any]] = {
        "population": np.repeat(np.arange(len(sizes)), sizes).tolist(),
        "index": np.concatenate([np.arange(size) for size in sizes]).tolist(),
    }
    nodes["layer"] = [first[p][0] for p in nodes["population"]]
    nodes["side"] = [_SIDES[first[p][1]] for p in nodes["population"]]
    edges: dict[str, list[Any]] = {
        "layer": [name for name, a in network.layers.items() for _ in range(a.nnz)]
    }
    weights = all_weights(network)
    if weights is not None:
        edges["weight"] = weights.astype(np.float64).tolist()
    return Flat(
        describe(network),
        bipartite=len(shapes) == 1 and len(sizes) == 2,
        parallel=len({(population[n, 1], population[n, 0]) for n in shapes}) < len(shapes),
        nodes=nodes,
        edges=edges,
        source=source,
        target=target,
    )


def unflatten(
    description: Any,
    nodes: Mapping[str, list[Any]],
    edges: Mapping[str, list[Any]],
    ends: list[tuple[int, int]],
    *,
    directed: bool,
) -> Network:
    """The network of such lists, checked; `ends` are the positions of each edge's two nodes."""
    if description is None:
        raise ValueError(
            "the graph has no attribute 'epitopo', so topo did not make it; of another bipartite "
            "graph, networkx.bipartite.biadjacency_matrix makes what topo.as_adjacency takes"
        )
    described = Description.parse(description)
    number = number_populations(described.shapes, described.couplings or ())
    population = integers("the node attribute 'population'", nodes["population"])
    index = integers("the node attribute 'index'", nodes["index"])
    code = codes(edges["layer"], described)
    inner, outer = (
        np.array([number[name, side] for name in described.shapes], dtype=np.int64)[code]
        for side in (1, 0)
    )
    source, target = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    if not directed:
        if (inner == outer).any():
            raise ValueError("a layer between the same neurons needs a directed graph")
        turned = population[source] != inner
        source, target = np.where(turned, target, source), np.where(turned, source, target)
    wrong = np.flatnonzero((population[source] != inner) | (population[target] != outer))
    if wrong.size:
        i = wrong[0]
        raise ValueError(
            f"the layer {edges['layer'][i]!r} leads from population {inner[i]} to {outer[i]}, but "
            f"its edge {ends[i]} from {population[source[i]]} to {population[target[i]]}"
        )
    weights = None
    if described.dtypes is not None and None not in edges["weight"]:
        try:
            weights = np.array(edges["weight"], dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"the edge attribute 'weight' must be a number: {error}") from None
    return by_layer(described, code, rows=index[target], cols=index[source], weights=weights)


def by_layer(
    described: Description,
    code: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    cols: npt.NDArray[np.int64],
    weights: npt.NDArray[Any] | None,
) -> Network:
    """The network of an edge list whose layers are numbered."""
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(1, len(described.shapes)))
    return described.network(
        {
            name: (rows[mine], cols[mine], None if weights is None else weights[mine])
            for name, mine in zip(described.shapes, np.split(order, bounds), strict=True)
        }
    )


def codes(layers: list[Any], described: Description) -> npt.NDArray[np.int64]:
    """The number of the layer of each link, by its name."""
    number = {name: i for i, name in enumerate(described.shapes)}
    strange = [n for n in layers if not isinstance(n, str) or n not in number]
    if strange:
        raise ValueError(
            f"a link is of the layer {strange[0]!r}, the network has {', '.join(number)}"
        )
    return np.array([number[n] for n in layers], dtype=np.int64)


def integers(what: str, values: npt.NDArray[Any] | list[Any]) -> npt.NDArray[np.int64]:
    """Whole numbers, which igraph and pandas may have made floats of."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
        listed = values if isinstance(values, list) else values.tolist()
        for v in listed:
            if not isinstance(v, _NUMBERS) or not abs(v) < 2**53 or v % 1:
                raise ValueError(f"{what} must be whole numbers, not {v!r}")
    return np.array(values, dtype=np.int64)


def all_weights(network: Network) -> npt.NDArray[Any] | None:
    """The weights of all layers, in a dtype that holds each exactly."""
    if network.weights is None:
        return None
    for name, w in network.weights.items():
        if w.dtype.itemsize > (8 if w.dtype.kind == "f" else 4):
            raise ValueError(
                f"the weights of layer {name!r} are {w.dtype}, which float64 cannot hold exactly: "
                "convert them, or use topo.save_npz"
            )
    return np.concatenate([w.data for w in network.weights.values()])


def as_network(network: Network | sparse.csr_array) -> Network:
    """An adjacency as a network of one layer, "layer"; a network as it is."""
    return network if isinstance(network, Network) else Network({"layer": network}, ())
