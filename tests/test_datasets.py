import gzip
import hashlib
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from dst import datasets

TRAIN, TEST = 30, 10


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A data set of four gzipped idx files behind a file:// url, and an empty cache."""
    rng = np.random.default_rng(0)
    folder, files = tmp_path / "server", {}
    folder.mkdir()
    for side, n in (("train", TRAIN), ("t10k", TEST)):
        arrays = {
            f"{side}-images-idx3-ubyte": rng.integers(0, 256, (n, 4, 3), np.uint8),
            f"{side}-labels-idx1-ubyte": np.arange(n, dtype=np.uint8) % 5,
        }
        for name, array in arrays.items():
            content = idx(array)
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    entry = {
        "title": "Tiny", "licence": "none", "format": "idx", "mean": 0.5, "std": 0.25,
        "urls": ["file:///nowhere/", f"{folder.as_uri()}/"], "files": files,
    }  # fmt: skip
    monkeypatch.setattr(datasets, "registry", lambda: {"tiny": entry})
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EPITOPO_DATA", raising=False)
    return folder


def test_download_check_and_load(source, tmp_path):
    data = datasets.load("tiny")
    assert data.train_x.shape == (TRAIN, 12)
    assert data.test_x.dtype == np.float32
    assert data.classes == 5
    raw = gzip.decompress((source / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = (np.frombuffer(raw, np.uint8).reshape(TRAIN, 12) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(data.train_x, expected, rtol=1e-6)
    assert len(list((tmp_path / "cache" / "tiny").iterdir())) == 4
    for file in source.iterdir():
        file.unlink()
    assert np.array_equal(datasets.load("tiny").train_x, data.train_x)  # from the cache


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_a_users_folder_in_any_packing(source, tmp_path, monkeypatch, ending, pack):
    own = tmp_path / "own" / "tiny"
    own.mkdir(parents=True)
    for file in source.iterdir():
        (own / (file.stem + ending)).write_bytes(pack(gzip.decompress(file.read_bytes())))
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    assert len(datasets.load("tiny").test_y) == TEST
    assert not (tmp_path / "cache").exists()


def test_a_changed_file_is_refused_and_not_kept(source, tmp_path):
    (source / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(TEST, np.uint8))))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz has 18 bytes with sha256"):
        datasets.fetch("tiny")
    assert not (tmp_path / "cache" / "tiny" / "t10k-labels-idx1-ubyte.gz").exists()
    (source / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b\x08junk")
    with pytest.raises(ValueError, match="is damaged"):
        datasets.fetch("tiny")


def test_no_network_says_what_to_do(source):
    (source / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        OSError, match=r"cannot fetch tiny: .* set EPITOPO_DATA to the folder above it"
    ):
        datasets.load("tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"hello world"), "is no idx file"),
        (gzip.compress(idx(np.zeros((3, 4, 3), np.uint8))[:-5]), "holds 31 bytes where its header"),
        (gzip.compress(idx(np.zeros((3, 4, 3), np.uint8)))[:-9], "is damaged"),
        (gzip.compress(idx(np.zeros((3, 4, 3), np.uint8))), "3 train images but 30 labels"),
    ],
)
def test_a_bad_file_in_a_users_folder(source, tmp_path, monkeypatch, content, message):
    own = tmp_path / "own" / "tiny"
    own.mkdir(parents=True)
    (own / "train-images-idx3-ubyte.gz").write_bytes(content)
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    with pytest.raises(ValueError, match=message):
        datasets.load("tiny")


def test_digits_are_split_once_and_for_all():
    data = datasets.load("digits")
    assert len(data.train_y) + len(data.test_y) == 1797
    assert np.bincount(data.test_y).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert data.test_y[:10].tolist() == datasets.load("digits").test_y[:10].tolist()
    assert abs(data.train_x.mean()) < 0.02
    assert data.train_x.std() == pytest.approx(1, abs=0.02)
    rows = {x.tobytes() for x in data.train_x}
    assert not any(x.tobytes() in rows for x in data.test_x)


def real(name):
    folder = Path(os.environ.get("EPITOPO_DATA", "nowhere")) / name
    return pytest.param(
        name, marks=pytest.mark.skipif(not folder.is_dir(), reason="no EPITOPO_DATA")
    )


@pytest.mark.parametrize("name", [real("mnist"), real("fashion-mnist")])
def test_the_real_files_have_the_registered_checksums(name):
    entry = datasets.registry()[name]
    for file in datasets.fetch(name):
        content = gzip.decompress(file.read_bytes())
        assert hashlib.sha256(content).hexdigest() == entry["files"][file.stem]["sha256"]
    data = datasets.load(name)
    assert data.train_x.shape == (60000, 784)
    assert abs(data.train_x.mean()) < 0.01
    assert data.train_x.std() == pytest.approx(1, abs=0.01)
