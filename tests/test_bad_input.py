"""Malformed input at every public function of topo: a clear error or a right result, never a crash.

Each function is called with good arguments of which one or two are replaced by nonsense.
"""

import contextlib
import inspect
import operator
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import topo

GOOD = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 1, 0]], bool)


def broken_csr(indices, indptr, shape=(3, 4)):
    """A scipy matrix whose kernels would read or write out of bounds."""
    a = sparse.csr_array((np.ones(len(indices), bool), [0] * len(indices), [0, 0, 0, len(indices)]))
    a.indices, a.indptr = np.array(indices, np.int32), np.array(indptr, np.int32)
    a._shape = shape
    return a


def frozen(a):
    """As an adjacency is, so that it might be taken for one."""
    for array in (a.data, a.indices, a.indptr):
        array.flags.writeable = False
    a.has_sorted_indices = a.has_canonical_format = True
    return a


def junk_arrays():
    values = st.sampled_from([0, 1, -1, 2, 0.5, np.nan, np.inf, 2**40])
    shapes = st.sampled_from([(), (0,), (3,), (3, 4), (4, 3), (0, 4), (1, 1), (2, 3, 4)])
    dtypes = st.sampled_from([bool, np.int8, np.int64, np.uint64, float, np.float16, complex, "U1"])

    def make(value, shape, dtype):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return np.full(shape, value).astype(dtype)

    return st.builds(make, values, shapes, dtypes)


JUNK = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2, 3, 2**31, 2**63, 2**64, -(2**70), "", "x", b"x", ...]
    ),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 1.5, -1e300, 1e-320, np.nan, np.inf, -np.inf, 1j]),
    st.sampled_from(
        [(), [], {}, [[]], [None], ["a"], {"fc": None}, {1: 2}, {"fc": [[2]]}, object()]
    ),
    st.sampled_from([(3, 4), (0, 4), (-3, 4), (2**40, 2**40), (3.0, 4.0), ("x", "y"), (3,)]),
    junk_arrays(),
)
MATRICES = st.one_of(
    JUNK,
    st.builds(
        lambda wrong, finish: finish(broken_csr(*wrong)),
        st.sampled_from(
            [
                ([9], [0, 0, 0, 1]),
                ([-1], [0, 0, 0, 1]),
                ([1, 2], [0, 2, 1, 2]),
                ([1], [0, 0, 0, 2**30]),
                ([1], [5, 5, 5, 6]),
                ([1, 1], [0, 0, 2, 2]),
                ([1], [0, 0, 0, 1], (900, 4)),
                ([1], [0, 0, 0, 1], (2, 4)),
            ]
        ),
        st.sampled_from([lambda a: a, frozen]),
    ),
    junk_arrays()
    .filter(lambda a: a.ndim == 2 and a.dtype in (bool, int, float))
    .map(sparse.coo_array),
)


def network():
    return topo.Network({"a": GOOD, "b": GOOD.T})


def folder():
    """A history."""
    return topo.HistoryWriter(tempfile.mkdtemp(dir="."), network()).path


def file(write):
    path = tempfile.mktemp(dir=".")
    write(network(), path)
    return path


