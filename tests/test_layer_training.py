"""Sparse layers in everything that a torch training loop does with its model."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

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
kinds = pytest.mark.parametrize(
    ("layout", "dtype"), LAYOUTS, ids=[f"{n}-{str(d)[6:]}" for n, d in LAYOUTS]
)
layouts = pytest.mark.parametrize("layout", ["csr", "masked"])


def make(layout="csr", dtype=torch.float64, density=0.4, seed=0):
    options = {"density": density, "layout": layout, "seed": seed}
    return nn.Sequential(
        dst.SparseLinear(9, 8, **options),
        nn.GELU(),
        nn.LayerNorm(8),
        dst.SparseLinear(8, 4, bias=False, **options),
    ).to(dtype)


def data(dtype=torch.float64, seed=0, rows=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 9, generator=generator, dtype=torch.float64).to(dtype)


def loss_of(model, x):
    return model(x).float().square().sum()


def adjacencies(model):
    return {n: m.adjacency for n, m in model.named_modules() if isinstance(m, dst.SparseLinear)}


def same(a, b):
    """Same topology, parameters, outputs and gradients, all bit for bit."""
    assert dst.network(a, ()) == dst.network(b, ())
    x = data(next(a.parameters()).dtype)
    a, b = copy.deepcopy(a), copy.deepcopy(b)
    assert torch.equal(a(x), b(x))
    for model in (a, b):
        model.zero_grad()
        loss_of(model, x).backward()
    for (name, p), (other, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
    return True


# steps


@kinds
def test_two_backward_passes_are_that_of_the_sum(layout, dtype):
    model = make(layout, dtype)
    twin = copy.deepcopy(model)
    first, second = data(dtype, 1), data(dtype, 2)
    for x in (first, second):
        loss_of(model, x).backward()
    (loss_of(twin, first) + loss_of(twin, second)).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@kinds
@pytest.mark.parametrize("foreach", [True, False])
def test_gradients_are_clipped_by_the_norm_of_the_links(layout, dtype, foreach):
    model = make(layout, dtype)
    loss_of(model, data(dtype)).backward()
    grads = [p.grad.double().flatten() for p in model.parameters()]
    expected = torch.cat(grads).norm()
    before = [p.grad.clone() for p in model.parameters()]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5, foreach=foreach)
    tolerance = {"rtol": 2e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(norm.double(), expected, **tolerance, check_dtype=False)
    for p, grad in zip(model.parameters(), before):
        torch.testing.assert_close(p.grad, grad * (0.5 / expected).to(dtype), **tolerance)
    nn.utils.clip_grad_value_(model.parameters(), 0.01)
    assert all(p.grad.abs().max() <= 0.01 for p in model.parameters())


@layouts
def test_a_scaler_skips_a_step_that_overflows_also_after_a_change_of_links(layout):
    model = make(layout, torch.float32)
    twin = copy.deepcopy(model)
    new = {"0": topo.erdos_renyi(8, 9, 0.6, seed=3), "3": topo.erdos_renyi(4, 8, 0.2, seed=3)}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1)
    x = data(torch.float32)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, twin)]
    for step in range(4):
        for m, optimizer, scaled in zip((model, twin), optimizers, (True, False)):
            optimizer.zero_grad()
            loss = loss_of(m, x)
            (scaler.scale(loss) if scaled else loss).backward()
            if scaled:
                if step == 2:
                    m[0].parameter.grad.view(-1)[m[0].adjacency.indices[0]] = float("inf")
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(m.parameters(), 100.0)
                scaler.step(optimizer)
                scaler.update()
            elif step != 2:
                nn.utils.clip_grad_norm_(m.parameters(), 100.0)
                optimizer.step()
            if step == 1:
                dst.rewire(m, new, optimizer)
        torch.testing.assert_close(list(model.parameters()), list(twin.parameters()))
    assert scaler.get_scale() == 2.0**10  # grew three times, halved once


@layouts
def test_a_scheduler_and_groups_added_later_keep_the_parameter(layout):
    model = make(layout)
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.1)
    optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.2, "weight_decay": 0.0})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for density in (0.5, 0.9, 0.1):
        before = [p.detach().clone() for p in held]
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        optimizer.step()
        scheduler.step()
        assert all(not torch.equal(p, b) for p, b in zip(held, before, strict=True))
        dst.rewire(model, {"0": topo.erdos_renyi(8, 9, density, seed=1)}, optimizer)
        dst.rewire(model, {"3": topo.erdos_renyi(4, 8, density, seed=1)}, optimizer)
        assert [p for group in optimizer.param_groups for p in group["params"]] == held
        assert {id(p) for p in held} < {id(p) for p in model.parameters()}
    assert [group["lr"] for group in optimizer.param_groups] == [0.0125, 0.025]


# copies


def torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": torch_save,
    "rewired": lambda m: rewired(copy.deepcopy(m)),
}


def rewired(model):
    for density in (0.9, 0.4):
        dst.rewire(model, {"0": topo.erdos_renyi(8, 9, density, seed=1)})
    return model


@kinds
@pytest.mark.parametrize("start", [lambda m: m, rewired], ids=["new", "rewired"])
@pytest.mark.parametrize("clone", list(COPIES.values())[:3], ids=list(COPIES)[:3])
def test_copies_are_equal_and_apart(layout, dtype, start, clone):
    model = start(make(layout, dtype))
    model[0].parameter.tag = "mine"
    loss_of(model, data(dtype)).backward()
    twin = clone(model)
    assert same(model, twin)
    before, links = copy.deepcopy(model.state_dict()), adjacencies(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    dst.rewire(twin, {"0": topo.erdos_renyi(8, 9, 0.7, seed=5)})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert adjacencies(model)["0"].nnz == links["0"].nnz != adjacencies(twin)["0"].nnz


@layouts
def test_a_copy_of_a_copy_trains_on_its_own(layout):
    model = make(layout)
    ema = copy.deepcopy(AveragedModel(copy.deepcopy(model)))
    assert same(ema.module, model)
    shared = copy.copy(model)  # shallow, as functional_call and torch.func make
    assert shared[0] is model[0]


# state


def assigned(model, state):
    return model.load_state_dict(state, assign=True)


LOADS = {"copied": nn.Module.load_state_dict, "assigned": assigned}


@kinds
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("density", [0.4, 0.7, 0.2])
def test_a_state_brings_its_topology(layout, dtype, load, density):
    source, target = make(layout, dtype), make(layout, dtype, density, seed=1)
    assert dst.network(source, ()) != dst.network(target, ())
    loss_of(target, data(dtype)).backward()  # gradients of other links
    held = list(target.parameters())
    result = load(target, copy.deepcopy(source.state_dict()))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert same(source, target)
    if load is not assigned:
        assert all(p is q for p, q in zip(target.parameters(), held, strict=True))
    for p in target.parameters():
        assert p.requires_grad
        assert p.grad is None or p.grad.shape == p.shape


@layouts
def test_a_state_in_half_precision_or_with_long_indices_is_converted(layout):
    source, target = make(layout, torch.float32), make(layout, torch.float32, 0.7, seed=1)
    state = source.state_dict()
    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
    state = {k: v.long() if "ind" in k else v for k, v in state.items()}
    target.load_state_dict(state)
    assert same(source.bfloat16().float(), target)


@layouts
def test_a_run_resumes_with_an_optimizer_that_exists_already(layout):
    def train(model, optimizer, steps):
        for seed in range(steps):
            optimizer.zero_grad()
            loss_of(model, data(seed=seed)).backward()
            optimizer.step()

    model, resumed = make(layout), make(layout, density=0.7, seed=1)
    optimizer, other = (torch.optim.Adam(m.parameters(), lr=0.1) for m in (model, resumed))
    train(model, optimizer, 3)
    train(resumed, other, 2)
    dst.rewire(model, {"0": topo.erdos_renyi(8, 9, 0.9, seed=7)}, optimizer)
    saved = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), saved)
    saved.seek(0)
    states = torch.load(saved, weights_only=True)  # plain tensors, nothing to trust
    resumed.load_state_dict(states[0])
    other.load_state_dict(states[1])
    for m, o in ((model, optimizer), (resumed, other)):
        train(m, o, 3)
    assert same(model, resumed)


@layouts
def test_what_a_state_holds(layout):
    model = make(layout)
    keys = {"csr": ["values", "bias", "indptr", "indices"], "masked": ["weight", "bias", "mask"]}
    own = [k for k in model.state_dict() if k.startswith("0.")]
    assert sorted(own) == sorted(f"0.{k}" for k in keys[layout])
    assert model.state_dict(keep_vars=True)[own[0]] is model[0].parameter
    # torch's own convention: a state shares memory with the parameters
    assert model.state_dict()[own[0]].data_ptr() == model[0].parameter.data_ptr()


def test_writing_into_a_state_cannot_corrupt_the_links_of_a_layer():
    # averages are often computed in place over state_dict().values(); kernels trust the indices
    model = make("csr")
    twin = copy.deepcopy(model)
    for key, tensor in model.state_dict().items():
        if key.endswith(("indptr", "indices")):
            tensor.fill_(10**6)
    assert dst.network(model, ()) == dst.network(twin, ())


def test_a_loaded_layer_does_not_hold_on_to_the_state():
    source, target = make("csr"), make("csr", density=0.7, seed=1)
    state = {k: v.clone() for k, v in source.state_dict().items()}
    target.load_state_dict(state)
    for tensor in state.values():
        tensor.zero_()
    assert same(source, target)


def change(key, function):
    return lambda state: {k: function(v.clone()) if k == key else v for k, v in state.items()}


def put(index, value):
    def write(tensor):
        tensor[index] = value
        return tensor

    return write


def without(*keys):
    return lambda state: {k: v for k, v in state.items() if k not in keys}


DAMAGED = {
    "csr": {
        "an index too large": change("0.indices", put(0, 99)),
        "an index just too large": change("0.indices", put(-1, 9)),
        "a negative index": change("0.indices", put(0, -1)),
        "an index of 64 bits": change("0.indices", lambda t: t.long() + 2**32),
        "an index that is no number": change("0.indices", lambda t: t.double() * float("nan")),
        "fractional indices": change("0.indices", lambda t: t + 0.5),
        "a link twice": change("0.indices", torch.zeros_like),
        "too few indices": change("0.indices", lambda t: t[:-1]),
        "too many indices": change("0.indices", lambda t: t.repeat(2)),
        "indices in two dimensions": change("0.indices", lambda t: t[None]),
        "indices without memory": change("0.indices", lambda t: t.to("meta")),
        "pointers that end early": change("0.indptr", put(-1, 3)),
        "pointers that go back": change("0.indptr", put(1, 99)),
        "negative pointers": change("0.indptr", put(1, -5)),
        "pointers that start late": change("0.indptr", put(0, 2)),
        "too few pointers": change("0.indptr", lambda t: t[:3]),
        "too many pointers": change("0.indptr", lambda t: torch.cat([t, t[-1:]])),
        "too few values": change("0.values", lambda t: t[:-1]),
        "too many values": change("0.values", lambda t: t.repeat(2)),
        "values in two dimensions": change("0.values", lambda t: t[None]),
        "no values": without("0.values"),
        "no pointers": without("0.indptr"),
        "no indices": without("0.indices"),
        "no layer": without("0.values", "0.indptr", "0.indices"),
    },
    "masked": {
        "no mask": without("0.mask"),
        "no weight": without("0.weight"),
        "a mask too small": change("0.mask", lambda t: t[:3]),
        "a weight too small": change("0.weight", lambda t: t[:3]),
        "a mask in one dimension": change("0.mask", torch.flatten),
    },
}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    ("layout", "damage"), [(layout, name) for layout in DAMAGED for name in DAMAGED[layout]]
)
def test_a_damaged_state_is_refused_and_changes_nothing_of_the_layer(layout, damage, assign):
    model, source = make(layout), make(layout, density=0.6, seed=1)
    before = copy.deepcopy(model[0].state_dict())
    parameter = model[0].parameter
    with pytest.raises((RuntimeError, ValueError), match=r"0|meta"):
        model.load_state_dict(DAMAGED[layout][damage](source.state_dict()), assign=assign)
    after = model[0].state_dict()
    assert after.keys() == before.keys()
    for key in before.keys() - {"bias"}:  # that of a bias is torch's own affair
        assert torch.equal(after[key], before[key])
    assert model[0].parameter is parameter
    loss_of(model, data()).backward()


@layouts
@pytest.mark.parametrize("strict", [True, False])
def test_missing_and_unexpected_keys_are_named(layout, strict):
    name, links = {"csr": ("values", "indices"), "masked": ("weight", "mask")}[layout]
    model, source = make(layout), make(layout, seed=1)
    for key in (name, links):
        state = {**source.state_dict(), "0.strange": torch.ones(1)}
        del state[f"0.{key}"]
        twin = copy.deepcopy(model)
        if strict:
            with pytest.raises(RuntimeError, match=rf'Missing key.*"0\.{key}"(.|\n)*"0\.strange"'):
                twin.load_state_dict(state)
        else:
            result = twin.load_state_dict(state, strict=False)
            assert f"0.{key}" in result.missing_keys
            assert result.unexpected_keys == ["0.strange"]
        assert (twin[0].adjacency != model[0].adjacency).nnz == 0
        assert torch.equal(twin[0].link_values(), model[0].link_values())
        assert (twin[3].adjacency != source[3].adjacency).nnz == 0  # another layer loads


def test_states_of_the_other_layout_are_refused():
    for layout, other in (("csr", "masked"), ("masked", "csr")):
        with pytest.raises(RuntimeError, match="Missing key"):
            make(layout).load_state_dict(make(other).state_dict())


def test_a_masked_state_with_weights_off_the_links_is_cleaned():
    model, state = make("masked"), make("masked", seed=1).state_dict()
    state["0.weight"] = torch.where(state["0.mask"], state["0.weight"], torch.nan)
    model.load_state_dict(state)
    assert not model[0].weight[~model[0].mask].any()
    assert same(model, make("masked", seed=1))


@kinds
def test_safetensors(layout, dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = rewired(make(layout, dtype))
    path = tmp_path / "model.safetensors"
    safetensors.save_model(model, path)
    target = make(layout, dtype, density=0.8, seed=1)
    missing, unexpected = safetensors.load_model(target, path)
    assert not missing
    assert not unexpected
    assert same(model, target)
    safetensors.save_file(model.state_dict(), path)
    target = make(layout, dtype, density=0.1, seed=2)
    target.load_state_dict(safetensors.load_file(path))
    assert same(model, target)


# dtypes and devices


@layouts
@pytest.mark.parametrize("convert", [nn.Module.double, lambda m: m.to(torch.float64)])
def test_another_dtype_keeps_parameter_and_links(layout, convert):
    model = make(layout, torch.float32)
    held, links = list(model.parameters()), adjacencies(model)
    before = model[0].to_dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert convert(model) is model
    assert all(p is q for p, q in zip(model.parameters(), held, strict=True))
    assert all((a != links[n]).nnz == 0 for n, a in adjacencies(model).items())
    assert torch.equal(model[0].to_dense(), before.double())
    loss_of(model, data()).backward()
    optimizer.step()
    dst.rewire(model, {"0": topo.erdos_renyi(8, 9, 0.7, seed=3)}, optimizer)
    loss_of(model, data()).backward()


@kinds
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("density", [0.4, 0.7])
def test_a_model_on_the_meta_device_takes_a_state(layout, dtype, load, density):
    source, model = make(layout, dtype), make(layout, dtype, density, seed=1).to("meta")
    assert all(p.device.type == "meta" for p in model.parameters())
    assert f"layout={layout}" in repr(model)
    if load is not assigned:
        model.to_empty(device="cpu")
    load(model, copy.deepcopy(source.state_dict()))
    assert same(source, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dst.rewire(model, {"0": topo.erdos_renyi(8, 9, 0.7, seed=3)}, optimizer)
    loss_of(model, data(dtype)).backward()


@layouts
@pytest.mark.parametrize("by_meta", [True, False])
def test_a_model_without_a_state_after_to_empty_keeps_its_links(layout, by_meta):
    model = make(layout)
    links = adjacencies(model)
    (model.to("meta") if by_meta else model).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    if layout == "csr":  # masked: its mask is a buffer, and as empty as any
        assert all((a != links[n]).nnz == 0 for n, a in adjacencies(model).items())
    assert model(data()).shape == (6, 4)


def test_a_half_precision_model_comes_back():
    model = make("csr", torch.float32)
    with pytest.raises(ValueError, match="float32 or float64, not"):
        model.half()(data(torch.float16))
    assert model.float()(data(torch.float32)).shape == (6, 4)


@layouts
def test_shared_memory(layout):
    model = make(layout)
    twin = copy.deepcopy(model)
    assert model.share_memory() is model
    assert all(t.is_shared() for t in (*model.parameters(), *model.buffers()))
    assert same(model, twin)


@layouts
def test_functional_calls_and_hooks(layout):
    model = make(layout)
    seen = []
    model[0].register_forward_hook(lambda m, x, y: seen.append(y.shape))
    model[0].register_full_backward_hook(lambda m, gx, gy: seen.append(gy[0].shape))
    doubled = {n: 2 * p.detach() for n, p in model.named_parameters()}
    out = torch.func.functional_call(model, doubled, (data(),))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    torch.testing.assert_close(out, model(data()))
    model(data().requires_grad_()).sum().backward()
    assert seen == [(6, 8)] * 3 + [(6, 8)]


@layouts
def test_activation_checkpointing(layout):
    model, x = make(layout), data()
    twin = copy.deepcopy(model)
    loss_of(model, x).backward()
    out = torch.utils.checkpoint.checkpoint(twin, x, use_reentrant=False)
    out.float().square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_autocast_leaves_float64_as_it_is_for_a_dense_layer():
    layer = dst.SparseLinear(6, 4, density=0.5, layout="masked").double()
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    torch.testing.assert_close(out, layer(x))
