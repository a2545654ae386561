"""The report stage on a made-up run: files, terminal, errors, and the page in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline import tables
from pipeline.errors import ArtifactError, ConfigError
from pipeline.stages import report
from tests.conftest import ROOT
from tests.stages import made_results

HOSTILE = "<script>alert(1)</script></style>\"'&|{{ 7 * 7 }}\x1b[31m\x00"
OUTS = ("reports/index.html", "reports/table.md", "reports/summary.json")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

Stage = Callable[..., None]


@pytest.fixture(scope="module")
def run_stage() -> Stage:
    def run(root: Path, *arguments: str) -> None:
        """`main` in the folder, as the command line would call it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setattr(sys, "argv", ["report", *arguments])
            report.main()

    return run


def lay_out(root: Path, hostile: str = "", **changes: object) -> Path:
    made_results.write(root, hostile=hostile, **changes)
    shutil.copytree(ROOT / "conf", root / "conf")
    params = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("\neval:\n", "\neval:\n  bootstrap_resamples: 100\n"))
    return root


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    root = lay_out(tmp_path_factory.mktemp("run"))
    run_stage(root)
    return root


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    root = lay_out(tmp_path_factory.mktemp("hostile"), HOSTILE)
    run_stage(root)
    return root


def test_the_summary_agrees_with_the_predictions(reported: Path):
    summary = json.loads((reported / "reports/summary.json").read_text())
    rows = list(tables.scan(reported / "reports/predictions/focused.parquet", tables.PREDICTIONS))
    hits = [row["exact_match"] for row in rows if row["input"] == "full" and row["num_documents"] == 12]
    assert summary["exact_match"]["focused"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    assert summary["num_examples"] == len(hits) == 60
    assert set(summary["exact_match"]) == {
        f"{method}{given}" for method in ("base", "vanilla", "focused") for given in ("", "_retrieval")
    }
    assert {source["file"] for source in summary["sources"]} == {
        "prepare", "retrieval", "validation", "tokenize", "mask", "analysis", "base", "settings",
    }  # fmt: skip


def test_the_page_has_every_part(reported: Path):
    text = (reported / "reports/index.html").read_text()
    # length, position; errors; training; retrieval; retrievers; ablations
    assert text.count("<svg") == 4 + 1 + 7 + 1 + 2 + 1
    assert "8.0 points more than vanilla" in text
    assert text.count("<article>") == 10
    assert text.count('<mark class="right">') >= 10 and text.count('<mark class="wrong">') >= 10
    assert "Ten distraction errors to read" in text
    assert "contrastive.weight" in text  # settings of all stages


def test_another_process_writes_the_same_bytes(reported: Path, tmp_path: Path):
    root = lay_out(tmp_path / "again")
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "pipeline.stages.report"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for out in OUTS:
        assert (root / out).read_bytes() == (reported / out).read_bytes(), out
    assert done.stdout.startswith("report: 1,080 answers of 6 combinations")
    assert done.stdout.endswith("reports/index.html\n")


def test_show_prints_the_table_and_the_path_and_writes_nothing(
    reported: Path, run_stage: Stage, capsys: pytest.CaptureFixture[str]
):
    before = {path: path.stat().st_mtime_ns for path in reported.rglob("*")}
    run_stage(reported, "--show")
    shown = capsys.readouterr().out
    assert (reported / "reports/table.md").read_text() in shown
    assert shown.endswith(f"report: {(reported / 'reports/index.html').resolve()}\n")
    assert {path: path.stat().st_mtime_ns for path in reported.rglob("*")} == before


def test_show_without_a_report_says_what_to_run(tmp_path: Path, run_stage: Stage):
    with pytest.raises(ArtifactError, match=r"reports/table.md: no such file.*run `make repro` first"):
        run_stage(tmp_path, "--show")


def test_an_unknown_argument_is_refused(tmp_path: Path, run_stage: Stage):
    with pytest.raises(ConfigError, match="no arguments but --show, got --shw"):
        run_stage(tmp_path, "--shw")


def test_a_new_predictions_file_is_a_new_method(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "more"
    shutil.copytree(reported, root)
    shutil.copy(root / "reports/predictions/focused.parquet", root / "reports/predictions/focused-drop.parquet")
    run_stage(root)
    table = (root / "reports/table.md").read_text()
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert names[-2:] == ["focused-drop", "focused-drop + retrieval"]
    assert "focused-drop" in (root / "reports/index.html").read_text()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("reports/mask.json", r"reports/mask.json: no such file; run `dvc repro mask` first"),
        ("data/documents.parquet", r"data/documents.parquet: no such file; run `dvc repro prepare` first"),
        ("reports/predictions", r"reports/predictions: no predictions; run `dvc repro evaluate` first"),
        ("reports/train", r"reports/train: no such folder; run `dvc repro train` first"),
    ],
)
def test_a_missing_input_is_named_and_the_last_report_stays(
    broken: str, message: str, reported: Path, tmp_path: Path, run_stage: Stage
):
    root = tmp_path / "broken"
    shutil.copytree(reported, root)
    shutil.rmtree(root / broken) if (root / broken).is_dir() else (root / broken).unlink()
    with pytest.raises(ArtifactError, match=message):
        run_stage(root)
    for out in OUTS:
        assert (root / out).read_bytes() == (reported / out).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; run `git checkout reports/ablations.json` or `make ablations`"),
        ("{", r"not an ablation table \(Expecting property name"),
        ('{"rows": [{}]}', r"not an ablation table \(rows.0.name: field required\)"),
    ],
)
def test_a_broken_ablation_table_is_named(
    content: str | None, message: str, reported: Path, tmp_path: Path, run_stage: Stage
):
    root = tmp_path / "broken"
    shutil.copytree(reported, root)
    path = root / "reports/ablations.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ArtifactError, match=f"reports/ablations.json: {message}"):
        run_stage(root)


