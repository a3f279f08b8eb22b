"""Which runs, layers and steps a figure shows, and how it says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from scipy.sparse import csr_array

import topo
from analysis.runs import Run, RunError, by_data
from analysis.shown import spread
from topo.names import unknown

__all__ = [
    "Groups",
    "Picture",
    "broken",
    "choose_layers",
    "few",
    "histories",
    "one_data_set",
    "one_of_several",
    "pictures",
    "recorded",
    "when",
]

Groups = Mapping[str, Sequence[Run]]

MOST = 4  # layers that are shown unless others are asked for
MOST_ASKED = 8
MOST_ROWS = 6  # of small panels on a page


@dataclass(frozen=True)
class Picture:
    """Some layers of a run at a step.

    Attributes
    ----------
    run : str
        Its label.
    when : str
        "start", "end", "step 90", or "never updated".
    layers : dict of str to csr_array
    """

    run: str
    when: str
    layers: dict[str, csr_array]


def broken(name: str, letters: int) -> str:
    r"""A layer's name on as many lines as it needs, broken at its dots.

    Examples
    --------
    >>> from analysis.figure_files.selection import broken
    >>> broken("0.self_attn.q_proj.sparse", 16)
    '0.self_attn.\nq_proj.sparse'
    """
    lines = [""]
    for part in name.replace(".", ".\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def choose_layers(
    names: Sequence[str], patterns: Iterable[str] | None, most: int = MOST
) -> list[str]:
    """The layers that match patterns (`fnmatch`); without patterns, a few spread over all.

    Raises
    ------
    ValueError
        If a pattern matches no layer, or more layers match than a figure has room for.

    Examples
    --------
    >>> from analysis.figure_files.selection import choose_layers
    >>> choose_layers(["fc1", "fc2", "head"], ["fc*"])
    ['fc1', 'fc2']
    >>> choose_layers([f"fc{i}" for i in range(10)], None)
    ['fc0', 'fc3', 'fc6', 'fc9']
    """
    if patterns is None:
        return spread(names, most)
    asked = list(patterns)
    for pattern in asked:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown(pattern, names, "layer"))
    chosen = [name for name in names if any(fnmatchcase(name, p) for p in asked)]
    if len(chosen) > MOST_ASKED:
        raise ValueError(
            f"{', '.join(asked)} match {len(chosen)} layers, but a figure has room for "
            f"{MOST_ASKED}: name fewer, such as {chosen[0]}"
        )
    return chosen


def one_data_set(groups: Groups) -> Groups:
    """The groups, if they can be compared.

    Raises
    ------
    RunError
        If they are of several data sets or scores.
    """
    data = list(by_data(groups))
    if len(data) > 1:
        raise RunError(f"the runs are on several data sets ({', '.join(data)}): draw those of one")
    return groups


def histories(groups: Groups) -> dict[str, topo.History]:
    """The topology of the first run of each group that has one.

    Raises
    ------
    RunError
        If none has.
    """
    found = {label: runs[0].history for label, runs in groups.items()}
    there = {label: history for label, history in found.items() if history is not None}
    if not there:
        raise RunError(
            f"{_first(groups).path} has no links that evolve, nor has any other run: name a "
            "sparse one"
        )
    return there


def few(found: Mapping[str, topo.History], most: int) -> tuple[dict[str, topo.History], str]:
    """As many of the groups as a page has room for, from the first to the last, and a note."""
    shown = {label: found[label] for label in spread(list(found), max(1, most))}
    left_out = [label for label in found if label not in shown]
    return shown, f"Left out, to fit a page: {'; '.join(left_out)}." if left_out else ""


def pictures(
    groups: Groups,
    layers: Sequence[str] | None,
    step: Sequence[int] | None,
    rows: int | None = None,
) -> tuple[list[Picture], str]:
    """Layers of the first run of each group at some steps (default: start and end), and a note.

    `rows` is how many rows of panels a run has: unless said, one per step. Of many runs, those
    are chosen that fit a page; a run alone is never cut.

    Raises
    ------
    ValueError
        For a layer or a step that is not there.
    RunError
        If no run is sparse.
    """
    every = histories(groups)
    each = rows or max(len(recorded(history, step)) for history in every.values())
    found, left_out = few(every, MOST_ROWS // each)
    shown = []
    for label, history in found.items():
        names = choose_layers(list(history.shapes), layers)
        for at in recorded(history, step):
            network = history.at(at)
            chosen = {name: network.layers[name] for name in names}
            shown.append(Picture(label, when(at, history.steps), chosen))
    return shown, f"{_about(groups, found, shown)} {left_out}".strip()


def recorded(history: topo.History, step: Sequence[int] | None) -> list[int]:
    """The latest recorded steps that are not after those asked for; default: the start and the end.

    Raises
    ------
    ValueError
        If a step is negative.
    """
    if step is None:
        return sorted({0, history.steps[-1]})
    for asked in step:
        if asked < 0:
            raise ValueError(f"step must be at least 0, not {asked}")
    return sorted({max(s for s in history.steps if s <= asked) for asked in step})


def when(step: int, steps: Sequence[int]) -> str:
    """A recorded step by its name: "start", "end", "step 90", or "never updated"."""
    if len(steps) == 1:
        return "never updated"
    return {steps[-1]: "end", 0: "start"}.get(step, f"step {step:,}")


def one_of_several(groups: Groups, found: Iterable[str]) -> str:
    """Which run of the groups that are named is shown; nothing if each has one."""
    own = [groups[label] for label in found]
    if max(map(len, own)) == 1:
        return ""
    seeds = {runs[0].seed for runs in own}
    return f"Of several runs, {f'seed {seeds.pop()}' if len(seeds) == 1 else 'the first run'}."


def _about(groups: Groups, found: Mapping[str, topo.History], shown: Sequence[Picture]) -> str:
    notes = [one_of_several(groups, found)]
    most = max(shown, key=lambda p: len(found[p.run].shapes))
    every, drawn = len(found[most.run].shapes), len(most.layers)
    if drawn < every:
        notes.append(f"{drawn} of {every} layers.")
    return " ".join(notes).strip()


def _first(groups: Groups) -> Run:
    return next(iter(groups.values()))[0]
