import contextlib
import copy
import subprocess
import sys
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.fx.experimental.proxy_tensor
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import dst
import topo
from dst import csr_kernels

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = [
    ("csr", torch.float32),
    ("csr", torch.float64),
    ("masked", torch.float32),
    ("masked", torch.float64),
    ("masked", torch.bfloat16),
]
kinds = pytest.mark.parametrize(
    ("layout", "dtype"), LAYOUTS, ids=[f"{n}-{str(d)[6:]}" for n, d in LAYOUTS]
)
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])


def make(layout="csr", dtype=torch.float64, n_in=7, n_out=5, density=0.4, **options):
    return dst.SparseLinear(n_in, n_out, density=density, layout=layout, **options).to(dtype)


def on_links(layer, dense):
    return dense[torch.from_numpy(layer.adjacency.toarray())]


def link_grads(layer):
    """The gradient of the weights, which the masked layout must have nowhere else."""
    grad = layer.parameter.grad
    if layer.layout == "csr":
        return grad
    assert not grad[~layer.mask].any()
    return grad[layer.mask]


@pytest.fixture(autouse=True)
def guard(monkeypatch, request):
    """Whatever the kernels would trust wrongly is refused before they read any address."""
    if "compiled" in request.node.name:  # the checks are Python on data
        return None
    calls, wrong = [], []

    def trusted(indptr, indices, x, *numbers):
        for t in (indptr, indices, x, *numbers):
            assert t.device.type == "cpu"
            assert t.layout == torch.strided
            assert t.is_contiguous()
            assert not t.is_neg()
            assert type(t) in (torch.Tensor, nn.Parameter)
            assert t.data_ptr() or not t.numel()
        assert indptr.dtype == indices.dtype == torch.int32
        assert {t.dtype for t in (x, *numbers)} in ({torch.float32}, {torch.float64})
        assert indptr[0] == 0
        assert indptr[-1] == len(indices)
        assert (indptr.diff() >= 0).all()
        assert ((indices >= 0) & (indices < len(x))).all()

    def product(indptr, indices, values, x, bias=None, order=None):
        trusted(indptr, indices, x, values, *(() if bias is None else (bias,)))
        assert values.shape == indices.shape
        assert bias is None or bias.shape == (len(indptr) - 1,)
        if order is not None:
            assert order.dtype == torch.int32
            assert order.is_contiguous()
            assert torch.equal(order.sort().values, torch.arange(len(values)))

    def dots(indptr, indices, x, grad):
        trusted(indptr, indices, x, grad)
        assert len(grad) == len(indptr) - 1
        assert x.shape[1:] == grad.shape[1:]

    def guarded(check, kernel):
        def call(*arguments, **options):
            try:
                wrong.clear()
                check(*arguments, **options)
            except (AssertionError, RuntimeError) as error:
                wrong.append(error)
            calls.append(check.__name__)
            return kernel(*arguments, **options)

        return call

    def run(*arguments):
        if wrong:
            pytest.fail(f"the kernels would read wild memory: {wrong[0]!r}")
        return kernels_run(*arguments)

    kernels_run = csr_kernels.run
    monkeypatch.setattr(csr_kernels, "run", run)
    for check in (product, dots):
        kernel = getattr(csr_kernels, check.__name__)
        monkeypatch.setattr(csr_kernels, check.__name__, guarded(check, kernel))
    return calls


