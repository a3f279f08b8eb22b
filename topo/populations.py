"""The sets of neurons that layers share, and a network's links between their neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from topo.adjacency import links
from topo.network import Coupling, Network

__all__ = ["Neurons", "neurons", "number_populations"]

End = tuple[str, int]  # a layer and an axis of its adjacency: 0 outputs, 1 inputs


class Neurons(NamedTuple):
    """All neurons of a network, numbered from its inputs to its outputs, and the links.

    Attributes
    ----------
    population : dict of (str, int) to int
        By layer and axis (0 outputs, 1 inputs), the population these neurons are.
    start : array of int, shape (populations + 1,)
        The number of each population's first neuron; last, the number of neurons.
    source, target : array of int, shape (links,)
        The input and the output neuron of each link, layer by layer in row-major order.
    """

    population: dict[End, int]
    start: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]


def neurons(network: Network) -> Neurons:
    """Number the neurons of a network; layers that share them one to one share numbers.

    Examples
    --------
    >>> import topo
    >>> from topo.populations import neurons
    >>> found = neurons(topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]}))
    >>> found.start.tolist(), found.source.tolist(), found.target.tolist()
    ([0, 2, 4, 5], [0, 0, 1, 3], [2, 3, 3, 4])
    """
    shapes = {name: a.shape for name, a in network.layers.items()}
    population = number_populations(shapes, network.couplings)
    sizes = {p: shapes[name][side] for (name, side), p in population.items()}
    start = np.cumsum([0, *(sizes[p] for p in sorted(sizes))])
    source, target = [], []
    for name, a in network.layers.items():
        rows, cols = links(a)
        source.append(start[population[name, 1]] + cols)
        target.append(start[population[name, 0]] + rows)
    return Neurons(population, start, np.concatenate(source), np.concatenate(target))


def number_populations(
    shapes: Mapping[str, tuple[int, int]], couplings: Iterable[Coupling]
) -> dict[End, int]:
    """Number the sets of neurons from input to output, by layer and axis of its adjacency.

    Couplings by heads of different numbers, and those under rotary embeddings, share no neurons one
    to one: their sides stay apart.
    """
    number = {end: i for i, end in enumerate((name, side) for name in shapes for side in (1, 0))}
    for c in couplings:
        together = [(n, 0) for n in c.outputs] + [(n, 1) for n in c.inputs]
        if not c.rotary and len({shapes[name][side] for name, side in together}) == 1:
            same = {number[end] for end in together}
            number = {end: min(same) if p in same else p for end, p in number.items()}
    rank = {p: i for i, p in enumerate(sorted(set(number.values())))}
    return {end: rank[p] for end, p in number.items()}
