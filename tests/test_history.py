import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import topo
from dst import bench_history
from topo import Coupling, History, HistoryError, HistoryWriter, Network
from topo.history_writer import KEYFRAME_EVERY

LOSSES = ("thinned", "removed", "percolated")
PHASES = ("thin", "remove", "percolate", "regrow")
FLOATS = ["active_neuron_rate", "itop_rate", *(f"{phase}_seconds" for phase in PHASES)]
SHAPES = {"fc1": (6, 5), "gate": (4, 6), "up": (4, 6), "größe 2": (3, 4)}
COUPLINGS = (Coupling(("fc1",), ("gate", "up")), Coupling(("gate", "up"), ("größe 2",)))


def network(cells):
    layers = {
        n: topo.from_links(*np.divmod(sorted(cells[n]), SHAPES[n][1]), SHAPES[n]) for n in cells
    }
    return Network(layers, COUPLINGS)


def evolution(seed, updates):
    """Steps, networks and events of a random evolution, kept as sets of cells.

    A layer may sit an update out, lose everything, and regrow what it just lost.
    """
    rng = np.random.default_rng(seed)

    def some(cells, share):
        return {c for c in sorted(cells) if rng.random() < share}

    every = {n: set(range(a * b)) for n, (a, b) in SHAPES.items()}
    cells = {n: some(every[n], rng.choice([0, 0.3, 0.8])) for n in SHAPES}
    steps, networks, events = [0], [network(cells)], [{}]
    for _ in range(updates):
        event = {}
        for n in SHAPES:
            if rng.random() < 0.3:
                continue
            event[n] = {}
            for kind in LOSSES:
                event[n][kind] = some(cells[n], rng.choice([0, 0.2, 0.2, 1]))
                cells[n] = cells[n] - event[n][kind]
            event[n]["grown"] = some(every[n] - cells[n], rng.choice([0, 0.3, 0.5]))
            cells[n] = cells[n] | event[n]["grown"]
        steps.append(steps[-1] + int(rng.integers(1, 5)))
        networks.append(network(cells))
        events.append({n: {k: sorted(v) for k, v in e.items()} for n, e in event.items()})
    return steps, networks, events


def write(folder, steps, networks, events):
    writer = HistoryWriter(folder, networks[0])
    for step, net, event in zip(steps[1:], networks[1:], events[1:], strict=True):
        writer.append(step, net, event)
    return writer


def part(folder, kind, step):
    return folder / kind / f"part-{step:010d}-0.parquet"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_is(history, steps, networks):
    """The history gives these networks at and between these steps."""
    assert history.steps == steps
    for step, later, net in zip(steps, [*steps[1:], steps[-1] + 4], networks, strict=True):
        assert history.at(later - 1) == net, later - 1
        assert later - step == 1 or history.at(step) == net, step


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    steps, networks, events = evolution(3, 2 * KEYFRAME_EVERY + 3)
    write(folder, steps, networks, events)
    return folder, steps, networks, events


@pytest.fixture
def recorded(tmp_path, original):
    """A history of 35 updates (keyframes at the 16th and 32nd), its steps, networks and events."""
    shutil.copytree(original[0], tmp_path / "topology")
    return tmp_path / "topology", *original[1:]


# ---- round trip ------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12))
@example(0, 0)
@example(1, KEYFRAME_EVERY - 1)
@example(2, KEYFRAME_EVERY)
@example(3, 2 * KEYFRAME_EVERY + 5)
def test_every_step_comes_back_exactly(tmp_path_factory, seed, updates):
    folder = tmp_path_factory.mktemp("history")
    steps, networks, events = evolution(seed, updates)
    write(folder, steps, networks, events)
    history = History.open(folder)
    assert history.shapes == SHAPES
    assert history.couplings == COUPLINGS
    assert_is(history, steps, networks)
    assert list(history.networks()) == list(zip(steps, networks, strict=True))
    frames = sorted((folder / "keyframes").iterdir())
    assert len(frames) == updates // KEYFRAME_EVERY
    for frame in frames:  # they only save time
        frame.unlink()
        history = History.open(folder)
        assert all(history.at(s) == net for s, net in zip(steps[::-4], networks[::-4], strict=True))


def replay(frame, steps):
    """The links of each step, from the table of events alone."""
    cells = {name: set() for name in SHAPES}
    for step in steps:
        now = frame[frame["step"] == step]
        for kind in (*LOSSES, "start", "grown"):
            for e in now[now["event"] == kind].itertuples():
                cell = e.row * SHAPES[e.layer][1] + e.column
                if kind in LOSSES:
                    cells[e.layer].remove(cell)
                else:
                    assert cell not in cells[e.layer]
                    cells[e.layer].add(cell)
        yield network(cells)


