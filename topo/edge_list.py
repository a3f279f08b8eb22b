"""Bipartite networks in plain text: one link a line."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse

from topo.adjacency import from_links

__all__ = ["read_edge_list"]


def read_edge_list(
    path: str | os.PathLike[str], shape: tuple[int, int] | None = None
) -> sparse.csr_array:
    r"""Read a bipartite network: two whole numbers from 0 per line, row and column of a link.

    Parameters
    ----------
    path : path
        Numbers are separated by spaces or tabs; further columns are ignored, as is what follows a
        ``#``.
    shape : (int, int), optional
        Number of rows and columns. Default: the largest of each, plus one.

    Raises
    ------
    ValueError
        If a line holds anything else, or a link is out of range or given twice.

    Examples
    --------
    >>> import pathlib, tempfile, topo
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "network.edges"
    >>> _ = file.write_text("# women, events\n0 1\n2 0\n")
    >>> topo.read_edge_list(file).toarray().astype(int)
    array([[0, 1],
           [0, 0],
           [1, 0]])
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is refused below
            warnings.simplefilter("error", DeprecationWarning)  # numpy 2.0 would cut fractions off
            pairs = np.loadtxt(Path(path), dtype=np.int64, usecols=(0, 1), ndmin=2)
    except (ValueError, OverflowError, IsADirectoryError, DeprecationWarning) as error:
        raise ValueError(f"{path} is no list of links, two whole numbers a line: {error}") from None
    if not len(pairs) and shape is None:
        raise ValueError(f"{path} holds no link: give the shape of an empty network")
    rows, cols = pairs.reshape(-1, 2).T
    if shape is None:
        shape = max(0, int(rows.max())) + 1, max(0, int(cols.max())) + 1
    try:
        return from_links(rows, cols, shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
