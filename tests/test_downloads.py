import gzip
import hashlib
import io
import re
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dst import downloads
from dst.compressed import opened

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server:
    """Files over HTTP on 127.0.0.1; may ignore Range, and close connections too early."""

    def __init__(self):
        self.files, self.asked = {}, []
        self.ranges = True
        self.cuts = []  # after how many bytes the next answers end
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, request):
        name, wanted = request.path[1:], request.headers.get("Range")
        self.asked.append((name, wanted))
        content = self.files.get(name)
        if content is None:
            request.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.end_headers()
            return
        request.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][: self.cuts.pop(0) if self.cuts else None])

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EPITOPO_DATA", raising=False)
    return tmp_path / "cache" / "tiny"


@pytest.fixture
def tiny(server, cache, monkeypatch):
    """The entry of a data set of one file, a.bin, served as a.bin.gz."""
    server.files["a.bin.gz"] = gzip.compress(CONTENT, 1)
    entry = {
        "title": "Tiny", "licence": "none", "format": "test", "urls": [server.url],
        "files": {"a.bin": {"bytes": len(CONTENT), "sha256": sha256(CONTENT)}},
    }  # fmt: skip
    monkeypatch.setattr(downloads, "registry", lambda: {"tiny": entry})
    return entry


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    with opened(path) as f:
        return f.read()


def test_a_file_is_downloaded_once_and_checked(server, cache, tiny):
    path = downloads.fetch_file("tiny", "a.bin")
    assert path == cache / "a.bin.gz"
    assert read(path) == CONTENT
    assert names(cache) == ["a.bin.gz"]
    assert downloads.fetch("tiny") == [path]
    assert server.asked == [("a.bin.gz", None)]
    assert downloads.describe("tiny") == "Tiny. 0 MB. Licence: none"


def test_a_file_may_be_served_under_another_name_unpacked(server, cache, tiny):
    tiny["files"]["a.bin"] |= {"served": "raw/A", "archive_sha256": sha256(CONTENT)}
    server.files["raw/A"] = CONTENT
    assert downloads.fetch_file("tiny", "a.bin") == cache / "a.bin"
    assert names(cache) == ["a.bin"]


def test_a_cut_connection_is_taken_up_where_it_broke(server, cache, tiny):
    server.cuts = [100_000, 50_000]
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_resumes(server, cache, tiny):
    server.cuts = [100_000, 0]
    with pytest.raises(OSError, match=r"a.bin.gz: the connection closed after 100000 bytes"):
        downloads.fetch("tiny")
    assert names(cache) == [".part.a.bin.gz"]
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert server.asked[-1] == ("a.bin.gz", "bytes=100000-")
    assert names(cache) == ["a.bin.gz"]


def test_a_server_without_ranges_starts_anew(server, cache, tiny):
    server.ranges = False
    server.cuts = [100_000, 100_000]
    with pytest.raises(OSError, match="the connection closed after 100000 bytes"):
        downloads.fetch("tiny")
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("beyond", [0, 7])
def test_nothing_beyond_the_part(server, cache, tiny, beyond):
    """Status 416: the part is complete but unnamed, or it is longer than the file."""
    cache.mkdir(parents=True)
    part = cache / ".part.a.bin.gz"
    part.write_bytes(server.files["a.bin.gz"] + bytes(beyond))
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert len(server.asked) == (2 if beyond else 1)
    assert names(cache) == ["a.bin.gz"]


def test_a_part_of_another_file_is_thrown_away(server, cache, tiny):
    cache.mkdir(parents=True)
    (cache / ".part.a.bin.gz").write_bytes(gzip.compress(b"something else"))
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert len(server.asked) == 2


def test_the_next_url_is_asked(server, cache, tiny):
    server.files["old/a.bin.gz"] = gzip.compress(CONTENT[::-1])
    tiny["urls"] = [f"{server.url}none/", f"{server.url}old/", server.url]
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT
    assert [name for name, _ in server.asked] == ["none/a.bin.gz", "old/a.bin.gz", "a.bin.gz"]