def test_plain_pandas_reads_the_events_and_can_replay_them(recorded):
    folder, steps, networks, events = recorded
    frame = pd.read_parquet(folder / "events")
    assert list(frame.columns) == ["step", "layer", "event", "row", "column", "weight"]
    assert list(replay(frame, steps)) == networks
    history = History.open(folder)
    ours = history.events()
    assert list(ours.columns) == list(frame.columns)
    assert list(replay(ours, steps)) == networks
    regrown = {
        (i, n) for i, e in enumerate(events) for n in e if set(e[n]["removed"]) & set(e[n]["grown"])
    }
    assert regrown  # the case that matters is in
    assert ours["weight"].isna().all()


def test_plain_pandas_reads_updates_and_keyframes(recorded):
    folder, steps, networks, _ = recorded
    updates = pd.read_parquet(folder / "updates")
    assert set(updates["step"]) == set(steps)
    frames = pd.read_parquet(folder / "keyframes")
    assert list(frames.columns) == ["step", "layer", "row", "column", "weight"]
    for i in (KEYFRAME_EVERY, 2 * KEYFRAME_EVERY):
        frame = frames[frames["step"] == steps[i]]
        assert len(frame) == networks[i].links > 0
        for name, rows in frame.groupby("layer", observed=True):
            a = topo.from_links(rows["row"].to_numpy(), rows["column"].to_numpy(), SHAPES[name])
            assert np.array_equal(a.toarray(), networks[i].layers[name].toarray())
    assert len(frames) == sum(networks[i].links for i in (KEYFRAME_EVERY, 2 * KEYFRAME_EVERY))


def test_updates_count_each_phase(tmp_path):
    steps, networks, events = evolution(5, 6)
    writer = HistoryWriter(tmp_path, networks[0])
    for i in range(1, 7):
        writer.append(steps[i], networks[i], events[i], {"fc1": i / 8, "up": float("nan")})
    table = History.open(tmp_path).updates()
    counts = ["update", "step", "layer", "links", *LOSSES, "grown", "overlap"]
    assert list(table.columns) == [*counts, *FLOATS, "frozen"]
    assert table[FLOATS].isna().all(axis=None)
    assert not table["frozen"].any()
    expected = [(i, steps[i], name) for i in range(1, 7) for name in SHAPES]
    assert list(zip(table["update"], table["step"], table["layer"], strict=True)) == expected
    for row in table.itertuples():
        assert row.links == networks[row.update].layers[row.layer].nnz
        event = events[row.update].get(row.layer, {})
        for kind in (*LOSSES, "grown"):
            assert getattr(row, kind) == len(event.get(kind, ()))
        if row.layer == "fc1":
            assert row.overlap == row.update / 8
        else:
            assert np.isnan(row.overlap)


