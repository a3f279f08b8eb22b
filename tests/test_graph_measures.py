"""Path lengths, modularity, spectral gap, nestedness, assortativity: by hand, by definition, by
libraries; then what holds of every measure of a layer."""

import copy
import itertools
import math
import os
import pickle
import random
from pathlib import Path

import igraph
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms import bipartite
from scipy import sparse
from scipy.stats import spearmanr
from sknetwork.clustering import Louvain, get_modularity
from sknetwork.utils import bipartite2directed, bipartite2undirected

import analysis
import topo
from analysis.measures.undefined import Undefined

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


def random_layer(n_out, n_in, density, seed=0):
    drawn = np.random.default_rng(seed).random((n_out, n_in)) < density
    return topo.as_adjacency(drawn)


def same(a, b):
    return a == pytest.approx(b, nan_ok=True, abs=1e-9)


SHAPES = [(6, 9, 0.3), (30, 20, 0.08), (20, 70, 0.15), (90, 80, 0.03), (100, 70, 0.2), (4, 5, 0.9)]


# path lengths


def test_the_path_of_four():
    # outputs 0, 1 and inputs a, b: 0-a, 0-b, 1-b is the path a 0 b 1:
    # distances 1, 2, 3, 1, 2, 1 (either way): 10 / 6
    found = analysis.path_length([[1, 1], [0, 1]])
    assert found == analysis.PathLength(10 / 6, 0.0, 0.0, 3, 4, True)


