"""Checks at the border: what is wrong, what was expected."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_bits", "as_integer", "as_key", "check_type"]


def as_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number in a range, as a Python int.

    Examples
    --------
    >>> from topo.checks import as_integer
    >>> as_integer("k", 3, 0, 5)
    3
    >>> as_integer("k", 7, 0, 5)
    Traceback (most recent call last):
    ValueError: k must be an integer from 0 to 5, not 7
    """
    whole = isinstance(value, Integral) and not isinstance(value, (bool, np.bool_))
    above = whole and most is not None and int(value) > most
    if not whole or int(value) < least or above:
        expected = f"an integer from {least}" if least != 1 or most else "a positive integer"
        if most is not None and (above or most < 2**62):
            expected += f" to {most}"
        raise ValueError(f"{name} must be {expected}, not {value!r}")
    return int(value)


def check_type(name: str, value: Any, *kinds: type) -> None:
    """Refuse a value of another type.

    Examples
    --------
    >>> from topo.checks import check_type
    >>> check_type("layers", [], dict)
    Traceback (most recent call last):
    ValueError: layers must be a dict, not a list
    """
    if not isinstance(value, kinds):
        wanted = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must be a {wanted}, not a {type(value).__name__}")


def as_key(key: Any) -> np.uint64:
    """A key that `topo.stream` made."""
    return np.uint64(as_integer("key", key, 0, 2**64 - 1))


def as_bits(name: str, hashes: Any) -> npt.NDArray[np.uint64]:
    """An array that `topo.hash_links` made."""
    array = np.asarray(hashes)
    if array.dtype != np.uint64:
        raise ValueError(f"{name} must be uint64, from topo.hash_links, not {array.dtype}")
    return array