def test_updates_hold_what_was_measured(tmp_path):
    net = Network({"a": [[1]], "b": [[1]]})
    writer = HistoryWriter(tmp_path, net)
    seconds = {name: i + 0.1 for i, name in enumerate(FLOATS[1:])}
    everything = {"active_neuron_rate": 0.8, **seconds, "frozen": True}
    writer.append(3, net, {}, measures={"a": everything, "b": {"active_neuron_rate": 1}})
    some = {"regrow_seconds": np.float32(0.5), "frozen": np.False_}
    writer.append(4, net, {}, measures={"b": some, "a": {}})
    writer = HistoryWriter.open(tmp_path)
    writer.append(5, net, {}, measures={"a": {"frozen": True}})
    table = History.open(tmp_path).updates()
    assert (table[FLOATS].dtypes == np.float64).all()
    assert table["frozen"].dtype == bool
    nan = np.nan
    assert table["layer"].tolist() == ["a", "b"] * 3
    np.testing.assert_array_equal(
        table[[*FLOATS, "frozen"]].to_numpy(float),
        [
            [0.8, 0.1, 1.1, 2.1, 3.1, 4.1, 1],
            [1.0, nan, nan, nan, nan, nan, 0],
            [nan, nan, nan, nan, nan, nan, 0],
            [nan, nan, nan, nan, nan, 0.5, 0],
            [nan, nan, nan, nan, nan, nan, 1],
            [nan, nan, nan, nan, nan, nan, 0],
        ],
    )
    plain = pd.read_parquet(tmp_path / "updates")[2:].reset_index(drop=True)
    pd.testing.assert_frame_equal(plain, table)


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ({"x": {"frozen": True}}, "step 3: there is no layer 'x'"),
        ({"a": {"seconds": 1.0}}, "step 3, layer 'a': unknown measure 'seconds': did you mean"),
        ({"a": {}, "b": {1: 1.0}}, "step 3, layer 'b': unknown measure 1: known are active_neur"),
        ({"a": {"thin_seconds": "1"}}, "thin_seconds is a number, not '1'"),
        ({"a": {"thin_seconds": None}}, "thin_seconds is a number, not None"),
        ({"a": {"remove_seconds": True}}, "remove_seconds is a number, not True"),
        ({"a": {"active_neuron_rate": np.True_}}, r"active_neuron_rate is a number, not np\.True_"),
        ({"a": {"frozen": 1}}, "step 3, layer 'a': frozen is True or False, not 1"),
        ({"a": {"frozen": "yes"}}, "frozen is True or False, not 'yes'"),
        ({"a": 0.5}, "what is given for a layer must be a Mapping, not a float"),
        ([0.5], "measures must be a Mapping, not a list"),
    ],
)
def test_measures_that_are_none_are_refused(tmp_path, measures, message):
    net = Network({"a": [[1]], "b": [[1]]})
    writer = HistoryWriter(tmp_path, net)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        writer.append(3, net, {}, measures=measures)
    assert contents(tmp_path) == before
    writer.append(3, net, {})  # and the writer goes on
    assert History.open(tmp_path).steps == [0, 3]


def test_a_history_from_before_there_were_measures(recorded):
    folder, steps, networks, _ = recorded
    table = History.open(folder).updates()
    for file in (folder / "updates").iterdir():
        pq.write_table(pq.read_table(file, partitioning=None).drop([*FLOATS, "frozen"]), file)
    history = History.open(folder)
    assert_is(history, steps, networks)
    pd.testing.assert_frame_equal(history.updates(), table)  # nothing was measured
    writer = HistoryWriter.open(folder)
    measured = {"active_neuron_rate": 0.5, "frozen": True}
    writer.append(steps[-1] + 1, networks[-1], {}, measures=dict.fromkeys(SHAPES, measured))
    later = History.open(folder).updates()
    pd.testing.assert_frame_equal(later[: len(table)], table)
    assert later["active_neuron_rate"][len(table) :].tolist() == [0.5] * len(SHAPES)
    assert later["frozen"].tolist() == [False] * len(table) + [True] * len(SHAPES)


def test_a_history_of_step_0_alone(tmp_path):
    net = Network({"fc": [[0, 1], [1, 1]]})
    HistoryWriter(tmp_path / "new" / "deep", net)
    history = History.open(str(tmp_path / "new" / "deep"))
    assert history.steps == [0]
    assert history.at(0) == history.at(10**12) == net
    assert history.updates().empty
    assert history.events()[["step", "event", "row", "column"]].to_numpy().tolist() == [
        [0, "start", 0, 1],
        [0, "start", 1, 0],
        [0, "start", 1, 1],
    ]


def test_a_run_folder_opens_as_its_topology(recorded):
    folder, steps, _, _ = recorded
    history = History.open(folder.parent)
    assert history.path == folder
    assert history.steps == steps


@pytest.mark.parametrize("name", ["step=100", "layer=x/weight=2", "_a b%20#?é*[1]"])
def test_folders_may_have_any_name(tmp_path, name):
    steps, networks, events = evolution(1, 3)
    write(tmp_path / name, steps, networks, events)
    history = History.open(tmp_path / name)
    assert_is(history, steps, networks)
    assert list(replay(history.events(), steps)) == networks


def test_events_may_be_arrays_in_any_order_and_steps_numpy_integers(tmp_path):
    writer = HistoryWriter(tmp_path, Network({"fc": [[1, 1, 0, 0]]}))
    events = {"fc": {"grown": np.array([3, 2], np.int32), "removed": np.array([1, 0])}}
    writer.append(np.int64(5), Network({"fc": [[0, 0, 1, 1]]}), events)
    assert History.open(tmp_path).at(5).layers["fc"].toarray().tolist() == [[0, 0, 1, 1]]


# ---- weights ---------------------------------------------------------------------------------


