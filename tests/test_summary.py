"""The tables of measures: what is in them; their cache; progress and interrupts."""

import copy
import os
import pickle
import re
import shutil
from fnmatch import fnmatch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import analysis
import topo

DEFAULT = [name for name in analysis.MEASURES if name not in analysis.ON_REQUEST]
INTEGERS = ["step", "links", "in_degree_max", "out_degree_max"]


@pytest.fixture
def history(tmp_path):
    """Two layers, two updates, solved by hand."""
    start = topo.Network({"a": [[1, 0], [1, 1]], "b": [[0, 1]]})
    middle = topo.Network({"a": [[0, 1], [1, 1]], "b": [[0, 1]]})
    end = topo.Network({"a": [[0, 1], [1, 1]], "b": [[1, 0]]})
    writer = topo.HistoryWriter(tmp_path / "h", start)
    events = {"a": {"removed": [0, 3], "grown": [1, 3]}}
    writer.append(5, middle, events, {"a": 0.5})
    writer.append(9, end, {"b": {"removed": [1], "grown": [0]}}, {"b": 0.0})
    return topo.History.open(tmp_path / "h")


def evolved(folder, updates=2, seed=0, layers=("in", "out")):
    """A history of random layers of 24 x 20 and 20 x 24."""
    rng = np.random.default_rng(seed)
    shapes = {name: (24, 20) if i % 2 == 0 else (20, 24) for i, name in enumerate(layers)}
    masks = {name: rng.random(shape) < 0.2 for name, shape in shapes.items()}
    writer = topo.HistoryWriter(folder, topo.Network(masks))
    evolve(writer, [10 * (i + 1) for i in range(updates)], rng)
    return topo.History.open(folder)


def evolve(writer, steps, rng):
    for step in steps:
        events, masks = {}, {}
        for name, a in writer.network.layers.items():
            before = a.toarray()
            after = before & (rng.random(before.shape) < 0.7) | (rng.random(before.shape) < 0.05)
            events[name] = {
                "removed": np.flatnonzero(before & ~after),
                "grown": np.flatnonzero(after & ~before),
            }
            masks[name] = after
        writer.append(step, topo.Network(masks), events, dict.fromkeys(masks, 0.25))


def cache_file(history):
    return history.path.with_name(f"{history.path.name}.measures.parquet")


def files_beside(history):
    return sorted(file.name for file in history.path.parent.iterdir())


def same(one, other):
    pd.testing.assert_frame_equal(one, other)
    pd.testing.assert_frame_equal(analysis.reasons(one), analysis.reasons(other))


@pytest.fixture
def calls(monkeypatch):
    """How often each of three measures is computed."""
    found = {"spectral_gap": 0, "assortativity": 0, "modularity": 0}

    def counted(name, function):
        def count(*args):
            found[name] += 1
            return function(*args)

        return count

    for name in found:
        module = "analysis.measures.state"
        monkeypatch.setattr(f"{module}.{name}", counted(name, getattr(analysis, name)))
    return found


# values


def test_summary_by_hand(history):
    table = analysis.summary(history)
    assert table[["layer", "step"]].to_numpy().tolist() == [
        ["a", 0], ["b", 0], ["a", 5], ["b", 5], ["a", 9], ["b", 9],
    ]  # fmt: skip
    assert table["links"].tolist() == [3, 1, 3, 1, 3, 1]
    assert table["density"].tolist() == [0.75, 0.5] * 3
    # step 0: b reads hidden neuron 1 alone, so hidden neuron 0 loses its link from input 0
    assert table["active_neuron_rate"].tolist() == [3 / 4, 2 / 3, 3 / 4, 2 / 3, 2 / 4, 2 / 3]
    np.testing.assert_array_equal(table["elm_overlap"], [np.nan, np.nan, 0.5, np.nan, np.nan, 0.0])
    # of a, link 3 was removed and regrown: 0 was replaced by 1
    np.testing.assert_array_equal(table["turnover"], [np.nan, np.nan, 1 / 3, 0, 0, 1])
    assert table["itop_rate"].tolist() == [3 / 4, 1 / 2, 1, 1 / 2, 1, 1]
    assert table["in_degree_max"].tolist() == [2, 1] * 3
    assert table["in_degree_mean"].tolist() == [1.5, 1.0] * 3
    assert table["out_degree_std"].tolist() == [0.5] * 6
    assert table["out_degree_mean"].tolist() == [1.5, 0.5] * 3
    assert table["in_degree_std"].tolist() == [0.5, 0.0] * 3
    assert table["out_degree_max"].tolist() == [2, 1] * 3
    np.testing.assert_array_equal(table["hub_agreement"], [np.nan, 1.0, np.nan, 1.0, np.nan, -1.0])
    # the path of three links: 4 C4 / L3 = 0, ends of degree 1 at neurons of degree 2
    assert table["robins_alexander"].tolist() == [0.0] * 6
    assert table["assortativity"].dropna().tolist() == pytest.approx([-0.5] * 3)
    assert list(analysis.summary(history, measures=["density"])) == ["layer", "step", "density"]


