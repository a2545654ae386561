"""Stage teach: the base's answer over the best-scored chunks, for every question of splits train and unlabelled.

Method `guided` learns to give the same answer over the whole context. No reference answer is read here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.common import base_card, tables
from pipeline.model import collator, loading, teacher
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.views import masking, tasks

SPLITS = ("train", "unlabelled")
QUESTIONS_PER_BLOCK = 16_384  # answered in batches of like length
SOURCES = (tables.EXAMPLES, tables.FULL_VIEWS, tables.SCORES)


class _Question(NamedTuple):
    """A question and the teacher's prompt."""

    example_id: str
    benchmark: str
    max_answer: int
    """Tokens of the answer that fit behind the full view's prompt."""
    prompt: collator.Ints


def main() -> None:
    settings = config.load("teach")
    card = base_card.read_card()
    network: Any = None
    num_tokens, sum_surest = 0, 0.0
    marks = {"tokenizer_sha256": card.tokenizer_sha256}
    with (
        tables.writer(tables.TEACHINGS, marks, SOURCES) as out,
        tqdm(desc="teach", unit=" questions", disable=None, mininterval=1) as bar,
    ):
        for questions in _blocks(settings.teach.top_k, settings.model.max_tokens, card.mask_id):
            network = network or loading.load_method("base", settings.model)
            answers = teacher.teach(
                network,
                [question.prompt for question in questions],
                num_top=settings.teach.top_tokens,
                max_new_tokens=tasks.of(questions[0].benchmark).max_new_tokens,
                eos_ids=card.eos_ids,
                pad_id=card.pad_id,
                banned_ids=[card.mask_id, card.pad_id],
                batch_tokens=settings.teach.batch_tokens,
                progress=bar.update,
            )
            for question, answer in zip(questions, answers, strict=True):
                out.write(
                    {
                        "example_id": question.example_id,
                        "output_ids": answer.output_ids[: question.max_answer],
                        "top_ids": answer.top_ids_NK[: question.max_answer].ravel(),
                        "top_log_probs": answer.top_log_probs_NK[: question.max_answer].ravel(),
                        "num_top": answer.top_ids_NK.shape[1],
                    }
                )
                num_tokens += len(answer.output_ids)
                sum_surest += float(np.exp(answer.top_log_probs_NK[:, 0]).sum())
        if not out.num_rows:
            raise DataError(
                f"{tables.FULL_VIEWS}: no examples in splits {' and '.join(SPLITS)}, so there is nothing to teach; "
                "give questions with one of these splits, or stop at `dvc repro evaluate@base`"
            )
    print(
        f"teach: {out.num_rows:,} questions over the best {settings.teach.top_k} chunks, {num_tokens:,} answer "
        f"tokens; mean probability of the likeliest token {sum_surest / num_tokens:.1%}"
    )


def _blocks(top_k: int, max_tokens: int, mask_id: int) -> Iterator[list[_Question]]:
    """Yield the questions in blocks, so that memory does not grow with their number."""
    block: list[_Question] = []
    for full, scored, example in _rows():
        prompt = _prompt(full, scored, top_k, mask_id)
        max_answer = max_tokens - full["prompt_end"]
        block.append(_Question(full["example_id"], example["benchmark"], max_answer, prompt))
        if len(block) == QUESTIONS_PER_BLOCK:
            yield block
            block = []
    if block:
        yield block


def _rows() -> Iterator[tuple[tables.Row, ...]]:
    """Yield full view, scores and benchmark of each question of SPLITS."""
    rows = tables.side_by_side(
        (tables.FULL_VIEWS, None),
        (tables.SCORES, ["example_id", "chunk_ids", "ranks"]),
        (tables.EXAMPLES, ["example_id", "benchmark"]),
    )
    for full, scored, example in rows:
        if full["split"] in SPLITS:
            yield full, scored, example


def _prompt(full: tables.Row, scored: tables.Row, top_k: int, mask_id: int) -> collator.Ints:
    """Return the full view's prompt with all but the best chunks dropped.

    Where the full view was truncated (`context.too_long`), this is not the prompt of retrieval at inference: retrieval
    reads the best chunks of the untruncated documents, the teacher only what the full view still holds of them.
    """
    kept_C = masking.keep_top(scored["ranks"], top_k)
    spans = full["chunk_starts"], full["chunk_ends"]
    view = masking.masked_view(full["input_ids"], *spans, full["prompt_end"], kept_C, "drop", mask_id)
    return view.input_ids[: view.prompt_end]


if __name__ == "__main__":
    run(main)