def test_keyframes_hold_weights_at_their_steps(tmp_path):
    steps, networks, events = evolution(7, 20)
    rng = np.random.default_rng(0)
    weights = {
        i: {n: rng.normal(size=a.nnz).astype(np.float32) for n, a in networks[i].layers.items()}
        for i in (0, 9, KEYFRAME_EVERY)
    }
    writer = HistoryWriter(tmp_path, networks[0])
    writer.keyframe(0, weights[0])
    for i in range(1, 21):
        writer.append(steps[i], networks[i], events[i])
        if i in weights:
            writer.keyframe(steps[i], weights[i])
    history = History.open(tmp_path)
    assert history.weight_steps == [steps[i] for i in weights]
    assert_is(history, steps, networks)
    for i, expected in weights.items():
        net = history.at(steps[i], weights=True)
        assert net == networks[i]
        for name, values in expected.items():
            assert net.weights[name].dtype == np.float32
            assert np.array_equal(net.weights[name].data, values)
            assert np.array_equal(net.weights[name].indices, net.layers[name].indices)
        assert history.at(steps[i]).weights is None
    with pytest.raises(
        ValueError, match=f"no weights were recorded at step {steps[10]}.*{steps[9]}"
    ):
        history.at(steps[10], weights=True)


def test_no_step_has_weights_unless_they_were_given(recorded):
    assert History.open(recorded[0]).weight_steps == []


def test_events_have_the_weights_that_were_given(tmp_path):
    start = Network({"a": [[1, 1, 1, 0]], "b": [[1, 1]]}, ())
    writer = HistoryWriter(tmp_path, start)
    after = Network({"a": [[0, 0, 1, 1]], "b": [[0, 0]]}, ())
    events = {
        "a": {"grown": [3], "removed": np.array([1, 0]), "thinned": []},
        "b": {"removed": [1], "thinned": [0]},
    }
    weights = {
        "a": {"grown": [0], "removed": np.array([0.5, -2.0])},
        "b": {"thinned": np.array([0.1], np.float16)},
    }
    writer.append(3, after, events, weights=weights)
    tenth = float(np.float16(0.1))
    for frame in (History.open(tmp_path).events(), pd.read_parquet(tmp_path / "events")):
        assert frame["weight"].dtype == np.float32
        assert frame[frame["step"] == 0]["weight"].isna().all()
        found = frame[frame["step"] == 3].drop(columns="step").to_numpy().tolist()
        assert found[:3] == [
            ["a", "removed", 0, 0, -2.0],
            ["a", "removed", 0, 1, 0.5],
            ["a", "grown", 0, 3, 0.0],
        ]
        assert found[3] == ["b", "thinned", 0, 0, tenth]
        assert found[4][:-1] == ["b", "removed", 0, 1]
        assert np.isnan(found[4][-1])
    assert History.open(tmp_path).weight_steps == []


def test_networks_with_weights_are_recorded_with_them(tmp_path):
    steps, networks, events = evolution(6, KEYFRAME_EVERY + 1)
    values = [
        {n: np.linspace(-i, i, a.nnz, dtype=np.float32) for n, a in net.layers.items()}
        for i, net in enumerate(networks)
    ]
    weighted = [
        Network(n.layers, COUPLINGS, weights=v) for n, v in zip(networks, values, strict=True)
    ]
    write(tmp_path, steps, weighted, events)
    history = History.open(tmp_path)
    assert_is(history, steps, networks)
    assert history.weight_steps == [0, steps[KEYFRAME_EVERY]]  # at the start and at the keyframe
    for i in (0, KEYFRAME_EVERY):
        found = history.at(steps[i], weights=True)
        assert found == networks[i]
        assert all(np.array_equal(w.data, values[i][n]) for n, w in found.weights.items())
    frame = history.events()
    assert not frame[frame["event"] == "start"]["weight"].isna().any()


