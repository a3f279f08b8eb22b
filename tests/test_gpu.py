"""The GPU runs the same functions that the CPU tests check; here the two are compared."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def model():
    torch.manual_seed(0)
    m = nn.Sequential(
        nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    return dst.sparsify(m.double(), 0.1, method="chts", exclude="4")


def test_forward_and_gradients_equal_those_on_the_cpu():
    cpu = model()
    gpu = copy.deepcopy(cpu).cuda()
    x = torch.randn(32, 96, dtype=torch.float64)
    expected, out = cpu(x), gpu(x.cuda())
    torch.testing.assert_close(out.cpu(), expected)
    expected.square().sum().backward()
    out.square().sum().backward()
    for a, b in zip(cpu.parameters(), gpu.parameters(), strict=True):
        torch.testing.assert_close(b.grad.cpu(), a.grad)


@pytest.mark.parametrize("method", ["set", "chts"])
def test_training_evolves_the_same_topology_as_on_the_cpu(method):
    torch.manual_seed(1)
    x, y = torch.randn(64, 96, dtype=torch.float64), torch.randint(4, (64,))
    networks = []
    for device in ("cpu", "cuda"):
        m = model().to(device)
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
    layer = dst.SparseLinear(8192, 8192, density=0.01).cuda()
    x = torch.randn(16, 8192, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    layer(x).sum().backward()
    dense = 8192 * 8192 * 4
    assert torch.cuda.max_memory_allocated() - base < 0.1 * dense
