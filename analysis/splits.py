"""Scores over the split of a budget among links and low rank: the figure of CHTsL."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.forms import form
from analysis.learning_curves import add_legend
from analysis.runs import Run, RunError

__all__ = ["draw_splits", "split_table", "splits_figure", "warn_of_budgets"]

Groups = Mapping[str, Sequence[Run]]

_SPLIT = ("sparsity.density", "low_rank.rank", "low_rank.ratio")  # what may differ along a line
_SAME = 0.005  # of the dense weights: ranks are round numbers
_NEAR = 0.05  # shares whose ticks would overlap


def split_table(groups: Groups) -> pd.DataFrame:
    """Scores by the share of low rank in the weights that a network keeps.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`: of one data set, model and total sparsity. Runs without low rank, and
        those of low rank alone, are the ends of the scale.

    Returns
    -------
    DataFrame
        A row per method and split, with

        - method: its name, and the settings in which runs of a method differ beside the split
        - density, total_density: share of the dense layers' weights that are links, and that of
          both branches
        - share: of low rank in those, in [0, 1]
        - measure, score, score_std (over seeds; NaN for one run), runs (how many)

        sorted by share within a method.

    Raises
    ------
    RunError
        If the runs cannot be compared: the message names what differs; or if there are fewer than
        two splits.
    """
    runs = [run for group in groups.values() for run in group]
    _check(runs)
    lines = _lines(runs)
    rows = [
        {
            "method": lines[id(run)],
            "density": float(run.summary["density"]),
            "total_density": run.total_density,
            "share": round(1 - float(run.summary["density"]) / run.total_density, 6),
            "measure": run.measure,
            "score": run.score,
        }
        for run in runs
    ]
    table = pd.DataFrame(rows)
    keys = ["method", "share", "measure"]
    grouped = table.groupby(keys, sort=False)
    mean = grouped[["density", "total_density", "score"]].mean()
    mean["score_std"] = grouped["score"].std()
    mean["runs"] = grouped.size()
    if mean.index.get_level_values("share").nunique() < 2:
        raise RunError("the runs have one split of their weights alone: train others, too")
    order = {name: i for i, name in enumerate(table["method"].unique())}
    columns = ["method", "density", "total_density", "share", "measure", "score", "score_std"]
    return mean.reset_index().sort_values(
        ["method", "share"], key=lambda c: c.map(order) if c.name == "method" else c
    )[[*columns, "runs"]].reset_index(drop=True)  # fmt: skip


def splits_figure(groups: Groups) -> Figure:
    """The score over the share of low rank, a line per method; bars: one standard deviation.

    As Figure 3 of CHTsL (2025). Below each share stands what the runs really have: percent of the
    dense weights that are links, and that are of low rank.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        As of `split_table`, with the same errors.
    """
    table = split_table(groups)
    first = next(iter(groups.values()))[0]
    figure = figures.canvas(4.2, 2.8)
    ax = figure.add_subplot()
    figures.splits(table, ax)
    total = f"{100 * first.sparsity:.3g} % sparse in all"
    ax.set_title(f"{first.data}, {first.model}, {total}")
    ax.set_ylabel(form(first.measure).heading)
    ax.set_xlabel("share of low rank in the weights that are kept")
    ax.set_xlim(-0.06, 1.06)
    _label_shares(ax, table)
    add_legend(figure, ax, "best")
    return figure


def draw_splits(groups: Groups, out: str | os.PathLike[str]) -> Path:
    """Write `splits_figure` to a file (.svg, .pdf or .png).

    Warns where the budgets are not what was set.
    """
    with figures.style():
        file = figures.save(splits_figure(groups), out)
    warn_of_budgets(groups)
    return file


def warn_of_budgets(groups: Groups) -> None:
    """Warn of budgets that are not what was set: ranks are rounded (much, in small models)."""
    kept = [run.total_density for group in groups.values() for run in group]
    if max(kept) - min(kept) > _SAME:
        told = f"{100 * min(kept):.3g} to {100 * max(kept):.3g} % of the dense weights"
        warnings.warn(f"as ranks are rounded, the runs keep {told}, unequal budgets", stacklevel=3)


def _check(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.branches.dense:
            raise RunError(f"{run.path} is dense: it has no budget to split; leave it out")
    for what, values in {
        "data sets": {run.data: run for run in runs},
        "models": {run.model: run for run in runs},
        "scores": {run.measure: run for run in runs},
    }.items():
        if len(values) > 1:
            raise RunError(f"the runs are of several {what}: {_named(values)}")
    sparsities = {run.sparsity: run for run in runs}
    if max(sparsities) - min(sparsities) > _SAME:
        told = {f"{100 * s:.4g} %": sparsities[s] for s in sorted(sparsities)}
        raise RunError(f"the runs are of several total sparsities: {_named(told)}")


def _named(values: Mapping[str, Run]) -> str:
    return ", ".join(f"{value} ({run.path})" for value, run in values.items())


def _lines(runs: Sequence[Run]) -> dict[int, str]:
    """The name of each run's line, by its id: the method, and settings where those differ."""
    fixed = {
        id(run): {k: json.dumps(v) for k, v in run.settings.items() if k not in _SPLIT}
        for run in runs
    }
    names = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        differ = _differing([fixed[id(run)] for run in own])
        for run in own:
            settings = fixed[id(run)]
            told = [f"{k.rpartition('.')[2]}={settings.get(k, 'null')}" for k in differ]
            names[id(run)] = f"{method} ({', '.join(told)})" if told else method
    return names


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for own in settings for key in own)
    return [key for key in keys if len({own.get(key) for own in settings}) > 1]


def _label_shares(ax: Axes, table: pd.DataFrame) -> None:
    """A tick per split, a small table below; of shares that are too near, the first has one."""
    ticks: list[float] = []
    labels = []
    for row in table.drop_duplicates("share").sort_values("share").to_dict("records"):
        if ticks and row["share"] - ticks[-1] < _NEAR:
            continue
        ticks.append(row["share"])
        weights = 100 * row["density"], 100 * (row["total_density"] - row["density"])
        labels.append("\n".join([f"{row['share']:.0%}", *(f"{w:.2g}" for w in weights)]))
    ax.set_xticks(ticks, labels)
    ax.annotate(
        "share\nlinks (% of dense)\nlow rank (% of dense)",
        (0, 0),
        (-3, -7),  # where the ticks' labels begin
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=rcParams["xtick.labelsize"],
        color="#555555",
    )