MATRIX = {"adjacency", "matrix", "features", "network", "first", "second", "masks", "layers"}
CALLS = {
    "Coupling": lambda: {"outputs": ("a",), "inputs": ("b",), "head_dim": 2, "rotary": True},
    "History.at": lambda: {"self": topo.History.open(folder()), "step": 3, "weights": False},
    "History.open": lambda: {"path": folder()},
    "HistoryWriter": lambda: {"path": tempfile.mkdtemp(dir="."), "network": network()},
    "HistoryWriter.append": lambda: {
        "self": topo.HistoryWriter(tempfile.mkdtemp(dir="."), network()), "step": 3,
        "network": network(), "events": {}, "overlap": {"a": 0.5}, "weights": {},
        "measures": {"a": {"frozen": True, "thin_seconds": 0.5}},
    },
    "HistoryWriter.keyframe": lambda: {
        "self": topo.HistoryWriter(tempfile.mkdtemp(dir="."), network()), "step": 3,
        "weights": {"a": np.ones(7), "b": np.ones(7)},
    },
    "HistoryWriter.open": lambda: {"path": folder(), "step": 0},
    "Network": lambda: {
        "layers": {"a": GOOD, "b": GOOD.T}, "couplings": (topo.Coupling(("a",), ("b",)),),
        "weights": {"a": np.ones(7), "b": np.ones(7)},
    },
    "Network.from_masks": lambda: {
        "masks": {"a": GOOD, "b": GOOD.T * 0.5}, "couplings": None, "include": ("*",),
        "weights": True,
    },
    "Network.replace": lambda: {"self": network(), "layers": {"a": GOOD}},
    "active_neuron_rate": lambda: {"network": network()},
    "as_adjacency": lambda: {"matrix": GOOD},
    "correlated": lambda: {
        "features": np.arange(12.0).reshape(3, 4) % 5, "n_out": 3, "density": 0.4, "seed": 0,
    },
    "equal_partition": lambda: {"adjacency": GOOD, "seed": 0},
    "erdos_renyi": lambda: {"n_out": 3, "n_in": 4, "density": 0.4, "seed": 0},
    "evaluate_predictor": lambda: {
        "adjacency": GOOD, "predictor": "ch2_l3n", "hidden": 0.3, "k": 2, "seeds": [0, 1],
    },
    "from_igraph": lambda: {"graph": topo.to_igraph(network())},
    "from_networkx": lambda: {"graph": topo.to_networkx(network())},
    "from_pandas": lambda: {
        "frame": topo.to_pandas(network()), "shapes": {"a": (3, 4), "b": (4, 3)}, "couplings": (),
    },
    "from_links": lambda: {"rows": [0, 2], "cols": [1, 3], "shape": (3, 4)},
    "grow": lambda: {"adjacency": GOOD, "k": 2, "predictor": "ch3_l3p", "soft": True, "seed": 0},
    "hash_links": lambda: {"key": 3, "rows": [0, 1], "cols": [1, 1]},
    "link_count": lambda: {"density": 0.5, "n_out": 3, "n_in": 4},
    "link_scores": lambda: {
        "adjacency": GOOD, "predictor": "ch2_l3n", "rows": [0, 2], "dtype": np.float64,
    },
    "links": lambda: {"adjacency": topo.as_adjacency(GOOD)},
    "load_npz": lambda: {"path": file(topo.save_npz)},
    "percolate": lambda: {"network": network(), "fixed": ("a",)},
    "read_edge_list": lambda: {
        "path": file(lambda _, path: Path(path).write_text("0 1\n2 3\n")), "shape": (3, 4),
    },
    "read_gexf": lambda: {"path": file(topo.write_gexf)},
    "read_graphml": lambda: {"path": file(topo.write_graphml)},
    "receptive_field": lambda: {
        "n_out": 3, "n_in": 4, "density": 0.4, "r": 0.2, "degrees": "uniform", "seed": 0,
    },
    "resort": lambda: {"first": GOOD.T, "second": GOOD},
    "save_npz": lambda: {"network": network(), "path": tempfile.mktemp(dir=".")},
    "scale_free": lambda: {"n_out": 3, "n_in": 4, "density": 0.4, "seed": 0},
    "sample_absent": lambda: {"adjacency": topo.as_adjacency(GOOD), "k": 2, "key": 5},
    "sample_integers": lambda: {"n": 10, "k": 3, "key": 5},
    "select": lambda: {
        "scores": [0.1, 0.2], "k": 1, "sharpness": 1.0, "hashes": np.array([3, 5], np.uint64),
    },
    "small_world": lambda: {"n_out": 3, "n_in": 4, "density": 0.4, "beta": 0.3, "seed": 0},
    "stream": lambda: {"seed": 3},
    "to_igraph": lambda: {"network": network()},
    "to_networkx": lambda: {"network": network()},
    "to_pandas": lambda: {"network": network()},
    "uniform": lambda: {"hashes": np.array([3], np.uint64)},
    "write_gexf": lambda: {"network": network(), "path": tempfile.mktemp(dir=".")},
    "write_graphml": lambda: {"network": network(), "path": tempfile.mktemp(dir=".")},
}  # fmt: skip


def test_every_public_function_is_here():
    public = {n for n in topo.__all__ if inspect.isfunction(getattr(topo, n))}
    assert public <= set(CALLS)
    methods = {
        f"{kind.__name__}.{name}"
        for kind in (topo.Network, topo.History, topo.HistoryWriter)
        for name, method in inspect.getmembers(kind, inspect.isroutine)
        if name[0] != "_" and inspect.signature(method).parameters.keys() - {"self"}
    }
    assert methods <= set(CALLS)


@pytest.mark.filterwarnings("ignore::topo.HistoryWarning")
@pytest.mark.parametrize("name", CALLS)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_nonsense_is_refused_or_makes_sense(name, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    arguments = CALLS[name]()
    names = sorted(set(arguments) - {"self"})
    for parameter in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        is_matrix = parameter in MATRIX
        arguments[parameter] = data.draw(MATRICES if is_matrix else JUNK)
    result = None
    with contextlib.suppress(ValueError, TypeError, FileNotFoundError, IsADirectoryError):
        result = operator.attrgetter(name)(topo)(**arguments)
    if sparse.issparse(result):
        assert topo.as_adjacency(result) is result
