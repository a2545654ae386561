"""The stage on a toy base: what each input holds, what is written, and what is refused."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pipeline.common import base_card, files, tables
from pipeline.common.chunks import Chunk
from pipeline.common.text import has_answer
from pipeline.evaluation import metrics, schema, score
from pipeline.model import loading, lora
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, DataError
from pipeline.stages import evaluate
from pipeline.views import full_view, tasks
from pipeline.views.layout import Layout
from tests.conftest import ROOT
from tests.model import tiny

TOP_K, NEW_TOKENS = 2, 1  # one word often stands in some document, two in a row hardly ever
yaml = YAML(typ="safe")
WORDS = [f"w{number}" for number in range(tiny.network().config.vocab_size - 4)]
COLUMNS = ("method", "input", "exact_match", "error", "prediction", "distractor_id")


def tokenizer():
    words = ["<pad>", "<s>", "</s>", "<mask>", *WORDS]
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(words[:4])
    return made


class Toy:
    """Six documents of one chunk each; test questions over two and six of them, one without gold, one for training."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.chunks = {
            f"d{number}#0": Chunk(f"d{number}#0", f"d{number}", f"w{number}", text)
            for number in range(6)
            for text in [" ".join(draw.choice(WORDS, 8))]
        }
        self.examples, self.full, self.scores = [], [], []
        for number in range(24):
            document_ids = [f"d{index}" for index in draw.permutation(6)[: 2 if number % 2 else 6]]
            self.add(number, document_ids, draw)

    def add(self, number, document_ids, draw):
        gold = document_ids[-1:] if number != 4 else []
        names = {"example_id": f"e{number}", "question_id": f"q{number // 2}"}
        position = document_ids.index(gold[0]) if gold else -1
        split = "train" if number == 3 else "test"
        question = " ".join(draw.choice(WORDS, 3))
        references = list(draw.choice(WORDS, 2))
        chunk_ids = [f"{document_id}#0" for document_id in document_ids]
        self.examples.append(
            {
                **names, "benchmark": "toy", "split": split, "question": question, "answer_lead": "",
                "answers": references, "document_ids": document_ids, "gold_document_ids": gold, "evidence": [],
                "gold_position": position, "answer_types": [], "options": [], "gold_option": -1, "subset": "",
            }
        )  # fmt: skip
        view = self.view(chunk_ids, question, references[0])
        self.full.append(
            {
                **names, "split": split, "num_documents": len(document_ids), "gold_position": position,
                "document_ids": document_ids, "context_key": names["question_id"],
                "chunk_ids": chunk_ids, **view._asdict(),
            }
        )  # fmt: skip
        ranks = draw.permutation(len(chunk_ids)).tolist()
        self.scores.append(
            {
                "example_id": names["example_id"], "chunk_ids": chunk_ids, "scores": [-float(rank) for rank in ranks],
                "ranks": ranks, "gold": [chunk_id[:2] in gold for chunk_id in chunk_ids],
            }
        )  # fmt: skip

    def view(self, chunk_ids, question, answer):
        chunks = [self.chunks[chunk_id] for chunk_id in chunk_ids]
        card = base_card.BaseCard("", None, "", 0, "", tiny.BOS, tiny.EOS, tiny.PAD, tiny.MASK)
        writes = Layout(tokenizer(), card)
        laid = writes.context(chunks, tasks.of("toy").instruction)
        return full_view.full_view(laid, writes.question(question, ""), writes.answer(answer), tiny.EOS)

    def write(self, sha256):
        chunks = [{**chunk._asdict(), "index": 0, "start": 0, "end": len(chunk.text)} for chunk in self.chunks.values()]
        tables.write(tables.CHUNKS, chunks)
        tables.write(tables.EXAMPLES, self.examples)
        tables.write(tables.FULL_VIEWS, self.full, {"tokenizer_sha256": sha256})
        tables.write(tables.SCORES, self.scores)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A workspace with everything that stands before the stage."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["use"] |= {"model": "tiny", "profile": "cpu"}
    params["model"] = {"source": "toy", "sliding_window": None, "dtype": "float32"}
    params["eval"] |= {
        "retrieval_top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "batch_tokens": 100, "bootstrap_resamples": 100
    }  # fmt: skip
    yaml.dump(params, Path("params.yaml"))
    tiny.network().save_pretrained("toy")
    base_card.BASE.mkdir(parents=True)
    tokenizer().save(str(base_card.BASE / "tokenizer.json"))
    sha256 = hashlib.sha256((base_card.BASE / "tokenizer.json").read_bytes()).hexdigest()
    digest = loading.digest(Path("toy"))
    vocab_size = tiny.network().config.vocab_size
    card = base_card.BaseCard("toy", None, digest, vocab_size, sha256, tiny.BOS, [tiny.EOS], tiny.PAD, tiny.MASK)
    base_card.write_card(card, base_card.BASE)
    made = Toy()
    made.write(sha256)
    return made


