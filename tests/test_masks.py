import contextlib
import io
import json
import pickle
import struct
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import io as scipy_io
from scipy import sparse

import topo
from topo import Coupling, Network

DENSE = np.array([[0.5, 0.0, -0.0], [-2.0, 1e-30, np.inf]])
LINKS = [[True, False, False], [True, True, True]]
SPARSE = [
    sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.bsr_array, sparse.lil_array,
    sparse.dok_array, sparse.dia_array, sparse.csr_matrix, sparse.coo_matrix,
]  # fmt: skip
TORCH = [
    torch.tensor,
    lambda a: torch.nn.Parameter(torch.tensor(a)),
    lambda a: torch.tensor(a).to_sparse_coo(),
    lambda a: torch.tensor(a).to_sparse_coo().requires_grad_(),
    lambda a: sparse_csr(torch.tensor(a)),
]


def sparse_csr(tensor):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR")  # torch: "in beta state"
        return tensor.to_sparse_csr()


# ---- in memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [np.asarray, np.asfortranarray, np.ndarray.tolist, *SPARSE, *TORCH]
)
def test_a_link_is_whatever_is_not_zero(form):
    net = Network.from_masks({"fc": form(DENSE)}, weights=True)
    assert net.layers["fc"].toarray().tolist() == LINKS
    assert net.weights["fc"].data.tolist() == [0.5, -2.0, 1e-30, np.inf]
    assert topo.as_adjacency(net.layers["fc"]) is net.layers["fc"]
    assert Network.from_masks({"fc": form(DENSE)}).weights is None


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, torch.tensor, TORCH[2], TORCH[4]])
def test_values_keep_their_dtype(form, dtype):
    net = Network.from_masks({"fc": form(np.array([[1, 0], [0, 1]], dtype))}, weights=True)
    assert net.weights["fc"].dtype == dtype
    assert net.weights["fc"].data.tolist() == [1, 1]


def test_half_precisions_are_widened():
    values = torch.tensor([[1.5, 0.0], [0.0, -3.0]])
    half = values.half()
    forms = [half, half.to_sparse_coo(), half.numpy()]
    for mask in (*forms, values.bfloat16(), values.to(torch.float8_e4m3fn)):
        net = Network.from_masks({"fc": mask}, weights=True)
        assert net.weights["fc"].dtype == np.float32
        assert net.weights["fc"].toarray().tolist() == values.tolist()


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_dense_and_sparse_masks_agree(values):
    values = np.nan_to_num(values)
    entries = {
        "dense": values,
        "turned": values.T.copy().T,
        "csc": sparse.csc_array(values),
        "coo": sparse.coo_array(values),
        "torch": torch.tensor(values),
        "torch_coo": torch.tensor(values).to_sparse_coo(),
        "torch_csr": sparse_csr(torch.tensor(values)),
    }
    net = Network.from_masks(entries, (), weights=True)
    assert all(np.array_equal(a.toarray(), values != 0) for a in net.layers.values())
    assert all(np.array_equal(w.toarray(), values) for w in net.weights.values())


def test_entries_given_twice_add_up_and_stored_zeros_are_no_links():
    twice = sparse.coo_array(([1.0, 2.0, 5.0, -5.0, 0.0], ([1, 1, 0, 0, 0], [0, 0, 1, 1, 0])))
    indices, values = np.array(twice.coords), torch.tensor(twice.data)
    for form in (twice, torch.sparse_coo_tensor(indices, values, check_invariants=True)):
        net = Network.from_masks({"a": form}, weights=True)
        assert net.layers["a"].toarray().tolist() == [[False, False], [True, False]]
        assert net.weights["a"].data.tolist() == [3.0]