def test_before_the_grid_has_run_the_page_says_how_to(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "no rows"
    shutil.copytree(reported, root)
    (root / "reports/ablations.json").write_text('{"rows": []}')
    run_stage(root)
    assert "<code>make ablations</code> runs the grid" in (root / "reports/index.html").read_text()


def test_a_damaged_curve_is_named(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "damaged"
    shutil.copytree(reported, root)
    curve = root / "reports/train/focused/plots/metrics/train/loss.tsv"
    curve.write_text(curve.read_text() + "125\tbad\n")
    with pytest.raises(ArtifactError, match=r"focused/plots/metrics/train/loss.tsv: not a curve of step and loss"):
        run_stage(root)


def test_the_terminal_gets_no_escape_sequences_from_data(hostile: Path):
    table = (hostile / "reports/table.md").read_text()
    assert "\x1b" not in table and "\x00" not in table
    assert "alert(1)" in table  # the benchmark's name, as text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the page is not opened in a browser")
def test_in_a_browser_data_is_text_and_the_console_is_silent(reported: Path, hostile: Path, tmp_path: Path):
    trap = tmp_path / "trap.html"
    text = (reported / "reports/index.html").read_text()
    trap.write_text(text.replace("</body>", '<script>document.title="run"</script></body>'))
    dom, console = browse(trap, tmp_path / "trap")
    assert "Content Security Policy" in "".join(console)  # so we would hear of it, and scripts do not run
    assert "<title>run</title>" not in dom

    dom, console = browse(hostile / "reports/index.html", tmp_path / "hostile")
    assert console == []
    parsed = Scripts(dom)
    assert parsed.num_scripts == 0
    assert "<script>alert(1)</script>" in parsed.text
    assert "{{ 7 * 7 }}" in parsed.text


def browse(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and the lines of the console."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom", path.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, re.findall(r".*:CONSOLE.*", done.stderr)


class Scripts(HTMLParser):
    """Script elements and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.num_scripts = 0
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.text += data
