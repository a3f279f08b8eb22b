import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import topo
from topo.adjacency import link_keys, locate, transpose

FORMATS = ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")


@st.composite
def dense_layers(draw, most=12):
    shape = draw(st.integers(1, most)), draw(st.integers(1, most))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 10**6))).random(shape) < density


def assert_canonical(a):
    assert isinstance(a, sparse.csr_array)
    assert a.dtype == bool
    assert a.indices.dtype == a.indptr.dtype == np.int32
    assert not any(x.flags.writeable for x in (a.data, a.indices, a.indptr))
    assert a.data.all()
    assert a.indptr[0] == 0
    assert a.indptr[-1] == len(a.indices) == len(a.data)
    for start, stop in zip(a.indptr[:-1], a.indptr[1:], strict=True):
        assert (np.diff(a.indices[start:stop]) > 0).all()


@settings(max_examples=60, deadline=None)
@given(dense_layers())
def test_any_dense_layer_is_canonicalised_exactly(dense):
    a = topo.as_adjacency(dense)
    assert_canonical(a)
    assert np.array_equal(a.toarray(), dense)


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.float32, np.float64])
def test_every_scipy_format_and_dtype_is_accepted(name, kind, dtype):
    dense = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    a = topo.as_adjacency(getattr(sparse, f"{name}_{kind}")(dense.astype(dtype)))
    assert_canonical(a)
    assert np.array_equal(a.toarray(), dense != 0)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float16, np.float64])
def test_dense_dtypes_and_memory_orders_are_accepted(dtype):
    dense = np.array([[0, 1, 0], [1, 1, 0]]).astype(dtype)
    for version in (dense, np.asfortranarray(dense), dense.repeat(2, axis=1)[:, ::2]):
        assert np.array_equal(topo.as_adjacency(version).toarray(), dense != 0)


def test_explicit_zeros_and_unsorted_indices_are_tidied():
    messy = sparse.csr_array(
        (np.array([1.0, 0.0, 1.0, -0.0]), np.array([2, 1, 0, 2]), np.array([0, 3, 4])), shape=(2, 3)
    )
    a = topo.as_adjacency(messy)
    assert_canonical(a)
    assert a.toarray().tolist() == [[True, False, True], [False, False, False]]
    assert messy.nnz == 4  # the argument is left alone


def test_int64_indices_become_int32():
    wide = sparse.csr_array(np.eye(3, dtype=bool))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert_canonical(topo.as_adjacency(wide))


def test_a_canonical_adjacency_comes_back_as_it_is():
    a = topo.as_adjacency(np.eye(3))
    assert topo.as_adjacency(a) is a


def test_the_arguments_later_changes_do_not_reach_the_adjacency():
    source = sparse.csr_array(np.eye(3, dtype=bool))
    a = topo.as_adjacency(source)
    source.indices[:] = 0
    source.data[:] = False
    assert np.array_equal(a.toarray(), np.eye(3))


@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_arrays_are_read_only(array):
    a = topo.as_adjacency(np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        getattr(a, array)[0] = 1


@pytest.mark.parametrize(
    ("value", "shown"), [(2, "2"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")]
)
def test_other_values_are_refused_and_named(value, shown):
    dense = np.array([[1, 0], [0, value]])
    for matrix in (dense, sparse.csr_array(dense), sparse.coo_matrix(dense)):
        with pytest.raises(ValueError, match=f"holds 0 and 1; this one holds {shown}"):
            topo.as_adjacency(matrix)


@pytest.mark.parametrize("dtype", [complex, object, str])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="holds 0 and 1"):
        topo.as_adjacency(np.array([[1, 0]]).astype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2), (0, 3), (3, 0), (0, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        topo.as_adjacency(np.ones(shape))
    if len(shape) == 2:
        with pytest.raises(ValueError, match="shape"):
            topo.as_adjacency(sparse.csr_array(shape, dtype=bool))


def test_a_one_dimensional_sparse_array_is_refused():
    with pytest.raises(ValueError, match="shape"):
        topo.as_adjacency(sparse.coo_array(np.array([1, 0, 1])))


def test_duplicate_sparse_entries_are_refused():
    twice = sparse.coo_array(([1, 1], ([1, 1], [0, 0])), shape=(2, 2))
    with pytest.raises(ValueError, match=r"\(1, 0\) is given twice"):
        topo.as_adjacency(twice)
    rows = sparse.csr_array((np.ones(2), np.array([0, 0]), np.array([0, 2])), shape=(1, 2))
    with pytest.raises(ValueError, match="twice"):
        topo.as_adjacency(rows)


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_sparse_index_out_of_range_is_refused(bad):
    a = sparse.csr_array(np.eye(3, dtype=bool))
    a.indices[1] = bad
    with pytest.raises(ValueError, match="indices must be"):
        topo.as_adjacency(a)


@settings(max_examples=60, deadline=None)
@given(dense_layers(), st.randoms(use_true_random=False))
def test_from_links_inverts_links_in_any_order(dense, random):
    a = topo.as_adjacency(dense)
    rows, cols = topo.links(a)
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == [
        tuple(x) for x in np.argwhere(dense).tolist()
    ]
    order = list(range(len(rows)))
    random.shuffle(order)
    again = topo.from_links(rows[order], cols[order], a.shape)
    assert_canonical(again)
    assert np.array_equal(again.toarray(), dense)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_from_links_takes_any_integers_and_none(dtype):
    a = topo.from_links(np.array([1, 0], dtype), np.array([2, 0], dtype), (2, 3))
    assert a.toarray().tolist() == [[True, False, False], [False, False, True]]
    assert_canonical(topo.from_links([], [], (2, 3)))


@pytest.mark.parametrize(
    ("rows", "cols", "message"),
    [
        ([0], [3], "column 3 is out of range"),
        ([2], [0], "row 2 is out of range"),
        ([-1], [0], "row -1 is out of range"),
        ([0], [-2], "column -2 is out of range"),
        ([0, 1], [0], "equal in length"),
        ([[0]], [[0]], "one-dimensional"),
        ([0.0], [0], "must be integers"),
        ([0], [True], "must be integers"),
        ([1, 0, 1], [2, 0, 2], r"\(1, 2\) is given twice"),
    ],
)
def test_from_links_refuses(rows, cols, message):
    with pytest.raises(ValueError, match=message):
        topo.from_links(rows, cols, (2, 3))


@settings(max_examples=60, deadline=None)
@given(dense_layers())
def test_transpose_is_scipys_and_carries_values(dense):
    a = topo.as_adjacency(dense)
    values = np.arange(1.0, a.nnz + 1)
    weights = np.zeros(dense.shape)
    weights[dense] = values
    expected = sparse.csr_array(weights.T)
    indptr, indices, order = transpose(a)
    assert np.array_equal(indptr, expected.indptr)
    assert np.array_equal(indices, expected.indices)
    assert np.array_equal(values[order], expected.data)
    assert {x.dtype for x in (indptr, indices, order)} == {np.dtype(np.int32)}


@settings(max_examples=60, deadline=None)
@given(dense_layers())
def test_link_keys_number_the_cells_in_row_major_order(dense):
    assert np.array_equal(link_keys(topo.as_adjacency(dense)), np.flatnonzero(dense))


def test_link_keys_do_not_overflow():
    a = topo.from_links([2**20], [2**21 - 1], (2**20 + 1, 2**21))
    assert link_keys(a).tolist() == [2**41 + 2**21 - 1]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 30)), st.lists(st.integers(-3, 33)))
