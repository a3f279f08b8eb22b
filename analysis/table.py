"""The table that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.forms import form
from analysis.measures import elm_overlap
from analysis.runs import Run, RunError

__all__ = ["compare", "format_table"]


def compare(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """One row per group of runs that differ in the seed alone.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`; all with the same score (`by_data` splits them).

    Returns
    -------
    DataFrame
        Columns method, runs, measure (the name of the score), score, score_std (over seeds; NaN
        for one run), density, active_neuron_rate, elm_overlap (mean over updates, layers and
        seeds; NaN where nothing evolves), links, seconds (of training), unit, and items_per_second
        (samples or tokens, as the unit says). Means over seeds.

    Raises
    ------
    RunError
        If the runs have different scores.
    """
    rows = []
    for label, runs in groups.items():
        scores = np.array([run.score for run in runs])
        overlaps = [
            elm_overlap(r.history)["elm_overlap"].mean() for r in runs if r.history is not None
        ]
        speeds = [r.summary["run"]["samples_per_second"] for r in runs]
        rows.append(
            {
                "method": label,
                "runs": len(runs),
                "measure": runs[0].measure,
                "score": scores.mean(),
                "score_std": scores.std(ddof=1) if len(runs) > 1 else np.nan,
                "density": _mean(runs, "density"),
                "active_neuron_rate": _mean(runs, "active_neuron_rate"),
                "elm_overlap": float(np.mean(overlaps)) if overlaps else np.nan,
                "links": round(_mean(runs, "links")),
                "seconds": np.mean([r.summary["run"]["seconds"] for r in runs]),
                "unit": runs[0].unit,
                "items_per_second": np.mean(speeds),
            }
        )
    measures = sorted({str(row["measure"]) for row in rows})
    if len(measures) > 1:
        raise RunError(f"runs of different scores cannot be compared: {', '.join(measures)}")
    return pd.DataFrame(rows)


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for people: percentages, units, a dash where there is nothing."""

    def cell(row: pd.Series, column: str, form: str) -> str:
        value = row[column]
        return "–" if pd.isna(value) else form.format(value)

    rows = []
    for _, row in table.iterrows():
        score = form(row["measure"])
        rows.append(
            {
                "method": row["method"],
                "runs": row["runs"],
                score.heading: score.text(row["score"], row["score_std"]),
                "density (%)": f"{100 * row['density']:.2f}",
                "active neurons (%)": f"{100 * row['active_neuron_rate']:.1f}",
                "ELM overlap": cell(row, "elm_overlap", "{:.3f}"),
                "links": f"{row['links']:,}",
                "training (s)": f"{row['seconds']:.1f}",
                f"{row['unit']}/s": f"{row['items_per_second']:,.0f}",
            }
        )
    return pd.DataFrame(rows)


def _mean(runs: Sequence[Run], key: str) -> float:
    return float(np.mean([r.summary[key] for r in runs]))
