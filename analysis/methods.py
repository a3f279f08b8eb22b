"""What the methods of runs are called: the branches of their layers, and the papers' names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["METHOD_NAMES", "Branches", "method_place"]

METHOD_NAMES: dict[str | None, str] = {
    None: "dense",
    "static": "static",
    "set": "SET",
    "rigl": "RigL",
    "mest": "MEST",
    "gmp": "GMP",
    "granet": "GraNet",
    "cht": "CHT",
    "chts": "CHTs",
    "chts_gmp": "CHTs(GMP)",
    "chtss": "CHTss",
}
"""Methods as the papers write them, in the order of tables."""


@dataclass(frozen=True)
class Branches:
    """What the layers of a run are made of.

    Attributes
    ----------
    sparse : str or None
        The method that trains the links; None: there are none.
    low_rank : str or None
        The form of the branch of low rank ("silu", "linear", "sltrain"); None: there is none.
    aligned : bool
        Whether an alignment loss brings the two together.

    Examples
    --------
    >>> from analysis.methods import Branches
    >>> halves = {"rank": None, "ratio": 1.0, "form": "silu", "alignment": 0.5}
    >>> Branches.of({"sparsity": {"method": "chts"}, "low_rank": halves}).name
    'CHTsL'
    >>> Branches("rigl", "silu", True).name
    'RigL + low rank, silu, aligned'
    >>> Branches.of({"sparsity": {"method": None}}).name  # of before there was low rank
    'dense'
    """

    sparse: str | None
    low_rank: str | None = None
    aligned: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Branches:
        """Those of a run's configuration."""
        method = config["sparsity"]["method"]
        part = config.get("low_rank") or {}
        ratio, form = part.get("ratio"), str(part.get("form", "silu"))
        if ratio == math.inf or (ratio is None and part.get("rank") is None):
            return cls(method)
        if ratio == 0 or method is None:  # nothing is left to links, or to be aligned
            return cls(None, form)
        return cls(method, form, bool(part.get("alignment")))

    @property
    def dense(self) -> bool:
        """Whether the layers are neither sparse nor of low rank."""
        return self.sparse is None and self.low_rank is None

    @property
    def name(self) -> str:
        """The papers' name, or else one made of the parts."""
        alone = METHOD_NAMES.get(self.sparse, str(self.sparse))
        if self.low_rank is None:
            return alone
        if self in _PAPERS:
            return _PAPERS[self]
        parts = ["low rank" if self.sparse is None else f"{alone} + low rank"]
        parts += [self.low_rank] * (self.low_rank != "linear") + ["aligned"] * self.aligned
        return ", ".join(parts)

    @property
    def key(self) -> str:
        """The name by which published results are found: "dense", "chts", "chtsl"."""
        if self.low_rank is None:
            return self.sparse or "dense"
        return self.name.casefold() if self in _PAPERS else self.name


_PAPERS = {
    Branches(None, "silu"): "CoLA",
    Branches("static", "sltrain"): "SLTrain",
    Branches("chts", "silu", aligned=True): "CHTsL",
}
_ORDER = (
    *METHOD_NAMES.values(),
    *(Branches(*parts).name for parts in ((None, "silu"), ("static", "sltrain"))),
    *(Branches("chts", form).name for form in ("linear", "silu")),
    Branches("chts", "silu", aligned=True).name,
)


def method_place(name: str) -> int:
    """The place of a method in tables, by its name; those without one come last.

    Examples
    --------
    >>> from analysis.methods import method_place
    >>> sorted(["mine", "CHTsL", "CHTs + low rank", "CoLA", "CHTs", "dense"], key=method_place)
    ['dense', 'CHTs', 'CoLA', 'CHTs + low rank', 'CHTsL', 'mine']
    """
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
