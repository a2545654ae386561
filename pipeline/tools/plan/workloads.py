"""What there is to read, from the best that is on disk: fresh views, else fresh texts, else known sizes.

Fresh is what `dvc status` calls so: made by the settings and the code of now. No torch here.
"""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc

from pipeline.common import files, tables
from pipeline.runtime.settings import BiosData, Settings
from pipeline.tools.plan import workload
from pipeline.tools.plan.workload import Rows, Workload

EXAMPLES, CHUNKS = Path("data/examples.parquet"), Path("data/chunks.parquet")
FULL, MASK = Path("data/views/full.parquet"), Path("reports/mask.json")
EXACT = "`dvc repro tokenize mask` makes it exact"
_UPSTREAM = {
    "chunk": {"prepare", "chunk"},
    "tokenize": {"prepare", "chunk", "base", "tokenize"},
    "mask": {"prepare", "chunk", "base", "tokenize", "score", "mask"},
}
_WORDPIECE_CHARACTERS = 4.5  # of one token of the retriever's
BIOS_DOCUMENTS, BIOS_WORDS = 0.83, 53  # generated biographies of each question asked, and their words
_GUESS = Rows(1_000, 1_000, 4_000.0, 8_000, 40.0, 10.0)


def find(settings: Settings, vocabulary: int) -> Workload:
    """The workload of the settings; `vocabulary` is that of the base."""
    stale = _stale()
    fresh = {stage: not stages & stale for stage, stages in _UPSTREAM.items()}
    masked_share, kept_share = None, None
    if fresh["tokenize"] and FULL.is_file():
        rows = {split: _counted(split) for split in ("train", settings.eval.split)}
        source = f"{FULL}, counted"
        if fresh["mask"] and MASK.is_file():
            shares = files.read_json(MASK, "mask")["splits"].get("train") or {}
            if shares:
                masked_share = shares["mean_tokens_masked"] / shares["mean_tokens_full"]
                kept_share = shares["kept_token_share"]
    elif fresh["chunk"] and EXAMPLES.is_file() and CHUNKS.is_file():
        rows = {split: _estimated(split, vocabulary) for split in ("train", settings.eval.split)}
        source = f"{EXAMPLES} and {CHUNKS}, tokens estimated from characters; {EXACT}"
    else:
        rows, source = _from_benchmark(settings, vocabulary)
    train, asked = rows["train"], rows[settings.eval.split]
    any_rows = train if train.num else asked
    words_tokens = settings.chunk.words * (1.45 if vocabulary >= workload.SMALL_VOCABULARY else 3.0)
    if kept_share is None:
        kept_share = min(1.0, settings.mask.top_k * words_tokens / max(any_rows.mean_tokens, 1.0))
    if masked_share is None:
        outside = (any_rows.question_tokens + any_rows.label_tokens) / max(any_rows.mean_tokens, 1.0)
        masked_share = min(1.0, kept_share + outside)
    num_texts, text_tokens = _texts(settings, fresh["chunk"], train, asked, words_tokens)
    num_unlabelled, surface = _beside(settings, vocabulary, counted=source.endswith("counted"))
    made = Workload(source, train, asked, masked_share, kept_share, num_texts, text_tokens, num_unlabelled, surface)
    return workload.with_cut(made, settings.model.max_tokens)


def _beside(settings: Settings, vocabulary: int, *, counted: bool) -> tuple[int, Rows]:
    """Number of unlabelled questions, and the rows of the difficulty surface."""
    if counted:
        return _counted("unlabelled").num, _counted("surface")
    data = settings.data
    if not isinstance(data, BiosData):
        return 0, workload.NO_ROWS
    asked = data.surface_questions * len(data.surface_name_sharing_rates)
    unlabelled = data.unlabelled_questions * len(data.train_documents)
    return unlabelled, workload.generated(asked, data.surface_documents, vocabulary)


