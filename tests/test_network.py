import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import topo
from topo import Coupling, Network


def mask(rng, n_out, n_in):
    return rng.random((n_out, n_in)) < rng.choice([0.1, 0.25, 0.5, 0.9])


@st.composite
def chains(draw):
    """A chain of one to six layers and its dense masks."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.integers(1, 7), min_size=2, max_size=7))
    masks = {f"fc{i}": mask(rng, b, a) for i, (a, b) in enumerate(itertools.pairwise(sizes))}
    return Network(masks)


@st.composite
def blocks(draw):
    """A layer fans out to gate, up, q and k; gate and up multiply, then down; q meets k."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, h, f, a, o = (draw(st.integers(1, 6)) for _ in range(5))
    masks = {
        "fc": mask(rng, h, n),
        "gate": mask(rng, f, h),
        "up": mask(rng, f, h),
        "q": mask(rng, a, h),
        "k": mask(rng, a, h),
        "down": mask(rng, o, f),
    }
    couplings = [
        Coupling(("fc",), ("gate", "up", "q", "k")),
        Coupling(("gate", "up"), ("down",)),
        Coupling(("q", "k")),
    ]
    return Network(masks, draw(st.permutations(couplings)))


def dense(network):
    return {name: a.toarray() for name, a in network.layers.items()}


def brute_force(network):
    """Neuron by neuron until nothing changes."""
    masks, before = dense(network), None
    while before != [m.tobytes() for m in masks.values()]:
        before = [m.tobytes() for m in masks.values()]
        for c in network.couplings:
            for i in range(masks[c.outputs[0]].shape[0]):
                fed = all(masks[name][i].any() for name in c.outputs)
                read = not c.inputs or any(masks[name][:, i].any() for name in c.inputs)
                if not (fed and read):
                    for name in c.outputs:
                        masks[name][i] = False
                    for name in c.inputs:
                        masks[name][:, i] = False
    return masks


def relu(x):
    return np.maximum(x, 0)


# ---- percolation -----------------------------------------------------------------------------


@pytest.mark.parametrize("networks", [chains(), blocks()], ids=["chain", "block"])
def test_percolation_is_the_brute_force_fixed_point(networks):
    @settings(max_examples=150, deadline=None)
    @given(networks)
    def check(network):
        before = dense(network)
        percolated = topo.percolate(network)
        expected = brute_force(network)
        for name, a in percolated.layers.items():
            assert np.array_equal(a.toarray(), expected[name]), name
            assert topo.as_adjacency(a) is a  # canonical
            unchanged = np.array_equal(before[name], expected[name])
            assert (a is network.layers[name]) == unchanged
            assert np.array_equal(network.layers[name].toarray(), before[name])
        assert percolated.couplings == network.couplings
        again = topo.percolate(percolated)
        assert all(again.layers[n] is a for n, a in percolated.layers.items())

    check()


@settings(max_examples=100, deadline=None)
@given(chains(), st.integers(0, 1000))
def test_percolation_keeps_the_function_of_a_relu_chain(network, seed):
    rng = np.random.default_rng(seed)
    weights = {n: rng.normal(size=a.shape) for n, a in network.layers.items()}
    x = rng.normal(size=(network.layers["fc0"].shape[1], 8))

    def function(masks):
        h = x
        for name, m in masks.items():
            h = relu((weights[name] * m) @ h)
        return h

    np.testing.assert_allclose(
        function(dense(topo.percolate(network))), function(dense(network)), rtol=1e-12, atol=1e-12
    )


@settings(max_examples=100, deadline=None)
@given(blocks(), st.integers(0, 1000))
def test_percolation_keeps_the_function_of_products_and_fan_out(network, seed):
    rng = np.random.default_rng(seed)
    weights = {n: rng.normal(size=a.shape) for n, a in network.layers.items()}
    x = rng.normal(size=(network.layers["fc"].shape[1], 8))

    def function(masks):
        w = {name: weights[name] * m for name, m in masks.items()}
        h = relu(w["fc"] @ x)
        attention = (w["q"] @ h).T @ (w["k"] @ h)
        return attention, w["down"] @ (relu(w["gate"] @ h) * (w["up"] @ h))

    after, before = function(dense(topo.percolate(network))), function(dense(network))
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_dead_end_is_pulled_out_through_the_whole_chain():
    # neuron 1 of every layer hangs on a chain that the last layer does not read, and back
    masks = {f"fc{i}": np.eye(2) for i in range(5)}
    masks["fc5"] = np.array([[1, 0]])
    percolated = topo.percolate(Network(masks))
    for name in masks:
        assert percolated.layers[name].toarray()[:, 0].any()
        assert not percolated.layers[name].toarray()[:, 1].any()
    masks["fc0"], masks["fc5"] = np.array([[1, 0], [0, 0]]), np.eye(2)
    assert topo.percolate(Network(masks)).links == 6


def test_a_network_without_a_path_loses_every_link():
    net = topo.percolate(Network({"a": [[1, 1], [0, 0]], "b": [[0, 1], [0, 1]]}))
    assert net.links == 0


