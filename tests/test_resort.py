import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import topo


@st.composite
def adjacencies(draw, n_in=None):
    n_out, n_in = draw(st.integers(1, 12)), n_in or draw(st.integers(1, 12))
    cells = draw(st.lists(st.booleans(), min_size=n_out * n_in, max_size=n_out * n_in))
    return topo.as_adjacency(np.reshape(cells, (n_out, n_in)))


def degrees(a):
    return np.diff(a.indptr), np.bincount(a.indices, minlength=a.shape[1])


# equal partition


def test_equal_partition_by_hand():
    # the hub is the first input; afterwards two inputs have two links and one has one
    hub = [[1, 1, 0], [1, 0, 1], [1, 0, 0]]
    a = topo.equal_partition(hub, seed=0)
    out, into = degrees(a)
    assert out.tolist() == [2, 2, 1]
    assert sorted(into.tolist()) == [1, 2, 2]
    # what must be: one output neuron has all inputs, and the other two one each
    b = topo.equal_partition([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]], seed=1)
    assert sorted(degrees(b)[1].tolist()) == [1, 1, 2, 2]


@settings(max_examples=200, deadline=None)
@given(adjacencies(), st.integers(0, 10**6))
@example(topo.as_adjacency([[0, 0, 0]]), 0)
@example(topo.as_adjacency(np.ones((4, 7))), 0)
def test_output_degrees_stay_and_input_degrees_are_equal(a, seed):
    b = topo.equal_partition(a, seed=seed)
    assert topo.as_adjacency(b) is b
    assert b.shape == a.shape
    assert np.array_equal(degrees(b)[0], degrees(a)[0])
    into = degrees(b)[1]
    assert into.max() - into.min() <= 1
    assert into.sum() == a.nnz


def test_a_scale_free_layer_keeps_its_hubs_on_the_output_side_only():
    a = topo.scale_free(784, 784, 0.02, seed=0)
    b = topo.equal_partition(a, seed=1)
    assert np.array_equal(degrees(b)[0], degrees(a)[0])
    assert set(degrees(b)[1].tolist()) == {15, 16}  # 0.02 * 784 = 15.68


def test_the_links_are_dealt_at_random():
    a = [[1, 1, 0], [1, 0, 0]]
    every = {
        (tuple(first), second)
        for first in itertools.combinations(range(3), 2)
        for second in range(3)
        if second not in first
    }
    outcomes = []
    for seed in range(1500):
        b = topo.equal_partition(a, seed=seed).indices.tolist()
        outcomes.append(((b[0], b[1]), b[2]))
    counts = Counter(outcomes)
    assert set(counts) == every
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_the_larger_shares_fall_on_random_inputs():
    a = topo.erdos_renyi(10, 5, 12 / 50, seed=0)
    larger = np.concatenate(
        [np.flatnonzero(degrees(topo.equal_partition(a, seed=s))[1] == 3) for s in range(1000)]
    )
    assert len(larger) == 2000
    assert stats.chisquare(np.bincount(larger, minlength=5)).pvalue > 1e-4


def test_equal_partition_is_the_same_on_every_machine():
    b = topo.equal_partition(topo.erdos_renyi(4, 6, 0.4, seed=0), seed=3)
    assert np.flatnonzero(b.toarray()).tolist() == [0, 2, 4, 7, 8, 10, 11, 13, 18, 21]


def test_equal_partition_wants_an_adjacency_and_a_seed():
    with pytest.raises(ValueError, match="holds 0 and 1"):
        topo.equal_partition([[0.5, 1]], seed=0)
    with pytest.raises(ValueError, match="seed must be an integer"):
        topo.equal_partition([[0, 1]], seed=None)


# resort


def test_resort_by_hand():
    first = [[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]]  # 1, 3, 0 and 2 links in
    second = [[1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]  # 1, 0, 2 and 3 links out
    # by rank: neuron 1 takes column 3, neuron 3 column 2, neuron 0 column 0, neuron 2 column 1
    assert topo.resort(first, second).toarray().astype(int).tolist() == [
        [1, 1, 0, 1],
        [0, 1, 0, 1],
        [0, 1, 0, 0],
    ]


def test_equal_degrees_keep_their_order():
    # every other hidden neuron has one link in; the first hundred columns have one link out
    a = topo.resort(np.tile([[0], [1]], (100, 1)), np.eye(100, 200))
    assert a.indices.tolist() == list(range(1, 200, 2))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ranks_meet_and_only_columns_move(data):
    first = data.draw(adjacencies())
    second = data.draw(adjacencies(n_in=first.shape[0]))
    sorted_second = topo.resort(first, second)
    assert topo.as_adjacency(sorted_second) is sorted_second
    assert sorted_second.shape == second.shape
    columns = [tuple(column) for column in second.toarray().T]
    assert Counter(columns) == Counter(tuple(c) for c in sorted_second.toarray().T)
    into, out_of = degrees(first)[0], degrees(sorted_second)[1]
    for i, j in itertools.combinations(range(len(into)), 2):
        assert (into[i] - into[j]) * (out_of[i] - out_of[j]) >= 0
    again = topo.resort(first, sorted_second)
    assert np.array_equal(degrees(again)[1], out_of)


def test_a_chain_is_sorted_from_the_first_layer_on():
    shapes = [(90, 50), (70, 90), (80, 70)]
    layers = [topo.scale_free(*shape, 0.1, seed=i) for i, shape in enumerate(shapes)]
    for i in range(1, len(layers)):
        layers[i] = topo.resort(layers[i - 1], layers[i])
    for first, second in itertools.pairwise(layers):
        into, out_of = degrees(first)[0], degrees(second)[1]
        order = np.lexsort((out_of, into))
        assert (np.diff(out_of[order]) >= 0).all()


def test_any_matrix_of_zeros_and_ones_will_do():
    first, second = topo.erdos_renyi(5, 6, 0.5, seed=0), topo.erdos_renyi(4, 5, 0.5, seed=1)
    a = topo.resort(first, second)
    b = topo.resort(first.toarray().tolist(), sparse.coo_matrix(second))
    assert np.array_equal(a.toarray(), b.toarray())


def test_layers_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match=r"as many inputs .* \(4, 5\) and \(6, 5\): pass two"):
        topo.resort(np.ones((6, 5)), np.ones((4, 5)))