def test_reasons_by_hand(history):
    found = analysis.reasons(
        analysis.summary(history, ["elm_overlap", "turnover", "hub_agreement"])
    )
    assert list(found) == ["step", "layer", "measure", "reason"]
    no_update, not_regrown, first = (
        "no update made this topology",
        "nothing was regrown, or the overlap was not recorded",
        "no other layer ends at this layer's input neurons",
    )
    assert found.to_numpy().tolist() == [
        [0, "a", "elm_overlap", no_update],
        [0, "a", "turnover", no_update],
        [0, "a", "hub_agreement", first],
        [0, "b", "elm_overlap", no_update],
        [0, "b", "turnover", no_update],
        [5, "a", "hub_agreement", first],
        [5, "b", "elm_overlap", not_regrown],
        [9, "a", "elm_overlap", not_regrown],
        [9, "a", "hub_agreement", first],
    ]
    of_network = analysis.reasons(analysis.summary(history.at(5), ["turnover", "itop_rate"]))
    assert of_network["reason"].tolist() == [no_update, "a network has no past"] * 2
    assert len(analysis.reasons(pd.DataFrame({"a": [1]}))) == 0
    assert list(analysis.reasons(pd.DataFrame())) == ["step", "layer", "measure", "reason"]


def test_what_is_undefined_can_be_copied_and_sent_to_other_processes():
    value = analysis.Undefined("because")
    copies = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(6)]
    for one in (value, copy.copy(value), copy.deepcopy([value])[0], *copies):
        assert isinstance(one, analysis.Undefined)
        assert one != one
        assert one.reason == "because"
    assert repr(value) == "nan (because)"
    assert np.isnan(value + 1)


def test_a_layer_without_links_has_no_turnover_once_it_is_empty(tmp_path):
    writer = topo.HistoryWriter(tmp_path / "h", topo.Network({"fc": [[1]]}))
    writer.append(1, topo.Network({"fc": [[0]]}), {"fc": {"removed": [0]}})
    writer.append(2, topo.Network({"fc": [[1]]}), {"fc": {"grown": [0]}})
    table = analysis.summary(topo.History.open(tmp_path / "h"), ["turnover"])
    np.testing.assert_array_equal(table["turnover"], [np.nan, 1.0, np.nan])
    assert analysis.reasons(table)["reason"].tolist()[1] == "there was no link to lose"


def test_summary_of_a_network(history):
    table = analysis.summary(history.at(5), measures=["links", "active_neuron_rate"])
    assert table["layer"].tolist() == ["a", "b"]
    assert table["step"].tolist() == [0, 0]
    assert table["links"].tolist() == [3, 1]
    assert table["active_neuron_rate"].tolist() == [3 / 4, 2 / 3]


def expected_of(history):
    """By step, layer and measure: what the functions of single layers, networks, histories say."""
    overlap, turnover, itop, active = (
        getattr(analysis, name)(history).set_index("step")
        for name in ("elm_overlap", "turnover", "itop_rate", "active_neurons")
    )
    values = {}
    for step, network in history.networks():
        percolated = topo.percolate(network)
        agreement = analysis.hub_agreement(network).set_index("layer")["hub_agreement"]
        ends = [np.concatenate([a.sum(axis=1), a.sum(axis=0)]) for a in percolated.layers.values()]
        kept = {name: (one > 0).mean() for name, one in zip(network.layers, ends)}
        for name, a in network.layers.items():

            def past(table, column, name=name, step=step):
                own = table[table["layer"] == name][column]
                return own.get(step, np.nan)

            k, d = a.sum(axis=1), a.sum(axis=0)
            small = analysis.small_worldness(a)
            values[step, name] = {
                "links": a.nnz,
                "density": a.nnz / np.prod(a.shape),
                "active_neuron_rate": kept[name],
                "elm_overlap": past(overlap, "elm_overlap"),
                "turnover": past(turnover, "turnover"),
                "itop_rate": past(itop, "itop_rate"),
                "in_degree_mean": np.mean(k),
                "in_degree_std": np.std(k),
                "in_degree_max": max(k),
                "in_degree_alpha": analysis.power_law(k).alpha,
                "out_degree_mean": np.mean(d),
                "out_degree_std": np.std(d),
                "out_degree_max": max(d),
                "out_degree_alpha": analysis.power_law(d).alpha,
                "clustering": analysis.clustering(a, "latapy", "both"),
                "robins_alexander": analysis.clustering(a, "robins_alexander"),
                "opsahl": analysis.clustering(a, "opsahl", "both"),
                "assortativity": analysis.assortativity(a),
                "hub_agreement": agreement[name],
                "spectral_gap": analysis.spectral_gap(a),
                "nestedness": analysis.nestedness(a),
                "path_length": analysis.path_length(a).mean,
                "unreachable": analysis.path_length(a).unreachable,
                "sigma": small.sigma,
                "omega": small.omega,
                "modularity": analysis.modularity(a).modularity,
            }
    assert len(active) == len(history.steps)
    return values


