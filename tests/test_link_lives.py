"""What a history says of its links: lives, turnover, ages, survival, links that ever existed."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis
import topo

TABLES = {
    "lifetimes": ["layer", "row", "column", "born", "died"],
    "turnover": ["step", "layer", "links", "lost", "grown", "turnover"],
    "link_ages": ["layer", "age", "links"],
    "survival": ["layer", "cohort", "age", "at_risk", "died", "survival"],
    "itop_rate": ["step", "layer", "itop_rate"],
}
FLOATS = {"died of lifetimes", "turnover of turnover", "survival of survival"} | {
    "itop_rate of itop_rate"
}


def rows(table):
    """A table as tuples of plain numbers, None for NaN."""
    return [
        tuple(None if value != value else value for value in row)
        for row in table.astype(object).itertuples(index=False, name=None)
    ]


@pytest.fixture
def history(tmp_path):
    """Two layers, three updates; "z" comes first, so that the order of names is not theirs.

    Layer z over time, a letter per link: ab, bc, bc (b removed and regrown), ac.
    """
    a, b, c = 0, 1, 2
    nets = [
        topo.Network({"z": z, "a": [[1], [1]]}, ())
        for z in ([[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 1, 1, 0]], [[1, 0, 1, 0]])
    ]
    nets[3] = nets[3].replace({"a": topo.as_adjacency([[0], [1]])})
    writer = topo.HistoryWriter(tmp_path / "topology", nets[0])
    writer.append(10, nets[1], {"z": {"removed": [a], "grown": [c]}})
    writer.append(30, nets[2], {"z": {"removed": [b], "grown": [b]}})
    writer.append(60, nets[3], {"z": {"percolated": [b], "grown": [a]}, "a": {"thinned": [0]}})
    return topo.History.open(tmp_path / "topology")


# solved by hand


def test_lifetimes_by_hand(history):
    assert rows(analysis.lifetimes(history)) == [
        ("z", 0, 0, 0, 10),
        ("z", 0, 1, 0, 60),  # regrown at once at 30: never gone
        ("z", 0, 2, 10, None),
        ("z", 0, 0, 60, None),  # returned: another life
        ("a", 0, 0, 0, 60),
        ("a", 1, 0, 0, None),
    ]


def test_turnover_by_hand(history):
    assert rows(analysis.turnover(history)) == [
        (10, "z", 2, 1, 1, 0.5),
        (10, "a", 2, 0, 0, 0.0),
        (30, "z", 2, 0, 0, 0.0),
        (30, "a", 2, 0, 0, 0.0),
        (60, "z", 2, 1, 1, 0.5),
        (60, "a", 2, 1, 0, 0.5),
    ]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, [("z", 0, 1), ("z", 50, 1), ("a", 60, 1)]),
        (60, [("z", 0, 1), ("z", 50, 1), ("a", 60, 1)]),
        (10**6, [("z", 0, 1), ("z", 50, 1), ("a", 60, 1)]),
        (59, [("z", 20, 1), ("z", 30, 1), ("a", 30, 2)]),  # as after the update at 30
        (10, [("z", 0, 1), ("z", 10, 1), ("a", 10, 2)]),
        (0, [("z", 0, 2), ("a", 0, 2)]),
    ],
)
def test_link_ages_by_hand(history, step, expected):
    assert rows(analysis.link_ages(history, step)) == expected


def test_survival_by_hand(history):
    assert rows(analysis.survival(history)) == [
        ("z", "start", 0, 2, 0, 1.0),
        ("z", "start", 10, 2, 1, 0.5),
        ("z", "start", 60, 1, 1, 0.0),
        ("z", "grown", 0, 2, 0, 1.0),  # one of them was grown by the last update: censored here
        ("z", "grown", 50, 1, 0, 1.0),
        ("a", "start", 0, 2, 0, 1.0),
        ("a", "start", 60, 2, 1, 0.5),
    ]


def test_survival_takes_censored_links_out_of_those_at_risk(tmp_path):
    """Grown at 1: four links, dead at ages 1 and 3; grown at 3: two, censored at age 2."""
    masks = {0: [0] * 6, 1: [1, 1, 1, 1, 0, 0], 2: [0, 1, 1, 1, 0, 0], 3: [0, 1, 1, 1, 1, 1]}
    masks |= {4: [0, 0, 0, 1, 1, 1], 5: [0, 0, 0, 1, 1, 1]}
    history = write(tmp_path, [{"fc": np.array([m])} for m in masks.values()], list(masks))
    found = rows(analysis.survival(history)[["age", "at_risk", "died", "survival"]])
    expected = [
        (0, 6, 0, 1.0),
        (1, 6, 1, 5 / 6),
        (2, 5, 0, 5 / 6),  # the two of step 3 end here, alive
        (3, 3, 2, 5 / 6 * 1 / 3),
        (4, 1, 0, 5 / 6 * 1 / 3),
    ]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in expected], rtol=1e-12)


def test_itop_rate_by_hand(history):
    assert rows(analysis.itop_rate(history)) == [
        (0, "z", 0.5), (0, "a", 1.0),
        (10, "z", 0.75), (10, "a", 1.0),
        (30, "z", 0.75), (30, "a", 1.0),
        (60, "z", 0.75), (60, "a", 1.0),
    ]  # fmt: skip


def test_a_recorded_itop_rate_is_not_counted_again(tmp_path):
    """Not the true one, to tell them apart; where an update lacks it, none is taken on trust."""
    nets = [topo.Network({"a": [[1, 0, 0]], "b": [[1]]}, ()) for _ in range(3)]
    writer = topo.HistoryWriter(tmp_path / "h", nets[0])
    rates = {"a": {"itop_rate": 0.9}, "b": {"itop_rate": 0.8}}
    writer.append(5, nets[1], {}, measures=rates)
    found = rows(analysis.itop_rate(topo.History.open(tmp_path / "h")))
    assert found == [(0, "a", 1 / 3), (0, "b", 1.0), (5, "a", 0.9), (5, "b", 0.8)]
    writer.append(7, nets[2], {}, measures={"a": {"itop_rate": 0.9}})
    found = analysis.itop_rate(topo.History.open(tmp_path / "h"))
    assert found["itop_rate"].tolist() == [1 / 3, 1.0] * 3


# random histories


def write(folder, states, steps, rng=None, couplings=()):
    """A history of the masks {layer: array} at the steps, with some links removed and regrown."""
    writer = topo.HistoryWriter(folder, topo.Network(states[0], couplings))
    for before, after, step in zip(states, states[1:], steps[1:]):
        events = {}
        for name in after:
            old, new = (np.flatnonzero(state[name]) for state in (before, after))
            both = np.intersect1d(old, new)
            again = both[rng.random(len(both)) < 0.3] if rng else both[:0]
            gone = np.concatenate([np.setdiff1d(old, new), again])
            kinds = rng.integers(3, size=len(gone)) if rng else np.zeros(len(gone))
            events[name] = {
                kind: np.sort(gone[kinds == i])
                for i, kind in enumerate(("removed", "thinned", "percolated"))
            }
            events[name]["grown"] = np.sort(np.concatenate([np.setdiff1d(new, old), again]))
        writer.append(step, topo.Network(after, couplings), events)
    return topo.History.open(folder)


def replayed(history):
    """By layer, the set of links at every step."""
    networks = {step: history.at(step) for step in history.steps}
    return {
        name: [
            (step, set(zip(*(ends.tolist() for ends in topo.links(network.layers[name])))))
            for step, network in networks.items()
        ]
        for name in history.shapes
    }


def lives_of(states):
    """(row, column, born, died) of every life, in the order of their births."""
    lives, begun, before = [], {}, set()
    for step, now in states:
        lives += [(*link, begun.pop(link), step) for link in before - now]
        begun |= dict.fromkeys(now - before, step)
        before = now
    lives += [(*link, step, None) for link, step in begun.items()]
    return sorted(lives, key=lambda life: (life[2], life[:2]))


def kaplan_meier(ended):
    """By the formula of the text books: of (age, whether dead) of each."""
    table, share = [], 1.0
    for age in sorted({a for a, _ in ended} | ({0} if ended else set())):
        at_risk = sum(a >= age for a, _ in ended)
        died = sum(a == age and dead for a, dead in ended)
        share *= 1 - died / at_risk
        table.append((age, at_risk, died, share))
    return table


def random_history(folder, seed, layers, updates):
    rng = np.random.default_rng(seed)
    shapes = {f"l{9 - i}": tuple(rng.integers(1, 5, 2)) for i in range(layers)}
    fill = rng.choice([0.0, 0.2, 0.5, 1.0], layers)
    states = []
    for _ in range(updates + 1):
        state = {n: rng.random(s) < p for (n, s), p in zip(shapes.items(), fill)}
        # some layers rest, some links stay
        for name in state:
            if states and rng.random() < 0.6:
                stay = rng.random(shapes[name]) < rng.choice([0.5, 0.9, 1.0])
                state[name] = np.where(stay, states[-1][name], state[name])
        states.append(state)
    steps = [0, *np.cumsum(rng.integers(1, 9, updates)).tolist()]
    return write(folder, states, steps, rng)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_tables_agree_with_a_replay_of_random_histories(seed, layers, updates):
    with tempfile.TemporaryDirectory() as folder:
        history = random_history(Path(folder) / "h", seed, layers, updates)
        states, end = replayed(history), history.steps[-1]
        lives = {name: lives_of(own) for name, own in states.items()}

        found = {name: getattr(analysis, name)(history) for name in TABLES}
        assert rows(found["lifetimes"]) == [(n, *life) for n, own in lives.items() for life in own]

        expected = []
        for i, step in enumerate(history.steps[1:], 1):
            for name, own in states.items():
                before, after = own[i - 1][1], own[i][1]
                lost, grown = len(before - after), len(after - before)
                share = lost / len(before) if before else None
                expected.append((step, name, len(before), lost, grown, share))
        assert rows(found["turnover"]) == expected

        for at in {0, end // 2, end - 1, end + 1} - {-1}:
            latest = max(s for s in history.steps if s <= at)
            expected = []
            for name, own in lives.items():
                ages = [
                    latest - born
                    for *_, born, died in own
                    if born <= latest and (died is None or died > latest)
                ]
                assert len(ages) == len(dict(states[name])[latest])
                expected += [(name, age, ages.count(age)) for age in sorted(set(ages))]
            assert rows(analysis.link_ages(history, at)) == expected
        assert rows(found["link_ages"]) == rows(analysis.link_ages(history, end))

        expected = []
        for name, own in lives.items():
            for cohort in ("start", "grown"):
                ended = [
                    (end - born, False) if died is None else (died - born, True)
                    for *_, born, died in own
                    if (born == 0) == (cohort == "start")
                ]
                expected += [(name, cohort, *row) for row in kaplan_meier(ended)]
        table = rows(found["survival"])
        assert [row[:5] for row in table] == [row[:5] for row in expected]
        np.testing.assert_allclose(
            [row[5] for row in table], [row[5] for row in expected], rtol=1e-12, atol=1e-15
        )

        ever = {name: set() for name in states}
        expected = []
        for i, step in enumerate(history.steps):
            for name, own in states.items():
                ever[name] |= own[i][1]
                n_out, n_in = history.shapes[name]
                expected.append((step, name, len(ever[name]) / (n_out * n_in)))
        assert rows(found["itop_rate"]) == expected


# tables


@pytest.mark.parametrize("function", TABLES)
@pytest.mark.parametrize(
    "masks",
    [[[[0, 0]]], [[[1, 0]]], [[[0, 0]], [[0, 0]]], [[[1, 1]], [[0, 0]]], [[[1, 0]], [[0, 1]]]],
    ids=["empty", "start", "stays empty", "dies out", "swaps"],
)
def test_columns_and_types_are_the_same_whatever_the_history(function, masks, tmp_path):
    states = [{"fc": np.array(mask)} for mask in masks]
    table = getattr(analysis, function)(write(tmp_path, states, range(0, 5 * len(masks), 5)))
    assert list(table) == TABLES[function]
    assert table.index.tolist() == list(range(len(table)))
    for name, dtype in table.dtypes.items():
        if name in ("layer", "cohort"):
            assert dtype == pd.Series(["x"]).dtype
        else:
            expected = np.float64 if f"{name} of {function}" in FLOATS else np.int64
            assert dtype == expected, name


def test_what_was_dropped_by_a_truncation_is_not_counted(history):
    writer = topo.HistoryWriter.open(history.path, step=10)
    swapped = writer.network.replace({"z": topo.as_adjacency([[0, 0, 1, 1]])})
    writer.append(20, swapped, {"z": {"removed": [1], "grown": [3]}})
    after = topo.History.open(history.path)
    assert rows(analysis.lifetimes(after))[:4] == [
        ("z", 0, 0, 0, 10),
        ("z", 0, 1, 0, 20),
        ("z", 0, 2, 10, None),
        ("z", 0, 3, 20, None),
    ]
    assert analysis.turnover(after)["step"].tolist() == [10, 10, 20, 20]
    assert analysis.itop_rate(after)["itop_rate"].tolist() == [0.5, 1, 0.75, 1, 1, 1]


def test_a_large_layer_does_not_overflow(tmp_path):
    """Link numbers beyond 2**31, at the last row and column."""
    shape = (60_000, 50_000)
    corner = topo.from_links([0, 59_999], [0, 49_999], shape)
    moved = topo.from_links([0, 59_999], [0, 49_998], shape)
    small = topo.as_adjacency([[1]])
    writer = topo.HistoryWriter(tmp_path / "h", topo.Network({"a": corner, "b": small}, ()))
    last = 60_000 * 50_000 - 1
    events = {"a": {"removed": [last], "grown": [last - 1]}, "b": {"removed": [0]}}
    gone = topo.as_adjacency([[0]])
    writer.append(3, topo.Network({"a": moved, "b": gone}, ()), events)
    history = topo.History.open(tmp_path / "h")
    assert rows(analysis.lifetimes(history)) == [
        ("a", 0, 0, 0, None),
        ("a", 59_999, 49_999, 0, 3),
        ("a", 59_999, 49_998, 3, None),
        ("b", 0, 0, 0, 3),
    ]
    assert rows(analysis.turnover(history)) == [(3, "a", 2, 1, 1, 0.5), (3, "b", 1, 1, 0, 1.0)]


@pytest.mark.parametrize("step", [-1, 2.5, "last", True])
def test_ages_at_what_is_no_step_are_refused(history, step):
    with pytest.raises(ValueError, match="step must be an integer from 0"):
        analysis.link_ages(history, step)
