"""Stage mask: the masked view of every example, from its full view and its scores. No torch, seconds."""

from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from pipeline.common import base_card, files, tables
from pipeline.common.text import has_answer, percent
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.runtime.settings import MaskSettings
from pipeline.views import masking

SUMMARY = Path("reports/mask.json")


def main() -> None:
    settings = config.load("mask")
    mode, top_k, window = settings.mask.mode, settings.mask.top_k, settings.model.sliding_window
    mask_id = base_card.read_card().mask_id
    text_of = {row["chunk_id"]: row["text"] for row in tables.scan(tables.CHUNKS, ["chunk_id", "text"])}
    sizes: list[tables.Row] = []
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
            row, size = _masked_row(full, scored, example["answers"], text_of, settings.mask, mask_id)
            writer.write(row)
            sizes.append(size)
    splits = _shares(sizes, top_k)
    files.write_json(SUMMARY, {"mode": mode, "top_k": top_k, "splits": splits})
    whole = sum(shares["whole_contexts"] for shares in splits.values())
    retained = ", ".join(f"{split} {percent(shares['gold_retained'])}" for split, shares in splits.items())
    print(
        f"mask: {writer.num_rows:,} masked views, mode {mode}, top {top_k}; gold chunk kept: {retained}; "
        f"{whole:,} contexts have no more than {top_k} chunks and stay whole"
    )


def _masked_row(
    full: tables.Row,
    scored: tables.Row,
    references: list[str],
    text_of: dict[str, str],
    settings: MaskSettings,
    mask_id: int,
) -> tuple[tables.Row, tables.Row]:
    """Make the row of tables.MASKED_VIEWS, and count the chunks and tokens of both views."""
    ids, starts_C, ends_C = (
        np.asarray(full[name], dtype=np.int32) for name in ("input_ids", "chunk_starts", "chunk_ends")
    )
    kept_C = masking.keep_top(np.asarray(scored["ranks"], dtype=np.int32), settings.top_k)
    view = masking.masked_view(ids, starts_C, ends_C, full["prompt_end"], kept_C, settings.mode, mask_id)
    kept = np.flatnonzero(kept_C).tolist()
    shown = np.flatnonzero(kept_C & (starts_C < ends_C)).tolist()  # a chunk that was cut away is kept in vain
    shown_texts = [text_of[full["chunk_ids"][index]] for index in shown]
    retained = {
        "gold_retained": any(scored["gold"][index] for index in shown),
        "answer_retained": any(has_answer(text, answer) for text in shown_texts for answer in references),
    }
    row = {
        "example_id": full["example_id"],
        **view._asdict(),
        "kept_chunk_ids": [full["chunk_ids"][index] for index in kept],
        "kept_scores": [scored["scores"][index] for index in kept],
        "kept_ranks": [scored["ranks"][index] for index in kept],
        **retained,
    }
    size = {
        "split": full["split"],
        "gold_known": any(scored["gold"]),
        "answered": bool(references),
        **retained,
        "chunks": len(kept_C),
        "kept_chunks": len(kept),
        "chunk_tokens": int((ends_C - starts_C).sum()),
        "kept_chunk_tokens": int((ends_C - starts_C)[kept_C].sum()),
        "tokens_full": len(ids),
        "tokens_masked": len(view.input_ids),
    }
    return row, size


def _shares(sizes: list[tables.Row], top_k: int) -> dict[str, tables.Row]:
    """Average the sizes over the examples of each split.

    gold_retained is a share of the examples with a known gold chunk, answer_retained of those with an answer, and both
    are None where there is no such example.
    """
    shares = (
        pl.DataFrame(sizes)
        .group_by("split", maintain_order=True)
        .agg(
            num_examples=pl.len(),
            num_gold_known=pl.col("gold_known").sum(),
            gold_retained=pl.col("gold_retained").filter("gold_known").mean(),
            answer_retained=pl.col("answer_retained").filter("answered").mean(),
            kept_chunk_share=pl.col("kept_chunks").sum() / pl.col("chunks").sum(),
            kept_token_share=pl.col("kept_chunk_tokens").sum() / pl.col("chunk_tokens").sum(),
            mean_tokens_full=pl.col("tokens_full").mean(),
            mean_tokens_masked=pl.col("tokens_masked").mean(),
            whole_contexts=(pl.col("chunks") <= top_k).sum(),
        )
        .with_columns(pl.col("kept_chunk_share", "kept_token_share").fill_nan(0.0))  # contexts without chunks
    )
    return {row.pop("split"): row for row in shares.iter_rows(named=True)}


if __name__ == "__main__":
    run(main)
