"""What holds for every method, in every layout, with every optimizer."""

import io
import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dst
import topo
from dst.graph import sparse_layers
from topo.adjacency import equal

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

EVERY, TOTAL = 3, 30
CELLS = {"0": 12 * 20, "2": 20 * 16}
FINAL = {"0": 48, "2": 64}  # 0.2 of them
VARIANTS = dst.METHODS | {
    "cht that stops early": replace(dst.METHODS["cht"], stop_overlap=0.15),
    "mest with historical weights": replace(dst.METHODS["mest"], historical=True),
    "chts with warm-up": replace(dst.METHODS["chts"], link_warmup=5),
    "gmp that removes and regrows": replace(
        dst.METHODS["chts_gmp"], recalls=True, historical=True, link_warmup=2
    ),
}
for name in VARIANTS.keys() - dst.METHODS.keys():
    VARIANTS[name] = replace(VARIANTS[name], name=name)


def start(
    method="set",
    optimizer="sgd",
    seed=0,
    layout="csr",
    dtype=torch.float32,
    density=0.2,
    by_sparsify=True,
    **options,
):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    method = VARIANTS[method]
    own = {"method": method} if by_sparsify else {}
    dst.sparsify(model.to(dtype), density, exclude="4", layout=layout, seed=seed, **own)
    opt = OPTIMIZERS[optimizer](model.parameters())
    options = {"every": EVERY, "total_steps": TOTAL, "seed": seed} | options
    return model, opt, dst.Evolver(model, opt, method, **options)


