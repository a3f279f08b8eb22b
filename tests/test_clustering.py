"""Bipartite clustering: by hand, by the definitions, against networkx, on anything at all."""

import importlib
import itertools
import math
import os
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms import bipartite

import analysis
import topo

counts = importlib.import_module("analysis.measures.opsahl_counts")
KINDS = ["latapy", "latapy_min", "latapy_max", "opsahl", "opsahl_global", "robins_alexander"]
LOCAL = KINDS[:4]
SIDES = ["output", "input", "both"]
MODES = {"latapy": "dot", "latapy_min": "min", "latapy_max": "max"}
FOLDER = Path(os.environ.get("EPITOPO_DATA", "nowhere")) / "networks" / "bipartite"
REAL = [
    "women",  # Davis's, of networkx
    *(
        pytest.param(name, marks=pytest.mark.skipif(not FOLDER.is_dir(), reason="no EPITOPO_DATA"))
        for name in ("DTI_NuclearReceptor", "DTI_Enzyme")
    ),
]


def real(name):
    if name == "women":
        graph = nx.davis_southern_women_graph()
        return topo.as_adjacency(
            bipartite.biadjacency_matrix(graph, graph.graph["top"], graph.graph["bottom"])
        )
    rows, columns = np.loadtxt(FOLDER / f"{name}.edges", dtype=int).T
    return topo.from_links(rows, columns, (rows.max() + 1, columns.max() + 1))


def random_layer(n_out, n_in, density, seed):
    drawn = np.random.default_rng(seed).random((n_out, n_in)) < density
    return topo.as_adjacency(drawn)


# the definitions, over lists of neighbours


def neighbours(adjacency, side):
    dense = topo.as_adjacency(adjacency).toarray()
    return [set(np.flatnonzero(row).tolist()) for row in (dense if side == "output" else dense.T)]


def latapy_of(adjacency, kind, side):
    """Latapy, Magnien and Del Vecchio 2008, section 4: cc(u, v), and its mean over N(N(u))."""
    of = neighbours(adjacency, side)
    over = {
        "latapy": lambda a, b: len(a | b),
        "latapy_min": lambda a, b: min(len(a), len(b)),
        "latapy_max": lambda a, b: max(len(a), len(b)),
    }[kind]
    values = []
    for u, mine in enumerate(of):
        second = [other for v, other in enumerate(of) if v != u and mine & other]
        pairs = [len(mine & other) / over(mine, other) for other in second]
        values.append(np.nan if not mine else sum(pairs) / len(pairs) if pairs else 0.0)
    return np.array(values)


def four_paths_of(adjacency, side):
    """Opsahl 2013: every path i - a - j - b - k, and whether a third node closes it."""
    of = neighbours(adjacency, side)
    at = neighbours(adjacency, "input" if side == "output" else "output")
    total, closed = np.zeros((2, len(of)), int)
    for j, mine in enumerate(of):
        for a, b in itertools.permutations(mine, 2):
            for i, k in itertools.product(at[a], at[b]):
                if len({i, j, k}) == 3:
                    total[j] += 1
                    closed[j] += bool((of[i] & of[k]) - {a, b})
    return total, closed


def opsahl_of(adjacency, kind, side):
    total, closed = four_paths_of(adjacency, side)
    values = np.where(total > 0, closed / np.maximum(total, 1), 0.0)
    values[[not mine for mine in neighbours(adjacency, side)]] = np.nan
    return values


def robins_alexander_of(adjacency):
    """Robins and Alexander 2004: squares and paths of three links, one by one."""
    of = neighbours(adjacency, "output")
    squares = sum(math.comb(len(u & v), 2) for u, v in itertools.combinations(of, 2))
    paths = sum(
        1
        for i, j in itertools.permutations(range(len(of)), 2)
        for a in of[i]
        for b in of[i] & of[j]
        if a != b
    )  # a - i - b - j: the end j of the outputs, the end a of the inputs
    return 4 * squares / paths if paths else 0.0


def reference(adjacency, kind, side):
    if not topo.as_adjacency(adjacency).nnz:
        return np.nan
    sides = ("output", "input") if side == "both" else (side,)
    if kind == "robins_alexander":
        return robins_alexander_of(adjacency)
    if kind == "opsahl_global":
        total, closed = np.sum(
            [np.sum(four_paths_of(adjacency, one), axis=1) for one in sides], axis=0
        )
        return closed / total if total else np.nan
    local = opsahl_of if kind == "opsahl" else latapy_of
    return np.nanmean(np.concatenate([local(adjacency, kind, one) for one in sides]))


# by hand

# The example of tnet's clustering_tm: six rows, five columns, no two rows share two columns.
#   0: {0, 1}   1: {0, 2, 3}   2: {1, 2}   3: {3}   4: {2, 4}   5: {4}
TNET = np.zeros((6, 5), int)
TNET[[0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 5], [0, 1, 0, 2, 3, 1, 2, 3, 2, 4, 4]] = 1