def run_stage(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    evaluate.main()


def answer(network, prompt):
    """The plainest greedy decoding there is."""
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            logits = network(torch.tensor([ids])).logits[0, -1]
        logits[[tiny.MASK, tiny.PAD]] = -torch.inf
        if (token := int(logits.argmax())) == tiny.EOS:
            break
        ids.append(token)
    return metrics.first_line(tokenizer().decode(ids[len(prompt) :]))


def test_each_test_example_is_asked_over_its_context_and_over_its_best_chunks(toy, monkeypatch, capsys):
    run_stage(monkeypatch, "base")
    rows = list(tables.scan(schema.predictions_of("base")))
    network = tiny.network()
    expected = []
    for example, full, scored in zip(toy.examples, toy.full, toy.scores, strict=True):
        if example["split"] != "test":
            continue
        kept = [chunk for chunk, rank in zip(full["chunk_ids"], scored["ranks"], strict=True) if rank < TOP_K]
        for name, chunk_ids in (("full", full["chunk_ids"]), ("retrieval", kept)):
            view = toy.view(chunk_ids, example["question"], example["answers"][0])
            expected.append((name, example, chunk_ids, view.input_ids[: view.prompt_end]))
    assert len(rows) == len(expected) == 46
    for row, (name, example, chunk_ids, prompt) in zip(rows, expected, strict=True):
        assert (row["example_id"], row["input"], row["method"]) == (example["example_id"], name, "base")
        assert row["prediction"] == answer(network, prompt)
        assert row["prompt_tokens"] == len(prompt)
        assert row["exact_match"] == metrics.exact_match(row["prediction"], example["answers"])
        if row["error"] == "distraction":
            assert f"{row['distractor_id']}#0" in chunk_ids and row["distractor_id"] not in example["gold_document_ids"]
            assert has_answer(toy.chunks[f"{row['distractor_id']}#0"].text, row["prediction"])
    assert {row["error"] for row in rows} >= {"distraction", "other"}
    assert {row["error"] for row in rows if row["example_id"] == "e4"} <= {"correct", "other"}
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "23 test examples; exact match at 6 documents" in printed


def test_without_retrieval_at_inference_the_full_contexts_get_the_same_answers(toy, monkeypatch):
    run_stage(monkeypatch, "base")
    full = [row for row in tables.scan(schema.predictions_of("base")) if row["input"] == "full"]
    params = yaml.load(Path("params.yaml").read_text())
    params["eval"]["retrieval_top_k"] = None
    yaml.dump(params, Path("params.yaml"))
    run_stage(monkeypatch, "base")
    assert list(tables.scan(schema.predictions_of("base"))) == full


def test_the_longest_context_of_each_question_alone_gets_the_answers_it_gets_among_all(toy, monkeypatch, capsys):
    path = schema.PREDICTIONS.path / "base.parquet"
    run_stage(monkeypatch, "base")
    among_all = list(tables.scan(schema.PREDICTIONS.at(path)))
    params = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    params["eval"]["contexts"] = "longest"
    yaml.dump(params, Path("params.yaml"))
    capsys.readouterr()
    run_stage(monkeypatch, "base")
    rows = list(tables.scan(schema.PREDICTIONS.at(path)))
    # Examples 2n and 2n + 1 ask question n over six and over two documents.
    assert [row["example_id"] for row in rows] == [f"e{number}" for number in range(0, 24, 2) for _ in range(2)]
    assert rows == [row for row in among_all if row["num_documents"] == 6]
    assert "12 test examples; exact match at 6 documents" in capsys.readouterr().out


def test_the_figures_are_those_of_the_predictions_and_equal_runs_write_equal_bytes(toy, monkeypatch):
    paths = [schema.PREDICTIONS.path / "base.parquet", evaluate.FIGURES / "base.json"]
    run_stage(monkeypatch, "base")
    first = [path.read_bytes() for path in paths]
    run_stage(monkeypatch, "base")
    assert [path.read_bytes() for path in paths] == first
    rows = list(tables.scan(schema.PREDICTIONS.at(paths[0])))
    written = files.read_json(paths[1], "evaluate")
    assert written["method"] == "base" and list(written["inputs"]) == ["full", "retrieval"]
    for name, figures in written["inputs"].items():
        chosen = [row for row in rows if row["input"] == name]
        assert figures == files.read_json(_copy(score.figures(chosen, 100)), "evaluate")
        assert [group["n"] for group in figures["by_num_documents"]] == [11, 12]
        assert sum(group["n"] for group in figures["by_gold_position"]) == 22  # the gold of one is unknown


def _copy(value):
    files.write_json(Path("copy.json"), value)
    return Path("copy.json")


def test_two_processes_write_what_one_writes(toy, monkeypatch):
    run_stage(monkeypatch, "base")
    paths = [schema.PREDICTIONS.path / "base.parquet", evaluate.FIGURES / "base.json"]
    alone = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"FOCUS_LAUNCH": " ".join(launch), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.stages.evaluate", "base"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evaluate@base: ") == 1
    assert [path.read_bytes() for path in paths] == alone


