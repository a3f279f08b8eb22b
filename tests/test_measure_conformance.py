"""Every registered measure on every odd graph: a value, or NaN with a reason; never a warning.

A measure that is added to `analysis.MEASURES` or `analysis.NETWORK_MEASURES` is tested here by
itself.
"""

import math
import shutil

import numpy as np
import pytest

import analysis
import topo

RING = topo.small_world(12, 12, 0.25, beta=0.0, seed=0)
ISLANDS = topo.as_adjacency(np.kron(np.eye(3), np.ones((2, 3))))
LONELY = topo.erdos_renyi(20, 15, 0.03, seed=0)

NETWORKS = {
    "empty": topo.Network({"a": np.zeros((3, 4))}),
    "empty column": topo.Network({"a": np.zeros((3, 1))}),
    "one output": topo.Network({"a": [[1, 0, 1, 1]]}),
    "one input": topo.Network({"a": [[1], [0], [1], [1]]}),
    "one neuron a side": topo.Network({"a": [[1]]}),
    "one neuron a side, no link": topo.Network({"a": [[0]]}),
    "one neuron a layer": topo.Network({"a": [[1]], "b": [[1]], "c": [[1]]}),
    "one link": topo.Network({"a": [[0, 0], [0, 1], [0, 0]]}),
    "a star": topo.Network({"a": [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]]}),
    "dense": topo.Network({"a": np.ones((5, 4)), "b": np.ones((3, 5))}),
    "large and dense": topo.Network({"a": np.ones((70, 80))}),
    "equal degrees": topo.Network({"a": RING, "b": RING}),
    "in two parts": topo.Network({"a": ISLANDS, "b": ISLANDS.T.tocsr()}),
    "lonely neurons": topo.Network({"a": LONELY, "b": LONELY.T.tocsr()}),
    "an empty layer": topo.Network({"a": RING, "b": np.zeros((4, 12)), "c": np.ones((2, 4))}),
    "no chain": topo.Network({"a": RING, "b": RING}, ()),
    "gated": topo.Network(
        {"gate": RING, "up": np.eye(12), "down": RING},
        (topo.Coupling(("gate", "up"), ("down",)),),
    ),
    "heads": topo.Network(
        {"v": topo.erdos_renyi(4, 6, 0.5, seed=1), "o": topo.erdos_renyi(6, 8, 0.5, seed=2)},
        (topo.Coupling(("v",), ("o",), head_dim=2),),
    ),
    "scale-free": topo.Network({"a": topo.scale_free(300, 250, 0.02, seed=0)}),
}


def loses_all(folder):
    writer = topo.HistoryWriter(folder, topo.Network({"a": RING, "b": [[1] * 12]}))
    none = writer.network.replace({"a": topo.as_adjacency(np.zeros((12, 12)))})
    writer.append(4, none, {"a": {"percolated": topo.adjacency.link_keys(RING)}})
    back = none.replace({"a": topo.as_adjacency(np.eye(12))})
    writer.append(8, back, {"a": {"grown": np.arange(12) * 13}})


def without_updates(folder):
    topo.HistoryWriter(folder, NETWORKS["lonely neurons"])


def changes_nothing(folder):
    writer = topo.HistoryWriter(folder, NETWORKS["in two parts"])
    writer.append(4, writer.network, {})
    link = topo.adjacency.link_keys(ISLANDS)[:1]
    writer.append(5, writer.network, {"a": {"removed": link, "grown": link}}, {"a": 1.0})


def never_a_link(folder):
    writer = topo.HistoryWriter(folder, NETWORKS["empty"])
    writer.append(4, writer.network, {})


