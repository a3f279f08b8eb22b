import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

import topo
from topo import Coupling, Network

# Models: the masks of some layers, their couplings, and the function that they compute. Sums are
# taken in an order that does not depend on the values, so equal means equal to the last bit.


def mask(rng, n_out, n_in):
    return rng.random((n_out, n_in)) < rng.choice([0.1, 0.25, 0.5, 0.9])


def apply(w, x):
    return (w[:, :, None] * x[None]).sum(1)


def relu(x):
    return np.maximum(x, 0)


def silu(x):
    return x * expit(x)


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def rotate(x):
    """Rotary embeddings of (heads, head_dim, tokens), as in LLaMA."""
    half = x.shape[1] // 2
    angle = np.arange(x.shape[2]) * 10.0 ** -np.arange(half)[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def attention(w, x, context, head_dim, rotary):
    q, k, v = (apply(w[n], y) for n, y in (("q", x), ("k", context), ("v", context)))
    q, k, v = (y.reshape(-1, head_dim, y.shape[1]) for y in (q, k, v))
    if rotary:
        q, k = rotate(q), rotate(k)
    k, v = (np.repeat(y, len(q) // len(y), axis=0) for y in (k, v))  # repeat_kv
    p = softmax((q[:, :, :, None] * k[:, :, None, :]).sum(1) / np.sqrt(head_dim))
    mixed = (v[:, :, None, :] * p[:, None]).sum(-1)
    return apply(w["o"], mixed.reshape(-1, x.shape[1]))


def chain_block(draw, rng, n):
    sizes = [n, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)), n]
    masks = {f"fc{i}": mask(rng, b, a) for i, (a, b) in enumerate(itertools.pairwise(sizes))}

    def function(w, x, _):
        for layer in w.values():
            x = relu(apply(layer, x))
        return x

    return masks, list(Network(masks).couplings), function


def gated_block(draw, rng, n):
    """SwiGLU, where `wide` behind a layer that both gate and up read."""
    h, f, wide = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.booleans())
    read = h if wide else n
    masks = {"fc": mask(rng, h, n)} if wide else {}
    masks |= {"gate": mask(rng, f, read), "up": mask(rng, f, read), "down": mask(rng, n, f)}
    couplings = [Coupling(("gate", "up"), ("down",))]
    couplings += [Coupling(("fc",), ("gate", "up"))] if wide else []

    def function(w, x, _):
        x = relu(apply(w["fc"], x)) if wide else x
        return apply(w["down"], silu(apply(w["gate"], x)) * apply(w["up"], x))

    return masks, couplings, function


def attention_block(draw, rng, n):
    """Attention to itself or to the encoder; plain, rotary and grouped heads."""
    kind = draw(st.sampled_from(["position", "heads", "rotary", "grouped", "rotary grouped"]))
    rotary, cross = "rotary" in kind, draw(st.booleans())
    head_dim = draw(st.sampled_from([2, 4, 6] if rotary else [1, 2, 3]))
    groups, copies = draw(st.integers(1, 2)), draw(st.integers(2, 3)) if "grouped" in kind else 1
    kv, h = groups * head_dim, groups * copies * head_dim
    masks = {"q": mask(rng, h, n), "k": mask(rng, kv, n), "v": mask(rng, kv, n)}
    masks["o"] = mask(rng, n, h)
    by_head = None if kind == "position" else head_dim
    couplings = [Coupling(("q", "k"), (), by_head, rotary), Coupling(("v",), ("o",), by_head)]
    return (
        masks,
        couplings,
        lambda w, x, encoded: attention(w, x, encoded if cross else x, head_dim, rotary),
    )