def test_a_keyframe_without_weights_does_not_replace_one_with_them(tmp_path):
    net = Network({"a": [[1, 1]]}, weights={"a": [1, 2]})
    writer = HistoryWriter(tmp_path, net)
    writer.keyframe(0)
    for step in range(1, KEYFRAME_EVERY + 1):
        writer.append(step, net, {})
    writer.keyframe(KEYFRAME_EVERY)
    assert History.open(tmp_path).weight_steps == [0, KEYFRAME_EVERY]
    writer.keyframe(KEYFRAME_EVERY, {"a": [3, 4]})
    found = History.open(tmp_path).at(KEYFRAME_EVERY, weights=True).weights["a"]
    assert found.data.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"b": {}}, "no layer 'b'"),
        ({"a": {"grown": [1.0]}}, r"layer 'a': weights are given of 'grown' links.* are 'removed'"),
        ({"a": {"removed": [1.0]}}, r"removed links: one number for each of 2 links.* \(1,\)"),
        ({"a": {"removed": 1.0}}, r"one number for each of 2 links, not float64 of shape \(\)"),
        ({"a": {"removed": [[1.0, 2.0]]}}, r"one number for each of 2 links"),
        ({"a": {"removed": ["1", "2"]}}, "one number for each of 2 links, not <U1"),
        ({"a": {"removed": [1j, 2]}}, "one number for each of 2 links, not complex128"),
        ({"a": {"removed": [1.0, np.nan]}}, "a weight is a finite float32, not nan"),
        ({"a": {"removed": [-np.inf, 1.0]}}, "a weight is a finite float32, not -inf"),
        ({"a": {"removed": [1.0, 1e39]}}, r"a weight is a finite float32, not 1e\+39"),
    ],
)
def test_weights_that_are_not_of_the_events_are_refused(tmp_path, weights, message):
    writer = HistoryWriter(tmp_path, Network({"a": [[1, 1, 1]]}))
    before = contents(tmp_path)
    after, events = Network({"a": [[0, 0, 1]]}), {"a": {"removed": [0, 1]}}
    with pytest.raises(ValueError, match=message):
        writer.append(1, after, events, weights=weights)
    assert contents(tmp_path) == before
    writer.append(1, after, events)
    assert History.open(tmp_path).at(1) == after


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_weights_of_keyframes_are_finite(tmp_path, value):
    net = Network({"a": [[1, 1]]}, weights={"a": [1.0, value]})
    with pytest.raises(ValueError, match="layer 'a': a weight is a finite float32, not"):
        HistoryWriter(tmp_path / "h", net)
    assert not (tmp_path / "h").exists()
    writer = HistoryWriter(tmp_path, Network({"a": [[1, 1]]}))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="layer 'a': a weight is a finite float32, not"):
        writer.keyframe(0, {"a": [1.0, value]})
    assert contents(tmp_path) == before


# ---- cost ------------------------------------------------------------------------------------


def test_an_event_costs_eleven_bits(tmp_path):
    rng = np.random.default_rng(0)
    shape, updates = (1376, 512), 3
    layers = [topo.erdos_renyi(*shape, 0.1, seed=i) for i in range(updates + 1)]
    writer = HistoryWriter(tmp_path, Network({"up": layers[0]}))
    values = rng.normal(size=layers[0].nnz).astype(np.float32)
    for step in range(1, updates + 1):  # random layers have a tenth of their links in common
        keys = [topo.adjacency.link_keys(a) for a in layers[step - 1 : step + 1]]
        events = {"removed": np.setdiff1d(*keys), "grown": np.setdiff1d(*keys[::-1])}
        weights = {k: values[: len(v)] if k == "removed" else 0 * v for k, v in events.items()}
        given = {"up": weights} if step == updates else None
        writer.append(step, Network({"up": layers[step]}), {"up": events}, weights=given)
    frame = History.open(tmp_path).events()

    def bits(kind, step):
        links = (frame["step"] == step).sum()
        return 8 * part(tmp_path, kind, step).stat().st_size / links

    assert bits("events", 1) < 10.5  # 32 + 32 as they are; 4.7 is the entropy of such layers
    assert bits("events", 0) < 10
    assert bits("events", updates) < 10.5 + 31 / 2  # the grown ones start at 0


@pytest.mark.slow
@pytest.mark.parametrize(("weighted", "megabytes"), [(False, 100), (True, 300)])
def test_the_cost_of_a_history_of_llama_60m(weighted, megabytes):
    cost = bench_history.measure(KEYFRAME_EVERY + 1, weighted)
    per_update = (cost.size - cost.start) / (KEYFRAME_EVERY + 1)
    assert cost.start + 100 * per_update < megabytes
    assert cost.append < 0.2


def test_the_benchmark_of_histories(capsys):
    bench_history.history(updates=1)
    *_, header, without, weighted = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["weights", "MB", "MB"]
    assert [line.split()[0] for line in (without, weighted)] == ["no", "yes"]
    assert 3 < float(without.split()[1]) < 4 < 12 < float(weighted.split()[1]) < 15


