import copy
import logging
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import dst
import topo
from dst.allocation import ALLOCATIONS, erk
from dst.densify import densify
from dst.explain import explain
from dst.graph import sparse_layers

LAYOUTS = ["csr", "masked"]


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Sequential(nn.Linear(20, 16), nn.ReLU()), nn.Linear(16, 4)
    )


def kinds(module):
    """Of the linear layers: SparseLinear's subclasses are its layouts."""
    found = {n: type(m) for n, m in module.named_modules() if "Linear" in type(m).__name__}
    return {n: dst.SparseLinear if issubclass(k, dst.SparseLinear) else k for n, k in found.items()}


def test_replaces_what_is_named_in_place():
    m = model()
    assert dst.sparsify(m, 0.1, exclude="3") is m
    assert kinds(m) == {"0": dst.SparseLinear, "2.0": dst.SparseLinear, "3": nn.Linear}
    assert {n: a.nnz for n, a in dst.network(m).layers.items()} == {"0": 24, "2.0": 32}
    assert m(torch.ones(5, 12)).shape == (5, 4)


def test_include_and_exclude_are_patterns_on_names():
    m = dst.sparsify(model(), 0.5, include=["2.*", "3"], exclude=("3",))
    assert kinds(m) == {"0": nn.Linear, "2.0": dst.SparseLinear, "3": nn.Linear}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keep_takes_the_models_own_weights_and_bias(layout):
    m = model()
    dense = copy.deepcopy(m)
    dst.sparsify(m, 0.3, init="keep", layout=layout)
    for name, layer in sparse_layers(m).items():
        assert layer.layout == layout
        original = dense.get_submodule(name)
        mask = torch.from_numpy(layer.adjacency.toarray())
        assert torch.equal(layer.to_dense(), original.weight * mask)
        assert torch.equal(layer.bias, original.bias)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_at_density_one_nothing_is_lost(layout):
    m, x = model(), torch.randn(3, 12)
    expected = m(x)
    dst.sparsify(m, 1.0, init="keep", layout=layout)
    torch.testing.assert_close(m(x), expected)


def test_auto_is_csr_up_to_a_peak_density_and_masked_above():
    m = dst.sparsify(model(), {"0": 0.4, "2.0": 0.41, "3": 1.0})
    assert [layer.layout for layer in sparse_layers(m).values()] == ["csr", "masked", "masked"]
    m = dst.sparsify(model().bfloat16(), 0.1)
    assert {layer.layout for layer in sparse_layers(m).values()} == {"masked"}


def test_density_topology_and_init_per_layer():
    own = np.eye(20, 12)
    m = dst.sparsify(
        model(),
        {"0": 12 / 240, "*": 0.5},
        topology={"0": own, "*": "erdos_renyi"},
        init=lambda linear, adjacency, key: np.full(adjacency.nnz, 7.0),
        layout="csr",
    )
    assert np.array_equal(m[0].adjacency.toarray(), own)
    assert m[3].density == 0.5
    assert set(m[3].values.tolist()) == {7.0}


def test_a_methods_start_is_applied_unless_given():
    dense = model()
    as_set = dst.sparsify(copy.deepcopy(dense), 0.3, method="set")
    by_hand = dst.sparsify(copy.deepcopy(dense), 0.3, topology="erdos_renyi", init="keep")
    given = dst.sparsify(copy.deepcopy(dense), 0.3, method="set", topology="small_world")
    assert dst.network(as_set) == dst.network(by_hand)
    assert torch.equal(as_set[0].link_values(), by_hand[0].link_values())
    assert dst.network(given) == dst.network(dst.sparsify(copy.deepcopy(dense), 0.3))


