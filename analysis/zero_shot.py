"""Zero-shot results: tasks across, models down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.forms import Form
from analysis.papers_text import comparison_text
from analysis.published import published_zero_shot
from analysis.runs import Run, RunError
from analysis.text_tables import BOLD, write_table

__all__ = ["zero_shot_table", "zero_shot_text"]

_SCORE = Form("score", percent=True)
_NO_SHARES = ("perplexity", "bits_per")  # metrics that cannot stand beside accuracies


def zero_shot_table(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """What `epitopo evaluate` found, and what was published.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.

    Returns
    -------
    DataFrame
        A row per group and task (and per published model and task) with the columns model, task,
        metric, value, error, published. Of one run, the error is the standard error over the
        task's samples; of several, the value is their mean and the error their standard deviation.
        Tasks whose metric is no share (perplexities) are left out.
        Published figures are of the tasks that were evaluated; their error is NaN.

    Raises
    ------
    RunError
        If a run was not evaluated.
    """
    rows = []
    for label, runs in groups.items():
        parts = []
        for run in runs:
            if run.zero_shot is None:
                raise RunError(f"{run.path} was not evaluated: epitopo evaluate {run.path}")
            parts.append(run.zero_shot)
        together = pd.concat(parts)
        together = together[~together["metric"].str.contains("|".join(_NO_SHARES))]
        together["stderr"] = pd.to_numeric(together["stderr"], errors="coerce")
        for task, own in together.groupby(level=0, sort=False):
            error = own["stderr"].iloc[0] if len(runs) == 1 else own["value"].std()
            rows.append((label, task, own["metric"].iloc[0], own["value"].mean(), error, False))
    columns = ["model", "task", "metric", "value", "error", "published"]
    table = pd.DataFrame(rows, columns=columns)
    known = published_zero_shot().rename(columns={"chtss": "CHTss"})
    beside = [
        (f"{method}, published", task, "", value, np.nan, True)
        for method, values in known.items()
        for task, value in values.items()
        if task in set(table["task"])
    ]  # fmt: skip
    return pd.concat([table, pd.DataFrame(beside, columns=columns)]) if beside else table


def zero_shot_text(
    groups: Mapping[str, Sequence[Run]], style: str, against: str | None = None
) -> str:
    """The table, win rates and tests over tasks.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.
    style : str
        "text", "markdown", "latex" or "csv".
    against : str, optional
        The model that the others are tested against; by default "dense", if there is one.

    Raises
    ------
    ValueError
        If a run was not evaluated, or there is no such model.
    """
    table = zero_shot_table(groups)
    if style == "csv":
        return table.to_csv(index=False)
    values = table.pivot_table("value", "task", "model", sort=False)
    errors = table.pivot_table("error", "task", "model", sort=False, dropna=False)
    ours = list(table.loc[~table["published"], "model"].unique())
    best = values[ours].max(axis=1)
    shared = values.dropna()  # means of other tasks would be of other things
    rows = []
    for model in values.columns:
        cells = {"model": str(model)}
        for task in values.index:
            text = _SCORE.text(values.loc[task, model], errors[model].get(task, np.nan))
            top = model in ours and len(ours) > 1 and values.loc[task, model] == best[task]
            cells[str(task)] = f"{BOLD}{text}{BOLD}" if top else text
        cells["mean"] = _SCORE.text(shared[model].mean())
        rows.append(cells)
    several = any(len(runs) > 1 for runs in groups.values())
    spread = "standard deviation over runs" if several else "standard error"
    metrics = table[~table["published"]].groupby("metric", sort=False)["task"].unique()
    named = "; ".join(f"{metric}: {', '.join(tasks)}" for metric, tasks in metrics.items())
    text = (
        f"zero-shot scores (%), ± {spread}; mean over the {len(shared)} tasks that all models have"
        f"\n\n{write_table(pd.DataFrame(rows), style)}\n\n{named}"
    )
    if len(ours) < 2:
        return text
    if against is None and "dense" in ours:
        against = "dense"
    return f"{text}\n\n{comparison_text(values[ours], style, 'model', _SCORE, True, against)}"
