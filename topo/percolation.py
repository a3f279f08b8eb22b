"""Network percolation: hidden neurons that carry no signal lose their links."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import links, wrap_csr
from topo.checks import check_type
from topo.network import Coupling, Network

__all__ = ["active_neuron_rate", "percolate"]

Mask = npt.NDArray[np.bool_]


def percolate(network: Network, fixed: str | Iterable[str] = ()) -> Network:
    """Remove the links of inactive hidden neurons until none is left.

    A hidden neuron without incoming or without outgoing links carries no signal, so its remaining
    links are removed, which may silence further neurons; `Coupling` says which neurons are active.
    Links alone decide; biases are ignored. Without biases, the function of the model stays the
    same, if its activations map 0 to 0 and nothing normalises across percolated neurons.

    Parameters
    ----------
    network : Network
    fixed : str or iterable of str
        Names of layers whose links stay, whatever becomes of their neurons: they may feed neurons
        that nothing reads, or read neurons that nothing feeds.

    Returns
    -------
    Network
        The fixed point, without weights. Layers that lost nothing are the same objects. Neurons
        that no coupling names (inputs, outputs, everything dense) are never percolated.

    Raises
    ------
    ValueError
        If `fixed` names an unknown layer.

    References
    ----------
    "Network percolation" of Zhang et al., ICLR 2024, section 3 (CHT).

    Examples
    --------
    Hidden neuron 0 has no outgoing link: its incoming link goes.

    >>> import topo
    >>> net = topo.percolate(topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]}))
    >>> net.layers["fc1"].toarray().astype(int)
    array([[0, 0],
           [1, 1]])
    >>> net = topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]})
    >>> topo.percolate(net, fixed="fc1") == net
    True
    """
    check_type("network", network, Network)
    names = {fixed} if isinstance(fixed, str) else set(fixed)
    strange = names - set(network.layers)
    if strange:
        raise ValueError(
            f"fixed names the layer {', '.join(sorted(map(repr, strange)))}; the layers are "
            f"{', '.join(network.layers)}"
        )
    couplings = network.couplings
    touching = {n: [c for c in couplings if n in c.outputs + c.inputs] for n in network.layers}
    left = {n: _Links(network.layers[n]) for n, named in touching.items() if named}
    # Removing links only ever makes neurons inactive, so any order ends at the same fixed point.
    # For a chain, one sweep back and one forward reach it.
    unsettled = set(couplings)
    while unsettled:
        for coupling in (*reversed(couplings), *couplings):
            if coupling in unsettled:
                unsettled.discard(coupling)
                for name in _settle(left, coupling, names):
                    unsettled.update(touching[name])
    return network.replace({n: layer.adjacency() for n, layer in left.items() if layer.lost})


def active_neuron_rate(network: Network) -> float:
    """Share of neurons that still have a link after percolation (ANP).

    Counted on the input side of every layer and on the output side of each last one (a layer
    whose outputs no other layer reads), over all neurons so counted, input features included.
    The network itself is left as it is.

    References
    ----------
    "Active neuron post-percolation rate" of Zhang et al., ICLR 2024 (CHT).

    Examples
    --------
    Of two inputs, two hidden neurons and one output, hidden neuron 0 is inactive.

    >>> import topo
    >>> topo.active_neuron_rate(topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]}))
    0.8
    """
    percolated = percolate(network)
    inner = {name for c in network.couplings if c.inputs for name in c.outputs}
    active = total = 0
    for name, a in percolated.layers.items():
        sides = (1,) if name in inner else (1, 0)
        active += sum(int(np.count_nonzero(_linked(a)[side])) for side in sides)
        total += sum(a.shape[side] for side in sides)
    return active / total


class _Links:
    """The links of a layer that are left, and which neurons of each side have any."""

    def __init__(self, a: sparse.csr_array) -> None:
        self.start = a
        self.lost = False
        self.linked = _linked(a)

    def keep(self, side: int, neurons: Mask) -> None:
        """Remove the links of all other neurons of a side."""
        if not self.lost:
            self.ends = links(self.start)
            self.lost = True
        kept = neurons[self.ends[side]]
        self.ends = (self.ends[0][kept], self.ends[1][kept])
        n_out, n_in = self.start.shape
        self.linked = (_mark(self.ends[0], n_out), _mark(self.ends[1], n_in))

    def adjacency(self) -> sparse.csr_array:
        """What is left; rows and columns are still in order."""
        n_out = self.start.shape[0]
        indptr = np.zeros(n_out + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.ends[0], minlength=n_out), out=indptr[1:])
        return wrap_csr(indptr, self.ends[1], self.start.shape)


def _settle(left: dict[str, _Links], coupling: Coupling, fixed: Collection[str]) -> set[str]:
    """Remove the links of a coupling's inactive neurons; return the layers that lost any."""
    ends = [(0, n) for n in coupling.outputs] + [(1, n) for n in coupling.inputs]
    sides = [left[name].linked[side] for side, name in ends]
    head_dim = coupling.head_dim or len(sides[0])  # one to one: as one head
    heads = max(len(side) for side in sides) // head_dim
    units = [_units(side.reshape(-1, head_dim), heads, coupling.rotary) for side in sides]
    active = np.logical_and.reduce(units[: len(coupling.outputs)])
    if coupling.inputs:
        active &= np.logical_or.reduce(units[len(coupling.outputs) :])
    losers = set()
    for (side, name), linked in zip(ends, sides, strict=True):
        kept = _neurons(active, len(linked) // head_dim, coupling.rotary)
        if name not in fixed and (linked & ~kept).any():
            left[name].keep(side, kept)
            losers.add(name)
    return losers


def _units(linked: Mask, heads: int, rotary: bool) -> Mask:
    """Of a side (heads, positions), which of the units (all heads, positions or pairs) it links."""
    if rotary:
        linked = np.logical_or.reduce(linked.reshape(len(linked), 2, -1), axis=1)
    return np.repeat(linked, heads // len(linked), axis=0)


def _neurons(active: Mask, heads: int, rotary: bool) -> Mask:
    """Which neurons of a side with so many heads are read by any active unit."""
    neurons = np.logical_or.reduce(active.reshape(heads, -1, active.shape[1]), axis=1)
    return (np.tile(neurons, 2) if rotary else neurons).ravel()


def _linked(a: sparse.csr_array) -> tuple[Mask, Mask]:
    """Which output and which input neurons have a link."""
    return np.diff(a.indptr) > 0, _mark(a.indices, a.shape[1])


def _mark(neurons: npt.NDArray[np.int32], size: int) -> Mask:
    marked = np.zeros(size, dtype=bool)
    marked[neurons] = True
    return marked
