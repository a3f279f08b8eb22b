"""How a quantity changes over the evolution: functions of progress, 0 at the start, 1 at its end.

Progress is ``step / (t_end * total_steps)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "linear"]

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value throughout.

    Examples
    --------
    >>> from dst.schedules import constant
    >>> constant(0.3)(0.5)
    0.3
    """
    return lambda progress: value


def linear(first: float, last: float) -> Schedule:
    """From `first` to `last` in a straight line.

    Examples
    --------
    >>> from dst.schedules import linear
    >>> linear(1, 3)(0.25)
    1.5
    """
    return lambda progress: first + (last - first) * progress


def cosine(value: float) -> Schedule:
    r"""Annealed to 0: :math:`\zeta/2 \, (1 + \cos(\pi t / T_{end}))` (Evci et al. 2020, RigL).

    Examples
    --------
    >>> from dst.schedules import cosine
    >>> cosine(0.3)(0.0), round(cosine(0.3)(0.5), 6), cosine(0.3)(1.0)
    (0.3, 0.15, 0.0)
    """
    return lambda progress: value / 2 * (1 + math.cos(math.pi * progress))