@st.composite
def models(draw):
    """One to four blocks on a residual stream, and their function of it and an encoder's."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.integers(1, 5))
    kinds = st.sampled_from([chain_block, gated_block, attention_block])
    masks, couplings, parts = {}, [], []
    for i, block in enumerate(draw(st.lists(kinds, min_size=1, max_size=4))):
        layers, coupled, function = block(draw, rng, n)
        masks |= {f"{i}.{name}": m for name, m in layers.items()}
        for c in coupled:
            outputs, inputs = (tuple(f"{i}.{x}" for x in side) for side in (c.outputs, c.inputs))
            couplings.append(Coupling(outputs, inputs, c.head_dim, c.rotary))
        parts.append((list(layers), function))
    weights = {name: m * rng.normal(size=m.shape) for name, m in masks.items()}
    x, encoded = rng.normal(size=(n, 3)), rng.normal(size=(n, 4))

    def model(masks):
        stream = x
        for i, (names, function) in enumerate(parts):
            w = {name: weights[f"{i}.{name}"] * masks[f"{i}.{name}"] for name in names}
            normed = stream / np.sqrt(1 + np.square(stream).mean(0))  # of no percolated neurons
            stream = stream + function(w, normed, encoded)
        return stream

    return Network(masks, draw(st.permutations(couplings))), model


@st.composite
def chains(draw):
    """A chain of one to six layers."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    sizes = draw(st.lists(st.integers(1, 7), min_size=2, max_size=7))
    return Network(
        {f"fc{i}": mask(rng, b, a) for i, (a, b) in enumerate(itertools.pairwise(sizes))}
    )


def dense(network):
    return {name: a.toarray() for name, a in network.layers.items()}


