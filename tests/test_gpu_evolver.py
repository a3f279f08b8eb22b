import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst
import topo
from dst.graph import sparse_layers

pytestmark = pytest.mark.usefixtures("one_thread")

# the CPU runs show that the tests are right
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def run(method, layout, device, dtype=torch.float32, steps=12):
    """A small run; the networks after each step, and what the updates reported."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 24), torch.randint(0, 4, (64,))
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 20), nn.ReLU())
    model.append(nn.Linear(20, 4))
    model = model.to(device, dtype)
    dst.sparsify(model, 0.2, method=method, exclude="4", layout=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    evolver = dst.Evolver(model, optimizer, method, every=2, total_steps=16)
    x, y = x.to(device, dtype), y.to(device)
    networks, updates = [dst.network(model)], []
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        update = evolver.step()
        if update is not None:
            networks.append(dst.network(model))
            updates.append(update)
    return model, networks, updates


@devices
@pytest.mark.parametrize("layout", ["csr", "masked"])
@pytest.mark.parametrize("method", dst.METHODS)
def test_a_method_on_a_device(method, layout, device):
    model, networks, updates = run(method, layout, device)
    assert [u.step for u in updates] == [2, 4, 6, 8, 10, 12]
    for before, after, update in zip(networks, networks[1:], updates):
        for name, layer in update.layers.items():
            new, old = after.layers[name], before.layers[name]
            lost = layer.thinned + layer.removed + layer.percolated
            assert new.nnz == layer.links == old.nnz - lost + layer.grown
            assert topo.as_adjacency(new) is new
    for layer in sparse_layers(model).values():
        assert layer.parameter.device.type == device
        assert layer.links == layer.final_links
        assert layer.link_values().isfinite().all()
        dense = layer.to_dense().cpu()
        assert not dense[torch.from_numpy(~layer.adjacency.toarray())].any()


@devices
@pytest.mark.parametrize("layout", ["csr", "masked"])
@pytest.mark.parametrize("method", dst.METHODS)
def test_a_device_grows_the_links_of_the_cpu(method, layout, device):
    # float64: what is left is the rounding of another order of sums
    _, networks, _ = run(method, layout, device, torch.float64)
    _, expected, _ = run(method, layout, "cpu", torch.float64)
    assert networks == expected


@devices
def test_a_resumed_run_goes_on_alike(device):
    model, _, _ = run("chtss", "csr", device, steps=5)
    again, _, _ = run("chtss", "csr", device, steps=1)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert dst.network(again) == dst.network(model)
    x = torch.ones(2, 24, device=device)
    assert torch.equal(again(x), model(x))