def test_summary_is_what_the_single_functions_say(tmp_path):
    history = evolved(tmp_path / "h")
    table = analysis.summary(history, measures=analysis.MEASURES)
    expected = expected_of(history)
    assert list(zip(table["step"], table["layer"])) == list(expected)
    for (step, layer), own in expected.items():
        row = table[(table["step"] == step) & (table["layer"] == layer)].iloc[0]
        assert set(own) == set(analysis.MEASURES)
        for name, value in own.items():
            assert row[name] == pytest.approx(value, rel=1e-9, nan_ok=True), (step, layer, name)
    # each of them says something, but the exponents: the degrees of 24 neurons are no power law
    undefined = table.columns[table.isna().all()].tolist()
    assert undefined == ["in_degree_alpha", "out_degree_alpha"]
    # a network: the same, but what is of updates
    alone = analysis.summary(history.at(20), measures=analysis.MEASURES)
    of_updates = ["elm_overlap", "turnover", "itop_rate"]
    assert alone[of_updates].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        alone.drop(columns=["step", *of_updates]),
        table[table["step"] == 20].drop(columns=["step", *of_updates]).reset_index(drop=True),
    )


def test_scale_free_layers_have_exponents():
    a = topo.scale_free(3000, 3000, 0.002, seed=0)
    row = analysis.summary(topo.Network({"fc": a}), ["in_degree_alpha", "out_degree_alpha"]).iloc[0]
    fits = [analysis.power_law(analysis.degrees(a, side)) for side in ("output", "input")]
    assert any(fit.fits for fit in fits)
    for value, fit in zip(row.iloc[2:], fits):
        assert value == pytest.approx(fit.alpha, nan_ok=True)


def test_elm_overlap_and_active_neurons_by_hand(history):
    overlap = analysis.elm_overlap(history)
    assert list(overlap) == ["step", "layer", "elm_overlap"]
    np.testing.assert_array_equal(overlap["elm_overlap"], [0.5, np.nan, np.nan, 0.0])
    active = analysis.active_neurons(history)
    assert active["step"].tolist() == [0, 5, 9]
    # inputs, hidden, output: 2 + 2 + 1 neurons
    assert active["active_neuron_rate"].tolist() == [4 / 5, 4 / 5, 3 / 5]


def test_recorded_active_neurons_are_not_counted_again(tmp_path):
    start, end = topo.Network({"a": [[1, 0], [0, 1]]}), topo.Network({"a": [[1, 0], [0, 0]]})
    rate = {"active_neuron_rate": 0.25}  # not the true one, to tell them apart
    writer = topo.HistoryWriter(tmp_path, start)

    def rates():
        table = analysis.active_neurons(topo.History.open(tmp_path))
        assert list(table) == ["step", "active_neuron_rate"]
        assert table.dtypes.tolist() == [np.int64, np.float64]
        return dict(zip(table["step"].tolist(), table["active_neuron_rate"].tolist(), strict=True))

    assert rates() == {0: 1.0}
    writer.append(5, end, {"a": {"removed": [3]}}, measures={"a": rate})
    assert rates() == {0: 1.0, 5: 0.25}
    writer.append(9, end, {})  # a step without it: none is taken on trust
    assert rates() == {0: 1.0, 5: 0.5, 9: 0.5}


# columns, types, arguments


