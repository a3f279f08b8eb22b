import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import dst
import topo


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Sequential(nn.Linear(20, 16), nn.ReLU()), nn.Linear(16, 4)
    )


def kinds(module):
    return {n: type(m) for n, m in module.named_modules() if "Linear" in type(m).__name__}


def test_replaces_what_is_named_in_place():
    m = model()
    assert dst.sparsify(m, 0.1, exclude="3") is m
    assert kinds(m) == {"0": dst.SparseLinear, "2.0": dst.SparseLinear, "3": nn.Linear}
    assert {n: a.nnz for n, a in dst.network(m).layers.items()} == {"0": 24, "2.0": 32}
    assert m(torch.ones(5, 12)).shape == (5, 4)


def test_include_and_exclude_are_patterns_on_names():
    m = dst.sparsify(model(), 0.5, include=["2.*", "3"], exclude=("3",))
    assert kinds(m) == {"0": nn.Linear, "2.0": dst.SparseLinear, "3": nn.Linear}


def test_keep_takes_the_models_own_weights_and_bias():
    m = model()
    dense = copy.deepcopy(m)
    dst.sparsify(m, 0.3, init="keep")
    for name, layer in dst.graph.sparse_layers(m).items():
        original = dense.get_submodule(name)
        mask = torch.from_numpy(layer.adjacency.toarray())
        assert torch.equal(layer.to_dense(), original.weight * mask)
        assert torch.equal(layer.bias, original.bias)


def test_at_density_one_nothing_is_lost():
    m, x = model(), torch.randn(3, 12)
    expected = m(x)
    torch.testing.assert_close(dst.sparsify(m, 1.0, init="keep")(x), expected)


def test_density_topology_and_init_per_layer():
    own = np.eye(20, 12)
    m = dst.sparsify(
        model(),
        {"0": 12 / 240, "*": 0.5},
        topology={"0": own, "*": "erdos_renyi"},
        init=lambda linear, adjacency, key: np.full(adjacency.nnz, 7.0),
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
    assert torch.equal(as_set[0].values, by_hand[0].values)
    assert dst.network(given) == dst.network(dst.sparsify(copy.deepcopy(dense), 0.3))


def test_a_function_of_seed_and_layer_name_alone():
    a, b, c = (dst.sparsify(model(), 0.3, seed=s) for s in (1, 1, 2))
    assert dst.network(a) == dst.network(b) != dst.network(c)
    assert torch.equal(a[0].values, b[0].values)
    square = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    first, second = dst.network(dst.sparsify(square, 0.2, topology="erdos_renyi")).layers.values()
    assert not np.array_equal(first.toarray(), second.toarray())


def test_dtype_device_mode_and_frozen_weights_are_kept():
    m = model().double().eval()
    m[0].weight.requires_grad_(False)
    dst.sparsify(m, 0.5)
    assert m[0].values.dtype == torch.float64
    assert not m[0].training
    assert not m[0].values.requires_grad
    assert m[3].values.requires_grad


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.head.weight = self.embedding.weight


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)


def hooked(m):
    m[0].register_forward_hook(lambda *_: None)
    return m


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
        (model, {"density": 0.1, "method": "cht"}, "did you mean 'chts'"),
        (model, {"density": 0.1, "layout": "coo"}, "layout must be"),
        (model, {"density": 0.1, "allocation": "erk"}, "allocation must be"),
        (model, {"density": 0.1, "calibration": 1}, "calibration"),
        (model, {"density": 0.1, "init": lambda *a: np.ones(3)}, "24 links need as many values"),
        (lambda: dst.sparsify(model(), 0.5, include="0"), {"density": 0.1}, "sparse already: '0'"),
        (lambda: nn.Linear(3, 3), {"density": 0.5}, "wrap it in torch.nn.Sequential"),
        (Tied, {"density": 0.5}, "'head' shares its weight"),
        (Shared, {"density": 0.5}, "shares its weight"),
        (lambda: model().half(), {"density": 0.5}, "float16"),
        (lambda: model().to("meta"), {"density": 0.5}, "meta device"),
        (lambda: nn.Sequential(weight_norm(nn.Linear(4, 4))), {"density": 0.5}, "Linear layer"),
        (lambda: hooked(model()), {"density": 0.5}, "layer '0' has forward hooks"),
    ],
)
def test_what_is_refused_changes_nothing(make, arguments, message):
    m = make()
    before = kinds(m)
    with pytest.raises(ValueError, match=message):
        dst.sparsify(m, **arguments)
    assert kinds(m) == before


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
