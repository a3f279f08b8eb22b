import contextlib
import copy
import gc
import itertools
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dst
import topo

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = [
    ("csr", torch.float32),
    ("csr", torch.float64),
    ("masked", torch.float32),
    ("masked", torch.float64),
    ("masked", torch.bfloat16),
]
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])

OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Adagrad": {"lr_decay": 0.1},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Rprop": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "ASGD": {"t0": 0},
}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")  # on the CPU
VARIANTS = {
    f"{name}{suffix}": partial(getattr(torch.optim, name), lr=0.05, **OPTIMIZERS[name], **how)
    for suffix, how, names in (
        ("", {"foreach": False}, OPTIMIZERS),
        ("-foreach", {"foreach": True}, OPTIMIZERS),
        ("-fused", {"fused": True}, FUSED),
    )
    for name in names
}
N_OUT, N_IN = 6, 9
TOPOLOGIES = [
    topo.erdos_renyi(N_OUT, N_IN, d, seed=s) for s, d in enumerate((0.4, 0.4, 0.7, 0.2, 0.5, 1.0))
]


def make(layout="csr", dtype=torch.float64, at=0, **options):
    layer = dst.SparseLinear(N_IN, N_OUT, topology=TOPOLOGIES[at], layout=layout, **options)
    return nn.Sequential(layer).to(dtype)


def scatter(layer, tensor):
    """A tensor of the parameter's shape as a dense matrix."""
    if layer.layout == "masked":
        return tensor.detach().clone()
    dense = tensor.new_zeros(layer.out_features, layer.in_features)
    dense[mask_of(layer.adjacency)] = tensor.detach()
    return dense


def mask_of(adjacency):
    return torch.from_numpy(adjacency.toarray())


def state_of(optimizer, parameter):
    """The state tensors of the parameter's shape."""
    state = optimizer.state[parameter]
    return {k: v for k, v in state.items() if torch.is_tensor(v) and v.shape == parameter.shape}


# by hand


@layouts
def test_more_links_by_hand(layout):
    layer = dst.SparseLinear(2, 2, topology=[[1, 1], [0, 0]], bias=False, layout=layout)
    model, parameter = nn.Sequential(layer), layer.parameter
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    mask = layer.adjacency.toarray()
    with torch.no_grad():
        layer.parameter[mask if layout == "masked" else ...] = torch.tensor([1.0, 2.0])
    layer(torch.tensor([[3.0, 4.0]])).sum().backward()  # gradient 3, 4
    optimizer.step()  # weights -2, -2; momentum 3, 4
    dst.rewire(model, {"0": [[0, 1], [1, 1]]}, optimizer)
    assert layer.parameter is parameter is optimizer.param_groups[0]["params"][0]
    assert layer.to_dense().tolist() == [[0.0, -2.0], [0.0, 0.0]]
    assert scatter(layer, parameter.grad).tolist() == [[0.0, 4.0], [0.0, 0.0]]
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert scatter(layer, buffer).tolist() == [[0.0, 4.0], [0.0, 0.0]]
    optimizer.zero_grad()
    x = torch.tensor([[10.0, 1.0]], requires_grad=True)
    out = layer(x)
    assert out.tolist() == [[-2.0, 0.0]]  # forward and backward both use the new links
    out.sum().backward()
    assert x.grad.tolist() == [[0.0, -2.0]]
    optimizer.step()  # momentum 0.5 * 4 + 1 on the old link; 10 and 1 on the new ones
    assert layer.to_dense().tolist() == [[0.0, -5.0], [-10.0, -1.0]]


@layouts
def test_fewer_links_by_hand(layout):
    layer = dst.SparseLinear(3, 1, topology=[[1, 1, 1]], bias=False, layout=layout)
    model, parameter = nn.Sequential(layer), layer.parameter
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    with torch.no_grad():
        parameter.view(-1).copy_(torch.tensor([1.0, 2.0, 3.0]))
    layer(torch.tensor([[4.0, 5.0, 6.0]])).sum().backward()
    optimizer.step()
    dst.rewire(model, {"0": [[0, 1, 0]]}, optimizer)
    assert layer.links == 1
    assert layer.to_dense().tolist() == [[0.0, -3.0, 0.0]]
    assert scatter(layer, parameter.grad).tolist() == [[0.0, 5.0, 0.0]]
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert scatter(layer, buffer).tolist() == [[0.0, 5.0, 0.0]]
    # a link that went and comes back is new
    dst.rewire(model, {"0": [[1, 1, 0]]}, optimizer)
    assert layer.to_dense().tolist() == [[0.0, -3.0, 0.0]]
    buffer = optimizer.state[parameter]["momentum_buffer"]
    assert scatter(layer, buffer).tolist() == [[0.0, 5.0, 0.0]]


