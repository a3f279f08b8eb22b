"""The methods of dynamic sparse training, as data.

A `Method` says what a sparse model starts as and how its topology evolves; the engine
(`dst.Evolver`) reads it. A method of your own is one more entry, and at most one score function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import topo
from dst.schedules import (
    Churn,
    Density,
    Schedule,
    constant,
    cosine,
    cubic,
    delta,
    share,
    sigmoid,
    steady,
    steps,
    surplus,
)
from dst.scores import (
    DenseScore,
    LinkScore,
    gradient_magnitude,
    importance,
    magnitude,
    magnitude_and_gradient,
)
from topo.checks import as_integer
from topo.names import find

__all__ = ["METHODS", "Method", "Rule", "Start", "as_method"]

S = TypeVar("S")

_TOP: Schedule = constant(math.inf)


@dataclass(frozen=True)
class Rule(Generic[S]):
    """What links are ranked by, and how sharply.

    Attributes
    ----------
    score : callable, topo.Predictor or DenseScore
        Of links that may go (a function of `Links`), or of absent ones that may come (also by
        the name of a predictor).
    sharpness : Schedule or float
        T over progress: a sample without replacement with p ~ score ** T; inf, the default, is
        top-k.
    """

    score: S
    sharpness: Schedule = _TOP

    def __post_init__(self) -> None:
        score: Any = self.score
        sharpness: Any = self.sharpness
        if isinstance(score, str):
            object.__setattr__(self, "score", find(topo.PREDICTORS, score, "predictor"))
        if isinstance(sharpness, (int, float)):
            object.__setattr__(self, "sharpness", constant(sharpness))
        elif not callable(sharpness):
            raise ValueError(
                f"sharpness is a number or a schedule of progress, not {sharpness!r}: see "
                "dst.schedules"
            )


@dataclass(frozen=True)
class Start:
    """What a method's layers start as: arguments of `dst.sparsify`.

    Attributes
    ----------
    topology, init : str or callable
    calibrated : str or callable, optional
        The topology instead, where `dst.sparsify` is given calibration data.
    """

    topology: Any
    init: Any
    calibrated: Any = None


@dataclass(frozen=True)
class Method:
    """How a topology evolves.

    One update: each layer is thinned to the links that its density schedule asks for, the removal
    rule takes some away, links of inactive neurons go (percolation), and the regrowth rule fills
    up to the scheduled number again. A step that asks for nothing does nothing.

    Attributes
    ----------
    name : str
    start : Start
    churn : Churn
        How many links an update removes: `dst.schedules.share` of a schedule, or ``surplus``.
    removal : Rule
        The links that *stay* are those it selects.
    regrowth : Rule
        The absent links that grow are those it selects.
    density : Density
        Of a layer, given its final one.
    thinning : Rule
        Where the density falls, the links that stay are those it selects.
    recalls : bool
        Whether a link that was thinned keeps its weight and competes in thinning with those that
        are there (GMP).
    percolates : bool
        Whether links of inactive neurons are removed, and regrown elsewhere, too.
    t_start, t_end : float
        The share of the training between which the topology evolves.
    stop_overlap : float
        A layer's topology freezes after an update in which more than this share of what was
        regrown had just been removed; 1 never stops.
    historical : bool
        Whether a link that grows again starts at the weight that it last had; else at 0.
    link_warmup : int
        Optimizer steps over which the changes of a new link's weight rise to their full size.

    Examples
    --------
    SET with a power of the weights as the odds to stay:

    >>> import dst, topo
    >>> from dst.schedules import constant, share
    >>> soft_set = dst.Method(
    ...     name="soft-set",
    ...     start=dst.Start("erdos_renyi", "keep"),
    ...     churn=share(constant(0.3)),
    ...     removal=dst.Rule(dst.magnitude, constant(2.0)),
    ...     regrowth=dst.Rule(topo.PREDICTORS["random"]),
    ... )

    An entry with something changed:

    >>> from dataclasses import replace
    >>> unpercolated = replace(dst.METHODS["chts"], name="chts-llama", percolates=False)
    """

    name: str
    start: Start
    churn: Churn
    removal: Rule[LinkScore]
    regrowth: Rule[topo.Predictor | DenseScore]
    density: Density = steady
    thinning: Rule[LinkScore] = Rule(magnitude)
    recalls: bool = False
    percolates: bool = False
    t_start: float = 0.0
    t_end: float = 1.0
    stop_overlap: float = 1.0
    historical: bool = False
    link_warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.t_start < self.t_end <= 1:
            raise ValueError(
                "t_start and t_end are shares of the training, 0 <= t_start < t_end <= 1, not "
                f"{self.t_start!r} and {self.t_end!r}"
            )
        if not 0 <= self.stop_overlap <= 1:
            raise ValueError(f"stop_overlap is a share in [0, 1], not {self.stop_overlap!r}")
        as_integer("link_warmup", self.link_warmup, 0)
        for name, rule in (("removal", self.removal), ("thinning", self.thinning)):
            if not callable(rule.score):
                raise ValueError(
                    f"the {name} rule ranks links that are there: its score is a function of "
                    f"dst.Links, such as dst.magnitude, not {rule.score!r}"
                )
        if not isinstance(self.regrowth.score, (topo.Predictor, DenseScore)):
            raise ValueError(
                "the regrowth rule ranks absent links: its score is a topo.Predictor, its name, "
                f"or a dst.DenseScore, not {self.regrowth.score!r}"
            )
        _check_call("density", self.density, "(final, progress)", 0.1, 0.0)
        _check_call("churn", self.churn, "(links, final, progress)", 100, 100, 0.0)

    def links(self, final: int, cells: int, progress: float) -> int:
        """How many of a layer's possible links its schedule asks for.

        Raises
        ------
        ValueError
            If that is no link, or more than are possible.
        """
        density = self.density(final / cells, progress)
        if not 0 < density <= 1 or round(density * cells) < 1:
            raise ValueError(
                f"the density schedule of {self.name!r} gives {density!r} at progress "
                f"{progress:.4g}, for a layer of {cells} possible links that ends with {final}: "
                "it must be in (0, 1] and leave a link"
            )
        return round(density * cells)

    def peak_density(self, final: int, cells: int) -> float:
        """The largest density of a layer that ends with so many links, over the evolution."""
        return max(self.links(final, cells, i / 100) for i in range(101)) / cells


def _check_call(name: str, function: Any, arguments: str, *example: float) -> None:
    try:
        function(*example)
    except TypeError as error:
        raise ValueError(
            f"{name} is a function of {arguments}, such as dst.schedules has (share(constant(0.3)) "
            f"for a churn, cubic(0.5) for a density); this one refuses them: {error}"
        ) from None


def as_method(method: str | Method) -> Method:
    """A method, or the one with that name in `METHODS`."""
    return method if isinstance(method, Method) else find(METHODS, method, "method")


_ER = Start("erdos_renyi", "keep")
_CH = Start("small_world", "swi", calibrated="correlated")
_RANDOM: Rule[Any] = Rule(topo.PREDICTORS["random"])
_GRADIENT: Rule[Any] = Rule(gradient_magnitude)
_CH2_SOFT: Rule[Any] = Rule(topo.PREDICTORS["ch2_l3n"], constant(1.0))

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(  # a fixed sparse topology: its updates find nothing to do
            name="static",
            start=_ER,
            churn=share(constant(0.0)),
            removal=Rule(magnitude),
            regrowth=_RANDOM,
        ),
        Method(  # Mocanu et al., Nature Communications 2018
            name="set",
            start=_ER,
            churn=share(constant(0.3)),
            removal=Rule(magnitude),
            regrowth=_RANDOM,
        ),
        Method(  # Evci et al., ICML 2020
            name="rigl",
            start=_ER,
            churn=share(cosine(0.3)),
            removal=Rule(magnitude),
            regrowth=_GRADIENT,
            t_end=0.75,
        ),
        Method(  # Yuan et al., NeurIPS 2021: MEST with EM&S
            name="mest",
            start=_ER,
            density=steps((0.6, 0.05), (1.0, 0.025)),
            thinning=Rule(magnitude_and_gradient(0.01)),
            churn=surplus,
            removal=Rule(magnitude_and_gradient(0.01)),
            regrowth=_RANDOM,
            t_end=0.75,
        ),
        Method(  # Zhang et al., ICLR 2024
            name="cht",
            start=Start("erdos_renyi", "swi", calibrated="correlated"),
            churn=share(cosine(0.3)),
            removal=Rule(magnitude),
            regrowth=Rule(topo.PREDICTORS["ch3_l3p"]),
            percolates=True,
            t_end=0.75,
            stop_overlap=0.9,
        ),
        Method(  # Zhang et al., arXiv 2501.19107
            name="chts",
            start=_CH,
            churn=share(cosine(0.3)),
            removal=Rule(magnitude, delta(0.5, 0.75)),
            regrowth=_CH2_SOFT,
            percolates=True,
            t_end=0.75,
        ),
        Method(  # the same, on the way down from 50 %
            name="chtss",
            start=_CH,
            density=sigmoid(0.5),
            thinning=Rule(importance(alpha=0.0)),
            churn=share(cosine(0.3)),
            removal=Rule(magnitude, delta(0.5, 0.75)),
            regrowth=_CH2_SOFT,
            percolates=True,
            t_end=0.75,
        ),
        Method(  # Zhu and Gupta 2017: gradual magnitude pruning
            name="gmp",
            start=_ER,
            density=cubic(0.5),
            recalls=True,
            churn=share(constant(0.0)),
            removal=Rule(magnitude),
            regrowth=_RANDOM,
            t_end=0.75,
        ),
        Method(  # Liu et al., NeurIPS 2021
            name="granet",
            start=_ER,
            density=cubic(0.5),
            churn=share(cosine(0.3)),
            removal=Rule(magnitude),
            regrowth=_GRADIENT,
            t_end=0.75,
        ),
        Method(  # CHTs on the schedule of GMP
            name="chts_gmp",
            start=_CH,
            density=cubic(0.5),
            churn=share(cosine(0.3)),
            removal=Rule(magnitude, delta(0.5, 0.75)),
            regrowth=_CH2_SOFT,
            percolates=True,
            t_end=0.75,
        ),
    )
}
"""Every method by name."""