BY_HAND = {
    # second neighbours share one column each. Of 0: row 1 (1 of a union of 4), row 2 (1 of 3):
    # (1/4 + 1/3) / 2 = 7/24. Of 1: rows 0, 2, 4 (1/4 each) and 3 (1/3): 13/48.
    # Of 2: 0 (1/3), 1 (1/4), 4 (1/3): 11/36. Of 3: 1/3. Of 4: 1/4, 1/3, 1/2: 13/36. Of 5: 1/2
    "latapy": [7 / 24, 13 / 48, 11 / 36, 1 / 3, 13 / 36, 1 / 2],
    # 0: 1/2, 1/2; 1: 1/2, 1/2, 1, 1/2; 2: 1/2 three times; 3: 1; 4: 1/2, 1/2, 1; 5: 1
    "latapy_min": [1 / 2, 5 / 8, 1 / 2, 1, 2 / 3, 1],
    # 0: 1/3, 1/2; 1: 1/3 four times; 2: 1/2, 1/3, 1/2; 3: 1/3; 4: 1/3, 1/2, 1/2; 5: 1/2
    "latapy_max": [5 / 12, 1 / 3, 4 / 9, 1 / 3, 4 / 9, 1 / 2],
    # centred on 0: 1-0-2, closed by column 2. On 1: 0-2 (closed by column 1), 0-4, 0-3, 2-3, 4-3.
    # On 2: 0-1 (closed by column 0), 0-4. On 4: 1-5, 2-5. On 3 and 5: none
    "opsahl": [1, 1 / 5, 1 / 2, 0, 0, 0],
}


@pytest.mark.parametrize("kind", LOCAL)
def test_the_example_of_tnet(kind):
    assert analysis.local_clustering(TNET, kind) == pytest.approx(BY_HAND[kind])
    assert analysis.clustering(TNET, kind) == pytest.approx(np.mean(BY_HAND[kind]))
    assert analysis.local_clustering(TNET.T, kind, "input") == pytest.approx(BY_HAND[kind])


def test_the_example_of_tnet_as_a_whole():
    # 1 + 5 + 2 + 2 paths of length four, of which 1 + 1 + 1 are closed; no square
    assert analysis.clustering(TNET, "opsahl_global") == pytest.approx(3 / 10)
    assert analysis.clustering(TNET, "robins_alexander") == 0


def test_a_square_with_a_tail():
    # Rows {0, 1} and {0, 1, 2}: one square. Paths of three links, by their middle link,
    # (k - 1)(d - 1): 1 + 1 + 2 + 2 + 0 = 6; 4 * 1 / 6
    assert analysis.clustering([[1, 1, 0], [1, 1, 1]], "robins_alexander") == pytest.approx(2 / 3)
    # columns 0 and 1 share both rows, column 2 one of 2 with each: u = 0: (1 + 1/2) / 2; u = 2: 1/2
    assert analysis.clustering([[1, 1, 0], [1, 1, 1]], side="input") == pytest.approx(2 / 3)
    # both: rows 2/3 each, columns 3/4, 3/4, 1/2
    assert analysis.clustering([[1, 1, 0], [1, 1, 1]], side="both") == pytest.approx(2 / 3)


