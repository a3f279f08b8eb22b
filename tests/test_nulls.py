"""Random graphs of given degrees, the lattice, and the small-worldness measured against them."""

import itertools
import math
import os
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms import bipartite
from scipy import stats

import analysis
import topo

FOLDER = Path(os.environ.get("EPITOPO_DATA", "nowhere")) / "networks" / "bipartite"


def women():
    graph = nx.davis_southern_women_graph()
    matrix = bipartite.biadjacency_matrix(graph, graph.graph["top"], graph.graph["bottom"])
    return topo.as_adjacency(matrix)


def enzymes():
    rows, columns = np.loadtxt(FOLDER / "DTI_Enzyme.edges", dtype=int).T
    return topo.from_links(rows, columns, (rows.max() + 1, columns.max() + 1))


def degrees(adjacency):
    dense = topo.as_adjacency(adjacency).toarray()
    return dense.sum(axis=1).tolist(), dense.sum(axis=0).tolist()


def graphs_of(rows, columns):
    """Every 0/1 matrix with these sums."""
    choices = [list(itertools.combinations(range(len(columns)), k)) for k in rows]
    for chosen in itertools.product(*choices):
        if Counter(itertools.chain(*chosen)) == Counter(dict(enumerate(columns))) - Counter():
            dense = np.zeros((len(rows), len(columns)), bool)
            for i, of_row in enumerate(chosen):
                dense[i, list(of_row)] = True
            yield dense


# random graphs of the same degrees


def test_two_links_swap_or_stay():
    """The degrees (1, 1) and (1, 1) have two graphs."""
    drawn = [analysis.degree_preserving_null(np.eye(2), seed=seed).toarray() for seed in range(400)]
    same = sum(bool(a[0, 0]) for a in drawn)
    assert all(a.sum() == 2 and a[0, 0] == a[1, 1] != a[0, 1] for a in drawn)
    assert abs(same - 200) < 3 * 10  # standard deviation 10


@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize(
    ("rows", "columns", "graphs"),
    [
        ((1, 1, 1), (1, 1, 1), 6),
        ((2, 2, 1), (2, 2, 1), 5),
        ((2, 1, 1, 1), (3, 1, 1), 7),
        ((2, 2, 1, 1), (2, 2, 2), 15),
        ((3, 2, 1), (2, 2, 1, 1), 8),
        ((2, 2, 2), (2, 2, 2), 6),
        ((3, 1), (1, 1, 1, 1), 4),
    ],
    ids=str,
)
def test_every_graph_is_as_likely(rows, columns, graphs, wide):
    every = list(graphs_of(rows, columns))
    assert len(every) == graphs
    at = np.arange(len(columns))
    if wide:  # over more than one word of 64 bits, and over the ends of words
        at = np.array([0, 63, 64, 131])[at]
    start = np.zeros((len(rows), at.max() + 1), bool)
    start[:, at] = every[0]
    draws = 150 * graphs
    found = Counter(
        analysis.degree_preserving_null(start, swaps=12, seed=seed).toarray()[:, at].tobytes()
        for seed in range(draws)
    )
    seen = [found.pop(a.tobytes(), 0) for a in every]
    assert not found, "a graph of other degrees"
    assert stats.chisquare(seen).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (30, 20), (20, 200), (65, 64)], ids=str)
@pytest.mark.parametrize("density", [0.02, 0.3, 0.97])
def test_degrees_stay(shape, density):
    layer = topo.as_adjacency(np.random.default_rng(0).random(shape) < density)
    for seed in range(3):
        drawn = analysis.degree_preserving_null(layer, seed=seed)
        assert drawn.shape == layer.shape
        assert degrees(drawn) == degrees(layer)
        assert topo.as_adjacency(drawn) is drawn, "canonical"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_degrees_of_any_layer_stay(data):
    shape = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    size = shape[0] * shape[1]
    bits = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    dense = np.array(bits).reshape(shape)
    seed = data.draw(st.integers(-(2**70), 2**70))
    drawn = analysis.degree_preserving_null(dense, seed=seed)
    assert degrees(drawn) == degrees(dense)
    if len(list(itertools.islice(graphs_of(*degrees(dense)), 2))) == 1:  # a Ferrers diagram, say
        assert (drawn.toarray() == dense).all()


