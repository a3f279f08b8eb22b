"""Scenarios that take two ranks run in one launch of this file as a script, at the bottom."""

import contextlib
import copy
import gc
import itertools
import json
import os
import subprocess
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import dst
import topo
from dst.distributed import Ranks, released, wrappers

SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def make():
    return nn.Sequential(
        dst.SparseLinear(9, 6, density=0.3, layout="csr"),
        nn.ReLU(),
        dst.SparseLinear(6, 6, density=0.3, layout="csr", seed=1),
        nn.ReLU(),
        dst.SparseLinear(6, 2, density=0.8, layout="masked"),
    )


def topologies(step):
    """With more links each time."""
    return {
        name: topo.erdos_renyi(6, n_in, 0.3 + 0.04 * step, seed=step)
        for name, n_in in (("0", 9), ("2", 6))
    }


def batch(step, rows=8):
    return torch.randn(rows, 9, generator=torch.Generator().manual_seed(step))


def raises(error, match, function, *args):
    with pytest.raises(error, match=match):
        function(*args)


# the ranks


def test_alone():
    ranks = Ranks.of()
    assert (ranks.rank, ranks.size) == (0, 1)
    assert Ranks.of(model=nn.Linear(2, 2)) == ranks
    assert ranks.owners({"b": 1.0, "a": 2.0}) == {"b": 0, "a": 0}
    own = {"a": np.arange(3), "b": np.arange(0)}
    assert ranks.exchange(own, ["b", "a"], {"a": 0, "b": 0}) == {"b": own["b"], "a": own["a"]}
    tensor = torch.ones(2)
    ranks.mean_on_owner(tensor, 0)
    assert tensor.tolist() == [1.0, 1.0]
    ranks.agree(3, "it")
    with ranks.together():
        pass
    with pytest.raises(KeyError, match="mine"), ranks.together():
        raise KeyError("mine")


def test_work_is_shared_evenly_and_alike():
    random = np.random.default_rng(0)
    costs = {f"layer{i}": float(random.integers(1, 50)) for i in range(40)}
    costs["idle"] = 0.0
    shares = [Ranks(rank, 4).owners(costs) for rank in range(4)]
    shares.append(Ranks(0, 4).owners(dict(reversed(costs.items()))))
    assert all(share == shares[0] for share in shares)
    assert list(shares[0]) == list(costs)
    loads = [sum(costs[n] for n, r in shares[0].items() if r == rank) for rank in range(4)]
    assert max(loads) - min(loads) <= 2
    assert Ranks(0, 8).owners({"b": 1.0, "a": 1.0}) == {"b": 1, "a": 0}


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        ([5, 5, 6, 5], "on rank 2 is not what rank 0 has"),
        ([6, 5, 5, 5], "on rank 0 is not what rank 1 has"),
        ([5, 6, 6, 5], "on rank 1, 2 is not what rank 0 has"),
    ],
)
def test_disagreement_names_the_ranks(digests, message, monkeypatch):
    sent = []
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, group: sent.append(tensor))
    for rank, digest in enumerate(digests):
        with contextlib.suppress(RuntimeError):
            Ranks(rank, 4).agree(digest, "the topology")
    together = sum(tensor.clone() for tensor in sent)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, group: tensor.copy_(together))
    for rank, digest in enumerate(digests):
        raises(RuntimeError, message, Ranks(rank, 4).agree, digest, "the topology")


@scenario
def agreement(ranks):
    ranks.agree(2**70, "a large number")
    ranks.agree(b"\x00", "bytes")
    message = "the topology must be the same on all 2 ranks, but on rank 1 is not what rank 0 has"
    for _ in range(2):  # nobody is left waiting
        raises(RuntimeError, message, ranks.agree, ranks.rank, "the topology")
        ranks.agree(-1, "a number")


@scenario
def an_error_on_one_rank(ranks):
    def work(*fails):
        with ranks.together():
            if ranks.rank in fails:
                raise ValueError(f"layer 'ä' of {ranks.rank} is NaN")

    work()
    mine = f"^layer 'ä' of {ranks.rank} is NaN"
    for fails in (0, 1):
        if ranks.rank == fails:
            raises(ValueError, mine, work, fails)
        else:
            message = f"^rank {fails} raised ValueError: layer 'ä' of {fails} is NaN$"
            raises(RuntimeError, message, work, fails)
        work()
    raises(ValueError, mine, work, 0, 1)
    work()


