"""Answers a question over the user's files with one or more methods, and shows where each of them looked.

    python -m pipeline.tools.ask "QUESTION" --documents FOLDER --methods base vanilla guided

A method reads what stage evaluate would give it: the same instruction, layout and decoding. Below the answers stand the
chunks, with their ranks by the retriever of params.yaml and the share of attention that the last token of the prompt,
where the answer is decided, pays to each: mean over heads and layers.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.analysis import attention
from pipeline.common import base_card
from pipeline.common.chunks import Chunk, of_rows
from pipeline.common.tables import Document
from pipeline.evaluation import predict, score
from pipeline.model import loading
from pipeline.retrieval import build, chunking, recall
from pipeline.retrieval.index import ChunkIndex
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, DataError, counted
from pipeline.runtime.main import escaped, run
from pipeline.runtime.methods import BASE, METHODS, TRAINED
from pipeline.runtime.settings import Settings
from pipeline.tools import arguments
from pipeline.tools.ask import documents
from pipeline.views import full_view, masking, tasks, tokenizer
from pipeline.views.layout import Layout

SHOWN_CHUNKS, SHOWN_WORDS = 8, 8
READS_ONLY_BIOGRAPHIES = "models/tiny-base"
EXAMPLE = 'make ask QUESTION="When was the bridge built?" DOCUMENTS=folder'


class Ranked(NamedTuple):
    """The chunks of all documents, in their order, with the retriever's score and rank (0 is the best) of each."""

    chunks: list[Chunk]
    scores: list[float]
    ranks: list[int]


class Answer(NamedTuple):
    """The text that a method generates, and the share of attention that it pays to each chunk, by the chunk's id."""

    text: str
    shares: dict[str, float]


def main() -> None:
    """Answer and print.

    Raises:
        ConfigError: the question is empty, a method is unknown, or the project is no folder.
        DataError: as documents.read, or the question leaves no room for a chunk.
        ArtifactError: the base or an adapter is missing or damaged.
    """
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.ask", description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--documents", default="", help=f"a file, or a folder with {documents.KINDS}")
    methods = f"of {', '.join(METHODS)}; by default the base and every method with an adapter"
    parser.add_argument("--methods", nargs="+", type=arguments.one_of(tuple(METHODS)), help=methods)
    parser.add_argument("--most", type=arguments.positive, help="read only so many documents, the best-ranked ones")
    parser.add_argument("--project", type=Path, default=Path(), help="the folder of params.yaml, conf and models")
    asked = parser.parse_args(sys.argv[1:])
    question = " ".join(asked.question.split())
    if not question or not asked.documents:
        raise ConfigError(f"the {'folder of documents' if question else 'question'} is empty; write `{EXAMPLE}`")
    if not asked.project.is_dir():
        raise ConfigError(f"{asked.project}: no such folder; name one that holds a params.yaml and trained models")
    found = documents.read(Path(asked.documents))
    os.chdir(asked.project)
    settings, card = config.load(), base_card.read_card()
    chosen = list(dict.fromkeys(asked.methods or trained()))
    for method in chosen:
        if method != BASE:
            loading.find_adapter(method, card)
    ranked = rank(found.documents, question, settings)
    layout, task = Layout(tokenizer.load(), card), task_of(settings)
    suffix_ids = layout.question(question, "")
    max_new_tokens = settings.eval.max_new_tokens or task.max_new_tokens
    room = settings.model.max_tokens - len(suffix_ids) - max_new_tokens
    read = fitting(ranked, layout, task.instruction, room, asked.most)
    laid = layout.context(read, task.instruction)
    _print_documents(asked.documents, found, ranked, read, len(laid.input_ids) + len(suffix_ids), settings)
    answers = {method: answer(method, settings, card, task, read, laid, suffix_ids) for method in chosen}
    width = max(map(len, chosen))
    for method, given in answers.items():
        print(f"{method:{width}}  {given.text or '(nothing)'}")
    _print_chunks(answers, ranked, settings)


