"""Stage teach: the base's answer over the best-scored chunks, for every question of splits train and unlabelled.

Method `guided` learns to give the same answer over the whole context. No reference answer is read here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.common import base_card, tables
from pipeline.model import collator, loading, teacher
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.views import masking, tasks

SPLITS = ("train", "unlabelled")


class _Question(NamedTuple):
    """A question and the teacher's prompt."""

    example_id: str
    max_answer: int
    """Tokens of the answer that fit behind the full view's prompt."""
    prompt: collator.Ints


def main() -> None:
    settings = config.load("teach")
    card = base_card.read_card()
    questions: list[_Question] = []
    benchmark = ""
    for full, scored, example in _rows():
        prompt = _prompt(full, scored, settings.teach.top_k, card.mask_id)
        questions.append(_Question(full["example_id"], settings.model.max_tokens - full["prompt_end"], prompt))
        benchmark = example["benchmark"]
    if not questions:
        raise DataError(
            f"{tables.FULL_VIEWS}: no examples in splits {' and '.join(SPLITS)}, so there is nothing to teach; "
            "give questions with one of these splits, or stop at `dvc repro evaluate@base`"
        )
    network = loading.load_method("base", settings.model)
    with tqdm(total=len(questions), desc="teach", unit=" questions", disable=None, mininterval=1) as bar:
        answers = teacher.teach(
            network,
            [question.prompt for question in questions],
            num_top=settings.teach.top_tokens,
            max_new_tokens=tasks.of(benchmark).max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.teach.batch_tokens,
            progress=bar.update,
        )
    with tables.Writer(tables.TEACHINGS, {"tokenizer_sha256": card.tokenizer_sha256}) as out:
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
    num_tokens = sum(len(answer.output_ids) for answer in answers)
    surest = np.concatenate([answer.top_log_probs_NK[:, 0] for answer in answers])
    print(
        f"teach: {len(questions):,} questions over the best {settings.teach.top_k} chunks, {num_tokens:,} answer "
        f"tokens; mean probability of the likeliest token {np.exp(surest).mean():.1%}"
    )


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
    kept_C = masking.keep_top(np.asarray(scored["ranks"], dtype=np.int32), top_k)
    ids, starts, ends = (np.asarray(full[name], dtype=np.int32) for name in ("input_ids", "chunk_starts", "chunk_ends"))
    view = masking.masked_view(ids, starts, ends, full["prompt_end"], kept_C, "drop", mask_id)
    return view.input_ids[: view.prompt_end]


if __name__ == "__main__":
    run(main)
