"""The figures that ``epitopo-analysis figure`` writes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from analysis.cancellation import draw_cancellation
from analysis.runs import find_runs
from analysis.scaling import draw_scaling
from analysis.splits import draw_splits

__all__ = ["FIGURES"]


def _scaling(inputs: Sequence[str], out: str) -> Path:
    if len(inputs) > 1:
        raise ValueError(f"the figure scaling takes one table, not {len(inputs)}")
    return draw_scaling(pd.read_csv(inputs[0]), out)


FIGURES: dict[str, Callable[[Sequence[str], str], Path]] = {
    "scaling": _scaling,
    "cancellation": lambda inputs, out: draw_cancellation(find_runs(inputs), out),
    "splits": lambda inputs, out: draw_splits(find_runs(inputs), out),
}
"""Functions of the command's inputs and the file to write."""