def test_a_wrong_checksum_names_all_and_leaves_nothing(server, cache, tiny):
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    server.files["a.bin.gz"] = gzip.compress(wrong, 1)
    message = (
        f"{server.url}a.bin.gz has 300000 bytes with sha256 {sha256(wrong)}, expected 300000 "
        f"with {sha256(CONTENT)}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        downloads.fetch("tiny")
    assert names(cache) == []
    tiny["files"]["a.bin"] = {"archive_sha256": sha256(CONTENT)}
    with pytest.raises(ValueError, match=f"expected .* with {sha256(CONTENT)}"):
        downloads.fetch("tiny")
    assert names(cache) == []


@pytest.mark.parametrize("known", [{"bytes": 1000}, {}])
def test_a_small_file_that_blows_up_is_refused(server, cache, tiny, known, monkeypatch):
    monkeypatch.setattr(downloads, "LIMIT", 1000)
    server.files["a.bin.gz"] = gzip.compress(bytes(10**7))
    tiny["files"]["a.bin"] = known
    with pytest.raises(ValueError, match=r"a.bin.gz unpacks to more than the 1000 bytes"):
        downloads.fetch("tiny")
    assert names(cache) == []


def test_a_truncated_file_without_a_checksum_is_refused(server, cache, tiny):
    server.files["a.bin.gz"] = server.files["a.bin.gz"][:-1000]
    tiny["files"]["a.bin"] = {}
    with pytest.raises(ValueError, match=r"http.*a.bin.gz is damaged"):
        downloads.fetch("tiny")
    assert names(cache) == []


def test_fetch_checks_what_is_there_already(server, cache, tiny, tmp_path, monkeypatch):
    own = tmp_path / "own" / "tiny"
    own.mkdir(parents=True)
    (own / "a.bin").write_bytes(CONTENT[1:])
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(f"{own / 'a.bin'} has 299999 bytes")):
            downloads.fetch_file("tiny", "a.bin")
    (own / "a.bin").write_bytes(CONTENT)
    assert downloads.fetch_file("tiny", "a.bin") == own / "a.bin"
    assert server.asked == []


def test_what_is_there_is_read_through_once(server, cache, tiny, monkeypatch):
    path = downloads.fetch_file("tiny", "a.bin")
    checks = []
    monkeypatch.setattr(downloads, "_check_content", lambda *a: checks.append(a))
    for expected in (1, 1, 1):
        assert downloads.fetch_file("tiny", "a.bin") == path
        assert len(checks) == expected
    path.touch()
    downloads.fetch_file("tiny", "a.bin")
    assert len(checks) == 2