def test_the_seed_decides():
    layer = women()
    drawn = [analysis.degree_preserving_null(layer, seed=seed) for seed in (0, 0, 1)]
    assert (drawn[0] != drawn[1]).nnz == 0
    assert (drawn[0] != drawn[2]).nnz > 0
    assert (drawn[0] != layer).nnz > 0


def test_swaps_are_attempts_per_link():
    layer = topo.small_world(40, 40, 0.1, beta=0.0, seed=0)
    assert (analysis.degree_preserving_null(layer, swaps=0, seed=0) != layer).nnz == 0
    moved = [
        (analysis.degree_preserving_null(layer, swaps=n, seed=0) > layer).nnz / layer.nnz
        for n in (1, 3, 10)
    ]
    # a swap moves two links: after one attempt per link, 1 - exp(-2) of them were moved, less
    # what was refused or moved back; at last, all but the density were
    assert 0.6 < moved[0] < 1 - math.exp(-2) < moved[2]
    assert moved[2] == pytest.approx(0.9, abs=0.05)


def test_nulls_of_the_southern_women():
    """Clustering and path length as in a plain chain of swaps, over sets of links."""
    layer = women()
    ours = [analysis.degree_preserving_null(layer, swaps=20, seed=seed) for seed in range(60)]
    rng = np.random.default_rng(0)
    listed = list(zip(*(ends.tolist() for ends in topo.links(layer))))
    links = set(listed)
    plain = []
    for _ in range(60):
        for _ in range(20 * len(listed)):
            p, q = rng.integers(len(listed), size=2)
            (i, a), (j, b) = listed[p], listed[q]
            if (i, b) not in links and (j, a) not in links:
                links -= {(i, a), (j, b)}
                links |= {(i, b), (j, a)}
                listed[p], listed[q] = (i, b), (j, a)
        plain.append(topo.from_links(*zip(*listed), layer.shape))
    for measure in (
        lambda a: analysis.clustering(a, "robins_alexander"),
        lambda a: analysis.path_length(a).mean,
        analysis.nestedness,
        analysis.assortativity,
    ):
        x, y = [measure(a) for a in ours], [measure(a) for a in plain]
        error = math.sqrt((np.var(x) + np.var(y)) / 60)
        assert abs(np.mean(x) - np.mean(y)) < 4 * error


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no EPITOPO_DATA")
def test_nulls_of_a_real_network_lose_its_structure():
    layer = enzymes()
    drawn = analysis.degree_preserving_null(layer, seed=0)
    assert degrees(drawn) == degrees(layer)
    assert analysis.clustering(drawn) < 0.5 * analysis.clustering(layer)
    assert analysis.modularity(drawn).modularity < analysis.modularity(layer).modularity - 0.1


# the lattice