@scenario
def exchange(ranks):
    names = list("cabd")
    arrays = {
        "a": np.array([2**62, -(2**62) - 1, 0]),
        "b": np.arange(0),
        "c": np.arange(5),
        "d": np.array([7]),
    }
    for share in itertools.product((0, 1), repeat=4):
        owners = dict(zip(names, share))
        own = {n: arrays[n] for n in names if owners[n] == ranks.rank}
        found = ranks.exchange(own, names, owners)
        assert list(found) == names
        for name in names:
            assert found[name].dtype == np.int64
            np.testing.assert_array_equal(found[name], arrays[name])
    nothing = {name: np.arange(0) for name in names}
    found = ranks.exchange(nothing, names, dict.fromkeys(names, 1))
    assert [len(found[name]) for name in names] == [0] * 4
    assert ranks.exchange({}, [], {}) == {}


@scenario
def mean_on_the_owner(ranks):
    for owner in (0, 1):
        tensor = torch.arange(6.0).view(2, 3) * (1 + 2 * ranks.rank)
        ranks.mean_on_owner(tensor, owner)
        if ranks.rank == owner:
            assert torch.equal(tensor, torch.arange(6.0).view(2, 3) * 2)


@scenario
def groups(ranks):
    one = distributed.new_group([1])
    if ranks.rank == 0:
        raises(ValueError, "process 0 is not in the process group", Ranks.of, one)
    else:
        assert Ranks.of(one).size == 1
    both = distributed.new_group([0, 1])
    wrapper = DistributedDataParallel(make(), process_group=both)
    for model in (wrapper, torch.compile(wrapper, backend="eager"), AveragedModel(make())):
        group = Ranks.of(model=model).group
        assert group is (both if wrappers(model) else distributed.group.WORLD)
    with released(wrapper):
        pass
    assert wrapper.process_group is both  # not the default one, which unpickling takes


# wrappers that let go


def plain(model):
    return DistributedDataParallel(model)


def compiled(model):
    return torch.compile(plain(model), backend="eager")


def of_compiled(model):
    return plain(torch.compile(model, backend="eager"))


def of_compiled_in_place(model):
    model.compile(backend="eager")
    return plain(model)


WRAPPED = {
    "plain": plain,
    "views": lambda m: DistributedDataParallel(m, gradient_as_bucket_view=True),
    "small_buckets": lambda m: DistributedDataParallel(m, bucket_cap_mb=1e-5),
    "static": lambda m: DistributedDataParallel(m, static_graph=True),
    "static_views": lambda m: DistributedDataParallel(
        m, static_graph=True, gradient_as_bucket_view=True
    ),
    "unused": lambda m: DistributedDataParallel(m, find_unused_parameters=True),
}


def train(ranks, wrap, *, set_to_none=True, micro=1, keep=False, held=None, steps=10):
    """On two ranks, with ever more links, against one process that sees the whole batch."""
    model = make()
    twin = copy.deepcopy(model)
    parallel = wrap(model)
    (wrapper,) = wrappers(parallel)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (parallel, twin)]
    for step in range(steps):
        if not keep or step % 4 == 3:  # gradients that stay add up across changes
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=set_to_none)
        for at in range(micro):
            x = batch(step * micro + at)
            last = at == micro - 1
            with contextlib.nullcontext() if last else wrapper.no_sync():
                out = parallel(x[ranks.rank :: 2])
                loss = out.square().mean()
                loss.backward()
            if held is not None:
                held.append((out, loss))
            twin(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 3 == 1:
            before = [p.grad.clone() for p in model[4].parameters()]
            new = topologies(step)
            with released(parallel):
                dst.rewire(parallel, new, optimizers[0])
            dst.rewire(twin, new, optimizers[1])
            for p, grad in zip(model[4].parameters(), before):
                assert torch.equal(p.grad, grad)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q)
            torch.testing.assert_close(p.grad, q.grad)
            for key in ("exp_avg", "exp_avg_sq", "step"):
                a, b = (o.state[w][key] for o, w in zip(optimizers, (p, q)))
                torch.testing.assert_close(a, b)
    both = [torch.cat([p.detach().flatten() for p in model.parameters()])] * 2
    both = [t.clone() for t in both]
    distributed.all_gather(both, both[ranks.rank].clone())
    assert torch.equal(*both)
    assert wrappers(parallel) == [wrapper]


for _name, _wrap in WRAPPED.items():

    def _train(ranks, wrap=_wrap):
        train(ranks, wrap)

    SCENARIOS[f"train_{_name}"] = _train