# every optimizer


@pytest.mark.parametrize(
    ("layout", "dtype", "variant"),
    [(layout, torch.float64, v) for layout in ("csr", "masked") for v in VARIANTS]
    + [(*kind, "AdamW-foreach") for kind in LAYOUTS if kind[1] != torch.float64],
)
def test_training_equals_a_dense_layer_that_is_masked(layout, dtype, variant):
    """Weights, gradients and every moment, over topologies with more and fewer links."""
    model = make(layout, dtype, bias=False)
    layer, parameter = model[0], model[0].parameter
    optimizer = VARIANTS[variant](model.parameters())
    dense = nn.Parameter(layer.to_dense())
    reference = VARIANTS[variant]([dense])
    generator = torch.Generator().manual_seed(0)
    tolerance = {"rtol": 0.03, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    for old, new in itertools.pairwise(TOPOLOGIES):
        for _ in range(2):
            x = torch.randn(5, N_IN, generator=generator).to(dtype)
            for opt, out in (
                (optimizer, model(x)),
                (reference, x @ (dense * mask_of(old)).t()),
            ):
                opt.zero_grad()
                out.square().sum().backward()
                opt.step()
        dst.rewire(model, {"0": new}, optimizer)
        with torch.no_grad():
            both = mask_of(old) & mask_of(new)
            for tensor in (dense, dense.grad, *state_of(reference, dense).values()):
                tensor.mul_(both)
        assert layer.parameter is parameter
        assert (layer.adjacency != new).nnz == 0
        torch.testing.assert_close(layer.to_dense(), dense.detach(), **tolerance)
        torch.testing.assert_close(scatter(layer, parameter.grad), dense.grad, **tolerance)
        state, expected = state_of(optimizer, parameter), state_of(reference, dense)
        assert state.keys() == expected.keys()
        for key, tensor in state.items():
            moved = scatter(layer, tensor)
            assert not moved[~both].any()
            torch.testing.assert_close(moved, expected[key], **tolerance)
        for key, value in reference.state[dense].items():
            if key not in expected:  # counters, learning rates
                assert optimizer.state[parameter][key] == value


@layouts
def test_nothing_is_replaced_while_the_number_of_links_stays(layout):
    # CUDA graphs and fused optimizers hold the memory
    model = make(layout)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, N_IN, dtype=torch.float64)).sum().backward()
    optimizer.step()

    def tensors():
        parameter = model[0].parameter
        return [parameter, parameter.grad, *state_of(optimizer, parameter).values()]

    before = [(id(t), t.data_ptr()) for t in tensors()]
    dst.rewire(model, {"0": TOPOLOGIES[1]}, optimizer)
    assert [(id(t), t.data_ptr()) for t in tensors()] == before


@layouts
def test_an_optimizer_of_ones_own(layout):
    """Any state tensor of the parameter's shape moves, also in a dict; the rest is left alone."""

    class Own(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter] = {
                    "low": torch.ones_like(parameter, dtype=torch.bfloat16),
                    "nested": {"moment": torch.ones_like(parameter), "n": 3},
                    "scalar": torch.tensor(5.0),
                    "flat": torch.ones(N_OUT),
                    "words": "as they were",
                }

    model = make(layout, bias=False)
    optimizer = Own(model.parameters())
    optimizer.step()
    dst.rewire(model, {"0": TOPOLOGIES[2]}, optimizer)
    state = optimizer.state[model[0].parameter]
    both = mask_of(TOPOLOGIES[0]) & mask_of(TOPOLOGIES[2])
    assert state["low"].dtype == torch.bfloat16
    for tensor in (state["low"], state["nested"]["moment"]):
        assert torch.equal(scatter(model[0], tensor) != 0, both)
    assert (state["nested"]["n"], state["scalar"], state["words"]) == (3, 5.0, "as they were")
    assert state["flat"].tolist() == [1.0] * N_OUT