def test_only_coupled_neurons_percolate():
    masks = {"a": [[1, 0], [0, 0]], "b": [[0, 1], [0, 1]]}
    net = Network(masks, couplings=())
    assert topo.percolate(net) == net
    assert Network(masks) != net


def test_a_product_needs_both_factors_and_a_fan_out_one_reader():
    gate, up, down = [[1], [0], [1], [1]], [[1], [1], [0], [1]], [[1, 1, 1, 0]]
    product = [Coupling(("gate", "up"), ("down",))]
    net = topo.percolate(Network({"gate": gate, "up": up, "down": down}, product))
    only_first = [[True], [False], [False], [False]]
    assert net.layers["gate"].toarray().tolist() == only_first
    assert net.layers["up"].toarray().tolist() == only_first
    assert net.layers["down"].toarray().tolist() == [[True, False, False, False]]
    fan = [Coupling(("fc",), ("left", "right"))]
    net = topo.percolate(
        Network({"fc": [[1], [1], [1]], "left": [[1, 0, 0]], "right": [[1, 1, 0]]}, fan)
    )
    assert net.layers["fc"].toarray().tolist() == [[True], [True], [False]]
    assert (net.layers["left"].nnz, net.layers["right"].nnz) == (1, 2)


# ---- active neurons --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "couplings", "rate"),
    [
        ({"fc": [[1, 1], [1, 1]]}, None, 1),
        ({"fc": [[0, 0, 0], [1, 0, 1]]}, None, 3 / 5),
        ({"fc": [[0, 0], [0, 0]]}, None, 0),
        # inputs 2, hidden 2, output 1; hidden 0 goes, both inputs stay
        ({"a": [[1, 0], [1, 1]], "b": [[0, 1]]}, None, 4 / 5),
        # hidden 0 takes input 0 with it
        ({"a": [[1, 0], [0, 1]], "b": [[0, 1]]}, None, 3 / 5),
        # uncoupled: 2 + 2 neurons of a, 2 + 1 of b, the first of b's inputs silent
        ({"a": [[1, 0], [0, 1]], "b": [[0, 1]]}, (), 6 / 7),
        # gate 2, up 2, down 2 inputs, down 1 output; only neuron 0 is fed by both
        (
            {"gate": [[1, 0], [0, 1]], "up": [[1, 1], [0, 0]], "down": [[1, 1]]},
            [Coupling(("gate", "up"), ("down",))],
            (1 + 2 + 1 + 1) / 7,
        ),
        # nobody reads the outputs of q and k: 2 + 2 inputs, 2 + 2 outputs
        ({"q": [[1, 0], [0, 1]], "k": [[1, 1], [0, 0]]}, [Coupling(("q", "k"))], 5 / 8),
    ],
)
def test_active_neuron_rate_by_hand(layers, couplings, rate):
    net = Network(layers, couplings)
    links = net.links
    assert topo.active_neuron_rate(net) == pytest.approx(rate, rel=1e-15)
    assert net.links == links


@settings(max_examples=60, deadline=None)
@given(chains())
def test_active_neuron_rate_of_a_chain_counts_each_neuron_once(network):
    masks = [*brute_force(network).values()]
    active = [m.any(0) for m in masks] + [masks[-1].any(1)]
    assert topo.active_neuron_rate(network) == pytest.approx(np.concatenate(active).mean())


# ---- construction ----------------------------------------------------------------------------


def test_the_default_coupling_is_a_chain_in_order():
    net = Network({"b": np.eye(2), "a": np.eye(2), "c": np.eye(2)})
    assert net.couplings == (Coupling(("b",), ("a",)), Coupling(("a",), ("c",)))
    assert list(net.layers) == ["b", "a", "c"]
    assert Network({"only": np.eye(2)}).couplings == ()


def test_layers_are_canonicalised_and_adjacencies_kept():
    a = topo.erdos_renyi(3, 4, 0.5, seed=0)
    net = Network({"x": a, "y": sparse.coo_array(np.ones((2, 3)))})
    assert net.layers["x"] is a
    assert topo.as_adjacency(net.layers["y"]) is net.layers["y"]
    assert net.links == 6 + 6
    assert net.density == 12 / 18
    assert repr(net) == "Network(x: 3x4, 6 links; y: 2x3, 6 links)"


@pytest.mark.parametrize(
    ("layers", "couplings", "message"),
    [
        ({}, None, "at least one layer"),
        ({"a": np.eye(2), "b": [[2]]}, None, "layer 'b': an adjacency holds 0 and 1"),
        ({"a": np.eye(2), "b": np.ones((2, 3))}, None, r"2 outputs of 'a', 3 inputs of 'b'.*\(\)"),
        ({"a": np.eye(2)}, [Coupling(("z",), ("a",))], "names the layer 'z'; the layers are a"),
        ({"a": np.eye(2)}, [Coupling(("a",), ("z",))], "names the layer 'z'"),
        (
            {"gate": np.ones((3, 2)), "up": np.ones((4, 2))},
            [Coupling(("gate", "up"))],
            "3 outputs of 'gate', 4 outputs of 'up'",
        ),
        (
            {"a": np.ones((2, 2)), "b": np.ones((2, 2)), "c": np.ones((1, 3))},
            [Coupling(("a",), ("b", "c"))],
            "3 inputs of 'c'",
        ),
    ],
)
def test_impossible_networks_are_refused(layers, couplings, message):
    with pytest.raises(ValueError, match=message):
        Network(layers, couplings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fc1",), "outputs of a coupling is a tuple of layer names"),
        ((("fc1",), "fc2"), "inputs of a coupling is a tuple of layer names"),
        (((1,),), "outputs of a coupling is a tuple of layer names"),
        (((), ("fc1",)), "at least one layer in outputs"),
    ],
)
def test_impossible_couplings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Coupling(*arguments)