def test_columns_types_and_order(history):
    for source in (history, history.at(0)):
        table = analysis.summary(source)
        assert list(table) == ["layer", "step", *DEFAULT]
        assert table.index.tolist() == list(range(len(table)))
        for name in table.columns[1:]:
            assert table[name].dtype == (np.int64 if name in INTEGERS else np.float64), name
    chosen = ["density", "links", "density"]
    assert list(analysis.summary(history, chosen)) == ["layer", "step", "density", "links"]
    assert list(analysis.summary(history, iter(chosen[:2]))) == ["layer", "step", *chosen[:2]]


def test_the_docstring_names_every_measure():
    words = re.findall(r"[a-z_]+\\?\*?", analysis.summary.__doc__.replace("\\", ""))
    for name in analysis.MEASURES:
        assert any(fnmatch(name, word) for word in words if len(word) > 3), name
    assert not analysis.ON_REQUEST - set(analysis.MEASURES)
    on_request = re.search(r"but those in `ON_REQUEST` \((.*?)\)", analysis.summary.__doc__, re.S)
    assert set(re.split(r",\s+", on_request[1])) == analysis.ON_REQUEST
    for columns, _ in analysis.NETWORK_MEASURES.values():
        assert all(name in analysis.network_summary.__doc__ for name in columns)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (None, [0, 10, 20, 30]),
        ([20], [20]),
        ([25, 20, 0], [0, 20]),  # the latest that is not after it, once
        (range(9), [0]),
        ([10**9], [30]),
        ([], []),
        (np.array([30, 10]), [10, 30]),
    ],
)
def test_chosen_steps(tmp_path, steps, expected):
    history = evolved(tmp_path / "h", updates=3)
    table = analysis.summary(history, ["links", "turnover"], steps=steps)
    assert table["step"].tolist() == [step for step in expected for _ in range(2)]
    whole = analysis.summary(history, ["links", "turnover"])
    pd.testing.assert_frame_equal(table, whole[whole["step"].isin(expected)].reset_index(drop=True))


def test_bad_arguments(history):
    with pytest.raises(ValueError, match="unknown measure 'densty': did you mean 'density'"):
        analysis.summary(history, measures=["densty"])
    with pytest.raises(ValueError, match="takes a Network or a History, not dict"):
        analysis.summary({})
    with pytest.raises(ValueError, match="steps are of a History, and this is a Network"):
        analysis.summary(history.at(0), steps=[0])
    for step in (-1, 1.5, "last", True):
        with pytest.raises(ValueError, match="a step must be an integer from 0, not"):
            analysis.summary(history, steps=[0, step])
    with pytest.raises(
        ValueError, match="unknown measure of a network 'dens': did you mean 'density'"
    ):
        analysis.network_summary(history, measures=["dens"])
    with pytest.raises(ValueError, match="takes a Network or a History, not ndarray"):
        analysis.network_summary(np.eye(2))
    assert files_beside(history) == ["h"]  # nothing was written


@pytest.mark.parametrize("layers", [1, 12], ids=["one layer", "many layers"])
def test_many_and_dense_layers(tmp_path, layers):
    names = [f"l{i}" for i in range(layers)][::-1]
    dense = np.ones((3, 3))
    writer = topo.HistoryWriter(tmp_path / "h", topo.Network(dict.fromkeys(names, dense)))
    after = {name: dense if i else np.tril(dense) for i, name in enumerate(names)}
    writer.append(4, topo.Network(after), {names[0]: {"removed": [1, 2, 5]}})
    history = topo.History.open(tmp_path / "h")
    table = analysis.summary(history)
    assert table["layer"].tolist() == names * 2
    assert table["density"].tolist() == [1.0] * layers + [2 / 3] + [1.0] * (layers - 1)
    assert table["active_neuron_rate"].tolist() == [1.0] * 2 * layers
    whole = analysis.network_summary(history)
    assert whole["links"].tolist() == [9 * layers, 9 * layers - 3]
    assert whole["credit_paths"].tolist() == [3.0 ** (layers + 1), 6 * 3.0 ** (layers - 1)]


# whole networks


