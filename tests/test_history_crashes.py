"""Histories whose writer dies, is killed, resumed, truncated, or has readers beside it."""

import contextlib
import inspect
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import topo
from topo import History, HistoryError, HistoryWarning, HistoryWriter, Network
from topo._parts import parts_in

EVERY = 2  # updates between keyframes, so that few of them have all cases
SHAPES = {"a": (3, 4), "b": (2, 3)}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr("topo.history_writer.KEYFRAME_EVERY", EVERY)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only a power cut could tell


def network(seed):
    """A network that only the seed decides; all have as many links."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, (n_out, n_in) in SHAPES.items():
        keys = np.sort(rng.permutation(n_out * n_in)[: n_out * n_in // 2])
        layers[name] = topo.from_links(*np.divmod(keys, n_in), (n_out, n_in))
    return Network(layers, ())


def events(before, after):
    found = {}
    for name in SHAPES:
        old, new = (set(topo.adjacency.link_keys(n.layers[name]).tolist()) for n in (before, after))
        found[name] = {"removed": sorted(old - new), "grown": sorted(new - old)}
    return found


def weights(events):
    return {n: {k: [c / 8 for c in keys] for k, keys in e.items()} for n, e in events.items()}


def append(writer, step, after, weighted=True):
    event = events(writer.network, after)
    writer.append(step, after, event, weights=weights(event) if weighted else None)


def write(folder, seeds):
    """A history whose update i, at step 10 i, is to the network of the i-th seed."""
    writer = HistoryWriter(folder, network(seeds[0]))
    for i, seed in enumerate(seeds[1:], 1):
        append(writer, 10 * i, network(seed))
    return writer


def assert_is(folder, seeds):
    """The history, opened, is what `write` makes."""
    history = History.open(folder)
    assert history.steps == [10 * i for i in range(len(seeds))]
    for i, seed in enumerate(seeds):
        assert history.at(10 * i) == history.at(10 * i + 9) == network(seed)
    return history


def assert_clean(folder, seeds):
    """And nothing else is in its folder, for those who read it without us."""
    history = assert_is(folder, seeds)
    assert history.incomplete == ()
    assert "incomplete" not in repr(history)
    ours = history.events()
    plain = pd.read_parquet(folder / "events").sort_values("step", kind="stable")
    pd.testing.assert_frame_equal(ours, plain.reset_index(drop=True))
    parts = {kind: [p.step for p in parts_in(folder, kind)] for kind in ("events", "updates")}
    assert parts == {"events": history.steps, "updates": history.steps}
    assert {p.file for p in parts_in(folder, "keyframes")} <= set(history.keyframes.values())


def reopen(folder, step=None, warns=None):
    """Go on; whether that has to warn, or may."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        writer = HistoryWriter.open(folder, step)
    assert all(w.category is HistoryWarning for w in caught)
    assert warns is None or bool(caught) == warns, [str(w.message) for w in caught]
    return writer


# ---- dying at every boundary -----------------------------------------------------------------


class Death(BaseException):
    """The process is gone: nothing of it runs any more."""


@contextlib.contextmanager
def dies_at(n):
    """Let the n-th system call that changes a file, and all later ones, not happen.

    Yields a list with the number of those that did. When a file is not synced, its content is
    cut at a place that depends on n.
    """
    calls = [0]

    def dying(real, before_death=lambda *_: None):
        def call(*arguments, **options):
            if calls[0] >= n:
                before_death(*arguments)
                raise Death
            calls[0] += 1
            return real(*arguments, **options)

        return call

    def lose(descriptor):
        if is_file(descriptor):
            os.truncate(descriptor, random.Random(n).randrange(os.fstat(descriptor).st_size))

    with (
        mock.patch("os.fsync", dying(lambda _: None, lose)),
        mock.patch("os.replace", dying(os.replace)),
        mock.patch("os.unlink", dying(os.unlink)),
        mock.patch("os.mkdir", dying(os.mkdir)),
    ):
        yield calls


def is_file(descriptor):
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def deaths(folder, start, action):
    """Do it in copies of a folder, dying one call later in each, until it is done.

    Yields the copy, and whether the process died there.
    """
    for n in range(1000):
        copy = folder / str(n)
        if start is not None:
            shutil.copytree(start, copy)
        died = True
        with dies_at(n) as calls, contextlib.suppress(Death):
            action(copy)
            died = calls[0] > n
        yield copy, died
        if not died:
            return


