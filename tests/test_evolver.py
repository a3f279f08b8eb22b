import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst
import topo
from dst.graph import sparse_layers
from dst.schedules import constant

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "rmsprop-foreach": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, foreach=True),
}
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])
X = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32))
Y = (X[:, :3].sum(1) > 0).long() + 2 * (X[:, 3] > 0).long()


def make_model(method="set", density=0.2, seed=0, layout="csr", dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    options = {"method": method, "exclude": "4", "layout": layout, "seed": seed}
    return dst.sparsify(model.to(dtype), density, **options)


def start(
    method="set",
    optimizer="sgd",
    every=3,
    total_steps=30,
    seed=0,
    layout="csr",
    dtype=torch.float32,
    **options,
):
    model = make_model(method, seed=seed, layout=layout, dtype=dtype)
    opt = OPTIMIZERS[optimizer](model.parameters())
    evolver = dst.Evolver(
        model, opt, method, every=every, total_steps=total_steps, seed=seed, **options
    )
    return model, opt, evolver


def iterate(model, optimizer, evolver):
    train(model, optimizer)
    return evolver.step()


def train(model, optimizer):
    loss = F.cross_entropy(model(X.to(model[0].bias.dtype)), Y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def dense(layer, tensor):
    """A tensor of the parameter's shape as a dense matrix."""
    if layer.layout == "masked":
        return tensor.detach().clone()
    out = tensor.new_zeros(layer.out_features, layer.in_features)
    out[torch.from_numpy(layer.adjacency.toarray())] = tensor.detach()
    return out


def state_of(layer, optimizer):
    """Weight, gradient and every state tensor of their shape."""
    parameter = layer.parameter
    tensors = {"weight": parameter, "grad": parameter.grad, **optimizer.state[parameter]}
    return {
        k: dense(layer, t)
        for k, t in tensors.items()
        if torch.is_tensor(t) and t.shape == parameter.shape
    }


# by hand


def hand_method(**changes):
    fields = {
        "name": "hand",
        "start": dst.Start("erdos_renyi", "keep"),
        "churn": constant(0.5),
        "removal": dst.Rule(dst.magnitude, constant(math.inf)),
        "regrowth": dst.Rule(topo.PREDICTORS["ch3_l3p"], constant(math.inf)),
    }
    return dst.Method(**fields | changes)


def by_hand(topology, values, method, momentum, layout):
    """One layer with the given values, and its first update; lr 0 leaves the values alone."""
    linear = nn.Linear(len(topology[0]), len(topology), bias=False)
    model = nn.Sequential(linear)
    own = np.array(topology)
    dst.sparsify(model, own.mean(), layout=layout, topology=own, init=lambda *a: np.array(values))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    evolver = dst.Evolver(model, optimizer, method, every=1, total_steps=4)
    model(torch.ones(1, own.shape[1])).sum().backward()
    optimizer.step()
    on_links = torch.from_numpy(own.astype(bool)) if layout == "masked" else ...
    optimizer.state[model[0].parameter]["momentum_buffer"][on_links] = torch.tensor(momentum)
    update = evolver.step()
    moved = dense(model[0], optimizer.state[model[0].parameter]["momentum_buffer"])
    return model[0], moved, update


@layouts
def test_an_update_solved_by_hand(layout):
    # The two smallest weights, 0.1 and -0.2, go. What is left, u0 and u1 on v0, has no path of
    # length three, so both links to grow are random among the absent ones.
    layer, momentum, update = by_hand(
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [1.0, -2.0, 0.1, -0.2],
        hand_method(churn=constant(0.5)),
        momentum=[1.0, 2.0, 3.0, 4.0],
        layout=layout,
    )
    assert update.step == 1
    record = update.layers["0"]
    assert (record.links, record.removed, record.percolated, record.grown) == (4, 2, 0, 2)
    assert layer.to_dense()[0, :2].tolist() == [1.0, -2.0]  # survivors keep their weights
    adjacency = layer.adjacency.toarray()
    assert adjacency[0, :2].all()
    assert adjacency.sum() == 4
    assert momentum[0].tolist() == [1.0, 2.0, 0.0]


@layouts
def test_top_k_regrowth_by_hand(layout):
    # Removing the weight 0.1 leaves the path u0 - v0 - u1 - v1; (v1, u0) closes it.
    layer, momentum, update = by_hand(
        [[1, 1, 0], [0, 1, 1]],
        [1.0, -2.0, 3.0, 0.1],
        hand_method(churn=constant(0.25)),
        momentum=[1.0, 2.0, 3.0, 4.0],
        layout=layout,
    )
    assert layer.to_dense().tolist() == [[1.0, -2.0, 0.0], [0.0, 3.0, 0.0]]
    assert layer.adjacency.toarray().astype(int).tolist() == [[1, 1, 0], [1, 1, 0]]
    # momentum moved with its links and is zero on the new one, between two old ones
    assert momentum.tolist() == [[1.0, 2.0, 0.0], [0.0, 3.0, 0.0]]
    assert update.layers["0"].overlap == 0.0
    assert update.resized == ()


@layouts
def test_a_link_removed_and_regrown_keeps_weight_and_state(layout):
    # The only absent link that closes a path is the one just removed.
    layer, momentum, update = by_hand(
        [[1, 1], [1, 1]],
        [1.0, 2.0, 0.1, 3.0],
        hand_method(churn=constant(0.25)),
        momentum=[1.0, 2.0, 3.0, 4.0],
        layout=layout,
    )
    assert update.layers["0"].overlap == 1.0
    assert layer.to_dense().tolist() == [[1.0, 2.0], [pytest.approx(0.1), 3.0]]
    assert momentum.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_percolated_links_are_regrown_elsewhere():
    # The smallest weight of layer 2 is the only link out of hidden neuron 0, whose two links into
    # it are then percolated; layer 0 itself removes its smallest weight, into hidden neuron 1.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3))
    dst.sparsify(
        model,
        4 / 6,
        topology={"0": [[1, 1, 0], [0, 1, 1]], "2": [[0, 1], [1, 1], [0, 1]]},
        init=lambda linear, adjacency, key: (
            [1.0, 1.0, 0.1, 1.0] if adjacency.shape == (2, 3) else [1.0, 0.1, 1.0, 1.0]
        ),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = hand_method(churn=constant(0.25), percolates=True)
    update = dst.Evolver(model, optimizer, method, every=1, total_steps=4).step()
    first, second = update.layers["0"], update.layers["2"]
    assert (first.removed, first.percolated, first.grown, first.links) == (1, 2, 3, 4)
    assert (second.removed, second.percolated, second.grown, second.links) == (1, 0, 1, 4)
    assert model[0].to_dense()[1, 2] == 1.0  # the one that nothing touched


# every method


@layouts
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", dst.METHODS)
def test_conformance(method, optimizer, layout, tmp_path):
    recorded = optimizer == "sgd"
    history = {"history": tmp_path / "h"} if recorded else {}
    model, opt, evolver = start(method, optimizer, layout=layout, **history)
    layers = sparse_layers(model)
    parameters = {n: layer.parameter for n, layer in layers.items()}
    links = {n: layer.links for n, layer in layers.items()}
    seen = {0: {n: layer.adjacency for n, layer in layers.items()}}
    updates, grown = [], dict.fromkeys(layers, 0)
    for step in range(1, 31):
        train(model, opt)
        states = {n: state_of(layer, opt) for n, layer in layers.items()}
        before = {n: layer.adjacency for n, layer in layers.items()}
        update = evolver.step()
        if update is None:
            assert all(
                np.array_equal(layers[n].adjacency.indices, a.indices) for n, a in before.items()
            )
            continue
        updates.append(update.step)
        seen[step] = {n: layer.adjacency for n, layer in layers.items()}
        for name, layer in layers.items():
            adjacency = layer.adjacency
            assert layer.parameter is parameters[name]
            assert adjacency.nnz == layer.links == links[name]  # exact, always
            assert topo.as_adjacency(adjacency) is adjacency  # canonical
            record = update.layers[name]
            assert record.links == links[name]
            assert record.grown == record.removed + record.percolated
            churn = dst.METHODS[method].churn(step / (30 * dst.METHODS[method].t_end))
            assert record.removed == math.floor(churn * links[name])
            old, new = (torch.from_numpy(a.toarray()) for a in (before[name], adjacency))
            # links that are there before and after keep everything, new ones start at zero
            back = round(record.grown * record.overlap) if record.grown else 0
            assert (new & ~old).sum() == record.grown - back
            after = state_of(layer, opt)
            assert after.keys() == states[name].keys() > {"weight", "grad"}
            for key, tensor in states[name].items():
                assert torch.equal(after[key], tensor * (old & new))
            grown[name] += record.grown
    assert all(n > 0 for n in grown.values()) == (method != "static")
    assert updates == list(range(3, evolver.last + 1, 3))
    assert evolver.last == {"set": 27, "static": 27, "chts": 21}[method]
    if recorded:
        history = topo.History.open(tmp_path / "h")
        assert history.steps == sorted(seen)
        for step, expected_layers in seen.items():
            assert history.at(step) == topo.Network(expected_layers, evolver.couplings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", dst.METHODS)
def test_both_layouts_evolve_alike(method, optimizer):
    runs = []
    for layout in ("csr", "masked"):
        model, opt, evolver = start(method, optimizer, layout=layout, dtype=torch.float64)
        networks = []
        for _ in range(24):
            iterate(model, opt, evolver)
            networks.append(dst.network(model))
        runs.append((model, opt, networks))
    (csr, opt, networks), (masked, opt2, others) = runs
    assert networks == others
    torch.testing.assert_close(csr(X.double()), masked(X.double()))
    for name, layer in sparse_layers(csr).items():
        twin = sparse_layers(masked)[name]
        torch.testing.assert_close(state_of(layer, opt), state_of(twin, opt2))


@layouts
@pytest.mark.parametrize("method", ["set", "chts"])
def test_the_same_seed_gives_the_same_run_whatever_torchs_generator(method, layout):
    runs = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        model, optimizer, evolver = start(method, seed=seed, layout=layout)
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        for _ in range(15):
            iterate(model, optimizer, evolver)
        runs.append((dst.network(model), [p.detach().clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1]))


@layouts
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(optimizer, layout):
    model, opt, evolver = start("chts", optimizer, layout=layout)
    for _ in range(10):
        iterate(model, opt, evolver)
    saved = copy.deepcopy((model.state_dict(), opt.state_dict(), evolver.state_dict()))
    for _ in range(12):
        iterate(model, opt, evolver)
    resumed, opt2, evolver2 = start("chts", optimizer, layout=layout)
    for part, state in zip((resumed, opt2, evolver2), saved):
        part.load_state_dict(state)
    for _ in range(12):
        iterate(resumed, opt2, evolver2)
    assert dst.network(resumed) == dst.network(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))
    with pytest.raises(ValueError, match="every 3, the state 4"):
        start("chts")[2].load_state_dict({**saved[2], "every": 4})


@layouts
def test_chts_learns(layout):
    model, optimizer, evolver = start("chts", "adam", every=10, total_steps=200, layout=layout)
    first = F.cross_entropy(model(X), Y).item()
    for _ in range(200):
        iterate(model, optimizer, evolver)
    assert F.cross_entropy(model(X), Y).item() < 0.3 * first


@layouts
def test_followers_have_the_same_links_and_their_own_weights(layout):
    model, optimizer, _ = start("set", layout=layout)
    average = torch.optim.swa_utils.AveragedModel(model)
    evolver = dst.Evolver(model, optimizer, "set", every=2, total_steps=30, followers=[average])
    expected = {n: layer.to_dense() for n, layer in sparse_layers(model).items()}
    for step in range(6):
        before = dst.network(model).layers
        iterate(model, optimizer, evolver)
        average.update_parameters(model)
        for name, layer in sparse_layers(model).items():
            stays = torch.from_numpy((before[name].multiply(layer.adjacency)).toarray())
            share = 1 / (step + 1)
            expected[name] = (1 - share) * expected[name] * stays + share * layer.to_dense()
    assert dst.network(average.module) == dst.network(model)
    for name, layer in sparse_layers(average.module).items():
        torch.testing.assert_close(layer.to_dense(), expected[name])
    with pytest.raises(ValueError, match="a copy of the model"):
        dst.Evolver(model, optimizer, "set", every=1, total_steps=9, followers=[nn.Linear(2, 2)])


@layouts
def test_history_with_weights(layout, tmp_path):
    model, optimizer, evolver = start("set", history=tmp_path / "h", layout=layout)
    evolver.snapshot()
    for _ in range(5):
        iterate(model, optimizer, evolver)
    evolver.snapshot()
    history = topo.History.open(tmp_path / "h")
    assert history.weight_steps == [0, 5]
    recorded = history.at(5, weights=True)
    assert recorded == history.at(5) == dst.network(model)
    for name, layer in sparse_layers(model).items():
        assert np.array_equal(recorded.weights[name].toarray(), layer.to_dense().numpy())


def test_a_history_that_cannot_be_written_leaves_the_model_as_recorded(tmp_path, monkeypatch):
    model, _, evolver = start("set", every=1, history=tmp_path / "h")
    before = dst.network(model)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("topo.history_writer.write_part", full)
    with pytest.raises(OSError, match="no space"):
        evolver.step()
    assert dst.network(model) == before


# refusals


@layouts
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_stop_the_update_and_change_nothing(bad, layout, tmp_path):
    model, _, evolver = start("chts", every=1, history=tmp_path / "h", layout=layout)
    with torch.no_grad():
        values = model[2].parameter.view(-1)
        values[values.nonzero()[3]] = bad
    before = dst.network(model)
    with pytest.raises(ValueError, match=r"layer '2' has 1 weights .* at step 1"):
        evolver.step()
    assert dst.network(model) == before
    assert topo.History.open(tmp_path / "h").steps == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "ste"}, "unknown method 'ste': did you mean 'set'"),
        ({"every": 0}, "every must be a positive integer, not 0"),
        ({"every": 1.5}, "every must be a positive integer, not 1.5"),
        ({"total_steps": -3}, "total_steps must be a positive integer, not -3"),
        ({"seed": "a"}, "seed must be an integer"),
    ],
)
def test_bad_arguments(arguments, message):
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(ValueError, match=message):
        dst.Evolver(model, optimizer, **{"method": "set", "every": 1, "total_steps": 9} | arguments)


def test_an_optimizer_made_before_sparsify_is_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dst.sparsify(model, 0.5, exclude="2")
    with pytest.raises(
        ValueError, match="does not hold the weights of '0': make the optimizer after"
    ):
        dst.Evolver(model, optimizer, "set", every=1, total_steps=9)


def test_a_dense_model_and_an_existing_history_are_refused(tmp_path):
    plain = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"call dst\.sparsify first"):
        dst.Evolver(plain, torch.optim.SGD(plain.parameters()), "set", every=1, total_steps=9)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(topo.HistoryError, match="exists already"):
        start(history=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_t_end():
    with pytest.raises(ValueError, match="t_end"):
        hand_method(t_end=1.5)
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for t_end, every, total, last in (
        (0.75, 10, 100, 70),
        (1.0, 10, 100, 90),
        (1.0, 200, 100, 0),
        (0.7, 7, 90, 63),
    ):
        method = hand_method(t_end=t_end)
        assert dst.Evolver(model, optimizer, method, every=every, total_steps=total).last == last