def trained() -> list[str]:
    """List the base and the methods that have an adapter."""
    return [BASE, *(method for method in TRAINED if (base_card.MODELS / method / loading.WEIGHTS).is_file())]


def task_of(settings: Settings) -> tasks.Task:
    """Return the task of the benchmark that the methods were trained on; the default one where it offers options."""
    task = tasks.of(settings.data.kind)
    return tasks.of("jsonl") if task.measure == "accuracy" else task


def rank(found: Sequence[Document], question: str, settings: Settings) -> Ranked:
    """Cut the documents into chunks, and rank these by the retriever of the settings.

    Raises:
        DataError: the retriever is one that must know where the answer stands.
        ArtifactError, NumericError, ResourceError: from the retriever.
    """
    rows = [row for each in found for row in chunking.rows(asdict(each), settings.chunk.words)]
    known = of_rows(rows)
    index = ChunkIndex(known, with_title=settings.retriever.title)
    built = build.build(settings.retriever, index.texts, [question], settings.score.engine)
    example = {
        "example_id": "of make ask", "question_id": "", "split": "", "question": question, "answers": [],
        "document_ids": [each.document_id for each in found], "evidence": [], "gold_document_ids": [],
    }  # fmt: skip
    scored, _ = recall.rank(example, index, built.scorer, settings.retriever.kind)
    chunks = [chunk for each in found for chunk in known.of(each.document_id)]
    return Ranked(chunks, scored["scores"], scored["ranks"])


def fitting(ranked: Ranked, layout: Layout, instruction: str, room: int, most: int | None = None) -> list[Chunk]:
    """Choose the chunks that fit into `room` tokens, in their order: those of the documents that rank first.

    A document ranks as its best chunk does. Of the first document that does not fit, the best chunks are taken. With
    `most`, no more documents than that are taken.

    Raises:
        DataError: not one chunk fits.
    """
    room -= len(layout.context([], instruction).input_ids)

    def num_tokens(places: Sequence[int]) -> int:
        laid = layout.context([ranked.chunks[place] for place in places], instruction)
        return laid.chunk_ends[-1] - laid.chunk_starts[0]

    places_of: dict[str, list[int]] = {}
    for place in np.argsort(ranked.ranks).tolist():
        places_of.setdefault(ranked.chunks[place].document_id, []).append(place)
    taken: list[int] = []
    for places in islice(places_of.values(), most):
        if (needed := num_tokens(sorted(places))) > room:
            fits = 0
            while num_tokens(sorted(places[: fits + 1])) <= room:
                fits += 1
            taken += places[:fits]
            break
        taken += places
        room -= needed
    if not taken:
        raise DataError(
            f"beside the question {max(room, 0):,} tokens are left of model.max_tokens, which is too little for one "
            "chunk; ask a shorter question, lower chunk.words, or choose a model that reads more"
        )
    return [ranked.chunks[place] for place in sorted(taken)]


def answer(
    method: str,
    settings: Settings,
    card: base_card.BaseCard,
    task: tasks.Task,
    read: Sequence[Chunk],
    laid: full_view.Context,
    suffix_ids: full_view.Ids,
) -> Answer:
    """Answer as stage evaluate does, and read the attention of the prompt's last token.

    Args:
        read: the chunks of the context.
        laid: their token ids.
        suffix_ids: token ids of the question behind them.

    Raises:
        ArtifactError: as loading.load_method.
        NumericError: a logit is NaN or infinite.
    """
    network = loading.load_method(method, settings.model)
    ids, suffix = (np.asarray(part, dtype=np.int32) for part in (laid.input_ids, suffix_ids))
    [completion] = predict.generate(
        network,
        [predict.PrefixPrompt(ids, suffix)],
        max_new_tokens=settings.eval.max_new_tokens or task.max_new_tokens,
        eos_ids=card.eos_ids,
        pad_id=card.pad_id,
        banned_ids=[card.mask_id, card.pad_id],
        batch_tokens=settings.eval.batch_tokens,
    )
    prompt = np.concatenate([ids, suffix])
    [row_NL] = attention.last_rows(network, [prompt], pad_id=card.pad_id, batch_tokens=len(prompt))
    mean_L = row_NL.mean(axis=0, dtype=np.float64)
    spans = zip(read, laid.chunk_starts, laid.chunk_ends, strict=True)
    shares = {chunk.chunk_id: float(mean_L[start:end].sum()) for chunk, start, end in spans}
    return Answer(score.answer_text(tokenizer.load().decode(completion.output_ids), task, []), shares)