def test_a_function_of_seed_and_layer_name_alone():
    a, b, c = (dst.sparsify(model(), 0.3, seed=s) for s in (1, 1, 2))
    assert dst.network(a) == dst.network(b) != dst.network(c)
    assert torch.equal(a[0].link_values(), b[0].link_values())
    square = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    first, second = dst.network(dst.sparsify(square, 0.2, topology="erdos_renyi")).layers.values()
    assert not np.array_equal(first.toarray(), second.toarray())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtype_device_mode_and_frozen_weights_are_kept(layout):
    m = model().double().eval()
    m[0].weight.requires_grad_(False)
    dst.sparsify(m, 0.5, layout=layout)
    assert m[0].parameter.dtype == torch.float64
    assert not m[0].training
    assert not m[0].parameter.requires_grad
    assert m[3].parameter.requires_grad


# allocation


def test_erk_by_hand():
    # 50 links over 34 neurons would give the last layer 50 / 34 * 6 > 8: it is full, and the
    # other two share 42 links as 16 to 12
    shapes = {"a": (8, 8), "b": (4, 8), "c": (2, 4)}
    assert erk(shapes, 50 / 104) == {"a": 24 / 64, "b": 18 / 32, "c": 1.0}
    # 7 links over 3 equal layers: 2 1/3 each, and the first gets what is left
    assert erk(dict.fromkeys("abc", (4, 4)), 7 / 48) == {"a": 3 / 16, "b": 2 / 16, "c": 2 / 16}
    # 68 links over 75 neurons fill only the first layer; the other 65 over 71 fill the second too
    shapes = {"a": (1, 3), "b": (1, 10), "c": (30, 30)}
    assert erk(shapes, 68 / 913) == {"a": 1.0, "b": 1.0, "c": 55 / 900}
    assert erk(shapes, 1) == dict.fromkeys(shapes, 1.0)


shapes = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6)


@given(shapes, st.floats(0.001, 1))
def test_erk_has_exactly_the_links_of_the_density(sizes, density):
    shapes = {str(i): size for i, size in enumerate(sizes)}
    total = round(density * sum(a * b for a, b in sizes))
    try:
        densities = erk(shapes, density)
    except ValueError:  # some layer would get none
        assert total < len(sizes) * max(a + b for a, b in sizes)
        return
    links = {n: topo.link_count(d, *shapes[n]) for n, d in densities.items()}
    assert sum(links.values()) == total
    rates = {n: links[n] / sum(shapes[n]) for n in links if densities[n] < 1}
    for n, rate in rates.items():  # as many links per neuron, but for rounding, ...
        for other in rates:
            assert abs(rate - rates[other]) < 1 / sum(shapes[n]) + 1 / sum(shapes[other])
        for full in set(links) - set(rates):  # ... and a full layer would not hold as many
            assert links[full] / sum(shapes[full]) < rate + 1 / sum(shapes[n]) + 1e-9


def test_sparsify_by_erk():
    m = dst.sparsify(model(), 0.3, allocation="erk")
    layers = dst.network(m).layers
    assert sum(a.nnz for a in layers.values()) == round(0.3 * (12 * 20 + 20 * 16 + 16 * 4))
    wanted = ALLOCATIONS["erk"]({n: a.shape for n, a in layers.items()}, 0.3)
    assert {n: layer.density for n, layer in sparse_layers(m).items()} == wanted
    assert m[3].density > m[0].density > m[2][0].density


