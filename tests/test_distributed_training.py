"""Training with DDP and an Evolver, on two ranks, against one process that sees all batches.

This file is also what torchrun launches, once for all tests: at the bottom. Each rank writes what
it saw of every scenario, and the tests compare.
"""

import contextlib
import os
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import dst
import dst.topology_update
import topo
from dst.graph import sparse_layers, unwrap
from topo.adjacency import link_keys

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, EVERY = 18, 2
SHAPES = {"0": (20, 12), "2": (16, 20), "4": (12, 16)}
OWNERS = {"0": 1, "2": 0, "4": 1}  # the largest is the first rank's
METHODS = {name: dst.METHODS[name] for name in ("chtss", "rigl", "mest", "gmp")}
METHODS["cht"] = replace(dst.METHODS["cht"], stop_overlap=0.5)
SCENARIOS = {}
scenario = lambda function: SCENARIOS.setdefault(function.__name__, function)  # noqa: E731


def make(method="chtss", layout="csr", seed=0):
    torch.manual_seed(seed)
    sizes = zip((12, 20, 16, 12), (20, 16, 12, 4))
    dense = nn.Sequential(*(m for size in sizes for m in (nn.Linear(*size), nn.ReLU())))
    options = {"exclude": "6", "layout": layout, "seed": seed}
    return dst.sparsify(dense[:-1].double(), 0.2, method=METHODS[method], **options)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def start(rank, method="chtss", layout="csr", states=None, **options):
    """A rank's model, its optimizer and evolver; rank None is one process alone."""
    model = make(method, layout)
    if states:
        model.load_state_dict(states[0])
        options["state"] = states[2]
    model = model if rank is None else DistributedDataParallel(model)
    optimizer = optimizer_of(model)
    if states:
        optimizer.load_state_dict(states[1])
    options = {"every": EVERY, "total_steps": STEPS} | options
    return model, optimizer, dst.Evolver(model, optimizer, METHODS[method], **options)


def learn(rank, model, optimizer, step, micro=1):
    """One optimizer step on a rank's share of the batches, or on all of them."""
    optimizer.zero_grad()
    own = slice(None) if rank is None else slice(rank, None, 2)
    for at in range(micro):
        random = torch.Generator().manual_seed(step * micro + at)
        x = torch.randn(16, 12, generator=random, dtype=torch.float64)
        y = (x[:, :3].sum(1) > 0).long() + 2 * (x[:, 3] > 0).long()
        waits = rank is not None and at < micro - 1
        with model.no_sync() if waits else contextlib.nullcontext():
            (F.cross_entropy(model(x[own]), y[own]) / micro).backward()
    optimizer.step()


def seen(model, optimizer):
    """All that the ranks are to have in common."""
    layers = sparse_layers(model).items()
    found = {f"links of {n}": torch.from_numpy(link_keys(layer.adjacency)) for n, layer in layers}
    for name, p in unwrap(model).named_parameters():
        found[name] = p.detach().clone()
        if p.grad is not None:
            found[f"gradient of {name}"] = p.grad.clone()
        for key, value in optimizer.state[p].items():
            found[f"{key} of {name}"] = value.clone()
    return found


def run(rank, parts, steps, micro=1):
    """Train; what there is after every step, the records, and the layers that were grown here."""
    model, optimizer, evolver = parts
    report = {"seen": [], "records": {}, "grown": {}}
    for step in steps:
        learn(rank, model, optimizer, step, micro)
        grow = dst.topology_update.grow
        with mock.patch("dst.topology_update.grow", wraps=grow) as watched:
            record = evolver.step()
        if record:
            report["records"][step] = record
            report["grown"][step] = [call.args[0].shape for call in watched.call_args_list]
        report["seen"].append(seen(model, optimizer))
    return report


def caught(function, *args):
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


TRAININGS = {
    f"{method}-{layout}-{micro}": (method, layout, micro)
    for method in METHODS
    for layout in ("csr", "masked")
    for micro in ((1, 2) if method in ("chtss", "rigl", "mest") else (1,))
}