@scenario
def compiled_models(ranks):
    warnings.simplefilter("ignore")  # torch.compile's own
    for wrap in (compiled, of_compiled, of_compiled_in_place):
        train(ranks, wrap, held=[], steps=6)
        torch._dynamo.reset()


@scenario
def a_loop_that_holds_its_losses(ranks):
    for name in ("plain", "static_views", "unused"):
        train(ranks, WRAPPED[name], held=[])


@scenario
def micro_batches_without_synchronisation(ranks):
    for name in ("plain", "views"):
        train(ranks, WRAPPED[name], micro=3)


@scenario
def gradients_that_are_kept(ranks):
    for name in ("plain", "views"):
        train(ranks, WRAPPED[name], set_to_none=False)
        train(ranks, WRAPPED[name], keep=True)


@scenario
def communication_hooks_stay(ranks):
    calls = []

    def count(state, bucket):
        calls.append(state)
        return default_hooks.allreduce_hook(None, bucket)

    def wrap(model):
        wrapper = DistributedDataParallel(model)
        wrapper.register_comm_hook("state", count)
        return wrapper

    train(ranks, wrap, steps=6)
    assert calls == ["state"] * 6

    wrapper = DistributedDataParallel(make())
    wrapper._register_builtin_comm_hook(distributed.BuiltinCommHookType.FP16_COMPRESS)
    for _ in range(2):
        with released(wrapper):
            pass
        wrapper.zero_grad()
        wrapper(batch(ranks.rank)).square().mean().backward()
        grads = [p.grad for p in wrapper.parameters()]
        assert all(torch.equal(grad, grad.half().float()) for grad in grads)
        assert any(grad.any() for grad in grads)


@scenario
def an_error_while_released(ranks):
    wrapper = DistributedDataParallel(make())
    with pytest.raises(ValueError, match="not known"), released(wrapper):  # noqa: PT012
        dst.rewire(wrapper, {"0": topologies(3)["0"]})
        raise ValueError("not known")
    twin = copy.deepcopy(wrapper.module)
    wrapper(batch(0)[ranks.rank :: 2]).square().mean().backward()
    twin(batch(0)).square().mean().backward()
    for p, q in zip(wrapper.module.parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What each rank said of each scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    processes, errors = [], [folder / f"{rank}.err" for rank in range(2)]
    for rank, file in enumerate(errors):
        with file.open("w") as stderr:
            command = [sys.executable, __file__, str(folder), str(rank)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, env=environment, stderr=stderr))
    try:
        for process in processes:
            process.wait(timeout=300)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    files = [folder / f"{rank}.jsonl" for rank in range(2)]
    lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
    return [dict(json.loads(line) for line in each) for each in lines], [
        file.read_text() for file in errors
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks(name, reports):
    for rank, (said, stderr) in enumerate(zip(*reports)):
        assert said.get(name, f"was not reached:\n{stderr}") == "fine", f"rank {rank}"


# in one process


@pytest.fixture
def group(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    gc.collect()  # a wrapper that outlives its group may hang
    distributed.destroy_process_group()


def test_the_wrapper_stays_what_it_was(group):
    model = make()
    wrapper = DistributedDataParallel(model)
    seen = []
    wrapper.register_forward_pre_hook(lambda *_: seen.append("before"))
    wrapper.register_forward_hook(lambda *_: seen.append("after"))
    wrapper.register_full_backward_hook(lambda *_: seen.append("back"))
    wrapper.register_buffer("own", torch.ones(1))
    wrapper.tag = "mine"
    wrapper.eval()
    wrapper._has_rebuilt_buckets = True  # as after some steps
    names = set(vars(wrapper))
    with released(wrapper):
        dst.rewire(wrapper, topologies(5))
    assert not wrapper._has_rebuilt_buckets
    assert set(vars(wrapper)) - {"_static_graph_delay_allreduce_enqueued"} == names
    assert wrapper.module is model
    assert (wrapper.tag, wrapper.training, wrapper.own.item()) == ("mine", False, 1.0)
    assert not model[0].training
    wrapper(batch(0).requires_grad_()).sum().backward()
    assert seen == ["before", "after", "back"]
    state = copy.deepcopy(wrapper.state_dict())
    assert {k.removeprefix("module.") for k in state} == {*model.state_dict(), "own"}


@pytest.mark.parametrize("of", ["wrapper", "model"])
def test_an_average_follows(group, of):
    """An average of a wrapper holds a wrapper of its own."""
    model = make()
    wrapper = DistributedDataParallel(model)
    ema = AveragedModel(wrapper if of == "wrapper" else model)
    assert len(wrappers(wrapper, ema, wrapper)) == (2 if of == "wrapper" else 1)
    with released(wrapper, ema):
        dst.rewire(wrapper, topologies(5), followers=[ema])
    ema.update_parameters(wrapper if of == "wrapper" else model)
    torch.testing.assert_close(ema(batch(0)), wrapper(batch(0)))


def test_wrappers_inside_a_model(group):
    part = nn.Linear(2, 9)
    model = nn.ModuleList([DistributedDataParallel(part), DistributedDataParallel(make())])
    assert wrappers(model) == list(model)
    with released(model):
        for wrapper in model:
            assert not hasattr(wrapper, "reducer")
        dst.rewire(model[1], topologies(5))
    model[1](model[0](torch.ones(3, 2))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def half(model):
    wrapper = plain(model)
    wrapper.mixed_precision = "on"  # torch cannot make one on a CPU
    return wrapper


def delayed(model):
    named = [("4.weight", model[4].weight)]
    return DistributedDataParallel(
        model, delay_all_reduce_named_params=named, param_to_hook_all_reduce=model[4].bias
    )


def in_backward(model):
    with warnings.catch_warnings():  # what torch imports is deprecated
        warnings.simplefilter("ignore")
        from torch.distributed.optim import _apply_optimizer_in_backward
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.0})
    return plain(model)


def power(model):
    wrapper = plain(model)
    state = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2)
    wrapper.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return wrapper


