"""Official files come whole or not at all, from a web server that does everything web servers do."""

import hashlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from pipeline.data import download
from pipeline.runtime.errors import ConfigError, DataError, ResourceError
from pipeline.runtime.settings import DataFile
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python's tarfile has no safe filter; 3.11.4 has"
)

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 17)
PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"
CUT = MIB + MIB // 2
"""Bytes after which a connection breaks: one block of them is kept."""


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Site(ThreadingHTTPServer):
    """What it serves, how it misbehaves, and what was asked of it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {}
        self.asked = []
        """Path and range of each GET."""
        self.encodings = set()
        """What the client would have taken."""
        self.faults = []
        """One for each GET, in order: a status, or after how many bytes the connection breaks; then none."""
        self.ranges = self.lengths = self.marks = self.heads = True
        self.gate = threading.Event()
        """A GET sends CUT bytes and waits for it."""
        self.gate.set()


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        content = self.server.files.get(self.path)
        if not self.server.heads or content is None:
            self.head(405 if content is not None else 404)
        else:
            self.head(200, content, len(content))

    def do_GET(self):
        site, content = self.server, self.server.files.get(self.path)
        wanted = self.headers.get("Range")
        site.asked.append((self.path, wanted))
        site.encodings.add(self.headers.get("Accept-Encoding"))
        fault = site.faults.pop(0) if site.faults else None
        if content is None or (fault and fault < 600):
            self.head(fault or 404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if start >= len(content) > 0:
            self.head(416)
            return
        self.head(206 if start else 200, content, len(content) - start, start)
        body = content[start : fault and start + fault]
        self.wfile.write(body[:CUT])
        site.gate.wait(30)
        self.wfile.write(body[CUT:])

    def head(self, status, content=b"", length=None, start=0):
        self.send_response(status)
        if length is not None and self.server.lengths:
            self.send_header("Content-Length", str(length))
        if length is not None and self.server.marks:
            self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        if status == 206:
            total = len(content) if self.server.lengths else "*"
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{total}")
        self.end_headers()


@pytest.fixture
def site():
    with Site() as served:
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        served.files["/dev.json"] = CONTENT
        yield served
        served.gate.set()
        served.shutdown()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that would have been waited between attempts."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, waits):
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # it has read the proxies
    yield tmp_path / "cache/downloads"
    huggingface_hub.close_session()


def official(site, name="dev.json", content=CONTENT, **changes):
    values = {"name": name, "url": f"{site.url}/dev.json", "git_blob": content and git_blob(content)}
    return DataFile(**values | changes)


def kept(cache):
    """Names of the files in the cache, locks aside."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def refusal(file, error=DataError, source=None):
    """The one line that the user reads."""
    with pytest.raises(error) as caught:
        download.locate(file, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def place_in(message):
    """Where the line says that the file can be put by hand."""
    return Path(re.search(r"put it at (\S+) \(", message)[1])


# A folder


def test_the_git_blob_id_is_git_s_own(tmp_path):
    (tmp_path / "hello").write_bytes(b"hello\n")
    pin = "ce013625030ba8dba906f756967f9e9ca394464a"
    found = download.locate(DataFile(name="hello", git_blob=pin), tmp_path)
    assert found == download.Located(tmp_path / "hello", hashlib.sha256(b"hello\n").hexdigest(), pin, 6)


def test_a_file_of_a_folder_may_stand_deeper(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/dev.json").write_bytes(b"{}")
    assert download.locate(DataFile(name="a b/dev.json"), tmp_path).path == tmp_path / "a b/dev.json"


def test_the_official_file_of_lost_in_the_middle_fits_its_pin(shared):
    file = DataFile(name="nq-open-oracle.jsonl.gz", git_blob="9e0e498f7feaca12e5ff1f40526ed7f7a6d9b7d9")
    assert download.locate(file, shared / "data/nq").path.is_file()


def test_a_file_that_the_folder_lacks_is_named_with_those_it_has(tmp_path, site):
    for name in ("train.jsonl", "dev.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
    message = refusal(official(site), source=tmp_path)
    assert str(tmp_path / "dev.json") in message and "dev.jsonl.gz, train.jsonl" in message
    assert "data: {source: ...}" in message and "data: {files: ...}" in message
    assert f"{tmp_path / 'nowhere'} is no folder" in refusal(official(site), source=tmp_path / "nowhere")
    assert site.asked == []


@pytest.mark.parametrize(
    ("pin", "has"),
    [({"git_blob": "0" * 40}, git_blob(CONTENT)), ({"sha256": "0" * 64}, hashlib.sha256(CONTENT).hexdigest())],
    ids=["git blob", "sha256"],
)
def test_other_bytes_in_a_folder_are_refused_with_both_digests(tmp_path, pin, has):
    (tmp_path / "dev.json").write_bytes(CONTENT)
    message = refusal(DataFile.model_validate({"name": "dev.json"} | pin), source=tmp_path)
    assert has in message and "".join(pin.values()) in message and "drop the pin" in message


# A download that works


@pytest.mark.parametrize(
    "pin", [{}, {"git_blob": None, "sha256": hashlib.sha256(CONTENT).hexdigest()}, {"git_blob": None}]
)
def test_a_file_is_downloaded_once(cache, site, pin):
    found = download.locate(official(site, **pin), None)
    assert found.path.read_bytes() == CONTENT and found.path.name == "dev.json"
    assert (found.git_blob, found.num_bytes) == (git_blob(CONTENT), len(CONTENT))
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert kept(cache) == ["dev.json"]
    assert download.locate(official(site, **pin), None) == found
    assert len(site.asked) == 1


def test_two_versions_of_a_file_never_clash(site):
    first = download.locate(official(site), None)
    site.files["/dev.json"] = b"{}"
    second = download.locate(official(site, content=b"{}"), None)
    assert first.path.read_bytes() == CONTENT and second.path.read_bytes() == b"{}"


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(cache, site):
    found = download.locate(official(site), None)
    found.path.write_bytes(CONTENT[:-1] + b"?")
    assert download.locate(official(site), None) == found
    assert found.path.read_bytes() == CONTENT and len(site.asked) == 2


@pytest.mark.parametrize("lacking", ["marks", "heads", "lengths"])
def test_a_server_that_says_little_of_its_files_will_do(site, lacking):
    setattr(site, lacking, False)
    assert download.locate(official(site), None).path.read_bytes() == CONTENT


# A download that is cut off


def test_a_broken_connection_is_taken_up_where_it_broke(cache, site):
    site.faults = [CUT, CUT]
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert site.asked == [("/dev.json", None), ("/dev.json", f"bytes={MIB}-"), ("/dev.json", f"bytes={2 * MIB}-")]
    assert site.encodings == {"identity"}  # ranges of a packed answer would be ranges of something else
    assert kept(cache) == ["dev.json"]


def test_a_connection_that_breaks_often_is_not_given_up_while_it_brings_bytes(site):
    site.files["/dev.json"] = content = os.urandom((download.ATTEMPTS + 3) * MIB)
    site.faults = [CUT] * (download.ATTEMPTS + 2)
    assert download.locate(official(site, content=content), None).path.read_bytes() == content


def test_ranges_of_an_unknown_total_are_not_trusted(site):
    site.faults = [CUT, 404]
    refusal(official(site))
    site.lengths = False
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert [ranges for _, ranges in site.asked] == [None, f"bytes={MIB}-", f"bytes={MIB}-", None]


def test_a_server_that_ignores_ranges_does_no_harm(site):
    site.faults, site.ranges = [CUT, CUT], False
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert len(site.asked) == 3


@pytest.mark.parametrize("pinned", [True, False])
def test_the_next_run_goes_on_where_the_last_one_stopped(cache, site, pinned):
    site.faults = [CUT, 404]
    file = official(site) if pinned else official(site, content=None)
    assert "the server answers 404" in refusal(file)
    (part,) = kept(cache)
    assert part.endswith(".part")
    assert download.locate(file, None).path.read_bytes() == CONTENT
    assert site.asked[-1] == ("/dev.json", f"bytes={MIB}-")
    assert kept(cache) == ["dev.json"]


@pytest.mark.parametrize("marks", [True, False])
def test_halves_of_two_versions_are_never_joined(cache, site, marks):
    site.faults, site.marks = [CUT, 404], marks
    refusal(official(site, content=None))
    site.files["/dev.json"] = other = bytes(reversed(CONTENT))
    assert download.locate(official(site, content=None), None).path.read_bytes() == other
    assert site.asked[-1] == ("/dev.json", None)
    assert kept(cache) == ["dev.json"]


@pytest.mark.parametrize("more", [0, 5])
def test_a_part_that_is_as_long_as_the_file_or_longer_is_no_trap(site, more):
    site.faults = [CUT, 404]
    refusal(official(site))
    (part,) = Path(os.environ["FOCUS_CACHE"]).rglob("*.part")
    part.write_bytes(CONTENT + bytes(more))
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert len(site.asked) == 2 + 2 * (more > 0)


LOCATE = """
import sys
from pipeline.data import download
from pipeline.runtime.settings import DataFile
print("started", flush=True)
print(download.locate(DataFile(name="dev.json", url=sys.argv[1], git_blob=sys.argv[2]), None).path)
"""


def locate_in_another_process(site):
    command = [sys.executable, "-c", LOCATE, f"{site.url}/dev.json", git_blob(CONTENT)]
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
    assert process.stdout.readline() == "started\n"
    return process


def test_two_processes_at_once_download_it_once(cache, site):
    site.gate.clear()
    processes = [locate_in_another_process(site) for _ in range(2)]
    site.gate.set()
    printed = {process.communicate(timeout=60) for process in processes}
    assert {stdout for stdout, _ in printed} == {f"{next(cache.rglob('dev.json'))}\n"}
    assert len(site.asked) == 1
    assert kept(cache) == ["dev.json"]


def test_a_killed_process_leaves_a_part_that_is_taken_up(cache, site):
    site.gate.clear()
    process = locate_in_another_process(site)
    begun = threading.Event()
    while process.poll() is None and not any(part.stat().st_size for part in cache.rglob("*.part")):
        begun.wait(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    site.gate.set()
    assert kept(cache) != ["dev.json"]
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert site.asked == [("/dev.json", None), ("/dev.json", f"bytes={MIB}-")]


# A download that fails


def test_a_server_s_own_errors_are_waited_out_longer_each_time(site, waits):
    site.faults = [503, 502, 500]
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert [seconds for seconds in waits if seconds] == [2.0, 4.0, 8.0]


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, download.ATTEMPTS)])
def test_an_error_of_the_server_is_one_line_that_says_how_to_go_on_by_hand(cache, site, status, attempts):
    site.faults = [status] * attempts
    message = refusal(official(site))
    assert f"{site.url}/dev.json: the server answers {status}" in message
    assert f"git blob {git_blob(CONTENT)}" in message
    assert len(site.asked) == attempts
    site.files.clear()
    shutil.copyfile(make(CONTENT, cache), place_in(message))
    assert download.locate(official(site), None).path == place_in(message)


def make(content, cache):
    path = cache.parent / "by-hand"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pin", [None, CONTENT])
def test_without_a_network_the_line_says_what_to_fetch_and_where_to_put_it(site, pin, capfd):
    site.shutdown()
    site.server_close()
    message = refusal(official(site, content=pin))
    assert f"{site.url}/dev.json: ConnectError" in message
    assert (f"git blob {git_blob(CONTENT)}" if pin else "no pin known; its sha256 will be recorded") in message
    assert place_in(message).name == "dev.json"
    assert capfd.readouterr().err == ""  # no attempt is told on its own


def test_offline_mode_is_kept(cache, site, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(official(site))
    assert "HF_HUB_OFFLINE is set" in message and site.asked == []
    shutil.copyfile(make(b"wrong", cache), place_in(message))
    assert "what stands there does not fit" in refusal(official(site))
    shutil.copyfile(make(CONTENT, cache), place_in(message))
    assert download.locate(official(site), None).path.read_bytes() == CONTENT


def test_a_url_that_is_none_is_named(site):
    assert "not-a-url: UnsupportedProtocol" in refusal(official(site, url="not-a-url"))


def test_neither_url_nor_folder_is_an_error_of_the_settings(site):
    assert "dev.json has no url" in refusal(official(site, url=None), ConfigError)


@pytest.mark.parametrize("wrong", [CONTENT[:-5], CONTENT[::-1], PAGE, b""], ids=["cut", "other", "page", "empty"])
def test_wrong_bytes_are_refused_with_both_digests_and_removed(cache, site, wrong):
    site.files["/dev.json"] = wrong
    message = refusal(official(site))
    assert git_blob(wrong) in message and git_blob(CONTENT) in message
    assert ("HTML page" in message) == (len(wrong) < 100)
    assert kept(cache) == []
    site.files["/dev.json"] = CONTENT
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert site.asked[-1] == ("/dev.json", None)


@pytest.mark.parametrize("wrong", [PAGE, b""])
def test_a_page_instead_of_a_file_without_a_pin_is_refused_too(cache, site, wrong):
    site.files["/dev.json"] = wrong
    assert "an HTML page or nothing at all" in refusal(official(site, content=None))
    assert kept(cache) == []


# The disk


def test_a_disk_without_room_is_told_before_anything_is_fetched(cache, site, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 * MIB, 9 * MIB, MIB))
    message = refusal(official(site), ResourceError)
    assert f"{len(CONTENT):,} bytes are needed" in message and f"{MIB:,} are free" in message and str(cache) in message
    assert site.asked == []


def test_a_disk_that_fills_up_keeps_the_part_for_the_next_run(cache, site):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, hard))  # the kernel refuses to write on, as on a full disk
    try:
        message = refusal(official(site), ResourceError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ".part: File too large" in message and "FOCUS_CACHE" in message
    assert download.locate(official(site), None).path.read_bytes() == CONTENT
    assert site.asked[-1] == ("/dev.json", f"bytes={CUT}-")


def test_a_cache_that_cannot_be_made_is_named(tmp_path, site, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "file"))
    assert "set FOCUS_CACHE to a writable folder" in refusal(official(site), ResourceError)


