"""Degrees and hubs: distributions, agreement between layers, credit assignment paths."""

from itertools import pairwise, product

import networkx as nx
import numpy as np
import pytest
from scipy import stats

import analysis
import topo

BLOCK = {
    "gate": topo.erdos_renyi(30, 12, 0.15, seed=1),
    "up": topo.erdos_renyi(30, 12, 0.1, seed=2),
    "down": topo.scale_free(12, 30, 0.1, seed=3),
}
GATED = topo.Network(BLOCK, (topo.Coupling(("gate", "up"), ("down",)),))


def mlp(*widths, density=0.3, seed=0):
    """A chain of random layers."""
    return topo.Network(
        {
            f"fc{i}": np.random.default_rng([seed, i]).random((b, a)) < density
            for i, (a, b) in enumerate(pairwise(widths))
        }
    )


# degree distributions


def test_degree_distribution_by_hand():
    """Two layers: inputs 0 1 2, hidden 0 1 2 (2 inactive), outputs 0 1."""
    net = topo.Network({"fc1": [[1, 1, 0], [0, 1, 0], [0, 0, 0]], "fc2": [[1, 1, 0], [1, 0, 0]]})
    table = analysis.degree_distribution(net)
    assert list(table) == ["layer", "side", "degree", "neurons", "share", "ccdf"]
    assert table.index.tolist() == list(range(len(table)))
    assert [str(table[name].dtype) for name in table][2:] == ["int64", "int64", *["float64"] * 2]
    found = table.to_numpy(dtype=object, na_value=None).tolist()
    assert found == [
        ["fc1", "output", 0, 1, 1 / 3, None],
        ["fc1", "output", 1, 1, 1 / 3, 1.0],
        ["fc1", "output", 2, 1, 1 / 3, 0.5],
        ["fc1", "input", 0, 1, 1 / 3, None],
        ["fc1", "input", 1, 1, 1 / 3, 1.0],
        ["fc1", "input", 2, 1, 1 / 3, 0.5],
        ["fc2", "output", 1, 1, 1 / 2, 1.0],
        ["fc2", "output", 2, 1, 1 / 2, 0.5],
        ["fc2", "input", 0, 1, 1 / 3, None],
        ["fc2", "input", 1, 1, 1 / 3, 1.0],
        ["fc2", "input", 2, 1, 1 / 3, 0.5],
        # 1 2 0, 2 + 2 1 + 1 0, 2 1
        ["network", "both", 0, 2, 2 / 8, None],
        ["network", "both", 1, 2, 2 / 8, 1.0],
        ["network", "both", 2, 3, 3 / 8, 4 / 6],
        ["network", "both", 4, 1, 1 / 8, 1 / 6],
    ]


@pytest.mark.parametrize(
    "net",
    [
        mlp(20, 30, 25, 10, density=0.1),
        mlp(1, 1, 1, density=0.0),
        mlp(3, 4, density=1.0),
        topo.Network({"a": topo.scale_free(40, 40, 0.05, seed=0), "b": [[0, 1]]}, ()),
        GATED,
    ],
    ids=["chain", "empty", "dense", "apart", "gated"],
)
def test_degree_distributions_sum_up_and_agree_with_networkx(net):
    table = analysis.degree_distribution(net)
    for (name, side), own in table.groupby(["layer", "side"]):
        assert own["degree"].is_monotonic_increasing
        assert (own["neurons"] > 0).all()
        assert own["share"].sum() == pytest.approx(1)
        assert own["share"].to_numpy() == pytest.approx(own["neurons"] / own["neurons"].sum())
        active = own[own["degree"] > 0]
        at_least = [active["neurons"][active["degree"] >= k].sum() for k in active["degree"]]
        assert active["ccdf"].tolist() == pytest.approx(at_least / active["neurons"].sum())
        assert own["ccdf"][own["degree"] == 0].isna().all()
        links = (own["degree"] * own["neurons"]).sum()
        if name == "network":
            continue
        assert links == net.layers[name].nnz
        assert own["neurons"].sum() == net.layers[name].shape[side == "input"]
    whole = table[table["layer"] == "network"]
    assert set(whole["side"]) == {"both"}
    counted = dict(zip(whole["degree"], whole["neurons"]))
    # a simple graph: gate and up between the same two neurons are one link
    degrees = [k for _, k in nx.Graph(topo.to_networkx(net)).degree()]
    assert counted == {k: degrees.count(k) for k in set(degrees)}


def test_an_adjacency_is_a_network_of_one_layer():
    table = analysis.degree_distribution(topo.as_adjacency([[1, 1]]))
    assert table["layer"].unique().tolist() == ["layer", "network"]
    assert analysis.credit_paths(topo.as_adjacency([[1, 1]])).chains == 2


def test_degrees_of_no_side_are_refused():
    with pytest.raises(ValueError, match="side must be 'output' or 'input', not 'left'"):
        analysis.degrees(BLOCK["up"], "left")


# hub agreement


