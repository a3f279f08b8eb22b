"""How much the branches of layers cancel each other: the figure of CHTsL, layer by layer."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import figures
from analysis.page import Item, svg
from analysis.runs import Run, RunError, by_data
from topo.names import unknown

__all__ = [
    "ATTENTION",
    "MEANING",
    "PROJECTIONS",
    "Place",
    "cancellation_figure",
    "cancellation_item",
    "cancellation_table",
    "draw_cancellation",
    "final_cancellation",
    "place",
    "warn_of_left_out",
]

Groups = Mapping[str, Sequence[Run]]

ATTENTION = ("Q", "K", "V", "O")
"""Projections of an attention, in the order of figures."""
_PARTS = {
    **{"Q": ("q_proj", "q"), "K": ("k_proj", "k"), "V": ("v_proj", "v")},
    **{"O": ("o_proj", "out_proj", "o"), "gate": ("gate_proj",)},
    **{"up": ("up_proj", "fc1"), "down": ("down_proj", "fc2")},
}
PROJECTIONS = {part: projection for projection, parts in _PARTS.items() for part in parts}
"""What a layer projects to, by the last part of its name (LLaMA, Marian, BART, T5)."""

_RATIO = "overlap_cancellation_ratio"
_ACROSS = ("encoder_attn", "EncDecAttention")
MEANING = (
    "overlap cancellation ratio (OCR): the share of the overlap of the sparse and the low-rank "
    "branch's outputs S and L, the sum of min(|S|, |L|), in which the two are of opposite signs "
    "and cancel each other (0: nowhere; 0.5: as by chance)"
)
"""What the ratio is, in words."""


class Place(NamedTuple):
    """Where a layer is in its network.

    Attributes
    ----------
    projection : str
        "Q", "K", "V", "O", "gate", "up" or "down".
    block : int
        Its number, from 0, as in the layer's name.
    stack : str
        "" where there is one stack of blocks; else "encoder", "decoder", or "decoder to encoder"
        (the attention of one to the other).
    """

    projection: str
    block: int
    stack: str


def place(layer: str) -> Place | None:
    """Which projection of which block a layer is, by its name; None for other layers.

    Examples
    --------
    >>> from analysis.cancellation import place
    >>> place("model.layers.3.self_attn.q_proj")
    Place(projection='Q', block=3, stack='')
    >>> place("model.decoder.layers.1.encoder_attn.out_proj")
    Place(projection='O', block=1, stack='decoder to encoder')
    >>> place("encoder.block.0.layer.0.SelfAttention.k")
    Place(projection='K', block=0, stack='encoder')
    >>> place("lm_head") is None
    True
    """
    parts = layer.split(".")
    if parts[-1] not in PROJECTIONS:
        return None
    block = next((int(part) for part in parts if part.isdecimal()), 0)
    stack = next((part for part in parts if part in ("encoder", "decoder")), "")
    if any(part in _ACROSS for part in parts):
        stack = "decoder to encoder"
    return Place(PROJECTIONS[parts[-1]], block, stack)


def cancellation_table(groups: Groups, projections: Sequence[str] = ATTENTION) -> pd.DataFrame:
    """The overlap cancellation ratio of every projection and block, over the steps.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`; those whose runs have no two branches are left out.
    projections : sequence of str
        Of "Q", "K", "V", "O", "gate", "up", "down".

    Returns
    -------
    DataFrame
        Columns method (the group's label), stack, projection, block, step,
        overlap_cancellation_ratio: the mean over the runs of a group.

    Raises
    ------
    ValueError
        For an unknown projection.
    RunError
        If some runs of a group have no ratios, or a file is damaged.
    """
    for name in projections:
        if name not in _PARTS:
            raise ValueError(unknown(name, _PARTS, "projection"))
    keys = ["stack", "projection", "block", "step"]
    parts = []
    for label, runs in groups.items():
        tables = [run.cancellation for run in runs]
        there = [table for table in tables if table is not None]
        if not there:
            continue
        for run, table in zip(runs, tables, strict=True):
            if table is None:
                raise RunError(f"{run.path} has no cancellation.jsonl, unlike its other seeds")
        table = pd.concat(there, ignore_index=True)
        places = {layer: at for layer in table["layer"].unique() if (at := place(layer))}
        table = table[table["layer"].isin(list(places))]
        for field in Place._fields:
            table[field] = [getattr(places[layer], field) for layer in table["layer"]]
        table = table[table["projection"].isin(list(projections))]
        mean = table.groupby(keys, sort=False)[_RATIO].mean().reset_index()
        mean.insert(0, "method", label)
        parts.append(mean)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_columns())


def final_cancellation(runs: Sequence[Run], projections: Sequence[str] = ("Q", "K")) -> float:
    """Mean ratio of some projections over all blocks and runs, at the last step that was logged.

    NaN where the runs have no such layers of two branches.
    """
    table = cancellation_table({"": runs}, projections)
    return float(table.loc[table["step"] == table["step"].max(), _RATIO].mean())


def cancellation_figure(groups: Groups, projections: Sequence[str] = ATTENTION) -> Figure:
    """Ratios over steps: a column per projection, a row per group, a line per block.

    As Figures 2, A1 and A2 of CHTsL (2025), with the mean over the blocks. Networks with an encoder
    and a decoder have a row for each, and one for the attention of one to the other.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    projections : sequence of str
        Columns.

    Raises
    ------
    ValueError
        For an unknown projection.
    RunError
        If no run has two branches in such layers, or the runs are of several data sets.

    Examples
    --------
    >>> import analysis
    >>> groups = analysis.find_runs(["runs/naive", "runs/chtsl"])  # doctest: +SKIP
    >>> analysis.cancellation_figure(groups, ["Q", "K"]).savefig("ocr.png")  # doctest: +SKIP
    """
    table = cancellation_table(groups, projections)
    if table.empty:
        raise RunError(
            "no run has what is to be drawn: a sparse and a low-rank branch in layers of the "
            f"projections {', '.join(projections)}"
        )
    data = list(by_data({label: groups[label] for label in table["method"].unique()}))
    if len(data) > 1:
        raise RunError(f"the runs are on several data sets ({', '.join(data)}): draw those of one")
    rows = list(dict.fromkeys(zip(table["method"], table["stack"], strict=True)))
    columns = [name for name in projections if name in set(table["projection"])]
    figure = figures.canvas(min(figures.PAGE, 1.55 * len(columns) + 0.7), 1.36 * len(rows) + 0.55)
    axes = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    colours = figures.depth_colours(int(table["block"].max()) + 1)
    for (method, stack), line in zip(rows, axes, strict=True):
        own = table[(table["method"] == method) & (table["stack"] == stack)]
        name = f"{method}, {stack}" if stack else method
        for column, ax in zip(columns, line, strict=True):
            part = own[own["projection"] == column]
            mean = part.groupby("step")[_RATIO].mean().reset_index()
            figures.cancellation(part, ax, colours=colours, mean=mean)
        line[0].set_ylabel(f"{textwrap.fill(name, 20)}\nOCR")
    for column, ax in zip(columns, axes[0], strict=True):
        ax.set_title(column)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _explain(figure, axes, colours)
    return figure


def draw_cancellation(
    groups: Groups, out: str | os.PathLike[str], projections: Sequence[str] = ATTENTION
) -> Path:
    """Write `cancellation_figure` to a file (.svg, .pdf or .png).

    Warns of the groups that are left out, having no two branches.
    """
    with figures.style():
        file = figures.save(cancellation_figure(groups, projections), out)
    warn_of_left_out(groups)
    return file


def warn_of_left_out(groups: Groups) -> None:
    """Warn of the groups that the figure leaves out, having no two branches."""
    without = [label for label, runs in groups.items() if all(r.cancellation is None for r in runs)]
    if without:
        warnings.warn(f"without two branches, so left out: {', '.join(without)}", stacklevel=3)


def cancellation_item(groups: Groups) -> list[Item]:
    """The figure of a report; none where no attention has two branches."""
    table = cancellation_table(groups)
    if table.empty:
        return []
    shown = {label: groups[label] for label in table["method"].unique()}
    means = any(len(runs) > 1 for runs in shown.values())
    return [
        Item(
            "Figure",
            "Cancellation of the two branches",
            f"The {MEANING}; in the steps that were logged. Columns: the projections of the "
            "attention; a line per block, dark to light from the first to the last, and their "
            f"mean{', each the mean over runs that differ in the seed' * means}.",
            svg(
                cancellation_figure(shown),
                "overlap cancellation ratio of every block's attention over optimizer steps",
            ),
        )
    ]


def _columns() -> list[str]:
    return ["method", "stack", "projection", "block", "step", _RATIO]


def _explain(figure: Figure, axes: np.ndarray, colours: ScalarMappable) -> None:
    """A bar of the blocks' colours, and what the thick line is."""
    blocks = colours.cmap.N
    bar = figure.colorbar(colours, ax=axes, shrink=min(1.0, 2.2 / len(axes)), aspect=18, pad=0.01)
    bar.set_label("block")
    bar.set_ticks(list(range(0, blocks, -(-blocks // 8))))
    bar.minorticks_off()
    bar.outline.set_visible(False)
    mean: Axes = axes[0, 0]
    thick = mean.lines[-1]
    figure.legend([thick], [str(thick.get_label())], loc="outside lower right")