# ---- what the reader refuses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "cut at the end", "garbage", "empty", "other"]
)
@pytest.mark.parametrize("kind", ["events", "updates", "keyframes"])
def test_a_damaged_part_is_named(recorded, kind, damage):
    folder, steps, networks, _ = recorded
    step = steps[KEYFRAME_EVERY]
    file = part(folder, kind, step)
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "other":
        pd.DataFrame({"x": [1]}).to_parquet(file)
    else:
        changed = {
            "truncated": content[: len(content) // 2],
            "cut at the end": content[:-1],
            "garbage": b"\x00garbage" * 99,
            "empty": b"",
        }
        file.write_bytes(changed[damage])
    if kind == "keyframes" and damage == "missing":
        assert_is(History.open(folder), steps, networks)
        return
    named = re.escape(str(file))
    if (kind, damage) == ("updates", "missing"):
        named = f"update {KEYFRAME_EVERY} is missing from {re.escape(str(folder / 'updates'))}"
    if kind == "events":
        part(folder, "keyframes", step).unlink()
    with pytest.raises(HistoryError, match=named):
        History.open(folder).at(step)
    if kind != "updates":  # what does not need the part is still there
        i = KEYFRAME_EVERY - 1
        assert History.open(folder).at(steps[i]) == networks[i]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: pd.concat([f, f]), "in order"),
        (lambda f: f[::-1], "in order"),
        (lambda f: f.replace({"row": {5: 4}}), "in order"),
        (lambda f: f.replace({"row": {5: 6}}), "layer 'fc1' has no such link"),
        (lambda f: f.replace({"row": {0: -1}}), "layer 'fc1' has no such link"),
        (lambda f: f.replace({"column": {4: 5}}), "layer 'fc1' has no such link"),
        (lambda f: f.replace({"column": {0: -1}}), "layer 'fc1' has no such link"),
        (lambda f: f.assign(layer=f["layer"].astype(str).replace("up", "u")), "those of the hist"),
        (lambda f: f.assign(row=f["row"].astype(float).replace(2, np.nan)), "row is null"),
        (lambda f: f.assign(layer=f["layer"].where(f["layer"] != "up")), "layer is null"),
    ],
)
def test_links_that_cannot_be_are_reported(tmp_path, change, message):
    full = Network({n: np.ones(shape) for n, shape in SHAPES.items()}, COUPLINGS)
    HistoryWriter(tmp_path, full)
    file = part(tmp_path, "events", 0)
    frame = pd.read_parquet(file)
    frame.to_parquet(file)  # as written by others
    assert History.open(tmp_path).at(0) == full
    change(frame).to_parquet(file)
    with pytest.raises(HistoryError, match=f"{re.escape(str(file))} is damaged.*{message}"):
        History.open(tmp_path).at(0)


def test_events_that_do_not_follow_are_reported(tmp_path):
    first, second, third = ({"fc": [row]} for row in ([1, 0, 0], [1, 1, 0], [0, 0, 1]))
    writer = HistoryWriter(tmp_path, Network(first))
    writer.append(1, Network(second), {"fc": {"grown": [1]}})
    writer.append(2, Network(third), {"fc": {"removed": [0, 1], "grown": [2]}})
    writer.append(3, Network(third), {})
    file = part(tmp_path, "events", 2)
    frame = pd.read_parquet(file)
    for changed, message in (
        (frame[:-1], "step 2 has 0 links in layer 'fc', recorded were 1"),
        (frame[1:], "step 2 has 2 links in layer 'fc', recorded were 1"),
        (frame.assign(column=[0, 2, 2]), "step 2: a link is lost twice, or was not there"),
        (frame.assign(event="grown"), "step 2: a link is grown twice, or was there already"),
        (frame.assign(event="gone"), "its layers or events are not those of the history"),
    ):
        changed.to_parquet(file)
        history = History.open(tmp_path)
        assert history.at(1) == Network(second)
        with pytest.raises(
            HistoryError, match=f"{re.escape(str(tmp_path))}.* is damaged.*{message}"
        ):
            history.at(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: b"", "is damaged"),
        (lambda meta: b"{", "is damaged"),
        (lambda meta: b"\xff\xfe\x00", "is damaged"),
        (lambda meta: json.dumps(meta).encode()[:-9], "is damaged"),
        (lambda meta: b"null", "is damaged"),
        (lambda meta: b"[]", "is damaged"),
        (lambda meta: b"{}", "is damaged"),
        (lambda meta: {k: v for k, v in meta.items() if k != "layers"}, "is damaged"),
        (lambda meta: {k: v for k, v in meta.items() if k != "couplings"}, "is damaged"),
        (lambda meta: {**meta, "layers": {"fc1": [5]}}, "is damaged"),
        (lambda meta: {**meta, "layers": ["fc1"]}, "is damaged"),
        (lambda meta: {**meta, "couplings": [{"outputs": []}]}, "is damaged"),
        (lambda meta: {**meta, "couplings": [{"outputs": ["up"], "heads": 2}]}, "is damaged"),
        (lambda meta: {**meta, "cuts": ["x"]}, "is damaged"),
        (lambda meta: {**meta, "cuts": None}, "is damaged"),
        (lambda meta: {**meta, "schema": meta["schema"] + 1}, "has schema 3.*reads 2"),
        (lambda meta: {**meta, "schema": "future"}, "has schema 'future'"),
    ],
)
def test_a_damaged_or_foreign_meta_file_is_named(recorded, change, message):
    file = recorded[0] / "_meta.json"
    changed = change(json.loads(file.read_bytes()))
    file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    with pytest.raises(HistoryError, match=re.escape(str(file)) + ".*" + message):
        History.open(recorded[0])


