import hashlib
import itertools
from collections import Counter
from importlib import import_module

import igraph
import networkx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.sparse.csgraph import maximum_flow

import topo
from topo.generators import _degrees
from topo.generators._degrees import layer_of_degrees
from topo.generators._draw import shuffled

MODULE = import_module("topo.generators.scale_free")  # the package has the function
NONE = np.empty(0, dtype=np.int64)
SIZES = st.one_of(st.integers(1, 12), st.integers(1, 60))


@st.composite
def layers(draw):
    """(n_out, n_in, density) that leave at least one link."""
    n_out, n_in = draw(SIZES), draw(SIZES)
    least = min(1, 0.6 / (n_out * n_in))
    density = st.one_of(st.floats(least, 1), st.floats(least, min(1, 20 * least)))
    return n_out, n_in, draw(density)


def degrees(a):
    return np.diff(a.indptr), np.bincount(a.indices, minlength=a.shape[1])


def barabasi_albert(n, links, seed):
    """Both ends of every link: the younger neuron and the older one."""
    return MODULE._grow(n, links, np.uint64(topo.stream(seed, "scale_free", "grow")))


def dealt(n_out, n_in, links, seed):
    """The Barabasi-Albert graph on the two sides: degrees of both, and the links across."""
    ends = barabasi_albert(n_out + n_in, links, seed)
    degree = np.bincount(ends, minlength=n_out + n_in)
    place = MODULE._places(degree, n_out, seed)
    at = np.empty_like(degree)
    at[place] = degree
    pairs = np.sort(place[ends].reshape(-1, 2), axis=1)
    across = pairs[(pairs[:, 0] < n_out) & (pairs[:, 1] >= n_out)]
    return at[:n_out], at[n_out:], across[:, 0] * n_in + across[:, 1] - n_out


def most_links(rows, cols):
    """The most links a layer can have whose degrees are at most these: a maximum flow."""
    n, m = len(rows), len(cols)
    capacity = np.zeros((n + m + 2, n + m + 2), dtype=np.int32)
    capacity[0, 1 : n + 1] = rows
    capacity[1 : n + 1, n + 1 : -1] = 1
    capacity[n + 1 : -1, -1] = cols
    return maximum_flow(sparse.csr_array(capacity), 0, n + m + 1).flow_value


def least_change(degree, other_side, links):
    """Of the sum of one side's degrees, each at most `other_side`: what cannot be avoided."""
    fit = np.minimum(degree, other_side).sum()
    return degree.sum() - fit + abs(links - fit)


def chi_square(outcomes, odds):
    counts = Counter(outcomes)
    assert set(counts) <= set(odds)
    expected = np.array(list(odds.values())) * len(outcomes)
    return stats.chisquare([counts[outcome] for outcome in odds], expected).pvalue


# the Barabasi-Albert graph


@pytest.mark.parametrize(
    ("n", "links", "sizes"),
    [
        (2, 1, [1]),  # all are the core
        (5, 2, [0, 1, 0, 1]),  # too few for one each
        (5, 4, [1, 1, 1, 1]),
        (5, 5, [1, 1, 1, 2]),
        (6, 9, [1, 2, 2, 2, 2]),
        (7, 13, [1, 2, 2, 3, 2, 3]),
        (5, 10, [1, 2, 3, 4]),  # complete
    ],
)
def test_newcomers_have_m_or_one_more_links(n, links, sizes):
    for seed in range(20):
        young, old = barabasi_albert(n, links, seed).reshape(-1, 2).T
        assert np.bincount(young, minlength=n)[1:].tolist() == sizes
        assert (old < young).all()
        assert len({*zip(young.tolist(), old.tolist())}) == links


def test_newcomers_prefer_neurons_with_many_links():
    # the third neuron links to one of the core's two, the fourth to two of degrees 2, 1, 1
    odds = Counter()
    for third in (0, 1):
        degree = [1, 1, 1]
        degree[third] += 1
        for a, b in itertools.permutations(range(3), 2):
            p = degree[a] / 4 * degree[b] / (4 - degree[a])
            odds[third, tuple(sorted((a, b)))] += p / 2
    outcomes = []
    for seed in range(4000):
        old = barabasi_albert(4, 4, seed)[1::2].tolist()
        outcomes.append((old[1], tuple(sorted(old[2:]))))
    assert chi_square(outcomes, odds) > 1e-4


def test_degrees_are_those_of_another_implementation():
    # m = 8: 36 links in the core of 9 and 8 for each of the 991 others
    ours = np.bincount(barabasi_albert(1000, 36 + 991 * 8, 0), minlength=1000)
    theirs = networkx.barabasi_albert_graph(1000, 8, 1, networkx.complete_graph(9))
    theirs = np.array([d for _, d in theirs.degree])
    assert ours.sum() == theirs.sum()
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01
    assert ours.max() == pytest.approx(theirs.max(), rel=0.4)