def test_couplings_are_values():
    assert Coupling(["a"], ["b"]) == Coupling(("a",), ("b",))
    assert len({Coupling(("a",), ("b",)), Coupling(["a"], ["b"])}) == 1


def test_networks_compare_by_names_links_and_couplings():
    masks = {"a": np.eye(2), "b": np.eye(2)}
    net = Network(masks)
    assert net == Network({n: sparse.csc_array(m) for n, m in masks.items()})
    assert net != Network({"a": np.eye(2), "c": np.eye(2)})
    assert net != Network({"b": np.eye(2), "a": np.eye(2)}, net.couplings)
    assert net != Network({"a": np.eye(2), "b": [[0, 1], [1, 0]]})
    assert net != Network({"a": np.eye(2), "b": np.eye(2)[:1]})
    assert net != Network(masks, ())
    assert net != masks
    with pytest.raises(TypeError, match="unhashable"):
        hash(net)


def test_replace_keeps_names_order_and_couplings():
    net = Network({"a": np.eye(2), "b": np.eye(2)}, [Coupling(("b",), ("a",))])
    other = net.replace({"b": topo.as_adjacency([[0, 1], [1, 0]])})
    assert list(other.layers) == ["a", "b"]
    assert other.couplings == net.couplings
    assert other.layers["a"] is net.layers["a"]
    assert other.layers["b"].toarray().tolist() == [[False, True], [True, False]]
    assert net.layers["b"].toarray().tolist() == [[True, False], [False, True]]


# ---- masks and weights -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.csc_matrix, np.float32])
def test_from_masks_links_whatever_is_not_zero(form):
    weights = np.array([[0.5, 0.0, -0.0], [-2.0, 1e-30, np.inf]])
    net = Network.from_masks({"fc": form(weights)})
    assert net.layers["fc"].toarray().tolist() == [[True, False, False], [True, True, True]]


def test_from_masks_skips_stored_zeros_and_passes_couplings_on():
    stored = sparse.csr_array((np.array([0.0, 3.0]), np.array([0, 1]), np.array([0, 2])))
    net = Network.from_masks({"a": stored, "b": np.ones((2, 5), int)}, couplings=())
    assert net.layers["a"].toarray().tolist() == [[False, True]]
    assert net.couplings == ()


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sparse.csr_array])
def test_from_masks_refuses_nan(form):
    with pytest.raises(ValueError, match="layer 'fc' holds NaN"):
        Network.from_masks({"fc": form([[0.0, np.nan], [1.0, 0.0]])})


def test_weights_are_one_value_per_link_in_row_major_order():
    layers = {"a": [[0, 1], [1, 1]], "b": [[1, 1]]}
    net = Network(layers, weights={"a": [0.5, 0.0, -2.0], "b": np.array([1, 2], np.float32)})
    assert net.weights["a"].toarray().tolist() == [[0, 0.5], [0, -2]]
    assert net.weights["a"].nnz == 3  # a link may weigh 0
    assert net.weights["b"].dtype == np.float32
    assert net.weights["a"].shape == net.layers["a"].shape
    assert Network(layers).weights is None


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [[1.0, 2.0, 3.0]], 1.0])
def test_weights_of_another_length_are_refused(values):
    with pytest.raises(ValueError, match="layer 'a' has 3 links but weights of shape"):
        Network({"a": [[0, 1], [1, 1]]}, weights={"a": values})


def test_masks_of_any_sparse_format():
    from scipy import sparse

    dense = np.array([[0.5, 0.0], [0.0, -1.0]])
    for make in (sparse.lil_array, sparse.dok_array, sparse.coo_array, sparse.csc_matrix):
        assert topo.Network.from_masks({"fc": make(dense)}) == topo.Network({"fc": dense != 0})
    for bad in (np.array([["a"]]), np.array([[1j]])):
        with pytest.raises(ValueError, match="layer 'fc' holds"):
            topo.Network.from_masks({"fc": bad})


def test_masks_may_be_torch_parameters():
    import torch

    layer = torch.nn.Linear(3, 2)
    assert topo.Network.from_masks({"fc": layer.weight}).layers["fc"].shape == (2, 3)


def test_names_are_checked():
    with pytest.raises(ValueError, match="named by a string, not 0"):
        topo.Network({0: np.eye(2)})
    with pytest.raises(ValueError, match="no layer 'x'"):
        topo.Network({"fc": np.eye(2)}).replace({"x": np.eye(2)})
