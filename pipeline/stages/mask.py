"""Stage mask: the masked view of every example, from its full view and its scores. No torch, seconds.

reports/mask.json
    mode, top_k   settings
    splits        <split>: counts and means over its examples, of which
        num_gold_known     have a known gold chunk; of these
        num_whole          have no more than top_k chunks, so that nothing is masked,
        num_only_gold      else have gold chunks alone, so that one is kept whatever the retriever says,
        num_equal_scores   else got one score for all chunks, so that those kept are drawn by chance
        gold_retained      share that keep a gold chunk, of those with neither of the first two; one with equal scores
                           counts as losing it, because the retriever did not find it. Null where there are none
        answer_retained    share that keep a reference answer, of the examples with answers; null where there are none
        whole_contexts     number of examples of which nothing is masked, whether a gold chunk is known or not
        equal_contexts     likewise of the others whose chunks all got one score
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from pipeline.common import base_card, chunks, cluster, files, tables
from pipeline.common.text import has_answer, percent
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, counted
from pipeline.runtime.main import run
from pipeline.runtime.settings import MaskSettings
from pipeline.views import masking

SUMMARY = Path("reports/mask.json")
SOURCES = (tables.CHUNKS, tables.EXAMPLES, tables.FULL_VIEWS, tables.SCORES)


def main() -> None:
    settings = config.load("mask")
    mode, top_k = settings.mask.mode, settings.mask.top_k
    card = base_card.read_card()
    sizes = tables.FrameBuilder()
    rows = tables.side_by_side(
        (tables.FULL_VIEWS, None),
        (tables.SCORES, None),
        (tables.EXAMPLES, ["example_id", "answers"]),
    )
    make = partial(_masked_views, settings.mask, card.mask_id, card.sliding_window)
    marks = {"tokenizer_sha256": tables.metadata(tables.FULL_VIEWS)["tokenizer_sha256"]}
    with tables.writer(tables.MASKED_VIEWS, marks, SOURCES) as writer:
        examples = tqdm(rows, desc="mask", unit=" examples", disable=None)
        for row, size in cluster.mapped(
            make, examples, settings.context.engine, "context.engine", [tables.CHUNKS.path]
        ):
            writer.write(row)
            sizes.append(size)
    splits = _shares(sizes.collected(), top_k)
    files.write_json(SUMMARY, {"mode": mode, "top_k": top_k, "splits": splits})
    whole = sum(shares["whole_contexts"] for shares in splits.values())
    retained = ", ".join(f"{split} {_retained(shares)}" for split, shares in splits.items())
    print(
        f"mask: {counted(writer.num_rows, 'masked view')}, mode {mode}, top {top_k}; gold chunk kept: {retained}; "
        f"{counted(whole, 'context')} with no more than {counted(top_k, 'chunk')}, left whole"
        + "".join(
            f"; {num:,} {what}"
            for name, what in (("num_only_gold", "with gold chunks alone"), ("num_equal_scores", "with equal scores"))
            if (num := sum(shares[name] for shares in splits.values()))
        )
    )


def _retained(shares: tables.Row) -> str:
    """The share that keep a gold chunk, or why there is none."""
    if shares["num_gold_known"] and shares["num_whole"] == shares["num_gold_known"]:
        return "unknown (nothing is masked)"
    if shares["num_gold_known"] and shares["gold_retained"] is None:
        return "unknown (every masked context has gold chunks alone)"
    return percent(shares["gold_retained"])


def _masked_views(
    settings: MaskSettings, mask_id: int, window: int | None
) -> Callable[[tuple[tables.Row, ...]], tuple[tables.Row, tables.Row]]:
    """Return what makes the row of tables.MASKED_VIEWS of an example, and counts the chunks and tokens of both views.

    What is returned raises ConfigError if mask.mode skip would not be exact with the base's sliding `window` of tokens,
    ArtifactError if a chunk is missing.
    """
    known = chunks.read(tables.CHUNKS)

    def make(rows: tuple[tables.Row, ...]) -> tuple[tables.Row, tables.Row]:
        full, scored, example = rows
        tables.require_ids(tables.CHUNKS, known, full["chunk_ids"], tables.FULL_VIEWS)
        if settings.mode == "skip" and window is not None and window < len(full["input_ids"]):
            raise ConfigError(
                f"mask.mode skip is not exact with a sliding window: the base has one of {window} tokens, "
                f"example {full['example_id']} has {len(full['input_ids'])}; use mode token, or set "
                "model.sliding_window to null"
            )
        ids, starts_C, ends_C = full["input_ids"], full["chunk_starts"], full["chunk_ends"]
        kept_C = masking.keep_top(scored["ranks"], settings.top_k)
        view = masking.masked_view(ids, starts_C, ends_C, full["prompt_end"], kept_C, settings.mode, mask_id)
        kept = np.flatnonzero(kept_C).tolist()
        shown = np.flatnonzero(kept_C & (starts_C < ends_C)).tolist()  # a chunk that was cut away is kept in vain
        shown_texts = [known[full["chunk_ids"][index]].text for index in shown]
        retained = {
            "gold_retained": bool(scored["gold"][shown].any()),
            "answer_retained": any(has_answer(text, answer) for text in shown_texts for answer in example["answers"]),
        }
        row = {
            "example_id": full["example_id"],
            **view._asdict(),
            "kept_chunk_ids": [full["chunk_ids"][index] for index in kept],
            "kept_scores": scored["scores"][kept],
            "kept_ranks": scored["ranks"][kept],
            **retained,
        }
        size = {
            "split": full["split"],
            "gold_known": bool(scored["gold"].any()),
            "only_gold": bool(scored["gold"].all()),
            "equal_scores": len(set(scored["scores"].tolist())) == 1,
            "answered": bool(example["answers"]),
            **retained,
            "chunks": len(kept_C),
            "kept_chunks": len(kept),
            "chunk_tokens": int((ends_C - starts_C).sum()),
            "kept_chunk_tokens": int((ends_C - starts_C)[kept_C].sum()),
            "tokens_full": len(ids),
            "tokens_masked": len(view.input_ids),
        }
        return row, size

    return make


def _shares(sizes: pl.DataFrame, top_k: int) -> dict[str, tables.Row]:
    """Average the sizes over the examples of each split."""
    whole = pl.col("chunks") <= top_k
    known, masked, found = pl.col("gold_known"), ~whole & ~pl.col("only_gold"), ~pl.col("equal_scores")
    shares = (
        sizes.group_by("split", maintain_order=True)
        .agg(
            num_examples=pl.len(),
            num_gold_known=known.sum(),
            num_whole=(known & whole).sum(),
            num_only_gold=(known & ~whole & pl.col("only_gold")).sum(),
            num_equal_scores=(known & masked & ~found).sum(),
            gold_retained=(pl.col("gold_retained") & found).filter(known & masked).mean(),
            answer_retained=pl.col("answer_retained").filter("answered").mean(),
            kept_chunk_share=pl.col("kept_chunks").sum() / pl.col("chunks").sum(),
            kept_token_share=pl.col("kept_chunk_tokens").sum() / pl.col("chunk_tokens").sum(),
            mean_tokens_full=pl.col("tokens_full").mean(),
            mean_tokens_masked=pl.col("tokens_masked").mean(),
            whole_contexts=whole.sum(),
            equal_contexts=(~whole & ~found).sum(),
        )
        .with_columns(pl.col("kept_chunk_share", "kept_token_share").fill_nan(0.0))  # contexts without chunks
    )
    return {row.pop("split"): row for row in shares.iter_rows(named=True)}


if __name__ == "__main__":
    run(main)
