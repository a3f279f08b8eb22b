"""Parallel text: two files of the same sentences, line by line."""

from __future__ import annotations

import codecs
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dst.compressed import ENDINGS, opened
from dst.downloads import fetch_file, registry
from dst.tasks.number_words import number_words
from topo.names import unknown

__all__ = ["SPLITS", "ParallelText", "load_parallel", "read_lines", "read_parallel"]

SPLITS = ("train", "valid", "test")
_NUMBER_WORDS = "number-words"
_LANGUAGES = ("en", "de")  # of the data sets that we know by name
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParallelText:
    """Sentences and their translations.

    Attributes
    ----------
    source, target : list of str
        Equally many, none empty.
    name : str
        Where they are from, for messages.
    """

    source: list[str]
    target: list[str]
    name: str

    def __len__(self) -> int:
        return len(self.source)

    def first(self, sentences: int | None) -> ParallelText:
        """The first pairs; all of them if `sentences` is None."""
        return ParallelText(self.source[:sentences], self.target[:sentences], self.name)


def load_parallel(
    name: str,
    source: str,
    target: str,
    *,
    prefixes: dict[str, str],
    sentences: int | None = None,
    largest: int = 999,
    skip_empty: bool = False,
) -> dict[str, ParallelText]:
    """All splits of a data set.

    Parameters
    ----------
    name : str
        "number-words", a parallel text of the registry, or a folder.
    source, target : str
        Endings of the file names, such as "en" and "de".
    prefixes : dict of str to str
        What the file names of a split start with; where missing, "train", "valid" and "test", or
        what the registry says.
    sentences : int, optional
        Read no more than the first pairs of the training split (number-words: generate so many,
        by default 10,000).
    largest : int
        Number words: the largest number.
    skip_empty : bool
        Leave out pairs of which a side is empty.

    Returns
    -------
    dict of str to ParallelText
        "train", "valid" and "test".

    Raises
    ------
    ValueError
        For an unknown name, languages that it is not in, or files that are not parallel text.
    OSError
        If files are missing and cannot be downloaded.

    Examples
    --------
    >>> from dst.tasks.parallel_text import load_parallel
    >>> splits = load_parallel("number-words", "de", "en", prefixes={}, sentences=10, largest=99)
    >>> splits["train"].source[0]
    'vierundvierzig minus siebenundachtzig minus einundsiebzig geteilt durch vierzehn'
    """
    entries = {n: e for n, e in registry().items() if e["format"] in _FORMATS}
    if name == _NUMBER_WORDS or name in entries:
        found = entries.get(name, {}).get("languages", _LANGUAGES)
        if sorted((source, target)) != sorted(found):
            raise ValueError(
                f"{name} is in the languages {found[0]} and {found[1]}, but data.source is "
                f"{source!r} and data.target is {target!r}"
            )
    if name == _NUMBER_WORDS:
        pairs = number_words(10_000 if sentences is None else sentences, largest)
        at = (_LANGUAGES.index(source), _LANGUAGES.index(target))
        return {
            split: ParallelText([p[at[0]] for p in text], [p[at[1]] for p in text], name)
            for split, text in pairs.items()
        }
    if name in entries:
        entry = entries[name]
        prefixes = entry["splits"] | prefixes
        splits = _FORMATS[entry["format"]](name, entry, source, target, prefixes, skip_empty)
    else:
        splits = _folder(name, list(entries), source, target, prefixes, skip_empty)
    return splits | {"train": splits["train"].first(sentences)}


def read_parallel(source: Path, target: Path, *, skip_empty: bool = False) -> ParallelText:
    """Read two files of the same sentences, one a line, in UTF-8; .gz and .xz are unpacked.

    Parameters
    ----------
    source, target : Path
    skip_empty : bool
        Leave out pairs of which a side is empty, and log how many.

    Raises
    ------
    ValueError
        If a file is damaged or no UTF-8, the line counts differ, a line is empty, or nothing is
        there.
    OSError
        If a file cannot be read.
    """
    return _checked(read_lines(source), read_lines(target), str(source), str(target), skip_empty)