def test_the_guard_sees_what_the_layer_computes(guard):
    make()(torch.ones(2, 7, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert guard == ["product", "product", "dots"]


# the same as a dense layer


@kinds
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (0,), (2, 4), (2, 1, 3), (2, 0, 3)])
def test_forward_and_gradients_equal_a_dense_layer(layout, dtype, bias, lead):
    sparse = make(layout, dtype, bias=bias)
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
    torch.testing.assert_close(link_grads(sparse), on_links(sparse, dense.weight.grad))
    if bias:
        torch.testing.assert_close(sparse.bias.grad, dense.bias.grad)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.Rprop, lr=0.01),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_layouts_train_alike(optimizer, dtype):
    models, trained = [], []
    x, y = torch.randn(16, 7, dtype=dtype), torch.randn(16, 3, dtype=dtype)
    for layout in ("csr", "masked"):
        first = make(layout, dtype, n_out=9)
        models.append(nn.Sequential(first, nn.GELU(), make(layout, dtype, n_in=9, n_out=3)))
    for i in (0, 2):
        assert torch.equal(models[0][i].link_values(), models[1][i].link_values())
    for model in models:
        opt, steps = optimizer(model.parameters()), []
        for _ in range(4):
            opt.zero_grad()
            inputs = x.clone().requires_grad_()
            out = model(inputs)
            F.mse_loss(out, y).backward()
            opt.step()
            steps += [out.detach(), inputs.grad]
            for layer in (model[0], model[2]):
                steps += [link_grads(layer).clone(), layer.link_values().clone()]
        trained.append(steps)
        if model[0].layout == "masked":
            assert not model[0].weight[~model[0].mask].any()
    torch.testing.assert_close(*trained)


@layouts
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(layout, bias):
    layer = make(layout, n_in=4, n_out=3, density=0.5, bias=bias)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@layouts
