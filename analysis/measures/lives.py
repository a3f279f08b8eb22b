"""How long links live: turnover, ages and survival, from a history's events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

import topo
from topo.adjacency import link_keys, locate
from topo.checks import as_integer, check_type

__all__ = ["lifetimes", "link_ages", "survival", "turnover"]

_SURVIVAL = {
    "layer": "str",
    "cohort": "str",
    "age": "int64",
    "at_risk": "int64",
    "died": "int64",
    "survival": "float64",
}
_TURNOVER = {
    "step": "int64",
    "layer": "str",
    "links": "int64",
    "lost": "int64",
    "grown": "int64",
    "turnover": "float64",
}


def lifetimes(history: topo.History) -> pd.DataFrame:
    """Every life of every link: from the step at which it appeared to that at which it was gone.

    A link that an update removes and regrows at once has not left the topology, and lives on; one
    that returns later begins another life.

    Parameters
    ----------
    history : topo.History

    Returns
    -------
    DataFrame
        Columns layer, row, column, born, died: optimizer steps. `born` is 0 for links of the
        start; `died` is NaN for links that are alive at the history's last step.

    Examples
    --------
    >>> import tempfile, topo, analysis
    >>> folder = tempfile.mkdtemp()
    >>> writer = topo.HistoryWriter(folder, topo.Network({"fc": [[1, 0]]}))
    >>> writer.append(5, topo.Network({"fc": [[0, 1]]}), {"fc": {"removed": [0], "grown": [1]}})
    >>> analysis.lifetimes(topo.History.open(folder))
      layer  row  column  born  died
    0    fc    0       0     0   5.0
    1    fc    0       1     5   NaN
    """
    check_type("history", history, topo.History)
    place = {name: i for i, name in enumerate(history.shapes)}
    parts = [
        (np.full(len(part.links), place[part.layer]), part.links, part.born, _died(part))
        for part in _endings(history)
    ]
    layer, link, born, died = (np.concatenate([part[i] for part in parts]) for i in range(4))
    order = np.lexsort((link, born, layer))
    layer, link = layer[order], link[order]
    row, column = np.divmod(link, np.array([n_in for _, n_in in history.shapes.values()])[layer])
    names = pd.Index(list(history.shapes), dtype="str")
    return pd.DataFrame(
        {
            "layer": names.take(layer),
            "row": row,
            "column": column,
            "born": born[order],
            "died": died[order],
        }
    )


def turnover(history: topo.History) -> pd.DataFrame:
    r"""Share of the links that each update replaced.

    .. math:: \tau_t = |E_{t-1} \setminus E_t| / |E_{t-1}|

    with :math:`E_t` the links after update t. What an update removes and regrows at once is not
    replaced.

    Returns
    -------
    DataFrame
        A row per update and layer: step, layer, links (before the update), lost
        (:math:`|E_{t-1} \setminus E_t|`), grown (:math:`|E_t \setminus E_{t-1}|`), turnover (NaN
        where there was no link to lose).

    Examples
    --------
    >>> import tempfile, topo, analysis
    >>> folder = tempfile.mkdtemp()
    >>> writer = topo.HistoryWriter(folder, topo.Network({"fc": [[1, 0]]}))
    >>> writer.append(5, topo.Network({"fc": [[0, 1]]}), {"fc": {"removed": [0], "grown": [1]}})
    >>> analysis.turnover(topo.History.open(folder))
       step layer  links  lost  grown  turnover
    0     5    fc      1     1      1       1.0
    """
    check_type("history", history, topo.History)
    rows = []
    before: dict[str, _Keys] = {}
    for step, network in history.networks():
        after = {name: link_keys(adjacency) for name, adjacency in network.layers.items()}
        for name, old in before.items():
            stayed = int((locate(old, among=after[name]) >= 0).sum())
            lost, grown = len(old) - stayed, len(after[name]) - stayed
            share = lost / len(old) if len(old) else np.nan
            rows.append((step, name, len(old), lost, grown, share))
        before = after
    return pd.DataFrame(rows, columns=list(_TURNOVER)).astype(_TURNOVER)


def link_ages(history: topo.History, step: int | None = None) -> pd.DataFrame:
    """Ages of the links that are alive at a step.

    Parameters
    ----------
    history : topo.History
    step : int, optional
        The ages are those right after the latest update that is not after it. Default: the last.

    Returns
    -------
    DataFrame
        Columns layer, age (optimizer steps since the link appeared), links (that have this age).

    Raises
    ------
    ValueError
        If the step is negative or no integer.
    """
    check_type("history", history, topo.History)
    asked = history.steps[-1] if step is None else as_integer("step", step, 0)
    at = max(s for s in history.steps if s <= asked)
    rows = []
    for part in _endings(history, at):
        if part.died is None:
            ages, links = np.unique(at - part.born, return_counts=True)
            rows += [
                (part.layer, age, n) for age, n in zip(ages.tolist(), links.tolist(), strict=True)
            ]
    return pd.DataFrame(rows, columns=["layer", "age", "links"]).astype(
        {"layer": "str", "age": "int64", "links": "int64"}
    )


def survival(history: topo.History) -> pd.DataFrame:
    r"""Share of links that live to an age, by the Kaplan-Meier estimator.

    .. math:: S(a) = \prod_{a_i \le a} (1 - d_i / n_i)

    with :math:`d_i` the links that die at age :math:`a_i` and :math:`n_i` those that reached it.
    Links alive at the end of the history are censored: they count among those at risk up to the
    age they reached.

    Returns
    -------
    DataFrame
        Columns layer, cohort ("start": links of the start; "grown": those that appeared later),
        age (optimizer steps), at_risk, died, survival. A row at age 0 (survival 1) for each cohort
        that has links, then one per age at which a link died or was censored.

    References
    ----------
    Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 53, 1958.

    Examples
    --------
    >>> import tempfile, topo, analysis
    >>> folder = tempfile.mkdtemp()
    >>> writer = topo.HistoryWriter(folder, topo.Network({"fc": [[1, 1, 0]]}))
    >>> after = topo.Network({"fc": [[0, 1, 1]]})
    >>> writer.append(5, after, {"fc": {"removed": [0], "grown": [2]}})
    >>> analysis.survival(topo.History.open(folder))
      layer cohort  age  at_risk  died  survival
    0    fc  start    0        2     0       1.0
    1    fc  start    5        2     1       0.5
    2    fc  grown    0        1     0       1.0
    """
    check_type("history", history, topo.History)
    last = history.steps[-1]
    counts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for part in _endings(history):
        age = (last if part.died is None else part.died) - part.born
        for cohort, own in (("start", part.born == 0), ("grown", part.born > 0)):
            ages, ended = np.unique(age[own], return_counts=True)
            died = ended * (part.died is not None)
            table = pd.DataFrame({"age": ages, "ended": ended, "died": died})
            counts.setdefault((part.layer, cohort), []).append(table)
    parts = [
        _kaplan_meier(own).assign(layer=layer, cohort=cohort)
        for layer in history.shapes
        for cohort in ("start", "grown")
        if len(own := pd.concat(counts[layer, cohort]))
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_SURVIVAL))
    return table[list(_SURVIVAL)].astype(_SURVIVAL)


def _kaplan_meier(ends: pd.DataFrame) -> pd.DataFrame:
    by_age = ends.groupby("age")[["ended", "died"]].sum()
    ages = np.union1d([0], by_age.index)
    by_age = by_age.reindex(ages, fill_value=0)
    ended, died = by_age["ended"].to_numpy(), by_age["died"].to_numpy()
    at_risk = ended[::-1].cumsum()[::-1]
    return pd.DataFrame(
        {
            "age": ages.astype(np.int64),
            "at_risk": at_risk,
            "died": died,
            "survival": np.cumprod(1 - died / at_risk),
        }
    )


_Keys = npt.NDArray[np.int64]


class _Ending(NamedTuple):
    """Links of a layer, ascending, whose lives end together: at a step, or not yet."""

    layer: str
    links: _Keys
    born: _Keys
    died: int | None


def _endings(history: topo.History, until: int | None = None) -> Iterator[_Ending]:
    """All lives of all links, reading each update once; in memory, only those that are alive."""
    links = {name: np.empty(0, np.int64) for name in history.shapes}
    born = dict(links)
    for step, network in history.networks():
        if until is not None and step > until:
            break
        for name, adjacency in network.layers.items():
            old, new = links[name], link_keys(adjacency)
            stayed = locate(old, among=new) >= 0
            if not stayed.all():
                yield _Ending(name, old[~stayed], born[name][~stayed], step)
            since = np.full(len(new), step, np.int64)
            since[locate(new, among=old) >= 0] = born[name][stayed]
            links[name], born[name] = new, since
    for name in links:
        yield _Ending(name, links[name], born[name], None)


def _died(part: _Ending) -> npt.NDArray[np.float64]:
    return np.full(len(part.links), np.nan if part.died is None else float(part.died))
