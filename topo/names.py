"""Look a name up in a registry, or say which name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["find", "flat", "unknown"]

T = TypeVar("T")
_LISTED = 24  # names in a message


def find(registry: Mapping[str, T], name: object, kind: str) -> T:
    """``registry[name]``, or a ValueError that lists the names and suggests the nearest."""
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise ValueError(unknown(name, registry, kind))


def unknown(name: object, known: Iterable[str], kind: str) -> str:
    """Say that a name is unknown, which one is nearest, and which there are."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, 1, 0.3)
    hint = f" did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"unknown {kind} {name!r}:{hint} known are {listed}"


def flat(nested: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted keys.

    Examples
    --------
    >>> from topo.names import flat
    >>> flat({"optimizer": {"lr": 0.1}, "seed": 0})
    {'optimizer.lr': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in nested.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
