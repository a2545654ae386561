"""Prints what a run with the present settings will cost, before anything heavy runs: `make plan`.

    python -m pipeline.tools.plan
    FOCUS_TFLOPS=989 FOCUS_GIB=139 python -m pipeline.tools.plan     # for an H200, from anywhere

Prints one table: tokens, TFLOP, peak GiB and time of each heavy stage. Exits with code 6 when a stage does not fit into
memory, or the run onto the disk, and names the settings to change and values that fit.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.runtime import config
from pipeline.runtime.errors import ResourceError
from pipeline.runtime.main import run
from pipeline.tools.plan import cost, hardware, model_shape, workload
from pipeline.tools.plan.forecast import Estimate, Plan, total
from pipeline.tools.plan.hardware import GIB

LIGHT = "prepare, chunk, base, tokenize, mask, gate, report"
EXAMPLE_SECONDS, TEXT_SECONDS = 1.8e-3, 0.8e-3
"""CPU seconds of prepare, chunk, score by BM25, tokenize and mask, of an example over 12 documents and of a document of
80 words: benchmarks/scale.py."""


def main() -> None:
    settings = config.load()
    shape, warning = model_shape.base(settings.model)
    work = workload.find(settings, shape.vocabulary)
    machine = hardware.find(settings.model.dtype, shape.hidden, shape.intermediate)
    plan = Plan(settings, shape, work, machine)
    sections = {name: forecast() for name, forecast in plan.sections.items()}
    disk, free = plan.disk_bytes(), shutil.disk_usage(Path()).free
    rows = [row for found in sections.values() for row in found]
    print(f"For: {machine.name}, {machine.memory / GIB:,.1f} GiB. Data: {work.source}.")
    if work.train.num:
        print(
            f"A row: {work.train.mean_tokens:,.0f} tokens, {work.train.longest:,} at most; {work.train.num:,} to train "
            f"on, {work.asked.num:,} asked over {work.asked.num_contexts:,} contexts."
        )
    if warning:
        print(warning)
    print(f"\n{table(rows, machine.memory)}\n")
    num_examples = work.train.num + work.asked.num + work.num_unlabelled + work.surface.num
    minutes = (EXAMPLE_SECONDS * num_examples + TEXT_SECONDS * work.num_texts) / 60
    print(f"Light: {LIGHT}; some {minutes:,.0f} CPU minutes for {num_examples:,} examples, and half a minute to start.")
    parts = ", ".join(f"{name} {size / GIB:,.1f}" for name, size in disk.items() if size)
    needed = sum(disk.values())
    print(f"Disk: {needed / GIB:,.1f} GiB ({parts}); {free / GIB:,.0f} free.")
    problems = list(_too_large(plan, sections))
    if needed > free:
        problems.append(
            f"disk: {needed / GIB:,.1f} GiB needed, {free / GIB:,.1f} free; make room, or set FOCUS_CACHE and HF_HOME "
            "to folders of a larger disk"
        )
    if problems:
        raise ResourceError("; ".join(problems))
    print("Everything fits; next: `make repro`.")


def table(rows: list[Estimate], memory: float) -> str:
    """The stages and all of them together as a Markdown table; stages that hold above `memory` bytes are marked."""
    shown = pl.DataFrame(
        {
            "Stage": row.name,
            "Million tokens": row.tokens / 1e6,
            "TFLOP": row.flops / 1e12,
            "Peak GiB": row.peak / GIB,
            "Time": _time(row.seconds),
            "Note": f"does not fit; {row.note}".removesuffix("; ") if row.peak > memory else row.note,
        }
        for row in [*rows, total("all", rows)]
    )
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_cell_numeric_alignment="RIGHT",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_width_chars=-1,
        fmt_str_lengths=200,
        float_precision=2,
        thousands_separator=True,
    ):
        return str(shown)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _too_large(plan: Plan, sections: dict[str, list[Estimate]]) -> Iterator[str]:
    """A clause for each section of params.yaml whose stages do not fit into memory."""
    memory = plan.machine.memory
    no_encoder = {"retriever": "use.retriever to bm25", "validation": "validation.retrievers to [bm25, random]"}
    for section, rows in sections.items():
        large = [row for row in rows if row.peak > memory]
        if not large:
            continue
        most = max(row.peak for row in large)
        needs = "needs" if len(large) == 1 else "need up to"
        names = ", ".join(row.name for row in large)
        clause = f"{names} {needs} {most / GIB:,.1f} GiB, there are {memory / GIB:,.1f}"
        if section in no_encoder:
            yield f"{clause}; set {no_encoder[section]}, which has no encoder"
        elif cost.state_bytes(plan.shape, 0) + plan.machine.overhead > memory:
            smaller = "model.dtype to bfloat16, or " if plan.shape.bytes_per_weight == 4 else ""
            yield f"{clause}: the weights alone do not fit; set {smaller}use.model to a smaller one"
            return  # the other stages read the same weights
        elif change := plan.advice(section):
            yield f"{clause}; set {change}"
        else:
            yield f"{clause}: no batch size and no length of the contexts makes it fit; set use.model to a smaller one"


if __name__ == "__main__":
    run(main)