def test_hub_agreement_by_hand():
    """In-degrees 2 1 0, out-degrees 2 1 1: ranks 3 2 1 and 3 1.5 1.5."""
    net = topo.Network({"fc1": [[1, 1], [1, 0], [0, 0]], "fc2": [[1, 1, 0], [1, 0, 1]]})
    table = analysis.hub_agreement(net)
    assert list(table) == ["layer", "hub_agreement", "neurons", "reason"]
    assert table["layer"].tolist() == ["fc1", "fc2"]
    assert table["neurons"].tolist() == [0, 3]
    assert table["hub_agreement"][1] == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(table["hub_agreement"][0])
    assert table["reason"].tolist() == ["no other layer ends at this layer's input neurons", ""]
    turned = topo.Network({"fc1": [[1, 1], [1, 0]], "fc2": [[0, 1], [1, 1]]})
    assert analysis.hub_agreement(turned)["hub_agreement"][1] == -1


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (
            mlp(40, 50, 30, 10, density=0.03, seed=3),
            {"fc1": (("fc0",), ("fc1",)), "fc2": (("fc1",), ("fc2",))},
        ),
        (GATED, {"down": (("gate", "up"), ("down",))}),
        (
            topo.Network(
                {"o": topo.erdos_renyi(12, 9, 0.3, seed=8), **BLOCK},
                (topo.Coupling(("o",), ("gate", "up")), topo.Coupling(("gate", "up"), ("down",))),
            ),
            {
                "gate": (("o",), ("gate", "up")),
                "up": (("o",), ("gate", "up")),
                "down": (("gate", "up"), ("down",)),
            },
        ),
    ],
    ids=["chain", "gated", "gated and fed"],
)
def test_hub_agreement_is_spearmans_of_neurons_with_links(net, expected):
    found = analysis.hub_agreement(net).set_index("layer")
    assert list(found.index) == list(net.layers)
    for name, (ending, leaving) in expected.items():
        into = sum(np.diff(net.layers[n].indptr) for n in ending)
        out = sum(net.layers[n].sum(axis=0) for n in leaving)
        active = (into > 0) | (out > 0)
        reference = stats.spearmanr(into[active], out[active]).statistic
        assert found.loc[name, "hub_agreement"] == pytest.approx(reference, abs=1e-12)
        assert found.loc[name, "neurons"] == active.sum()
    others = found.drop(index=list(expected))
    assert others["hub_agreement"].isna().all()
    assert (others["reason"] != "").all()
    if list(net.layers) == ["fc0", "fc1", "fc2"]:  # the case has inactive neurons, and they matter
        into, out = np.diff(net.layers["fc0"].indptr), net.layers["fc1"].sum(axis=0)
        assert found.loc["fc1", "neurons"] < 50
        assert found.loc["fc1", "hub_agreement"] != pytest.approx(
            stats.spearmanr(into, out).statistic
        )


@pytest.mark.parametrize(
    ("layers", "neurons", "reason"),
    [
        ({"a": [[0], [0]], "b": [[0, 0]]}, 0, "needs two active neurons, and there are 0"),
        ({"a": [[1], [0]], "b": [[1, 0]]}, 1, "needs two active neurons, and there are 1"),
        ({"a": [[1], [1]], "b": [[1, 0]]}, 2, "all degrees of one side are equal"),
        ({"a": [[1], [0]], "b": [[1, 1]]}, 2, "all degrees of one side are equal"),
    ],
    ids=["empty", "one neuron", "equal in-degrees", "equal out-degrees"],
)
def test_where_there_is_no_agreement(layers, neurons, reason):
    row = analysis.hub_agreement(topo.Network(layers)).iloc[1]
    assert np.isnan(row["hub_agreement"])
    assert reason in row["reason"]
    assert row["neurons"] == neurons


# credit assignment paths


def by_enumeration(net, hubs):
    """Chains counted one by one, and the hubs sorted out by hand: (all, every hub, any, layers)."""
    layers = [a.toarray() for a in net.layers.values()]
    chosen = []
    for into, out in pairwise(layers):
        degree = into.sum(axis=1) + out.sum(axis=0)
        ranked = sorted(range(len(degree)), key=lambda i: (-degree[i], i))
        chosen.append(set(ranked[: max(1, round(hubs * len(degree)))]))
    chains = [
        neurons[1:-1]
        for neurons in product(range(layers[0].shape[1]), *(range(len(a)) for a in layers))
        if all(a[j, i] for a, i, j in zip(layers, neurons, neurons[1:]))
    ]
    passed = [[n in own for n, own in zip(chain, chosen)] for chain in chains]
    through = [sum(one[i] for one in passed) for i in range(len(chosen))]
    return len(chains), sum(map(all, passed)), sum(map(any, passed)), chosen, through