def training(rank, name):
    method, layout, micro = TRAININGS[name]
    return run(rank, start(rank, method, layout), range(1, STEPS + 1), micro)


for _name in TRAININGS:
    SCENARIOS[_name] = lambda rank, folder, name=_name: training(rank, name)


@scenario
def a_history_and_an_average(rank, folder):
    """The average is on rank 0 alone, as one has it to evaluate."""
    model = DistributedDataParallel(make())
    optimizer = optimizer_of(model)
    averages = [AveragedModel(model.module)] if rank == 0 else []
    path = folder / "history" if rank == 0 else folder  # what is elsewhere does not matter
    options = {"every": EVERY, "total_steps": STEPS, "followers": averages}
    evolver = dst.Evolver(model, optimizer, "chtss", history=path, **options)
    evolver.snapshot()  # which all ranks may call
    networks = {0: dst.network(model)}
    for step in range(1, STEPS + 1):
        learn(rank, model, optimizer, step)
        evolver.step()
        for average in averages:
            average.update_parameters(model.module)
        networks[step] = dst.network(model)
    return evolver.history and path, networks, [dst.network(average) for average in averages]


@contextlib.contextmanager
def not_a_number(rank, model):
    """In a layer that rank 1 scores."""
    weight = model.module[0].parameter.data
    sound = weight.clone()
    weight[weight.nonzero()[3]] = torch.nan
    yield
    weight.copy_(sound)


@contextlib.contextmanager
def held_values(rank, model):
    """By rank 1, so that they cannot get another length there."""
    held = weakref.ref(model.module[4].parameter) if rank == 1 else None
    yield
    del held


def full_disk(*_):
    full = OSError("no space left on device")
    return mock.patch("topo.history_writer.write_part", side_effect=full)


def failing(rank, folder, spoil):
    """An update that fails, and training after it."""
    parts = model, optimizer, evolver = start(rank, history=folder / spoil.__name__)
    run(rank, parts, [1])
    learn(rank, model, optimizer, 2)
    with spoil(rank, model):
        before = seen(model, optimizer)
        error = caught(evolver.step)
        after = seen(model, optimizer)
    evolver.step()  # again
    return error, before, after, run(rank, parts, [3, 4, 5])


for _spoil in (not_a_number, held_values, full_disk):
    SCENARIOS[_spoil.__name__] = lambda rank, folder, spoil=_spoil: failing(rank, folder, spoil)


@scenario
def bad_histories(rank, folder):
    """The last one only rank 0 can see, in the first step."""
    with full_disk():
        first = caught(lambda: start(rank, history=folder / "none"))
    second = caught(lambda: start(rank, history=folder / "history"))
    other = topo.HistoryWriter(folder / f"other{rank}", dst.network(make(seed=1)))
    return first, second, caught(lambda: run(rank, start(rank, history=other), [1]))


@scenario
def ranks_that_differ(rank, folder):
    def errors(start_seed, method, layout, seed):
        model = DistributedDataParallel(make("rigl", layout, start_seed))
        optimizer = optimizer_of(model)
        evolver = dst.Evolver(model, optimizer, method, every=1, total_steps=9, seed=seed)
        return caught(run, rank, (model, optimizer, evolver), [1])

    return {
        "links": errors(rank, "rigl", "csr", 0),
        "links that the method adds": errors(0, "chtss", "csr", rank),
        "seed": errors(0, "rigl", "masked", rank),
        "masks, which DDP sends": errors(rank, "rigl", "masked", 0),
    }


@scenario
def other_weights(rank, folder):
    """Should they ever differ, the links do not."""
    parts = model, *_ = start(rank)
    for p in model.parameters():
        p.data.mul_(1 + rank * torch.rand_like(p))
    return run(rank, parts, range(1, 7))


