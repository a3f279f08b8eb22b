import io

import pytest
import torch
from torch.optim import lr_scheduler as lrs

from dst.iterative_warmup import IterativeWarmup, warmup_factor


def make(tensor=False, momentum=0.9):
    """Two groups with rates 1 and 0.5."""
    weights = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2)]
    rates = [torch.tensor(1.0), torch.tensor(0.5)] if tensor else [1.0, 0.5]
    groups = [{"params": [w], "lr": lr} for w, lr in zip(weights, rates)]
    return torch.optim.SGD(groups, momentum=momentum, foreach=False)


def step(optimizer):
    """One step with gradients of 1; the rates that it used."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    return rates


def run(optimizer, scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append(step(optimizer))
        scheduler.step()
    return rates


def weights(optimizer):
    return [group["params"][0].detach().clone() for group in optimizer.param_groups]


# by hand


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": 4, "steps": 2}, [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 1]),
        ({"every": 5, "steps": 4}, [0, 0.25, 0.5, 0.75, 1, 0, 0.25, 0.5, 0.75, 1, 0, 0.25]),
        # updates at 4 and 8: the ramp after 8 is the last
        ({"every": 4, "steps": 2, "last": 8}, [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 1, 1]),
        ({"every": 4, "steps": 2, "last": 0}, [0, 0.5, 1, 1, 1, 1, 1, 1]),
        ({"every": 3, "steps": 3, "last": 3}, [0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_a_constant_rate_by_hand(settings, expected):
    optimizer = make(momentum=0)
    before = weights(optimizer)
    rates = run(optimizer, IterativeWarmup(optimizer, **settings), len(expected))
    assert rates == [[x, 0.5 * x] for x in expected]
    moved = [float((b - a)[0]) for b, a in zip(before, weights(optimizer))]
    assert moved == pytest.approx([sum(expected), 0.5 * sum(expected)])  # the rates were used


def test_a_cosine_by_hand():
    # (1 + cos(pi t / 4)) / 2 = 1, 0.85, 0.5, 0.15, 0; times 0, 1/2, 1, 0, 1/2
    optimizer = make()
    cosine = lrs.CosineAnnealingLR(optimizer, T_max=4)
    rates = run(optimizer, IterativeWarmup(cosine, every=3, steps=2), 5)
    root = 2**-0.5
    expected = [0, 0.25 * (1 + root), 0.5, 0, 0]
    assert [r[0] for r in rates] == pytest.approx(expected, abs=1e-15)
    assert [r[1] for r in rates] == pytest.approx([x / 2 for x in expected], abs=1e-15)


def test_the_papers_ramp():
    factors = [warmup_factor(t, 100) for t in range(1000)]
    assert factors[:3] == factors[700:703] == [0, 0.05, 0.1]
    assert factors[19] == 0.95
    assert set(factors[20:100]) == {1}


# every schedule


def sequential(optimizer):
    first = lrs.LinearLR(optimizer, start_factor=0.1, total_iters=5)
    return lrs.SequentialLR(
        optimizer, [first, lrs.CosineAnnealingLR(optimizer, T_max=20)], milestones=[5]
    )


SCHEDULES = {
    "cosine": lambda o: lrs.CosineAnnealingLR(o, T_max=30),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, T_0=4),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "lambda": lambda o: lrs.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.9**t]),
    "sequential": sequential,
    "chained": lambda o: lrs.ChainedScheduler(
        [lrs.ExponentialLR(o, 0.95), lrs.LinearLR(o, start_factor=0.5, total_iters=6)]
    ),
    "one-cycle": lambda o: lrs.OneCycleLR(o, [1.0, 0.5], total_steps=40),
    "polynomial": lambda o: lrs.PolynomialLR(o, total_iters=30, power=2),
}


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_the_plain_one_times_the_factor(name, tensor):
    plain = make(tensor)
    rates = run(plain, SCHEDULES[name](plain), 25)
    optimizer = make(tensor)
    warmup = IterativeWarmup(SCHEDULES[name](optimizer), every=7, steps=3, last=14)
    held = [group["lr"] for group in optimizer.param_groups]
    for t in range(25):
        factor = warmup_factor(t, 7, 3, 14)
        now = [float(x) for x in warmup.get_last_lr()]
        assert now == step(optimizer)
        exact = [factor * rate for rate in rates[t]]
        assert now == (torch.tensor(exact).tolist() if tensor else exact)
        warmup.step()
    for group, twin, rate in zip(optimizer.param_groups, plain.param_groups, held):
        assert group["momentum"] == twin["momentum"]  # OneCycleLR moves it, too
        assert not tensor or group["lr"] is rate  # a compiled optimizer holds it


def test_reduce_on_plateau_takes_its_metrics():
    optimizer = make()
    warmup = IterativeWarmup(
        lrs.ReduceLROnPlateau(optimizer, factor=0.1, patience=0), every=4, steps=2
    )
    seen = []
    for metric in (1.0, 2.0, 3.0):  # an epoch of three steps each; it gets worse twice
        seen += [step(optimizer)[0] for _ in range(3)]
        warmup.step(metric)
    seen += [step(optimizer)[0] for _ in range(3)]
    plain = [1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    factors = [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0, 0.5, 1, 1]
    assert seen == pytest.approx([a * b for a, b in zip(plain, factors)])


def test_a_schedule_stepped_once_an_epoch_ramps_in_every_step():
    optimizer = make()
    warmup = IterativeWarmup(lrs.StepLR(optimizer, step_size=1, gamma=0.5), every=4, steps=4)
    seen = []
    for _ in range(2):
        seen += [step(optimizer)[0] for _ in range(6)]
        warmup.step()
    assert seen == [0, 0.25, 0.5, 0.75, 0, 0.25, 0.25, 0.375, 0, 0.125, 0.25, 0.375]
    assert warmup.optimizer_steps == 12


# resuming


ORDERS = ["optimizer first", "scheduler first", "optimizer before the scheduler is made"]


@pytest.mark.parametrize("at", [7, 9])
@pytest.mark.parametrize(
    ("name", "order"),
    # a new OneCycleLR overwrites the momentum that was loaded
    [(n, o) for n in SCHEDULES for o in ORDERS if (n, o) != ("one-cycle", ORDERS[2])],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, order, at):
    settings = {"every": 7, "steps": 5}
    optimizer = make()
    warmup = IterativeWarmup(SCHEDULES[name](optimizer), **settings)
    run(optimizer, warmup, at)
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), warmup.state_dict(), weights(optimizer)), file)
    file.seek(0)
    state, schedule, moved = torch.load(file, weights_only=True)
    rates = run(optimizer, warmup, 15)

    resumed = make()
    for group, weight in zip(resumed.param_groups, moved):
        group["params"][0].detach().copy_(weight)
    if order == ORDERS[2]:
        resumed.load_state_dict(state)
    again = IterativeWarmup(SCHEDULES[name](resumed), **settings)
    if order == ORDERS[0]:
        resumed.load_state_dict(state)
    again.load_state_dict(schedule)
    if order == ORDERS[1]:
        resumed.load_state_dict(state)
    assert again.get_last_lr() == schedule["last_lr"] == [g["lr"] for g in resumed.param_groups]
    assert run(resumed, again, 15) == rates
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(optimizer)))
    assert again.get_last_lr() == warmup.get_last_lr()


# what it is


def test_it_is_a_scheduler():
    optimizer = make()
    cycle = lrs.OneCycleLR(optimizer, 1.0, total_steps=9)
    warmup = IterativeWarmup(cycle, every=4, steps=2)
    assert isinstance(warmup, lrs.LRScheduler)
    assert warmup.optimizer is optimizer
    assert warmup.total_steps == 9
    assert warmup._step_count == cycle._step_count == 1
    warmup._step_count += 1
    assert cycle._step_count == 2
    assert not hasattr(warmup, "no_such")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be a positive integer, not 0"),
        ({"every": 100, "steps": 0}, "steps must be a positive integer, not 0"),
        ({"every": 10}, "a ramp of 20 steps does not end in the 10 between updates"),
        ({"every": 100, "last": -1}, "last must be an integer from 0, not -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        IterativeWarmup(make(), **settings)


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="no scheduler of torch, and no optimizer"):
        IterativeWarmup("cosine", every=100)