def test_there_is_no_history(tmp_path):
    with pytest.raises(HistoryError, match=f"{re.escape(str(tmp_path / 'x'))}: no such folder"):
        History.open(tmp_path / "x")
    with pytest.raises(HistoryError, match=r"the folder has no _meta\.json"):
        History.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(HistoryError, match=re.escape(str(tmp_path / "file"))):
        History.open(tmp_path / "file")


def test_couplings_come_back_with_all_they_say(tmp_path):
    layers = {n: np.ones((8, 8)) for n in "qkv"}
    couplings = (
        Coupling(("q", "k"), head_dim=4, rotary=True),
        Coupling(("v",), head_dim=4),
    )
    net = Network(layers, couplings)
    HistoryWriter(tmp_path, net)
    history = History.open(tmp_path)
    assert history.couplings == couplings
    assert history.at(0) == net
    # and one that says less has the defaults
    meta = json.loads((tmp_path / "_meta.json").read_text())
    meta["couplings"] = [{"outputs": ["q"], "inputs": ["k"]}]
    (tmp_path / "_meta.json").write_text(json.dumps(meta))
    assert History.open(tmp_path).couplings == (Coupling(("q",), ("k",)),)


def test_a_negative_step_is_refused(recorded):
    with pytest.raises(ValueError, match="step must be an integer from 0, not -1"):
        History.open(recorded[0]).at(-1)


# ---- what the writer refuses -----------------------------------------------------------------


@pytest.mark.parametrize("inside", ["folder", "history", "file"])
def test_nothing_is_ever_overwritten(tmp_path, inside):
    path, net = tmp_path / "topology", Network({"fc": np.eye(2)})
    if inside == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif inside == "history":
        HistoryWriter(path, net)
    else:
        path.write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(HistoryError, match=re.escape(str(path)) + " exists already"):
        HistoryWriter(path, net)
    assert contents(tmp_path) == before


def test_an_empty_folder_will_do(tmp_path):
    HistoryWriter(tmp_path, Network({"fc": np.eye(2)}))
    assert History.open(tmp_path).steps == [0]


@pytest.mark.parametrize(
    ("step", "layer", "events"),
    [
        (10, [[1, 0], [0, 1]], {"fc": {"grown": [1]}}),  # not grown
        (10, [[1, 1], [0, 1]], {}),  # not recorded
        (10, [[1, 0], [0, 0]], {"fc": {"removed": [0]}}),  # another one
        (10, [[1, 0], [0, 1]], {"fc": {"removed": [3]}}),  # not removed
        (10, [[1, 0], [0, 1]], {"fc": {"grown": [3]}}),  # there already
        (10, [[1, 1], [0, 1]], {"fc": {"grown": [1, 1]}}),  # twice
        (10, [[1, 1], [0, 1]], {"fc": {"gorwn": [1]}}),  # unheard of
        (5, [[1, 0], [0, 1]], {}),  # the same step
        (4, [[1, 0], [0, 1]], {}),  # an earlier one
        (0, [[1, 0], [0, 1]], {}),
    ],
)
def test_an_update_that_does_not_follow_is_refused_and_leaves_no_trace(
    tmp_path, step, layer, events
):
    net = Network({"fc": np.eye(2)})
    writer = HistoryWriter(tmp_path, net)
    writer.append(5, net, {})
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"step {step}|not {step}$"):
        writer.append(step, Network({"fc": layer}), events)
    assert contents(tmp_path) == before
    grown = Network({"fc": [[1, 1], [0, 1]]})
    writer.append(6, grown, {"fc": {"grown": [1]}})
    history = History.open(tmp_path)
    assert history.steps == [0, 5, 6]
    assert history.at(6) == grown