def neurons(c, head_dim, copies, head, i):
    """The neurons that unit (head, i) is on a side whose heads each have so many copies."""
    first = head // copies * head_dim + i
    return [first, first + head_dim // 2] if c.rotary else [first]


def brute_force(network, fixed=()):
    """Neuron by neuron until nothing changes."""
    masks, before = dense(network), None
    while before != [m.tobytes() for m in masks.values()]:
        before = [m.tobytes() for m in masks.values()]
        for c in network.couplings:
            outputs, inputs = [masks[n] for n in c.outputs], [masks[n].T for n in c.inputs]
            sides = outputs + inputs
            names = c.outputs + c.inputs
            head_dim = c.head_dim or len(sides[0])
            heads = max(map(len, sides)) // head_dim
            alive = [set() for _ in sides]
            for head, i in itertools.product(range(heads), range(head_dim // (1 + c.rotary))):
                at = [neurons(c, head_dim, heads * head_dim // len(m), head, i) for m in sides]
                linked = [any(m[j].any() for j in js) for m, js in zip(sides, at)]
                fed, read = linked[: len(outputs)], linked[len(outputs) :]
                if all(fed) and (any(read) or not inputs):
                    for living, js in zip(alive, at):
                        living.update(js)
            for name, m, living in zip(names, sides, alive):
                for j in set(range(len(m))) - living if name not in fixed else ():
                    m[j] = False
    return masks


# ---- properties ------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(models(), st.randoms(use_true_random=False))
def test_percolation_reaches_the_fixed_point_and_keeps_the_function(network_and_model, random):
    network, model = network_and_model
    before = dense(network)
    percolated = topo.percolate(network)
    after, expected = dense(percolated), brute_force(network)
    for name, a in percolated.layers.items():
        assert np.array_equal(after[name], expected[name]), name
        assert not (after[name] & ~before[name]).any()  # only removes
        assert topo.as_adjacency(a) is a  # canonical
        assert (a is network.layers[name]) == np.array_equal(before[name], after[name])
        assert np.array_equal(network.layers[name].toarray(), before[name])
    assert percolated.couplings == network.couplings
    again = topo.percolate(percolated)
    assert all(again.layers[n] is a for n, a in percolated.layers.items())
    # neither the order of couplings nor that of layers in them matters, nor saying one twice
    shuffled = [
        Coupling(c.outputs[::-1], c.inputs[::-1], c.head_dim, c.rotary) for c in network.couplings
    ]
    random.shuffle(shuffled)
    other = topo.percolate(Network(network.layers, shuffled + shuffled[:1]))
    assert all(np.array_equal(m, after[n]) for n, m in dense(other).items())
    np.testing.assert_array_equal(model(after), model(before))


@settings(max_examples=300, deadline=None)
@given(models(), st.data())
def test_fixed_layers_keep_their_links_and_the_network_its_function(network_and_model, data):
    network, model = network_and_model
    fixed = data.draw(st.lists(st.sampled_from(list(network.layers)), unique=True))
    percolated = topo.percolate(network, fixed)
    expected = brute_force(network, fixed)
    assert all(np.array_equal(m, expected[n]) for n, m in dense(percolated).items())
    assert all(percolated.layers[n] is network.layers[n] for n in fixed)
    other = Network(network.layers, data.draw(st.permutations(network.couplings)))
    again = topo.percolate(other, iter(fixed))
    assert all(map(topo.adjacency.equal, again.layers.values(), percolated.layers.values()))
    np.testing.assert_array_equal(model(dense(percolated)), model(dense(network)))
    unchanged = topo.percolate(network, network.layers)
    assert all(unchanged.layers[n] is a for n, a in network.layers.items())


def test_the_models_are_of_every_kind():
    """Else the property above says less than it seems to."""
    seen, lost = set(), []

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(models())
    def look(network_and_model):
        network, _ = network_and_model
        lost.append(network.links - topo.percolate(network).links)
        for c in network.couplings:
            sizes = {network.layers[n].shape[0] for n in c.outputs}
            sizes |= {network.layers[n].shape[1] for n in c.inputs}
            seen.add((len(c.outputs), len(c.inputs), c.head_dim is None, c.rotary, len(sizes)))

    look()
    assert np.mean(np.array(lost) > 0) > 0.2
    assert seen == {
        (1, 1, True, False, 1),  # chain; values and output
        (1, 2, True, False, 1),  # fan-out
        (2, 1, True, False, 1),  # gate and up
        (2, 0, True, False, 1),  # queries and keys at the same position
        (2, 0, False, False, 1),  # by heads
        (2, 0, False, False, 2),  # grouped
        (2, 0, False, True, 1),  # rotary
        (2, 0, False, True, 2),  # rotary and grouped
        (1, 1, False, False, 1),  # values and output, by heads
        (1, 1, False, False, 2),  # grouped
    }


@settings(max_examples=50, deadline=None)
@given(chains())
def test_chains_reach_the_fixed_point(network):
    expected = brute_force(network)
    for name, a in topo.percolate(network).layers.items():
        assert np.array_equal(a.toarray(), expected[name]), name


def test_the_models_would_notice_a_lost_link():
    rng = np.random.default_rng(0)
    layers = {n: np.ones((4, 4), bool) for n in "qkvo"}
    weights = {n: rng.normal(size=(4, 4)) for n in layers}
    x = rng.normal(size=(4, 3))
    full = attention(weights, x, x, 2, True)
    for name in layers:
        fewer = {n: w * (n != name or np.arange(4)[:, None] != 1) for n, w in weights.items()}
        assert not np.array_equal(attention(fewer, x, x, 2, True), full)


# ---- by hand ---------------------------------------------------------------------------------


def column(*linked, of):
    """A layer with one input and links to these outputs."""
    return np.isin(np.arange(of), linked)[:, None]


def left(layers, *couplings):
    """The neurons that keep links: outputs of layers with one input, inputs of the others."""
    net = topo.percolate(Network(layers, couplings))
    return {
        n: np.flatnonzero(a.toarray().any(1 if a.shape[1] == 1 else 0)).tolist()
        for n, a in net.layers.items()
    }


def test_queries_and_keys_live_at_the_same_position_of_the_same_head():
    layers = {"q": column(0, 1, 3, of=4), "k": column(1, 2, 3, of=4)}
    assert left(layers, Coupling(("q", "k"))) == {"q": [1, 3], "k": [1, 3]}
    assert left(layers, Coupling(("q", "k"), head_dim=2)) == {"q": [1, 3], "k": [1, 3]}


def test_rotary_pairs_live_together():
    # a head of four: the pairs are 0 with 2 and 1 with 3
    layers = {"q": column(0, 1, of=4), "k": column(0, 2, of=4)}
    assert left(layers, Coupling(("q", "k"), (), 4, True)) == {"q": [0], "k": [0, 2]}
    layers = {"q": column(0, of=4), "k": column(2, 3, of=4)}
    assert left(layers, Coupling(("q", "k"), (), 4, True)) == {"q": [0], "k": [2]}
    # two heads of two: 0 with 1, 2 with 3
    assert left(layers, Coupling(("q", "k"), (), 2, True)) == {"q": [], "k": []}
    layers = {"q": column(0, 3, of=4), "k": column(1, 2, 3, of=4)}
    assert left(layers, Coupling(("q", "k"), (), 2, True)) == {"q": [0, 3], "k": [1, 2, 3]}


def test_a_key_lives_if_any_of_its_query_heads_meets_it():
    by_heads = Coupling(("q", "k"), head_dim=2)  # two query heads for the one key head
    layers = {"q": column(0, 1, 2, of=4), "k": column(0, of=2)}
    assert left(layers, by_heads) == {"q": [0, 2], "k": [0]}
    layers = {"q": column(3, of=4), "k": column(0, 1, of=2)}
    assert left(layers, by_heads) == {"q": [3], "k": [1]}
    # four query heads for two key heads: 0 and 1 meet the first, 2 and 3 the second
    one = Coupling(("k", "q"), head_dim=1)
    assert left({"q": column(1, 2, of=4), "k": column(0, of=2)}, one) == {"q": [1], "k": [0]}
    # rotary: key pair (0, 1) of the one head is met by query 5 of the third
    rotary = Coupling(("q", "k"), (), 2, True)
    assert left({"q": column(5, of=6), "k": column(0, 1, of=2)}, rotary) == {"q": [5], "k": [0, 1]}


def test_a_value_lives_if_any_of_its_copies_is_read():
    v_to_o = Coupling(("v",), ("o",), head_dim=2)
    layers = {"v": column(0, 1, of=2), "o": column(2, of=4).T}
    assert left(layers, v_to_o) == {"v": [0], "o": [2]}
    layers = {"v": column(1, of=2), "o": column(0, 1, 2, 3, of=4).T}
    assert left(layers, v_to_o) == {"v": [1], "o": [1, 3]}


def test_what_one_coupling_removes_silences_neurons_of_another():
    # queries meet no keys, so the layer before loses what only they read
    layers = {"fc": column(0, 1, of=2), "q": [[1, 0], [0, 0]], "k": [[0, 0], [0, 1]]}
    couplings = [Coupling(("q", "k")), Coupling(("fc",), ("q", "k"))]
    for order in (couplings, couplings[::-1]):
        assert topo.percolate(Network(layers, order)).links == 0


def test_a_layer_may_feed_itself():
    # neuron 0 feeds itself for ever; 2 reads 1, which nothing feeds
    net = topo.percolate(
        Network({"a": [[1, 0, 0], [0, 0, 0], [1, 1, 0]]}, [Coupling(("a",), ("a",))])
    )
    assert net.layers["a"].toarray().astype(int).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


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


@pytest.mark.parametrize(
    ("fixed", "links"),
    [
        ((), {"a": 0, "b": 0, "c": 0, "d": 0}),
        ("a", {"a": 1, "b": 0, "c": 0, "d": 0}),  # what it feeds is not read for that
        ("b", {"a": 1, "b": 1, "c": 0, "d": 0}),  # its links read neuron 0 of a, so that lives
        ("c", {"a": 0, "b": 0, "c": 1, "d": 1}),
        ("d", {"a": 0, "b": 0, "c": 0, "d": 1}),
        (("b", "c"), {"a": 1, "b": 1, "c": 1, "d": 1}),
        (["a", "d"], {"a": 1, "b": 0, "c": 0, "d": 1}),
    ],
)
def test_what_stays_in_a_fixed_layer_counts(fixed, links):
    # neuron 0 leads to the middle, where nothing reads it; neuron 1 leads on from there, unfed
    on, back = [[1, 0], [0, 0]], [[0, 0], [0, 1]]
    net = topo.percolate(Network({"a": on, "b": on, "c": back, "d": back}), fixed)
    assert {n: a.nnz for n, a in net.layers.items()} == links


def test_a_fixed_layer_of_a_product_keeps_only_its_own_links():
    net = Network({"q": column(0, of=2), "k": column(1, of=2)}, [Coupling(("q", "k"))])
    kept = topo.percolate(net, fixed=["q"])
    assert kept.layers["q"] is net.layers["q"]
    assert kept.layers["k"].nnz == 0


def test_only_layers_of_the_network_can_be_fixed():
    net = Network({"fc1": [[1]], "fc2": [[1]]})
    with pytest.raises(ValueError, match="fixed names the layer 'fc3'; the layers are fc1, fc2"):
        topo.percolate(net, fixed=["fc1", "fc3"])
    with pytest.raises(ValueError, match="'fc'"):
        topo.percolate(net, fixed="fc")
    with pytest.raises(TypeError):
        topo.percolate(net, fixed=None)


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
        # o reads one copy of the first value: 1 input of v, 1 of o's 4 inputs, its output
        (
            {"v": [[1], [1]], "o": [[0, 0, 1, 0]]},
            [Coupling(("v",), ("o",), head_dim=2)],
            (1 + 1 + 1) / 6,
        ),
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
