"""How quantities change over the evolution.

Progress runs from 0, before the first update, to 1 at the last one. Three kinds of schedule:

* `Schedule`, ``f(progress)``: a number (`constant`, `linear`, `cosine`, `delta`);
* `Density`, ``f(final, progress)``: a layer's density, given the one that it ends with (`steady`,
  `cubic`, `sigmoid`, `steps`);
* `Churn`, ``f(links, final, progress)``: how many of a layer's links an update removes (`share`,
  `surplus`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "Churn",
    "Density",
    "Schedule",
    "Share",
    "constant",
    "cosine",
    "cubic",
    "delta",
    "linear",
    "share",
    "sigmoid",
    "steady",
    "steps",
    "surplus",
]

Schedule = Callable[[float], float]
Density = Callable[[float, float], float]
Churn = Callable[[int, int, float], int]


def constant(value: float) -> Schedule:
    """The same value throughout.

    Examples
    --------
    >>> from dst.schedules import constant
    >>> constant(0.3)(0.5)
    0.3
    """

    def schedule(progress: float) -> float:
        return value

    return schedule


def linear(first: float, last: float) -> Schedule:
    """From `first` to `last` in a straight line.

    Examples
    --------
    >>> from dst.schedules import linear
    >>> linear(1, 3)(0.25)
    1.5
    """

    def schedule(progress: float) -> float:
        return first + (last - first) * progress

    return schedule


def cosine(value: float) -> Schedule:
    r"""Annealed to 0: :math:`\zeta/2 \, (1 + \cos(\pi p))` (Evci et al. 2020, RigL, eq. (1)).

    Examples
    --------
    >>> from dst.schedules import cosine
    >>> cosine(0.3)(0.0), round(cosine(0.3)(0.5), 6), cosine(0.3)(1.0)
    (0.3, 0.15, 0.0)
    """

    def schedule(progress: float) -> float:
        return value / 2 * (1 + math.cos(math.pi * progress))

    return schedule


def delta(first: float = 0.5, last: float = 0.75) -> Schedule:
    r"""The exponent :math:`\delta / (1 - \delta)` of eq. (4) of CHTs, in a straight line.

    From 1 to 3 by default; the later version of the paper ends at ``last=0.9``, which is 9.

    Parameters
    ----------
    first, last : float
        :math:`\delta` at the ends, in (0, 1).

    References
    ----------
    Zhang et al., arXiv 2501.19107 (CHTs), eq. (4).

    Examples
    --------
    >>> from dst.schedules import delta
    >>> delta()(0.0), delta()(1.0), round(delta(0.5, 0.9)(0.5), 9)
    (1.0, 3.0, 5.0)
    """
    for value in (first, last):
        if not 0 < value < 1:
            raise ValueError(f"delta is in (0, 1), not {value!r}")
    return linear(first / (1 - first), last / (1 - last))


# ---- densities -------------------------------------------------------------------------------


def steady(final: float, progress: float) -> float:
    """The final density throughout."""
    return final


def cubic(start: float = 0.5, *, window: float = 1.0) -> Density:
    r"""Gradual pruning: :math:`s = s_f + (s_i - s_f)(1 - p)^3` (s: sparsity; GMP, GraNet).

    Parameters
    ----------
    start : float
        Density at the start; a layer that ends denser than that has its final one throughout.
    window : float
        Share of the evolution after which the final density is reached.

    References
    ----------
    Zhu and Gupta, "To prune, or not to prune", 2017, eq. (1).

    Examples
    --------
    >>> from dst.schedules import cubic
    >>> [round(cubic(0.5)(0.1, p), 12) for p in (0, 0.5, 1)]
    [0.5, 0.15, 0.1]
    """
    return _decay(start, window, lambda p: 1 - (1 - p) ** 3)


def sigmoid(start: float = 0.5, *, window: float = 0.5, steepness: float = 6.0) -> Density:
    r"""A soft step down (CHTss).

    The sparsity is :math:`s = s_i + (s_f - s_i) g(p)`, with

    .. math:: g(p) = \frac{\sigma(k (2 p - 1)) - \sigma(-k)}{\sigma(k) - \sigma(-k)},

    which hits both ends exactly. Over half the window of `cubic`, the default, training takes as
    many operations: the integrals of what is left to prune are 1/2 and 1/4.

    Parameters
    ----------
    start : float
        Density at the start; a layer that ends denser than that has its final one throughout.
    window : float
        Share of the evolution after which the final density is reached.
    steepness : float
        k.

    References
    ----------
    Zhang et al., arXiv 2501.19107 (CHTss); the printed equation has sign and midpoint wrong.

    Examples
    --------
    >>> from dst.schedules import sigmoid
    >>> [round(sigmoid(0.5)(0.1, p), 12) for p in (0, 0.25, 0.5, 1)]
    [0.5, 0.3, 0.1, 0.1]
    """
    if not steepness > 0:
        raise ValueError(f"steepness is positive, not {steepness!r}")

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    low, high = logistic(-steepness), logistic(steepness)
    return _decay(start, window, lambda p: (logistic(steepness * (2 * p - 1)) - low) / (high - low))


def steps(*extra: tuple[float, float]) -> Density:
    """Above the final density by `extra`, step by step; the last update falls to the final one.

    Parameters
    ----------
    *extra : (float, float)
        Pairs (until, by): a layer is denser by so much while progress is below `until`; the last
        pair holds until the last update.

    References
    ----------
    Yuan et al., NeurIPS 2021 (MEST), "elastic mutation and shrink" (EM&S).

    Examples
    --------
    >>> from dst.schedules import steps
    >>> ems = steps((0.6, 0.05), (1.0, 0.025))
    >>> [round(ems(0.1, p), 6) for p in (0, 0.5, 0.6, 0.9, 1)]
    [0.15, 0.15, 0.125, 0.125, 0.1]
    """
    untils = [until for until, _ in extra]
    if not untils or untils != sorted(untils) or not all(0 < u <= 1 for u in untils):
        raise ValueError(f"steps are pairs (until, by) with until ascending in (0, 1], not {extra}")
    if not all(by >= 0 for _, by in extra):
        raise ValueError(f"steps are above the final density, not below: {extra}")

    def density(final: float, progress: float) -> float:
        for until, by in extra:
            if progress < until:
                return min(1.0, final + by)
        return final

    return density


def _decay(start: float, window: float, shape: Schedule) -> Density:
    for name, value in (("start", start), ("window", window)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is in (0, 1], not {value!r}")

    def density(final: float, progress: float) -> float:
        if progress >= window:
            return final
        return final + max(start - final, 0.0) * (1 - shape(progress / window))

    return density


# ---- churn -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A share of the links that changes over the evolution; see `share`.

    Attributes
    ----------
    schedule : function of the progress
    """

    schedule: Schedule

    def __call__(self, links: int, final: int, progress: float) -> int:
        """How many links are replaced."""
        return int(self.schedule(progress) * links + 1e-9)  # 0.29 * 100 is less than 29

    def starting_at(self, initial: float) -> Share:
        """The same course from another share on; one that starts at 0 stays as it is.

        Examples
        --------
        >>> from dst.schedules import cosine, share
        >>> share(cosine(0.3)).starting_at(0.1)(1000, 1000, 0.5)
        50
        """
        first = self.schedule(0.0)
        if first == 0:
            return self
        return Share(lambda progress: self.schedule(progress) * (initial / first))


def share(schedule: Schedule) -> Share:
    r"""A share of the links: :math:`\lfloor \zeta \cdot links \rfloor`.

    Examples
    --------
    >>> from dst.schedules import cosine, share
    >>> share(cosine(0.3))(1000, 1000, 0.5)
    150
    """
    return Share(schedule)


def surplus(links: int, final: int, progress: float) -> int:
    """All links in excess of the final number (MEST): mutation goes through the final density."""
    return max(links - final, 0)