def names(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_dying_at_the_start_leaves_no_history(tmp_path):
    begun = []
    for folder, died in deaths(tmp_path, None, lambda copy: HistoryWriter(copy, network(0))):
        begun.append((folder / "_meta.json").exists())
        assert begun[-1] or died
        if begun[-1]:
            assert_clean(folder, [0])
        else:
            with pytest.raises(HistoryError, match="no history in"):
                History.open(folder)
    assert begun.count(False) > 10
    assert begun.count(True) == 2  # the last call syncs the folder


@pytest.mark.parametrize("updates", [1, 2])  # the second has a keyframe
def test_dying_in_an_update_loses_at_most_that_and_says_so(tmp_path, updates):
    seeds = [0, 1, 2, 3]
    start = write(tmp_path / "start", seeds[:updates]).path
    opened = HistoryWriter.open(shutil.copytree(start, tmp_path / "opened")).path

    def update(folder):
        append(HistoryWriter.open(folder), 10 * updates, network(updates))

    lost = []
    for folder, died in deaths(tmp_path, start, update):
        history = History.open(folder)
        done = len(history.steps)
        assert done in (updates, updates + 1)
        assert died or done == updates + 1
        assert_is(folder, seeds[:done])
        # what is left of the update is what is said to be incomplete
        left = {f for f in names(folder) - names(opened) if "/" in f} if done == updates else set()
        assert set(history.incomplete) == left
        assert ("; incomplete: " in repr(history)) == bool(left)
        lost.append(bool(left))
        writer = reopen(folder, warns=bool(left))
        assert writer.network == network(done - 1)
        assert_clean(folder, seeds[:done])
        for i in range(done, len(seeds)):
            append(writer, 10 * i, network(i))
        assert_clean(folder, seeds)
    assert lost.count(True) >= 5


def test_dying_in_a_keyframe_loses_at_most_that_and_says_so(tmp_path):
    start = write(tmp_path / "start", range(3)).path
    values = {n: np.arange(a.nnz) for n, a in network(2).layers.items()}
    lost = []
    for folder, died in deaths(
        tmp_path, start, lambda copy: HistoryWriter.open(copy).keyframe(20, values)
    ):
        history = assert_is(folder, range(3))
        assert died or history.weight_steps == [20]
        lost.append(bool(history.incomplete))
        reopen(folder, warns=lost[-1])
        assert_clean(folder, range(3))
        assert History.open(folder).weight_steps == history.weight_steps
    assert any(lost)


@pytest.mark.parametrize("step", [0, 25])
def test_dying_in_a_truncation_leaves_the_old_or_the_new_history(tmp_path, step):
    old = [0, 1, 2, 3, 4, 5]
    new = old[: step // 10 + 1]
    branch = [*new, 90, 91, 92]
    writer = write(tmp_path / "start", old)
    writer.keyframe(55)
    seen = set()
    for folder, died in deaths(tmp_path, writer.path, lambda copy: HistoryWriter.open(copy, step)):
        length = len(History.open(folder).steps)
        assert length in (len(old), len(new))
        assert_is(folder, old[:length])
        seen.add(length)
        if not died:
            assert_clean(folder, new)
        # die once more, in what is left to do, then go on with other updates
        with dies_at(5 * int(folder.name) % 11), contextlib.suppress(Death):
            HistoryWriter.open(folder, step)
        assert len(History.open(folder).steps) in (length, len(new))
        writer = reopen(folder, step, warns=False)
        assert_clean(folder, new)
        for i in range(len(new), len(branch)):
            append(writer, 10 * i, network(branch[i]))
        assert_clean(folder, branch)
    assert seen == {len(old), len(new)}


def test_a_truncated_history_written_again_is_the_uninterrupted_one(tmp_path):
    seeds = list(range(2 * EVERY + 2))
    write(tmp_path / "once", seeds)
    write(tmp_path / "again", seeds)
    writer = HistoryWriter.open(tmp_path / "again", 10 * EVERY + 3)
    assert_clean(tmp_path / "again", seeds[: EVERY + 1])
    for i in range(EVERY + 1, len(seeds)):
        append(writer, 10 * i, network(i))
    assert_clean(tmp_path / "again", seeds)
    once, again = History.open(tmp_path / "once"), History.open(tmp_path / "again")
    pd.testing.assert_frame_equal(once.events(), again.events())
    pd.testing.assert_frame_equal(once.updates(), again.updates())
    assert list(once.networks()) == list(again.networks())
    for kind in ("events", "keyframes", "updates"):
        a, b = ([f.read_bytes() for f in sorted((h.path / kind).iterdir())] for h in (once, again))
        assert a == b


# ---- a power cut: the file that was written last lost its end --------------------------------


@pytest.mark.parametrize("kind", ["events", "updates", "keyframes"])
def test_the_last_part_may_be_cut_off_anywhere(tmp_path, kind):
    seeds = list(range(2 * EVERY + 1))
    write(tmp_path / "whole", seeds)
    part = sorted((tmp_path / "whole" / kind).iterdir())[-1].name
    content = (tmp_path / "whole" / kind / part).read_bytes()
    kept = seeds if kind == "keyframes" else seeds[:-1]
    for size in [0, 1, 4, 8, 12, *range(20, len(content), 311), len(content) - 1]:
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{size}")
        (folder / kind / part).write_bytes(content[:size])
        with pytest.warns(
            HistoryWarning, match=f"{kind}/{part} is cut off; .* step {10 * kept[-1]}$"
        ):
            history = History.open(folder)
        assert f"{kind}/{part}" in history.incomplete
        with pytest.warns(HistoryWarning, match=re.escape(f"{kind}/{part}") + ".* is removed"):
            writer = HistoryWriter.open(folder)
        assert_clean(folder, kept)
        for i in range(len(kept), len(seeds) + 2):
            append(writer, 10 * i, network(i))
        assert_clean(folder, [*seeds, *range(len(seeds), len(seeds) + 2)])


def test_two_parts_that_lost_their_ends_are_damage(tmp_path):
    write(tmp_path, range(4))
    for step in (20, 30):
        file = tmp_path / "updates" / f"part-{step:010d}-0.parquet"
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(HistoryError, match=r"updates/part-0000000020-0\.parquet is damaged"):
        History.open(tmp_path)
    before = names(tmp_path)
    with pytest.raises(HistoryError, match=r"updates/part-0000000020-0\.parquet is damaged"):
        HistoryWriter.open(tmp_path)
    assert names(tmp_path) == before


@pytest.mark.parametrize("kind", ["events", "updates", "keyframes"])
def test_a_last_part_that_is_something_else_is_damage(tmp_path, kind):
    write(tmp_path, range(EVERY + 2))
    part = max((tmp_path / kind).iterdir())
    part.write_bytes(b"\0" * 99)
    with pytest.raises(HistoryError, match=f"{kind}/{re.escape(part.name)} is damaged"):
        History.open(tmp_path).at(10 * EVERY + 10)
    with pytest.raises(HistoryError, match=f"{kind}/{re.escape(part.name)} is damaged"):
        HistoryWriter.open(tmp_path)


def test_a_keyframe_of_a_lost_update_is_lost_with_it(tmp_path):
    write(tmp_path, range(EVERY + 1))
    (tmp_path / "updates" / f"part-{10 * EVERY:010d}-0.parquet").unlink()
    history = assert_is(tmp_path, range(EVERY))
    name = f"part-{10 * EVERY:010d}-0.parquet"
    assert history.incomplete == (f"events/{name}", f"keyframes/{name}")
    assert history.at(10 * EVERY) == network(EVERY - 1)
    reopen(tmp_path, step=10 * EVERY - 1, warns=False)  # it was to be dropped
    assert_clean(tmp_path, range(EVERY))


def test_a_missing_update_is_reported_and_never_the_end(tmp_path):
    write(tmp_path, range(6))
    for i in (0, 1, 4):
        folder = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-{i}")
        (folder / "updates" / f"part-{10 * i:010d}-0.parquet").unlink()
        for opened in (History.open, HistoryWriter.open):
            with pytest.raises(HistoryError, match=f"update {i} is missing from .*updates"):
                opened(folder)


# ---- killed ----------------------------------------------------------------------------------

CHILD = """
import os, sys
import numpy as np
import topo
from topo import HistoryWriter, Network

SHAPES = {shapes}
{functions}
topo.history_writer.KEYFRAME_EVERY = {every}
for child in range({children}):
    if os.fork():
        continue
    writer = write(os.path.join(sys.argv[1], str(child)), [0])
    for i in range(1, 10**6):
        append(writer, 10 * i, network(i))
        os.write(1, b"%d %d %d\\n" % (child, os.getpid(), i))
"""


def test_killed_at_any_moment(tmp_path):
    functions = "\n".join(map(inspect.getsource, (network, events, weights, append, write)))
    code = CHILD.format(shapes=SHAPES, functions=functions, every=EVERY, children=8)
    said, pids, rng = {}, {}, random.Random()
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            for line in process.stdout:
                child, pid, update = map(int, line.split())
                pids[child], said[child] = pid, update
                if len(said) == 8 and min(said.values()) > 2:
                    break
        finally:
            for pid in pids.values():
                time.sleep(rng.random() / 20)
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # any that said nothing yet
                os.killpg(process.pid, signal.SIGKILL)
        for line in process.stdout:
            child, _, update = map(int, line.split())
            said[child] = update
    assert len(said) == 8
    for child, update in said.items():
        folder = tmp_path / str(child)
        history = History.open(folder)
        done = len(history.steps)
        assert done - 1 in (update, update + 1)  # what it said is there
        assert_is(folder, range(done))
        writer = reopen(folder, warns=bool(history.incomplete))
        assert_clean(folder, range(done))
        append(writer, 10 * done, network(done))
        assert_clean(folder, range(done + 1))


# ---- going on --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, 10**9, np.int64(30), 30])
def test_opening_at_the_end_or_later_drops_nothing(tmp_path, step):
    writer = write(tmp_path / "topology", range(4))
    files = names(tmp_path)
    again = reopen(tmp_path, step, warns=False)  # the run's folder will do
    assert names(tmp_path) == files
    assert again.network == writer.network == network(3)
    append(again, 40, network(4))
    assert_clean(tmp_path / "topology", range(5))


@pytest.mark.parametrize("step", [-1, 1.5, True, "3"])
def test_a_step_that_is_none_changes_nothing(tmp_path, step):
    write(tmp_path, range(3))
    before = (tmp_path / "_meta.json").read_bytes(), names(tmp_path)
    with pytest.raises(ValueError, match=f"step must be an integer from 0, not {step!r}"):
        HistoryWriter.open(tmp_path, step)
    assert ((tmp_path / "_meta.json").read_bytes(), names(tmp_path)) == before


def test_going_on_with_what_is_no_history(tmp_path):
    with pytest.raises(HistoryError, match="no history in"):
        HistoryWriter.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_older_writer_is_refused(tmp_path):
    older = write(tmp_path, range(3))
    newer = HistoryWriter.open(tmp_path)
    append(newer, 30, network(3))
    for write_more in (lambda: append(older, 35, network(7)), lambda: older.keyframe(35)):
        with pytest.raises(HistoryError, match="another writer goes on with"):
            write_more()
    assert_clean(tmp_path, range(4))


def test_weights_survive_and_are_truncated_with_their_steps(tmp_path):
    writer = write(tmp_path, range(3))
    values = {n: np.arange(a.nnz) / 4 for n, a in writer.network.layers.items()}
    writer.keyframe(25, values)
    assert History.open(tmp_path).weight_steps == [25]
    with pytest.raises(ValueError, match="step must be an integer from 26, not 25"):
        append(writer, 25, network(3))  # its topology would not be that of the keyframe
    writer = HistoryWriter.open(tmp_path, 27)
    writer.keyframe(25)  # does not replace weights by none
    assert History.open(tmp_path).weight_steps == [25]
    writer.keyframe(25, {n: v + 1 for n, v in values.items()})
    history = History.open(tmp_path)
    for name, found in history.at(25, weights=True).weights.items():
        assert np.array_equal(found.data, values[name] + 1)
    assert len(list((tmp_path / "keyframes").glob("part-0000000025-*"))) == 1
    append(writer, 30, network(3))
    writer = HistoryWriter.open(tmp_path, 24)
    assert History.open(tmp_path).weight_steps == []
    assert_clean(tmp_path, range(3))
    writer.keyframe(25, values)
    assert History.open(tmp_path).weight_steps == [25]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_update_is_taken_back_and_leaves_no_trace(tmp_path, failing):
    writer = write(tmp_path, range(EVERY))
    calls = [0]

    def full(descriptor):
        if not is_file(descriptor):
            calls[0] += 1
            if calls[0] == failing:  # renamed, but is it on disk?
                raise OSError("no space left on device")

    with mock.patch("os.fsync", full), pytest.raises(OSError, match="no space"):
        append(writer, 10 * EVERY, network(7))
    assert writer.network == network(EVERY - 1)
    append(writer, 10 * EVERY + 5, network(8))  # another one than failed
    history = History.open(tmp_path)
    assert history.steps == [*range(0, 10 * EVERY, 10), 10 * EVERY + 5]
    assert history.at(10**6) == network(8)
    assert set(pd.read_parquet(tmp_path / "events")["step"]) <= set(history.steps)
    assert history.incomplete == ()


def test_an_update_that_failed_is_not_in_a_later_keyframe(tmp_path):
    writer = write(tmp_path, range(EVERY))
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:  # events, keyframe and update: each a file and its folder
            raise OSError("no space left on device")

    with mock.patch("os.fsync", full), pytest.raises(OSError, match="no space"):
        append(writer, 10 * EVERY, network(7))
    assert History.open(tmp_path).steps[-1] == 10 * EVERY
    writer.keyframe(10 * EVERY + 3)
    assert_clean(tmp_path, range(EVERY))


def test_a_failed_keyframe_is_taken_back(tmp_path):
    writer = write(tmp_path, range(EVERY + 1))

    def full(descriptor):
        if not is_file(descriptor):
            raise OSError("no space left on device")

    with mock.patch("os.fsync", full), pytest.raises(OSError, match="no space"):
        writer.keyframe(10 * EVERY + 10)
    append(writer, 10 * EVERY + 10, network(EVERY + 1))  # which writes no keyframe itself
    assert_clean(tmp_path, range(EVERY + 2))


# ---- readers beside the writer ---------------------------------------------------------------


def test_what_a_reader_opened_stays_or_is_refused(tmp_path):
    write(tmp_path, range(6))
    old = History.open(tmp_path)
    writer = HistoryWriter.open(tmp_path, 20)
    for i in (3, 4, 5):
        append(writer, 10 * i, network(90 + i))
    assert old.steps == [0, 10, 20, 30, 40, 50]
    for i in range(3):
        assert old.at(10 * i) == network(i)
    for read in (lambda: old.at(30), lambda: old.at(50), old.events, lambda: list(old.networks())):
        with pytest.raises(HistoryError, match="since it was opened: open it again"):
            read()
    assert_clean(tmp_path, [0, 1, 2, 93, 94, 95])


@pytest.mark.parametrize("step", [20, 40])
@pytest.mark.parametrize("kind", ["keyframes", "updates", "events"])
def test_a_truncation_while_a_reader_opens(tmp_path, monkeypatch, kind, step):
    write(tmp_path, range(6))
    pending = [lambda: HistoryWriter.open(tmp_path, step)]

    def listing(folder, listed):
        if listed == kind and listing.calls >= 1 and pending:  # within the constructor
            pending.pop()()
        listing.calls += 1
        return parts_in(folder, listed)

    listing.calls = 0
    monkeypatch.setattr("topo.history.parts_in", listing)
    assert_clean(tmp_path, range(step // 10 + 1))
    assert not pending


def test_readers_beside_a_writer_that_appends_and_truncates(tmp_path):
    rng = random.Random(3)
    valid = {(0,)}  # all that was ever written, before it is
    seeds = [0]
    writer = write(tmp_path, seeds)
    written = threading.Event()

    def read():
        seen = set()
        last = False
        while not last:
            last = written.is_set()
            history = History.open(tmp_path)
            try:
                found = tuple(seed_of[key(net)] for _, net in history.networks())
                assert history.at(history.steps[-1]) == network(found[-1])
            except HistoryError as error:
                if last or "since it was opened" not in str(error):
                    raise
                continue
            assert found in valid
            seen.add(found)
        return seen

    def key(net):
        return tuple(a.indices.tobytes() + a.indptr.tobytes() for a in net.layers.values())

    seed_of = {}
    fresh = []  # seeds whose networks differ
    for seed in range(400):
        if seed_of.setdefault(key(network(seed)), seed) == seed and seed:
            fresh.append(seed)
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(80):
                if rng.random() < 0.25:
                    keep = rng.randrange(len(seeds))
                    del seeds[keep + 1 :]
                    valid.add(tuple(seeds))
                    writer = HistoryWriter.open(tmp_path, 10 * keep)
                else:
                    seeds.append(rng.choice([s for s in fresh if s not in seeds]))
                    valid.add(tuple(seeds))
                    append(writer, 10 * len(seeds) - 10, network(seeds[-1]))
        finally:
            written.set()
        seen = [reader.result() for reader in readers]
    assert all(tuple(seeds) in found and len(found) > 3 for found in seen)
    assert_clean(tmp_path, seeds)


# ---- any sequence of these -------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """A history against a list of (step, seed) and dicts of its keyframes."""

    folder = Path()  # of the test

    @initialize(seed=st.integers(0, 99))
    def begin(self, seed):
        self.path = self.folder / str(len(list(self.folder.iterdir())))
        self.updates, self.frames = [(0, seed)], {}
        self.writer = HistoryWriter(self.path, network(seed))

    @property
    def last(self):
        return max(self.updates[-1][0], *self.frames, 0)

    def forget(self, step):
        self.updates = [(s, seed) for s, seed in self.updates if s <= step]
        self.frames = {s: weight for s, weight in self.frames.items() if s <= step}

    @precondition(lambda self: self.writer)
    @rule(seed=st.integers(0, 99), later=st.integers(1, 3), weighted=st.booleans())
    def append(self, seed, later, weighted):
        step = self.last + later
        append(self.writer, step, network(seed), weighted)
        self.updates.append((step, seed))

    @precondition(lambda self: self.writer)
    @rule(later=st.integers(0, 2), weight=st.none() | st.floats(-8, 8, width=32))
    def keyframe(self, later, weight):
        step, values = self.last + later, None
        if weight is not None:
            values = {n: np.full(a.nnz, weight) for n, a in self.writer.network.layers.items()}
        self.writer.keyframe(step, values)
        self.frames[step] = self.frames.get(step) if weight is None else weight

    @rule(back=st.none() | st.integers(-1, 9))
    def open(self, back):
        step = None if back is None else max(self.last - back, 0)
        self.writer = reopen(self.path, step)
        self.forget(self.last if step is None else step)

    @precondition(lambda self: self.writer)
    @rule(n=st.integers(0, 9), seed=st.integers(0, 99))
    def die_in_an_update(self, n, seed):
        step = self.last + 1
        with dies_at(n), contextlib.suppress(Death):
            append(self.writer, step, network(seed))
        self.writer = None
        if History.open(self.path).steps[-1] == step:
            self.updates.append((step, seed))

    @rule(n=st.integers(0, 9), back=st.integers(1, 9))
    def die_in_a_truncation(self, n, back):
        step, generation = max(self.last - back, 0), len(History.open(self.path).meta.cuts)
        with dies_at(n), contextlib.suppress(Death):
            HistoryWriter.open(self.path, step)
        self.writer = None
        if len(History.open(self.path).meta.cuts) > generation:
            self.forget(step)

    @invariant()
    def it_is_the_model(self):
        history = History.open(self.path)
        assert history.steps == [s for s, _ in self.updates]
        for step, seed in self.updates:
            assert history.at(step) == network(seed)
        weighted = {s: weight for s, weight in self.frames.items() if weight is not None}
        assert history.weight_steps == sorted(weighted)
        for step, weight in weighted.items():
            found = history.at(step, weights=True)
            assert found == history.at(step)
            assert all((w.data == weight).all() for w in found.weights.values())
        if self.writer:
            assert self.writer.network == network(self.updates[-1][1])
            assert history.incomplete == ()
            assert len(pd.read_parquet(self.path / "events")) == len(history.events())


def test_any_sequence(tmp_path):
    Histories.folder = tmp_path
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=20, stateful_step_count=12, deadline=None)
    )
