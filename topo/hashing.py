# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
"""Randomness without state: a counter-based integer hash.

Every random decision is a pure function of (seed, step, layer, row, column): `stream` folds the
names into a 64-bit key, and `mix` (the finalizer of SplitMix64; Steele, Lea, Flood 2014) turns
key and counter into 64 random bits. Integers only, so that every machine, block size and thread
count draws the same numbers, and nothing has to be saved to resume.
"""

from __future__ import annotations

import hashlib
from numbers import Integral

import numpy as np
import numpy.typing as npt

from topo.checks import as_bits, as_integer, as_key
from topo.compiled import njit

__all__ = ["hash_links", "sample_integers", "stream", "uniform"]

_U = np.uint64


def stream(seed: int, *names: int | str) -> int:
    """A 64-bit key for one purpose: the same for the same arguments, on every machine.

    Parameters
    ----------
    seed : int
    *names : int or str
        What the numbers are for, say ``(step, layer, "grow")``.

    Examples
    --------
    >>> import topo
    >>> topo.stream(0, 100, "fc1", "grow") == topo.stream(0, 100, "fc1", "grow")
    True
    >>> topo.stream(0, 100, "fc1", "grow") == topo.stream(0, 100, "fc2", "grow")
    False
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(f"seed must be an integer, not {seed!r}")
    for name in names:
        if not isinstance(name, (str, Integral)):
            raise ValueError(f"a stream is named by strings and integers, not {name!r}")
    text = repr((int(seed), *(str(n) if isinstance(n, str) else int(n) for n in names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@njit(nogil=True, cache=True, inline="always")
def mix(x):
    x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
    return x ^ (x >> _U(31))


@njit(nogil=True, cache=True, inline="always")
def bits(key, row, col):
    """64 random bits for the cell (row, col)."""
    x = mix(key + _U(row) * _U(0x9E3779B97F4A7C15))
    return mix(x + _U(col) * _U(0xD1B54A32D192ED03) + _U(1))


@njit(nogil=True, cache=True, inline="always")
def to_unit(x):
    """64 bits to a float64 in the open interval (0, 1)."""
    return (np.float64(x >> _U(12)) + 0.5) * 2.0**-52


@njit(nogil=True, cache=True)
def _hash_links(key, rows, cols):
    out = np.empty(len(rows), dtype=np.uint64)
    for i in range(len(rows)):
        out[i] = bits(key, rows[i], cols[i])
    return out


def hash_links(key: int, rows: npt.ArrayLike, cols: npt.ArrayLike = 0) -> npt.NDArray[np.uint64]:
    """64 random bits for each link, a function of (key, row, column) alone.

    Examples
    --------
    >>> import topo
    >>> topo.hash_links(topo.stream(0), [5, 9]).dtype
    dtype('uint64')
    """
    r, c = np.broadcast_arrays(_as_indices("rows", rows), _as_indices("cols", cols))
    # numba warns of the read-only views that broadcasting makes
    return np.asarray(_hash_links(as_key(key), r.copy(), c.copy()))


def _as_indices(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim > 1 or array.dtype.kind not in ("iu" if array.size else "biuf"):
        raise ValueError(f"{name} must be integers in one dimension, not {values!r}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be below 2**63, not {array.max()}")
    return array.astype(np.int64)


def uniform(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Hashes to uniform numbers in the open interval (0, 1).

    Examples
    --------
    >>> import numpy as np, topo
    >>> u = topo.uniform(topo.hash_links(topo.stream(0), np.arange(4)))
    >>> bool(((u > 0) & (u < 1)).all())
    True
    """
    return ((as_bits("hashes", hashes) >> _U(12)).astype(np.float64) + 0.5) * 2.0**-52


@njit(nogil=True, cache=True)
def _distinct(n, k, key):
    """The first k distinct values of a random sequence on 0..n-1 (k <= n / 2)."""
    size = 16
    while size < 2 * k:
        size *= 2
    table = np.full(size, -1, dtype=np.int64)
    out = np.empty(k, dtype=np.int64)
    if k == 0:
        return out
    found, draw = 0, 0
    limit = (_U(0xFFFFFFFFFFFFFFFF) // _U(n)) * _U(n)  # draws above it would favour small values
    while found < k:
        x = bits(key, draw, n)
        draw += 1
        if x >= limit:
            continue
        value = np.int64(x % _U(n))
        slot = np.int64(mix(_U(value)) & _U(size - 1))
        while table[slot] >= 0 and table[slot] != value:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot] = value
            out[found] = value
            found += 1
    return out


def sample_integers(n: int, k: int, key: int) -> npt.NDArray[np.int64]:
    """k distinct integers out of 0..n-1, uniformly, ascending; memory in proportion to k.

    Examples
    --------
    >>> import topo
    >>> sample = topo.sample_integers(10**12, 3, topo.stream(7))
    >>> len(set(sample.tolist()))
    3
    """
    n = as_integer("n", n, 0, 2**63 - 1)
    k = as_integer("k", k, 0, n)
    if 2 * k <= n:
        return np.sort(_distinct(n, k, as_key(key)))
    left_out = np.ones(n, dtype=bool)
    left_out[_distinct(n, n - k, as_key(key))] = False
    return np.flatnonzero(left_out)
