import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import sparse

import topo
from topo import Coupling, Network

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
        (
            {"q": np.ones((6, 2)), "k": np.ones((4, 2))},
            [Coupling(("q", "k"), head_dim=4)],
            "whole heads of 4 neurons.*6 outputs of 'q', 4 outputs of 'k'",
        ),
        (
            {"q": np.ones((6, 2)), "k": np.ones((4, 2))},
            [Coupling(("q", "k"), head_dim=2)],  # 3 heads for 2
            "the largest a multiple of each other's; there are 6 outputs of 'q'",
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
        ((("q", "k"), (), 0), "head_dim is a positive integer or None, not 0"),
        ((("q", "k"), (), True), "head_dim is a positive integer or None, not True"),
        ((("q", "k"), (), 2.0), "head_dim is a positive integer or None, not 2.0"),
        ((("q", "k"), (), 2, 1), "rotary is True or False, not 1"),
        ((("q", "k"), (), None, True), "needs an even head_dim, not None"),
        ((("q", "k"), (), 3, True), "needs an even head_dim, not 3"),
    ],
)
def test_impossible_couplings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Coupling(*arguments)


def test_couplings_are_values():
    assert Coupling(["a"], ["b"]) == Coupling(("a",), ("b",))
    assert len({Coupling(("a",), ("b",)), Coupling(["a"], ["b"])}) == 1
    heads = Coupling(("q", "k"), head_dim=np.int64(64), rotary=True)
    assert heads == Coupling(("q", "k"), (), 64, True) != Coupling(("q", "k"), (), 64)
    assert repr(heads) == "Coupling(outputs=('q', 'k'), head_dim=64, rotary=True)"
    for coupling in (heads, Coupling(("v",), ("o",), 64), Coupling(("a",))):
        assert Coupling(**json.loads(json.dumps(asdict(coupling)))) == coupling
        assert eval(repr(coupling)) == coupling


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


# ---- weights and names -----------------------------------------------------------------------


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


def test_names_are_checked():
    with pytest.raises(ValueError, match="named by a string, not 0"):
        topo.Network({0: np.eye(2)})
    with pytest.raises(ValueError, match="no layer 'x'"):
        topo.Network({"fc": np.eye(2)}).replace({"x": np.eye(2)})
