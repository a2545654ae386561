"""The grid: faults of its file, which rows share a run, and a tiny grid run for real, killed and gone on with."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.tools.ablations import __main__ as ablations
from pipeline.tools.ablations import grid as ablation_rows
from pipeline.tools.ablations import plan, runs
from tests.conftest import ROOT
from tests.graph.project import Project

HEAD = "reference: vanilla\nrows:\n  - {name: vanilla, label: v, group: main, method: vanilla, seeds: [1]}\n"
DONE = re.compile(r"(\d+) of (\d+) runs are done")


def grid(*rows: dict[str, Any], **more: Any) -> ablation_rows.Grid:
    given = [
        {"name": "vanilla", "label": "vanilla", "group": "main", "method": "vanilla", "seeds": [1, 2]},
        *({"label": "x", "group": "g", "method": "focused", "seeds": [1], **row} for row in rows),
    ]
    return ablation_rows.Grid.model_validate({"reference": "vanilla", "rows": given, **more})


def digests(planned: list[plan.Planned]) -> dict[str, list[str]]:
    return {one.row.name: [run.digest for run in one.run_of.values()] for one in planned}


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("reference: vanilla\nrows: []\n", ["conf/ablations.yaml: rows is []: list should have at least 1 item"]),
        (
            HEAD.replace("reference: vanilla", "reference: vanila") + "commons: {}\n",
            ["conf/ablations.yaml: commons is not a key (did you mean common?); allowed are reference, common, rows"],
        ),
        (
            HEAD.replace("reference: vanilla", "reference: vanila"),
            ["conf/ablations.yaml: reference is 'vanila', which is no row's name (did you mean vanilla?)"],
        ),
        (
            HEAD.replace("seeds: [1]", "seeds: [1], reference: vanla"),
            ["conf/ablations.yaml: row vanilla: reference is 'vanla', which is no row's name (did you mean vanilla?)"],
        ),
        (
            HEAD + "  - {name: a, label: a, group: main, method: focused, seed: [1], seeds: []}\n  - {name: 'b c'}\n",
            [
                "conf/ablations.yaml: row a: seeds is []: list should have at least 1 item",
                "conf/ablations.yaml: row a: seed is not a key (did you mean seeds?)",
                "conf/ablations.yaml: row b c: name is 'b c': string should match pattern",
                "conf/ablations.yaml: row b c: label is missing",
                "conf/ablations.yaml: row b c: method is missing",
            ],
        ),
        (
            HEAD + "  - {name: vanilla, label: a, group: b, method: base, seeds: [3, 3], overrides: {train.seed: 1}}\n",
            [
                "conf/ablations.yaml: the name vanilla stands 2 times",
                "conf/ablations.yaml: row vanilla: train.seed is set by `seeds`",
                "conf/ablations.yaml: row vanilla: seed 3 twice",
            ],
        ),
        (
            HEAD.replace("seeds: [1]", "seeds: [1], overrides: {mask: {mode: skip}}"),
            [
                "conf/ablations.yaml: row vanilla: overrides.mask is {'mode': 'skip'}, allowed are a value and a list "
                "of values; for a key below it write `mask.mode: value`"
            ],
        ),
        (HEAD + "rows: 1\n", ["conf/ablations.yaml, line"]),
        ("- 1\n", ["conf/ablations.yaml: expected sections"]),
    ],
)  # fmt: skip
def test_every_fault_of_the_file_is_named_in_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, messages: list[str]
):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/ablations.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        ablation_rows.load()
    lines = str(caught.value).splitlines()
    for message in messages:
        assert [line for line in lines if line.startswith(message)], (message, lines)
    assert all(line.startswith("conf/ablations.yaml") for line in lines) and len(set(lines)) == len(lines)


def test_faults_of_settings_name_row_and_key_all_at_once():
    wrong = grid(
        {"name": "a", "overrides": {"mask.topk": 3, "mask.mode": "skipp"}},
        {"name": "b", "overrides": {"use.retriever": "minilmm"}},
        {"name": "c", "method": "focussed"},
        {"name": "d", "scale": {"train.steps": 1.004, "mask.mode": 2}},
        {"name": "e", "overrides": {"mask.mode.x": 1}},
    )
    with pytest.raises(ConfigError) as caught:
        plan.plan(wrong, ROOT)
    a, b, c, d, e = str(caught.value).splitlines()
    where = "conf/ablations.yaml: row "
    assert a.startswith(f"{where}a: ")
    assert "mask.topk is not a setting (did you mean top_k?)" in a and "(did you mean skip?)" in a
    assert "params.yaml" not in a
    assert b.startswith(f"{where}b: use.retriever: no bundle 'minilmm' (did you mean minilm?); choose from")
    assert c.startswith(f"{where}c: method is 'focussed' (did you mean focused?); choose from base, vanilla, focused")
    assert d.startswith(f"{where}d: scale: train.steps is ") and "mask.mode is no number among the settings" in d
    assert e == f"{where}e: mask.mode.x is not a setting: mode is a value, not a section"


def test_rows_that_would_answer_other_questions_than_the_reference_are_refused_before_they_run():
    training_alone = {"data.train_questions": 500, "data.unlabelled_questions": 0, "train.steps": 3}
    plan.plan(grid({"name": "more", "overrides": training_alone}), ROOT)
    wrong = grid(
        {"name": "a", "overrides": {"data.name_sharing_rate": 1.0, "data.test_documents": [4]}},
        {"name": "b", "overrides": {"eval.split": "dev"}, "reference": "a"},
        {"name": "c", "overrides": {"use.data": "quality"}},
        {"name": "d", "input": "longbench"},
    )
    with pytest.raises(ConfigError) as caught:
        plan.plan(wrong, ROOT)
    d, a, b, c = str(caught.value).splitlines()
    where = "conf/ablations.yaml: row "
    assert a.startswith(
        f"{where}a: data.test_documents is [4] and not [4, 8, 12], data.name_sharing_rate is 1.0 and not "
    )
    assert a.endswith("as in row vanilla: the rows of one table answer the same questions over the same contexts; "
                      "set this in `common`, or in params.yaml")  # fmt: skip
    assert b.startswith(f"{where}b: eval.split is 'dev' and not 'test' as in row vanilla")
    assert c.startswith(f"{where}c: data.kind is 'quality' and not 'bios'")
    assert d == f"{where}d: input is 'longbench', which needs eval.longbench: true (`overrides`, or `common`)"


def test_the_time_left_goes_by_other_seeds_then_by_the_method_then_by_all():
    def made(method: str, seed: int, **overrides: Any) -> plan.Run:
        return plan.Run(f"{method}{seed}{overrides}", method, seed, {**overrides, ablation_rows.SEED: seed})

    done = [made("vanilla", 1), made("vanilla", 1, steps=240), made("base", 1)]
    waiting = [made("vanilla", 2, steps=240), made("vanilla", 1, rank=4), made("focused", 1)]
    took = dict(zip([run.digest for run in done + waiting], [60.0, 80.0, 40.0, None, None, None], strict=True))
    planned = [plan.Planned(grid().rows[0], {}, {1: run}) for run in done + waiting]
    found = [ablations._time_left([run], took, planned) for run in waiting]
    assert found == [", about 80 s", ", about 70 s", ", about 60 s"]
    assert ablations._time_left(waiting, dict.fromkeys(took), planned) == "; how long is known when one is done"
    assert ablations._time_left([], took, planned) == ""


def test_claims_are_about_the_first_rows_of_focused_and_distill_that_read_the_full_context():
    rows = grid(
        {"name": "reads-less", "input": "retrieval"},
        {"name": "first"},
        {"name": "taught", "method": "distill"},
        {"name": "second"},
    )
    assert ablation_rows.claimed(rows) == ["first", "taught"]
    assert ablation_rows.claimed(grid()) == []


def test_a_kept_run_that_is_damaged_anywhere_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = plan.Run("digest", "base", 1, {})
    assert runs.seconds(run) is None
    answer = {
        "example_id": "e", "question_id": "q", "benchmark": "bios", "method": "base", "input": "full",
        "num_documents": 4, "gold_position": 0, "score": 1.0, "exact_match": 1.0, "error": "correct",
    }  # fmt: skip
    place = tmp_path / ".dvc/tmp/ablations/runs/digest.parquet"
    place.parent.mkdir(parents=True)
    tables.write(schema.ABLATION_RUN.at(place), [answer] * 300, {"seconds": "2.5"})
    assert runs.seconds(run) == 2.5
    whole = place.read_bytes()
    for damaged in (whole[:100], b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        place.write_bytes(damaged)
        assert runs.seconds(run) is None


def test_what_a_killed_copy_left_is_gone_after_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    extra = project.root / "conf/retriever/extra.yaml"
    extra.write_text("kind: random\n")
    workspace = runs.snapshot()
    assert (workspace / "conf/retriever/extra.yaml").is_file()
    shutil.rmtree(workspace / ".git")  # as when it is killed between this and its commit
    extra.unlink()
    runs.snapshot()
    assert not (workspace / "conf/retriever/extra.yaml").exists()
    (project.root / ".dvc/tmp/ablations/copied.json").write_text("[")
    (workspace / "stray.txt").write_text("whose?")
    runs.snapshot()
    assert not (workspace / "stray.txt").exists() and (workspace / "params.yaml").is_file()


def test_rows_share_a_run_where_their_settings_are_equal_and_only_there():
    params = ablation_rows.config.read_yaml(ROOT / "params.yaml")
    planned = plan.plan(
        grid(
            {"name": "focused", "seeds": [1, 2]},
            {"name": "said", "overrides": {"mask.top_k": params["mask"]["top_k"]}},
            {"name": "other", "overrides": {"mask.top_k": params["mask"]["top_k"] + 1}},
            {"name": "masked-vanilla", "method": "vanilla", "overrides": {"mask.top_k": params["mask"]["top_k"] + 1}},
            {"name": "twice", "method": "vanilla", "scale": {"train.steps": 2}},
            {"name": "base", "method": "base", "seeds": [1, 2, 3]},
            {"name": "retrieval", "input": "retrieval"},
        ),
        ROOT,
    )
    found = digests(planned)
    assert found["said"] == found["retrieval"] == found["focused"][:1]
    assert found["other"][0] not in found["focused"]
    assert found["masked-vanilla"] == found["vanilla"][:1]  # vanilla training reads no masked view
    assert found["twice"][0] not in found["vanilla"]
    assert len(set(found["base"])) == 1  # nothing is trained, so the seed changes nothing
    assert len(plan.distinct(planned)) == 2 + 2 + 1 + 1 + 1
    steps = ablation_rows.config.resolve(params, ROOT).train.steps
    twice = next(one for one in planned if one.row.name == "twice")
    assert twice.overrides == {"train.steps": 2 * steps}
    assert twice.run_of[1].overrides == {"train.steps": 2 * steps, "train.seed": 1}


def test_the_shipped_grid_is_valid_and_holds_what_was_promised():
    shipped = ablation_rows.load(ROOT)
    planned = plan.plan(shipped, ROOT)
    seeds_of = {one.row.name: one.row.seeds for one in planned}
    for name in ("vanilla", "vanilla-twice", "focused", "mask-skip"):
        assert seeds_of[name] == [1, 2, 3, 4, 5]
    assert all(len(seeds) >= 3 for name, seeds in seeds_of.items() if not name.startswith("base"))
    found = digests(planned)
    assert found["focused"] == found["mask-token"] == found["focused-retrieval"]
    for group, key, values in (
        ("mask mode", "mask.mode", ["token", "skip", "span", "drop"]),
        ("contrastive weight", "contrastive.weight", [0.0, 0.01, 0.1, 0.3, 1.0]),
        ("top-k", "mask.top_k", [1, 3, 5, 10]),
        ("retriever", "use.retriever", ["oracle", "minilm", "bm25", "random", "worst"]),
        ("representation", "contrastive.representation", ["last_prompt", "mean", "eos"]),
    ):
        assert [one.row.overrides[key] for one in planned if one.row.group == group] == values


def test_only_takes_groups_and_rows_and_names_the_nearest_for_others():
    both = grid({"name": "a", "group": "one"}, {"name": "b", "group": "one"}, {"name": "c", "group": "two"})
    assert [row.name for row in ablation_rows.choose(both, ["one"])] == ["vanilla", "a", "b"]
    assert [row.name for row in ablation_rows.choose(both, ["two", "vanilla"])] == ["vanilla", "c"]
    own = grid({"name": "a", "reference": "c"}, {"name": "c", "reference": "c"})
    assert [row.name for row in ablation_rows.choose(own, ["a"])] == ["a", "c"]
    assert len(ablation_rows.choose(both, [])) == 4
    with pytest.raises(
        ConfigError, match=r"no group or row 'vanila' \(did you mean vanilla\?\); groups are main, one, two"
    ):
        ablation_rows.choose(both, ["vanila"])


def test_unknown_arguments_are_one_error():
    with pytest.raises(ConfigError, match="ablations takes --only GROUP_OR_NAME"):
        ablations._arguments(["--lst", "x"])
    with pytest.raises(ConfigError, match="--compare ROW OTHER"):
        ablations._arguments(["--compare", "focused"])
    found = ablations._arguments(["--only", "mask mode", "base", "--list"])
    assert (found.only, found.list, found.compare) == (["mask mode", "base"], True, None)


def test_two_rows_are_compared_by_their_kept_answers_and_faults_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"reports/ablations.parquet: no such file; run `make ablations` first"):
        ablations._comparison("focused", "vanilla")
    answers = [
        {
            "row": row, "seed": seed, "example_id": f"e{place}", "question_id": f"q{place}", "benchmark": "bios",
            "method": row, "input": "full", "num_documents": 4, "gold_position": 0, "score": float(place % 4 < right),
            "exact_match": float(place % 4 < right), "error": "correct" if place % 4 < right else "distraction",
        }
        for row, right in (("vanilla", 2), ("focused", 3))
        for seed in (1, 2)
        for place in range(40)
    ]  # fmt: skip
    tables.write(schema.ABLATIONS, answers)
    text = ablations._comparison("focused", "vanilla")
    assert text.startswith(
        "focused to vanilla: +25.0 points of the score"
    ) and "2 seeds x 40 questions" in text.replace("\N{NO-BREAK SPACE}", " ")
    with pytest.raises(ConfigError, match=r"no row 'focussed' \(did you mean focused\?\); there are vanilla, focused"):
        ablations._comparison("vanilla", "focussed")
    with pytest.raises(ConfigError, match="takes two rows, got focused twice"):
        ablations._comparison("focused", "focused")


TINY = """
reference: vanilla
common: {gate.override: true}
rows:
  - {name: base, label: untuned, group: main, method: base, seeds: [1]}
  - {name: vanilla, label: vanilla, group: main, method: vanilla, seeds: [1]}
  - {name: focused, label: focused, group: main, method: focused, overrides: {mask.mode: skip}, seeds: [1]}
  - {name: skip, label: skip, group: mask mode, method: focused, overrides: {mask.mode: skip}, seeds: [1]}
  - {name: reads-less, label: vanilla, group: retrieval, method: vanilla, input: retrieval, seeds: [1]}
