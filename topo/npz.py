"""A whole network in one .npz file, without pickles."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from topo._description import Description, describe
from topo.checks import check_type
from topo.files import reading, write_atomically
from topo.network import Network

__all__ = ["is_saved", "load_npz", "save_npz"]

_KEY = "epitopo"


def save_npz(network: Network, path: str | os.PathLike[str]) -> None:
    """Save a network: links, names, shapes, couplings and weights, exactly.

    The file is written whole or not at all. `topo.load_npz` reads it, and without epitopo numpy
    does: the i-th layer is ``{i}.indptr``, ``{i}.indices`` and, with weights, ``{i}.weights`` of
    a `scipy.sparse.csr_array`; ``epitopo`` is JSON that holds the rest. (A single adjacency
    needs none of this: `scipy.sparse.save_npz`.)

    Parameters
    ----------
    network : Network
    path : path
        The name of the file, as it is (no suffix is added).

    Raises
    ------
    ValueError
        If weights are not numbers.

    Examples
    --------
    >>> import tempfile, topo
    >>> net = topo.Network({"fc": [[1, 0], [1, 1]]}, weights={"fc": [0.5, 0.0, -2.0]})
    >>> path = tempfile.mkdtemp() + "/net.npz"
    >>> topo.save_npz(net, path)
    >>> topo.load_npz(path) == net
    True
    """
    check_type("network", network, Network)
    arrays = {_KEY: np.array(describe(network))}
    for i, (name, a) in enumerate(network.layers.items()):
        arrays[f"{i}.indptr"], arrays[f"{i}.indices"] = a.indptr, a.indices
        if network.weights is not None:
            arrays[f"{i}.weights"] = network.weights[name].data
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), content.getvalue())


def load_npz(path: str | os.PathLike[str]) -> Network:
    """Load a network that `save_npz` saved.

    Raises
    ------
    ValueError
        If the file is damaged, of an unknown version, or of another origin; other files of masks
        are for `topo.Network.from_masks`.

    See Also
    --------
    save_npz
    """
    with reading(Path(path), "a network of topo.save_npz") as f:
        arrays = np.load(f, allow_pickle=False)
        if _KEY not in arrays:
            raise ValueError("it is of another origin: try topo.Network.from_masks")
        described = Description.parse(arrays[_KEY].item())
        links = {}
        for i, (name, (n_out, _)) in enumerate(described.shapes.items()):
            indptr, indices = arrays[f"{i}.indptr"], arrays[f"{i}.indices"]
            if indptr.shape != (n_out + 1,) or indptr.dtype.kind != "i":
                raise ValueError(f"the indptr of layer {name!r} is damaged")
            degrees = np.diff(indptr.astype(np.int64))
            if (indptr[0], indptr[-1]) != (0, len(indices)) or (degrees < 0).any():
                raise ValueError(f"the indptr of layer {name!r} is damaged")
            rows = np.repeat(np.arange(n_out), degrees)
            links[name] = (rows, indices, arrays[f"{i}.weights"] if described.dtypes else None)
        return described.network(links)


def is_saved(path: Path) -> bool:
    """Whether a file looks like one of `save_npz`."""
    if not zipfile.is_zipfile(path):
        return False
    with reading(path, "a zip archive") as f, zipfile.ZipFile(f) as archive:
        return f"{_KEY}.npy" in archive.namelist()