def test_a_layer_with_empty_rows_and_columns(layout):
    topology = [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    layer = dst.SparseLinear(3, 4, topology=topology, layout=layout)
    x = torch.ones(2, 3, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert link_grads(layer).tolist() == [2.0]
    assert x.grad[:, [0, 2]].tolist() == [[0.0, 0.0]] * 2
    torch.testing.assert_close(out[:, 0], layer.bias[0].expand(2))


@layouts
@pytest.mark.parametrize("wanted", range(8))
def test_only_the_gradients_that_are_asked_for(layout, wanted, guard):
    layer = make(layout)
    x = torch.randn(2, 7, dtype=torch.float64)
    leaves = x, layer.parameter, layer.bias
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(bool(wanted >> i & 1))
    out = layer(x)
    assert out.requires_grad == bool(wanted)
    if wanted:
        out.sum().backward()
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == bool(wanted >> i & 1)
    if wanted & 1:
        torch.testing.assert_close(x.grad, layer.to_dense().sum(0).expand(2, 7))
    if layout == "csr":  # nor is it computed
        assert guard.count("product") == 1 + (wanted & 1)
        assert guard.count("dots") == (wanted >> 1 & 1)


INPUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "sliced": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "rows reversed": lambda x: x.repeat_interleave(3, 0)[::3],
    "expanded rows": lambda x: x[:1].expand(6, 7),
    "expanded columns": lambda x: x[:, :1].expand(6, 7),
    "one number": lambda x: x[0, 0].expand(6, 7),
    "leading dimensions permuted": lambda x: x.reshape(2, 3, 7).transpose(0, 1),
    "features first": lambda x: x.reshape(3, 2, 7).permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "offset": lambda x: torch.cat([x[0], x.flatten()])[7:].view(6, 7),
    "negated view": lambda x: torch._neg_view(x),
    "negated and transposed": lambda x: torch._neg_view(x.t().contiguous()).t(),
    "a parameter": nn.Parameter,
}


@layouts
@pytest.mark.parametrize("view", INPUTS.values(), ids=INPUTS)
def test_inputs_of_any_strides(layout, view):
    layer, dense = make(layout), make(layout).to_dense()
    x = view(torch.randn(6, 7, dtype=torch.float64)).detach().requires_grad_()
    out = layer(x)
    torch.testing.assert_close(out, F.linear(x, dense, layer.bias))
    grad = view(torch.randn(6, 7, dtype=torch.float64))[..., :5].detach()
    actual = torch.autograd.grad(out, [x, layer.parameter, layer.bias], grad)
    flat, flat_grad = x.detach().reshape(-1, 7), grad.reshape(-1, 5)
    torch.testing.assert_close(actual[0], grad @ dense)
    weight_grad = actual[1] if layout == "csr" else actual[1][layer.mask]
    torch.testing.assert_close(weight_grad, on_links(layer, flat_grad.t() @ flat))
    torch.testing.assert_close(actual[2], flat_grad.sum(0))


@layouts
def test_parameters_of_any_strides(layout):
    layer = make(layout)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    expected = F.linear(x, layer.to_dense(), layer.bias).detach()
    for parameter in layer.parameters():
        parameter.data = parameter.data.repeat_interleave(2, -1)[..., ::2]
    out = layer(x)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    torch.testing.assert_close(x.grad, layer.to_dense().sum(0).expand(3, 7))


@layouts
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_autograd(layout, mode):
    layer = make(layout)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    with mode():
        out = layer(x)
        inputs = x + 0
    assert not out.requires_grad
    assert torch.equal(out, expected)
    layer(inputs.clone()).sum().backward()
    assert layer.parameter.grad is not None


@layouts
def test_a_second_backward_pass(layout):
    layer = make(layout)
    x = torch.randn(3, 7, dtype=torch.float64)
    loss = layer(x).square().sum()
    loss.backward(retain_graph=True)
    once = layer.parameter.grad.clone()
    loss.backward()
    assert torch.equal(layer.parameter.grad, 2 * once)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_csr_has_no_second_derivatives_and_says_so():
    layer = make()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_weights_that_change_between_forward_and_backward_are_noticed():
    layer = make()
    x = torch.ones(2, 7, dtype=torch.float64, requires_grad=True)
    loss = layer(x).sum()
    with torch.no_grad():
        layer.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# precisions and compilation


@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16])
def test_csr_computes_in_its_own_precision_under_autocast(inputs):
    layer = make(dtype=torch.float32)
    x = torch.ones(2, 7, dtype=inputs, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        out.sum().backward()
    assert out.dtype == layer.values.grad.dtype == torch.float32
    assert x.grad.dtype == inputs
    torch.testing.assert_close(out, layer(torch.ones(2, 7)))


@pytest.mark.parametrize("inside", [True, False])
def test_masked_is_a_linear_layer_under_autocast(inside):
    layer, dense = make("masked", torch.float32), nn.Linear(7, 5)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
        dense.bias.copy_(layer.bias)
    x = torch.randn(4, 7)
    for module in (layer, dense):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(x)
            assert out.dtype == torch.bfloat16
            if inside:
                out.float().square().sum().backward()
        if not inside:
            out.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert torch.equal(layer.weight.grad, dense.weight.grad * layer.mask)
    assert torch.equal(layer.bias.grad, dense.bias.grad)


@layouts
def test_autocast_that_is_switched_off(layout):
    layer, x = make(layout, torch.float32), torch.randn(4, 7)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autocast("cpu", enabled=False),
    ):
        out = layer(x)
    assert torch.equal(out, layer(x))