def train(model, optimizer):
    loss = F.cross_entropy(model(X.to(model[0].bias.dtype)), Y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def iterate(model, optimizer, evolver):
    train(model, optimizer)
    return evolver.step()


def where(layer):
    return torch.from_numpy(layer.adjacency.toarray())


def state_of(layer, optimizer):
    """Weight, gradient and every state tensor of their shape, dense."""
    parameter = layer.parameter
    tensors = {"weight": parameter, "grad": parameter.grad, **optimizer.state[parameter]}
    state = {}
    for key, tensor in tensors.items():
        if torch.is_tensor(tensor) and tensor.shape == parameter.shape:
            state[key] = tensor.detach().clone()
            if layer.layout == "csr":
                state[key] = tensor.new_zeros(layer.out_features, layer.in_features)
                state[key][where(layer)] = tensor.detach()
    return state


def tell(update):
    """All of an update's record but the time it took, in a form that compares."""
    return repr(
        (
            [getattr(update, f.name) for f in fields(update) if f.name != "layers"],
            [replace(layer, seconds={}) for layer in update.layers.values()],
        )
    )


# the published schedules, once more


def links_wanted(method, name, p):
    final, cells = FINAL[name], CELLS[name]
    if method in ("gmp", "granet", "chts_gmp"):
        return round(final + (cells / 2 - final) * (1 - p) ** 3)
    if method == "chtss":

        def sigma(x):
            return 1 / (1 + math.exp(-x))

        g = (sigma(24 * p - 6) - sigma(-6)) / (sigma(6) - sigma(-6)) if p < 0.5 else 1
        return round(final + (cells / 2 - final) * (1 - g))
    if method == "mest":
        return round(final + cells * (0.05 if p < 0.6 else 0.025 if p < 1 else 0))
    return final


def links_removed(method, links, final, p):
    if method in ("static", "gmp"):
        return 0
    if method == "mest":
        return links - final
    zeta = 0.3 if method == "set" else 0.15 * (1 + math.cos(math.pi * p))
    return math.floor(zeta * links + 1e-9)


def last_update(method):
    return 27 if method in ("static", "set") else 21  # below 30, and up to 22.5


@layouts
@pytest.mark.parametrize(
    ("method", "optimizer"),
    [(m, o) for m in dst.METHODS for o in ("sgd", "adam")]
    + [(m, o) for m in ("chtss", "gmp") for o in OPTIMIZERS if o not in ("sgd", "adam")],
)
def test_conformance(method, optimizer, layout):
    by_sparsify = optimizer != "adam"  # else the evolver brings it to the method's start
    model, opt, evolver = start(method, optimizer, layout=layout, by_sparsify=by_sparsify)
    layers = sparse_layers(model)
    parameters = {n: layer.parameter for n, layer in layers.items()}
    last = last_update(method)
    assert evolver.last == last
    assert evolver.final == FINAL
    assert {n: x.links for n, x in layers.items()} == {n: links_wanted(method, n, 0) for n in FINAL}
    total = dict.fromkeys(("thinned", "removed", "percolated", "grown"), 0)
    stored = {n: torch.zeros(layer.out_features, layer.in_features) for n, layer in layers.items()}
    frozen, updates, recalled = set(), [], 0
    for step in range(1, TOTAL + 1):
        train(model, opt)
        before = {n: layer.adjacency for n, layer in layers.items()}
        if step % EVERY or step > last:
            assert evolver.step() is None
            assert all(equal(layers[n].adjacency, a) for n, a in before.items())
            continue
        states = {n: state_of(layer, opt) for n, layer in layers.items()}
        update = evolver.step()
        assert update.step == step
        updates.append(step)
        p = step / last
        for n, layer in layers.items():
            record = update.layers[n]
            assert layer.parameter is parameters[n]
            assert layer.links == record.links == links_wanted(method, n, p)  # exact, always
            adjacency = layer.adjacency
            assert topo.as_adjacency(adjacency) is adjacency  # canonical
            if method != "gmp":  # where recalled links make room, too
                assert record.thinned == before[n].nnz - links_wanted(method, n, p)
            removed = links_removed(method, links_wanted(method, n, p), FINAL[n], p)
            assert record.removed == (0 if n in frozen else removed)
            for what in total:
                total[what] += getattr(record, what)
            # What is there before and after keeps everything, bit for bit; what is new starts at
            # 0, or at the weight that it had when it was thinned, if the method recalls links.
            old, new = torch.from_numpy(before[n].toarray()), where(layer)
            after = state_of(layer, opt)
            assert after.keys() == states[n].keys() > {"weight", "grad"}
            stored[n] = torch.where(old & ~new, states[n]["weight"], stored[n])
            for key, tensor in states[n].items():
                expected = tensor * (old & new)
                if key == "weight" and method == "gmp":
                    expected += stored[n] * (new & ~old)
                    recalled += int((stored[n] * (new & ~old)).count_nonzero())
                assert torch.equal(after[key], expected)
            if record.frozen:
                frozen.add(n)
    assert updates == list(range(EVERY, last + 1, EVERY))
    assert {n: layer.links for n, layer in layers.items()} == FINAL
    # it does what it is for
    thins = method in ("mest", "chtss", "gmp", "granet", "chts_gmp")
    percolates = method in ("cht", "chts", "chtss", "chts_gmp")
    assert (total["thinned"] > 0) == thins
    assert (total["removed"] > 0) == (method not in ("static", "gmp"))
    assert (total["percolated"] > 0) <= percolates
    assert (total["grown"] > 0) == (method != "static")
    assert (recalled > 0) == (method == "gmp")


# the record and the history


def percolated_copy(first, second, fixed=()):
    """Dense topologies of the two layers without the links of inactive hidden neurons."""
    first, second = first.copy(), second.copy()
    while True:
        dead = ~(first.any(1) & second.any(0))
        left = first.sum() + second.sum()
        if "0" not in fixed:
            first[dead] = False
        if "2" not in fixed:
            second[:, dead] = False
        if first.sum() + second.sum() == left:
            return {"0": first, "2": second}


@pytest.mark.parametrize("method", VARIANTS)
def test_record_and_history_tell_what_happened(method, tmp_path):
    model, opt, evolver = start(method, density=0.1, history=tmp_path / "h")
    percolates = VARIANTS[method].percolates
    layers = sparse_layers(model)
    records, networks = {}, {0: {n: layer.adjacency.toarray() for n, layer in layers.items()}}
    for step in range(1, TOTAL + 1):
        update = iterate(model, opt, evolver)
        if update is not None:
            records[step] = update
            networks[step] = {n: layer.adjacency.toarray() for n, layer in layers.items()}
    history = topo.History.open(tmp_path / "h")
    assert history.steps == [0, *records]
    events = dict(iter(history.events().groupby(["step", "layer", "event"])))
    table = history.updates().set_index(["step", "layer"])
    ever = {n: a.copy() for n, a in networks[0].items()}
    frozen = set()
    percolated = 0
    for before, step in itertools.pairwise(networks):
        update = records[step]
        found = history.at(step)
        assert all(np.array_equal(found.layers[n].toarray(), a) for n, a in networks[step].items())
        masks = {n: {} for n in layers}
        for n, layer in layers.items():
            for event in ("thinned", "removed", "percolated", "grown"):
                mask = np.zeros((layer.out_features, layer.in_features), dtype=bool)
                if (step, n, event) in events:
                    rows = events[step, n, event]
                    mask[rows["row"], rows["column"]] = True
                masks[n][event] = mask
        remaining, left = {}, {}
        for n, mask in masks.items():
            old, new, record = networks[before][n], networks[step][n], update.layers[n]
            assert {w: m.sum() for w, m in mask.items()} == {w: getattr(record, w) for w in mask}
            assert record.links == new.sum()
            went = record.thinned + record.removed + record.percolated
            assert record.links == old.sum() - went + record.grown
            gone = mask["removed"] | mask["percolated"]
            assert not (mask["thinned"] & gone).any()
            assert not (mask["removed"] & mask["percolated"]).any()
            assert not ((mask["thinned"] | gone) & ~old).any()
            remaining[n] = old & ~mask["thinned"] & ~mask["removed"]
            left[n] = remaining[n] & ~mask["percolated"]
            assert not (left[n] & mask["grown"]).any()  # no present link grows
            assert np.array_equal(left[n] | mask["grown"], new)
            if not VARIANTS[method].recalls:  # else links that came back may be removed at once
                overlap = (mask["grown"] & gone).sum() / record.grown if record.grown else math.nan
                assert record.overlap == pytest.approx(overlap, nan_ok=True)
            ever[n] |= new
            assert record.itop_rate == ever[n].mean()
            assert record.frozen == (n in frozen or record.overlap > VARIANTS[method].stop_overlap)
            if n in frozen:
                assert record.removed == record.percolated == record.grown == 0
            row = table.loc[(step, n)]
            for column in ("links", *mask, "frozen", "overlap"):
                assert row[column] == pytest.approx(getattr(record, column), nan_ok=True)
            assert row["active_neuron_rate"] == update.active_neuron_rate
        fixed_point = percolated_copy(remaining["0"], remaining["2"], frozen)
        if percolates and not VARIANTS[method].recalls:
            assert all(np.array_equal(left[n], fixed_point[n]) for n in left)
            percolated += sum(record.percolated for record in update.layers.values())
        elif not percolates:
            assert all(np.array_equal(left[n], remaining[n]) for n in left)
        active = percolated_copy(networks[step]["0"], networks[step]["2"])
        first, second = active["0"], active["2"]
        neurons = first.any(0).sum() + second.any(0).sum() + second.any(1).sum()
        assert update.active_neuron_rate == neurons / (12 + 20 + 16)
        rates = [ever[n].sum() for n in layers]
        assert update.itop_rate == sum(rates) / sum(CELLS.values())
        assert update.resized == tuple(
            n for n in layers if networks[before][n].sum() != networks[step][n].sum()
        )
        assert update.seconds.keys() == {"thin", "remove", "percolate", "regrow"}
        assert f"step {step}: " in str(update)
        frozen |= {n for n in layers if update.layers[n].frozen}
    assert bool(percolated) == (percolates and not VARIANTS[method].recalls)
    if method == "cht that stops early":
        assert frozen


# the same run


@pytest.mark.parametrize("method", VARIANTS)
def test_both_layouts_evolve_alike(method):
    runs = []
    for layout in ("csr", "masked"):
        model, opt, evolver = start(method, "adamw-fused", layout=layout, dtype=torch.float64)
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


@pytest.mark.parametrize("method", dst.METHODS)
def test_the_same_seed_gives_the_same_run_whatever_the_global_generators(method):
    runs = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        model, optimizer, evolver = start(method, seed=seed)
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        for _ in range(13):
            iterate(model, optimizer, evolver)
        runs.append((dst.network(model), [p.detach().clone() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1]))


@pytest.mark.parametrize("method", ["set", "chts", "chtss"])
def test_the_evolvers_seed_alone_changes_the_run(method):
    networks = []
    for seed in (0, 1):
        model, optimizer, evolver = start(method)
        evolver = dst.Evolver(model, optimizer, method, every=EVERY, total_steps=TOTAL, seed=seed)
        for _ in range(3):
            iterate(model, optimizer, evolver)
        networks.append(dst.network(model))
    assert networks[0] != networks[1]


@layouts
@pytest.mark.parametrize("method", VARIANTS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(method, layout, tmp_path):
    optimizer = "adam" if layout == "csr" else "sgd"
    model, opt, evolver = start(method, optimizer, layout=layout, history=tmp_path / "h")
    saved, told = {}, []
    for step in range(1, 23):
        update = iterate(model, opt, evolver)
        told += [] if update is None else [tell(update)]
        if step in (10, 11):  # between two updates, and right before one
            file = io.BytesIO()
            torch.save([part.state_dict() for part in (model, opt, evolver)], file)
            saved[step] = file.getvalue(), list(told)
    for step, (state, expected) in saved.items():
        other = start(method, optimizer, layout=layout, seed=0)
        history = topo.HistoryWriter.open(tmp_path / "h", step=step)
        options = {"every": EVERY, "total_steps": TOTAL, "history": history}
        resumed, opt2 = other[:2]
        evolver2 = dst.Evolver(resumed, opt2, VARIANTS[method], **options)
        states = torch.load(io.BytesIO(state), weights_only=True)
        for part, loaded in zip((resumed, opt2, evolver2), states):
            part.load_state_dict(loaded)
        assert evolver2.steps == step
        for _ in range(22 - step):
            update = iterate(resumed, opt2, evolver2)
            expected += [] if update is None else [tell(update)]
        assert expected == told
        assert dst.network(resumed) == dst.network(model)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters()))
        assert str(evolver2.state_dict()) == str(evolver.state_dict())
        networks = list(topo.History.open(tmp_path / "h").networks())
        assert [s for s, _ in networks] == list(range(0, 22, EVERY))
        assert networks[-1][1] == dst.network(model)


@layouts
def test_chts_learns(layout):
    options = {"every": 10, "total_steps": 200, "layout": layout}
    model, optimizer, evolver = start("chts", "adam", **options)
    first = F.cross_entropy(model(X), Y).item()
    for _ in range(200):
        iterate(model, optimizer, evolver)
    assert F.cross_entropy(model(X), Y).item() < 0.3 * first
