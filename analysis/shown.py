"""What of many runs, layers or steps a report shows, and what it calls them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["SIDES", "evenly", "full_ink", "short_names", "spread"]

SIDES = {"output": "links per output neuron, k", "input": "links per input neuron, k"}
"""The sides of a layer, and what the degrees of their neurons are."""


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced; the first and the last always.

    Examples
    --------
    >>> from analysis.shown import evenly
    >>> evenly(3, 5), evenly(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def spread(names: Sequence[str], most: int) -> list[str]:
    """At most `most` of some names, from the first to the last."""
    return [names[i] for i in evenly(len(names), most)]


def full_ink(densest: float) -> float:
    """The density of a tile that is drawn as full ink, by that of the densest layer.

    Examples
    --------
    >>> from analysis.shown import full_ink
    >>> full_ink(0.05), full_ink(0.5), full_ink(0.0)
    (0.25, 1.0, 1.0)
    """
    return min(1.0, 5 * densest) or 1.0


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Layers' names without the parts that all have, such as "model" and "layers".

    Examples
    --------
    >>> from analysis.shown import short_names
    >>> short_names(["model.layers.0.q", "model.layers.1.q"])
    {'model.layers.0.q': '0.q', 'model.layers.1.q': '1.q'}
    """
    if not names:
        return {}
    parts = {name: name.split(".") for name in names}
    common = set.intersection(*(set(p[:-1]) for p in parts.values()))
    short = {name: ".".join(x for x in p if x not in common) for name, p in parts.items()}
    return short if len(set(short.values())) == len(parts) else {name: name for name in names}