def _stale() -> set[str]:
    """Stages up to mask whose outputs are not those of the settings and the code of now; all of them when unknown."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--with-deps", "--json", "mask"], capture_output=True, text=True
    )
    try:
        return set(json.loads(done.stdout))
    except ValueError:  # no DVC project, or a lock held by a run
        return set.union(*_UPSTREAM.values())


def _counted(split: str) -> Rows:
    table = tables.read(FULL, tables.FULL_VIEWS, ["split", "document_ids", "input_ids", "question_start", "prompt_end"])
    table = table.filter(pc.equal(table["split"], split))
    tokens = pc.list_value_length(table["input_ids"])
    ends, starts = table["prompt_end"], table["question_start"]
    contexts = {tuple(ids) for ids in table["document_ids"].to_pylist()}
    question, labels = pc.subtract(ends, starts).to_pylist(), pc.subtract(tokens, ends).to_pylist()
    return workload.count(tokens.to_pylist(), question, labels, len(contexts))


def _estimated(split: str, vocabulary: int) -> Rows:
    """From characters."""
    per_token = workload.CHARACTERS_PER_TOKEN
    per_token /= workload.SMALL_VOCABULARY_FACTOR if vocabulary < workload.SMALL_VOCABULARY else 1.0
    characters: dict[str, int] = {}
    for row in tables.scan(CHUNKS, tables.CHUNKS, ["document_id", "title", "text"]):
        known = characters.get(row["document_id"], len(row["title"]))
        characters[row["document_id"]] = known + len(row["text"])
    tokens, questions, labels, contexts = [], [], [], set()
    columns = ["split", "question", "options", "answers", "document_ids"]
    for row in tables.scan(EXAMPLES, tables.EXAMPLES, columns):
        if row["split"] != split:
            continue
        questions.append(round((len(row["question"]) + sum(map(len, row["options"]))) / per_token) + 8)
        labels.append(2 if row["options"] else round(len(row["answers"][0]) / per_token) + 2)
        context = sum(characters[document_id] for document_id in row["document_ids"])
        tokens.append(round(context / per_token) + questions[-1] + labels[-1] + 16)
        contexts.add(tuple(row["document_ids"]))
    return workload.count(tokens, questions, labels, len(contexts))


def _from_benchmark(settings: Settings, vocabulary: int) -> tuple[dict[str, Rows], str]:
    data, found = settings.data, {}
    for split in ("train", settings.eval.split):
        if isinstance(data, BiosData):
            questions = {"train": data.train_questions, "dev": data.dev_questions, "test": data.test_questions}[split]
            documents = {"train": data.train_documents, "dev": data.dev_documents, "test": data.test_documents}[split]
            rows: Rows | None = workload.generated(questions, documents, vocabulary)
        else:
            rows = workload.known(data.kind, split, vocabulary)
        if rows is None:
            guess = {"train": _GUESS, settings.eval.split: _GUESS}
            return guess, f"a guess (data.kind {data.kind} has no known size); {EXACT}"
        most = getattr(data, "max_questions", None)
        if most is not None and rows.num > most:
            rows = rows._replace(num=most, num_contexts=min(rows.num_contexts, most))
        found[split] = rows
    return found, f"the known size of {data.kind}; {EXACT}"


def _texts(settings: Settings, fresh: bool, train: Rows, asked: Rows, words_tokens: float) -> tuple[int, float]:
    """Distinct texts for the retriever and their mean tokens; at most, where the chunks are not there to count."""
    num_questions = train.num + asked.num
    if fresh and CHUNKS.is_file():
        characters = pc.utf8_length(tables.read(CHUNKS, tables.CHUNKS, ["text"])["text"]).to_pylist()
        num_chunks = len(characters)
        chunk_tokens = sum(characters) / _WORDPIECE_CHARACTERS / max(num_chunks, 1)
    elif isinstance(settings.data, BiosData):
        data = settings.data
        asked_once = data.train_questions + data.unlabelled_questions + data.dev_questions + data.test_questions
        num_chunks = round(BIOS_DOCUMENTS * asked_once)
        chunk_tokens = min(settings.chunk.words, BIOS_WORDS) * 1.35
    else:
        total = sum(rows.num_contexts * rows.mean_tokens for rows in (train, asked))
        num_chunks, chunk_tokens = round(total / words_tokens), settings.chunk.words * 1.35
    num = num_chunks + num_questions
    return num, (num_chunks * chunk_tokens + num_questions * 20.0) / max(num, 1)