def _checked(
    ours: list[str], theirs: list[str], source: str, target: str, skip_empty: bool
) -> ParallelText:
    if len(ours) != len(theirs):
        raise ValueError(
            f"{source} has {len(ours)} lines but {target} has {len(theirs)}: line n of one must "
            "be the translation of line n of the other"
        )
    empty = [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if not all(pair)]
    if empty and not skip_empty:
        file = target if ours[empty[0]] else source
        raise ValueError(
            f"{file}, line {empty[0] + 1}, is empty ({len(empty)} of {len(ours)} pairs have an "
            "empty side): mend the files, or set data.skip_empty to true to leave those pairs out"
        )
    if empty:
        _log.warning(
            "%s: left out %d of %d pairs, of which a side is empty", source, len(empty), len(ours)
        )
        out = set(empty)
        ours, theirs = (
            [line for i, line in enumerate(side) if i not in out] for side in (ours, theirs)
        )
    if not ours:
        raise ValueError(f"{source} holds no sentences")
    return ParallelText(ours, theirs, source)


def read_lines(file: Path) -> list[str]:
    """The lines of a text in UTF-8, stripped of white space at both ends.

    Only line feeds end a line: other separators of Unicode occur within sentences.

    Raises
    ------
    ValueError
        If the file is damaged, or no UTF-8: the line is named.
    OSError
        If it cannot be read.
    """
    with opened(file) as f:
        content: bytes = f.read()
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}, is no UTF-8 (byte 0x{content[error.start]:02x}): convert the "
            "file, for example with iconv"
        ) from None
    lines = text.split("\n")
    if lines[-1] == "":  # the end of the last line, not a line
        lines.pop()
    return [line.strip() for line in lines]


def _folder(
    name: str,
    known: list[str],
    source: str,
    target: str,
    prefixes: dict[str, str],
    skip_empty: bool,
) -> dict[str, ParallelText]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            unknown(name, [_NUMBER_WORDS, *known], "parallel text") + "; a folder of files such as "
            "train.en and train.de will do as well, but there is none of this name"
        )
    splits = {}
    for split in SPLITS:
        stem = prefixes.get(split, split)
        files = [_find(folder, f"{stem}.{language}", split) for language in (source, target)]
        splits[split] = read_parallel(files[0], files[1], skip_empty=skip_empty)
    return splits


def _find(folder: Path, file: str, split: str) -> Path:
    for ending in ENDINGS:
        if (folder / (file + ending)).is_file():
            return folder / (file + ending)
    there = sorted(p.name for p in folder.iterdir() if p.is_file())[:12]
    raise ValueError(
        f"{folder} has no file {file!r} (nor .gz, .xz): say with data.{split}, data.source and "
        f"data.target how its files start and end; it has {', '.join(there) or 'no files'}"
    )


def _registered(
    name: str, entry: Any, source: str, target: str, prefixes: dict[str, str], skip_empty: bool
) -> dict[str, ParallelText]:
    for split, prefix in prefixes.items():
        if f"{prefix}.{source}" not in entry["files"]:
            known = [f.removesuffix(f".{source}") for f in entry["files"] if f.endswith(source)]
            raise ValueError(f"data.{split}: {unknown(prefix, known, f'split of {name}')}")
    return {
        split: read_parallel(
            fetch_file(name, f"{prefixes[split]}.{source}"),
            fetch_file(name, f"{prefixes[split]}.{target}"),
            skip_empty=skip_empty,
        )
        for split in SPLITS
    }


def _hub(
    name: str, entry: Any, source: str, target: str, prefixes: dict[str, str], skip_empty: bool
) -> dict[str, ParallelText]:
    """Of the Hugging Face hub: rows {"translation": {"en": ..., "de": ...}}."""
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{name} is loaded by `datasets`: pip install 'epitopo[text]'") from None
    splits = {}
    for split in SPLITS:
        try:
            table = datasets.load_dataset(**entry["hub"], split=prefixes[split])
        except Exception as error:  # of many kinds: no network, no such split, a changed file
            raise OSError(
                f"cannot load {name} ({split}) from the Hugging Face hub: {error}. Two text files "
                "a split in a folder will do as well: set data.name to that folder"
            ) from None
        sides = {
            language: [" ".join(pair[language].split()) for pair in table["translation"]]
            for language in (source, target)
        }
        at = f"{name}, {prefixes[split]}"
        splits[split] = _checked(
            sides[source], sides[target], f"{at}, {source}", f"{at}, {target}", skip_empty
        )
    return splits


_FORMATS = {"parallel-text": _registered, "parallel-hub": _hub}
