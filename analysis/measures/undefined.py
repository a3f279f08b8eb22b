"""The value of a measure that a graph does not have."""

from __future__ import annotations

__all__ = ["Undefined"]


class Undefined(float):
    """A NaN that knows why: ``measure(...)`` is one where it has no value.

    Attributes
    ----------
    reason : str

    Examples
    --------
    >>> import math, topo, analysis
    >>> c = analysis.clustering(topo.as_adjacency([[0, 0], [0, 0]]))
    >>> math.isnan(c), c.reason
    (True, 'no neuron has a link')
    >>> c
    nan (no neuron has a link)
    """

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        """Say why there is no value."""
        value = super().__new__(cls, "nan")
        value.reason = reason
        return value

    def __repr__(self) -> str:
        return f"nan ({self.reason})"