# ---- and the rest --------------------------------------------------------------------------


def test_history_errors_are_value_errors():
    assert issubclass(HistoryError, ValueError)


def test_the_repr_says_what_there_is(recorded):
    folder, steps, _, _ = recorded
    assert repr(History.open(folder)) == (
        f"History({str(Path(folder))!r}: 4 layers, 35 updates, last step {steps[-1]})"
    )


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"removed": [99], "grown": [1]}, "was not there"),
        ({"removed": [-1], "grown": [1]}, "was not there"),
        ({"removed": [1]}, "was not there"),
        ({"removed": [0, 0]}, "lost twice"),
        ({"removed": [0], "percolated": [0]}, "lost twice"),
        ({"removed": [0.0]}, "integer link keys"),
        ({"remvoed": [0]}, "by kind"),
        ({"start": [1]}, "by kind"),
        ({"grown": [0]}, "was there already"),
        ({"grown": [1, 1]}, "grown twice"),
        ({"grown": [1]}, "do not give its links"),
        ({"grown": [4]}, "do not give its links"),
        ({"grown": [-1]}, "do not give its links"),
    ],
)
def test_events_that_cannot_have_happened_are_refused(tmp_path, events, message):
    net = Network({"fc": np.eye(2)})
    writer = HistoryWriter(tmp_path, net)
    with pytest.raises(ValueError, match=message):
        writer.append(1, net, {"fc": events})
    with pytest.raises(ValueError, match="must have the layers"):
        writer.append(1, Network({"fc": np.eye(2, 3)}), {})
    with pytest.raises(ValueError, match="no layer 'x'"):
        writer.append(1, net, {"x": {}})
    with pytest.raises(ValueError, match=r"integer from 1, not 1\.5"):
        writer.append(1.5, net, {})
    writer.append(1, net, {})
    assert History.open(tmp_path).steps == [0, 1]


def test_a_failed_write_can_be_tried_again(tmp_path, monkeypatch):
    net = Network({"fc": np.eye(2)})
    writer = HistoryWriter(tmp_path, net)

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("topo.history_writer.write_part", full)
        with pytest.raises(OSError, match="no space"):
            writer.append(1, net, {})
    writer.append(1, net, {})
    assert History.open(tmp_path).steps == [0, 1]


def test_a_flipped_bit_never_goes_unnoticed(tmp_path):
    first = topo.erdos_renyi(20, 30, 0.2, seed=0)
    HistoryWriter(tmp_path, Network({"fc": first}))
    (file,) = (tmp_path / "events").iterdir()
    content = bytearray(file.read_bytes())
    silent = []
    for i in range(len(content)):
        content[i] ^= 1
        file.write_bytes(content)
        content[i] ^= 1
        with contextlib.suppress(HistoryError):
            if History.open(tmp_path).at(0) != Network({"fc": first}):
                silent.append(i)
    assert silent == []


def test_keyframes_are_of_the_present_topology(tmp_path):
    writer = HistoryWriter(tmp_path, Network({"fc": np.eye(2)}))
    writer.append(4, Network({"fc": np.eye(2)}), {})
    with pytest.raises(ValueError, match="step must be an integer from 4, not 3"):
        writer.keyframe(3)
    with pytest.raises(ValueError, match="2 links but weights of shape"):
        writer.keyframe(4, {"fc": [1.0]})
    with pytest.raises(ValueError, match="weights are of the layers none"):
        writer.keyframe(4, {})
    (tmp_path / "keyframes" / "part-abc.parquet").write_bytes(b"")
    assert History.open(tmp_path).weight_steps == []


def test_meta_that_does_not_fit_is_reported(tmp_path):
    HistoryWriter(tmp_path, Network({"fc": np.eye(2)}))
    meta = (tmp_path / "_meta.json").read_text()
    for old, new in (('"fc"', '"fx"'), ('"schema": 2', '"schema": true')):
        (tmp_path / "_meta.json").write_text(meta.replace(old, new))
        with pytest.raises(HistoryError, match=r"_meta\.json"):
            History.open(tmp_path)
    unknown = {**json.loads(meta), "couplings": [{"outputs": ["none"]}]}
    (tmp_path / "_meta.json").write_text(json.dumps(unknown))
    with pytest.raises(HistoryError, match="is damaged: a coupling names the layer 'none'"):
        History.open(tmp_path).at(0)
