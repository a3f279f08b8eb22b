"""Continuing a run: what an evolver takes over, and what it refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dst
import topo
from dst.graph import sparse_layers

pytestmark = pytest.mark.usefixtures("one_thread")
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])


def start(method="set", *, density=0.2, seed=0, layout="csr", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU())
    dst.sparsify(model, density, layout=layout, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    options = {"every": 3, "total_steps": 30, "seed": seed} | options
    return model, optimizer, dst.Evolver(model, optimizer, method, **options)


def run(model, optimizer, evolver, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.arange(24.0).reshape(2, 12).cos()).square().sum().backward()
        optimizer.step()
        evolver.step()


def states(*parts):
    return copy.deepcopy([part.state_dict() for part in parts])  # the optimizer's are its own


def load(parts, loaded):
    for part, state in zip(parts, loaded):
        part.load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rigl"}, "this evolver has method 'rigl', the state 'set'"),
        ({"every": 4}, "every 4, the state 3"),
        ({"total_steps": 31}, "total_steps 31, the state 30"),
        ({"seed": 1}, "seed 1, the state 0"),
        ({"density": 0.3}, "final {'0': 72, '2': 96}, the state {'0': 48, '2': 64}"),
    ],
)
def test_a_state_of_other_settings_is_refused(changes, message):
    parts = start()
    run(*parts, 4)
    evolver = start(**changes)[2]
    before = str(evolver.state_dict())
    with pytest.raises(ValueError, match=message):
        evolver.load_state_dict(parts[2].state_dict())
    assert str(evolver.state_dict()) == before


@pytest.mark.parametrize("changes", [{"historical": True}, {"link_warmup": 3}, {"recalls": True}])
def test_a_state_without_what_the_method_needs_is_refused(changes):
    evolver = start(replace(dst.METHODS["set"], **changes))[2]
    with pytest.raises(ValueError, match="resume with the settings of the run"):
        evolver.load_state_dict(start()[2].state_dict())


def test_bits_of_another_layer_are_refused():
    state = start()[2].state_dict()
    state["seen"]["0"] = state["seen"]["0"][:-1]
    with pytest.raises(ValueError, match="keys or 30 bytes of bits, not uint8"):
        start()[2].load_state_dict(state)


def test_stored_weights_that_do_not_fit_are_refused():
    parts = start("gmp")
    run(*parts, 6)
    state = parts[2].state_dict()
    assert len(state["stored"]["0"]["weights"]) > 3
    state["stored"]["0"]["weights"] = state["stored"]["0"]["weights"][:-1]
    with pytest.raises(ValueError, match="stored links, weights of"):
        start("gmp")[2].load_state_dict(state)


def test_a_state_is_a_copy():
    parts = start(replace(dst.METHODS["gmp"], link_warmup=9))
    run(*parts, 6)
    state = parts[2].state_dict()
    before = str(state)
    run(*parts, 12)
    assert str(state) == before
    assert str(parts[2].state_dict()) != before
    other = start(replace(dst.METHODS["gmp"], link_warmup=9))
    other[2].load_state_dict(state)
    load(other[:2], states(*parts[:2]))
    assert str(state) == before


@layouts
def test_a_model_that_was_not_loaded_is_refused_at_the_first_step(layout):
    parts = start(layout=layout)
    run(*parts, 4)
    other = start(layout=layout)
    other[2].load_state_dict(parts[2].state_dict())
    before = str(other[0].state_dict())
    for _ in range(2):  # not only once
        with pytest.raises(ValueError, match="not the topology that the state of step 4 was taken"):
            other[2].step()
    assert str(other[0].state_dict()) == before
    load(other[:2], states(*parts[:2]))  # mends it
    run(*other, 8)
    run(*parts, 8)
    assert dst.network(other[0]) == dst.network(parts[0])


@layouts
def test_states_load_in_any_order(layout):
    parts = start("chts", layout=layout)
    run(*parts, 4)
    saved = states(*parts)
    run(*parts, 9)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        other = start("chts", layout=layout)
        for i in order:
            other[i].load_state_dict(copy.deepcopy(saved[i]))
        run(*other, 9)
        assert dst.network(other[0]) == dst.network(parts[0])
        assert all(torch.equal(a, b) for a, b in zip(parts[0].parameters(), other[0].parameters()))


def test_a_history_that_ends_with_another_topology_is_refused_at_the_first_step(tmp_path):
    parts = start(history=tmp_path / "h")
    run(*parts, 4)
    saved = states(*parts)
    run(*parts, 6)
    late = topo.HistoryWriter.open(tmp_path / "h")  # at step 9, not 4
    other = start(history=late)
    load(other, saved)
    for use in (other[2].step, other[2].snapshot):
        with pytest.raises(
            ValueError, match=r"history ends with another topology.*HistoryWriter.open\(.*step=4\)"
        ):
            use()
    other = start(history=topo.HistoryWriter.open(tmp_path / "h", step=4))
    load(other, saved)
    run(*other, 6)
    history = topo.History.open(tmp_path / "h")
    assert history.steps == [0, 3, 6, 9]
    assert history.at(9) == dst.network(parts[0]) == dst.network(other[0])


@layouts
def test_history_with_weights(layout, tmp_path):
    model, optimizer, evolver = start("set", history=tmp_path / "h", layout=layout)
    evolver.snapshot()
    run(model, optimizer, evolver, 5)
    evolver.snapshot()
    history = topo.History.open(tmp_path / "h")
    assert history.weight_steps == [0, 5]
    recorded = history.at(5, weights=True)
    assert recorded == history.at(5) == dst.network(model)
    for name, layer in sparse_layers(model).items():
        assert np.array_equal(recorded.weights[name].toarray(), layer.to_dense().numpy())
    with pytest.raises(ValueError, match="there is no history to write to"):
        start()[2].snapshot()


# refusals when an evolver is made


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
    with pytest.raises(ValueError, match=message):
        start(**arguments)


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
