"""The methods of dynamic sparse training, as data.

A `Method` says what a sparse model starts as and how its topology evolves; the engine
(`dst.Evolver`) reads it. A method of your own is one more entry, and at most one score function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

import topo
from dst.schedules import Schedule, constant, cosine, linear

__all__ = ["METHODS", "Links", "Method", "Rule", "Start", "magnitude"]

S = TypeVar("S")


@dataclass(frozen=True)
class Links:
    """The links of one layer, as a removal score sees them.

    Attributes
    ----------
    rows, cols : int32 arrays, shape (links,)
    weights : float64 array, shape (links,)
    shape : (int, int)
        ``(n_out, n_in)``.
    """

    rows: npt.NDArray[np.int32]
    cols: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    shape: tuple[int, int]


def magnitude(links: Links) -> npt.NDArray[np.float64]:
    """Weight magnitude |w| (WM): eq. (4) of CHTs with alpha = 1."""
    return np.abs(links.weights)


@dataclass(frozen=True)
class Rule(Generic[S]):
    """What links are ranked by, and how sharply.

    Attributes
    ----------
    score : callable or topo.Predictor
        Of links that may go (a function of `Links`), or of absent ones that may come.
    sharpness : Schedule
        T over progress: a sample without replacement with p ~ score ** T; inf is top-k.
    """

    score: S
    sharpness: Schedule


@dataclass(frozen=True)
class Start:
    """What a method's layers start as: arguments of `dst.sparsify`."""

    topology: Any
    init: Any


@dataclass(frozen=True)
class Method:
    """How a topology evolves.

    Attributes
    ----------
    name : str
    start : Start
    churn : Schedule
        Share of the links that an update replaces (zeta), over progress.
    removal : Rule
        The links that *stay* are those it selects.
    regrowth : Rule
        The absent links that grow are those it selects.
    percolates : bool
        Whether links of inactive neurons are removed, and regrown elsewhere, too.
    t_end : float
        The share of the training during which the topology evolves.

    Examples
    --------
    SET with a power of the weights as the odds to stay:

    >>> import dst, topo
    >>> from dst.schedules import constant
    >>> soft_set = dst.Method(
    ...     name="soft-set",
    ...     start=dst.Start("erdos_renyi", "keep"),
    ...     churn=constant(0.3),
    ...     removal=dst.Rule(dst.magnitude, constant(2.0)),
    ...     regrowth=dst.Rule(topo.PREDICTORS["random"], constant(1.0)),
    ... )
    """

    name: str
    start: Start
    churn: Schedule
    removal: Rule[Callable[[Links], npt.NDArray[np.float64]]]
    regrowth: Rule[topo.Predictor]
    percolates: bool = False
    t_end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.t_end <= 1:
            raise ValueError(f"t_end is a share of the training in (0, 1], not {self.t_end!r}")


_TOP = constant(math.inf)

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(  # a fixed sparse topology: its updates find nothing to do
            name="static",
            start=Start("erdos_renyi", "keep"),
            churn=constant(0.0),
            removal=Rule(magnitude, _TOP),
            regrowth=Rule(topo.PREDICTORS["random"], _TOP),
        ),
        Method(  # Mocanu et al., Nature Communications 2018
            name="set",
            start=Start("erdos_renyi", "keep"),
            churn=constant(0.3),
            removal=Rule(magnitude, _TOP),
            regrowth=Rule(topo.PREDICTORS["random"], _TOP),
        ),
        Method(  # Zhang et al., arXiv 2501.19107: delta 0.5 -> 0.75 is an exponent of 1 -> 3
            name="chts",
            start=Start("small_world", "swi"),
            churn=cosine(0.3),
            removal=Rule(magnitude, linear(1.0, 3.0)),
            regrowth=Rule(topo.PREDICTORS["ch2_l3n"], constant(1.0)),
            percolates=True,
            t_end=0.75,
        ),
    )
}
"""Every method by name; new links start at 0."""
