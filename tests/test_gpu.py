"""The GPU runs the same functions that the CPU tests check; here the two are compared."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dst
import topo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
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
OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "Adam": {},
    "AdamW-fused": {"fused": True},
    "AdamW-capturable": {"capturable": True},
    "Adagrad": {},
    "RMSprop-foreach": {"foreach": True, "momentum": 0.5},
    "Rprop": {},
    "NAdam": {},
}
TOPOLOGIES = [
    topo.erdos_renyi(128, 96, d, seed=s) for s, d in enumerate((0.1, 0.1, 0.2, 0.05, 0.1))
]


def model(layout="csr", dtype=torch.float64):
    torch.manual_seed(0)
    m = nn.Sequential(
        nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    return dst.sparsify(m.to(dtype), 0.1, method="chts", exclude="4", layout=layout)


def close(actual, expected, dtype):
    """Products on a GPU add in another order."""
    tolerance = {
        torch.float64: (1e-9, 1e-9),
        torch.float32: (1e-3, 1e-4),
        torch.bfloat16: (5e-2, 5e-2),
    }[dtype]
    rtol, atol = tolerance
    torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=atol)


@kinds
@pytest.mark.parametrize("lead", [(), (1,), (0,), (32,), (2, 3, 4)])
def test_forward_and_gradients_equal_those_on_the_cpu(layout, dtype, lead):
    cpu = model(layout, dtype)
    gpu = copy.deepcopy(cpu).cuda()
    x = torch.randn(*lead, 96, dtype=dtype, requires_grad=True)
    x2 = x.detach().cuda().requires_grad_()
    expected, out = cpu(x), gpu(x2)
    assert out.device.type == gpu[0].parameter.device.type == "cuda"
    close(out, expected, dtype)
    expected.square().sum().backward()
    out.square().sum().backward()
    close(x2.grad, x.grad, dtype)
    for a, b in zip(cpu.parameters(), gpu.parameters(), strict=True):
        close(b.grad, a.grad, dtype)
    if layout == "masked":
        assert not gpu[0].weight.grad[~gpu[0].mask].any()


@layouts
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(layout, bias):
    layer = dst.SparseLinear(4, 3, density=0.5, layout=layout, bias=bias).double().cuda()
    x = torch.randn(3, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    # sums of atomic additions may differ in the last bit
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), nondet_tol=1e-12)


@layouts
def test_links_live_where_the_parameters_do_and_the_adjacency_comes_back(layout):
    m = model(layout)
    before = dst.network(m)
    held = list(m.parameters())
    m.cuda()
    assert all(p is q for p, q in zip(m.parameters(), held, strict=True))
    assert dst.network(m) == before
    state = m.state_dict()
    assert all(t.device.type == "cuda" for t in state.values())
    m.cpu()
    assert dst.network(m) == before
    cpu = model(layout)
    for tensors in (state, {k: v.cpu() for k, v in state.items()}):  # across devices
        cpu.load_state_dict(tensors)
        assert dst.network(cpu) == before


@layouts
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_changed_number_of_links_keeps_the_parameter_and_moves_the_moments(layout, optimizer):
    m = model(layout).cuda()
    layer, held = m[0], list(m.parameters())
    kind = getattr(torch.optim, optimizer.split("-")[0])
    opt = kind(m.parameters(), lr=0.01, **OPTIMIZERS[optimizer])
    x = torch.randn(16, 96, dtype=torch.float64, device="cuda")
    dst.rewire(m, {"0": TOPOLOGIES[0]}, opt)

    def dense():
        tensors = {"weight": layer.parameter, "grad": layer.parameter.grad}
        out = {}
        for key, t in {**tensors, **opt.state[layer.parameter]}.items():
            if torch.is_tensor(t) and t.shape == layer.parameter.shape:
                assert t.device.type == "cuda"
                out[key] = t.detach().new_zeros(128, 96)
                mask = torch.from_numpy(layer.adjacency.toarray()).cuda()
                out[key][mask] = t.detach() if layout == "csr" else t.detach()[mask]
        return out

    kept = []
    for old, new in itertools.pairwise(TOPOLOGIES):
        out = m(x)
        loss = out.square().sum()
        kept.append((loss, out))
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        before = dense()
        dst.rewire(m, {"0": new}, opt)
        assert all(p is q for p, q in zip(m.parameters(), held, strict=True))
        both = torch.from_numpy(old.toarray() & new.toarray()).cuda()
        after = dense()
        assert after.keys() == before.keys() > {"weight", "grad"}
        for key, tensor in before.items():
            assert torch.equal(after[key], tensor * both)
        fresh = copy.deepcopy(m)
        opt.zero_grad()
        fresh.zero_grad()
        m(x).sum().backward()
        fresh(x).sum().backward()
        for a, b in zip(m.parameters(), fresh.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


@layouts
def test_an_average_never_mixes_different_links(layout):
    m = model(layout).cuda()
    dst.rewire(m, {"0": TOPOLOGIES[0]})
    ema = AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9)
    expected = m[0].to_dense()
    for step, new in enumerate(TOPOLOGIES[1:]):
        optimizer.zero_grad()
        m(torch.randn(16, 96, dtype=torch.float64, device="cuda")).square().sum().backward()
        optimizer.step()
        ema.update_parameters(m)
        share = 0.2 if step else 1.0
        expected = (1 - share) * expected + share * m[0].to_dense()
        both = torch.from_numpy(m[0].adjacency.toarray() & new.toarray()).cuda()
        dst.rewire(m, {"0": new}, optimizer, followers=[ema])
        expected = expected * both
        torch.testing.assert_close(ema.module[0].to_dense(), expected)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@layouts
def test_autocast_and_scaler(layout, half):
    m = model(layout, torch.float32).cuda()
    optimizer = torch.optim.AdamW(m.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cuda", enabled=half == torch.float16)
    x, y = torch.randn(64, 96, device="cuda"), torch.randint(4, (64,), device="cuda")
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=half):
            assert m[0](x).dtype == (torch.float32 if layout == "csr" else half)
            loss = F.cross_entropy(m(x), y)
        scaler.scale(loss).backward()
        assert m[0].parameter.grad.dtype == torch.float32
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        if step in (5, 10):
            dst.rewire(m, {"0": TOPOLOGIES[step // 5 + 1]}, optimizer)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@kinds
def test_compiled_without_graph_breaks(layout, dtype, backend):
    torch._dynamo.reset()
    m = model(layout, dtype).cuda()
    twin = copy.deepcopy(m)
    compiled = torch.compile(m, backend=backend, fullgraph=True)
    for new in TOPOLOGIES[1:4]:
        x = torch.randn(16, 96, dtype=dtype, device="cuda")
        out, expected = compiled(x), twin(x)
        close(out, expected.cpu(), dtype)
        out.square().sum().backward()
        expected.square().sum().backward()
        for a, b in zip(m.parameters(), twin.parameters(), strict=True):
            close(a.grad, b.grad.cpu(), dtype)
        for each in (m, twin):  # compiled code follows a new topology
            each.zero_grad()
            dst.rewire(each, {"0": new})


@layouts
@pytest.mark.parametrize("method", dst.METHODS)
def test_training_evolves_the_same_topology_as_on_the_cpu(method, layout):
    torch.manual_seed(1)
    x, y = torch.randn(64, 96, dtype=torch.float64), torch.randint(4, (64,))
    networks = []
    for device in ("cpu", "cuda"):
        m = model(layout).to(device)
        optimizer = torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)
        evolver = dst.Evolver(m, optimizer, method, every=5, total_steps=40)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(m(x.to(device)), y.to(device)).backward()
            optimizer.step()
            evolver.step()
        networks.append(dst.network(m))
    # soft removal turns on rounding only where two keys agree to rounding
    assert networks[0] == networks[1]


def test_the_layer_holds_no_dense_weight():
    layer = dst.SparseLinear(8192, 8192, density=0.01, layout="csr").cuda()
    other = topo.erdos_renyi(8192, 8192, 0.012, seed=1)
    m = nn.Sequential(layer)
    optimizer = torch.optim.Adam(m.parameters())
    x = torch.randn(16, 8192, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    for _ in range(2):
        layer(x).sum().backward()
        optimizer.step()
        dst.rewire(m, {"0": other}, optimizer)
    dense = 8192 * 8192 * 4
    assert torch.cuda.max_memory_allocated() - base < 0.2 * dense


@layouts
def test_inputs_elsewhere_or_of_another_dtype_are_refused(layout):
    layer = dst.SparseLinear(7, 5, density=0.4, layout=layout).cuda()
    for x in (torch.ones(2, 7), torch.ones(2, 7, dtype=torch.float64, device="cuda")):
        with pytest.raises((RuntimeError, ValueError)):
            layer(x)
    on_cpu = dst.SparseLinear(7, 5, density=0.4, layout=layout)
    with pytest.raises((RuntimeError, ValueError)):
        on_cpu(torch.ones(2, 7, device="cuda"))


@layouts
def test_auto_is_masked_on_cuda(layout):
    linear = nn.Linear(7, 5, device="cuda")
    a = topo.erdos_renyi(5, 7, 0.1, seed=0)
    auto = dst.SparseLinear.from_linear(linear, a, np.ones(a.nnz))
    assert (auto.layout, auto.reason) == ("masked", "auto: dense kernels are faster on cuda")
    asked = dst.SparseLinear.from_linear(linear, a, np.ones(a.nnz), layout=layout)
    assert asked.layout == layout
    assert asked.parameter.device.type == "cuda"
    assert asked.to_dense().sum() == a.nnz
