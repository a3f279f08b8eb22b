"""The papers' tables as text: scores, training operations, win rates and tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.forms import Form, form
from analysis.papers import find_factor, paper_table, score_cells
from analysis.runs import RunError
from analysis.significance import FEWEST_PAIRS, paired_tests, win_rates
from analysis.text_tables import BOLD, STAR, write_table
from topo.names import unknown

__all__ = ["comparison_text", "factor_text", "papers_text"]

_ACTIVE = "test_accuracy"  # the measure beside which the papers give active neurons


def papers_text(runs: pd.DataFrame, style: str, against: str | None = None) -> str:
    """The papers' table of runs, with what the papers say about it.

    Parameters
    ----------
    runs : DataFrame
        From `analysis.run_table`; all with one measure.
    style : str
        "text", "markdown", "latex", or "csv" (the numbers, a row per cell of the table).
    against : str, optional
        The method that all others are tested against.

    Raises
    ------
    ValueError
        If there are no runs of that method.
    """
    table = paper_table(runs)
    if style == "csv":
        return table.to_csv(index=False)
    score = form(str(runs["measure"].iloc[0]))
    higher = bool(runs["higher_is_better"].iloc[0])
    active = bool((runs["measure"] == _ACTIVE).all())
    scores = _grid(table, _scores(score, active=active), _published(score))
    flops = _grid(table, lambda row: f"{100 * row['training_flops']:.1f}", None)
    unit = " / active neurons (%)" if active else ""
    parts = [
        f"{score.heading}{unit}, mean ± standard deviation over seeds\n\n"
        f"{write_table(scores, style)}\n\n{_legend(table, style)}",
        f"training operations relative to dense (%)\n\n{write_table(flops, style)}",
    ]
    cells = score_cells(runs)
    sparse = list(runs.loc[runs["sparsity"].notna(), "method"].unique())
    if len(sparse) > 1:
        wins = _wins(cells[sparse], style, "method", higher)
        parts.append(f"sparse methods in each setting and seed: {wins}")
    if against is not None:
        parts.append(_tests(cells, against, style, "method", score, higher))
    return "\n\n".join(parts)


def factor_text(runs: pd.DataFrame, by: str, style: str, against: str | None = None) -> str:
    """Win rates over the values of a setting, all other settings being equal.

    Parameters
    ----------
    runs : DataFrame
        From `analysis.run_table`; all with one measure.
    by : str
        The setting: "sparsity.topology", or "topology".
    style : str
        "text", "markdown", "latex" or "csv" (the scores, a row per cell).
    against : str, optional
        The value that all others are tested against.

    Raises
    ------
    ValueError
        If there is no such setting, or nothing to compare.
    """
    factor = find_factor(runs, by)
    cells = score_cells(runs, factor)
    if cells.shape[1] < 2:
        raise RunError(f"the runs have fewer than two values of {factor}: nothing to compare")
    if (cells.notna().sum(axis=1) < 2).all():
        raise RunError(
            f"no two runs differ in {factor} alone: train the other values with the same settings "
            "and seeds (epitopo sweep)"
        )
    if style == "csv":
        return cells.to_csv()
    score = form(str(runs["measure"].iloc[0]))
    higher = bool(runs["higher_is_better"].iloc[0])
    return comparison_text(cells, style, factor, score, higher, against)


def comparison_text(
    cells: pd.DataFrame, style: str, what: str, score: Form, higher: bool, against: str | None
) -> str:
    """Win rates of the columns of a table of cells, and tests against one of them.

    Parameters
    ----------
    cells : DataFrame
        As of `analysis.win_rates`.
    style : str
        "text", "markdown" or "latex".
    what : str
        What the columns are: "method".
    score : Form
        Of the scores.
    higher : bool
        Whether higher scores are better.
    against : str or None
        The baseline of the tests; None: no tests.
    """
    parts = [_wins(cells, style, what, higher, score)]
    if against is not None:
        parts.append(_tests(cells, against, style, what, score, higher))
    return "\n\n".join(parts)


def _wins(
    cells: pd.DataFrame, style: str, what: str, higher: bool, score: Form | None = None
) -> str:
    wins = win_rates(cells, higher_is_better=higher)
    columns = {
        what: list(map(str, wins.index)),
        "cells": [str(n) for n in wins["cells"]],
        "wins": [f"{n:.4g}" for n in wins["wins"]],
        "win rate (%)": [_number(100 * rate, "{:.1f}") for rate in wins["win_rate"]],
    }
    if score is not None:
        means = cells.dropna()[list(wins.index)].mean()
        columns[f"{score.heading}, where all have one"] = [score.text(m) for m in means]
    count = int(cells.notna().any(axis=1).sum())
    return (
        f"win rates over {count} cells; the best of a cell wins, and equals share\n\n"
        f"{write_table(pd.DataFrame(columns), style)}"
    )


def _tests(
    cells: pd.DataFrame, against: str, style: str, what: str, score: Form, higher: bool
) -> str:
    names = {str(name).casefold(): str(name) for name in cells.columns}
    if against.casefold() not in names:
        raise ValueError(f"--against: {unknown(against.casefold(), names, what)}")
    baseline = names[against.casefold()]
    tests = paired_tests(cells, baseline, higher_is_better=higher)
    few = f"– (fewer than {FEWEST_PAIRS} differ)"
    factor = 100 if score.percent else 1
    columns = {
        what: list(map(str, tests.index)),
        "pairs": [str(n) for n in tests["pairs"]],
        "difference": [_number(factor * d, "{:+.3f}") for d in tests["difference"]],
        "better / worse / equal": [
            f"{row.better} / {row.worse} / {row.equal}" for row in tests.itertuples()
        ],
        "p": [_number(p, "{:.3g}", few) for p in tests["p"]],
        "p (Holm)": [_number(p, "{:.3g}") for p in tests["p_holm"]],
    }
    return (
        f"against {baseline}: two-sided Wilcoxon signed-rank tests, paired over cells, with Holm's "
        f"correction\n\n{write_table(pd.DataFrame(columns), style)}"
    )


def _grid(
    table: pd.DataFrame,
    ours: Callable[[pd.Series], str],
    published: Callable[[pd.Series], str] | None,
) -> pd.DataFrame:
    """Methods down, cells across; a row of published figures below where there are any."""
    places = table[["data", "model", "sparsity"]].drop_duplicates()
    alone = ~places[["data", "model"]].apply(tuple, axis=1).isin(
        places.loc[places["sparsity"].notna(), ["data", "model"]].apply(tuple, axis=1)
    )  # dense networks without a sparse one
    order = {name: i for i, name in enumerate(places["data"].unique())}
    places = places[places["sparsity"].notna() | alone].sort_values(
        ["data", "model", "sparsity"],
        key=lambda c: c.map(order) if c.name == "data" else (c if c.name == "model" else -c),
        kind="stable",
    )
    several = places.groupby("data")["model"].nunique()
    rows = []
    for method, own in table.groupby("method", sort=False):
        for name, write in ((str(method), ours), (f"{method}, published", published)):
            if write is None:
                continue
            cells = {"method": name}
            for data, model, sparsity in places.itertuples(index=False):
                here = own[(own["data"] == data) & (own["model"] == model)]
                here = here[here["sparsity"].isna() | (here["sparsity"] == sparsity)]
                head = f"{data}, {model}" if several[data] > 1 else data
                head += "" if np.isnan(sparsity) else f" {100 * sparsity:.4g} %"
                cells[head] = "–" if here.empty else write(here.iloc[0])
            if write is ours or set(cells.values()) - {name, "–"}:
                rows.append(cells)
    return pd.DataFrame(rows)


def _scores(score: Form, *, active: bool) -> Callable[[pd.Series], str]:
    def write(row: pd.Series) -> str:
        text = score.text(row["mean"], row["std"])
        if active:
            text += f" / {100 * row['active_neuron_rate']:.0f}"
        bold = BOLD if row["best"] else ""
        return f"{bold}{text}{bold}{STAR if row['better_than_dense'] else ''}"

    return write


def _published(score: Form) -> Callable[[pd.Series], str]:
    def write(row: pd.Series) -> str:
        text = score.text(row["published"], row["published_std"])
        active = row["published_active_neuron_rate"]
        return text if np.isnan(active) else f"{text} / {100 * active:.0f}"

    return write


def _legend(table: pd.DataFrame, style: str) -> str:
    bold, star = {
        "text": (f"{BOLD}best{BOLD}", "*"),
        "markdown": ("**bold**", r"\*"),
        "latex": ("bold", "$^*$"),
    }[style]
    lines = [f"{bold}: best sparse method; {star}: better than dense"]
    beside = table[table["published"].notna()].astype({"published_steps": int})
    sources = beside["source"].unique()
    lines += [f"published: {'; '.join(sources)}"] if len(sources) else []
    for row in beside.to_dict("records"):
        if row["steps"] != row["published_steps"]:
            lines.append(
                f"{row['data']}: published after {row['published_steps']:,} steps, ours after "
                f"{row['steps']:,}"
            )
        if row["note"]:
            lines.append(f"{row['method']}, published: {row['note']}")
    return "\n".join(dict.fromkeys(lines))


def _number(value: float, digits: str, otherwise: str = "–") -> str:
    return otherwise if np.isnan(value) else digits.format(value)
