import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo


def make(n_in=7, n_out=5, density=0.4, dtype=torch.float64, bias=True, seed=0):
    return dst.SparseLinear(n_in, n_out, density=density, bias=bias, seed=seed).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (0,), (2, 4), (2, 1, 3)])
def test_forward_and_gradients_equal_a_dense_layer(dtype, bias, lead):
    sparse = make(dtype=dtype, bias=bias)
    dense = nn.Linear(7, 5, bias=bias, dtype=dtype)
    with torch.no_grad():
        dense.weight.copy_(sparse.to_dense())
        if bias:
            dense.bias.copy_(sparse.bias)
    x = torch.randn(*lead, 7, dtype=dtype, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    out, expected = sparse(x), dense(x2)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(expected)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad)
    rows, cols = (torch.from_numpy(i.copy()).long() for i in topo.links(sparse.adjacency))
    torch.testing.assert_close(sparse.values.grad, dense.weight.grad[rows, cols])
    if bias:
        torch.testing.assert_close(sparse.bias.grad, dense.bias.grad)


def test_gradcheck():
    layer = make(4, 3, 0.5)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def run(x, values):
        return torch.func.functional_call(layer, {"values": values}, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.values))


def test_a_layer_with_empty_rows_and_columns():
    layer = dst.SparseLinear(3, 4, topology=[[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    out = layer(torch.ones(2, 3, requires_grad=True))
    out.sum().backward()
    assert layer.values.grad.tolist() == [2.0]
    torch.testing.assert_close(out[:, 0], layer.bias[0].expand(2))


def test_no_gradient_is_computed_where_none_is_asked_for():
    layer = make(bias=False)
    layer.values.requires_grad_(False)
    x = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert layer.values.grad is None
    torch.testing.assert_close(x.grad, layer.to_dense().sum(0).expand(2, 7))


def test_parameters_live_on_the_links():
    layer = make(100, 50, 0.02)
    assert layer.values.shape == (100,)
    assert layer.adjacency.nnz == 100
    assert layer.density == 0.02
    assert layer.layout == "csr"


def test_the_adjacency_shares_the_layers_memory_and_is_read_only():
    layer = make()
    adjacency = layer.adjacency
    assert np.shares_memory(adjacency.indices, layer.indices.numpy())
    assert np.shares_memory(adjacency.indptr, layer.indptr.numpy())
    with pytest.raises(ValueError, match="read-only"):
        adjacency.indices[0] = 1


def test_a_saved_adjacency_survives_rewiring_and_loading():
    layer, other = make(seed=0), make(seed=1)
    saved, copied = layer.adjacency, layer.adjacency.toarray()
    layer.rewire(other.adjacency, torch.full((layer.values.numel(),), -1))
    assert np.array_equal(saved.toarray(), copied)
    saved, copied = layer.adjacency, layer.adjacency.toarray()
    layer.load_state_dict(make(seed=2).state_dict())
    assert np.array_equal(saved.toarray(), copied)


def test_rewire_keeps_the_parameter_and_moves_value_and_gradient():
    layer = dst.SparseLinear(2, 2, topology=[[1, 1], [0, 0]])
    parameter = layer.values
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, 2.0]))
    layer.values.grad = torch.tensor([3.0, 4.0])
    layer.rewire(topo.as_adjacency([[0, 1], [1, 0]]), torch.tensor([1, -1]))
    assert layer.values is parameter
    assert layer.values.tolist() == [2.0, 0.0]
    assert layer.values.grad.tolist() == [4.0, 0.0]
    assert layer.to_dense().tolist() == [[0.0, 2.0], [0.0, 0.0]]
    # forward and backward both use the new links
    x = torch.tensor([[10.0, 1.0]], requires_grad=True)
    (layer(x) - layer.bias).sum().backward()
    assert x.grad.tolist() == [[0.0, 2.0]]
    with pytest.raises(ValueError, match="2 links, the new topology 1"):
        layer.rewire(topo.as_adjacency([[0, 1], [0, 0]]), torch.tensor([0]))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_apart(clone):
    layer = make()
    twin = clone(layer)
    x = torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(twin(x), layer(x))
    with torch.no_grad():
        twin.values.zero_()
    assert layer.values.abs().sum() > 0


