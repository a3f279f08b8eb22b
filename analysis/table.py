"""The table that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.measures import elm_overlap
from analysis.runs import Run

__all__ = ["compare", "format_table"]


def compare(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """One row per group of runs that differ in the seed alone.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        From `find_runs`.

    Returns
    -------
    DataFrame
        Columns method, runs, accuracy, accuracy_std (of the last epoch's test accuracy, over
        seeds; NaN for one run), density, active_neuron_rate, elm_overlap (mean over updates,
        layers and seeds; NaN where nothing evolves), links, seconds (of training), and
        samples_per_second. Means over seeds.
    """
    rows = []
    for label, runs in groups.items():
        scores = np.array([r.summary["score"]["final"] for r in runs])
        overlaps = [
            elm_overlap(r.history)["elm_overlap"].mean() for r in runs if r.history is not None
        ]
        rows.append(
            {
                "method": label,
                "runs": len(runs),
                "accuracy": scores.mean(),
                "accuracy_std": scores.std(ddof=1) if len(runs) > 1 else np.nan,
                "density": _mean(runs, "density"),
                "active_neuron_rate": _mean(runs, "active_neuron_rate"),
                "elm_overlap": float(np.mean(overlaps)) if overlaps else np.nan,
                "links": round(_mean(runs, "links")),
                "seconds": np.mean([r.summary["run"]["seconds"] for r in runs]),
                "samples_per_second": np.mean(
                    [r.summary["run"]["samples_per_second"] for r in runs]
                ),
            }
        )
    return pd.DataFrame(rows)


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for people: percentages, units, a dash where there is nothing."""

    def cell(row: pd.Series, column: str, form: str) -> str:
        value = row[column]
        return "–" if pd.isna(value) else form.format(value)

    rows = []
    for _, row in table.iterrows():
        spread = "" if pd.isna(row["accuracy_std"]) else f" ± {100 * row['accuracy_std']:.2f}"
        rows.append(
            {
                "method": row["method"],
                "runs": row["runs"],
                "test accuracy (%)": f"{100 * row['accuracy']:.2f}{spread}",
                "density (%)": f"{100 * row['density']:.2f}",
                "active neurons (%)": f"{100 * row['active_neuron_rate']:.1f}",
                "ELM overlap": cell(row, "elm_overlap", "{:.3f}"),
                "links": f"{row['links']:,}",
                "training (s)": f"{row['seconds']:.1f}",
                "samples/s": f"{row['samples_per_second']:,.0f}",
            }
        )
    return pd.DataFrame(rows)


def _mean(runs: Sequence[Run], key: str) -> float:
    return float(np.mean([r.summary[key] for r in runs]))