def test_couplings_are_passed_on():
    masks = {"a": np.ones((1, 2)), "b": np.ones((2, 5))}
    assert Network.from_masks(masks, couplings=()).couplings == ()
    with pytest.raises(ValueError, match=r"pass couplings=\(\)"):
        Network.from_masks(masks)


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sparse.csr_array, torch.tensor])
def test_nan_is_refused(form):
    with pytest.raises(ValueError, match="layer 'fc' holds NaN"):
        Network.from_masks({"fc": form([[0.0, np.nan], [1.0, 0.0]])})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([["a"]]), "holds <U1, not numbers"),
        (np.array([[1j]]), "holds complex128, not numbers"),
        (np.array([[None]]), "holds object, not numbers"),
        (np.ones(3), r"has the shape \(3,\).*include="),
        (np.ones((4, 3, 3, 3)), r"has the shape \(4, 3, 3, 3\).*convolutions.*include="),
        (sparse.coo_array(np.ones(3)), r"has the shape \(3,\)"),
        (np.ones((0, 3)), "n_out must be a positive integer, not 0"),
        (torch.ones(2, 2).to_mkldnn(), "tensor of layout _mkldnn.*make it dense"),
        (torch.ones(2, 2, 2).to_sparse_coo(), "tensor of layout sparse_coo.*make it dense"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(mask, message):
    with pytest.raises(ValueError, match=f"layer 'fc'.* {message}"):
        Network.from_masks({"fc": mask})


@pytest.mark.parametrize("index", [-1, 3, 10**6])
def test_indices_out_of_range_are_refused(index):
    csr, coo = sparse.csr_array(np.eye(2)), sparse.coo_array(np.eye(2))
    csr.indices[0] = coo.col[0] = index
    for damaged in (csr, coo):
        with pytest.raises(ValueError, match="layer 'fc' is a damaged sparse matrix"):
            Network.from_masks({"fc": damaged})
    csr = sparse.csr_array(np.eye(2))
    csr.indptr[1] = index
    with pytest.raises(ValueError, match="layer 'fc' is a damaged sparse matrix"):
        Network.from_masks({"fc": csr})


def test_include_chooses_layers_by_name():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2), torch.nn.Conv1d(2, 2, 1)
    )
    state = model.state_dict()
    net = Network.from_masks(state, include=("0.weight", "2.weight"))
    assert list(net.layers) == ["0.weight", "2.weight"]
    assert net.couplings == (Coupling(("0.weight",), ("2.weight",)),)
    assert list(Network.from_masks(state, include="[02].w*").layers) == ["0.weight", "2.weight"]
    with pytest.raises(ValueError, match=r"layer '0.bias' has the shape \(3,\).*\*.weight"):
        Network.from_masks(state)
    with pytest.raises(ValueError, match=r"no name matches include='x\*'; there are 0.weight, 0.b"):
        Network.from_masks(state, include="x*")
    many = {str(i): np.eye(2) for i in range(30)}
    with pytest.raises(ValueError, match=r"18, 19, \.\.\.$"):
        Network.from_masks(many, include="x*")
    with pytest.raises(ValueError, match="at least one layer"):
        Network.from_masks({})


# ---- files -----------------------------------------------------------------------------------


MASKS = {"fc1": np.array([[0.5, 0, 2], [0, 0, -1]], np.float32), "fc2": np.array([[0, 1.0]])}


def check(net):
    assert list(net.layers) == ["fc1", "fc2"]
    for name, values in MASKS.items():
        assert np.array_equal(net.layers[name].toarray(), values != 0)
        assert np.array_equal(net.weights[name].toarray(), values)
        assert net.weights[name].dtype == values.dtype
    assert net.couplings == (Coupling(("fc1",), ("fc2",)),)


