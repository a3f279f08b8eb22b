"""The lives of the links of several layers, or of several runs, together."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

__all__ = ["pooled_lives"]


def pooled_lives(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Survival and ages of the links of several layers and histories together.

    Parameters
    ----------
    tables : sequence of DataFrame
        From `analysis.survival`.

    Returns
    -------
    DataFrame
        Columns cohort, age (ascending), at_risk, died, survival. "start" and "grown" are
        Kaplan-Meier curves. "ages" is of the links that are alive at the end, which are the
        censored ones: at_risk are those that are at least so old, survival is their share.

    Examples
    --------
    >>> import pandas as pd
    >>> from analysis.measures.pooled import pooled_lives
    >>> one = pd.DataFrame({"layer": "a", "cohort": "start", "age": [0, 5], "at_risk": [2, 2],
    ...                     "died": [0, 1], "survival": [1.0, 0.5]})
    >>> two = one.assign(layer="b", age=[0, 6], at_risk=[4, 4], died=[0, 1])
    >>> pooled_lives([one, two])
      cohort  age  at_risk  died  survival
    0  start    0        6     0  1.000000
    1  start    5        6     1  0.833333
    2  start    6        4     1  0.625000
    0   ages    0        4     0  1.000000
    1   ages    5        4     0  1.000000
    2   ages    6        3     0  0.750000
    """
    parts = []
    for table in tables:
        after = table.groupby(["layer", "cohort"], sort=False)["at_risk"].shift(-1, fill_value=0)
        parts.append(table.assign(ended=table["at_risk"] - after))
    lives = pd.concat(parts).groupby(["cohort", "age"], as_index=False)[["ended", "died"]].sum()
    curves = [_curve(lives[lives["cohort"] == c], c) for c in ("start", "grown")]
    alive = lives.assign(ended=lives["ended"] - lives["died"], died=0)
    ages = _curve(alive.groupby("age", as_index=False)[["ended", "died"]].sum(), "ages")
    ages["survival"] = ages["at_risk"] / ages["ended"].sum()
    return pd.concat([*curves, ages])[["cohort", "age", "at_risk", "died", "survival"]]


def _curve(lives: pd.DataFrame, cohort: str) -> pd.DataFrame:
    at_risk = lives["ended"][::-1].cumsum()[::-1]
    survival = (1 - lives["died"] / at_risk).cumprod()
    table = lives.assign(cohort=cohort, at_risk=at_risk, survival=survival)
    return table.reset_index(drop=True)
