"""Stage mask: the masked view of every example, from its full view and its scores. No torch, seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
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
            row = _masked_row(full, scored, example["answers"], text_of, top_k, mode, base.mask_id)
            writer.write(row)
            sizes.append(_sizes(full, row, any(scored["gold"]), bool(example["answers"])))
    splits = _shares(sizes, top_k)
    files.write_json(SUMMARY, {"mode": mode, "top_k": top_k, "splits": splits})
    whole = sum(shares["whole_contexts"] for shares in splits.values())
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


def _sizes(full: tables.Row, masked: tables.Row, gold_known: bool, answered: bool) -> tables.Row:
    """Count the chunks and tokens of both views of one example."""
    lengths_C = np.subtract(full["chunk_ends"], full["chunk_starts"])
    return {
        "split": full["split"],
        "gold_known": gold_known,
        "gold_retained": masked["gold_retained"],
        "answered": answered,
        "answer_retained": masked["answer_retained"],
        "chunks": len(full["chunk_ids"]),
        "kept_chunks": len(masked["kept_chunk_ids"]),
        "chunk_tokens": int(lengths_C.sum()),
        "kept_chunk_tokens": int(lengths_C[np.isin(full["chunk_ids"], masked["kept_chunk_ids"])].sum()),
        "tokens_full": len(full["input_ids"]),
        "tokens_masked": len(masked["input_ids"]),
    }


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


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run(main)
