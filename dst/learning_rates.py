"""Learning-rate schedules: functions of the step, with nothing to save."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "constant", "cosine", "linear", "noam"]


def linear(step: int, total: int, warmup: int) -> float:
    """Straight to 1 % at 90 % of the training, then constant; there is no warm-up.

    Examples
    --------
    >>> from dst.learning_rates import linear
    >>> linear(0, 100, 0), round(linear(45, 100, 0), 6), round(linear(95, 100, 0), 6)
    (1.0, 0.505, 0.01)
    """
    return 1 - 0.99 * min(step / total / 0.9, 1.0)


def noam(step: int, total: int, warmup: int) -> float:
    """Up in a straight line over `warmup` steps, then as 1 / sqrt(step) (Vaswani et al. 2017).

    The published rate, factor * width^-1/2 * min(t^-1/2, t * warmup^-3/2), is this one times
    factor * (width * warmup)^-1/2, its highest. t counts from 1.

    Examples
    --------
    >>> from dst.learning_rates import noam
    >>> [noam(step, 100, 4) for step in (0, 1, 3, 15)]
    [0.25, 0.5, 1.0, 0.5]
    """
    t, warmup = step + 1, max(warmup, 1)
    return min(t / warmup, math.sqrt(warmup / t))


def cosine(step: int, total: int, warmup: int) -> float:
    """Up in a straight line over `warmup` steps, then by half a cosine to 10 %.

    Examples
    --------
    >>> from dst.learning_rates import cosine
    >>> [round(cosine(step, 104, 4), 6) for step in (0, 1, 4, 54, 104)]
    [0.0, 0.25, 1.0, 0.55, 0.1]
    """
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def constant(step: int, total: int, warmup: int) -> float:
    """The same throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    f.__name__: f for f in (linear, noam, cosine, constant)
}
"""By name: (optimizer steps done, steps of the training, steps of the warm-up) -> factor."""
