"""Stage mask: the masked view of every example, from its full view and its scores. No torch, seconds."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.common.text import has_answer
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.views import masking, tokenizer

SUMMARY = Path("reports/mask.json")


def main() -> None:
    settings = config.load("mask")
    mode, top_k, window = settings.mask.mode, settings.mask.top_k, settings.model.sliding_window
    base = tokenizer.load()
    text_of = {row["chunk_id"]: row["text"] for row in tables.scan(tables.CHUNKS, ["chunk_id", "text"])}
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    rows = tables.side_by_side(
        (tables.FULL_VIEWS, None),
        (tables.SCORES, None),
        (tables.EXAMPLES, ["example_id", "answers"]),
    )
    with tables.Writer(tables.MASKED_VIEWS, tables.metadata(tables.FULL_VIEWS)) as writer:
        for full, scored, example in tqdm(rows, desc="mask", unit=" examples", disable=None):
            if mode == "skip" and window is not None and window < len(full["input_ids"]):
                raise ConfigError(
                    f"mask.mode skip is not exact with a sliding window: model.sliding_window is {window}, example "
                    f"{full['example_id']} has {len(full['input_ids'])} tokens; use mode token, or set it to null"
                )
            row = _masked_row(full, scored, example["answers"], text_of, top_k, mode, base.mask_id)
            writer.write(row)
            _count(sums[full["split"]], full, row, any(scored["gold"]), bool(example["answers"]), top_k)
    splits = {split: _shares(total) for split, total in sums.items()}
    files.write_json(SUMMARY, {"mode": mode, "top_k": top_k, "splits": splits})
    whole = int(sum(total["whole_contexts"] for total in sums.values()))
    retained = ", ".join(f"{split} {_percent(shares['gold_retained'])}" for split, shares in splits.items())
    print(
        f"mask: {writer.num_rows:,} masked views, mode {mode}, top {top_k}; gold chunk kept: {retained}; "
        f"{whole:,} contexts have no more than {top_k} chunks and stay whole"
    )


def _masked_row(
    full: tables.Row,
    scored: tables.Row,
    references: list[str],
    text_of: dict[str, str],
    top_k: int,
    mode: Any,
    mask_id: int,
) -> tables.Row:
    kept_C = masking.keep_top(np.asarray(scored["ranks"], dtype=np.int32), top_k)
    view = masking.masked_view(
        np.asarray(full["input_ids"], dtype=np.int32),
        np.asarray(full["chunk_starts"], dtype=np.int32),
        np.asarray(full["chunk_ends"], dtype=np.int32),
        full["prompt_end"],
        kept_C,
        mode,
        mask_id,
    )
    # A chunk that was cut away is kept in vain.
    shown_C = kept_C & (np.asarray(full["chunk_starts"]) < np.asarray(full["chunk_ends"]))
    kept, shown = np.flatnonzero(kept_C).tolist(), np.flatnonzero(shown_C).tolist()
    kept_ids = [full["chunk_ids"][index] for index in kept]
    return {
        "example_id": full["example_id"],
        **view._asdict(),
        "kept_chunk_ids": kept_ids,
        "kept_scores": [scored["scores"][index] for index in kept],
        "kept_ranks": [scored["ranks"][index] for index in kept],
        "gold_retained": any(scored["gold"][index] for index in shown),
        "answer_retained": any(
            has_answer(text_of[full["chunk_ids"][index]], answer) for index in shown for answer in references
        ),
    }


def _count(
    total: dict[str, float], full: tables.Row, row: tables.Row, gold_known: bool, has_answer: bool, top_k: int
) -> None:
    total["num_examples"] += 1
    total["num_answered"] += has_answer
    total["num_gold_known"] += gold_known
    total["gold_retained"] += row["gold_retained"]
    total["answer_retained"] += row["answer_retained"]
    total["kept_chunks"] += len(row["kept_chunk_ids"])
    total["chunks"] += len(full["chunk_ids"])
    total["tokens_full"] += len(full["input_ids"])
    total["tokens_masked"] += len(row["input_ids"])
    starts, ends = np.asarray(full["chunk_starts"]), np.asarray(full["chunk_ends"])
    kept = np.isin(full["chunk_ids"], row["kept_chunk_ids"])
    total["chunk_tokens"] += int((ends - starts).sum())
    total["kept_chunk_tokens"] += int((ends - starts)[kept].sum())
    total["whole_contexts"] += len(full["chunk_ids"]) <= top_k


def _shares(total: dict[str, float]) -> dict[str, float | None]:
    """gold_retained over the examples whose gold chunk is known, answer_retained over those that have an answer, None
    without one; the rest over all."""
    num_examples, num_gold_known, num_answered = (
        total[name] for name in ("num_examples", "num_gold_known", "num_answered")
    )
    return {
        "num_examples": int(num_examples),
        "num_gold_known": int(num_gold_known),
        "gold_retained": total["gold_retained"] / num_gold_known if num_gold_known else None,
        "answer_retained": total["answer_retained"] / num_answered if num_answered else None,
        "kept_chunk_share": total["kept_chunks"] / max(total["chunks"], 1),
        "kept_token_share": total["kept_chunk_tokens"] / max(total["chunk_tokens"], 1),
        "mean_tokens_full": total["tokens_full"] / num_examples,
        "mean_tokens_masked": total["tokens_masked"] / num_examples,
        "whole_contexts": int(total["whole_contexts"]),
    }


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run(main)