def test_an_adapter_answers_in_place_of_the_base(toy, monkeypatch):
    settings, card = config.load("evaluate").model, base_card.read_card()
    adapted = lora.add_adapter(
        loading.load_base(settings, card), rank=2, alpha=4, dropout=0.0, embedding="lora", norms=True, mask_id=tiny.MASK
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    loading.save_adapter(adapted, card, base_card.MODELS / "vanilla")
    for method in ("base", "vanilla"):
        run_stage(monkeypatch, method)
    base, vanilla = (
        [row["prediction"] for row in tables.scan(schema.predictions_of(method))] for method in ("base", "vanilla")
    )
    assert len(base) == len(vanilla) and base != vanilla


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["focussed"], r"got focussed \(did you mean focused\?\); choose from base, vanilla, focused"),
        ([], "takes one method, got none"),
        (["base", "vanilla"], "got base vanilla"),
        (["--score", "file", "--references", "file"], "use `python -m pipeline.tools.score_predictions --predictions"),
    ],
)
def test_an_unknown_method_is_refused_with_the_nearest_name(arguments, message, monkeypatch):
    with pytest.raises(ConfigError, match=message):
        run_stage(monkeypatch, *arguments)


def test_views_of_another_tokenizer_are_refused_with_both_digests(toy, monkeypatch):
    toy.write("f" * 64)
    with pytest.raises(ArtifactError, match=f"tokenizer {'f' * 64}, models/base has [0-9a-f]{{64}}; run"):
        run_stage(monkeypatch, "base")


@pytest.mark.parametrize("damage", ["other chunks", "other order", "fewer rows", "unknown chunk"])
def test_files_that_do_not_belong_together_are_refused(toy, monkeypatch, damage):
    if damage == "other chunks":
        toy.scores[7]["chunk_ids"] = toy.scores[7]["chunk_ids"][::-1]
    elif damage == "other order":
        toy.scores.reverse()
    elif damage == "fewer rows":
        toy.examples.pop()
    else:
        del toy.chunks["d3#0"]
    toy.write(base_card.read_card().tokenizer_sha256)
    messages = {
        "unknown chunk": "has no d3#0, which",
        "other chunks": "chunks of example .* are not those in",
    }
    with pytest.raises(ArtifactError, match=messages.get(damage, "rows do not belong together")):
        run_stage(monkeypatch, "base")
    assert not schema.PREDICTIONS.path.exists()


def test_missing_files_are_refused_with_the_stage_that_makes_them(toy, monkeypatch):
    with pytest.raises(ArtifactError, match="run `dvc repro train@focused` first"):
        run_stage(monkeypatch, "focused")
    tables.SCORES.path.unlink()
    with pytest.raises(ArtifactError, match="run `dvc repro score` first"):
        run_stage(monkeypatch, "base")


def test_no_test_examples_are_refused(toy, monkeypatch):
    for row in toy.full:
        row["split"] = "train"
    toy.write(base_card.read_card().tokenizer_sha256)
    with pytest.raises(DataError, match=r"no examples in split test; choose another eval\.split"):
        run_stage(monkeypatch, "base")