# degrees and links of the layer


def test_tiny_layers():
    assert topo.scale_free(1, 1, 1.0, seed=0).toarray().tolist() == [[True]]
    assert topo.scale_free(2, 2, 1.0, seed=0).toarray().all()
    # three neurons in a row, whoever is on which side: the two links need all of them
    assert topo.scale_free(1, 2, 1.0, seed=5).toarray().tolist() == [[True, True]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "layer", [(300, 300, 0.01), (300, 300, 0.1), (300, 290, 0.04), (1568, 1568, 0.01)]
)
def test_every_neuron_keeps_its_degree_and_its_links_across(layer, seed):
    n_out, n_in, density = layer
    a = topo.scale_free(n_out, n_in, density, seed=seed)
    rows, cols, across = dealt(n_out, n_in, a.nnz, seed)
    assert rows.sum() == cols.sum() == a.nnz
    assert np.array_equal(degrees(a)[0], rows)
    assert np.array_equal(degrees(a)[1], cols)
    assert 0.4 < len(across) / a.nnz < 0.6
    assert np.isin(across, topo.adjacency.link_keys(a)).all()


@settings(max_examples=200, deadline=None)
@given(layers(), st.integers(0, 10**6))
@example((1, 40, 1.0), 0)
@example((40, 1, 1.0), 0)
@example((30, 30, 0.9), 0)
@example((12, 60, 0.5), 3)
@example((3, 3, 1 / 9), 3)
def test_as_few_degrees_change_as_the_sides_allow(layer, seed):
    n_out, n_in, density = layer
    a = topo.scale_free(n_out, n_in, density, seed=seed)
    rows, cols, _ = dealt(n_out, n_in, a.nnz, seed)
    with pytest.MonkeyPatch.context() as patch:
        asked = []

        def spy(rows, cols, row_ends, col_ends, seed):
            asked.append(
                (
                    np.bincount(rows, minlength=n_out) + row_ends,
                    np.bincount(cols, minlength=n_in) + col_ends,
                )
            )
            return layer_of_degrees(rows, cols, row_ends, col_ends, seed)

        patch.setattr(MODULE, "layer_of_degrees", spy)
        again = topo.scale_free(n_out, n_in, density, seed=seed)
    assert np.array_equal(again.toarray(), a.toarray())
    [(row_degrees, col_degrees)] = asked
    assert abs(row_degrees - rows).sum() == least_change(rows, n_in, a.nnz)
    assert abs(col_degrees - cols).sum() == least_change(cols, n_out, a.nnz)
    assert np.array_equal(degrees(a)[0], row_degrees)
    impossible = a.nnz - most_links(row_degrees, col_degrees)
    assert abs(degrees(a)[1] - col_degrees).sum() == 2 * impossible


@pytest.mark.parametrize("layer", [(784, 1568, 0.01), (1568, 784, 0.01), (200, 3000, 0.02)])
def test_sides_of_unequal_size_keep_the_order_of_their_degrees(layer):
    n_out, n_in, density = layer
    a = topo.scale_free(n_out, n_in, density, seed=0)
    before = dealt(n_out, n_in, a.nnz, 0)
    for old, new in zip(before, degrees(a)):
        assert (np.sign(new - old) == np.sign(a.nnz - old.sum()))[old > 20].mean() > 0.9
        assert stats.spearmanr(old[old > 10], new[old > 10]).statistic > 0.8
        # in proportion: a straight line through the origin
        assert new[old > 20].sum() / old[old > 20].sum() == pytest.approx(
            a.nnz / old.sum(), rel=0.1
        )


@pytest.mark.parametrize("layer", [(300, 300, 0.01), (100, 900, 0.02), (900, 100, 0.02)])
def test_no_neuron_is_left_without_links(layer):
    for seed in range(5):
        assert min(d.min() for d in degrees(topo.scale_free(*layer, seed=seed))) >= 1


def test_the_deal_is_random():
    # hubs, the oldest neurons, are on either side and at any place
    hubs = [np.argmax(degrees(topo.scale_free(40, 40, 0.05, seed=s))[0]) for s in range(400)]
    assert stats.chisquare(np.bincount(hubs, minlength=40)).pvalue > 1e-4
    sides = [
        np.diff([d.max() for d in degrees(topo.scale_free(40, 40, 0.05, seed=s))])[0] > 0
        for s in range(400)
    ]
    assert 150 < sum(sides) < 250


def power_law(degree):
    """An independent fit of the upper half; its p-value is that of being a power law."""
    return igraph.power_law_fit(
        degree.tolist(), xmin=int(degree.mean()), method="discrete", p_precision=0.1
    )