def test_processes_wait_for_one_another(server, cache, tiny):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(downloads.fetch_file, ["tiny"] * 4, ["a.bin"] * 4))
    assert set(paths) == {cache / "a.bin.gz"}
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written(server, cache, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPITOPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write tiny to .*set EPITOPO_CACHE to another"):
        downloads.fetch("tiny")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(server, cache, tiny):
    cache.mkdir(parents=True)
    (cache / ".part.a.bin.gz").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write tiny to .*No space left.*Make room"):
        downloads.fetch("tiny")
    assert names(cache) == [".part.a.bin.gz"]
    (cache / ".part.a.bin.gz").unlink()
    assert read(downloads.fetch_file("tiny", "a.bin")) == CONTENT


def test_unknown_names(tiny):
    with pytest.raises(ValueError, match="unknown data set 'tinny': did you mean 'tiny'"):
        downloads.fetch_file("tinny", "a.bin")
    with pytest.raises(ValueError, match=r"unknown file of tiny 'b.bin': did you mean 'a.bin'"):
        downloads.fetch_file("tiny", "b.bin")


def test_a_data_set_without_urls(cache, tiny):
    tiny["urls"] = []
    with pytest.raises(OSError, match=r"no url is known for a.bin.gz. Put its files into a folder"):
        downloads.fetch("tiny")
    assert downloads.describe("tiny") == "Tiny. 0 MB, only from EPITOPO_DATA. Licence: none"


# archives

MEMBERS = {"in/a.bin.gz": gzip.compress(CONTENT, 1), "in/b.txt": b"hello\n" * 100, "in/c": b"other"}


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return file.getvalue()


def tarred(members, **kinds):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as t:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = kinds.get(Path(name).name[0], tarfile.REGTYPE)
            info.linkname = "/etc/passwd" if info.type != tarfile.REGTYPE else ""
            t.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(params=["all.zip", "all.tar.gz"])
def archive(request, server, tiny):
    """The entry with its file and another one in an archive."""
    content = {"all.zip": zipped, "all.tar.gz": tarred}[request.param](MEMBERS)
    server.files[request.param] = content
    tiny["archive"] = request.param
    tiny["archives"] = {request.param: {"bytes": len(content), "sha256": sha256(content)}}
    tiny["files"]["a.bin"]["member"] = "in/a.bin.gz"
    tiny["files"]["b.txt"] = {"member": "in/b.txt", "bytes": 600}
    return tiny


def serve(server, entry, content):
    """An archive whose checksum nobody knows."""
    server.files[entry["archive"]] = content
    entry["archives"] = {}


def test_members_are_unpacked_and_the_archive_is_removed(server, cache, archive):
    server.cuts = [1000]
    path = downloads.fetch_file("tiny", "a.bin")
    assert path == cache / "a.bin.gz"
    assert read(path) == CONTENT
    assert downloads.fetch("tiny") == [path, cache / "b.txt"]
    assert names(cache) == ["a.bin.gz", "b.txt"]
    assert len(server.asked) == 2


def test_a_users_archive_stays(server, cache, archive, tmp_path, monkeypatch):
    own = tmp_path / "own" / "tiny"
    own.mkdir(parents=True)
    (own / archive["archive"]).write_bytes(server.files[archive["archive"]])
    monkeypatch.setenv("EPITOPO_DATA", str(tmp_path / "own"))
    assert downloads.fetch("tiny") == [cache / "a.bin.gz", cache / "b.txt"]
    assert names(own) == [archive["archive"]]
    assert server.asked == []


def test_an_archive_of_a_wrong_checksum(server, cache, archive):
    archive["archives"][archive["archive"]]["sha256"] = sha256(b"")
    with pytest.raises(ValueError, match=rf"{archive['archive']} has .* expected .* {sha256(b'')}"):
        downloads.fetch("tiny")
    assert names(cache) == []


@pytest.mark.parametrize("damage", [slice(None, -2000), slice(100, None), slice(0, 0)])
def test_a_damaged_archive(server, cache, archive, damage):
    serve(server, archive, server.files[archive["archive"]][damage])
    with pytest.raises(ValueError, match=rf"{archive['archive']} is damaged"):
        downloads.fetch("tiny")
    assert names(cache) == []


def test_a_changed_byte_in_a_zip(server, cache, archive):
    content = bytearray(zipped(MEMBERS))
    content[len(content) // 2] ^= 1
    serve(server, archive, bytes(content))
    with pytest.raises(ValueError, match=rf"{archive['archive']} is damaged .*CRC"):
        downloads.fetch("tiny")
    assert names(cache) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_no_name_in_an_archive_becomes_a_path(server, cache, archive, tmp_path, pack):
    evil = {f"../../{i}": b"x" for i in range(3)} | {str(tmp_path / "evil"): b"x"}
    serve(server, archive, pack(evil | MEMBERS | {"../in/b.txt": b"x"}))
    downloads.fetch("tiny")
    assert names(cache) == ["a.bin.gz", "b.txt"]
    assert names(tmp_path) == ["cache"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_and_folders_are_refused(server, cache, archive, kind):
    serve(server, archive, tarred(MEMBERS | {"in/b.txt": b""}, b=kind))
    with pytest.raises(ValueError, match=r"member in/b.txt is no plain file"):
        downloads.fetch("tiny")
    assert names(cache) == []


def test_a_link_in_a_zip_is_refused(server, cache, archive):
    file = io.BytesIO(zipped({"in/a.bin.gz": MEMBERS["in/a.bin.gz"]}))
    with zipfile.ZipFile(file, "a") as z:
        info = zipfile.ZipInfo("in/b.txt")
        info.external_attr = 0o120777 << 16
        z.writestr(info, "/etc/passwd")
    serve(server, archive, file.getvalue())
    with pytest.raises(ValueError, match=r"member in/b.txt is no plain file"):
        downloads.fetch("tiny")
    assert names(cache) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("in/b.txt", bytes(3_000_000), r"in/b.txt has 3000000 bytes, beyond"),
        ("in/b.txt", bytes(900_000), r"in/b.txt unpacks to more than the 600 bytes expected"),
        ("in/b.txt", bytes(599), r"in/b.txt has 599 bytes"),
        ("in/a.bin.gz", gzip.compress(bytes(10**7), mtime=0), r"in/a.bin.gz unpacks to more than"),
        ("in/a.bin.gz", CONTENT, r"in/a.bin.gz is damaged"),
    ],
)
def test_a_member_that_is_not_what_it_should_be(
    server, cache, archive, pack, member, content, message
):
    serve(server, archive, pack(MEMBERS | {member: content}))
    with pytest.raises(ValueError, match=message):
        downloads.fetch("tiny")
    assert names(cache) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_missing_member(server, cache, archive, pack):
    serve(server, archive, pack({"in/b.txt": MEMBERS["in/b.txt"]}))
    with pytest.raises(ValueError, match=r"holds no in/a.bin.gz"):
        downloads.fetch("tiny")
    assert names(cache) == []


def test_every_entry_of_the_registry_is_whole():
    for name, entry in downloads.registry().items():
        assert {"title", "licence", "format"} <= entry.keys(), name
        assert downloads.describe(name).startswith(entry["title"])
        assert all(url.startswith("http") and url.endswith("/") for url in entry.get("urls", []))
        for file in entry.get("files", {}).values():
            assert len(file.get("sha256", "0" * 64)) == 64
            archive = file.get("archive", entry.get("archive"))
            assert ("member" in file) == (archive is not None), name
            assert archive is None or "sha256" in entry["archives"][archive]