def test_half_precision_is_refused_by_name():
    with pytest.raises(ValueError, match=r"float32 or float64, not torch\.bfloat16"):
        make().bfloat16()(torch.ones(1, 7, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"float32 or float64, not float16"):
        dst.SparseLinear.from_linear(
            nn.Linear(2, 2).half(), topo.as_adjacency(np.eye(2)), [1, 1], layout="csr"
        )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@kinds
def test_compiled_without_graph_breaks(layout, dtype):
    torch._dynamo.reset()
    model = nn.Sequential(make(layout, dtype), nn.ReLU(), make(layout, dtype, n_in=5, n_out=3))
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    other = make(dtype=dtype if layout == "csr" else torch.float64, seed=3).adjacency
    for _ in range(2):
        x = torch.randn(4, 7, dtype=dtype, requires_grad=True)
        x2 = x.detach().clone().requires_grad_()
        out, expected = compiled(x), twin(x2)
        torch.testing.assert_close(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad, x2.grad)
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for m in (model, twin):  # compiled code follows a new topology
            m.zero_grad()
            dst.rewire(m, {"0": other})


# memory


class Largest(TorchDispatchMode):
    """The largest tensor that any torch operation returns, in elements."""

    elements = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for t in torch.utils._pytree.tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.layout == torch.strided:
                storage = t.untyped_storage().nbytes() // t.element_size()
                self.elements = max(self.elements, storage)
        return result


def peaks(layout, rewires):
    """The largest tensor and numpy's peak, in elements, of two steps of training."""
    layer = dst.SparseLinear(3000, 2000, density=0.01, layout=layout)
    other = topo.erdos_renyi(2000, 3000, 0.012, seed=1)
    model = nn.Sequential(layer)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.ones(16, 3000, requires_grad=True)
    tracemalloc.start()
    with Largest() as largest:
        for _ in range(2):
            optimizer.zero_grad()
            layer(x).sum().backward()
            optimizer.step()
            if rewires:
                dst.rewire(model, {"0": other}, optimizer)
    peak = tracemalloc.get_traced_memory()[1] / 4
    tracemalloc.stop()
    return largest.elements, peak


@pytest.mark.parametrize("rewires", [False, True])
def test_csr_makes_no_dense_weight_and_no_dense_gradient(rewires):
    largest, peak = peaks("csr", rewires)
    assert largest <= 72_000  # links after the rewiring; activations have 48,000 elements
    assert peak < 8 * 72_000


def test_the_probe_catches_the_dense_weight_of_the_masked_layout():
    assert peaks("masked", rewires=False)[0] == 2000 * 3000


def test_parameters_live_on_the_links():
    layer = make(n_in=100, n_out=50, density=0.02)
    assert layer.values.shape == (100,)
    assert layer.adjacency.nnz == layer.links == 100
    assert layer.density == 0.02
    layer.weight.values()[0] = 7  # the sparse tensor is a view of them
    assert layer.values[0] == 7
    assert torch.equal(layer.weight.to_dense(), layer.to_dense())
    assert layer.weight.layout == torch.sparse_csr
    assert not layer.weight.requires_grad


def test_the_masked_weight_is_zero_off_the_links():
    layer = make("masked")
    assert layer.weight.shape == (5, 7)
    assert layer.links == layer.mask.sum() == round(0.4 * 35)
    assert not layer.weight[~layer.mask].any()
    assert torch.equal(layer.to_dense(), layer.weight)
    assert torch.equal(layer.link_values(), layer.weight[layer.mask])


def test_the_adjacency_shares_the_layers_memory_and_is_read_only():
    layer = make()
    adjacency = layer.adjacency
    arrays = {t.data_ptr() for t in layer._indices}
    for array in (adjacency.indices, adjacency.indptr):
        assert array.ctypes.data in arrays
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    given = topo.erdos_renyi(5, 7, 0.4, seed=1)  # the user's is taken as it is, too
    layer = dst.SparseLinear(7, 5, topology=given, layout="csr")
    assert np.shares_memory(layer.adjacency.indices, given.indices)


@layouts
def test_a_saved_adjacency_survives_rewiring_and_loading(layout):
    layer = make(layout)
    changes = [
        lambda: layer.rewire(make(seed=1).adjacency),
        lambda: layer.rewire(make(density=0.8).adjacency),
        lambda: layer.load_state_dict(make(layout, seed=2).state_dict()),
    ]
    for change in changes:
        saved, copied = layer.adjacency, layer.adjacency.toarray()
        change()
        assert np.array_equal(saved.toarray(), copied)
        assert not np.array_equal(layer.adjacency.toarray(), copied)


# construction


@pytest.mark.parametrize(
    ("arguments", "cls"),
    [
        ({"density": 0.4}, dst.CSRLinear),
        ({"density": 0.41}, dst.MaskedLinear),
        ({"density": 0.5, "layout": "csr"}, dst.CSRLinear),
        ({"density": 0.1, "layout": "masked"}, dst.MaskedLinear),
        ({"topology": np.eye(10)}, dst.CSRLinear),
        ({"topology": np.ones((10, 10)).tolist()}, dst.MaskedLinear),
        ({"topology": topo.as_adjacency(np.eye(10))}, dst.CSRLinear),
    ],
)
def test_the_class_is_that_of_the_layout(arguments, cls):
    layer = dst.SparseLinear(10, 10, **arguments)
    assert type(layer) is cls
    assert isinstance(layer, dst.SparseLinear)
    assert isinstance(layer, nn.Module)
    assert layer.layout == {dst.CSRLinear: "csr", dst.MaskedLinear: "masked"}[cls]
    asked = "layout" in arguments
    assert layer.reason == "as asked" if asked else layer.reason.startswith("auto: ")
    assert repr(layer) == (
        f"SparseLinear(in_features=10, out_features=10, links={layer.links}, "
        f"density={layer.density:.4g}, layout={layer.layout}, bias=True)"
    )


@layouts
def test_a_subclass_and_a_parametrization_keep_the_layout(layout):
    layer = make(layout)
    base = type(layer)

    class Mine(base):
        pass

    mine = Mine(7, 5, density=0.4)
    assert type(mine) is Mine
    assert mine.layout == layout
    assert type(make(layout)) is base  # registers nothing
    if layout == "masked":  # torch has no parametrization of what is called "values"
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
        x = torch.randn(3, 7, dtype=torch.float64)
        expected = F.linear(x, make(layout).to_dense().tanh(), layer.bias)
        torch.testing.assert_close(layer(x), expected)


def test_auto_knows_the_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = dst.SparseLinear(10, 10, density=0.1)
        assert layer.layout == "masked"
        assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
        with pytest.raises(ValueError, match="float32 or float64, not bfloat16"):
            dst.SparseLinear(10, 10, density=0.1, layout="csr")
    finally:
        torch.set_default_dtype(torch.float32)


@kinds
def test_from_linear_takes_everything_over(layout, dtype):
    linear = nn.Linear(3, 2, dtype=dtype).eval()
    linear.weight.requires_grad_(False)
    a = topo.as_adjacency([[1, 0, 1], [0, 1, 0]])
    layer = dst.SparseLinear.from_linear(linear, a, [1.0, 2.0, 3.0], layout=layout)
    assert layer.to_dense().tolist() == [[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]
    assert layer.bias is linear.bias
    assert layer.parameter.dtype == dtype
    assert not layer.parameter.requires_grad
    assert not layer.training
    assert (layer.layout, layer.reason) == (layout, "as asked")
    with pytest.raises(ValueError, match=r"3 links need as many values, not \(2,\)"):
        dst.SparseLinear.from_linear(linear, a, [1.0, 2.0])
    peak = dst.SparseLinear.from_linear(nn.Linear(3, 2), a, [1.0, 2.0, 3.0], peak_density=0.7)
    assert peak.reason == "auto: peak density 0.7 > 0.4"
    with pytest.raises(ValueError, match="meta device"):
        dst.SparseLinear.from_linear(linear.to("meta"), a, [1.0, 2.0, 3.0])


@layouts
def test_initial_values_are_a_function_of_the_seed(layout):
    torch.manual_seed(0)
    first = make(layout, seed=3)
    torch.manual_seed(1)
    again = make(layout, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first.parameter, make(layout, seed=4).parameter)


@layouts
def test_swi_has_the_promised_variance(layout):
    layer = dst.SparseLinear(400, 500, density=0.05, layout=layout)
    std = (2 / (0.05 * 400)) ** 0.5
    assert layer.link_values().std().item() == pytest.approx(std, rel=0.03)
    assert layer.link_values().mean().item() == pytest.approx(0, abs=0.02)


# refusals


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan"), "0.1", True, None])
def test_bad_density(density):
    with pytest.raises(ValueError, match="density"):
        dst.SparseLinear(4, 4, density=density)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.001}, "leaves no link in a layer of 5 x 4"),
        ({"density": 0.5, "topology": "smal_world"}, "did you mean 'small_world'"),
        ({"density": 0.5, "layout": "mask"}, "unknown layout 'mask': did you mean 'masked'"),
        ({"topology": np.ones((3, 3))}, r"shape \(3, 3\), the layer \(5, 4\)"),
        ({"density": 0.5, "topology": np.eye(5, 4)}, "4 links; density 0.5 of a 5 x 4 layer is 10"),
        ({"density": 0.5, "topology": lambda n, m, d, seed: np.full((n, m), 2)}, "0 and 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        dst.SparseLinear(4, 5, **arguments)


@kinds
@pytest.mark.parametrize("shape", [(2, 6), (2, 8), (7, 2), (6,), (0,), (), (7, 1)])
def test_inputs_of_another_width_are_refused(layout, dtype, shape):
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 7\), not \("):
        make(layout, dtype)(torch.ones(shape, dtype=dtype))


DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int32, torch.int64, torch.complex64,
]  # fmt: skip