@scenario
def resumed(rank, folder):
    """From what rank 0 saved, loaded before wrapping; and the run that went on."""
    found, later = {}, range(6, STEPS + 1)
    for layout in ("csr", "masked"):
        parts = model, optimizer, evolver = start(rank, "chtss", layout)
        run(rank, parts, range(1, 6))
        if rank == 0:
            states = model.module.state_dict(), optimizer.state_dict(), evolver.state_dict()
            torch.save(states, folder / f"{layout}.pt")
        distributed.barrier()
        states = torch.load(folder / f"{layout}.pt", weights_only=False)
        again = start(rank, "chtss", layout, states)
        found[layout] = [run(rank, parts, later), run(rank, again, later)]
    return found


@scenario
def wrappers_that_hold_values(rank, folder):
    model, optimizer, _ = start(rank)
    evolver = dst.Evolver(model.module, optimizer, "chtss", every=1, total_steps=9)
    evolving = caught(run, rank, (model, optimizer, evolver), [1])
    return evolving, caught(model.module.load_state_dict, make("rigl").state_dict())


class Branching(nn.Sequential):
    """A layer that not every batch passes, as an expert among others."""

    skips = False

    def forward(self, x):
        x = self[0](x)
        return self[2](x if self.skips else self[1](x))


@scenario
def a_layer_that_one_rank_does_not_reach(rank, folder):
    torch.manual_seed(0)
    layers = nn.Linear(12, 20), nn.Linear(20, 20), nn.Linear(20, 4)
    model = dst.sparsify(Branching(*layers).double(), 0.2, method="rigl", exclude="2")
    model = model if rank is None else DistributedDataParallel(model, find_unused_parameters=True)
    optimizer, found = optimizer_of(model), []
    evolver = dst.Evolver(model, optimizer, "rigl", every=2, total_steps=8)
    for step in range(6):
        x = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        for share in (shares := (0, 1) if rank is None else (rank,)):
            unwrap(model).skips = share == step % 4 // 2
            (model(x[share]).square().mean() / len(shares)).backward()
        optimizer.step()
        evolver.step()
        found.append(seen(model, optimizer))
    return found


# what the tests compare


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A function that gives what rank 0 and rank 1 said of a scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", __file__, str(folder)]
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **to) as process:
        try:
            output, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its ranks
            output = "took more than 300 s\n" + process.communicate()[0]

    def read(name):
        files = [folder / f"{name}-{rank}.pt" for rank in range(2)]
        if not all(file.exists() for file in files):
            pytest.fail(f"{name} was not finished by both ranks:\n{output}", pytrace=False)
        return [torch.load(file, weights_only=False) for file in files]

    return read


def assert_same(first, second):
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_equal_runs(first, second):
    logs = [  # without the seconds; as text, in which NaN is NaN
        {
            (at, n): repr(replace(x, seconds={}))
            for at, r in log.items()
            for n, x in r.layers.items()
        }
        for log in (first["records"], second["records"])
    ]
    assert logs[0] == logs[1]
    for a, b in zip(first["seen"], second["seen"], strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_ranks_are_one_process(name, reports):
    zero, one = reports(name)
    assert zero["records"].keys() == set(range(EVERY, max(zero["records"]) + 1, EVERY))
    assert_equal_runs(zero, one)
    method, alone = TRAININGS[name][0], training(None, name)
    assert zero["records"].keys() == alone["records"].keys()
    for mine, its in zip(zero["seen"], alone["seen"], strict=True):  # gradients, too
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)
    records = zero["records"].values()
    assert any(r.resized for r in records) == (method in ("chtss", "mest", "gmp"))
    frozen = any(layer.frozen for r in records for layer in r.layers.values())
    assert frozen == (method == "cht")


@pytest.mark.parametrize("name", [n for n in TRAININGS if n.endswith("-1")])
def test_each_layer_is_scored_by_one_rank(name, reports):
    both = reports(name)
    frozen = set()
    for step in both[0]["records"]:
        for rank, report in enumerate(both):
            layers = report["records"][step].layers
            own = {n for n, owner in OWNERS.items() if owner == rank}
            assert report["grown"][step] == [SHAPES[n] for n in SHAPES if n in own - frozen]
            for phase, names in {"thin": own, "remove": own - frozen}.items():
                assert names == {n for n, layer in layers.items() if layer.seconds[phase] > 0}
        frozen = {n for n, layer in layers.items() if layer.frozen}