HISTORIES = {f.__name__: f for f in (loses_all, without_updates, changes_nothing, never_a_link)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """All networks, and all histories."""
    found = dict(NETWORKS)
    for name, write in HISTORIES.items():
        folder = tmp_path_factory.mktemp(name) / "h"
        write(folder)
        found[name] = topo.History.open(folder)
    return found


SOURCES = [*NETWORKS, *HISTORIES]


def check(table, measures):
    """A value that is finite, or a reason; and no reason where there is a value."""
    reasons = analysis.reasons(table)
    said = {(r.step, r.layer, r.measure): r.reason for r in reasons.itertuples()}
    assert len(said) == len(reasons)
    for row in table.to_dict("records"):
        for measure in measures:
            where = (row["step"], row.get("layer", "network"), measure)
            if math.isnan(row[measure]):
                assert said.pop(where).strip() not in ("", "not given"), where
            else:
                assert math.isfinite(row[measure]), where
    assert not said


@pytest.mark.parametrize("name", SOURCES)
def test_every_measure_of_a_layer_has_a_value_or_a_reason(sources, name):
    source = sources[name]
    table = analysis.summary(source, analysis.MEASURES)
    first = source if isinstance(source, topo.Network) else source.at(0)
    assert len(table) == len(first.layers) * len(getattr(source, "steps", [0]))
    check(table, analysis.MEASURES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_measure_of_a_network_has_a_value_or_a_reason(sources, name):
    table = analysis.network_summary(sources[name], analysis.NETWORK_MEASURES)
    columns = [c for columns, _ in analysis.NETWORK_MEASURES.values() for c in columns]
    assert len(table) == len(getattr(sources[name], "steps", [0]))
    assert list(table) == ["step", *columns]
    check(table, columns)


@pytest.mark.parametrize("measure", analysis.MEASURES)
def test_a_measure_alone_is_as_it_is_among_others(measure):
    network = NETWORKS["lonely neurons"]
    together = analysis.summary(network, analysis.MEASURES)
    assert analysis.summary(network, [measure])[measure].equals(together[measure])


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_is_as_its_networks(sources, name, tmp_path):
    """All measures at once, and what the cache gives back of them."""
    shutil.copytree(sources[name].path, tmp_path / "h")
    history = topo.History.open(tmp_path / "h")
    once, again = (analysis.summary(history, analysis.MEASURES) for _ in range(2))
    check(once, analysis.MEASURES)
    check(again, analysis.MEASURES)
    assert once.equals(again)
    of_updates = ["step", "elm_overlap", "turnover", "itop_rate"]
    for step, network in history.networks():
        alone = analysis.summary(network, analysis.MEASURES).drop(columns=of_updates)
        own = once[once["step"] == step].drop(columns=of_updates).reset_index(drop=True)
        assert alone.equals(own)


# What a neuron's number is does not matter


IN_ORDER = {
    "modularity": "the Leiden algorithm finds an optimum that may depend on the order of links",
    "sigma": "its random graphs depend on the order of links",
    "omega": "its random graphs depend on the order of links",
    "credit_paths": "of neurons of equal degrees the first are hubs",
}


def permuted(network, seed):
    """The same network, its neurons in another order."""
    rng = np.random.default_rng(seed)
    from topo.populations import neurons

    population = neurons(network).population
    sizes = {p: network.layers[n].shape[side] for (n, side), p in population.items()}
    order = {p: rng.permutation(size) for p, size in sizes.items()}
    return network.replace(
        {
            name: topo.as_adjacency(a[order[population[name, 0]]][:, order[population[name, 1]]])
            for name, a in network.layers.items()
        }
    )


PERMUTED = {
    name: NETWORKS[name]
    for name in ("a star", "in two parts", "lonely neurons", "gated", "no chain", "scale-free")
} | {
    "random": topo.Network(
        {"a": topo.erdos_renyi(40, 30, 0.15, seed=3), "b": topo.scale_free(25, 40, 0.2, seed=4)}
    )
}


@pytest.mark.parametrize("name", PERMUTED)
def test_the_order_of_neurons_does_not_matter(name):
    network = PERMUTED[name]
    other = permuted(network, 7)
    assert other.links == network.links
    assert other != network
    chosen = [m for m in analysis.MEASURES if m not in IN_ORDER]
    one, two = (analysis.summary(n, chosen).set_index(["layer", "step"]) for n in (network, other))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
    chosen = [m for m in analysis.NETWORK_MEASURES if m not in IN_ORDER]
    one, two = (analysis.network_summary(n, chosen) for n in (network, other))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
    one, two = (analysis.network_summary(n, ["credit_paths"]) for n in (network, other))
    assert one["credit_paths"].equals(two["credit_paths"])  # their share through hubs may differ


def test_what_depends_on_the_order_is_registered():
    assert set(IN_ORDER) <= set(analysis.MEASURES) | set(analysis.NETWORK_MEASURES)