def test_what_closes_a_path_is_not_on_it():
    # i = 0, j = 1, k = 2 all meet in columns 0 and 1: over these two, i and k share no third
    assert analysis.clustering([[1, 1], [1, 1], [1, 1]], "opsahl") == 0
    # with a third column, every path leaves one free
    assert analysis.clustering(np.ones((3, 3)), "opsahl") == 1
    # 0 and 2 share columns 0, 1; over row 1 = {0, 1, 2}: 0-0-1-1-2 and 0-1-1-0-2 are open,
    # with column 2 = {1, 2}: 0-0-1-2-2 (closed by 1), 0-1-1-2-2 (closed by 0): 2 of 4.
    # Row 0: 1-2 over {0, 1}, closed by column 2: 2 of 2. Row 2 as row 1.
    layer = [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert analysis.local_clustering(layer, "opsahl") == pytest.approx([1, 1 / 2, 1 / 2])
    assert analysis.clustering(layer, "opsahl_global") == pytest.approx(6 / 10)


# by the definitions

SMALL = [(4, 5, 0.5), (7, 4, 0.6), (5, 7, 0.9), (6, 6, 0.25), (8, 3, 0.7), (14, 5, 0.5)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_small_layers_by_the_definitions(kind, shape, seed):
    layer = random_layer(*shape, seed)
    for side in SIDES:
        expected = reference(layer, kind, side)
        assert analysis.clustering(layer, kind, side) == pytest.approx(expected, nan_ok=True)
        if kind in LOCAL and side != "both":
            local = (opsahl_of if kind == "opsahl" else latapy_of)(layer, kind, side)
            found = analysis.local_clustering(layer, kind, side)
            assert found == pytest.approx(local, nan_ok=True)


@pytest.fixture(params=[True, False], ids=["bits", "lists"])
def branch(request, monkeypatch):
    monkeypatch.setattr(counts, "_in_bits", lambda n, seconds: request.param)
    monkeypatch.delattr(counts, "_product" if request.param else "_product_of_bits")


@pytest.mark.usefixtures("branch")
def test_every_way_to_count_paths_of_length_four():
    of_several_words = [(140, 30, 0.05), (70, 200, 0.02), (130, 12, 0.2)]
    for seed, shape in enumerate(SMALL + of_several_words):
        layer = random_layer(*shape, seed)
        for side in ("output", "input"):
            expected = four_paths_of(layer, side)
            found = counts.four_paths(layer, side)
            assert [part.tolist() for part in found] == [part.tolist() for part in expected]
            assert all(part.dtype == np.int64 for part in found)


def test_bits_are_left_where_they_would_fill_the_memory():
    assert counts._in_bits(4096, 0)
    assert not counts._in_bits(100_000, 10**6)  # 1.25 GB against 8 MB
    assert counts._in_bits(100_000, 10**9)  # the lists have 8 GB already


@pytest.mark.parametrize("density", [0.01, 0.05, 0.9])
def test_products_agree_on_many_neurons(density, monkeypatch):
    """More than one word of bits, not a multiple of 64 neurons, weights of many planes."""
    layer = topo.erdos_renyi(600, 200, density, seed=1)
    found = []
    for bits in (True, False):
        monkeypatch.setattr(counts, "_in_bits", lambda n, seconds, bits=bits: bits)
        found.append(np.array(counts.four_paths(layer, "output")))
    assert (found[0] == found[1]).all()


def test_products_of_large_weights_are_exact():
    big = 2**24 + 1  # float32 would make it 2**24
    starts, second = np.array([0, 2, 4, 6]), np.array([1, 2, 0, 2, 0, 1], np.int32)
    lists = 0, 3, starts, second, np.full(6, big, np.int32)
    rows = np.zeros((3, 1), np.uint64)
    counts._set_bits(0, 3, starts, second, rows)
    assert rows.tolist() == [[0b110], [0b101], [0b011]]
    # w_ij w_jk over (i, k) = (1, 2) and (2, 1)
    assert counts._product(*lists).tolist() == [2 * big**2] * 3
    assert counts._product_of_bits(*lists, rows).tolist() == [2 * big**2] * 3


# against networkx


def graph_of(layer):
    graph = nx.Graph()
    graph.add_nodes_from(("output", i) for i in range(layer.shape[0]))
    graph.add_nodes_from(("input", i) for i in range(layer.shape[1]))
    rows, columns = (ends.tolist() for ends in topo.links(layer))
    graph.add_edges_from((("output", i), ("input", j)) for i, j in zip(rows, columns))
    return graph


def check_against_networkx(layer):
    graph = graph_of(layer)
    for kind, mode in MODES.items():
        theirs = bipartite.latapy_clustering(graph, mode=mode)
        active = {node: theirs[node] for node in graph if graph.degree(node)}
        for side in ("output", "input"):
            of_side = [value for node, value in active.items() if node[0] == side]
            assert analysis.clustering(layer, kind, side) == pytest.approx(np.mean(of_side))
            local = analysis.local_clustering(layer, kind, side)
            assert local[~np.isnan(local)] == pytest.approx(of_side)
        both = analysis.clustering(layer, kind, "both")
        assert both == pytest.approx(np.mean(list(active.values())))
    theirs = bipartite.robins_alexander_clustering(graph)
    for side in SIDES:
        assert analysis.clustering(layer, "robins_alexander", side) == pytest.approx(theirs)


@pytest.mark.parametrize(
    "shape", [(40, 40, 0.02), (40, 25, 0.1), (25, 60, 0.1), (30, 30, 0.5), (70, 40, 0.05)], ids=str
)
def test_random_layers_against_networkx(shape):
    check_against_networkx(random_layer(*shape, seed=5))


@pytest.mark.parametrize("name", REAL)
def test_real_networks_against_networkx(name):
    check_against_networkx(real(name))


def test_the_southern_women():
    """Opsahl's coefficient of either side, path by path."""
    layer = real("women")
    for side in ("output", "input"):
        expected = four_paths_of(layer, side)
        assert np.array_equal(counts.four_paths(layer, side), expected)
    assert analysis.clustering(layer, "opsahl_global") == pytest.approx(0.7719, abs=5e-5)


# properties


@st.composite
def layers(draw):
    n_out, n_in = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    bits = draw(st.lists(st.booleans(), min_size=n_out * n_in, max_size=n_out * n_in))
    return np.array(bits).reshape(n_out, n_in)


def same(a, b):
    return a == pytest.approx(b, nan_ok=True, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from(KINDS), st.sampled_from(SIDES), st.randoms(use_true_random=False))
def test_any_layer(dense, kind, side, random):
    found = analysis.clustering(dense, kind, side)
    if not dense.any():
        assert found.reason
    assert math.isnan(found) or 0 <= found <= 1
    assert same(found, reference(dense, kind, side))

    other = {"output": "input", "input": "output", "both": "both"}[side]
    assert same(found, analysis.clustering(dense.T, kind, other))

    rows, columns = list(range(dense.shape[0])), list(range(dense.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    assert same(found, analysis.clustering(dense[rows][:, columns], kind, side))
    assert same(found, analysis.clustering(np.pad(dense, ((1, 2), (2, 1))), kind, side))


@settings(max_examples=30, deadline=None)
@given(layers(), st.sampled_from(LOCAL))
def test_only_neurons_without_links_have_no_value(dense, kind):
    for side, axis in (("output", 1), ("input", 0)):
        local = analysis.local_clustering(dense, kind, side)
        assert local.shape == (dense.shape[1 - axis],)
        assert (np.isnan(local) == ~dense.any(axis=axis)).all()
        active = local[~np.isnan(local)]
        assert same(
            analysis.clustering(dense, kind, side), active.mean() if active.size else np.nan
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_dense_layers_and_matchings(kind, side):
    assert analysis.clustering(np.ones((4, 5)), kind, side) == 1
    matching = analysis.clustering(np.eye(4), kind, side)
    if kind == "opsahl_global":
        assert matching.reason == "there is no path of length four"
    else:
        assert matching == 0


def test_one_neuron():
    # five inputs of one output share all they have; the output has nobody to share with
    for kind in MODES:
        assert analysis.clustering(np.ones((1, 5)), kind, "output") == 0
        assert analysis.clustering(np.ones((1, 5)), kind, "input") == 1
        assert analysis.clustering(np.ones((1, 5)), kind, "both") == pytest.approx(5 / 6)
    for kind in ("opsahl", "robins_alexander"):
        assert analysis.clustering(np.ones((1, 5)), kind, "both") == 0
        assert analysis.clustering([[1]], kind, "both") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (1, 5)], ids=str)
def test_empty_layers_have_no_clustering(kind, side, shape):
    found = analysis.clustering(np.zeros(shape), kind, side)
    assert math.isnan(found)
    path = kind == "opsahl_global"
    assert found.reason == ("there is no path of length four" if path else "no neuron has a link")


@pytest.mark.parametrize("kind", KINDS)
def test_a_lattice_is_more_clustered_than_random_layers(kind):
    """At few links: of many, nearly all paths of length four are closed in any layer."""
    lattice, random = (
        analysis.clustering(topo.small_world(120, 90, 0.06, beta=beta, seed=0), kind)
        for beta in (0, 1)
    )
    assert lattice > 1.5 * random > 0


def test_a_network_of_one_layer_is_a_layer():
    network = topo.Network({"fc": TNET})
    assert analysis.clustering(network) == analysis.clustering(TNET)
    assert analysis.local_clustering(network, "opsahl").tolist() == BY_HAND["opsahl"]


REFUSED = {
    "kind": (lambda: analysis.clustering(TNET, "latapi"), "did you mean 'latapy'.*known are"),
    "kind in one": (lambda: analysis.clustering(TNET, ["latapy"]), "unknown kind of clustering"),
    "no kind of neurons": (
        lambda: analysis.local_clustering(TNET, "robins_alexander"),
        "'robins_alexander'.*known are latapy, latapy_min, latapy_max, opsahl$",
    ),
    "side": (
        lambda: analysis.clustering(TNET, side="out"),
        "side must be 'output', 'input' or 'both', not 'out'",
    ),
    "side in one": (lambda: analysis.clustering(TNET, side=["output"]), "side must be 'output'"),
    "both": (
        lambda: analysis.local_clustering(TNET, side="both"),
        "side must be 'output' or 'input', not 'both'",
    ),
    "counts": (lambda: counts.four_paths(topo.as_adjacency(TNET), "both"), "not 'both'"),
    "values": (lambda: analysis.clustering(2 * TNET), "holds 0 and 1; this one holds 2"),
    "nan": (lambda: analysis.local_clustering(TNET * np.nan), "this one holds nan"),
    "vector": (lambda: analysis.clustering(TNET[0]), r"shape \(n_out, n_in\).*\(5,\)"),
    "layers": (
        lambda: analysis.clustering(topo.Network({"a": np.eye(2), "b": np.eye(2)})),
        r"of one layer, and the network has 2: pass network.layers\[name\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
