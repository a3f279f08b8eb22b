"""How the training went, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

from analysis import figures
from analysis.figure_files.selection import Groups, histories, one_data_set
from analysis.figure_files.trends import (
    add_methods,
    layout,
    network_density,
    step_axis,
)
from analysis.forms import form
from analysis.learning_curves import about_lines, over_seeds
from analysis.runs import Run
from topo.names import find

__all__ = ["flops_figure", "learning_figure", "training_operations"]

_UNITS = ("step", "epoch")


def learning_figure(groups: Groups, *, metric: Sequence[str] | None = None) -> Figure:
    """Columns of ``metrics.jsonl``: a panel per column, a line per group.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    metric : sequence of str, optional
        Default: the losses, and the score or that of validation.

    Raises
    ------
    ValueError
        For a column that no run has.
    RunError
        If the runs are of several data sets.
    """
    one_data_set(groups)
    rows = [
        {"method": label, "seed": run.seed, **line}
        for label, runs in groups.items()
        for run in runs
        for line in run.metrics.to_dict("records")
    ]
    table = pd.DataFrame(rows)
    known = [str(c) for c in table if c not in ("method", "seed", *_UNITS)]
    first = next(iter(groups.values()))[0]
    x = "epoch" if first.unit == "samples" else "step"
    losses = ("train_loss", "valid_loss", "test_loss")
    scores = (first.measure, "valid_accuracy", "valid_perplexity")
    usual = [c for c in losses if c in known][:2] + [c for c in scores if c in known][:1]
    names = usual if metric is None else list(metric)
    for name in names:
        find(dict.fromkeys(known), name, "metric")
    figure, axes = layout(1, len(names))
    for ax, name in zip(axes[0], names, strict=True):
        # steps that were not evaluated are no gaps
        data = over_seeds(table[table[name].notna()], x, [name])
        figures.curves(data, x, name, ax)
        _label(ax, name, data)
        ax.set_xlabel({"step": "optimizer step"}.get(x, x))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    add_methods(figure, axes[0, 0], len(groups))
    figures.footnote(figure, about_lines(groups))
    return figure


def training_operations(run: Run) -> pd.DataFrame:
    r"""What the sparse layers' training cost so far, relative to the whole training of dense ones.

    .. math:: F(t) = \frac{1}{T} \int_0^t d(s)\, ds

    with the density d of all sparse layers together and T steps in all.

    Returns
    -------
    DataFrame
        Columns step, density, flops. A dense network ends at 1.
    """
    last = int(run.metrics["step"].max())
    if run.history is None:
        return pd.DataFrame({"step": [0, last], "density": 1.0, "flops": [0.0, 1.0]})
    table = network_density(run.history, last)
    lasted = np.diff(table["step"], prepend=0)
    spent = (table["density"].shift(fill_value=0.0) * lasted).cumsum() / last
    return table[["step", "density"]].assign(flops=spent)


def flops_figure(groups: Groups) -> Figure:
    """Density over steps and, beside it, its integral: the operations relative to dense.

    Raises
    ------
    RunError
        If no run is sparse.
    """
    sparse = histories(groups)
    shown = {k: runs for k, runs in groups.items() if k in sparse or runs[0].branches.dense}
    table = pd.concat(
        training_operations(run).assign(method=label, seed=run.seed)
        for label, runs in shown.items()
        for run in runs
    )
    data = over_seeds(table, "step", ["density", "flops"])
    total = data.groupby("method")["flops"].last()
    named = {label: f"{label}: {100 * share:.3g} %" for label, share in total.items()}
    data["method"] = data["method"].map(named)
    order = [named.get(label, label) for label in groups]
    figure, (axes,) = layout(1, 2)
    figures.curves(data, "step", "density", axes[0], order=order, steps=True)
    figures.density_axis(axes[0], data["density"])
    axes[0].set_ylabel("density")
    figures.curves(data, "step", "flops", axes[1], order=order)
    axes[1].set_ylabel("training FLOPs / dense")
    axes[1].yaxis.set_major_formatter(figures.percent())
    for ax in axes:
        step_axis(ax)
    add_methods(figure, axes[0], len(shown) + 1)
    figures.footnote(
        figure,
        f"{about_lines(shown)} FLOPs of the sparse layers: the integral of their density; layers "
        "that are dense in all networks and branches of low rank are not counted.",
    )
    return figure


def _label(ax: Axes, column: str, data: pd.DataFrame) -> None:
    name = form(column).name.replace("train ", "training ")
    ax.set_ylabel(f"{name} (nats)" if column.endswith("_loss") else name)
    low, high = data[column].min(), data[column].max()
    if form(column).percent:
        # from where what is near the best is told apart
        final = data.groupby("method")[column].last().min()
        bottom = max(0.0, min(0.9, 1.0 - 4 * (1.0 - float(final))))
        ax.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
        ax.yaxis.set_major_formatter(figures.percent())
    elif low > 0 and high > 3 * low:
        ax.set_yscale("log")
        if high < 300 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