def test_optimizers_that_move_weights_off_the_links_of_the_masked_layout():
    # Muon orthogonalises the whole matrix; the links alone have an effect
    model = make("masked", bias=False)
    layer = model[0]
    optimizer = torch.optim.Muon(model.parameters(), lr=0.1)
    x = torch.randn(4, N_IN, dtype=torch.float64)
    for new in (TOPOLOGIES[2], TOPOLOGIES[5]):
        model(x).sum().backward()
        optimizer.step()
        torch.testing.assert_close(model(x), x @ (layer.weight * layer.mask).t())
        torch.testing.assert_close(layer.to_dense(), (layer.weight * layer.mask).detach())
        old = mask_of(layer.adjacency)
        dst.rewire(model, {"0": new}, optimizer)
        assert not layer.weight[~old].any()  # a new link starts at 0 all the same


@layouts
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_links_that_are_not_finite_can_be_removed(layout, bad):
    model = make(layout, at=5, bias=False)  # every link there is
    layer = model[0]
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, N_IN, dtype=torch.float64)).sum().backward()
    optimizer.step()

    def tensors():
        return layer.parameter, layer.parameter.grad, *state_of(optimizer, layer.parameter).values()

    with torch.no_grad():
        for tensor in tensors():
            tensor.view(-1)[3] = bad
    keep = np.ones((N_OUT, N_IN))
    keep[0, 3] = 0
    dst.rewire(model, {"0": keep}, optimizer)
    dst.rewire(model, {"0": TOPOLOGIES[5]}, optimizer)
    for tensor in tensors():
        assert torch.isfinite(tensor).all()
        assert scatter(layer, tensor)[0, 3] == 0


# what a loop holds


def hold_nothing(kept, loss, out):
    pass


def hold_losses(kept, loss, out):
    kept.append(loss)


def hold_outputs(kept, loss, out):
    kept.append((loss, out))


def hold_detached(kept, loss, out):
    kept.append((loss.item(), out.detach()))


def hold_views(kept, loss, out):
    kept.append((out[:2], out.t()))


@layouts
@pytest.mark.parametrize(
    "hold", [hold_nothing, hold_losses, hold_outputs, hold_detached, hold_views]
)
def test_a_loop_that_holds_on_to_what_it_computed(layout, hold):
    """As a freshly built layer with the same links and weights has, so are its gradients."""
    model = make(layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    parameter, kept = model[0].parameter, []
    x = torch.randn(4, N_IN, dtype=torch.float64)
    for at, new in enumerate(TOPOLOGIES[1:], 1):
        out = model(x)
        loss = out.square().sum()
        hold(kept, loss, out)
        optimizer.zero_grad()
        loss.backward()
        if hold is hold_nothing:
            del loss, out
        optimizer.step()
        dst.rewire(model, {"0": new}, optimizer)
        assert model[0].parameter is parameter is optimizer.param_groups[0]["params"][0]
        assert parameter.is_leaf
        fresh = make(layout, at=at)
        fresh.load_state_dict(model.state_dict())
        optimizer.zero_grad()
        for m in (model, fresh):
            m(x).square().sum().backward()
        assert parameter.grad.shape == parameter.shape
        for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)


@layouts
@pytest.mark.parametrize("what", ["output", "evaluation", "graph"])
def test_a_loop_that_holds_a_graph_without_a_backward_pass(layout, what):
    model = make(layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, N_IN, dtype=torch.float64)
    kept = model(x)  # logged, or of an evaluation without no_grad
    if what == "evaluation":
        model.eval()
        kept = kept.softmax(1)
    if what == "graph":
        kept.sum().backward(retain_graph=True)
    dst.rewire(model, {"0": TOPOLOGIES[2]}, optimizer)
    model.zero_grad()
    model(x).sum().backward()
    assert model[0].parameter.grad.shape == model[0].parameter.shape
    assert kept.shape == (4, N_OUT)
    # a pass back over links that are gone is refused, or lands nowhere
    grad = model[0].parameter.grad.clone()
    with contextlib.suppress(RuntimeError):
        kept.sum().backward()
    assert torch.equal(model[0].parameter.grad, grad)


