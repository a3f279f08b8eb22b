"""Look a name up in a registry, or say which name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["find", "unknown"]

T = TypeVar("T")


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
    return f"unknown {kind} {name!r}:{hint} known are {', '.join(names)}"