# densify


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_densify_makes_the_same_function(layout, dtype):
    m = dst.sparsify(model().to(dtype).eval(), 0.3, layout=layout, exclude="2.0")
    m[0].parameter.requires_grad_(False)
    x, bias, weight = torch.randn(5, 12, dtype=dtype), m[0].bias, m[0].to_dense()
    expected = m(x)
    assert densify(m) is m
    assert kinds(m) == {"0": nn.Linear, "2.0": nn.Linear, "3": nn.Linear}
    assert m[0].bias is bias
    assert torch.equal(m[0].weight, weight)
    assert not m[0].training
    assert not m[0].weight.requires_grad
    assert m[3].weight.requires_grad
    torch.testing.assert_close(m(x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_densify_and_sparsify_are_inverses(layout):
    m = dst.sparsify(model(), 0.3, layout=layout)
    state, network = copy.deepcopy(m.state_dict()), dst.network(m)
    densify(m)
    dst.sparsify(
        m,
        {n: a.nnz / (a.shape[0] * a.shape[1]) for n, a in network.layers.items()},
        topology=network.layers,
        init="keep",
        layout=layout,
    )
    assert dst.network(m) == network
    torch.testing.assert_close(m.state_dict(), state, rtol=0, atol=0)


def test_densify_keeps_shared_layers_shared_and_refuses_hooks():
    layer = dst.SparseLinear(4, 4, density=0.5, bias=False)
    m = nn.ModuleDict({"a": layer, "b": nn.ModuleList([layer])})
    handle = layer.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layer 'a' has forward hooks"):
        densify(m)
    assert m["a"] is layer
    handle.remove()
    densify(m)
    assert type(m["a"]) is nn.Linear
    assert m["a"] is m["b"][0]
    assert m["a"].bias is None
    with pytest.raises(ValueError, match="wrap it"):
        densify(layer)
    dense = model()
    assert kinds(densify(dense)) == kinds(model())


# what is where


class Zoo(nn.Module):
    """Everything that has weights, and some that has not."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.norm, self.drop = nn.LayerNorm(6), nn.Dropout()
        self.conv = nn.Conv1d(6, 4, 3)
        self.attention = nn.MultiheadAttention(6, 2)
        self.fc1, self.fc2 = nn.Linear(6, 20), nn.Linear(20, 6)
        self.scaled = weight_norm(nn.Linear(6, 2))
        self.packed = QuantLinear()
        self.head = nn.Linear(6, 10)
        self.head.weight = self.embedding.weight


class QuantLinear(nn.Module):
    """As of GPTQ, AWQ ...: a name, and weights that are not floats."""

    in_features, out_features = 6, 3

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(3, 2, dtype=torch.int32))


class PackedLinear(nn.Module):
    """As of torch.ao: the weight is behind a function."""

    def weight(self):
        return torch.zeros(3, 3)


class OwnLinear(nn.Linear):
    pass


class Weight(torch.Tensor):
    pass


def test_explain_says_what_each_layer_is_and_why():
    m = dst.sparsify(Zoo(), 0.1, include="fc1")
    table = explain(m).set_index("layer")
    assert table.columns.tolist() == ["kind", "shape", "links", "density", "layout", "reason"]
    dense = {
        "embedding": ("Embedding", (10, 6), "Embedding, not nn.Linear"),
        "conv": ("Conv1d", (4, 6, 3), "Conv1d, not nn.Linear"),
        "attention": ("MultiheadAttention", (18, 6), "MultiheadAttention, not nn.Linear"),
        "attention.out_proj": (
            "NonDynamicallyQuantizableLinear",
            (6, 6),
            "nn.MultiheadAttention reads its weight",
        ),
        "fc2": ("Linear", (6, 20), "nn.Linear, not chosen"),
        "scaled": ("ParametrizedLinear", (2, 6), "not chosen: has a parametrized weight"),
        "packed": (
            "QuantLinear",
            (3, 6),
            f"not chosen: is a quantised {QuantLinear.__module__}.QuantLinear",
        ),
        "head": ("Linear", (10, 6), "nn.Linear, shares its weight with embedding"),
    }
    rows = {n: (row.kind, row["shape"], row.reason) for n, row in table.iterrows() if n != "fc1"}
    assert rows == dense
    assert list(table.index) == [n for n, _ in m.named_modules() if n in {*dense, "fc1"}]
    assert all(table.links[n] == np.prod(table["shape"][n]) for n in dense)
    assert table.layout.value_counts().to_dict() == {"dense": 8, "csr": 1}
    why = "auto: float32 on the CPU, peak density 0.1 <= 0.4"
    assert table.loc["fc1"].tolist() == ["SparseLinear", (20, 6), 12, 0.1, "csr", why]


def test_explain_names_the_weights_of_a_module_that_has_several():
    assert explain(nn.LSTM(3, 2)).layer.tolist() == ["weight_ih_l0", "weight_hh_l0"]
    assert explain(nn.Sequential(nn.ReLU())).empty


def test_sparsify_logs_what_explain_says(caplog):
    with caplog.at_level(logging.INFO, "dst.sparsify"):
        m = dst.sparsify(model(), 0.1, exclude="3")
    assert explain(m).to_string(index=False) in caplog.text


# torch's fused inference path reads the weights of linear1 and linear2


def encoder(norm_first=False):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # when dense
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("include", ["*.linear*", "layers.1.linear2"])
def test_a_torch_encoder_evaluates_to_what_it_does_densified(layout, include):
    m = dst.sparsify(encoder(), 0.3, include=include, layout=layout)
    for layer in sparse_layers(m).values():
        if layout == "masked":  # has no effect in any path
            layer.weight.data[~layer.mask] = 100.0
    x, padding = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        alone, padded = m(x), m(x, src_key_padding_mask=padding)
        densify(m)
        assert [layer.activation_relu_or_gelu for layer in m.layers] == [1, 1]
        assert m.use_nested_tensor
        torch.testing.assert_close(alone, m(x))
        torch.testing.assert_close(
            padded[~padding], m(x, src_key_padding_mask=padding)[~padding], rtol=1e-4, atol=1e-5
        )


def test_only_layers_that_became_sparse_leave_the_fused_path():
    m = dst.sparsify(encoder(), 0.3, include="layers.1.*")
    assert [layer.activation_relu_or_gelu for layer in m.layers] == [1, 0]
    assert copy.deepcopy(m).layers[1].activation_relu_or_gelu == 0


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.head.weight = self.embedding.weight


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)


def beside(module):
    return nn.Sequential(nn.Linear(4, 4), module)


def of_weight(weight):
    m = nn.Linear(4, 4)
    m.weight = nn.Parameter(weight, requires_grad=False)
    return m


def patched(m):
    m.forward = lambda x: x
    return m


def hooked(m):
    m[0].register_forward_hook(lambda *_: None)
    return m


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (model, {"density": 0}, r"layer '0': density must be in \(0, 1\], not 0"),
        (model, {"density": 1.01}, r"in \(0, 1\], not 1.01"),
        (model, {"density": 0.0001}, "leaves no link in a layer of 20 x 12"),
        (model, {"density": {"0": 0.5}}, "layer '2.0': no pattern of density"),
        (model, {"density": 0.1, "exclude": "fc9"}, "'fc9' matches no Linear layer; they are 0, 2"),
        (model, {"density": 0.1, "exclude": "*"}, "no Linear layer is left"),
        (model, {"density": 0.1, "topology": "erdos"}, "did you mean 'erdos_renyi'"),
        (model, {"density": 0.1, "init": "swj"}, "did you mean 'swi'"),
        (model, {"density": 0.1, "method": "chtz"}, "did you mean 'cht'"),
        (model, {"density": 0.1, "layout": "cse"}, "did you mean 'csr'"),
        (model, {"density": 0.1, "allocation": "erg"}, "did you mean 'erk'"),
        (model, {"density": {"*": 0.1}, "allocation": "erk"}, "give a number"),
        (model, {"density": 2, "allocation": "erk"}, r"density must be in \(0, 1\], not 2"),
        (model, {"density": 1 / 300, "allocation": "erk"}, "leaves no link in layer '3'"),
        (model, {"density": 0.1, "calibration": 1}, "calibration"),
        (model, {"density": 0.1, "init": lambda *a: np.ones(3)}, "24 links need as many values"),
        (lambda: dst.sparsify(model(), 0.5, include="0"), {"density": 0.1}, "sparse already: '0'"),
        (lambda: nn.Linear(3, 3), {"density": 0.5}, "wrap it in torch.nn.Sequential"),
        (Tied, {"density": 0.5}, "'head' shares its weight"),
        (Shared, {"density": 0.5}, "shares its weight"),
        (lambda: model().half(), {"density": 0.5, "layout": "csr"}, "float16"),
        (lambda: model().to("meta"), {"density": 0.5}, "meta device"),
        (lambda: beside(weight_norm(nn.Linear(4, 4))), {"density": 0.5}, "'1' has a parametrized"),
        (lambda: beside(QuantLinear()), {"density": 0.5}, r"'1' is a quantised .*: exclude it"),
        (lambda: beside(PackedLinear()), {"density": 0.5}, r"'1' is a quantised .*: exclude it"),
        (lambda: beside(OwnLinear(4, 4)), {"density": 0.5}, r"'1' is a .*OwnLinear, not a plain"),
        (lambda: beside(nn.LazyLinear(4)), {"density": 0.5}, "'1' is a LazyLinear .* run a batch"),
        (lambda: beside(of_weight(Weight(torch.zeros(4, 4)))), {"density": 0.5}, "of type Weight"),
        (lambda: beside(of_weight(torch.zeros(4, 4, dtype=torch.int8))), {"density": 0.5}, "int8"),
        (
            lambda: beside(of_weight(torch.zeros(4, 4, dtype=torch.float8_e4m3fn))),
            {"density": 0.5},
            r"quantised weight \(float8_e4m3fn\): exclude it",
        ),
        (lambda: beside(patched(nn.Linear(4, 4))), {"density": 0.5}, "'1' has forward hooks"),
        (lambda: hooked(model()), {"density": 0.5}, "layer '0' has forward hooks"),
    ],
)
def test_what_is_refused_changes_nothing(make, arguments, message):
    m = make()
    before = kinds(m)
    with pytest.raises(ValueError, match=message):
        dst.sparsify(m, **arguments)
    assert kinds(m) == before


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    "make", [QuantLinear, PackedLinear, lambda: OwnLinear(4, 4), lambda: nn.LazyLinear(4)]
)
def test_what_is_excluded_is_not_refused(make):
    m = dst.sparsify(beside(make()), 0.5, exclude="1")
    assert list(sparse_layers(m)) == ["0"]


def test_the_inside_of_torchs_attention_stays_dense():
    m = dst.sparsify(encoder(), 0.3)
    assert list(sparse_layers(m)) == [f"layers.{i}.linear{j}" for i in range(2) for j in (1, 2)]


# the graph


def coupled(module):
    return [(c.outputs, c.inputs) for c in dst.network(module).couplings]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(x + self.b(x).relu())


class Fan(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        hidden = self.a(x).relu()
        return self.b(hidden), self.c(hidden)


class ScalarGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 1), nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        self.last = self.up(x) * torch.sigmoid(self.gate(x))
        return self.down(self.last)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.b(self.b(self.a(x).relu()).relu())


def test_couplings_of_a_chain():
    m = nn.Sequential(
        nn.Linear(6, 8),
        nn.GELU(),
        nn.Dropout(),
        nn.Linear(8, 7),
        nn.BatchNorm1d(7),
        nn.Linear(7, 3),
    )
    assert coupled(dst.sparsify(m, 0.5)) == [(("0",), ("3",)), (("3",), ("5",))]


@pytest.mark.parametrize("between", [nn.LayerNorm(8), nn.Softmax(-1), nn.Linear(8, 8)])
def test_what_mixes_neurons_ends_a_coupling(between):
    m = nn.Sequential(nn.Linear(6, 8), between, nn.Linear(8, 3))
    assert coupled(dst.sparsify(m, 0.5, include=["0", "2"])) == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Gated, [(("gate", "up"), ("down",))]),
        (Residual, []),  # a feeds a sum as well as b
        (Fan, [(("a",), ("b", "c"))]),
        (Twice, []),
        (ScalarGate, []),
    ],
)
def test_couplings_follow_the_data(make, expected):
    assert coupled(dst.sparsify(make(), 0.5)) == expected


def test_a_model_that_cannot_be_traced_warns_and_takes_declared_couplings():
    class Branching(Fan):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else self.a(x)

    m = dst.sparsify(Branching(), 0.5)
    with pytest.warns(UserWarning, match="cannot be traced .* pass couplings="):
        assert dst.network(m).couplings == ()
    declared = (topo.Coupling(("a",), ("b", "c")),)
    assert dst.network(m, declared).couplings == declared


class Undecided(nn.Module):
    """Cannot be traced, but its parts can."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6))
        self.b = nn.ModuleList([Gated(), Gated()])

    def forward(self, x):
        x = self.a(x)
        return self.b[0](x) if x.sum() > 0 else self.b[1](x)


def test_a_model_that_cannot_be_traced_has_the_couplings_of_its_parts():
    assert coupled(dst.sparsify(Undecided(), 0.5)) == [
        (("a.0",), ("a.2",)),
        (("b.0.gate", "b.0.up"), ("b.0.down",)),
        (("b.1.gate", "b.1.up"), ("b.1.down",)),
    ]


def test_a_part_whose_layers_are_called_from_elsewhere_too_is_not_coupled():
    m = dst.sparsify(Undecided(), 0.5)
    m.spy = m.a[0]
    assert len(coupled(m)) == 2


def test_couplings_of_torchs_transformer():
    m = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    dst.sparsify(m, 0.5)
    assert coupled(m) == [
        (("encoder.layers.0.linear1",), ("encoder.layers.0.linear2",)),
        (("decoder.layers.0.linear1",), ("decoder.layers.0.linear2",)),
    ]


class Attention(nn.Module):
    """Named as those of Hugging Face."""

    def __init__(self, k=8, head_dim=4, **attributes):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, k), nn.Linear(8, k)
        self.out_proj = nn.Linear(8, 8)
        self.head_dim = head_dim
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        q, k, v = (self.heads(f(x)) for f in (self.q_proj, self.k_proj, self.v_proj))
        k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def heads(self, x):
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Rotated(Attention):
    def forward(self, x):
        self.rotary = x
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Attention, ["q_proj", "v_proj"]),
        (lambda: Attention(4, num_key_value_groups=2), ["q_proj", "v_proj"]),
        (lambda: Attention(4), []),  # whose heads share keys in an order that we do not know
        (lambda: Attention(head_dim=None), []),
        (lambda: Attention(head_dim=3), []),
        (lambda: Attention(sinks=nn.Parameter(torch.zeros(2))), []),
        (lambda: Attention(norm=nn.LayerNorm(8)), []),
        (lambda: Attention(drop=nn.Dropout()), ["q_proj", "v_proj"]),
        (Rotated, ["v_proj"]),
    ],
)
def test_attention_is_coupled_where_it_is_known_to_be_what_it_looks_like(make, expected):
    m = dst.sparsify(make(), 0.5)
    couplings = dst.network(m).couplings
    assert sorted(x.outputs[0] for x in couplings) == expected
    assert all(x.head_dim == 4 and not x.rotary for x in couplings)


