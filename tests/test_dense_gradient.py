"""The gradient of all possible weights, as RigL needs it, against that of a dense layer."""

import copy
import gc
import math
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import dst
from dst.dense_gradient import DenseGradient

pytestmark = pytest.mark.usefixtures("one_thread")
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])


def watched(layout="csr", dtype=torch.float32, bias=True):
    layer = dst.SparseLinear(7, 5, density=0.3, layout=layout, bias=bias).to(dtype)
    layer.watch = DenseGradient()
    return layer


def inputs(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def loss_of(y):
    return (y.float() if y.dtype == torch.bfloat16 else y).sin().sum()


def dense_gradient(layer, *batches):
    """The gradient of a dense weight that has the layer's values."""
    weight = layer.to_dense().requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach()
    sum(loss_of(F.linear(x, weight, bias)) for x in batches).backward()
    return weight.grad


@layouts
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (3, 4, 7), (2, 3, 4, 7)])
def test_it_is_the_gradient_of_a_dense_layer(shape, dtype, bias, layout):
    layer, x = watched(layout, dtype, bias), inputs(*shape, dtype=dtype)
    y = layer(x)
    assert layer.watch.total is None
    loss_of(y).backward()
    total = layer.watch.total
    assert total.shape == (5, 7)
    assert total.dtype == dtype
    torch.testing.assert_close(total, dense_gradient(layer, x))
    # on the links it is the gradient that the layer has
    on_links = total[torch.from_numpy(layer.adjacency.toarray())]
    torch.testing.assert_close(on_links, layer.link_gradients())


@layouts
def test_outputs_and_gradients_are_as_without_it(layout):
    layer, x = watched(layout), inputs(4, 7).requires_grad_()
    loss_of(layer(x)).backward()
    plain, z = watched(layout), inputs(4, 7).requires_grad_()
    plain.watch = None
    loss_of(plain(z)).backward()
    assert torch.equal(layer(x), plain(z))
    assert torch.equal(x.grad, z.grad)
    for ours, theirs in zip(layer.parameters(), plain.parameters()):
        assert torch.equal(ours.grad, theirs.grad)


def test_bfloat16_is_summed_in_float32():
    # 1 + 2^-9 + 2^-9 + ... is 1 in bfloat16, which has 8 bits
    layer = watched("masked", torch.bfloat16, bias=False)
    for size in (1.0, *[2.0**-9] * 256):
        x = torch.full((1, 7), size, dtype=torch.bfloat16)
        layer(x).sum().backward()
    assert layer.watch.total.dtype == torch.float32
    assert layer.watch.total.tolist() == [[1.5] * 7] * 5


def test_under_autocast():
    layer, x = watched("masked"), inputs(4, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert layer.watch.total.dtype == torch.float32
    torch.testing.assert_close(layer.watch.total, x.sum(0).expand(5, 7))


@layouts
def test_micro_batches_add_up(layout):
    layer, batches = watched(layout), [inputs(4, 7, seed=i) for i in range(3)]
    for x in batches:
        loss_of(layer(x)).backward()
    torch.testing.assert_close(layer.watch.total, dense_gradient(layer, *batches))


@layouts
def test_a_layer_that_is_called_twice(layout):
    layer, batches = watched(layout), [inputs(4, 7, seed=i) for i in range(2)]
    sum(loss_of(layer(x)) for x in batches).backward()
    torch.testing.assert_close(layer.watch.total, dense_gradient(layer, *batches))


@layouts
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_counts_once(use_reentrant, layout):
    layer, x = watched(layout), inputs(4, 7).requires_grad_()
    y = checkpoint(lambda x: layer(x).tanh(), x, use_reentrant=use_reentrant)
    loss_of(y).backward()
    weight = layer.to_dense().requires_grad_()
    loss_of(F.linear(inputs(4, 7), weight, layer.bias).tanh()).backward()
    torch.testing.assert_close(layer.watch.total, weight.grad)


@layouts
def test_forward_passes_without_backward_are_ignored(layout):
    layer, x = watched(layout), inputs(4, 7)
    with torch.no_grad():
        layer(x)
    with torch.inference_mode():
        layer(x)
    layer(x)
    assert layer.watch.total is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_sees_what_a_compiled_model_does(backend):
    torch._dynamo.reset()
    model = nn.Sequential(
        dst.SparseLinear(7, 5, density=0.5, layout="masked"),
        nn.ReLU(),
        dst.SparseLinear(5, 3, density=0.5, layout="masked"),
    )
    compiled, x = torch.compile(model, backend=backend), inputs(4, 7)
    loss_of(compiled(x)).backward()  # before anyone watches
    for layer in (model[0], model[2]):
        layer.watch = DenseGradient()
    for _ in range(2):
        loss_of(compiled(x)).backward()
    found = [layer.watch.total for layer in (model[0], model[2])]
    for layer in (model[0], model[2]):
        layer.watch = None
    loss_of(compiled(x)).backward()  # nor does anyone now
    weights = [layer.to_dense().requires_grad_() for layer in (model[0], model[2])]
    hidden = F.linear(x, weights[0], model[0].bias).relu()
    loss_of(F.linear(hidden, weights[1], model[2].bias)).backward()
    for total, weight in zip(found, weights):
        torch.testing.assert_close(total, 2 * weight.grad)
    torch._dynamo.reset()


@layouts
def test_an_input_that_is_changed_in_place_is_an_error(layout):
    layer, x = watched(layout), inputs(4, 7)
    y = layer(x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss_of(y).backward()


@layouts
@pytest.mark.parametrize("method", ["rigl", "granet"])
def test_an_evolver_watches_the_steps_of_updates_only(method, layout):
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 2))
    dst.sparsify(model, 0.3, exclude="2", layout=layout, method=method)
    layer, optimizer = model[0], torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = dst.Evolver(model, optimizer, method, every=3, total_steps=12)  # up to step 9
    gone = []
    for step in range(1, 13):
        assert (layer.watch is not None) == (step in (3, 6, 9))
        optimizer.zero_grad()
        loss_of(model(inputs(4, 7, seed=step))).backward()
        if step in (3, 6, 9):
            assert layer.watch.total.shape == (6, 7)
            gone.append(weakref.ref(layer.watch.total))
        optimizer.step()
        evolver.step()
    assert len(gone) == 3
    gc.collect()
    assert [matrix() for matrix in gone] == [None] * 3