def test_a_small_lattice():
    # six links of 3 x 3, two each: row j sits at column j and takes it and a neighbour on the ring
    found = analysis.lattice([[1, 1, 1], [1, 1, 1], [0, 0, 0]]).toarray()
    assert found.sum() == 6
    assert found.diagonal().all()
    assert degrees(found) == ([2, 2, 2], [2, 2, 2])


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 6), (7, 1), (5, 5), (4, 9), (12, 5), (30, 20)], ids=str
)
def test_links_of_a_lattice_go_to_the_nearest(shape):
    """Neuron j of the larger side sits at j * small / large; nothing nearer is left out."""
    small, large = sorted(shape)
    at = np.arange(large)[:, None] * small / large
    distance = np.abs(at - np.arange(small))
    distance = np.minimum(distance, small - distance)
    for links in sorted({1, small, large, small * large // 3 or 1, small * large}):
        layer = np.zeros(small * large, bool)
        layer[:links] = True
        found = analysis.lattice(layer.reshape(shape)).toarray()
        assert found.shape == shape
        assert found.sum() == links
        found = found if shape[0] == large else found.T
        assert np.ptp(found.sum(axis=1)) <= 1
        for linked, far in zip(found, distance):
            assert far[linked].max(initial=0) <= far[~linked].min(initial=np.inf) + 1e-9


def test_the_lattice_of_an_empty_layer_is_empty():
    found = analysis.lattice(np.zeros((2, 3)))
    assert found.shape == (2, 3)
    assert found.nnz == 0


# small worlds


def graph_of(layer):
    rows, columns = (ends.tolist() for ends in topo.links(layer))
    graph = nx.Graph([(("output", i), ("input", j)) for i, j in zip(rows, columns)])
    assert nx.is_connected(graph)
    return graph


def test_sigma_and_omega_by_networkx():
    """From the published formulas; the random graphs are those of the seeds it names."""
    layer = topo.small_world(24, 20, 0.2, beta=0.1, seed=1)
    found = analysis.small_worldness(layer, nulls=4, seed=3)
    nulls = [
        graph_of(analysis.degree_preserving_null(layer, seed=topo.stream(3, "null", i)))
        for i in range(4)
    ]
    c, length = bipartite.robins_alexander_clustering, nx.average_shortest_path_length
    graph = graph_of(layer)
    null_c, null_length = np.mean([c(g) for g in nulls]), np.mean([length(g) for g in nulls])
    ring = c(graph_of(topo.small_world(24, 20, 0.2, beta=0, seed=0)))
    assert found.clustering == pytest.approx(c(graph))
    assert found.path_length == pytest.approx(length(graph))
    assert found.null_clustering == pytest.approx(null_c)
    assert found.null_path_length == pytest.approx(null_length)
    assert found.null_clustering_std == pytest.approx(np.std([c(g) for g in nulls]))
    assert found.null_path_length_std == pytest.approx(np.std([length(g) for g in nulls]))
    assert found.lattice_clustering == pytest.approx(ring)
    assert found.sigma == pytest.approx((c(graph) / null_c) / (length(graph) / null_length))
    assert found.omega == pytest.approx(null_length / length(graph) - c(graph) / ring)


def test_lattices_small_worlds_and_random_layers():
    lattice, world, random = (
        analysis.small_worldness(topo.small_world(200, 200, 0.02, beta=beta, seed=0), nulls=3)
        for beta in (0.0, 0.1, 1.0)
    )
    # a lattice: C = C_lattice, and L is long: omega = L_null / L - 1
    assert lattice.clustering == lattice.lattice_clustering
    assert lattice.omega == pytest.approx(lattice.null_path_length / lattice.path_length - 1)
    assert -1 < lattice.omega < -0.8
    # a random layer: L = L_null, and few squares: omega = 1 - C / C_lattice
    assert random.path_length == pytest.approx(random.null_path_length, rel=0.02)
    assert random.omega == pytest.approx(
        1 - random.clustering / random.lattice_clustering, abs=0.02
    )
    assert 0.9 < random.omega < 1
    assert random.sigma == pytest.approx(1, abs=0.3)
    # between
    assert abs(world.omega) < 0.3
    assert world.sigma > 8


@pytest.mark.parametrize("kind", list(analysis.CLUSTERINGS))
def test_the_kind_of_clustering(kind):
    layer = women()
    found = analysis.small_worldness(layer, kind=kind, nulls=2)
    assert found.clustering == analysis.clustering(layer, kind, "both")
    assert found.lattice_clustering == analysis.clustering(analysis.lattice(layer), kind, "both")
    assert found == analysis.small_worldness(layer, kind=kind, nulls=2, seed=0)
    assert found != analysis.small_worldness(layer, kind=kind, nulls=2, seed=1)


def test_neurons_without_links_are_left_out():
    layer = topo.small_world(20, 15, 0.25, beta=0.2, seed=0)
    padded = np.pad(layer.toarray(), ((5, 9), (8, 3)))
    assert analysis.small_worldness(padded) == analysis.small_worldness(layer)


def test_sampled_path_lengths():
    layer = topo.small_world(80, 60, 0.08, beta=0.2, seed=0)
    exact = analysis.small_worldness(layer, nulls=2)
    sampled = analysis.small_worldness(layer, nulls=2, sources=30)
    assert sampled.clustering == exact.clustering
    assert sampled.path_length != exact.path_length
    assert sampled.path_length == pytest.approx(exact.path_length, rel=0.05)
    assert sampled.null_path_length != exact.null_path_length
    assert sampled.null_path_length == pytest.approx(exact.null_path_length, rel=0.05)
    assert analysis.small_worldness(layer, nulls=2, sources=140) == exact


NO_NULL = "random graphs of these degrees have no clustering to compare with"
NO_RING = "the lattice of as many links has no clustering to compare with"


@pytest.mark.parametrize(
    ("layer", "kind", "sigma", "omega"),
    [
        (np.zeros((3, 4)), "robins_alexander", "no neuron has a link", "no neuron has a link"),
        (np.ones((1, 1)), "robins_alexander", NO_NULL, NO_RING),
        (np.ones((1, 4)), "robins_alexander", NO_NULL, NO_RING),
        (np.ones((4, 1)), "opsahl", NO_NULL, NO_RING),
        (np.eye(6), "latapy", NO_NULL, NO_RING),
        (np.eye(6), "opsahl_global", *(["there is no path of length four"] * 2)),
    ],
)
def test_layers_without_a_value(layer, kind, sigma, omega):
    found = analysis.small_worldness(layer, kind=kind, nulls=2)
    assert (found.sigma.reason, found.omega.reason) == (sigma, omega)
    for value in vars(found).values():
        assert not math.isnan(value) or value.reason


def test_dense_layers_are_their_own_nulls():
    found = analysis.small_worldness(np.ones((4, 5)), nulls=2)
    assert (found.sigma, found.omega) == (1, 0)
    assert (found.null_clustering_std, found.null_path_length_std) == (0, 0)


def test_refused():
    layer = women()
    for call, message in (
        (lambda: analysis.small_worldness(layer, kind="opsal"), "did you mean 'opsahl'"),
        (lambda: analysis.small_worldness(layer, nulls=0), "nulls must be a positive integer"),
        (lambda: analysis.small_worldness(layer, sources=0), "sources must be a positive integer"),
        (lambda: analysis.degree_preserving_null(layer, swaps=-1, seed=0), "swaps must be"),
        (lambda: analysis.degree_preserving_null(layer, swaps=1.5, seed=0), "swaps must be"),
        (lambda: analysis.degree_preserving_null(layer, seed=None), "seed must be an integer"),
        (lambda: analysis.degree_preserving_null([[3]], seed=0), "this one holds 3"),
        (lambda: analysis.lattice([[0.5]]), "this one holds 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_small_worldness_says_how_many_pairs_have_no_path():
    blocks = np.kron(np.eye(2, dtype=int), np.ones((3, 3), int))  # two K(3, 3)
    found = analysis.small_worldness(blocks, nulls=3)
    # of 12 neurons each reaches 5 of 11
    assert found.unreachable == pytest.approx(6 / 11)
    nulls = [
        analysis.degree_preserving_null(blocks, seed=topo.stream(0, "null", i)) for i in range(3)
    ]
    expected = np.mean([analysis.path_length(null).unreachable for null in nulls])
    assert found.null_unreachable == pytest.approx(expected)