@pytest.mark.parametrize("seed", range(24))
def test_credit_paths_are_those_that_can_be_enumerated(seed):
    rng = np.random.default_rng(seed)
    widths = rng.integers(1, 6, size=rng.integers(2, 6)).tolist()
    hubs = float(rng.choice([0.05, 0.3, 0.5, 0.8, 1.0]))
    net = mlp(*widths, density=rng.choice([0.2, 0.5, 0.8]), seed=seed)
    chains, through_all, through_any, chosen, through = by_enumeration(net, hubs)
    found = analysis.credit_paths(net, hubs)
    assert (found.chains, found.through_hubs) == (chains, through_all)
    assert found.through_any_hub == through_any
    table = found.layers
    assert list(table) == ["layer", "neurons", "hubs", "chains", "share"]
    assert table["layer"].tolist() == list(net.layers)[:-1]
    assert table["neurons"].tolist() == widths[1:-1]
    assert table["hubs"].tolist() == [len(own) for own in chosen]
    assert table["chains"].tolist() == through
    if not through:
        assert found.hub_share.reason == "a single layer has no middle neurons"
    elif chains:
        assert found.hub_share == through_all / chains
        assert table["share"].tolist() == [n / chains for n in through]
    else:
        assert np.isnan(found.hub_share)
        assert found.hub_share.reason == "no chain leads from input to output"
        assert table["share"].isna().all()


def test_credit_paths_agree_with_the_simple_paths_of_networkx():
    net = mlp(5, 7, 6, 4, density=0.4, seed=5)
    graph = topo.to_networkx(net)
    inputs, outputs = range(5), range(5 + 7 + 6, 5 + 7 + 6 + 4)
    paths = [p for i in inputs for p in nx.all_simple_paths(graph, i, outputs)]
    assert analysis.credit_paths(net).chains == len(paths) > 20


def test_credit_paths_by_hand():
    """Hidden degrees 3 3 2: of the equal ones the first is the hub, with 2 x 1 chains."""
    net = topo.Network({"fc1": [[1, 1], [1, 0], [1, 0]], "fc2": [[1, 1, 0], [0, 1, 1]]})
    found = analysis.credit_paths(net)
    assert (found.chains, found.through_hubs, found.through_any_hub) == (5, 2, 2)
    assert found.layers.to_numpy().tolist() == [["fc1", 3, 1, 2.0, 0.4]]
    assert found.hub_share == 0.4
    two = analysis.credit_paths(net, hubs=0.5)  # round(1.5)
    assert (two.through_hubs, two.layers["hubs"].item()) == (4, 2)


@pytest.mark.parametrize(
    ("neurons", "hubs", "expected"),
    [(4, 0.3, 1), (3, 0.5, 2), (5, 0.7, 4), (1, 0.05, 1), (9, 0.05, 1), (100, 0.05, 5), (7, 1, 7)],
)
def test_how_many_are_hubs(neurons, hubs, expected):
    net = topo.Network({"fc1": np.ones((neurons, 2)), "fc2": np.ones((1, neurons))})
    assert analysis.credit_paths(net, hubs).layers["hubs"].item() == expected


def test_one_layer_has_no_middle_neurons():
    found = analysis.credit_paths(topo.Network({"fc": [[1, 1], [0, 1]]}))
    assert found.chains == 3
    assert found.through_any_hub == 0
    assert len(found.layers) == 0


def test_more_chains_than_floating_point_counts():
    dense = topo.as_adjacency(np.ones((60, 60)))
    found = analysis.credit_paths(topo.Network({f"fc{i}": dense for i in range(180)}))
    assert found.chains == np.inf
    assert np.isnan(found.hub_share)
    assert found.hub_share.reason == "there are more chains than floating point counts"
    deep = analysis.credit_paths(topo.Network({f"fc{i}": dense for i in range(150)}), hubs=1)
    assert deep.chains == pytest.approx(60.0**151)
    assert deep.hub_share == 1


@pytest.mark.parametrize(
    "net",
    [
        topo.Network({"a": [[1]], "b": [[1]]}, ()),
        topo.Network({"b": [[1]], "a": [[1]]}, (topo.Coupling(("a",), ("b",)),)),  # backwards
        GATED,
        topo.Network({"a": [[1]]}, (topo.Coupling(("a",), ("a",)),)),  # a loop
        topo.Network(  # a skip: the outputs of the last are those of the first
            {"a": [[1]], "b": [[1]]}, (topo.Coupling(("a",), ("b",)), topo.Coupling(("b", "a")))
        ),
        topo.Network(
            {"v": np.ones((4, 4)), "o": np.ones((4, 8))},
            (topo.Coupling(("v",), ("o",), head_dim=2),),
        ),
    ],
    ids=["apart", "backwards", "gated", "loop", "skip", "heads"],
)
def test_credit_paths_of_what_is_no_chain_are_refused(net):
    with pytest.raises(ValueError, match="are no chain, each ending where the next begins"):
        analysis.credit_paths(net)
    row = analysis.network_summary(net, measures=["credit_paths"])
    assert row[["credit_paths", "hub_share"]].isna().all(axis=None)
    assert analysis.reasons(row)["reason"].str.contains("are no chain").tolist() == [True, True]


@pytest.mark.parametrize("hubs", [0, -0.1, 1.01, "all", None, True, float("nan")])
def test_a_share_of_hubs_is_checked(hubs):
    with pytest.raises(ValueError, match=r"hubs.*must be in \(0, 1\], not"):
        analysis.credit_paths(mlp(2, 3, 2), hubs)