def safetensors(tensors, **more):
    """Such a file, from its specification: length of the header, header, data."""
    names = {"<f4": "F32", "<f8": "F64", "|b1": "BOOL", "<u2": "BF16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, a in tensors.items():
        begin, data = len(data), data + a.tobytes()
        header[name] = {
            "dtype": names[a.dtype.str], "shape": a.shape, "data_offsets": [begin, len(data)]
        } | more  # fmt: skip
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_npz_of_numpy(tmp_path):
    np.savez(tmp_path / "a.npz", **MASKS, bias=np.zeros(3))
    np.savez_compressed(tmp_path / "b.NPZ.npz", **MASKS, bias=np.zeros(3))
    check(Network.from_masks(tmp_path / "a.npz", include="fc*", weights=True))
    check(Network.from_masks(str(tmp_path / "b.NPZ.npz"), include="fc*", weights=True))
    with pytest.raises(ValueError, match="layer 'bias' has the shape"):
        Network.from_masks(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "form", [f for f in SPARSE if f not in (sparse.lil_array, sparse.dok_array)]
)
def test_npz_of_scipy_is_one_layer(tmp_path, form):
    sparse.save_npz(tmp_path / "fc.npz", form(DENSE))
    net = Network.from_masks(tmp_path / "fc.npz", weights=True)
    assert list(net.layers) == ["fc"]
    assert net.layers["fc"].toarray().tolist() == LINKS
    assert net.weights["fc"].data.tolist() == [0.5, -2.0, 1e-30, np.inf]


def test_npy_is_one_layer(tmp_path):
    np.save(tmp_path / "fc.npy", DENSE)
    assert Network.from_masks(tmp_path / "fc.npy").layers["fc"].toarray().tolist() == LINKS


@pytest.mark.parametrize("form", [np.asarray, sparse.csc_array, sparse.coo_matrix])
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_dense_and_sparse(tmp_path, form, compressed):
    file = tmp_path / "a.mat"
    variables = {n: form(v) for n, v in MASKS.items()} | {"note": "text"}
    scipy_io.savemat(file, variables, do_compression=compressed)
    net = Network.from_masks(file, include="fc*", weights=True)
    check(net)
    with pytest.raises(ValueError, match="layer 'note' holds <U4"):
        Network.from_masks(file)


def test_mat_of_version_4_and_logical(tmp_path):
    scipy_io.savemat(tmp_path / "a.mat", {"fc": DENSE}, format="4")
    assert Network.from_masks(tmp_path / "a.mat").layers["fc"].toarray().tolist() == LINKS
    scipy_io.savemat(tmp_path / "b.mat", {"fc": sparse.csc_array(DENSE != 0)})
    assert Network.from_masks(tmp_path / "b.mat").layers["fc"].toarray().tolist() == LINKS


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_mat_never_crashes_the_interpreter(tmp_path, seed):
    """scipy's reader does, on some of these: it runs in a process of its own."""
    file = tmp_path / "a.mat"
    scipy_io.savemat(file, {"fc": DENSE, "two": sparse.csc_array(DENSE)})
    content = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(128, len(content), 12):
        content[at] = rng.integers(256)
    file.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert set(Network.from_masks(file).layers) <= {"fc", "two"}


def test_a_reader_that_crashes_is_a_damaged_file(tmp_path, monkeypatch):
    scipy_io.savemat(tmp_path / "a.mat", {"fc": DENSE})
    monkeypatch.setattr("topo.masks._LOADMAT", "import os; os.abort()")
    with pytest.raises(ValueError, match=r"a\.mat cannot be read .* its reader crashed"):
        Network.from_masks(tmp_path / "a.mat")


def test_mat_of_version_7_3_is_refused(tmp_path):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"a\.mat .* version 7\.3 .*save\(\.\.\., '-v7'\)"):
        Network.from_masks(tmp_path / "a.mat")


def test_safetensors(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(MASKS | {"fc1.bias": np.zeros(3)}))
    check(Network.from_masks(file, include=["fc1", "fc2"], weights=True))
    half = torch.tensor([[1.5, 0.0, -3.0]]).bfloat16().view(torch.uint16).numpy()
    file.write_bytes(safetensors({"fc": half, "mask": np.array([[True, False]])}))
    net = Network.from_masks(file, (), weights=True)
    assert net.weights["fc"].toarray().tolist() == [[1.5, 0.0, -3.0]]
    assert net.layers["mask"].toarray().tolist() == [[True, False]]


@pytest.mark.parametrize("weights", [None, {"a": [0.5, 0.0, -2.0], "b": [1.0, 2.0]}])
def test_npz_of_a_network(tmp_path, weights):
    net = Network(
        {"a": [[0, 1], [1, 1]], "b": [[1, 1]]}, [Coupling(("b",), ()), Coupling(("a",))],
        weights=weights,
    )  # fmt: skip
    topo.save_npz(net, tmp_path / "net.npz")
    assert Network.from_masks(tmp_path / "net.npz") == net  # links of weight 0 and couplings, too
    assert Network.from_masks(tmp_path / "net.npz").weights is None
    assert Network.from_masks(tmp_path / "net.npz", ()) == Network(net.layers, ())
    if weights is None:
        with pytest.raises(ValueError, match=r"net\.npz holds a network without weights"):
            Network.from_masks(tmp_path / "net.npz", weights=True)
    else:
        again = Network.from_masks(tmp_path / "net.npz", weights=True)
        assert {n: w.data.tolist() for n, w in again.weights.items()} == weights
    with pytest.raises(ValueError, match=r"topo\.load_npz, not include="):
        Network.from_masks(tmp_path / "net.npz", include="a")


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", pickle.dumps(Trap())),
        ("a.npy", pickle.dumps(Trap())),
    ],
)
def test_pickles_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} .*pickles.*save plain arrays"):
        Network.from_masks(tmp_path / name)