def test_only_rank_0_writes_the_history(reports):
    (path, networks, averages), (none, others, _) = reports("a_history_and_an_average")
    assert none is None
    assert networks == others
    assert averages == [networks[STEPS]]
    history = topo.History.open(path)
    assert history.weight_steps == [0]
    assert len(history.steps) > 5
    for step in history.steps:
        assert history.at(step) == networks[step]
    assert networks[max(history.steps)] == networks[STEPS] != networks[0]


@pytest.mark.parametrize(
    ("name", "origin", "message"),
    [
        ("not_a_number", 1, "ValueError: layer '0' at step 2: 1 weights are NaN"),
        ("full_disk", 0, "OSError: no space left on device"),
        ("held_values", 1, "ValueError: layer '4': its values cannot get another length"),
    ],
)
def test_an_error_on_one_rank_stops_both_and_changes_nothing(name, origin, message, reports):
    both = reports(name)
    for rank, (error, before, after, _) in enumerate(both):
        others = "" if rank == origin else f"RuntimeError: rank {origin} raised "
        assert error.startswith(others + message)
        for key, tensor in before.items():
            torch.testing.assert_close(after[key], tensor, rtol=0, atol=0, equal_nan=True)
    assert_equal_runs(both[0][3], both[1][3])
    assert both[0][3]["records"][4].resized


def test_values_that_a_wrapper_holds_are_refused(reports):
    for evolving, loading in reports("wrappers_that_hold_values"):
        assert evolving.startswith("ValueError: layer '0': its values cannot get another length")
        assert "pass the wrapped model to the Evolver" in evolving
        assert "load a state before wrapping" in loading


def test_what_is_wrong_with_the_history_stops_both(reports):
    for error, others in zip(*reports("bad_histories"), strict=True):
        assert error.startswith(("OSError: no", "HistoryError: ", "ValueError: the history ends"))
        assert others == f"RuntimeError: rank 0 raised {error}"


def test_ranks_that_differ_are_noticed(reports):
    for errors in reports("ranks_that_differ"):
        assert errors.pop("masks, which DDP sends") == "nothing"
        assert len(errors) == 3
        for error in errors.values():
            assert error.startswith("RuntimeError: ")
            assert "must be the same on all 2 ranks, but on rank 1 is not what rank 0" in error


def test_ranks_of_other_weights_have_the_same_links(reports):
    zero, one = reports("other_weights")
    assert zero["records"][6].resized
    for mine, its in zip(zero["seen"], one["seen"], strict=True):
        assert not torch.equal(mine["6.weight"], its["6.weight"])
        for name in SHAPES:
            assert torch.equal(mine[f"links of {name}"], its[f"links of {name}"])


@pytest.mark.parametrize("layout", ["csr", "masked"])
def test_a_resumed_run_is_the_uninterrupted_one(layout, reports):
    both = [report[layout] for report in reports("resumed")]
    straight = both[0][0]
    assert straight["records"][6].resized
    for again in (*both[0], *both[1]):
        assert_equal_runs(straight, again)


def test_a_layer_that_one_rank_does_not_reach(reports):
    zero, one = reports("a_layer_that_one_rank_does_not_reach")
    alone = a_layer_that_one_rank_does_not_reach(None, None)
    for mine, its, expected in zip(zero, one, alone, strict=True):
        assert_same(mine, its)
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)
    assert not torch.equal(zero[-1]["links of 1"], zero[0]["links of 1"])


if __name__ == "__main__":
    warnings.simplefilter("error")
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    folder, rank = Path(sys.argv[1]), distributed.get_rank()
    for name, function in SCENARIOS.items():
        print(f"rank {rank} begins {name}", flush=True)
        torch.save(function(rank, folder), folder / f"{name}-{rank}.pt")
    distributed.destroy_process_group()
