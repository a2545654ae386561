"""One file is extracted from an archive; an archive with anything suspicious in it is refused as a whole."""

import gzip
import io
import os
import resource
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.data import archives
from pipeline.runtime.errors import ConfigError, DataError, ResourceError

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python's tarfile has no safe filter; 3.11.4 has"
)

WANTED = "release/qasper-dev-v0.3.json"
CONTENT = b'{"1909.00694": {"title": "Minimally Supervised Learning"}}\n' * 40


def regular(name, content=b"other"):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def tgz(path, *members):
    """A .tar.gz of the wanted file, then `members`: pairs of TarInfo and bytes."""
    with tarfile.open(path, "w:gz") as tar:
        for info, content in [regular(WANTED, CONTENT), *members]:
            tar.addfile(info, io.BytesIO(content))
    return path


def zipped(path, *members):
    """A .zip of the wanted file, then `members`: pairs of a name or a ZipInfo and bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in [(WANTED, CONTENT), *members]:
            opened.writestr(name, content)
    return path


def refusal(archive, error=DataError, member=WANTED, **limits):
    """The one line that the user reads; the archive's folder is as it was."""
    target = archive.parent / "out" / "dev.json"
    target.parent.mkdir(exist_ok=True)
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(error) as caught:
        archives.extract_member(archive, member, target, **limits)
    assert sorted(archive.parent.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message and str(archive) in message
    return message


@pytest.mark.parametrize("member", [WANTED, f"./{WANTED}"])
@pytest.mark.parametrize("build", [tgz, zipped])
def test_a_member_is_written_byte_for_byte(tmp_path, build, member):
    target = tmp_path / "out" / "dev.json"
    archives.extract_member(build(tmp_path / "archive"), member, target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_folders_and_dotted_names_are_nothing_to_refuse(tmp_path):
    folder = special("release/", tarfile.DIRTYPE)
    link = special("release/latest.json", tarfile.SYMTYPE, "qasper-dev-v0.3.json")
    path = tgz(tmp_path / "a.tgz", folder, folder, regular("./release/notes..txt"), regular(".hidden"), link)
    archives.extract_member(path, ".hidden", tmp_path / "hidden")
    assert (tmp_path / "hidden").read_bytes() == b"other"


LEADING_OUT = [
    "../escaped",
    "a/../../escaped",
    "..\\escaped",
    "/tmp/escaped",
    "\\\\host\\escaped",
    "C:\\escaped",
    "c:escaped",
]


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_name_that_leads_out_condemns_the_whole_archive(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    for archive in (tgz(inside / "a.tgz", regular(name)), zipped(inside / "a.zip", (name, b"other"))):
        assert repr(name)[1:-1] in refusal(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_zip_name_with_a_zero_byte_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("harmless.jsonX..", b"other"))
    path.write_bytes(path.read_bytes().replace(b"harmless.jsonX..", b"harmless.json\0.."))
    assert "harmless.json" in refusal(path)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (special("out", tarfile.SYMTYPE, "/etc/passwd"), "a link that leads out"),
        (special("deep/out", tarfile.SYMTYPE, "../../passwd"), "a link that leads out"),
        (special("out", tarfile.LNKTYPE, "../passwd"), "a link that leads out"),
        (special("null", tarfile.CHRTYPE), "a device"),
        (special("disk", tarfile.BLKTYPE), "a device"),
        (special("pipe", tarfile.FIFOTYPE), "a device"),
        (special("holes", tarfile.GNUTYPE_SPARSE), "a sparse file"),
    ],
)
def test_links_that_lead_out_and_devices_are_refused(tmp_path, member, said):
    message = refusal(tgz(tmp_path / "a.tgz", member))
    assert said in message and repr(member[0].name) in message


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_of_a_zip_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("out")
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    assert "'out' is a link or a device" in refusal(zipped(tmp_path / "a.zip", (info, b"/etc/passwd")))


@pytest.mark.parametrize("name", ["Release/QASPER-dev-v0.3.json", WANTED, f"./{WANTED}"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_names_that_clash_are_refused(tmp_path, name):
    for archive in (tgz(tmp_path / "a.tgz", regular(name)), zipped(tmp_path / "a.zip", (name, b"other"))):
        assert "clash" in refusal(archive)


def test_names_that_clash_in_unicode_only_are_refused(tmp_path):
    path = tgz(tmp_path / "a.tgz", regular("caf\u00e9"), regular("cafe\u0301"))
    assert "clash" in refusal(path)


@pytest.mark.parametrize("build", [tgz, zipped])
def test_a_bomb_is_refused_before_it_has_gone_off(tmp_path, build):
    zeros = bytes(64 << 20)
    path = build(tmp_path / "bomb", regular("zeros", zeros) if build is tgz else ("zeros", zeros))
    assert path.stat().st_size < 1 << 20
    assert "more bytes than are allowed" in refusal(path)


@pytest.mark.parametrize("build", [tgz, zipped])
def test_the_cap_holds_for_what_compresses_badly_too(tmp_path, build):
    noise = os.urandom(3000)
    path = build(tmp_path / "large", regular("noise", noise) if build is tgz else ("noise", noise))
    assert "more bytes than are allowed" in refusal(path, max_bytes=4000)
    archives.extract_member(path, WANTED, tmp_path / "dev.json", max_bytes=20_000)


def test_a_tar_that_hides_its_size_behind_its_end_is_refused_too(tmp_path):
    path = tgz(tmp_path / "a.tgz")
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(64 << 20)))
    assert "more bytes than are allowed" in refusal(path)


def test_a_zip_whose_headers_understate_a_size_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip")
    true, false = struct.pack("<L", len(CONTENT)), struct.pack("<L", 10)
    assert path.read_bytes().count(true) == 2
    path.write_bytes(path.read_bytes().replace(true, false))
    assert "damaged" in refusal(path)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("secret", b"other"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "'secret' is encrypted" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\3\4 and no more", b"\x1f\x8b", gzip.compress(b"text", mtime=0)]
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "a.tgz"
    path.write_bytes(content)
    assert "fetch it again" in refusal(path)


@pytest.mark.parametrize("build", [tgz, zipped])
def test_a_missing_member_is_named_with_those_that_are_near(tmp_path, build):
    message = refusal(build(tmp_path / "archive"), ConfigError, "qasper-dev-v0.2.json")
    assert "no file 'qasper-dev-v0.2.json'" in message and WANTED in message


def test_a_folder_or_a_link_is_no_member_that_can_be_taken_out(tmp_path):
    path = tgz(tmp_path / "a.tgz", special("release", tarfile.DIRTYPE), special("dev", tarfile.SYMTYPE, WANTED))
    assert "no file 'release'" in refusal(path, ConfigError, "release")
    assert refusal(path, ConfigError, "dev")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with one archive of each kind."""
    folder = tmp_path_factory.mktemp("drawn")
    tgz(folder / "a.tgz", regular("other"), regular("long" * 60))
    zipped(folder / "a.zip", ("other", b"other"))
    return folder


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["a.tgz", "a.zip"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
@example("a.zip", 0.984375, 1, False)  # the central directory's place is before the file's beginning
def test_whatever_is_cut_off_or_flipped_the_bytes_are_right_or_there_are_none(drawn, name, place, flip, cut):
    whole = (drawn / name).read_bytes()
    at = int(place * len(whole))
    damaged, target = drawn / f"damaged-{name}", drawn / "target"
    damaged.write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    target.unlink(missing_ok=True)
    try:
        archives.extract_member(damaged, WANTED, target)
    except (DataError, ConfigError):
        assert not target.exists()
    else:
        assert target.read_bytes() == CONTENT and not cut


def test_what_stood_at_the_target_stays_when_the_archive_is_refused(tmp_path):
    target = tmp_path / "dev.json"
    target.write_bytes(b"earlier")
    path = tgz(tmp_path / "a.tgz", regular("../escaped"))
    with pytest.raises(DataError):
        archives.extract_member(path, WANTED, target)
    assert target.read_bytes() == b"earlier"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.tgz", "dev.json"]


def test_a_full_disk_is_named_with_the_target_and_leaves_nothing(tmp_path):
    path = tgz(tmp_path / "a.tgz")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(ResourceError, match=r"out/dev.json: cannot be written, file too large; raise the limit"):
            archives.extract_member(path, WANTED, tmp_path / "out/dev.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_python_without_the_safe_filter_is_named(tmp_path, monkeypatch):
    path = tgz(tmp_path / "a.tgz")
    monkeypatch.delattr(tarfile, "data_filter")
    message = refusal(path, ResourceError)
    assert "needs Python 3.11.4 or newer, this is 3." in message and "data.source" in message