def test_object_arrays_are_refused(tmp_path):
    trap = np.empty((1, 1), dtype=object)
    trap[0, 0] = Trap()
    np.savez(tmp_path / "a.npz", fc=np.eye(2), trap=trap)
    assert Network.from_masks(tmp_path / "a.npz", include="fc").links == 2
    with pytest.raises(ValueError, match=r"a\.npz .*'trap'.*pickles.*save plain arrays"):
        Network.from_masks(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", trap)
    with pytest.raises(ValueError, match=r"a\.npy .*pickles"):
        Network.from_masks(tmp_path / "a.npy")


def test_files_that_are_missing_or_of_another_format(tmp_path):
    for name in ("a.npz", "a.npy", "a.mat", "a.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            Network.from_masks(tmp_path / name)
    with pytest.raises(ValueError, match=r"unknown file format '\.pt'.*known are \.npz, \.npy, "):
        Network.from_masks(tmp_path / "a.pt")


def files(folder):
    np.savez(folder / "a.npz", **MASKS)
    np.savez_compressed(folder / "b.npz", **MASKS)
    sparse.save_npz(folder / "c.npz", sparse.csr_array(DENSE))
    np.save(folder / "d.npy", DENSE)
    scipy_io.savemat(folder / "e.mat", MASKS)
    scipy_io.savemat(folder / "f.mat", {"a": sparse.csc_array(DENSE)}, do_compression=True)
    (folder / "g.safetensors").write_bytes(safetensors(MASKS))
    topo.save_npz(Network({"a": DENSE != 0}, weights={"a": np.ones(4)}), folder / "h.npz")
    return sorted(folder.iterdir())


def test_truncated_files_name_themselves(tmp_path):
    for file in files(tmp_path):
        content = file.read_bytes()
        Network.from_masks(file)
        for length in {0, 1, 8, len(content) // 2, len(content) - 30, len(content) - 1}:
            file.write_bytes(content[:length])
            with pytest.raises(ValueError, match=rf"{file.name} cannot be read as"):
                Network.from_masks(file)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    """Whatever bytes change: a network of numbers, or a ValueError."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        folder.mkdir()
        files(folder)
        (folder / "changed").mkdir()
    # not .mat: scipy.io.loadmat itself crashes on some damaged tags
    file = data.draw(st.sampled_from([p for p in sorted(folder.glob("*.*")) if p.suffix != ".mat"]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    changed = folder / "changed" / file.name
    changed.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert Network.from_masks(changed, (), weights=True).links >= 0


def test_a_sparse_npz_with_bad_indices_is_refused(tmp_path):
    good = sparse.csr_array(np.eye(3))
    for key, array in (("indices", [0, 1, 9]), ("indices", [0, -1, 2]), ("indptr", [0, 9, 2, 3])):
        parts = {"indices": good.indices, "indptr": good.indptr} | {key: np.array(array, np.int32)}
        np.savez(tmp_path / "a.npz", format=b"csr", shape=(3, 3), data=good.data, **parts)
        with pytest.raises(ValueError, match=r"a\.npz|layer 'a'"):
            Network.from_masks(tmp_path / "a.npz")


def test_from_masks_reads_what_it_includes_only(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, fc=np.eye(2), other=np.eye(2))
    content = buffer.getvalue()
    at = content.index(b"other.npy")
    at = content.index(b"\x93NUMPY", at)
    (tmp_path / "a.npz").write_bytes(content[:at] + b"XXXXXX" + content[at + 6 :])
    assert Network.from_masks(tmp_path / "a.npz", include="fc").links == 2
    with pytest.raises(ValueError, match=r"a\.npz .*'other'"):
        Network.from_masks(tmp_path / "a.npz")
