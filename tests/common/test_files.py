"""Files and folders that are written whole: whoever else may read them is decided by the umask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.common import files
from pipeline.runtime.errors import ResourceError
from tests.conftest import ROOT


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_finished_folder_can_be_read_by_whom_the_umask_lets(umask: int, tmp_path: Path):
    with files.workspace("model", tmp_path) as workspace:
        inner = workspace / "made/inner"
        inner.mkdir(parents=True)
        save_file({"weight": torch.zeros(2)}, inner / "model.safetensors")  # for its owner alone
        (workspace / "made/config.json").write_text("{}")
        files.put(workspace / "made", tmp_path / "model")
    made = tmp_path / "model"
    assert [mode(made), mode(made / "inner")] == [0o777 & ~umask] * 2
    assert [mode(made / "config.json"), mode(made / "inner/model.safetensors")] == [0o666 & ~umask] * 2
    assert os.umask(umask) == umask


def test_a_finished_file_can_be_read_by_whom_the_umask_lets(umask: int, tmp_path: Path):
    with files.atomic(tmp_path / "model.safetensors") as temporary:
        save_file({"weight": torch.zeros(2)}, temporary)
    assert mode(tmp_path / "model.safetensors") == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


WRITERS = {
    "text": "files.write_text(place, 'x' * 3_000_000)",
    "table": """rows = ({"chunk_id": f"{i}", "document_id": "d", "index": i, "start": i, "end": i + 1, "title": "",
             "text": random.Random(i).randbytes(500).hex()} for i in range(5000))
source = tables.CHUNKS.at(Path("source.parquet"))
tables.write(source, rows)
tables.write(tables.CHUNKS.at(place), tables.scan(source))""",
    "copy": """Path("source").write_bytes(bytes(3_000_000))
with files.workspace(place.name, place.parent) as folder:
    shutil.copyfile("source", folder / "copy")""",
    "weights": """with files.workspace(place.name, place.parent) as folder, loading.saving():
    save_file({"weight": torch.zeros(750_000)}, folder / "model.safetensors")""",
}
"""Each writes 3 MB of its own."""


def written(tmp_path: Path, place: Path, writer: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of WRITERS as a program, perhaps with a limit on the size of a file."""
    needs = "import torch\nfrom safetensors.torch import save_file\nfrom pipeline.model import loading\n"
    body = "\n".join(f"    {line}" for line in WRITERS[writer].splitlines())
    if limit is not None:  # the source is not what is limited
        body = f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{body}"
    program = (
        "import random, resource, shutil\nfrom pathlib import Path\nfrom pipeline.common import files, tables\n"
        f"from pipeline.runtime.main import run\n{needs if writer == 'weights' else ''}"
        f"place = Path({str(place)!r})\ndef main():\n{body}\nrun(main)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_that_names_what_was_to_stand_there(tmp_path: Path, small_disk: Path, writer: str):
    place = small_disk / "folder" / "made"
    done = written(tmp_path, place, writer)
    size = " (3,000,000 bytes are needed)" if writer == "text" else ""
    message = f"error: {place}: cannot be written, no space left on device{size}; make room, and run it again\n"
    assert (done.returncode, done.stderr) == (6, message)
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_is_read_only_is_one_line(tmp_path: Path, small_disk: Path, writer: str):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    place = small_disk / "made"
    done = written(tmp_path, place, writer)
    assert done.returncode == 6 and done.stderr.startswith(f"error: {place}: cannot be written, read-only file system")
    assert done.stderr.endswith("; make it writable, and run it again\n") and done.stderr.count("\n") == 1


def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path):
    place = tmp_path / "folder" / "made"
    done = written(tmp_path, place, "text", limit=1 << 20)
    message = f"error: {place}: cannot be written, file too large (3,000,000 bytes are needed); raise the limit on the "
    assert (done.returncode, done.stderr) == (6, f"{message}size of files (`ulimit -f`), and run it again\n")
    assert list(place.parent.iterdir()) == []


def test_the_error_of_another_file_keeps_its_name(tmp_path: Path):
    (tmp_path / "source").mkdir()
    with pytest.raises(PermissionError, match="source/text"), files.atomic(tmp_path / "made/text") as _:
        raise PermissionError(13, "Permission denied", str(tmp_path / "source/text"))
    assert list((tmp_path / "made").iterdir()) == []


def test_what_does_not_fit_is_refused_before_it_is_begun(tmp_path: Path):
    files.require_space(tmp_path / "not/yet/there", 1)
    with pytest.raises(
        ResourceError, match=r"there: 1,000,000,000,000,000,000 bytes are needed, [\d,]+ are free; make"
    ):
        files.require_space(tmp_path / "not/yet/there", 10**18)