@pytest.mark.parametrize("layer", [(1568, 1568, 0.01), (784, 1568, 0.01), (2048, 768, 0.05)])
def test_degrees_have_the_tail_of_barabasi_and_albert_and_a_random_layers_have_not(layer):
    scale_free = degrees(topo.scale_free(*layer, seed=0))
    random = degrees(topo.erdos_renyi(*layer, seed=0))
    for ours, other in zip(scale_free, random):
        assert 2.6 < power_law(ours).alpha < 3.2
        assert power_law(ours).D < 0.05
        assert power_law(other).alpha > 3.8
        assert power_law(other).D > 0.1
        assert power_law(other).p < 0.05
        assert ours.max() > 5 * ours.mean()
        assert other.max() < 3 * other.mean()


@pytest.mark.parametrize("density", [0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(200, 200), (150, 300), (300, 20)])
def test_dense_layers(shape, density):
    a = topo.scale_free(*shape, density, seed=0)
    assert topo.as_adjacency(a) is a
    assert a.nnz == round(density * shape[0] * shape[1])
    if density == 0.5:
        rows, cols = degrees(a)
        assert rows.max() > 1.5 * np.median(rows)
        assert cols.max() > 1.5 * np.median(cols)


# layers of given degrees


@st.composite
def degree_pairs(draw):
    """Degrees of the two sides with equal sums, whether there is such a layer or not."""
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rows = draw(st.lists(st.integers(0, m), min_size=n, max_size=n))
    cols = [0] * m
    for _ in range(sum(rows)):
        free = [i for i in range(m) if cols[i] < n]
        cols[draw(st.sampled_from(free))] += 1
    return np.array(rows), np.array(cols)


@settings(max_examples=300, deadline=None)
@given(degree_pairs(), st.integers(0, 99))
@example((np.array([2, 1, 0]), np.array([3, 0])), 0)
@example((np.array([1, 1]), np.array([2, 0])), 0)
def test_the_degrees_asked_for_or_the_nearest_there_are(pair, seed):
    rows, cols = pair
    a = layer_of_degrees(NONE, NONE, rows, cols, seed)
    assert topo.as_adjacency(a) is a
    assert np.array_equal(degrees(a)[0], rows)
    impossible = rows.sum() - most_links(rows, cols)
    assert abs(degrees(a)[1] - cols).sum() == 2 * impossible


@pytest.mark.parametrize("how", ["by trading ends", "by trading rows"])
def test_every_layer_with_the_degrees_is_reached(how, monkeypatch):
    rows, cols = np.array([2, 2, 1]), np.array([2, 1, 1, 1])
    if how == "by trading rows":
        monkeypatch.setattr(_degrees, "_untangle", lambda *_: False)
    every = set()
    for taken in itertools.product(*(itertools.combinations(range(4), k) for k in rows)):
        if np.array_equal(np.bincount(np.concatenate(taken), minlength=4), cols):
            every.add(taken)
    seen = Counter()
    for seed in range(2000):
        a = layer_of_degrees(NONE, NONE, rows, cols, seed)
        seen[tuple(tuple(a.indices[a.indptr[i] : a.indptr[i + 1]].tolist()) for i in range(3))] += 1
    assert set(seen) == every
    if how == "by trading rows":  # uniform in the limit
        assert stats.chisquare(list(seen.values())).pvalue > 1e-4
    else:
        assert min(seen.values()) > 0.6 * 2000 / len(every)


def test_trades_between_rows_are_fair():
    # rows 0, 1, 2 and 2, 3: the common 2 stays, any two of 0, 1, 3 go to the first
    indptr = np.array([0, 3, 5])
    outcomes = []
    for seed in range(3000):
        laid = np.array([0, 1, 2, 2, 3])
        _degrees._trade(indptr, laid, shuffled(2, seed), 4, np.uint64(topo.stream(seed)))
        assert sorted(laid.tolist()) == [0, 1, 2, 2, 3]
        assert set(laid[3:]) > {2}
        outcomes.append(tuple(sorted(laid[:3].tolist())))
    assert chi_square(outcomes, dict.fromkeys([(0, 1, 2), (0, 2, 3), (1, 2, 3)], 1 / 3)) > 1e-4


def test_kept_links_stay_where_there_is_room():
    kept = topo.erdos_renyi(60, 80, 0.03, seed=0)
    rows, cols = (i.astype(np.int64) for i in topo.links(kept))
    row_ends, col_ends = np.full(60, 4), np.full(80, 3)
    for seed in range(20):
        a = layer_of_degrees(rows, cols, row_ends, col_ends, seed)
        assert a.multiply(kept).nnz == kept.nnz
        assert np.array_equal(degrees(a)[0], degrees(kept)[0] + 4)
        assert np.array_equal(degrees(a)[1], degrees(kept)[1] + 3)


# reproducibility


def test_results_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for n_out, n_in, density in [(60, 60, 0.05), (40, 90, 0.05), (90, 40, 0.6), (30, 30, 0.03)]:
        a = topo.scale_free(n_out, n_in, density, seed=5)
        digest.update(a.indptr.astype("<i4").tobytes() + a.indices.astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == "4d658700bde81e83"
