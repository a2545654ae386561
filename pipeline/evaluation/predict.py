"""Runs a method over the examples of a split: prompts, answers on one process or many, rows of predictions.

Prompts that share their context (the questions of one document), and those with options to weigh, go through
model/prefix_cache.py: the context is read once. All other prompts go through model/generation.py, in batches of like
length. Both generate the same tokens.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.common import base_card, chunks, tables
from pipeline.common.chunks import Chunk
from pipeline.evaluation import score
from pipeline.model import generation, loading, prefix_cache
from pipeline.model.distributed import Processes
from pipeline.runtime.errors import ArtifactError, DataError
from pipeline.runtime.settings import EvalSettings, ModelSettings
from pipeline.views import full_view, masking, prompts, tasks, tokenizer
from pipeline.views.layout import Layout

COPIED = (
    "example_id", "question_id", "benchmark", "num_documents", "gold_position", "answers", "answer_types", "subset",
    "options", "gold_option",
)  # fmt: skip
"""Columns that the rows of predictions take over from full view and example."""
EXAMPLE_COLUMNS = [
    "example_id", "benchmark", "question", "answer_lead", "options", "gold_option", "answers", "answer_types", "subset",
    "gold_document_ids",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class PrefixPrompt:
    """Token ids of a context (`prefix_ids`), of the question after it, and of each option's answer.

    Requests with equal prompts share one object, so that it is answered once.
    """

    prefix_ids: NDArray[np.int32]
    suffix_ids: NDArray[np.int32]
    options: tuple[tuple[int, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)


class Request(NamedTuple):
    """One example over one input."""

    example: tables.Row
    input: str
    chunks: list[Chunk]
    """The chunks that the model reads."""
    prompt: PrefixPrompt


def predictions(
    method: str,
    model: ModelSettings,
    settings: EvalSettings,
    split: str,
    top_k_of: Mapping[str, int],
    stage: str,
    *,
    longest: bool = False,
) -> list[tables.Row] | None:
    """Answer the questions of a split: rows of schema.PREDICTIONS, example by example; none where the split is empty.

    Each example (with `longest`, of each question only those with most documents) is asked over its `full` context,
    and for each entry of `top_k_of` over that many of its best-ranked chunks. The progress bar is called `stage`. With
    several processes the first one returns the rows, the others None; all leave their group.

    Raises:
        ArtifactError: a file is missing or was made from other data.
    """
    processes = Processes()
    tables.require_together(*sources(top_k_of))
    card, decoder = base_card.read_card(), tokenizer.load()
    if (found := tables.metadata(tables.FULL_VIEWS).get("tokenizer_sha256")) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{tables.FULL_VIEWS}: made with tokenizer {found}, {base_card.BASE} has {card.tokenizer_sha256}; "
            "run `dvc repro tokenize`"
        )
    examples = split_examples(split, longest)
    chunk_of = read_chunks(examples["chunk_ids"].explode().drop_nulls())
    rows = _read(examples["example_id"], ranked=bool(top_k_of))
    requests = list(make_requests(rows, chunk_of, top_k_of, model.max_tokens, Layout(decoder, card)))
    if not requests:
        processes.close()
        return [] if processes.is_main else None
    distinct = list(dict.fromkeys(request.prompt for request in requests))
    task = tasks.of(requests[0].example["benchmark"])
    own = shards(distinct, processes.world_size)[processes.rank]
    network = loading.load_method(method, model)
    with tqdm(total=len(own), desc=stage, unit=" prompts", disable=None, mininterval=1) as bar:
        own_answers = generate(
            network,
            [distinct[place] for place in own],
            max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            eos_ids=card.eos_ids,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.batch_tokens,
            progress=bar.update,
        )
    answer_at = processes.gather_dicts(dict(zip(own, own_answers, strict=True)))
    processes.close()
    if not processes.is_main:
        return None
    answer_of = {}
    for place, prompt in enumerate(distinct):
        answer_of[prompt] = decoder.decode(answer_at[place].output_ids), answer_at[place].log_probs
    return [_row(request, method, task, *answer_of[request.prompt]) for request in requests]


def sources(top_k_of: Mapping[str, int]) -> tuple[tables.Table, ...]:
    """Return the tables that `predictions` reads."""
    return (tables.CHUNKS, tables.EXAMPLES, tables.FULL_VIEWS, *([tables.SCORES] if top_k_of else []))


def split_examples(split: str, longest: bool = False) -> pl.DataFrame:
    """Read example_id, question_id, num_documents and chunk_ids of a split's examples.

    `longest` keeps of each question only the examples with most documents.
    """
    columns = ["example_id", "split", "question_id", "num_documents", "chunk_ids"]
    found = tables.frame(tables.FULL_VIEWS, columns).filter(split=split)
    if longest:
        found = found.filter(pl.col("num_documents") == pl.col("num_documents").max().over("question_id"))
    return found


def no_examples(split: str) -> DataError:
    """Make the error of a split that has no examples."""
    return DataError(
        f"{tables.FULL_VIEWS}: no examples in split {split}; choose another eval.split, or give the data questions of "
        "this one"
    )


def read_chunks(chunk_ids: Iterable[str]) -> chunks.Chunks:
    """Read the chunks, these among them.

    Raises:
        ArtifactError: a chunk is missing.
    """
    found = chunks.read(tables.CHUNKS)
    tables.require_ids(tables.CHUNKS, found, chunk_ids, tables.FULL_VIEWS)
    return found


def _read(example_ids: Collection[str], ranked: bool) -> Iterator[tables.Row]:
    """Yield the columns of full view and example together, with the `ranks` of the chunks where `ranked`."""
    sources = [(tables.FULL_VIEWS, None), (tables.EXAMPLES, EXAMPLE_COLUMNS)]
    if ranked:
        sources.append((tables.SCORES, ["example_id", "chunk_ids", "ranks"]))
    wanted = set(example_ids)
    for full, *others in tables.side_by_side(*sources):
        if full["example_id"] in wanted:
            for row in others:
                full |= row
            yield full


def make_requests(
    rows: Iterable[tables.Row],
    chunk_of: Mapping[str, Chunk],
    top_k_of: Mapping[str, int],
    max_tokens: int,
    layout: Layout,
) -> Iterator[Request]:
    """Yield the requests of each row over its full view, then over its best chunks in context order.

    `rows` have the columns of full view and example and the `ranks`; `top_k_of` has the number of chunks of each input
    beside `full`. Retrieval prompts are built from the untruncated documents, so chunks that were truncated from the
    full view can still be retrieved. If the selected chunks are too long, the middle is truncated.
    """
    prompt_of: dict[tuple[bytes, bytes], PrefixPrompt] = {}
    for row in rows:
        ids = np.asarray(row.pop("input_ids"), dtype=np.int32)
        suffix_ids = ids[row["question_start"] : row["prompt_end"]]
        letters = prompts.LETTERS[: len(row["options"])]
        options = tuple(tuple(layout.answer(letter, row["answer_lead"])) for letter in letters)
        spans = zip(row["chunk_ids"], row["chunk_starts"], row["chunk_ends"], strict=True)
        left = [chunk_of[chunk_id] for chunk_id, start, end in spans if start < end]
        inputs = [("full", left, ids[: row["question_start"]])]
        instruction = tasks.of(row["benchmark"]).instruction
        for name, top_k in top_k_of.items():
            kept = np.flatnonzero(masking.keep_top(np.asarray(row["ranks"], dtype=np.int32), top_k))
            chunks = [chunk_of[row["chunk_ids"][index]] for index in kept]
            context = layout.context(chunks, instruction)
            fitting = full_view.cut(context, max_tokens - len(suffix_ids), "cut_middle")
            inputs.append((name, chunks, np.asarray(fitting.input_ids, dtype=np.int32)))
        for name, chunks, prefix_ids in inputs:
            prompt = PrefixPrompt(prefix_ids, suffix_ids, options)
            key = prefix_ids.tobytes(), suffix_ids.tobytes()
            yield Request(row, name, chunks, prompt_of.setdefault(key, prompt))


def shards(prompts: Sequence[PrefixPrompt], num: int) -> list[list[int]]:
    """Split the prompts among `num` processes, as indices: each context in one of them, tokens spread evenly."""

    def tokens(group: list[int]) -> int:
        return len(prompts[group[0]].prefix_ids) + sum(len(prompts[index].suffix_ids) for index in group)

    found: list[list[int]] = [[] for _ in range(num)]
    loads = [0] * num
    for group in sorted(_by_context(prompts), key=tokens, reverse=True):
        least = loads.index(min(loads))
        found[least] += group
        loads[least] += tokens(group)
    return [sorted(share) for share in found]


def generate(
    network: PreTrainedModel | PeftModel,
    prompts: Sequence[PrefixPrompt],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[prefix_cache.Completion]:
    """Generate greedy answers in the order of the prompts; arguments as of generation.generate.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    answers: dict[int, prefix_cache.Completion] = {}
    groups = _by_context(prompts)
    alone = [group[0] for group in groups if len(group) == 1 and not prompts[group[0]].options]
    outputs = generation.generate(
        network,
        [np.concatenate([prompts[index].prefix_ids, prompts[index].suffix_ids]) for index in alone],
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        pad_id=pad_id,
        banned_ids=banned_ids,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    answers |= {index: prefix_cache.Completion(output, []) for index, output in zip(alone, outputs, strict=True)}
    for group in groups:
        if group[0] in answers:
            continue
        found = prefix_cache.answer(
            network,
            prompts[group[0]].prefix_ids,
            [prefix_cache.Suffix(prompts[index].suffix_ids, prompts[index].options) for index in group],
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            banned_ids=banned_ids,
            batch_tokens=batch_tokens,
        )
        answers |= dict(zip(group, found, strict=True))
        progress(len(group))
    return [answers[index] for index in range(len(prompts))]


def _by_context(prompts: Sequence[PrefixPrompt]) -> list[list[int]]:
    """Group the indices of the prompts that share a context."""
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.prefix_ids.tobytes(), []).append(index)
    return list(groups.values())


def _row(request: Request, method: str, task: tasks.Task, generated: str, log_probs: Sequence[float]) -> tables.Row:
    example = request.example
    prediction = score.answer_text(generated, task, example["answers"])
    distractors = score.distractors(request.chunks, example["gold_document_ids"])
    return {
        **{name: example[name] for name in COPIED},
        **score.score(prediction, example, distractors, log_probs),
        "method": method,
        "input": request.input,
        "prompt_tokens": request.prompt.num_tokens,
    }
