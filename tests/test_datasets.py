import gzip
import hashlib
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from dst import datasets, downloads
from dst.tasks.images import ImagesConfig, ImagesData

TRAIN, TEST = 30, 10


@pytest.fixture
def unchecked(monkeypatch):
    """Data made here under the names of real ones have not their checksums."""
    monkeypatch.setattr(downloads, "_check_once", lambda *_: None)


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def source(tmp_path, monkeypatch, unchecked):
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
    monkeypatch.setattr(downloads, "registry", lambda: {"tiny": entry, "text": {"format": "text"}})
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
        (gzip.compress(b"hello world", mtime=0), "is no idx file"),
        (
            gzip.compress(idx(np.zeros((3, 4, 3), np.uint8))[:-5], mtime=0),
            "holds 31 bytes where its header",
        ),
        (gzip.compress(idx(np.zeros((3, 4, 3), np.uint8)), mtime=0)[:-9], "is damaged"),
        (
            gzip.compress(idx(np.zeros((3, 4, 3), np.uint8)), mtime=0),
            "3 training images but 30 labels",
        ),
    ],
)
def test_a_bad_file_in_a_users_folder(source, tmp_path, monkeypatch, content, message):
    own = tmp_path / "own" / "tiny"
    own.mkdir(parents=True)
    (own / "train-images-idx3-ubyte.gz").write_bytes(content)
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    with pytest.raises(ValueError, match=message):
        datasets.load("tiny")


def write(folder, train, test, labels=None, sides=("train", "t10k"), prefix="", ending=""):
    """Four idx files; labels count up to 3 where none are given."""
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending]
    folder.mkdir(parents=True, exist_ok=True)
    for i, (side, x) in enumerate(zip(sides, (train, test))):
        y = np.arange(len(x), dtype=np.uint8) % 3 if labels is None else labels[i]
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            (folder / f"{prefix}{side}-{kind}-ubyte{ending}").write_bytes(pack(idx(array)))
    return folder


TRAIN_X = np.array([[[0, 255]], [[255, 0]], [[0, 255]], [[255, 255]]], np.uint8)
TEST_X = np.array([[[255, 255]]], np.uint8)


@pytest.mark.parametrize("sides", [("train", "t10k"), ("train", "test")])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_any_folder_of_idx_files(tmp_path, sides, prefix, ending):
    folder = write(tmp_path / "mine", TRAIN_X, TEST_X, sides=sides, prefix=prefix, ending=ending)
    (folder / "README.txt").write_text("not an idx file")
    data = datasets.load(str(folder))
    # 5 of 8 pixels are 1: mean 5/8, variance 5/8 * 3/8
    low, high = -5 / 15**0.5, 3 / 15**0.5
    np.testing.assert_allclose(data.test_x, [[high, high]], rtol=1e-6)
    np.testing.assert_allclose(data.train_x[0], [low, high], rtol=1e-6)
    assert data.train_y.tolist() == [0, 1, 2, 0]
    assert data.classes == 3
    assert data.train_x.flags.c_contiguous


def test_a_folder_of_several_data_sets(tmp_path):
    write(tmp_path, TRAIN_X, TEST_X, prefix="emnist-a-")
    write(tmp_path, TRAIN_X[:, :, :1], TEST_X[:, :, :1], prefix="emnist-b-")
    with pytest.raises(ValueError, match=r"\(emnist-a, emnist-b\): name one, as .*/emnist-a"):
        datasets.load(str(tmp_path))
    assert datasets.load(str(tmp_path / "emnist-b")).train_x.shape == (4, 1)


@pytest.mark.parametrize(
    ("train", "test", "labels", "message"),
    [
        (TRAIN_X, TEST_X, ([0, 1, 2], [0]), "4 training images but 3 labels"),
        (TRAIN_X, TEST_X, ([0, 1, 2, 1], [3]), "test label 3 is beyond the 3 classes"),
        (TRAIN_X, TEST_X[:0], None, "holds no test images"),
        (TRAIN_X[:0], TEST_X, None, "holds no training images"),
        (TRAIN_X, TEST_X[:, :, :1], None, r"have the shape \(1, 1\), those of the training"),
        (TRAIN_X * 0, TEST_X, None, "all pixels of the training images are equal"),
    ],
)
def test_a_folder_that_does_not_fit(tmp_path, train, test, labels, message):
    if labels is not None:
        labels = [np.array(side, np.uint8) for side in labels]
    with pytest.raises(ValueError, match=message):
        datasets.load(str(write(tmp_path, train, test, labels)))


def test_a_folder_without_the_files(tmp_path):
    with pytest.raises(ValueError, match=r"no train images, no train labels, no test images.*exp"):
        datasets.load(str(tmp_path))
    write(tmp_path, TRAIN_X, TEST_X)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"holds no test labels: expected"):
        datasets.load(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"/nowhere is no folder, and no data set is called so: known are digits"
    ):
        datasets.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no idx file of bytes"),
        (b"\0\0\x0d\x01" + bytes(8), "is no idx file of bytes: it begins with 00 00 0d 01"),
        (b"\0\0\x08\x03" + bytes(5), "ends within its header"),
    ],
)
def test_a_header_that_is_none(tmp_path, content, message):
    write(tmp_path, TRAIN_X, TEST_X)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.load(str(tmp_path))


def test_text_is_no_data_set_of_images(source):
    with pytest.raises(ValueError, match="text holds no images: data sets that do are tiny"):
        datasets.load("text")
    assert [datasets.holds_images(name) for name in ("tiny", "text")] == [True, False]


@pytest.fixture
def own(tmp_path, monkeypatch, unchecked):
    """A folder EPITOPO_DATA, and the real registry."""
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "own"


