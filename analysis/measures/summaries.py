"""The measures of every layer at every step, as one tidy table."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pandas as pd
from tqdm import tqdm

import topo
from analysis.measures.cache import Cache, Value, digest
from analysis.measures.correlations import layer_hub_agreement
from analysis.measures.evolution import elm_overlap, itop_rate
from analysis.measures.lives import turnover
from analysis.measures.state import MEASURES, ON_REQUEST, LayerState
from topo.checks import as_integer
from topo.names import find
from topo.parallel import stream_threads

__all__ = ["reasons", "summary"]

_INTEGERS = {"step", "links", "in_degree_max", "out_degree_max"}
_OF_THE_PAST = {"elm_overlap", "turnover", "itop_rate"}  # not of the topology alone: not cached
_CACHED = {name: f for name, f in MEASURES.items() if name not in _OF_THE_PAST}  # no user's own

Past = dict[tuple[int, str], dict[str, float]]


def summary(
    source: topo.Network | topo.History,
    measures: Iterable[str] | None = None,
    *,
    steps: Iterable[int] | None = None,
    cache: bool = True,
    progress: bool | None = None,
) -> pd.DataFrame:
    r"""Measure every layer of a network, or of every recorded step of a history.

    Parameters
    ----------
    source : topo.Network or topo.History
    measures : iterable of str, optional
        Names in `MEASURES`. Default: all but those in `ON_REQUEST` (path_length, unreachable,
        sigma, omega, modularity).
    steps : iterable of int, optional
        Of a history: steps to measure, each the latest recorded one that is not after it. Default:
        all that were recorded.
    cache : bool
        Of a history: take what was measured before from the file beside its folder
        (``topology.measures.parquet`` beside ``topology``), and add to it. A value counts only for
        the very topology it was measured on. Where the folder cannot be written, nothing is kept.
    progress : bool, optional
        Show a progress bar. Default: of a history, on a terminal and in a notebook.

    Returns
    -------
    DataFrame
        Tidy: one row per step and layer with the columns layer, step and a column per measure. NaN
        where a measure has no value; `reasons` says why.

        - links, density
        - active_neuron_rate: share of the layer's output and input neurons that have a link after
          the whole network is percolated (`active_neurons` has that of the network)
        - elm_overlap: |removed & regrown| / |regrown| of the update
        - turnover: share of the links that the update replaced; itop_rate: share of the possible
          links that have ever existed; both of histories alone
        - in_degree_*: of the output neurons; out_degree_*: of the input neurons; inactive
          neurons count with degree 0 (not in \*_alpha, the exponent of a power law that fits)
        - clustering (Latapy's, mean over both sides), robins_alexander, opsahl (both sides):
          `clustering`; `assortativity`; `hub_agreement` (of the layer's input neurons);
          `spectral_gap`; `nestedness`
        - path_length, unreachable: `path_length` of the layer; sigma, omega: `small_worldness`;
          `modularity`

    Raises
    ------
    ValueError
        For an unknown measure; the message names the nearest.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc": topo.erdos_renyi(40, 20, 0.1, seed=0)})
    >>> analysis.summary(net, measures=["links", "density"])
      layer  step  links  density
    0    fc     0     80      0.1
    """
    default = [m for m in MEASURES if m not in ON_REQUEST]
    chosen = default if measures is None else names_of(measures)
    for name in chosen:
        find(MEASURES, name, "measure")
    if isinstance(source, topo.Network):
        if steps is not None:
            raise ValueError("steps are of a History, and this is a Network")
        return _table(_measure(0, source, {}, chosen, {}), chosen)
    if not isinstance(source, topo.History):
        raise ValueError(f"summary takes a Network or a History, not {type(source).__name__}")
    stored = Cache.beside(source) if cache else Cache()
    past = _past(source, chosen)
    wanted = _recorded(source, steps)
    states = ((s, n) for s, n in source.networks() if s in wanted)
    measured: list[tuple[str, list[Value]]] = []  # also by threads that an interrupt leaves behind
    shown = _is_watched() if progress is None else progress
    with tqdm(total=len(wanted), desc="measuring", unit="step", disable=not shown) as bar:

        def measure(state: tuple[int, topo.Network]) -> list[Value]:
            key = digest(*state)
            known = {k: v for k, v in stored.values(state[0], key).items() if _is_built_in(k[1])}
            found = _measure(*state, past, chosen, known)
            measured.append((key, found))
            bar.update()
            return found

        try:
            rows = list(chain.from_iterable(stream_threads(measure, states)))
        finally:
            for key, found in measured:
                stored.add(key, [v for v in found if _is_built_in(v.measure)])
            stored.write()
    return _table(rows, chosen)


def reasons(table: pd.DataFrame) -> pd.DataFrame:
    """Why values of a `summary` are NaN.

    Parameters
    ----------
    table : DataFrame
        As `summary` or `network_summary` returned it; tables made of it may have lost the reasons.

    Returns
    -------
    DataFrame
        Columns step, layer, measure, reason.

    Examples
    --------
    >>> import topo, analysis
    >>> net = topo.Network({"fc": topo.as_adjacency([[0, 0], [0, 0]])})
    >>> table = analysis.summary(net, measures=["links", "clustering"])
    >>> analysis.reasons(table)
       step layer     measure                reason
    0     0    fc  clustering  no neuron has a link
    """
    return pd.DataFrame(
        table.attrs.get("reasons", []), columns=["step", "layer", "measure", "reason"]
    )


def _is_watched() -> bool:
    """Whether somebody sees a progress bar: on a terminal, in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def names_of(measures: Iterable[str]) -> list[str]:
    """Names of measures, which are not one string."""
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list of names, such as [{measures!r}]")
    return list(dict.fromkeys(measures))


def _is_built_in(measure: str) -> bool:
    return MEASURES[measure] is _CACHED.get(measure)


def _recorded(history: topo.History, steps: Iterable[int] | None) -> set[int]:
    if steps is None:
        return set(history.steps)
    if isinstance(steps, int):
        raise ValueError(f"steps must be a list of them, such as [{steps}], not {steps}")
    asked = [as_integer("a step", step, 0) for step in steps]
    return {max(s for s in history.steps if s <= step) for step in asked}


def _past(history: topo.History, chosen: list[str]) -> Past:
    """What the history says of each step and layer: measures that no single topology shows."""
    tables = {"overlap": elm_overlap(history).rename(columns={"elm_overlap": "overlap"})}
    if "turnover" in chosen:
        tables["turnover"] = turnover(history)
    if "itop_rate" in chosen:
        tables["itop_rate"] = itop_rate(history)
    past: Past = {}
    for name, table in tables.items():
        for step, layer, value in zip(table["step"], table["layer"], table[name], strict=True):
            past.setdefault((step, layer), {})[name] = value
    return past


_WITHOUT = {
    "elm_overlap": "nothing was regrown, or the overlap was not recorded",
    "turnover": "there was no link to lose",
}


def _measure(
    step: int, network: topo.Network, past: Past, chosen: list[str], known: dict[Any, Value]
) -> list[Value]:
    missing = [m for m in chosen if any((name, m) not in known for name in network.layers)]
    percolated = topo.percolate(network) if "active_neuron_rate" in missing else network
    agreement = layer_hub_agreement(network) if "hub_agreement" in missing else {}
    rows = []
    for name, adjacency in network.layers.items():
        more = past.get((step, name), {})
        if name in agreement:
            more = {**more, "hub_agreement": agreement[name][0]}
        state = LayerState(adjacency, percolated.layers[name], **more)
        for measure in chosen:
            if (name, measure) in known:
                rows.append(known[name, measure])
                continue
            value = MEASURES[measure](state)
            reason = getattr(value, "reason", "")
            if value != value and not reason:  # NaN
                reason = _WITHOUT.get(measure, "not given")
            rows.append(Value(step, name, measure, float(value), reason))
    return rows


def _table(rows: list[Value], chosen: list[str]) -> pd.DataFrame:
    by_state: dict[tuple[int, str], dict[str, Any]] = {}
    for value in rows:
        state = by_state.setdefault(
            (value.step, value.layer), {"layer": value.layer, "step": value.step}
        )
        state[value.measure] = value.value
    table = pd.DataFrame(by_state.values(), columns=["layer", "step", *chosen])
    types = {name: "int64" if name in _INTEGERS else "float64" for name in ("step", *chosen)}
    table = table.astype({"layer": "str", **types})
    table.attrs["reasons"] = [
        (v.step, v.layer, v.measure, v.reason) for v in rows if v.value != v.value
    ]
    return table
