"""The sparse layers of a model as one graph, and its percolation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import as_adjacency, links, wrap_csr

__all__ = ["Coupling", "Network", "active_neuron_rate", "percolate"]


@dataclass(frozen=True)
class Coupling:
    """One population of hidden neurons that several layers share.

    Neuron i is output i of every layer in `outputs` and input i of every layer in `inputs`. It is
    *active* when each of the `outputs` has a link into it (their outputs are multiplied, where
    there are several: gate and up, Q and K) and, if there are `inputs`, any of them has a link
    out of it.

    Examples
    --------
    >>> import topo
    >>> topo.Coupling(outputs=("gate", "up"), inputs=("down",))
    Coupling(outputs=('gate', 'up'), inputs=('down',))
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for side in ("outputs", "inputs"):
            names = getattr(self, side)
            if isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"{side} of a coupling is a tuple of layer names, not {names!r}")
            object.__setattr__(self, side, tuple(names))
        if not self.outputs:
            raise ValueError("a coupling needs at least one layer in outputs")


class Network:
    """The ordered, named sparse layers of a model and the couplings between their neurons.

    Parameters
    ----------
    layers : mapping of str to csr_array
        Adjacencies of shape (n_out, n_in) by layer name, from input to output; any 0/1 matrix is
        accepted.
    couplings : iterable of Coupling, optional
        Which neurons are shared. Default: a chain, the outputs of each layer are the inputs of
        the next. ``()``: none, each layer on its own.
    weights : mapping of str to array, optional
        By layer name, one value per link in row-major order.

    Attributes
    ----------
    layers : dict of str to csr_array of bool
    couplings : tuple of Coupling
    weights : dict of str to csr_array, or None
        Of the layers' shapes; a link may weigh 0, so an entry is stored for each link.

    Raises
    ------
    ValueError
        If there is no layer, or a coupling names an unknown layer or sides of unequal size.

    Examples
    --------
    >>> import topo
    >>> net = topo.Network({"fc1": [[1, 0], [1, 1]], "fc2": [[0, 1]]})
    >>> net
    Network(fc1: 2x2, 3 links; fc2: 1x2, 1 link)
    >>> net.couplings
    (Coupling(outputs=('fc1',), inputs=('fc2',)),)
    """

    def __init__(
        self,
        layers: Mapping[str, Any],
        couplings: Iterable[Coupling] | None = None,
        *,
        weights: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        adjacencies: dict[str, sparse.csr_array] = {}
        for name, matrix in layers.items():
            if not isinstance(name, str):
                raise ValueError(f"a layer is named by a string, not {name!r}")
            try:
                adjacencies[name] = as_adjacency(matrix)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        if not adjacencies:
            raise ValueError("a network needs at least one layer")
        self.layers: dict[str, sparse.csr_array] = adjacencies
        if couplings is None:
            couplings = (Coupling((a,), (b,)) for a, b in pairwise(adjacencies))
        self.couplings: tuple[Coupling, ...] = tuple(couplings)
        for coupling in self.couplings:
            self._check(coupling)
        self.weights: dict[str, sparse.csr_array] | None = None
        if weights is not None:
            if set(weights) != set(adjacencies):
                raise ValueError(
                    f"weights are of the layers {', '.join(weights) or 'none'}, "
                    f"the network has {', '.join(adjacencies)}"
                )
            self.weights = {n: _weighted(n, a, weights[n]) for n, a in adjacencies.items()}

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, Any], couplings: Iterable[Coupling] | None = None
    ) -> Network:
        """Make a network from any model's masks or weights: a link wherever an entry is not zero.

        Examples
        --------
        >>> import numpy as np, topo
        >>> topo.Network.from_masks({"fc": np.array([[0.5, 0.0], [0.0, -2.0]])})
        Network(fc: 2x2, 2 links)
        """
        layers = {}
        for name, mask in masks.items():
            mask = getattr(mask, "detach", lambda mask=mask: mask)()  # a torch parameter
            values = mask.tocsr() if sparse.issparse(mask) else np.asarray(mask)
            if values.dtype.kind not in "biuf":
                raise ValueError(f"layer {name!r} holds {values.dtype}, not numbers")
            if np.isnan(values.data if sparse.issparse(values) else values).any():
                raise ValueError(f"layer {name!r} holds NaN: neither a link nor none")
            layers[name] = values != 0
        return cls(layers, couplings)

    @property
    def links(self) -> int:
        """Links of all layers together."""
        return sum(a.nnz for a in self.layers.values())

    @property
    def density(self) -> float:
        """Links of all layers over all possible links."""
        return self.links / sum(a.shape[0] * a.shape[1] for a in self.layers.values())

    def replace(self, layers: Mapping[str, sparse.csr_array]) -> Network:
        """Return a network with the same layer names and couplings, other links and no weights."""
        strange = set(layers) - set(self.layers)
        if strange:
            raise ValueError(f"the network has no layer {', '.join(map(repr, sorted(strange)))}")
        return Network({n: layers.get(n, a) for n, a in self.layers.items()}, self.couplings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        return (
            list(self.layers) == list(other.layers)
            and self.couplings == other.couplings
            and all(
                a.shape == b.shape
                and np.array_equal(a.indptr, b.indptr)
                and np.array_equal(a.indices, b.indices)
                for a, b in zip(self.layers.values(), other.layers.values(), strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = [
            f"{name}: {a.shape[0]}x{a.shape[1]}, {a.nnz} link{'s' * (a.nnz != 1)}"
            for name, a in self.layers.items()
        ]
        return f"Network({'; '.join(parts)})"

    def _check(self, coupling: Coupling) -> None:
        sizes = {}
        for side, names in ((0, coupling.outputs), (1, coupling.inputs)):
            for name in names:
                if name not in self.layers:
                    raise ValueError(
                        f"a coupling names the layer {name!r}; the layers are "
                        f"{', '.join(self.layers)}"
                    )
                what = f"{('outputs', 'inputs')[side]} of {name!r}"
                sizes[what] = self.layers[name].shape[side]
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{n} {what}" for what, n in sizes.items())
            raise ValueError(
                f"coupled layers share their neurons, but these differ in number: {counts} "
                "(pass couplings=() for unconnected layers)"
            )


def percolate(network: Network) -> Network:
    """Remove the links of inactive hidden neurons until none is left.

    A hidden neuron without incoming or without outgoing links carries no signal, so its remaining
    links are removed, which may silence further neurons. Links alone decide; biases are ignored.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Network
        The fixed point, without weights. Layers that lost nothing are the same objects. Neurons
        that no coupling names (inputs, outputs, everything dense) are never percolated.

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
    """
    layers = dict(network.layers)
    changed = True
    while changed:
        changed = False
        # for a chain, one sweep back and one forward reach the fixed point; a third sees it
        for coupling in (*reversed(network.couplings), *network.couplings):
            active = _active(layers, coupling)
            for side, names in ((0, coupling.outputs), (1, coupling.inputs)):
                for name in names:
                    kept = _keep_neurons(layers[name], active, side)
                    changed |= kept is not layers[name]
                    layers[name] = kept
    return network.replace(layers)


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
    inner = {name for c in network.couplings if c.inputs for name in c.outputs}
    active = total = 0
    for name, a in percolate(network).layers.items():
        sides = (1,) if name in inner else (1, 0)
        active += sum(int(np.count_nonzero(_degrees(a, side))) for side in sides)
        total += sum(a.shape[side] for side in sides)
    return active / total


def _weighted(name: str, a: sparse.csr_array, values: npt.ArrayLike) -> sparse.csr_array:
    data = np.asarray(values)
    if data.shape != (a.nnz,):
        raise ValueError(f"layer {name!r} has {a.nnz} links but weights of shape {data.shape}")
    return sparse.csr_array((data, a.indices, a.indptr), shape=a.shape, copy=False)


def _degrees(a: sparse.csr_array, side: int) -> npt.NDArray[np.int64]:
    """Links of each output neuron (side 0) or input neuron (side 1)."""
    if side == 0:
        return np.diff(a.indptr).astype(np.int64)
    return np.bincount(a.indices, minlength=a.shape[1])


def _active(layers: Mapping[str, sparse.csr_array], coupling: Coupling) -> npt.NDArray[np.bool_]:
    active = np.logical_and.reduce([_degrees(layers[n], 0) > 0 for n in coupling.outputs])
    if coupling.inputs:
        active &= np.logical_or.reduce([_degrees(layers[n], 1) > 0 for n in coupling.inputs])
    return np.asarray(active)


def _keep_neurons(
    a: sparse.csr_array, active: npt.NDArray[np.bool_], side: int
) -> sparse.csr_array:
    rows, cols = links(a)
    kept = active[cols if side else rows]
    if kept.all():
        return a
    indptr = np.zeros(a.shape[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows[kept], minlength=a.shape[0]), out=indptr[1:])
    return wrap_csr(indptr, cols[kept], a.shape)
