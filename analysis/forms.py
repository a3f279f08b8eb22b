"""How measures are written: their names, units and digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Form", "form"]


@dataclass(frozen=True)
class Form:
    """How a measure is written for people.

    Attributes
    ----------
    name : str
        "test accuracy".
    percent : bool
        Whether it is a share, written in percent.
    """

    name: str
    percent: bool = False

    @property
    def heading(self) -> str:
        """The name with the unit, for the head of a column."""
        return f"{self.name} (%)" if self.percent else self.name

    def text(self, value: float, spread: float = math.nan) -> str:
        """A value and, where it is a number, its spread; "–" for no value.

        Examples
        --------
        >>> from analysis.forms import form
        >>> form("test_accuracy").text(0.9812, 0.0024), form("test_bleu").text(28.716)
        ('98.12 ± 0.24', '28.72')
        """
        factor = 100 if self.percent else 1
        if math.isnan(value):
            return "–"
        mean = f"{factor * value:.2f}"
        return mean if math.isnan(spread) else f"{mean} ± {factor * spread:.2f}"


_ACRONYMS = {"bleu": "BLEU", "valid": "validation"}


def form(measure: str) -> Form:
    """How a measure of a run is written.

    Parameters
    ----------
    measure : str
        As in ``metrics.jsonl`` and ``summary.json``.

    Examples
    --------
    >>> from analysis.forms import form
    >>> [form(m).heading for m in ("test_accuracy", "test_bleu", "valid_perplexity")]
    ['test accuracy (%)', 'test BLEU', 'validation perplexity']
    """
    words = [_ACRONYMS.get(word, word) for word in measure.split("_")]
    return Form(" ".join(words), percent=measure.endswith("accuracy"))