def test_network_summary_is_what_the_single_functions_say(tmp_path):
    history = evolved(tmp_path / "h")
    table = analysis.network_summary(history, measures=analysis.NETWORK_MEASURES)
    assert list(table) == [
        "step", "links", "density", "active_neuron_rate", "credit_paths", "hub_share",
        "degree_alpha", "path_length", "path_length_error", "unreachable",
    ]  # fmt: skip
    for name in table:
        assert table[name].dtype == (np.int64 if name in INTEGERS else np.float64), name
    assert table["step"].tolist() == history.steps
    for row, (step, network) in zip(table.to_dict("records"), history.networks()):
        credit, paths = analysis.credit_paths(network), analysis.path_length(network)
        assert row | {"degree_alpha": None} == {
            "step": step,
            "links": network.links,
            "density": network.density,
            "active_neuron_rate": topo.active_neuron_rate(network),
            "credit_paths": credit.chains,
            "hub_share": credit.hub_share,
            "degree_alpha": None,
            "path_length": paths.mean,
            "path_length_error": 0.0,
            "unreachable": paths.unreachable,
        }
        single = analysis.network_summary(network, measures=analysis.NETWORK_MEASURES)
        pd.testing.assert_series_equal(
            single.drop(columns="step").iloc[0],
            table[table["step"] == step].drop(columns="step").iloc[0],
            check_names=False,
        )
        assert single["step"].tolist() == [0]
    found = analysis.reasons(table)
    assert found["measure"].tolist() == ["degree_alpha"] * 3
    assert found["layer"].unique().tolist() == ["network"]
    assert found["step"].tolist() == history.steps
    assert (found["reason"] != "").all()
    default = [name for name in table if not name.startswith(("path_length", "unreachable"))]
    assert list(analysis.network_summary(history)) == default
    chosen = ["density", "links"]
    assert list(analysis.network_summary(history.at(0), chosen)) == ["step", *chosen]


def test_networks_of_more_steps_than_are_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("topo.parallel.thread_count", lambda: 1)
    history = evolved(tmp_path / "h", updates=9)
    table = analysis.network_summary(history, ["links"])
    assert table["step"].tolist() == history.steps
    assert table["links"].tolist() == [network.links for _, network in history.networks()]


def test_paths_of_a_large_network_are_sampled():
    net = topo.Network({"fc": topo.erdos_renyi(4200, 4000, 0.0005, seed=0)})
    row = analysis.network_summary(net, ["path_length"]).iloc[0]
    sampled = analysis.path_length(net, sources=512)
    assert row["path_length"] == sampled.mean
    assert row["path_length_error"] == sampled.error > 0


def test_networks_of_users_measures(monkeypatch, history):
    def pair(network):
        return float("nan"), analysis.Undefined("because")

    monkeypatch.setitem(analysis.NETWORK_MEASURES, "mine", (("one", "two"), pair))
    table = analysis.network_summary(history, ["mine"])
    assert list(table) == ["step", "one", "two"]
    assert analysis.reasons(table)["reason"].tolist() == ["not given", "because"] * 3


# the cache


def test_a_second_call_takes_values_from_the_file(history, calls):
    chosen = ["spectral_gap", "assortativity", "elm_overlap", "turnover"]
    first = analysis.summary(history, chosen)
    assert calls == {"spectral_gap": 6, "assortativity": 6, "modularity": 0}
    same(first, analysis.summary(history, chosen))
    same(first, analysis.summary(topo.History.open(history.path), iter(chosen)))
    assert calls["spectral_gap"] == 6
    # one more measure, another order, some of the steps: only what is new is computed
    more = analysis.summary(history, ["modularity", "spectral_gap"], steps=[9])
    assert calls == {"spectral_gap": 6, "assortativity": 6, "modularity": 2}
    assert more["spectral_gap"].tolist() == first["spectral_gap"].tolist()[4:]
    analysis.summary(history, analysis.MEASURES)
    assert calls == {"spectral_gap": 6, "assortativity": 6, "modularity": 6}


def test_what_is_in_the_file(history):
    analysis.summary(history, ["assortativity", "elm_overlap", "turnover", "itop_rate"])
    table = pd.read_parquet(cache_file(history))
    assert list(table) == ["step", "layer", "measure", "value", "reason", "topology"]
    assert set(table["measure"]) == {"assortativity"}  # the others are of the past, not the state
    assert table["step"].tolist() == [0, 0, 5, 5, 9, 9]
    assert table["topology"].nunique() == 3
    # the file is what a second call goes by
    table["value"] = 17.0
    schema = pq.read_schema(cache_file(history))
    edited = pa.Table.from_pandas(table).cast(schema).replace_schema_metadata(schema.metadata)
    pq.write_table(edited, cache_file(history))
    assert analysis.summary(history, ["assortativity"])["assortativity"].tolist() == [17.0] * 6
    fresh = analysis.summary(history, ["assortativity"], cache=False)
    assert fresh["assortativity"].dropna().tolist() == pytest.approx([-0.5] * 3)


