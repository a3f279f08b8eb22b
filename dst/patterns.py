"""Choose layers by patterns on their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

__all__ = ["choose"]

T = TypeVar("T")


def choose(
    layers: Mapping[str, T], include: str | Sequence[str], exclude: str | Sequence[str], kind: str
) -> dict[str, T]:
    """The layers that a pattern of `include` matches and none of `exclude`, in order.

    Parameters
    ----------
    layers : mapping of str to anything
        By name.
    include, exclude : str or sequence of str
        Patterns (fnmatch).
    kind : str
        What they are, for the messages.

    Raises
    ------
    ValueError
        If a pattern matches nothing, or nothing is left.

    Examples
    --------
    >>> from dst.patterns import choose
    >>> choose({"fc1": 1, "fc2": 2, "head": 3}, "fc*", "fc2", "layer")
    {'fc1': 1}
    """
    included, excluded = (
        (given,) if isinstance(given, str) else tuple(given) for given in (include, exclude)
    )
    for pattern in (*included, *excluded):
        if not any(fnmatchcase(name, pattern) for name in layers):
            there_are = ", ".join(layers) or "none"
            raise ValueError(f"the pattern {pattern!r} matches no {kind}; they are {there_are}")
    chosen = {
        name: layer
        for name, layer in layers.items()
        if any(fnmatchcase(name, p) for p in included)
        and not any(fnmatchcase(name, p) for p in excluded)
    }
    if not chosen:
        raise ValueError(f"no {kind} is left: see include and exclude")
    return chosen
