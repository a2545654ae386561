"""Drawings of what the retrievers find, before anything is trained."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import grids, svg
from pipeline.report.summary import Summary
from pipeline.report.svg import Label, Point

Drawn = tuple[Label, str]
"""What a figure is called, and its SVG text."""


def retrieval(quality: Mapping[str, Any], found: Summary, split: str) -> Drawn | None:
    """Recall and answer retention by k, at the longest contexts of the split that was asked."""
    asked = quality.get("splits", {}).get(split)
    if asked is None:
        return None
    longest = asked["by_num_documents"].get(str(found.lengths[-1].high), asked["all"])
    points = [
        Point(name, k, *[100 * share] * 3)
        for name, measure in (("gold chunk", "recall"), ("an answer", "answer_retention"))
        for k, share in sorted(longest[measure].items(), key=lambda item: int(item[0]))
        if share is not None
    ]
    label = Label(
        "retrieval",
        "What the best-scored chunks hold",
        "Best-scored chunks kept (k)",
        f"{split.capitalize()} examples (%)",
    )
    return (label, svg.curve(label, points, top=100.0)) if points else None


def validation(found: Mapping[str, Any], settings: Mapping[str, Any], split: str) -> list[Drawn]:
    """Recall of the gold chunk by retriever: over k at the size that is used, and over the sizes."""
    rows = [row for row in found.get("rows", []) if row["split"] == split and row["num_gold_known"]]
    if not rows:
        return []
    words = settings.get("chunk", {}).get("words")
    used = found["measured_as"].get(str(words), rows[0]["chunk_words"])
    named = {group[0]: grids.listed(group) for group in grids.alike(found)}
    shown = words if str(words) in found["measured_as"] else named.get(used, used)
    sizes = sorted({row["chunk_words"] for row in rows})

    def point(row: Mapping[str, Any], k: str, group: str) -> Point:
        return Point(
            row["retriever"], group, *(100 * share for share in (row["recall"][k], *row["recall_interval"][k]))
        )

    y = f"Gold chunk found, {split} (%)"
    by_k = [point(row, k, k) for row in rows if row["chunk_words"] == used for k in sorted(row["recall"], key=int)]
    label = Label("validation-k", f"Retrievers compared, chunks of {shown} words", "Best-scored chunks (k)", y)
    drawn = [(label, svg.curve(label, by_k, top=100.0))]
    if len(sizes) > 1:
        by_size = [
            point(row, "5", named.get(size, str(size))) for size in sizes for row in rows if row["chunk_words"] == size
        ]
        label = Label("validation-words", "Best 5 chunks, by their size", "Words of a chunk", y)
        drawn.append((label, svg.curve(label, by_size, top=100.0)))
    return drawn
