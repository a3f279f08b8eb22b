"""The registry of data sets, and their files: found where they are, or downloaded and checked."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock

from dst.archives import extract
from dst.compressed import ENDINGS, ending_of, measured, opened
from dst.transfers import TransferError, transfer
from topo.files import sync
from topo.names import find

__all__ = ["describe", "entry", "fetch", "fetch_file", "opened", "registry"]

LIMIT = 1 << 32  # bytes of a file whose entry states no size: what blows up beyond is refused
_SLACK = 1 << 20  # by which packing may make a file larger
_Check = Callable[[str, Path], None]  # what to call the file in a message, and where it is


def registry() -> dict[str, dict[str, Any]]:
    """Every known data set: title, licence, format, and for downloads urls, sizes, checksums."""
    packaged = resources.files("dst") / "registry.toml"  # in a wheel
    if not packaged.is_file():
        packaged = Path(__file__).parents[1] / "data" / "registry.toml"  # in a checkout
    return tomllib.loads(packaged.read_text(encoding="utf-8"))


def entry(name: str) -> dict[str, Any]:
    """What the registry says of a data set.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> from dst.downloads import entry
    >>> entry("mnist")["classes"]
    10
    """
    return find(registry(), name, "data set")


def describe(name: str) -> str:
    """Title, size and licence of a data set, in a line."""
    known = entry(name)
    sized = known.get("archives") or known.get("files", {})
    size = sum(f.get("bytes", 0) for f in sized.values())
    unsized = "Downloaded by `datasets`" if "hub" in known else "No download"
    where = f"{size / 1e6:.0f} MB" if size else unsized
    if known.get("files") and not known.get("urls"):
        where += ", only from EPITOPO_DATA"
    return f"{known['title']}. {where}. Licence: {known['licence']}"


def fetch(name: str) -> list[Path]:
    """All files of a data set, downloaded where they are nowhere yet, and checked.

    Raises
    ------
    ValueError
        For an unknown name, or a file whose size or checksum is wrong.
    OSError
        If no url answers, or the cache cannot be written.
    """
    files = entry(name).get("files", {})
    return [fetch_file(name, file) for file in files]


def fetch_file(name: str, file: str) -> Path:
    """One file, from ``$EPITOPO_DATA/NAME``, the cache, or the network, in this order.

    A file that is downloaded is checked before it gets its name; one that is there, the first
    time that it is seen. Processes that ask for the same data set at once wait for one another.

    Parameters
    ----------
    name : str
        A name in the registry.
    file : str
        A name among the entry's files, without the ending of a compression.

    Returns
    -------
    Path
        It may end in .gz or .xz: read it with `opened`.

    Raises
    ------
    ValueError
        For an unknown name, or a download whose size or checksum is wrong.
    OSError
        If no url answers, or the cache cannot be written.
    """
    known = entry(name)
    expected = find(known.get("files", {}), file, f"file of {name}")
    path = _present(name, [file + ending for ending in ENDINGS])
    if path is not None:
        _check_once(name, path, expected)
        return path
    with _cache(name) as cache:
        path = _present(name, [file + ending for ending in ENDINGS])  # by another process
        if path is not None:
            return path
        if "member" in expected:
            return _unpack(name, known, _archive(known, expected), cache)[file]
        served = expected.get("served", f"{file}.gz")
        path = cache / (file + ending_of(served))
        urls = expected.get("urls") or known.get("urls", [])
        _download(name, served, path, urls, partial(_check_file, expected=expected))
    return path


def _check_once(name: str, path: Path, expected: dict[str, Any]) -> None:
    """Check a file that is there, unless it was, and has not changed since."""
    state = path.stat()
    stamp = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {expected.get('sha256')}"
    notes = _folders(name)[-1].parent / ".checked"
    if notes.is_file() and stamp in notes.read_text().splitlines():
        return
    _check_content(str(path), path, expected)
    with suppress(OSError):  # a cache that cannot be written: check every time
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a") as f:
            f.write(f"{stamp}\n")


def _folders(name: str) -> list[Path]:
    own = os.environ.get("EPITOPO_DATA")
    cache = Path(os.environ.get("EPITOPO_CACHE") or Path.home() / ".cache" / "epitopo")
    return ([Path(own) / name] if own else []) + [cache / name]


def _present(name: str, files: list[str]) -> Path | None:
    candidates = (folder / file for folder in _folders(name) for file in files)
    return next((path for path in candidates if path.is_file()), None)


@contextmanager
def _cache(name: str) -> Iterator[Path]:
    """The data set's folder in the cache, this process's own for as long."""
    cache = _folders(name)[-1]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.parent / f".{name}.lock"):
            yield cache
    except OSError as error:
        if error.errno is None:  # a message of ours
            raise
        raise OSError(
            f"cannot write {name} to {cache}: {error.strerror}. Make room there, or set "
            "EPITOPO_CACHE to another folder"
        ) from None


def _download(name: str, served: str, path: Path, urls: list[str], check: _Check) -> None:
    """Bring a file from the first url that has it whole, check it, then give it its name."""
    part = _part(path)
    problems: list[Exception] = []
    for url in urls:
        try:
            _bring(url + served, part, check)
        except (TransferError, ValueError) as error:
            problems.append(error)
        else:
            _keep(part, path)
            return
    reason = "; ".join(map(str, problems)) or f"no url is known for {served}"
    wrong = any(isinstance(problem, ValueError) for problem in problems)
    raise (ValueError if wrong else OSError)(
        f"cannot fetch {name}: {reason}. Put its files into a folder {name!r} and set "
        "EPITOPO_DATA to the folder above it"
    )


def _bring(url: str, part: Path, check: _Check) -> None:
    resumed = part.exists()
    transfer(url, part)
    try:
        check(url, part)
    except ValueError:
        part.unlink()
        if not resumed:
            raise
        _bring(url, part, check)  # what was there before may have been of another file


def _archive(known: dict[str, Any], expected: dict[str, Any]) -> str:
    """The archive that a file is a member of."""
    return expected.get("archive") or known["archive"]


def _unpack(name: str, known: dict[str, Any], archive: str, cache: Path) -> dict[str, Path]:
    """Put all files of an archive into the cache, where it is removed then."""
    path = _present(name, [archive])
    if path is None:
        path = cache / archive
        served = known.get("archives", {}).get(archive, {})
        urls = served.get("urls") or known.get("urls", [])
        _download(name, archive, path, urls, partial(_check_archive, expected=served))
    files = {
        file: expected
        for file, expected in known["files"].items()
        if "member" in expected and _archive(known, expected) == archive
    }
    targets = {file: cache / (file + ending_of(files[file]["member"])) for file in files}
    parts = {file: _part(target) for file, target in targets.items()}
    limit = max(expected.get("bytes", LIMIT) for expected in files.values()) + _SLACK
    try:
        extract(path, {files[file]["member"]: part for file, part in parts.items()}, limit)
        for file, part in parts.items():
            _check_file(f"{path}: its member {files[file]['member']}", part, files[file])
        for file, part in parts.items():
            _keep(part, targets[file])
    except ValueError:
        if path.parent == cache:  # to be fetched anew
            path.unlink()
        raise
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    if path.parent == cache:
        path.unlink()
    return targets


def _check_archive(what: str, path: Path, expected: dict[str, Any]) -> None:
    """Compare a file as it is with the registry."""
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    _compare(what, path.stat().st_size, digest, expected)


def _check_file(what: str, path: Path, expected: dict[str, Any]) -> None:
    """Compare a file as it was served, where the registry knows that, and its content."""
    if "archive_sha256" in expected:
        _check_archive(what, path, {"sha256": expected["archive_sha256"]})
    _check_content(what, path, expected)


def _check_content(what: str, path: Path, expected: dict[str, Any]) -> None:
    limit = expected.get("bytes", LIMIT)
    size, digest = measured(path, limit, what)
    if size > limit:
        raise ValueError(f"{what} unpacks to more than the {limit} bytes expected")
    _compare(what, size, digest, expected)


def _compare(what: str, size: int, digest: str, expected: dict[str, Any]) -> None:
    right = {"bytes": size, "sha256": digest} | expected
    if (size, digest) != (right["bytes"], right["sha256"]):
        raise ValueError(
            f"{what} has {size} bytes with sha256 {digest}, expected {right['bytes']} with "
            f"{right['sha256']}: the file has changed or was damaged on its way"
        )


def _part(path: Path) -> Path:
    """Where a file is until it is complete; of the same ending, to be read like it."""
    return path.with_name(f".part.{path.name}")


def _keep(part: Path, path: Path) -> None:
    """Give a file that is complete and checked its name."""
    sync(part)
    part.replace(path)
    sync(path.parent)