def test_emnist_balanced_is_turned_upright(own):
    x = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    labels = [np.array([46, 3], np.uint8)] * 2
    folder = own / "emnist-balanced"
    write(folder, x, x, labels, sides=("train", "test"), prefix="emnist-balanced-", ending=".gz")
    data = datasets.load("emnist-balanced")
    expected = ((x.swapaxes(1, 2) / 255 - 0.1736) / 0.3317).reshape(2, 784)
    np.testing.assert_allclose(data.train_x, expected, rtol=1e-5, atol=1e-6)
    assert data.classes == 47
    labels = [np.array([47, 3], np.uint8)] * 2
    write(folder, x, x, labels, sides=("train", "test"), prefix="emnist-balanced-", ending=".gz")
    with pytest.raises(ValueError, match="training label 47 is beyond the 47 classes"):
        datasets.load("emnist-balanced")


def test_emnist_bymerge_is_split_by_indices(own):
    folder = own / "emnist-bymerge"
    x = np.repeat(np.arange(6, dtype=np.uint8), 784).reshape(6, 28, 28)
    write(folder, x, x, sides=("emnist-bymerge-test", "t10k"))
    split = folder / "split_capped2400_400_seed0.npz"
    np.savez(split, train=np.array([4, 0, 1]), test=np.array([5]))
    data = datasets.load("emnist-bymerge")
    pixels = data.train_x[:, 0] * 0.3310 + 0.1726
    np.testing.assert_allclose(pixels, np.array([4, 0, 1]) / 255, atol=1e-6)
    assert data.train_y.tolist() == [1, 0, 1]
    assert data.test_y.tolist() == [2]
    np.savez(split, train=np.array([4, 0, 6]), test=np.array([5]))
    with pytest.raises(ValueError, match=r"split_capped2400_400_seed0.npz names images beyond the"):
        datasets.load("emnist-bymerge")
    np.savez(split, train=np.array([None]), test=np.array([5]))
    with pytest.raises(ValueError, match="it holds pickles, which may run any code"):
        datasets.load("emnist-bymerge")


def test_cifars_records(own):
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (12, 3073), np.uint8)
    records[:, 0] = np.arange(12) % 10
    folder = own / "cifar-10"
    folder.mkdir(parents=True)
    for i in range(6):
        name = f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"
        (folder / name).write_bytes(records[2 * i : 2 * i + 2].tobytes())
    data = datasets.load("cifar-10")
    assert data.train_x.shape == (10, 3072)
    assert data.train_y.tolist() == list(range(10))
    colours = records[:, 1:].reshape(12, 3, 1024) / 255
    mean, std = (
        np.reshape(v, (3, 1)) for v in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    )
    expected = ((colours - mean) / std).reshape(12, 3072)
    np.testing.assert_allclose(
        np.concatenate([data.train_x, data.test_x]), expected, rtol=1e-5, atol=1e-6
    )
    (folder / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"test_batch.bin holds 3072 bytes, no multiple of 3073"):
        datasets.load("cifar-10")


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("micro", [None, 5, 32, 100])
def test_micro_batches_are_the_batch_in_parts(micro, ranks):
    data = ImagesData(batch_size=100, micro_batch_size=micro)
    task = ImagesConfig(data=data).task()
    for step in (0, task.epoch_steps - 1):  # a whole batch of 100, and the epoch's last of 33
        (whole,) = ImagesConfig(data=ImagesData(batch_size=100)).task().batches(step, 1)
        parts = task.batches(step, ranks)
        assert len(parts) == -(-whole.count // ((micro or 100) * ranks)) * ranks
        assert max(part.count for part in parts) <= (micro or 100)
        assert sum(part.count for part in parts) == whole.count
        for key in ("x", "y"):
            assert torch.equal(torch.cat([part.inputs[key] for part in parts]), whole.inputs[key])


def test_a_micro_batch_of_nothing():
    with pytest.raises(
        ValueError, match=r"data.micro_batch_size must be at least 1, or null, not 0"
    ):
        ImagesData(micro_batch_size=0)


def test_digits_are_split_once_and_for_all():
    data = datasets.load("digits")
    assert len(data.train_y) + len(data.test_y) == 1797
    assert np.bincount(data.test_y).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert data.test_y[:10].tolist() == datasets.load("digits").test_y[:10].tolist()
    assert abs(data.train_x.mean()) < 0.02
    assert data.train_x.std() == pytest.approx(1, abs=0.02)
    rows = {x.tobytes() for x in data.train_x}
    assert not any(x.tobytes() in rows for x in data.test_x)


def real(name, *figures):
    folder = Path(os.environ.get("EPITOPO_DATA", "nowhere")) / name
    absent = pytest.mark.skipif(not folder.is_dir(), reason=f"no {name} in EPITOPO_DATA")
    return pytest.param(name, *figures, marks=absent, id=name)


@pytest.mark.parametrize(
    ("name", "training", "test", "classes"),
    [
        real("mnist", 60_000, 10_000, 10),
        real("fashion-mnist", 60_000, 10_000, 10),
        real("emnist-bymerge", 70_130, 11_674, 47),
    ],
)
def test_the_real_files(name, training, test, classes):
    if name != "emnist-bymerge":  # its xz takes seconds
        assert len(datasets.fetch(name)) == 4  # compares the checksums
    data = datasets.load(name)
    assert data.train_x.shape == (training, 784)
    assert data.test_x.shape == (test, 784)
    assert np.unique(data.test_y).tolist() == list(range(classes))
    assert data.classes == classes
    assert abs(data.train_x.mean(dtype=float)) < 0.001
    assert data.train_x.std(dtype=float) == pytest.approx(1, abs=0.001)
