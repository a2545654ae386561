"""The workload is counted in fresh views, estimated from fresh texts, or known from the benchmark's official files."""

from pathlib import Path

import polars as pl
import pytest

from pipeline.common import tables
from pipeline.runtime import config
from pipeline.tools.plan import workload


@pytest.fixture(autouse=True)
def in_the_project(project: Path) -> None:
    """Every test runs where params.yaml and conf/ are, and no data."""


def test_rows_are_counted_in_the_views(project: Path):
    def row(name: str, split: str, context: str, length: int) -> tables.Row:
        return {
            "example_id": name, "question_id": name, "split": split, "num_documents": 1, "gold_position": 0,
            "document_ids": [context], "context_key": context, "input_ids": [7] * length, "chunk_ids": ["a#0"],
            "chunk_starts": [1], "chunk_ends": [5], "question_start": 6, "prompt_end": length - 3,
        }  # fmt: skip

    rows = [row("a", "train", "x", 20), row("b", "train", "x", 30), row("c", "test", "y", 90)]
    tables.write(tables.FULL_VIEWS, rows)
    views = workload._counted()
    assert workload._rows(views, "train") == workload.Rows(2, 1, 25.0, 30, 16.0, 3.0)
    assert workload._rows(views, "test").longest == 90
    assert workload._rows(views, "dev") == workload.NO_ROWS
    # They are not trusted where nobody can say that they are fresh.
    settings = config.load()
    assert workload.find(settings, 2_473).source.startswith("the known size of bios")


def test_fresh_views_are_used_and_cut(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workload, "_stale", lambda: {"score"})
    view = {"split": "train", "document_ids": ["a"], "question": 20, "labels": 5}
    views = pl.DataFrame([{**view, "tokens": 1_000}, {**view, "tokens": 5_000}])
    monkeypatch.setattr(workload, "_counted", lambda: views)
    monkeypatch.setattr(workload, "_chunks", lambda *given: (10, 100.0))
    found = workload.find(config.load(), 2_473)
    assert found.source.endswith("counted")
    assert (found.train.longest, found.train.mean_tokens) == (4_096, 3_000.0)
    assert 0 < found.kept_share < found.masked_share <= 1


def test_texts_are_estimated_by_their_characters(project: Path):
    chunk = {"index": 0, "start": 0, "end": 1, "title": ""}
    tables.write(
        tables.CHUNKS,
        [{**chunk, "chunk_id": f"{name}#0", "document_id": name, "text": "x" * 430} for name in ("a", "b")],
    )
    example = {
        "question_id": "q", "benchmark": "jsonl", "split": "train", "question": "y" * 43, "answer_lead": "",
        "answers": ["z"], "gold_document_ids": [], "evidence": [], "gold_position": -1, "answer_types": [],
        "options": [], "gold_option": -1, "subset": "",
    }  # fmt: skip
    tables.write(
        tables.EXAMPLES,
        [
            {**example, "example_id": "e", "document_ids": ["a", "b"]},
            {**example, "example_id": "f", "document_ids": ["a"]},
            {**example, "example_id": "u", "document_ids": ["a"], "split": "unlabelled", "answers": []},
        ],
    )
    large, small = (workload._estimated(vocabulary) for vocabulary in (32_000, 2_473))
    rows = workload._rows(large, "train")
    assert (rows.num, rows.num_contexts) == (2, 2)
    assert rows.longest == pytest.approx(200 + 10 + 8 + 2 + 16, abs=3)
    assert workload._rows(large, "unlabelled").num == 1
    assert workload._rows(small, "train").longest > 1.9 * rows.longest


def test_letters_of_scripts_without_blanks_make_more_tokens_than_those_of_english(project: Path):
    frame = pl.DataFrame({"text": ["灯塔很高", "abcd", "서울"]})
    characters = frame.select(workload._characters(pl.col("text")))["text"]
    assert (characters / 4.3).to_list() == pytest.approx([4 * 1.4, 4 / 4.3, 2 * 1.4])


def test_known_sizes_follow_split_vocabulary_and_cut():
    large, small = (workload.known("quality", "test", vocabulary) for vocabulary in (32_000, 2_473))
    assert (large.num, large.num_contexts) == (2_086, 115)
    assert small.mean_tokens == pytest.approx(2.1 * large.mean_tokens)
    cut = workload.Workload("test", large, small, 1.0, 1.0, 0, 0.0).cut(4_096)
    assert cut.train.longest == cut.asked.longest == cut.train.mean_tokens == 4_096
    assert workload.known("hotpot", "train", 32_000) == workload.known("quality", "surface", 32_000) == workload.NO_ROWS
    assert workload.generated(400, [12], 2_473).mean_tokens == pytest.approx(858, rel=0.01)