"""
TOO_MANY = (
    "  - {name: broken, label: b, group: more, method: vanilla, overrides: {train.batch_examples: 99}, seeds: [1]}\n"
)


class Grid:
    """The command in a copy of the project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.environment = os.environ | {"FOCUS_CACHE": str(project.root.parent / "embeddings")}
        self.command = [sys.executable, "-m", "pipeline.tools.ablations"]

    def write(self, text: str) -> None:
        (self.project.root / "conf/ablations.yaml").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.project.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=500)
        return process.returncode, out, err

    def log(self) -> str:
        path = self.project.root / ".dvc/tmp/ablations/log.txt"
        return path.read_text() if path.is_file() else ""


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def hangups() -> Iterator[None]:
    """A terminal that is closed ends what was started from it, even where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
def test_a_grid_that_is_killed_goes_on_where_it_stopped_and_touches_nothing_of_the_users(tmp_path: Path):
    (tmp_path / "toy grid").mkdir()
    project = Project(tmp_path / "toy grid")
    toy = Grid(project)
    toy.write(TINY)
    project.commit("grid")
    project.edit({"train": {"steps": 2}})  # an edit that is not committed counts
    (project.root / "notes.txt").write_text("mine\n")  # a file git does not know
    before = project.run("git", "status", "--porcelain").stdout
    params = (project.root / "params.yaml").read_bytes()

    process = toy.start()
    until(lambda: "Running stage 'train@vanilla'" in toy.log())
    busy = (
        r"^error: .dvc/tmp/ablations: another `make ablations` is running, or a run .* \(process (\d+)\); wait for it"
    )
    code, _, err = toy.run()
    assert (code, len(err.splitlines())) == (6, 1) and re.search(busy, err)

    process.kill()  # by force: its run goes on, and nobody else may write where it does
    process.communicate(timeout=10)
    code, _, err = toy.run()
    left = re.search(busy, err)
    assert code == 6 and left is not None
    os.killpg(int(left[1]), signal.SIGINT)
    until(lambda: is_free(project.root / ".dvc/tmp/ablations/lock"))

    (project.root / ".dvc/tmp/ablations/log.txt").unlink()
    process = toy.start()
    until(lambda: "Running stage 'train@vanilla'" in toy.log())
    process.send_signal(signal.SIGHUP)  # its terminal is closed
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert is_free(project.root / ".dvc/tmp/ablations/lock")  # and the run has ended with it
    assert err == "error: interrupted; finished artifacts are whole, run the same command to go on\n"
    assert "evaluate@base" not in out and "1 of 2: evaluate@vanilla" in out

    code, out, _ = toy.run("--list")
    assert code == 0
    assert re.search(r"^base +done, \d+ s each +base$", out, re.MULTILINE)
    assert re.search(r"^vanilla +0 of 1 seeds done +vanilla$", out, re.MULTILINE)
    assert re.search(r"^3 distinct runs: 1 done in \d+ (?:s|min), 2 to do, about \d+ (s|min)$", out, re.MULTILINE)

    toy.write(TINY + TOO_MANY)
    code, out, err = toy.run()
    assert code == 1
    assert DONE.findall(out) == [("1", "4")]
    assert "of 3: evaluate@base" not in out  # not run again
    assert "    error: train.batch_examples is 99, but the training split has only 19 distinct contexts" in err
    assert err.splitlines()[-1].startswith(
        "error: 1 of the runs failed: evaluate@vanilla gate.override=true train.batch"
    )
    assert "ablations: row broken is left out, seeds 1 are not done" in out
    table = json.loads((project.root / "reports/ablations.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["base", "vanilla", "focused", "skip", "reads-less"]
    assert table["num_documents"] == 6 and table["num_questions"] == 8 and table["seconds"] > 0
    assert table["num_comparisons"] == 3  # skip is focused under another name
    assert table["rows"][2]["to_reference"] == table["rows"][3]["to_reference"]
    assert (project.root / "reports/ablations.md").read_text() in out

    # The workspace saw the user's two steps, and the user's own files saw nothing.
    assert "train@focused: 2 steps of 4 examples" in toy.log()
    after = project.run("git", "status", "--porcelain").stdout
    assert set(after.splitlines()) - set(before.splitlines()) == {
        " M conf/ablations.yaml", " M reports/ablations.json", "?? reports/ablations.md",
    }  # fmt: skip
    assert set(before.splitlines()) <= set(after.splitlines())
    assert (project.root / "params.yaml").read_bytes() == params
    assert not (project.root / "dvc.lock").exists() and not (project.root / "models/vanilla").exists()
    assert (project.root / "notes.txt").read_text() == "mine\n"
    assert project.run("git", "stash", "list").stdout == project.run("git", "for-each-ref", "refs/exps").stdout == ""

    # The predictions of the table are those that evaluate wrote, row by row.
    answers = pq.read_table(project.root / "reports/ablations.parquet").to_pylist()
    assert {(row["row"], row["seed"]) for row in answers} == {
        (name, 1) for name in ("base", "vanilla", "focused", "skip", "reads-less")
    }
    assert {row["input"] for row in answers if row["row"] == "reads-less"} == {"retrieval"}
    assert len(answers) == 5 * 16
    assert len(list(tables.scan(schema.ABLATIONS.at(project.root / "reports/ablations.parquet")))) == len(answers)

    # A changed row runs anew, all others stay; then nothing is left to do.
    toy.write(
        TINY.replace(
            "label: skip, group: mask mode, method: focused, overrides: {mask.mode: skip}",
            "label: twice, group: mask mode, method: vanilla, scale: {train.steps: 2}",
        )
    )
    code, out, err = toy.run("--only", "mask mode")
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("1", "2")] and "evaluate@vanilla gate.override=true train.steps=4 train.seed=1" in out
    code, out, err = toy.run()
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("4", "4")] and ": evaluate@" not in out

    # An edit of the code of a stage counts, that of the report does not.
    for file, waiting in (("pipeline/report/page.py", 0), ("pipeline/training/losses.py", 3)):
        path = project.root / file
        path.write_text(path.read_text() + "\n# a comment\n")
        assert f"4 distinct runs: {4 - waiting} done" in toy.run("--list")[1], file
