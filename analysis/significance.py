"""Win rates and paired tests: which of some methods, or values of a factor, is better."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

__all__ = ["FEWEST_PAIRS", "holm", "paired_tests", "win_rates"]

#: With fewer pairs that differ, no two-sided p can be below 0.1, so none is given.
FEWEST_PAIRS = 5


def win_rates(scores: pd.DataFrame, *, higher_is_better: bool = True) -> pd.DataFrame:
    """How often each column is the best of its row.

    Parameters
    ----------
    scores : DataFrame
        A row per cell (a setting and a seed, or a task) and a column per method or value of a
        factor; NaN where there is no run.
    higher_is_better : bool

    Returns
    -------
    DataFrame
        By column: cells (rows in which it and at least one other have a score), wins (of ``k``
        that share the best score each gets ``1 / k``), win_rate (their ratio; NaN without cells).

    Examples
    --------
    >>> import pandas as pd, analysis
    >>> scores = pd.DataFrame({"SET": [0.90, 0.95, 0.91], "CHTs": [0.92, 0.95, None]})
    >>> analysis.win_rates(scores)
          cells  wins  win_rate
    SET       2   0.5      0.25
    CHTs      2   1.5      0.75
    """
    there = scores.notna()
    compared = there.to_numpy() & (there.sum(axis=1) > 1).to_numpy()[:, None]
    signed = scores.to_numpy(float) * (1 if higher_is_better else -1)
    best = np.where(compared, signed, -np.inf).max(axis=1, initial=-np.inf)
    is_best = compared & np.isclose(signed, best[:, None], rtol=1e-12, atol=0)
    shares = is_best / np.maximum(is_best.sum(axis=1), 1)[:, None]
    cells = compared.sum(axis=0)
    wins = shares.sum(axis=0)
    rate = np.divide(wins, cells, out=np.full(len(wins), np.nan), where=cells > 0)
    return pd.DataFrame({"cells": cells, "wins": wins, "win_rate": rate}, index=scores.columns)


def paired_tests(
    scores: pd.DataFrame, against: str, *, higher_is_better: bool = True
) -> pd.DataFrame:
    """Compare every column with a baseline, row by row.

    Parameters
    ----------
    scores : DataFrame
        As of `win_rates`.
    against : str
        The baseline: a column.
    higher_is_better : bool

    Returns
    -------
    DataFrame
        By column but the baseline:

        - pairs: rows in which both have a score
        - difference: mean of (its score - the baseline's)
        - better, worse, equal: pairs in which it is so
        - p: two-sided Wilcoxon signed-rank test over the pairs that differ (exact up to 50 of
          them; up to 13 where some differences are as large as others); NaN where fewer than
          `FEWEST_PAIRS` differ
        - p_holm: p after Holm's correction for the number of comparisons

    Raises
    ------
    ValueError
        If the baseline is no column.

    Notes
    -----
    Pairs are taken as independent. Seeds of one setting are not quite, and a test over settings
    says something of those settings alone. Differences of perplexity or accuracy are ranked
    across settings as they are.

    References
    ----------
    Wilcoxon, Biometrics Bulletin 1 (1945); Holm, Scandinavian Journal of Statistics 6 (1979).

    Examples
    --------
    >>> import pandas as pd, analysis
    >>> scores = pd.DataFrame({"SET": [1.0, 2, 3, 4, 5, 6], "CHTs": [1.1, 2.2, 3.3, 4.4, 5.5, 6.6]})
    >>> analysis.paired_tests(scores, "SET").loc["CHTs", ["pairs", "better", "p"]].tolist()
    [6.0, 6.0, 0.03125]
    """
    if against not in scores.columns:
        known = ", ".join(map(str, scores.columns))
        raise ValueError(f"there are no scores of {against!r} to compare with: there are {known}")
    others = [column for column in scores.columns if column != against]
    rows = []
    for column in others:
        both = scores[[column, against]].dropna()
        # equal shares of unequal test sets differ by rounding alone
        difference = np.round((both[column] - both[against]).to_numpy(float), 12)
        gain = difference if higher_is_better else -difference
        rows.append(
            {
                "pairs": len(both),
                "difference": difference.mean() if len(both) else np.nan,
                "better": int((gain > 0).sum()),
                "worse": int((gain < 0).sum()),
                "equal": int((gain == 0).sum()),
                "p": _wilcoxon(difference[difference != 0]),
            }
        )
    index = pd.Index(others, name=scores.columns.name)
    columns = ["pairs", "difference", "better", "worse", "equal", "p"]
    table = pd.DataFrame(rows, index=index, columns=columns)
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return table


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's step-down correction; NaN is no comparison.

    Examples
    --------
    >>> from analysis.significance import holm
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, float)
    corrected = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values) if not np.isnan(values[i])]
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = least
    return corrected


def _wilcoxon(differences: npt.NDArray[np.float64]) -> float:
    if len(differences) < FEWEST_PAIRS:
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)