@kinds
@pytest.mark.parametrize("other", DTYPES, ids=lambda d: str(d)[6:])
def test_inputs_of_another_dtype_are_refused(layout, dtype, other):
    layer = make(layout, dtype)
    if other == dtype:
        return
    with pytest.raises(RuntimeError, match="the same dtype"):
        layer(torch.ones(2, 7).to(other))


@layouts
def test_inputs_on_another_device_are_refused(layout):
    layer = make(layout)
    message = "device|meta"
    with pytest.raises((RuntimeError, ValueError), match=message):
        layer(torch.ones(2, 7, dtype=torch.float64, device="meta"))
    with pytest.raises((RuntimeError, ValueError), match=message):
        layer.to("meta")(torch.ones(2, 7, dtype=torch.float64))


@layouts
@pytest.mark.parametrize("where", ["input", "parameter", "everything"])
def test_tensors_without_memory_are_no_addresses(layout, where):
    """Fake tensors and wrappers, as in tools that trace or shard: refused, or understood."""
    layer, x = make(layout, torch.float32), torch.ones(2, 7)
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError, ValueError, TypeError):
        warnings.simplefilter("ignore", DeprecationWarning)
        if where == "everything":
            with FakeTensorMode(allow_non_fake_inputs=True):
                assert layer(x).shape == (2, 5)
        elif where == "parameter":
            name = "values" if layout == "csr" else "weight"
            wrapped = TwoTensor(layer.parameter.detach(), layer.parameter.detach())
            setattr(layer, name, nn.Parameter(wrapped))
            assert layer(x).shape == (2, 5)
        else:
            assert layer(TwoTensor(x, x)).shape == (2, 5)


