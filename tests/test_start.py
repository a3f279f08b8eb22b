"""What layers start as: by `dst.sparsify`, or by the evolver where that was not asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo
from dst.graph import sparse_layers
from dst.start import bring_to_start

pytestmark = pytest.mark.usefixtures("one_thread")
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])

# topology, initial weights, density over the final one, and that of 0.2
STARTS = {
    "static": ("erdos_renyi", "keep", 0.2),
    "set": ("erdos_renyi", "keep", 0.2),
    "rigl": ("erdos_renyi", "keep", 0.2),
    "mest": ("erdos_renyi", "keep", 0.25),
    "cht": ("erdos_renyi", "swi", 0.2),
    "chts": ("small_world", "swi", 0.2),
    "chtss": ("small_world", "swi", 0.5),
    "gmp": ("erdos_renyi", "keep", 0.5),
    "granet": ("erdos_renyi", "keep", 0.5),
    "chts_gmp": ("small_world", "swi", 0.5),
}


def dense(n_in=20, n_out=30):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Linear(n_out, n_in))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9} | options)


def test_every_method_is_in_the_table():
    assert STARTS.keys() == dst.METHODS.keys()


@layouts
@pytest.mark.parametrize("name", STARTS)
def test_sparsify_applies_a_methods_start(name, layout):
    topology, init, density = STARTS[name]
    model, original = dense(), dense()
    dst.sparsify(model, 0.2, method=name, layout=layout, seed=4)
    for n, shape in (("0", (30, 20)), ("2", (20, 30))):
        layer = sparse_layers(model)[n]
        key = topo.stream(4, "topology", n)
        expected = topo.GENERATORS[topology](*shape, density, seed=key)
        assert (layer.adjacency != expected).nnz == 0
        assert (layer.links, layer.final_links) == (round(density * 600), 120)
        kept = original.get_submodule(n).weight * torch.from_numpy(expected.toarray())
        assert torch.equal(layer.to_dense(), kept) == (init == "keep")
        if init == "swi":
            std = float(layer.link_values().std())
            assert std == pytest.approx((2 / (density * shape[1])) ** 0.5, rel=0.2)
    # so there is nothing that an evolver would add
    before = [p.detach().clone() for p in model.parameters()]
    dst.Evolver(model, sgd(model), name, every=1, total_steps=20)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("name", ["cht", "chts", "chtss", "chts_gmp"])
def test_with_calibration_they_start_with_correlated_features(name):
    model, x = dense(), np.random.default_rng(0).normal(size=(50, 20))
    dst.sparsify(model, 0.2, method=name, calibration=x, exclude="2", seed=4)
    key = topo.stream(4, "topology", "0")
    expected = topo.correlated(x, 30, STARTS[name][2], n_in=20, seed=key)
    assert (model[0].adjacency != expected).nnz == 0


def test_what_is_asked_for_goes_before_the_start():
    model, original = dense(), dense()
    options = {"topology": "scale_free", "init": "keep"}
    dst.sparsify(model, 0.2, method="chtss", exclude="2", **options)
    expected = topo.scale_free(30, 20, 0.5, seed=topo.stream(0, "topology", "0"))
    assert (model[0].adjacency != expected).nnz == 0
    kept = original[0].weight * torch.from_numpy(expected.toarray())
    assert torch.equal(model[0].to_dense(), kept)


@pytest.mark.parametrize("density", [0.053, 0.05, 0.1234, 0.1032, 0.2, 0.3, 0.45, 0.6, 0.98])
@pytest.mark.parametrize("shape", [(14, 9), (13, 7), (11, 10)])
@pytest.mark.parametrize("name", ["mest", "gmp", "chtss"])
def test_sparsify_and_evolver_agree_on_the_start(name, shape, density):
    # whatever is rounded where
    model = nn.Sequential(nn.Linear(*shape))
    dst.sparsify(model, density, method=name)
    links = model[0].links
    evolver = dst.Evolver(model, sgd(model), name, every=1, total_steps=20)
    assert evolver.final["0"] == round(density * shape[0] * shape[1])
    assert model[0].links == links


# the evolver brings layers to the start


@layouts
@pytest.mark.parametrize("name", STARTS)
def test_an_evolver_brings_layers_to_the_start(name, layout):
    model = dst.sparsify(dense(), 0.2, layout=layout)
    optimizer = sgd(model)
    model(torch.ones(3, 20)).square().sum().backward()
    optimizer.step()
    layers = sparse_layers(model)
    old = {n: torch.from_numpy(layer.adjacency.toarray()) for n, layer in layers.items()}
    weights = {n: layer.to_dense() for n, layer in layers.items()}
    evolver = dst.Evolver(model, optimizer, name, every=1, total_steps=20)
    for n, layer in layers.items():
        new = torch.from_numpy(layer.adjacency.toarray())
        assert layer.links == round(STARTS[name][2] * 600)
        assert (evolver.final[n], layer.final_links) == (120, 120)
        assert not (old[n] & ~new).any()
        assert torch.equal(layer.to_dense()[old[n]], weights[n][old[n]])  # what was there stays
        momentum = optimizer.state[layer.parameter]["momentum_buffer"]
        assert momentum.shape == layer.parameter.shape
        assert momentum.count_nonzero() <= 120
        if STARTS[name][2] == 0.5:
            drawn = layer.to_dense()[new & ~old[n]]
            assert drawn.count_nonzero() == 180
            assert float(drawn.std()) == pytest.approx((2 / (0.5 * layer.in_features)) ** 0.5, 0.2)
    model(torch.ones(3, 20)).sum().backward()
    optimizer.step()


def test_the_start_is_a_function_of_the_seed():
    def made(seed, noise):
        torch.manual_seed(0)
        model = dst.sparsify(dense(), 0.2, exclude="2", layout="csr")
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        dst.Evolver(model, sgd(model), "gmp", every=1, total_steps=20, seed=seed)
        return model[0].to_dense()

    assert torch.equal(made(3, 1), made(3, 2))
    assert not torch.equal(made(3, 1), made(4, 1))


@layouts
def test_links_are_added_uniformly_and_like_the_others(layout):
    # By a method's start of one's own; kept weights are of mean square 1/3 of 1/20 here.
    model = dst.sparsify(dense(20, 300), 0.2, exclude="2", layout=layout, init="keep")
    layer = model[0]
    old = layer.adjacency.toarray()
    kept = layer.link_values().square().mean()
    bring_to_start(model, {"0": 3000}, seed=1)
    new = layer.adjacency.toarray() & ~old
    assert layer.links == 3000
    assert new.sum() == 1800
    drawn = layer.to_dense()[torch.from_numpy(new)]
    assert float(drawn.square().mean()) == pytest.approx(float(kept), rel=0.12)
    assert abs(float(drawn.mean())) < 4 * float(kept / 1800) ** 0.5
    # columns get about as many of the 4800 free cells: 90 each, of 240
    assert abs(new.sum(0) - 90).max() < 30


@layouts
def test_too_many_links_lose_the_smallest_weights(layout):
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    values = [3.0, -0.1, 2.0, 0.2, 0.5, -4.0]
    topology = [[1, 1, 1, 0], [0, 1, 1, 1]]
    dst.sparsify(model, 6 / 8, topology=topology, init=lambda *_: values, layout=layout)
    bring_to_start(model, {"0": 3}, seed=0)
    assert model[0].to_dense().tolist() == [[3.0, 0, 2.0, 0], [0, 0, 0, -4.0]]
    assert model[0].links == 3


@layouts
def test_a_density_that_rises_starts_with_the_largest_weights(layout):
    rising = replace(dst.METHODS["set"], density=lambda final, p: final * (0.5 + p / 2))
    model = dst.sparsify(dense(), 0.2, exclude="2", layout=layout)
    size = model[0].link_values().abs().sort().values
    dst.Evolver(model, sgd(model), rising, every=1, total_steps=20)
    assert torch.equal(model[0].link_values().abs().sort().values, size[60:])


@layouts
def test_followers_start_alike(layout):
    model = dst.sparsify(dense(), 0.2, exclude="2", layout=layout)
    average = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for p in average.parameters():
            p *= 2
    old = torch.from_numpy(model[0].adjacency.toarray())
    dst.Evolver(model, sgd(model), "gmp", every=1, total_steps=20, followers=[average])
    layer, twin = model[0], average.module[0]
    assert (layer.adjacency != twin.adjacency).nnz == 0
    factor = torch.where(old, 2.0, 1.0)  # the same draws, and its own weights
    assert torch.equal(twin.to_dense(), factor * layer.to_dense())


def test_the_history_begins_with_the_start(tmp_path):
    model = dst.sparsify(dense(), 0.2, exclude="2")
    options = {"every": 1, "total_steps": 20, "history": tmp_path / "h"}
    dst.Evolver(model, sgd(model), "gmp", **options)
    assert topo.History.open(tmp_path / "h").at(0) == dst.network(model)


def test_an_existing_history_is_refused_before_anything_changes(tmp_path):
    model = dst.sparsify(dense(), 0.2, exclude="2", layout="csr")
    options = {"every": 1, "total_steps": 20, "history": tmp_path / "h"}
    dst.Evolver(model, sgd(model), "set", **options)
    with pytest.raises(topo.HistoryError, match="exists already"):
        dst.Evolver(model, sgd(model), "gmp", **options)
    assert model[0].links == 120


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)]
)
def test_other_dtypes_start_with_the_same_draws(dtype, tolerance):
    made = []
    for kind in (torch.float64, dtype):
        model = dense().to(torch.float64).to(kind)
        dst.sparsify(model, 0.2, exclude="2", layout="masked", init="swi")
        dst.Evolver(model, sgd(model), "gmp", every=1, total_steps=20)
        assert model[0].weight.dtype == kind
        made.append(model[0].to_dense().double())
    torch.testing.assert_close(made[1], made[0], rtol=tolerance, atol=1e-6)


def test_calibration_without_use_and_its_want_are_refused():
    x = np.random.default_rng(0).normal(size=(50, 2, 10))
    for options, message in (
        ({"topology": "correlated"}, "layer '0': .* is made from data: pass calibration=inputs"),
        ({"calibration": x}, "the topology, 'small_world', is not made from data"),
        ({"calibration": x, "method": "set"}, "the topology, 'erdos_renyi', is not made from"),
        ({"calibration": x[:, 0, 0], "topology": "correlated"}, r"of shape \(samples, features\)"),
    ):
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
        with pytest.raises(ValueError, match=message):
            dst.sparsify(model, 0.2, exclude="2", **options)
        assert type(model[0]) is nn.Linear
    images = torch.from_numpy(x)  # samples of any shape are flattened
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    dst.sparsify(model, 0.2, topology={"0": "correlated"}, calibration=images, exclude="2", seed=1)
    expected = topo.correlated(
        x.reshape(50, 20), 30, 0.2, n_in=20, seed=topo.stream(1, "topology", "0")
    )
    assert (model[0].adjacency != expected).nnz == 0