def test_methods_without_a_dense_score_never_watch():
    model = nn.Sequential(dst.SparseLinear(7, 6, density=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = dst.Evolver(model, optimizer, "set", every=1, total_steps=5)
    for _ in range(5):
        assert model[0].watch is None
        evolver.step()


def test_a_loss_that_is_still_held_keeps_no_dense_matrix():
    model = nn.Sequential(dst.SparseLinear(7, 6, density=0.3, layout="csr"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = dst.Evolver(model, optimizer, "rigl", every=1, total_steps=8)
    loss = loss_of(model(inputs(4, 7)))
    loss.backward()
    matrix = weakref.ref(model[0].watch.total)
    optimizer.step()
    evolver.step()
    gc.collect()
    assert loss.requires_grad
    assert matrix() is None


@layouts
def test_a_layer_that_no_backward_pass_reached_grows_at_random(layout):
    model = nn.ModuleList(dst.SparseLinear(7, 6, density=0.3, layout=layout) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"every": 1, "total_steps": 8, "couplings": ()}
    evolver = dst.Evolver(model, optimizer, "rigl", **options)
    loss_of(model[0](inputs(4, 7))).backward()
    optimizer.step()
    update = evolver.step()
    assert [update.layers[n].grown for n in "01"] == [update.layers["0"].removed] * 2 != [0, 0]


def test_a_step_that_is_skipped_leaves_nothing_behind():
    model, optimizer, evolver = rigl_run()
    (
        model(torch.ones(2, 6)).sum() * math.inf
    ).backward()  # overflow: the optimizer's step is left out
    evolver.skip()
    optimizer.zero_grad()
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert evolver.step().step == 1


def test_copies_are_not_watched_nor_what_is_closed():
    model, _, evolver = rigl_run()
    assert model[0].watch is not None
    assert copy.deepcopy(model)[0].watch is None
    assert "watch" not in vars(pickle.loads(pickle.dumps(model))[0])
    evolver.close()
    assert model[0].watch is None


def test_gradients_of_gradients_are_not_kept():
    model, _, evolver = rigl_run()
    loss = model(torch.ones(2, 6)).square().sum()
    torch.autograd.grad(loss, model[2].bias, create_graph=True)
    torch.autograd.grad(loss, model[0].bias, create_graph=True)
    assert not evolver._gradients["0"].total.requires_grad


def rigl_run():
    """A masked model whose first step is followed by an update of RigL."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    dst.sparsify(model, 0.4, layout="masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, dst.Evolver(model, optimizer, "rigl", every=1, total_steps=12)


def test_a_backward_pass_inside_of_autocast_adds_up_in_float32():
    layer = watched("masked")
    with torch.autocast("cpu", torch.bfloat16):
        layer(inputs(9, 7)).float().sum().backward()
    assert layer.watch.total.dtype == torch.float32