def test_two_parts():
    # the path of three (1, 1, 2) and one link (1): 5 / 4 over 4 of the 10 pairs
    found = analysis.path_length([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert found == analysis.PathLength(5 / 4, 0.0, pytest.approx(6 / 10), 2, 5, True)


def test_a_chain_of_layers():
    # x0 - h0 - y0 and x1 - h1: joined, the path of three and one link; apart, three links
    layers = {"fc1": [[1, 0], [0, 1]], "fc2": [[1, 0]]}
    found = analysis.path_length(topo.Network(layers))
    assert found == analysis.PathLength(5 / 4, 0.0, pytest.approx(6 / 10), 2, 5, True)
    apart = analysis.path_length(topo.Network(layers, couplings=()))
    assert apart == analysis.PathLength(1.0, 0.0, pytest.approx(12 / 15), 1, 6, True)


def graph_of(network):
    """Neurons by layer, side and number; those of a coupling, one to one, are one node."""
    if not isinstance(network, topo.Network):
        network = topo.Network({"layer": network}, ())
    same_neuron = nx.Graph()
    for name, layer in network.layers.items():
        for axis in (0, 1):
            same_neuron.add_nodes_from((name, axis, i) for i in range(layer.shape[axis]))
    for c in network.couplings:
        ends = [(name, 0) for name in c.outputs] + [(name, 1) for name in c.inputs]
        sizes = [network.layers[name].shape[axis] for name, axis in ends]
        if c.rotary or len(set(sizes)) > 1:
            continue
        for first, second in itertools.pairwise(ends):
            same_neuron.add_edges_from(((*first, i), (*second, i)) for i in range(sizes[0]))
    node = {v: k for k, part in enumerate(nx.connected_components(same_neuron)) for v in part}
    graph = nx.Graph()
    graph.add_nodes_from(set(node.values()))
    for name, layer in network.layers.items():
        for i, j in zip(*(ends.tolist() for ends in topo.links(layer))):
            if node[name, 0, i] != node[name, 1, j]:
                graph.add_edge(node[name, 0, i], node[name, 1, j])
    return graph


def check_path_length(source):
    graph = graph_of(source)
    block = analysis.block_graph(source)
    assert block.shape == (len(graph),) * 2
    assert (block != block.T).nnz == 0
    assert block.diagonal().sum() == 0
    assert block.nnz == 2 * graph.number_of_edges()
    assert sorted(np.diff(block.indptr).tolist()) == sorted(d for _, d in graph.degree)

    graph.remove_nodes_from([v for v, degree in list(graph.degree) if not degree])
    reached = [d for _, of in nx.all_pairs_shortest_path_length(graph) for d in of.values() if d]
    found = analysis.path_length(source)
    assert found.exact
    assert found.sources == len(graph)
    assert found.mean == pytest.approx(np.mean(reached))
    assert found.diameter == max(reached)
    pairs = len(graph) * (len(graph) - 1)
    assert found.unreachable == pytest.approx(1 - len(reached) / pairs, abs=1e-12)
    if nx.is_connected(graph):
        assert found.mean == pytest.approx(nx.average_shortest_path_length(graph))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_path_lengths_of_layers_by_networkx(shape):
    check_path_length(random_layer(*shape))


C = topo.Coupling
NETWORKS = {
    "chain": ([(9, 12, 0.15), (10, 9, 0.2), (8, 10, 0.15)], None),
    "no coupling": ([(9, 12, 0.15), (10, 9, 0.2), (8, 10, 0.15)], ()),
    "gate and up": (
        [(8, 12, 0.15), (10, 8, 0.4), (10, 8, 0.4), (5, 10, 0.15)],
        (C(("0",), ("1", "2")), C(("1", "2"), ("3",))),
    ),
    "residual": (  # the outputs of all meet the inputs of the next
        [(9, 7, 0.1), (9, 9, 0.15), (9, 9, 0.1), (4, 9, 0.3)],
        (C(("0",), ("1", "2")), C(("0", "1"), ("3",))),
    ),
    "recurrent": ([(12, 12, 0.15), (3, 12, 0.2)], (C(("0",), ("0", "1")),)),
    "heads one to one": ([(8, 12, 0.1), (9, 8, 0.15)], (C(("0",), ("1",), head_dim=4),)),
    "grouped heads": ([(4, 12, 0.1), (9, 8, 0.15)], (C(("0",), ("1",), head_dim=4),)),
    "rotary": ([(8, 12, 0.1), (8, 9, 0.15)], (C(("0", "1"), head_dim=4, rotary=True),)),
    "wide": ([(50, 90, 0.04), (80, 50, 0.03)], None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_path_lengths_of_networks_by_networkx(name):
    shapes, couplings = NETWORKS[name]
    layers = {str(i): random_layer(*shape, seed=i) for i, shape in enumerate(shapes)}
    check_path_length(topo.Network(layers, couplings))


def test_links_of_a_neuron_to_itself_are_no_paths():
    loops = topo.Network({"a": np.eye(3)}, (C(("a",), ("a",)),))
    assert analysis.path_length(loops).mean.reason == "no neuron has a link"
    # 0 <-> 0 and 0 -> 1: one pair
    one = topo.Network({"a": [[1, 0], [1, 0]]}, (C(("a",), ("a",)),))
    assert analysis.path_length(one) == analysis.PathLength(1.0, 0.0, 0.0, 1, 2, True)


def test_nodes_go_from_inputs_to_outputs():
    block = analysis.block_graph(topo.Network({"a": [[1, 0], [0, 0]], "b": [[0, 1]]}))
    # inputs 0, 1; hidden 2, 3; output 4
    assert {tuple(pair) for pair in np.argwhere(block.toarray()).tolist()} == {
        (0, 2), (2, 0), (3, 4), (4, 3),
    }  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_path_lengths_of_real_networks_by_igraph(name):
    layer = real(name)
    graph = igraph.Graph.Biadjacency(layer.toarray().tolist())
    distances = np.array(graph.distances(), float)
    distances = distances[(distances > 0) & np.isfinite(distances)]
    found = analysis.path_length(layer)
    assert found.mean == pytest.approx(distances.mean())
    assert found.mean == pytest.approx(graph.average_path_length())
    assert found.diameter == distances.max() == graph.diameter()
    assert found.unreachable == pytest.approx(
        1 - len(distances) / (graph.vcount() ** 2 - graph.vcount())
    )


def test_the_ring():
    # 2-regular, 2n neurons: distances 1, 1, 2, 2, ..., n - 1, n - 1, n; their mean n^2 / (2n - 1)
    found = analysis.path_length(topo.small_world(100, 100, 0.02, beta=0.0, seed=0))
    assert found.mean == pytest.approx(100**2 / 199)
    assert found.diameter == 100


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("sources", [12, 70])
def test_sampled_path_lengths_and_their_error(parts, sources):
    """Unbiased; the truth is within one error for 68 % of the seeds, within two for 95 %."""
    pieces = [random_layer(60 // parts, 48 // parts, 0.06 * parts, seed) for seed in range(parts)]
    layer = topo.as_adjacency(sparse.block_diag(pieces))
    exact = analysis.path_length(layer)
    assert (exact.unreachable > 0.3) == (parts == 3)
    found = [analysis.path_length(layer, sources=sources, seed=seed) for seed in range(500)]
    assert not any(f.exact for f in found)
    assert {f.sources for f in found} == {sources}
    means = np.array([f.mean for f in found])
    errors = np.array([f.error for f in found])
    assert abs(means.mean() - exact.mean) < 4 * means.std() / math.sqrt(500) + 0.002 * exact.mean
    assert np.sqrt((errors**2).mean()) == pytest.approx(means.std(), rel=0.15)
    away = np.abs(means - exact.mean) / errors
    assert (away < 1).mean() == pytest.approx(0.67, abs=0.07)
    assert (away < 2).mean() == pytest.approx(0.94, abs=0.04)
    assert np.mean([f.unreachable for f in found]) == pytest.approx(exact.unreachable, abs=0.01)
    assert max(f.diameter for f in found) == exact.diameter


def test_which_sources_are_drawn():
    layer = np.pad(random_layer(30, 30, 0.1).toarray(), 40)  # only neurons with links
    exact = analysis.path_length(layer)
    n = exact.sources
    assert analysis.path_length(layer, sources=n) == exact
    assert analysis.path_length(layer, sources=10**9) == exact
    drawn = [analysis.path_length(layer, sources=9, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    one = analysis.path_length(layer, sources=1)
    assert (one.sources, one.error.reason) == (1, "one source has no spread")
    last = analysis.path_length(layer, sources=n - 1)
    assert 0 < last.error < 0.02
    assert last.mean == pytest.approx(exact.mean, abs=4 * last.error)


# modularity


def test_two_squares():
    # two blocks of 2 x 2: all links within, of 8; (4/8)^2 twice expected: 1 - 1/2
    layer = np.kron(np.eye(2), np.ones((2, 2)))
    assert analysis.barber_modularity(layer, [0, 0, 1, 1], [0, 0, 1, 1]) == 0.5
    # crossed: none within, 1/2 expected
    assert analysis.barber_modularity(layer, [0, 0, 1, 1], [1, 1, 0, 0]) == -0.5
    # everybody alone, and all in one
    assert analysis.barber_modularity(layer, range(4), range(4, 8)) == 0
    assert analysis.barber_modularity(layer, [7] * 4, [7] * 4) == 0
    # labels of any kind; Barber's formula: (2 - 4/3 + 1 - 1/3) / 3 of the star and the link
    found = analysis.barber_modularity([[1, 1, 0], [0, 0, 1]], ["a", "b"], ["a", "a", "b"])
    assert found == pytest.approx((2 - 4 / 3 + 1 - 1 / 3) / 3)


def barber_of(dense, g, h):
    dense = np.asarray(dense, float)
    expected = np.outer(dense.sum(axis=1), dense.sum(axis=0)) / dense.sum()
    return ((dense - expected) * np.equal.outer(g, h)).sum() / dense.sum()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_modularity_of_given_communities(shape):
    layer = random_layer(*shape)
    n_out, n_in = layer.shape
    rng = np.random.default_rng(1)
    for communities in (1, 2, 5, 40):
        g, h = rng.integers(communities, size=n_out), rng.integers(communities, size=n_in)
        found = analysis.barber_modularity(layer, g, h)
        assert same(found, barber_of(layer.toarray(), g, h))
        matrix, labels = sparse.csr_matrix(layer, dtype=float), np.concatenate([g, h])
        assert same(found, get_modularity(bipartite2directed(matrix), labels))
        newman = get_modularity(bipartite2undirected(matrix), labels)
        assert newman <= found + 1e-12, "which is why maximising it is a good start"
        rows, columns = topo.links(layer)
        graph = igraph.Graph(n_out + n_in, np.stack([columns + n_out, rows], axis=1), directed=True)
        assert same(found, graph.modularity(labels, directed=True))


def partitions(n):
    """All divisions of n things, as labels."""
    found = [[0]]
    for _ in range(n - 1):
        found = [[*labels, k] for labels in found for k in range(max(labels) + 2)]
    return found


def test_the_best_of_all_divisions_is_found():
    """Of tiny layers, nearly always; nothing better is claimed."""
    every = np.array(partitions(7))
    together = np.equal(every[:, :3, None], every[:, None, 3:])
    short = []
    for seed in range(60):
        dense = random_layer(3, 4, 0.5, seed).toarray().astype(float)
        expected = np.outer(dense.sum(axis=1), dense.sum(axis=0)) / dense.sum()
        best = (together * (dense - expected)).sum(axis=(1, 2)).max() / dense.sum()
        short.append(best - analysis.modularity(dense).modularity)
    assert min(short) > -1e-9
    assert np.mean(np.array(short) < 1e-9) > 0.9
    assert max(short) < 0.08


def planted(groups, size, inside, outside, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), size))
    other = np.random.default_rng(seed + 1).permutation(labels)
    share = np.where(np.equal.outer(labels, other), inside, outside)
    return np.random.default_rng(seed + 2).random(share.shape) < share, labels, other


@pytest.mark.parametrize("groups", [2, 5])
def test_planted_communities_are_found(groups):
    dense, g, h = planted(groups, 25, 0.4, 0.02, seed=0)
    found = analysis.modularity(dense)
    assert found.communities == groups
    assert len(set(zip(g, found.output_communities))) == groups
    assert len(set(zip(h, found.input_communities))) == groups
    assert dict(zip(g, found.output_communities)) == dict(zip(h, found.input_communities))
    assert found.modularity == pytest.approx(barber_of(dense, g, h))


def check_division(layer, found):
    """It is worth what it says, by size from 0, -1 where there is no link."""
    dense = topo.as_adjacency(layer).toarray()
    g, h = found.output_communities, found.input_communities
    assert ((g == -1) == ~dense.any(axis=1)).all()
    assert ((h == -1) == ~dense.any(axis=0)).all()
    sizes = np.bincount(np.concatenate([g, h])[np.concatenate([g, h]) >= 0])
    assert len(sizes) == found.communities
    assert (np.diff(sizes) <= 0).all()
    assert (sizes > 0).all()
    if dense.any():
        assert same(found.modularity, barber_of(dense, g, h))
        assert found.modularity >= 0


@pytest.mark.parametrize("name", [*REAL, *SHAPES, (60, 60, 0.1)], ids=str)
def test_communities_are_as_good_as_those_of_louvain(name):
    layer = real(name) if isinstance(name, str) else random_layer(*name)
    found = analysis.modularity(layer)
    check_division(layer, found)
    louvain = Louvain(random_state=0).fit(
        sparse.csr_matrix(layer, dtype=float), force_bipartite=True
    )
    theirs = barber_of(layer.toarray(), louvain.labels_row_, louvain.labels_col_)
    assert found.modularity >= theirs - 0.005


def test_communities_by_size():
    # a star of three links and a link, two neurons without: the star first, though it comes last
    layer = [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    found = analysis.modularity(layer)
    assert found.output_communities.tolist() == [1, 0, -1]
    assert found.input_communities.tolist() == [1, 0, 0, 0, -1]
    assert found.modularity == pytest.approx(1 - (3 / 4) ** 2 - (1 / 4) ** 2)
    # as large: by their first output neuron
    found = analysis.modularity(np.eye(4))
    assert found.output_communities.tolist() == found.input_communities.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("layer", [np.ones((4, 5)), np.ones((1, 6)), np.ones((6, 1)), [[1]]])
def test_where_no_division_is_better_than_none_there_is_one_community(layer):
    found = analysis.modularity(layer)
    assert (found.modularity, found.communities) == (0, 1)


def test_neurons_that_were_left_alone_join(monkeypatch):
    """From the worst start that Leiden could hand over: Barber's algorithm does the rest."""

    def alone(layer, trials, seed):
        return [np.arange(sum(layer.shape))]

    monkeypatch.setattr("analysis.measures.barber._leiden", alone)
    assert analysis.modularity(np.ones((4, 5))).communities == 1
    found = analysis.modularity(np.kron(np.eye(3), np.ones((4, 5))))
    assert (found.modularity, found.communities) == (pytest.approx(2 / 3), 3)


def test_modularity_draws_on_its_seed_alone():
    layer = random_layer(40, 40, 0.08)
    random.seed(5)
    before = random.getstate()
    found = [analysis.modularity(layer, trials=1, seed=seed) for seed in range(6)]
    assert random.getstate() == before
    again = analysis.modularity(layer, trials=1, seed=3)
    assert (again.output_communities == found[3].output_communities).all()
    assert len({f.modularity for f in found}) > 1
    # igraph draws from Python's generator again, as it does when it is imported
    graphs = []
    for _ in range(2):
        random.seed(5)
        graphs.append(igraph.Graph.Erdos_Renyi(30, 0.3).get_edgelist())
        analysis.modularity(layer, trials=1)
    assert graphs[0] == graphs[1]


def test_more_trials_are_no_worse():
    layer = random_layer(60, 60, 0.06)
    found = [analysis.modularity(layer, trials=trials).modularity for trials in (1, 4, 20)]
    assert found == sorted(found)
    assert found[0] < found[-1]


# the spectral gap


def gap_of(dense):
    dense = np.asarray(dense, float)
    dense = dense[dense.any(axis=1)][:, dense.any(axis=0)]
    scaled = dense / np.sqrt(np.outer(dense.sum(axis=1), dense.sum(axis=0)))
    values = np.linalg.svd(scaled, compute_uv=False)
    assert values[0] == pytest.approx(1)
    return 1 - values[1] if len(values) > 1 else 1.0


def test_gaps_by_hand():
    # paths of n neurons: cos(pi k / (n - 1)) are the eigenvalues: cos 0 = 1, cos(pi / 3) of four
    assert analysis.spectral_gap([[1, 1], [0, 1]]) == pytest.approx(1 - 1 / 2)
    # cycles of n: cos(2 pi k / n)
    assert analysis.spectral_gap(np.ones((3, 3)) - np.eye(3)) == pytest.approx(1 - 1 / 2)
    for n in (10, 100):
        ring = topo.small_world(n, n, 2 / n, beta=0.0, seed=0)
        assert analysis.spectral_gap(ring) == pytest.approx(1 - math.cos(math.pi / n), rel=1e-6)


@pytest.mark.parametrize(
    "shape", [(9, 6, 0.5), (64, 200, 0.2), (70, 90, 0.1), (120, 66, 0.1), (80, 80, 0.9)], ids=str
)
@pytest.mark.parametrize("padding", [0, 3])
def test_gaps_by_dense_algebra(shape, padding):
    dense = np.pad(random_layer(*shape).toarray(), padding)
    graph = graph_of(dense)
    graph.remove_nodes_from([v for v, degree in list(graph.degree) if not degree])
    assert nx.is_connected(graph)
    found = analysis.spectral_gap(dense)
    assert found == pytest.approx(gap_of(dense), abs=1e-8)
    assert found == pytest.approx(nx.normalized_laplacian_spectrum(graph)[1], abs=1e-8)
    assert found > 0.1


@pytest.mark.parametrize("n", [1, 2, 70])
def test_layers_in_parts_have_no_gap(n):
    parts = sparse.block_diag([np.ones((n, n)), np.ones((n, n + 1))])
    assert analysis.spectral_gap(parts) == 0
    assert analysis.spectral_gap(np.eye(n + 1)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 5), (70, 100), (100, 70)], ids=str)
def test_all_gap_where_all_inputs_are_shared(shape):
    assert analysis.spectral_gap(np.ones(shape)) == 1
    assert analysis.spectral_gap(np.pad(np.ones(shape), 2)) == 1


@pytest.mark.parametrize("name", REAL)
def test_gaps_of_real_networks(name):
    layer = real(name)
    connected = nx.is_connected(graph_of(layer))
    expected = gap_of(layer.toarray()) if connected else 0
    assert analysis.spectral_gap(layer) == pytest.approx(expected, abs=1e-8)


# nestedness

# Almeida-Neto et al. 2008, figure 1: NODF 58, of rows 53, of columns 63
PUBLISHED = [[1, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_nestedness_by_hand():
    # rows: 2/3 2/3 1/2 1/2 | 0 1 1 | 1/2 1/2 | 0: 16/3 of 10 pairs. Columns, of 4, 4, 3, 2, 1:
    # 0 2/3 1/2 1 | 2/3 1/2 0 | 1 1 | 1: 19/3 of 10
    assert analysis.nestedness(PUBLISHED) == pytest.approx(100 * (16 / 3 + 19 / 3) / 20)
    assert round(analysis.nestedness(PUBLISHED)) == 58
    # perfect; all degrees equal; nothing shared
    assert analysis.nestedness([[1, 1, 1], [1, 1, 0], [1, 0, 0]]) == 100
    assert analysis.nestedness(np.ones((3, 4))) == 0
    # rows {0, 1} and {2}: nothing shared; columns: equal
    assert analysis.nestedness([[1, 1, 0], [0, 0, 1]]) == 0
    # rows {0, 1} and {1}: 1; columns of degree 1 and 2: 1
    assert analysis.nestedness([[1, 1], [0, 1]]) == 100


def nodf_of(dense):
    total, pairs = 0.0, 0
    for matrix in (np.asarray(dense, bool), np.asarray(dense, bool).T):
        rows = [row for row in matrix if row.any()]
        for u, v in itertools.combinations(rows, 2):
            pairs += 1
            greater, lesser = (u, v) if u.sum() > v.sum() else (v, u)
            if greater.sum() > lesser.sum():
                total += (greater & lesser).sum() / lesser.sum()
    return 100 * total / pairs if pairs else np.nan


@pytest.mark.parametrize("name", [*REAL[:2], *SHAPES], ids=str)
def test_nestedness_pair_by_pair(name):
    layer = real(name) if isinstance(name, str) else random_layer(*name)
    assert same(analysis.nestedness(layer), nodf_of(layer.toarray()))


# assortativity


def test_assortativity_by_hand():
    # links (k, d): row 0 = {0, 1}: (2, 2), (2, 1); row 1 = {0}: (1, 2). Means 5/3, 5/3; covariance
    # (1/9 - 2/9 - 2/9) = -1/3, variances 2/3: -1/2
    assert analysis.assortativity([[1, 1], [1, 0]]) == pytest.approx(-1 / 2)
    assert analysis.assortativity(np.pad([[1, 1], [1, 0]], 1)) == pytest.approx(-1 / 2)
    # hubs with hubs: a square and a link
    assert analysis.assortativity([[1, 1, 0], [1, 1, 0], [0, 0, 1]]) == pytest.approx(1)


@pytest.mark.parametrize("name", [*REAL, *SHAPES], ids=str)
def test_assortativity_by_networkx(name):
    layer = real(name) if isinstance(name, str) else random_layer(*name)
    rows, columns = (ends.tolist() for ends in topo.links(layer))
    graph = nx.DiGraph([(("input", j), ("output", i)) for i, j in zip(rows, columns)])
    theirs = nx.degree_pearson_correlation_coefficient(graph, x="out", y="in")
    assert same(analysis.assortativity(layer), theirs)


def test_hub_agreement_by_scipy():
    network = topo.Network({"0": random_layer(40, 30, 0.05), "1": random_layer(20, 40, 0.05, 1)})
    first, second = (layer.toarray() for layer in network.layers.values())
    into, out = first.sum(axis=1), second.sum(axis=0)
    active = (into + out) > 0
    assert 0 < active.sum() < 40
    table = analysis.hub_agreement(network).set_index("layer")
    expected = spearmanr(into[active], out[active]).statistic
    assert table.loc["1", "hub_agreement"] == pytest.approx(expected)
    assert table.loc["1", "neurons"] == active.sum()
    assert math.isnan(table.loc["0", "hub_agreement"])
    assert table.loc["0", "reason"] == "no other layer ends at this layer's input neurons"


# every measure of a layer

MEASURES = {
    **{
        f"{kind} {side}": lambda a, k=kind, s=side: analysis.clustering(a, k, s)
        for kind in analysis.CLUSTERINGS
        for side in ("output", "input", "both")
    },
    "path_length": lambda a: analysis.path_length(a).mean,
    "sampled": lambda a: analysis.path_length(a, sources=5).mean,
    "unreachable": lambda a: analysis.path_length(a).unreachable,
    "diameter": lambda a: analysis.path_length(a).diameter,
    "modularity": lambda a: analysis.modularity(a).modularity,
    "spectral_gap": analysis.spectral_gap,
    "nestedness": analysis.nestedness,
    "assortativity": analysis.assortativity,
    "null": lambda a: analysis.nestedness(analysis.degree_preserving_null(a, seed=0)),
    "lattice": lambda a: analysis.path_length(analysis.lattice(a)).mean,
    "sigma": lambda a: analysis.small_worldness(a, nulls=2).sigma,
    "omega": lambda a: analysis.small_worldness(a, nulls=2).omega,
}
RANGES = {"nestedness": (0, 100), "assortativity": (-1, 1), "null": (0, 100), "omega": (-3, 3)}
RANGES |= dict.fromkeys(["path_length", "sampled", "lattice"], (1, 12))
RANGES |= {"diameter": (0, 12), "sigma": (0, 100)}


@st.composite
def layers(draw):
    n_out, n_in = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    bits = draw(st.lists(st.booleans(), min_size=n_out * n_in, max_size=n_out * n_in))
    return np.array(bits).reshape(n_out, n_in)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_any_layer_has_a_value_or_a_reason(dense):
    for name, measure in MEASURES.items():
        found = measure(dense)
        if math.isnan(found):
            assert isinstance(found, Undefined), name
            assert found.reason
        else:
            low, high = RANGES.get(name, (0, 1))
            assert low <= found <= high, name
    check_division(dense, analysis.modularity(dense))


INVARIANT = ["path_length", "unreachable", "diameter", "spectral_gap", "nestedness"]
INVARIANT += ["assortativity"]


@settings(max_examples=40, deadline=None)
@given(layers(), st.randoms(use_true_random=False))
def test_order_sides_and_isolated_neurons_do_not_matter(dense, shuffled):
    rows, columns = list(range(dense.shape[0])), list(range(dense.shape[1]))
    shuffled.shuffle(rows)
    shuffled.shuffle(columns)
    for name in INVARIANT:
        measure = MEASURES[name]
        found = measure(dense)
        assert same(measure(dense[rows][:, columns]), found), name
        assert same(measure(dense.T), found), name
        assert same(measure(np.pad(dense, ((2, 1), (0, 3)))), found), name
    assert same(analysis.nestedness(dense), nodf_of(dense))


STRAIGHT = topo.small_world(12, 9, 0.3, beta=0.5, seed=1)


def disguises():
    dense = STRAIGHT.toarray()
    csr = sparse.csr_matrix(dense.astype(np.float32))
    backwards = csr.copy()
    for i in range(12):
        row = slice(csr.indptr[i], csr.indptr[i + 1])
        backwards.indices[row] = csr.indices[row][::-1]
    backwards.has_sorted_indices = False
    zeros = sparse.coo_array(
        (
            np.r_[np.ones(csr.nnz, int), 0],
            tuple(np.c_[np.argwhere(dense).T, np.argwhere(~dense)[0]]),
        ),
        shape=dense.shape,
    )
    wide = sparse.csr_array((csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64)))
    fixed = np.array(dense, order="F")
    fixed.flags.writeable = False
    return {
        "list": dense.astype(int).tolist(),
        "read-only, by columns": fixed,
        "uint8": dense.astype(np.uint8),
        "a view": np.repeat(dense, 2, axis=1)[:, ::2],
        "csc": sparse.csc_array(dense),
        "lil": sparse.lil_matrix(dense),
        "unsorted": backwards,
        "stored zeros": zeros,
        "int64 indices": wide,
        "network": topo.Network({"fc": dense}),
    }


@pytest.mark.parametrize("name", disguises())
def test_any_form_of_a_layer(name):
    given_layer = disguises()[name]
    before = copy.deepcopy(given_layer)
    for of, measure in MEASURES.items():
        assert same(measure(given_layer), measure(STRAIGHT)), of
    for part in ("data", "indices", "indptr", "rows"):  # and nothing was tidied in place
        if sparse.issparse(given_layer) and hasattr(given_layer, part):
            assert (getattr(given_layer, part) == getattr(before, part)).all()


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_number_of_threads_does_not_matter(threads, monkeypatch):
    layer = topo.small_world(90, 70, 0.1, beta=0.3, seed=0)
    expected = {name: measure(layer) for name, measure in MEASURES.items()}
    local = [analysis.local_clustering(layer, kind) for kind in ("latapy", "opsahl")]
    monkeypatch.setattr("analysis.measures.overlaps.thread_count", lambda: threads)
    monkeypatch.setattr("topo.parallel.thread_count", lambda: threads)
    assert {name: measure(layer) for name, measure in MEASURES.items()} == expected
    for kind, values in zip(("latapy", "opsahl"), local):
        assert (analysis.local_clustering(layer, kind) == values).all()


ONE_LINK = "a correlation needs two links, and there are 1"
EQUAL = "all degrees of one side are equal over the links"
NO_LINK = "no neuron has a link"


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("path_length", np.zeros((3, 4)), NO_LINK),
        ("sampled", np.zeros((1, 1)), NO_LINK),
        ("modularity", np.zeros((3, 4)), NO_LINK),
        ("spectral_gap", np.zeros((3, 4)), NO_LINK),
        ("nestedness", np.zeros((3, 4)), "no side has two neurons with links"),
        ("nestedness", np.pad([[1]], 2), "no side has two neurons with links"),
        ("assortativity", np.zeros((3, 4)), "a correlation needs two links, and there are 0"),
        ("assortativity", [[1]], ONE_LINK),
        ("assortativity", np.ones((4, 5)), EQUAL),
        ("assortativity", np.ones((1, 5)), EQUAL),
        ("assortativity", np.eye(4), EQUAL),
        ("assortativity", [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], EQUAL),  # of the inputs
    ],
)
def test_reasons(name, layer, reason):
    found = MEASURES[name](layer)
    assert math.isnan(found)
    assert found.reason == reason
    assert repr(found) == f"nan ({reason})"
    assert pickle.loads(pickle.dumps(found)).reason == reason


def test_nothing_of_an_empty_layer():
    empty = np.zeros((3, 4))
    found = analysis.path_length(empty)
    assert (found.diameter, found.sources, found.error) == (0, 0, 0)
    assert found.unreachable.reason == NO_LINK
    assert analysis.barber_modularity(empty, [0] * 3, [0] * 4).reason == NO_LINK
    division = analysis.modularity(empty)
    assert division.communities == 0
    assert division.output_communities.tolist() == [-1] * 3
    assert division.input_communities.tolist() == [-1] * 4


@pytest.mark.parametrize("name", MEASURES)
def test_matrices_of_other_values_are_refused(name):
    for matrix, message in (
        ([[2, 0]], "^an adjacency holds 0 and 1; this one holds 2"),
        ([[0.5, 1.0]], "this one holds 0.5"),
        ([[np.nan, 1.0]], "this one holds nan"),
        ([1, 0], r"has the shape \(n_out, n_in\)"),
        (np.zeros((0, 3)), r"both at least 1; this one has \(0, 3\)"),
        ([["a"]], "dtype"),
        (sparse.coo_array(([1, 1], ([0, 0], [0, 0])), shape=(2, 2)), r"\(0, 0\) is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            MEASURES[name](matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: analysis.path_length(a, sources=0), "sources must be a positive integer, not 0"),
        (lambda a: analysis.path_length(a, sources=2.5), "sources must be .* not 2.5"),
        (lambda a: analysis.path_length(0 * a, sources=-1), "sources must be .* not -1"),
        (lambda a: analysis.path_length(a, sources=1, seed="x"), "seed must be an integer"),
        (lambda a: analysis.modularity(a, trials=0), "trials must be a positive integer, not 0"),
        (lambda a: analysis.modularity(a, seed=0.5), "seed must be an integer"),
        (
            lambda a: analysis.barber_modularity(a, [0], [0, 0]),
            r"shape \(2, 2\) needs as many labels .* shapes \(1,\) and \(2,\)",
        ),
        (lambda a: analysis.barber_modularity(a, [0, 0], [[0], [0]]), r"\(2,\) and \(2, 1\)"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.eye(2))


@pytest.mark.parametrize("name", ["modularity", "spectral_gap", "nestedness", "assortativity"])
def test_a_network_of_layers_is_refused_where_one_is_measured(name):
    network = topo.Network({"a": np.eye(2), "b": np.eye(2)})
    with pytest.raises(ValueError, match="is of one layer, and the network has 2"):
        MEASURES[name](network)