@layouts
def test_what_is_attached_to_the_parameter_stays(layout):
    model = make(layout)
    parameter, seen = model[0].parameter, []
    parameter.no_decay, parameter.tag = True, "mine"
    parameter.register_hook(lambda grad: seen.append("hook") or 2 * grad)
    parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p is parameter))
    groups = [{"params": [parameter], "weight_decay": 0.5}, {"params": [model[0].bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    x = torch.randn(4, N_IN, dtype=torch.float64)
    for at in (2, 3):
        seen.clear()
        dst.rewire(model, {"0": TOPOLOGIES[at]}, optimizer)
        optimizer.zero_grad()
        model(x).sum().backward()
        assert seen == ["hook", True]
        fresh = make(layout, at=at)
        fresh(x).sum().backward()
        torch.testing.assert_close(parameter.grad, 2 * fresh[0].parameter.grad)
        assert (parameter.no_decay, parameter.tag) == (True, "mine")
        assert optimizer.param_groups[0]["params"] == [parameter]
        assert optimizer.param_groups[0]["weight_decay"] == 0.5
        assert isinstance(parameter, nn.Parameter)
        assert dict(model.named_parameters())[f"0.{'values' if layout == 'csr' else 'weight'}"] is (
            parameter
        )


@layouts
def test_a_frozen_layer_without_gradient_or_state(layout):
    model = make(layout)
    model[0].parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    dst.rewire(model, {"0": TOPOLOGIES[2]}, optimizer)
    assert not model[0].parameter.requires_grad
    assert model[0].parameter.grad is None
    assert model[0].parameter not in optimizer.state  # a defaultdict that was not asked
    dst.rewire(model, {"0": TOPOLOGIES[3]})
    assert model[0].links == TOPOLOGIES[3].nnz


@layouts
@pytest.mark.parametrize("new", [1, 2, 3])
def test_gradients_accumulate_across_a_change_of_links(layout, new):
    model, (first, second) = make(layout), torch.randn(2, 4, N_IN, dtype=torch.float64)
    model(first).square().sum().backward()
    grad = scatter(model[0], model[0].parameter.grad)
    dst.rewire(model, {"0": TOPOLOGIES[new]})
    moved = model[0].parameter.grad
    both = mask_of(TOPOLOGIES[0]) & mask_of(TOPOLOGIES[new])
    assert torch.equal(scatter(model[0], moved), grad * both)
    alone = copy.deepcopy(model)
    alone.zero_grad()
    for m in (model, alone):
        m(second).square().sum().backward()
    expected = grad * both + scatter(model[0], alone[0].parameter.grad)
    torch.testing.assert_close(scatter(model[0], model[0].parameter.grad), expected)


# followers


@layouts
@pytest.mark.parametrize("average", ["multi", "buffers", "single", "plain"])
def test_an_average_never_mixes_different_links(layout, average):
    """Against an average of dense matrices, link by link."""
    functions = {
        "multi": {"multi_avg_fn": get_ema_multi_avg_fn(0.8)},
        "buffers": {"multi_avg_fn": get_ema_multi_avg_fn(0.8), "use_buffers": True},
        "single": {"avg_fn": lambda ema, p, n: 0.8 * ema + 0.2 * p},
        "plain": {},  # the mean of all
    }
    model = make(layout)
    ema = AveragedModel(model, **functions[average])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    expected, updates = model[0].to_dense(), 0
    for new in (*TOPOLOGIES[1:], *TOPOLOGIES[:2]):
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, N_IN, dtype=torch.float64)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ema.update_parameters(model)
            share = (0.2 if average != "plain" else 1 / (updates + 1)) if updates else 1.0
            expected = (1 - share) * expected + share * model[0].to_dense()
            updates += 1
        both = mask_of(model[0].adjacency) & mask_of(new)
        dst.rewire(model, {"0": new}, optimizer, followers=[ema])
        expected = expected * both
        twin = ema.module[0]
        assert (twin.adjacency != new).nnz == 0
        assert twin.parameter is not model[0].parameter
        torch.testing.assert_close(twin.to_dense(), expected)
        x = torch.randn(3, N_IN, dtype=torch.float64)
        torch.testing.assert_close(ema(x), x @ expected.t() + twin.bias)


def test_an_average_that_was_left_behind_cannot_follow_a_changed_count():
    model = make("csr")
    ema = AveragedModel(model)
    ema.update_parameters(model)
    dst.rewire(model, {"0": TOPOLOGIES[2]})
    with pytest.raises(RuntimeError, match="size"):
        ema.update_parameters(model)
    with pytest.raises(ValueError, match="must be a copy of the model"):
        dst.rewire(model, {"0": TOPOLOGIES[3]}, followers=[ema])
    assert model[0].links == TOPOLOGIES[2].nnz


# refusals


@layouts
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0": np.ones((2, 2))}, r"layer '0': the topology has shape \(2, 2\), the layer \(6, 9\)"),
        ({"0": np.ones((N_IN, N_OUT))}, r"the topology has shape \(9, 6\)"),
        ({"0": np.full((N_OUT, N_IN), 2)}, "0 and 1"),
        ({"0": TOPOLOGIES[2], "1": TOPOLOGIES[2]}, "unknown sparse layer '1'"),
        ({"0": TOPOLOGIES[2], "module.0": TOPOLOGIES[2]}, "unknown sparse layer"),
    ],
)
def test_what_is_refused_changes_nothing(layout, change, message):
    model = make(layout)
    ema = AveragedModel(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        dst.rewire(model, change, followers=[ema])
    for m in (model, ema.module):
        state = m.state_dict()
        assert all(torch.equal(state[key], before[key]) for key in before)
    with pytest.raises(ValueError, match=r"shape \(9, 6\), the layer \(6, 9\)"):
        model[0].rewire(topo.as_adjacency(np.ones((N_IN, N_OUT))))


@layouts
def test_followers_must_be_copies(layout):
    model = make(layout)
    mirrored = make(layout)  # as many links in each row, others
    mirrored[0].rewire(topo.as_adjacency(TOPOLOGIES[0].toarray()[:, ::-1]))
    renamed = nn.Sequential(nn.ReLU(), make(layout)[0])
    for follower in (nn.Linear(2, 2), make(layout, at=1), mirrored, renamed):
        with pytest.raises(ValueError, match="must be a copy of the model"):
            dst.rewire(model, {"0": TOPOLOGIES[2]}, followers=[follower])
    assert model[0].links == TOPOLOGIES[0].nnz
    dst.rewire(nn.DataParallel(model), {"0": TOPOLOGIES[2]})  # names are those inside wrappers
    assert model[0].links == TOPOLOGIES[2].nnz


def test_what_cannot_be_resized_is_found_before_anything_changes():
    model = nn.Sequential(*(dst.SparseLinear(6, 6, density=0.3, layout="csr") for _ in range(2)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    watched = weakref.ref(model[1].values)
    more = {name: topo.erdos_renyi(6, 6, 0.6, seed=0) for name in "01"}
    with pytest.raises(ValueError, match="layer '1': its values cannot get another length while"):
        dst.rewire(model, more, optimizer)
    assert str(before) == str((model.state_dict(), optimizer.state_dict()))
    assert watched() is model[1].values
    del watched
    dst.rewire(model, more, optimizer)
    assert [layer.links for layer in model] == [22, 22]


@layouts
def test_a_layer_may_lose_all_its_links_and_get_others(layout):
    model = make(layout)
    dst.rewire(model, {"0": np.zeros((N_OUT, N_IN))})
    assert model[0].links == 0
    x = torch.randn(2, N_IN, dtype=torch.float64)
    torch.testing.assert_close(model[0](x), model[0].bias.expand(2, N_OUT))
    dst.rewire(model, {"0": TOPOLOGIES[2]})
    assert model[0].links == TOPOLOGIES[2].nnz
    assert not model[0].link_values().any()
    assert dst.SparseLinear(3, 2, topology=np.zeros((2, 3)), layout=layout).links == 0


@pytest.fixture
def group(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    gc.collect()  # a wrapper that outlives its group may hang
    torch.distributed.destroy_process_group()


@layouts
def test_distributed_data_parallel(layout, group):
    model = make(layout)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, N_IN, dtype=torch.float64)
    parallel = nn.parallel.DistributedDataParallel(model)
    same = topo.erdos_renyi(N_OUT, N_IN, model[0].density, seed=9)
    for topology in (same, topo.erdos_renyi(N_OUT, N_IN, 0.9, seed=9)):
        for m in (parallel, reference):
            m.zero_grad()
            m(x).square().sum().backward()
        torch.testing.assert_close(model[0].parameter.grad, reference[0].parameter.grad)
        if layout == "csr" and topology is not same:
            with pytest.raises(ValueError, match="a DDP wrapper"):
                dst.rewire(parallel, {"0": topology}, optimizer)
            del parallel, m
            gc.collect()
            dst.rewire(model, {"0": topology}, optimizer)
            parallel = nn.parallel.DistributedDataParallel(model)
        else:
            dst.rewire(parallel, {"0": topology}, optimizer)
        dst.rewire(reference, {"0": topology})
    parallel(x).sum().backward()
    assert model[0].parameter.grad.shape == model[0].parameter.shape
