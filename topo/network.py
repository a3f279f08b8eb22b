"""The sparse layers of a model as one graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from topo.adjacency import as_adjacency, equal
from topo.checks import check_type
from topo.masks import as_links, read_masks, select

__all__ = ["Coupling", "Network"]


@dataclass(frozen=True)
class Coupling:
    """One population of hidden neurons that several layers share.

    Neuron i is output i of every layer in `outputs` and input i of every layer in `inputs`. It is
    *active* when each of the `outputs` has a link into it (their outputs are multiplied, where
    there are several: gate and up, Q and K) and, if there are `inputs`, any of them has a link
    out of it.

    Parameters
    ----------
    outputs, inputs : tuple of str
        Layer names.
    head_dim : int, optional
        Neurons per attention head. Sides may then differ in their number of heads (grouped
        queries): head h of the largest side meets head ``h // (H / heads)`` of a side with fewer
        heads, H being the heads of the largest (``repeat_kv`` in Hugging Face). Such a neuron is
        active when any of its copies is. Default: all sides have the same neurons, one to one.
    rotary : bool
        Rotary embeddings mix positions i and ``i + head_dim / 2`` of a head: the two are active
        together, and a layer has a link there if it has one at either.

    Examples
    --------
    >>> import topo
    >>> topo.Coupling(outputs=("gate", "up"), inputs=("down",))
    Coupling(outputs=('gate', 'up'), inputs=('down',))

    An attention block with rotary embeddings, whose k and v may have fewer heads than q and o:

    >>> topo.Coupling(("q", "k"), head_dim=64, rotary=True)
    Coupling(outputs=('q', 'k'), head_dim=64, rotary=True)
    >>> topo.Coupling(("v",), ("o",), head_dim=64)
    Coupling(outputs=('v',), inputs=('o',), head_dim=64)
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    head_dim: int | None = None
    rotary: bool = False

    def __post_init__(self) -> None:
        for side in ("outputs", "inputs"):
            names = getattr(self, side)
            if isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"{side} of a coupling is a tuple of layer names, not {names!r}")
            object.__setattr__(self, side, tuple(names))
        if not self.outputs:
            raise ValueError("a coupling needs at least one layer in outputs")
        if self.head_dim is not None:
            whole = isinstance(self.head_dim, Integral) and not isinstance(self.head_dim, bool)
            if not whole or self.head_dim < 1:
                raise ValueError(f"head_dim is a positive integer or None, not {self.head_dim!r}")
            object.__setattr__(self, "head_dim", int(self.head_dim))
        if not isinstance(self.rotary, bool):
            raise ValueError(f"rotary is True or False, not {self.rotary!r}")
        if self.rotary and (self.head_dim is None or self.head_dim % 2):
            raise ValueError(
                "rotary embeddings pair the two halves of a head: rotary=True needs an even "
                f"head_dim, not {self.head_dim!r}"
            )

    def __repr__(self) -> str:
        given = [f"outputs={self.outputs!r}"]
        given += [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)[1:]
            if getattr(self, f.name) != f.default
        ]
        return f"Coupling({', '.join(given)})"


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
        If there is no layer, or a coupling names an unknown layer or sides that do not fit.

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
        check_type("layers", layers, Mapping)
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
            check_type("a coupling", coupling, Coupling)
            self._check(coupling)
        self.weights: dict[str, sparse.csr_array] | None = None
        if weights is not None:
            check_type("weights", weights, Mapping)
            if set(weights) != set(adjacencies):
                raise ValueError(
                    f"weights are of the layers {', '.join(weights) or 'none'}, "
                    f"the network has {', '.join(adjacencies)}"
                )
            self.weights = {n: _weighted(n, a, weights[n]) for n, a in adjacencies.items()}

    @classmethod
    def from_masks(
        cls,
        masks: Mapping[str, Any] | str | os.PathLike[str],
        couplings: Iterable[Coupling] | None = None,
        *,
        include: str | Sequence[str] = ("*",),
        weights: bool = False,
    ) -> Network:
        """Make a network from any model's masks or weights: a link wherever an entry is not zero.

        Parameters
        ----------
        masks : mapping of str to matrix, or path
            Matrices of shape (n_out, n_in) by layer name, from input to output: arrays, scipy
            sparse matrices, torch tensors (dense or sparse). Or a file: ``.npz`` (of
            `numpy.savez`, `scipy.sparse.save_npz` or `topo.save_npz`), ``.npy``, ``.mat`` (to
            version 7) or ``.safetensors``. A file of one unnamed matrix makes a layer with the
            file's name. Nothing is unpickled.
        couplings : iterable of Coupling, optional
            Which neurons are shared. Default: those that `topo.save_npz` stored; else a chain.
        include : str or sequence of str
            Patterns (`fnmatch`) of the names that are layers. A vector or a kernel is none: leave
            biases, norms and convolutions out, say with ``include="*.weight"``.
        weights : bool
            Keep the values of the links in `Network.weights`.

        Raises
        ------
        ValueError
            If an included entry is no matrix of numbers or holds NaN, no entry is included, or a
            file is damaged.

        Examples
        --------
        >>> import numpy as np, topo
        >>> state = {"fc.weight": np.array([[0.5, 0.0], [0.0, -2.0]]), "fc.bias": np.zeros(2)}
        >>> net = topo.Network.from_masks(state, include="*.weight", weights=True)
        >>> net, net.weights["fc.weight"].data.tolist()
        (Network(fc.weight: 2x2, 2 links), [0.5, -2.0])
        """
        if not isinstance(masks, Mapping):
            from topo.npz import is_saved, load_npz  # which make networks

            path = Path(masks)
            if is_saved(path):
                return _of_file(path, load_npz(path), couplings, include, weights)
            found = read_masks(path, include)
        else:
            found = {name: as_links(name, masks[name]) for name in select(masks, include)}
        return cls(
            {name: adjacency for name, (adjacency, _) in found.items()},
            couplings,
            weights={name: values for name, (_, values) in found.items()} if weights else None,
        )

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
        check_type("layers", layers, Mapping)
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
            and all(map(equal, self.layers.values(), other.layers.values()))
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
        counts = ", ".join(f"{n} {what}" for what, n in sizes.items())
        if coupling.head_dim is None:
            if len(set(sizes.values())) > 1:
                raise ValueError(
                    f"coupled layers share their neurons, but these differ in number: {counts} "
                    "(pass couplings=() for unconnected layers, head_dim=... for grouped queries)"
                )
        elif any(n % coupling.head_dim or max(sizes.values()) % n for n in sizes.values()):
            raise ValueError(
                f"every side of a coupling by heads has whole heads of {coupling.head_dim} "
                f"neurons, and the largest a multiple of each other's; there are {counts}"
            )


def _weighted(name: str, a: sparse.csr_array, values: npt.ArrayLike) -> sparse.csr_array:
    data = np.asarray(values)
    if data.shape != (a.nnz,):
        raise ValueError(f"layer {name!r} has {a.nnz} links but weights of shape {data.shape}")
    return sparse.csr_array((data, a.indices, a.indptr), shape=a.shape, copy=False)


def _of_file(
    path: Path,
    saved: Network,
    couplings: Iterable[Coupling] | None,
    include: str | Sequence[str],
    weights: bool,
) -> Network:
    """What `from_masks` makes of a file of `topo.save_npz`."""
    if list(select(saved.layers, include)) != list(saved.layers):
        raise ValueError(
            f"{path} holds a whole network: take its layers from topo.load_npz, not include="
        )
    if weights and saved.weights is None:
        raise ValueError(f"{path} holds a network without weights: pass weights=False")
    values = saved.weights if weights else None
    return Network(
        saved.layers,
        saved.couplings if couplings is None else couplings,
        weights=None if values is None else {n: w.data for n, w in values.items()},
    )