# An archive

DEV, TRAIN = b'{"1": "dev"}', b'{"2": "train"}'


def packed(**members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{name}.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def inside(site, name, content, **changes):
    return official(site, f"qasper-{name}.json", content, url=f"{site.url}/all.tgz", member=f"{name}.json", **changes)


def test_an_archive_is_downloaded_once_for_all_its_members(cache, site):
    site.files["/all.tgz"] = packed(dev=DEV, train=TRAIN)
    dev, train = (download.locate(inside(site, *named), None) for named in (("dev", DEV), ("train", TRAIN)))
    assert (dev.path.read_bytes(), train.path.read_bytes()) == (DEV, TRAIN)
    assert dev.git_blob == git_blob(DEV)
    assert kept(cache) == ["all.tgz", "qasper-dev.json", "qasper-train.json"]
    assert download.locate(inside(site, "dev", DEV), None) == dev
    assert len(site.asked) == 1


def test_members_without_pins_do_not_clash(site):
    site.files["/all.tgz"] = packed(dev=DEV, train=TRAIN)
    files = [DataFile(name="it.json", url=f"{site.url}/all.tgz", member=f"{name}.json") for name in ("dev", "train")]
    assert [download.locate(file, None).path.read_bytes() for file in files] == [DEV, TRAIN]


def test_a_member_of_another_version_is_refused_and_the_archive_fetched_anew(cache, site):
    site.files["/all.tgz"] = packed(dev=TRAIN)
    message = refusal(inside(site, "dev", DEV))
    assert git_blob(TRAIN) in message and git_blob(DEV) in message
    assert kept(cache) == []
    site.files["/all.tgz"] = packed(dev=DEV)
    assert download.locate(inside(site, "dev", DEV), None).path.read_bytes() == DEV


@pytest.mark.parametrize("content", [packed(dev=DEV)[:-9], packed(dev=DEV, **{"../train": TRAIN}), PAGE])
def test_a_bad_archive_leaves_nothing(cache, site, content):
    site.files["/all.tgz"] = content
    assert "all.tgz" in refusal(inside(site, "dev", DEV))
    assert kept(cache) == []


def test_a_member_that_the_archive_lacks_is_an_error_of_the_settings(cache, site):
    site.files["/all.tgz"] = packed(train=TRAIN)
    assert "train.json" in refusal(inside(site, "dev", DEV), ConfigError)
    assert kept(cache) == ["all.tgz"]


def test_an_archive_may_be_put_by_hand(cache, site):
    message = refusal(inside(site, "dev", DEV))
    assert f"git blob {git_blob(DEV)}" in message and place_in(message).name == "all.tgz"
    shutil.copyfile(make(packed(dev=DEV), cache), place_in(message))
    assert download.locate(inside(site, "dev", DEV), None).path.read_bytes() == DEV
