"""The README's results are those of the summary in git, and are written from it alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common import files
from pipeline.report import summary, text
from pipeline.report.ablation_table import AblationTable
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.tools import readme
from tests.conftest import ROOT
from tests.report.test_summary import answer, summarised

FILES = ("README.md", "reports/summary.json", "reports/ablations.json")


def call(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["readme", *arguments])
    readme.main()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_readme_of_the_repository_has_the_results_of_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As committed: `make repro` on another machine rounds otherwise, and that is no fault of the README."""
    for name in FILES:
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True)
        if shown.returncode != 0:
            pytest.skip(f"no commit to take {name} from: {shown.stderr.decode().strip()}")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(shown.stdout)
    call(monkeypatch, tmp_path, "--check")
    assert "README.md already has the results of reports/summary.json" in capsys.readouterr().out


def test_another_summary_fails_the_check_and_is_then_written(copy: Path, monkeypatch: pytest.MonkeyPatch):
    call(monkeypatch, copy)
    before = (copy / "README.md").read_text()
    record = json.loads((copy / "reports/summary.json").read_text())
    record["longest"][-1]["score"]["mean"] = 0.98765
    (copy / "reports/summary.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"README.md: its results are not those of .*run `make readme-results`"):
        call(monkeypatch, copy, "--check")
    assert (copy / "README.md").read_text() == before
    call(monkeypatch, copy)
    after = (copy / "README.md").read_text()
    assert "| 98.8 |" in after
    around = [text.partition(readme.BEGIN)[0] + text.partition(readme.END)[2] for text in (before, after)]
    assert around[0] == around[1]
    call(monkeypatch, copy, "--check")


def test_the_table_from_the_record_is_the_one_of_the_run(tmp_path: Path):
    hits = {"base": [0, 1, 0, 0], "vanilla": [1, 0, 0, 1], "focused": [1, 1, 0, 1]}
    rows = [
        answer(f"q{index}/{length}", hit, method, given, length=length, position=index % 2)
        for method in hits
        for given in ("full", "retrieval")
        for length in range(2, 12)
        for index, hit in enumerate(hits[method])
    ]
    found = summarised(rows)
    assert any(length.low != length.high for length in found.lengths)  # ranges too are read back
    path = tmp_path / "summary.json"
    files.write_json(path, summary.record(found, {}))
    section = readme.section(json.loads(path.read_text()), AblationTable(rows=[]))
    headline = text.markdown(text.headline(found))
    assert section == f"{readme.BEGIN}\n{headline}\n\n{text.table(found)}{readme.END}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        readme.BEGIN,
        f"{readme.END}{readme.BEGIN}",
        f"{readme.BEGIN}{readme.BEGIN}{readme.END}",
    ],
)
def test_without_both_marks_in_order_nothing_is_written(text: str, copy: Path, monkeypatch: pytest.MonkeyPatch):
    (copy / "README.md").write_text(text)
    with pytest.raises(ArtifactError, match=r"README.md: the results stand between .*put the two marks back"):
        call(monkeypatch, copy)
    assert (copy / "README.md").read_text() == text


@pytest.mark.parametrize("record", ["{}", "[]", '{"by_num_documents": [{"group": "x"}]}', None])
def test_what_is_no_summary_is_named(record: str | None, copy: Path, monkeypatch: pytest.MonkeyPatch):
    if record is None:
        found = json.loads((copy / "reports/summary.json").read_text())
        record = json.dumps({**found, "sources": [{"file": "analysis", "values": None}]})
    (copy / "reports/summary.json").write_text(record)
    with pytest.raises(ArtifactError, match=r"summary.json: not a summary of this version .*`dvc repro -f report`"):
        call(monkeypatch, copy)


@pytest.mark.parametrize("grid", ["", "[]", '{"rows": [', '{"rows": [{"name": "x"}]}', None])
def test_what_is_no_grid_is_named(grid: str | None, copy: Path, monkeypatch: pytest.MonkeyPatch):
    path = copy / "reports/ablations.json"
    path.unlink() if grid is None else path.write_text(grid)
    with pytest.raises(ArtifactError, match=r"^reports/ablations.json: .*; run `git checkout reports/ablations.json`"):
        call(monkeypatch, copy)


def test_an_unknown_argument_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"unrecognized arguments: --chek; see `python -m pipeline.tools.readme"):
        call(monkeypatch, copy, "--chek")
