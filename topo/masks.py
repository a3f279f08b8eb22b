"""Masks or weights of any model, in memory or in a file, as links and their values."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from scipy import io, sparse

from topo.adjacency import from_links
from topo.files import reading
from topo.names import find

__all__ = ["as_links", "read_masks", "select"]

Entries = dict[str, Callable[[BinaryIO], Any]]

_SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


def select(names: Iterable[Any], include: str | Sequence[str]) -> list[Any]:
    """The names that match any of the patterns.

    Raises
    ------
    ValueError
        If there are names, but none matches.

    Examples
    --------
    >>> from topo.masks import select
    >>> select(["0.weight", "0.bias"], "*.weight")
    ['0.weight']
    """
    known = list(names)
    patterns = (include,) if isinstance(include, str) else tuple(include)
    chosen = [n for n in known if any(fnmatchcase(str(n), p) for p in patterns)]
    if known and not chosen:
        raise ValueError(f"no name matches include={include!r}; there are {_listed(known)}")
    return chosen


def as_links(name: str, mask: Any) -> tuple[sparse.csr_array, npt.NDArray[Any]]:
    """The adjacency of whatever is not zero in a matrix, and the value of each link.

    Parameters
    ----------
    name : str
        Of the layer, for messages.
    mask : array_like, scipy sparse matrix or array, or torch tensor, shape (n_out, n_in)
        Sparse formats may store zeros; entries given twice add up, as in scipy.

    Returns
    -------
    adjacency : csr_array of bool
    values : array, shape (links,)
        Of the same dtype; half precisions become float32, which holds them.

    Raises
    ------
    ValueError
        If this is no matrix of numbers, holds NaN, or has indices out of range.

    Examples
    --------
    >>> from topo.masks import as_links
    >>> adjacency, values = as_links("fc", [[0.0, 2.0], [-1.0, 0.0]])
    >>> adjacency.indices.tolist(), values.tolist()
    ([1, 0], [2.0, -1.0])
    """
    if hasattr(mask, "detach"):
        mask = _from_torch(name, mask.detach().cpu())
    if not sparse.issparse(mask):
        mask = np.asarray(mask)
    if mask.dtype.kind not in "biuf":
        raise ValueError(f"layer {name!r} holds {mask.dtype}, not numbers")
    if len(mask.shape) != 2:
        raise ValueError(
            f"layer {name!r} has the shape {mask.shape}, not (n_out, n_in): leave out what is no "
            'layer, such as biases and convolutions, with include=... (say, "*.weight")'
        )
    if sparse.issparse(mask):
        try:
            if hasattr(mask, "check_format"):
                mask.check_format(full_check=True)  # scipy's kernels crash on bad indices
            coo = mask.tocoo()
            # made anew: this checks the indices of a COO matrix, and adds up what is given twice
            csr = sparse.coo_array((coo.data, (coo.row, coo.col)), shape=coo.shape).tocsr()
        except ValueError as error:
            raise ValueError(f"layer {name!r} is a damaged sparse matrix: {error}") from None
        rows, cols = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr)), csr.indices
        linked = csr.data != 0
        rows, cols, values = rows[linked], cols[linked], csr.data[linked]
    else:
        rows, cols = np.nonzero(mask)
        values = mask[rows, cols]
        if values.dtype == np.float16:  # scipy's sparse matrices know no half precision
            values = values.astype(np.float32)
    if np.isnan(values).any():
        raise ValueError(f"layer {name!r} holds NaN: neither a link nor none")
    try:
        return from_links(rows, cols, mask.shape), values
    except ValueError as error:  # a side without neurons
        raise ValueError(f"layer {name!r}: {error}") from None


def read_masks(
    file: Path, include: str | Sequence[str]
) -> dict[str, tuple[sparse.csr_array, npt.NDArray[Any]]]:
    """`as_links` of the included entries of an .npz, .npy, .mat or .safetensors file."""
    entries = find(_FORMATS, file.suffix.lower(), "file format")(file)
    found = {}
    for name in select(entries, include):
        with reading(file, f"masks (entry {name!r})") as f:
            found[name] = as_links(name, entries[name](f))
    return found


# Each format lists the entries of a file and how to read each one.


def _numpy(file: Path) -> Entries:
    with reading(file, "numpy arrays") as f:
        loaded = np.load(f, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {file.stem: partial(_loaded, loaded)}
        names = list(loaded)
    if {"format", "shape", "data"} <= set(names):  # of scipy.sparse.save_npz
        return {file.stem: sparse.load_npz}
    return {n: partial(_array, n) for n in names}


def _array(name: str, f: BinaryIO) -> npt.NDArray[Any]:
    return np.load(f, allow_pickle=False)[name]


def _loaded(mask: Any, _: BinaryIO) -> Any:
    return mask


def _matlab(file: Path) -> Entries:
    with reading(file, "a MATLAB file to version 7") as f:
        if io.matlab.matfile_version(f)[0] == 2:
            raise ValueError("it is of version 7.3 (HDF5): in MATLAB, save(..., '-v7') instead")
    # scipy's reader may crash on a damaged file: let it do so in a process of its own
    child = subprocess.run([sys.executable, "-c", _LOADMAT, file], capture_output=True)
    with reading(file, "a MATLAB file to version 7"):
        if child.returncode:
            lines = child.stderr.decode(errors="replace").strip().splitlines()
            raise ValueError(lines[-1] if lines else "it is damaged, its reader crashed")
        variables = pickle.loads(child.stdout)  # what the child made of it, no pickle of the file's
    return {n: partial(_loaded, v) for n, v in variables.items() if not n.startswith("__")}


_LOADMAT = """
import pickle, sys
from scipy import io
pickle.dump(io.loadmat(sys.argv[1], appendmat=False), sys.stdout.buffer)
"""


def _safetensors(file: Path) -> Entries:
    with reading(file, "safetensors") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        header.pop("__metadata__", None)
        start = f.tell()
        return {name: partial(_tensor, start, entry) for name, entry in header.items()}


def _tensor(start: int, entry: Mapping[str, Any], f: BinaryIO) -> npt.NDArray[Any]:
    begin, end = entry["data_offsets"]
    f.seek(start + begin)
    values = np.frombuffer(f.read(end - begin), find(_SAFETENSORS, entry["dtype"], "dtype"))
    if entry["dtype"] == "BF16":  # the upper half of a float32; numpy has no such type
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(entry["shape"])


def _from_torch(name: str, tensor: Any) -> Any:
    """A tensor, on the CPU, without importing torch."""
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        tensor = tensor.float()  # numpy has no bfloat16 and no float8; float32 holds both
    layout, shape = str(tensor.layout).removeprefix("torch."), tuple(tensor.shape)
    if layout == "strided":
        return tensor.numpy()
    if layout == "sparse_coo" and tensor.dense_dim() == 0 and len(shape) == 2:
        tensor = tensor.coalesce()
        return sparse.coo_array((tensor.values().numpy(), tensor.indices().numpy()), shape=shape)
    if layout == "sparse_csr" and len(shape) == 2:
        arrays = tensor.values(), tensor.col_indices(), tensor.crow_indices()
        return sparse.csr_array(tuple(t.numpy() for t in arrays), shape=shape)
    raise ValueError(f"layer {name!r} is a tensor of layout {layout}, shape {shape}: make it dense")


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")


_FORMATS: dict[str, Callable[[Path], Entries]] = {
    ".npz": _numpy,
    ".npy": _numpy,
    ".mat": _matlab,
    ".safetensors": _safetensors,
}