def test_state_dict_carries_the_topology():
    source, target = make(seed=0), make(seed=1)
    assert not np.array_equal(source.adjacency.toarray(), target.adjacency.toarray())
    target.load_state_dict(source.state_dict())
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(target(x), source(x))
    target(x).sum().backward()  # the transposed links moved, too
    torch.testing.assert_close(x.grad, source.to_dense().sum(0).expand(3, 7))


@pytest.mark.parametrize(
    ("key", "index", "value"),
    [("indices", 0, 99), ("indices", 0, -1), ("indptr", -1, 3), ("indptr", 1, 99)],
)
def test_a_damaged_state_dict_is_refused_and_changes_nothing(key, index, value):
    layer = make()
    before = layer.adjacency.toarray()
    state = {k: v.clone() for k, v in make(seed=1).state_dict().items()}
    state[key][index] = value
    with pytest.raises(ValueError, match="topology"):
        layer.load_state_dict(state)
    assert np.array_equal(layer.adjacency.toarray(), before)


def test_a_state_with_other_links_or_without_them_changes_nothing():
    layer, x = make(density=0.2), torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    expected, saved = layer(x), layer.adjacency
    state = make(density=0.8, seed=1).state_dict()
    with pytest.raises(RuntimeError, match="has 7 links, the state 28: make the model"):
        layer.load_state_dict(state)
    part = {k: v for k, v in make(density=0.2, seed=1).state_dict().items() if k != "values"}
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(part)
    assert "values" in layer.load_state_dict(part, strict=False).missing_keys
    assert np.array_equal(saved.toarray(), layer.adjacency.toarray())
    torch.testing.assert_close(layer(x) - layer.bias, expected - make(density=0.2).bias)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.to_dense().sum(0).expand(3, 7))


def test_half_precision_is_refused_by_name():
    with pytest.raises(ValueError, match=r"float32 or float64, not torch\.bfloat16"):
        make().bfloat16()(torch.ones(1, 7, dtype=torch.bfloat16))


def test_initial_values_are_a_function_of_the_seed():
    torch.manual_seed(0)
    first = make(seed=3)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), make(seed=3).parameters()))
    assert not torch.equal(first.values, make(seed=4).values)


def test_swi_has_the_promised_variance():
    layer = dst.SparseLinear(400, 500, density=0.05)
    std = (2 / (0.05 * 400)) ** 0.5
    assert layer.values.std().item() == pytest.approx(std, rel=0.03)
    assert layer.values.mean().item() == pytest.approx(0, abs=0.02)


def test_autocast_computes_in_the_layers_precision():
    layer = make(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.ones(2, 7, dtype=torch.bfloat16))
        out.sum().backward()
    assert out.dtype == layer.values.grad.dtype == torch.float32
    torch.testing.assert_close(out, layer(torch.ones(2, 7)))


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan"), "0.1", True, None])
def test_bad_density(density):
    with pytest.raises(ValueError, match="density"):
        dst.SparseLinear(4, 4, density=density)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.001}, "leaves no link in a layer of 5 x 4"),
        ({"density": 0.5, "topology": "smal_world"}, "did you mean 'small_world'"),
        ({"density": 0.5, "layout": "masked"}, "layout must be"),
        ({"topology": np.ones((3, 3))}, r"shape \(3, 3\), the layer \(5, 4\)"),
        ({"density": 0.5, "topology": np.eye(5, 4)}, "4 links; density 0.5 of a 5 x 4 layer is 10"),
        ({"density": 0.5, "topology": lambda n, m, d, seed: np.full((n, m), 2)}, "0 and 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        dst.SparseLinear(4, 5, **arguments)


def test_bad_input():
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 7\), not \(2, 6\)"):
        make()(torch.ones(2, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="float16"):
        dst.SparseLinear.from_linear(nn.Linear(2, 2).half(), topo.as_adjacency(np.eye(2)), [1, 1])
