"""`make export`: texts whose tokens are the views', what is refused, and what other tools read of them."""

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from tokenizers import Tokenizer

from pipeline.common import base_card, tables
from pipeline.common.chunks import Chunk
from pipeline.runtime.errors import ConfigError, DataError
from pipeline.tools import export
from pipeline.views.layout import Layout
from tests.views import letters

QUESTIONS = ("Who was first?", "Who was last?", "Who says <mask>?")
OUT = Path("exports/all")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """Three questions over one document of two chunks, of which the masked view keeps the second."""
    monkeypatch.chdir(tmp_path)
    writes = letters.tokenizer()
    base_card.BASE.mkdir(parents=True)
    writes.save(str(base_card.BASE / "tokenizer.json"))
    base_card.write_card(letters.CARD, base_card.BASE)
    layout = Layout(writes, letters.CARD)
    chunks = [chunk_of("d#0", "Ada was born. "), chunk_of("d#1", "Bob was not.")]
    laid = layout.context(chunks, "Answer.")
    full, masked, examples = [], [], []
    for number, question in enumerate(QUESTIONS):
        split = ("train", "test", "unlabelled")[number]
        answer = [] if split == "unlabelled" else [*layout.answer(f"Bob {number}"), letters.EOS]
        prompt = [*laid.input_ids, *layout.question(question, "")]
        end, start = laid.chunk_ends[0], laid.chunk_starts[0]
        common = {"example_id": f"e{number}", "prompt_end": len(prompt)}
        full.append(common | {
            "question_id": f"q{number}", "split": split, "num_documents": 1, "gold_position": 0, "document_ids": ["d"],
            "context_key": "d", "input_ids": [*prompt, *answer], "chunk_ids": ["d#0", "d#1"],
            "chunk_starts": laid.chunk_starts, "chunk_ends": laid.chunk_ends, "question_start": len(laid.input_ids),
        })  # fmt: skip
        ids = [letters.MASK if start <= place < end else token for place, token in enumerate(full[-1]["input_ids"])]
        masked.append(common | {
            "input_ids": ids, "position_ids": list(range(len(ids))), "kept_chunk_ids": ["d#1"], "kept_scores": [1.0],
            "kept_ranks": [0], "gold_retained": True, "answer_retained": True,
        })  # fmt: skip
        examples.append({
            "example_id": f"e{number}", "question_id": f"q{number}", "benchmark": "jsonl", "split": split,
            "question": question, "answer_lead": "", "answers": [f"Bob {number}"] if answer else [],
            "document_ids": ["d"], "gold_document_ids": ["d"], "evidence": [], "gold_position": 0, "answer_types": [],
            "options": [], "gold_option": -1, "subset": "",
        })  # fmt: skip
    tables.write(tables.EXAMPLES, examples)
    tables.write(tables.FULL_VIEWS, full, sources=[tables.EXAMPLES])
    tables.write(tables.MASKED_VIEWS, masked, sources=[tables.FULL_VIEWS])
    taught = {"output_ids": [*layout.answer("Ada"), letters.EOS], "top_ids": [], "top_log_probs": [], "num_top": 0}
    tables.write(tables.TEACHINGS, [{"example_id": name, **taught} for name in ("e0", "e2")])
    return writes


def chunk_of(name: str, text: str) -> Chunk:
    return Chunk(name, "d", "Title", text)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, list[dict[str, object]]]:
    monkeypatch.setattr(sys, "argv", ["export", "--out", str(OUT), *arguments])
    export.main()
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(OUT.glob("*.jsonl"))
    }


def test_prompt_and_completion_have_the_tokens_of_the_view(project, monkeypatch, capsys):
    found = run(monkeypatch)
    assert sorted(found) == ["test", "train"]  # an unlabelled question has no completion
    [row] = found["train"]
    assert row["prompt"] == (
        "<s>Answer.\nDocument (Title: Title): Ada was born. Bob was not.\nQuestion: Who was first?\nAnswer:"
    )
    assert row["completion"] == " Bob 0" and row["answers"] == ["Bob 0"]
    assert row["masked_prompt"].endswith("Bob was not.\nQuestion: Who was first?\nAnswer:")
    assert "<mask>" in row["masked_prompt"] and "Ada" not in row["masked_prompt"]
    project.encode_special_tokens = False
    [full, *_] = tables.scan(tables.FULL_VIEWS)
    assert project.encode(row["prompt"] + row["completion"]).ids == full["input_ids"][:-1]
    assert project.encode(row["prompt"]).ids == full["input_ids"][: full["prompt_end"]]
    told = "export: 1 train, 1 test in exports/all (1 unlabelled left out, which have no answer); plain tokenization of"
    assert told in capsys.readouterr().out


def test_the_teachers_answers_and_a_control_tokens_name_in_a_text(project, monkeypatch, capsys):
    found = run(monkeypatch, "--method", "guided")
    assert [found[split][0]["completion"] for split in ("train", "unlabelled", "test")] == [" Ada", " Ada", " Bob 1"]
    assert "plain tokenization of 1 rows differs" in capsys.readouterr().out
    assert "teacher's answers, not references" in (OUT / "README.md").read_text()


def test_a_tokenizer_that_adds_bos_itself_gets_none_in_the_text(project, monkeypatch):
    from tokenizers.processors import TemplateProcessing

    project.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", letters.BOS)])
    project.save(str(base_card.BASE / "tokenizer.json"))
    assert run(monkeypatch, "--split", "test")["test"][0]["prompt"].startswith("Answer.\n")


def test_the_card_names_the_files_and_an_export_replaces_an_earlier_one_alone(project, monkeypatch):
    run(monkeypatch)
    first = {path.name: path.read_bytes() for path in OUT.iterdir()}
    data = DatasetCard((OUT / "README.md").read_text()).data.to_dict()
    assert data["configs"][0]["data_files"] == [
        {"split": "train", "path": "train.jsonl"}, {"split": "test", "path": "test.jsonl"},
    ]  # fmt: skip
    run(monkeypatch)
    assert {path.name: path.read_bytes() for path in OUT.iterdir()} == first
    (OUT / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"exports/all: holds thesis\.tex, which no export has written"):
        run(monkeypatch)
    assert (OUT / "thesis.tex").read_text() == "mine"


def test_a_split_without_answers_is_one_line_and_leaves_nothing(project, monkeypatch):
    with pytest.raises(DataError, match=r"no example with an answer in split unlabelled; .* or --method guided"):
        run(monkeypatch, "--split", "unlabelled")
    assert not any(Path("exports").iterdir())


def test_datasets_reads_the_folder(project, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; the extra lm-eval brings it")
    found = run(monkeypatch)
    loaded = datasets.load_dataset(str(OUT), cache_dir="cache")
    assert {split: rows.to_list() for split, rows in loaded.items()} == found