def python_reducer(model):
    with torch._dynamo.config.patch(optimize_ddp="python_reducer"):
        return plain(model)


def frozen(model):
    wrapper = plain(model)
    model[4].weight.requires_grad_(False)
    return wrapper


def thawed(model):
    model[4].weight.requires_grad_(False)
    wrapper = plain(model)
    model[4].weight.requires_grad_(True)
    return wrapper


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (half, "mixed_precision.*use torch.autocast, or use layout='masked'"),
        (delayed, "delay_all_reduce_named_params.*let it reduce all parameters alike"),
        (in_backward, "an optimizer in the backward pass.*step it in the loop"),
        (power, "the PowerSGD hook.*fp16_compress_hook"),
        (python_reducer, "python_reducer.*set it to False before wrapping"),
        (frozen, "5 parameters in a DDP wrapper need a gradient, 6 did when it was made"),
        (thawed, "6 parameters in a DDP wrapper need a gradient, 5 did when it was made"),
        (compiled, "optimize_ddp = False before the first step"),
        (of_compiled, "optimize_ddp = False before the first step"),
        (of_compiled_in_place, "optimize_ddp = False before the first step"),
    ],
)
def test_what_cannot_follow_is_refused_before_anything_changes(wrap, message, group):
    fine = DistributedDataParallel(make())
    model = nn.ModuleList([fine, wrap(make())])
    reducers = [wrapper.reducer for wrapper in wrappers(model)]
    with pytest.raises(ValueError, match=message), released(model):
        pytest.fail("was not refused")
    assert [wrapper.reducer for wrapper in wrappers(model)] == reducers


def test_within_join(group):
    wrapper = DistributedDataParallel(make())
    with wrapper.join():
        for step in range(3):
            wrapper(batch(0)).sum().backward()
            with released(wrapper):
                dst.rewire(wrapper, topologies(step))


def test_without_release_a_wrapper_holds_on(group):
    wrapper = DistributedDataParallel(make())
    with pytest.raises(ValueError, match="a DDP wrapper"):
        dst.rewire(wrapper, topologies(5))
    with released(wrapper):
        dst.rewire(wrapper, topologies(5))


def work():
    warnings.simplefilter("error")
    torch._dynamo.config.optimize_ddp = False
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    store = f"file://{folder / 'store'}"  # no port that others may want
    soon = timedelta(seconds=120)
    distributed.init_process_group("gloo", store, timeout=soon, rank=rank, world_size=2)
    ranks = Ranks.of()
    with (folder / f"{rank}.jsonl").open("w") as report:
        for name, function in SCENARIOS.items():
            said = "fine"
            try:
                with warnings.catch_warnings():
                    function(ranks)
            except BaseException:
                said = traceback.format_exc()
            print(json.dumps([name, said]), file=report, flush=True)
            if said != "fine":
                sys.exit(1)
            gc.collect()
    distributed.destroy_process_group()


if __name__ == "__main__":
    work()