def test_no_cache_writes_nothing(history):
    analysis.summary(history, cache=False)
    analysis.summary(history.at(0))
    assert files_beside(history) == ["h"]
    analysis.summary(history, ["elm_overlap"])  # nothing that can be kept
    assert files_beside(history) == ["h"]
    analysis.summary(history, ["links"])
    assert files_beside(history) == ["h", "h.measures.parquet"]


def test_the_file_is_the_same_whichever_step_is_measured_first(history, monkeypatch):
    analysis.summary(history, ["links", "nestedness"])
    data = cache_file(history).read_bytes()
    cache_file(history).unlink()
    backwards = "topo.parallel.map_threads"
    monkeypatch.setattr(backwards, lambda f, items: [f(item) for item in items[::-1]][::-1])
    analysis.summary(history, ["links", "nestedness"])
    assert cache_file(history).read_bytes() == data


def test_nothing_is_written_where_nothing_is_new(history):
    analysis.summary(history, ["links"])
    written = cache_file(history).stat().st_mtime_ns, cache_file(history).stat().st_ino
    analysis.summary(history, ["links"])
    assert (cache_file(history).stat().st_mtime_ns, cache_file(history).stat().st_ino) == written


@pytest.mark.parametrize("where", [".", "..", "h", "run"])
def test_the_file_is_beside_the_folder_whatever_it_is_called(history, where, monkeypatch):
    inside = {".": history.path, "..": history.path / "events", "h": history.path.parent}
    if where == "run":  # the folder of a run, which has the history in it
        shutil.move(history.path, history.path.parent / "topology")
        history = topo.History.open(history.path.parent)
    else:
        monkeypatch.chdir(inside[where])
    table = analysis.summary(topo.History.open(history.path if where == "run" else where))
    assert len(table) == 6
    name = "topology" if where == "run" else "h"
    assert files_beside(history) == [name, f"{name}.measures.parquet"]


def test_a_changed_topology_is_measured_anew(tmp_path, calls):
    history = evolved(tmp_path / "h", updates=3)
    before = analysis.summary(history, ["spectral_gap", "links"])
    assert calls["spectral_gap"] == 8
    writer = topo.HistoryWriter.open(history.path, step=10)
    evolve(writer, [20, 40], np.random.default_rng(99))  # another 20, no 30
    changed = topo.History.open(history.path)
    found = analysis.summary(changed, ["spectral_gap", "links"])
    assert calls["spectral_gap"] == 8 + 4
    same(found, analysis.summary(changed, ["spectral_gap", "links"], cache=False))
    assert found["step"].tolist() == [0, 0, 10, 10, 20, 20, 40, 40]
    assert found["spectral_gap"].tolist()[:4] == before["spectral_gap"].tolist()[:4]
    assert not set(found["spectral_gap"][4:6]) & set(before["spectral_gap"][4:6])
    calls["spectral_gap"] = 0
    same(found, analysis.summary(changed, ["spectral_gap", "links"]))
    assert calls["spectral_gap"] == 0


A, B = [[1, 1], [1, 0]], [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (topo.Network({"a": A, "b": B}), topo.Network({"a": [[1, 0], [1, 1]], "b": B})),
        (topo.Network({"a": A, "b": B}), topo.Network({"a": A, "b": B}, ())),
        (topo.Network({"a": A, "b": [[1, 1]]}, ()), topo.Network({"b": A, "a": [[1, 1]]}, ())),
        (topo.Network({"a": [[1, 0], [0, 1]]}), topo.Network({"a": [[1, 1], [0, 0]]})),
        (topo.Network({"a": [[1, 1, 0]] * 2}), topo.Network({"a": [[1, 1, 0], [0, 1, 1]]})),
        (topo.Network({"a": [[1, 1, 0]]}), topo.Network({"a": [[1, 1]]})),
    ],
    ids=["another layer", "couplings", "names", "rows", "columns", "shape"],
)
def test_a_value_is_of_the_very_network(tmp_path, before, after):
    """Where a history is written anew at the same place, nothing of the old one is taken."""
    for network in (before, after):
        shutil.rmtree(tmp_path / "h", ignore_errors=True)
        topo.HistoryWriter(tmp_path / "h", network)
        found = analysis.summary(topo.History.open(tmp_path / "h"), DEFAULT)
        expected = analysis.summary(network, DEFAULT)
        of_updates = ["elm_overlap", "turnover", "itop_rate"]
        pd.testing.assert_frame_equal(*(t.drop(columns=of_updates) for t in (found, expected)))
    assert pd.read_parquet(tmp_path / "h.measures.parquet")["topology"].nunique() == 1