@pytest.mark.parametrize(("name", "width"), [("in_features", 3), ("out_features", 9)])
def test_sizes_that_someone_changed_do_not_change_the_links(name, width):
    layer = make()
    setattr(layer, name, width)
    x = torch.ones(2, layer.in_features, dtype=torch.float64)
    if name == "in_features":
        with pytest.raises((RuntimeError, ValueError)):
            layer(x)
    else:
        with contextlib.suppress(RuntimeError, ValueError):
            layer(x[None])


def test_sparse_inputs_are_refused():
    layer = make(dtype=torch.float32)
    x = torch.eye(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = x.to_sparse(), x.to_sparse_csr(), x.to_sparse_csc(), x.to_mkldnn()
    for strange in inputs:
        with pytest.raises((RuntimeError, ValueError)):
            layer(strange)


# Every way past the constructor to parameters that do not fit the links.
MISFITS = {
    "too few values": lambda p: {"values": p["values"][:3]},
    "too many values": lambda p: {"values": p["values"].repeat(2)},
    "no values": lambda p: {"values": p["values"][:0]},
    "values in two dimensions": lambda p: {"values": p["values"][None]},
    "one value": lambda p: {"values": p["values"][0]},
    "values of another dtype": lambda p: {"values": p["values"].float()},
    "bias too short": lambda p: {"bias": p["bias"][:2]},
    "bias too long": lambda p: {"bias": p["bias"].repeat(2)},
    "bias in two dimensions": lambda p: {"bias": p["bias"][:, None]},
    "bias of another dtype": lambda p: {"bias": p["bias"].float()},
    "bias without memory": lambda p: {"bias": p["bias"].to("meta")},
    "values without memory": lambda p: {"values": p["values"].to("meta")},
}


@pytest.mark.parametrize("route", ["data", "functional_call"])
@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_parameters_that_do_not_fit_are_refused(misfit, route):
    layer = make()
    x = torch.ones(2, 7, dtype=torch.float64)
    changed = misfit({name: p.detach() for name, p in layer.named_parameters()})
    if route == "data":
        for name, value in changed.items():
            if value.device.type == "meta":
                setattr(layer, name, nn.Parameter(value))
            else:
                getattr(layer, name).data = value
    with pytest.raises((RuntimeError, ValueError)):
        torch.func.functional_call(layer, changed if route == "functional_call" else {}, (x,))


def test_values_that_shrink_between_forward_and_backward_are_not_read():
    layer = make()
    x = torch.ones(2, 7, dtype=torch.float64, requires_grad=True)
    loss = layer(x).sum()
    layer.values.data = layer.values.data[:3]
    with contextlib.suppress(RuntimeError):  # refused, or with the values of the forward pass
        loss.backward()
    with pytest.raises((RuntimeError, ValueError)):
        layer(x)


# as other code treats a Linear layer


@layouts
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_what_comes_out_may_be_changed_in_place(layout, lead):
    layer = make(layout)
    dense = nn.Linear(7, 5, dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(layer.to_dense())
        dense.bias.copy_(layer.bias)
    x = torch.randn(*lead, 7, dtype=torch.float64)
    for m in (layer, dense):
        y = m(x)
        y += 1
        nn.ReLU(inplace=True)(y).square().sum().backward()
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad)
    torch.testing.assert_close(link_grads(layer), on_links(layer, dense.weight.grad))


def test_auto_is_decided_by_the_density_that_was_asked_for():
    asked = dst.SparseLinear(784, 1568, density=0.4)  # the links are a little more than 40 %
    model = dst.sparsify(nn.Sequential(nn.Linear(784, 1568)), 0.4)
    for layer in (asked, model[0]):
        assert (layer.layout, layer.reason[-10:]) == ("csr", "0.4 <= 0.4")


def test_a_layout_by_the_name_of_its_class():
    assert dst.CSRLinear(4, 4, density=0.9).reason == "as asked"
    assert dst.MaskedLinear(4, 4, density=0.1).layout == "masked"
    with pytest.raises(ValueError, match="CSRLinear has the layout 'csr'"):
        dst.CSRLinear(4, 4, density=0.5, layout="masked")


@layouts
def test_shapes_on_the_meta_device(layout):
    out = make(layout).to("meta")(torch.empty(2, 3, 7, dtype=torch.float64, device="meta"))
    assert (out.shape, out.device.type) == ((2, 3, 5), "meta")


@layouts
def test_a_traced_layer_computes_the_same(layout):
    layer = make(layout, torch.float32)
    traced = torch.fx.experimental.proxy_tensor.make_fx(layer)(torch.randn(3, 7))
    x = torch.randn(3, 7)
    torch.testing.assert_close(traced(x), layer(x))


def test_second_derivatives_of_the_masked_layout():
    layer = make("masked")
    x = torch.randn(3, 7, dtype=torch.float64)
    loss = layer(x).pow(3).sum()
    (first,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), layer.weight)
    weight = layer.weight.detach().clone().requires_grad_()
    loss = nn.functional.linear(x, weight * layer.mask, layer.bias).pow(3).sum()
    (expected,) = torch.autograd.grad(loss, weight, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(expected.sum(), weight)[0])


def test_kernels_where_no_cache_can_be_written():
    code = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import torch, dst
torch.set_num_threads(2)
layer = dst.SparseLinear(400, 400, density=0.2, layout="csr")
x = torch.ones(256, 400)
print(torch.allclose(layer(x), x @ layer.to_dense().t() + layer.bias, atol=1e-4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
