"""What a method may ask for beyond the published ones, and what an evolver refuses."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst
import topo
from dst.graph import sparse_layers
from dst.schedules import constant, share

pytestmark = pytest.mark.usefixtures("one_thread")
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}
SET, RIGL = dst.METHODS["set"], dst.METHODS["rigl"]
X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))


def start(method="set", *, layout="csr", optimizer="sgd", every=1, total_steps=30, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 2)
    )
    dst.sparsify(model, 0.25, exclude="4", layout=layout, topology="erdos_renyi")
    opt = OPTIMIZERS[optimizer](model.parameters())
    evolver = dst.Evolver(model, opt, method, every=every, total_steps=total_steps, **options)
    return model, opt, evolver


def train(model, optimizer, x=X):
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1))
    loss.backward()
    optimizer.step()


def everything(model, optimizer):
    """A copy of all tensors of model and optimizer."""
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def weights(model):
    return {n: layer.to_dense().numpy() for n, layer in sparse_layers(model).items()}


def topologies(model):
    return {n: layer.adjacency.toarray() for n, layer in sparse_layers(model).items()}


# historical weights


@layouts
@pytest.mark.parametrize("method", ["set", "mest", "granet"])
def test_historical_links_start_at_their_last_weight(method, layout):
    methods = {True: replace(dst.METHODS[method], historical=True), False: dst.METHODS[method]}
    for historical, chosen in methods.items():
        model, optimizer, evolver = start(chosen, layout=layout)
        last = {n: np.zeros_like(w) for n, w in weights(model).items()}
        back = 0
        for _ in range(20):
            train(model, optimizer)
            old, before = topologies(model), weights(model)
            evolver.step()
            new, after = topologies(model), weights(model)
            for n in old:
                last[n][old[n] & ~new[n]] = before[n][old[n] & ~new[n]]
                grown = new[n] & ~old[n]
                assert np.array_equal(after[n][grown], last[n][grown] * historical)
                assert np.array_equal(after[n][old[n] & new[n]], before[n][old[n] & new[n]])
                back += np.count_nonzero(last[n][grown])
        assert back > 10


@layouts
@pytest.mark.parametrize("method", ["gmp", replace(SET, historical=True)])
def test_followers_get_links_and_recalled_weights(method, layout):
    model, optimizer, _ = start(layout=layout)
    average = torch.optim.swa_utils.AveragedModel(model)
    evolver = dst.Evolver(
        model, optimizer, method, every=1, total_steps=30, followers=[average], seed=1
    )
    expected, recalled = weights(model), 0
    for name, layer in sparse_layers(average).items():  # links that the evolver's start added
        assert np.array_equal(layer.to_dense(), expected[name])
    for step in range(20):
        train(model, optimizer)
        old = topologies(model)
        evolver.step()
        new, now = topologies(model), weights(model)
        for n, layer in sparse_layers(average).items():
            assert np.array_equal(layer.adjacency.toarray(), new[n])
            grown = new[n] & ~old[n]
            expected[n][~new[n]] = 0
            expected[n][grown] = now[n][grown]  # 0, or what was stored
            recalled += np.count_nonzero(now[n][grown])
            np.testing.assert_allclose(layer.to_dense(), expected[n], rtol=1e-5, atol=1e-7)
        average.update_parameters(model)
        for n in expected:
            share_ = 1 / (step + 1)
            expected[n] = (1 - share_) * expected[n] + share_ * now[n]
    assert recalled > 0


def test_a_follower_is_a_copy():
    model, optimizer, _ = start()
    with pytest.raises(ValueError, match="a copy of the model"):
        dst.Evolver(model, optimizer, "set", every=1, total_steps=9, followers=[nn.Linear(2, 2)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["gmp", "mest", replace(SET, historical=True, link_warmup=3)])
def test_other_dtypes(method, dtype):
    model = nn.Sequential(nn.Linear(12, 10))
    dst.sparsify(model.to(dtype), 0.25, layout="masked")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = dst.Evolver(model, optimizer, method, every=1, total_steps=12)
    for _ in range(9):
        optimizer.zero_grad()
        model(X.to(dtype)).square().mean().backward()
        optimizer.step()
        evolver.step()
    assert model[0].links == 30 or isinstance(method, str)
    assert model[0].weight.dtype == dtype


# warm-up


@layouts
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_kth_step_of_a_new_link_is_k_of_n_of_a_usual_one(optimizer, layout):
    # One update, at step 3. Each later step is done twice: as it is, and, from the same state, by
    # an optimizer that knows no warm-up.
    method = replace(SET, link_warmup=4)
    model, opt, evolver = start(method, every=3, total_steps=6, layout=layout, optimizer=optimizer)
    assert evolver.last == 3
    for _ in range(3):
        train(model, opt)
        old = topologies(model)
        update = evolver.step()
    assert update is not None
    new = topologies(model)
    grown = {n: new[n] & ~old[n] for n in new}
    assert all(g.any() for g in grown.values())
    for k in range(1, 8):
        twin = copy.deepcopy(model)
        usual = OPTIMIZERS[optimizer](twin.parameters())
        usual.load_state_dict(copy.deepcopy(opt.state_dict()))
        before = weights(model)
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(k))
        train(twin, usual, x)
        train(model, opt, x)
        evolver.step()
        after, expected = weights(model), weights(twin)
        for n in new:
            fully = expected[n] - before[n]
            assert np.abs(fully[grown[n]]).max() > 0
            there = new[n] & ~grown[n]
            assert np.array_equal(after[n][there], expected[n][there])
            np.testing.assert_allclose(
                (after[n] - before[n])[grown[n]],
                min(1, k / 4) * fully[grown[n]],
                rtol=1e-4,
                atol=1e-8,
            )
            if k >= 4:
                assert np.array_equal(after[n], expected[n])


@layouts
def test_a_link_that_goes_and_comes_back_warms_up_again(layout):
    # Each update replaces links; a link's age is counted from when it last grew. Gradients of 1,
    # by which SGD with lr 1 takes steps of -1.
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    dst.sparsify(model, 0.5, layout=layout, topology="erdos_renyi", init=lambda *_: [9.0] * 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method = replace(SET, link_warmup=5)
    evolver = dst.Evolver(model, optimizer, method, every=2, total_steps=40)
    ages = np.where(model[0].adjacency.toarray(), 100, -1)
    regrown = 0
    for _ in range(30):
        before = model[0].to_dense().numpy()
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        there = ages >= 0
        ages[there] += 1
        change = model[0].to_dense().numpy() - before
        np.testing.assert_allclose(change[there], -np.minimum(1, ages / 5)[there], rtol=1e-5)
        old = model[0].adjacency.toarray()
        evolver.step()
        new = model[0].adjacency.toarray()
        regrown += int((new & ~old & (ages == -2)).sum())
        ages[old & ~new] = -2  # gone
        ages[new & ~old] = 0
    assert regrown > 3


# methods of one's own


@layouts
def test_a_density_that_grows(layout):
    method = replace(SET, name="growing", density=lambda final, p: final * (0.5 + p / 2))
    model, optimizer, evolver = start(method, layout=layout, total_steps=11)  # last: 10
    counts = [[layer.links for layer in sparse_layers(model).values()]]
    for step in range(1, 12):
        train(model, optimizer)
        update = evolver.step()
        counts.append([layer.links for layer in sparse_layers(model).values()])
        if step <= 10:
            for n, layer in update.layers.items():
                assert layer.thinned == 0
                assert (
                    layer.grown - layer.removed
                    == counts[step]["02".index(n)] - (counts[step - 1]["02".index(n)])
                )
    # 30 and 20 at the end, from a half
    assert counts == [[round(30 * f), round(20 * f)] for f in np.arange(10, 21) / 20] + [[30, 20]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"churn": lambda links, final, p: -1}, "the churn of 'bad' is -1 of 30 links"),
        ({"churn": lambda links, final, p: 31}, "the churn of 'bad' is 31 of 30 links"),
        ({"churn": share(constant(1.5))}, "the churn of 'bad' is 45 of 30 links"),
        ({"churn": share(constant(-0.5))}, "the churn of 'bad' is -1[45] of 30 links"),
        ({"density": lambda final, p: final if p < 0.1 else 1.2}, r"'bad' gives 1.2 at progress"),
        ({"density": lambda final, p: final if p < 0.1 else 0.0}, r"must be in \(0, 1\]"),
        ({"density": lambda final, p: final if p < 0.1 else math.nan}, r"'bad' gives nan"),
        ({"density": lambda final, p: final if p < 0.1 else 0.001}, "leave a link"),
        ({"removal": dst.Rule(lambda links: -links.weights.abs())}, "layer '0' at step 3: .*negat"),
        ({"removal": dst.Rule(dst.magnitude, constant(-1.0))}, "layer '0' at step 3: .*sharpness"),
        (
            {"regrowth": dst.Rule(dst.DenseScore("nan", lambda g: g * math.nan))},
            "layer '0' at step 3: .*NaN",
        ),
    ],
)
def test_a_method_that_asks_for_the_impossible_changes_nothing(changes, message, tmp_path):
    method = replace(SET, name="bad", **changes)
    model, optimizer, evolver = start(method, every=3, history=tmp_path / "h")
    for step in range(1, 4):
        train(model, optimizer)
        before = everything(model, optimizer)
        if step < 3:
            evolver.step()
    with pytest.raises(ValueError, match=message):
        evolver.step()
    assert str(everything(model, optimizer)) == str(before)
    assert topo.History.open(tmp_path / "h").steps == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"churn": constant(0.3)}, r"churn is a function of \(links, final, progress\).*share"),
        ({"density": constant(0.3)}, r"density is a function of \(final, progress\).*cubic"),
        ({"churn": 0.3}, "churn is a function"),
        ({"t_end": 1.5}, "t_start and t_end are shares"),
        ({"t_start": -0.1}, "t_start and t_end are shares"),
        ({"t_start": 0.75, "t_end": 0.75}, "t_start < t_end"),
        ({"stop_overlap": 1.5}, r"stop_overlap is a share in \[0, 1\], not 1.5"),
        ({"link_warmup": -1}, "link_warmup"),
        ({"link_warmup": 1.5}, "link_warmup"),
    ],
)
def test_a_method_that_is_none(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SET, **changes)


def test_a_density_outside_the_possible_is_refused_at_the_start():
    for density in (0.0, 1.2, math.nan):
        method = replace(SET, name="bad", density=lambda final, p, d=density: d)
        with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
            start(method)


@pytest.mark.parametrize("method", ["mest", "chtss", "gmp", "granet", "chts_gmp"])
def test_a_density_schedule_without_any_update_is_refused(method):
    with pytest.raises(ValueError, match=f"'{method}' changes the density, but every=100"):
        start(method, every=100, total_steps=120)  # 0.75 * 120 is below 100
    late = replace(dst.METHODS[method], t_start=0.7)
    with pytest.raises(ValueError, match="every=10 leaves 0 updates in 100 steps"):
        start(late, every=10, total_steps=100)
    start(method, every=10, total_steps=100)


# what comes before an evolver, and what is missing at an update


@pytest.mark.parametrize("method", ["set", "gmp"])
def test_a_rewired_layer_ends_with_its_new_number_of_links(method):
    model, optimizer, _ = start()
    dst.rewire(model, {"0": topo.erdos_renyi(10, 12, 0.5, seed=3)}, optimizer)
    evolver = dst.Evolver(model, optimizer, method, every=1, total_steps=30)
    assert evolver.final == {"0": 60, "2": 20}
    for _ in range(30):
        train(model, optimizer)
        evolver.step()
    assert [layer.links for layer in sparse_layers(model).values()] == [60, 20]


@layouts
@pytest.mark.parametrize(
    ("method", "spoil", "message"),
    [
        ("mest", "zero_grad", r"layer '0' at step 3: .*before optimizer\.zero_grad"),
        ("rigl", "no backward", "no backward pass was seen before the update of step 3"),
        ("granet", "no backward", "no backward pass was seen before the update of step 3"),
        ("set", "nan", "layer '2' at step 3: 1 weights are NaN or infinite"),
        ("chts", "inf", "layer '2' at step 3: 1 weights are NaN or infinite"),
        ("gmp", "nan", "layer '2' at step 3: 1 weights are NaN or infinite"),
        ("static", "nan", "layer '2' at step 3: 1 weights are NaN or infinite"),
    ],
)
def test_an_update_that_cannot_be_done_changes_nothing(method, spoil, message, layout, tmp_path):
    model, optimizer, evolver = start(method, every=3, layout=layout, history=tmp_path / "h")
    for step in range(1, 4):
        if spoil == "no backward" and step == 3:
            with torch.no_grad():
                model(X)
        else:
            train(model, optimizer)
        if step < 3:
            assert evolver.step() is None
    if spoil == "zero_grad":
        optimizer.zero_grad()
    elif spoil in ("nan", "inf"):
        with torch.no_grad():
            flat = model[2].parameter.view(-1)
            flat[flat.nonzero()[3]] = float(spoil)
    before = everything(model, optimizer)
    kept = {n: layer.adjacency for n, layer in sparse_layers(model).items()}
    state = str(evolver.state_dict())
    with pytest.raises(ValueError, match=message):
        evolver.step()
    assert str(everything(model, optimizer)) == str(before)
    assert all(np.array_equal(t, kept[n].toarray()) for n, t in topologies(model).items())
    assert str({**evolver.state_dict(), "steps": 2}) == state
    assert topo.History.open(tmp_path / "h").steps == [0]


def test_a_history_that_cannot_be_written_leaves_the_model_as_recorded(tmp_path, monkeypatch):
    model, optimizer, evolver = start("set", history=tmp_path / "h")
    train(model, optimizer)
    before = everything(model, optimizer)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("topo.history_writer.write_part", full)
    with pytest.raises(OSError, match="no space"):
        evolver.step()
    assert str(everything(model, optimizer)) == str(before)


# what is said at once


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"removal": dst.Rule(dst.gradient_magnitude)}, "its score is a function of dst.Links"),
        ({"thinning": dst.Rule("ch3_l3p")}, "the thinning rule ranks links that are there"),
        ({"regrowth": dst.Rule(dst.magnitude)}, "the regrowth rule ranks absent links"),
    ],
)
def test_a_rule_in_the_wrong_place_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        replace(dst.METHODS["set"], **rule)


def test_a_rule_takes_names_and_numbers():
    rule = dst.Rule("ch3_l3p", 2)
    assert rule.score is topo.PREDICTORS["ch3_l3p"]
    assert rule.sharpness(0.7) == 2
    with pytest.raises(ValueError, match="unknown predictor 'ch3l3p'"):
        dst.Rule("ch3l3p")
    with pytest.raises(ValueError, match="sharpness is a number or a schedule"):
        dst.Rule(dst.magnitude, "top")


@pytest.mark.parametrize(("method", "every"), [("set", 40), ("chts", 20)])
def test_a_topology_that_will_not_evolve_is_told(method, every):
    # the only update of CHTs would come when its churn is annealed to 0
    with pytest.warns(UserWarning, match=f"will not evolve: every={every} leaves . updates in 30"):
        start(method, every=every, total_steps=30)


def test_a_frozen_layer_is_refused():
    model, optimizer, _ = start()
    model[0].parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"hold the weights of '0'.*stays dense"):
        dst.Evolver(model, optimizer, "set", every=1, total_steps=9)


def test_a_numpy_seed_leaves_a_state_that_loads_safely(tmp_path):
    evolver = start(seed=np.int64(3))[2]
    torch.save(evolver.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["seed"] == 3
