import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topo
from topo.adjacency import link_keys
from topo.changes import common, difference, subset, union

A = topo.as_adjacency([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
B = topo.as_adjacency([[0, 0, 1], [0, 1, 0], [1, 0, 1]])


@st.composite
def pairs(draw):
    """Two topologies of one layer, from none to all of its links."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    densities = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
    return tuple(topo.as_adjacency(rng.random(shape) < draw(densities)) for _ in range(2))


def assert_is(adjacency, dense):
    assert topo.as_adjacency(adjacency) is adjacency  # canonical, read-only
    assert np.array_equal(adjacency.toarray(), dense)


# ---- properties ------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_the_operations_are_those_of_sets(pair):
    a, b = pair
    x, y = a.toarray(), b.toarray()
    here, there = set(link_keys(a).tolist()), set(link_keys(b).tolist())
    gone = difference(a, b)
    assert gone.dtype == np.int64
    assert gone.tolist() == sorted(here - there)
    assert common(a, b) == len(here & there)
    assert_is(subset(a, y[x]), x & y)
    assert_is(union(a, *np.nonzero(y & ~x)), x | y)


@settings(max_examples=100, deadline=None)
@given(pairs(), st.floats(0, 1), st.integers(0, 10**6))
def test_an_update_adds_up(pair, share, seed):
    before, _ = pair
    left = subset(before, np.random.default_rng(seed).random(before.nnz) < share)
    rows, cols = topo.sample_absent(left, before.nnz - left.nnz, topo.stream(seed))
    after = union(left, rows, cols)
    removed, grown = difference(before, left), difference(after, left)
    assert after.nnz == before.nnz
    assert np.array_equal(np.union1d(link_keys(left), removed), link_keys(before))
    assert np.array_equal(grown, rows.astype(np.int64) * before.shape[1] + cols)
    assert common(before, after) - left.nnz == len(np.intersect1d(removed, grown))


# ---- by hand ---------------------------------------------------------------------------------


def test_by_hand():
    assert difference(A, B).tolist() == [0, 7]
    assert difference(B, A).tolist() == [4]
    assert common(A, B) == common(B, A) == 3
    kept = np.array([False, True, True, False, True])
    assert_is(subset(A, kept), [[0, 0, 1], [0, 0, 0], [1, 0, 1]])
    assert_is(union(A, [0, 1, 1], [1, 0, 2]), [[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert_is(A, [[1, 0, 1], [0, 0, 0], [1, 1, 1]])


def test_where_nothing_changes_the_object_is_the_same():
    assert subset(A, np.ones(5, bool)) is A
    none = np.empty(0, np.int32)
    assert union(A, none, none) is A
    assert union(A, [], []) is A
    assert difference(A, A).tolist() == []
    assert difference(A, A).dtype == np.int64
    assert common(A, A) == 5


def test_none_and_all():
    empty, full = topo.as_adjacency(np.zeros((2, 3))), topo.as_adjacency(np.ones((2, 3)))
    assert_is(subset(full, np.zeros(6, bool)), np.zeros((2, 3)))
    assert subset(empty, np.empty(0, bool)) is empty
    assert_is(union(empty, *topo.links(full)), np.ones((2, 3)))
    assert difference(full, empty).tolist() == [0, 1, 2, 3, 4, 5]
    assert difference(empty, full).tolist() == []
    assert common(empty, full) == 0


def test_keys_exceed_32_bits():
    n = 2**20
    a = topo.from_links([0, n - 1], [5, n - 2], (n, n))
    assert difference(a, subset(a, np.array([True, False]))).tolist() == [(n - 1) * n + n - 2]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_new_links_are_integers_of_any_kind(dtype):
    after = union(A, np.array([1, 1], dtype), np.array([0, 2], dtype))
    assert_is(after, [[1, 0, 1], [1, 0, 1], [1, 1, 1]])


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "cols", "bad"),
    [
        ([0, 0], [1, 2], "(0, 2), at 1"),  # present, the last of its row
        ([0], [0], "(0, 0), at 0"),  # present, the first
        ([2], [1], "(2, 1), at 0"),  # present, of a full row
        ([0, 0], [1, 1], "(0, 1), at 1"),  # twice
        ([1, 1], [2, 1], "(1, 1), at 1"),  # columns descend
        ([1, 0], [0, 1], "(0, 1), at 1"),  # rows descend
        ([-1], [0], "(-1, 0), at 0"),
        ([3], [0], "(3, 0), at 0"),
        ([0, 1], [1, 3], "(1, 3), at 1"),
        ([0], [-1], "(0, -1), at 0"),
        ([0], [2**32 + 1], "(0, 4294967297), at 0"),
        (np.array([2**64 - 1], np.uint64), [0], "(-1, 0), at 0"),
    ],
)
def test_new_links_are_absent_in_order_and_in_range(rows, cols, bad):
    with pytest.raises(ValueError, match="must be absent and ascend") as refused:
        union(A, rows, cols)
    assert f"shape (3, 3): {bad}, does not" in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0], [1, 2], r"equal in length, not \(1,\), \(2,\)"),
        ([[0]], [[1]], "one-dimensional"),
        ([0.0], [1], "must be integers, not float64"),
        ([0], [True], "must be integers, not int64, bool"),
    ],
)
def test_new_links_are_two_lists_of_integers(rows, cols, message):
    with pytest.raises(ValueError, match=message):
        union(A, rows, cols)


def test_no_topology_exceeds_32_bits():
    zeros = np.broadcast_to(np.int32(0), 2**31 - 5)  # of no memory
    with pytest.raises(ValueError, match="5 links and 2147483643 new ones exceed 32-bit indices"):
        union(A, zeros, zeros)


@pytest.mark.parametrize(
    "kept", [np.ones(4, bool), np.ones(5, int), np.ones((5, 1), bool), [True] * 6]
)
def test_kept_is_one_bool_per_link(kept):
    with pytest.raises(ValueError, match="one bool for each of the 5 links, not"):
        subset(A, kept)


@pytest.mark.parametrize("function", [difference, common])
def test_topologies_of_other_layers_are_not_compared(function):
    with pytest.raises(ValueError, match=r"one shape, not \(3, 3\) and \(1, 3\)"):
        function(A, topo.as_adjacency([[1, 0, 1]]))