def test_locate_is_index_or_minus_one(among, keys):
    ordered = sorted(among)
    found = locate(np.array(keys, np.int64), np.array(ordered, np.int64))
    assert found.tolist() == [ordered.index(k) if k in among else -1 for k in keys]


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1, exclude_min=True), st.integers(1, 3000), st.integers(1, 3000))
def test_link_count_is_pythons_round(density, n_out, n_in):
    expected = round(density * n_out * n_in)
    if expected:
        assert topo.link_count(density, n_out, n_in) == expected
    else:
        with pytest.raises(ValueError, match="leaves no link"):
            topo.link_count(density, n_out, n_in)


def test_link_count_rounds_halves_to_even_and_takes_numpy_numbers():
    assert topo.link_count(0.5, 1, 3) == topo.link_count(0.5, 1, 5) == 2
    assert topo.link_count(np.float64(0.5), np.int64(4), np.int32(4)) == 8
    assert topo.link_count(1, 7, 3) == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 4), "density must be in"),
        ((-0.1, 4, 4), "density must be in"),
        ((1.0001, 4, 4), "density must be in"),
        ((float("nan"), 4, 4), "density must be in"),
        (("0.1", 4, 4), "density must be in"),
        ((True, 4, 4), "density must be in"),
        ((None, 4, 4), "density must be in"),
        ((0.5, 0, 4), "n_out must be a positive integer"),
        ((0.5, 4, -1), "n_in must be a positive integer"),
        ((0.5, 4.0, 4), "n_out must be a positive integer"),
        ((0.5, True, 4), "n_out must be a positive integer"),
        ((0.01, 4, 4), "leaves no link"),
    ],
)
def test_link_count_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        topo.link_count(*arguments)


def test_networkx_takes_an_adjacency_as_it_is():
    a = topo.erdos_renyi(6, 9, 0.3, seed=0)
    graph = nx.bipartite.from_biadjacency_matrix(a)
    rows, cols = topo.links(a)
    assert set(graph.edges) == {
        (r, 6 + c) for r, c in zip(rows.tolist(), cols.tolist(), strict=True)
    }


def test_read_only_arrays_with_bad_indices_are_not_trusted():
    from scipy import sparse

    for indices, indptr in (([9, 1], [0, 1, 2]), ([-1, 1], [0, 1, 2]), ([0, 1], [0, 2, 2])):
        a = sparse.csr_array(np.eye(2, dtype=bool))
        a.indices, a.indptr = np.array(indices, np.int32), np.array(indptr, np.int32)
        a.indices.flags.writeable = a.indptr.flags.writeable = False
        if indptr == [0, 2, 2]:  # fine, if unusual
            assert topo.as_adjacency(a).toarray().tolist() == [[True, True], [False, False]]
            continue
        with pytest.raises(ValueError, match="ind"):
            topo.as_adjacency(a)


def test_sizes_may_be_numpy_integers():
    n = np.int32(100_000)
    assert topo.erdos_renyi(n, n, 1e-7, seed=0).nnz == 1000
    assert topo.small_world(n, n, 1e-5, seed=0).nnz == 100_000
    with pytest.raises(ValueError, match="n_in must be a positive integer, not 0"):
        topo.from_links([], [], (3, 0))


@pytest.mark.parametrize("indices", [[1, 1], [2, 1]])
def test_scipys_flags_are_not_trusted(indices):
    a = sparse.csr_array(
        (np.ones(2, bool), np.array([1, 2], np.int32), np.array([0, 2, 2], np.int32))
    )
    a.indices = np.array(indices, np.int32)
    for array in (a.data, a.indices, a.indptr):
        array.flags.writeable = False
    a.has_sorted_indices = a.has_canonical_format = True
    if indices[0] == indices[1]:
        with pytest.raises(ValueError, match=r"\(0, 1\) is given twice|holds 2"):
            topo.as_adjacency(a)
    else:
        assert topo.as_adjacency(a).indices.tolist() == [1, 2]
