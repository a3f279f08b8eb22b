"""The table that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.cancellation import final_cancellation
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

        Where any of the runs has low rank, after density total_density (share of the dense layers'
        weights that links and low rank came to), and after elm_overlap cancellation (overlap
        cancellation ratio of Q and K at the last logged step, mean over blocks; NaN without two
        branches in them).

    Raises
    ------
    RunError
        If the runs have different scores.
    """
    low_rank = any(r.branches.low_rank is not None for runs in groups.values() for r in runs)
    rows = []
    for label, runs in groups.items():
        kept = {"total_density": np.mean([r.total_density for r in runs])} if low_rank else {}
        cancelled = {"cancellation": final_cancellation(runs)} if low_rank else {}
        linked = runs[0].branches.dense or runs[0].branches.sparse  # low rank alone is not
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
                **kept,
                "active_neuron_rate": _mean(runs, "active_neuron_rate") if linked else np.nan,
                "elm_overlap": float(np.mean(overlaps)) if overlaps else np.nan,
                **cancelled,
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

    def cell(value: float, form: str) -> str:
        return "–" if pd.isna(value) else form.format(value)

    low_rank = "total_density" in table
    rows = []
    for _, row in table.iterrows():
        kept = {"weights kept (%)": f"{100 * row['total_density']:.2f}"} if low_rank else {}
        cancelled = {"OCR of Q, K": cell(row["cancellation"], "{:.3f}")} if low_rank else {}
        score = form(row["measure"])
        rows.append(
            {
                "method": row["method"],
                "runs": row["runs"],
                score.heading: score.text(row["score"], row["score_std"]),
                "density (%)": f"{100 * row['density']:.2f}",
                **kept,
                "active neurons (%)": cell(100 * row["active_neuron_rate"], "{:.1f}"),
                "ELM overlap": cell(row["elm_overlap"], "{:.3f}"),
                **cancelled,
                "links": f"{row['links']:,}",
                "training (s)": f"{row['seconds']:.1f}",
                f"{row['unit']}/s": f"{row['items_per_second']:,.0f}",
            }
        )
    return pd.DataFrame(rows)


def _mean(runs: Sequence[Run], key: str) -> float:
    return float(np.mean([r.summary[key] for r in runs]))
