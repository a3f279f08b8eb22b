import contextlib
import json
import re
import sys

import igraph
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import topo
from topo import Coupling, Network

# ---- networks of every kind ------------------------------------------------------------------


PRINTABLE = st.characters(exclude_categories=["Cc", "Cs", "Cn"])


@st.composite
def networks(draw, alphabet=PRINTABLE):
    """A chain, a gated block or attention, or layers on their own; often weighted."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["one", "loop", "alone", "chain", "gated", "attention"]))
    a, b, c, d = (draw(st.integers(1, 4)) for _ in range(4))
    shapes = {
        "one": [(a, b)],
        "loop": [(a, a), (b, a)],
        "alone": [(a, b), (c, d)],
        "chain": [(a, b), (c, a), (d, c)],
        "gated": [(b, a), (c, b), (c, b), (d, c)],
        "attention": [(4 * b, a), (2 * b, a), (2 * b, a), (a, 4 * b)],
    }[kind]
    usual = st.sampled_from(
        ["fc1", "model.layers.0.q", "a/b", "Ωμέγα", "", " ", "label", "[<&\"'>]"]
    )
    name = usual | st.text(alphabet, max_size=5)
    n = draw(st.lists(name, min_size=len(shapes), max_size=len(shapes), unique=True))
    couplings = {
        "one": lambda: [],
        "loop": lambda: [Coupling((n[0],), (n[0], n[1]))],
        "alone": lambda: [],
        "chain": lambda: draw(st.sampled_from([None, ()])),
        "gated": lambda: [Coupling((n[0],), (n[1], n[2])), Coupling((n[1], n[2]), (n[3],))],
        "attention": lambda: [
            Coupling((n[0], n[1]), head_dim=2 * b, rotary=True),
            Coupling((n[2],), (n[3],), head_dim=draw(st.sampled_from([1, b, 2 * b]))),
        ],
    }[kind]()
    layers = {
        x: rng.random(s) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])) for x, s in zip(n, shapes)
    }
    weights = None
    if draw(st.booleans()):
        dtypes = st.sampled_from([np.float32, np.float64, ">f4", np.int8, np.uint32, bool])
        weights = {x: draw(hnp.arrays(draw(dtypes), int(m.sum()))) for x, m in layers.items()}
    return Network(layers, couplings, weights=weights)


def same(a, b):
    """Equal to the last bit (but for those within NaN)."""
    assert a == b
    assert [m.shape for m in a.layers.values()] == [m.shape for m in b.layers.values()]
    assert all(topo.as_adjacency(m) is m for m in b.layers.values())
    assert (a.weights is None) == (b.weights is None)
    for name, w in (a.weights or {}).items():
        v = b.weights[name]
        assert w.dtype == v.dtype
        assert np.array_equal(w.data, v.data, equal_nan=w.dtype.kind == "f")
        if w.dtype.kind == "f":
            numbers = ~np.isnan(w.data)
            assert np.array_equal(np.signbit(w.data)[numbers], np.signbit(v.data)[numbers])
        assert np.array_equal(w.indices, v.indices)


SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1e-310, 1e300, 0.1, 1 / 3, 2**-1074, -1.5]
EXAMPLE = Network(
    {"fc1": [[1, 0, 1], [0, 0, 0]], "fc2": [[1, 1], [0, 1]], "out": [[0, 1]]},
    weights={"fc1": [0.5, -0.0], "fc2": np.array([1, 2, 3], np.float32), "out": [np.nan]},
)
GATED = Network(
    {"gate": [[1, 0], [1, 1]], "up": [[1, 0], [0, 1]], "down": [[1, 1]]},
    [Coupling(("gate", "up"), ("down",))],
)


def through(write, read, suffix):
    def roundtrip(network, folder):
        write(network, folder / f"net{suffix}")
        assert [p.name for p in folder.iterdir()] == [f"net{suffix}"]  # no temporary file
        return read(str(folder / f"net{suffix}"))

    return roundtrip


MEMORY = {
    "networkx": lambda network, _: topo.from_networkx(topo.to_networkx(network)),
    "igraph": lambda network, _: topo.from_igraph(topo.to_igraph(network)),
    "pandas": lambda network, _: topo.from_pandas(topo.to_pandas(network)),
}
XML = {
    "graphml": through(topo.write_graphml, topo.read_graphml, ".graphml"),
    "gexf": through(topo.write_gexf, topo.read_gexf, ".gexf"),
}
FORMATS = MEMORY | XML | {"npz": through(topo.save_npz, topo.load_npz, ".npz")}


# ---- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_round_trips_are_exact(form, tmp_path):
    @settings(max_examples=100, deadline=None)
    @given(networks())
    def check(network):
        same(network, FORMATS[form](network, tmp_path))

    check()


@pytest.mark.parametrize("form", [*MEMORY, "npz"])
def test_any_name_goes_where_there_is_no_xml(form, tmp_path):
    @settings(max_examples=50, deadline=None)
    @given(networks(alphabet=st.characters()))  # with control characters and lone surrogates
    def check(network):
        same(network, FORMATS[form](network, tmp_path))

    check()
    same(net := Network({"\0\r\n": [[1]], "\ud800": [[1]]}, ()), FORMATS[form](net, tmp_path))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("form", FORMATS)
def test_special_weights_survive(form, dtype, tmp_path):
    with np.errstate(over="ignore"):
        values = np.array(SPECIAL).astype(dtype)
    net = Network({"fc": np.ones((3, 4))}, weights={"fc": values})
    same(net, FORMATS[form](net, tmp_path))


def test_npz_keeps_every_bit_of_any_dtype(tmp_path):
    nan = np.array([0x7FF8000000000123, 0xFFF0000000000001], np.uint64).view(np.float64)
    big = np.array([2**63 - 1, -(2**63)])
    for values in (nan, big, big.astype(np.longdouble), big.astype(">i8")):
        net = Network({"fc": [[1, 1]]}, weights={"fc": values})
        loaded = through(topo.save_npz, topo.load_npz, ".npz")(net, tmp_path).weights["fc"]
        assert loaded.dtype == values.dtype
        assert loaded.data.tobytes() == values.tobytes()


@pytest.mark.parametrize("form", [*MEMORY, *XML])
def test_an_adjacency_is_a_network_of_one_layer(form, tmp_path):
    a = topo.erdos_renyi(5, 7, 0.3, seed=0)
    net = FORMATS[form](a, tmp_path)
    same(Network({"layer": a}), net)


@pytest.mark.parametrize("form", [*MEMORY, *XML])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.longdouble])
def test_weights_that_float64_cannot_hold_are_refused(form, dtype, tmp_path):
    net = Network({"fc": [[1]]}, weights={"fc": np.ones(1, dtype)})
    with pytest.raises(ValueError, match=rf"layer 'fc' are {np.dtype(dtype)}.*topo\.save_npz"):
        FORMATS[form](net, tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_weights_that_are_no_numbers_are_refused(form, tmp_path):
    net = Network({"fc": [[1]]}, weights={"fc": np.ones(1, complex)})
    with pytest.raises(ValueError, match="layer 'fc' are complex128"):
        FORMATS[form](net, tmp_path)


@pytest.mark.parametrize("form", XML)
@pytest.mark.parametrize("name", ["a\0", "\r", "a\tb", "\x85", "\ud800", "\uffff"])
def test_names_that_xml_cannot_hold_are_refused(form, name, tmp_path):
    with pytest.raises(ValueError, match=r"cannot hold the layer name '.*rename it, or"):
        FORMATS[form](Network({"fc": [[1]], name: [[1]]}), tmp_path)
    assert not list(tmp_path.iterdir())


# ---- what the graphs are ---------------------------------------------------------------------


def test_a_layer_is_a_bipartite_graph_of_networkx():
    a = topo.erdos_renyi(6, 9, 0.4, seed=1)
    graph = topo.to_networkx(a)
    assert type(graph) is nx.Graph
    inputs = [n for n, side in graph.nodes(data="bipartite") if side == 0]
    outputs = [n for n, side in graph.nodes(data="bipartite") if side == 1]
    assert (len(inputs), len(outputs)) == (9, 6)
    assert nx.bipartite.is_bipartite_node_set(graph, inputs)
    matrix = nx.bipartite.biadjacency_matrix(graph, outputs, inputs, weight=None)
    assert np.array_equal(matrix.toarray(), a.toarray())
    assert graph.nodes[10] == {
        "population": 1, "index": 1, "layer": "layer", "side": "output", "bipartite": 1
    }  # fmt: skip
    assert graph.nodes[0]["side"] == "input"


def test_a_layer_is_a_bipartite_graph_of_igraph():
    a = topo.erdos_renyi(6, 9, 0.4, seed=1)
    graph = topo.to_igraph(a)
    assert not graph.is_directed()
    matrix, outputs, _ = graph.get_biadjacency(types=[not t for t in graph.vs["type"]])
    assert np.array_equal(np.array(matrix, bool), a.toarray())
    assert outputs == list(range(9, 15))
    assert graph.vs[10].attributes() == {
        "population": 1, "index": 1, "layer": "layer", "side": "output", "type": True
    }  # fmt: skip


def test_a_chain_is_one_layered_graph():
    graph = topo.to_networkx(EXAMPLE)
    assert type(graph) is nx.DiGraph
    assert len(graph) == 3 + 2 + 2 + 1
    assert nx.is_directed_acyclic_graph(graph)
    assert [graph.nodes[n]["population"] for n in graph] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert [(d["layer"], d["side"]) for d in graph.nodes.values()] == (
        [("fc1", "input")] * 3 + [("fc1", "output")] * 2 + [("fc2", "output")] * 2
        + [("out", "output")]
    )  # fmt: skip
    assert nx.shortest_path(graph, 2, 5) == [2, 3, 5]
    assert graph.edges[0, 3] == {"layer": "fc1", "weight": 0.5}
    other = topo.to_igraph(EXAMPLE)
    assert other.is_directed()
    assert other.get_edgelist() == [(u, v) for u, v in graph.edges]
    assert other.es["layer"] == ["fc1"] * 2 + ["fc2"] * 3 + ["out"]
    assert other.vs["index"] == [0, 1, 2, 0, 1, 0, 1, 0]
    assert nx.multipartite_layout(graph, subset_key="population")[0][0] < 0


def test_layers_between_the_same_neurons_are_parallel_edges():
    fan = Network(GATED.layers, [Coupling(("gate", "up"), ("down",))])
    assert type(topo.to_networkx(fan)) is nx.DiGraph  # gate and up read different inputs
    layers = {"fc": np.ones((2, 2))} | GATED.layers
    net = Network(layers, [Coupling(("fc",), ("gate", "up")), *GATED.couplings])
    graph = topo.to_networkx(net)
    assert type(graph) is nx.MultiDiGraph
    assert (len(graph), graph.size()) == (2 + 2 + 2 + 1, net.links)
    assert sorted(d["layer"] for d in graph.get_edge_data(2, 4).values()) == ["gate", "up"]


def test_only_neurons_that_are_one_to_one_share_a_node():
    q, k = np.ones((4, 1)), np.ones((2, 1))
    count = lambda layers, c: len(topo.to_networkx(Network(layers, [c])))  # noqa: E731
    assert count({"q": q, "k": q}, Coupling(("q", "k"))) == 1 + 1 + 4
    assert count({"q": q, "k": q}, Coupling(("q", "k"), head_dim=2)) == 1 + 1 + 4
    assert count({"q": q, "k": q}, Coupling(("q", "k"), (), 2, True)) == 1 + 1 + 4 + 4
    assert count({"q": q, "k": k}, Coupling(("q", "k"), head_dim=2)) == 1 + 1 + 4 + 2


def test_the_edge_list():
    frame = topo.to_pandas(EXAMPLE)
    assert list(frame.columns) == ["layer", "row", "column", "weight"]
    assert frame["layer"].tolist() == ["fc1", "fc1", "fc2", "fc2", "fc2", "out"]
    assert frame["row"].tolist() == [0, 0, 0, 0, 1, 0]
    assert frame["column"].tolist() == [0, 2, 0, 1, 1, 1]
    assert frame["weight"].dtype == np.float64
    assert "weight" not in topo.to_pandas(GATED).columns


def test_gephi_finds_labels_and_weights(tmp_path):
    topo.write_gexf(EXAMPLE, tmp_path / "net.gexf")
    topo.write_graphml(EXAMPLE, tmp_path / "net.graphml")
    for graph in (nx.read_gexf(tmp_path / "net.gexf"), nx.read_graphml(tmp_path / "net.graphml")):
        assert graph.nodes["4"]["label"] == "fc1 output 1"
        assert graph.edges["0", "3"]["weight"] == 0.5
    assert 'label="fc1 output 1"' in (tmp_path / "net.gexf").read_text()
    text = (tmp_path / "net.graphml").read_text()
    assert re.search('<key id="d[0-9]+" for="node" attr.name="label" attr.type="string"', text)
    assert re.search('<key id="d[0-9]+" for="edge" attr.name="weight" attr.type="double"', text)


def test_igraph_reads_the_graphml(tmp_path):
    net = Network(EXAMPLE.layers)
    topo.write_graphml(net, tmp_path / "net.graphml")
    same(net, topo.from_igraph(igraph.Graph.Read_GraphML(str(tmp_path / "net.graphml"))))


def test_npz_is_read_without_epitopo(tmp_path):
    from scipy import sparse

    topo.save_npz(EXAMPLE, tmp_path / "net")
    with np.load(tmp_path / "net") as arrays:
        layers = json.loads(arrays["epitopo"].item())["layers"]
        for i, layer in enumerate(layers):
            parts = (arrays[f"{i}.{part}"] for part in ("weights", "indices", "indptr"))
            a = sparse.csr_array(tuple(parts), shape=layer["shape"])
            assert np.array_equal(a.toarray() != 0, EXAMPLE.weights[layer["name"]].toarray() != 0)


# ---- graphs that others have changed ---------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(networks(), st.randoms(use_true_random=False))
def test_names_and_order_of_nodes_do_not_matter(network, random):
    graph = topo.to_networkx(network)
    nodes, edges = list(graph.nodes(data=True)), list(graph.edges(data=True))
    random.shuffle(nodes)
    random.shuffle(edges)
    other = graph.__class__(**graph.graph)
    other.add_nodes_from((f"n{n}", data) for n, data in nodes)
    for u, v, data in edges:
        if not graph.is_directed() and random.random() < 0.5:
            u, v = v, u
        other.add_edge(f"n{u}", f"n{v}", **data)
    same(network, topo.from_networkx(other))
    frame = topo.to_pandas(network)
    order = list(range(len(frame)))
    random.shuffle(order)
    same(network, topo.from_pandas(frame.iloc[order]))
    ends = topo.to_igraph(network)
    order = list(range(ends.vcount()))
    random.shuffle(order)
    same(network, topo.from_igraph(ends.permute_vertices(order)))


def test_what_is_left_of_a_graph_is_a_network():
    graph = topo.to_networkx(EXAMPLE)
    graph.remove_node(4)  # neuron 1 of the first hidden layer
    net = topo.from_networkx(graph)
    assert [a.shape for a in net.layers.values()] == [(2, 3), (2, 2), (1, 2)]
    assert net.layers["fc2"].toarray().tolist() == [[True, False], [False, False]]
    assert net.weights["fc2"].data.tolist() == [1]
    other = topo.to_igraph(EXAMPLE)
    other.delete_vertices(4)
    same(net, topo.from_igraph(other))
    same(EXAMPLE, topo.from_networkx(topo.to_networkx(EXAMPLE).to_undirected()))
    graph.add_edge(1, 3, layer="fc1", weight=7)
    assert topo.from_networkx(graph).weights["fc1"].data.tolist() == [0.5, 7, -0.0]


def test_a_frame_survives_parquet_and_csv(tmp_path):
    net = Network(
        EXAMPLE.layers, weights={n: np.arange(a.nnz) / 3 for n, a in EXAMPLE.layers.items()}
    )
    topo.to_pandas(net).to_parquet(tmp_path / "a.parquet")
    same(net, topo.from_pandas(pd.read_parquet(tmp_path / "a.parquet")))
    topo.to_pandas(net).to_csv(tmp_path / "a.csv", index=False)
    frame = pd.read_csv(tmp_path / "a.csv")
    shapes = {n: a.shape for n, a in net.layers.items()}
    same(net, topo.from_pandas(frame, shapes))
    same(Network(net.layers, ()), topo.from_pandas(frame.drop(columns="weight"), shapes, ()))
    assert topo.from_pandas(topo.to_pandas(net), couplings=[]).couplings == ()
    with pytest.raises(ValueError, match=r"how many neurons there are: pass shapes=\{layer"):
        topo.from_pandas(frame)


def test_weights_may_be_added_to_a_frame():
    frame = topo.to_pandas(GATED).assign(weight=np.arange(7, dtype=np.float32))
    net = topo.from_pandas(frame)
    assert net.weights["down"].data.tolist() == [5.0, 6.0]
    assert net.weights["down"].dtype == np.float32


# ---- what is malformed -----------------------------------------------------------------------


def broken(change):
    graph = topo.to_networkx(EXAMPLE)
    change(graph)
    return graph


def describe_with(**changes):
    def change(graph):
        graph.graph["epitopo"] = json.dumps(json.loads(graph.graph["epitopo"]) | changes)

    return change


LAYER = {"name": "fc1", "shape": [2, 3], "weights": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.graph.clear(), "no attribute 'epitopo'.*biadjacency_matrix"),
        (lambda g: g.graph.update(epitopo="{"), "missing or damaged: '{'"),
        (lambda g: g.graph.update(epitopo=5), "missing or damaged: 5"),
        (lambda g: g.graph.update(epitopo="[" * 10**5), "missing or damaged"),
        (
            describe_with(format="epitopo-network-2"),
            "'epitopo-network-2'.*reads 'epitopo-network-1",
        ),
        (describe_with(layers=None), "damaged"),
        (describe_with(layers=[], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER, LAYER], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER | {"shape": [2]}], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER | {"shape": [2, 3.0]}], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER | {"name": 5}], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER], couplings=[]), "of the layer 'fc2', the network has fc1"),
        (describe_with(layers=[LAYER | {"name": []}], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER | {"weights": "O"}], couplings=[]), "damaged"),
        (describe_with(layers=[LAYER | {"weights": "x9"}], couplings=[]), "damaged"),
        (
            describe_with(layers=[LAYER, LAYER | {"name": "fc2", "weights": "<f4"}], couplings=[]),
            "damaged",
        ),
        (describe_with(couplings=[{"outputs": ["x"]}]), "damaged"),
        (describe_with(couplings=[{"outputs": []}]), "damaged"),
        (describe_with(couplings=[{"outputs": ["fc1"], "head_dim": "2"}]), "damaged"),
        (describe_with(couplings=[{"outputs": ["fc1"], "color": 1}]), "damaged"),
        (describe_with(couplings=[{"outputs": ["fc1"], "inputs": ["out", "out"]}]), "population"),
        (lambda g: g.nodes[0].pop("index"), "'index' must be whole numbers, not None"),
        (lambda g: g.nodes[0].update(index="0"), "'index' must be whole numbers, not '0'"),
        (lambda g: g.nodes[0].update(index=0.5), "'index' must be whole numbers, not 0.5"),
        (lambda g: g.nodes[0].update(index=np.nan), "'index' must be whole numbers, not nan"),
        (lambda g: g.nodes[0].update(index=[0]), r"'index' must be whole numbers, not \[0\]"),
        (lambda g: g.nodes[0].update(index=3), "layer 'fc1': column 3 is out of range"),
        (lambda g: g.nodes[3].update(index=-1), "layer 'fc1': row -1 is out of range"),
        (lambda g: g.nodes[3].update(index=10**30), "'index' must be whole numbers, not 10000"),
        (lambda g: g.nodes[2].update(index=0), r"layer 'fc1': the link \(0, 0\) is given twice"),
        (lambda g: g.nodes[0].pop("population"), "'population' must be whole numbers, not None"),
        (lambda g: g.nodes[0].update(population=9), r"'fc1' leads.* 0 to 1, but .*\(0, 3\) from 9"),
        (lambda g: g.nodes[3].update(population=9), r"'fc1' leads.* 0 to 1, but .* from 0 to 9"),
        (lambda g: g.edges[0, 3].pop("layer"), "of the layer None, the network has fc1, fc2, out"),
        (lambda g: g.edges[0, 3].update(layer="x"), "of the layer 'x'"),
        (lambda g: g.edges[0, 3].update(layer=["fc1"]), r"of the layer \['fc1'\]"),
        (lambda g: g.edges[0, 3].update(layer="fc2"), "'fc2' leads from population 1 to 2"),
        (lambda g: g.edges[0, 3].pop("weight"), "a link has no weight"),
        (lambda g: g.edges[0, 3].update(weight="x"), "'weight' must be a number"),
        (lambda g: g.edges[0, 3].update(weight={}), "'weight' must be a number"),
        (lambda g: g.edges[3, 5].update(weight=1e300), "1e.300 does not fit into float32"),
        (lambda g: g.add_edge(3, 0, layer="fc1", weight=1.0), "'fc1' leads from population 0 to 1"),
    ],
)
def test_malformed_graphs_are_refused(change, message):
    graph = broken(change)
    with pytest.raises(ValueError, match=message):
        topo.from_networkx(graph)
    if "biadjacency" not in message and all(
        isinstance(d.get("index"), (int, str, type(None))) for d in graph.nodes.values()
    ):
        try:
            other = igraph.Graph.from_networkx(graph)
        except OverflowError:
            return
        with pytest.raises(ValueError, match=re.sub(r"\\\(.*?\\\)", ".*", message)):
            topo.from_igraph(other)


def test_graphs_of_others_are_refused():
    with pytest.raises(ValueError, match="no attribute 'epitopo'"):
        topo.from_networkx(nx.path_graph(3))
    with pytest.raises(ValueError, match="no attribute 'epitopo'"):
        topo.from_igraph(igraph.Graph.Ring(3))
    graph = topo.to_igraph(EXAMPLE)
    del graph.vs["index"]
    with pytest.raises(ValueError, match="'index' must be whole numbers, not None"):
        topo.from_igraph(graph)
    del graph.es["layer"]
    graph = topo.to_igraph(EXAMPLE)
    del graph.es["layer"]
    with pytest.raises(ValueError, match="of the layer None"):
        topo.from_igraph(graph)


def test_an_undirected_graph_cannot_hold_a_layer_that_feeds_itself():
    net = Network({"a": [[0, 1], [0, 0]]}, [Coupling(("a",), ("a",))])
    graph = topo.to_networkx(net)
    same(net, topo.from_networkx(graph))
    with pytest.raises(ValueError, match="needs a directed graph"):
        topo.from_networkx(graph.to_undirected())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["row", "layer"]), "needs the columns layer, row$"),
        (lambda f: f.assign(row=0.5), "rows must be whole numbers, not 0.5"),
        (lambda f: f.assign(column="0"), "columns must be whole numbers, not '0'"),
        (lambda f: f.assign(column=-1), "layer 'fc1': column -1 is out of range"),
        (lambda f: f.assign(layer="x"), "of the layer 'x', the network has fc1, fc2, out"),
        (lambda f: f.assign(layer=None), "of the layer (None|nan)"),
        (lambda f: f.assign(weight="1"), "the column weight holds"),
        (lambda f: f.drop(columns="weight"), "a link has no weight"),
        (lambda f: pd.concat([f, f]), "is given twice"),
    ],
)
def test_malformed_edge_lists_are_refused(change, message):
    frame = change(topo.to_pandas(EXAMPLE))
    frame.attrs = topo.to_pandas(EXAMPLE).attrs
    with pytest.raises(ValueError, match=message):
        topo.from_pandas(frame)


@pytest.mark.parametrize("shape", [5, (2,), (2, 0), (2.0, 3), "ab", None])
def test_impossible_shapes_are_refused(shape):
    frame = pd.DataFrame({"layer": ["fc"], "row": [0], "column": [0]})
    with pytest.raises(ValueError, match=r"shapes are|must be a positive integer"):
        topo.from_pandas(frame, {"fc": shape})


def readers(folder):
    return [
        (folder / "net.npz", topo.load_npz),
        (folder / "net.graphml", topo.read_graphml),
        (folder / "net.gexf", topo.read_gexf),
    ]


def saved(folder):
    topo.save_npz(EXAMPLE, folder / "net.npz")
    topo.write_graphml(EXAMPLE, folder / "net.graphml")
    topo.write_gexf(EXAMPLE, folder / "net.gexf")
    return readers(folder)


def test_files_that_are_missing_cut_or_of_others_name_themselves(tmp_path):
    for file, read in saved(tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")
        content = file.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 30, len(content) - 4):
            file.write_bytes(content[:length])
            with pytest.raises(ValueError, match=rf"{file.name} cannot be read as .* of topo\."):
                read(file)
    nx.write_graphml_xml(nx.path_graph(3), tmp_path / "net.graphml")
    nx.write_gexf(nx.path_graph(3), tmp_path / "net.gexf")
    np.savez(tmp_path / "net.npz", fc=np.eye(2))
    for file, read in readers(tmp_path):
        with pytest.raises(ValueError, match=rf"{file.name} cannot be .*(from_masks|biadjacency)"):
            read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.indices": [0, 3]}, "layer 'fc1': column 3 is out of range"),
        ({"0.indices": [0, -1]}, "layer 'fc1': column -1 is out of range"),
        ({"0.indices": [0, 0]}, r"layer 'fc1': the link \(0, 0\) is given twice"),
        ({"0.indices": [0.0, 1.0]}, "layer 'fc1': column indices must be integers"),
        ({"0.indices": [[0, 1]]}, "the indptr of layer 'fc1' is damaged|one-dimensional"),
        ({"0.indices": [0]}, "the indptr of layer 'fc1' is damaged"),
        ({"0.indptr": [0, 2]}, "the indptr of layer 'fc1' is damaged"),
        ({"0.indptr": [0, 3, 2]}, "the indptr of layer 'fc1' is damaged"),
        ({"0.indptr": [-1, 0, 2]}, "the indptr of layer 'fc1' is damaged"),
        ({"0.indptr": [0.0, 2.0, 2.0]}, "the indptr of layer 'fc1' is damaged"),
        (
            {"0.indptr": np.array([0, 2**31 - 1, -(2**31)], np.int32)},
            "the indptr of layer 'fc1' is",
        ),
        ({"0.indptr": [0, 10**12, 10**12]}, "the indptr of layer 'fc1' is damaged"),
        ({"0.weights": [1.0]}, "layer 'fc1': a link has no weight"),
        ({"0.weights": [1.0, 2.0, 3.0]}, "layer 'fc1': a link has no weight"),
        ({"0.weights": ["a", "b"]}, "layer 'fc1': its weights are <U1, not numbers"),
        ({"1.weights": [1.0, 1e300, 2.0]}, "1e.300 does not fit into float32"),
        ({"0.indices": None}, "0.indices"),
        ({"0.weights": None}, "0.weights"),
        ({"epitopo": None}, r"another origin: try topo\.Network\.from_masks"),
        ({"epitopo": 5}, "damaged: 5"),
        ({"epitopo": ["a", "b"]}, "damaged|size"),
    ],
)
def test_malformed_npz_are_refused(tmp_path, changes, message):
    topo.save_npz(EXAMPLE, tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as arrays:
        arrays = dict(arrays) | changes
    kept = {k: np.asarray(a) for k, a in arrays.items() if a is not None}
    np.savez(tmp_path / "net.npz", **kept)
    with pytest.raises(ValueError, match=rf"net\.npz cannot be read as .*({message})"):
        topo.load_npz(tmp_path / "net.npz")


def test_indices_of_a_row_may_be_in_any_order(tmp_path):
    """Written by hand, say: the weights follow their links."""
    topo.save_npz(EXAMPLE, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as arrays:
        arrays = dict(arrays) | {"0.indices": [2, 0], "0.weights": [-0.0, 0.5]}
    np.savez(tmp_path / "net.npz", **arrays)
    same(EXAMPLE, topo.load_npz(tmp_path / "net.npz"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "exchanged"
    if not folder.exists():
        folder.mkdir()
        saved(folder)
    file, read = data.draw(st.sampled_from(readers(folder)))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "changed").write_bytes(content)
    with contextlib.suppress(ValueError):
        assert read(folder / "changed").links >= 0


def test_only_networks_are_saved(tmp_path):
    with pytest.raises(ValueError, match="network must be a Network, not a "):
        topo.save_npz(tmp_path / "net.npz", EXAMPLE)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


def test_nothing_is_unpickled(tmp_path):
    trap = np.empty(2, dtype=object)
    trap[:] = Trap()
    topo.save_npz(EXAMPLE, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz") as arrays:
        arrays = dict(arrays)
    np.savez(tmp_path / "net.npz", **arrays | {"0.weights": trap})
    with pytest.raises(ValueError, match=r"net\.npz .*pickles.*save plain arrays"):
        topo.load_npz(tmp_path / "net.npz")


@pytest.mark.parametrize("form", ["npz", *XML])
def test_a_file_is_replaced_whole(form, tmp_path, monkeypatch):
    FORMATS[form](EXAMPLE, tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        FORMATS[form](GATED, tmp_path)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("networkx", lambda: topo.to_networkx(EXAMPLE)),
        ("networkx", lambda: topo.write_gexf(EXAMPLE, "x")),
        ("networkx", lambda: topo.read_graphml("x")),
        ("igraph", lambda: topo.to_igraph(EXAMPLE)),
    ],
)
def test_a_missing_package_says_how_to_get_it(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'epitopo\[graphs\]'"):
        call()
