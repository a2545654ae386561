"""What `make readme-results` writes is up to date in git, follows its sources, and leaves the rest of a page alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pipeline.common import files
from pipeline.report import summary, text
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.settings import Settings
from pipeline.tools import readme, settings_page
from tests.conftest import ROOT
from tests.report.test_ablation_table import row, table
from tests.report.test_summary import answer, summarised

RESULTS = ("README.md", "docs/results.md", "docs/results.svg", "reports/summary.json", "reports/ablations.json")
SETTINGS = ("docs/settings.md", "params.yaml", "conf")


def call(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["readme", *arguments])
    readme.main()


def take(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / name, folder / name) if name == "conf" else shutil.copy(ROOT / name, folder / name)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    take(tmp_path, *RESULTS, *SETTINGS)
    return tmp_path


def test_the_pages_of_the_repository_are_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Results as committed: `make repro` on another machine rounds otherwise, and that is no fault of the pages."""
    take(tmp_path, *SETTINGS)
    for name in RESULTS:
        shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True)
        if shown.returncode != 0:
            pytest.skip(f"no commit to take {name} from: {shown.stderr.decode().strip()}")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(shown.stdout)
    call(monkeypatch, tmp_path, "--check")
    assert "every page is up to date" in capsys.readouterr().out


def moved(copy: Path, name: str) -> None:
    """Change one number that the page, the picture and the table show."""
    path = copy / name
    if name == "params.yaml":
        path.write_text(path.read_text().replace("top_k: 4 ", "top_k: 98 ", 1))
        return
    record = json.loads(path.read_text())
    if name == "reports/summary.json":
        record["longest"][-1]["score"]["mean"] = 0.98765
    else:
        next(row for row in record["rows"] if row["name"] in record["claimed"])["pooled"]["mean"] = 0.98765
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("source", "stale"),
    [
        ("reports/summary.json", {"docs/results.md": "| 98.8 |"}),
        ("reports/ablations.json", {"README.md": "| 98.8 |", "docs/results.svg": "98.8"}),
        ("params.yaml", {"docs/settings.md": "| `mask.top_k` | `98` |"}),
    ],
)
def test_a_changed_source_fails_the_check_and_is_then_written(
    source: str, stale: dict[str, str], copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    call(monkeypatch, copy)
    pages = ("README.md", "docs/results.md", "docs/results.svg", "docs/settings.md")
    before = {name: (copy / name).read_text() for name in pages}
    moved(copy, source)
    with pytest.raises(ArtifactError, match=rf"^{', '.join(stale)}: out of date; run `make readme-results`$"):
        call(monkeypatch, copy, "--check")
    assert {name: (copy / name).read_text() for name in pages} == before
    call(monkeypatch, copy)
    assert f"wrote {', '.join(stale)}; commit them" in capsys.readouterr().out
    for name in pages:
        after = (copy / name).read_text()
        assert (after == before[name]) == (name not in stale)
        if name in stale:
            assert stale[name] in after and stale[name] not in before[name]
        around = [text.partition(readme.BEGIN)[0] + text.partition(readme.END)[2] for text in (before[name], after)]
        assert around[0] == around[1] or name.endswith(".svg")
    call(monkeypatch, copy, "--check")


def test_a_picture_whose_marks_lie_elsewhere_for_other_fonts_is_up_to_date(copy: Path, monkeypatch: pytest.MonkeyPatch):
    call(monkeypatch, copy)
    path = copy / "docs/results.svg"
    moved_by_fonts = path.read_text().replace('viewBox="0 0 5', 'viewBox="0 0 6', 1)
    assert moved_by_fonts != path.read_text()
    path.write_text(moved_by_fonts)
    call(monkeypatch, copy, "--check")


def test_a_grid_that_has_not_run_leaves_the_picture(copy: Path, monkeypatch: pytest.MonkeyPatch):
    (copy / "reports/ablations.json").write_text('{"rows": []}')
    picture = (copy / "docs/results.svg").read_text()
    call(monkeypatch, copy)
    assert "`make ablations` fills this table" in (copy / "README.md").read_text()
    assert (copy / "docs/results.svg").read_text() == picture


def test_every_setting_has_a_row_and_every_section_a_theme():
    shown = settings_page.tables(ROOT)
    for section, field in Settings.model_fields.items():
        for part in get_args(field.annotation) or (field.annotation,):
            missing = [key for key in part.model_fields if key != "kind" and f"| `{section}.{key}` |" not in shown]
            assert missing == [], part
    assert sorted(name for names in settings_page.THEMES.values() for name in names) == sorted(Settings.model_fields)
    assert "| `mask.mode` | `token` | `token`, `skip`, `span`, `drop` | Each token of a masked chunk becomes" in shown
    assert (
        "| `train.steps` | `120`; gpu `300`, laptop `40`, paper `300` | whole number ≥ 1 | Optimizer steps. |" in shown
    )
    assert "| `model.revision` | `null` | text, or `null` |" in shown


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
    section = readme.section(json.loads(path.read_text()))
    headline = text.markdown(text.headline(found))
    assert section == f"{headline}\n\n{text.table(found)}"


def test_the_short_table_has_the_claimed_rows_and_what_they_are_compared_with():
    rows = [
        row(label="base", method="base"),
        row(label="vanilla", method="vanilla"),
        row(label="base", method="base", input="retrieval", group="retrieval at inference"),
        row(label="longer", method="vanilla"),
        row(0.1, label="other"),
        row(-0.052, label="focused", reference="longer"),
    ]
    shown = readme.short(table(*rows, claimed=["focused"]))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if line[0:1] == "|"]
    assert [line[0] for line in lines[2:]] == ["base", "vanilla", "longer", "focused", "base + retrieval"]
    minus = text.MINUS
    assert lines[5][1:7] == ["63.4", "[58.4, 68.4]", "20.0", f"{minus}5.2", f"[{minus}6.2, {minus}3.2]", "longer"]
    assert shown.startswith("- Focused answers 63.4") and 'src="docs/results.svg"' in shown
    assert "Distracted" not in readme.short(table(*rows, measure="qasper_f1"))


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
    with pytest.raises(ArtifactError, match=r"README.md: .* writes between .*put the two marks back"):
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