def damaged(data):
    """By how: what is left of a file."""
    metadata = pq.read_table(pa.BufferReader(data))
    other = metadata.replace_schema_metadata({b"epitopo": b"0.0", b"format": b"epitopo-measures-1"})
    less = metadata.drop_columns(["reason"])
    sink, sink_less = pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(other, sink)
    pq.write_table(less, sink_less)
    return {
        "empty": b"",
        "text": b"not a table",
        "cut off": data[: len(data) // 2],
        "no head": data[len(data) // 2 :],
        "zeros": data[:8] + bytes(len(data) - 8),
        "another version": sink.getvalue().to_pybytes(),
        "a column less": sink_less.getvalue().to_pybytes(),
    }


@pytest.mark.parametrize(
    "how",
    ["empty", "text", "cut off", "no head", "zeros", "another version", "a column less", "folder"],
)
def test_a_damaged_file_is_measured_anew_and_replaced(history, calls, how):
    file = cache_file(history)
    first = analysis.summary(history, ["spectral_gap"])
    data = file.read_bytes()
    if how == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(damaged(data)[how])
    same(first, analysis.summary(history, ["spectral_gap"]))
    assert calls["spectral_gap"] == 12
    same(first, analysis.summary(history, ["spectral_gap"]))
    assert calls["spectral_gap"] == (18 if how == "folder" else 12)


def test_no_flipped_bit_makes_a_wrong_value(history):
    first = analysis.summary(history, ["spectral_gap", "assortativity", "nestedness"])
    file = cache_file(history)
    data = file.read_bytes()
    values = pq.read_metadata(file).row_group(0).column(3)
    begin = values.dictionary_page_offset or values.data_page_offset
    size = values.total_compressed_size
    rng = np.random.default_rng(0)
    for at in [*rng.integers(len(data), size=20), *(begin + rng.integers(size, size=20))]:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.integers(8)
        file.write_bytes(broken)
        same(first, analysis.summary(history, ["spectral_gap", "assortativity", "nestedness"]))


def test_a_place_that_cannot_be_written(history, monkeypatch):
    def refuse(file, content):
        raise PermissionError(13, "Permission denied", str(file))

    expected = analysis.summary(history, cache=False)
    monkeypatch.setattr("analysis.measures.cache.write_atomically", refuse)
    same(expected, analysis.summary(history))
    assert files_beside(history) == ["h"]
    monkeypatch.undo()
    if os.getuid():  # root may write everywhere
        history.path.parent.chmod(0o500)
        same(expected, analysis.summary(history))
        history.path.parent.chmod(0o700)


def test_a_reader_beside_a_writer(tmp_path):
    """Opened before it went on: its own steps, and what it keeps does no harm."""
    early = evolved(tmp_path / "h", updates=1)
    evolve(topo.HistoryWriter.open(early.path), [20, 30], np.random.default_rng(5))
    late = topo.History.open(early.path)
    chosen = ["links", "spectral_gap"]
    whole, part = (analysis.summary(h, chosen, cache=False) for h in (late, early))
    same(part, analysis.summary(early, chosen))
    same(whole, analysis.summary(late, chosen))
    same(part, analysis.summary(early, chosen))
    same(whole, analysis.summary(late, chosen))


def test_two_sessions_at_once(history, monkeypatch):
    """The other wrote its values between our reading and our writing: the last one stays whole."""
    from analysis.measures.cache import Cache

    opened = Cache.beside(history)
    other = analysis.summary(history, ["assortativity"])
    monkeypatch.setattr("analysis.measures.summaries.Cache.beside", lambda _: opened)
    analysis.summary(history, ["links"])
    monkeypatch.undo()
    same(other, analysis.summary(history, ["assortativity"]))
    stored = pd.read_parquet(cache_file(history))
    assert set(stored["measure"]) == {"assortativity", "links"}


def test_a_users_own_measure_is_computed_and_not_kept(history, monkeypatch):
    seen = []

    def hidden(state):
        seen.append(state)
        assert isinstance(state, analysis.LayerState)
        return state.adjacency.shape[0]

    monkeypatch.setitem(analysis.MEASURES, "outputs", hidden)
    for _ in range(2):
        table = analysis.summary(history, ["outputs", "links"])
        assert table["outputs"].tolist() == [2, 1] * 3
    assert len(seen) == 12
    assert set(pd.read_parquet(cache_file(history))["measure"]) == {"links"}
    assert list(analysis.summary(history))[-1] == "outputs"
    monkeypatch.setitem(analysis.MEASURES, "outputs", lambda state: float("nan"))
    reasons = analysis.reasons(analysis.summary(history, ["outputs"]))
    assert reasons["reason"].tolist() == ["not given"] * 6


def test_a_users_own_measure_under_a_known_name_is_his(history, monkeypatch):
    before = analysis.summary(history, ["density"])
    monkeypatch.setitem(analysis.MEASURES, "density", lambda state: -1.0)
    assert analysis.summary(history, ["density"])["density"].tolist() == [-1.0] * 6
    monkeypatch.undo()
    same(before, analysis.summary(history, ["density"]))


def test_a_long_cache_is_not_slow_to_fill():
    """Time in proportion to the values: 4,000 steps took a minute by comparing each with all."""
    from analysis.measures.cache import Cache, Value

    cache = Cache()
    for step in range(4000):
        cache.add("key", [Value(step, "fc", f"m{i}", 0.0, "") for i in range(20)])
    assert len(cache.values(3999, "key")) == 20
    cache.add("other", [Value(7, "fc", "m0", 1.0, "")])
    assert cache.values(7, "key") == {}
    assert [v.value for v in cache.values(7, "other").values()] == [1.0]


# progress, interrupts


def test_progress_is_shown_where_it_is_asked_for(history, capfd):
    analysis.summary(history, ["links"])
    analysis.summary(history, ["links"], progress=False)
    analysis.summary(history.at(0), ["links"], progress=True)
    assert capfd.readouterr() == ("", "")
    analysis.summary(history, ["links"], steps=[0, 9], progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "measuring" in err
    assert "2/2" in err


def test_progress_is_shown_on_a_terminal_and_in_a_notebook(history, monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    analysis.summary(history, ["links"])
    assert "3/3" in capfd.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", object())
    analysis.summary(history, ["links"])
    assert "3/3" in capfd.readouterr().err


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_keeps_what_was_measured(tmp_path, monkeypatch, threads, calls):
    history = evolved(tmp_path / "h", updates=9)
    expected = analysis.summary(history, ["spectral_gap", "links"], cache=False)
    calls["spectral_gap"] = 0
    monkeypatch.setattr("topo.parallel.thread_count", lambda: threads)
    links = analysis.MEASURES["links"]

    def interrupted(state):
        if calls["spectral_gap"] > 11:
            raise KeyboardInterrupt
        return links(state)

    with monkeypatch.context() as patch:
        patch.setitem(analysis.MEASURES, "links", interrupted)
        with pytest.raises(KeyboardInterrupt):
            analysis.summary(history, ["spectral_gap", "links"])
    kept = pd.read_parquet(cache_file(history))
    assert {"spectral_gap"} == set(kept["measure"])
    assert len(kept) >= 2 * (5 - (threads - 1))  # all but the steps at hand
    calls["spectral_gap"] = 0
    same(expected, analysis.summary(history, ["spectral_gap", "links"]))
    assert calls["spectral_gap"] == 20 - len(kept)


def test_degrees_of_any_form_of_a_matrix():
    matrix = np.array([[1, 1, 0], [0, 0, 0]])
    stored_zero = sparse.csr_array(([0, 1, 1], [0, 1, 2], [0, 3]), shape=(1, 3))
    for form in (matrix, matrix.tolist(), sparse.csc_array(matrix), sparse.coo_array(matrix)):
        assert analysis.degrees(form, "output").tolist() == [2, 0]
        assert analysis.degrees(form, "input").tolist() == [1, 1, 0]
    assert analysis.degrees(stored_zero, "output").tolist() == [2]


@pytest.mark.parametrize(
    "measure",
    [
        "turnover",
        "survival",
        "lifetimes",
        "link_ages",
        "itop_rate",
        "elm_overlap",
        "active_neurons",
    ],
)
def test_measures_over_time_want_a_history(measure):
    with pytest.raises(ValueError, match="history must be a History, not a str"):
        getattr(analysis, measure)("runs/demo")


def test_one_name_or_step_is_no_list():
    network = topo.Network({"fc": [[1]]})
    for function in (analysis.summary, analysis.network_summary):
        with pytest.raises(ValueError, match=r"list of names, such as \['links'\]"):
            function(network, "links")