def _print_documents(
    place: str,
    found: documents.Files,
    ranked: Ranked,
    read: Sequence[Chunk],
    num_tokens: int,
    settings: Settings,
) -> None:
    skipped = (
        f", {counted(found.skipped.total(), 'file')} skipped ({documents.listed(found.skipped)})"
        if found.skipped
        else ""
    )
    num_documents = len(found.documents)
    print(f"ask: {num_documents:,} documents with {len(ranked.chunks):,} chunks in {escaped(place)}{skipped}")
    limit = f"{num_tokens:,} of at most {settings.model.max_tokens:,} tokens"
    if len(read) == len(ranked.chunks):
        print(f"The models read all of it: {limit}.")
    else:
        in_read = len({chunk.document_id for chunk in read})
        print(
            f"The models read {in_read:,} documents ({len(read):,} chunks), those that the retriever ranks first; the "
            f"others are left out: {limit}."
        )
    if settings.model.source == READS_ONLY_BIOGRAPHIES:
        print("The small base knows nothing but biographies; use.model: smollm2 reads English (docs/laptop.md).")
    print()


def _print_chunks(answers: Mapping[str, Answer], ranked: Ranked, settings: Settings) -> None:
    """Print the best-ranked chunks, and of the others the one that a method looks at most."""
    order = np.argsort(ranked.ranks).tolist()
    most = {max(given.shares, key=lambda name: given.shares[name]) for given in answers.values()}
    shown = [place for place in order if ranked.ranks[place] < SHOWN_CHUNKS or ranked.chunks[place].chunk_id in most]
    kept = masking.keep_top(np.asarray(ranked.ranks, dtype=np.int32), settings.mask.top_k)
    width = max(7, *map(len, answers))
    print(f"\n{'rank':>4}  {'score':>8}  kept  " + "  ".join(f"{name:>{width}}" for name in answers) + "  chunk")
    for place in order:
        if place not in shown:
            continue
        chunk = ranked.chunks[place]
        line = f"{ranked.ranks[place] + 1:>4}  {ranked.scores[place]:>8.3f}  {'yes' if kept[place] else 'no':>4}  "
        shares = [given.shares.get(chunk.chunk_id) for given in answers.values()]
        words = chunk.text.split()
        opening = " ".join(words[:SHOWN_WORDS]) + (" ..." if len(words) > SHOWN_WORDS else "")
        print(line + _cells(shares, width) + escaped(f"  {chunk.document_id}: {opening}"))
    ids = {ranked.chunks[place].chunk_id for place in shown}
    rest = [sum(share for name, share in given.shares.items() if name not in ids) for given in answers.values()]
    outside = [1 - sum(given.shares.values()) for given in answers.values()]
    if others := len(ranked.chunks) - len(shown):
        print(f"{'':22}" + _cells(rest, width) + f"  the other {others:,} chunks")
    print(f"{'':22}" + _cells(outside, width) + "  instruction and question")
    print(
        f"kept: the chunks of highest score ({counted(settings.mask.top_k, 'chunk')}, by {settings.retriever.kind}), "
        "as in masked views. Shares: attention of the prompt's last token, mean over heads and layers; -: not read."
    )


def _cells(shares: Sequence[float | None], width: int) -> str:
    return "  ".join(f"{'-' if share is None else f'{share:.1%}':>{width}}" for share in shares)


if __name__ == "__main__":
    run(main)