def test_tracing_leaves_the_model_as_it_is():
    m = dst.sparsify(ScalarGate(), 0.5)
    dst.network(m)
    assert not hasattr(m, "last")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize(
    "wrap",
    [
        partial(torch.compile, backend="eager"),
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
    ],
)
def test_wrappers_do_not_rename_layers(wrap):
    m = dst.sparsify(model(), 0.3, exclude="3")
    assert dst.network(wrap(m)) == dst.network(m)


def test_a_dense_model_has_no_network():
    with pytest.raises(ValueError, match=r"call dst\.sparsify first"):
        dst.network(model())


def test_keep_in_bfloat16():
    m = nn.Sequential(nn.Linear(20, 20)).bfloat16()
    weight = m[0].weight.detach().clone()
    dst.sparsify(m, 0.5, init="keep")
    assert torch.equal(m[0].to_dense(), weight * m[0].mask)


@pytest.mark.parametrize("what", ["density", "topology"])
def test_a_pattern_of_a_mapping_that_matches_nothing_is_refused(what):
    values = {"density": {"typo": 0.1, "*": 0.5}, "topology": {"typo": "erdos_renyi"}}
    with pytest.raises(ValueError, match=f"the pattern 'typo' of {what} matches no chosen layer"):
        dst.sparsify(model(), **{"density": 0.5, what: values[what]})
