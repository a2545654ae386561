"""What a method is asked: every input of every example, and the distinct prompts they need. No torch here.

Answers to many prompts, by whichever way computes least.

Prompts that share their context (the questions of one document), and those with options to weigh, go through
`branches`: the context is read once, questions and options hang on it. What stands alone goes through `generation`,
in batches of like length. Both give the same tokens.

A method's answers to the questions of a split, on one process or many, each with its metrics.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.common import tables
from pipeline.evaluation import score
from pipeline.model import generation, loading, prefix_cache
from pipeline.model.distributed import Processes
from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.settings import EvalSettings, ModelSettings
from pipeline.views import full_view, masking, prompts, tasks
from pipeline.views.tokenizer import encoder, load

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Prompt:
    """Token ids of a context (`prefix_ids`) and of the question behind it, and those of each option's answer."""

    prefix_ids: Ints
    suffix_ids: Ints
    options: tuple[tuple[int, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal prompts."""
        return self.prefix_ids.tobytes(), self.suffix_ids.tobytes()


class Ask(NamedTuple):
    """One example with one input."""

    example: tables.Row
    input: str
    chunk_ids: list[str]
    """The chunks the model is given."""
    prompt: int
    """Which of the distinct prompts; inputs share one where no chunk is left out."""


class Asks:
    """Collects the asks of a run, and each distinct prompt once."""

    def __init__(
        self,
        chunk_of: Mapping[str, full_view.ContextChunk],
        top_k_of: Mapping[str, int],
        max_tokens: int,
        encode: full_view.Encode,
        bos_id: int,
    ) -> None:
        """`top_k_of`: for each input beside `full`, how many of the best-ranked chunks it gives."""
        self.asks: list[Ask] = []
        self.prompts: list[Prompt] = []
        self._place_of: dict[tuple[bytes, bytes], int] = {}
        self._chunk_of, self._top_k_of, self._max_tokens = chunk_of, top_k_of, max_tokens
        self._encode, self._bos_id = encode, bos_id

    def add(self, example: dict[str, Any], ranks_C: Ints) -> None:
        """Ask one example over its full view and over its best chunks, in context order.

        `example` has the columns of the full view and of the example. Retrieval lays its chunks out anew from the whole
        documents: what was cut from a full view too long for the model is there to be retrieved. Only a choice of
        chunks that is itself too long loses its middle.
        """
        ids = np.asarray(example.pop("input_ids"), dtype=np.int32)
        suffix_ids = ids[example["question_start"] : example["prompt_end"]]
        spans = zip(example["chunk_ids"], example["chunk_starts"], example["chunk_ends"], strict=True)
        left = [chunk_id for chunk_id, start, end in spans if start < end]
        self._ask(example, "full", left, ids[: example["question_start"]], suffix_ids)
        instruction = tasks.of(example["benchmark"]).instruction
        for name, top_k in self._top_k_of.items():
            kept = [example["chunk_ids"][index] for index in np.flatnonzero(masking.keep_top(ranks_C, top_k))]
            laid = full_view.context([self._chunk_of[name] for name in kept], instruction, self._encode, self._bos_id)
            fitting = full_view.cut(laid, self._max_tokens - len(suffix_ids), "middle")
            self._ask(example, name, kept, np.asarray(fitting.input_ids, dtype=np.int32), suffix_ids)

    def _ask(self, example: tables.Row, name: str, chunk_ids: list[str], prefix_ids: Ints, suffix_ids: Ints) -> None:
        letters = prompts.LETTERS[: len(example["options"])]
        options = tuple(tuple(self._encode(prompts.answer_segment(letter))) for letter in letters)
        prompt = Prompt(prefix_ids, suffix_ids, options)
        place = self._place_of.setdefault(prompt.key, len(self.prompts))
        if place == len(self.prompts):
            self.prompts.append(prompt)
        self.asks.append(Ask(example, name, chunk_ids, place))


@dataclass(frozen=True)
class Answer:
    """Generated token ids, EOS left out, and the log-probability of each option in nats."""

    output_ids: list[int]
    log_probs: list[float]


def shares(prompts: Sequence[Prompt], num: int) -> list[list[int]]:
    """Indices of the prompts that each of `num` processes answers: a context in one of them, tokens spread evenly."""
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.prefix_ids.tobytes(), []).append(index)

    def tokens(group: list[int]) -> int:
        return len(prompts[group[0]].prefix_ids) + sum(len(prompts[index].suffix_ids) for index in group)

    found: list[list[int]] = [[] for _ in range(num)]
    loads = [0] * num
    for group in sorted(groups.values(), key=tokens, reverse=True):
        least = loads.index(min(loads))
        found[least] += group
        loads[least] += tokens(group)
    return [sorted(share) for share in found]


def answer_all(
    network: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[Answer]:
    """Greedy answers, in the order of the prompts, up to `max_new_tokens` each; arguments as of generation.generate.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    answers: dict[int, Answer] = {}
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.prefix_ids.tobytes(), []).append(index)
    alone = [group[0] for group in groups.values() if len(group) == 1 and not prompts[group[0]].options]
    outputs = generation.generate(
        network,
        [np.concatenate([prompts[index].prefix_ids, prompts[index].suffix_ids]) for index in alone],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        banned_ids=banned_ids,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    answers |= {index: Answer(output, []) for index, output in zip(alone, outputs, strict=True)}
    for group in groups.values():
        if group[0] in answers:
            continue
        found = prefix_cache.answer(
            network,
            prompts[group[0]].prefix_ids,
            [prefix_cache.Branch(prompts[index].suffix_ids, prompts[index].options) for index in group],
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            banned_ids=banned_ids,
            batch_tokens=batch_tokens,
        )
        answers |= {
            index: Answer(answered.output_ids, answered.log_probs) for index, answered in zip(group, found, strict=True)
        }
        progress(len(group))
    return [answers[index] for index in range(len(prompts))]


COPIED = (
    "example_id", "question_id", "benchmark", "num_documents", "gold_position", "answers", "answer_types", "subset",
    "options", "gold_option",
)  # fmt: skip
EXAMPLE_COLUMNS = [
    "example_id", "benchmark", "question", "answer_lead", "options", "gold_option", "answers", "answer_types", "subset",
    "gold_document_ids",
]  # fmt: skip

FULL, SCORES = Path("data/views/full.parquet"), Path("data/scores.parquet")
EXAMPLES, CHUNKS = Path("data/examples.parquet"), Path("data/chunks.parquet")


def answers(
    method: str,
    model: ModelSettings,
    settings: EvalSettings,
    split: str,
    top_k_of: Mapping[str, int],
    team: Processes,
    stage: str,
    *,
    longest: bool = False,
) -> list[tables.Row] | None:
    """Rows of schema.PREDICTIONS, example by example; none where the split is empty.

    Each example, or of each question the `longest` alone, is asked over its `full` context, and over as many of its
    best-ranked chunks as `top_k_of` says for each input that it names. With several processes the first one gets the
    rows, the others None.

    Raises:
        ArtifactError: a file is missing or was made from other data.
    """
    card, tokenizer = loading.read_card(), load().tokenizer
    if (found := tables.metadata(FULL, tables.FULL_VIEWS).get("tokenizer_sha256")) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{FULL}: made with tokenizer {found}, {loading.BASE} has {card.tokenizer_sha256}; run `dvc repro tokenize`"
        )
    chunk_of = _chunks(split)
    asked = _asks(split, top_k_of, model.max_tokens, chunk_of, longest)
    if not asked.asks:
        return [] if team.first else None
    task = tasks.of(asked.asks[0].example["benchmark"])
    share = shares(asked.prompts, team.num)[team.rank]
    network = loading.load_method(method, model)
    with tqdm(total=len(share), desc=stage, unit=" prompts", disable=None, mininterval=1) as bar:
        own_answers = answer_all(
            network,
            [asked.prompts[place] for place in share],
            max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.batch_tokens,
            progress=bar.update,
        )
    answer_of = team.collect(dict(zip(share, own_answers, strict=True)))
    if not team.first:
        return None
    found_answers: list[Answer] = [answer_of[place] for place in range(len(asked.prompts))]
    texts = [score.answer_text(tokenizer.decode(answer.output_ids), task) for answer in found_answers]
    return [
        _row(ask, method, texts[ask.prompt], found_answers[ask.prompt].log_probs, asked.prompts[ask.prompt], chunk_of)
        for ask in asked.asks
    ]


def _rows(split: str, scored: bool, longest: bool) -> Iterator[tuple[tables.Row, list[int]]]:
    """Full view, with the example's own columns, and ranks of its chunks (none where not `scored`)."""
    most_of: dict[str, int] = {}  # documents of a question's longest context
    if longest:
        for row in tables.scan(FULL, tables.FULL_VIEWS, ["split", "question_id", "num_documents"]):
            if row["split"] == split:
                most_of[row["question_id"]] = max(row["num_documents"], most_of.get(row["question_id"], 0))
    sources = [(FULL, tables.FULL_VIEWS, None), (EXAMPLES, tables.EXAMPLES, EXAMPLE_COLUMNS)]
    if scored:
        sources.append((SCORES, tables.SCORES, ["example_id", "chunk_ids", "ranks"]))
    for full, example, *scores in tables.side_by_side(*sources):
        if full["split"] == split and full["num_documents"] >= most_of.get(full["question_id"], 0):
            yield {**full, **example}, scores[0]["ranks"] if scores else []


def _asks(
    split: str, top_k_of: Mapping[str, int], max_tokens: int, chunk_of: dict[str, tables.Row], longest: bool
) -> Asks:
    base = load()
    chunks = {
        chunk_id: full_view.ContextChunk(**{name: row[name] for name in full_view.ContextChunk._fields})
        for chunk_id, row in chunk_of.items()
    }
    found = Asks(chunks, top_k_of, max_tokens, encoder(base.tokenizer), base.bos_id)
    for example, ranks in _rows(split, bool(top_k_of), longest):
        found.add(example, np.asarray(ranks, dtype=np.int32))
    return found


def _chunks(split: str) -> dict[str, tables.Row]:
    """The chunks of every context of the split."""
    rows = tables.scan(FULL, tables.FULL_VIEWS, ["split", "chunk_ids"])
    wanted = {chunk_id for row in rows if row["split"] == split for chunk_id in row["chunk_ids"]}
    found = {row["chunk_id"]: row for row in tables.scan(CHUNKS, tables.CHUNKS) if row["chunk_id"] in wanted}
    if missing := wanted - found.keys():
        raise ArtifactError(f"{CHUNKS}: has no chunk {min(missing)}, which {FULL} names; run `dvc repro tokenize`")
    return found


def _row(
    ask: Ask, method: str, prediction: str, log_probs: list[float], prompt: Prompt, chunk_of: dict[str, tables.Row]
) -> tables.Row:
    given = [chunk_of[chunk_id] for chunk_id in ask.chunk_ids]
    distractors = score.distractors(given, ask.example["gold_document_ids"])
    return {
        **{name: ask.example[name] for name in COPIED},
        **score.score(prediction, ask.example, distractors, log_probs),
        "method": method,
        "input": ask.input,
        "prompt_tokens": prompt.num_tokens,
    }
